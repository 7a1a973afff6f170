//! Redis killed, hung, emptied; a master of a cluster killed behind a cut link; the bus silent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use shunt_cluster::{Redis, until, wait};
use shunt_domain::LinkKey;

use crate::kit::World;

/// Asks every node for every link, over and over, until it is stopped: no answer may be an error.
struct Visitors {
    stop: Arc<AtomicBool>,
    looks: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<Option<String>>,
}

impl Visitors {
    fn start(world: &World, keys: &[LinkKey]) -> Self {
        let (stop, looks) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let resolvers: Vec<_> = world.nodes.iter().map(|node| Arc::clone(&node.resolver)).collect();
        let keys = keys.to_vec();
        let (stopped, counter) = (Arc::clone(&stop), Arc::clone(&looks));
        let task = world.spawn(async move {
            for round in 0_usize.. {
                for (n, key) in keys.iter().enumerate() {
                    for resolver in &resolvers {
                        // Every tenth link is loaded anew each time.
                        let answer = if n % 10 == 0 && round % 8 == 0 {
                            resolver.load(key).await
                        } else {
                            resolver.resolve(key).await
                        };
                        if let Err(error) = answer {
                            return Some(format!("{}: {error}", key.code));
                        }
                        counter.fetch_add(1, Ordering::Relaxed);
                    }
                }
                if stopped.load(Ordering::Relaxed) {
                    return None;
                }
                tokio::task::yield_now().await;
            }
            None
        });
        Self { stop, looks, task }
    }

    /// Waits until at least `more` further looks were answered.
    fn wait(&self, more: u64) {
        let goal = self.looks.load(Ordering::Relaxed) + more;
        until(wait::PATIENCE, "visitors to be answered", || {
            (self.looks.load(Ordering::Relaxed) >= goal || self.task.is_finished()).then_some(())
        })
        .unwrap();
    }

    fn end(self, world: &World) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        assert_eq!(world.run(self.task).unwrap(), None, "a redirect failed");
        self.looks.load(Ordering::Relaxed)
    }
}

fn links(world: &World, count: usize) -> Vec<LinkKey> {
    let keys: Vec<LinkKey> = (0..count)
        .map(|n| world.create(0, &format!("link{n:03}"), "https://one.example/"))
        .collect();
    for at in 0..world.nodes.len() {
        for key in &keys {
            assert_eq!(world.target(at, key), "https://one.example/");
        }
    }
    keys
}

fn wait_target(world: &World, at: usize, key: &LinkKey, target: &str, bound: Duration) -> Duration {
    let begun = Instant::now();
    until(bound, "the edit to be seen", || (world.target(at, key) == target).then_some(()))
        .unwrap();
    begun.elapsed()
}

#[test]
fn no_redirect_fails_while_redis_hangs_is_gone_or_empty_and_edits_come_through_the_feed() {
    let mut redis = Redis::start().unwrap();
    let world = World::new(&redis.url(), 2);
    let keys = links(&world, 100);
    let visitors = Visitors::start(&world, &keys);
    visitors.wait(10_000);

    redis.freeze().unwrap();
    let frozen = Instant::now();
    world.wait_deaf();
    assert!(frozen.elapsed() < Duration::from_millis(1_200), "{:?}", frozen.elapsed());
    visitors.wait(10_000);
    // The writer is answered soon, and the other node sees the edit through the feed.
    let begun = Instant::now();
    world.edit(0, &keys[1], "https://two.example/");
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    let seen = wait_target(&world, 1, &keys[1], "https://two.example/", Duration::from_secs(60));
    println!("with the bus hung an edit was seen after {seen:?}");
    redis.thaw().unwrap();
    world.wait_hearing();
    for at in 0..2 {
        world.nodes[at].resolver.clear();
        assert_eq!(world.target(at, &keys[1]), "https://two.example/", "no old row is left");
    }

    redis.kill();
    world.wait_deaf();
    world.edit(1, &keys[2], "https://three.example/");
    wait_target(&world, 0, &keys[2], "https://three.example/", Duration::from_secs(60));
    visitors.wait(10_000);
    redis.restart().unwrap();
    world.wait_hearing();
    for at in 0..2 {
        world.nodes[at].resolver.clear();
        assert_eq!(world.target(at, &keys[2]), "https://three.example/", "no old row is left");
    }

    redis.empty().unwrap();
    visitors.wait(10_000);
    world.edit(0, &keys[3], "https://four.example/");
    wait_target(&world, 1, &keys[3], "https://four.example/", Duration::from_secs(1));
    let looks = visitors.end(&world);
    println!("{looks} look-ups, none failed");
}

