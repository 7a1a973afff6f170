//! Segment files: their names, the lock, the boot's number, appending durably, and which part of
//! them readers may see.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shunt_domain::ports::BootId;

/// First bytes of a segment: for people and `file(1)`; readers go by frames.
pub(crate) const SEGMENT_HEAD: [u8; 16] = *b"SHUNT SPOOL 1\n\0\0";

const LOCK: &str = "lock";
const BOOT: &str = "boot";
const SUFFIX: &str = ".spool";

/// The spool's directory, locked for this process.
#[derive(Debug)]
pub(crate) struct SpoolDir {
    path: PathBuf,
    _lock: File,
}

impl SpoolDir {
    /// Makes the directory if it is missing, and locks it.
    ///
    /// # Errors
    /// The operating system's; `WouldBlock` when another process has it.
    pub(crate) fn open(path: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&path)?;
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join(LOCK))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A number for this boot: above every earlier one's that this directory or `now_millis`
    /// (for a directory that was deleted) knows of; durable before it is used.
    ///
    /// # Errors
    /// The operating system's.
    pub(crate) fn next_boot(&self, now_millis: u64) -> io::Result<BootId> {
        let path = self.path.join(BOOT);
        let last = match fs::read_to_string(&path) {
            Ok(text) => text.trim().parse().unwrap_or(0),
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        let boot = now_millis.max(u64::saturating_add(last, 1));
        let fresh = self.path.join("boot.new");
        let mut file = File::create(&fresh)?;
        writeln!(file, "{boot}")?;
        file.sync_all()?;
        fs::rename(&fresh, &path)?;
        self.sync()?;
        Ok(BootId(boot))
    }

    /// Makes the names in the directory durable.
    ///
    /// # Errors
    /// The operating system's.
    pub(crate) fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    /// The numbers and lengths of all segments, in order.
    ///
    /// # Errors
    /// The operating system's.
    pub(crate) fn segments(&self) -> io::Result<Vec<(u64, u64)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(SUFFIX));
            if let Some(number) = number.and_then(|digits| digits.parse().ok()) {
                found.push((number, entry.metadata()?.len()));
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    pub(crate) fn segment_path(&self, number: u64) -> PathBuf {
        self.path.join(format!("{number:020}{SUFFIX}"))
    }
}

/// A segment as readers see it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Visible {
    pub(crate) number: u64,
    /// Bytes that may be read: all frames below are on disk.
    pub(crate) len: u64,
    /// Nothing will be added.
    pub(crate) sealed: bool,
}

#[derive(Debug, Default)]
pub(crate) struct FrontierState {
    pub(crate) segments: VecDeque<Visible>,
    /// The segment of the newest durable frame: what recovery goes by is never deleted.
    pub(crate) newest: u64,
    /// The list is complete: what earlier processes left is in it.
    pub(crate) opened: bool,
    /// Nothing will come any more.
    pub(crate) finished: bool,
    /// The reader shall look up although nothing is new.
    pub(crate) interrupted: bool,
}

/// What the spool thread has made durable, for the reader to wait on; and the bytes on disk.
#[derive(Debug, Default)]
pub(crate) struct Frontier {
    state: Mutex<FrontierState>,
    wake: Condvar,
    /// Bytes of all segments, damaged and invisible ends included.
    pub(crate) bytes: AtomicU64,
    /// How many segments there are.
    pub(crate) count: AtomicU64,
}

impl Frontier {
    pub(crate) fn state(&self) -> MutexGuard<'_, FrontierState> {
        // Every change under the lock is one assignment: a panic leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and wakes the reader.
    pub(crate) fn update(&self, change: impl FnOnce(&mut FrontierState)) {
        change(&mut self.state());
        self.wake.notify_all();
    }

    /// Waits until something is said, at most `timeout`.
    pub(crate) fn wait<'a>(
        &self,
        state: MutexGuard<'a, FrontierState>,
        timeout: Duration,
    ) -> MutexGuard<'a, FrontierState> {
        self.wake.wait_timeout(state, timeout).unwrap_or_else(PoisonError::into_inner).0
    }
}

/// Why a frame was not made durable; it can be tried again, as it is.
#[derive(Debug)]
pub(crate) enum AppendError {
    /// The spool has its most bytes.
    Full,
    /// The disk failed or is full.
    Disk(io::Error),
}

/// Appends frames to the newest segment, each durable before it is visible.
#[derive(Debug)]
pub(crate) struct Appender {
    dir: SpoolDir,
    open: Option<OpenSegment>,
    next_number: u64,
    segment_bytes: u64,
    max_bytes: u64,
    pub(crate) fsyncs: u64,
    #[cfg(test)]
    faults: std::sync::Arc<Faults>,
}

#[derive(Debug)]
struct OpenSegment {
    file: File,
    number: u64,
    /// Durable bytes.
    len: u64,
}

/// Disk errors on demand.
#[cfg(test)]
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// Writes fail half-way while set.
    pub(crate) write: std::sync::atomic::AtomicBool,
    /// So many of the next fsyncs fail.
    pub(crate) sync: std::sync::atomic::AtomicU32,
}

/// How much of a frame is written at once.
const PIECE: usize = 64 << 10;

