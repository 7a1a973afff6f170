//! Facts about API keys and the setup secret.

use shunt_domain::ports::{KeyStore, NewApiKey};
use shunt_domain::{ApiKeyId, Outcome, OwnerId, Scopes, Timestamp};

use super::Subject;
use super::fixtures::{BIRTH, api_key, soon};
use super::links::join_all;

/// Every field comes back; another hash finds nothing.
pub async fn keys_are_found_by_their_hash<S: Subject>(subject: S)
where
    S::Store: KeyStore,
{
    let store = subject.store();
    let new = NewApiKey {
        owner: Some(OwnerId(70)),
        scopes: Scopes::ADMIN,
        expires_at: Some(Timestamp::MAX),
        ..api_key(1)
    };
    let made = store.add_key(new.clone(), soon()).await.done().unwrap();
    assert_eq!((&made.name, made.hash, made.scopes), (&new.name, new.hash, new.scopes));
    assert_eq!((made.owner, made.created_at), (OwnerId(70), new.created_at));
    assert_eq!((made.expires_at, made.revoked_at), (new.expires_at, None));
    assert_eq!(store.key_by_hash([1; 32], soon()).await, Ok(Some(made.clone())));
    assert_eq!(store.key_by_hash([2; 32], soon()).await, Ok(None));
    let second = store.add_key(api_key(2), soon()).await.done().unwrap();
    assert_eq!(store.keys(soon()).await, Ok(vec![made, second]));
}

/// It owns what it makes under its own number; no two found the same one, and none is nobody.
pub async fn a_key_without_owner_founds_one<S: Subject>(subject: S)
where
    S::Store: KeyStore,
{
    let store = subject.store();
    let first = store.add_key(api_key(1), soon()).await.done().unwrap();
    let second = store.add_key(api_key(2), soon()).await.done().unwrap();
    assert_eq!(first.owner.0, first.id.0);
    assert_ne!(first.owner, second.owner);
    assert_ne!(first.owner, OwnerId::ANONYMOUS);
    assert_eq!(store.key_by_hash([1; 32], soon()).await, Ok(Some(first)));
}

/// A caller who did not learn the outcome may store its key again.
pub async fn a_repeated_key_is_the_same_key<S: Subject>(subject: S)
where
    S::Store: KeyStore,
{
    let store = subject.store();
    let first = store.add_key(api_key(1), soon()).await.done().unwrap();
    assert_eq!(store.add_key(api_key(1), soon()).await, Outcome::Done(first));
    assert_eq!(store.keys(soon()).await.unwrap().len(), 1);
}

/// The first revocation counts; a revoked key is still found, as revoked.
pub async fn keys_are_revoked_once<S: Subject>(subject: S)
where
    S::Store: KeyStore,
{
    let store = subject.store();
    let made = store.add_key(api_key(1), soon()).await.done().unwrap();
    assert_eq!(store.revoke_key(made.id, BIRTH, soon()).await, Outcome::Done(true));
    let later = Timestamp::from_millis(BIRTH.as_millis() + 1);
    assert_eq!(store.revoke_key(made.id, later, soon()).await, Outcome::Done(false));
    assert_eq!(store.revoke_key(ApiKeyId(999), BIRTH, soon()).await, Outcome::Done(false));
    let found = store.key_by_hash([1; 32], soon()).await.unwrap().unwrap();
    assert_eq!(found.revoked_at, Some(BIRTH));
}

/// Only the current one, and only until it was used or cleared.
pub async fn the_setup_secret_works_once<S: Subject>(subject: S)
where
    S::Store: KeyStore,
{
    let store = subject.store();
    assert_eq!(store.redeem_setup([9; 32], api_key(1), soon()).await, Outcome::Done(None));
    store.set_setup_secret(Some([8; 32]), soon()).await.done().unwrap();
    store.set_setup_secret(Some([9; 32]), soon()).await.done().unwrap();
    assert_eq!(store.redeem_setup([8; 32], api_key(1), soon()).await, Outcome::Done(None));
    let made = store.redeem_setup([9; 32], api_key(1), soon()).await.done().unwrap();
    assert_eq!(store.key_by_hash([1; 32], soon()).await, Ok(made));
    assert_eq!(store.redeem_setup([9; 32], api_key(2), soon()).await, Outcome::Done(None));
    store.set_setup_secret(Some([7; 32]), soon()).await.done().unwrap();
    store.set_setup_secret(None, soon()).await.done().unwrap();
    assert_eq!(store.redeem_setup([7; 32], api_key(2), soon()).await, Outcome::Done(None));
    assert_eq!(store.keys(soon()).await.unwrap().len(), 1);
}

/// Two who follow the link at once make one admin.
pub async fn concurrent_setups_make_one_key<S: Subject>(subject: S)
where
    S::Store: KeyStore,
{
    let store = subject.store();
    store.set_setup_secret(Some([9; 32]), soon()).await.done().unwrap();
    let tries = (1..9).map(|hash| store.redeem_setup([9; 32], api_key(hash), soon()));
    let made = join_all(tries).await;
    assert_eq!(made.into_iter().filter_map(|outcome| outcome.done().unwrap()).count(), 1);
    assert_eq!(store.keys(soon()).await.unwrap().len(), 1);
}
