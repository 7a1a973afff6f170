//! The feed of changes: a table in which every change of a link is noted, by its own transaction.
//!
//! How no note is missed although transactions commit in another order than they begin: a note has
//! the number of its transaction, and a reader first asks for the lowest number that is still under
//! way, then reads. Whatever has a lower number was committed, or never will be, when that was
//! asked, so it is in what is read; the next read begins at that number. A commit that waits for a
//! standby counts as under way for as long as it waits, which no span of time would cover.
//!
//! Numbers are those of the server that is asked: on Citus the coordinator's, which ends its own
//! transaction after those on the workers. They can go back only with another server, a standby
//! that had not everything; so the notes of the last minute are read each time as well, and numbers
//! that went back mean that the thread is lost.
//!
//! No triggers: Citus has none on distributed tables, and the writers are all ours. A creation is
//! not noted: nothing older than it is believed for longer than a second. A click that was claimed
//! is not either: links with a limit are in no cache.

use std::time::Duration;

use shunt_domain::ports::{BoxFuture, ChangeFeed, FeedPage, FeedPosition, Invalidation};
use shunt_domain::{Code, Deadline, DomainId, LinkKey, StoreError, Version};
use tokio_postgres::Row;

use super::PostgresStore;
use super::error::Failure;
use super::row;
use super::session::Session;
use super::statements;
use super::store::missing;

/// Most notes in one read: more means that the reader stood still for long, and begins anew.
const MOST: i64 = 100_000;

/// Notes a change in the open transaction.
pub(super) async fn note(
    session: &Session,
    key: &LinkKey,
    version: Version,
) -> Result<(), Failure> {
    let (domain, version) = (i64::from(key.domain.0), version.0.cast_signed());
    let params: [super::session::Param<'_>; 3] = [&key.code.as_str(), &domain, &version];
    session.read(&statements::CHANGE_NOTE, &params).await.map(drop)
}

fn invalidation(row: &Row) -> Result<Invalidation, StoreError> {
    let bad = |what: &str| StoreError::Corrupt(format!("the feed of changes has a bad {what}"));
    let code: &str = row::get(row, 0)?;
    let domain: i64 = row::get(row, 1)?;
    let code = Code::parse(code).map_err(|_| bad("code"))?;
    let domain = DomainId(u32::try_from(domain).map_err(|_| bad("domain"))?);
    Ok(Invalidation { key: LinkKey::new(domain, code), version: Version(row::unsigned(row, 2)?) })
}

impl ChangeFeed for PostgresStore {
    fn changes<'a>(
        &'a self,
        position: Option<&'a FeedPosition>,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<FeedPage, StoreError>> {
        Box::pin(async move {
            let readers = &self.database().readers;
            // Before the notes are read, never with them.
            let rows = readers.query(&statements::CHANGES_HORIZON, &[], deadline).await?;
            let horizon: i64 = row::get(rows.first().ok_or_else(|| missing("a number"))?, 0)?;
            let next = FeedPosition(horizon.to_string());
            let empty = |lost| FeedPage {
                changes: Vec::new(),
                next: next.clone(),
                more: false,
                whole: true,
                lost,
            };
            let Some(position) = position else {
                return Ok(empty(false));
            };
            let since = position.0.parse::<i64>().ok().filter(|since| *since <= horizon);
            let Some(since) = since else {
                return Ok(empty(true));
            };
            let rows = readers.query(&statements::CHANGES, &[&since, &MOST], deadline).await?;
            if i64::try_from(rows.len()).is_ok_and(|rows| rows >= MOST) {
                return Ok(empty(true));
            }
            let changes = rows.iter().map(invalidation).collect::<Result<_, _>>()?;
            Ok(FeedPage { changes, ..empty(false) })
        })
    }

    fn forget_changes(
        &self,
        age: Duration,
        deadline: Deadline,
    ) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(async move {
            let seconds = i64::try_from(age.as_secs()).unwrap_or(i64::MAX);
            let outcome = self.database().write(deadline, seconds, |seconds, session| {
                Box::pin(async move {
                    let rows = session.change(&statements::CHANGES_FORGET, &[seconds]).await?;
                    let row = rows.first().ok_or_else(|| missing("a count"))?;
                    Ok(row::unsigned(row, 0)?)
                })
            });
            match outcome.await {
                shunt_domain::Outcome::Done(gone) => Ok(gone),
                shunt_domain::Outcome::Refused(error) => Err(error),
                shunt_domain::Outcome::Unknown(cause) => {
                    Err(StoreError::Unavailable(cause.to_string()))
                }
            }
        })
    }
}
