//! One database as everything above uses it: threads of its own that talk to the server, shared
//! connections for reads, pools for writes and for scans.
//!
//! The threads are the store's own because its callers live on event loops that must not wait for
//! it and may end before it. A write runs there to its end whoever waits for it: a caller that
//! goes away leaves no half-used connection behind.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use shunt_domain::ports::BoxFuture;
use shunt_domain::{Deadline, Outcome, StoreError, UnknownCause};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::oneshot;
use tokio::time::timeout_at;

use super::connect::{Connector, Guide};
use super::error::{Failure, PostgresError};
use super::options::PostgresOptions;
use super::overdue::{Flight, Pilot};
use super::pool::{Pool, lock, shutting_down};
use super::readers::Readers;
use super::session::{Session, Ticket};
use super::stats::{PostgresStats, count};

/// How long a closing store waits for writes that are under way.
const LAST_WRITES: Duration = Duration::from_secs(5);

/// How often a transaction is run that loses against others, or whose connection was dead.
pub(super) const ATTEMPTS: u32 = 6;

/// What is done on a connection: a function, so that it can be run again, and what it works on.
pub(super) type Op<A, T> = for<'a> fn(&'a A, &'a Session) -> BoxFuture<'a, Result<T, Failure>>;

/// See the module.
pub(super) struct Database {
    runtime: Mutex<Option<Runtime>>,
    handle: Handle,
    pub(super) connector: Arc<Connector>,
    pub(super) readers: Arc<Readers>,
    pub(super) writers: Arc<Pool>,
    scanners: Arc<Pool>,
    pub(super) stats: Arc<PostgresStats>,
    pub(super) options: PostgresOptions,
    closed: AtomicBool,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database").field("connector", &self.connector).finish_non_exhaustive()
    }
}

impl Database {
    /// Starts the threads. The server need not be there yet. With a guide, connections lead where
    /// that says.
    ///
    /// # Errors
    /// [`PostgresError::Options`].
    pub(super) fn start(
        options: PostgresOptions,
        guide: Option<Arc<dyn Guide>>,
    ) -> Result<Self, PostgresError> {
        let stats = Arc::<PostgresStats>::default();
        let connector = Arc::new(Connector::new(&options, guide, Arc::clone(&stats))?);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(options.io_threads.max(1))
            .thread_name("postgres")
            .enable_all()
            .build()
            .map_err(|error| {
                PostgresError::Options(format!("can't start threads for PostgreSQL: {error}"))
            })?;
        let handle = runtime.handle().clone();
        let readers = Readers::start(&handle, &connector, &stats, &options);
        let writers = Arc::new(Pool::new(Arc::clone(&connector), options.writers, &options));
        let scanners = Arc::new(Pool::new(Arc::clone(&connector), options.scanners, &options));
        let watch = Arc::clone(writers.overdue());
        handle.spawn(watch.watch(Arc::clone(&connector), Arc::clone(&stats)));
        Ok(Self {
            runtime: Mutex::new(Some(runtime)),
            handle,
            connector,
            readers,
            writers,
            scanners,
            stats,
            options,
            closed: AtomicBool::new(false),
        })
    }

