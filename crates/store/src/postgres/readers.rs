//! Shared connections for reads: requests of many callers are under way on each at a time, and
//! answered in order.
//!
//! Point reads are gathered: while a few statements are under way on each connection, further
//! reads wait for one of them to come back and go out as one statement. Nothing that takes long
//! is asked here, because whatever stands behind it waits too.
//!
//! A shared connection on which nothing is answered while somebody waits is replaced, and what was
//! asked on it is asked again elsewhere: reads may be repeated.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use shunt_domain::{Deadline, LinkKey, StoreError, Stored};
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{timeout, timeout_at};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::connect::{Connected, Connector};
use super::error::{Fault, bad_value};
use super::gather::{Flight, Gather};
use super::options::PostgresOptions;
use super::pool::{Health, lock, longer, shutting_down};
use super::row;
use super::session::Param;
use super::statements::{self, Statement};
use super::stats::{PostgresStats, count};

/// Statements under way on each connection before further point reads are gathered. Two keep the
/// server busy while one answer is on its way.
const STATEMENTS: usize = 2;

/// The same when reads are not gathered: how deep the pipeline may be.
const PIPELINED: usize = 64;

/// How often a point read is asked again whose connection broke or fell silent.
const ATTEMPTS: u32 = 3;

/// A shared connection.
#[derive(Debug)]
struct Shared {
    connected: Connected,
    /// Statements waiting for their answers.
    waiting: AtomicUsize,
    /// Since when, in milliseconds of the readers' clock plus one, nothing was answered although
    /// somebody waited; 0 when everything was answered.
    silent_since: AtomicU64,
    retired: AtomicBool,
    retire: Notify,
}

impl Shared {
    fn retire(&self) {
        self.retired.store(true, Ordering::Release);
        self.retire.notify_one();
    }

    fn usable(&self) -> bool {
        !self.retired.load(Ordering::Acquire) && !self.connected.client.is_closed()
    }
}

/// Somebody who waits on a shared connection.
struct Waiting<'a> {
    shared: &'a Shared,
}

impl<'a> Waiting<'a> {
    fn new(shared: &'a Shared, now: u64) -> Self {
        shared.waiting.fetch_add(1, Ordering::Relaxed);
        let _ = shared.silent_since.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
        Self { shared }
    }

