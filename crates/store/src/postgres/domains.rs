//! Domains: host names and their numbers.

use shunt_domain::ports::{BoxFuture, DomainStore};
use shunt_domain::{Deadline, DomainId, Outcome, StoreError};
use tokio_postgres::Row;

use super::PostgresStore;
use super::error::{Failure, bad_value};
use super::readers::Readers;
use super::row;
use super::session::Session;
use super::statements;
use super::store::missing;

fn number(row: &Row) -> Result<DomainId, StoreError> {
    let number: i64 = row::get(row, 0)?;
    u32::try_from(number).map(DomainId).map_err(|_| bad_value(format_args!("domain {number}")))
}

/// All domains but the default one.
///
/// # Errors
/// When the server can't be asked.
pub(super) async fn registered(
    readers: &Readers,
    deadline: Deadline,
) -> Result<Vec<(DomainId, String)>, StoreError> {
    let rows = readers.query(&statements::DOMAINS, &[], deadline).await?;
    rows.iter().map(|row| Ok((number(row)?, row::get(row, 1)?))).collect()
}

async fn ensure(session: &Session, host: &str) -> Result<DomainId, Failure> {
    // Looked for first: a number that is drawn and not used is lost.
    let known = session.read(&statements::DOMAIN, &[&host]).await?;
    if let Some(row) = known.first() {
        return Ok(number(row)?);
    }
    let drawn = session.read(&statements::DOMAIN_NUMBER, &[]).await?;
    let id: i64 = row::get(drawn.first().ok_or_else(|| missing("a number"))?, 0)?;
    let added = session.change(&statements::DOMAIN_ADD, &[&id, &host]).await?;
    if let Some(row) = added.first() {
        return Ok(number(row)?);
    }
    // Somebody else registered it meanwhile.
    session.nothing_happened();
    let known = session.read(&statements::DOMAIN, &[&host]).await?;
    Ok(number(known.first().ok_or_else(|| missing("a domain"))?)?)
}

impl DomainStore for PostgresStore {
    fn domains(
        &self,
        deadline: Deadline,
    ) -> BoxFuture<'_, Result<Vec<(DomainId, String)>, StoreError>> {
        Box::pin(async move { registered(&self.database().readers, deadline).await })
    }

    fn ensure_domain(
        &self,
        host: String,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<DomainId, StoreError>> {
        Box::pin(
            self.database().write(deadline, host, |host, session| Box::pin(ensure(session, host))),
        )
    }
}
