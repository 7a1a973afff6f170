//! Figures of a database for `/metrics`, as plain atomics: the writer and the readers add, anybody
//! reads.

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

/// What a writer has done since it started.
#[derive(Debug, Default)]
pub struct WriterStats {
    /// Transactions committed that changed something. With [`super::Durability::Full`] each one is at least one `fsync`
    /// of the log before any of its writes is acknowledged.
    pub commits: AtomicU64,
    /// Writes answered "done".
    pub acknowledged: AtomicU64,
    /// Writes refused by the store itself: full disk, deadline, damage.
    pub refused: AtomicU64,
    /// Writes whose outcome nobody knows.
    pub unknown: AtomicU64,
    /// Transactions rolled back.
    pub rollbacks: AtomicU64,
    /// Checkpoints that moved something into the database file.
    pub checkpoints: AtomicU64,
    /// Times the connection had to be opened anew.
    pub reopened: AtomicU64,
    /// Writes waiting now.
    pub queued: AtomicU64,
    /// Pages in the write-ahead log after the last commit.
    pub wal_pages: AtomicU64,
    /// Writes per committed group.
    pub group_size: Log2Histogram,
    /// Microseconds from `BEGIN` to the end of `COMMIT`.
    pub group_micros: Log2Histogram,
}

/// What the readers have done since they started.
#[derive(Debug, Default)]
pub struct ReaderStats {
    /// Reads done.
    pub done: AtomicU64,
    /// Reads that were dropped because their deadline had passed while they waited.
    pub expired: AtomicU64,
    /// Reads refused because too many waited.
    pub refused: AtomicU64,
    /// Reads waiting now.
    pub queued: AtomicU64,
    /// Microseconds of work for one point read.
    pub point_micros: Log2Histogram,
    /// Microseconds of work for one page of a list or search.
    pub scan_micros: Log2Histogram,
}

/// Adds one.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
