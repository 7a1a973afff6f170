//! Who a caller is: API keys, their scopes, and the one-time setup secret.
//!
//! Invariants:
//! - a secret is 256 random bits, shown once and never stored: the store holds its SHA-256, and
//!   looking that up is the whole comparison, so its time tells nothing about other secrets;
//! - a revoked key stops working at once on the node that revoked it and within
//!   [`POSITIVE_TTL`] on every other; expiry is judged at each request;
//! - a store that can't be asked is an error, never "no such key".

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use shunt_domain::ports::{ApiKey, Clock, KeyStore, NewApiKey};
use shunt_domain::{
    ApiKeyId, Deadline, Outcome, OwnerId, Scope, Scopes, StoreError, Timestamp, UnknownCause,
};

#[cfg(test)]
mod tests;

/// What every API key begins with, so that scanners for leaked secrets find it.
pub const KEY_PREFIX: &str = "shunt_";
/// What every setup secret begins with.
pub const SETUP_PREFIX: &str = "setup_";
/// How long a known key is believed without asking the store. Longer: a key revoked on another
/// node works longer (the promise is 5 s). Shorter: more reads.
pub const POSITIVE_TTL: Duration = Duration::from_secs(3);
/// How long an unknown secret is refused without asking the store. A key made on another node
/// may be refused that long.
pub const NEGATIVE_TTL: Duration = Duration::from_secs(1);
/// The most keys and, apart from them, the most unknown secrets remembered at once (about 200 B
/// each).
pub const CACHE_ENTRIES: usize = 1_024;
/// The longest name of a key, in characters.
pub const MAX_NAME_CHARS: usize = 100;

/// Who makes a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    /// Nobody we know.
    Anonymous,
    /// The bearer of an API key.
    Key {
        /// The key's number.
        id: ApiKeyId,
        /// Whose links it works on.
        owner: OwnerId,
        /// What it allows.
        scopes: Scopes,
    },
    /// Whoever holds the data directory: may do everything.
    Local,
}

impl Actor {
    /// Whether the caller may do what `scope` stands for. Anonymous callers hold no scope; where
    /// they may create links is decided at the HTTP edge, which knows where they come from.
    pub const fn may(&self, scope: Scope) -> bool {
        match self {
            Self::Anonymous => false,
            Self::Key { scopes, .. } => scopes.allows(scope),
            Self::Local => true,
        }
    }

    /// Whether the caller sees and changes everybody's links.
    pub const fn is_admin(&self) -> bool {
        self.may(Scope::Admin)
    }

    /// Whose the links are that the caller creates.
    pub const fn owner(&self) -> OwnerId {
        match self {
            Self::Anonymous | Self::Local => OwnerId::ANONYMOUS,
            Self::Key { owner, .. } => *owner,
        }
    }

    /// Whose links the caller sees: `None` for everybody's.
    pub const fn owner_filter(&self) -> Option<OwnerId> {
        if self.is_admin() { None } else { Some(self.owner()) }
    }
}

/// A secret to be shown once. `Debug` hides it; [`Secret::reveal`] is the only way to its text.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// 256 fresh random bits under a prefix.
    fn generate(prefix: &str) -> Result<Self, AuthError> {
        let mut bytes = [0_u8; 32];
        getrandom::fill(&mut bytes).map_err(|_| AuthError::NoRandomness)?;
        Ok(Self(format!("{prefix}{}", URL_SAFE_NO_PAD.encode(bytes))))
    }

    /// The text, for the one answer that shows it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What the store knows of it.
    pub fn hash(&self) -> [u8; 32] {
        hash(&self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// SHA-256 of a secret. A plain hash is enough: there are 256 random bits to guess.
fn hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

/// Why a question about keys has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// No key with this secret, or it is revoked or expired.
    #[error("the API key is not known, revoked or expired; ask an admin for a new one")]
    BadKey,
    /// The setup secret is not the current one.
    #[error("the setup link is used up or replaced; restart the server to print a new one")]
    BadSetupSecret,
    /// The name of a key breaks a rule.
    #[error("a key's name has 1 to 100 characters and no control characters")]
    BadName,
    /// A key would expire before it is made.
    #[error("the key would have expired already; give a time in the future")]
    AlreadyExpired,
    /// A key without any scope could do nothing.
    #[error("a key needs at least one scope: read, create or admin")]
    NoScopes,
    /// The operating system gave no random bytes.
    #[error("the operating system gave no random bytes")]
    NoRandomness,
    /// The store did not answer or refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store may or may not have done it.
    #[error("it is not known whether this was done: {0}")]
    Unknown(UnknownCause),
}

/// What a new API key shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRequest {
    /// A name for people.
    pub name: String,
    /// What it allows.
    pub scopes: Scopes,
    /// Whose links it works on; `None` makes a new owner.
    pub owner: Option<OwnerId>,
    /// When it stops working by itself.
    pub expires_at: Option<Timestamp>,
}

