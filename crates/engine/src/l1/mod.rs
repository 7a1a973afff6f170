//! L1: the byte-bounded cache of resolved links inside the process, shared by all cores.
//!
//! Built for one thing: a hit that touches as little memory as it can, because at a hundred
//! thousand redirects a second cache misses are most of what a look-up costs. A hit reads one line
//! of the index and the entry's own lines, takes no lock and counts no reference; the first hit
//! after an entry came sets one bit. See `docs/adr/0005-l1.md`.
//!
//! Invariants:
//! - an entry says for which (domain, code) it is, and every hit compares: the 64-bit keyed hash
//!   that finds it may collide, and a collision is a miss, never another link's target;
//! - index and logs together never take more than the capacity;
//! - all changes to a shard are made under its lock; once [`L1::remove_older`] returns, no read
//!   that begins later sees what it removed.
//!
//! What stays is decided as in S3-FIFO (Yang et al., SOSP 2023): while there is room everything goes
//! to the main log; afterwards new entries pass a probation log of a tenth, from which only those
//! that were asked for again move on, so that a scan of unknown codes can't push out what people
//! use. What left probation a short time ago goes to main at once. Main gives what was used since
//! its last turn another turn.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Mutex, MutexGuard, PoisonError};

use shunt_domain::{Code, DomainId, LinkKey, Timestamp, Version};
use siphasher::sip::SipHasher13;

mod entry;
mod index;
mod log;
mod prefetch;
mod words;

use index::{Index, Place, Slot};
use log::{Log, Position, Record, Writer};
use words::Words;

pub use entry::{Entry, Head, Kind, judge};

/// Most shards; hashes choose by their top bits. Only changes take a shard's lock, so a few do.
const SHARDS: usize = 8;
/// How many used entries one insert moves on before it drops the next: bounds the work.
const SECOND_CHANCES: usize = 8;
/// Capacity per slot of a full-grown index, before it is rounded down to a power of two. An entry
/// with a code of seven characters takes 80 bytes with a target of forty and 120 with one of
/// eighty, so that at most nine tenths of the slots are taken when the logs are full. Fuller sets
/// would have to drop entries that have room.
const BYTES_PER_SLOT: usize = 45;
/// Below this a shard has no probation log: it could not hold the longest target.
const MIN_PROBATION: usize = 64 << 10;

/// The cache. All operations are constant-time; a hit takes no lock.
pub struct L1 {
    shards: Box<[Shard]>,
    hash_key: (u64, u64),
    capacity: u64,
}

/// One part of the cache, with everything a hit reads in its first cache line.
#[repr(align(128))]
struct Shard {
    index: Index,
    main: Log,
    probation: Option<Log>,
    state: Mutex<State>,
    entries: AtomicUsize,
    /// Bytes between tail and head of both logs.
    used: AtomicUsize,
}

/// What only changes need.
struct State {
    main: Writer,
    probation: Option<Writer>,
}

/// Words of the parts of each shard.
struct Plan {
    index: usize,
    probation: usize,
    main: usize,
}

impl Plan {
    fn of(capacity: usize, shards: usize) -> Self {
        let words = capacity / size_of::<u64>() / shards;
        let index = Index::words(capacity / shards / BYTES_PER_SLOT);
        let logs = words - index;
        let probation = logs / 10;
        let probation = if probation * size_of::<u64>() < MIN_PROBATION { 0 } else { probation };
        Self { index, probation, main: logs - probation }
    }
}

impl L1 {
    /// A cache of at most `capacity` bytes (64 KiB at least). `hash_key` is secret randomness, so
    /// that nobody can choose codes that collide.
    pub fn new(capacity: u64, hash_key: (u64, u64)) -> Self {
        let capacity = usize::try_from(capacity).unwrap_or(usize::MAX).max(64 << 10);
        // A power of two, of at least a megabyte each.
        let shards = (1 << (capacity >> 20).max(1).ilog2()).min(SHARDS);
        let plan = Plan::of(capacity, shards);
        let mut words = Words::zeroed(capacity / size_of::<u64>());
        // Like with like: what all requests read lies together.
        let mut parts = |len| (0..shards).map(|_| words.take(len)).collect::<Vec<_>>();
        let (indexes, probation, main) =
            (parts(plan.index), parts(plan.probation), parts(plan.main));
        let shards = indexes
            .into_iter()
            .zip(probation)
            .zip(main)
            .map(|((index, probation), main)| Shard::new(index, probation, main))
            .collect();
        Self { shards, hash_key, capacity: capacity as u64 }
    }