    /// Runs something on the threads of the store and waits for it, from any thread.
    ///
    /// # Errors
    /// When the store was closed meanwhile.
    pub(super) fn block_on<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = std::sync::mpsc::channel();
        self.handle.spawn(async move {
            // Nobody waits only when the waiting thread was killed.
            let _ = reply.send(work.await);
        });
        answer.recv().map_err(|_| shutting_down())
    }

    /// Takes no more work, waits for writes that are under way (five seconds at most), and ends
    /// all connections. Blocks.
    pub(super) fn close(&self) {
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        let writers = Arc::clone(&self.writers);
        let drained = async move { tokio::time::timeout(LAST_WRITES, writers.drain()).await };
        // Late writes are cut off below; their callers learn that nobody knows.
        let _ = self.block_on(drained);
        self.stop();
    }

    fn stop(&self) {
        self.writers.close();
        self.scanners.close();
        self.readers.close();
        if let Some(runtime) = lock(&self.runtime).take() {
            runtime.shutdown_background();
        }
    }

    /// Spawns work of the store's own.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.handle.spawn(work);
    }

    /// The refusal to give at once: shutting down, too late, or too much hangs already.
    pub(super) fn refusal(&self, deadline: Deadline) -> Option<StoreError> {
        if self.closed.load(Ordering::Acquire) {
            return Some(shutting_down());
        }
        if deadline.passed(Instant::now()) {
            return Some(late());
        }
        let overdue = self.writers.overdue().count();
        if overdue >= self.options.max_overdue.clamp(1, self.options.writers.max(1)) as u64 {
            count(&self.stats.failed_fast);
            let text = format!("{overdue} writes are past their deadline and not answered");
            return Some(StoreError::Unavailable(text));
        }
        None
    }

    /// Does a write: one transaction, or several of which at most the last changes anything.
    pub(super) async fn write<A, T>(
        &self,
        deadline: Deadline,
        args: A,
        op: Op<A, T>,
    ) -> Outcome<T, StoreError>
    where
        A: Send + Sync + 'static,
        T: Send + 'static,
    {
        let outcome = match self.refusal(deadline) {
            Some(error) => Outcome::Refused(error),
            None => self.run(&self.writers, deadline, args, op).await,
        };
        self.tally(&outcome);
        outcome
    }

    /// Counts how a write ended.
    pub(super) fn tally<T, R>(&self, outcome: &Outcome<T, R>) {
        count(match outcome {
            Outcome::Done(_) => &self.stats.done,
            Outcome::Refused(_) => &self.stats.refused,
            Outcome::Unknown(_) => &self.stats.unknown,
        });
    }

    /// Reads what takes its time, on a connection that nobody else waits for.
    pub(super) async fn scan<A, T>(
        &self,
        deadline: Deadline,
        args: A,
        op: Op<A, T>,
    ) -> Result<T, StoreError>
    where
        A: Send + Sync + 'static,
        T: Send + 'static,
    {
        if self.closed.load(Ordering::Acquire) {
            return Err(shutting_down());
        }
        match self.run(&self.scanners, deadline, args, op).await {
            Outcome::Done(value) => Ok(value),
            Outcome::Refused(error) => Err(error),
            // Nothing that a scan sends commits.
            Outcome::Unknown(cause) => Err(StoreError::Unavailable(cause.to_string())),
        }
    }

    async fn run<A, T>(
        &self,
        pool: &Arc<Pool>,
        deadline: Deadline,
        args: A,
        op: Op<A, T>,
    ) -> Outcome<T, StoreError>
    where
        A: Send + Sync + 'static,
        T: Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let ticket = Arc::<Ticket>::default();
        let work = Work {
            pool: Arc::clone(pool),
            ticket: Arc::clone(&ticket),
            stats: Arc::clone(&self.stats),
            args,
            op,
        };
        self.handle.spawn(work.run(reply));
        wait(ticket, deadline, answer).await
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What a caller is told whose deadline passed before anything was sent.
pub(super) fn late() -> StoreError {
    StoreError::Unavailable("the deadline passed before anything was sent".to_owned())
}

/// Gives a ticket up when its caller goes away.
struct Caller(Option<Arc<Ticket>>);

impl Drop for Caller {
    fn drop(&mut self) {
        if let Some(ticket) = &self.0 {
            ticket.give_up();
        }
    }
}

/// Waits for the outcome of a write, at most until the deadline.
pub(super) async fn wait<T, R: From<StoreError>>(
    ticket: Arc<Ticket>,
    deadline: Deadline,
    answer: oneshot::Receiver<Outcome<T, R>>,
) -> Outcome<T, R> {
    let mut caller = Caller(Some(Arc::clone(&ticket)));
    let answer = timeout_at(deadline.instant().into(), answer).await;
    caller.0 = None;
    match answer {
        Ok(Ok(outcome)) => outcome,
        // The threads are gone.
        Ok(Err(_)) if ticket.give_up() => Outcome::Refused(shutting_down().into()),
        Ok(Err(_)) => Outcome::Unknown(UnknownCause::Lost),
        Err(_) if ticket.give_up() => Outcome::Refused(late().into()),
        Err(_) => Outcome::Unknown(UnknownCause::Deadline),
    }
}

/// A write (or scan) under way.
struct Work<A, T> {
    pool: Arc<Pool>,
    ticket: Arc<Ticket>,
    stats: Arc<PostgresStats>,
    args: A,
    op: Op<A, T>,
}

impl<A: Send + Sync, T: Send> Work<A, T> {
    async fn run(self, mut reply: oneshot::Sender<Outcome<T, StoreError>>) {
        let pilot = Pilot(Flight::new(self.pool.overdue()));
        for attempt in 1.. {
            let lease = tokio::select! {
                () = reply.closed() => return,
                lease = self.pool.lease() => lease,
            };
            let lease = match lease {
                Ok(lease) => lease,
                Err(error) => {
                    let _ = reply.send(Outcome::Refused(error));
                    return;
                }
            };
            pilot.0.takes(&lease.connected);
            self.ticket.board(&pilot.0);
            let begun = Instant::now();
            let ticket = Some(Arc::clone(&self.ticket));
            let session = Session::new(lease, ticket, Arc::clone(&self.stats));
            let result = (self.op)(&self.args, &session).await;
            session.end().await;
            self.stats.write_micros.record_micros(begun.elapsed());
            let outcome = match result {
                Ok(value) => Outcome::Done(value),
                Err(Failure::Again(_)) if attempt < ATTEMPTS && !reply.is_closed() => {
                    count(&self.stats.repeated);
                    self.ticket.take_back();
                    continue;
                }
                Err(Failure::Again(error) | Failure::Refused(error)) => Outcome::Refused(error),
                Err(Failure::Unknown(cause)) => Outcome::Unknown(cause),
                Err(Failure::GivenUp) => Outcome::Refused(late()),
            };
            // The caller may have gone.
            let _ = reply.send(outcome);
            return;
        }
    }
}
