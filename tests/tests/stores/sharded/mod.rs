//! Several databases as one store: the conformance suite on three shards, and arcs that move under
//! two nodes that know nothing of it.

mod copies;
mod feed;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::future::join_all;
use shunt_cluster::Postgres;
use shunt_domain::ports::{
    ChangeFeed, Claim, CreateRefusal, LinkMirror, LinkReader, LinkWriter, ListQuery,
};
use shunt_domain::ring::{Ring, RingNode};
use shunt_domain::{LinkPatch, Outcome, StoreError, Stored, Version};
use shunt_store::conformance::fixtures::{
    BIRTH, change, codes, create, export_all, get, key, link, list_all, soon, target,
};
use shunt_store::conformance::{Restart, Subject, check};
use shunt_store::sharded::{self, Change, MoveOptions, ShardOptions, ShardedStore};
use shunt_store::{
    conformance_domains, conformance_durability, conformance_idempotency, conformance_keys,
    conformance_links, conformance_listing, conformance_meta, conformance_pool, conformance_ranges,
};

use crate::kit::{options, within};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// One server with databases that are shards, and copies of them.
struct Shards {
    postgres: Postgres,
    made: usize,
}

fn shard(postgres: &Postgres, name: &str, database: &str) -> ShardOptions {
    ShardOptions::new(name, options(postgres.config(), database))
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(future)
}

impl Shards {
    /// Starts the server, with three empty shards as templates.
    fn start() -> Self {
        let postgres = Postgres::setup().fast().start().unwrap();
        let names = NAMES.iter().take(3);
        let templates: Vec<ShardOptions> = names
            .map(|name| {
                let database = format!("template_{name}");
                postgres.create_database(&database).unwrap();
                shard(&postgres, name, &database)
            })
            .collect();
        block_on(sharded::migrate(&templates)).unwrap();
        Self { postgres, made: 0 }
    }

    /// Three empty shards.
    fn three(&mut self) -> Vec<ShardOptions> {
        self.made += 1;
        let number = self.made;
        let names = NAMES.iter().take(3);
        names
            .map(|name| {
                let database = format!("store{number}_{name}");
                let template = format!("CREATE DATABASE {database} TEMPLATE template_{name}");
                self.postgres.psql(&template).unwrap();
                shard(&self.postgres, name, &database)
            })
            .collect()
    }

    /// A fourth database, which is no shard yet.
    fn fourth(&self) -> ShardOptions {
        let database = format!("store{}_d", self.made);
        self.postgres.create_database(&database).unwrap();
        shard(&self.postgres, "d", &database)
    }

    /// Asks a shard's database itself.
    fn ask(&self, shard: &ShardOptions, sql: &str) -> String {
        let url = self.postgres.url(&shard.database.database);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (client, connection) =
                tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
            let connection = tokio::spawn(connection);
            let rows = client.query(&format!("SELECT ({sql})::text"), &[]).await.unwrap();
            drop(client);
            connection.await.unwrap().unwrap();
            rows[0].get(0)
        })
    }

    fn links(&self, shard: &ShardOptions) -> u64 {
        self.ask(shard, "SELECT count(*) FROM links").parse().unwrap()
    }
}

/// A sharded store under test.
struct Sharded {
    store: ShardedStore,
    shards: Vec<ShardOptions>,
}

impl Sharded {
    fn open(shards: Vec<ShardOptions>) -> Self {
        Self { store: ShardedStore::open(shards.clone()).unwrap(), shards }
    }
}

impl Subject for Sharded {
    type Store = ShardedStore;

    fn store(&self) -> &ShardedStore {
        &self.store
    }
}

impl Restart for Sharded {
    fn restart(self) -> Self {
        self.store.close();
        Self::open(self.shards)
    }

    fn crash(self) -> Self {
        drop(self.store);
        Self::open(self.shards)
    }
}

fn on_three() -> impl FnMut() -> Sharded {
    let mut shards = Shards::start();
    move || Sharded::open(shards.three())
}

/// Every port that it has: there is no `CreateOnce`, because a key's row and its link lie apart.
mod on_three_shards {
    use super::*;

    conformance_links!(on_three, conformance_together);
    conformance_listing!(on_three, conformance_together);
    conformance_domains!(on_three, conformance_together);
    conformance_idempotency!(on_three, conformance_together);
    conformance_keys!(on_three, conformance_together);
    conformance_pool!(on_three, conformance_together);
    conformance_ranges!(on_three, conformance_together);
    conformance_meta!(on_three, conformance_together);
    conformance_durability!(on_three, conformance_together);
}

