//! Idempotent writes: what is remembered of them.
//!
//! A lease counts as long as it runs and the process that took it is the latest one of its node:
//! a node has one process at a time, so an earlier one is gone, and what it had under way with it.
//! Leases of other nodes are theirs until they run out.

use std::sync::Arc;

use shunt_domain::ports::{
    BoxFuture, CreateOnce, CreateRefusal, CreatedOnce, IdempotencyScope, IdempotencyState,
    IdempotencyStore, IdempotentBegin, RenderCreated,
};
use shunt_domain::{Deadline, NewLink, Outcome, StoreError, Timestamp};
use tokio_postgres::Row;

use super::PostgresStore;
use super::create::{Batch, once};
use super::error::{Failure, bad_value};
use super::row;
use super::session::{Param, Session};
use super::statements;
use super::store::{Boot, missing};
use super::types::Micros;
use crate::rules::{PURGE_ROWS, flatten, scope};

/// How often an attempt looks again that found another one and then did not.
const ROUNDS: u32 = 20;

/// An earlier attempt, as the server has it.
struct Attempt {
    request_hash: Vec<u8>,
    choice: String,
    began_at: Micros,
    node: i64,
    boot: i64,
    lease_until: Micros,
    status: Option<i16>,
    response: Option<Vec<u8>>,
}

impl Attempt {
    fn read(row: &Row) -> Result<Self, StoreError> {
        Ok(Self {
            request_hash: row::get(row, 0)?,
            choice: row::get(row, 1)?,
            began_at: row::get(row, 2)?,
            node: row::get(row, 3)?,
            boot: row::get(row, 4)?,
            lease_until: row::get(row, 5)?,
            status: row::get(row, 6)?,
            response: row::get(row, 7)?,
        })
    }

    /// Whether its lease counts: it runs, and its process is the latest one of its node.
    async fn is_running(&self, session: &Session, now: Timestamp) -> Result<bool, Failure> {
        if self.lease_until.timestamp() <= now {
            return Ok(false);
        }
        let rows = session.read(&statements::LATEST_BOOT, &[&self.node]).await?;
        let latest = rows.first().map(|row| row::get::<i64>(row, 0)).transpose()?;
        Ok(latest == Some(self.boot))
    }
}

/// What an earlier attempt under this key left, its lease taken over if that is void; `None` when
/// there is none (any more).
async fn earlier(
    session: &Session,
    boot: &Boot,
    request: &IdempotentBegin,
) -> Result<Option<IdempotencyState>, Failure> {
    let scope = scope(request.scope);
    let hash = request.key_hash.as_slice();
    for _ in 0..ROUNDS {
        let rows = session.read(&statements::ATTEMPT, &[&hash, &scope]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let earlier = Attempt::read(row)?;
        if earlier.request_hash != request.request_hash {
            return Ok(Some(IdempotencyState::Mismatch));
        }
        if let Some(status) = earlier.status {
            let response = earlier.response.ok_or_else(|| bad_value("a response is missing"))?;
            let status = u16::try_from(status).map_err(bad_value)?;
            return Ok(Some(IdempotencyState::Done { status, response }));
        }
        if earlier.is_running(session, request.now).await? {
            return Ok(Some(IdempotencyState::Running));
        }
        let number = boot.number(session).await?;
        let lease_until = Micros::first_of(request.lease_until);
        let params: [Param<'_>; 8] = [
            &hash,
            &scope,
            &earlier.node,
            &earlier.boot,
            &earlier.lease_until,
            &boot.node,
            &number,
            &lease_until,
        ];
        let taken = session.change(&statements::ATTEMPT_TAKE_OVER, &params).await?;
        if !taken.is_empty() {
            let began_at = earlier.began_at.timestamp();
            return Ok(Some(IdempotencyState::Resume { choice: earlier.choice, began_at }));
        }
        // Somebody else took it over, or completed it.
        session.nothing_happened();
    }
    Ok(Some(IdempotencyState::Running))
}

/// The row of an attempt that goes first.
struct Note<'a> {
    scope: i64,
    hash: &'a [u8],
    request: &'a [u8],
    choice: &'a str,
    began_at: Micros,
    node: i64,
    boot: i64,
    lease_until: Micros,
    status: Option<i16>,
    response: Option<&'a [u8]>,
}

impl<'a> Note<'a> {
    fn new(
        request: &'a IdempotentBegin,
        boot: &Boot,
        number: i64,
        answer: Option<&'a (u16, Vec<u8>)>,
    ) -> Self {
        Self {
            scope: scope(request.scope),
            hash: request.key_hash.as_slice(),
            request: request.request_hash.as_slice(),
            choice: &request.choice,
            began_at: Micros::first_of(request.now),
            node: boot.node,
            boot: number,
            lease_until: Micros::first_of(request.lease_until),
            status: answer.map(|(status, _)| status.cast_signed()),
            response: answer.map(|(_, response)| response.as_slice()),
        }
    }

    fn params(&self) -> [Param<'_>; 10] {
        [
            &self.hash,
            &self.scope,
            &self.request,
            &self.choice,
            &self.began_at,
            &self.node,
            &self.boot,
            &self.lease_until,
            &self.status,
            &self.response,
        ]
    }
}

