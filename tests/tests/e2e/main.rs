//! The real binary, end to end: what a person, a client or an attacker sees of it, and what is left
//! when it is killed, starved or lied to.
//!
//! Each test starts servers of its own on ports and directories of its own. Where a fault is
//! injected, the test also shows that the fault happened: a run without it counts as failed.

#![expect(clippy::unwrap_used, reason = "every function here is a test or part of one")]

mod api_fuzz;
mod bad_start;
mod browser;
mod cli;
mod clients;
mod clock;
mod coherence;
mod copy;
mod disk;
mod docs;
#[cfg(feature = "dynamodb")]
mod dynamodb;
mod fds;
mod fresh_start;
mod import;
mod kill9;
mod kit;
mod legacy;
mod limits;
mod links;
mod postgres;
mod rates;
mod redirects;
mod redis;
mod replicas;
mod restart;
mod scaling;
mod seeing;
mod shards;
mod slow;
mod smuggling;
mod tls;
mod torn;
