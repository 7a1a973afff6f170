//! API keys and the one-time setup secret.

use shunt_domain::ports::{ApiKey, BoxFuture, KeyStore, NewApiKey};
use shunt_domain::{ApiKeyId, Deadline, Outcome, OwnerId, Scopes, StoreError, Timestamp};
use tokio_postgres::Row;

use super::PostgresStore;
use super::error::{Failure, bad_value};
use super::row;
use super::session::{Param, Session};
use super::statements;
use super::store::missing;
use super::types::Micros;

/// The row of `meta` with the hash of the setup secret.
const SETUP_SECRET: &str = "setup_secret";

fn key(row: &Row) -> Result<ApiKey, StoreError> {
    let hash: &[u8] = row::get(row, 2)?;
    let scopes: i16 = row::get(row, 3)?;
    Ok(ApiKey {
        id: ApiKeyId(row::unsigned(row, 0)?),
        name: row::get(row, 1)?,
        hash: hash.try_into().map_err(bad_value)?,
        scopes: Scopes::from_bits(u8::try_from(scopes).map_err(bad_value)?),
        owner: OwnerId(row::unsigned(row, 4)?),
        created_at: row::get::<Micros>(row, 5)?.timestamp(),
        expires_at: row::get::<Option<Micros>>(row, 6)?.map(Micros::timestamp),
        revoked_at: row::get::<Option<Micros>>(row, 7)?.map(Micros::timestamp),
    })
}

/// How a key is to be stored: by a statement of its own, or in the transaction that is open.
#[derive(Clone, Copy, PartialEq, Eq)]
enum As {
    Own,
    Part,
}

/// Stores a key; one with the same secret is already there when a caller repeats a write whose
/// outcome it did not learn, and is answered then.
async fn add(session: &Session, new: &NewApiKey, how: As) -> Result<ApiKey, Failure> {
    let hash = new.hash.as_slice();
    let known = session.read(&statements::KEY, &[&hash]).await?;
    if let Some(row) = known.first() {
        return Ok(key(row)?);
    }
    let drawn = session.read(&statements::KEY_NUMBER, &[]).await?;
    let id: i64 = row::get(drawn.first().ok_or_else(|| missing("a number"))?, 0)?;
    let made = ApiKey {
        id: ApiKeyId(id.cast_unsigned()),
        name: new.name.clone(),
        hash: new.hash,
        scopes: new.scopes,
        owner: new.owner.unwrap_or(OwnerId(id.cast_unsigned())),
        created_at: new.created_at,
        expires_at: new.expires_at,
        revoked_at: None,
    };
    let scopes = i16::from(new.scopes.bits());
    let owner = made.owner.0.cast_signed();
    let created_at = Micros::first_of(new.created_at);
    let expires_at = new.expires_at.map(Micros::first_of);
    let params: [Param<'_>; 7] = [&id, &new.name, &hash, &scopes, &owner, &created_at, &expires_at];
    let added = match how {
        As::Own => session.change(&statements::KEY_ADD, &params).await?,
        As::Part => session.read(&statements::KEY_ADD, &params).await?,
    };
    if !added.is_empty() {
        return Ok(made);
    }
    // Somebody else stored the same key meanwhile.
    let known = session.read(&statements::KEY, &[&hash]).await?;
    Ok(key(known.first().ok_or_else(|| missing("a key"))?)?)
}

/// Whoever deletes the secret has used it up; others who try wait for the end of the transaction.
async fn redeem(
    session: &Session,
    (hash, new): &([u8; 32], NewApiKey),
) -> Result<Option<ApiKey>, Failure> {
    let params: [Param<'_>; 2] = [&SETUP_SECRET, &hash.as_slice()];
    let used = session.begin(&statements::META_USE_UP, &params).await?;
    if used.is_empty() {
        return Ok(None);
    }
    let made = add(session, new, As::Part).await?;
    session.commit().await?;
    Ok(Some(made))
}

impl KeyStore for PostgresStore {
    fn key_by_hash(
        &self,
        hash: [u8; 32],
        deadline: Deadline,
    ) -> BoxFuture<'_, Result<Option<ApiKey>, StoreError>> {
        Box::pin(async move {
            let params: [Param<'_>; 1] = [&hash.as_slice()];
            let rows = self.database().readers.query(&statements::KEY, &params, deadline).await?;
            rows.first().map(key).transpose()
        })
    }

    fn keys(&self, deadline: Deadline) -> BoxFuture<'_, Result<Vec<ApiKey>, StoreError>> {
        Box::pin(async move {
            let rows = self.database().readers.query(&statements::KEYS, &[], deadline).await?;
            rows.iter().map(key).collect()
        })
    }

    fn add_key(
        &self,
        key: NewApiKey,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<ApiKey, StoreError>> {
        Box::pin(
            self.database()
                .write(deadline, key, |key, session| Box::pin(add(session, key, As::Own))),
        )
    }

    fn revoke_key(
        &self,
        id: ApiKeyId,
        now: Timestamp,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<bool, StoreError>> {
        let args = (id.0.cast_signed(), Micros::first_of(now));
        Box::pin(self.database().write(deadline, args, |(id, now), session| {
            Box::pin(async move {
                let revoked = session.change(&statements::KEY_REVOKE, &[id, now]).await?;
                Ok(!revoked.is_empty())
            })
        }))
    }

    fn set_setup_secret(
        &self,
        hash: Option<[u8; 32]>,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<(), StoreError>> {
        Box::pin(self.database().write(deadline, hash, |hash, session| {
            Box::pin(async move {
                let done = match hash {
                    Some(hash) => {
                        let params: [Param<'_>; 2] = [&SETUP_SECRET, &hash.as_slice()];
                        session.change(&statements::META_SET, &params).await
                    }
                    None => session.change(&statements::META_REMOVE, &[&SETUP_SECRET]).await,
                };
                done.map(drop)
            })
        }))
    }

    fn redeem_setup(
        &self,
        hash: [u8; 32],
        key: NewApiKey,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Option<ApiKey>, StoreError>> {
        Box::pin(
            self.database()
                .write(deadline, (hash, key), |args, session| Box::pin(redeem(session, args))),
        )
    }
}
