//! A ring of words that entries are appended to, read by any core without a lock.
//!
//! Invariants:
//! - an entry lies in one piece; what does not fit before the end begins the next lap;
//! - positions only grow (their lap counter wraps after 2^24 laps), and an entry is there exactly
//!   while its position is not behind the tail;
//! - the tail moves past an entry *before* a word of it is written again. A reader copies what it
//!   wants, then looks at the tail once more: not passed means that every word was the entry's.
//!   This is a sequence lock whose sequence is the tail; all words are atomics, the fences are
//!   those of Boehm, "Can seqlocks get along with programming language memory models?" (MSPC 2012).

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU64, fence};

use super::entry::{Head, Header};
use super::prefetch::prefetch;
use super::words::Words;

const WORD: usize = size_of::<u64>();
/// Header words: three of [`Header`], and the hash.
const HEAD_WORDS: usize = 4;
/// Bits of a position that say where in the ring.
const OFFSET_BITS: u32 = 28;
/// Bits of a position.
pub(super) const POSITION_BITS: u32 = 52;
/// Most words of a log.
pub(super) const MAX_WORDS: usize = (1 << OFFSET_BITS) - 1;

/// Where an entry lies: the lap above, the offset below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position(u64);

impl Position {
    const fn new(lap: u64, offset: usize) -> Self {
        Self((lap << OFFSET_BITS | offset as u64) & ((1 << POSITION_BITS) - 1))
    }

    pub(super) const fn from_bits(bits: u64) -> Self {
        Self(bits & ((1 << POSITION_BITS) - 1))
    }

    pub(super) const fn bits(self) -> u64 {
        self.0
    }

    const fn lap(self) -> u64 {
        self.0 >> OFFSET_BITS
    }

    const fn offset(self) -> usize {
        (self.0 & ((1 << OFFSET_BITS) - 1)) as usize
    }

    const fn plus(self, words: usize) -> Self {
        Self::new(self.lap(), self.offset() + words)
    }

    /// How far `self` is ahead of `other`; a huge number when it is behind.
    const fn ahead_of(self, other: Self) -> u64 {
        self.0.wrapping_sub(other.0) & ((1 << POSITION_BITS) - 1)
    }
}

/// What readers see.
#[derive(Debug)]
pub(super) struct Log {
    words: Words,
    tail: AtomicU64,
}

/// What only the one writer knows; kept under the shard's lock.
#[derive(Debug)]
pub(super) struct Writer {
    head: Position,
    tail: Position,
    /// Where the lap before the head's ended.
    end: usize,
}

/// An entry on its way from one place of the cache to another: its words.
pub(super) type Record = Vec<u64>;

/// Words of an entry, and its hash, from its record.
pub(super) fn hash_of(record: &[u64]) -> u64 {
    record.get(3).copied().unwrap_or_default()
}

/// Puts an entry together as it lies in the log.
pub(super) fn record(header: &Header, hash: u64, code: &[u8], target: &[u8]) -> Record {
    let mut record = Record::with_capacity(words_of(header));
    record.extend(header.to_words());
    record.push(hash);
    for text in [code, target] {
        record.extend(text.chunks(WORD).map(word_of));
    }
    record
}

/// Up to eight bytes as a word.
fn word_of(bytes: &[u8]) -> u64 {
    let mut word = [0; WORD];
    for (to, from) in word.iter_mut().zip(bytes) {
        *to = *from;
    }
    u64::from_le_bytes(word)
}

const fn words_of(header: &Header) -> usize {
    HEAD_WORDS + header.code_len.div_ceil(WORD) + header.target_len.div_ceil(WORD)
}

impl Log {
    /// An empty log in these words, of which it uses [`MAX_WORDS`] at most.
    pub(super) fn new(words: Words) -> (Self, Writer) {
        Self::starting_at(words, 0)
    }

