//! Figures of a database for `/metrics`, as plain atomics: the writer and the readers add, anybody
//! reads.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::histogram::Log2Histogram;

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
