//! What links need from the rest of the engine: codes, and somebody to tell about changes.

use shunt_domain::ports::BoxFuture;
use shunt_domain::{Code, Deadline, LinkKey, StoreError, UnknownCause, Version};

use crate::resolve::{News, Resolver};

/// Why no code was drawn.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DrawError {
    /// The code space is used up and can't grow (507).
    #[error("the code space is used up; allow longer codes")]
    Exhausted,
    /// The pool of pre-generated codes is empty (503).
    #[error("the pool of codes is empty; run `shunt keys fill`")]
    PoolEmpty,
    /// The store did not answer or refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store may or may not have handed a code out; it is burnt. Safe to try again.
    #[error("it is not known whether a code was handed out: {0}")]
    Unknown(UnknownCause),
}

/// Proposes codes. Proposals are candidates only: the store's primary key judges.
pub trait CodeSource: Send + Sync {
    /// Between one and `n` candidates, none of them a reserved word; duplicates are possible.
    ///
    /// # Errors
    /// [`DrawError`].
    fn draw(&self, n: usize, deadline: Deadline) -> BoxFuture<'_, Result<Vec<Code>, DrawError>>;

    /// Tells the allocator how many of its candidates were tried and how many of those were taken
    /// already, so that it grows the length in time.
    fn report(&self, drawn: usize, collided: usize);

    /// Takes candidates back that were never offered to the store.
    fn put_back(&self, unused: Vec<Code>);
}

/// Hears of every local write of a link before the writer is answered.
pub trait Changed: Send + Sync {
    /// The link has at least this version now.
    fn link_changed(&self, key: &LinkKey, version: Version);

    /// Tells other nodes, behind [`Self::link_changed`]. The writer is answered when this is done,
    /// which it is within a moment whatever happens; `None` when there is nobody to tell.
    fn spread(&self, news: News) -> Option<BoxFuture<'_, ()>>;

    /// Whether there are others at all.
    fn is_shared(&self) -> bool;
}

impl Changed for Resolver {
    fn link_changed(&self, key: &LinkKey, version: Version) {
        Self::link_changed(self, key, version);
    }

    fn spread(&self, news: News) -> Option<BoxFuture<'_, ()>> {
        Self::spread(self, news)
    }

    fn is_shared(&self) -> bool {
        self.hearing().is_some()
    }
}
