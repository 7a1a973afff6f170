//! The frame: what the spool writes at once. A header that is complete in itself, and the events
//! of one boot sorted by lane.
//!
//! Invariants:
//! - a frame is whole or it is none: its checksum covers every byte but magic, length and itself,
//!   and the length is the checksum's seed;
//! - one frame tells everything about its boot up to its end: the next number of each lane, how
//!   far each ring was read, how many events each core numbered and lost. So the last frame of a
//!   spool is all that recovery needs, and older segments can be deleted;
//! - formats only get new versions; an unknown one is an error of its own.
//!
//! Version 1, little-endian:
//!
//! | bytes | field |
//! |---|---|
//! | 4 | magic `SHF1` |
//! | 4 | length of the whole frame |
//! | 8 | XXH3-64 of everything behind, seeded with the length |
//! | 2 | version, 1 |
//! | 2 | flags: 1 the boot is closed, 2 its rings were gone |
//! | 4 | number of cores |
//! | 8 | node |
//! | 8 | boot |
//! | 8 | number of the frame in its boot, from 0 |
//! | 8 | wall time, milliseconds since the Unix epoch |
//! | 64 × 16 | per lane: the next number after this frame (8), events in this frame (4), their bytes (4) |
//! | cores × 24 | per core: ring position read up to (8), events numbered (8), events lost (8) |
//! | … | the events, lane by lane; each is its length (2) and the event in the click codec |

use shunt_domain::ports::{BootId, LedgerRow, NodeId};
use shunt_domain::{Lane, Timestamp};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::ring::PREFIX;

/// The first bytes of every frame.
pub(crate) const MAGIC: [u8; 4] = *b"SHF1";
const VERSION: u16 = 1;
/// Bytes before the lane table.
const FIXED: usize = 56;
const LANE_ROW: usize = 16;
const LANES: usize = Lane::COUNT * LANE_ROW;
const CORE_ROW: usize = 24;
/// What a reader needs to know a frame's length and version.
pub(crate) const PEEK: usize = 20;
/// No frame is longer: the drain stops far earlier.
pub(crate) const MAX_FRAME: usize = 16 << 20;

/// What one core's ring has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CoreState {
    /// Position on the ring up to which events were taken out, in words.
    pub position: u64,
    /// Events numbered.
    pub numbered: u64,
    /// Events reported lost.
    pub lost: u64,
}

/// What a boot has come to at the end of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootState {
    /// Which node.
    pub node: NodeId,
    /// Which of its lives.
    pub boot: BootId,
    /// The number of the frame, from 0.
    pub frame: u64,
    /// When the frame was made.
    pub at: Timestamp,
    /// Whether it is the boot's last one.
    pub closed: bool,
    /// Whether the boot ended with its rings gone, so that it is not known what was numbered
    /// after `at`.
    pub unknown: bool,
    /// The next number of each lane.
    pub lanes: [u64; Lane::COUNT],
    /// Each core.
    pub cores: Vec<CoreState>,
}

impl BootState {
    /// A boot that has written nothing yet.
    pub fn new(node: NodeId, boot: BootId, cores: usize) -> Self {
        Self {
            node,
            boot,
            frame: 0,
            at: Timestamp::default(),
            closed: false,
            unknown: false,
            lanes: [0; Lane::COUNT],
            cores: vec![CoreState::default(); cores],
        }
    }

    /// Events given a number in a lane.
    pub fn spooled(&self) -> u64 {
        self.lanes.iter().sum()
    }

    /// Events numbered by all cores.
    pub fn numbered(&self) -> u64 {
        self.cores.iter().map(|core| core.numbered).sum()
    }

    /// Events reported lost by all cores.
    pub fn lost(&self) -> u64 {
        self.cores.iter().map(|core| core.lost).sum()
    }

    /// The ledger's row when, of the events spooled up to this frame, `counted` are counted and
    /// the others (frames damaged on disk) will never be.
    pub fn ledger(&self, counted: u64) -> LedgerRow {
        let lost = self.lost() + self.spooled().saturating_sub(counted);
        // With the rings gone the last frame may be damaged too, and less than what was counted.
        let served =
            if self.unknown { self.numbered().max(counted + lost) } else { self.numbered() };
        LedgerRow {
            node: self.node,
            boot: self.boot,
            served,
            lost,
            counted,
            at: self.at,
            closed: self.closed,
            unknown: self.unknown,
        }
    }
}

/// A run of events of one lane: the unit that a transport carries, with the lane as its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordBatch<'a> {
    /// Who numbered them.
    pub node: NodeId,
    /// In which life.
    pub boot: BootId,
    /// In which lane.
    pub lane: Lane,
    /// The first event's number.
    pub first_seq: u64,
    /// How many events.
    pub count: u32,
    /// The events: each its length in two little-endian bytes and the event in the click codec.
    pub bytes: &'a [u8],
}

impl<'a> RecordBatch<'a> {
    /// The encoded events in order; ends early where a length is wrong.
    pub fn events(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut rest = self.bytes;
        std::iter::from_fn(move || {
            let (len, tail) = rest.split_first_chunk::<PREFIX>()?;
            let (event, tail) = tail.split_at_checked(usize::from(u16::from_le_bytes(*len)))?;
            rest = tail;
            Some(event)
        })
    }
}

/// Why bytes are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Not a frame, not a whole one, or a damaged one.
    #[error("the spool is damaged here")]
    Damaged,
    /// Written by a newer program.
    #[error("the spool has frames of format {0}, which this version does not know: update shunt")]
    Version(u16),
}

