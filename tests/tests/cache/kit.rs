//! Several nodes in one process over one PostgreSQL and one Redis: each has its own L1, its own
//! connections to both, and its own ear at the bus.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use shunt_cluster::{Postgres, until, wait};
use shunt_domain::ports::{BoxFuture, ChangeFeed, FeedPage, FeedPosition, LinkReader};
use shunt_domain::{Deadline, LinkKey, StoreError, Stored, Version};
use shunt_engine::auth::Actor;
use shunt_engine::clock::SystemClock;
use shunt_engine::codes::{Allocator, CodePorts, CodeSettings};
use shunt_engine::domains::DomainMap;
use shunt_engine::idempotency::Idempotency;
use shunt_engine::l1::Kind;
use shunt_engine::links::{Draft, LinkSettings, Links, PatchDraft, Ports};
use shunt_engine::resolve::{Options, Resolver, Sharing, SharingOptions};
use shunt_redis::{Handle, RedisBus, RedisCache, RedisOptions};
use shunt_store::postgres::{PostgresOptions, PostgresStore};
use tokio::sync::Notify;

/// How long a look may take that is there at once.
const GLANCE: Duration = Duration::from_millis(100);

/// For a call to the store.
pub(crate) fn soon() -> Deadline {
    Deadline::after(Instant::now(), Duration::from_secs(5))
}

/// What every node reads the store through: counted, and held or cut off when a test wants it.
pub(crate) struct Doors {
    pub(crate) reads: AtomicU64,
    /// Reads and the feed fail.
    pub(crate) cut: AtomicBool,
    /// When set, the next read is held here between reading and answering.
    pub(crate) gate: Mutex<Option<Arc<Notify>>>,
    pub(crate) at_gate: Notify,
}

impl Doors {
    fn check(&self) -> Result<(), StoreError> {
        if self.cut.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable("cut off by the test".to_owned()));
        }
        Ok(())
    }
}

/// A node's store behind the doors.
struct Behind {
    store: PostgresStore,
    doors: Arc<Doors>,
}

impl LinkReader for Behind {
    fn get<'a>(
        &'a self,
        key: &'a LinkKey,
        min_version: Version,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Option<Stored>, StoreError>> {
        Box::pin(async move {
            self.doors.check()?;
            self.doors.reads.fetch_add(1, Ordering::Relaxed);
            let row = self.store.get(key, min_version, deadline).await;
            let gate = self.doors.gate.lock().unwrap().take();
            if let Some(gate) = gate {
                self.doors.at_gate.notify_one();
                gate.notified().await;
            }
            row
        })
    }
}

impl ChangeFeed for Behind {
    fn changes<'a>(
        &'a self,
        position: Option<&'a FeedPosition>,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<FeedPage, StoreError>> {
        Box::pin(async move {
            self.doors.check()?;
            self.store.changes(position, deadline).await
        })
    }

    fn forget_changes(
        &self,
        age: Duration,
        deadline: Deadline,
    ) -> BoxFuture<'_, Result<u64, StoreError>> {
        self.store.forget_changes(age, deadline)
    }
}

/// One node.
pub(crate) struct Node {
    pub(crate) resolver: Arc<Resolver>,
    pub(crate) links: Links,
    pub(crate) handle: Arc<Handle>,
    pub(crate) bus: Arc<RedisBus>,
    store: PostgresStore,
}

/// Nodes and their store, on a runtime of their own.
pub(crate) struct World {
    pub(crate) shared: Arc<Doors>,
    pub(crate) nodes: Vec<Node>,
    runtime: tokio::runtime::Runtime,
    _postgres: Postgres,
}

