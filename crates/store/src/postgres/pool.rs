//! Connections of which each has one transaction under way at a time.
//!
//! Not a pool off the shelf, because three things must be known of a connection: the warnings that
//! came with an answer, that a write whose caller has gone is still under way on it, and how many
//! such writes there are (then new ones are refused at once; see `overdue.rs`).
//!
//! Every wait is bounded: for a place by the caller's deadline, for a new connection by
//! `connect_timeout` and, by those who wait for it, by `fail_fast_after`; for a sign of life from
//! an idle one by `recycle_timeout`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use shunt_domain::StoreError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;

use super::connect::{Connected, Connector};
use super::error::Fault;
use super::options::PostgresOptions;
use super::overdue::Overdue;

/// Pauses between two attempts to connect.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// The pause after one of `pause`.
pub(super) fn longer(pause: Option<Duration>) -> Duration {
    pause.map_or(FIRST_PAUSE, |pause| (pause * 2).min(LONGEST_PAUSE))
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that runs under these locks can leave what they guard half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is known of the server from attempts to connect.
#[derive(Debug, Default)]
pub(super) struct Health {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When the first attempt began after the last one that succeeded.
    since: Option<Instant>,
    /// What the last attempt said, if it failed.
    error: Option<StoreError>,
    /// The server knows us and won't have us: trying again makes no difference.
    refused: bool,
    /// Somebody keeps trying on behalf of all.
    probing: bool,
}

impl Health {
    /// An attempt begins.
    pub(super) fn begin(&self) {
        lock(&self.state).since.get_or_insert_with(Instant::now);
    }

    /// A connection was made.
    pub(super) fn good(&self) {
        let mut state = lock(&self.state);
        *state = State { probing: state.probing, ..State::default() };
    }

    /// No connection could be made.
    pub(super) fn bad(&self, fault: &Fault) {
        let mut state = lock(&self.state);
        state.refused = fault.is_refusal();
        state.error = Some(fault.store_error());
    }

    /// Whether an attempt is worth its while: the last one succeeded, or nobody keeps trying.
    fn is_worth_trying(&self) -> bool {
        let state = lock(&self.state);
        state.error.is_none() || !state.probing
    }

    /// The error to give at once: no connection could be made for so long, or none will be.
    pub(super) fn down(&self, longest: Duration) -> Option<StoreError> {
        let state = lock(&self.state);
        let since = state.since?;
        if !state.refused && since.elapsed() < longest {
            return None;
        }
        let hangs = || StoreError::Unavailable("no connection comes about".to_owned());
        Some(state.error.clone().unwrap_or_else(hangs))
    }

    /// For the one who keeps trying on behalf of all, if nobody does.
    fn probe(&self) -> Option<Probe<'_>> {
        let others = std::mem::replace(&mut lock(&self.state).probing, true);
        (!others).then_some(Probe(self))
    }
}

/// Held by the one who keeps trying.
struct Probe<'a>(&'a Health);

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).probing = false;
    }
}

#[derive(Debug)]
struct Idle {
    connected: Connected,
    since: Instant,
}

/// A pool of connections, made when they are needed.
#[derive(Debug)]
pub(super) struct Pool {
    connector: Arc<Connector>,
    size: usize,
    places: Arc<Semaphore>,
    attempts: Arc<Semaphore>,
    idle: Mutex<Vec<Idle>>,
    /// Changes whenever a connection was made or an attempt failed.
    news: watch::Sender<u64>,
    health: Health,
    overdue: Arc<Overdue>,
    recycle_after: Duration,
    recycle_timeout: Duration,
    fail_fast_after: Duration,
}

impl Pool {
    pub(super) fn new(connector: Arc<Connector>, size: usize, options: &PostgresOptions) -> Self {
        let size = size.clamp(1, 1_000);
        Self {
            connector,
            size,
            places: Arc::new(Semaphore::new(size)),
            attempts: Arc::new(Semaphore::new(size)),
            idle: Mutex::default(),
            news: watch::Sender::new(0),
            health: Health::default(),
            overdue: Arc::default(),
            recycle_after: options.recycle_after,
            recycle_timeout: options.recycle_timeout,
            fail_fast_after: options.fail_fast_after,
        }
    }

    /// Transactions whose callers have gone and that are still under way.
    pub(super) const fn overdue(&self) -> &Arc<Overdue> {
        &self.overdue
    }

