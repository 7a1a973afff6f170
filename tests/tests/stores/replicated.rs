//! A database with streaming standbys: conformance, and what reads and writes do when a copy lags,
//! hangs, dies, is promoted or comes back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use shunt_cluster::{Postgres, until};
use shunt_domain::ports::{LinkReader, LinkWriter};
use shunt_domain::{Outcome, StoreError, Stored, Version};
use shunt_store::conformance::fixtures::{key, link, soon};
use shunt_store::conformance::{Restart, Subject};
use shunt_store::replicated::{CopyState, Problem, ReplicatedOptions, ReplicatedStore};
use tokio::runtime::Runtime;

use crate::kit::{Servers, options, within};

const PATIENCE: Duration = Duration::from_secs(30);

/// A primary, its standbys, and an empty store on them.
struct Copies {
    servers: Servers,
    standbys: Vec<Postgres>,
    database: String,
}

impl Copies {
    fn start(standbys: usize) -> Self {
        let mut servers = Servers::start(Postgres::setup().fast(), false);
        let database = servers.database();
        let standbys = (0..standbys).map(|_| servers.postgres.standby().unwrap()).collect();
        Self { servers, standbys, database }
    }

    fn primary(&mut self) -> &mut Postgres {
        &mut self.servers.postgres
    }

    fn options(&self, max_lag: Duration) -> ReplicatedOptions {
        let of = |server: &Postgres| options(server.config(), &self.database);
        ReplicatedOptions {
            primary: of(&self.servers.postgres),
            replicas: self.standbys.iter().map(of).collect(),
            max_lag,
        }
    }

    fn store(&self) -> ReplicatedStore {
        let store = ReplicatedStore::open(&self.options(ReplicatedOptions::MAX_LAG)).unwrap();
        store.check().unwrap();
        store
    }

    /// Waits until all standbys have what the primary has.
    fn caught_up(&self) {
        for standby in &self.standbys {
            self.servers.postgres.wait_for(standby).unwrap();
        }
    }

    /// Makes commits wait for the standby.
    fn synchronous(&self) {
        synchronous(&self.servers.postgres, &self.standbys[0]);
    }
}

fn synchronous(primary: &Postgres, standby: &Postgres) {
    primary.set("synchronous_standby_names", standby.name()).unwrap();
    let sql = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
    until(PATIENCE, "a synchronous standby", || (primary.psql(sql).unwrap() == "1").then_some(()))
        .unwrap();
}

