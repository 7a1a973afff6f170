//! The readers of one database: a few threads, each with a connection of its own, so that no
//! query ever runs on a core's event loop.
//!
//! Invariants: a read whose deadline passed while it waited is not executed, and one whose deadline
//! passes while it runs is stopped; point reads never wait behind scans, because at least one
//! thread takes no scans; what waits is bounded; a read sees everything that was committed before
//! it was asked for.
//!
//! Under load a reader takes several point reads at once, under one snapshot, and answers them
//! together: a snapshot costs four system calls, and an answer that wakes its asker at once costs a
//! change of threads on a machine with few cores.

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

/// Does the read.
type Work = Box<dyn FnOnce(&Connection) -> Done + Send>;

/// A read that was done.
struct Done {
    /// Sends the answer.
    reply: Box<dyn FnOnce()>,
    /// Whether the connection should not be used again.
    suspect: bool,
}

/// The most point reads under one snapshot.
const BATCH: usize = 16;

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
    /// Threads that wait for work.
    idle: usize,
    /// Those of them that were called and did not come yet.
    called: usize,
    closed: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    stats: Arc<ReaderStats>,
    threads: usize,
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
        // One thread for each batch that waits: those that were called take it.
        let waiting = queue.points.len() + queue.scans.len();
        let call = queue.idle > queue.called && waiting > queue.called * BATCH;
        queue.called += usize::from(call);
        drop(queue);
        if call {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// The next reads that may run now: one scan, or one reader's share of the point reads. Empty
    /// when the pool is closed and nothing waits.
    fn pop(&self) -> Vec<Job> {
        let mut queue = self.queue();
        loop {
            let share = queue.points.len().div_ceil(self.threads).min(BATCH);
            let mut jobs: Vec<Job> = queue.points.drain(..share).collect();
            if jobs.is_empty() && queue.scanning < self.max_scanning {
                jobs.extend(queue.scans.pop_front());
                queue.scanning += jobs.len();
            }
            if !jobs.is_empty() {
                self.stats.queued.fetch_sub(jobs.len() as u64, Ordering::Relaxed);
                return jobs;
            }
            if queue.closed && queue.scans.is_empty() {
                return jobs;
            }
            queue.idle += 1;
            queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
            queue.idle -= 1;
            // Whoever comes first is the one that was called.
            queue.called = queue.called.saturating_sub(1);
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
            threads,
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
                return Done { reply: Box::new(|| ()), suspect: false };
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
            let reply = move || {
                // Nobody listens any more: the caller gave up or went away.
                let _ = reply.send(result.map_err(|error| store_error(&error)));
            };
            Done { reply: Box::new(reply), suspect }
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
    let mut replies = Vec::new();
    loop {
        let jobs = shared.pop();
        let Some(first) = jobs.first() else { return };
        let scan = first.lane == Lane::Scan;
        // A scan has its own idea of transactions; one read is one already.
        let mut snapshot = jobs.len() > 1 && begin(connection.as_ref());
        for job in jobs {
            if job.deadline.passed(Instant::now()) {
                count(&shared.stats.expired);
                continue;
            }
            if connection.is_none() {
                connection = open_reader(db).ok();
                snapshot = false;
            }
            let Some(usable) = &connection else { continue };
            let _stop = StopAt::new(job.deadline.instant());
            // A panic in a query is that query's failure: its caller sees the reply dropped.
            let run = std::panic::AssertUnwindSafe(|| (job.work)(usable));
            let done = std::panic::catch_unwind(run).ok();
            if done.as_ref().is_none_or(|done| done.suspect) {
                connection = None;
            }
            replies.extend(done.map(|done| done.reply));
        }
        if snapshot && !connection.as_ref().is_some_and(end) {
            connection = None;
        }
        for reply in replies.drain(..) {
            reply();
        }
        if scan {
            shared.scan_done();
        }
    }
}

/// Begins a snapshot, if that goes; reads do without as well.
fn begin(connection: Option<&Connection>) -> bool {
    connection.is_some_and(|connection| {
        connection.prepare_cached("BEGIN").and_then(|mut begin| begin.execute([])).is_ok()
    })
}

/// Ends the snapshot; whether the connection can be used again. One that stayed in it would see
/// old rows for ever.
fn end(connection: &Connection) -> bool {
    let over = connection.prepare_cached("COMMIT").and_then(|mut commit| commit.execute([]));
    over.is_ok() || connection.is_autocommit()
}
