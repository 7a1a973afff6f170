//! The click pipeline's first half: per-core rings, the durable spool, the in-process transport,
//! and the worker of the embedded default.
//!
//! A click's way: [`RingProducer::record`](ring::RingProducer) numbers it and puts it on its
//! core's ring in shared memory (wait-free) → the spool thread drains all rings every
//! [`flush_interval`](PipelineConfig::flush_interval) into one checksummed, fsynced frame →
//! the worker folds frames with `shunt-analytics` and applies them over the
//! [`RollupStore`](shunt_domain::ports::RollupStore) port, marks and rows in one transaction.
//!
//! Invariants:
//! - counted + reported lost = numbered, per (node, boot), kill -9 at any instruction included;
//! - a ring's tail moves only after the frame that took its events is on disk;
//! - a segment is deleted only after the marks of all its events are durable;
//! - memory and disk are bounded: rings, one frame, segments, rows; what does not fit is a number;
//! - the only `unsafe` of the workspace is in the private `mapping` module
//!   (docs/adr/0003-shared-memory-ring.md).

mod config;
mod mapping;
mod pipeline;
mod stats;
mod worker;

pub mod frame;
pub mod ring;
pub mod spool;

pub use config::PipelineConfig;
pub use frame::RecordBatch;
pub use pipeline::{Pipeline, ShutdownReport, StartError};
pub use ring::RingProducer;
pub use spool::reader::{Position, SpoolReader};
pub use stats::{PipelineStats, SpoolState, WorkerState};

#[cfg(test)]
mod tests;