fn ring(names: &[&str]) -> Ring {
    Ring::new(names.iter().map(|name| RingNode::new(*name)).collect()).unwrap()
}

/// How many of these codes each shard has by the ring.
fn predicted<'a>(ring: &Ring, codes: impl Iterator<Item = &'a str>) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for code in codes {
        *counts.entry(ring.nodes()[ring.owner(code)].name.clone()).or_insert(0) += 1;
    }
    counts
}

#[test]
fn links_lie_where_the_ring_says() {
    let mut servers = Shards::start();
    let shards = servers.three();
    let store = ShardedStore::open(shards.clone()).unwrap();
    let names: Vec<String> = (0..600).map(|at| format!("code{at}")).collect();
    check(async {
        let new = names.iter().map(|code| link(code)).collect();
        let made = store.create_many(new, soon()).await.done().unwrap();
        assert!(made.iter().all(Result::is_ok));
    });
    let ring = ring(&["a", "b", "c"]);
    let counts = predicted(&ring, names.iter().map(String::as_str));
    for shard in &shards {
        assert_eq!(servers.links(shard), counts[&shard.name], "{}", shard.name);
    }
    let found = block_on(sharded::verify(&shards, &mut |_| {})).unwrap();
    assert_eq!((found.rows, found.right, found.misplaced_rows), (600, 600, 0));
}

/// Ends what runs until it is told to, also when the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// What `shunt copy` writes: each row over an older one, on its own shard.
#[test]
fn rows_of_another_store_come_to_their_shards() {
    let mut servers = Shards::start();
    let (from, to) = (servers.three(), servers.three());
    let (source, target) =
        (ShardedStore::open(from).unwrap(), ShardedStore::open(to.clone()).unwrap());
    let names: Vec<String> = (0..200).map(|at| format!("code{at}")).collect();
    check(async {
        let new = names.iter().map(|code| link(code)).collect();
        assert!(source.create_many(new, soon()).await.done().is_some());
        let copy = async || {
            let rows = export_all(&source, 1_000).await;
            assert_eq!(target.replace_many(rows.clone(), soon()).await, Outcome::Done(()));
            // Rows of one millisecond may stand in another order.
            let of = |rows: Vec<Stored>| -> BTreeMap<String, Stored> {
                let named = |row: Stored| (row.key().code.as_str().to_owned(), row);
                rows.into_iter().map(named).collect()
            };
            assert!(of(export_all(&target, 1_000).await) == of(rows));
        };
        copy().await;
        for code in names.iter().step_by(3) {
            assert!(source.delete(change(code), BIRTH, soon()).await.done().is_some());
        }
        let position = target.changes(None, soon()).await.unwrap().next;
        copy().await;
        copy().await;
        let told = target.changes(Some(&position), soon()).await.unwrap().changes;
        assert_eq!(told.len(), names.len().div_ceil(3), "what was replaced was told, once");
    });
    let found = block_on(sharded::verify(&to, &mut |_| {})).unwrap();
    assert_eq!((found.right, found.misplaced_rows), (200, 0));
}

/// What links under load have been told.
#[derive(Default)]
struct Acknowledged {
    /// Codes with the number in their target.
    links: Mutex<BTreeMap<String, u64>>,
    granted: AtomicU64,
    reads: AtomicU64,
    stop: AtomicBool,
}

/// Creates, edits, claims and reads until it is told to stop. An answer that is wrong is a panic.
fn node(store: &ShardedStore, name: &str, told: &Acknowledged) {
    check(async {
        for round in 0_u64.. {
            if told.stop.load(Ordering::Acquire) {
                return;
            }
            let code = format!("{name}-{round}");
            let new = link(&code);
            match store.create(new, soon()).await {
                Outcome::Done(_) => drop(told.links.lock().unwrap().insert(code.clone(), 0)),
                other => panic!("create {code}: {other:?}"),
            }
            // An older link, changed by its own node alone and read by all.
            let old = format!("{name}-{}", round / 2);
            let patch = LinkPatch {
                target: Some(target(&format!("https://example.com/edit/{round}"))),
                ..LinkPatch::default()
            };
            let patched = store.patch(change(&old), patch, BIRTH, soon()).await;
            assert!(matches!(patched, Outcome::Done(_)), "patch {old}: {patched:?}");
            told.links.lock().unwrap().insert(old, round);
            match store.claim_click(key("limited"), BIRTH, soon()).await {
                Outcome::Done(Claim::Granted(_)) => {
                    told.granted.fetch_add(1, Ordering::AcqRel);
                }
                Outcome::Done(Claim::Denied(_)) => {}
                other => panic!("claim: {other:?}"),
            }
            let taken = store.create(link("limited"), soon()).await;
            assert_eq!(taken, Outcome::Refused(CreateRefusal::Taken));
            for at in 0..8 {
                let code = format!("seed{}", (round * 8 + at) % SEEDS);
                let row = store.get(&key(&code), Version::default(), soon()).await;
                assert!(matches!(row, Ok(Some(Stored::Link(_)))), "{code}: {row:?}");
                told.reads.fetch_add(1, Ordering::AcqRel);
            }
        }
    });
}

