//! Reads the spool for a worker: complete frames that are on disk, in order, the live end
//! included.
//!
//! Invariants:
//! - a frame is given out only below the durable frontier, and only if its checksum fits;
//! - damage is skipped to the next good frame; the gap shows in the lanes' numbers;
//! - nothing is deleted but by [`SpoolReader::release`].

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use shunt_domain::ports::NodeId;

use super::segments::{Frontier, SEGMENT_HEAD, SpoolDir, Visible};
use crate::frame::{Frame, FrameError, MAGIC, MAX_FRAME, PEEK, promised_len};

/// How much is read at once, unless a frame is larger.
const CHUNK: usize = 256 << 10;

/// A place between two frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The segment's number.
    pub segment: u64,
    /// Bytes from its beginning.
    pub offset: u64,
}

/// What the reader found.
#[derive(Debug)]
pub enum Next<'a> {
    /// A frame; the reader stands behind it.
    Frame(Box<Frame<'a>>),
    /// Nothing new within the timeout.
    Nothing,
    /// The spool is finished and everything was read.
    End,
}

/// Why the reader can't go on.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A segment can't be read.
    #[error("can't read the click spool: {0}; check the disk")]
    Io(#[from] io::Error),
    /// A frame of a newer program.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// The in-process transport: what the spool thread wrote, for one worker.
#[derive(Debug)]
pub struct SpoolReader {
    dir: PathBuf,
    node: NodeId,
    frontier: Arc<Frontier>,
    at: Position,
    open: Option<(u64, File)>,
    /// Bytes of the open segment from `start`.
    buffer: Vec<u8>,
    start: u64,
    damaged: u64,
}

impl SpoolReader {
    pub(crate) fn new(dir: &SpoolDir, node: NodeId, frontier: Arc<Frontier>) -> Self {
        Self {
            dir: dir.path().to_owned(),
            node,
            frontier,
            at: Position::default(),
            open: None,
            buffer: Vec::new(),
            start: 0,
            damaged: 0,
        }
    }

    /// Where the next frame is looked for.
    pub const fn position(&self) -> Position {
        self.at
    }

    /// Bytes skipped so far because they were no good frames.
    pub const fn damaged_bytes(&self) -> u64 {
        self.damaged
    }

    /// Goes back (or on) to a position this reader gave.
    pub fn rewind(&mut self, to: Position) {
        self.at = to;
    }

    /// The next durable frame; waits for one up to `timeout`. May return early with nothing.
    ///
    /// # Errors
    /// [`ReadError`]; the reader stays where it was.
    pub fn next(&mut self, timeout: Duration) -> Result<Next<'_>, ReadError> {
        let mut waited = false;
        loop {
            let (visible, later, finished) = {
                let mut state = self.frontier.state();
                loop {
                    let current = state
                        .segments
                        .iter()
                        .find(|s| s.number >= self.at.segment)
                        .copied()
                        .filter(|_| state.opened);
                    let later = current.is_some_and(|current| {
                        state.segments.back().is_some_and(|last| last.number > current.number)
                    });
                    let unread = current.is_some_and(|s| {
                        s.number > self.at.segment || s.len > self.at.offset || later && s.sealed
                    });
                    let interrupted = std::mem::take(&mut state.interrupted);
                    if unread || state.finished || waited || interrupted {
                        break (current.filter(|_| unread), later, state.finished);
                    }
                    state = self.frontier.wait(state, timeout);
                    waited = true;
                }
            };
            let Some(segment) = visible else {
                return Ok(if finished { Next::End } else { Next::Nothing });
            };
            if segment.number != self.at.segment {
                self.at = Position { segment: segment.number, offset: 0 };
            }
            if self.at.offset < SEGMENT_HEAD.len() as u64 {
                self.at.offset = SEGMENT_HEAD.len() as u64;
            }
            if let Some((from, to)) = self.find(segment)? {
                self.at.offset = self.start + to as u64;
                let frame = Frame::read(&self.buffer[from..to])?;
                return Ok(Next::Frame(Box::new(frame)));
            }
            self.at.offset = self.at.offset.max(segment.len);
            if later && segment.sealed {
                self.at = Position { segment: segment.number + 1, offset: 0 };
            }
        }
    }

    /// The place in the buffer of the first good frame at or behind the position, `None` when
    /// the visible part has none.
    fn find(&mut self, segment: Visible) -> Result<Option<(usize, usize)>, ReadError> {
        let mut offset = self.at.offset;
        loop {
            let Some(have) = self.load(segment, offset, PEEK)? else {
                self.damaged += segment.len.saturating_sub(self.at.offset);
                return Ok(None);
            };
            let from = (offset - self.start) as usize;
            let promised = self.buffer[from..from + have]
                .first_chunk::<PEEK>()
                .map_or(Err(FrameError::Damaged), promised_len);
            if let Ok(len) = promised
                && self.load(segment, offset, len)?.is_some()
            {
                let from = (offset - self.start) as usize;
                match Frame::parse(&self.buffer[from..from + len]) {
                    // Another node's frame here can only be something in an event that looks
                    // like one.
                    Ok(frame) if frame.state.node == self.node => {
                        self.damaged += offset - self.at.offset;
                        return Ok(Some((from, from + len)));
                    }
                    Err(error @ FrameError::Version(_)) => return Err(error.into()),
                    _ => {}
                }
            }
            // Damage: on to the next place that looks like a frame.
            offset = self.seek_magic(segment, offset + 1)?;
        }
    }

    /// The first place at or behind `offset` where a frame may begin; the visible end if none.
    fn seek_magic(&mut self, segment: Visible, mut offset: u64) -> io::Result<u64> {
        while let Some(have) = self.load(segment, offset, MAGIC.len())? {
            let from = (offset - self.start) as usize;
            let bytes = &self.buffer[from..from + have];
            if let Some(found) = bytes.windows(MAGIC.len()).position(|window| window == MAGIC) {
                return Ok(offset + found as u64);
            }
            offset += (have - MAGIC.len() + 1) as u64;
        }
        Ok(segment.len)
    }

    /// Makes sure that at least `len` bytes from `offset` are in the buffer; answers how many
    /// are, `None` when the visible part is shorter.
    fn load(&mut self, segment: Visible, offset: u64, len: usize) -> io::Result<Option<usize>> {
        if segment.len.saturating_sub(offset) < len as u64 {
            return Ok(None);
        }
        let same = self.open.as_ref().is_some_and(|(number, _)| *number == segment.number);
        let end = self.start + self.buffer.len() as u64;
        if same && offset >= self.start && offset + len as u64 <= end {
            return Ok(Some((end - offset) as usize));
        }
        if !same {
            let path = self.dir.join(format!("{:020}.spool", segment.number));
            self.open = Some((segment.number, File::open(path)?));
        }
        let Some((_, file)) = &self.open else { return Ok(None) };
        let want = len.max(CHUNK).min(MAX_FRAME.max(CHUNK));
        let want = (want as u64).min(segment.len - offset) as usize;
        self.buffer.resize(want, 0);
        self.start = offset;
        if let Err(error) = file.read_exact_at(&mut self.buffer, offset) {
            self.buffer.clear();
            return Err(error);
        }
        Ok(Some(want))
    }

    /// Everything before `position` is counted, durably: deletes the segments that end before
    /// it, as long as a later one has a frame.
    ///
    /// # Errors
    /// The operating system's; what could not be deleted is tried again next time.
    pub fn release(&mut self, position: Position) -> io::Result<()> {
        loop {
            let first = {
                let state = self.frontier.state();
                match state.segments.front() {
                    Some(first)
                        if first.sealed
                            && first.number < position.segment
                            && first.number < state.newest =>
                    {
                        *first
                    }
                    _ => return Ok(()),
                }
            };
            let path = self.dir.join(format!("{:020}.spool", first.number));
            let len = fs::metadata(&path).map_or(first.len, |meta| meta.len());
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let less = |bytes: u64| Some(bytes.saturating_sub(len));
            // The closure always answers, so there is no error.
            let _ = self.frontier.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
            self.frontier.count.fetch_sub(1, Ordering::Relaxed);
            self.frontier.state().segments.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use shunt_domain::Lane;
    use shunt_domain::ports::BootId;

    use super::*;
    use crate::frame::{BootState, header_len, seal};

    const NODE: NodeId = NodeId(7);

    /// A frame without events, with so many cores that it has the length asked for.
    fn frame(number: u64, cores: usize) -> Vec<u8> {
        let mut state = BootState::new(NODE, BootId(1), cores);
        state.frame = number;
        let mut bytes = vec![0; header_len(cores)];
        seal(&mut bytes, &state, &[0; Lane::COUNT], &[0; Lane::COUNT]);
        bytes
    }

    /// A spool with these segments, all sealed, the newest frame in segment `newest`.
    fn spool(dir: &std::path::Path, segments: &[&[u8]], newest: u64) -> SpoolReader {
        let spool = SpoolDir::open(dir.join("spool")).expect("a spool");
        let frontier = Arc::new(Frontier::default());
        for (number, bytes) in (1..).zip(segments) {
            let bytes = [&SEGMENT_HEAD[..], bytes].concat();
            fs::write(spool.segment_path(number), &bytes).expect("a segment");
            let len = bytes.len() as u64;
            frontier.update(|state| {
                state.segments.push_back(Visible { number, len, sealed: true });
            });
        }
        frontier.update(|state| {
            state.newest = newest;
            state.opened = true;
            state.finished = true;
        });
        SpoolReader::new(&spool, NODE, frontier)
    }

    /// The numbers of all frames until the end.
    fn read_all(reader: &mut SpoolReader) -> Vec<u64> {
        let mut numbers = Vec::new();
        loop {
            match reader.next(Duration::ZERO).expect("readable") {
                Next::Frame(frame) => numbers.push(frame.state.frame),
                Next::Nothing => {}
                Next::End => return numbers,
            }
        }
    }

    #[test]
    fn frames_come_in_order_over_segments_and_damage() {
        let dir = tempfile::tempdir().expect("a directory");
        let junk = [b"SHF1 and more that is no frame SHF1".to_vec(), vec![0xff; 300_000]].concat();
        // A frame that is larger than what is read at once, and one across such a border.
        let first = [frame(0, 1), frame(1, 20_000), junk.clone(), frame(2, 3)].concat();
        let second = [junk.clone(), frame(3, 1), frame(4, 2)[..500].to_vec()].concat();
        let third = [frame(5, 1), junk.clone()].concat();
        let mut reader = spool(dir.path(), &[&first, &second, &[], &junk, &third], 5);
        let begin = reader.position();
        assert_eq!(read_all(&mut reader), [0, 1, 2, 3, 5]);
        assert_eq!(reader.damaged_bytes(), 4 * junk.len() as u64 + 500);
        reader.rewind(begin);
        assert_eq!(read_all(&mut reader), [0, 1, 2, 3, 5]);
    }

    #[test]
    fn another_nodes_frame_is_no_frame() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut state = BootState::new(NodeId(8), BootId(1), 1);
        state.frame = 9;
        let mut other = vec![0; header_len(1)];
        seal(&mut other, &state, &[0; Lane::COUNT], &[0; Lane::COUNT]);
        let mut reader = spool(dir.path(), &[&[other, frame(1, 1)].concat()], 1);
        assert_eq!(read_all(&mut reader), [1]);
    }

    #[test]
    fn the_newest_frame_is_never_deleted() {
        let dir = tempfile::tempdir().expect("a directory");
        // The last segment was torn before its first frame was whole.
        let segments: [&[u8]; 3] = [&frame(0, 1), &frame(1, 1), &frame(2, 1)[..700]];
        let mut reader = spool(dir.path(), &segments, 2);
        assert_eq!(read_all(&mut reader), [0, 1]);
        let end = reader.position();
        assert_eq!(end.segment, 3);
        reader.release(end).expect("deleted");
        let there = |number: u64| dir.path().join(format!("spool/{number:020}.spool")).exists();
        assert_eq!([1, 2, 3].map(there), [false, true, true]);
    }
}
