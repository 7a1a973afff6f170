//! The pipeline as a whole: starts its two threads, gives out recorders, stops in order.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant, SystemTime};

use shunt_domain::ports::{BootId, NodeId, RollupStore};
use shunt_domain::{Deadline, Timestamp};

use crate::config::PipelineConfig;
use crate::ring::{Ring, RingProducer, files};
use crate::spool::reader::{Position, SpoolReader};
use crate::spool::segments::{Frontier, SpoolDir};
use crate::spool::thread::SpoolThread;
use crate::stats::{Meters, PipelineStats, WorkerState};
use crate::worker::Worker;

/// Why the pipeline did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another process has the spool.
    #[error("the click spool {} is in use by another process; stop it or use another data directory", path.display())]
    Busy {
        /// The spool's directory.
        path: PathBuf,
    },
    /// The directory can't be used.
    #[error("can't use the click spool {}: {source}; check the disk and the directory's owner", path.display())]
    Spool {
        /// The spool's directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No memory for the rings, or no thread.
    #[error("can't start the click pipeline: {0}")]
    System(#[source] io::Error),
}

/// How a shutdown ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShutdownReport {
    /// The boot is closed: its last frame is on disk. Else the next start recovers it.
    pub closed: bool,
    /// Every click is in the roll-ups. Else they wait in the spool.
    pub stored: bool,
}

/// What both threads are told.
#[derive(Debug, Default)]
pub(crate) struct Control {
    state: Mutex<ControlState>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct ControlState {
    stop_at: Option<Instant>,
    paused: bool,
    stored: Position,
    /// Threads that ended.
    ended: usize,
}

impl Control {
    fn state(&self) -> MutexGuard<'_, ControlState> {
        // Every change under the lock is one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, change: impl FnOnce(&mut ControlState)) {
        change(&mut self.state());
        self.wake.notify_all();
    }

    pub(crate) fn stop_at(&self) -> Option<Instant> {
        self.state().stop_at
    }

    pub(crate) fn stopping(&self) -> bool {
        self.stop_at().is_some()
    }

    pub(crate) fn out_of_time(&self) -> bool {
        self.stop_at().is_some_and(|at| Instant::now() >= at)
    }

    /// Waits, but not longer than until the shutdown's deadline, or its beginning.
    pub(crate) fn wait(&self, time: Duration) {
        let state = self.state();
        let until = Instant::now() + time;
        let until = state.stop_at.map_or(until, |at| at.min(until));
        let stopping = state.stop_at.is_some();
        drop(
            self.wake
                .wait_timeout_while(
                    state,
                    until.saturating_duration_since(Instant::now()),
                    |state| state.stop_at.is_some() == stopping,
                )
                .unwrap_or_else(PoisonError::into_inner),
        );
    }

    /// Waits while the worker is paused, unless everything stops; whether it waited.
    pub(crate) fn wait_while_paused(&self, meters: &Meters) -> bool {
        let mut state = self.state();
        let paused = |state: &ControlState| state.paused && state.stop_at.is_none();
        if !paused(&state) {
            return false;
        }
        meters.worker(WorkerState::Paused, None);
        while paused(&state) {
            state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        meters.worker(WorkerState::Running, None);
        true
    }

    /// Everything before this place is stored.
    pub(crate) fn stored(&self, position: Position) {
        self.state().stored = position;
    }
}

/// Says that a thread ended, however it did.
struct Ended(Arc<Control>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.update(|state| state.ended += 1);
    }
}

/// The running pipeline of one process.
#[derive(Debug)]
pub struct Pipeline {
    config: PipelineConfig,
    node: NodeId,
    boot: BootId,
    rings: Vec<Arc<Ring>>,
    ring_dir: Option<PathBuf>,
    frontier: Arc<Frontier>,
    meters: Arc<Meters>,
    control: Arc<Control>,
    closed: Arc<AtomicBool>,
    stored: Arc<AtomicBool>,
    spool: Thread,
    threads: Mutex<Vec<JoinHandle<()>>>,
    #[cfg(test)]
    pub(crate) faults: Arc<crate::spool::segments::Faults>,
}