/// How many of these links a server itself has.
fn links_on(server: &Postgres, database: &str, prefix: &str) -> usize {
    let sql = format!("SELECT count(*) FROM links WHERE code LIKE '{prefix}%'");
    server.config().psql(database, &sql).unwrap().parse().unwrap()
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// Creates a link and says whether that was acknowledged.
async fn made(store: &ReplicatedStore, code: &str, millis: u64) -> bool {
    matches!(store.create(link(code), within(millis)).await, Outcome::Done(_))
}

async fn read(
    store: &ReplicatedStore,
    code: &str,
    millis: u64,
) -> Result<Option<Stored>, StoreError> {
    store.get(&key(code), Version::default(), within(millis)).await
}

fn wait_for(store: &ReplicatedStore, what: &str, is_so: impl Fn(&[CopyState]) -> bool) {
    until(PATIENCE, what, || is_so(&store.copies()).then_some(()))
        .unwrap_or_else(|error| panic!("{error}: {:?} {:?}", store.copies(), store.problems()));
}

/// The suite.
struct Copied {
    store: ReplicatedStore,
    options: ReplicatedOptions,
}

impl Subject for Copied {
    type Store = ReplicatedStore;

    fn store(&self) -> &ReplicatedStore {
        &self.store
    }
}

impl Copied {
    fn open(options: ReplicatedOptions) -> Self {
        Self { store: ReplicatedStore::open(&options).unwrap(), options }
    }
}

impl Restart for Copied {
    fn restart(self) -> Self {
        self.store.close();
        Self::open(self.options)
    }

    fn crash(self) -> Self {
        let options = self.options.clone();
        drop(self);
        Self::open(options)
    }
}

fn with_a_standby() -> impl FnMut() -> Copied {
    let mut copies = Copies::start(1);
    move || {
        copies.database = copies.servers.database();
        copies.caught_up();
        Copied::open(copies.options(ReplicatedOptions::MAX_LAG))
    }
}

shunt_store::conformance_suite!(on_copies, with_a_standby, conformance_together);

/// The standby says nothing of the last ten seconds, and nobody is told that a link is not there.
#[test]
fn a_standby_ten_seconds_behind_makes_no_false_404() {
    let mut copies = Copies::start(1);
    copies.standbys[0].set("recovery_min_apply_delay", "10s").unwrap();
    let (runtime, database) = (runtime(), copies.database.clone());
    // One store that reads from the standby all the same, and one that does not.
    let patient = ReplicatedStore::open(&copies.options(Duration::from_secs(60))).unwrap();
    let strict = ReplicatedStore::open(&copies.options(Duration::from_secs(5))).unwrap();
    let lag = |store: &ReplicatedStore| {
        store.copies()[1].lag.and_then(|lag| lag.time).unwrap_or_default().as_secs_f64()
    };
    let (mut looked_up, mut round, mut steady) = (0, 0, 0);
    let (mut exact, mut strict_before) = (0, 0);
    let begun = Instant::now();
    while looked_up < 10_000 || steady < 10 {
        assert!(begun.elapsed() < Duration::from_secs(120), "{:?}", patient.copies());
        let codes: Vec<String> = (0..200).map(|at| format!("r{round}-{at}")).collect();
        round += 1;
        runtime.block_on(async {
            let new = codes.iter().map(|code| link(code)).collect();
            let rows = patient.create_many(new, soon()).await.done().unwrap();
            assert!(rows.iter().all(Result::is_ok));
            for chunk in codes.chunks(50) {
                for store in [&patient, &strict] {
                    let keys: Vec<_> = chunk.iter().map(|code| key(code)).collect();
                    let reads = keys.iter().map(|key| store.get(key, Version::default(), soon()));
                    for found in futures_util::future::join_all(reads).await {
                        assert!(matches!(found, Ok(Some(Stored::Link(_)))), "{found:?}");
                        looked_up += 1;
                    }
                }
            }
        });
        if lag(&patient) > 8.5 {
            if steady == 0 {
                strict_before = strict.stats().confirmed_misses() + strict.copies()[1].reads;
            }
            // While something is committed all the time, this is how far it is behind indeed.
            let sql = "SELECT extract(epoch FROM clock_timestamp() - \
                       pg_last_xact_replay_timestamp())";
            let said = copies.standbys[0].psql(sql).unwrap();
            // Empty as long as the standby has replayed no commit at all.
            let Ok(truly) = said.parse::<f64>() else { continue };
            steady += 1;
            exact += usize::from((lag(&patient) - truly).abs() <= 1.5);
        }
    }
    // The fault bit: what was just made is not on the standby, and it was asked.
    assert!(patient.stats().confirmed_misses() > 4_000, "{:?}", patient.stats());
    assert!(exact * 2 > steady, "{exact} of {steady} were exact");
    let strict_after = strict.stats().confirmed_misses() + strict.copies()[1].reads;
    assert_eq!(strict_after, strict_before, "a standby that lags is not asked");
    assert!(strict.problems().iter().any(|p| matches!(p, Problem::Lagging { .. })));
    assert!(patient.problems().is_empty(), "{:?}", patient.problems());

    // With nobody else there it serves what it has, and says nothing of what it has not.
    until(PATIENCE, "the first links on the standby", || {
        (links_on(&copies.standbys[0], &database, "r0-") == 200).then_some(())
    })
    .unwrap();
    copies.primary().kill().unwrap();
    runtime.block_on(async {
        // Before the standby has replayed what it has received.
        let newest = format!("r{}", round - 1);
        let keys: Vec<_> = (0..20).map(|at| key(&format!("{newest}-{at}"))).collect();
        let reads = keys.iter().map(|key| strict.get(key, Version::default(), within(5_000)));
        for new in futures_util::future::join_all(reads).await {
            assert!(matches!(new, Err(StoreError::Unavailable(_))), "{new:?}");
        }
        for at in 0..50 {
            let old = read(&strict, &format!("r0-{at}"), 5_000).await;
            assert!(matches!(old, Ok(Some(_))), "{old:?}");
        }
    });
}

/// What a process has changed it does not read in an older version.
#[test]
fn ones_own_changes_are_read_at_once() {
    let copies = Copies::start(1);
    copies.standbys[0].set("recovery_min_apply_delay", "5s").unwrap();
    let (runtime, store) = (runtime(), copies.store());
    wait_for(&store, "the standby", |copies| copies[1].up && copies[0].primary);
    runtime.block_on(async { assert!(made(&store, "mine", 5_000).await) });
    copies.caught_up();
    runtime.block_on(async {
        let change = shunt_store::conformance::fixtures::change("mine");
        let patch =
            shunt_domain::LinkPatch { title: Some(Some("new".into())), ..Default::default() };
        let now = shunt_store::conformance::fixtures::BIRTH;
        let patched = store.patch(change.clone(), patch, now, soon()).await.done().unwrap();
        for _ in 0..20 {
            let found = read(&store, "mine", 5_000).await.unwrap().unwrap();
            assert_eq!(found, Stored::Link(Box::new(patched.clone())));
        }
        // Somebody who has heard of a version elsewhere asks for it.
        let other = copies.store();
        let found = other.get(&key("mine"), patched.version, soon()).await.unwrap().unwrap();
        assert_eq!(found.version(), patched.version);
        let deleted = store.delete(change, now, soon()).await.done().unwrap();
        let found = read(&store, "mine", 5_000).await.unwrap().unwrap();
        assert!(matches!(&found, Stored::Tombstone(t) if t.version == deleted), "{found:?}");
        assert!(store.stats().confirmed_old() > 0, "the standby was asked and was behind");
    });
}

/// Creates links until it is told to stop; answers those that were acknowledged.
async fn create_until(store: ReplicatedStore, prefix: String, stop: &AtomicBool) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for at in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let code = format!("{prefix}-{at}");
        if made(&store, &code, 1_000).await {
            acknowledged.push(code);
        } else {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    acknowledged
}

/// Ends what runs until it is told to, also when the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Several rounds: the primary is killed under load, its synchronous standby is promoted, and the
/// old one becomes the standby.
#[test]
fn a_promoted_standby_is_found_and_no_acknowledged_link_is_lost() {
    let mut copies = Copies::start(1);
    copies.synchronous();
    let (runtime, store) = (runtime(), copies.store());
    let before: Vec<String> = (0..200).map(|at| format!("before-{at}")).collect();
    runtime.block_on(async {
        let new = before.iter().map(|code| link(code)).collect();
        assert!(store.create_many(new, soon()).await.done().is_some());
    });
    copies.caught_up();
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        wait_for(&store, "the copies", |copies| copies.iter().all(|copy| copy.up));
        let stop = AtomicBool::new(false);
        let (told, read_at_least, resumed) = std::thread::scope(|scope| {
            let writing = scope.spawn(|| {
                let prefix = format!("round{round}");
                runtime.block_on(create_until(store.clone(), prefix, &stop))
            });
            let reading = scope.spawn(|| {
                let mut count = 0;
                while !stop.load(Ordering::Relaxed) {
                    let code = &before[count % before.len()];
                    let found = runtime.block_on(read(&store, code, 2_000));
                    assert!(matches!(found, Ok(Some(_))), "{code}: {found:?}");
                    count += 1;
                }
                count
            });
            let ended = Stop(&stop);
            let done = || store.primary().stats().done.load(Ordering::Relaxed);
            let at = done();
            until(PATIENCE, "creates", || (done() > at + 20).then_some(())).unwrap();
            copies.servers.postgres.kill().unwrap();
            until(PATIENCE, "the loss to be seen", || {
                store.problems().contains(&Problem::NoPrimary).then_some(())
            })
            .unwrap();
            let at = done();
            copies.standbys[0].promote().unwrap();
            let promoted = Instant::now();
            until(PATIENCE, "creates again", || (done() > at + 5).then_some(())).unwrap();
            let resumed = promoted.elapsed();
            drop(ended);
            (writing.join().unwrap(), reading.join().unwrap(), resumed)
        });
        println!("round {round}: creates resumed {resumed:?} after the promotion");
        assert!(resumed < Duration::from_secs(10), "creates resumed after {resumed:?}");
        assert!(read_at_least > 20 && told.len() > 20, "{read_at_least} {}", told.len());
        acknowledged.extend(told);
        let rows = copies.standbys[0].config().psql(&copies.database, "SELECT code FROM links");
        let rows = rows.unwrap();
        let there: std::collections::HashSet<&str> = rows.lines().collect();
        let lost: Vec<_> =
            acknowledged.iter().filter(|code| !there.contains(code.as_str())).collect();
        assert!(lost.is_empty(), "lost in round {round}: {lost:?}");
        // The other way round from here on; the store knows both by their addresses.
        let Copies { servers, standbys, .. } = &mut copies;
        servers.postgres.follow(&standbys[0]).unwrap();
        std::mem::swap(&mut servers.postgres, &mut standbys[0]);
        copies.synchronous();
    }
    assert!(store.primary_moves() >= 3);
}

