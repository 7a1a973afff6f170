//! Looks at every copy each second: which one is the primary, how far the others are behind, how
//! near they are.
//!
//! Invariants:
//! - writes lead to one copy: the one that takes writes on the highest timeline that was ever
//!   seen. When it changes, all connections to the old one are ended;
//! - a new connection to the primary counts only after every copy that answers was looked at since
//!   it was made: an old primary that comes back at once finds its successor there already.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use shunt_domain::StoreError;
use shunt_domain::ports::BoxFuture;
use tokio::sync::{Notify, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::election::{Claim, Elected, elect};
use super::lag::{History, Lag};
use super::plan::{Plan, Ready};
use crate::postgres::{Copy, Fault, Guide, Report, Route, lock};

/// How often a copy is looked at, and how often at most when somebody asks for it.
const EVERY: Duration = Duration::from_secs(1);
const AT_MOST: Duration = Duration::from_millis(50);

/// How long a copy may take to answer once it is connected.
const PATIENCE: Duration = Duration::from_millis(750);

/// A copy that did not answer the last time and has been silent for so long this time is not
/// waited for.
const SILENT: Duration = Duration::from_millis(300);

/// How long is waited for looks at all copies.
const ALL: Duration = Duration::from_millis(800);

/// How much a look counts in the smoothed latency: one part in so many.
const SMOOTHING: u32 = 8;

/// What is counted of one copy.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Reads that it answered and that counted.
    pub(super) reads: AtomicU64,
    /// Reads that it did not answer.
    pub(super) failures: AtomicU64,
}

/// A copy and what goes with it.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) copy: Copy,
    pub(super) counts: Counts,
    wake: Notify,
}

/// What is known of a copy.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    /// What it said, if it answered the last time.
    pub(super) report: Option<Report>,
    /// Why it did not.
    pub(super) error: Option<String>,
    /// It is a copy of another cluster.
    pub(super) foreign: bool,
    /// The smoothed time of a round trip.
    pub(super) latency: Option<Duration>,
    /// How far it is behind; for standbys that answer.
    pub(super) lag: Option<Lag>,
    /// When the last look began that came to an end, and the one that is under way.
    looked: Option<Instant>,
    looking: Option<Instant>,
}

impl View {
    /// Whether it was looked at since `since`, or does not answer.
    fn is_settled(&self, since: Instant, now: Instant) -> bool {
        let silent = || {
            let begun = self.looking.filter(|_| self.report.is_none());
            begun.is_some_and(|begun| now.saturating_duration_since(begun) >= SILENT)
        };
        self.looked.is_some_and(|looked| looked >= since) || silent()
    }
}

#[derive(Debug, Default)]
struct State {
    views: Vec<View>,
    history: History,
    highest: u64,
    system: Option<(usize, i64)>,
    elected: Elected,
    route: Option<(usize, Arc<Route>)>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Lookout {
    copies: Vec<Watched>,
    state: Mutex<State>,
    plan: RwLock<Arc<Plan>>,
    news: watch::Sender<u64>,
    closed: AtomicBool,
    max_lag: Duration,
    begun: Instant,
    /// How often another copy became the primary.
    pub(super) moves: AtomicU64,
}

impl Lookout {
    pub(super) fn new(copies: Vec<Copy>, max_lag: Duration) -> Arc<Self> {
        let copies: Vec<Watched> = copies
            .into_iter()
            .map(|copy| Watched { copy, counts: Counts::default(), wake: Notify::new() })
            .collect();
        let views = vec![View::default(); copies.len()];
        Arc::new(Self {
            copies,
            state: Mutex::new(State { views, ..State::default() }),
            plan: RwLock::default(),
            news: watch::Sender::new(0),
            closed: AtomicBool::new(false),
            max_lag,
            begun: Instant::now(),
            moves: AtomicU64::new(0),
        })
    }

    /// Looks at the copies from now on, on the threads of this runtime.
    pub(super) fn start(self: &Arc<Self>, handle: &tokio::runtime::Handle) {
        for at in 0..self.copies.len() {
            handle.spawn(Arc::clone(self).watch(at));
        }
    }

