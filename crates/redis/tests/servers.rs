//! The crate against real servers: one Redis, and a cluster of six nodes.

#![expect(clippy::unwrap_used, reason = "every function here is a test or part of one")]

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use shunt_cluster::{Redis, RedisCluster, until, wait};
use shunt_domain::ports::{
    Bus, BusListener, Cached, CachedLink, Clock, Invalidation, LinkCache, SharedError, Terms,
};
use shunt_domain::{Code, Deadline, DomainId, LinkKey, RedirectStatus, Target, Timestamp, Version};
use shunt_redis::{Handle, RedisBus, RedisCache, RedisOptions};

struct Wall;

impl Clock for Wall {
    fn now(&self) -> Timestamp {
        Timestamp::from(SystemTime::now())
    }
}

fn soon() -> Deadline {
    Deadline::after(Instant::now(), Duration::from_millis(500))
}

fn key(code: &str) -> LinkKey {
    LinkKey::new(DomainId(1), Code::parse(code).unwrap())
}

fn row(version: u64) -> CachedLink {
    let target = Target::from_stored(&format!("https://a.example/{version}"), false).unwrap();
    let terms = Terms {
        target,
        status: RedirectStatus::Found,
        forward_query: false,
        enabled: true,
        valid_from: None,
        expires_at: None,
        central: false,
    };
    CachedLink { version: Version(version), terms: Some(terms) }
}

struct World {
    handle: Arc<Handle>,
    cache: RedisCache,
    runtime: tokio::runtime::Runtime,
}

impl World {
    fn new(url: &str) -> Self {
        let handle = Handle::start(RedisOptions::parse(url).unwrap()).unwrap();
        let cache =
            RedisCache::new(Arc::clone(&handle), "t", Duration::from_secs(60), Arc::new(Wall));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let world = Self { handle, cache, runtime };
        world.wait_up();
        world
    }

    fn wait_up(&self) {
        until(wait::PATIENCE, "all nodes to be reachable", || {
            let (up, all) = self.handle.up();
            (up == all && all > 0).then_some(())
        })
        .unwrap();
    }

    fn get(&self, key: &LinkKey) -> Result<Option<Cached>, SharedError> {
        self.runtime.block_on(self.cache.get(key, soon()))
    }

    fn put(&self, key: &LinkKey, row: &CachedLink) -> Result<(), SharedError> {
        self.runtime.block_on(self.cache.put(key, row, soon()))
    }

    fn version(&self, key: &LinkKey) -> Option<u64> {
        match self.get(key).unwrap()? {
            Cached::Row(row) => Some(row.version.0),
            Cached::Absent => Some(0),
        }
    }
}

fn only_higher_versions(world: &World, key: &LinkKey) {
    let absent = |world: &World| world.runtime.block_on(world.cache.put_absent(key, soon()));
    absent(world).unwrap();
    assert_eq!(world.version(key), Some(0));
    world.put(key, &row(1)).unwrap();
    assert_eq!(world.version(key), Some(1));
    absent(world).unwrap();
    assert_eq!(world.version(key), Some(1), "absence is never written over a row");
    for (written, there) in [(3, 3), (2, 3), (3, 3), (u64::from(u32::MAX) + 9, 1 << 32 | 8)] {
        world.put(key, &row(written)).unwrap();
        assert_eq!(world.version(key), Some(there));
    }
    let tombstone = CachedLink { version: Version(1 << 33), terms: None };
    world.put(key, &tombstone).unwrap();
    world.put(key, &row(9)).unwrap();
    assert_eq!(world.get(key).unwrap(), Some(Cached::Row(tombstone)));
    let drop_older = |version| {
        let done = world.cache.drop_older(key, Version(version), soon());
        world.runtime.block_on(done).unwrap();
    };
    drop_older(1 << 33);
    assert_eq!(world.version(key), Some(1 << 33));
    drop_older((1 << 33) + 1);
    assert_eq!(world.version(key), None);
}

