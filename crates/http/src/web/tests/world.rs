//! A service over stores in memory: just enough of each port for the pages.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use shunt_domain::ports::{
    ApiKey, BoxFuture, Change, ChangeRefusal, Claim, CreateRefusal, DomainStore, HourRow,
    IdempotencyScope, IdempotencyState, IdempotencyStore, IdempotentBegin, KeyStore, LedgerRow,
    LinkQuery, LinkReader, LinkWriter, ListError, ListQuery, NewApiKey, NodeId, Page, RollupBatch,
    RollupRefusal, RollupStore, SeqRange, Totals,
};
use shunt_domain::{
    ApiKeyId, Code, Deadline, DomainId, Link, LinkKey, LinkPatch, NewLink, Outcome, OwnerId,
    Scopes, StoreError, Stored, Timestamp, Tombstone, Version,
};
use shunt_engine::auth::{Auth, KeyRequest};
use shunt_engine::clock::SystemClock;
use shunt_engine::idempotency::Idempotency;
use shunt_engine::limits::{Limits, Rates};
use shunt_engine::links::{CodeSource, DrawError, LinkSettings, Links, Ports};
use shunt_engine::resolve::{Options, Resolver};

use crate::app::{App, AppState};

/// The hash of an idempotent request, and its answer once there is one.
type Remembered = ([u8; 32], Option<Vec<u8>>);

/// All stores in one.
#[derive(Default)]
pub(crate) struct Memory {
    pub(crate) rows: Mutex<HashMap<LinkKey, Stored>>,
    keys: Mutex<Vec<ApiKey>>,
    setup: Mutex<Option<[u8; 32]>>,
    once: Mutex<HashMap<[u8; 32], Remembered>>,
    next: AtomicU64,
    /// Whether links can't be read or written right now.
    pub(crate) cut: AtomicBool,
}

impl Memory {
    fn up(&self) -> Result<(), StoreError> {
        if self.cut.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable("secret-host.internal refused".into()));
        }
        Ok(())
    }

    /// Changes a stored link as no use case would.
    pub(crate) fn edit(&self, code: &str, edit: impl FnOnce(&mut Link)) {
        let key = key(code);
        let mut rows = self.rows.lock().unwrap();
        if let Some(Stored::Link(link)) = rows.get_mut(&key) {
            edit(link);
        }
    }
}

fn ready<'a, T: Send + 'a>(value: T) -> BoxFuture<'a, T> {
    Box::pin(std::future::ready(value))
}

fn unsupported<T, R: From<StoreError>>() -> Outcome<T, R> {
    Outcome::Refused(R::from(StoreError::Unsupported("this, in memory")))
}

impl LinkReader for Memory {
    fn get<'a>(
        &'a self,
        key: &'a LinkKey,
        _min_version: Version,
        _deadline: Deadline,
    ) -> BoxFuture<'a, Result<Option<Stored>, StoreError>> {
        ready(self.up().map(|()| self.rows.lock().unwrap().get(key).cloned()))
    }
}

