//! API keys and the one-time setup secret.
//!
//! A key lies in a partition of its own, found by its hash. The partition of all keys holds only
//! which hash has which number; a number whose key has another one, or is not there, belongs to a
//! write that did not come to its end and counts for nothing.

use shunt_domain::ports::{ApiKey, BoxFuture, KeyStore, NewApiKey};
use shunt_domain::{ApiKeyId, Deadline, Outcome, OwnerId, Scopes, StoreError, Timestamp};

use super::DynamoStore;
use super::client::{Condition, Effect, Item, Session, keyed};
use super::error::{Failure, bad_value};
use super::item::{bytes, hash, hex, instant, maybe_instant, n, number, s, text, time};
use super::table::Key;

/// The partition of all keys' numbers.
const NUMBERS: &str = "api-keys";

fn by_hash(hash: &[u8; 32]) -> Key {
    Key::alone(format!("api-key/{}", hex(hash)))
}

/// Numbers sort as text.
fn by_number(id: ApiKeyId) -> Key {
    Key::new(NUMBERS, format!("{:020}", id.0))
}

fn setup() -> Key {
    Key::alone("setup-secret")
}

fn read(item: &Item) -> Result<ApiKey, StoreError> {
    Ok(ApiKey {
        id: ApiKeyId(number(item, "key_id")?),
        name: text(item, "label")?.to_owned(),
        hash: hash(item, "secret_hash")?,
        scopes: Scopes::from_bits(number(item, "allowed")?),
        owner: OwnerId(number(item, "owner_id")?),
        created_at: instant(item, "created_at")?,
        expires_at: maybe_instant(item, "expires_at")?,
        revoked_at: maybe_instant(item, "revoked_at")?,
    })
}

fn write(key: &ApiKey) -> Item {
    let mut item = keyed(&by_hash(&key.hash));
    let values = [
        ("key_id", Some(n(key.id.0))),
        ("label", Some(s(&key.name))),
        ("secret_hash", Some(bytes(key.hash))),
        ("allowed", Some(n(key.scopes.bits()))),
        ("owner_id", Some(n(key.owner.0))),
        ("created_at", Some(time(key.created_at))),
        ("expires_at", key.expires_at.map(time)),
    ];
    let present = values.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    item.extend(present);
    item
}

async fn find(session: &Session, hash: &[u8; 32]) -> Result<Option<ApiKey>, Failure> {
    let item = session.get(&by_hash(hash), true).await?;
    Ok(item.as_ref().map(read).transpose()?)
}

/// Stores a key; one with the same secret is already there when a caller repeats a write whose
/// outcome it did not learn, and is answered then.
async fn add(session: &Session, new: NewApiKey) -> Result<ApiKey, Failure> {
    if let Some(known) = find(session, &new.hash).await? {
        return Ok(known);
    }
    let id = session.number("api-key").await?;
    let made = ApiKey {
        id: ApiKeyId(id),
        name: new.name,
        hash: new.hash,
        scopes: new.scopes,
        owner: new.owner.unwrap_or(OwnerId(id)),
        created_at: new.created_at,
        expires_at: new.expires_at,
        revoked_at: None,
    };
    // First the number, so that no key is there that is on no list.
    let mut number = keyed(&by_number(made.id));
    number.insert("secret_hash".to_owned(), bytes(made.hash));
    session.put(Effect::Harmless, number, None).await?;
    if session.put(Effect::Change, write(&made), Some(Condition::absent())).await? {
        return Ok(made);
    }
    // Somebody else stored the same key meanwhile: our number is nobody's.
    session.delete(Effect::Harmless, &by_number(made.id), Condition::default()).await?;
    let known = find(session, &made.hash).await?;
    known.ok_or_else(|| bad_value("a key that is there and is not").into())
}

/// The key with a number, unless that was never used.
async fn numbered(session: &Session, item: &Item) -> Result<Option<ApiKey>, Failure> {
    let key = find(session, &hash(item, "secret_hash")?).await?;
    Ok(key.filter(|key| by_number(key.id).attributes().get("sk") == item.get("sk")))
}

async fn revoke(session: &Session, id: ApiKeyId, now: Timestamp) -> Result<bool, Failure> {
    let Some(item) = session.get(&by_number(id), true).await? else { return Ok(false) };
    let Some(key) = numbered(session, &item).await? else { return Ok(false) };
    let first = Condition::new("attribute_exists(pk) AND attribute_not_exists(revoked_at)")
        .with(":now", time(now));
    let text = "SET revoked_at = :now";
    let revoked = session.update(Effect::Change, &by_hash(&key.hash), text, first).await?;
    Ok(revoked.is_some())
}

/// Whoever deletes the secret has used it up. It is put back where the key could not be stored,
/// and where nobody could put it back, the next start prints another setup link, because there is
/// no admin.
async fn redeem(
    session: &Session,
    secret: [u8; 32],
    new: NewApiKey,
) -> Result<Option<ApiKey>, Failure> {
    let current = Condition::new("secret_hash = :hash").with(":hash", bytes(secret));
    if session.delete(Effect::Change, &setup(), current).await?.is_none() {
        return Ok(None);
    }
    let made = add(session, new).await;
    if matches!(made, Err(Failure::Refused(_))) {
        let mut item = keyed(&setup());
        item.insert("secret_hash".to_owned(), bytes(secret));
        // Not over a newer one. That the key was not stored is what the caller has to hear.
        let _ = session.put(Effect::Harmless, item, Some(Condition::absent())).await;
    }
    made.map(Some)
}

impl KeyStore for DynamoStore {
    fn key_by_hash(
        &self,
        hash: [u8; 32],
        deadline: Deadline,
    ) -> BoxFuture<'_, Result<Option<ApiKey>, StoreError>> {
        self.client().read(deadline, move |session| async move { find(&session, &hash).await })
    }

    fn keys(&self, deadline: Deadline) -> BoxFuture<'_, Result<Vec<ApiKey>, StoreError>> {
        self.client().read(deadline, |session| async move {
            let mut keys = Vec::new();
            for item in session.partition(NUMBERS, usize::MAX).await? {
                keys.extend(numbered(&session, &item).await?);
            }
            Ok(keys)
        })
    }

    fn add_key(
        &self,
        key: NewApiKey,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<ApiKey, StoreError>> {
        self.client().write(deadline, move |session| async move { add(&session, key).await })
    }

    fn revoke_key(
        &self,
        id: ApiKeyId,
        now: Timestamp,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<bool, StoreError>> {
        self.client().write(deadline, move |session| async move { revoke(&session, id, now).await })
    }

    fn set_setup_secret(
        &self,
        hash: Option<[u8; 32]>,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<(), StoreError>> {
        self.client().write(deadline, move |session| async move {
            let Some(hash) = hash else {
                let key = setup();
                let deleted = session.delete(Effect::Change, &key, Condition::default()).await;
                return deleted.map(drop);
            };
            let mut item = keyed(&setup());
            item.insert("secret_hash".to_owned(), bytes(hash));
            session.put(Effect::Change, item, None).await.map(drop)
        })
    }

    fn redeem_setup(
        &self,
        hash: [u8; 32],
        key: NewApiKey,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Option<ApiKey>, StoreError>> {
        self.client()
            .write(deadline, move |session| async move { redeem(&session, hash, key).await })
    }
}
