//! Small durable settings, and the daily secrets behind visitor hashes.

use rusqlite::{Connection, OptionalExtension, params};
use shunt_domain::ports::{BoxFuture, MetaStore};
use shunt_domain::{Deadline, Outcome, StoreError};

use super::SqliteStore;
use super::readers::Lane;

fn value(db: &Connection, name: &str) -> rusqlite::Result<Option<Vec<u8>>> {
    db.prepare_cached("SELECT value FROM meta WHERE name = ?1")?
        .query_row([name], |row| row.get(0))
        .optional()
}

/// The secret of `day`, and whether older ones were destroyed, overwritten in place.
fn secret(db: &Connection, day: i64, fresh: &[u8; 32]) -> rusqlite::Result<([u8; 32], bool)> {
    let outdated: bool = db
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM visitor_secrets WHERE day < ?1)")?
        .query_row([day - 2], |row| row.get(0))?;
    if outdated {
        // The pages that held the secrets are zeroed, not just unlinked.
        db.query_row("PRAGMA secure_delete = ON", [], |_| Ok(()))?;
        let destroyed = db
            .prepare_cached("DELETE FROM visitor_secrets WHERE day < ?1")?
            .execute([day - 2])
            .map(drop);
        db.query_row("PRAGMA secure_delete = OFF", [], |_| Ok(()))?;
        destroyed?;
    }
    db.prepare_cached("INSERT OR IGNORE INTO visitor_secrets (day, secret) VALUES (?1, ?2)")?
        .execute(params![day, fresh])?;
    let secret = db
        .prepare_cached("SELECT secret FROM visitor_secrets WHERE day = ?1")?
        .query_row([day], |row| row.get(0))?;
    Ok((secret, outdated))
}

impl MetaStore for SqliteStore {
    fn meta(
        &self,
        name: &'static str,
        deadline: Deadline,
    ) -> BoxFuture<'_, Result<Option<Vec<u8>>, StoreError>> {
        Box::pin(self.readers().run(Lane::Point, deadline, move |db| value(db, name)))
    }

    fn meta_or_insert(
        &self,
        name: &'static str,
        new: Vec<u8>,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Vec<u8>, StoreError>> {
        Box::pin(self.writer().write(deadline, move |tx| {
            if let Some(known) = value(tx.connection, name)? {
                return Ok(known);
            }
            tx.connection
                .prepare_cached("INSERT INTO meta (name, value) VALUES (?1, ?2)")?
                .execute(params![name, new])?;
            Ok(new.clone())
        }))
    }

    fn set_meta(
        &self,
        name: &'static str,
        new: Vec<u8>,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<(), StoreError>> {
        Box::pin(self.writer().write(deadline, move |tx| {
            tx.connection
                .prepare_cached("INSERT OR REPLACE INTO meta (name, value) VALUES (?1, ?2)")?
                .execute(params![name, new])
                .map(drop)
        }))
    }

    fn visitor_secret(
        &self,
        day: i64,
        fresh: [u8; 32],
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<[u8; 32], StoreError>> {
        Box::pin(async move {
            let op =
                move |tx: &mut super::Tx<'_, super::LinkState>| secret(tx.connection, day, &fresh);
            self.writer().write(deadline, op).await.map(|(secret, destroyed)| {
                if destroyed {
                    // Old pages of the log still hold them: empty it as soon as nobody reads.
                    self.writer().truncate_log();
                }
                secret
            })
        })
    }
}