impl LinkWriter for Memory {
    fn create(
        &self,
        data: NewLink,
        _deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Link, CreateRefusal>> {
        if let Err(error) = self.up() {
            return ready(Outcome::Refused(CreateRefusal::Store(error)));
        }
        let mut rows = self.rows.lock().unwrap();
        ready(match rows.get(&data.key) {
            Some(Stored::Link(_)) => Outcome::Refused(CreateRefusal::Taken),
            Some(Stored::Tombstone(_)) => Outcome::Refused(CreateRefusal::Retired),
            None => {
                let updated_at = data.created_at;
                let link = Link { data, version: Version::FIRST, updated_at, used: 0 };
                rows.insert(link.key().clone(), Stored::Link(Box::new(link.clone())));
                Outcome::Done(link)
            }
        })
    }

    fn create_many(
        &self,
        _links: Vec<NewLink>,
        _deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Vec<Result<Link, CreateRefusal>>, StoreError>> {
        ready(unsupported())
    }

    fn restore_many(
        &self,
        _rows: Vec<Stored>,
        _deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Vec<Result<(), CreateRefusal>>, StoreError>> {
        ready(unsupported())
    }

    fn patch(
        &self,
        _change: Change,
        _patch: LinkPatch,
        _now: Timestamp,
        _deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Link, ChangeRefusal>> {
        ready(Outcome::Refused(ChangeRefusal::NotFound))
    }

    fn delete(
        &self,
        change: Change,
        now: Timestamp,
        _deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Version, ChangeRefusal>> {
        let version = Version(2);
        let tombstone = Tombstone {
            key: change.key.clone(),
            owner: OwnerId::ANONYMOUS,
            created_at: now,
            deleted_at: now,
            version,
        };
        self.rows.lock().unwrap().insert(change.key, Stored::Tombstone(tombstone));
        ready(Outcome::Done(version))
    }

    fn claim_click(
        &self,
        key: LinkKey,
        _now: Timestamp,
        _deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Claim, StoreError>> {
        let claim = match self.rows.lock().unwrap().get_mut(&key) {
            Some(Stored::Link(link))
                if link.data.max_clicks.is_some_and(|max| link.used < max.get()) =>
            {
                link.used += 1;
                Claim::Granted(link.clone())
            }
            Some(stored) => Claim::Denied(Box::new(stored.clone())),
            None => Claim::Absent,
        };
        ready(Outcome::Done(claim))
    }
}

impl LinkQuery for Memory {
    fn list(&self, _: ListQuery, _: Deadline) -> BoxFuture<'_, Result<Page, ListError>> {
        ready(Ok(Page::default()))
    }

    fn export(
        &self,
        _cursor: Option<String>,
        _limit: u32,
        _deadline: Deadline,
    ) -> BoxFuture<'_, Result<(Vec<Stored>, Option<String>), ListError>> {
        ready(Ok((Vec::new(), None)))
    }

    fn approximate_count(&self, _: Deadline) -> BoxFuture<'_, Result<u64, StoreError>> {
        ready(Ok(self.rows.lock().unwrap().len() as u64))
    }
}

impl DomainStore for Memory {
    fn domains(
        &self,
        _deadline: Deadline,
    ) -> BoxFuture<'_, Result<Vec<(DomainId, String)>, StoreError>> {
        ready(Ok(vec![(DomainId(7), "other.example".to_owned())]))
    }

    fn ensure_domain(
        &self,
        _host: String,
        _deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<DomainId, StoreError>> {
        ready(unsupported())
    }
}

impl IdempotencyStore for Memory {
    fn begin(
        &self,
        request: IdempotentBegin,
        _deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<IdempotencyState, StoreError>> {
        if let Err(error) = self.up() {
            return ready(Outcome::Refused(error));
        }
        let mut once = self.once.lock().unwrap();
        let state = match once.get(&request.key_hash) {
            None => {
                once.insert(request.key_hash, (request.request_hash, None));
                IdempotencyState::Fresh
            }
            Some((hash, _)) if *hash != request.request_hash => IdempotencyState::Mismatch,
            Some((_, None)) => IdempotencyState::Running,
            Some((_, Some(response))) => {
                IdempotencyState::Done { status: 200, response: response.clone() }
            }
        };
        ready(Outcome::Done(state))
    }

    fn complete(
        &self,
        _scope: IdempotencyScope,
        key_hash: [u8; 32],
        _status: u16,
        response: Vec<u8>,
        _deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<(), StoreError>> {
        if let Some(row) = self.once.lock().unwrap().get_mut(&key_hash) {
            row.1 = Some(response);
        }
        ready(Outcome::Done(()))
    }

    fn abandon(
        &self,
        _scope: IdempotencyScope,
        key_hash: [u8; 32],
        _deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<(), StoreError>> {
        self.once.lock().unwrap().remove(&key_hash);
        ready(Outcome::Done(()))
    }

    fn purge(&self, _: Timestamp, _: Deadline) -> BoxFuture<'_, Outcome<u64, StoreError>> {
        ready(Outcome::Done(0))
    }
}

impl KeyStore for Memory {
    fn key_by_hash(
        &self,
        hash: [u8; 32],
        _deadline: Deadline,
    ) -> BoxFuture<'_, Result<Option<ApiKey>, StoreError>> {
        let keys = self.keys.lock().unwrap();
        ready(Ok(keys.iter().find(|key| key.hash == hash).cloned()))
    }

    fn keys(&self, _deadline: Deadline) -> BoxFuture<'_, Result<Vec<ApiKey>, StoreError>> {
        ready(Ok(self.keys.lock().unwrap().clone()))
    }

    fn add_key(
        &self,
        new: NewApiKey,
        _deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<ApiKey, StoreError>> {
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let key = ApiKey {
            id: ApiKeyId(id),
            name: new.name,
            hash: new.hash,
            scopes: new.scopes,
            owner: new.owner.unwrap_or(OwnerId(id)),
            created_at: new.created_at,
            expires_at: new.expires_at,
            revoked_at: None,
        };
        self.keys.lock().unwrap().push(key.clone());
        ready(Outcome::Done(key))
    }

    fn revoke_key(
        &self,
        _id: ApiKeyId,
        _now: Timestamp,
        _deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<bool, StoreError>> {
        ready(unsupported())
    }

    fn set_setup_secret(
        &self,
        hash: Option<[u8; 32]>,
        _deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<(), StoreError>> {
        *self.setup.lock().unwrap() = hash;
        ready(Outcome::Done(()))
    }

    fn redeem_setup(
        &self,
        hash: [u8; 32],
        new: NewApiKey,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Option<ApiKey>, StoreError>> {
        let mut setup = self.setup.lock().unwrap();
        if *setup != Some(hash) {
            return ready(Outcome::Done(None));
        }
        *setup = None;
        Box::pin(async move { self.add_key(new, deadline).await.map(Some) })
    }
}

impl RollupStore for Memory {
    fn apply(
        &self,
        _batch: RollupBatch,
        _deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<(), RollupRefusal>> {
        ready(Outcome::Done(()))
    }

    fn marks(
        &self,
        _node: NodeId,
        _deadline: Deadline,
    ) -> BoxFuture<'_, Result<Vec<SeqRange>, StoreError>> {
        ready(Ok(Vec::new()))
    }

    fn totals<'a>(
        &'a self,
        _key: &'a LinkKey,
        _deadline: Deadline,
    ) -> BoxFuture<'a, Result<Totals, StoreError>> {
        ready(Ok(Totals::default()))
    }

    fn hours<'a>(
        &'a self,
        _key: &'a LinkKey,
        _from: i64,
        _to: i64,
        _deadline: Deadline,
    ) -> BoxFuture<'a, Result<Vec<HourRow>, StoreError>> {
        ready(Ok(Vec::new()))
    }

    fn ledger(&self, _: Deadline) -> BoxFuture<'_, Result<Vec<LedgerRow>, StoreError>> {
        ready(Ok(Vec::new()))
    }
}

/// Codes `n1`, `n2`, …
#[derive(Default)]
struct Counting(AtomicU64);

impl CodeSource for Counting {
    fn draw(&self, n: usize, _: Deadline) -> BoxFuture<'_, Result<Vec<Code>, DrawError>> {
        let codes = (0..n)
            .map(|_| format!("n{}", self.0.fetch_add(1, Ordering::Relaxed) + 1))
            .map(|code| Code::parse(&code).unwrap())
            .collect();
        ready(Ok(codes))
    }

    fn report(&self, _drawn: usize, _collided: usize) {}

    fn put_back(&self, _unused: Vec<Code>) {}
}

/// The key of a code on the default domain.
pub(crate) fn key(code: &str) -> LinkKey {
    LinkKey::new(DomainId::DEFAULT, Code::parse(code).unwrap())
}

/// Until when tests wait.
pub(crate) fn soon() -> Deadline {
    Deadline::after(std::time::Instant::now(), std::time::Duration::from_secs(5))
}

/// A service under `base_url`.
pub(crate) async fn service(base_url: &str) -> (AppState, Arc<Memory>) {
    let memory = Arc::new(Memory::default());
    let clock = Arc::new(SystemClock);
    let options = Options {
        l1_bytes: 1 << 20,
        negative_ttl: std::time::Duration::ZERO,
        load_timeout: std::time::Duration::from_secs(5),
        claim_timeout: std::time::Duration::from_secs(5),
    };
    let resolver = Resolver::new(memory.clone(), memory.clone(), clock.clone(), options, (1, 2));
    let ports = Ports {
        reader: memory.clone(),
        writer: memory.clone(),
        once: None,
        query: Some(memory.clone()),
        domains: memory.clone(),
        domain_map: Arc::default(),
        clock: clock.clone(),
    };
    let link_settings = LinkSettings { base_url: base_url.to_owned(), ..LinkSettings::default() };
    let links = Links::new(
        ports,
        Idempotency::new(memory.clone(), clock.clone()),
        Arc::new(Counting::default()),
        resolver.clone(),
        link_settings,
    );
    links.load_domains(soon()).await.unwrap();
    let app = App {
        links,
        auth: Auth::new(memory.clone(), clock.clone()),
        limits: Limits::new(Rates::default(), [0; 32]),
        resolver,
        rollups: memory.clone(),
        clock,
        settings: super::settings(base_url),
    };
    (Arc::new(app), memory)
}

/// A new API key with these scopes.
pub(crate) async fn api_key(state: &AppState, scopes: Scopes) -> String {
    let secret = state.auth.fresh_secret().unwrap();
    let request = KeyRequest { name: "test".to_owned(), scopes, owner: None, expires_at: None };
    state.auth.create_key(request, &secret, soon()).await.unwrap();
    secret.reveal().to_owned()
}
