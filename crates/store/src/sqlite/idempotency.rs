//! Idempotent writes: what is remembered of them.
//!
//! A lease only counts in the life of the store that gave it: the process that held it is gone,
//! because a data directory has one process.

use rusqlite::{OptionalExtension, params};
use shunt_domain::ports::{
    BoxFuture, CreateOnce, CreateRefusal, CreatedOnce, IdempotencyScope, IdempotencyState,
    IdempotencyStore, IdempotentBegin, RenderCreated,
};
use shunt_domain::{Deadline, NewLink, Outcome, StoreError, Timestamp};

use super::SqliteStore;
use super::error::bad_value;
use super::links::{create_one, without_result};
use super::state::LinkState;
use super::writer::{Tx, WriteOp};
use crate::rules::{PURGE_ROWS, flatten, scope};

/// The columns of an earlier attempt.
struct Attempt {
    request_hash: Vec<u8>,
    choice: String,
    began_at: i64,
    boot: i64,
    lease_until: i64,
    status: Option<u16>,
    response: Option<Vec<u8>>,
}

/// What an earlier attempt under this key left, its lease taken over if that has run out; `None`
/// when there was none.
fn earlier(
    tx: &Tx<'_, LinkState>,
    request: &IdempotentBegin,
) -> rusqlite::Result<Option<IdempotencyState>> {
    let db = tx.connection;
    let scope = scope(request.scope);
    let earlier = db
        .prepare_cached(
            "SELECT request_hash, choice, began_at, boot, lease_until, status, response
             FROM idempotency WHERE scope = ?1 AND key_hash = ?2",
        )?
        .query_row(params![scope, request.key_hash], |row| {
            Ok(Attempt {
                request_hash: row.get(0)?,
                choice: row.get(1)?,
                began_at: row.get(2)?,
                boot: row.get(3)?,
                lease_until: row.get(4)?,
                status: row.get(5)?,
                response: row.get(6)?,
            })
        })
        .optional()?;
    let Some(earlier) = earlier else { return Ok(None) };
    if earlier.request_hash != request.request_hash {
        return Ok(Some(IdempotencyState::Mismatch));
    }
    if let Some(status) = earlier.status {
        let response = earlier.response.ok_or_else(|| bad_value(6, "a response is missing"))?;
        return Ok(Some(IdempotencyState::Done { status, response }));
    }
    if earlier.boot == tx.state.boot && earlier.lease_until > request.now.as_millis() {
        return Ok(Some(IdempotencyState::Running));
    }
    db.prepare_cached(
        "UPDATE idempotency SET boot = ?3, lease_until = ?4 WHERE scope = ?1 AND key_hash = ?2",
    )?
    .execute(params![
        scope,
        request.key_hash,
        tx.state.boot,
        request.lease_until.as_millis()
    ])?;
    Ok(Some(IdempotencyState::Resume {
        choice: earlier.choice,
        began_at: Timestamp::from_millis(earlier.began_at),
    }))
}

/// Notes an attempt, with its answer if it has one already.
fn note(
    tx: &Tx<'_, LinkState>,
    request: &IdempotentBegin,
    answer: Option<&(u16, Vec<u8>)>,
) -> rusqlite::Result<()> {
    tx.connection
        .prepare_cached(
            "INSERT INTO idempotency (scope, key_hash, request_hash, choice, began_at, boot,
                 lease_until, status, response)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?
        .execute(params![
            scope(request.scope),
            request.key_hash,
            request.request_hash,
            request.choice,
            request.now.as_millis(),
            tx.state.boot,
            request.lease_until.as_millis(),
            answer.map(|(status, _)| status),
            answer.map(|(_, response)| response),
        ])
        .map(drop)
}

fn begin(tx: &Tx<'_, LinkState>, request: &IdempotentBegin) -> rusqlite::Result<IdempotencyState> {
    if let Some(state) = earlier(tx, request)? {
        return Ok(state);
    }
    note(tx, request, None)?;
    Ok(IdempotencyState::Fresh)
}

/// Makes a link with its idempotency row.
struct Once {
    link: NewLink,
    request: IdempotentBegin,
    render: RenderCreated,
    made: Option<Result<CreatedOnce, CreateRefusal>>,
}

impl WriteOp<LinkState> for Once {
    type Output = Result<CreatedOnce, CreateRefusal>;

    fn run(&mut self, tx: &mut Tx<'_, LinkState>) -> rusqlite::Result<()> {
        let made = match earlier(tx, &self.request)? {
            Some(state) => Ok(CreatedOnce::Earlier(state)),
            None => match create_one(tx, &self.link)? {
                Ok(link) => {
                    note(tx, &self.request, Some(&(self.render)(&link)))?;
                    Ok(CreatedOnce::Created(Box::new(link)))
                }
                Err(refusal) => Err(refusal),
            },
        };
        self.made = Some(made);
        Ok(())
    }

    fn output(self) -> Self::Output {
        self.made.unwrap_or_else(|| Err(CreateRefusal::Store(without_result())))
    }
}

impl CreateOnce for SqliteStore {
    fn create_once(
        &self,
        link: NewLink,
        request: IdempotentBegin,
        render: RenderCreated,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<CreatedOnce, CreateRefusal>> {
        let op = Once { link, request, render, made: None };
        Box::pin(async move {
            flatten(self.writer().submit(op, 1, deadline).await, CreateRefusal::Store)
        })
    }
}

impl IdempotencyStore for SqliteStore {
    fn begin(
        &self,
        request: IdempotentBegin,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<IdempotencyState, StoreError>> {
        Box::pin(self.writer().write(deadline, move |tx| begin(tx, &request)))
    }

    fn complete(
        &self,
        key_scope: IdempotencyScope,
        key_hash: [u8; 32],
        status: u16,
        response: Vec<u8>,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<(), StoreError>> {
        Box::pin(self.writer().write(deadline, move |tx| {
            tx.connection
                .prepare_cached(
                    "UPDATE idempotency SET status = ?3, response = ?4
                     WHERE scope = ?1 AND key_hash = ?2 AND status IS NULL",
                )?
                .execute(params![scope(key_scope), key_hash, status, response])
                .map(drop)
        }))
    }

    fn abandon(
        &self,
        key_scope: IdempotencyScope,
        key_hash: [u8; 32],
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<(), StoreError>> {
        Box::pin(self.writer().write(deadline, move |tx| {
            tx.connection
                .prepare_cached(
                    "DELETE FROM idempotency
                     WHERE scope = ?1 AND key_hash = ?2 AND status IS NULL",
                )?
                .execute(params![scope(key_scope), key_hash])
                .map(drop)
        }))
    }

    fn purge(
        &self,
        before: Timestamp,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<u64, StoreError>> {
        Box::pin(self.writer().write(deadline, move |tx| {
            tx.connection
                .prepare_cached(
                    "DELETE FROM idempotency WHERE rowid IN
                         (SELECT rowid FROM idempotency WHERE began_at < ?1
                          ORDER BY began_at LIMIT ?2)",
                )?
                .execute(params![before.as_millis(), PURGE_ROWS])
                .map(|rows| rows as u64)
        }))
    }
}