/// An old primary that comes back takes writes, and gets none of ours.
#[test]
fn nothing_is_written_to_a_primary_that_was_replaced() {
    let mut copies = Copies::start(1);
    let (runtime, store, database) = (runtime(), copies.store(), copies.database.clone());
    runtime.block_on(async { assert!(made(&store, "first", 5_000).await) });
    copies.caught_up();
    copies.primary().kill().unwrap();
    copies.standbys[0].promote().unwrap();
    // At once, before anybody has looked who is there.
    copies.primary().restart().unwrap();
    // Each attempt with a code of its own: one whose outcome is not known may have been made.
    let attempts = std::cell::Cell::new(0);
    let write = |prefix: &str, count: usize| {
        let attempt = || {
            attempts.set(attempts.get() + 1);
            runtime.block_on(made(&store, &format!("{prefix}{}", attempts.get()), 2_000))
        };
        (0..count).filter(|_| attempt()).count()
    };
    until(PATIENCE, "writes to resume", || (write("probe", 1) == 1).then_some(())).unwrap();
    let done = write("new", 200);
    assert!(done > 190, "{done}");
    assert_eq!(links_on(copies.primary(), &database, "new"), 0);
    assert_eq!(links_on(copies.primary(), &database, "probe"), 0);
    assert!(links_on(&copies.standbys[0], &database, "new") >= done);
    // It takes writes indeed.
    let mark = "INSERT INTO meta (name, value) VALUES ('mark', '')";
    copies.primary().config().psql(&database, mark).unwrap();
    wait_for(&store, "both", |copies| copies.iter().all(|copy| copy.up));
    assert!(store.problems().iter().any(|p| matches!(p, Problem::Rivals { .. })));
    assert!(!store.copies()[0].primary && store.copies()[1].primary);

    // Nor when the new one is gone.
    copies.standbys[0].kill().unwrap();
    assert_eq!(write("late", 20), 0);
    assert_eq!(links_on(copies.primary(), &database, "late"), 0);
    copies.standbys[0].restart().unwrap();
    until(PATIENCE, "writes again", || (write("back", 1) == 1).then_some(())).unwrap();
    assert_eq!(links_on(copies.primary(), &database, "back"), 0);
    assert!(links_on(&copies.standbys[0], &database, "back") >= 1);
}

