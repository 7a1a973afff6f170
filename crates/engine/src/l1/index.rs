//! The index of one shard: sets of sixteen slots, each with a few bits of the hash and the place of
//! an entry.
//!
//! A set is two cache lines beside each other; a key looks first at the line its hash names, and
//! new entries go there if they can. A slot whose entry has left the log is as good as empty, so
//! nothing has to be cleared; one that points behind the tail of the probation log says besides
//! that its key was here a short time ago.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU64, AtomicUsize};

use super::log::{POSITION_BITS, Position};
use super::prefetch::prefetch;
use super::words::Words;

/// Slots of a cache line, and of a set.
const LINE: usize = 8;
const SET: usize = 2 * LINE;
/// Sets an index begins with.
const FIRST_SETS: usize = 64;

/// Which of a shard's two logs an entry lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// What was asked for once.
    Probation,
    /// What was asked for again.
    Main,
}

/// The content of a slot: position in 52 bits, place, whether it was used, tag in 10 bits. All
/// zero is empty: no position is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot(pub(super) u64);

const MAIN: u64 = 1 << POSITION_BITS;
const USED: u64 = 1 << (POSITION_BITS + 1);
const TAG_SHIFT: u32 = POSITION_BITS + 2;

impl Slot {
    pub(super) const EMPTY: Self = Self(0);

    pub(super) const fn new(hash: u64, place: Place, position: Position) -> Self {
        let place = match place {
            Place::Probation => 0,
            Place::Main => MAIN,
        };
        // The tag is the hash's lowest bits: shard and set come from the highest.
        Self(position.bits() | place | hash << TAG_SHIFT)
    }

    /// Whether the tag is that of `hash`.
    pub(super) const fn may_be(self, hash: u64) -> bool {
        (self.0 ^ hash << TAG_SHIFT) >> TAG_SHIFT == 0
    }

    pub(super) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) const fn position(self) -> Position {
        Position::from_bits(self.0)
    }

    pub(super) const fn place(self) -> Place {
        if self.0 & MAIN == 0 { Place::Probation } else { Place::Main }
    }

    pub(super) const fn is_used(self) -> bool {
        self.0 & USED != 0
    }

    /// The same, used.
    pub(super) const fn used(self) -> Self {
        Self(self.0 | USED)
    }
}

/// Which of a set's two lines a hash names.
const fn second_first(hash: u64) -> bool {
    (hash >> 10) & 1 != 0
}

/// The slots of one shard. It begins small and doubles as entries come, so that a cache that is
/// far from full has an index that stays in the processor's caches.
#[derive(Debug)]
pub(super) struct Index {
    slots: Words,
    /// How many sets are in use; a power of two. Changes under the shard's lock only.
    sets: AtomicUsize,
}

impl Index {
    /// An index that may grow over all of these words, of which there are [`Index::words`].
    pub(super) fn new(slots: Words) -> Self {
        let sets = (slots.len() / SET).clamp(1, FIRST_SETS);
        Self { slots, sets: AtomicUsize::new(sets) }
    }

    /// Words for an index of about so many slots: whole sets, a power of two of them.
    pub(super) const fn words(slots: usize) -> usize {
        let sets = if slots < SET { 1 } else { slots / SET };
        SET << sets.ilog2()
    }

    /// Bytes in use.
    pub(super) fn bytes(&self) -> usize {
        self.sets.load(Relaxed) * SET * size_of::<u64>()
    }

    /// Whether that many entries should have more sets, and there is room for them: with six of
    /// sixteen slots taken on average, one set in ten thousand is full.
    pub(super) fn is_tight(&self, entries: usize) -> bool {
        let slots = self.sets.load(Relaxed) * SET;
        entries > slots * 3 / 8 && 2 * slots <= self.slots.len()
    }

    /// Doubles the sets. `hash_of` says the hash of a slot's entry, or `None` when that is gone.
    /// A reader may miss an entry that is just being moved; that costs it a look at the store.
    /// Under the shard's lock.
    pub(super) fn grow(&self, hash_of: impl Fn(Slot) -> Option<u64>) {
        let sets = self.sets.load(Relaxed);
        let (low, high) = self.slots.split_at(sets * SET);
        for (i, (from, to)) in low.iter().zip(high).enumerate() {
            let slot = Slot(from.load(Relaxed));
            if slot.is_empty() {
                continue;
            }
            match hash_of(slot) {
                Some(hash) if set_of(hash, 2 * sets) == i / SET => continue,
                Some(_) => to.store(from.swap(Slot::EMPTY.0, AcqRel), Release),
                None => from.store(Slot::EMPTY.0, Release),
            }
        }
        self.sets.store(2 * sets, Release);
    }

    /// The slots where an entry with this hash may stand, the likeliest first.
    pub(super) fn set(&self, hash: u64) -> impl Iterator<Item = &AtomicU64> {
        let at = self.start(hash);
        let lines = self.slots.get(at..at + SET).unwrap_or_default();
        let (one, two) = lines.split_at(lines.len() / 2);
        let (one, two) = if second_first(hash) { (two, one) } else { (one, two) };
        one.iter().chain(two)
    }

    /// Has the line that is looked at first fetched.
    pub(super) fn prefetch(&self, hash: u64) {
        let line = if second_first(hash) { LINE } else { 0 };
        if let Some(slot) = self.slots.get(self.start(hash) + line) {
            prefetch(slot);
        }
    }

    /// The first slot of a hash's set.
    fn start(&self, hash: u64) -> usize {
        set_of(hash, self.sets.load(Acquire)) * SET
    }

    /// All slots in use.
    pub(super) fn slots(&self) -> &[AtomicU64] {
        self.slots.get(..self.sets.load(Relaxed) * SET).unwrap_or_default()
    }
}

/// Which of a power of two of sets: bits of the hash that neither tag nor line nor shard use.
const fn set_of(hash: u64, sets: usize) -> usize {
    (hash >> 11) as usize & (sets - 1)
}
