//! Figures of the pipeline for `/metrics`, as plain atomics: the threads add, anybody reads.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How the spool thread is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SpoolState {
    /// Earlier boots are being recovered, or the spool is not open yet.
    Recovering,
    /// Frames are written as they come.
    Running,
    /// The spool has its most bytes: clicks wait on the rings.
    Full,
    /// The disk refuses writes: clicks wait on the rings.
    DiskError,
    /// The boot is closed, or the pipeline was stopped.
    Stopped,
}

/// How the worker is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WorkerState {
    /// Folding and storing.
    Running,
    /// Told to wait.
    Paused,
    /// The roll-up store refuses or does not answer; tried again with growing pauses.
    StoreError,
    /// The spool can't be read, or was written by a newer program.
    ReadError,
    /// The worker ended.
    Stopped,
}

/// A moment's figures of the pipeline. Counters are since this process started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PipelineStats {
    /// Bytes waiting on all rings.
    pub ring_bytes: u64,
    /// Bytes all rings can hold.
    pub ring_capacity: u64,
    /// Whether the rings outlive a killed process.
    pub ring_durable: bool,
    /// Events numbered by the redirect path.
    pub numbered: u64,
    /// Events lost because a ring was full though the spool ran: it was too slow.
    pub lost_ring_full: u64,
    /// Events lost because the rings were full while the spool had its most bytes.
    pub lost_spool_full: u64,
    /// Events lost because the rings were full while the disk refused writes.
    pub lost_disk_error: u64,
    /// Events of earlier boots found lost at recovery, beyond what they had reported.
    pub lost_crash: u64,
    /// Events that could not be decoded (they count as lost in the ledger).
    pub undecodable: u64,
    /// Bytes of spool that were skipped as damaged.
    pub damaged_bytes: u64,
    /// Bytes of the spool on disk.
    pub spool_bytes: u64,
    /// Most bytes the spool may have.
    pub spool_limit: u64,
    /// Segments on disk.
    pub segments: u64,
    /// Frames made durable.
    pub frames: u64,
    /// Events in them.
    pub spooled: u64,
    /// Events of earlier boots taken from their rings.
    pub recovered: u64,
    /// Calls of fsync on segments.
    pub fsyncs: u64,
    /// Writes and fsyncs that failed.
    pub disk_errors: u64,
    /// The spool thread.
    pub spool_state: SpoolState,
    /// Its last error, one line.
    pub spool_error: Option<String>,
    /// The worker.
    pub worker_state: WorkerState,
    /// Its last error, one line.
    pub worker_error: Option<String>,
    /// How much older the newest stored event is than the newest spooled one; zero when
    /// everything is stored.
    pub worker_lag: Duration,
    /// Events stored in roll-ups.
    pub counted: u64,
    /// Batches stored.
    pub batches: u64,
    /// Batches that had to be folded again.
    pub refolds: u64,
}

/// The live figures.
#[derive(Debug)]
pub(crate) struct Meters {
    pub(crate) lost_ring_full: AtomicU64,
    pub(crate) lost_spool_full: AtomicU64,
    pub(crate) lost_disk_error: AtomicU64,
    pub(crate) lost_crash: AtomicU64,
    pub(crate) undecodable: AtomicU64,
    pub(crate) damaged_bytes: AtomicU64,
    pub(crate) frames: AtomicU64,
    pub(crate) spooled: AtomicU64,
    pub(crate) recovered: AtomicU64,
    pub(crate) fsyncs: AtomicU64,
    pub(crate) disk_errors: AtomicU64,
    pub(crate) counted: AtomicU64,
    pub(crate) batches: AtomicU64,
    pub(crate) refolds: AtomicU64,
    /// Wall time of the newest durable frame, milliseconds.
    pub(crate) durable_at: AtomicU64,
    /// Wall time of the newest stored frame, of the oldest one to store before there is any.
    pub(crate) stored_at: AtomicU64,
    spool_state: AtomicU8,
    worker_state: AtomicU8,
    spool_error: Mutex<Option<String>>,
    worker_error: Mutex<Option<String>>,
}

