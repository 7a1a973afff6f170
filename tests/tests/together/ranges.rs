//! Leases of counter values whose counter forgets, judged by a store: whatever happens to Redis, no
//! value has two owners. Judged by the history of what was given, not by any database.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use shunt_domain::Outcome;
use shunt_domain::ports::{HighWater, Range, RangeLeases};
use shunt_redis::{Handle, RedisRanges};
use shunt_store::sqlite::{SqliteOptions, SqliteStore};

use crate::kit;

const KEY: &str = "shunt:range";
const PATIENCE: Duration = Duration::from_millis(100);
const LEASE: u64 = 100;

/// The embedded store, which several leasers of one test share as nodes share a database.
struct Store {
    store: Arc<SqliteStore>,
    _place: tempfile::TempDir,
}

impl Store {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(place.path(), SqliteOptions::default()).unwrap();
        Self { store: Arc::new(store), _place: place }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.store.close();
    }
}

/// Leasers at work, and what each was given.
struct Leasers {
    tasks: tokio::task::JoinSet<Vec<Range>>,
    stop: Arc<AtomicBool>,
    leased: Arc<AtomicUsize>,
    nodes: Vec<Arc<RedisRanges>>,
}

impl Leasers {
    /// `nodes` with four tasks each; every seventh lease gives half of it back.
    fn start(handle: &Arc<Handle>, store: &Store, nodes: usize) -> Self {
        let mut leasers = Self {
            tasks: tokio::task::JoinSet::new(),
            stop: Arc::default(),
            leased: Arc::default(),
            nodes: Vec::new(),
        };
        for _ in 0..nodes {
            let judge: Arc<dyn HighWater> = store.store.clone();
            let ranges = Arc::new(RedisRanges::new(Arc::clone(handle), "shunt", judge, PATIENCE));
            leasers.nodes.push(Arc::clone(&ranges));
            for _ in 0..4 {
                let (stop, leased) = (Arc::clone(&leasers.stop), Arc::clone(&leasers.leased));
                leasers.tasks.spawn(work(Arc::clone(&ranges), stop, leased));
            }
        }
        leasers
    }

    /// Waits until so many more leases were given.
    fn more(&self, leases: usize) {
        let goal = self.leased.load(Ordering::Acquire) + leases;
        shunt_cluster::until(Duration::from_secs(120), "more leases", || {
            (self.leased.load(Ordering::Acquire) >= goal).then_some(())
        })
        .unwrap();
    }

    /// Waits until so many more leases were proposed by Redis.
    fn more_proposed(&self, leases: u64) {
        let goal = self.proposed() + leases;
        shunt_cluster::until(Duration::from_secs(120), "more proposals", || {
            (self.proposed() >= goal).then_some(())
        })
        .unwrap();
    }

    fn sum(&self, pick: impl Fn(&RedisRanges) -> u64) -> u64 {
        self.nodes.iter().map(|node| pick(node)).sum()
    }

    fn lifted(&self) -> u64 {
        self.sum(|node| node.stats().lifted.load(Ordering::Relaxed))
    }

    fn proposed(&self) -> u64 {
        self.sum(|node| node.stats().proposed.load(Ordering::Relaxed))
    }

    fn alone(&self) -> u64 {
        self.sum(|node| node.stats().alone.load(Ordering::Relaxed))
    }

    /// Stops them and answers how many values have an owner, after finding that none has two.
    fn judge(mut self, runtime: &tokio::runtime::Runtime) -> u64 {
        self.stop.store(true, Ordering::Release);
        let mut used = Vec::new();
        runtime.block_on(async {
            while let Some(ranges) = self.tasks.join_next().await {
                used.extend(ranges.unwrap());
            }
        });
        used.sort_unstable_by_key(|range| range.start);
        for pair in used.windows(2) {
            assert!(pair[0].end <= pair[1].start, "two owners: {pair:?}");
        }
        used.iter().map(|range| range.end - range.start).sum()
    }
}

async fn work(
    ranges: Arc<RedisRanges>,
    stop: Arc<AtomicBool>,
    leased: Arc<AtomicUsize>,
) -> Vec<Range> {
    let mut used = Vec::new();
    while !stop.load(Ordering::Acquire) {
        let range = match ranges.lease(LEASE, kit::soon()).await {
            Outcome::Done(range) => range,
            other => panic!("{other:?}"),
        };
        assert!(range.start < range.end && range.end - range.start <= LEASE);
        let mine = if used.len() % 7 == 6 {
            let middle = range.start + (range.end - range.start) / 2;
            let rest = Range { start: middle, end: range.end };
            ranges.give_back(rest, kit::soon()).await.done().unwrap();
            Range { start: range.start, end: middle }
        } else {
            range
        };
        used.push(mine);
        leased.fetch_add(1, Ordering::AcqRel);
    }
    used
}