/// The 99th of a hundred.
fn p99(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() * 99 / 100]
}

/// A copy that is gone, or whose connections are open and silent, costs reads milliseconds.
#[test]
fn a_dead_or_silent_copy_does_not_hold_up_reads() {
    let mut copies = Copies::start(2);
    let (runtime, store) = (runtime(), copies.store());
    runtime.block_on(async {
        let new = (0..100).map(|at| link(&format!("old{at}"))).collect();
        assert!(store.create_many(new, soon()).await.done().is_some());
    });
    copies.caught_up();
    wait_for(&store, "all copies", |copies| copies.iter().all(|copy| copy.up));
    let look_up = |count: usize| -> Vec<Duration> {
        let one = |at: usize| {
            let begun = Instant::now();
            let found = runtime.block_on(read(&store, &format!("old{}", at % 100), 2_000));
            assert!(matches!(found, Ok(Some(_))), "{found:?}");
            begun.elapsed()
        };
        (0..count).map(one).collect()
    };
    // One that has just started is slow at first, and on a busy machine for long: then it is not
    // the nearest.
    until(PATIENCE * 4, "the standbys to take turns", || {
        look_up(200);
        (store.copies()[1].reads > 0 && store.copies()[2].reads > 0).then_some(())
    })
    .unwrap();

    copies.standbys[0].freeze().unwrap();
    let hedged = store.stats().hedged();
    let times = look_up(1_000);
    println!("a frozen standby: p99 {:?}", p99(times.clone()));
    assert!(p99(times) < Duration::from_millis(400));
    assert!(store.stats().hedged() > hedged, "it was asked and was silent");
    wait_for(&store, "the silence to be seen", |copies| !copies[1].up);

    // The primary, too: one copy of three is left.
    copies.primary().freeze().unwrap();
    let times = look_up(1_000);
    assert!(p99(times) < Duration::from_millis(400));
    let absent = runtime.block_on(read(&store, "absent", 1_000));
    assert!(matches!(absent, Err(StoreError::Unavailable(_))), "{absent:?}");
    copies.primary().thaw();
    copies.standbys[0].thaw();
    wait_for(&store, "all copies again", |copies| copies.iter().all(|copy| copy.up));

    copies.standbys[1].kill().unwrap();
    let times = look_up(1_000);
    assert!(p99(times) < Duration::from_millis(400));
    until(PATIENCE, "creates", || runtime.block_on(made(&store, "again", 2_000)).then_some(()))
        .unwrap();
}

