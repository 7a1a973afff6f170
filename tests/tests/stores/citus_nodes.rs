//! What the nodes of a Citus cluster go through: a worker killed, added, replaced; and what is
//! wrong with one is found.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures_util::future::join_all;
use shunt_cluster::postgres::Config;
use shunt_cluster::{Citus, Postgres, until};
use shunt_domain::ports::{
    CreateOnce, CreatedOnce, IdempotencyScope, IdempotentBegin, LinkReader, LinkWriter,
    RangeLeases, RenderCreated,
};
use shunt_domain::{Link, Outcome, StoreError, Version};
use shunt_store::conformance::fixtures::{BIRTH, export_all, key, link, soon};
use shunt_store::postgres::citus::ClusterFinding;
use shunt_store::postgres::doctor::{self, NotAsked};
use shunt_store::postgres::{PostgresError, PostgresOptions, PostgresStore, migrate};
use shunt_tests::citus::{DATABASE, own};

use crate::faults::{PATIENCE, now, try_create, try_get};
use crate::kit::{options, within};

/// A cluster with an empty store, unless there is none here.
fn start() -> Option<(Citus, PostgresStore)> {
    let cluster = own(Citus::setup().fast())?;
    let options = options(cluster.coordinator.config(), DATABASE);
    migrate(&options).unwrap();
    Some((cluster, PostgresStore::open(options).unwrap()))
}

fn psql(cluster: &Citus, sql: &str) -> String {
    cluster.coordinator.config().psql(DATABASE, sql).unwrap()
}

/// The ports of the nodes that have the rows of these keys of a table.
fn places(cluster: &Citus, table: &str, keys: &[String]) -> BTreeMap<String, u16> {
    let keys: Vec<String> = keys.iter().map(|key| format!("'{key}'")).collect();
    let cast = if table == "idempotency" { "::bytea" } else { "" };
    let sql = format!(
        "SELECT key, nodeport FROM unnest(ARRAY[{}]) AS key
         JOIN pg_dist_placement
             ON shardid = get_shard_id_for_distribution_column('{table}', key{cast})
         JOIN pg_dist_node USING (groupid)",
        keys.join(", ")
    );
    let rows = psql(cluster, &sql);
    let pairs = rows.lines().map(|row| row.split_once('|').unwrap());
    pairs.map(|(key, port)| (key.to_owned(), port.parse().unwrap())).collect()
}

/// What the doctor finds.
fn examine(options: &PostgresOptions) -> Result<Vec<ClusterFinding>, NotAsked> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(doctor::cluster(options, PATIENCE))
}

fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{prefix}{number}")).collect()
}

fn create_all(store: &PostgresStore, codes: &[String]) {
    let links = codes.iter().map(|code| link(code)).collect();
    let made = now(store.create_many(links, soon())).done().unwrap();
    assert!(made.iter().all(Result::is_ok), "{made:?}");
}

/// Looks codes up, fifty at a time; the answers in order.
fn look_up(store: &PostgresStore, codes: &[&String]) -> Vec<Result<bool, StoreError>> {
    let mut answers = Vec::new();
    for some in codes.chunks(50) {
        let keys: Vec<_> = some.iter().map(|code| key(code)).collect();
        let all = keys.iter().map(|key| store.get(key, Version::default(), within(5_000)));
        answers
            .extend(now(join_all(all)).into_iter().map(|answer| answer.map(|row| row.is_some())));
    }
    answers
}