/// Links that are there before anything moves.
const SEEDS: u64 = 2_000;

/// Every acknowledged link is there with its last edit, once, on its own shard.
fn assert_all_there(store: &ShardedStore, told: &Acknowledged) {
    let links = told.links.lock().unwrap().clone();
    check(async {
        for (code, edit) in &links {
            let Some(Stored::Link(found)) = get(store, &key(code)).await else {
                panic!("{code} is lost")
            };
            let expected = match edit {
                0 if found.version == Version(1) => format!("https://example.com/{code}"),
                edit => format!("https://example.com/edit/{edit}"),
            };
            assert_eq!(found.data.target.as_str(), expected, "{code}");
        }
        let rows = export_all(store, 1_000).await;
        assert_eq!(rows.len() as u64, links.len() as u64 + SEEDS + 1, "each link is there once");
        let Some(Stored::Link(limited)) = get(store, &key("limited")).await else {
            panic!("the limited link is lost")
        };
        assert_eq!(limited.used, told.granted.load(Ordering::Acquire), "clicks were kept");
    });
}

#[test]
fn arcs_move_to_a_new_shard_and_back_while_two_nodes_go_on() {
    let mut servers = Shards::start();
    let mut shards = servers.three();
    shards.push(servers.fourth());
    block_on(sharded::migrate(&shards)).unwrap();
    let nodes: Vec<ShardedStore> =
        (0..2).map(|_| ShardedStore::open(shards.clone()).unwrap()).collect();
    check(async {
        let seeds = (0..SEEDS).map(|at| link(&format!("seed{at}"))).collect();
        assert!(nodes[0].create_many(seeds, soon()).await.done().is_some());
        let mut limited = link("limited");
        limited.max_clicks = std::num::NonZeroU64::new(1_000_000);
        create(&nodes[0], limited).await;
    });
    assert_eq!(servers.links(&shards[3]), 0, "a new shard owns nothing");
    let told = Arc::new(Acknowledged::default());
    let workers: Vec<_> = nodes
        .iter()
        .zip(["one", "two"])
        .map(|(store, name)| {
            let (store, told) = (store.clone(), Arc::clone(&told));
            std::thread::spawn(move || node(&store, name, &told))
        })
        .collect();

    let three = ring(&["a", "b", "c"]);
    let four = ring(&NAMES);
    for (change, from, to, d) in [
        (Change::Add { name: "d".to_owned(), weight: 1 }, &three, &four, true),
        (Change::Remove { name: "d".to_owned() }, &four, &three, false),
    ] {
        let plan = block_on(sharded::plan(&shards, change)).unwrap();
        let share: f64 = from
            .moves(to)
            .iter()
            .map(|moved| moved.arc.end.0.wrapping_sub(moved.arc.start.0) as f64 / u128::MAX as f64)
            .sum();
        assert!((plan.share - share).abs() < 1e-6, "only what must move: {plan:?}, {share}");
        let mut tell = |_| {};
        let moving = sharded::rebalance(&shards, MoveOptions::default(), &mut tell);
        let moved = block_on(moving).unwrap();
        assert_eq!(moved.arcs as usize, plan.arcs);
        assert!(moved.links > 0 && (servers.links(&shards[3]) > 0) == d, "{moved:?}");
    }

    told.stop.store(true, Ordering::Release);
    for worker in workers {
        worker.join().unwrap();
    }
    assert!(told.reads.load(Ordering::Acquire) > 100, "the nodes hardly did anything");
    for node in &nodes {
        assert_all_there(node, &told);
    }
    let found = block_on(sharded::verify(&shards, &mut |_| {})).unwrap();
    assert_eq!((found.misplaced_rows, found.to_move, found.copies), (0, 0, 0), "{found:?}");
    assert_eq!(found.right, found.rows);
}