async fn begin(
    session: &Session,
    (boot, request): &(Arc<Boot>, IdempotentBegin),
) -> Result<IdempotencyState, Failure> {
    let number = boot.number(session).await?;
    for _ in 0..ROUNDS {
        let note = Note::new(request, boot, number, None);
        let noted = session.change(&statements::ATTEMPT_NOTE, &note.params()).await?;
        if !noted.is_empty() {
            return Ok(IdempotencyState::Fresh);
        }
        session.nothing_happened();
        if let Some(state) = earlier(session, boot, request).await? {
            return Ok(state);
        }
        // It was abandoned between the two statements.
    }
    Ok(IdempotencyState::Running)
}

/// What a create that is done once works on.
struct Once {
    boot: Arc<Boot>,
    batch: Batch,
    request: IdempotentBegin,
    render: RenderCreated,
}

/// The key's row and the link in one transaction: the row first, so that others with the same key
/// wait for it and nobody waits for us while we wait.
async fn create_once(
    session: &Session,
    args: &Once,
) -> Result<Result<CreatedOnce, CreateRefusal>, Failure> {
    let Once { boot, batch, request, render } = args;
    let number = boot.number(session).await?;
    for _ in 0..ROUNDS {
        let prepared = once::Prepared::new(session, batch).await?;
        let link = prepared.link(batch)?;
        let answer = render(&link);
        let note = Note::new(request, boot, number, Some(&answer));
        let noted = session.begin(&statements::ATTEMPT_NOTE, &note.params()).await;
        let noted = match noted {
            Ok(noted) => noted,
            Err(failure) => {
                prepared.forget(batch);
                return Err(failure);
            }
        };
        if noted.is_empty() {
            session.roll_back().await;
            prepared.forget(batch);
            match earlier(session, boot, request).await? {
                Some(state) => return Ok(Ok(CreatedOnce::Earlier(state))),
                // It was abandoned meanwhile.
                None => continue,
            }
        }
        return match prepared.insert(session, batch).await? {
            Ok(()) => {
                session.commit().await?;
                Ok(Ok(CreatedOnce::Created(Box::new(link))))
            }
            Err(refusal) => {
                session.roll_back().await;
                Ok(Err(refusal))
            }
        };
    }
    Ok(Ok(CreatedOnce::Earlier(IdempotencyState::Running)))
}

impl CreateOnce for PostgresStore {
    fn create_once(
        &self,
        link: NewLink,
        request: IdempotentBegin,
        render: RenderCreated,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<CreatedOnce, CreateRefusal>> {
        let batch = Batch::new_links(vec![link], &self.inner.places);
        let args = Once { boot: Arc::clone(&self.inner.boot), batch, request, render };
        Box::pin(async move {
            let outcome = self
                .database()
                .write(deadline, args, |args, session| Box::pin(create_once(session, args)));
            flatten(outcome.await, CreateRefusal::Store)
        })
    }
}

/// Whose key, and which.
type Key = (i64, [u8; 32]);

impl IdempotencyStore for PostgresStore {
    fn begin(
        &self,
        request: IdempotentBegin,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<IdempotencyState, StoreError>> {
        let args = (Arc::clone(&self.inner.boot), request);
        Box::pin(
            self.database().write(deadline, args, |args, session| Box::pin(begin(session, args))),
        )
    }

    fn complete(
        &self,
        key_scope: IdempotencyScope,
        key_hash: [u8; 32],
        status: u16,
        response: Vec<u8>,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<(), StoreError>> {
        let args: (Key, i16, Vec<u8>) =
            ((scope(key_scope), key_hash), status.cast_signed(), response);
        Box::pin(self.database().write(
            deadline,
            args,
            |((scope, hash), status, response), session| {
                Box::pin(async move {
                    let params: [Param<'_>; 4] = [&hash.as_slice(), scope, status, response];
                    session.change(&statements::ATTEMPT_COMPLETE, &params).await.map(drop)
                })
            },
        ))
    }

    fn abandon(
        &self,
        key_scope: IdempotencyScope,
        key_hash: [u8; 32],
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<(), StoreError>> {
        let args: Key = (scope(key_scope), key_hash);
        Box::pin(self.database().write(deadline, args, |(scope, hash), session| {
            Box::pin(async move {
                let params: [Param<'_>; 2] = [&hash.as_slice(), scope];
                session.change(&statements::ATTEMPT_ABANDON, &params).await.map(drop)
            })
        }))
    }

    fn purge(
        &self,
        before: Timestamp,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<u64, StoreError>> {
        Box::pin(self.database().write(deadline, Micros::first_of(before), |before, session| {
            Box::pin(async move {
                let params: [Param<'_>; 2] = [before, &PURGE_ROWS];
                let rows = session.change(&statements::ATTEMPTS_PURGE, &params).await?;
                let row = rows.first().ok_or_else(|| missing("a count"))?;
                Ok(row::unsigned(row, 0)?)
            })
        }))
    }
}
