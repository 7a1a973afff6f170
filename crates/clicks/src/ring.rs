//! One core's ring: a single producer (the redirect path) and a single consumer (the spool
//! thread) over words in shared memory that outlive the process.
//!
//! Invariants, at every instruction and so after kill -9 at any of them:
//! - `numbered` ≥ events below `head` + `lost`, and the difference is at most 1: the event under
//!   way. Its number is stored first, then its words, then `head` with release order;
//! - everything below `head` is whole; the producer never writes at or above `tail + capacity`;
//! - positions are counts of words since the ring was made and never wrap (at 10 GB/s, 2^64
//!   words last centuries).
//!
//! An entry is the event's length in two bytes and the event (see the click codec), padded to a
//! whole word; it may run over the end of the ring into its beginning.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use shunt_domain::click::Click;
use shunt_domain::ports::{BootId, ClickRecorder, NodeId};
use shunt_domain::{DomainId, Lane};
use xxhash_rust::xxh3::xxh3_64;

use crate::mapping::{Mapping, WORD};

pub(crate) mod files;

const MAGIC: u64 = u64::from_le_bytes(*b"SHUNTRNG");
const VERSION: u64 = 1;

// Words of the header. Who a ring is: written once, covered by the check word.
const AT_MAGIC: usize = 0;
const AT_VERSION: usize = 1;
const AT_NODE: usize = 2;
const AT_BOOT: usize = 3;
const AT_CORE: usize = 4;
const AT_CORES: usize = 5;
const AT_CAPACITY: usize = 6;
const AT_MACHINE: usize = 7;
const AT_CHECK: usize = 8;
/// Words that the check word covers.
const IDENTITY: usize = 8;
// The producer's cache lines.
const AT_HEAD: usize = 16;
const AT_NUMBERED: usize = 17;
const AT_LOST: usize = 18;
// The consumer's cache lines.
const AT_TAIL: usize = 32;
// Ring 0 only: the next number of each lane, as of the last frame that is on disk.
const AT_LANES: usize = 64;
/// Words of the header: one page.
const HEADER: usize = 512;

/// Bytes of the length before each event.
pub(crate) const PREFIX: usize = 2;
/// Most bytes of an entry, whole words.
const MAX_ENTRY: usize = (PREFIX + Click::MAX_ENCODED).next_multiple_of(WORD);
/// Fewest words of a ring, so that every event fits many times over.
const MIN_CAPACITY: usize = (64 << 10) / WORD;
/// Most words of a ring.
const MAX_CAPACITY: usize = (1 << 30) / WORD;

/// Who a ring belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RingId {
    pub(crate) node: NodeId,
    pub(crate) boot: BootId,
    pub(crate) core: usize,
    /// How many rings that boot has.
    pub(crate) cores: usize,
}

/// A ring and what both of its ends share.
#[derive(Debug)]
pub(crate) struct Ring {
    mapping: Mapping,
    id: RingId,
    /// In words; a power of two.
    capacity: usize,
    /// Whether the producer was given out.
    taken: AtomicBool,
    /// Whether the producer is gone: nothing will be numbered any more.
    done: AtomicBool,
}

/// Words of a mapping for a ring of `bytes`.
pub(crate) fn mapping_words(bytes: usize) -> usize {
    HEADER + (bytes / WORD).clamp(MIN_CAPACITY, MAX_CAPACITY).next_power_of_two()
}

impl Ring {
    /// Makes an empty ring of a mapping of zeros that [`mapping_words`] measured. `machine` says
    /// in which life of the machine this is, 0 when that is not known.
    pub(crate) fn init(mapping: Mapping, id: RingId, machine: u64) -> Self {
        let words = mapping.words();
        let capacity = words.len() - HEADER;
        let identity = [
            (AT_MAGIC, MAGIC),
            (AT_VERSION, VERSION),
            (AT_NODE, id.node.0),
            (AT_BOOT, id.boot.0),
            (AT_CORE, id.core as u64),
            (AT_CORES, id.cores as u64),
            (AT_CAPACITY, capacity as u64),
            (AT_MACHINE, machine),
        ];
        for (at, value) in identity {
            words[at].store(value, Relaxed);
        }
        // Last: a ring without it was never used.
        let check = identity_check(&mapping);
        words[AT_CHECK].store(check, Release);
        Self { mapping, id, capacity, taken: AtomicBool::new(false), done: AtomicBool::new(false) }
    }

    /// The ring that an earlier process left in `mapping`; `None` when it is none of this
    /// machine's present life, or damaged.
    pub(crate) fn adopt(mapping: Mapping, machine: u64) -> Option<Self> {
        let word = |at: usize| mapping.words().get(at).map(|word| word.load(Acquire));
        let capacity = mapping.words().len().checked_sub(HEADER)?;
        let whole = word(AT_MAGIC)? == MAGIC
            && word(AT_VERSION)? == VERSION
            && word(AT_CAPACITY)? == capacity as u64
            && capacity.is_power_of_two()
            && word(AT_CHECK)? == identity_check(&mapping)
            // Pages of a file that went through a crash of the machine may be of any age.
            && machine != 0
            && word(AT_MACHINE)? == machine;
        let cores = usize::try_from(word(AT_CORES)?).ok().filter(|&n| n <= 4096)?;
        let core = usize::try_from(word(AT_CORE)?).ok().filter(|&core| core < cores)?;
        let id = RingId { node: NodeId(word(AT_NODE)?), boot: BootId(word(AT_BOOT)?), core, cores };
        whole.then_some(Self {
            mapping,
            id,
            capacity,
            taken: AtomicBool::new(true),
            done: AtomicBool::new(true),
        })
    }

