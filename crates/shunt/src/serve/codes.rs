//! The wiring of where codes come from, and its figures.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use shunt_domain::ports::{HighWater, RangeLeases};
use shunt_engine::codes::Allocator;
use shunt_http::metrics::Sample;
use shunt_redis::RedisRanges;

use super::sharing::Redis;
use crate::config::Config;

/// How long Redis may take to propose a range; then the store leases one by itself.
const PROPOSAL: Duration = Duration::from_millis(100);

/// Where ranges come from: proposed by Redis if there is one, given by the store.
pub(super) struct Ranges {
    /// What the allocator leases from.
    pub(super) leases: Arc<dyn RangeLeases>,
    /// The same with its figures, where there is a Redis.
    pub(super) together: Option<Arc<RedisRanges>>,
}

impl Ranges {
    /// Ranges that `store` judges.
    pub(super) fn new(config: &Config, store: Arc<dyn HighWater>, redis: Option<&Redis>) -> Self {
        match redis {
            Some(redis) => {
                let (handle, prefix) = (Arc::clone(&redis.handle), &config.cache.prefix);
                let together = Arc::new(RedisRanges::new(handle, prefix, store, PROPOSAL));
                Self { leases: Arc::clone(&together) as _, together: Some(together) }
            }
            None => Self { leases: store, together: None },
        }
    }
}

/// What `/metrics` shows of ranges that are proposed by Redis.
pub(super) fn range_samples(ranges: &RedisRanges) -> Vec<Sample> {
    const NAME: &str = "shunt_ranges";
    const HELP: &str = "Ranges of codes leased or not, by how";
    let stats = ranges.stats();
    [
        ("proposed", &stats.proposed),
        ("rest", &stats.rests),
        ("alone", &stats.alone),
        ("refused", &stats.refused),
        ("lifted", &stats.lifted),
    ]
    .into_iter()
    .map(|(how, count)| Sample::counter(NAME, HELP, count.load(Ordering::Relaxed)).with("how", how))
    .collect()
}

/// What `/metrics` shows of the pool.
pub(super) fn samples(allocator: &Allocator) -> Vec<Sample> {
    let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let Some(pool) = allocator.pool_stats() else { return Vec::new() };
    vec![
        Sample::gauge(
            "shunt_pool_codes",
            "Codes in the pool when it was last counted",
            get(&pool.left) as f64,
        ),
        Sample::counter("shunt_pool_claimed", "Rows claimed from the pool", get(&pool.claimed)),
        Sample::counter("shunt_pool_added", "Rows added to the pool", get(&pool.added)),
        Sample::counter("shunt_pool_refills", "Refills of the pool", get(&pool.refills)),
        Sample::counter("shunt_pool_empty", "Claims from an empty pool", get(&pool.empty)),
    ]
}
