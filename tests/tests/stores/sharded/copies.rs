//! Shards with standbys: the conformance suite, and a primary that is killed and replaced while two
//! nodes go on.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use shunt_cluster::{Postgres, until};
use shunt_domain::ports::{LinkReader, LinkWriter};
use shunt_domain::ring::Ring;
use shunt_domain::{Outcome, StoreError, Stored, Version};
use shunt_store::conformance::check;
use shunt_store::conformance::fixtures::{export_all, key, link, soon};
use shunt_store::replicated::Problem;
use shunt_store::sharded::{self, ShardOptions, ShardedStore};
use shunt_store::{
    conformance_domains, conformance_durability, conformance_idempotency, conformance_links,
    conformance_listing, conformance_meta, conformance_ranges,
};

use super::{Sharded, Shards, Stop, block_on, ring, shard};
use crate::kit::{options, within};

const PATIENCE: Duration = Duration::from_secs(30);

/// A shard with a standby.
fn with_standby(shard: ShardOptions, standby: &Postgres) -> ShardOptions {
    let replica = options(standby.config(), &shard.database.database);
    ShardOptions { replicas: vec![replica], ..shard }
}

fn on_three_with_standbys() -> impl FnMut() -> Sharded {
    let mut servers = Shards::start();
    let standby = servers.postgres.standby().unwrap();
    move || {
        let shards = servers.three();
        servers.postgres.wait_for(&standby).unwrap();
        Sharded::open(shards.into_iter().map(|shard| with_standby(shard, &standby)).collect())
    }
}

mod on_three_shards {
    use super::*;

    conformance_links!(on_three_with_standbys, conformance_together);
    conformance_listing!(on_three_with_standbys, conformance_together);
    conformance_domains!(on_three_with_standbys, conformance_together);
    conformance_idempotency!(on_three_with_standbys, conformance_together);
    conformance_ranges!(on_three_with_standbys, conformance_together);
    conformance_meta!(on_three_with_standbys, conformance_together);
    conformance_durability!(on_three_with_standbys, conformance_together);
}

/// Three shards, of which one is on servers of its own: a primary and a synchronous standby.
struct Trio {
    _near: Postgres,
    far: Postgres,
    standby: Postgres,
    shards: Vec<ShardOptions>,
}

impl Trio {
    fn start() -> Self {
        let near = Postgres::setup().fast().start().unwrap();
        let far = Postgres::setup().fast().start().unwrap();
        let mut shards = Vec::new();
        for (name, server) in [("a", &near), ("b", &near), ("c", &far)] {
            server.create_database(name).unwrap();
            shards.push(shard(server, name, name));
        }
        let standby = far.standby().unwrap();
        far.set("synchronous_standby_names", standby.name()).unwrap();
        let sql = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
        until(PATIENCE, "a synchronous standby", || (far.psql(sql).unwrap() == "1").then_some(()))
            .unwrap();
        let last = shards.pop().unwrap();
        shards.push(with_standby(last, &standby));
        block_on(sharded::migrate(&shards)).unwrap();
        Self { _near: near, far, standby, shards }
    }

    fn open(&self) -> ShardedStore {
        ShardedStore::open(self.shards.clone()).unwrap()
    }
}

/// Whether a code lies on the shard with the standby.
fn is_far(ring: &Ring, code: &str) -> bool {
    ring.nodes()[ring.owner(code)].name == "c"
}

/// What two nodes were told, and when something else was right.
#[derive(Default)]
struct Told {
    stop: AtomicBool,
    /// From here on, and until it is unset, the far shard takes no writes.
    away: AtomicBool,
    /// Look-ups of links made in the last second, while the far shard was away.
    looked_up: AtomicU64,
    /// Creates on the far shard that were acknowledged.
    far: AtomicU64,
}

const SEEDS: usize = 300;