    pub(crate) const fn id(&self) -> RingId {
        self.id
    }

    fn word(&self, at: usize) -> &std::sync::atomic::AtomicU64 {
        &self.mapping.words()[at]
    }

    fn data(&self) -> &[std::sync::atomic::AtomicU64] {
        &self.mapping.words()[HEADER..]
    }

    /// Events numbered so far. Read after the head, so that it is at least what the head holds.
    pub(crate) fn numbered(&self) -> u64 {
        self.word(AT_NUMBERED).load(Acquire)
    }

    /// Events lost so far because the ring was full.
    pub(crate) fn lost(&self) -> u64 {
        self.word(AT_LOST).load(Acquire)
    }

    /// Bytes waiting on the ring.
    pub(crate) fn depth(&self) -> u64 {
        let tail = self.word(AT_TAIL).load(Acquire);
        self.word(AT_HEAD).load(Acquire).saturating_sub(tail) * WORD as u64
    }

    /// Bytes the ring can hold.
    pub(crate) const fn size(&self) -> u64 {
        (self.capacity * WORD) as u64
    }

    /// Whether nothing will be numbered any more.
    pub(crate) fn is_done(&self) -> bool {
        !self.taken.load(Acquire) || self.done.load(Acquire)
    }

    /// The producing end, the first time it is asked for.
    pub(crate) fn producer(self: &Arc<Self>) -> Option<RingProducer> {
        if self.taken.swap(true, Acquire) {
            return None;
        }
        Some(RingProducer {
            ring: Arc::clone(self),
            head: 0,
            tail: 0,
            numbered: 0,
            lost: 0,
            scratch: Box::new([0; MAX_ENTRY]),
        })
    }

    /// Notes how far each lane was numbered, once that is on disk (ring 0 does).
    pub(crate) fn note_lanes(&self, next: &[u64; Lane::COUNT]) {
        for (word, &next) in self.mapping.words()[AT_LANES..].iter().zip(next) {
            word.store(next, Relaxed);
        }
    }

    /// What [`Ring::note_lanes`] noted.
    pub(crate) fn noted_lanes(&self) -> [u64; Lane::COUNT] {
        let words = &self.mapping.words()[AT_LANES..];
        std::array::from_fn(|lane| words[lane].load(Acquire))
    }
}

fn identity_check(mapping: &Mapping) -> u64 {
    let mut bytes = [0_u8; IDENTITY * WORD];
    for (chunk, word) in bytes.chunks_exact_mut(WORD).zip(mapping.words()) {
        chunk.copy_from_slice(&word.load(Relaxed).to_le_bytes());
    }
    xxh3_64(&bytes)
}

/// The producing end of one ring. Not shared: each core has its own.
#[derive(Debug)]
pub struct RingProducer {
    ring: Arc<Ring>,
    /// Our own copies of the words that only we write.
    head: u64,
    numbered: u64,
    lost: u64,
    /// The tail as last seen: it only moves forward, so an old value is safe.
    tail: u64,
    scratch: Box<[u8; MAX_ENTRY]>,
}

impl ClickRecorder for RingProducer {
    fn record(&mut self, click: &Click<'_>) {
        // First the number: should the process die before the event is published, it is
        // numbered and not there, which is what a loss is.
        self.numbered += 1;
        step();
        self.ring.word(AT_NUMBERED).store(self.numbered, Relaxed);

        let Some((prefix, rest)) = self.scratch.split_first_chunk_mut::<PREFIX>() else { return };
        let Some(event) = rest.first_chunk_mut::<{ Click::MAX_ENCODED }>() else { return };
        let len = click.encode_into(event);
        *prefix = (len as u16).to_le_bytes();
        let words = (PREFIX + len).div_ceil(WORD);

        let capacity = self.ring.capacity as u64;
        let head = self.head + words as u64;
        if head - self.tail > capacity {
            // Acquire: the consumer's reads of the words come before our writes to them.
            self.tail = self.ring.word(AT_TAIL).load(Acquire);
            if head - self.tail > capacity {
                self.lost += 1;
                step();
                self.ring.word(AT_LOST).store(self.lost, Release);
                return;
            }
        }
        let (entry, _) = self.scratch.as_chunks::<WORD>();
        let at = (self.head as usize) & (self.ring.capacity - 1);
        let data = self.ring.data();
        let (before, after) = entry[..words].split_at(words.min(data.len() - at));
        for (word, bytes) in data[at..].iter().zip(before) {
            step();
            word.store(u64::from_le_bytes(*bytes), Relaxed);
        }
        for (word, bytes) in data.iter().zip(after) {
            step();
            word.store(u64::from_le_bytes(*bytes), Relaxed);
        }
        self.head = head;
        step();
        // Release: the number and the words above come first for whoever sees this head, the
        // next process included (a killed process's stores are all in the page).
        self.ring.word(AT_HEAD).store(head, Release);
    }
}

