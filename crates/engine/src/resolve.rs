//! Resolves a code: L1, then one load per key however many ask: the second tier if there is one,
//! then the store.
//!
//! Invariants:
//! - after an L1 hit nothing is awaited;
//! - a load outlives the callers that wait for it, so a client that leaves restarts nothing;
//! - a load begun before a change never fills L1: the change marks it under the same lock that
//!   the fill takes;
//! - "unreachable" is never cached and never answered as "absent".

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use shunt_domain::ports::{ABSENT_TTL, Cached, CachedLink, Claim, Clock, LinkReader, LinkWriter};
use shunt_domain::{Deadline, LinkKey, Outcome, StoreError, Stored, UnknownCause, Version};
use tokio::sync::watch;

use crate::l1::{Entry, L1};
use notes::Notes;
use sharing::Shared;

mod notes;
mod sharing;

pub use sharing::{Hearing, News, Sharing, SharingOptions, SharingStats};

/// How the resolver works.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The bound of L1 in bytes.
    pub l1_bytes: u64,
    /// How long "there is no such link" is repeated without asking. At most one second.
    pub negative_ttl: Duration,
    /// How long one load may take.
    pub load_timeout: Duration,
    /// How long a central decision may take.
    pub claim_timeout: Duration,
}

/// Counters of the resolver, for the metrics. Hits are counted per core by the listener.
#[derive(Debug, Default)]
pub struct Stats {
    /// Loads started.
    pub loads: AtomicU64,
    /// Callers that found a load under way and waited for it.
    pub shared: AtomicU64,
    /// Loads that failed.
    pub failed: AtomicU64,
    /// Loads that came too late to fill: the link had changed meanwhile.
    pub refused_fills: AtomicU64,
}

type Loaded = Result<Entry, StoreError>;

/// A load under way. A change takes it off the map: those who wait already get what it brings,
/// those who come later start another, and it finds at landing that it may not fill L1.
struct Flight {
    id: u64,
    result: watch::Receiver<Option<Loaded>>,
}

const SHARDS: usize = 32;

/// What changes and fills of the same keys agree about, under one lock.
#[derive(Default)]
struct Shard {
    flights: HashMap<LinkKey, Flight>,
    /// Empty while this node is alone.
    notes: Notes,
}

/// Resolves codes. One for the whole process.
pub struct Resolver {
    l1: L1,
    reader: Arc<dyn LinkReader>,
    writer: Arc<dyn LinkWriter>,
    clock: Arc<dyn Clock>,
    options: Options,
    shards: [Mutex<Shard>; SHARDS],
    shared: Option<Arc<Shared>>,
    next_flight: AtomicU64,
    born: Instant,
    stats: Stats,
}

impl Resolver {
    /// A resolver over a store. `hash_key` is secret randomness for L1.
    pub fn new(
        reader: Arc<dyn LinkReader>,
        writer: Arc<dyn LinkWriter>,
        clock: Arc<dyn Clock>,
        options: Options,
        hash_key: (u64, u64),
    ) -> Arc<Self> {
        Self::build(reader, writer, clock, options, hash_key, None)
    }

    /// The same for a node that shares something with others over one store: then
    /// [`Self::keep_coherent`] must run beside it, and the bus must have it as its listener.
    pub fn build(
        reader: Arc<dyn LinkReader>,
        writer: Arc<dyn LinkWriter>,
        clock: Arc<dyn Clock>,
        options: Options,
        hash_key: (u64, u64),
        sharing: Option<Sharing>,
    ) -> Arc<Self> {
        let shared = sharing.map(|sharing| Arc::new(Shared::new(sharing)));
        Arc::new(Self {
            l1: L1::new(options.l1_bytes, hash_key),
            reader,
            writer,
            clock,
            options,
            shards: std::array::from_fn(|_| Mutex::default()),
            shared,
            next_flight: AtomicU64::new(0),
            born: Instant::now(),
            stats: Stats::default(),
        })
    }

    /// The cache: hits are answered from it without asking the resolver.
    pub const fn l1(&self) -> &L1 {
        &self.l1
    }

