//! What changed, as told by all shards together: none is missed while arcs move, and a shard that
//! is away holds up nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use shunt_cluster::Postgres;
use shunt_domain::ports::{ChangeFeed, FeedPage, FeedPosition, LinkReader, LinkWriter};
use shunt_domain::{LinkPatch, Outcome, Stored, Version};
use shunt_store::conformance::check;
use shunt_store::conformance::fixtures::{BIRTH, change, create, key, link, soon, target};
use shunt_store::sharded::{self, Change, MoveOptions, ShardOptions, ShardedStore};

use super::{Shards, Stop, block_on, ring, shard};
use crate::kit::{with_client, within};

async fn patch(store: &ShardedStore, code: &str, round: u64) -> Version {
    let target = Some(target(&format!("https://example.com/{round}")));
    let patch = LinkPatch { target, ..LinkPatch::default() };
    match store.patch(change(code), patch, BIRTH, soon()).await {
        Outcome::Done(link) => link.version,
        other => panic!("patch {code}: {other:?}"),
    }
}

async fn read(store: &ShardedStore, position: Option<&FeedPosition>) -> FeedPage {
    store.changes(position, within(4_000)).await.unwrap()
}

fn told(page: &FeedPage) -> BTreeSet<(String, u64)> {
    let one = |news: &shunt_domain::ports::Invalidation| {
        (news.key.code.as_str().to_owned(), news.version.0)
    };
    page.changes.iter().map(one).collect()
}

/// A code that lies on this shard.
fn code_on(name: &str, prefix: &str) -> String {
    let ring = ring(&["a", "b", "c"]);
    let mut codes = (0..).map(|at| format!("{prefix}{at}"));
    codes.find(|code| ring.nodes()[ring.owner(code)].name == name).unwrap()
}

#[test]
fn a_shard_that_is_away_keeps_its_changes_and_holds_up_nobody_elses() {
    let near = Postgres::setup().fast().start().unwrap();
    let mut far = Postgres::setup().fast().start().unwrap();
    let mut shards = Vec::new();
    for (name, server) in [("a", &near), ("b", &near), ("c", &far)] {
        server.create_database(name).unwrap();
        shards.push(shard(server, name, name));
    }
    block_on(sharded::migrate(&shards)).unwrap();
    let store = ShardedStore::open(shards).unwrap();
    let codes = ["a", "b", "c"].map(|name| code_on(name, "code"));
    let [a, b, c] = codes.clone();
    let of = |code: &str, version: u64| (code.to_owned(), version);
    let start = block_on(async {
        for code in &codes {
            create(&store, link(code)).await;
        }
        let start = read(&store, None).await;
        assert!(start.changes.is_empty() && start.whole && !start.lost);
        for code in &codes {
            patch(&store, code, 1).await;
        }
        let page = read(&store, Some(&start.next)).await;
        assert_eq!(told(&page), BTreeSet::from([of(&a, 2), of(&b, 2), of(&c, 2)]));
        assert!(page.whole && !page.lost);
        // Not read before the shard goes.
        patch(&store, &c, 2).await;
        page.next
    });
    far.kill().unwrap();
    let (kept, late) = block_on(async {
        patch(&store, &a, 2).await;
        let page = read(&store, Some(&start)).await;
        assert!(!page.whole && !page.lost, "{page:?}");
        let news = told(&page);
        assert!(news.contains(&of(&a, 3)) && !news.contains(&of(&c, 3)), "{news:?}");
        // One that begins now knows nothing of that shard.
        let late = read(&store, None).await;
        assert!(!late.whole && late.changes.is_empty());
        let later = read(&store, Some(&late.next)).await;
        assert!(!later.whole && !later.lost, "{later:?}");
        (page.next, later.next)
    });
    far.restart().unwrap();
    check(async {
        let mut page = read(&store, Some(&kept)).await;
        while !page.whole {
            page = read(&store, Some(&kept)).await;
        }
        assert!(told(&page).contains(&of(&c, 3)) && !page.lost, "{page:?}");
        let found = read(&store, Some(&late)).await;
        assert!(found.whole && found.lost, "everything there may have changed: {found:?}");
        assert!(!read(&store, Some(&found.next)).await.lost);
        assert!(store.forget_changes(std::time::Duration::ZERO, soon()).await.unwrap() >= 5);
    });
}