impl Default for Meters {
    fn default() -> Self {
        Self {
            lost_ring_full: AtomicU64::default(),
            lost_spool_full: AtomicU64::default(),
            lost_disk_error: AtomicU64::default(),
            lost_crash: AtomicU64::default(),
            undecodable: AtomicU64::default(),
            damaged_bytes: AtomicU64::default(),
            frames: AtomicU64::default(),
            spooled: AtomicU64::default(),
            recovered: AtomicU64::default(),
            fsyncs: AtomicU64::default(),
            disk_errors: AtomicU64::default(),
            counted: AtomicU64::default(),
            batches: AtomicU64::default(),
            refolds: AtomicU64::default(),
            durable_at: AtomicU64::default(),
            stored_at: AtomicU64::default(),
            spool_state: AtomicU8::new(SpoolState::Recovering as u8),
            worker_state: AtomicU8::new(WorkerState::Running as u8),
            spool_error: Mutex::default(),
            worker_error: Mutex::default(),
        }
    }
}

/// Adds to a counter.
pub(crate) fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn set_error(slot: &Mutex<Option<String>>, error: Option<String>) {
    *slot.lock().unwrap_or_else(PoisonError::into_inner) = error;
}

fn error_of(slot: &Mutex<Option<String>>) -> Option<String> {
    slot.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

impl Meters {
    pub(crate) fn spool(&self, state: SpoolState, error: Option<String>) {
        if self.spool_state.swap(state as u8, Ordering::Relaxed) != state as u8 || error.is_some() {
            set_error(&self.spool_error, error);
        }
    }

    pub(crate) fn worker(&self, state: WorkerState, error: Option<String>) {
        if self.worker_state.swap(state as u8, Ordering::Relaxed) != state as u8 || error.is_some()
        {
            set_error(&self.worker_error, error);
        }
    }

    pub(crate) fn spool_state(&self) -> SpoolState {
        use SpoolState::{DiskError, Full, Recovering, Running, Stopped};
        let number = self.spool_state.load(Ordering::Relaxed);
        [Recovering, Running, Full, DiskError]
            .into_iter()
            .find(|state| *state as u8 == number)
            .unwrap_or(Stopped)
    }

    pub(crate) fn worker_state(&self) -> WorkerState {
        use WorkerState::{Paused, ReadError, Running, Stopped, StoreError};
        let number = self.worker_state.load(Ordering::Relaxed);
        [Running, Paused, StoreError, ReadError]
            .into_iter()
            .find(|state| *state as u8 == number)
            .unwrap_or(Stopped)
    }

    /// The figures, with what only the rings and the frontier know filled in by the caller.
    pub(crate) fn snapshot(&self, caught_up: bool) -> PipelineStats {
        let behind = get(&self.durable_at).saturating_sub(get(&self.stored_at));
        PipelineStats {
            ring_bytes: 0,
            ring_capacity: 0,
            ring_durable: false,
            numbered: 0,
            lost_ring_full: get(&self.lost_ring_full),
            lost_spool_full: get(&self.lost_spool_full),
            lost_disk_error: get(&self.lost_disk_error),
            lost_crash: get(&self.lost_crash),
            undecodable: get(&self.undecodable),
            damaged_bytes: get(&self.damaged_bytes),
            spool_bytes: 0,
            spool_limit: 0,
            segments: 0,
            frames: get(&self.frames),
            spooled: get(&self.spooled),
            recovered: get(&self.recovered),
            fsyncs: get(&self.fsyncs),
            disk_errors: get(&self.disk_errors),
            spool_state: self.spool_state(),
            spool_error: error_of(&self.spool_error),
            worker_state: self.worker_state(),
            worker_error: error_of(&self.worker_error),
            worker_lag: if caught_up { Duration::ZERO } else { Duration::from_millis(behind) },
            counted: get(&self.counted),
            batches: get(&self.batches),
            refolds: get(&self.refolds),
        }
    }
}