struct Known {
    until: Instant,
    key: ApiKey,
}

#[derive(Default)]
struct Cache {
    known: HashMap<[u8; 32], Known>,
    unknown: HashMap<[u8; 32], Instant>,
    /// Counts local changes of keys: what was read before one is not remembered after it.
    epoch: u64,
}

impl Cache {
    fn forget(&mut self) {
        self.known.clear();
        self.unknown.clear();
        self.epoch += 1;
    }

    fn remember(&mut self, hash: [u8; 32], key: Option<&ApiKey>, now: Instant) {
        match key {
            Some(key) => {
                if self.known.len() >= CACHE_ENTRIES {
                    self.known.retain(|_, known| known.until > now);
                }
                if self.known.len() >= CACHE_ENTRIES {
                    self.known.clear();
                }
                let known = Known { until: now + POSITIVE_TTL, key: key.clone() };
                self.known.insert(hash, known);
            }
            None => {
                // Guessed secrets only push out one another.
                if self.unknown.len() >= CACHE_ENTRIES {
                    self.unknown.clear();
                }
                self.unknown.insert(hash, now + NEGATIVE_TTL);
            }
        }
    }
}

/// Knows API keys. One for the whole process.
pub struct Auth {
    store: Arc<dyn KeyStore>,
    clock: Arc<dyn Clock>,
    cache: Mutex<Cache>,
}

impl Auth {
    /// Over a store of keys.
    pub fn new(store: Arc<dyn KeyStore>, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock, cache: Mutex::default() }
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        // A panic while it was held leaves at worst a missing entry.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who bears this secret. Microseconds when it was seen in the last seconds, one read of the
    /// store else.
    ///
    /// # Errors
    /// [`AuthError::BadKey`], or [`AuthError::Store`] when nobody could be asked.
    pub async fn authenticate(&self, secret: &str, deadline: Deadline) -> Result<Actor, AuthError> {
        // Nothing else was ever given out: no need to ask anybody.
        if !secret.starts_with(KEY_PREFIX) || secret.len() != KEY_PREFIX.len() + 43 {
            return Err(AuthError::BadKey);
        }
        let hash = hash(secret);
        let now = Instant::now();
        let epoch = {
            let cache = self.cache();
            if let Some(known) = cache.known.get(&hash).filter(|known| known.until > now) {
                return self.judge(&known.key);
            }
            if cache.unknown.get(&hash).is_some_and(|until| *until > now) {
                return Err(AuthError::BadKey);
            }
            cache.epoch
        };
        let found = self.store.key_by_hash(hash, deadline).await?;
        let mut cache = self.cache();
        if cache.epoch == epoch {
            cache.remember(hash, found.as_ref(), now);
        }
        drop(cache);
        self.judge(found.as_ref().ok_or(AuthError::BadKey)?)
    }

    fn judge(&self, key: &ApiKey) -> Result<Actor, AuthError> {
        if !usable(key, self.clock.now()) {
            return Err(AuthError::BadKey);
        }
        Ok(Actor::Key { id: key.id, owner: key.owner, scopes: key.scopes })
    }

    /// A fresh secret for [`Auth::create_key`].
    ///
    /// # Errors
    /// [`AuthError::NoRandomness`].
    pub fn fresh_secret(&self) -> Result<Secret, AuthError> {
        Secret::generate(KEY_PREFIX)
    }

    /// Checks what a new key shall be, without making it.
    ///
    /// # Errors
    /// [`AuthError::BadName`], [`AuthError::NoScopes`], [`AuthError::AlreadyExpired`].
    pub fn check(&self, request: &KeyRequest) -> Result<(), AuthError> {
        check_name(&request.name)?;
        if request.scopes.bits() == 0 {
            return Err(AuthError::NoScopes);
        }
        if request.expires_at.is_some_and(|at| at <= self.clock.now()) {
            return Err(AuthError::AlreadyExpired);
        }
        Ok(())
    }