    fn starting_at(mut words: Words, lap: u64) -> (Self, Writer) {
        let words = words.take(MAX_WORDS);
        // Word 0 stays unused, so that no position is 0.
        let start = Position::new(lap, 1);
        let log = Self { words, tail: AtomicU64::new(start.bits()) };
        (log, Writer { head: start, tail: start, end: 1 })
    }

    /// Whether an entry at `position` is still there.
    pub(super) fn holds(&self, position: Position) -> bool {
        let tail = Position(self.tail.load(Acquire));
        // A log never spans more than one lap.
        position.ahead_of(tail) < 1 << OFFSET_BITS
    }

    /// Has the beginning of an entry fetched: 128 bytes, which most entries don't exceed.
    pub(super) fn prefetch(&self, position: Position) {
        let at = position.offset();
        for word in [at, at + 8].map(|at| self.words.get(at)).into_iter().flatten() {
            prefetch(word);
        }
    }

    /// The entry at `position` if it is still there and has this key. The bytes of its target are
    /// put into `target`, which is worth nothing when the answer is `None`.
    pub(super) fn read(
        &self,
        position: Position,
        hash: u64,
        domain: u32,
        code: &[u8],
        target: &mut Vec<u8>,
    ) -> Option<Head> {
        if !self.holds(position) {
            return None;
        }
        let at = position.offset();
        let [lengths, until, version, found] = self.words.get(at..)?.first_chunk::<HEAD_WORDS>()?;
        if found.load(Relaxed) != hash {
            return None;
        }
        let words = [lengths, until, version].map(|word| word.load(Relaxed));
        let header = Header::from_words(words);
        if header.domain != domain || header.code_len != code.len() {
            return None;
        }
        let body = self.words.get(at + HEAD_WORDS..at + words_of(&header))?;
        let (stored, text) = body.split_at_checked(code.len().div_ceil(WORD))?;
        if code.chunks(WORD).map(word_of).ne(stored.iter().map(|word| word.load(Relaxed))) {
            return None;
        }
        target.resize(text.len() * WORD, 0);
        for (bytes, word) in target.as_chunks_mut::<WORD>().0.iter_mut().zip(text) {
            *bytes = word.load(Relaxed).to_le_bytes();
        }
        target.truncate(header.target_len);
        // Every load above comes before the look at the tail.
        fence(Acquire);
        self.holds(position).then_some(header.head)
    }

    /// The header of an entry that is there; only the writer may ask.
    pub(super) fn header(&self, position: Position) -> Option<(Header, u64)> {
        let words = self.words.get(position.offset()..)?.first_chunk::<HEAD_WORDS>()?;
        let [lengths, until, version, hash] = words.each_ref().map(|word| word.load(Relaxed));
        Some((Header::from_words([lengths, until, version]), hash))
    }

    /// Whether an entry of so many words can be in here at all.
    pub(super) fn takes(&self, words: usize) -> bool {
        // Half, so that a few that are moved on fit beside it.
        words <= self.words.len() / 2
    }
}

impl Writer {
    /// Words between tail and head, padding included.
    pub(super) fn used(&self, log: &Log) -> usize {
        if self.head.lap() == self.tail.lap() {
            self.head.offset() - self.tail.offset()
        } else {
            log.words.len() - self.tail.offset() + self.head.offset()
        }
    }

    /// Where the next entry of so many words will begin, and whether that place is free.
    fn place(&self, log: &Log, words: usize) -> (Position, bool) {
        let fits = self.head.offset() + words <= log.words.len();
        let place =
            if fits { self.head } else { Position::new(self.head.lap().wrapping_add(1), 1) };
        if self.tail == self.head {
            return (place, true);
        }
        let free = match Position::new(place.lap().wrapping_sub(self.tail.lap()), 0).lap() {
            0 => true,
            1 => place.offset() + words <= self.tail.offset(),
            _ => false,
        };
        (place, free)
    }

    /// Whether so many words can be appended without taking anything out.
    pub(super) fn has_room(&self, log: &Log, words: usize) -> bool {
        self.place(log, words).1
    }