impl Appender {
    /// Goes on behind the segments that are there, which are sealed and made visible.
    ///
    /// # Errors
    /// The operating system's, and the directory back, still locked.
    pub(crate) fn new(
        dir: SpoolDir,
        segment_bytes: u64,
        max_bytes: u64,
        frontier: &Frontier,
    ) -> Result<Self, (SpoolDir, io::Error)> {
        let segments = match dir.segments() {
            Ok(segments) => segments,
            Err(error) => return Err((dir, error)),
        };
        let next_number = segments.last().map_or(1, |(number, _)| number + 1);
        frontier.bytes.store(segments.iter().map(|(_, len)| len).sum(), Ordering::Relaxed);
        frontier.count.store(segments.len() as u64, Ordering::Relaxed);
        frontier.state().segments = segments
            .into_iter()
            .map(|(number, len)| Visible { number, len, sealed: true })
            .collect();
        Ok(Self {
            dir,
            open: None,
            next_number,
            segment_bytes: segment_bytes.min(max_bytes / 4).max(1),
            max_bytes,
            fsyncs: 0,
            #[cfg(test)]
            faults: std::sync::Arc::default(),
        })
    }

    #[cfg(test)]
    pub(crate) fn with_faults(self, faults: std::sync::Arc<Faults>) -> Self {
        Self { faults, ..self }
    }

    /// Writes a frame, makes it durable and then visible. Nothing of it is visible after an
    /// error, and the same frame can be tried again.
    ///
    /// # Errors
    /// [`AppendError`].
    pub(crate) fn append(&mut self, frame: &[u8], frontier: &Frontier) -> Result<(), AppendError> {
        let used = frontier.bytes.load(Ordering::Relaxed);
        if used + (frame.len() + SEGMENT_HEAD.len()) as u64 > self.max_bytes {
            return Err(AppendError::Full);
        }
        if self.open.as_ref().is_some_and(|open| open.len >= self.segment_bytes) {
            self.seal(frontier);
        }
        let written = self.write(frame, frontier);
        let Some(open) = &mut self.open else {
            return Err(AppendError::Disk(
                written.err().unwrap_or_else(|| io::Error::other("no segment is open")),
            ));
        };
        match written {
            Ok(()) => {
                open.len += frame.len() as u64;
                let (number, len) = (open.number, open.len);
                frontier.bytes.fetch_add(frame.len() as u64, Ordering::Relaxed);
                frontier.update(|state| {
                    state.newest = number;
                    if let Some(last) = state.segments.back_mut().filter(|s| s.number == number) {
                        last.len = len;
                    } else {
                        state.segments.push_back(Visible { number, len, sealed: false });
                    }
                });
                Ok(())
            }
            Err(error) => {
                // A write that came half-way, or an fsync that failed: after the latter the
                // kernel may say that pages are clean that never reached the disk, so nothing
                // is ever added behind them. The frame is cut off, as far as the disk lets us;
                // if it stays, the reader meets the same events twice and takes them once.
                let _ = open.file.set_len(open.len);
                self.seal(frontier);
                Err(AppendError::Disk(error))
            }
        }
    }

    fn write(&mut self, frame: &[u8], frontier: &Frontier) -> io::Result<()> {
        let fresh = self.open.is_none();
        if fresh {
            let number = self.next_number;
            let file = OpenOptions::new()
                .append(true)
                .create_new(true)
                .mode(0o600)
                .open(self.dir.segment_path(number))?;
            self.next_number += 1;
            frontier.count.fetch_add(1, Ordering::Relaxed);
            let open = self.open.insert(OpenSegment { file, number, len: 0 });
            open.file.write_all(&SEGMENT_HEAD)?;
            open.len = SEGMENT_HEAD.len() as u64;
            frontier.bytes.fetch_add(SEGMENT_HEAD.len() as u64, Ordering::Relaxed);
        }
        let Some(open) = &mut self.open else { return Ok(()) };
        #[cfg(test)]
        if self.faults.write.load(Ordering::Relaxed) {
            open.file.write_all(&frame[..frame.len() / 2])?;
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        for piece in frame.chunks(PIECE) {
            open.file.write_all(piece)?;
            // Where redirects share this core, they come in between.
            std::thread::yield_now();
        }
        self.fsyncs += 1;
        #[cfg(test)]
        if self
            .faults
            .sync
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
            .is_ok()
        {
            return Err(io::Error::other("the test's fsync error"));
        }
        rustix::fs::fdatasync(&open.file)?;
        if fresh {
            self.dir.sync()?;
        }
        Ok(())
    }

    /// Ends the open segment; one without a frame is removed.
    fn seal(&mut self, frontier: &Frontier) {
        let Some(open) = self.open.take() else { return };
        let empty = open.len <= SEGMENT_HEAD.len() as u64;
        if empty && fs::remove_file(self.dir.segment_path(open.number)).is_ok() {
            frontier.bytes.fetch_sub(open.len, Ordering::Relaxed);
            frontier.count.fetch_sub(1, Ordering::Relaxed);
        }
        frontier.update(|state| {
            if let Some(last) = state.segments.back_mut().filter(|s| s.number == open.number) {
                last.sealed = true;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boots_only_grow() {
        let dir = tempfile::tempdir().expect("a directory");
        let spool = SpoolDir::open(dir.path().join("spool")).expect("a spool");
        assert_eq!(spool.next_boot(1000).expect("a number"), BootId(1000));
        // The clock went back, stood still, went on.
        assert_eq!(spool.next_boot(10).expect("a number"), BootId(1001));
        assert_eq!(spool.next_boot(1001).expect("a number"), BootId(1002));
        assert_eq!(spool.next_boot(5000).expect("a number"), BootId(5000));
        // The directory was deleted: the clock still leads further.
        fs::remove_file(spool.path().join(BOOT)).expect("it was there");
        assert_eq!(spool.next_boot(6000).expect("a number"), BootId(6000));
    }

    #[test]
    fn two_cannot_have_one_spool() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("spool");
        let first = SpoolDir::open(path.clone()).expect("a spool");
        let second = SpoolDir::open(path.clone()).expect_err("it is taken");
        assert_eq!(second.kind(), io::ErrorKind::WouldBlock);
        drop(first);
        SpoolDir::open(path).expect("it is free");
    }
}
