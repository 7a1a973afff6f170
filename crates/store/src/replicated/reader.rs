//! Reading one link from the nearest copy.
//!
//! Invariants:
//! - "there is no such link" is the primary's word alone: a standby that has none, or an older
//!   version than is needed, is no answer but a reason to ask the primary;
//! - a copy that is silent costs its patience once, not the caller's deadline: the next one is
//!   asked beside it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use shunt_domain::ports::{BoxFuture, LinkReader};
use shunt_domain::{Deadline, LinkKey, StoreError, Stored, Version};
use tokio::time::sleep_until;

use super::plan::{Candidate, Source};
use super::recent::Need;
use super::store::ReplicatedStore;

/// Standbys that lag are asked when nobody else has answered for so long.
const LAST_RESORT: Duration = Duration::from_millis(500);

/// How long the primary may take to confirm before others are asked whether they know better.
const CONFIRMING: Duration = Duration::from_millis(100);

type Answer = Result<Option<Stored>, StoreError>;

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// What an answer means.
enum Verdict {
    /// This is the one to give.
    Final(Answer),
    /// It is no word of authority; the primary is asked.
    Unconvinced,
    /// There was none.
    Failed,
}

/// One read under way.
struct Search<'a> {
    store: &'a ReplicatedStore,
    key: &'a LinkKey,
    least: Version,
    deadline: Deadline,
    begun: Instant,
    /// Whom to ask still, the next one last.
    order: Vec<Candidate>,
    asked: FuturesUnordered<BoxFuture<'a, (Source, Answer)>>,
    primary_asked: bool,
    /// When the next one is asked although others may still answer.
    hedge: Instant,
    error: Option<StoreError>,
}

impl<'a> Search<'a> {
    fn ask(&mut self, candidate: Candidate) {
        let Self { store, key, deadline, .. } = *self;
        self.hedge = Instant::now() + candidate.patience;
        let source = candidate.source;
        self.asked.push(match source {
            Source::Primary => {
                self.primary_asked = true;
                Box::pin(async move {
                    (source, store.primary().get(key, Version::default(), deadline).await)
                })
            }
            Source::Standby(at) => Box::pin(async move {
                let answer = match store.lookout().copies().get(at) {
                    Some(watched) => watched.copy.get(key.clone(), deadline).await,
                    None => Err(StoreError::Unavailable("there is no such copy".to_owned())),
                };
                (source, answer)
            }),
        });
    }

    /// Asks the next one, if there is one; one that lags only if nothing else is under way, or has
    /// been for long.
    fn ask_next(&mut self) {
        let Some(next) = self.order.last() else { return };
        let resort = self.begun + LAST_RESORT;
        if next.last_resort && !self.asked.is_empty() && Instant::now() < resort {
            self.hedge = resort;
            return;
        }
        if !self.asked.is_empty() {
            count(&self.store.stats().counts.hedged);
        }
        if let Some(next) = self.order.pop() {
            self.ask(next);
        }
    }

    /// The primary, now: somebody else's answer does not count without its word.
    fn ask_primary(&mut self) {
        if self.primary_asked {
            return;
        }
        self.order.retain(|candidate| candidate.source != Source::Primary);
        let patience = CONFIRMING;
        self.ask(Candidate { source: Source::Primary, patience, last_resort: false });
    }

    fn judge(&mut self, source: Source, answer: Answer) -> Verdict {
        let stats = &self.store.stats().counts;
        let watched = match source {
            Source::Primary => None,
            Source::Standby(at) => self.store.lookout().copies().get(at),
        };
        match (watched, answer) {
            (None, Ok(answer)) => {
                count(&stats.primary_reads);
                Verdict::Final(Ok(answer))
            }
            (Some(watched), Ok(Some(stored))) if stored.version() >= self.least => {
                count(&watched.counts.reads);
                Verdict::Final(Ok(Some(stored)))
            }
            (Some(_), Ok(answer)) => {
                let old = answer.is_some();
                count(if old { &stats.confirmed_old } else { &stats.confirmed_misses });
                self.ask_primary();
                Verdict::Unconvinced
            }
            (watched, Err(error)) => {
                if let (Some(watched), Source::Standby(at)) = (watched, source) {
                    count(&watched.counts.failures);
                    self.store.lookout().suspect(at);
                }
                self.error = Some(error);
                Verdict::Failed
            }
        }
    }

    async fn run(mut self) -> Answer {
        loop {
            if self.asked.is_empty() {
                if self.order.is_empty() && !self.primary_asked {
                    // Nobody answers; the primary says why.
                    self.ask_primary();
                } else {
                    self.ask_next();
                }
                if self.asked.is_empty() {
                    let none = || StoreError::Unavailable("no copy answers".to_owned());
                    return Err(self.error.unwrap_or_else(none));
                }
            }
            tokio::select! {
                Some((source, answer)) = self.asked.next() => {
                    match self.judge(source, answer) {
                        Verdict::Final(answer) => return answer,
                        Verdict::Unconvinced => {}
                        Verdict::Failed => self.ask_next(),
                    }
                }
                () = sleep_until(self.hedge.into()), if !self.order.is_empty() => self.ask_next(),
            }
        }
    }
}

impl LinkReader for ReplicatedStore {
    /// The nearest copy's row, if it is new enough, else the primary's. What this process has
    /// changed within two minutes is new enough only with the change.
    fn get<'a>(
        &'a self,
        key: &'a LinkKey,
        min_version: Version,
        deadline: Deadline,
    ) -> BoxFuture<'a, Answer> {
        Box::pin(async move {
            let now = Instant::now();
            let least = match self.recent().need(key, min_version, now) {
                Need::AtLeast(version) => version,
                Need::Primary => {
                    count(&self.stats().counts.primary_reads);
                    return self.primary().get(key, min_version, deadline).await;
                }
            };
            let mut order: Vec<Candidate> = self.lookout().plan().order().collect();
            order.reverse();
            let search = Search {
                store: self,
                key,
                least,
                deadline,
                begun: now,
                order,
                asked: FuturesUnordered::new(),
                primary_asked: false,
                hedge: now,
                error: None,
            };
            search.run().await
        })
    }
}
