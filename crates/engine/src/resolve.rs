//! Resolves a code: L1, then one load per key however many ask, then the store.
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

use shunt_domain::ports::{Claim, Clock, LinkReader, LinkWriter};
use shunt_domain::{Deadline, LinkKey, Outcome, StoreError, Stored, UnknownCause, Version};
use tokio::sync::watch;

use crate::l1::{Entry, L1};

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

/// Resolves codes. One for the whole process.
pub struct Resolver {
    l1: L1,
    reader: Arc<dyn LinkReader>,
    writer: Arc<dyn LinkWriter>,
    clock: Arc<dyn Clock>,
    options: Options,
    flights: [Mutex<HashMap<LinkKey, Flight>>; SHARDS],
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
        Arc::new(Self {
            l1: L1::new(options.l1_bytes, hash_key),
            reader,
            writer,
            clock,
            options,
            flights: std::array::from_fn(|_| Mutex::new(HashMap::new())),
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
        let code = key.code.as_str().as_bytes();
        let mono = self.mono(Instant::now());
        let (hash, now) = (self.l1.hash(key.domain, code), self.clock.now());
        let mut target = Vec::new();
        if let Some(head) = self.l1.get(hash, key.domain, code, now, mono, &mut target) {
            return Ok(Entry::cached(head, &target));
        }
        self.load(key).await
    }

    /// Loads `key` from the store, joining a load that is under way.
    ///
    /// # Errors
    /// The store's error.
    pub async fn load(self: &Arc<Self>, key: &LinkKey) -> Loaded {
        let mut result = {
            let mut flights = self.flights_of(key);
            if let Some(flight) = flights.get(key) {
                self.stats.shared.fetch_add(1, Ordering::Relaxed);
                flight.result.clone()
            } else {
                let (sender, result) = watch::channel(None);
                let id = self.next_flight.fetch_add(1, Ordering::Relaxed);
                flights.insert(key.clone(), Flight { id, result: result.clone() });
                drop(flights);
                self.stats.loads.fetch_add(1, Ordering::Relaxed);
                // Spawned, not awaited here: the caller may be dropped when its client leaves,
                // and the others must not start again.
                tokio::spawn(Arc::clone(self).fly(key.clone(), id, sender));
                result
            }
        };
        match result.wait_for(Option::is_some).await {
            Ok(loaded) => loaded.clone().unwrap_or_else(|| Err(stopped())),
            Err(_) => Err(stopped()),
        }
    }

    async fn fly(self: Arc<Self>, key: LinkKey, id: u64, sender: watch::Sender<Option<Loaded>>) {
        // Whatever happens below (a panic in a driver included), the flight is taken off.
        let landing = Landing { resolver: &self, key: &key, id };
        let deadline = Deadline::after(Instant::now(), self.options.load_timeout);
        let answer = self.reader.get(&key, Version(0), deadline);
        let answer = match tokio::time::timeout_at(deadline.instant().into(), answer).await {
            Ok(answer) => answer,
            Err(_) => Err(StoreError::Unavailable("no answer within the deadline".into())),
        };
        let loaded = landing.land(answer);
        // Nobody may be listening any more.
        let _ = sender.send(Some(loaded));
    }

    /// Says that a link was changed, created or deleted and now has `version`: forgets what L1 has
    /// unless that is as new, and keeps loads that began earlier from filling it.
    pub fn link_changed(&self, key: &LinkKey, version: Version) {
        let hash = self.l1.hash(key.domain, key.code.as_str().as_bytes());
        let mut flights = self.flights_of(key);
        flights.remove(key);
        self.l1.remove_older(hash, version);
    }

    /// Forgets everything, for example after invalidations may have been missed.
    pub fn clear(&self) {
        for shard in &self.flights {
            lock(shard).clear();
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

    fn flights_of(&self, key: &LinkKey) -> MutexGuard<'_, HashMap<LinkKey, Flight>> {
        let hash = self.l1.hash(key.domain, key.code.as_str().as_bytes());
        let shard = (hash >> 48) as usize % SHARDS;
        // In range: the remainder is smaller than the array.
        lock(&self.flights[shard])
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere leaves these maps valid: each critical section is one map operation.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
    /// Makes the entry, and fills L1 if nothing changed meanwhile.
    fn land(self, answer: Result<Option<Stored>, StoreError>) -> Loaded {
        let resolver = self.resolver;
        let stored = match answer {
            Ok(stored) => stored,
            Err(error) => {
                resolver.stats.failed.fetch_add(1, Ordering::Relaxed);
                return Err(error);
            }
        };
        let now = resolver.clock.now();
        let ttl = i64::try_from(resolver.options.negative_ttl.as_millis()).unwrap_or(0).min(1_000);
        let absent_until = resolver.mono(Instant::now()) + ttl;
        let entry = Entry::new(stored.as_ref(), now, absent_until);
        let hash = resolver.l1.hash(self.key.domain, self.key.code.as_str().as_bytes());
        let flights = resolver.flights_of(self.key);
        // The lock is held over the fill, so a change comes wholly before it (the flight is gone)
        // or wholly after it (the change removes the entry).
        if flights.get(self.key).is_some_and(|flight| flight.id == self.id) {
            resolver.l1.insert(hash, self.key, &entry);
        } else {
            resolver.stats.refused_fills.fetch_add(1, Ordering::Relaxed);
        }
        drop(flights);
        Ok(entry)
    }
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        let mut flights = self.resolver.flights_of(self.key);
        if flights.get(self.key).is_some_and(|flight| flight.id == self.id) {
            flights.remove(self.key);
        }
    }
}

#[cfg(test)]
mod tests;
