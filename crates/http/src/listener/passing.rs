//! Connections that a leaving process passes on to its successor.
//!
//! Only plain HTTP/1 connections between two requests can go: nothing of them is anywhere but in
//! the kernel. Bytes that arrive on the way wait there too, so the client notices nothing.

use std::net::{IpAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// A connection between two requests.
#[derive(Debug)]
pub struct Quiet {
    /// The connection, non-blocking.
    pub stream: TcpStream,
    /// Who is at its other end as far as socket and PROXY header said.
    pub peer: IpAddr,
}

/// Where a draining server puts connections for whoever follows it.
#[derive(Debug, Default)]
pub struct Passing {
    wanted: AtomicBool,
    quiet: Mutex<Vec<Quiet>>,
}

impl Passing {
    /// From now on quiet connections are kept for a successor instead of being closed.
    pub fn begin(&self) {
        self.wanted.store(true, Ordering::Release);
    }

    /// Whether somebody wants them.
    pub fn wanted(&self) -> bool {
        self.wanted.load(Ordering::Acquire)
    }

    /// Keeps a connection for the successor.
    pub fn put(&self, quiet: Quiet) {
        self.quiet.lock().unwrap_or_else(PoisonError::into_inner).push(quiet);
    }

    /// All connections that were kept.
    pub fn take(&self) -> Vec<Quiet> {
        std::mem::take(&mut *self.quiet.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