    /// Stores a new key under a secret of [`Auth::fresh_secret`].
    ///
    /// # Errors
    /// See [`AuthError`].
    pub async fn create_key(
        &self,
        request: KeyRequest,
        secret: &Secret,
        deadline: Deadline,
    ) -> Result<ApiKey, AuthError> {
        self.check(&request)?;
        let admin = request.scopes.allows(Scope::Admin);
        let new = NewApiKey {
            name: request.name.trim().to_owned(),
            hash: secret.hash(),
            scopes: request.scopes,
            owner: request.owner,
            created_at: self.clock.now(),
            expires_at: request.expires_at,
        };
        let key = settle(self.store.add_key(new, deadline).await)?;
        if admin {
            // There is an admin now, so the setup link is worth nothing any more. The key is
            // durable, so a failure here must not look like one; redeeming asks again.
            let _ = self.store.set_setup_secret(None, deadline).await;
        }
        self.cache().unknown.remove(&secret.hash());
        Ok(key)
    }

    /// All keys, oldest first, revoked ones included.
    ///
    /// # Errors
    /// [`AuthError::Store`].
    pub async fn keys(&self, deadline: Deadline) -> Result<Vec<ApiKey>, AuthError> {
        Ok(self.store.keys(deadline).await?)
    }

    /// Revokes a key; `false` when there is none or it is revoked already.
    ///
    /// # Errors
    /// See [`AuthError`].
    pub async fn revoke(&self, id: ApiKeyId, deadline: Deadline) -> Result<bool, AuthError> {
        let outcome = self.store.revoke_key(id, self.clock.now(), deadline).await;
        // Whatever came back, it may have happened.
        self.cache().forget();
        settle(outcome)
    }

    /// A new one-time setup secret that replaces an earlier one; `None` when some admin key works
    /// already.
    ///
    /// # Errors
    /// See [`AuthError`].
    pub async fn issue_setup_secret(
        &self,
        deadline: Deadline,
    ) -> Result<Option<Secret>, AuthError> {
        if self.has_admin(deadline).await? {
            settle(self.store.set_setup_secret(None, deadline).await)?;
            return Ok(None);
        }
        let secret = Secret::generate(SETUP_PREFIX)?;
        settle(self.store.set_setup_secret(Some(secret.hash()), deadline).await)?;
        Ok(Some(secret))
    }

    /// Uses a setup secret up and makes the first admin key.
    ///
    /// # Errors
    /// [`AuthError::BadSetupSecret`] when it is not the current one, was used, or an admin key
    /// works already; else see [`AuthError`].
    pub async fn redeem_setup(
        &self,
        secret: &str,
        name: &str,
        deadline: Deadline,
    ) -> Result<(ApiKey, Secret), AuthError> {
        check_name(name)?;
        if !secret.starts_with(SETUP_PREFIX) || self.has_admin(deadline).await? {
            return Err(AuthError::BadSetupSecret);
        }
        let fresh = Secret::generate(KEY_PREFIX)?;
        let new = NewApiKey {
            name: name.trim().to_owned(),
            hash: fresh.hash(),
            scopes: Scopes::ADMIN,
            owner: None,
            created_at: self.clock.now(),
            expires_at: None,
        };
        let redeemed = settle(self.store.redeem_setup(hash(secret), new, deadline).await)?;
        let key = redeemed.ok_or(AuthError::BadSetupSecret)?;
        self.cache().unknown.remove(&fresh.hash());
        Ok((key, fresh))
    }

    async fn has_admin(&self, deadline: Deadline) -> Result<bool, AuthError> {
        let now = self.clock.now();
        let keys = self.store.keys(deadline).await?;
        Ok(keys.iter().any(|key| key.scopes.allows(Scope::Admin) && usable(key, now)))
    }
}

fn usable(key: &ApiKey, now: Timestamp) -> bool {
    key.revoked_at.is_none() && key.expires_at.is_none_or(|at| at > now)
}

fn check_name(name: &str) -> Result<(), AuthError> {
    let fits = !name.trim().is_empty() && name.chars().count() <= MAX_NAME_CHARS;
    if fits && !name.chars().any(char::is_control) { Ok(()) } else { Err(AuthError::BadName) }
}

fn settle<T>(outcome: Outcome<T, StoreError>) -> Result<T, AuthError> {
    match outcome {
        Outcome::Done(value) => Ok(value),
        Outcome::Refused(error) => Err(AuthError::Store(error)),
        Outcome::Unknown(cause) => Err(AuthError::Unknown(cause)),
    }
}
