//! API keys and the one-time setup secret.

use rusqlite::{Connection, OptionalExtension, Row, params};
use shunt_domain::ports::{ApiKey, BoxFuture, KeyStore, NewApiKey};
use shunt_domain::{ApiKeyId, Deadline, Outcome, OwnerId, Scopes, StoreError, Timestamp};

use super::SqliteStore;
use super::readers::Lane;

const COLUMNS: &str = "id, name, hash, scopes, owner, created_at, expires_at, revoked_at";

/// The row of `meta` with the hash of the setup secret.
pub(super) const SETUP_SECRET: &str = "setup_secret";

fn key(row: &Row<'_>) -> rusqlite::Result<ApiKey> {
    Ok(ApiKey {
        id: ApiKeyId(row.get::<_, i64>(0)?.cast_unsigned()),
        name: row.get(1)?,
        hash: row.get(2)?,
        scopes: Scopes::from_bits(row.get(3)?),
        owner: OwnerId(row.get::<_, i64>(4)?.cast_unsigned()),
        created_at: Timestamp::from_millis(row.get(5)?),
        expires_at: row.get::<_, Option<i64>>(6)?.map(Timestamp::from_millis),
        revoked_at: row.get::<_, Option<i64>>(7)?.map(Timestamp::from_millis),
    })
}

fn by_hash(db: &Connection, hash: &[u8; 32]) -> rusqlite::Result<Option<ApiKey>> {
    db.prepare_cached(&format!("SELECT {COLUMNS} FROM api_keys WHERE hash = ?1"))?
        .query_row([hash], key)
        .optional()
}

/// Stores a key; one with the same secret is already there when a caller repeats a write whose
/// outcome it did not learn, and is answered then.
fn add(db: &Connection, new: &NewApiKey) -> rusqlite::Result<ApiKey> {
    if let Some(known) = by_hash(db, &new.hash)? {
        return Ok(known);
    }
    let id: i64 = db
        .prepare_cached(
            "INSERT INTO api_keys (name, hash, scopes, owner, created_at, expires_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6) RETURNING id",
        )?
        .query_row(
            params![
                new.name,
                new.hash,
                new.scopes.bits(),
                new.owner.map_or(0, |owner| owner.0.cast_signed()),
                new.created_at.as_millis(),
                new.expires_at.map(Timestamp::as_millis),
            ],
            |row| row.get(0),
        )?;
    let owner = new.owner.unwrap_or(OwnerId(id.cast_unsigned()));
    if new.owner.is_none() {
        db.prepare_cached("UPDATE api_keys SET owner = id WHERE id = ?1")?.execute([id])?;
    }
    Ok(ApiKey {
        id: ApiKeyId(id.cast_unsigned()),
        name: new.name.clone(),
        hash: new.hash,
        scopes: new.scopes,
        owner,
        created_at: new.created_at,
        expires_at: new.expires_at,
        revoked_at: None,
    })
}

impl KeyStore for SqliteStore {
    fn key_by_hash(
        &self,
        hash: [u8; 32],
        deadline: Deadline,
    ) -> BoxFuture<'_, Result<Option<ApiKey>, StoreError>> {
        Box::pin(self.readers().run(Lane::Point, deadline, move |db| by_hash(db, &hash)))
    }

    fn keys(&self, deadline: Deadline) -> BoxFuture<'_, Result<Vec<ApiKey>, StoreError>> {
        Box::pin(self.readers().run(Lane::Scan, deadline, |db| {
            db.prepare_cached(&format!("SELECT {COLUMNS} FROM api_keys ORDER BY id"))?
                .query_map([], key)?
                .collect()
        }))
    }

    fn add_key(
        &self,
        key: NewApiKey,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<ApiKey, StoreError>> {
        Box::pin(self.writer().write(deadline, move |tx| add(tx.connection, &key)))
    }

    fn revoke_key(
        &self,
        id: ApiKeyId,
        now: Timestamp,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<bool, StoreError>> {
        Box::pin(self.writer().write(deadline, move |tx| {
            tx.connection
                .prepare_cached(
                    "UPDATE api_keys SET revoked_at = ?2 WHERE id = ?1 AND revoked_at IS NULL",
                )?
                .execute(params![id.0.cast_signed(), now.as_millis()])
                .map(|rows| rows > 0)
        }))
    }

    fn set_setup_secret(
        &self,
        hash: Option<[u8; 32]>,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<(), StoreError>> {
        Box::pin(self.writer().write(deadline, move |tx| {
            let db = tx.connection;
            match hash {
                Some(hash) => db
                    .prepare_cached("INSERT OR REPLACE INTO meta (name, value) VALUES (?1, ?2)")?
                    .execute(params![SETUP_SECRET, hash]),
                None => {
                    db.prepare_cached("DELETE FROM meta WHERE name = ?1")?.execute([SETUP_SECRET])
                }
            }
            .map(drop)
        }))
    }

    fn redeem_setup(
        &self,
        hash: [u8; 32],
        key: NewApiKey,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Option<ApiKey>, StoreError>> {
        Box::pin(self.writer().write(deadline, move |tx| {
            let db = tx.connection;
            let used = db
                .prepare_cached("DELETE FROM meta WHERE name = ?1 AND value = ?2")?
                .execute(params![SETUP_SECRET, hash])?;
            if used == 0 { Ok(None) } else { add(db, &key).map(Some) }
        }))
    }
}
