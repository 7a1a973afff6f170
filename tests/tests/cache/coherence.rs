//! Writer and reader are different nodes, and every L1 is warm.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use shunt_cluster::wait::PATIENCE;
use shunt_cluster::{Redis, until};
use shunt_domain::LinkKey;
use shunt_engine::l1::Kind;
use shunt_engine::links::PatchDraft;
use tokio::sync::Notify;

use crate::kit::World;

/// What an edit may take to be seen everywhere.
const BOUND: Duration = Duration::from_secs(1);

/// Until node `at` answers so; within the bound.
fn wait_for(world: &World, at: usize, key: &LinkKey, kind: Kind, target: &str) {
    until(BOUND, "the change to be seen", || {
        // A look that joins a load from before the change waits as long as that; the next doesn't.
        let seen = world.glance(at, key)?;
        (seen.unwrap() == (kind, target.to_owned())).then_some(())
    })
    .unwrap();
}

fn redirect() -> Kind {
    Kind::Redirect(shunt_domain::RedirectStatus::Found)
}

#[test]
fn what_one_node_writes_all_show_within_a_second_and_warm_redirects_read_nothing() {
    let redis = Redis::start().unwrap();
    let world = World::new(&redis.url(), 3);
    let keys: Vec<LinkKey> =
        (0..50).map(|n| world.create(0, &format!("link{n:02}"), "https://one.example/")).collect();
    let warm = |target: &str| {
        for at in 0..3 {
            for key in &keys {
                assert_eq!(world.target(at, key), target, "node {at}");
            }
        }
    };
    warm("https://one.example/");
    let reads = world.reads();
    for _ in 0..20 {
        warm("https://one.example/");
    }
    assert_eq!(world.reads(), reads, "warm redirects ask no store");

    // Every kind of change, each written at another node than it is read.
    for (n, key) in keys.iter().enumerate() {
        let (writer, readers) = (n % 3, [(n + 1) % 3, (n + 2) % 3]);
        let target = format!("https://two.example/{n}");
        world.edit(writer, key, &target);
        assert_eq!(world.target(writer, key), target, "the writer shows it at once");
        for at in readers {
            wait_for(&world, at, key, redirect(), &target);
        }
    }
    let disable = PatchDraft { enabled: Some(false), ..PatchDraft::default() };
    let enable = PatchDraft { enabled: Some(true), ..PatchDraft::default() };
    let limit = PatchDraft { max_clicks: Some(Some(3)), ..PatchDraft::default() };
    for (n, key) in keys.iter().enumerate().take(10) {
        let target = format!("https://two.example/{n}");
        for (patch, kind, target) in [
            (&disable, Kind::Gone, ""),
            (&enable, redirect(), target.as_str()),
            (&limit, Kind::Central, ""),
        ] {
            world.patch(n % 3, key, patch);
            for at in 0..3 {
                wait_for(&world, at, key, kind, target);
            }
        }
        world.delete((n + 1) % 3, key);
        for at in 0..3 {
            wait_for(&world, at, key, Kind::Gone, "");
        }
    }
    let sent: u64 =
        world.nodes.iter().map(|node| node.bus.stats().sent.load(Ordering::Relaxed)).sum();
    assert_eq!(sent, 50 + 40, "each change was told once");
    // No node had to be told by the feed.
    for node in &world.nodes {
        let stats = node.resolver.sharing_stats().unwrap();
        assert_eq!(stats.feed_news.load(Ordering::Relaxed), 0);
    }
}

#[test]
fn what_one_node_loaded_the_others_take_from_the_second_tier() {
    let redis = Redis::start().unwrap();
    let world = World::new(&redis.url(), 3);
    let keys: Vec<LinkKey> =
        (0..50).map(|n| world.create(0, &format!("link{n:02}"), "https://one.example/")).collect();
    for key in &keys {
        world.target(0, key);
    }
    until(BOUND, "the second tier to be filled", || {
        let rows = redis.ask(&["DBSIZE"]).ok()?.number()?;
        (rows == 50).then_some(())
    })
    .unwrap();
    let reads = world.reads();
    for at in [1, 2] {
        for key in &keys {
            assert_eq!(world.target(at, key), "https://one.example/");
        }
        let stats = world.nodes[at].resolver.sharing_stats().unwrap();
        assert_eq!(stats.l2_hits.load(Ordering::Relaxed), 50);
    }
    assert_eq!(world.reads(), reads);
}

#[test]
fn a_load_held_across_an_edit_fills_no_tier() {
    let redis = Redis::start().unwrap();
    let world = World::new(&redis.url(), 2);
    for n in 0..20 {
        let key = world.create(0, &format!("link{n:02}"), "https://old.example/");
        // Behind the answer, and out of the way before the load that is to ask the store.
        let name = format!("t:l:0:{}", key.code);
        until(BOUND, "the new link to be written down", || {
            (redis.ask(&["EXISTS", &name]).ok()?.number()? == 1).then_some(())
        })
        .unwrap();
        redis.empty().unwrap();
        let gate = Arc::new(Notify::new());
        *world.shared.gate.lock().unwrap() = Some(Arc::clone(&gate));
        let (resolver, held) = (Arc::clone(&world.nodes[1].resolver), key.clone());
        let early = world.spawn(async move { resolver.resolve(&held).await });
        let at_gate =
            async { tokio::time::timeout(PATIENCE, world.shared.at_gate.notified()).await };
        world.run(at_gate).expect("the load asks the store");
        world.edit(0, &key, "https://new.example/");
        // The other node has heard of it, or its load would be none begun before the edit.
        wait_for(&world, 1, &key, redirect(), "https://new.example/");
        gate.notify_one();
        world.run(early).unwrap().unwrap();
        for at in 0..2 {
            assert_eq!(world.target(at, &key), "https://new.example/");
            world.nodes[at].resolver.clear();
            assert_eq!(world.target(at, &key), "https://new.example/", "out of the second tier");
        }
    }
}

#[test]
fn nobody_is_told_of_a_created_link_that_there_is_none() {
    let redis = Redis::start().unwrap();
    let world = World::new(&redis.url(), 3);
    for n in 0..10 {
        let code = format!("later{n}");
        let key = LinkKey::new(
            shunt_domain::DomainId::DEFAULT,
            shunt_domain::Code::parse(&code).unwrap(),
        );
        for _ in 0..100 {
            for at in 0..3 {
                assert_eq!(world.look(at, &key).unwrap().0, Kind::Absent);
            }
        }
        world.create(0, &code, "https://a.example/");
        let created = Instant::now();
        // At the node that made it at once and for ever; elsewhere after a second at most.
        while created.elapsed() < BOUND {
            assert_eq!(world.target(0, &key), "https://a.example/");
        }
        for at in 1..3 {
            assert_eq!(world.target(at, &key), "https://a.example/", "node {at}");
        }
    }
}
