//! Counters of the calls, for the metrics.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the latency buckets in microseconds; a last bucket takes the rest. A call takes
/// some tens of microseconds on loopback, a millisecond across a network, and 50 ms when it hangs.
pub const LATENCY_BOUNDS: [u64; 9] = [100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000];

/// Counters. All only grow.
#[derive(Debug, Default)]
pub struct Stats {
    /// Calls that were sent.
    pub calls: AtomicU64,
    /// Calls that failed: the connection broke, or the server answered with an error.
    pub errors: AtomicU64,
    /// Calls whose deadline passed.
    pub timeouts: AtomicU64,
    /// Calls that were not sent: no connection, the breaker open, or too many under way.
    pub refused: AtomicU64,
    /// How often a breaker opened.
    pub opened: AtomicU64,
    /// Connections made.
    pub connects: AtomicU64,
    /// Calls by how long they took, answered or not; one more bucket than [`LATENCY_BOUNDS`].
    pub latency: [AtomicU64; LATENCY_BOUNDS.len() + 1],
    /// All these times together, in microseconds.
    pub latency_sum: AtomicU64,
}

impl Stats {
    pub(super) fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn took(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let bucket = LATENCY_BOUNDS.partition_point(|bound| *bound < micros);
        // In range: there is one bucket more than bounds.
        Self::add(&self.latency[bucket]);
        self.latency_sum.fetch_add(micros, Ordering::Relaxed);
    }
}
