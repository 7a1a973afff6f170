//! Why a use case of links did not happen.

use std::borrow::Cow;

use shunt_domain::ports::{ChangeRefusal, CreateRefusal};
use shunt_domain::target::Reason;
use shunt_domain::{Outcome, StoreError, UnknownCause, Version};

use super::source::DrawError;

/// A value from outside that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {detail}")]
pub struct FieldError {
    /// The field as the API names it, with the place in it: `tags[3]`.
    pub field: String,
    /// The stable kebab-case name of the rule.
    pub code: Cow<'static, str>,
    /// What is wrong and what to do.
    pub detail: String,
}

impl FieldError {
    /// A broken rule of `field`.
    pub fn new(field: impl Into<String>, code: &'static str, detail: impl Into<String>) -> Self {
        Self { field: field.into(), code: Cow::Borrowed(code), detail: detail.into() }
    }

    /// A refused target.
    pub fn target(reason: Reason) -> Self {
        Self::new("target", reason.code(), reason.detail())
    }
}

/// Why a use case of links did not happen, or may not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// A value breaks a rule (400).
    #[error(transparent)]
    Invalid(#[from] FieldError),
    /// A live link has the code (409).
    #[error("the code is taken; choose another one")]
    Taken,
    /// A deleted link had the code (409).
    #[error("the code belonged to a link that was deleted; it is never given out again")]
    Retired,
    /// There is no such link, or it is somebody else's (404).
    #[error("there is no such link")]
    NotFound,
    /// The link has another version than the caller expects (412).
    #[error("the link has changed meanwhile: it has version {} now", .0.0)]
    Stale(Version),
    /// Links can't be edited on this server (409).
    #[error("links are immutable on this server (links.immutable); create a new one")]
    Immutable,
    /// Every candidate was taken and the code space can't grow (507).
    #[error("the code space is used up; allow longer codes (links.code_max_length)")]
    CodesExhausted,
    /// The pool of pre-generated codes is empty (503).
    #[error("the pool of codes is empty; run `shunt keys fill`")]
    PoolEmpty,
    /// The cursor is not one this list gave out (400).
    #[error("the cursor is not one that this list gave out; begin without one")]
    BadCursor,
    /// The idempotency key was used for another request (422).
    #[error("the idempotency key was used for another request; use a new one")]
    KeyReused,
    /// An earlier request with the idempotency key is still running (409).
    #[error("a request with this idempotency key is still running; repeat it in a moment")]
    StillRunning,
    /// The operating system gave no random bytes (503).
    #[error("the operating system gave no random bytes")]
    NoRandomness,
    /// The store did not answer, or it refused: it did not happen.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It may or may not have happened (503).
    #[error("it is not known whether this was done: {0}; repeat it with the same idempotency key")]
    Unknown(UnknownCause),
}

impl LinkError {
    /// Whether it may have happened all the same.
    pub const fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown(_))
    }

    /// Whether the fault is ours, so that the same request may go well later.
    pub const fn is_ours(&self) -> bool {
        matches!(
            self,
            Self::CodesExhausted
                | Self::PoolEmpty
                | Self::NoRandomness
                | Self::Store(_)
                | Self::Unknown(_)
        )
    }
}

impl From<CreateRefusal> for LinkError {
    fn from(refusal: CreateRefusal) -> Self {
        match refusal {
            CreateRefusal::Taken => Self::Taken,
            CreateRefusal::Retired => Self::Retired,
            CreateRefusal::Store(error) => Self::Store(error),
        }
    }
}

impl From<ChangeRefusal> for LinkError {
    fn from(refusal: ChangeRefusal) -> Self {
        match refusal {
            ChangeRefusal::NotFound => Self::NotFound,
            ChangeRefusal::Stale(version) => Self::Stale(version),
            ChangeRefusal::Store(error) => Self::Store(error),
        }
    }
}

impl From<DrawError> for LinkError {
    fn from(error: DrawError) -> Self {
        match error {
            DrawError::Exhausted => Self::CodesExhausted,
            DrawError::PoolEmpty => Self::PoolEmpty,
            DrawError::Store(error) => Self::Store(error),
            // No link was sent to the store yet, so nothing has happened that matters.
            DrawError::Unknown(cause) => Self::Store(StoreError::Unavailable(cause.to_string())),
        }
    }
}

/// An outcome as a result.
pub(super) fn settle<T, R: Into<LinkError>>(outcome: Outcome<T, R>) -> Result<T, LinkError> {
    match outcome {
        Outcome::Done(value) => Ok(value),
        Outcome::Refused(refusal) => Err(refusal.into()),
        Outcome::Unknown(cause) => Err(LinkError::Unknown(cause)),
    }
}
