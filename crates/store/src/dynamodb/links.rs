//! Reading one link, and the writes of links.
//!
//! Invariant: a row is created by a put on the condition that its key is not there, and by nothing
//! else; who has a key that was not free is asked afterwards.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use shunt_domain::ports::{
    BoxFuture, Change, ChangeRefusal, Claim, CreateRefusal, LinkReader, LinkWriter,
};
use shunt_domain::{
    Deadline, Link, LinkKey, LinkPatch, NewLink, Outcome, StoreError, Stored, Timestamp, Version,
};

use super::DynamoStore;
use super::client::{Condition, Effect, Session, count, side_by_side};
use super::error::{Failure, bad_value};
use super::item::{self, OPTIONAL, n, time};
use super::recent::Recent;
use super::table::Key;
use crate::rules::{flatten, in_force, may_change};

/// How often a change is tried that loses against others every time.
const ROUNDS: u32 = 100;

/// There is a link and no tombstone.
const ALIVE: &str = "attribute_exists(pk) AND attribute_not_exists(deleted_at)";

/// A claim: the link is in force, has a limit, and has not reached it.
const CLAIMABLE: &str = "attribute_exists(max_clicks) AND attribute_not_exists(deleted_at) \
    AND attribute_exists(enabled) \
    AND (attribute_not_exists(valid_from) OR valid_from <= :now) \
    AND (attribute_not_exists(expires_at) OR expires_at > :now) AND used < max_clicks";

/// What a deletion takes away, beside `OPTIONAL`: all but the key, owner, creation time and what it
/// sets.
const DELETED: [&str; 4] = ["target", "redirect", "updated_at", "used"];

/// The row of a key, as it is after every write that was answered before.
async fn find(session: &Session, key: &LinkKey) -> Result<Option<Stored>, Failure> {
    let item = session.get(&Key::link(key), true).await?;
    Ok(item.map(|item| item::stored(key, &item)).transpose()?)
}

/// Who has the key of a row that could not be created.
async fn holder(session: &Session, key: &LinkKey) -> CreateRefusal {
    match find(session, key).await {
        Ok(Some(Stored::Link(_))) => CreateRefusal::Taken,
        Ok(Some(Stored::Tombstone(_))) => CreateRefusal::Retired,
        Ok(None) => CreateRefusal::Store(bad_value("a key that is taken and has no row")),
        Err(Failure::Refused(error)) => CreateRefusal::Store(error),
        Err(Failure::Unknown(cause)) => {
            CreateRefusal::Store(StoreError::Unavailable(cause.to_string()))
        }
    }
}

/// Puts a row where there is none.
async fn insert(session: &Session, row: &Stored) -> Result<Result<(), CreateRefusal>, Failure> {
    if session.put(Effect::Change, item::of(row), Some(Condition::absent())).await? {
        return Ok(Ok(()));
    }
    Ok(Err(holder(session, row.key()).await))
}

/// Puts rows, many at a time. Of rows with one key the first is put before the others, which are
/// refused by it. A row that the store refuses does not hinder the others; one of which nobody
/// knows makes the whole batch unknown, when all others have been answered.
async fn insert_all(
    session: &Session,
    rows: &[Stored],
) -> Result<Vec<Result<(), CreateRefusal>>, Failure> {
    let mut seen = HashSet::new();
    let (mut firsts, mut others) = (Vec::new(), Vec::new());
    for (at, row) in rows.iter().enumerate() {
        if seen.insert(row.key()) { firsts.push(at) } else { others.push(at) }
    }
    let mut verdicts: Vec<Option<Result<(), CreateRefusal>>> = rows.iter().map(|_| None).collect();
    let mut unknown = None;
    for places in [firsts, others] {
        let mut inserts: Vec<BoxFuture<'_, Result<Result<(), CreateRefusal>, Failure>>> =
            Vec::with_capacity(places.len());
        for row in places.iter().filter_map(|at| rows.get(*at)) {
            inserts.push(Box::pin(insert(session, row)));
        }
        let inserted = side_by_side(session.batch, inserts).await;
        for (at, inserted) in places.into_iter().zip(inserted) {
            let verdict = match inserted {
                Ok(verdict) => verdict,
                Err(Failure::Refused(error)) => Err(CreateRefusal::Store(error)),
                Err(failure @ Failure::Unknown(_)) => {
                    unknown = Some(failure);
                    continue;
                }
            };
            if let Some(slot) = verdicts.get_mut(at) {
                *slot = Some(verdict);
            }
        }
    }
    match unknown {
        Some(failure) => Err(failure),
        None => Ok(verdicts.into_iter().flatten().collect()),
    }
}

