//! What this node shares with others: the second cache tier and the bus in Redis, if one is named,
//! and the feed of the store, if it has one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use shunt_domain::ports::{Bus, Clock, LinkCache};
use shunt_engine::resolve::{Resolver, Sharing, SharingOptions};
use shunt_http::metrics::Sample;
use shunt_http::ops::Degraded;
use shunt_redis::{Handle, LATENCY_BOUNDS, RedisBus, RedisCache};
use tokio::runtime::Runtime;

use super::OpenMode;
use crate::config::{CacheUrl, Config};
use crate::stores::Stores;

/// How long a command waits for Redis before it goes on without.
const COMMAND_PATIENCE: Duration = Duration::from_secs(1);

/// How long a link stays in L1 when the store has no feed of changes: a node that stopped between
/// its write and telling of it is made up for then.
const WITHOUT_FEED: Duration = Duration::from_secs(10);

/// The connections to Redis, and what goes over them.
#[derive(Clone, Debug)]
pub struct Redis {
    /// The connections.
    pub handle: Arc<Handle>,
    /// The bus; none while the store has no feed, and so no second node.
    pub bus: Option<Arc<RedisBus>>,
}

/// Begins to connect to Redis, if one is named; and what the resolver shares, if this node is one
/// of several.
///
/// # Errors
/// What is wrong with the settings.
pub(super) async fn prepare(
    config: &Config,
    stores: &Stores,
    clock: &Arc<dyn Clock>,
    mode: OpenMode,
) -> anyhow::Result<(Option<Redis>, Option<Sharing>)> {
    let cache = &config.cache;
    let options = SharingOptions {
        l2_deadline: cache.l2_deadline,
        l2_ttl: cache.l2_ttl,
        max_stale: match &stores.feed {
            Some(_) => cache.max_stale,
            None => cache.max_stale.min(WITHOUT_FEED),
        },
        ..SharingOptions::default()
    };
    let feed = stores.feed.clone();
    let CacheUrl::Redis(redis) = &cache.url else {
        let sharing = Sharing { l2: None, bus: None, feed, options };
        return Ok((None, (!stores.alone).then_some(sharing)));
    };
    let mut redis = redis.as_ref().clone();
    if let Some(path) = &cache.ca {
        let ca = std::fs::read(path)
            .with_context(|| format!("read the authorities for Redis from {}", path.display()))?;
        redis.ca = Some(ca);
    }
    let handle = Handle::start(redis).context("prepare the connections to Redis")?;
    if !matches!(mode, OpenMode::Serve { .. }) {
        // A command writes once and is gone: what it changes should be told.
        let begun = Instant::now();
        while handle.up().0 == 0 && begun.elapsed() < COMMAND_PATIENCE {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    if stores.alone {
        // One process has the store, and its L1 is all the cache there can be.
        return Ok((Some(Redis { handle, bus: None }), None));
    }
    let bus = RedisBus::new(Arc::clone(&handle), &cache.prefix, random()?);
    // Without a feed nobody knows what the second tier was not told.
    let l2 = (cache.l2 && feed.is_some()).then(|| {
        let (handle, clock) = (Arc::clone(&handle), Arc::clone(clock));
        Arc::new(RedisCache::new(handle, &cache.prefix, cache.l2_ttl, clock)) as Arc<dyn LinkCache>
    });
    let told = Arc::clone(&bus) as Arc<dyn Bus>;
    let sharing = Sharing { l2, bus: Some(told), feed, options };
    Ok((Some(Redis { handle, bus: Some(bus) }), Some(sharing)))
}

fn random() -> anyhow::Result<u64> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).context("get random numbers from the system")?;
    Ok(u64::from_le_bytes(bytes))
}

