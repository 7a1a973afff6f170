//! What a node shares with others, so that their caches agree: the second tier, the bus, the feed.
//!
//! Invariants:
//! - a copy of a row is believed only if it is as new as every change this node knows of;
//! - the second tier is read only while the bus carries and everything is known that was changed
//!   before: what nobody could write down in it while it hung is taken out first;
//! - nothing here is waited for by a redirect but one look into the second tier, under its own
//!   deadline; nothing here can make one fail.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use shunt_domain::ports::{
    BoxFuture, Bus, BusListener, Cached, CachedLink, ChangeFeed, FeedPosition, Invalidation,
    LinkCache, SharedError,
};
use shunt_domain::{Deadline, LinkKey, Version};
use tokio::sync::Notify;

use super::{Resolver, lock, now};

/// How often pending work is looked at.
const TURN: Duration = Duration::from_millis(200);
/// How long one page of the feed may take.
const FEED_PATIENCE: Duration = Duration::from_secs(5);
/// How long after an edit the second tier is looked at once more: by then a failover that brought
/// the row before it back is over.
const SECOND_LOOK: Duration = Duration::from_secs(60);
/// Most changes that wait for the second tier, and for their second look.
const MOST_PENDING: usize = 32_768;
/// How often old changes are taken out of the feed.
const PRUNE: Duration = Duration::from_secs(300);

/// What this node shares; any of them may be missing.
#[derive(Clone)]
pub struct Sharing {
    /// The second cache tier. Needs bus and feed.
    pub l2: Option<Arc<dyn LinkCache>>,
    /// Tells the other nodes at once.
    pub bus: Option<Arc<dyn Bus>>,
    /// Tells what the bus could not.
    pub feed: Option<Arc<dyn ChangeFeed>>,
    /// How.
    pub options: SharingOptions,
}

/// How a node shares.
#[derive(Clone, Copy, Debug)]
pub struct SharingOptions {
    /// How long a look into the second tier may take.
    pub l2_deadline: Duration,
    /// How long a writer waits at most until the others were told.
    pub publish_deadline: Duration,
    /// How long a row stays in the second tier.
    pub l2_ttl: Duration,
    /// How often the feed is read while the bus carries.
    pub poll_bus_up: Duration,
    /// The same while it does not, or where there is none.
    pub poll_bus_down: Duration,
    /// How long L1 may go on while neither bus nor feed can be heard; and at all where there is no
    /// feed.
    pub max_stale: Duration,
}

impl Default for SharingOptions {
    fn default() -> Self {
        Self {
            l2_deadline: Duration::from_millis(40),
            publish_deadline: Duration::from_millis(250),
            l2_ttl: Duration::from_secs(600),
            poll_bus_up: Duration::from_secs(15),
            poll_bus_down: Duration::from_secs(2),
            max_stale: Duration::from_secs(86_400),
        }
    }
}

/// Counters of what is shared.
#[derive(Debug, Default)]
pub struct SharingStats {
    /// Loads that the second tier answered.
    pub l2_hits: AtomicU64,
    /// Loads it had nothing for.
    pub l2_misses: AtomicU64,
    /// Looks that failed or took too long.
    pub l2_errors: AtomicU64,
    /// Rows it had that were older than a change known here.
    pub l2_refused: AtomicU64,
    /// Loads that did not look, because what is there could not be trusted.
    pub l2_skipped: AtomicU64,
    /// Changes learnt from the feed that the bus had not told.
    pub feed_news: AtomicU64,
    /// Reads of the feed that failed.
    pub feed_errors: AtomicU64,
    /// How often L1 was emptied because changes may have been missed.
    pub clears: AtomicU64,
    /// Changes that could not be told or written down at once and are tried again.
    pub postponed: AtomicU64,
}

/// How this node hears of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hearing {
    /// Whether there is a bus, and it carries.
    pub bus: Option<bool>,
    /// Whether there is a second tier, and it is read.
    pub l2: Option<bool>,
    /// How long ago the feed was read, if there is one.
    pub feed_age: Option<Duration>,
    /// How long nothing at all could be heard: as old may be what L1 serves. Zero while all is well.
    pub stale: Duration,
}

/// What a write made of a link.
#[derive(Clone, Debug)]
pub struct News {
    /// Which link.
    pub key: LinkKey,
    /// Its version now.
    pub version: Version,
    /// The row, if it is known.
    pub row: Option<CachedLink>,
}

/// A change that waits.
struct Pending {
    key: LinkKey,
    version: Version,
    /// Whether it must be published, too.
    publish: bool,
    due: Instant,
}

