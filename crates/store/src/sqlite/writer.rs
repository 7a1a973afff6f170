//! The writer of one database: one thread with the only connection that writes, and group commit.
//!
//! Everything that waits when the thread is free goes into one transaction, up to
//! [`MAX_GROUP`] rows; all of it is answered after that transaction's `COMMIT`, hence after its
//! `fsync`. While one group is being synced the next one gathers, so nothing ever waits for a
//! timer.
//!
//! Invariants:
//! - an operation is answered "done" only after the commit that holds it;
//! - an operation that was never begun is refused, never "unknown"; once the thread has taken it,
//!   a caller whose deadline passes is told that nobody knows;
//! - one bad operation does not fail its neighbours: a group that fails is halved and run again,
//!   so an operation may run more than once before the one commit that counts;
//! - after a commit that failed with an I/O error the connection is not used again.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode};
use shunt_domain::{Deadline, Outcome, StoreError, UnknownCause};
use tokio::sync::oneshot;

use super::checkpoint::Checkpointer;
use super::db::Db;
use super::error::{OpenError, store_error};
use super::stats::{WriterStats, count};

/// The most rows in one transaction (a single operation may bring more).
pub const MAX_GROUP: usize = 1_000;

/// How many rows may wait before more are refused.
const MAX_WAITING: usize = 32_768;

/// How long the thread is idle before it moves the log into the database file.
const IDLE: Duration = Duration::from_millis(500);

/// What a writer keeps beside its connection: counters that live in the database, caches.
pub trait GroupState: Sized + Send + 'static {
    /// Reads it from the database: at the start, and again after each reopening.
    ///
    /// # Errors
    /// What SQLite says.
    fn load(connection: &Connection) -> rusqlite::Result<Self>;

    /// Writes what has changed, as the last thing before a `COMMIT`.
    ///
    /// # Errors
    /// What SQLite says; the group is rolled back.
    fn before_commit(&mut self, _connection: &Connection) -> rusqlite::Result<()> {
        Ok(())
    }

    /// The group is durable.
    fn committed(&mut self) {}

    /// The group did not happen: forget what it changed.
    fn rolled_back(&mut self) {}
}

impl GroupState for () {
    fn load(_connection: &Connection) -> rusqlite::Result<Self> {
        Ok(())
    }
}

/// An open transaction, as an operation sees it.
pub struct Tx<'a, S> {
    /// The connection. Use `prepare_cached`; never begin, commit, roll back or set savepoints.
    pub connection: &'a Connection,
    /// The writer's state.
    pub state: &'a mut S,
}

impl<S> std::fmt::Debug for Tx<'_, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tx").finish_non_exhaustive()
    }
}

/// A write. It must leave the database unchanged when it "refuses" by its own output, because its
/// neighbours' changes are committed all the same; an error rolls the whole group back.
pub trait WriteOp<S>: Send + 'static {
    /// What it answers once it is durable.
    type Output: Send + 'static;

    /// Does it. May run again from the start after a rollback.
    ///
    /// # Errors
    /// What SQLite says.
    fn run(&mut self, tx: &mut Tx<'_, S>) -> rusqlite::Result<()>;

    /// The answer of the last [`run`](Self::run), which has succeeded.
    fn output(self) -> Self::Output;
}

/// A write made of a closure.
struct FnOp<F, T> {
    run: F,
    output: Option<T>,
}