    /// Takes the oldest entry out: where it was, and its words. `None` when there is none.
    pub(super) fn pop(&mut self, log: &Log) -> Option<(Position, Record)> {
        if self.tail.lap() != self.head.lap() && self.tail.offset() == self.end {
            self.tail = Position::new(self.tail.lap().wrapping_add(1), 1);
            log.tail.store(self.tail.bits(), Release);
        }
        if self.tail == self.head {
            return None;
        }
        let position = self.tail;
        let (header, _) = log.header(position)?;
        let at = position.offset();
        let words = log.words.get(at..at + words_of(&header))?;
        let record = words.iter().map(|word| word.load(Relaxed)).collect();
        self.tail = position.plus(words.len());
        log.tail.store(self.tail.bits(), Release);
        Some((position, record))
    }

    /// Appends an entry where [`Writer::has_room`] said there is room.
    pub(super) fn push(&mut self, log: &Log, record: &[u64]) -> Option<Position> {
        let (place, free) = self.place(log, record.len());
        if !free {
            return None;
        }
        if place.lap() != self.head.lap() {
            self.end = self.head.offset();
        }
        if self.tail == self.head {
            self.tail = place;
            log.tail.store(place.bits(), Release);
        }
        // The tail that passed what was here comes before the words that are written now.
        fence(Release);
        let at = place.offset();
        for (to, from) in log.words.get(at..at + record.len())?.iter().zip(record) {
            to.store(*from, Relaxed);
        }
        self.head = place.plus(record.len());
        Some(place)
    }

    /// Whether the log has come to its second lap.
    pub(super) const fn has_wrapped(&self) -> bool {
        self.head.lap() != 0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;
    use crate::l1::entry::{Entry, Kind};
    use crate::testing::link;
    use shunt_domain::{Stored, Timestamp};

    fn sample(hash: u64, code: &str, path: usize) -> Record {
        let link = link(code, &format!("https://a.example/{}", "x".repeat(path)));
        let stored = Stored::Link(Box::new(link.clone()));
        let entry = Entry::new(Some(&stored), Timestamp::from_millis(0), 0);
        record(&entry.header(link.key()), hash, code.as_bytes(), entry.target().as_bytes())
    }

    proptest! {
        /// Against a queue, over the wrap of the lap counter.
        #[test]
        fn a_log_is_a_queue_of_what_fits(
            words in 64_usize..300,
            back in 0_u64..4,
            paths in prop::collection::vec(0_usize..150, 1..200),
        ) {
            let last_lap = (1 << (POSITION_BITS - OFFSET_BITS)) - 1;
            let (log, mut writer) = Log::starting_at(Words::zeroed(words), last_lap - back);
            let mut queue: VecDeque<(Position, u64, usize)> = VecDeque::new();
            let mut gone: Vec<Position> = Vec::new();
            for (i, path) in paths.into_iter().enumerate() {
                let entry = sample(i as u64, "code", path);
                if !log.takes(entry.len()) {
                    continue;
                }
                while !writer.has_room(&log, entry.len()) {
                    let (position, old) = writer.pop(&log).unwrap();
                    let (expected, hash, _) = queue.pop_front().unwrap();
                    prop_assert_eq!(position, expected);
                    prop_assert_eq!(hash_of(&old), hash);
                    gone.push(position);
                }
                let position = writer.push(&log, &entry).unwrap();
                queue.push_back((position, i as u64, path));
                prop_assert!(writer.used(&log) <= words);
                let mut target = Vec::new();
                for &(position, hash, path) in &queue {
                    let head = log.read(position, hash, 0, b"code", &mut target).unwrap();
                    prop_assert!(matches!(head.kind, Kind::Redirect(_)));
                    prop_assert_eq!(target.len(), "https://a.example/".len() + path);
                    prop_assert!(log.read(position, hash ^ 1, 0, b"code", &mut target).is_none());
                }
                for &position in &gone {
                    prop_assert!(!log.holds(position));
                }
            }
        }
    }
}