/// See the module.
pub(super) struct Shared {
    parts: Sharing,
    stats: SharingStats,
    bus_up: AtomicBool,
    l2_open: AtomicBool,
    /// Counts how often the bus came up.
    ups: AtomicU64,
    /// Monotonic milliseconds of the resolver: until then the second tier is not read.
    l2_shut_until: AtomicI64,
    /// When the feed was read last; when anything was heard last.
    fed: AtomicI64,
    heard: AtomicI64,
    wake: Notify,
    /// Not told or written down yet.
    unsettled: Mutex<VecDeque<Pending>>,
    second_look: Mutex<VecDeque<Pending>>,
}

impl Shared {
    pub(super) fn new(parts: Sharing) -> Self {
        Self {
            parts,
            stats: SharingStats::default(),
            bus_up: AtomicBool::new(false),
            l2_open: AtomicBool::new(false),
            ups: AtomicU64::new(0),
            l2_shut_until: AtomicI64::new(0),
            fed: AtomicI64::new(0),
            heard: AtomicI64::new(0),
            wake: Notify::new(),
            unsettled: Mutex::default(),
            second_look: Mutex::default(),
        }
    }

    /// What the second tier has that is as new as `floor`.
    pub(super) async fn look(&self, key: &LinkKey, floor: Version) -> Option<Cached> {
        let l2 = self.parts.l2.as_ref()?;
        if !self.l2_open.load(Relaxed) || floor == Version(u64::MAX) {
            self.stats.l2_skipped.fetch_add(1, Relaxed);
            return None;
        }
        let deadline = Deadline::after(now(), self.parts.options.l2_deadline);
        let (counter, found) = match bounded(l2.get(key, deadline), deadline).await {
            Err(_) => (&self.stats.l2_errors, None),
            Ok(None) => (&self.stats.l2_misses, None),
            Ok(Some(Cached::Row(row))) if row.version < floor => (&self.stats.l2_refused, None),
            Ok(Some(Cached::Absent)) if floor > Version(0) => (&self.stats.l2_refused, None),
            Ok(found) => (&self.stats.l2_hits, found),
        };
        counter.fetch_add(1, Relaxed);
        found
    }

    /// Writes down what the store said. Nobody waits for it.
    pub(super) async fn fill(&self, key: &LinkKey, row: Option<&CachedLink>) {
        let Some(l2) = self.parts.l2.as_ref().filter(|_| self.l2_open.load(Relaxed)) else {
            return;
        };
        let deadline = Deadline::after(now(), self.parts.options.l2_deadline);
        let filled = match row {
            Some(row) => bounded(l2.put(key, row, deadline), deadline).await,
            None => bounded(l2.put_absent(key, deadline), deadline).await,
        };
        if filled.is_err() {
            self.stats.l2_errors.fetch_add(1, Relaxed);
        }
    }

    /// Writes a change down and tells the others. `false` when one of them failed.
    async fn tell(
        &self,
        key: &LinkKey,
        version: Version,
        row: Option<&CachedLink>,
        publish: bool,
    ) -> (bool, bool) {
        let deadline = Deadline::after(now(), self.parts.options.publish_deadline);
        let write = async {
            match (&self.parts.l2, row) {
                (None, _) => Ok(()),
                (Some(l2), Some(row)) => bounded(l2.put(key, row, deadline), deadline).await,
                (Some(l2), None) => bounded(l2.drop_older(key, version, deadline), deadline).await,
            }
        };
        let tell = async {
            match &self.parts.bus {
                Some(bus) if publish => {
                    let news = Invalidation { key: key.clone(), version };
                    bounded(bus.publish(&news, deadline), deadline).await
                }
                _ => Ok(()),
            }
        };
        let (written, told) = tokio::join!(write, tell);
        (written.is_ok(), told.is_ok())
    }

    fn postpone(&self, resolver: &Resolver, key: LinkKey, version: Version, publish: bool) {
        if self.parts.l2.is_none() && !publish {
            return;
        }
        self.stats.postponed.fetch_add(1, Relaxed);
        let mut unsettled = lock(&self.unsettled);
        if unsettled.len() >= MOST_PENDING {
            // Too many to go through one by one: all that is there may be old until it is gone.
            unsettled.clear();
            self.shut_l2(resolver);
        }
        unsettled.push_back(Pending { key, version, publish, due: now() });
    }

    fn shut_l2(&self, resolver: &Resolver) {
        let ttl = i64::try_from(self.parts.options.l2_ttl.as_millis()).unwrap_or(i64::MAX);
        let until = resolver.mono(now()).saturating_add(ttl);
        self.l2_shut_until.store(until, Relaxed);
        self.l2_open.store(false, Relaxed);
    }