/// A worker that is gone takes its own keys along: they are unavailable, never absent. The others
/// are read and created as if nothing were, also by a process that starts meanwhile.
#[test]
fn a_dead_worker_takes_its_own_keys_along_and_no_others() {
    let Some((mut cluster, store)) = start() else { return };
    let codes = names("c", 200);
    create_all(&store, &codes);
    let place = places(&cluster, "links", &codes);
    let dead = cluster.workers[0].config().port;
    let (lost, alive): (Vec<&String>, Vec<&String>) =
        codes.iter().partition(|code| place[*code] == dead);
    assert!(lost.len() > 20 && alive.len() > 20);
    cluster.workers[0].kill().unwrap();

    for answer in look_up(&store, &lost) {
        let Err(StoreError::Unavailable(text)) = answer else { panic!("{answer:?}") };
        assert!(text.contains("08006") || text.contains("57P01"), "{text}");
    }
    let many: Vec<&String> = alive.iter().copied().cycle().take(10_000).collect();
    assert!(look_up(&store, &many).iter().all(|answer| *answer == Ok(true)));

    // Creates, by this process and by one that starts now.
    let later = PostgresStore::open(options(cluster.coordinator.config(), DATABASE)).unwrap();
    let mut acknowledged: Vec<String> = Vec::new();
    for (store, prefix) in [(&store, "now"), (&later, "later")] {
        let new = names(prefix, 40);
        let place = places(&cluster, "links", &new);
        for code in &new {
            let outcome = try_create(store, code, within(5_000));
            let done = matches!(outcome, Outcome::Done(_));
            assert_eq!(done, place[code] != dead, "{code}: {outcome:?}");
            acknowledged.extend(done.then(|| code.clone()));
        }
    }
    // With an idempotency key too, whose row has a place of its own.
    let new = names("once", 40);
    let hash = |at: usize| [at as u8; 32];
    let hashes: Vec<String> =
        (0..new.len()).map(|at| format!("\\x{}", format!("{at:02x}").repeat(32))).collect();
    let (place, key_place) =
        (places(&cluster, "links", &new), places(&cluster, "idempotency", &hashes));
    let render: RenderCreated = Arc::new(|_: &Link| (201, Vec::new()));
    let mut both = 0;
    for (at, code) in new.iter().enumerate() {
        let request = IdempotentBegin {
            scope: IdempotencyScope::Anonymous,
            key_hash: hash(at),
            request_hash: [0; 32],
            choice: code.clone(),
            now: BIRTH,
            lease_until: BIRTH,
        };
        let made = now(later.create_once(link(code), request, render.clone(), within(5_000)));
        let done = matches!(made, Outcome::Done(CreatedOnce::Created(_)));
        let alive = place[code] != dead && key_place[&hashes[at]] != dead;
        assert_eq!(done, alive, "{code}: {made:?}");
        both += usize::from(alive);
        acknowledged.extend(done.then(|| code.clone()));
    }
    assert!(both > 0, "no key and code were on the living worker");
    assert!(matches!(now(later.lease(10, within(5_000))), Outcome::Done(_)));

    cluster.workers[0].restart().unwrap();
    until(PATIENCE, "the worker's keys to be there again", || {
        look_up(&store, &lost).iter().all(|answer| *answer == Ok(true)).then_some(())
    })
    .unwrap();
    let acknowledged: Vec<&String> = acknowledged.iter().collect();
    assert!(look_up(&store, &acknowledged).iter().all(|answer| *answer == Ok(true)));
}

/// Creates and reads that go on until it is dropped.
struct Load {
    over: Arc<AtomicBool>,
    created: Arc<AtomicUsize>,
    failed: Arc<AtomicUsize>,
    threads: Vec<std::thread::JoinHandle<Vec<String>>>,
}