    async fn watch(self: Arc<Self>, at: usize) {
        let Some(watched) = self.copies.get(at) else { return };
        let mut second = interval(EVERY);
        second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.closed.load(Ordering::Acquire) {
            tokio::select! {
                _ = second.tick() => {}
                () = watched.wake.notified() => {}
            }
            let begun = Instant::now();
            self.with_view(at, |view| view.looking = Some(begun));
            let looked = watched.copy.look(PATIENCE).await;
            self.note(at, begun, looked);
            tokio::time::sleep(AT_MOST).await;
        }
    }

    fn with_view(&self, at: usize, change: impl FnOnce(&mut View)) {
        if let Some(view) = lock(&self.state).views.get_mut(at) {
            change(view);
        }
    }

    /// Takes in what a look has shown, and judges anew.
    fn note(&self, at: usize, begun: Instant, looked: Result<(Report, Duration), StoreError>) {
        let mut state = lock(&self.state);
        let state = &mut *state;
        let Some(view) = state.views.get_mut(at) else { return };
        (view.looked, view.looking) = (Some(begun), None);
        match looked {
            Ok((report, took)) => {
                // The one that is named first says which cluster it is.
                if state.system.is_none_or(|(named, _)| at < named) {
                    if state.system.is_some_and(|(_, system)| system != report.system) {
                        // All that was known was of another cluster.
                        (state.highest, state.history) = (0, History::default());
                    }
                    state.system = Some((at, report.system));
                }
                view.report = Some(report);
                view.error = None;
                let smoothed = |old: Duration| (old * (SMOOTHING - 1) + took) / SMOOTHING;
                view.latency = Some(view.latency.map_or(took, smoothed));
            }
            Err(error) => {
                view.report = None;
                view.error = Some(error.to_string());
                view.latency = None;
            }
        }
        let system = state.system.map(|(_, system)| system);
        for view in &mut state.views {
            view.foreign = view.report.is_some_and(|report| Some(report.system) != system);
        }
        let claims: Vec<Option<Claim>> = state
            .views
            .iter()
            .map(|view| {
                let report = view.report.filter(|_| !view.foreign)?;
                Some(Claim { in_recovery: report.in_recovery, timeline: report.timeline })
            })
            .collect();
        let seen = claims.iter().flatten().map(|claim| claim.timeline).max();
        state.highest = state.highest.max(seen.unwrap_or(0));
        let current = state.route.as_ref().map(|(at, _)| *at);
        state.elected = elect(&claims, state.highest, current);
        self.lead(state, &claims);
        Self::measure(state, at, begun);
        *self.plan.write().unwrap_or_else(PoisonError::into_inner) =
            Arc::new(Plan::new(&self.ready(state)));
        self.tell();
    }