    fn answered(&self, now: u64) {
        let others = self.shared.waiting.load(Ordering::Relaxed) > 1;
        self.shared.silent_since.store(if others { now } else { 0 }, Ordering::Relaxed);
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A point read that waits.
#[derive(Debug)]
pub(super) struct PointRead {
    key: LinkKey,
    attempts: u32,
    reply: oneshot::Sender<Result<Option<Stored>, StoreError>>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Readers {
    handle: Handle,
    slots: Vec<Mutex<Option<Arc<Shared>>>>,
    next: AtomicUsize,
    /// Changes whenever a connection comes or an attempt fails.
    news: watch::Sender<u64>,
    health: Health,
    gather: Arc<Gather<PointRead>>,
    clock: Instant,
    stall_timeout: Duration,
    fail_fast_after: Duration,
    closed: AtomicBool,
    stats: Arc<PostgresStats>,
}

impl Readers {
    /// Starts a task for each connection, which makes it and makes it anew when it ends.
    pub(super) fn start(
        handle: &Handle,
        connector: &Arc<Connector>,
        stats: &Arc<PostgresStats>,
        options: &PostgresOptions,
    ) -> Arc<Self> {
        let slots = options.readers.clamp(1, 64);
        let one_by_one = options.reads_per_statement <= 1;
        let depth = if one_by_one { PIPELINED } else { STATEMENTS };
        let readers = Arc::new(Self {
            handle: handle.clone(),
            slots: (0..slots).map(|_| Mutex::default()).collect(),
            next: AtomicUsize::new(0),
            news: watch::Sender::new(0),
            health: Health::default(),
            gather: Arc::new(Gather::new(slots * depth, options.reads_per_statement)),
            clock: Instant::now(),
            stall_timeout: options.stall_timeout,
            fail_fast_after: options.fail_fast_after,
            closed: AtomicBool::new(false),
            stats: Arc::clone(stats),
        });
        for slot in 0..slots {
            handle.spawn(Arc::clone(&readers).keep(slot, Arc::clone(connector)));
        }
        readers
    }

    fn now(&self) -> u64 {
        u64::try_from(self.clock.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }

    fn tell(&self) {
        self.news.send_modify(|news| *news = news.wrapping_add(1));
    }

    /// Keeps one connection alive as long as the store is open.
    async fn keep(self: Arc<Self>, slot: usize, connector: Arc<Connector>) {
        let Some(place) = self.slots.get(slot) else { return };
        let mut pause = None;
        while !self.closed.load(Ordering::Acquire) {
            self.health.begin();
            match connector.connect().await {
                Ok((connected, ended)) => {
                    pause = None;
                    if connected.is_cluster {
                        // One row is one statement for one node; many are one for all nodes.
                        self.gather.one_by_one(self.slots.len() * PIPELINED);
                    }
                    self.health.good();
                    let shared = Arc::new(Shared {
                        connected,
                        waiting: AtomicUsize::new(0),
                        silent_since: AtomicU64::new(0),
                        retired: AtomicBool::new(false),
                        retire: Notify::new(),
                    });
                    *lock(place) = Some(Arc::clone(&shared));
                    self.tell();
                    tokio::select! {
                        _ = ended => {}
                        () = shared.retire.notified() => shared.connected.cut(),
                    }
                    *lock(place) = None;
                }
                Err(fault) => {
                    self.health.bad(&fault);
                    self.tell();
                }
            }
            // Also after a connection that ended: a server that ends them at once is not asked in
            // a tight loop.
            let next = longer(pause);
            connector.pause(next).await;
            pause = Some(next);
        }
    }

    /// The living connection with the least under way.
    fn pick(&self) -> Option<Arc<Shared>> {
        let from = self.next.fetch_add(1, Ordering::Relaxed);
        let living = |at: usize| {
            let slot = self.slots.get((from + at) % self.slots.len())?;
            lock(slot).as_ref().filter(|shared| shared.usable()).cloned()
        };
        let all = (0..self.slots.len()).filter_map(living);
        all.min_by_key(|shared| shared.waiting.load(Ordering::Relaxed))
    }

    /// A living connection; waits for one unless the server has been down for a while. The caller
    /// bounds it.
    async fn connection(&self) -> Result<Arc<Shared>, StoreError> {
        let mut news = self.news.subscribe();
        loop {
            if self.closed.load(Ordering::Acquire) {
                return Err(shutting_down());
            }
            if let Some(shared) = self.pick() {
                return Ok(shared);
            }
            if let Some(error) = self.health.down(self.fail_fast_after) {
                return Err(error);
            }
            // Whether the news are good is seen above; an attempt that hangs gives none.
            let _ = timeout(self.fail_fast_after, news.changed()).await;
        }
    }

    /// Asks on a connection; a connection that is silent for too long is retired.
    async fn ask(
        &self,
        shared: &Shared,
        sql: &str,
        params: &[(Param<'_>, Type)],
    ) -> Result<Vec<Row>, Fault> {
        let waiting = Waiting::new(shared, self.now());
        let asking = shared.connected.client.query_typed(sql, params);
        let answer = timeout(self.stall_timeout, asking).await;
        match answer {
            Ok(Ok(rows)) => {
                waiting.answered(self.now());
                Ok(rows)
            }
            Ok(Err(error)) => {
                let fault = Fault::from(error);
                if fault.drops_connection() {
                    shared.retire();
                } else {
                    waiting.answered(self.now());
                }
                Err(fault)
            }
            Err(_) => {
                self.suspect(shared);
                Err(Fault::lost("the server does not answer"))
            }
        }
    }

    /// Retires a connection on which nothing at all was answered for too long.
    fn suspect(&self, shared: &Shared) {
        let since = shared.silent_since.load(Ordering::Relaxed);
        let silent = Duration::from_millis(self.now().saturating_sub(since));
        if since != 0 && silent >= self.stall_timeout && shared.usable() {
            count(&self.stats.stalled);
            shared.retire();
        }
    }

    /// Runs a quick statement that only reads.
    ///
    /// # Errors
    /// When the server can't be asked, refuses, or the deadline passes.
    pub(super) async fn query(
        &self,
        statement: &Statement,
        params: &[Param<'_>],
        deadline: Deadline,
    ) -> Result<Vec<Row>, StoreError> {
        self.query_made(statement.sql, &statement.typed(params), deadline).await
    }

    /// The same for a statement that is not in the registry: one over somebody else's tables.
    ///
    /// # Errors
    /// As [`Self::query`].
    pub(super) async fn query_made(
        &self,
        sql: &str,
        typed: &[(Param<'_>, Type)],
        deadline: Deadline,
    ) -> Result<Vec<Row>, StoreError> {
        let asking = async {
            let mut attempt = 1;
            loop {
                let shared = self.connection().await?;
                match self.ask(&shared, sql, typed).await {
                    Ok(rows) => return Ok(rows),
                    Err(fault) if fault.unknown().is_some() && attempt < ATTEMPTS => attempt += 1,
                    Err(fault) => return Err(fault.store_error()),
                }
            }
        };
        self.answer(timeout_at(deadline.instant().into(), asking).await)
    }

    fn answer<T, E>(&self, answer: Result<Result<T, StoreError>, E>) -> Result<T, StoreError> {
        let answer = answer.unwrap_or_else(|_| {
            // Callers with short deadlines find out together what none of them waits for.
            let all = self.slots.iter().filter_map(|slot| lock(slot).clone());
            all.for_each(|shared| self.suspect(&shared));
            Err(StoreError::Unavailable("no answer within the deadline".to_owned()))
        });
        if answer.is_err() {
            count(&self.stats.failed_reads);
        }
        answer
    }

    /// One row of `links` by its key.
    ///
    /// # Errors
    /// When the server can't be asked or the deadline passes.
    pub(super) async fn get(
        self: &Arc<Self>,
        key: LinkKey,
        deadline: Deadline,
    ) -> Result<Option<Stored>, StoreError> {
        if deadline.passed(Instant::now()) {
            return self.answer(Err(()));
        }
        if self.closed.load(Ordering::Acquire) {
            return Err(shutting_down());
        }
        let (reply, answer) = oneshot::channel();
        if let Some(flight) = self.gather.push(PointRead { key, attempts: 0, reply })? {
            self.handle.spawn(Arc::clone(self).fly(flight));
        }
        let answer = timeout_at(deadline.instant().into(), answer).await;
        let answer = self.answer(answer.map(|told| told.unwrap_or_else(|_| Err(shutting_down()))));
        if answer.is_ok() {
            count(&self.stats.reads);
        }
        answer
    }

    async fn fly(self: Arc<Self>, mut flight: Flight<PointRead>) {
        loop {
            let connection = self.connection().await;
            let Some(reads) = flight.take(|read| !read.reply.is_closed()) else { return };
            match connection {
                Ok(shared) => self.point_reads(&shared, reads, &flight).await,
                Err(error) => reads.into_iter().for_each(|read| tell(read, Err(error.clone()))),
            }
        }
    }

    async fn point_reads(
        &self,
        shared: &Shared,
        mut reads: Vec<PointRead>,
        flight: &Flight<PointRead>,
    ) {
        self.stats.reads_per_statement.record(reads.len() as u64);
        let answer = match reads.as_slice() {
            [read] => {
                let domain = i64::from(read.key.domain.0);
                let params: [Param<'_>; 2] = [&read.key.code.as_str(), &domain];
                let get = &statements::GET;
                self.ask(shared, get.sql, &get.typed(&params)).await
            }
            _ => {
                let mut codes: Vec<&str> = reads.iter().map(|r| r.key.code.as_str()).collect();
                codes.sort_unstable();
                codes.dedup();
                let get = &statements::GET_MANY;
                self.ask(shared, get.sql, &get.typed(&[&codes])).await
            }
        };
        match answer {
            Ok(rows) => hand_out(reads, &rows),
            Err(fault) if fault.unknown().is_some() => {
                // The connection broke or is silent: on another one.
                let error = fault.store_error();
                for read in &mut reads {
                    read.attempts += 1;
                }
                let (again, enough): (Vec<_>, Vec<_>) =
                    reads.into_iter().partition(|read| read.attempts < ATTEMPTS);
                enough.into_iter().for_each(|read| tell(read, Err(error.clone())));
                flight.put_back(again);
            }
            Err(fault) => {
                let error = fault.store_error();
                reads.into_iter().for_each(|read| tell(read, Err(error.clone())));
            }
        }
    }

    /// Makes no connections any more and ends those that there are.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        for slot in &self.slots {
            if let Some(shared) = lock(slot).take() {
                shared.retire();
            }
        }
        self.tell();
    }
}

fn tell(read: PointRead, answer: Result<Option<Stored>, StoreError>) {
    // The caller may have gone.
    let _ = read.reply.send(answer);
}

/// Gives each read its row. A row of a domain that nobody asked for is nobody's.
fn hand_out(reads: Vec<PointRead>, rows: &[Row]) {
    let mut found: Vec<(&str, i64, &Row)> = Vec::with_capacity(rows.len());
    for row in rows {
        match (row.try_get(row::column::CODE), row.try_get(row::column::DOMAIN)) {
            (Ok(code), Ok(domain)) => found.push((code, domain, row)),
            // Whose row it is can't be told, so nobody is told that there is none.
            (Err(error), _) | (_, Err(error)) => {
                let error = bad_value(error);
                return reads.into_iter().for_each(|read| tell(read, Err(error.clone())));
            }
        }
    }
    found.sort_unstable_by_key(|(code, domain, _)| (*code, *domain));
    for read in reads {
        let (code, domain) = (read.key.code.as_str(), i64::from(read.key.domain.0));
        let at = found.binary_search_by_key(&(code, domain), |(code, domain, _)| (*code, *domain));
        let row = at.ok().and_then(|at| found.get(at)).map(|(_, _, row)| row::stored(row));
        tell(read, row.transpose());
    }
}