impl<S, F, T> WriteOp<S> for FnOp<F, T>
where
    F: FnMut(&mut Tx<'_, S>) -> rusqlite::Result<T> + Send + 'static,
    T: Send + 'static,
{
    type Output = Option<T>;

    fn run(&mut self, tx: &mut Tx<'_, S>) -> rusqlite::Result<()> {
        self.output = Some((self.run)(tx)?);
        Ok(())
    }

    fn output(self) -> Self::Output {
        self.output
    }
}

/// How a group ended.
#[derive(Clone, Debug)]
enum End {
    Committed,
    Refused(StoreError),
    Unknown(UnknownCause),
}

trait AnyOp<S>: Send {
    fn run(&mut self, tx: &mut Tx<'_, S>) -> rusqlite::Result<()>;
    fn end(self: Box<Self>, end: End);
}

struct Replying<O, T> {
    op: O,
    reply: oneshot::Sender<Outcome<T, StoreError>>,
}

impl<S, O: WriteOp<S>> AnyOp<S> for Replying<O, O::Output> {
    fn run(&mut self, tx: &mut Tx<'_, S>) -> rusqlite::Result<()> {
        self.op.run(tx)
    }

    fn end(self: Box<Self>, end: End) {
        let outcome = match end {
            End::Committed => Outcome::Done(self.op.output()),
            End::Refused(error) => Outcome::Refused(error),
            End::Unknown(cause) => Outcome::Unknown(cause),
        };
        // Nobody listens any more: the caller gave up or went away.
        let _ = self.reply.send(outcome);
    }
}

/// Where an operation is: the caller and the thread settle by compare-and-swap who was first.
#[derive(Default)]
struct Ticket(AtomicU8);

impl Ticket {
    const QUEUED: u8 = 0;
    const TAKEN: u8 = 1;
    const GIVEN_UP: u8 = 2;

    fn settle(&self, to: u8) -> bool {
        self.0.compare_exchange(Self::QUEUED, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

struct Job<S> {
    op: Box<dyn AnyOp<S>>,
    ticket: Arc<Ticket>,
    deadline: Deadline,
    rows: usize,
}

struct Queue<S> {
    jobs: VecDeque<Job<S>>,
    rows: usize,
    closed: bool,
}

struct Shared<S> {
    queue: Mutex<Queue<S>>,
    wake: Condvar,
    /// Set when the log holds something that must go.
    truncate: AtomicBool,
    stats: Arc<WriterStats>,
}

impl<S> Shared<S> {
    fn queue(&self) -> MutexGuard<'_, Queue<S>> {
        // Nothing that runs under the lock can leave the queue half changed.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, job: Job<S>) -> Result<(), StoreError> {
        let mut queue = self.queue();
        if queue.closed {
            return Err(StoreError::Unavailable("the store is shutting down".to_owned()));
        }
        if queue.rows >= MAX_WAITING {
            count(&self.stats.refused);
            return Err(StoreError::Unavailable("too many writes are waiting".to_owned()));
        }
        queue.rows += job.rows;
        self.stats.queued.store(queue.rows as u64, Ordering::Relaxed);
        let first = queue.jobs.is_empty();
        queue.jobs.push_back(job);
        drop(queue);
        if first {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// The next group. `Waiting::Idle` when nothing came for a while and `restless` says that
    /// there is something to do then, `Waiting::Closed` at the end.
    fn next_group(&self, restless: bool) -> Waiting<S> {
        let mut queue = self.queue();
        while queue.jobs.is_empty() {
            if queue.closed {
                return Waiting::Closed;
            }
            if !restless && !self.truncate.load(Ordering::Acquire) {
                queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let (woken, timeout) =
                self.wake.wait_timeout(queue, IDLE).unwrap_or_else(PoisonError::into_inner);
            queue = woken;
            if timeout.timed_out() && queue.jobs.is_empty() && !queue.closed {
                return Waiting::Idle;
            }
        }
        let mut group = Vec::with_capacity(queue.jobs.len().min(MAX_GROUP));
        let mut rows = 0;
        while rows < MAX_GROUP
            && let Some(job) = queue.jobs.pop_front()
        {
            rows += job.rows;
            group.push(job);
        }
        queue.rows = queue.rows.saturating_sub(rows);
        self.stats.queued.store(queue.rows as u64, Ordering::Relaxed);
        Waiting::Group(group)
    }
}

enum Waiting<S> {
    Group(Vec<Job<S>>),
    Idle,
    Closed,
}

/// The writer thread of one database.
pub struct Writer<S: GroupState> {
    shared: Arc<Shared<S>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl<S: GroupState> std::fmt::Debug for Writer<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

impl<S: GroupState> Writer<S> {
    /// Starts the thread with the connection that [`Db::open`] gave.
    ///
    /// # Errors
    /// [`OpenError`] when the state can't be read or a thread can't be started.
    pub fn start(
        db: &Db,
        connection: Connection,
        stats: Arc<WriterStats>,
    ) -> Result<Self, OpenError> {
        let state =
            S::load(&connection).map_err(|error| OpenError::from_sqlite(db.path(), &error))?;
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue { jobs: VecDeque::new(), rows: 0, closed: false }),
            wake: Condvar::new(),
            truncate: AtomicBool::new(false),
            stats,
        });
        let checkpointer = Checkpointer::start(db)?;
        let mut thread = Thread {
            db: db.clone(),
            open: Some((connection, state)),
            stats: Arc::clone(&shared.stats),
            checkpointer,
        };
        let thread_shared = Arc::clone(&shared);
        let handle = std::thread::Builder::new()
            .name("sqlite-write".to_owned())
            .spawn(move || thread.live(&thread_shared))
            .map_err(|error| OpenError::from_io(db.path(), &error))?;
        Ok(Self { shared, thread: Mutex::new(Some(handle)) })
    }

    /// A writer that refuses everything, for a store that is only read.
    pub fn none(stats: Arc<WriterStats>) -> Self {
        let shared = Shared {
            queue: Mutex::new(Queue { jobs: VecDeque::new(), rows: 0, closed: true }),
            wake: Condvar::new(),
            truncate: AtomicBool::new(false),
            stats,
        };
        Self { shared: Arc::new(shared), thread: Mutex::default() }
    }

    /// Queues `op` as part of the next group and answers after its commit. `rows` is how much of a
    /// group it is.
    ///
    /// Needs a Tokio runtime with a timer. Dropping the future forgets the answer, not the write.
    pub async fn submit<O: WriteOp<S>>(
        &self,
        op: O,
        rows: usize,
        deadline: Deadline,
    ) -> Outcome<O::Output, StoreError> {
        let (reply, answer) = oneshot::channel();
        let ticket = Arc::new(Ticket::default());
        let job = Job {
            op: Box::new(Replying { op, reply }),
            ticket: Arc::clone(&ticket),
            deadline,
            rows: rows.max(1),
        };
        if let Err(error) = self.shared.push(job) {
            return Outcome::Refused(error);
        }
        match tokio::time::timeout_at(deadline.instant().into(), answer).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Outcome::Unknown(UnknownCause::Lost),
            Err(_) if ticket.settle(Ticket::GIVEN_UP) => Outcome::Refused(waited_too_long()),
            Err(_) => Outcome::Unknown(UnknownCause::Deadline),
        }
    }

    /// [`submit`](Self::submit) for a closure. It may run again after a rollback, so it must not
    /// use anything up.
    pub async fn write<T, F>(&self, deadline: Deadline, op: F) -> Outcome<T, StoreError>
    where
        T: Send + 'static,
        F: FnMut(&mut Tx<'_, S>) -> rusqlite::Result<T> + Send + 'static,
    {
        match self.submit(FnOp { run: op, output: None }, 1, deadline).await {
            Outcome::Done(Some(value)) => Outcome::Done(value),
            // Committed without having run: can't be, but then nobody knows what happened.
            Outcome::Done(None) => Outcome::Unknown(UnknownCause::Lost),
            Outcome::Refused(error) => Outcome::Refused(error),
            Outcome::Unknown(cause) => Outcome::Unknown(cause),
        }
    }

    /// Asks the thread to empty the log into the database file and to cut it to nothing, as soon
    /// as no reader uses it: it holds something that was destroyed.
    pub fn truncate_log(&self) {
        let queue = self.shared.queue();
        self.shared.truncate.store(true, Ordering::Release);
        drop(queue);
        self.shared.wake.notify_all();
    }

    /// Takes no more writes, commits what waits, empties the log into the database file and stops
    /// the thread. Blocks.
    pub fn close(&self) {
        self.shared.queue().closed = true;
        self.shared.wake.notify_all();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // The thread's panics are caught inside; there is nothing to learn from its end.
            let _ = thread.join();
        }
    }
}

impl<S: GroupState> Drop for Writer<S> {
    fn drop(&mut self) {
        self.close();
    }
}

fn waited_too_long() -> StoreError {
    StoreError::Unavailable("the deadline passed while the write waited".to_owned())
}

/// Why a transaction did not commit.
enum Failure {
    /// It was rolled back.
    NotDone(rusqlite::Error),
    /// The commit failed in a way that leaves both possible.
    Unknown,
}

struct Thread<S> {
    db: Db,
    /// `None` while a lost connection could not be opened anew.
    open: Option<(Connection, S)>,
    stats: Arc<WriterStats>,
    checkpointer: Checkpointer,
}

impl<S: GroupState> Thread<S> {
    fn live(&mut self, shared: &Shared<S>) {
        loop {
            match shared.next_group(self.checkpointer.is_restless()) {
                Waiting::Closed => break,
                Waiting::Idle => self.checkpoint(shared, true),
                Waiting::Group(jobs) => {
                    // A panic in an operation drops the whole group: its callers see the replies
                    // go away and say "unknown". The connection is in an unknown state as well.
                    let run = std::panic::AssertUnwindSafe(|| self.group(jobs));
                    if std::panic::catch_unwind(run).is_err() {
                        self.open = None;
                    }
                    self.checkpoint(shared, false);
                }
            }
        }
        self.checkpointer.stop();
        if let Some((connection, _)) = &self.open {
            // If something still reads, or the disk is full, the log stays and is used next time.
            let _ = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        }
    }

    fn group(&mut self, jobs: Vec<Job<S>>) {
        let now = Instant::now();
        let mut taken = Vec::with_capacity(jobs.len());
        for job in jobs {
            if !job.ticket.settle(Ticket::TAKEN) {
                continue;
            }
            if job.deadline.passed(now) {
                count(&self.stats.refused);
                job.op.end(End::Refused(waited_too_long()));
            } else {
                taken.push(job.op);
            }
        }
        self.commit(taken);
    }

    /// Commits the operations, all together if possible, and answers each.
    fn commit(&mut self, mut ops: Vec<Box<dyn AnyOp<S>>>) {
        if ops.is_empty() {
            return;
        }
        let started = Instant::now();
        let end = match self.attempt(&mut ops) {
            Ok(()) => {
                self.stats.group_size.record(ops.len() as u64);
                self.stats.group_micros.record_micros(started.elapsed());
                self.stats.acknowledged.fetch_add(ops.len() as u64, Ordering::Relaxed);
                End::Committed
            }
            Err(Failure::NotDone(_)) if ops.len() > 1 => {
                let second = ops.split_off(ops.len() / 2);
                self.commit(ops);
                self.commit(second);
                return;
            }
            Err(Failure::NotDone(error)) => {
                count(&self.stats.refused);
                End::Refused(store_error(&error))
            }
            Err(Failure::Unknown) => {
                self.stats.unknown.fetch_add(ops.len() as u64, Ordering::Relaxed);
                End::Unknown(UnknownCause::CommitFailed)
            }
        };
        for op in ops {
            op.end(end.clone());
        }
    }

    fn attempt(&mut self, ops: &mut [Box<dyn AnyOp<S>>]) -> Result<(), Failure> {
        if self.open.is_none() {
            let connection = self.db.writer().map_err(Failure::NotDone)?;
            let state = S::load(&connection).map_err(Failure::NotDone)?;
            count(&self.stats.reopened);
            self.open = Some((connection, state));
        }
        let Some((connection, state)) = &mut self.open else {
            return Err(Failure::Unknown);
        };
        let changes = connection.total_changes();
        let ran = run_all(connection, state, ops);
        let result = match ran {
            Ok(()) => match execute(connection, "COMMIT") {
                Ok(()) => {
                    state.committed();
                    if connection.total_changes() != changes {
                        count(&self.stats.commits);
                    }
                    return Ok(());
                }
                // A full disk stops the log before its commit frame is whole, and a lock stops the
                // commit before it writes: the transaction is not there and will not be.
                Err(error)
                    if matches!(
                        error.sqlite_error_code(),
                        Some(ErrorCode::DiskFull | ErrorCode::DatabaseBusy)
                    ) =>
                {
                    Failure::NotDone(error)
                }
                Err(_) => Failure::Unknown,
            },
            Err(error) => Failure::NotDone(error),
        };
        count(&self.stats.rollbacks);
        state.rolled_back();
        let clean = connection.is_autocommit() || execute(connection, "ROLLBACK").is_ok();
        let keep = match &result {
            Failure::NotDone(error) => clean && is_harmless(error),
            Failure::Unknown => false,
        };
        if !keep {
            self.open = None;
        }
        Err(result)
    }

    /// Looks after the write-ahead log.
    fn checkpoint(&mut self, shared: &Shared<S>, idle: bool) {
        let Some((connection, _)) = &self.open else { return };
        if shared.truncate.load(Ordering::Acquire) && self.checkpointer.truncate(connection) {
            shared.truncate.store(false, Ordering::Release);
        }
        self.checkpointer.look(connection, &self.stats, idle);
    }
}

fn run_all<S: GroupState>(
    connection: &Connection,
    state: &mut S,
    ops: &mut [Box<dyn AnyOp<S>>],
) -> rusqlite::Result<()> {
    execute(connection, "BEGIN IMMEDIATE")?;
    let mut tx = Tx { connection, state };
    for op in ops {
        op.run(&mut tx)?;
    }
    state.before_commit(connection)
}

fn execute(connection: &Connection, sql: &str) -> rusqlite::Result<()> {
    connection.prepare_cached(sql)?.execute([]).map(drop)
}

/// Whether the connection is as good as before after this error and a rollback.
fn is_harmless(error: &rusqlite::Error) -> bool {
    !matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::SystemIoFailure
                | ErrorCode::DatabaseCorrupt
                | ErrorCode::NotADatabase
                | ErrorCode::CannotOpen
                | ErrorCode::FileLockingProtocolFailed
                | ErrorCode::OutOfMemory
        )
    )
}