    /// Counters.
    pub const fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Milliseconds since this resolver was made, on the monotonic clock.
    pub fn mono(&self, now: Instant) -> i64 {
        i64::try_from(now.saturating_duration_since(self.born).as_millis()).unwrap_or(i64::MAX)
    }

    /// The answer for `key`: cached, or loaded once for all who ask at the same time.
    ///
    /// # Errors
    /// The store's error; such an answer is not cached.
    pub async fn resolve(self: &Arc<Self>, key: &LinkKey) -> Loaded {
        match self.cached(key) {
            Some(entry) => Ok(entry),
            None => self.load(key).await,
        }
    }

    /// What L1 says about `key`, that there is no such link included.
    pub fn cached(&self, key: &LinkKey) -> Option<Entry> {
        let code = key.code.as_str().as_bytes();
        let mono = self.mono(Instant::now());
        let (hash, now) = (self.l1.hash(key.domain, code), self.clock.now());
        let mut target = Vec::new();
        let head = self.l1.get(hash, key.domain, code, now, mono, &mut target)?;
        Some(Entry::cached(head, &target))
    }

    /// Loads `key` from the store, joining a load that is under way.
    ///
    /// # Errors
    /// The store's error.
    pub async fn load(self: &Arc<Self>, key: &LinkKey) -> Loaded {
        let mut result = {
            let hash = self.hash(key);
            let mut shard = self.shard(hash);
            if let Some(flight) = shard.flights.get(key) {
                self.stats.shared.fetch_add(1, Ordering::Relaxed);
                flight.result.clone()
            } else {
                let (sender, result) = watch::channel(None);
                let id = self.next_flight.fetch_add(1, Ordering::Relaxed);
                // Everything older than this changed before the flight, everything later ends it.
                let floor = shard.notes.floor(hash, self.mono(now()));
                shard.flights.insert(key.clone(), Flight { id, result: result.clone() });
                drop(shard);
                self.stats.loads.fetch_add(1, Ordering::Relaxed);
                // Spawned, not awaited here: the caller may be dropped when its client leaves,
                // and the others must not start again.
                tokio::spawn(Arc::clone(self).fly(key.clone(), id, floor, sender));
                result
            }
        };
        match result.wait_for(Option::is_some).await {
            Ok(loaded) => loaded.clone().unwrap_or_else(|| Err(stopped())),
            Err(_) => Err(stopped()),
        }
    }

    async fn fly(
        self: Arc<Self>,
        key: LinkKey,
        id: u64,
        floor: Version,
        sender: watch::Sender<Option<Loaded>>,
    ) {
        // Whatever happens below (a panic in a driver included), the flight is taken off.
        let landing = Landing { resolver: &self, key: &key, id };
        if let Some(shared) = &self.shared
            && let Some(cached) = shared.look(&key, floor).await
        {
            let entry = self.entry_of(&cached);
            landing.land(&entry);
            let _ = sender.send(Some(Ok(entry)));
            return;
        }
        let deadline = Deadline::after(Instant::now(), self.options.load_timeout);
        let answer = self.reader.get(&key, floor, deadline);
        let answer = match tokio::time::timeout_at(deadline.instant().into(), answer).await {
            Ok(answer) => answer,
            Err(_) => Err(StoreError::Unavailable("no answer within the deadline".into())),
        };
        let stored = match answer {
            Ok(stored) => stored,
            Err(error) => {
                self.stats.failed.fetch_add(1, Ordering::Relaxed);
                drop(landing);
                // Nobody may be listening any more.
                let _ = sender.send(Some(Err(error)));
                return;
            }
        };
        let ttl = i64::try_from(self.options.negative_ttl.as_millis()).unwrap_or(0).min(1_000);
        let absent_until = self.mono(Instant::now()) + ttl;
        let entry = Entry::new(stored.as_ref(), self.clock.now(), absent_until);
        let filled = landing.land(&entry);
        let _ = sender.send(Some(Ok(entry)));
        // Behind the answer. What changed meanwhile is written down by those who changed it.
        if let Some(shared) = self.shared.as_ref().filter(|_| filled) {
            let row = stored.as_ref().map(CachedLink::from);
            shared.fill(&key, row.as_ref()).await;
        }
    }