#[test]
fn the_second_tier_takes_only_higher_versions() {
    let mut redis = Redis::start().unwrap();
    let world = World::new(&redis.url());
    only_higher_versions(&world, &key("one"));

    // Absence goes by itself.
    world.runtime.block_on(world.cache.put_absent(&key("gone"), soon())).unwrap();
    until(Duration::from_secs(1), "absence to end", || {
        world.version(&key("gone")).is_none().then_some(())
    })
    .unwrap();

    // A server that was started anew knows no scripts, and nobody has to reconnect by hand.
    redis.restart().unwrap();
    until(wait::PATIENCE, "a new connection", || world.put(&key("two"), &row(5)).ok()).unwrap();
    assert_eq!(world.version(&key("two")), Some(5));

    // What somebody else left under a key of ours is nothing, and is written over.
    redis.ask(&["SET", "t:l:1:alien", "what is this"]).unwrap();
    assert_eq!(world.version(&key("alien")), None);
    world.put(&key("alien"), &row(1)).unwrap();
    assert_eq!(world.version(&key("alien")), Some(1));
}

#[test]
fn a_hung_server_is_noticed_within_a_second_and_missed_no_longer_than_it_hangs() {
    let mut redis = Redis::start().unwrap();
    let world = World::new(&redis.url());
    world.put(&key("a"), &row(1)).unwrap();
    for _ in 0..2 {
        redis.freeze().unwrap();
        let frozen = Instant::now();
        until(Duration::from_secs(1), "the breaker to open", || {
            (world.handle.up().0 == 0).then_some(())
        })
        .unwrap();
        assert!(frozen.elapsed() < Duration::from_secs(1));
        // Refused without a wait, many at once.
        let begun = Instant::now();
        for _ in 0..1_000 {
            world.get(&key("a")).unwrap_err();
        }
        assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
        redis.thaw().unwrap();
        let thawed = Instant::now();
        world.wait_up();
        assert!(thawed.elapsed() < Duration::from_secs(5));
        assert_eq!(world.version(&key("a")), Some(1));
    }
    redis.kill();
    until(Duration::from_secs(1), "the breaker to open", || {
        (world.handle.up().0 == 0).then_some(())
    })
    .unwrap();
    redis.restart().unwrap();
    until(wait::PATIENCE, "a new connection", || world.get(&key("a")).ok()).unwrap();
    assert!(world.handle.stats().opened.load(Ordering::Relaxed) >= 3);
}

#[test]
fn a_wrong_password_is_told_by_name() {
    let redis = Redis::start().unwrap();
    let url = format!("redis://:wrong@{}", redis.socket());
    let world_handle = Handle::start(RedisOptions::parse(&url).unwrap()).unwrap();
    let cache =
        RedisCache::new(Arc::clone(&world_handle), "t", Duration::from_secs(60), Arc::new(Wall));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    until(wait::PATIENCE, "the reason", || {
        let error = runtime.block_on(cache.get(&key("a"), soon())).unwrap_err().to_string();
        error.contains("Password").then_some(())
    })
    .unwrap();
}

#[test]
fn a_cluster_serves_all_keys_and_again_after_a_master_is_gone() {
    let mut cluster: RedisCluster =
        Redis::setup().setting("cluster-node-timeout", "2000").start_cluster().unwrap();
    let world = World::new(&cluster.url());
    let keys: Vec<LinkKey> = (0..300).map(|n| key(&format!("k{n}"))).collect();
    only_higher_versions(&world, &key("one"));
    for key in &keys {
        world.put(key, &row(1)).unwrap();
    }
    assert!(keys.iter().all(|key| world.version(key) == Some(1)));

    let name = "t:l:1:k0";
    let master = cluster.master_of(name).unwrap();
    cluster.ask(name, &["WAIT", "1", "20000"]).unwrap();
    cluster.node(master).unwrap().freeze().unwrap();
    let frozen = Instant::now();
    until(Duration::from_secs(1), "its breaker to open", || {
        (world.handle.up() == (2, 3)).then_some(())
    })
    .unwrap();
    // The others' keys are served all the time.
    let others: Vec<&LinkKey> = keys
        .iter()
        .filter(|key| cluster.master_of(&format!("t:l:1:{}", key.code)).unwrap() != master)
        .collect();
    assert!(others.len() > 100);
    assert!(others.iter().all(|key| world.version(key) == Some(1)));
    cluster.wait_for_takeover(name, master).unwrap();
    until(Duration::from_secs(5), "all keys to be served again", || {
        keys.iter().all(|key| world.put(key, &row(2)).is_ok()).then_some(())
    })
    .unwrap();
    assert!(keys.iter().all(|key| world.version(key) == Some(2)));
    println!("a frozen master's keys were served again after {:?}", frozen.elapsed());

    cluster.node(master).unwrap().thaw().unwrap();
    cluster.wait_settled().unwrap();
    world.wait_up();
    until(wait::PATIENCE, "all keys to be served", || {
        keys.iter().all(|key| world.put(key, &row(3)).is_ok()).then_some(())
    })
    .unwrap();
    assert!(keys.iter().all(|key| world.version(key) == Some(3)));
}

