//! Pure folding of click batches into roll-ups; no I/O.
//!
//! Invariants:
//! - nothing here reads a clock, a file or a store: events come in, a
//!   [`RollupBatch`](shunt_domain::ports::RollupBatch) goes out;
//! - what is folded and the runs of numbers it came from leave together, so that whoever stores
//!   them in one transaction counts every event once;
//! - memory is bounded by the caller: [`Folder::rows`] says when a batch is large enough.

pub mod fold;
pub mod ranges;

pub use fold::{FoldError, Folder};
pub use ranges::RangeSet;