    fn entry_of(&self, cached: &Cached) -> Entry {
        match cached {
            Cached::Row(row) => Entry::of_cached(row, self.clock.now()),
            Cached::Absent => {
                let ttl = i64::try_from(ABSENT_TTL.as_millis()).unwrap_or(0);
                Entry::new(None, self.clock.now(), self.mono(Instant::now()) + ttl)
            }
        }
    }

    /// Says that a link was changed, created or deleted and now has `version`: forgets what L1 has
    /// unless that is as new, and keeps loads that began earlier from filling it.
    pub fn link_changed(&self, key: &LinkKey, version: Version) {
        self.learn(key, version);
    }

    /// The same. Answers whether the change was unknown here; one that is alone can't say.
    fn learn(&self, key: &LinkKey, version: Version) -> bool {
        let hash = self.hash(key);
        let mut shard = self.shard(hash);
        shard.flights.remove(key);
        self.l1.remove_older(hash, version);
        self.shared.is_some() && shard.notes.add(hash, version, self.mono(now()))
    }

    /// Forgets everything, for example after invalidations may have been missed.
    pub fn clear(&self) {
        for shard in &self.shards {
            lock(shard).flights.clear();
        }
        self.l1.clear();
    }

    /// Decides centrally about one redirect of a link with a click limit. Durable before it
    /// answers; a claim that may or may not have been taken is `Unknown` and costs one click at
    /// most.
    pub async fn claim(&self, key: &LinkKey) -> Outcome<Claim, StoreError> {
        let deadline = Deadline::after(Instant::now(), self.options.claim_timeout);
        let claim = self.writer.claim_click(key.clone(), self.clock.now(), deadline);
        match tokio::time::timeout_at(deadline.instant().into(), claim).await {
            Ok(outcome) => outcome,
            Err(_) => Outcome::Unknown(UnknownCause::Deadline),
        }
    }

    /// The stored row past every cache, for previews and pages that show more than a target.
    ///
    /// # Errors
    /// The store's error.
    pub async fn read(&self, key: &LinkKey) -> Result<Option<Stored>, StoreError> {
        let deadline = Deadline::after(Instant::now(), self.options.load_timeout);
        match tokio::time::timeout_at(
            deadline.instant().into(),
            self.reader.get(key, Version(0), deadline),
        )
        .await
        {
            Ok(answer) => answer,
            Err(_) => Err(StoreError::Unavailable("no answer within the deadline".into())),
        }
    }

    fn hash(&self, key: &LinkKey) -> u64 {
        self.l1.hash(key.domain, key.code.as_str().as_bytes())
    }

    fn shard(&self, hash: u64) -> MutexGuard<'_, Shard> {
        // In range: the remainder is smaller than the array.
        lock(&self.shards[(hash >> 48) as usize % SHARDS])
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere leaves these valid: each critical section is a few operations on maps.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The monotonic clock, by which tests can let days pass.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn stopped() -> StoreError {
    StoreError::Unavailable("the load was stopped".into())
}

/// Takes a flight off the map when it ends, however it ends.
struct Landing<'a> {
    resolver: &'a Resolver,
    key: &'a LinkKey,
    id: u64,
}

impl Landing<'_> {
    /// Fills L1 if nothing changed meanwhile. Answers whether that was so.
    fn land(self, entry: &Entry) -> bool {
        let resolver = self.resolver;
        let hash = resolver.hash(self.key);
        let shard = resolver.shard(hash);
        // The lock is held over the fill, so a change comes wholly before it (the flight is gone)
        // or wholly after it (the change removes the entry).
        let fills = shard.flights.get(self.key).is_some_and(|flight| flight.id == self.id);
        if fills {
            resolver.l1.insert(hash, self.key, entry);
        } else {
            resolver.stats.refused_fills.fetch_add(1, Ordering::Relaxed);
        }
        drop(shard);
        fills
    }
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        let mut shard = self.resolver.shard(self.resolver.hash(self.key));
        if shard.flights.get(self.key).is_some_and(|flight| flight.id == self.id) {
            shard.flights.remove(self.key);
        }
    }
}

#[cfg(test)]
mod tests;