#[derive(Default)]
struct Ear {
    heard: Mutex<Vec<Invalidation>>,
    ups: Mutex<Vec<(bool, Instant)>>,
}

impl BusListener for Ear {
    fn heard(&self, news: Invalidation) {
        self.heard.lock().unwrap().push(news);
    }
    fn bus_up(&self) {
        self.ups.lock().unwrap().push((true, Instant::now()));
    }
    fn bus_down(&self) {
        self.ups.lock().unwrap().push((false, Instant::now()));
    }
}

impl Ear {
    fn wait(&self, up: bool) -> Instant {
        until(wait::PATIENCE, "the bus to change", || {
            self.ups.lock().unwrap().last().filter(|last| last.0 == up).map(|last| last.1)
        })
        .unwrap()
    }
}

fn bus(world: &World, node: u64) -> (Arc<RedisBus>, Arc<Ear>) {
    let bus = RedisBus::new(Arc::clone(&world.handle), "t", node);
    let ear = Arc::new(Ear::default());
    bus.listen(ear.clone());
    ear.wait(true);
    (bus, ear)
}

fn say(world: &World, bus: &RedisBus, version: u64) -> Invalidation {
    let news = Invalidation { key: key("news"), version: Version(version) };
    world.runtime.block_on(bus.publish(&news, soon())).unwrap();
    news
}

fn wait_heard(ear: &Ear, news: &Invalidation) {
    until(Duration::from_secs(1), "the news", || {
        ear.heard.lock().unwrap().contains(news).then_some(())
    })
    .unwrap();
}

#[test]
fn what_one_node_says_all_hear_and_silence_is_noticed_within_a_second() {
    let mut redis = Redis::start().unwrap();
    let (one, two) = (World::new(&redis.url()), World::new(&redis.url()));
    let ((bus_one, ear_one), (_bus_two, ear_two)) = (bus(&one, 1), bus(&two, 2));
    let news = say(&one, &bus_one, 1);
    wait_heard(&ear_one, &news);
    wait_heard(&ear_two, &news);

    redis.freeze().unwrap();
    let frozen = Instant::now();
    for ear in [&ear_one, &ear_two] {
        assert!(ear.wait(false) - frozen < Duration::from_secs(1));
    }
    assert!(bus_one.silence() > Duration::from_millis(500));
    redis.thaw().unwrap();
    ear_two.wait(true);
    ear_one.wait(true);
    wait_heard(&ear_two, &say(&one, &bus_one, 2));

    redis.kill();
    ear_two.wait(false);
    redis.restart().unwrap();
    ear_two.wait(true);
    ear_one.wait(true);
    wait_heard(&ear_two, &say(&one, &bus_one, 3));
}

#[test]
fn the_bus_of_a_cluster_finds_another_node_when_its_own_dies() {
    let mut cluster =
        Redis::setup().setting("cluster-node-timeout", "2000").start_cluster().unwrap();
    let (one, two) = (World::new(&cluster.url()), World::new(&cluster.url()));
    let ((bus_one, _), (_bus_two, ear_two)) = (bus(&one, 1), bus(&two, 2));
    wait_heard(&ear_two, &say(&one, &bus_one, 1));
    // Whichever nodes they listen at: each dies once.
    for (round, node) in (0..6).enumerate() {
        cluster.node(node).unwrap().kill();
        let version = 10 + round as u64;
        until(Duration::from_secs(5), "news to pass", || {
            let news = Invalidation { key: key("news"), version: Version(version) };
            let sent = one.runtime.block_on(bus_one.publish(&news, soon()));
            (sent.is_ok() && ear_two.heard.lock().unwrap().contains(&news)).then_some(())
        })
        .unwrap();
        cluster.node(node).unwrap().restart().unwrap();
        cluster.wait_settled().unwrap();
    }
}
