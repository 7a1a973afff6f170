//! Small settings, and the daily secrets of visitor hashes.

use shunt_domain::ports::{BoxFuture, MetaStore};
use shunt_domain::{Deadline, Outcome, StoreError};

use super::DynamoStore;
use super::client::{Condition, Effect, Session, keyed};
use super::error::{Failure, bad_value};
use super::item::{blob, bytes, hash, text};
use super::table::{Key, SK};

/// The partition of the visitor secrets, by day.
const SECRETS: &str = "visitor-secrets";

/// How many days a secret outlives its own.
const KEPT_DAYS: i64 = 2;

fn setting(name: &str) -> Key {
    Key::alone(format!("meta/{name}"))
}

/// Days sort as text for ten thousand years.
fn day_key(day: i64) -> Key {
    Key::new(SECRETS, format!("{day:010}"))
}

/// Stores bytes unless there are some; answers what is there afterwards.
async fn keep_first(session: &Session, key: &Key, value: &[u8]) -> Result<Vec<u8>, Failure> {
    if let Some(item) = session.get(key, true).await? {
        return Ok(blob(&item, "content")?.to_vec());
    }
    let mut item = keyed(key);
    item.insert("content".to_owned(), bytes(value));
    if session.put(Effect::Change, item, Some(Condition::absent())).await? {
        return Ok(value.to_vec());
    }
    let item = session.get(key, true).await?;
    let item = item.ok_or_else(|| bad_value("a setting that is there and is not"))?;
    Ok(blob(&item, "content")?.to_vec())
}

/// The first caller of a day destroys what is too old before anybody gets the day's secret.
async fn secret(session: &Session, day: i64, fresh: [u8; 32]) -> Result<[u8; 32], Failure> {
    let key = day_key(day);
    if let Some(item) = session.get(&key, true).await? {
        return Ok(hash(&item, "content")?);
    }
    for item in session.partition(SECRETS, usize::MAX).await? {
        let old: i64 = text(&item, SK)?.parse().map_err(|_| bad_value("the day of a secret"))?;
        if old < day - KEPT_DAYS {
            let key = day_key(old);
            session.delete(Effect::Harmless, &key, Condition::default()).await?;
        }
    }
    let kept = keep_first(session, &key, &fresh).await?;
    kept.as_slice().try_into().map_err(|_| bad_value("a secret has another length").into())
}

impl MetaStore for DynamoStore {
    fn meta(
        &self,
        name: &'static str,
        deadline: Deadline,
    ) -> BoxFuture<'_, Result<Option<Vec<u8>>, StoreError>> {
        self.client().read(deadline, move |session| async move {
            let item = session.get(&setting(name), true).await?;
            Ok(item.map(|item| blob(&item, "content").map(<[u8]>::to_vec)).transpose()?)
        })
    }

    fn meta_or_insert(
        &self,
        name: &'static str,
        value: Vec<u8>,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Vec<u8>, StoreError>> {
        self.client().write(deadline, move |session| async move {
            keep_first(&session, &setting(name), &value).await
        })
    }

    fn set_meta(
        &self,
        name: &'static str,
        value: Vec<u8>,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<(), StoreError>> {
        self.client().write(deadline, move |session| async move {
            let mut item = keyed(&setting(name));
            item.insert("content".to_owned(), bytes(value));
            session.put(Effect::Change, item, None).await.map(drop)
        })
    }

    fn visitor_secret(
        &self,
        day: i64,
        fresh: [u8; 32],
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<[u8; 32], StoreError>> {
        self.client()
            .write(deadline, move |session| async move { secret(&session, day, fresh).await })
    }
}
