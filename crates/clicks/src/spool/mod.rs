//! The spool: append-only segments of frames on local disk.
//!
//! Invariants:
//! - one process at a time has the spool (a lock in the kernel), and only its spool thread writes;
//! - a segment is only appended to by the process that made it, and never again after a failed
//!   fsync: the next frame begins a new one;
//! - the reader sees a frame only once it is on disk;
//! - a segment is deleted only when everything in it is counted and a later one holds a frame,
//!   because the last frame is what recovery goes by.

pub(crate) mod drain;
pub(crate) mod recovery;
pub(crate) mod segments;
pub(crate) mod thread;

pub mod reader;