/// Makes what was noted until now older than the minute that is read each time.
fn age(servers: &Shards, shards: &[ShardOptions]) {
    for shard in shards {
        with_client(&servers.postgres.url(&shard.database.database), async |client| {
            let sql = "UPDATE changes SET at = at - interval '2 minutes'";
            client.batch_execute(sql).await.unwrap();
        });
    }
}

#[test]
fn no_change_is_missed_and_no_version_goes_back_while_arcs_move() {
    const CODES: u64 = 300;
    let mut servers = Shards::start();
    let mut shards = servers.three();
    shards.push(servers.fourth());
    block_on(sharded::migrate(&shards)).unwrap();
    let nodes: Vec<ShardedStore> =
        (0..2).map(|_| ShardedStore::open(shards.clone()).unwrap()).collect();
    check(async {
        let seeds = (0..CODES).map(|at| link(&format!("seed{at}"))).collect();
        assert!(nodes[0].create_many(seeds, soon()).await.done().is_some());
    });
    let start = block_on(async { read(&nodes[1], None).await.next });
    let (stop, written) = (AtomicBool::new(false), AtomicBool::new(false));
    let edits: Mutex<BTreeMap<String, u64>> = Mutex::default();
    let heard = std::thread::scope(|scope| {
        let stop_all = Stop(&stop);
        scope.spawn(|| {
            check(async {
                for round in 0.. {
                    if stop.load(Ordering::Acquire) {
                        break;
                    }
                    let code = format!("seed{}", (round * 7) % CODES);
                    let version = patch(&nodes[0], &code, round).await;
                    edits.lock().unwrap().insert(code.clone(), version.0);
                    // The other node has heard of the change.
                    let row = nodes[1].get(&key(&code), version, soon()).await;
                    let is_new = |row: &Stored| row.version() >= version;
                    assert!(matches!(&row, Ok(Some(row)) if is_new(row)), "{code}: {row:?}");
                }
            });
            written.store(true, Ordering::Release);
        });
        // One that has heard of nothing.
        scope.spawn(|| {
            let mut seen: BTreeMap<String, Version> = BTreeMap::new();
            check(async {
                for round in 0.. {
                    if stop.load(Ordering::Acquire) {
                        break;
                    }
                    let code = format!("seed{}", (round * 11) % CODES);
                    let row = nodes[1].get(&key(&code), Version::default(), soon()).await;
                    let Ok(Some(row)) = row else { panic!("{code}: {row:?}") };
                    let last = seen.insert(code.clone(), row.version()).unwrap_or_default();
                    assert!(row.version() >= last, "{code} went back from {last:?} to {row:?}");
                }
            });
        });
        let listening = scope.spawn(|| {
            let (mut heard, mut position) = (BTreeSet::new(), start);
            loop {
                // Everything is written before the last look.
                let last = written.load(Ordering::Acquire);
                let page = block_on(async { read(&nodes[1], Some(&position)).await });
                assert!(page.whole && !page.lost, "{page:?}");
                heard.extend(told(&page));
                position = page.next;
                if last {
                    return heard;
                }
                age(&servers, &shards);
            }
        });
        for change in [
            Change::Add { name: "d".to_owned(), weight: 1 },
            Change::Remove { name: "d".to_owned() },
        ] {
            block_on(sharded::plan(&shards, change)).unwrap();
            let mut tell = |_| {};
            let moving = sharded::rebalance(&shards, MoveOptions::default(), &mut tell);
            assert!(block_on(moving).unwrap().arcs > 50);
        }
        drop(stop_all);
        listening.join().unwrap()
    });
    let edits = edits.into_inner().unwrap();
    let count: u64 = edits.values().map(|version| version - 1).sum();
    assert!(count > 500, "{count} edits");
    for (code, version) in edits {
        for version in 2..=version {
            assert!(heard.contains(&(code.clone(), version)), "{code} version {version}");
        }
    }
}