    fn look_again_later(&self, key: LinkKey, version: Version) {
        if self.parts.l2.is_none() {
            return;
        }
        let mut second_look = lock(&self.second_look);
        if second_look.len() >= MOST_PENDING {
            second_look.pop_front();
        }
        let due = now() + SECOND_LOOK;
        second_look.push_back(Pending { key, version, publish: false, due });
    }

    /// Does what was postponed; stops at the first that fails. Answers whether nothing is left.
    async fn settle(&self) -> bool {
        loop {
            let Some(pending) = lock(&self.unsettled).pop_front() else { break };
            let (written, told) =
                self.tell(&pending.key, pending.version, None, pending.publish).await;
            if !written || !told {
                lock(&self.unsettled).push_front(Pending { publish: !told, ..pending });
                return false;
            }
        }
        loop {
            let next = {
                let mut looks = lock(&self.second_look);
                if looks.front().is_none_or(|pending| pending.due > now()) {
                    return true;
                }
                looks.pop_front()
            };
            let Some(pending) = next else { return true };
            if !self.tell(&pending.key, pending.version, None, false).await.0 {
                lock(&self.second_look).push_front(pending);
                return true;
            }
        }
    }
}

/// A deadline outside of whatever the adapter does.
async fn bounded<T>(
    call: BoxFuture<'_, Result<T, SharedError>>,
    deadline: Deadline,
) -> Result<T, SharedError> {
    match tokio::time::timeout_at(deadline.instant().into(), call).await {
        Ok(answer) => answer,
        Err(_) => Err(SharedError("no answer within the deadline".to_owned())),
    }
}

impl BusListener for Resolver {
    fn heard(&self, news: Invalidation) {
        self.learn(&news.key, news.version);
    }

    fn bus_up(&self) {
        let Some(shared) = &self.shared else { return };
        shared.ups.fetch_add(1, Relaxed);
        shared.bus_up.store(true, Relaxed);
        // Whatever was said while nobody listened.
        shared.stats.clears.fetch_add(1, Relaxed);
        self.clear();
        shared.wake.notify_one();
    }

    fn bus_down(&self) {
        let Some(shared) = &self.shared else { return };
        shared.l2_open.store(false, Relaxed);
        shared.bus_up.store(false, Relaxed);
        shared.heard.store(self.mono(now()), Relaxed);
        shared.wake.notify_one();
    }
}

impl Resolver {
    /// Counters of what is shared, if anything is.
    pub fn sharing_stats(&self) -> Option<&SharingStats> {
        self.shared.as_ref().map(|shared| &shared.stats)
    }

    /// How this node hears of other nodes' changes; `None` when it is alone.
    pub fn hearing(&self) -> Option<Hearing> {
        let shared = self.shared.as_ref()?;
        let parts = &shared.parts;
        let mono = self.mono(now());
        let since = |then: &AtomicI64| {
            let age = mono.saturating_sub(then.load(Relaxed)).max(0);
            Duration::from_millis(age.unsigned_abs())
        };
        let up = shared.bus_up.load(Relaxed);
        let silent = parts
            .feed
            .as_ref()
            .map_or_else(|| since(&shared.heard), |_| since(&shared.heard).min(since(&shared.fed)));
        // Where there is no feed, L1 is emptied every so often whatever was heard.
        let silent = match (&parts.feed, &parts.bus) {
            (None, None) => Duration::ZERO,
            (None, Some(_)) => silent.min(parts.options.max_stale),
            (Some(_), _) => silent,
        };
        let quiet = silent <= parts.options.poll_bus_down * 2 + FEED_PATIENCE;
        Some(Hearing {
            bus: parts.bus.as_ref().map(|_| up),
            l2: parts.l2.as_ref().map(|_| shared.l2_open.load(Relaxed)),
            feed_age: parts.feed.as_ref().map(|_| since(&shared.fed)),
            stale: if up || quiet { Duration::ZERO } else { silent },
        })
    }

