use std::sync::atomic::Ordering;

use shunt_domain::ports::BoxFuture;

use super::*;
use crate::testing::ManualClock;

/// Keys in memory; counts look-ups, and can be cut off or hold a look-up back.
#[derive(Default)]
struct Keys {
    keys: Mutex<Vec<ApiKey>>,
    setup: Mutex<Option<[u8; 32]>>,
    lookups: std::sync::atomic::AtomicU64,
    cut: std::sync::atomic::AtomicBool,
    gate: Mutex<Option<Arc<tokio::sync::Semaphore>>>,
}

fn now<T: Send + 'static>(value: T) -> BoxFuture<'static, T> {
    Box::pin(std::future::ready(value))
}

impl Keys {
    fn add(&self, new: NewApiKey) -> ApiKey {
        let mut keys = self.keys.lock().unwrap();
        let id = ApiKeyId(keys.len() as u64 + 1);
        let key = ApiKey {
            id,
            name: new.name,
            hash: new.hash,
            scopes: new.scopes,
            owner: new.owner.unwrap_or(OwnerId(id.0)),
            created_at: new.created_at,
            expires_at: new.expires_at,
            revoked_at: None,
        };
        keys.push(key.clone());
        key
    }
}

impl KeyStore for Keys {
    fn key_by_hash(
        &self,
        hash: [u8; 32],
        _: Deadline,
    ) -> BoxFuture<'_, Result<Option<ApiKey>, StoreError>> {
        Box::pin(async move {
            self.lookups.fetch_add(1, Ordering::Relaxed);
            if self.cut.load(Ordering::Relaxed) {
                return Err(StoreError::Unavailable("cut".into()));
            }
            let found = self.keys.lock().unwrap().iter().find(|key| key.hash == hash).cloned();
            let gate = self.gate.lock().unwrap().clone();
            if let Some(gate) = gate {
                gate.acquire().await.unwrap().forget();
            }
            Ok(found)
        })
    }

    fn keys(&self, _: Deadline) -> BoxFuture<'_, Result<Vec<ApiKey>, StoreError>> {
        now(Ok(self.keys.lock().unwrap().clone()))
    }

    fn add_key(&self, key: NewApiKey, _: Deadline) -> BoxFuture<'_, Outcome<ApiKey, StoreError>> {
        now(Outcome::Done(self.add(key)))
    }

    fn revoke_key(
        &self,
        id: ApiKeyId,
        at: Timestamp,
        _: Deadline,
    ) -> BoxFuture<'_, Outcome<bool, StoreError>> {
        let mut keys = self.keys.lock().unwrap();
        let key = keys.iter_mut().find(|key| key.id == id && key.revoked_at.is_none());
        now(Outcome::Done(key.map(|key| key.revoked_at = Some(at)).is_some()))
    }

    fn set_setup_secret(
        &self,
        hash: Option<[u8; 32]>,
        _: Deadline,
    ) -> BoxFuture<'_, Outcome<(), StoreError>> {
        *self.setup.lock().unwrap() = hash;
        now(Outcome::Done(()))
    }

    fn redeem_setup(
        &self,
        hash: [u8; 32],
        key: NewApiKey,
        _: Deadline,
    ) -> BoxFuture<'_, Outcome<Option<ApiKey>, StoreError>> {
        let mut setup = self.setup.lock().unwrap();
        if *setup != Some(hash) {
            return now(Outcome::Done(None));
        }
        *setup = None;
        now(Outcome::Done(Some(self.add(key))))
    }
}

struct World {
    keys: Arc<Keys>,
    clock: Arc<ManualClock>,
    auth: Arc<Auth>,
}

fn world() -> World {
    let keys = Arc::new(Keys::default());
    let clock = Arc::new(ManualClock::default());
    let auth = Arc::new(Auth::new(Arc::clone(&keys) as _, Arc::clone(&clock) as _));
    World { keys, clock, auth }
}

