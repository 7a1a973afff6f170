//! Faults that must be survived: fleets of the real binary over real servers, under load, and one
//! fault after the other.
//!
//! Each fault shows that it bit, lasts for 10,000 look-ups of links made in the last second, and
//! passes if no acknowledged link is lost, no code comes twice, nothing that exists is answered 404,
//! and links that are cached or on a standby redirect without an error. What was acknowledged is
//! known by the clients, outside all servers.
//!
//! Faults that can share a fleet are steps of one test, each named in what it says.

#![expect(clippy::unwrap_used, reason = "every function here is a test or part of one")]

mod copies;
mod entry;
mod fleet;
mod history;
mod million;
mod redis;
mod traffic;
