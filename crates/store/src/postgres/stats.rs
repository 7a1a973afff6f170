//! Figures of a PostgreSQL store for `/metrics`, as plain atomics: anybody adds, anybody reads.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::histogram::Log2Histogram;

/// What a store has done since it was opened.
#[derive(Debug, Default)]
pub struct PostgresStats {
    /// Connections made.
    pub connections: AtomicU64,
    /// Attempts to make one that failed.
    pub failed_connections: AtomicU64,
    /// Writes answered "done".
    pub done: AtomicU64,
    /// Writes refused: by the server, for want of a connection, or because their deadline passed
    /// before anything was sent.
    pub refused: AtomicU64,
    /// Writes whose outcome nobody knows.
    pub unknown: AtomicU64,
    /// Transactions run again after a deadlock, a serialization failure or a lost connection.
    pub repeated: AtomicU64,
    /// Commits that the server reported with a warning, and that therefore count as unknown.
    pub warned: AtomicU64,
    /// Writes refused at once because too many were overdue, or no connection could be made.
    pub failed_fast: AtomicU64,
    /// Point reads answered.
    pub reads: AtomicU64,
    /// Reads that failed or came too late.
    pub failed_reads: AtomicU64,
    /// Connections that were replaced because nothing was answered on them: shared ones, and those
    /// of overdue writes that the server knows nothing of.
    pub stalled: AtomicU64,
    /// Point reads per statement.
    pub reads_per_statement: Log2Histogram,
    /// Creates per statement.
    pub creates_per_statement: Log2Histogram,
    /// Microseconds from taking a connection to the end of a write.
    pub write_micros: Log2Histogram,
}

/// Adds one.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