fn soon() -> Deadline {
    Deadline::after(Instant::now(), Duration::from_secs(5))
}

fn request(scopes: Scopes) -> KeyRequest {
    KeyRequest { name: "test".into(), scopes, owner: None, expires_at: None }
}

async fn made(world: &World, request: KeyRequest) -> (ApiKey, Secret) {
    let secret = world.auth.fresh_secret().unwrap();
    let key = world.auth.create_key(request, &secret, soon()).await.unwrap();
    (key, secret)
}

#[tokio::test]
async fn secrets_are_256_bits_and_only_their_hash_is_stored() {
    let world = world();
    let (key, secret) = made(&world, request(Scopes::default().with(Scope::Read))).await;
    let text = secret.reveal();
    let random = URL_SAFE_NO_PAD.decode(text.strip_prefix(KEY_PREFIX).unwrap()).unwrap();
    assert_eq!(random.len(), 32);
    assert_eq!(key.hash, <[u8; 32]>::from(Sha256::digest(text.as_bytes())));
    assert_eq!(format!("{secret:?}"), "Secret(…)");
    assert_ne!(secret, world.auth.fresh_secret().unwrap());
    let actor = world.auth.authenticate(text, soon()).await.unwrap();
    assert!(actor.may(Scope::Read) && !actor.may(Scope::Create) && !actor.is_admin());
    assert_eq!(actor.owner_filter(), Some(key.owner));
}

#[tokio::test]
async fn known_keys_are_remembered_and_a_local_revoke_counts_at_once() {
    let world = world();
    let (key, secret) = made(&world, request(Scopes::ADMIN)).await;
    for _ in 0..5 {
        world.auth.authenticate(secret.reveal(), soon()).await.unwrap();
    }
    assert_eq!(world.keys.lookups.load(Ordering::Relaxed), 1);
    assert_eq!(world.auth.revoke(key.id, soon()).await, Ok(true));
    assert_eq!(world.auth.revoke(key.id, soon()).await, Ok(false));
    let refused = world.auth.authenticate(secret.reveal(), soon()).await;
    assert_eq!(refused, Err(AuthError::BadKey));
}

#[tokio::test]
async fn a_look_up_under_way_during_a_revoke_is_not_remembered() {
    let world = world();
    let (key, secret) = made(&world, request(Scopes::ADMIN)).await;
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    *world.keys.gate.lock().unwrap() = Some(Arc::clone(&gate));
    let auth = Arc::clone(&world.auth);
    let text = secret.reveal().to_owned();
    let under_way = tokio::spawn(async move { auth.authenticate(&text, soon()).await });
    while world.keys.lookups.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    world.auth.revoke(key.id, soon()).await.unwrap();
    *world.keys.gate.lock().unwrap() = None;
    gate.add_permits(1);
    // It began before the revoke and may still be let in; the next one must not be.
    let _ = under_way.await.unwrap();
    let refused = world.auth.authenticate(secret.reveal(), soon()).await;
    assert_eq!(refused, Err(AuthError::BadKey));
}

#[tokio::test]
async fn expiry_is_judged_at_each_request() {
    let world = world();
    let expires_at = Some(Timestamp::from_millis(1_000));
    let (_, secret) = made(&world, KeyRequest { expires_at, ..request(Scopes::ADMIN) }).await;
    assert!(world.auth.authenticate(secret.reveal(), soon()).await.is_ok());
    world.clock.0.store(1_000, Ordering::Relaxed);
    let refused = world.auth.authenticate(secret.reveal(), soon()).await;
    assert_eq!(refused, Err(AuthError::BadKey));
}

#[tokio::test]
async fn a_store_that_is_not_there_is_no_bad_key() {
    let world = world();
    let (_, secret) = made(&world, request(Scopes::ADMIN)).await;
    world.keys.cut.store(true, Ordering::Relaxed);
    let answer = world.auth.authenticate(secret.reveal(), soon()).await;
    assert!(matches!(answer, Err(AuthError::Store(_))), "{answer:?}");
    world.keys.cut.store(false, Ordering::Relaxed);
    assert!(world.auth.authenticate(secret.reveal(), soon()).await.is_ok());
}

