//! The readers of one database: a few threads, each with a connection of its own, so that no
//! query ever runs on a core's event loop.
//!
//! Invariants: a read whose deadline passed while it waited is not executed, and one whose deadline
//! passes while it runs is stopped; point reads never wait behind scans, because at least one
//! thread takes no scans; what waits is bounded.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use rusqlite::Connection;
use shunt_domain::{Deadline, StoreError};
use tokio::sync::oneshot;

use super::db::Db;
use super::error::{OpenError, store_error};
use super::stats::{ReaderStats, count};

/// How many reads may wait before more are refused.
const MAX_WAITING: usize = 16_384;

/// How many instructions of its virtual machine SQLite executes between two looks at the clock:
/// some microseconds' worth. Fetching a page of a text index is a few of them.
const OPS_PER_LOOK: i32 = 100;

thread_local! {
    /// When the query that runs on this thread is to be stopped.
    static STOP_AT: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Stops the queries of this reader's thread at an instant, while it lives; they fail with
/// `OperationInterrupted` then. The latest one counts.
#[derive(Debug)]
pub struct StopAt {
    before: Option<Instant>,
}

impl StopAt {
    /// From now on until it is dropped.
    pub fn new(instant: Instant) -> Self {
        Self { before: STOP_AT.replace(Some(instant)) }
    }
}

impl Drop for StopAt {
    fn drop(&mut self) {
        STOP_AT.set(self.before);
    }
}

/// Opens a reader's connection, which looks at the clock.
fn open_reader(db: &Db) -> rusqlite::Result<Connection> {
    let mut connection = db.reader()?;
    let over = || STOP_AT.get().is_some_and(|instant| Instant::now() >= instant);
    connection.progress_handler(OPS_PER_LOOK, Some(over))?;
    Ok(connection)
}

/// What kind of read it is: who may hold up whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Microseconds: one or a few rows by key.
    Point,
    /// Milliseconds: a page of a list, a search, a check.
    Scan,
}

/// Does the read and sends the answer; true when the connection should not be used again.
type Work = Box<dyn FnOnce(&Connection) -> bool + Send>;

struct Job {
    deadline: Deadline,
    lane: Lane,
    work: Work,
}

