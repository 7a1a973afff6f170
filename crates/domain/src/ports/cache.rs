//! The ports of what nodes share to keep their caches right: the second cache tier, the bus, and
//! the feed of changes that can't lose one.

use std::time::Duration;

use super::BoxFuture;
use crate::code::LinkKey;
use crate::link::{Link, RedirectStatus, Stored, Version};
use crate::outcome::StoreError;
use crate::target::Target;
use crate::time::{Deadline, Timestamp};

/// What a redirect needs to know of a row of the links table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedLink {
    /// The row's version.
    pub version: Version,
    /// How it answers; `None` for a tombstone.
    pub terms: Option<Terms>,
}

/// How a link answers, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Where it leads.
    pub target: Target,
    /// The redirect's status code.
    pub status: RedirectStatus,
    /// Whether the visitor's query is appended.
    pub forward_query: bool,
    /// Whether it is enabled.
    pub enabled: bool,
    /// Before this it answers as if it did not exist.
    pub valid_from: Option<Timestamp>,
    /// From this on it is gone.
    pub expires_at: Option<Timestamp>,
    /// Whether each redirect is decided centrally: it has a click limit.
    pub central: bool,
}

impl From<&Link> for CachedLink {
    fn from(link: &Link) -> Self {
        let data = &link.data;
        let terms = Terms {
            target: data.target.clone(),
            status: data.status,
            forward_query: data.forward_query,
            enabled: data.enabled,
            valid_from: data.valid_from,
            expires_at: data.expires_at,
            central: data.max_clicks.is_some(),
        };
        Self { version: link.version, terms: Some(terms) }
    }
}

impl From<&Stored> for CachedLink {
    fn from(stored: &Stored) -> Self {
        match stored {
            Stored::Tombstone(tombstone) => Self { version: tombstone.version, terms: None },
            Stored::Link(link) => Self::from(link.as_ref()),
        }
    }
}

/// What the second tier has for a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cached {
    /// A row as it was.
    Row(CachedLink),
    /// A moment ago there was no such link.
    Absent,
}

/// Why the second tier or the bus did not do it. Never worth more than a look into the store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SharedError(pub String);

/// The cache that all nodes share. A network round trip; may forget anything at any time, and may
/// go back to an older row after a failover.
pub trait LinkCache: Send + Sync {
    /// What is there for `key`.
    ///
    /// # Errors
    /// [`SharedError`].
    fn get<'a>(
        &'a self,
        key: &'a LinkKey,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Option<Cached>, SharedError>>;

    /// Stores a row, unless one as new is there. Writes over [`Cached::Absent`].
    ///
    /// # Errors
    /// [`SharedError`]: it may be there or not.
    fn put<'a>(
        &'a self,
        key: &'a LinkKey,
        row: &'a CachedLink,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<(), SharedError>>;

    /// Stores that there is no such link, unless there is anything. It stays for
    /// [`ABSENT_TTL`] at most.
    ///
    /// # Errors
    /// [`SharedError`]: it may be there or not.
    fn put_absent<'a>(
        &'a self,
        key: &'a LinkKey,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<(), SharedError>>;

    /// Forgets what is older than `version`.
    ///
    /// # Errors
    /// [`SharedError`]: it may be there still.
    fn drop_older<'a>(
        &'a self,
        key: &'a LinkKey,
        version: Version,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<(), SharedError>>;
}

/// How long "there is no such link" stays in the second tier, and how long a first tier that
/// learns it there repeats it: together less than a second.
pub const ABSENT_TTL: Duration = Duration::from_millis(400);

/// A link changed and has at least this version now.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Invalidation {
    /// Which link.
    pub key: LinkKey,
    /// Its version.
    pub version: Version,
}

/// Tells all nodes. At most once: what is said while a node does not listen is lost for it.
pub trait Bus: Send + Sync {
    /// Sends an invalidation. Done when a server has taken it.
    ///
    /// # Errors
    /// [`SharedError`]: some nodes may have heard it.
    fn publish<'a>(
        &'a self,
        news: &'a Invalidation,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<(), SharedError>>;
}

/// Who listens to the bus. Called in order, from one task; must not block.
pub trait BusListener: Send + Sync {
    /// Somebody changed a link.
    fn heard(&self, news: Invalidation);

    /// From now on everything is heard. What was said before may have been missed.
    fn bus_up(&self);

    /// From now on, and maybe for a second already, nothing is heard.
    fn bus_down(&self);
}

/// Where a reader of the feed is: what the store gave it, not to be looked into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedPosition(pub String);

/// What the feed gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedPage {
    /// Changes, in no order; one may come again.
    pub changes: Vec<Invalidation>,
    /// From where to read on.
    pub next: FeedPosition,
    /// Whether there is more already.
    pub more: bool,
    /// Whether all of the store could be asked. Else the changes of the rest come with a later page,
    /// and until then they are not known.
    pub whole: bool,
    /// Whether the store can't tell what changed since the position that was given, for example
    /// because it was restored: everything may have.
    pub lost: bool,
}

/// The changes of links (not their creations) as the store has them: written in the same
/// transaction as the change, so that none is ever missing.
pub trait ChangeFeed: Send + Sync {
    /// What changed since `position`; without one nothing, but the position of now. Every change
    /// that is committed before a call begins is in its pages, or was in those that led to
    /// `position`; of a page that is not whole this is so for the parts that were asked.
    ///
    /// # Errors
    /// [`StoreError`].
    fn changes<'a>(
        &'a self,
        position: Option<&'a FeedPosition>,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<FeedPage, StoreError>>;

    /// Forgets changes older than `age`, at most 10,000 at once; answers how many it forgot.
    ///
    /// # Errors
    /// [`StoreError`].
    fn forget_changes(
        &self,
        age: Duration,
        deadline: Deadline,
    ) -> BoxFuture<'_, Result<u64, StoreError>>;
}