    /// A connection for one transaction. Waits for a place, and for the connection, as long as the
    /// caller does; the caller bounds it.
    ///
    /// # Errors
    /// When none could be made for a while, or the store shuts down.
    pub(super) async fn lease(self: &Arc<Self>) -> Result<Lease, StoreError> {
        let place = Arc::clone(&self.places).acquire_owned().await;
        let place = place.map_err(|_| shutting_down())?;
        let mut news = None;
        loop {
            if let Some(connected) = self.idle().await {
                return Ok(Lease { pool: Arc::clone(self), connected, _place: place });
            }
            // Listened for from before the next look on.
            let Some(news) = &mut news else {
                news = Some(self.news.subscribe());
                continue;
            };
            if self.places.is_closed() {
                return Err(shutting_down());
            }
            if self.health.is_worth_trying()
                && let Ok(attempt) = Arc::clone(&self.attempts).try_acquire_owned()
            {
                tokio::spawn(Arc::clone(self).connect(attempt));
            }
            if let Some(error) = self.health.down(self.fail_fast_after) {
                return Err(error);
            }
            // Whether the news are good is seen above; an attempt that hangs gives none.
            let _ = timeout(self.fail_fast_after, news.changed()).await;
        }
    }

    /// An idle connection that lives.
    async fn idle(&self) -> Option<Connected> {
        loop {
            // The one used last is the likeliest to live; the others grow old and are found out.
            let Idle { connected, since } = lock(&self.idle).pop()?;
            if connected.client.is_closed() {
                continue;
            }
            if since.elapsed() < self.recycle_after {
                return Some(connected);
            }
            let alive = connected.client.check_connection();
            if let Ok(Ok(())) = timeout(self.recycle_timeout, alive).await {
                return Some(connected);
            }
            connected.cut();
        }
    }

    /// Makes a connection for whoever waits, not on the time of any caller: one with a short
    /// deadline would never learn that the server hangs. After a failure one such task goes on
    /// trying.
    async fn connect(self: Arc<Self>, attempt: OwnedSemaphorePermit) {
        let mut probe = None;
        let mut pause = None;
        while !self.places.is_closed() {
            self.health.begin();
            match self.connector.connect().await {
                Ok((connected, _)) => {
                    self.health.good();
                    self.put(connected);
                    break;
                }
                Err(fault) => self.health.bad(&fault),
            }
            self.tell();
            if probe.is_none() {
                probe = self.health.probe();
            }
            if probe.is_none() {
                break;
            }
            let next = longer(pause);
            self.connector.pause(next).await;
            pause = Some(next);
        }
        drop((probe, attempt));
        self.tell();
    }

    fn tell(&self) {
        self.news.send_modify(|news| *news = news.wrapping_add(1));
    }

    /// Keeps a connection for the next one who needs it.
    fn put(&self, connected: Connected) {
        if connected.client.is_closed() || self.places.is_closed() {
            return;
        }
        let mut idle = lock(&self.idle);
        // Callers may have gone while connections were made for them.
        if idle.len() < self.size {
            idle.push(Idle { connected, since: Instant::now() });
        }
        drop(idle);
        if self.news.receiver_count() > 0 {
            self.tell();
        }
    }

    /// Gives no connections any more, and waits until all are back.
    pub(super) async fn drain(&self) {
        let all = u32::try_from(self.size).unwrap_or(u32::MAX);
        if let Ok(all) = self.places.acquire_many(all).await {
            self.places.close();
            all.forget();
        }
        lock(&self.idle).clear();
    }

    /// Gives no connections any more.
    pub(super) fn close(&self) {
        self.places.close();
        lock(&self.idle).clear();
        self.tell();
    }
}

/// What a store that was closed answers.
pub(super) fn shutting_down() -> StoreError {
    StoreError::Unavailable("the store is shutting down".to_owned())
}

/// A connection that is taken, with its place.
#[derive(Debug)]
pub(super) struct Lease {
    pool: Arc<Pool>,
    pub(super) connected: Connected,
    _place: OwnedSemaphorePermit,
}

impl Lease {
    /// Puts the connection back for the next one.
    pub(super) fn give_back(self) {
        self.pool.put(self.connected.clone());
    }

    /// Ends the connection: what it leads to is of no use, or its state is not known.
    pub(super) fn cut(self) {
        self.connected.cut();
    }
}