#[tokio::test]
async fn guesses_are_bounded_and_push_no_known_key_out() {
    let world = world();
    let (_, secret) = made(&world, request(Scopes::ADMIN)).await;
    world.auth.authenticate(secret.reveal(), soon()).await.unwrap();
    for _ in 0..CACHE_ENTRIES + 10 {
        let guess = world.auth.fresh_secret().unwrap();
        let refused = world.auth.authenticate(guess.reveal(), soon()).await;
        assert_eq!(refused, Err(AuthError::BadKey));
    }
    assert!(world.auth.cache().unknown.len() <= CACHE_ENTRIES);
    let lookups = world.keys.lookups.load(Ordering::Relaxed);
    world.auth.authenticate(secret.reveal(), soon()).await.unwrap();
    assert_eq!(world.keys.lookups.load(Ordering::Relaxed), lookups);
    for nonsense in ["", "shunt_", "x", "setup_abc", &"shunt_x".repeat(1_000)] {
        let refused = world.auth.authenticate(nonsense, soon()).await;
        assert_eq!(refused, Err(AuthError::BadKey));
    }
    assert_eq!(world.keys.lookups.load(Ordering::Relaxed), lookups, "nonsense asks nobody");
}

#[tokio::test]
async fn the_setup_secret_works_once_and_only_without_an_admin() {
    let world = world();
    let first = world.auth.issue_setup_secret(soon()).await.unwrap().unwrap();
    let second = world.auth.issue_setup_secret(soon()).await.unwrap().unwrap();
    let redeem =
        async |secret: &Secret| world.auth.redeem_setup(secret.reveal(), "admin", soon()).await;
    assert_eq!(redeem(&first).await, Err(AuthError::BadSetupSecret), "replaced");
    let (key, secret) = redeem(&second).await.unwrap();
    assert!(key.scopes.allows(Scope::Admin));
    assert!(world.auth.authenticate(secret.reveal(), soon()).await.unwrap().is_admin());
    assert_eq!(redeem(&second).await, Err(AuthError::BadSetupSecret), "used");
    assert_eq!(world.auth.issue_setup_secret(soon()).await, Ok(None));
    // Without an admin key that works, the operator can begin anew.
    world.auth.revoke(key.id, soon()).await.unwrap();
    assert!(world.auth.issue_setup_secret(soon()).await.unwrap().is_some());
}

#[tokio::test]
async fn an_admin_key_made_otherwise_voids_the_setup_secret() {
    let world = world();
    let setup = world.auth.issue_setup_secret(soon()).await.unwrap().unwrap();
    let (admin, _) = made(&world, request(Scopes::ADMIN)).await;
    world.auth.revoke(admin.id, soon()).await.unwrap();
    let refused = world.auth.redeem_setup(setup.reveal(), "late", soon()).await;
    assert_eq!(refused, Err(AuthError::BadSetupSecret));
}

#[tokio::test]
async fn keys_are_checked_before_they_are_made() {
    let world = world();
    world.clock.0.store(5_000, Ordering::Relaxed);
    let check = |request: KeyRequest| world.auth.check(&request);
    for name in ["", "  ", "a\nb", &"x".repeat(101)] {
        let request = KeyRequest { name: name.to_owned(), ..request(Scopes::ADMIN) };
        assert_eq!(check(request), Err(AuthError::BadName), "{name:?}");
    }
    assert_eq!(check(request(Scopes::default())), Err(AuthError::NoScopes));
    let expires_at = Some(Timestamp::from_millis(5_000));
    let late = KeyRequest { expires_at, ..request(Scopes::ADMIN) };
    assert_eq!(check(late), Err(AuthError::AlreadyExpired));
}