/// A link that is being created.
fn fresh(data: NewLink) -> Link {
    let updated_at = data.created_at;
    Link { data, version: Version::FIRST, updated_at, used: 0 }
}

/// The link that a change is allowed to change.
async fn changeable(
    session: &Session,
    change: &Change,
) -> Result<Result<Link, ChangeRefusal>, Failure> {
    let Some(Stored::Link(link)) = find(session, &change.key).await? else {
        return Ok(Err(ChangeRefusal::NotFound));
    };
    Ok(may_change(&link, change).map(|()| *link))
}

fn contended() -> Failure {
    Failure::Refused(StoreError::Unavailable("others change the same link all the time".to_owned()))
}

/// Reads the link, and replaces exactly the version that was read. Clicks taken meanwhile are no
/// versions and stay.
async fn patch(
    session: &Session,
    change: &Change,
    patch: &LinkPatch,
    now: Timestamp,
) -> Result<Result<Link, ChangeRefusal>, Failure> {
    for _ in 0..ROUNDS {
        let old = match changeable(session, change).await? {
            Ok(link) => link,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let new = patch.clone().apply(&old, now);
        let attributes = item::changing(&new.data, new.version, now);
        let gone: Vec<&str> =
            OPTIONAL.into_iter().filter(|name| !attributes.contains_key(*name)).collect();
        let sets: Vec<String> = attributes.keys().map(|name| format!("{name} = :{name}")).collect();
        let mut text = format!("SET {}", sets.join(", "));
        if !gone.is_empty() {
            text += &format!(" REMOVE {}", gone.join(", "));
        }
        let condition = Condition::new(format!("{ALIVE} AND version = :old"));
        let condition = attributes
            .into_iter()
            .fold(condition.with(":old", n(old.version.0)), |condition, (name, value)| {
                condition.with(format!(":{name}"), value)
            });
        let key = Key::link(&change.key);
        if let Some(item) = session.update(Effect::Change, &key, text, condition).await? {
            return match item::stored(&change.key, &item)? {
                Stored::Link(link) => Ok(Ok(*link)),
                Stored::Tombstone(_) => Err(bad_value("a tombstone that was edited").into()),
            };
        }
    }
    Err(contended())
}

async fn delete(
    session: &Session,
    change: &Change,
    now: Timestamp,
) -> Result<Result<Version, ChangeRefusal>, Failure> {
    let gone: Vec<&str> = DELETED.into_iter().chain(OPTIONAL).collect();
    let text =
        format!("SET deleted_at = :now, version = version + :one REMOVE {}", gone.join(", "));
    let mut condition = ALIVE.to_owned();
    if change.owner.is_some() {
        condition += " AND owner_id = :owner";
    }
    if change.expected.is_some() {
        condition += " AND version = :expected";
    }
    let mut condition = Condition::new(condition).with(":now", time(now)).with(":one", n(1));
    if let Some(owner) = change.owner {
        condition = condition.with(":owner", n(owner.0));
    }
    if let Some(expected) = change.expected {
        condition = condition.with(":expected", n(expected.0));
    }
    let key = Key::link(&change.key);
    for _ in 0..ROUNDS {
        let deleted = session.update(Effect::Change, &key, text.as_str(), condition.clone());
        if let Some(item) = deleted.await? {
            return Ok(Ok(Version(item::number(&item, "version")?)));
        }
        if let Err(refusal) = changeable(session, change).await? {
            return Ok(Err(refusal));
        }
        // It became what was asked for between the two requests.
    }
    Err(contended())
}

async fn claim(session: &Session, key: &LinkKey, now: Timestamp) -> Result<Claim, Failure> {
    for _ in 0..ROUNDS {
        let condition = Condition::new(CLAIMABLE).with(":now", time(now)).with(":one", n(1));
        let row = Key::link(key);
        let claimed = session.update(Effect::Change, &row, "ADD used :one", condition).await?;
        if let Some(item) = claimed {
            return match item::stored(key, &item)? {
                Stored::Link(link) => Ok(Claim::Granted(link)),
                Stored::Tombstone(_) => Err(bad_value("a tombstone that was clicked").into()),
            };
        }
        match find(session, key).await? {
            None => return Ok(Claim::Absent),
            Some(Stored::Link(link)) if in_force(&link.data, now) => match link.data.max_clicks {
                // The limit was lifted after the caller looked: there is nothing to count.
                None => return Ok(Claim::Granted(link)),
                // It was raised between the two requests.
                Some(max) if link.used < max.get() => {}
                Some(_) => return Ok(Claim::Denied(Box::new(Stored::Link(link)))),
            },
            Some(row) => return Ok(Claim::Denied(Box::new(row))),
        }
    }
    Err(contended())
}

/// Notes a change before it begins and when it has ended, so that no read in between or shortly
/// after is answered by a copy that has not heard of it.
struct Noted {
    recent: Arc<Recent>,
    key: LinkKey,
}

impl Noted {
    fn new(recent: &Arc<Recent>, key: &LinkKey) -> Self {
        recent.note(key, Instant::now());
        Self { recent: Arc::clone(recent), key: key.clone() }
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        self.recent.note(&self.key, Instant::now());
    }
}

impl LinkReader for DynamoStore {
    /// An eventually consistent read, at half the price, unless this process changed the link a
    /// moment ago or the caller knows of a version; confirmed by a consistent one when it finds
    /// nothing.
    fn get<'a>(
        &'a self,
        key: &'a LinkKey,
        min_version: Version,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Option<Stored>, StoreError>> {
        let consistent =
            min_version > Version::default() || self.inner.recent.has(key, Instant::now());
        let (key, stats) = (key.clone(), Arc::clone(&self.inner.stats));
        self.client().read(deadline, move |session| async move {
            if !consistent {
                if let Some(item) = session.get(&Key::link(&key), false).await? {
                    return Ok(Some(item::stored(&key, &item)?));
                }
                count(&stats.confirmed);
            }
            find(&session, &key).await
        })
    }
}

impl LinkWriter for DynamoStore {
    fn create(
        &self,
        link: NewLink,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Link, CreateRefusal>> {
        let created = self.client().write(deadline, move |session| async move {
            let row = Stored::Link(Box::new(fresh(link)));
            let inserted = insert(&session, &row).await?;
            Ok(match (inserted, row) {
                (Ok(()), Stored::Link(link)) => Ok(*link),
                (Err(refusal), _) => Err(refusal),
                (Ok(()), Stored::Tombstone(_)) => Err(CreateRefusal::Retired),
            })
        });
        Box::pin(async move { flatten(created.await, CreateRefusal::Store) })
    }

    /// Not one transaction: conditional puts, many at a time. `BatchWriteItem` has no conditions.
    fn create_many(
        &self,
        links: Vec<NewLink>,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Vec<Result<Link, CreateRefusal>>, StoreError>> {
        self.client().write(deadline, move |session| async move {
            let links: Vec<Link> = links.into_iter().map(fresh).collect();
            let rows: Vec<Stored> =
                links.iter().map(|link| Stored::Link(Box::new(link.clone()))).collect();
            let verdicts = insert_all(&session, &rows).await?;
            Ok(verdicts
                .into_iter()
                .zip(links)
                .map(|(verdict, link)| verdict.map(|()| link))
                .collect())
        })
    }

    /// As [`Self::create_many`].
    fn restore_many(
        &self,
        rows: Vec<Stored>,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Vec<Result<(), CreateRefusal>>, StoreError>> {
        self.client()
            .write(deadline, move |session| async move { insert_all(&session, &rows).await })
    }

    fn patch(
        &self,
        change: Change,
        link_patch: LinkPatch,
        now: Timestamp,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Link, ChangeRefusal>> {
        let noted = Noted::new(&self.inner.recent, &change.key);
        let patched = self.client().write(deadline, move |session| async move {
            let _noted = noted;
            patch(&session, &change, &link_patch, now).await
        });
        Box::pin(async move { flatten(patched.await, ChangeRefusal::Store) })
    }

    fn delete(
        &self,
        change: Change,
        now: Timestamp,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Version, ChangeRefusal>> {
        let noted = Noted::new(&self.inner.recent, &change.key);
        let deleted = self.client().write(deadline, move |session| async move {
            let _noted = noted;
            delete(&session, &change, now).await
        });
        Box::pin(async move { flatten(deleted.await, ChangeRefusal::Store) })
    }

    fn claim_click(
        &self,
        key: LinkKey,
        now: Timestamp,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Claim, StoreError>> {
        let noted = Noted::new(&self.inner.recent, &key);
        self.client().write(deadline, move |session| async move {
            let _noted = noted;
            claim(&session, &key, now).await
        })
    }
}
