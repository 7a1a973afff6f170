//! Small durable settings, and the daily secrets behind visitor hashes.

use shunt_domain::ports::{BoxFuture, MetaStore};
use shunt_domain::{Deadline, Outcome, StoreError};

use super::PostgresStore;
use super::error::{Failure, bad_value};
use super::readers::Readers;
use super::row;
use super::session::{Param, Session};
use super::statements;
use super::store::missing;

/// The value of a setting.
///
/// # Errors
/// When the server can't be asked.
pub(super) async fn value(
    readers: &Readers,
    name: &'static str,
    deadline: Deadline,
) -> Result<Option<Vec<u8>>, StoreError> {
    let params: [Param<'_>; 1] = [&name];
    let rows = readers.query(&statements::META, &params, deadline).await?;
    rows.first().map(|row| row::get(row, 0)).transpose()
}

async fn value_or_insert(
    session: &Session,
    (name, value): &(&'static str, Vec<u8>),
) -> Result<Vec<u8>, Failure> {
    let known = session.read(&statements::META, &[name]).await?;
    if let Some(row) = known.first() {
        return Ok(row::get(row, 0)?);
    }
    let added = session.change(&statements::META_ADD, &[name, value]).await?;
    if let Some(row) = added.first() {
        return Ok(row::get(row, 0)?);
    }
    // Somebody else was faster.
    session.nothing_happened();
    let known = session.read(&statements::META, &[name]).await?;
    Ok(row::get(known.first().ok_or_else(|| missing("a setting"))?, 0)?)
}

/// The secret of a day. Outdated ones are deleted; their bytes leave the table's file with the
/// next vacuum, the log with its recycling, and backups as backups are thrown away.
async fn secret(session: &Session, (day, fresh): &(i64, [u8; 32])) -> Result<[u8; 32], Failure> {
    let oldest = day.saturating_sub(2);
    session.begin(&statements::SECRETS_FORGET, &[&oldest]).await?;
    session.read(&statements::SECRET_ADD, &[day, &fresh.as_slice()]).await?;
    let rows = session.read(&statements::SECRET, &[day]).await?;
    let secret: &[u8] = row::get(rows.first().ok_or_else(|| missing("a secret"))?, 0)?;
    let secret = secret.try_into().map_err(bad_value)?;
    session.commit().await?;
    Ok(secret)
}

impl MetaStore for PostgresStore {
    fn meta(
        &self,
        name: &'static str,
        deadline: Deadline,
    ) -> BoxFuture<'_, Result<Option<Vec<u8>>, StoreError>> {
        Box::pin(async move { value(&self.database().readers, name, deadline).await })
    }

    fn meta_or_insert(
        &self,
        name: &'static str,
        value: Vec<u8>,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Vec<u8>, StoreError>> {
        Box::pin(self.database().write(deadline, (name, value), |args, session| {
            Box::pin(value_or_insert(session, args))
        }))
    }

    fn set_meta(
        &self,
        name: &'static str,
        value: Vec<u8>,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<(), StoreError>> {
        Box::pin(self.database().write(deadline, (name, value), |(name, value), session| {
            Box::pin(async move {
                session.change(&statements::META_SET, &[name, value]).await.map(drop)
            })
        }))
    }

    fn visitor_secret(
        &self,
        day: i64,
        fresh: [u8; 32],
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<[u8; 32], StoreError>> {
        Box::pin(
            self.database()
                .write(deadline, (day, fresh), |args, session| Box::pin(secret(session, args))),
        )
    }
}