impl Drop for RingProducer {
    fn drop(&mut self) {
        self.ring.done.store(true, Release);
    }
}

/// One entry, found but not yet copied.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    /// Position of its first word.
    pub(crate) at: u64,
    /// Bytes of length and event together.
    pub(crate) bytes: u32,
    pub(crate) lane: Lane,
}

/// The consuming end of one ring.
#[derive(Debug)]
pub(crate) struct RingConsumer {
    ring: Arc<Ring>,
    /// Up to here entries were taken out.
    read: u64,
    /// The head as last seen.
    head: u64,
}

impl RingConsumer {
    /// The consumer from position `from`, or from the ring's own tail if that is further: it
    /// moves only when everything below is on disk or dropped and counted.
    pub(crate) fn new(ring: Arc<Ring>, from: u64) -> Self {
        let read = from.max(ring.word(AT_TAIL).load(Acquire));
        Self { ring, read, head: 0 }
    }

    pub(crate) const fn ring(&self) -> &Arc<Ring> {
        &self.ring
    }

    /// Where the next entry begins.
    pub(crate) const fn position(&self) -> u64 {
        self.read
    }

    /// Looks how far the producer has come; [`RingConsumer::next`] goes up to there. Before
    /// [`Ring::numbered`] is read, so that the figures fit.
    pub(crate) fn look(&mut self) {
        self.head = self.ring.word(AT_HEAD).load(Acquire);
        if self.head.saturating_sub(self.read) > self.ring.capacity as u64 {
            // Only a damaged header says so; what it held is lost, and the numbers say how much.
            self.read = self.head;
        }
    }

    /// Whether the last look showed more than was taken out.
    pub(crate) const fn has_more(&self) -> bool {
        self.read < self.head
    }

    /// The next entry. Its words stay until [`RingConsumer::release`]. What can't be an entry
    /// (a damaged ring of an earlier process) ends the ring: the rest counts as lost, because
    /// the numbers say how many there were.
    pub(crate) fn next(&mut self) -> Option<Entry> {
        if self.read >= self.head {
            return None;
        }
        let first = self.load(self.read);
        let len = (first & 0xffff) as usize;
        let code_len = (first >> 24 & 0xff) as usize;
        let words = (PREFIX + len).div_ceil(WORD) as u64;
        // The key's place is the same in every version of the codec: `key_of`.
        if len > Click::MAX_ENCODED
            || PREFIX + len < WORD + code_len
            || code_len > KEY_WORDS * WORD
            || words > self.head - self.read
        {
            self.read = self.head;
            return None;
        }
        let mut code = [0_u8; KEY_WORDS * WORD];
        for (i, chunk) in code[..code_len.next_multiple_of(WORD)].chunks_exact_mut(WORD).enumerate()
        {
            chunk.copy_from_slice(&self.load(self.read + 1 + i as u64).to_le_bytes());
        }
        let lane = Lane::of(DomainId((first >> 32) as u32), &code[..code_len]);
        let entry = Entry { at: self.read, bytes: (PREFIX + len) as u32, lane };
        self.read += words;
        Some(entry)
    }

    /// Copies an entry's bytes to `out`, which is exactly as long.
    pub(crate) fn copy(&self, entry: Entry, out: &mut [u8]) {
        let data = self.ring.data();
        let at = (entry.at as usize) & (self.ring.capacity - 1);
        let (chunks, rest) = out.as_chunks_mut::<WORD>();
        let before = chunks.len().min(data.len() - at);
        let (first, second) = chunks.split_at_mut(before);
        for (chunk, word) in first.iter_mut().zip(&data[at..]) {
            *chunk = word.load(Relaxed).to_le_bytes();
        }
        for (chunk, word) in second.iter_mut().zip(data) {
            *chunk = word.load(Relaxed).to_le_bytes();
        }
        if !rest.is_empty() {
            let last = self.load(entry.at + (entry.bytes as usize / WORD) as u64).to_le_bytes();
            for (to, from) in rest.iter_mut().zip(last) {
                *to = from;
            }
        }
    }

    /// Gives the room below `position` back to the producer. Only once it is on disk.
    pub(crate) fn release(&self, position: u64) {
        self.ring.word(AT_TAIL).store(position, Release);
    }

    fn load(&self, position: u64) -> u64 {
        let at = (position as usize) & (self.ring.capacity - 1);
        self.ring.data()[at].load(Relaxed)
    }
}

/// Called before every store to the ring: tests die here, anywhere in the order of stores.
#[cfg(not(test))]
#[inline(always)]
const fn step() {}

#[cfg(test)]
fn step() {
    tests::step();
}

/// Words of the longest code.
const KEY_WORDS: usize = shunt_domain::Code::MAX_LEN / WORD;

#[cfg(test)]
mod tests;
