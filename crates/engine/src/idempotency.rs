//! Idempotent writes: one effect per key, however often and from wherever the request is repeated.
//!
//! The life of a keyed write: the key row, with the choice the attempt will make (the code), is
//! durable *before* the write; the answer is stored after it; a refused write is forgotten. An
//! attempt that finds a row without an answer, whose lease is over, goes on with the earlier
//! choice and recognises what the earlier attempt may have done.
//!
//! Invariants:
//! - neither the key nor the request is stored, only their SHA-256;
//! - the lease is as long as the work of one attempt may take, so that a client that got 503 is
//!   not told "still running" for longer than that.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use shunt_domain::ports::{
    Clock, IdempotencyScope, IdempotencyState, IdempotencyStore, IdempotentBegin,
};
use shunt_domain::{Deadline, Outcome, Timestamp};

use crate::auth::Actor;
use crate::links::LinkError;

/// How long a key is remembered.
pub const KEPT: Duration = Duration::from_secs(24 * 3600);
/// The longest key, in bytes.
pub const MAX_KEY_LEN: usize = 255;
/// The shortest key of an anonymous caller, in bytes: a random UUID without its dashes has 32.
/// All of them share one scope, so a key must be impossible to guess.
pub const MIN_ANONYMOUS_KEY_LEN: usize = 22;

/// An answer as stored: the HTTP status, then whatever the edge that renders it put in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredAnswer {
    /// HTTP status.
    pub status: u16,
    /// Headers and body, in the edge's own form.
    pub response: Vec<u8>,
}

/// A write to be done once: whose key, which request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Once {
    scope: IdempotencyScope,
    key_hash: [u8; 32],
    request_hash: [u8; 32],
}

impl Once {
    /// From the key as sent and everything that makes the request what it is (method, path, body).
    pub fn new(actor: &Actor, key: &str, request: &[&[u8]]) -> Self {
        // Whoever holds the data directory has no key number; a prefix keeps that caller's keys
        // apart from anonymous ones.
        let (scope, prefix) = match actor {
            Actor::Anonymous => (IdempotencyScope::Anonymous, "anonymous"),
            Actor::Local => (IdempotencyScope::Anonymous, "local"),
            Actor::Key { id, .. } => (IdempotencyScope::Key(*id), "key"),
        };
        let key_hash = digest(&[prefix.as_bytes(), key.as_bytes()]);
        Self { scope, key_hash, request_hash: digest(request) }
    }

    /// The part `number` of a request that is done in parts, each of them once.
    #[must_use]
    pub fn part(&self, number: u64, content: &[u8; 32]) -> Self {
        Self {
            scope: self.scope,
            key_hash: digest(&[&self.key_hash, b"part", &number.to_be_bytes()]),
            request_hash: digest(&[&self.request_hash, content]),
        }
    }
}

/// SHA-256 over length-prefixed parts, so that no two lists of parts have one digest.
pub fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// How an attempt may begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begun {
    /// With the choice it proposed, or the one an earlier attempt made.
    Go {
        /// The choice to act on.
        choice: String,
        /// When the first attempt began: whatever it made is not older.
        began_at: Timestamp,
        /// Whether an earlier attempt may have got further.
        resumed: bool,
    },
    /// Not at all: it is done, this was the answer.
    Done(StoredAnswer),
}

/// What a write that is done once came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer<T> {
    /// It was done now.
    Now(T),
    /// It had been done before; this was the answer.
    Replayed(StoredAnswer),
}

/// Remembers idempotent writes. Cheap to clone.
#[derive(Clone)]
pub struct Idempotency {
    store: Arc<dyn IdempotencyStore>,
    clock: Arc<dyn Clock>,
}