impl Load {
    fn start(store: &PostgresStore) -> Self {
        let over = Arc::<AtomicBool>::default();
        let (created, failed) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let threads = (0..3).map(|number| {
            let (store, over) = (store.clone(), Arc::clone(&over));
            let (created, failed) = (Arc::clone(&created), Arc::clone(&failed));
            std::thread::spawn(move || {
                let mut acknowledged: Vec<String> = Vec::new();
                for at in 0.. {
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    let code = format!("load{number}-{at}");
                    match try_create(&store, &code, within(10_000)) {
                        Outcome::Done(_) => {
                            acknowledged.push(code);
                            created.fetch_add(1, Ordering::Relaxed);
                        }
                        _ => {
                            failed.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    // An older one and the newest.
                    for code in
                        [acknowledged.get(at / 2), acknowledged.last()].into_iter().flatten()
                    {
                        match try_get(&store, code, within(10_000)) {
                            Ok(found) => assert!(found.is_some(), "{code} is gone"),
                            Err(_) => {
                                failed.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                    }
                }
                acknowledged
            })
        });
        let threads = threads.collect();
        Self { over, created, failed, threads }
    }

    /// Waits until so many more links were created.
    fn go_on(&self, more: usize) {
        let goal = self.created.load(Ordering::Relaxed) + more;
        until(PATIENCE, "the load to go on", || {
            (self.created.load(Ordering::Relaxed) >= goal).then_some(())
        })
        .unwrap();
    }

    /// Ends it; answers the codes that were acknowledged, and how many calls failed.
    fn end(self) -> (Vec<String>, usize) {
        self.over.store(true, Ordering::Relaxed);
        let codes = self.threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        (codes, self.failed.load(Ordering::Relaxed))
    }
}

fn assert_all_there(store: &PostgresStore, codes: &[String]) {
    let all: Vec<&String> = codes.iter().collect();
    let answers = look_up(store, &all);
    let lost: Vec<_> = all.iter().zip(&answers).filter(|(_, found)| **found != Ok(true)).collect();
    assert!(lost.is_empty(), "{} of {} are lost: {:?}", lost.len(), all.len(), lost.first());
}

/// One more worker, and shards move there while links are created and read.
#[test]
fn a_worker_is_added_and_shards_move_under_load() {
    let Some((mut cluster, store)) = start() else { return };
    create_all(&store, &names("before", 500));
    let load = Load::start(&store);
    load.go_on(100);
    cluster.add_worker(DATABASE).unwrap();
    let port = cluster.workers[2].config().port;
    let there = format!(
        "SELECT count(*) FROM citus_shards
         WHERE nodeport = {port} AND citus_table_type = 'distributed'"
    );
    assert_eq!(psql(&cluster, &there), "0");
    psql(&cluster, "SELECT citus_rebalance_start()");
    until(4 * PATIENCE, "the shards to be rebalanced", || {
        let state = psql(&cluster, "SELECT state FROM citus_rebalance_status()");
        assert!(!["failed", "failing"].contains(&&*state), "{state}");
        (state == "finished").then_some(())
    })
    .unwrap();
    load.go_on(100);
    assert_ne!(psql(&cluster, &there), "0", "shards are on the new worker");
    let (codes, failed) = load.end();
    println!("rebalanced under load: {} links created, {failed} calls failed", codes.len());
    assert!(failed * 100 <= codes.len(), "{failed} calls failed of {} creates", codes.len());
    assert_all_there(&store, &codes);
    assert_all_there(&store, &names("before", 500));
}

/// A worker dies and its synchronous standby takes its place, as the runbook says.
#[test]
fn a_worker_is_replaced_by_its_standby_and_no_acknowledged_link_is_lost() {
    let Some((mut cluster, store)) = start() else { return };
    let mut standby = cluster.workers[0].standby().unwrap();
    let (host, port) = (standby.config().host.clone(), standby.config().port);
    let old = cluster.workers[0].config().port;
    // Registered, as one is that reads are sent to.
    psql(&cluster, &format!("SELECT citus_add_secondary_node('{host}', {port}, '{host}', {old})"));
    cluster.workers[0].set("synchronous_standby_names", standby.name()).unwrap();
    create_all(&store, &names("before", 100));
    let load = Load::start(&store);
    load.go_on(100);
    cluster.workers[0].kill().unwrap();
    until(PATIENCE, "calls to fail", || (load.failed.load(Ordering::Relaxed) > 0).then_some(()))
        .unwrap();
    standby.promote().unwrap();
    let node = |port: u16| format!("(SELECT nodeid FROM pg_dist_node WHERE nodeport = {port})");
    // Its own entry is moved aside, for an address is there once; then it takes the dead one's.
    psql(&cluster, &format!("SELECT citus_update_node({}, '{host}', 1)", node(port)));
    psql(&cluster, &format!("SELECT citus_update_node({}, '{host}', {port})", node(old)));
    let done = AtomicUsize::new(0);
    until(PATIENCE, "every key to be written again", || {
        let at = done.fetch_add(1, Ordering::Relaxed);
        let all = names(&format!("after{at}-"), 20);
        all.iter()
            .all(|code| matches!(try_create(&store, code, within(5_000)), Outcome::Done(_)))
            .then_some(())
    })
    .unwrap();
    load.go_on(50);
    let (codes, failed) = load.end();
    assert!(failed > 0, "the worker was not missed");
    assert_all_there(&store, &codes);
    assert_all_there(&store, &names("before", 100));
}

/// A database that was filled before there was a cluster becomes one by `migrate`.
#[test]
fn a_plain_database_becomes_a_cluster() {
    let Some((cluster, _)) = start() else { return };
    let config = cluster.coordinator.config();
    cluster.coordinator.create_database("plain").unwrap();
    let plain = options(config, "plain");
    migrate(&plain).unwrap();
    let store = PostgresStore::open(plain.clone()).unwrap();
    create_all(&store, &names("old", 1_500));
    let before = now(export_all(&store, 500));
    store.close();
    cluster.make_cluster("plain").unwrap();

    let store = PostgresStore::open(plain.clone()).unwrap();
    let unready = store.check();
    assert!(matches!(unready, Err(PostgresError::NotDistributed { .. })), "{unready:?}");
    migrate(&plain).unwrap();
    store.check().unwrap();
    assert_eq!(now(export_all(&store, 500)), before);
    let local = "SELECT pg_relation_size('links')";
    assert_eq!(config.psql("plain", local).unwrap(), "0", "nothing stays on the coordinator");
    assert_eq!(examine(&plain), Ok(Vec::new()));
}

/// Each thing that is wrong is found and named, and a healthy cluster has nothing wrong.
#[test]
fn what_is_wrong_with_a_cluster_is_found() {
    let Some((mut cluster, store)) = start() else { return };
    let good = options(cluster.coordinator.config(), DATABASE);
    let found = || examine(&good).unwrap();
    assert_eq!(found(), []);

    psql(&cluster, "SELECT undistribute_table('ledger')");
    assert_eq!(found(), [ClusterFinding::NotDistributed("ledger".to_owned())]);
    assert!(matches!(store.check(), Err(PostgresError::NotDistributed { .. })));
    migrate(&good).unwrap();
    store.check().unwrap();

    psql(&cluster, "ALTER TABLE hours DROP CONSTRAINT hours_pkey");
    assert_eq!(found(), [ClusterFinding::NoPrimaryKey("hours".to_owned())]);
    psql(&cluster, "ALTER TABLE hours ADD PRIMARY KEY (lane, code, domain, hour)");

    let worker = &mut cluster.workers[1];
    let node = format!("{}:{}", worker.config().host, worker.config().port);
    worker.set("wal_level", "replica").unwrap();
    worker.restart().unwrap();
    let level = "replica".to_owned();
    assert_eq!(found(), [ClusterFinding::WalLevel { node: node.clone(), level }]);
    worker.set("wal_level", "logical").unwrap();
    worker.stop().unwrap();
    assert_eq!(found(), [ClusterFinding::Unreachable(node)]);
    worker.restart().unwrap();
    until(PATIENCE, "the worker to be reached", || (found().is_empty()).then_some(())).unwrap();

    // Only one without shards can be switched off.
    cluster.add_worker(DATABASE).unwrap();
    let Config { host, port, .. } = cluster.workers[2].config().clone();
    psql(&cluster, &format!("SELECT citus_disable_node('{host}', {port}, synchronous := true)"));
    assert!(found().contains(&ClusterFinding::Inactive(format!("{host}:{port}"))), "{:?}", found());
    psql(&cluster, &format!("SELECT citus_activate_node('{host}', {port})"));
    until(PATIENCE, "the worker to be back", || (found().is_empty()).then_some(())).unwrap();

    let lonely = Postgres::setup().fast().start().unwrap();
    lonely.create_database("shunt").unwrap();
    let lonely = options(lonely.config(), "shunt");
    assert_eq!(examine(&lonely), Ok(Vec::new()));
}

/// A standby of the coordinator that asks standbys of the workers: redirects are answered there
/// when every primary is gone.
#[test]
fn a_standby_of_the_coordinator_reads_from_standbys_of_the_workers() {
    let Some((mut cluster, store)) = start() else { return };
    let codes = names("c", 50);
    create_all(&store, &codes);
    let mut standbys = Vec::new();
    for worker in &cluster.workers {
        let standby = worker.standby().unwrap();
        let Config { host, port, .. } = standby.config();
        let of = worker.config().port;
        psql(
            &cluster,
            &format!("SELECT citus_add_secondary_node('{host}', {port}, '{host}', {of})"),
        );
        standbys.push(standby);
    }
    let mut front = cluster.coordinator.standby().unwrap();
    cluster.coordinator.wait_for(&front).unwrap();
    // The standby's own setting: it can't be a session's behind a pooler.
    front.set("citus.use_secondary_nodes", "always").unwrap();
    front.restart().unwrap();
    let reader = PostgresStore::open(options(front.config(), DATABASE)).unwrap();
    for worker in &mut cluster.workers {
        worker.kill().unwrap();
    }
    cluster.coordinator.kill().unwrap();
    let all: Vec<&String> = codes.iter().collect();
    until(PATIENCE, "the standbys to answer", || {
        look_up(&reader, &all).iter().all(|answer| *answer == Ok(true)).then_some(())
    })
    .unwrap();
    assert_eq!(try_get(&reader, "nobody", soon()), Ok(None));
    assert!(try_create(&reader, "new", within(2_000)).done().is_none(), "it takes no writes");
}
