//! Loopback ports that are free and stay ours.
//!
//! Asking the kernel for port 0 and closing it again is a race, and shunt listens with
//! `SO_REUSEPORT`, so two servers of two tests that were given the same port would share it
//! without a word. So a port is leased: an exclusive lock on a file named after it, held by the
//! lease and let go by the kernel when the process ends. The files are a user's own: nobody shares
//! a port with another user's server.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};

/// Below the kernel's ephemeral range (32768 and up), so that no outgoing connection takes one.
const FIRST: u16 = 18_000;
const COUNT: u16 = 12_000;

/// A loopback port that nobody else on this machine is given while this value lives.
#[derive(Debug)]
pub struct Port {
    number: u16,
    /// Holds the lock.
    _lock: File,
}

impl Port {
    /// Leases a free port.
    ///
    /// # Errors
    /// When the lock directory can't be written, or no port is free.
    pub fn lease() -> Result<Self> {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let directory = lock_directory()?;
        // Processes begin at different places, so that they seldom meet.
        let start = (std::process::id().wrapping_mul(211) % u32::from(COUNT)) as u16;
        for _ in 0..COUNT {
            let step = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
            let number = FIRST + (start + step) % COUNT;
            if let Some(port) = Self::if_free(&directory, number)? {
                return Ok(port);
            }
        }
        bail!("no free port between {FIRST} and {}", FIRST + COUNT - 1)
    }

    /// Leases this very port.
    ///
    /// # Errors
    /// As [`Self::lease`], or when it is not free.
    pub fn take(number: u16) -> Result<Self> {
        let port = Self::if_free(&lock_directory()?, number)?;
        port.with_context(|| format!("port {number} is taken by another program"))
    }

    fn if_free(directory: &Path, number: u16) -> Result<Option<Self>> {
        let path = directory.join(number.to_string());
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .with_context(|| format!("open the port lock {}", path.display()))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(None);
        }
        // Somebody who takes no leases may have it. std sets SO_REUSEADDR only, so this fails on
        // any listener, SO_REUSEPORT ones included.
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok();
        Ok(free.then_some(Self { number, _lock: lock }))
    }

    /// The port's number.
    pub const fn number(&self) -> u16 {
        self.number
    }

    /// The port on 127.0.0.1.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.number))
    }
}

fn lock_directory() -> Result<PathBuf> {
    let user = rustix::process::geteuid().as_raw();
    let path = std::env::temp_dir().join(format!("shunt-ports-{user}"));
    std::fs::create_dir_all(&path)
        .with_context(|| format!("make the directory for port locks {}", path.display()))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_leases_are_two_ports_and_a_dropped_one_can_be_taken_again() {
        let a = Port::lease().unwrap();
        let b = Port::lease().unwrap();
        assert_ne!(a.number(), b.number());
        let path = lock_directory().unwrap().join(a.number().to_string());
        let again = File::options().write(true).open(&path).unwrap();
        assert!(flock(&again, FlockOperation::NonBlockingLockExclusive).is_err());
        drop(a);
        assert!(flock(&again, FlockOperation::NonBlockingLockExclusive).is_ok());
    }
}
