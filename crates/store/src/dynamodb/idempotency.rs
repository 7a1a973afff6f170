//! Idempotent writes: what is remembered of them.
//!
//! A lease counts as long as it runs and the process that took it is the latest one of its node:
//! a node has one process at a time, so an earlier one is gone, and what it had under way with it.
//! Leases of other nodes are theirs until they run out.

use std::sync::{Arc, Mutex, PoisonError};

use aws_sdk_dynamodb::types::AttributeValue;
use shunt_domain::ports::{
    BoxFuture, IdempotencyScope, IdempotencyState, IdempotencyStore, IdempotentBegin,
};
use shunt_domain::{Deadline, Outcome, StoreError, Timestamp};

use super::DynamoStore;
use super::client::{Condition, Effect, Item, Session, keyed, side_by_side};
use super::error::{Failure, bad_value};
use super::item::{blob, bytes, hash, hex, instant, maybe_number, n, number, s, text, time};
use super::store::Boot;
use super::table::{ATTEMPTS_INDEX, BEGAN_AT, HOUR_SHARD, Key, PK, SHARDS, SK};

/// The most rows that one purge deletes.
const PURGE_ROWS: u64 = 10_000;

/// How many deletions of a purge are under way at a time: it has time.
const PURGE_IN_FLIGHT: usize = 8;

/// How often an attempt looks again that found another one and then did not.
const ROUNDS: u32 = 20;

/// The partition of the hours in which attempts began.
const HOURS: &str = "attempt-hours";

fn attempt_key(scope: IdempotencyScope, key_hash: &[u8; 32]) -> Key {
    let scope = match scope {
        IdempotencyScope::Anonymous => "anonymous".to_owned(),
        IdempotencyScope::Key(id) => id.0.to_string(),
    };
    Key::alone(format!("attempt/{scope}/{}", hex(key_hash)))
}

/// Hours sort as text for as long as there are timestamps.
fn hour_key(hour: i64) -> Key {
    Key::new(HOURS, format!("{hour:012}"))
}

/// The part of an hour that a key belongs to.
fn hour_shard(hour: i64, key_hash: &[u8; 32]) -> String {
    format!("{hour}/{}", u32::from(key_hash[0]) % SHARDS)
}

/// Which life of which node: the latest one, or one that is over.
async fn alive(session: &Session, attempt: &Item) -> Result<bool, Failure> {
    let node = number(attempt, "node_id")?;
    let latest = session.get(&Boot::key(node), true).await?;
    let latest: u64 = latest.map_or(Ok(0), |latest| number(&latest, "latest"))?;
    Ok(number::<u64>(attempt, "boot")? >= latest)
}

/// What an earlier attempt under this key left, its lease taken over if that is void; `None` when
/// there is none (any more).
async fn earlier(
    session: &Session,
    boot: &Boot,
    request: &IdempotentBegin,
) -> Result<Option<IdempotencyState>, Failure> {
    let key = attempt_key(request.scope, &request.key_hash);
    for _ in 0..ROUNDS {
        let Some(earlier) = session.get(&key, true).await? else { return Ok(None) };
        if hash(&earlier, "request_hash")? != request.request_hash {
            return Ok(Some(IdempotencyState::Mismatch));
        }
        if let Some(status) = maybe_number(&earlier, "answer_status")? {
            let response = blob(&earlier, "answer")?.to_vec();
            return Ok(Some(IdempotencyState::Done { status, response }));
        }
        let lease_until = instant(&earlier, "lease_until")?;
        if lease_until > request.now && alive(session, &earlier).await? {
            return Ok(Some(IdempotencyState::Running));
        }
        let number_of_life = boot.number(session).await?;
        let same = Condition::new(
            "node_id = :node AND boot = :boot AND lease_until = :until \
             AND attribute_not_exists(answer)",
        )
        .with(":node", n(number::<u64>(&earlier, "node_id")?))
        .with(":boot", n(number::<u64>(&earlier, "boot")?))
        .with(":until", time(lease_until))
        .with(":me", n(boot.node))
        .with(":life", n(number_of_life))
        .with(":mine", time(request.lease_until));
        let text_of = "SET node_id = :me, boot = :life, lease_until = :mine";
        if session.update(Effect::Change, &key, text_of, same).await?.is_some() {
            let choice = text(&earlier, "choice")?.to_owned();
            let began_at = instant(&earlier, BEGAN_AT)?;
            return Ok(Some(IdempotencyState::Resume { choice, began_at }));
        }
        // Somebody else took it over, or completed it.
    }
    Ok(Some(IdempotencyState::Running))
}

/// Notes that attempts begin in this hour, before the first of them does: a purge looks only into
/// hours that are noted.
async fn note_hour(
    session: &Session,
    noted: &Mutex<Option<i64>>,
    hour: i64,
) -> Result<(), Failure> {
    let lock = || noted.lock().unwrap_or_else(PoisonError::into_inner);
    let known = *lock() == Some(hour);
    if !known {
        session.put(Effect::Harmless, keyed(&hour_key(hour)), None).await?;
        *lock() = Some(hour);
    }
    Ok(())
}

