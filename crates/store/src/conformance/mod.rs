//! The conformance suite: facts that hold for every store, split by port.
//!
//! `conformance_suite!(name, make)` makes one `#[test]` of each fact; `make` is a function that
//! gives a [`Subject`] with an empty store. A store without a port leaves that port's macro out.
//! A store is supported only while it passes.

#![allow(clippy::unwrap_used, reason = "a fact that does not hold is a failed test")]

pub mod domains;
pub mod durability;
pub mod fixtures;
pub mod idempotency;
pub mod keys;
pub mod links;
pub mod listing;
mod macros;
pub mod meta;
pub mod once;
pub mod pool;
pub mod ranges;
pub mod rollups;

#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) use links::join_all;
#[cfg(test)]
pub(crate) use tests::copy_files;

/// A store under test with what it needs to live: a directory, a server.
pub trait Subject: Send + Sync {
    /// The store's type.
    type Store: Send + Sync;

    /// The store.
    fn store(&self) -> &Self::Store;
}

/// A store that can be stopped and started again with its data.
pub trait Restart: Subject + Sized {
    /// Stops it in good order and starts it again.
    #[must_use]
    fn restart(self) -> Self;

    /// Starts another one with what a kill of the first one's process leaves behind.
    #[must_use]
    fn crash(self) -> Self;
}

/// Runs one fact on a runtime of its own.
///
/// # Panics
/// When the fact does not hold.
pub fn check(fact: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(fact);
}