#[test]
fn a_counter_that_is_emptied_or_deleted_gives_no_value_twice() {
    let (mut redis, handle) = kit::redis();
    let (runtime, store) = (kit::runtime(), Store::new());
    let guard = runtime.enter();
    let leasers = Leasers::start(&handle, &store, 3);
    leasers.more(kit::count(1_000));
    for _ in 0..5 {
        let before = leasers.lifted();
        assert!(redis.empty().unwrap() >= 1, "there was nothing to lose");
        leasers.more(kit::count(1_000));
        redis.ask(&["DEL", KEY]).unwrap();
        leasers.more(kit::count(1_000));
        redis.ask(&["SET", KEY, "17"]).unwrap();
        leasers.more(kit::count(1_000));
        assert!(leasers.lifted() >= before + 3, "no counter that went back was seen");
    }
    let (alone, proposed) = (leasers.alone(), leasers.proposed());
    assert!(proposed > alone, "{proposed} by Redis, {alone} without");
    // Hung, and then gone: the store leases by itself, and the counter is behind when it is back.
    redis.freeze().unwrap();
    leasers.more(kit::count(1_000));
    redis.thaw().unwrap();
    redis.kill();
    leasers.more(kit::count(1_000));
    assert!(leasers.alone() > alone, "nobody missed Redis");
    redis.restart().unwrap();
    kit::connected(&handle);
    leasers.more_proposed(kit::count(2_000) as u64);
    // Nonsense in the counter is as good as no counter.
    redis.ask(&["SET", KEY, "nonsense"]).unwrap();
    leasers.more(kit::count(1_000));
    redis.ask(&["SET", KEY, "9223372036854775807"]).unwrap();
    leasers.more(kit::count(1_000));
    drop(guard);
    let values = leasers.judge(&runtime);
    assert!(values >= kit::count(20_000) as u64 * LEASE * 9 / 10, "{values} values");
    println!("{values} values, none twice");
}

/// The master that has the counter is cut off from its replica and goes on, then it is killed: what
/// it proposed since is proposed again by the replica that takes over.
#[test]
fn a_takeover_by_a_replica_that_was_cut_off_gives_no_value_twice() {
    let (mut cluster, handle) = kit::cluster();
    let (runtime, store) = (kit::runtime(), Store::new());
    let guard = runtime.enter();
    let leasers = Leasers::start(&handle, &store, 3);
    leasers.more(kit::count(500));
    let number = |reply: shunt_cluster::redis::Reply| reply.text().unwrap().parse::<u64>().unwrap();
    for _ in 0..2 {
        cluster.wait_settled().unwrap();
        kit::connected(&handle);
        let master = cluster.master_of(KEY).unwrap();
        let replica = cluster.replica_of(master).unwrap();
        leasers.more_proposed(20);
        cluster.cut_link(replica).unwrap();
        leasers.more_proposed(kit::count(2_000) as u64);
        let last = number(cluster.nodes()[master].ask(&["GET", KEY]).unwrap());
        let lifted = leasers.lifted();
        cluster.node(master).unwrap().kill();
        // Meanwhile the store leases by itself.
        let alone = leasers.alone();
        leasers.more(kit::count(1_000));
        assert!(leasers.alone() > alone, "nobody missed the master");
        assert_eq!(cluster.wait_for_takeover(KEY, master).unwrap(), replica);
        leasers.more_proposed(20);
        assert!(leasers.lifted() > lifted, "the new master knew all: the cut did not bite");
        let now = number(cluster.ask(KEY, &["GET", KEY]).unwrap());
        assert!(now > last, "the counter was lifted: {now} after {last}");
        cluster.mend_link(replica).unwrap();
        cluster.node(master).unwrap().restart().unwrap();
        leasers.more_proposed(kit::count(500) as u64);
    }
    drop(guard);
    let values = leasers.judge(&runtime);
    println!("{values} values, none twice");
    assert!(values >= kit::count(8_000) as u64 * LEASE / 2, "{values} values");
}