impl Pipeline {
    /// Starts the pipeline: takes the spool, makes the rings, starts the two threads. Blocks for
    /// a few milliseconds; what earlier boots left is recovered by the threads.
    ///
    /// `node` is the data directory's number and must stay the same for it.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(
        config: PipelineConfig,
        node: NodeId,
        rollups: Arc<dyn RollupStore>,
    ) -> Result<Self, StartError> {
        let path = config.data_dir.join("spool");
        let dir = SpoolDir::open(path.clone()).map_err(|source| {
            if source.kind() == io::ErrorKind::WouldBlock {
                StartError::Busy { path: path.clone() }
            } else {
                StartError::Spool { path: path.clone(), source }
            }
        })?;
        let now = u64::try_from(Timestamp::from(SystemTime::now()).as_millis()).unwrap_or(0);
        let boot = dir
            .next_boot(now)
            .map_err(|source| StartError::Spool { path: path.clone(), source })?;
        let config = PipelineConfig {
            cores: config.cores.max(1),
            flush_interval: config.flush_interval.max(Duration::from_millis(1)),
            ..config
        };
        let (rings, ring_dir) = files::create(&config, node, boot).map_err(StartError::System)?;

        let frontier = Arc::new(Frontier::default());
        let meters = Arc::new(Meters::default());
        let control = Arc::new(Control::default());
        let closed = Arc::new(AtomicBool::new(false));
        let stored = Arc::new(AtomicBool::new(false));
        let reader = SpoolReader::new(&dir, node, Arc::clone(&frontier));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(StartError::System)?;
        #[cfg(test)]
        let faults = Arc::<crate::spool::segments::Faults>::default();
        let spool = SpoolThread {
            config: config.clone(),
            node,
            boot,
            rings: rings.clone(),
            frontier: Arc::clone(&frontier),
            meters: Arc::clone(&meters),
            control: Arc::clone(&control),
            #[cfg(test)]
            faults: Arc::clone(&faults),
        };
        let worker = Worker {
            config: config.clone(),
            node,
            boot,
            rollups,
            meters: Arc::clone(&meters),
            control: Arc::clone(&control),
            runtime,
        };
        let spool = {
            let (ended, closed) = (Ended(Arc::clone(&control)), Arc::clone(&closed));
            spawn("click-spool", move || {
                let _ended = ended;
                closed.store(spool.run(dir), Ordering::Release);
            })?
        };
        let worker = {
            let (ended, stored) = (Ended(Arc::clone(&control)), Arc::clone(&stored));
            spawn("click-worker", move || {
                let _ended = ended;
                stored.store(worker.run(reader), Ordering::Release);
            })
        };
        let pipeline = Self {
            config,
            node,
            boot,
            rings,
            ring_dir,
            frontier,
            meters,
            control,
            closed,
            stored,
            spool: spool.thread().clone(),
            threads: Mutex::new(vec![spool]),
            #[cfg(test)]
            faults,
        };
        // Without a worker, dropping the pipeline stops the spool thread again.
        pipeline.threads().push(worker?);
        Ok(pipeline)
    }

    /// The recorder of a core, once each; `None` when there is no such core or it was given out.
    /// It must be dropped before [`Pipeline::shutdown`] can close the boot.
    pub fn take_recorder(&self, core: usize) -> Option<RingProducer> {
        self.rings.get(core)?.producer()
    }

    /// This process's boot.
    pub const fn boot(&self) -> BootId {
        self.boot
    }

    /// The node.
    pub const fn node(&self) -> NodeId {
        self.node
    }

    /// Lets the worker wait, or go on. Spooling goes on either way.
    pub fn pause_worker(&self, paused: bool) {
        self.control.update(|state| state.paused = paused);
        self.frontier.update(|state| state.interrupted = true);
    }

    /// The figures of this moment.
    pub fn stats(&self) -> PipelineStats {
        let stored = self.control.state().stored;
        let caught_up = {
            let state = self.frontier.state();
            state.opened
                && state.segments.back().is_none_or(|last| {
                    stored >= Position { segment: last.number, offset: last.len }
                })
        };
        PipelineStats {
            ring_bytes: self.rings.iter().map(|ring| ring.depth()).sum(),
            ring_capacity: self.rings.iter().map(|ring| ring.size()).sum(),
            ring_durable: self.ring_dir.is_some(),
            numbered: self.rings.iter().map(|ring| ring.numbered()).sum(),
            spool_bytes: self.frontier.bytes.load(Ordering::Relaxed),
            spool_limit: self.config.spool_bytes,
            segments: self.frontier.count.load(Ordering::Relaxed),
            ..self.meters.snapshot(caught_up)
        }
    }

    /// Stops in order: waits for the recorders to be dropped, drains the rings, writes the
    /// boot's closing frame, stores everything. Blocks, until `deadline` at most; what is not
    /// done by then is done by the next start.
    /// Only the first call stops anything; figures can still be read afterwards.
    pub fn shutdown(&self, deadline: Deadline) -> ShutdownReport {
        self.stop(deadline.instant());
        ShutdownReport {
            closed: self.closed.load(Ordering::Acquire),
            stored: self.stored.load(Ordering::Acquire),
        }
    }

    fn threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        // A list of handles has no half-changed state.
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self, at: Instant) {
        let threads = std::mem::take(&mut *self.threads());
        if threads.is_empty() {
            return;
        }
        self.control.update(|state| state.stop_at = Some(at));
        self.spool.unpark();
        self.frontier.update(|state| state.interrupted = true);
        let all = threads.len();
        // A little longer than the threads themselves have; one that hangs in a system call is
        // left to the end of the process.
        let grace = Duration::from_millis(500);
        let mut state = self.control.state();
        loop {
            let left = (at + grace).saturating_duration_since(Instant::now());
            if state.ended >= all || left.is_zero() {
                break;
            }
            state = self
                .control
                .wake
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        let ended = state.ended >= all;
        drop(state);
        for thread in threads.into_iter().filter(|_| ended) {
            // A panic of theirs was printed; the report says what is missing.
            let _ = thread.join();
        }
    }
}

impl Drop for Pipeline {
    /// Without [`Pipeline::shutdown`]: stops at once, as a kill would.
    fn drop(&mut self) {
        self.stop(Instant::now());
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StartError> {
    std::thread::Builder::new().name(name.to_owned()).spawn(run).map_err(StartError::System)
}
