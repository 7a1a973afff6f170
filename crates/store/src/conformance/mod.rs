//! The conformance suite: facts that hold for every store, split by port.
//!
//! `conformance_suite!(name, make)` makes one `#[test]` of each fact; `make` is a function that
//! gives a [`Subject`] with an empty store. `conformance_suite!(name, start, conformance_together)`
//! makes one of each port instead, for stores that need a server: `start` starts it and gives the
//! function that makes subjects. A store without a port leaves that port's macro out.
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
pub mod state_machine;

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

/// Facts that are checked one after the other: the first that does not hold hinders no other.
#[derive(Debug, Default)]
pub struct Facts {
    checked: usize,
    failed: Vec<&'static str>,
}

impl Facts {
    /// Checks one.
    pub fn check(&mut self, name: &'static str, fact: impl Future<Output = ()>) {
        self.checked += 1;
        let fact = std::panic::AssertUnwindSafe(|| check(fact));
        if std::panic::catch_unwind(fact).is_err() {
            // The panic has said why.
            self.failed.push(name);
        }
    }

    /// Answers for all of them.
    ///
    /// # Panics
    /// When one did not hold, or there was none.
    pub fn end(self) {
        assert!(self.checked > 0, "no facts");
        assert!(self.failed.is_empty(), "these do not hold: {}", self.failed.join(", "));
    }
}
