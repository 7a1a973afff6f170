//! Domains: host names and their numbers.

use rusqlite::{Connection, OptionalExtension};
use shunt_domain::ports::{BoxFuture, DomainStore};
use shunt_domain::{Deadline, DomainId, Outcome, StoreError};

use super::SqliteStore;
use super::readers::Lane;

fn number(db: &Connection, host: &str) -> rusqlite::Result<Option<DomainId>> {
    db.prepare_cached("SELECT id FROM domains WHERE host = ?1")?
        .query_row([host], |row| row.get(0).map(DomainId))
        .optional()
}

impl DomainStore for SqliteStore {
    fn domains(
        &self,
        deadline: Deadline,
    ) -> BoxFuture<'_, Result<Vec<(DomainId, String)>, StoreError>> {
        Box::pin(self.readers().run(Lane::Point, deadline, |db| {
            db.prepare_cached("SELECT id, host FROM domains ORDER BY id")?
                .query_map([], |row| Ok((DomainId(row.get(0)?), row.get(1)?)))?
                .collect()
        }))
    }

    fn ensure_domain(
        &self,
        host: String,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<DomainId, StoreError>> {
        Box::pin(self.writer().write(deadline, move |tx| {
            let db = tx.connection;
            if let Some(known) = number(db, &host)? {
                return Ok(known);
            }
            db.prepare_cached("INSERT INTO domains (host) VALUES (?1) RETURNING id")?
                .query_row([&host], |row| row.get(0).map(DomainId))
        }))
    }
}