/// Bytes of a frame before its events.
pub(crate) const fn header_len(cores: usize) -> usize {
    FIXED + LANES + cores * CORE_ROW
}

/// Writes the header in front of the events that lie behind it in `frame` already, lane by lane
/// as `counts` and `bytes` say, and seals the whole with its checksum.
pub(crate) fn seal(
    frame: &mut [u8],
    state: &BootState,
    counts: &[u32; Lane::COUNT],
    bytes: &[u32; Lane::COUNT],
) {
    let len = frame.len();
    let mut at = 0;
    let mut put = |value: &[u8]| {
        frame[at..at + value.len()].copy_from_slice(value);
        at += value.len();
    };
    put(&MAGIC);
    // A frame is at most MAX_FRAME long.
    put(&(len as u32).to_le_bytes());
    put(&[0; 8]);
    put(&VERSION.to_le_bytes());
    put(&(u16::from(state.closed) | u16::from(state.unknown) << 1).to_le_bytes());
    put(&(state.cores.len() as u32).to_le_bytes());
    put(&state.node.0.to_le_bytes());
    put(&state.boot.0.to_le_bytes());
    put(&state.frame.to_le_bytes());
    put(&state.at.as_millis().to_le_bytes());
    for lane in 0..Lane::COUNT {
        put(&state.lanes[lane].to_le_bytes());
        put(&counts[lane].to_le_bytes());
        put(&bytes[lane].to_le_bytes());
    }
    for core in &state.cores {
        put(&core.position.to_le_bytes());
        put(&core.numbered.to_le_bytes());
        put(&core.lost.to_le_bytes());
    }
    let sum = xxh3_64_with_seed(&frame[16..], len as u64);
    frame[8..16].copy_from_slice(&sum.to_le_bytes());
}

/// The length that the first [`PEEK`] bytes of a frame promise.
///
/// # Errors
/// [`FrameError`]; a version is only believed once the checksum fits, see [`Frame::parse`].
pub(crate) fn promised_len(peek: &[u8; PEEK]) -> Result<usize, FrameError> {
    let len = u32::from_le_bytes([peek[4], peek[5], peek[6], peek[7]]) as usize;
    if peek[..4] != MAGIC || !(PEEK..=MAX_FRAME).contains(&len) {
        return Err(FrameError::Damaged);
    }
    Ok(len)
}

/// A checked frame.
#[derive(Clone, Debug)]
pub struct Frame<'a> {
    /// What it says about its boot.
    pub state: BootState,
    table: &'a [u8],
    events: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Checks the bytes of exactly one frame.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, FrameError> {
        let peek = bytes.first_chunk::<PEEK>().ok_or(FrameError::Damaged)?;
        let sum = u64::from_le_bytes(std::array::from_fn(|i| peek[8 + i]));
        if promised_len(peek)? != bytes.len()
            || xxh3_64_with_seed(&bytes[16..], bytes.len() as u64) != sum
        {
            return Err(FrameError::Damaged);
        }
        Self::read(bytes)
    }

    /// Reads the bytes of exactly one frame whose checksum was checked before.
    ///
    /// # Errors
    /// [`FrameError`].
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self, FrameError> {
        let mut at = 16;
        let mut take = |len: usize| {
            let mut eight = [0_u8; 8];
            if let Some(value) = bytes.get(at..at + len) {
                eight[..len].copy_from_slice(value);
            }
            at += len;
            u64::from_le_bytes(eight)
        };
        let version = take(2) as u16;
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        let flags = take(2);
        let cores = take(4) as usize;
        if cores > MAX_FRAME / CORE_ROW || bytes.len() < header_len(cores) {
            return Err(FrameError::Damaged);
        }
        let mut state = BootState::new(NodeId(take(8)), BootId(take(8)), cores);
        state.frame = take(8);
        state.at = Timestamp::from_millis(take(8).cast_signed());
        state.closed = flags & 1 != 0;
        state.unknown = flags & 2 != 0;
        let mut events = 0;
        for next in &mut state.lanes {
            *next = take(8);
            let count = take(4);
            events += take(4) as usize;
            if count > *next {
                return Err(FrameError::Damaged);
            }
        }
        for core in &mut state.cores {
            *core = CoreState { position: take(8), numbered: take(8), lost: take(8) };
        }
        let header = header_len(cores);
        if events != bytes.len() - header {
            return Err(FrameError::Damaged);
        }
        Ok(Self { state, table: &bytes[FIXED..FIXED + LANES], events: &bytes[header..] })
    }

    /// The runs of events, lane by lane; lanes without events are left out.
    pub fn records(&self) -> impl Iterator<Item = RecordBatch<'a>> + use<'a> {
        let BootState { node, boot, lanes, .. } = self.state;
        let mut rest = self.events;
        let (rows, _) = self.table.as_chunks::<LANE_ROW>();
        Lane::all().zip(lanes).zip(rows).filter_map(move |((lane, next), row)| {
            let count = u32::from_le_bytes([row[8], row[9], row[10], row[11]]);
            let len = u32::from_le_bytes([row[12], row[13], row[14], row[15]]) as usize;
            let (bytes, tail) = rest.split_at_checked(len)?;
            rest = tail;
            let first_seq = next - u64::from(count);
            (count > 0).then_some(RecordBatch { node, boot, lane, first_seq, count, bytes })
        })
    }

    /// How many events it holds.
    pub fn events(&self) -> u64 {
        self.records().map(|record| u64::from(record.count)).sum()
    }
}

#[cfg(test)]
mod tests;