impl World {
    /// `count` nodes over the Redis at `url`, all of which hear each other.
    pub(crate) fn new(url: &str, count: usize) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let postgres = Postgres::setup().fast().start().unwrap();
        postgres.create_database("shunt").unwrap();
        let options = PostgresOptions::from_url(&postgres.url("shunt")).unwrap();
        PostgresStore::migrate(&options).unwrap();
        let shared = Arc::new(Doors {
            reads: AtomicU64::new(0),
            cut: AtomicBool::new(false),
            gate: Mutex::default(),
            at_gate: Notify::new(),
        });
        let nodes = (0..count as u64).map(|number| {
            let options = PostgresOptions { node: number, writers: 4, ..options.clone() };
            let node = Node::start(&shared, options, url, number);
            runtime.block_on(node)
        });
        let world = Self { nodes: nodes.collect(), shared, runtime, _postgres: postgres };
        world.wait_hearing();
        world
    }

    /// Until every node hears the others and reads the second tier.
    pub(crate) fn wait_hearing(&self) {
        until(wait::PATIENCE, "all nodes to hear each other", || {
            self.nodes
                .iter()
                .all(|node| {
                    let hearing = node.resolver.hearing().unwrap();
                    hearing.bus == Some(true) && hearing.l2 == Some(true)
                })
                .then_some(())
        })
        .unwrap();
    }

    /// Until no node hears anything.
    pub(crate) fn wait_deaf(&self) {
        until(wait::PATIENCE, "all nodes to notice the silence", || {
            let deaf = |node: &Node| node.resolver.hearing().unwrap().bus == Some(false);
            self.nodes.iter().all(deaf).then_some(())
        })
        .unwrap();
    }

    pub(crate) fn run<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.runtime.spawn(work)
    }

    /// A link with this code, made at node `at`.
    pub(crate) fn create(&self, at: usize, code: &str, target: &str) -> LinkKey {
        let draft = Draft { code: Some(code.to_owned()), ..Draft::new(target) };
        let link = self.run(self.nodes[at].links.create(&Actor::Local, &draft, soon()));
        link.unwrap().key().clone()
    }

    pub(crate) fn patch(&self, at: usize, key: &LinkKey, patch: &PatchDraft) {
        let links = &self.nodes[at].links;
        self.run(links.patch(&Actor::Local, key, patch, None, soon())).unwrap();
    }

    /// A new target, set at node `at`.
    pub(crate) fn edit(&self, at: usize, key: &LinkKey, target: &str) {
        let patch = PatchDraft { target: Some(target.to_owned()), ..PatchDraft::default() };
        self.patch(at, key, &patch);
    }

    pub(crate) fn delete(&self, at: usize, key: &LinkKey) {
        let links = &self.nodes[at].links;
        self.run(links.delete(&Actor::Local, key, None, soon())).unwrap();
    }

    /// How node `at` answers: kind and target.
    pub(crate) fn look(&self, at: usize, key: &LinkKey) -> Result<(Kind, String), StoreError> {
        let entry = self.run(self.nodes[at].resolver.resolve(key))?;
        Ok((entry.kind(), entry.target().to_owned()))
    }

    /// The same, if it is there at once.
    pub(crate) fn glance(
        &self,
        at: usize,
        key: &LinkKey,
    ) -> Option<Result<(Kind, String), StoreError>> {
        let resolver = &self.nodes[at].resolver;
        let look = async { tokio::time::timeout(GLANCE, resolver.resolve(key)).await.ok() };
        let entry = self.run(look)?;
        Some(entry.map(|entry| (entry.kind(), entry.target().to_owned())))
    }

    pub(crate) fn target(&self, at: usize, key: &LinkKey) -> String {
        self.look(at, key).unwrap().1
    }

    pub(crate) fn reads(&self) -> u64 {
        self.shared.reads.load(Ordering::Relaxed)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for node in &self.nodes {
            node.handle.close();
            node.store.close();
        }
    }
}

impl Node {
    async fn start(doors: &Arc<Doors>, options: PostgresOptions, url: &str, number: u64) -> Self {
        let store = PostgresStore::open(options).unwrap();
        let behind = Arc::new(Behind { store: store.clone(), doors: Arc::clone(doors) });
        let handle = Handle::start(RedisOptions::parse(url).unwrap()).unwrap();
        let clock = Arc::new(SystemClock);
        let bus = RedisBus::new(Arc::clone(&handle), "t", number);
        let options = SharingOptions::default();
        let cache =
            RedisCache::new(Arc::clone(&handle), "t", options.l2_ttl, Arc::clone(&clock) as _);
        let sharing = Sharing {
            l2: Some(Arc::new(cache)),
            bus: Some(Arc::clone(&bus) as _),
            feed: Some(Arc::clone(&behind) as _),
            options,
        };
        let resolver = Resolver::build(
            Arc::clone(&behind) as _,
            Arc::new(store.clone()),
            Arc::clone(&clock) as _,
            Options {
                l1_bytes: 8 << 20,
                negative_ttl: Duration::from_secs(1),
                load_timeout: Duration::from_secs(5),
                claim_timeout: Duration::from_secs(5),
            },
            (number, 2),
            Some(sharing),
        );
        tokio::spawn(Arc::clone(&resolver).keep_coherent());
        bus.listen(Arc::clone(&resolver) as _);
        let port = Arc::new(store.clone());
        let ports = CodePorts { meta: port.clone(), pool: port.clone(), leases: port.clone() };
        let codes = Allocator::open(CodeSettings::default(), ports, soon()).await.unwrap();
        let links = Links::new(
            Ports {
                reader: behind,
                writer: port.clone(),
                once: Some(port.clone()),
                query: Some(port.clone()),
                domains: port.clone(),
                domain_map: Arc::new(DomainMap::default()),
                clock: Arc::clone(&clock) as _,
            },
            Idempotency::new(port, clock as _),
            Arc::new(codes),
            Arc::clone(&resolver) as _,
            LinkSettings {
                base_url: "http://127.0.0.1:8080".to_owned(),
                ..LinkSettings::default()
            },
        );
        links.load_domains(soon()).await.unwrap();
        Self { resolver, links, handle, bus, store }
    }
}