/// The database itself refuses what comes to the wrong shard.
#[test]
fn a_shard_refuses_a_key_that_is_not_its_own() {
    let mut servers = Shards::start();
    let shards = servers.three();
    let store = ShardedStore::open(shards).unwrap();
    let ring = ring(&["a", "b", "c"]);
    check(async {
        for at in 0..30 {
            let code = format!("code{at}");
            let owner = &ring.nodes()[ring.owner(&code)].name;
            for (name, shard) in store.shards() {
                let outcome = shard.create(link(&code), soon()).await;
                let moved = Outcome::Refused(CreateRefusal::Store(StoreError::Moved));
                if name == owner {
                    assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
                } else {
                    assert_eq!(outcome, moved, "{code} on {name}");
                }
            }
        }
        // Many at once: those that are its own are made all the same.
        let (name, shard) = store.shards().next().unwrap();
        let names: Vec<String> = (100..140).map(|at| format!("code{at}")).collect();
        let creates = names.iter().map(|code| shard.create(link(code), soon()));
        for (code, outcome) in names.iter().zip(join_all(creates).await) {
            let own = ring.nodes()[ring.owner(code)].name == name;
            assert_eq!(matches!(outcome, Outcome::Done(_)), own, "{code}: {outcome:?}");
        }
    });
}

/// A shard whose server is gone: its own keys are unavailable, the others go on, and so does a node
/// that starts now.
#[test]
fn an_unreachable_shard_is_unavailable_for_its_own_keys_only() {
    let homes = Postgres::setup().fast().start().unwrap();
    let mut far = Postgres::setup().fast().start().unwrap();
    let mut shards = Vec::new();
    for (name, server) in [("a", &homes), ("b", &homes), ("c", &far)] {
        server.create_database(name).unwrap();
        shards.push(shard(server, name, name));
    }
    block_on(sharded::migrate(&shards)).unwrap();
    let store = ShardedStore::open(shards.clone()).unwrap();
    let names: Vec<String> = (0..60).map(|at| format!("code{at}")).collect();
    check(async {
        for code in &names {
            create(&store, link(code)).await;
        }
    });
    far.kill().unwrap();
    let ring = ring(&["a", "b", "c"]);
    let late = ShardedStore::open(shards).unwrap();
    assert_eq!(late.unreachable().len(), 1);
    for store in [&store, &late] {
        check(async {
            let mut away = 0;
            for code in &names {
                let row = store.get(&key(code), Version::default(), within(2_000)).await;
                let fresh = store.create(link(&format!("{code}x")), within(2_000)).await;
                let gone = |code: &str| ring.nodes()[ring.owner(code)].name == "c";
                if gone(code) {
                    away += 1;
                    assert!(matches!(row, Err(StoreError::Unavailable(_))), "{code}: {row:?}");
                } else {
                    assert!(matches!(row, Ok(Some(_))), "{code}: {row:?}");
                }
                let made =
                    matches!(fresh, Outcome::Done(_) | Outcome::Refused(CreateRefusal::Taken));
                assert_eq!(made, !gone(&format!("{code}x")), "{code}x: {fresh:?}");
            }
            assert!(away > 5, "the fault bit");
        });
    }
}

/// Names and addresses that were mixed up, and databases that are no shards, are told as such.
#[test]
fn what_is_wrong_with_the_shards_is_said() {
    let mut servers = Shards::start();
    let mut shards = servers.three();
    let other = servers.three();
    let open = |shards: &[ShardOptions]| {
        ShardedStore::open(shards.to_vec()).map(drop).unwrap_err().to_string()
    };
    let two: Vec<ShardOptions> = shards.iter().skip(1).cloned().collect();
    assert!(open(&two).contains("home"), "{}", open(&two));
    shards.swap(0, 1);
    shards[0].name = "a".to_owned();
    shards[1].name = "b".to_owned();
    let mixed = open(&shards);
    assert!(mixed.contains("put names and addresses together"), "{mixed}");
    let remove = Change::Remove { name: "a".to_owned() };
    let home = block_on(sharded::plan(&other, remove)).unwrap_err().to_string();
    assert!(home.contains("can't be removed"), "{home}");
    let add = Change::Add { name: "x".to_owned(), weight: 1 };
    let unknown = block_on(sharded::plan(&other, add)).unwrap_err().to_string();
    assert!(unknown.contains("store.shards"), "{unknown}");
    let listed = ShardedStore::open(other).unwrap();
    check(async {
        create(&listed, link("abc")).await;
        let query = ListQuery { limit: 5, ..ListQuery::default() };
        assert_eq!(codes(&list_all(&listed, &query).await), ["abc"]);
    });
}