/// Each misconfiguration is found and explained, and nothing is found on healthy copies.
#[test]
fn what_is_wrong_with_the_copies_is_found() {
    let mut copies = Copies::start(1);
    let (runtime, store) = (runtime(), copies.store());
    let found = || runtime.block_on(store.diagnose());
    wait_for(&store, "both", |copies| copies.iter().all(|copy| copy.up));
    until(PATIENCE, "nothing to find", || found().is_empty().then_some(()))
        .unwrap_or_else(|error| panic!("{error}: {:?}", found()));
    let finds = |what: &str, is_it: &dyn Fn(&Problem) -> bool| {
        until(PATIENCE, what, || found().iter().any(is_it).then_some(()))
            .unwrap_or_else(|error| panic!("{error}: {:?}", found()));
    };

    // Cut off from its primary.
    let conninfo = copies.standbys[0].psql("SHOW primary_conninfo").unwrap();
    copies.standbys[0].set("primary_conninfo", "host=127.0.0.1 port=1").unwrap();
    finds("a standby that receives nothing", &|p| matches!(p, Problem::NotStreaming { .. }));
    copies.standbys[0].set("primary_conninfo", &conninfo).unwrap();
    until(PATIENCE, "nothing to find", || found().is_empty().then_some(())).unwrap();

    copies.standbys[0].kill().unwrap();
    finds("a dead standby", &|p| matches!(p, Problem::Unreachable { .. }));
    let stranger = Servers::start(Postgres::setup().fast(), false);
    let mut wrong = copies.options(ReplicatedOptions::MAX_LAG);
    wrong.replicas = vec![options(stranger.postgres.config(), "postgres")];
    let wrong = ReplicatedStore::open(&wrong).unwrap();
    until(PATIENCE, "a stranger to be found", || {
        wrong.problems().iter().any(|p| matches!(p, Problem::Foreign { .. })).then_some(())
    })
    .unwrap();
    assert!(runtime.block_on(made(&wrong, "not-there", 5_000)));
    for problem in found().iter().chain(&wrong.problems()) {
        let text = problem.to_string();
        assert!(text.contains(';') && !text.contains('\n'), "{text}");
    }
}
