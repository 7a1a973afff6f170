//! Reading one link, and the writes of links.

use shunt_domain::ports::{
    BoxFuture, Change, ChangeRefusal, Claim, CreateRefusal, LinkMirror, LinkReader, LinkWriter,
};
use shunt_domain::{
    Deadline, Link, LinkKey, LinkPatch, NewLink, Outcome, StoreError, Stored, Timestamp, Version,
};

use super::PostgresStore;
use super::create::Batch;
use super::error::Failure;
use super::feed;
use super::place::Kind;
use super::row::{self, Record};
use super::session::Session;
use super::statements;
use super::types::Micros;
use crate::rules::{flatten, in_force, may_change};

/// How often a change is tried that loses against others every time.
const ROUNDS: u32 = 100;

/// The row of a key, as it is now.
async fn find(session: &Session, key: &LinkKey) -> Result<Option<Stored>, Failure> {
    let domain = i64::from(key.domain.0);
    let rows = session.read(&statements::GET, &[&key.code.as_str(), &domain]).await?;
    Ok(rows.first().map(row::stored).transpose()?)
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

/// Reads the link, and replaces exactly the version that was read.
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
        let place = Micros::first_of(old.data.created_at);
        let record = Record::link(&new.data, place, old.version, Some(now), old.used);
        let rows = session
            .begin(
                &statements::UPDATE,
                &[
                    &record.code,
                    &record.domain,
                    &record.version,
                    &record.owner,
                    &record.flags,
                    &record.status,
                    &record.updated,
                    &record.valid_from,
                    &record.expires_at,
                    &record.max_clicks,
                    &record.target,
                    &record.title,
                    &record.tags,
                    &record.folded,
                ],
            )
            .await?;
        if let Some(row) = rows.first() {
            // Clicks may have been taken meanwhile; they are no versions.
            let used = row::unsigned(row, 0)?;
            feed::note(session, &change.key, new.version).await?;
            session.commit().await?;
            return Ok(Ok(Link { used, ..new }));
        }
        session.roll_back().await;
    }
    Err(contended())
}

