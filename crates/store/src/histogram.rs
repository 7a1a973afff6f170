//! A histogram that costs one addition a value.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A histogram over powers of two: bucket `i` counts values below `2^i`, the last one all others.
#[derive(Debug, Default)]
pub struct Log2Histogram {
    buckets: [AtomicU64; Self::BUCKETS],
    sum: AtomicU64,
}

impl Log2Histogram {
    /// How many buckets there are: up to 2^24 (16.8 s in microseconds), then everything else.
    pub const BUCKETS: usize = 26;

    /// Counts one value.
    pub fn record(&self, value: u64) {
        let bits = (u64::BITS - value.leading_zeros()) as usize;
        if let Some(bucket) = self.buckets.get(bits.min(Self::BUCKETS - 1)) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// Counts a duration in microseconds.
    pub fn record_micros(&self, duration: Duration) {
        self.record(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
    }

    /// The buckets so far, not cumulated: `[i]` counts values in `2^(i-1) .. 2^i`.
    pub fn buckets(&self) -> [u64; Self::BUCKETS] {
        std::array::from_fn(|i| self.buckets.get(i).map_or(0, |b| b.load(Ordering::Relaxed)))
    }

    /// The sum of all values.
    pub fn sum(&self) -> u64 {
        self.sum.load(Ordering::Relaxed)
    }

    /// How many values were counted.
    pub fn count(&self) -> u64 {
        self.buckets().iter().sum()
    }
}