#[test]
fn with_everything_cut_known_links_are_served_and_the_nodes_say_how_old_they_may_be() {
    let mut redis = Redis::start().unwrap();
    let world = World::new(&redis.url(), 2);
    let keys = links(&world, 100);
    redis.kill();
    world.shared.cut.store(true, Ordering::Relaxed);
    world.wait_deaf();
    for _ in 0..50 {
        for at in 0..2 {
            for key in &keys {
                assert_eq!(world.target(at, key), "https://one.example/");
            }
        }
    }
    until(wait::PATIENCE, "the age to be told", || {
        let stale = |at: usize| world.nodes[at].resolver.hearing().unwrap().stale;
        (stale(0) > Duration::ZERO && stale(1) > Duration::ZERO).then_some(())
    })
    .unwrap();
    // What is not known can't be answered, and that is no "there is none".
    let other = LinkKey::new(
        shunt_domain::DomainId::DEFAULT,
        shunt_domain::Code::parse("unknown").unwrap(),
    );
    assert!(world.look(0, &other).is_err());
    world.shared.cut.store(false, Ordering::Relaxed);
    redis.restart().unwrap();
    world.wait_hearing();
    assert_eq!(world.nodes[0].resolver.hearing().unwrap().stale, Duration::ZERO);
}

#[test]
fn a_cluster_that_loses_a_master_behind_a_cut_link_fails_no_redirect_and_brings_nothing_back() {
    let mut cluster =
        Redis::setup().setting("cluster-node-timeout", "2000").start_cluster().unwrap();
    let world = World::new(&cluster.url(), 2);
    let keys = links(&world, 100);
    let name = format!("t:l:0:{}", keys[0].code);
    let master = cluster.master_of(&name).unwrap();
    let replica = cluster.replica_of(master).unwrap();
    cluster.ask(&name, &["WAIT", "1", "20000"]).unwrap();
    let visitors = Visitors::start(&world, &keys);
    visitors.wait(10_000);

    cluster.cut_link(replica).unwrap();
    let lost: Vec<&LinkKey> = keys
        .iter()
        .filter(|key| cluster.master_of(&format!("t:l:0:{}", key.code)).unwrap() == master)
        .collect();
    assert!(lost.len() > 10);
    for key in &lost {
        world.edit(0, key, "https://two.example/");
    }
    for key in &lost {
        wait_target(&world, 1, key, "https://two.example/", Duration::from_secs(1));
    }
    cluster.node(master).unwrap().kill();
    let killed = Instant::now();
    visitors.wait(10_000);
    cluster.wait_for_takeover(&name, master).unwrap();
    println!("another master took over after {:?}", killed.elapsed());
    world.wait_hearing();
    let refused = || -> u64 {
        let stats = world.nodes.iter().map(|node| node.resolver.sharing_stats().unwrap());
        stats.map(|stats| stats.l2_refused.load(Ordering::Relaxed)).sum()
    };
    // The new master has the rows from before the edits; nobody believes them. Nor has the fault
    // bitten before one was met: at first the nodes still look for the old master.
    until(wait::PATIENCE, "an old row to be met", || {
        for key in &lost {
            for at in 0..2 {
                world.nodes[at].resolver.clear();
                assert_eq!(world.target(at, key), "https://two.example/");
            }
        }
        (refused() > 0).then_some(())
    })
    .unwrap();
    visitors.wait(10_000);
    let looks = visitors.end(&world);
    let refused = refused();
    println!("{looks} look-ups, none failed; {refused} old rows refused");
}