    /// Tells the others what this node wrote. Done when they were told, or can't be at the moment;
    /// `None` when there is nothing to wait for.
    pub(crate) fn spread(&self, news: News) -> Option<BoxFuture<'_, ()>> {
        let shared = self.shared.as_ref()?;
        if news.version <= Version::FIRST {
            // What others may have is "there is no such link", for less than a second.
            let row = news.row?;
            let shared = Arc::clone(shared);
            tokio::spawn(async move { shared.fill(&news.key, Some(&row)).await });
            return None;
        }
        Some(Box::pin(async move {
            let News { key, version, row } = news;
            let (written, told) = shared.tell(&key, version, row.as_ref(), true).await;
            if !written || !told {
                shared.postpone(self, key.clone(), version, !told);
            }
            shared.look_again_later(key, version);
        }))
    }

    /// Keeps the caches of this node right: reads the feed, tells what could not be told, opens and
    /// shuts the second tier. Runs for ever; nothing to do for a node that is alone.
    pub async fn keep_coherent(self: Arc<Self>) {
        let Some(shared) = self.shared.clone() else { return };
        let options = shared.parts.options;
        let mut position = None;
        let mut polled: Option<Instant> = None;
        let mut pruned = now();
        // As of which coming up of the bus everything before it is known.
        let mut known = 0;
        let mut emptied = now();
        loop {
            let ups = shared.ups.load(Relaxed);
            let up = shared.bus_up.load(Relaxed);
            let pause =
                if up && known == ups { options.poll_bus_up } else { options.poll_bus_down };
            let due = polled.is_none_or(|polled| now() - polled >= pause) || (up && known != ups);
            let settled = shared.settle().await;
            match &shared.parts.feed {
                Some(feed) if due => {
                    polled = Some(now());
                    if self.poll(&shared, feed.as_ref(), &mut position).await {
                        known = ups;
                    }
                    if now() - pruned >= PRUNE {
                        pruned = now();
                        forget(&shared, feed.as_ref()).await;
                    }
                }
                Some(_) => {}
                None => known = ups,
            }
            let mono = self.mono(now());
            // The feed may have brought something to write down.
            let settled = settled && lock(&shared.unsettled).is_empty();
            let trusted = settled && known == ups && mono >= shared.l2_shut_until.load(Relaxed);
            if trusted && shared.bus_up.load(Relaxed) && shared.ups.load(Relaxed) == ups {
                shared.l2_open.store(true, Relaxed);
                // The bus may have gone down between the look and the opening.
                if !shared.bus_up.load(Relaxed) || shared.ups.load(Relaxed) != ups {
                    shared.l2_open.store(false, Relaxed);
                }
            }
            if up {
                shared.heard.store(mono, Relaxed);
            }
            let stale = match &shared.parts.feed {
                Some(_) => self.hearing().map_or(Duration::ZERO, |hearing| hearing.stale),
                // What a node that stopped did not tell, nothing tells.
                None => options.max_stale,
            };
            if stale >= options.max_stale && now() - emptied >= options.max_stale {
                emptied = now();
                shared.stats.clears.fetch_add(1, Relaxed);
                self.clear();
            }
            tokio::select! {
                () = tokio::time::sleep(TURN) => {}
                () = shared.wake.notified() => {}
            }
        }
    }

    /// Reads the feed to its end. Answers whether that was possible.
    async fn poll(
        &self,
        shared: &Shared,
        feed: &dyn ChangeFeed,
        position: &mut Option<FeedPosition>,
    ) -> bool {
        loop {
            let begun = self.mono(now());
            let deadline = Deadline::after(now(), FEED_PATIENCE);
            let page = feed.changes(position.as_ref(), deadline);
            let page = tokio::time::timeout_at(deadline.instant().into(), page).await;
            let Ok(Ok(page)) = page else {
                shared.stats.feed_errors.fetch_add(1, Relaxed);
                return false;
            };
            // Whatever was loaded before there was a position may have changed since.
            if page.lost || position.is_none() {
                self.clear();
            }
            if page.lost {
                shared.stats.clears.fetch_add(1, Relaxed);
                shared.shut_l2(self);
            }
            for Invalidation { key, version } in page.changes {
                if self.learn(&key, version) {
                    shared.stats.feed_news.fetch_add(1, Relaxed);
                    shared.postpone(self, key, version, false);
                }
            }
            *position = Some(page.next);
            if !page.whole {
                shared.stats.feed_errors.fetch_add(1, Relaxed);
                return false;
            }
            if !page.more {
                shared.fed.store(begun, Relaxed);
                return true;
            }
        }
    }
}

/// Takes changes out of the feed that nothing can need: what was in the second tier before them is
/// gone, and nodes that stood still for longer start anew.
async fn forget(shared: &Shared, feed: &dyn ChangeFeed) {
    let age = shared.parts.options.l2_ttl.max(Duration::from_secs(3_600)) * 2;
    let deadline = Deadline::after(now(), FEED_PATIENCE);
    let forgotten = feed.forget_changes(age, deadline);
    if !matches!(tokio::time::timeout_at(deadline.instant().into(), forgotten).await, Ok(Ok(_))) {
        shared.stats.feed_errors.fetch_add(1, Relaxed);
    }
}

#[cfg(test)]
mod tests;
