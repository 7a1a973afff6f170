//! Writes whose callers have gone and that are still under way.
//!
//! Such a write keeps its place and its connection until the server answers or the connection dies,
//! so that a server whose commits hang does not collect more of them. But a connection whose other
//! end has gone without a word may not die for hours, if something between us and the server takes
//! what we send. So when writes are overdue for a while the server is asked, on a new connection,
//! whether it is at work on anything of ours that is as old. If it is not, nothing can come of them:
//! their connections are cut. If it is, or does not answer, they are left alone.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::connect::{Connected, Connector};
use super::error::Fault;
use super::pool::lock;
use super::statements::copies::AT_WORK;
use super::stats::{PostgresStats, count};

/// How long a write is overdue before anybody wonders; longer than what [`AT_WORK`] calls old.
const SUSPICIOUS: Duration = Duration::from_secs(5);

/// Time between two looks.
const LOOK: Duration = Duration::from_secs(1);

/// How long the server may take to say what it is at.
const ANSWER: Duration = Duration::from_secs(2);

/// All of a pool's.
#[derive(Debug, Default)]
pub(super) struct Overdue {
    count: AtomicU64,
    flights: Mutex<Vec<Arc<Flight>>>,
    news: Notify,
}

impl Overdue {
    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    fn suspicious(&self) -> Vec<Arc<Flight>> {
        let flights = lock(&self.flights);
        flights.iter().filter(|flight| flight.is_suspicious()).cloned().collect()
    }

    /// Looks after them, for ever.
    pub(super) async fn watch(
        self: Arc<Self>,
        connector: Arc<Connector>,
        stats: Arc<PostgresStats>,
    ) {
        loop {
            self.news.notified().await;
            while self.count() > 0 {
                sleep(LOOK).await;
                let suspicious = self.suspicious();
                if suspicious.is_empty() {
                    continue;
                }
                if let Ok(Ok(false)) = timeout(ANSWER, at_work(&connector)).await {
                    for flight in suspicious.iter().filter(|flight| flight.is_suspicious()) {
                        count(&stats.stalled);
                        flight.cut();
                    }
                }
            }
        }
    }
}

/// Whether the server is at work on anything of ours that takes long.
async fn at_work(connector: &Connector) -> Result<bool, Fault> {
    let (connected, _) = connector.connect().await?;
    let rows = connected.client.query_typed(AT_WORK.sql, &[]).await?;
    Ok(rows.first().is_none_or(|row| row.try_get(0).unwrap_or(true)))
}

/// One use of a connection, as the caller who waits for it sees it: whether it is still under way.
#[derive(Debug)]
pub(super) struct Flight {
    all: Arc<Overdue>,
    state: Mutex<State>,
    connected: Mutex<Option<Connected>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    InTime,
    OverdueSince(Instant),
    Landed,
}

impl Flight {
    pub(super) fn new(all: &Arc<Overdue>) -> Arc<Self> {
        let (state, connected) = (Mutex::new(State::InTime), Mutex::default());
        Arc::new(Self { all: Arc::clone(all), state, connected })
    }

    /// It is under way on this connection from here on.
    pub(super) fn takes(&self, connected: &Connected) {
        *lock(&self.connected) = Some(connected.clone());
    }

    /// Its caller waits no longer.
    pub(super) fn overdue(self: &Arc<Self>) {
        let mut state = lock(&self.state);
        if *state == State::InTime {
            *state = State::OverdueSince(Instant::now());
            self.all.count.fetch_add(1, Ordering::Relaxed);
            lock(&self.all.flights).push(Arc::clone(self));
            self.all.news.notify_one();
        }
    }

    fn is_suspicious(&self) -> bool {
        matches!(*lock(&self.state), State::OverdueSince(since) if since.elapsed() >= SUSPICIOUS)
    }

    fn cut(&self) {
        if let Some(connected) = &*lock(&self.connected) {
            connected.cut();
        }
    }

    /// The server has answered, or the connection is gone.
    fn landed(&self) {
        *lock(&self.connected) = None;
        let mut state = lock(&self.state);
        if matches!(*state, State::OverdueSince(_)) {
            self.all.count.fetch_sub(1, Ordering::Relaxed);
            lock(&self.all.flights).retain(|flight| !std::ptr::eq(&**flight, self));
        }
        *state = State::Landed;
    }
}

/// Lands a flight when whoever flies it is done, or is dropped.
#[derive(Debug)]
pub(super) struct Pilot(pub(super) Arc<Flight>);

impl Drop for Pilot {
    fn drop(&mut self) {
        self.0.landed();
    }
}