/// Creates links and reads the latest ones and old ones. Answers what was acknowledged. Whatever
/// may not be is a panic.
fn node(store: &ShardedStore, name: &str, told: &Told) -> Vec<String> {
    let ring = ring(&["a", "b", "c"]);
    let mut acknowledged: Vec<String> = Vec::new();
    let mut recent: Vec<(Instant, String)> = Vec::new();
    check(async {
        for round in 0_usize.. {
            if told.stop.load(Ordering::Acquire) {
                return;
            }
            for at in 0..4 {
                let code = format!("{name}-{round}-{at}");
                let far = is_far(&ring, &code);
                if far && told.away.load(Ordering::Acquire) && round % 8 > 0 {
                    continue;
                }
                match store.create(link(&code), within(1_000)).await {
                    Outcome::Done(_) => {
                        acknowledged.push(code.clone());
                        recent.push((Instant::now(), code));
                        told.far.fetch_add(u64::from(far), Ordering::AcqRel);
                    }
                    other => assert!(far, "{code} of a healthy shard: {other:?}"),
                }
            }
            recent.retain(|(made, _)| made.elapsed() < Duration::from_secs(1));
            let away = told.away.load(Ordering::Acquire);
            let keys: Vec<_> = recent.iter().rev().take(64).map(|(_, code)| key(code)).collect();
            let reads = keys.iter().map(|key| store.get(key, Version::default(), within(2_000)));
            for (key, row) in keys.iter().zip(join_all(reads).await) {
                let code = key.code.as_str();
                match row {
                    Ok(Some(Stored::Link(_))) => {}
                    // The standby has it on its disk and may not have read it yet.
                    Err(StoreError::Unavailable(_)) if is_far(&ring, code) => continue,
                    other => panic!("{code} was acknowledged: {other:?}"),
                }
                if away && told.away.load(Ordering::Acquire) {
                    told.looked_up.fetch_add(1, Ordering::AcqRel);
                }
            }
            // What every copy has is always there.
            let old: Vec<_> =
                (0..16).map(|at| key(&format!("seed{}", (round * 16 + at) % SEEDS))).collect();
            let reads = old.iter().map(|key| store.get(key, Version::default(), within(2_000)));
            for (key, row) in old.iter().zip(join_all(reads).await) {
                assert!(matches!(row, Ok(Some(Stored::Link(_)))), "{key:?}: {row:?}");
            }
        }
    });
    acknowledged
}

#[test]
fn a_shards_primary_is_killed_and_its_standby_promoted_while_two_nodes_go_on() {
    let mut trio = Trio::start();
    let nodes = [trio.open(), trio.open()];
    check(async {
        let seeds = (0..SEEDS).map(|at| link(&format!("seed{at}"))).collect();
        assert!(nodes[0].create_many(seeds, soon()).await.done().is_some());
    });
    trio.far.wait_for(&trio.standby).unwrap();
    for node in &nodes {
        until(PATIENCE, "the copies", || {
            let (_, _, copies) = node.copies().next()?;
            copies.copies().iter().all(|copy| copy.up).then_some(())
        })
        .unwrap();
    }
    let told = Told::default();
    let (acknowledged, resumed) = std::thread::scope(|scope| {
        let stop = Stop(&told.stop);
        let workers: Vec<_> = nodes
            .iter()
            .zip(["one", "two"])
            .map(|(store, name)| {
                let told = &told;
                scope.spawn(move || node(store, name, told))
            })
            .collect();
        let far_creates = |more: u64| {
            let before = told.far.load(Ordering::Acquire);
            until(PATIENCE, "creates on the far shard", || {
                (told.far.load(Ordering::Acquire) >= before + more).then_some(())
            })
        };
        far_creates(20).unwrap();
        told.away.store(true, Ordering::Release);
        trio.far.kill().unwrap();
        until(Duration::from_secs(90), "look-ups while the primary is gone", || {
            (told.looked_up.load(Ordering::Acquire) >= 10_000).then_some(())
        })
        .unwrap();
        for node in &nodes {
            let (_, _, copies) = node.copies().next().unwrap();
            assert!(copies.problems().contains(&Problem::NoPrimary), "the fault bit");
        }
        trio.standby.promote().unwrap();
        let promoted = Instant::now();
        told.away.store(false, Ordering::Release);
        far_creates(40).unwrap();
        let resumed = promoted.elapsed();
        drop(stop);
        let told: Vec<_> = workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect();
        (told, resumed)
    });
    println!("{} links, creates resumed {resumed:?} after the promotion", acknowledged.len());
    assert!(resumed < Duration::from_secs(10), "{resumed:?}");
    // A node that knows none of this finds them all, each once.
    let fresh = ShardedStore::open(trio.shards.clone()).unwrap();
    let rows = block_on(async { export_all(&fresh, 1_000).await });
    let mut there: BTreeMap<&str, usize> = BTreeMap::new();
    for row in &rows {
        *there.entry(row.key().code.as_str()).or_default() += 1;
    }
    for code in &acknowledged {
        assert_eq!(there.get(code.as_str()), Some(&1), "{code}");
    }
    // Who arranges shards finds the new primary as well.
    let found = block_on(sharded::verify(&trio.shards, &mut |_| {})).unwrap();
    assert_eq!((found.right, found.misplaced_rows), (rows.len() as u64, 0), "{found:?}");
}