    /// The keyed hash of (domain, code): SipHash-1-3.
    pub fn hash(&self, domain: DomainId, code: &[u8]) -> u64 {
        // In one piece: the hasher takes parts a byte at a time.
        let mut key = [0; size_of::<u32>() + Code::MAX_LEN];
        let code = code.get(..Code::MAX_LEN).unwrap_or(code);
        let (head, tail) = key.split_at_mut(size_of::<u32>());
        head.copy_from_slice(&domain.0.to_le_bytes());
        if let Some(place) = tail.get_mut(..code.len()) {
            place.copy_from_slice(code);
        }
        let key = key.get(..size_of::<u32>() + code.len()).unwrap_or_default();
        SipHasher13::new_with_keys(self.hash_key.0, self.hash_key.1).hash(key)
    }

    /// Says that this hash will be looked up soon: the index's line is fetched meanwhile.
    pub fn expect(&self, hash: u64) {
        self.shard(hash).index.prefetch(hash);
    }

    /// Says that this hash is about to be looked up: the entry's lines are fetched meanwhile.
    pub fn expect_entry(&self, hash: u64) {
        let shard = self.shard(hash);
        let slot = shard
            .index
            .set(hash)
            .map(|at| Slot(at.load(Relaxed)))
            .find(|slot| slot.may_be(hash) && !slot.is_empty());
        if let Some(slot) = slot
            && let Some(log) = shard.log(slot.place())
        {
            log.prefetch(slot.position());
        }
    }

    /// How a link answers, if that is here and in force. `target` gets its target and is worth
    /// nothing when the answer is `None`; a buffer that is used again makes this free of
    /// allocation.
    pub fn get(
        &self,
        hash: u64,
        domain: DomainId,
        code: &[u8],
        now: Timestamp,
        mono: i64,
        target: &mut Vec<u8>,
    ) -> Option<Head> {
        let shard = self.shard(hash);
        shard
            .index
            .set(hash)
            .find_map(|at| {
                let slot = Slot(at.load(Acquire));
                if !slot.may_be(hash) {
                    return None;
                }
                let log = shard.log(slot.place())?;
                let head = log.read(slot.position(), hash, domain.0, code, target)?;
                if !slot.is_used() {
                    // Should the slot have changed meanwhile, then this is about another entry.
                    let _ = at.compare_exchange(slot.0, slot.used().0, Relaxed, Relaxed);
                }
                Some(head)
            })
            .filter(|head| head.in_force(now, mono))
    }

    /// Stores an entry, in place of one that is there.
    pub fn insert(&self, hash: u64, key: &LinkKey, entry: &Entry) {
        let code = key.code.as_str().as_bytes();
        let record = log::record(&entry.header(key), hash, code, entry.target().as_bytes());
        self.shard(hash).insert(hash, &record);
    }

    /// Drops the entry with this hash if its version is below `version`.
    pub fn remove_older(&self, hash: u64, version: Version) {
        let shard = self.shard(hash);
        let _state = shard.lock();
        // Most changes of an import are for links nobody has asked for.
        if shard.entries.load(Relaxed) == 0 {
            return;
        }
        if let Some((at, head)) = shard.find(hash)
            && head.version() < version
        {
            shard.forget(at);
        }
    }

    /// Drops everything.
    pub fn clear(&self) {
        for shard in &self.shards {
            let _state = shard.lock();
            for slot in shard.index.slots() {
                // Pages that were never used stay so.
                if slot.load(Relaxed) != 0 {
                    slot.store(0, Release);
                }
            }
            shard.entries.store(0, Relaxed);
        }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.entries.load(Relaxed)).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes in use: the index and what lies in the logs, entries included that were replaced and
    /// wait for their place to come round.
    pub fn bytes(&self) -> u64 {
        let bytes = |shard: &Shard| (shard.index.bytes() + shard.used.load(Relaxed)) as u64;
        self.shards.iter().map(bytes).sum()
    }

    /// The bound of [`Self::bytes`].
    pub const fn capacity(&self) -> u64 {
        self.capacity
    }

    fn shard(&self, hash: u64) -> &Shard {
        // In range: the number of shards is a power of two, at most sixteen.
        &self.shards[(hash >> 60) as usize & (self.shards.len() - 1)]
    }
}