    /// Leads connections to the primary, and ends those to one that is none any more. One that
    /// does not answer and was not replaced keeps them: it may only be slow.
    fn lead(&self, state: &mut State, claims: &[Option<Claim>]) {
        let current = state.route.as_ref().map(|(at, _)| *at);
        match state.elected.primary {
            Some(primary) if current != Some(primary) => {
                let Some(watched) = self.copies.get(primary) else { return };
                if let Some((_, old)) =
                    state.route.replace((primary, Arc::new(watched.copy.route())))
                {
                    old.close();
                    self.moves.fetch_add(1, Ordering::Relaxed);
                }
            }
            Some(_) => {}
            None => {
                let answers = current.and_then(|at| claims.get(at)).is_some_and(Option::is_some);
                if answers && let Some((_, old)) = state.route.take() {
                    old.close();
                    self.moves.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    /// Keeps the history, and says how far each standby is behind.
    fn measure(state: &mut State, at: usize, begun: Instant) {
        let report = state.views.get(at).filter(|view| !view.foreign).and_then(|view| view.report);
        match report {
            Some(report) if state.elected.primary == Some(at) => {
                state.history.primary(begun, report.position);
            }
            // The primary is not there to be asked.
            Some(report) if state.elected.primary.is_none() && report.in_recovery => {
                state.history.at_least(begun, report.received.max(report.position));
            }
            _ => {}
        }
        let now = Instant::now();
        for view in &mut state.views {
            let standby = view.report.filter(|report| report.in_recovery && !view.foreign);
            view.lag = standby.map(|report| {
                let lag = state.history.lag(now, report.position, report.behind);
                // One that was left behind by a promotion may have what nobody else has, and looks
                // as if it were ahead.
                let stranded = !report.streaming && report.timeline < state.highest;
                Lag { time: lag.time.filter(|_| !stranded), ..lag }
            });
        }
    }

    /// The copies that redirects may read from.
    fn ready(&self, state: &State) -> Vec<Ready> {
        let ready = state.views.iter().enumerate().map(|(at, view)| {
            let (report, latency) = (view.report.filter(|_| !view.foreign)?, view.latency?);
            let primary = state.elected.primary == Some(at);
            // What takes writes and is not the primary is no copy of it any more.
            (primary || report.in_recovery).then(|| Ready {
                at,
                primary,
                latency,
                lagging: view.lag.filter(|lag| lag.is_more_than(self.max_lag)).is_some(),
            })
        });
        ready.flatten().collect()
    }

    fn tell(&self) {
        self.news.send_modify(|news| *news = news.wrapping_add(1));
    }

    /// Standbys that are further behind serve only when nothing else answers.
    pub(super) const fn max_lag(&self) -> Duration {
        self.max_lag
    }

    pub(super) fn copies(&self) -> &[Watched] {
        &self.copies
    }

    /// What is known of every copy, and which is the primary.
    pub(super) fn views(&self) -> (Vec<View>, Elected) {
        let state = lock(&self.state);
        (state.views.clone(), state.elected)
    }

    /// Where redirects read.
    pub(super) fn plan(&self) -> Arc<Plan> {
        Arc::clone(&self.plan.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Has a copy looked at soon, because it did not answer.
    pub(super) fn suspect(&self, at: usize) {
        if let Some(watched) = self.copies.get(at) {
            watched.wake.notify_one();
        }
    }

    /// Waits until every copy was looked at since `since` or does not answer; not for long.
    pub(super) async fn settled(&self, since: Instant) {
        let mut news = self.news.subscribe();
        let waiting = async {
            loop {
                let now = Instant::now();
                let settled =
                    lock(&self.state).views.iter().all(|view| view.is_settled(since, now));
                if settled || self.closed.load(Ordering::Acquire) {
                    return;
                }
                // Silence is no news.
                let _ = timeout(AT_MOST, news.changed()).await;
            }
        };
        // Who does not answer in that time is not there.
        let _ = timeout(ALL, waiting).await;
    }

    /// Waits until every copy was looked at once, or does not answer; not for long.
    pub(super) async fn first_look(&self) {
        self.settled(self.begun).await;
    }

    /// Has every copy looked at again, and waits for it; not for long.
    pub(super) async fn look_again(&self) {
        let since = Instant::now();
        self.copies.iter().for_each(|watched| watched.wake.notify_one());
        self.settled(since).await;
    }

    /// Looks no more.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        if let Some((_, route)) = lock(&self.state).route.take() {
            route.close();
        }
        self.copies.iter().for_each(|watched| {
            watched.copy.close();
            watched.wake.notify_one();
        });
        self.tell();
    }
}

fn nobody() -> Fault {
    Fault::lost("no copy of the database takes writes; promote a standby or start the primary")
}

impl Guide for Lookout {
    fn route(&self) -> BoxFuture<'_, Result<Arc<Route>, Fault>> {
        Box::pin(async move {
            self.first_look().await;
            let state = lock(&self.state);
            state.route.as_ref().map(|(_, route)| Arc::clone(route)).ok_or_else(nobody)
        })
    }

    fn confirm<'a>(&'a self, route: &'a Arc<Route>) -> BoxFuture<'a, Result<(), Fault>> {
        Box::pin(async move {
            self.look_again().await;
            let state = lock(&self.state);
            let led = state.route.as_ref().filter(|(_, led)| Arc::ptr_eq(led, route));
            match led {
                Some((at, _)) if state.elected.primary == Some(*at) => Ok(()),
                _ => Err(nobody()),
            }
        })
    }
}
