//! `shunt doctor` on real servers: nothing is found on a sound deployment, and each
//! misconfiguration, made on a real server, is found by its id and nothing else is.

#![expect(clippy::unwrap_used, reason = "every function here is a test or part of one")]

mod addresses;
mod caches;
mod citus;
mod kit;
mod servers;
mod standbys;
