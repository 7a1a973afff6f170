//! The redirect listener: one thread and one event loop per core, each with its own listening
//! socket (`SO_REUSEPORT`), its own click ring and its own counters.
//!
//! A connection begins in [`fast`]: a small loop that answers plain `GET`s and `HEAD`s of links
//! and hands everything else, bytes already read included, to hyper in [`service`].
//!
//! Invariants:
//! - after an L1 hit nothing is awaited but the socket;
//! - every connection has a deadline in every phase, enforced by [`guard`];
//! - listening sockets are never closed while another process may share them.

pub mod core;
pub mod facts;
pub mod fast;
pub mod guard;
pub mod limits;
pub mod misses;
pub mod paced;
pub mod passing;
pub mod proxies;
pub mod proxy_protocol;
pub mod redirect;
pub mod server;
pub mod service;
pub mod sockets;
pub mod tls;

#[cfg(test)]
mod tests;