impl Shard {
    fn new(index: Words, probation: Words, main: Words) -> Self {
        let (main, main_writer) = Log::new(main);
        let (probation, probation_writer) =
            if probation.is_empty() { None } else { Some(Log::new(probation)) }.unzip();
        Self {
            index: Index::new(index),
            main,
            probation,
            state: Mutex::new(State { main: main_writer, probation: probation_writer }),
            entries: AtomicUsize::new(0),
            used: AtomicUsize::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic in here is a bug, but it leaves a cache whose entries are all checked when read.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    const fn log(&self, place: Place) -> Option<&Log> {
        match place {
            Place::Main => Some(&self.main),
            Place::Probation => self.probation.as_ref(),
        }
    }

    fn is_live(&self, slot: Slot) -> bool {
        !slot.is_empty() && self.log(slot.place()).is_some_and(|log| log.holds(slot.position()))
    }

    /// The slot and head of the entry with this hash. Under the lock.
    fn find(&self, hash: u64) -> Option<(&AtomicU64, Head)> {
        self.index.set(hash).find_map(|at| {
            let slot = Slot(at.load(Relaxed));
            if !slot.may_be(hash) || !self.is_live(slot) {
                return None;
            }
            let (header, found) = self.log(slot.place())?.header(slot.position())?;
            (found == hash).then_some((at, header.head))
        })
    }

    /// The slot of the entry at a position. Under the lock.
    fn slot_of(&self, hash: u64, place: Place, position: Position) -> Option<&AtomicU64> {
        self.index.set(hash).find(|at| {
            let slot = Slot(at.load(Relaxed));
            slot.may_be(hash) && slot.place() == place && slot.position() == position
        })
    }

    fn forget(&self, at: &AtomicU64) {
        at.store(Slot::EMPTY.0, Release);
        self.entries.fetch_sub(1, Relaxed);
    }

    fn insert(&self, hash: u64, record: &[u64]) {
        let state = &mut *self.lock();
        if let Some((at, _)) = self.find(hash) {
            self.forget(at);
        }
        if self.index.is_tight(self.entries.load(Relaxed)) {
            self.index.grow(|slot| {
                let log = self.log(slot.place()).filter(|_| self.is_live(slot))?;
                log.header(slot.position()).map(|(_, hash)| hash)
            });
        }
        let known = self.index.set(hash).any(|at| {
            let slot = Slot(at.load(Relaxed));
            slot.may_be(hash)
                && !slot.is_empty()
                && slot.place() == Place::Probation
                && !self.is_live(slot)
        });
        let filling = !state.main.has_wrapped() && state.main.has_room(&self.main, record.len());
        match (&self.probation, &mut state.probation) {
            (Some(log), Some(writer)) if !known && !filling && log.takes(record.len()) => {
                // Room first: what leaves probation may move to main.
                while !writer.has_room(log, record.len()) {
                    let Some((position, old)) = writer.pop(log) else { return };
                    self.leave_probation(&mut state.main, position, &old);
                }
                if let Some(position) = writer.push(log, record) {
                    self.point(hash, Place::Probation, position);
                }
            }
            _ => self.insert_main(&mut state.main, record),
        }
        let words = state.main.used(&self.main)
            + self.probation.as_ref().zip(state.probation.as_ref()).map_or(0, |(l, w)| w.used(l));
        self.used.store(words * size_of::<u64>(), Relaxed);
    }

    /// What was used moves on; of the rest the slot stays as a memory.
    fn leave_probation(&self, main: &mut Writer, position: Position, record: &[u64]) {
        let hash = log::hash_of(record);
        let Some(at) = self.slot_of(hash, Place::Probation, position) else { return };
        self.entries.fetch_sub(1, Relaxed);
        if Slot(at.load(Relaxed)).is_used() {
            at.store(Slot::EMPTY.0, Release);
            self.insert_main(main, record);
        }
    }

    fn insert_main(&self, writer: &mut Writer, record: &[u64]) {
        if !self.main.takes(record.len()) {
            return;
        }
        // Those that get another turn, appended once there is room for them and the new one.
        let mut again: Vec<Record> = Vec::new();
        let mut words = record.len();
        while !writer.has_room(&self.main, words) {
            let Some((position, old)) = writer.pop(&self.main) else { return };
            let hash = log::hash_of(&old);
            let Some(at) = self.slot_of(hash, Place::Main, position) else { continue };
            let used = Slot(at.load(Relaxed)).is_used();
            self.forget(at);
            if used && again.len() < SECOND_CHANCES && self.main.takes(words + old.len()) {
                words += old.len();
                again.push(old);
            }
        }
        for record in again.iter().map(Vec::as_slice).chain([record]) {
            if let Some(position) = writer.push(&self.main, record) {
                self.point(log::hash_of(record), Place::Main, position);
            }
        }
    }

    /// Puts an entry into the index: into an empty slot, else one whose entry is gone, else in
    /// place of one that was not used, else of any.
    fn point(&self, hash: u64, place: Place, position: Position) {
        let rank = |at: &&AtomicU64| {
            let slot = Slot(at.load(Relaxed));
            match (slot.is_empty(), self.is_live(slot), slot.is_used()) {
                (true, ..) => 0,
                (_, false, _) => 1,
                (_, true, false) => 2,
                (_, true, true) => 3,
            }
        };
        let Some(at) = self.index.set(hash).min_by_key(rank) else { return };
        if !self.is_live(Slot(at.load(Relaxed))) {
            self.entries.fetch_add(1, Relaxed);
        }
        at.store(Slot::new(hash, place, position).0, Release);
    }
}

#[cfg(test)]
mod tests;