/// Begins to listen to the other nodes.
pub(super) fn start(runtime: &Runtime, resolver: &Arc<Resolver>, redis: Option<&Redis>) {
    if resolver.hearing().is_some() {
        runtime.spawn(Arc::clone(resolver).keep_coherent());
    }
    if let Some(bus) = redis.and_then(|redis| redis.bus.as_ref()) {
        bus.listen(Arc::clone(resolver) as _);
    }
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

const fn flag(set: bool) -> f64 {
    if set { 1.0 } else { 0.0 }
}

/// Figures of what is shared.
pub(super) fn samples(resolver: &Resolver, redis: Option<&Redis>) -> Vec<Sample> {
    let mut samples = Vec::new();
    if let (Some(stats), Some(hearing)) = (resolver.sharing_stats(), resolver.hearing()) {
        if let Some(open) = hearing.l2 {
            let looks = |outcome, value| {
                let help = "Looks into the shared cache, by what came of them";
                Sample::counter("shunt_l2_looks", help, value).with("outcome", outcome)
            };
            samples.extend([
                Sample::gauge("shunt_l2_open", "Whether the shared cache is read", flag(open)),
                looks("hit", get(&stats.l2_hits)),
                looks("miss", get(&stats.l2_misses)),
                looks("error", get(&stats.l2_errors)),
                looks("refused", get(&stats.l2_refused)),
                looks("skipped", get(&stats.l2_skipped)),
            ]);
        }
        samples.extend([
            Sample::counter(
                "shunt_changes_learnt_from_feed",
                "Changes by other nodes that the bus had not told",
                get(&stats.feed_news),
            ),
            Sample::counter(
                "shunt_change_feed_errors",
                "Reads of the feed of changes that failed",
                get(&stats.feed_errors),
            ),
            Sample::counter(
                "shunt_changes_postponed",
                "Changes that could not be told or written down at once",
                get(&stats.postponed),
            ),
            Sample::counter(
                "shunt_cache_clears",
                "Times L1 was emptied because changes may have been missed",
                get(&stats.clears),
            ),
            Sample::gauge(
                "shunt_cache_stale_seconds",
                "How old what L1 serves may be; 0 while this node hears of changes",
                hearing.stale.as_secs_f64(),
            ),
        ]);
        if let Some(age) = hearing.feed_age {
            let help = "Time since the feed of changes was read to its end";
            samples.push(Sample::gauge("shunt_change_feed_age_seconds", help, age.as_secs_f64()));
        }
    }
    if let Some(redis) = redis {
        redis_samples(&mut samples, redis);
    }
    samples
}

fn redis_samples(samples: &mut Vec<Sample>, redis: &Redis) {
    let stats = redis.handle.stats();
    let (up, all) = redis.handle.up();
    let calls = |outcome, value| {
        Sample::counter("shunt_redis_calls", "Calls to Redis, by what came of them", value)
            .with("outcome", outcome)
    };
    let (errors, timeouts) = (get(&stats.errors), get(&stats.timeouts));
    samples.extend([
        calls("answered", get(&stats.calls).saturating_sub(errors + timeouts)),
        calls("error", errors),
        calls("timeout", timeouts),
        calls("refused", get(&stats.refused)),
        Sample::counter("shunt_redis_breaker_opened", "Times a breaker opened", get(&stats.opened)),
        Sample::counter("shunt_redis_connects", "Connections made to Redis", get(&stats.connects)),
        Sample::gauge("shunt_redis_nodes", "Nodes of Redis that have keys", all as f64)
            .with("state", "all"),
        Sample::gauge("shunt_redis_nodes", "Nodes of Redis that have keys", up as f64)
            .with("state", "up"),
    ]);
    let slow = stats.latency.iter().zip(LATENCY_BOUNDS).filter(|(_, bound)| *bound > 10_000);
    let beyond = stats.latency.last().map_or(0, get);
    samples.extend([
        Sample::counter(
            "shunt_redis_call_microseconds",
            "Time spent in calls to Redis, in microseconds",
            get(&stats.latency_sum),
        ),
        Sample::counter(
            "shunt_redis_calls_slow",
            "Calls to Redis that took more than 10 ms",
            slow.map(|(count, _)| get(count)).sum::<u64>() + beyond,
        ),
    ]);
    if let Some(bus) = &redis.bus {
        let stats = bus.stats();
        let news = |what, value| {
            Sample::counter("shunt_bus_invalidations", "Invalidations over the bus", value)
                .with("what", what)
        };
        samples.extend([
            Sample::gauge(
                "shunt_bus_up",
                "Whether the bus carries",
                flag(stats.up.load(Ordering::Relaxed)),
            ),
            Sample::gauge(
                "shunt_bus_silence_seconds",
                "Time since this node heard itself over the bus",
                bus.silence().as_secs_f64(),
            ),
            Sample::counter("shunt_bus_downs", "Times the bus went down", get(&stats.downs)),
            news("sent", get(&stats.sent)),
            news("unsent", get(&stats.unsent)),
            news("heard", get(&stats.heard)),
            news("unreadable", get(&stats.unreadable)),
        ]);
    }
}

/// What does not work as it should.
pub(super) fn degraded(resolver: &Resolver, redis: Option<&Redis>) -> Vec<Degraded> {
    let mut degraded = Vec::new();
    let mut say = |part, what: String| degraded.push(Degraded { part, what, unready: false });
    if let Some(redis) = redis {
        let (up, all) = redis.handle.up();
        if up < all {
            say("redis", format!("{up} of {all} nodes answer; redirects ask the store instead"));
        }
    }
    if let Some(hearing) = resolver.hearing() {
        if hearing.bus == Some(false) {
            say("bus", "down: edits on other nodes are seen after some seconds".to_owned());
        }
        if !hearing.stale.is_zero() {
            let seconds = hearing.stale.as_secs();
            say(
                "cache",
                format!(
                    "neither bus nor store tell of changes: what is cached may be {seconds} s old"
                ),
            );
        }
    }
    degraded
}
