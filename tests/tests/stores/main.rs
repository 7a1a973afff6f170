//! Stores that need a server: the conformance suite, and what happens when the server misbehaves.
//!
//! One test per port, because each starts a server of its own: the facts of a port share it and
//! have a database each.

#![expect(clippy::unwrap_used, reason = "every function here is a test or part of one")]

mod citus;
mod citus_nodes;
mod cluster;
mod conformance;
#[cfg(feature = "dynamodb")]
mod dynamodb;
mod faults;
mod kit;
mod legacy;
mod login;
mod pool;
mod replicated;
mod schema;
mod sharded;
