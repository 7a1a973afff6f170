//! What nodes share through Redis or a Redis Cluster: the second cache tier, the bus that keeps
//! first tiers coherent, and whatever else several nodes must agree on in a hurry.
//!
//! Invariants:
//! - Redis is a cache and a counter that can go backwards, never the judge of anything;
//! - no call outlives its deadline, which is ours and outside the driver; a node that hangs or is
//!   gone is noticed within a second and costs nothing until it answers again;
//! - the driver's tasks run on threads of this crate, never on an event loop that serves requests.
//!
//! Read [`options`], [`handle`], then [`cache`] and [`bus`].

pub mod bus;
pub mod cache;
pub mod doctor;
pub mod handle;
pub mod limits;
pub mod options;
pub mod ranges;
mod value;

pub use bus::{BusStats, RedisBus};
pub use cache::RedisCache;
pub use handle::{Handle, LATENCY_BOUNDS, RedisError, Stats};
pub use limits::RedisLimiter;
pub use options::{OptionsError, RedisOptions};
pub use ranges::{RangeStats, RedisRanges};
