use std::collections::HashMap;
use std::sync::atomic::AtomicUsize;

use shunt_domain::ports::{FeedPage, Terms};
use shunt_domain::{Code, DomainId, Link, StoreError, Stored};

use super::*;
use crate::l1::Kind;
use crate::resolve::Options;
use crate::resolve::tests::NoWriter;
use crate::testing::{GatedReader, ManualClock, link};

fn trouble() -> SharedError {
    SharedError("cut".to_owned())
}

/// A second tier, a bus and a feed over maps, each of which can be cut or hang.
#[derive(Default)]
struct World {
    rows: Mutex<HashMap<LinkKey, Cached>>,
    published: Mutex<Vec<Invalidation>>,
    changes: Mutex<Vec<Invalidation>>,
    cut: AtomicBool,
    feed_cut: AtomicBool,
    /// A part of the store can't be asked.
    feed_partial: AtomicBool,
    hang: AtomicBool,
    feed_lost: AtomicBool,
    gets: AtomicUsize,
    /// When set, a look waits here between reading and answering.
    gate: Mutex<Option<Arc<Notify>>>,
    at_gate: Notify,
}

impl World {
    async fn pass(&self) -> Result<(), SharedError> {
        if self.hang.load(Relaxed) {
            std::future::pending::<()>().await;
        }
        if self.cut.load(Relaxed) { Err(trouble()) } else { Ok(()) }
    }

    fn row(&self, key: &LinkKey) -> Option<Cached> {
        self.rows.lock().unwrap().get(key).cloned()
    }
}

fn version_of(cached: &Cached) -> Version {
    match cached {
        Cached::Row(row) => row.version,
        Cached::Absent => Version(0),
    }
}

impl LinkCache for World {
    fn get<'a>(
        &'a self,
        key: &'a LinkKey,
        _: Deadline,
    ) -> BoxFuture<'a, Result<Option<Cached>, SharedError>> {
        Box::pin(async move {
            self.gets.fetch_add(1, Relaxed);
            self.pass().await?;
            let row = self.row(key);
            let gate = self.gate.lock().unwrap().clone();
            if let Some(gate) = gate {
                self.at_gate.notify_one();
                gate.notified().await;
            }
            Ok(row)
        })
    }

    fn put<'a>(
        &'a self,
        key: &'a LinkKey,
        row: &'a CachedLink,
        _: Deadline,
    ) -> BoxFuture<'a, Result<(), SharedError>> {
        Box::pin(async move {
            self.pass().await?;
            let mut rows = self.rows.lock().unwrap();
            if rows.get(key).is_none_or(|old| version_of(old) < row.version) {
                rows.insert(key.clone(), Cached::Row(row.clone()));
            }
            Ok(())
        })
    }

    fn put_absent<'a>(
        &'a self,
        key: &'a LinkKey,
        _: Deadline,
    ) -> BoxFuture<'a, Result<(), SharedError>> {
        Box::pin(async move {
            self.pass().await?;
            self.rows.lock().unwrap().entry(key.clone()).or_insert(Cached::Absent);
            Ok(())
        })
    }

    fn drop_older<'a>(
        &'a self,
        key: &'a LinkKey,
        version: Version,
        _: Deadline,
    ) -> BoxFuture<'a, Result<(), SharedError>> {
        Box::pin(async move {
            self.pass().await?;
            let mut rows = self.rows.lock().unwrap();
            if rows.get(key).is_some_and(|old| version_of(old) < version) {
                rows.remove(key);
            }
            Ok(())
        })
    }
}

impl Bus for World {
    fn publish<'a>(
        &'a self,
        news: &'a Invalidation,
        _: Deadline,
    ) -> BoxFuture<'a, Result<(), SharedError>> {
        Box::pin(async move {
            self.pass().await?;
            self.published.lock().unwrap().push(news.clone());
            Ok(())
        })
    }
}

impl ChangeFeed for World {
    fn changes<'a>(
        &'a self,
        position: Option<&'a FeedPosition>,
        _: Deadline,
    ) -> BoxFuture<'a, Result<FeedPage, StoreError>> {
        Box::pin(async move {
            if self.feed_cut.load(Relaxed) {
                return Err(StoreError::Unavailable("cut".into()));
            }
            let changes = self.changes.lock().unwrap();
            let from = position.map_or(changes.len(), |position| position.0.parse().unwrap());
            Ok(FeedPage {
                changes: changes[from..].to_vec(),
                next: FeedPosition(changes.len().to_string()),
                more: false,
                whole: !self.feed_partial.load(Relaxed),
                lost: self.feed_lost.swap(false, Relaxed),
            })
        })
    }

    fn forget_changes(&self, _: Duration, _: Deadline) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(async { Ok(0) })
    }
}