#[derive(Default)]
struct Queue {
    points: VecDeque<Job>,
    scans: VecDeque<Job>,
    scanning: usize,
    idle: usize,
    closed: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    stats: Arc<ReaderStats>,
    max_scanning: usize,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing that runs under the lock can leave the queue half changed.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a read into the queue, or says why not.
    fn push(&self, job: Job) -> Result<(), StoreError> {
        let mut queue = self.queue();
        if queue.closed {
            return Err(StoreError::Unavailable("the store is shutting down".to_owned()));
        }
        if queue.points.len() + queue.scans.len() >= MAX_WAITING {
            count(&self.stats.refused);
            return Err(StoreError::Unavailable("too many reads are waiting".to_owned()));
        }
        match job.lane {
            Lane::Point => queue.points.push_back(job),
            Lane::Scan => queue.scans.push_back(job),
        }
        self.stats.queued.fetch_add(1, Ordering::Relaxed);
        let wake = queue.idle > 0;
        drop(queue);
        if wake {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// The next read that may run now; `None` when the pool is closed and empty.
    fn pop(&self) -> Option<Job> {
        let mut queue = self.queue();
        loop {
            let mut job = queue.points.pop_front();
            if job.is_none() && queue.scanning < self.max_scanning {
                job = queue.scans.pop_front();
                queue.scanning += usize::from(job.is_some());
            }
            if let Some(job) = job {
                self.stats.queued.fetch_sub(1, Ordering::Relaxed);
                return Some(job);
            }
            if queue.closed && queue.scans.is_empty() {
                return None;
            }
            queue.idle += 1;
            queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
            queue.idle -= 1;
        }
    }

    /// Says that a scan is over, so that a waiting one may begin.
    fn scan_done(&self) {
        let mut queue = self.queue();
        queue.scanning -= 1;
        let wake = !queue.scans.is_empty() || queue.closed;
        drop(queue);
        if wake {
            self.wake.notify_all();
        }
    }
}

/// A pool of reader threads on one database.
pub struct Readers {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl std::fmt::Debug for Readers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Readers").finish_non_exhaustive()
    }
}

impl Readers {
    /// Starts `threads` readers (at least two: one is kept for point reads).
    ///
    /// # Errors
    /// [`OpenError`] when a connection or a thread can't be made.
    pub fn start(db: &Db, threads: usize, stats: Arc<ReaderStats>) -> Result<Self, OpenError> {
        let threads = threads.max(2);
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            wake: Condvar::new(),
            stats,
            max_scanning: threads - 1,
        });
        let readers = Self { shared, threads: Mutex::default() };
        for number in 0..threads {
            let connection =
                open_reader(db).map_err(|error| OpenError::from_sqlite(db.path(), &error))?;
            let shared = Arc::clone(&readers.shared);
            let thread_db = db.clone();
            let handle = std::thread::Builder::new()
                .name(format!("sqlite-read-{number}"))
                .spawn(move || work(&shared, &thread_db, connection))
                .map_err(|error| OpenError::from_io(db.path(), &error))?;
            readers.threads.lock().unwrap_or_else(PoisonError::into_inner).push(handle);
        }
        Ok(readers)
    }

    /// Runs `read` on a reader's connection and answers what it answers.
    ///
    /// Needs a Tokio runtime with a timer. Dropping the future forgets the answer.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the deadline passes, too much waits or the pool is closed;
    /// else what the database says.
    pub async fn run<T: Send + 'static>(
        &self,
        lane: Lane,
        deadline: Deadline,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let stats = Arc::clone(&self.shared.stats);
        let work = Box::new(move |connection: &Connection| {
            if reply.is_closed() {
                return false;
            }
            let started = Instant::now();
            let result = read(connection);
            match lane {
                Lane::Point => &stats.point_micros,
                Lane::Scan => &stats.scan_micros,
            }
            .record_micros(started.elapsed());
            count(&stats.done);
            let suspect = result.as_ref().is_err_and(is_suspect);
            // Nobody listens any more: the caller gave up or went away.
            let _ = reply.send(result.map_err(|error| store_error(&error)));
            suspect
        });
        self.shared.push(Job { deadline, lane, work })?;
        match tokio::time::timeout_at(deadline.instant().into(), answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(StoreError::Unavailable("the read was given up".to_owned())),
            Err(_) => Err(StoreError::Unavailable("the deadline of a read has passed".to_owned())),
        }
    }

    /// Lets what waits run to its end, then stops the threads. Blocks.
    pub fn close(&self) {
        self.shared.queue().closed = true;
        self.shared.wake.notify_all();
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // A reader's panics are caught inside; there is nothing to learn from its end.
            let _ = thread.join();
        }
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.close();
    }
}

/// Whether an error may be the connection's own fault, so that a new one might do better.
fn is_suspect(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode;
    matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::SystemIoFailure
                | ErrorCode::DatabaseCorrupt
                | ErrorCode::NotADatabase
                | ErrorCode::CannotOpen
                | ErrorCode::FileLockingProtocolFailed
        )
    )
}

/// A reader thread's life.
fn work(shared: &Shared, db: &Db, connection: Connection) {
    let mut connection = Some(connection);
    while let Some(job) = shared.pop() {
        let scan = job.lane == Lane::Scan;
        if job.deadline.passed(Instant::now()) {
            count(&shared.stats.expired);
        } else {
            if connection.is_none() {
                connection = open_reader(db).ok();
            }
            if let Some(usable) = &connection {
                let _stop = StopAt::new(job.deadline.instant());
                // A panic in a query is that query's failure: its caller sees the reply dropped.
                let run = std::panic::AssertUnwindSafe(|| (job.work)(usable));
                if std::panic::catch_unwind(run).unwrap_or(true) {
                    connection = None;
                }
            }
        }
        if scan {
            shared.scan_done();
        }
    }
}
