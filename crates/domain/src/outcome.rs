//! How a store answers: done, refused, or nobody knows.

use std::fmt;

/// The result of a write.
///
/// The third case is why this is no `Result`: a timeout or a broken connection after the write was
/// sent may mean "done". The caller says so (503) and the client repeats with the same
/// idempotency key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<T, R> {
    /// It happened and is durable.
    Done(T),
    /// It did not happen and will not.
    Refused(R),
    /// It may or may not have happened.
    Unknown(UnknownCause),
}

impl<T, R> Outcome<T, R> {
    /// The value, if it is done.
    pub fn done(self) -> Option<T> {
        match self {
            Self::Done(value) => Some(value),
            Self::Refused(_) | Self::Unknown(_) => None,
        }
    }

    /// The same outcome with another value.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Outcome<U, R> {
        match self {
            Self::Done(value) => Outcome::Done(f(value)),
            Self::Refused(refusal) => Outcome::Refused(refusal),
            Self::Unknown(cause) => Outcome::Unknown(cause),
        }
    }

    /// The same outcome with another refusal.
    pub fn map_refusal<S>(self, f: impl FnOnce(R) -> S) -> Outcome<T, S> {
        match self {
            Self::Done(value) => Outcome::Done(value),
            Self::Refused(refusal) => Outcome::Refused(f(refusal)),
            Self::Unknown(cause) => Outcome::Unknown(cause),
        }
    }
}

/// Why nobody knows whether a write happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UnknownCause {
    /// The deadline passed while the write was under way.
    Deadline,
    /// The connection broke, or the store stopped, after the write was sent.
    Lost,
    /// The commit itself reported an I/O error: what reached the disk is not known.
    CommitFailed,
}

impl fmt::Display for UnknownCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deadline => "the deadline passed while the write was under way",
            Self::Lost => "the store went away while the write was under way",
            Self::CommitFailed => "the commit failed with an I/O error",
        })
    }
}

/// Why the store gave no answer. None of these ever means "not found".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// It can't be reached, is shutting down, or its deadline passed: try again (503).
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// The disk is full (507).
    #[error("the disk that holds the store is full")]
    DiskFull,
    /// The file or device refuses writes: a read-only directory or file system (503).
    #[error("the store can only be read: {0}")]
    ReadOnly(String),
    /// The data is damaged: run `shunt doctor` (503).
    #[error("the store is damaged: {0}")]
    Corrupt(String),
    /// Another database judges this key now: its part of the ring was moved there. A store of
    /// several databases asks that one; nobody else sees this.
    #[error("the key has moved to another database of the store")]
    Moved,
    /// This store has no such port (501).
    #[error("this store does not support {0}")]
    Unsupported(&'static str),
}
