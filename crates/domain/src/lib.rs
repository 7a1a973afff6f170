//! Words and rules of shunt: codes, links, targets, clicks, and the ports that adapters implement.
//!
//! Invariants:
//! - nothing in this crate does I/O, reads a clock or knows a driver; time comes in as a
//!   [`Timestamp`], randomness as bytes;
//! - a value of one of these types is valid by construction, so nobody checks it twice;
//! - wire formats that outlive a process (the click codec, lanes) are versioned and pinned by tests.

pub mod bots;
pub mod click;
pub mod code;
pub mod key;
pub mod lane;
pub mod limit;
pub mod link;
pub mod outcome;
pub mod ports;
pub mod reserved;
pub mod ring;
pub mod target;
pub mod time;

pub use code::{Code, CodeError, DomainId, LinkKey};
pub use key::{ApiKeyId, OwnerId, Scope, Scopes};
pub use lane::Lane;
pub use link::{Link, LinkPatch, NewLink, RedirectStatus, Stored, Tag, Tombstone, Version};
pub use outcome::{Outcome, StoreError, UnknownCause};
pub use target::{Target, TargetRules};
pub use time::{Deadline, Timestamp};