async fn begin(
    session: &Session,
    boot: &Boot,
    noted: &Mutex<Option<i64>>,
    request: &IdempotentBegin,
) -> Result<IdempotencyState, Failure> {
    let number_of_life = boot.number(session).await?;
    let hour = request.now.hour();
    note_hour(session, noted, hour).await?;
    let mut item = keyed(&attempt_key(request.scope, &request.key_hash));
    item.extend(
        [
            ("request_hash", bytes(request.request_hash)),
            ("choice", s(&request.choice)),
            (BEGAN_AT, time(request.now)),
            (HOUR_SHARD, s(hour_shard(hour, &request.key_hash))),
            ("node_id", n(boot.node)),
            ("boot", n(number_of_life)),
            ("lease_until", time(request.lease_until)),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    );
    for _ in 0..ROUNDS {
        if session.put(Effect::Change, item.clone(), Some(Condition::absent())).await? {
            return Ok(IdempotencyState::Fresh);
        }
        if let Some(state) = earlier(session, boot, request).await? {
            return Ok(state);
        }
        // It was abandoned between the two requests.
    }
    Ok(IdempotencyState::Running)
}

/// Keys of attempts of one part of an hour that began before `before`, at most `limit`.
async fn old(
    session: &Session,
    hour: i64,
    shard: u32,
    before: Timestamp,
    limit: u64,
) -> Result<Vec<Key>, Failure> {
    let mut keys = Vec::new();
    let mut from = None;
    loop {
        let request = session
            .sdk
            .query()
            .table_name(&*session.table)
            .index_name(ATTEMPTS_INDEX)
            .key_condition_expression(format!("{HOUR_SHARD} = :part AND {BEGAN_AT} < :before"))
            .expression_attribute_values(":part", AttributeValue::S(format!("{hour}/{shard}")))
            .expression_attribute_values(":before", time(before))
            .set_exclusive_start_key(from);
        let answer = session.send(Effect::Harmless, || request.clone().send()).await?;
        let Some(answer) = answer else { return Ok(keys) };
        for item in answer.items() {
            keys.push(Key::new(text(item, PK)?, text(item, SK)?));
        }
        from = answer.last_evaluated_key;
        if from.is_none() || keys.len() as u64 >= limit {
            keys.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
            return Ok(keys);
        }
    }
}

async fn purge(session: &Session, before: Timestamp) -> Result<u64, Failure> {
    let mut purged = 0;
    for hour in session.partition(HOURS, usize::MAX).await? {
        let hour: i64 = text(&hour, SK)?.parse().map_err(|_| bad_value("an hour"))?;
        if hour > before.hour() {
            break;
        }
        for shard in 0..SHARDS {
            let keys = old(session, hour, shard, before, PURGE_ROWS - purged).await?;
            let mut deletions: Vec<BoxFuture<'_, Result<bool, Failure>>> =
                Vec::with_capacity(keys.len());
            for key in &keys {
                deletions.push(Box::pin(async move {
                    // The same key may have been begun anew since the index was read.
                    let still_old = Condition::new(format!("{BEGAN_AT} < :before"))
                        .with(":before", time(before));
                    let deleted = session.delete(Effect::Harmless, key, still_old).await?;
                    Ok(deleted.is_some())
                }));
            }
            for deleted in side_by_side(PURGE_IN_FLIGHT, deletions).await {
                purged += u64::from(deleted?);
            }
            if purged >= PURGE_ROWS {
                return Ok(purged);
            }
        }
        // Over an hour ago, so the index has heard of every attempt of it.
        if hour + 1 < before.hour() {
            session.delete(Effect::Harmless, &hour_key(hour), Condition::default()).await?;
        }
    }
    Ok(purged)
}

impl IdempotencyStore for DynamoStore {
    fn begin(
        &self,
        request: IdempotentBegin,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<IdempotencyState, StoreError>> {
        let boot = Arc::clone(&self.inner.boot);
        let noted = Arc::clone(&self.inner.noted_hour);
        self.client().write(deadline, move |session| async move {
            begin(&session, &boot, &noted, &request).await
        })
    }

    fn complete(
        &self,
        scope: IdempotencyScope,
        key_hash: [u8; 32],
        status: u16,
        response: Vec<u8>,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<(), StoreError>> {
        self.client().write(deadline, move |session| async move {
            let key = attempt_key(scope, &key_hash);
            let open = Condition::new("attribute_exists(pk) AND attribute_not_exists(answer)")
                .with(":status", n(status))
                .with(":answer", bytes(response));
            let text = "SET answer_status = :status, answer = :answer";
            // Not there (any more), or answered already: that is as good.
            session.update(Effect::Change, &key, text, open).await.map(drop)
        })
    }

    fn abandon(
        &self,
        scope: IdempotencyScope,
        key_hash: [u8; 32],
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<(), StoreError>> {
        self.client().write(deadline, move |session| async move {
            let open = Condition::new("attribute_not_exists(answer)");
            let key = attempt_key(scope, &key_hash);
            session.delete(Effect::Change, &key, open).await.map(drop)
        })
    }

    fn purge(
        &self,
        before: Timestamp,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<u64, StoreError>> {
        self.client().write(deadline, move |session| async move { purge(&session, before).await })
    }
}