async fn delete(
    session: &Session,
    change: &Change,
    now: Timestamp,
) -> Result<Result<Version, ChangeRefusal>, Failure> {
    let domain = i64::from(change.key.domain.0);
    let owner = change.owner.map(|owner| owner.0.cast_signed());
    let expected = change.expected.map(|version| version.0.cast_signed());
    for _ in 0..ROUNDS {
        let code = change.key.code.as_str();
        let now = Micros::first_of(now);
        let params: [super::session::Param<'_>; 5] = [&code, &domain, &owner, &expected, &now];
        let rows = session.begin(&statements::DELETE, &params).await?;
        if let Some(row) = rows.first() {
            let version = Version(row::unsigned(row, 0)?);
            feed::note(session, &change.key, version).await?;
            session.commit().await?;
            return Ok(Ok(version));
        }
        session.roll_back().await;
        if let Err(refusal) = changeable(session, change).await? {
            return Ok(Err(refusal));
        }
        // It became what was asked for between the two statements.
    }
    Err(contended())
}

async fn claim(session: &Session, key: &LinkKey, now: Timestamp) -> Result<Claim, Failure> {
    let domain = i64::from(key.domain.0);
    for _ in 0..ROUNDS {
        let at = Micros::first_of(now);
        let rows = session.change(&statements::CLAIM, &[&key.code.as_str(), &domain, &at]).await?;
        if let Some(row) = rows.first() {
            return Ok(Claim::Granted(Box::new(row::link(row)?)));
        }
        session.nothing_happened();
        match find(session, key).await? {
            None => return Ok(Claim::Absent),
            Some(Stored::Link(link)) if in_force(&link.data, now) => match link.data.max_clicks {
                // The limit was lifted after the caller looked: there is nothing to count.
                None => return Ok(Claim::Granted(link)),
                // It was raised between the two statements.
                Some(max) if link.used < max.get() => {}
                Some(_) => return Ok(Claim::Denied(Box::new(Stored::Link(link)))),
            },
            Some(row) => return Ok(Claim::Denied(Box::new(row))),
        }
    }
    Err(contended())
}

impl PostgresStore {
    /// Creates the links of a batch.
    pub(super) async fn create_batch(
        &self,
        batch: Batch,
        deadline: Deadline,
    ) -> Outcome<Vec<Result<Link, CreateRefusal>>, StoreError> {
        let written = self.database().write(deadline, batch, |batch, session| {
            Box::pin(async move {
                let verdicts = batch.write(session).await?;
                Ok(batch.created(verdicts))
            })
        });
        written.await
    }

    /// Puts the rows of a batch back.
    pub(super) async fn restore_batch(
        &self,
        batch: Batch,
        deadline: Deadline,
    ) -> Outcome<Vec<Result<(), CreateRefusal>>, StoreError> {
        let written = self.database().write(deadline, batch, |batch, session| {
            Box::pin(async move {
                let verdicts = batch.write(session).await?;
                Ok(verdicts.into_iter().map(|verdict| verdict.map(drop)).collect())
            })
        });
        written.await
    }
}

impl PostgresStore {
    /// Writes the rows of a batch over older ones.
    pub(super) async fn replace_batch(
        &self,
        batch: Batch,
        deadline: Deadline,
    ) -> Outcome<(), StoreError> {
        let written = self.database().write(deadline, batch, |batch, session| {
            Box::pin(async move {
                if batch.rows.is_empty() { Ok(()) } else { batch.replace(session).await }
            })
        });
        written.await
    }
}

impl LinkReader for PostgresStore {
    /// `min_version` is always met: only the primary is asked.
    fn get<'a>(
        &'a self,
        key: &'a LinkKey,
        _min_version: Version,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Option<Stored>, StoreError>> {
        Box::pin(self.database().readers.get(key.clone(), deadline))
    }
}

impl LinkMirror for PostgresStore {
    fn replace_many(
        &self,
        rows: Vec<Stored>,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<(), StoreError>> {
        let places = self.inner.places.clone();
        let batch = Batch { rows, kind: Kind::Restored, places, given: None };
        Box::pin(self.replace_batch(batch, deadline))
    }
}

impl LinkWriter for PostgresStore {
    fn create(
        &self,
        link: NewLink,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Link, CreateRefusal>> {
        Box::pin(async move {
            let outcome = self.create_gathered(link, deadline).await;
            self.database().tally(&outcome);
            flatten(outcome, CreateRefusal::Store)
        })
    }

    fn create_many(
        &self,
        links: Vec<NewLink>,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Vec<Result<Link, CreateRefusal>>, StoreError>> {
        Box::pin(self.create_batch(Batch::new_links(links, &self.inner.places), deadline))
    }

    fn restore_many(
        &self,
        rows: Vec<Stored>,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Vec<Result<(), CreateRefusal>>, StoreError>> {
        let places = self.inner.places.clone();
        let batch = Batch { rows, kind: Kind::Restored, places, given: None };
        Box::pin(self.restore_batch(batch, deadline))
    }

    fn patch(
        &self,
        change: Change,
        link_patch: LinkPatch,
        now: Timestamp,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Link, ChangeRefusal>> {
        Box::pin(async move {
            let args = (change, link_patch, now);
            let outcome = self.database().write(deadline, args, |(change, with, now), session| {
                Box::pin(patch(session, change, with, *now))
            });
            flatten(outcome.await, ChangeRefusal::Store)
        })
    }

    fn delete(
        &self,
        change: Change,
        now: Timestamp,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Version, ChangeRefusal>> {
        Box::pin(async move {
            let outcome =
                self.database().write(deadline, (change, now), |(change, now), session| {
                    Box::pin(delete(session, change, *now))
                });
            flatten(outcome.await, ChangeRefusal::Store)
        })
    }

    fn claim_click(
        &self,
        key: LinkKey,
        now: Timestamp,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Claim, StoreError>> {
        Box::pin(
            self.database().write(deadline, (key, now), |(key, now), session| {
                Box::pin(claim(session, key, *now))
            }),
        )
    }
}