struct Node {
    resolver: Arc<Resolver>,
    reader: Arc<GatedReader>,
    world: Arc<World>,
}

fn node() -> Node {
    let (reader, world) = (Arc::new(GatedReader::default()), Arc::new(World::default()));
    let options = Options {
        l1_bytes: 1 << 20,
        negative_ttl: Duration::from_secs(1),
        load_timeout: Duration::from_secs(5),
        claim_timeout: Duration::from_secs(5),
    };
    let sharing = Sharing {
        l2: Some(world.clone()),
        bus: Some(world.clone()),
        feed: Some(world.clone()),
        options: SharingOptions::default(),
    };
    let clock = Arc::new(ManualClock::default());
    let resolver =
        Resolver::build(reader.clone(), Arc::new(NoWriter), clock, options, (1, 2), Some(sharing));
    Node { resolver, reader, world }
}

impl Node {
    /// One that hears, has caught up and reads the second tier.
    async fn ready() -> Self {
        let node = node();
        tokio::spawn(Arc::clone(&node.resolver).keep_coherent());
        node.resolver.bus_up();
        node.wait_open().await;
        node
    }

    fn open(&self) -> bool {
        self.resolver.hearing().unwrap().l2 == Some(true)
    }

    async fn wait_open(&self) {
        while !self.open() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn stats(&self) -> &SharingStats {
        self.resolver.sharing_stats().unwrap()
    }

    fn reads(&self) -> u64 {
        self.reader.reads.load(Relaxed)
    }

    async fn target(&self, key: &LinkKey) -> String {
        self.resolver.resolve(key).await.unwrap().target().to_owned()
    }

    /// What another node's edit does to store and feed.
    fn edited(&self, link: &Link) {
        self.reader.put(link);
        let news = Invalidation { key: link.key().clone(), version: link.version };
        self.world.changes.lock().unwrap().push(news);
    }

    fn put(&self, link: &Link) {
        let row = Cached::Row(CachedLink::from(link));
        self.world.rows.lock().unwrap().insert(link.key().clone(), row);
    }
}

fn version(version: u64) -> Link {
    let mut link = link("aaaaaaa", &format!("https://v{version}.example/"));
    link.version = Version(version);
    link
}

fn key() -> LinkKey {
    version(1).key().clone()
}

#[tokio::test(start_paused = true)]
async fn a_row_in_the_second_tier_asks_no_store_and_a_loaded_one_is_written_down() {
    let node = Node::ready().await;
    node.put(&version(3));
    assert_eq!(node.target(&key()).await, "https://v3.example/");
    assert_eq!(node.target(&key()).await, "https://v3.example/");
    assert_eq!((node.reads(), node.world.gets.load(Relaxed)), (0, 1), "then it is in L1");

    let other = link("bbbbbbb", "https://b.example/");
    node.reader.put(&other);
    assert_eq!(node.target(other.key()).await, "https://b.example/");
    tokio::time::sleep(Duration::from_millis(1)).await;
    let row = Cached::Row(CachedLink::from(&other));
    assert_eq!(node.world.row(other.key()), Some(row));

    let nobody = LinkKey::new(DomainId::DEFAULT, Code::parse("nobody").unwrap());
    assert_eq!(node.resolver.resolve(&nobody).await.unwrap().kind(), Kind::Absent);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(node.world.row(&nobody), Some(Cached::Absent));
}

#[tokio::test(start_paused = true)]
async fn every_state_of_a_link_answers_the_same_from_both() {
    let mut disabled = version(2);
    disabled.data.enabled = false;
    let mut limited = version(2);
    limited.data.max_clicks = std::num::NonZeroU64::new(1);
    let mut early = version(2);
    early.data.valid_from = Some(shunt_domain::Timestamp::from_millis(9_000));
    for link in [version(2), disabled, limited, early] {
        let now = shunt_domain::Timestamp::from_millis(1_000);
        let stored = crate::l1::Entry::new(Some(&Stored::Link(Box::new(link.clone()))), now, 0);
        let cached = crate::l1::Entry::of_cached(&CachedLink::from(&link), now);
        assert_eq!((stored.head(), stored.target()), (cached.head(), cached.target()));
    }
    let deleted = CachedLink { version: Version(4), terms: None::<Terms> };
    let entry = crate::l1::Entry::of_cached(&deleted, shunt_domain::Timestamp::from_millis(0));
    assert_eq!((entry.kind(), entry.head().version()), (Kind::Gone, Version(4)));
}

#[tokio::test(start_paused = true)]
async fn a_copy_older_than_a_known_change_is_refused() {
    let node = Node::ready().await;
    node.put(&version(1));
    node.reader.put(&version(2));
    node.resolver.heard(Invalidation { key: key(), version: Version(2) });
    assert_eq!(node.target(&key()).await, "https://v2.example/");
    assert_eq!(node.stats().l2_refused.load(Relaxed), 1);
    // And the higher version was written over it.
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(node.world.row(&key()).as_ref().map(version_of), Some(Version(2)));

    // "No such link" is older than a creation.
    let created = link("ccccccc", "https://c.example/");
    node.world.rows.lock().unwrap().insert(created.key().clone(), Cached::Absent);
    assert_eq!(node.resolver.resolve(created.key()).await.unwrap().kind(), Kind::Absent);
    node.reader.put(&created);
    node.resolver.link_changed(created.key(), Version::FIRST);
    assert_eq!(node.target(created.key()).await, "https://c.example/");
}

#[tokio::test(start_paused = true)]
async fn a_look_that_is_held_across_an_edit_never_fills() {
    let node = Node::ready().await;
    node.put(&version(1));
    let gate = Arc::new(Notify::new());
    *node.world.gate.lock().unwrap() = Some(Arc::clone(&gate));
    let held = Arc::clone(&node.resolver);
    let early = tokio::spawn(async move { held.resolve(&key()).await });
    node.world.at_gate.notified().await;
    node.reader.put(&version(2));
    node.resolver.heard(Invalidation { key: key(), version: Version(2) });
    *node.world.gate.lock().unwrap() = None;
    gate.notify_one();
    early.await.unwrap().unwrap();
    assert_eq!(node.resolver.stats().refused_fills.load(Relaxed), 1);
    assert_eq!(node.target(&key()).await, "https://v2.example/");
}

#[tokio::test(start_paused = true)]
async fn a_load_that_is_held_across_an_edit_fills_neither_tier() {
    let node = Node::ready().await;
    node.reader.put(&version(1));
    let gate = Arc::new(Notify::new());
    *node.reader.gate.lock().unwrap() = Some(Arc::clone(&gate));
    let held = Arc::clone(&node.resolver);
    let early = tokio::spawn(async move { held.resolve(&key()).await });
    node.reader.at_gate.notified().await;
    node.reader.put(&version(2));
    node.resolver.heard(Invalidation { key: key(), version: Version(2) });
    *node.reader.gate.lock().unwrap() = None;
    gate.notify_one();
    early.await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(node.world.row(&key()), None);
    assert_eq!(node.target(&key()).await, "https://v2.example/");
}

#[tokio::test(start_paused = true)]
async fn a_second_tier_that_hangs_or_fails_costs_its_deadline_and_no_redirect() {
    let node = Node::ready().await;
    node.reader.put(&version(1));
    node.world.hang.store(true, Relaxed);
    let begun = tokio::time::Instant::now();
    assert_eq!(node.target(&key()).await, "https://v1.example/");
    assert!(begun.elapsed() <= Duration::from_millis(41), "{:?}", begun.elapsed());
    node.world.hang.store(false, Relaxed);
    node.world.cut.store(true, Relaxed);
    let other = link("bbbbbbb", "https://b.example/");
    node.reader.put(&other);
    assert_eq!(node.target(other.key()).await, "https://b.example/");
    assert!(node.stats().l2_errors.load(Relaxed) >= 2);
}

#[tokio::test(start_paused = true)]
async fn the_second_tier_is_read_again_only_when_what_changed_meanwhile_is_known() {
    let node = Node::ready().await;
    node.put(&version(1));
    assert_eq!(node.target(&key()).await, "https://v1.example/");
    node.resolver.bus_down();
    node.world.cut.store(true, Relaxed);
    assert!(!node.open());
    // An edit elsewhere: neither published nor written down.
    node.edited(&version(2));
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(node.target(&key()).await, "https://v2.example/", "the feed told");
    assert_eq!(node.stats().feed_news.load(Relaxed), 1);
    // So long that no note is left of it.
    tokio::time::sleep(Duration::from_secs(300)).await;

    node.feed_cut_while(async {
        node.resolver.bus_up();
        assert!(node.resolver.l1().is_empty(), "whatever was said meanwhile was missed");
        node.world.cut.store(false, Relaxed);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(!node.open(), "the feed was not read since");
    })
    .await;
    node.wait_open().await;
    assert_eq!(node.world.row(&key()), None, "what was older is gone before it is read");
    assert_eq!(node.target(&key()).await, "https://v2.example/");
}

impl Node {
    async fn feed_cut_while(&self, work: impl Future<Output = ()>) {
        self.world.feed_cut.store(true, Relaxed);
        work.await;
        self.world.feed_cut.store(false, Relaxed);
    }
}

#[tokio::test(start_paused = true)]
async fn a_writer_is_answered_when_the_others_are_told() {
    let node = Node::ready().await;
    node.put(&version(1));
    let news = |link: &Link| News {
        key: link.key().clone(),
        version: link.version,
        row: Some(CachedLink::from(link)),
    };
    node.resolver.spread(news(&version(2))).unwrap().await;
    let told = Invalidation { key: key(), version: Version(2) };
    assert_eq!(*node.world.published.lock().unwrap(), [told]);
    assert_eq!(node.world.row(&key()).as_ref().map(version_of), Some(Version(2)));

    // While that can't be done the writer waits for a moment only, and it is done later.
    node.world.hang.store(true, Relaxed);
    let begun = tokio::time::Instant::now();
    node.resolver.spread(news(&version(3))).unwrap().await;
    assert!(begun.elapsed() <= Duration::from_millis(251));
    tokio::time::sleep(Duration::from_secs(5)).await;
    node.world.hang.store(false, Relaxed);
    let told = Invalidation { key: key(), version: Version(3) };
    while !node.world.published.lock().unwrap().contains(&told) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(node.world.row(&key()), None, "older than the edit");

    // A failover that brings an old row back is found at the second look.
    node.put(&version(1));
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(node.world.row(&key()), None);
}

#[tokio::test(start_paused = true)]
async fn a_feed_that_lost_its_thread_empties_l1_and_shuts_the_second_tier_for_its_time() {
    let node = Node::ready().await;
    node.put(&version(1));
    assert_eq!(node.target(&key()).await, "https://v1.example/");
    node.reader.put(&version(2));
    node.world.feed_lost.store(true, Relaxed);
    tokio::time::sleep(Duration::from_secs(16)).await;
    assert!(!node.open());
    assert_eq!(node.target(&key()).await, "https://v2.example/");
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(node.open());
}

#[tokio::test(start_paused = true)]
async fn what_a_part_of_the_store_can_not_tell_holds_up_nothing_but_the_second_tier() {
    let node = Node::ready().await;
    node.put(&version(1));
    assert_eq!(node.target(&key()).await, "https://v1.example/");
    node.resolver.bus_down();
    node.world.feed_partial.store(true, Relaxed);
    node.edited(&version(2));
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(node.target(&key()).await, "https://v2.example/", "the rest of the feed told");
    // What the missing part has noted may be written down in its old form.
    node.resolver.bus_up();
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(!node.open());
    node.world.feed_partial.store(false, Relaxed);
    node.wait_open().await;
}

#[tokio::test(start_paused = true)]
async fn while_nothing_is_heard_l1_serves_for_its_time_and_says_so() {
    let node = Node::ready().await;
    node.reader.put(&version(1));
    assert_eq!(node.target(&key()).await, "https://v1.example/");
    assert_eq!(node.resolver.hearing().unwrap().stale, Duration::ZERO);
    node.resolver.bus_down();
    for cut in [&node.world.cut, &node.world.feed_cut, &node.reader.failing] {
        cut.store(true, Relaxed);
    }
    tokio::time::sleep(Duration::from_secs(86_000)).await;
    assert_eq!(node.target(&key()).await, "https://v1.example/");
    assert!(node.resolver.hearing().unwrap().stale > Duration::from_secs(85_000));
    tokio::time::sleep(Duration::from_secs(1_000)).await;
    assert!(node.resolver.resolve(&key()).await.is_err());
}
