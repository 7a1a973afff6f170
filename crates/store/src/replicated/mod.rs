//! A PostgreSQL database with streaming standbys: redirects read from the nearest copy, all else is
//! the primary's, and which copy that is is found out again and again.
//!
//! Reading order: `store`, then `lookout` (what is known of the copies) with `election` and `lag`,
//! `plan` and `reader` for reads, `recent` and `ports` for what a process must see of its own
//! writes, `arcs` for a database that is a shard, [`facts`] for people. Why it is so: docs/adr/ on standbys.

mod arcs;
mod election;
pub mod facts;
mod lag;
mod lookout;
mod plan;
mod ports;
mod reader;
mod recent;
mod store;

pub use facts::{CopyState, Problem};
pub use lag::Lag;
pub(crate) use store::Watch;
pub use store::{MOST_COPIES, ReplicatedOptions, ReplicatedStats, ReplicatedStore};