impl Idempotency {
    /// Over a store of idempotency rows.
    pub fn new(store: Arc<dyn IdempotencyStore>, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock }
    }

    /// Begins an attempt that would make `choice`. Durable before it answers.
    ///
    /// # Errors
    /// [`LinkError::KeyReused`], [`LinkError::StillRunning`], or what the store said.
    pub async fn begin(
        &self,
        once: &Once,
        choice: String,
        deadline: Deadline,
    ) -> Result<Begun, LinkError> {
        let request = self.request(once, choice.clone(), deadline);
        let began_at = request.now;
        match self.store.begin(request, deadline).await {
            Outcome::Done(IdempotencyState::Fresh) => {
                Ok(Begun::Go { choice, began_at, resumed: false })
            }
            Outcome::Done(state) => judge(state),
            Outcome::Refused(error) => Err(error.into()),
            Outcome::Unknown(cause) => Err(LinkError::Unknown(cause)),
        }
    }

    /// What the store is asked at the beginning of an attempt.
    pub(crate) fn request(
        &self,
        once: &Once,
        choice: String,
        deadline: Deadline,
    ) -> IdempotentBegin {
        let now = self.clock.now();
        IdempotentBegin {
            scope: once.scope,
            key_hash: once.key_hash,
            request_hash: once.request_hash,
            choice,
            now,
            lease_until: now.plus(deadline.left(Instant::now())),
        }
    }

    /// Stores the answer of a write that is done. The write is durable already, so a failure here
    /// is none of the write: a repetition recognises what was done by the choice.
    pub async fn complete(&self, once: &Once, answer: &StoredAnswer, deadline: Deadline) {
        let _ = self
            .store
            .complete(once.scope, once.key_hash, answer.status, answer.response.clone(), deadline)
            .await;
    }

    /// Forgets an attempt that came to nothing; `false` when that is not certain.
    pub async fn abandon(&self, once: &Once, deadline: Deadline) -> bool {
        matches!(self.store.abandon(once.scope, once.key_hash, deadline).await, Outcome::Done(()))
    }

    /// Runs a write whose repetition does no harm by itself: `attempt` is told when the first
    /// attempt began if there was one before. Its answer is stored by `render`; a refusal is
    /// forgotten, an unknown outcome leaves the row for the next attempt.
    ///
    /// # Errors
    /// Those of [`Idempotency::begin`] and of `attempt`.
    pub async fn run<T, E, F>(
        &self,
        once: &Once,
        choice: String,
        render: impl FnOnce(&T) -> StoredAnswer,
        attempt: impl FnOnce(Attempt) -> F,
        deadline: Deadline,
    ) -> Result<Answer<T>, E>
    where
        E: From<LinkError> + MayBeDone,
        F: Future<Output = Result<T, E>>,
    {
        let attempt_info = match self.begin(once, choice, deadline).await? {
            Begun::Done(answer) => return Ok(Answer::Replayed(answer)),
            Begun::Go { choice, began_at, resumed } => Attempt { choice, began_at, resumed },
        };
        match attempt(attempt_info).await {
            Ok(value) => {
                self.complete(once, &render(&value), deadline).await;
                Ok(Answer::Now(value))
            }
            Err(error) => {
                if !error.may_be_done() {
                    self.abandon(once, deadline).await;
                }
                Err(error)
            }
        }
    }

    /// Deletes rows begun more than [`KEPT`] ago; answers how many. Call it every few minutes.
    ///
    /// # Errors
    /// What the store said.
    pub async fn purge(&self, deadline: Deadline) -> Result<u64, LinkError> {
        match self.store.purge(self.clock.now().minus(KEPT), deadline).await {
            Outcome::Done(rows) => Ok(rows),
            Outcome::Refused(error) => Err(error.into()),
            Outcome::Unknown(cause) => Err(LinkError::Unknown(cause)),
        }
    }
}

/// What the row of an earlier attempt means for the next one.
pub(crate) fn judge(state: IdempotencyState) -> Result<Begun, LinkError> {
    match state {
        IdempotencyState::Resume { choice, began_at } => {
            Ok(Begun::Go { choice, began_at, resumed: true })
        }
        IdempotencyState::Done { status, response } => {
            Ok(Begun::Done(StoredAnswer { status, response }))
        }
        IdempotencyState::Mismatch => Err(LinkError::KeyReused),
        // Fresh is no row of an earlier attempt: somebody else's of this moment.
        IdempotencyState::Running | IdempotencyState::Fresh => Err(LinkError::StillRunning),
    }
}

/// What one attempt of [`Idempotency::run`] knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The choice to act on.
    pub choice: String,
    /// When the first attempt began.
    pub began_at: Timestamp,
    /// Whether an earlier attempt may have done it already.
    pub resumed: bool,
}

/// Errors that can tell whether the write may have happened all the same.
pub trait MayBeDone {
    /// Whether it may have happened.
    fn may_be_done(&self) -> bool;
}

impl MayBeDone for LinkError {
    fn may_be_done(&self) -> bool {
        self.is_unknown()
    }
}
