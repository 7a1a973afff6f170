//! One service per test: store, engine, router, keys, and the faults between engine and store.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::Value;
use shunt_domain::ports::{
    BoxFuture, Change, ChangeRefusal, Claim, Clock, CreateOnce, CreateRefusal, CreatedOnce,
    IdempotencyScope, IdempotencyState, IdempotencyStore, IdempotentBegin, LinkWriter,
    RenderCreated,
};
use shunt_domain::{
    Deadline, Link, LinkKey, LinkPatch, NewLink, Outcome, OwnerId, Scope, Scopes, StoreError,
    Stored, Timestamp, UnknownCause, Version,
};
use shunt_engine::auth::{Auth, KeyRequest};
use shunt_engine::codes::{Allocator, CodePorts, CodeSettings};
use shunt_engine::domains::DomainMap;
use shunt_engine::idempotency::Idempotency;
use shunt_engine::limits::{Limits, Rates};
use shunt_engine::links::{LinkSettings, Links, Ports};
use shunt_engine::resolve::{Options, Resolver};
use shunt_http::app::{App, AppState, Settings};
use shunt_http::client::{Client, Transport};
use shunt_store::sqlite::{SqliteOptions, SqliteStore};
use tower::ServiceExt;

use crate::figures::Figures;

/// 2026-11-22T06:00:00Z: where every test's clock begins.
pub(crate) const EPOCH: i64 = 1_795_327_200_000;
/// How long one request may take, and so how long a lease lasts.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(5);

/// A clock that is moved by hand.
pub(crate) struct HandClock(AtomicI64);

impl HandClock {
    pub(crate) fn forward(&self, duration: Duration) {
        self.0.fetch_add(i64::try_from(duration.as_millis()).unwrap(), Ordering::SeqCst);
    }

    pub(crate) fn back(&self, duration: Duration) {
        self.0.fetch_sub(i64::try_from(duration.as_millis()).unwrap(), Ordering::SeqCst);
    }
}

impl Clock for HandClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::SeqCst))
    }
}

/// Which call of the store a fault is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Op {
    Create,
    CreateOnce,
    CreateMany,
    Patch,
    Delete,
    Begin,
    Complete,
}

/// What happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is done, and the answer is lost.
    LostAck,
    /// It never arrives, and nobody knows.
    LostCall,
    /// It is refused.
    Refused,
    /// It is done as if nothing were wrong.
    None,
}

/// The store with faults in front of its writes.
pub(crate) struct Faults {
    store: SqliteStore,
    queued: Mutex<HashMap<Op, VecDeque<Fault>>>,
    bitten: AtomicU64,
}

impl Faults {
    /// The next call of `op` meets this fault.
    pub(crate) fn next(&self, op: Op, fault: Fault) {
        self.queued.lock().unwrap().entry(op).or_default().push_back(fault);
    }

    /// How many faults were met.
    pub(crate) fn bitten(&self) -> u64 {
        self.bitten.load(Ordering::SeqCst)
    }

    fn take(&self, op: Op) -> Fault {
        let mut queued = self.queued.lock().unwrap();
        let fault = queued.get_mut(&op).and_then(VecDeque::pop_front).unwrap_or(Fault::None);
        if fault != Fault::None {
            self.bitten.fetch_add(1, Ordering::SeqCst);
        }
        fault
    }

    async fn through<T, R>(
        &self,
        op: Op,
        call: impl Future<Output = Outcome<T, R>>,
        refusal: impl FnOnce(StoreError) -> R,
    ) -> Outcome<T, R> {
        match self.take(op) {
            Fault::None => call.await,
            Fault::LostAck => {
                call.await;
                Outcome::Unknown(UnknownCause::Lost)
            }
            Fault::LostCall => Outcome::Unknown(UnknownCause::Deadline),
            Fault::Refused => Outcome::Refused(refusal(StoreError::Unavailable("cut".into()))),
        }
    }
}

impl LinkWriter for Faults {
    fn create(&self, link: NewLink, d: Deadline) -> BoxFuture<'_, Outcome<Link, CreateRefusal>> {
        let call = self.store.create(link, d);
        Box::pin(self.through(Op::Create, call, CreateRefusal::Store))
    }

    fn create_many(
        &self,
        links: Vec<NewLink>,
        d: Deadline,
    ) -> BoxFuture<'_, Outcome<Vec<Result<Link, CreateRefusal>>, StoreError>> {
        let call = self.store.create_many(links, d);
        Box::pin(self.through(Op::CreateMany, call, |error| error))
    }

    fn restore_many(
        &self,
        rows: Vec<Stored>,
        d: Deadline,
    ) -> BoxFuture<'_, Outcome<Vec<Result<(), CreateRefusal>>, StoreError>> {
        self.store.restore_many(rows, d)
    }

    fn patch(
        &self,
        change: Change,
        patch: LinkPatch,
        now: Timestamp,
        d: Deadline,
    ) -> BoxFuture<'_, Outcome<Link, ChangeRefusal>> {
        let call = self.store.patch(change, patch, now, d);
        Box::pin(self.through(Op::Patch, call, ChangeRefusal::Store))
    }

    fn delete(
        &self,
        change: Change,
        now: Timestamp,
        d: Deadline,
    ) -> BoxFuture<'_, Outcome<Version, ChangeRefusal>> {
        let call = self.store.delete(change, now, d);
        Box::pin(self.through(Op::Delete, call, ChangeRefusal::Store))
    }

    fn claim_click(
        &self,
        key: LinkKey,
        now: Timestamp,
        d: Deadline,
    ) -> BoxFuture<'_, Outcome<Claim, StoreError>> {
        self.store.claim_click(key, now, d)
    }
}

impl CreateOnce for Faults {
    fn create_once(
        &self,
        link: NewLink,
        request: IdempotentBegin,
        render: RenderCreated,
        d: Deadline,
    ) -> BoxFuture<'_, Outcome<CreatedOnce, CreateRefusal>> {
        let call = self.store.create_once(link, request, render, d);
        Box::pin(self.through(Op::CreateOnce, call, CreateRefusal::Store))
    }
}

impl IdempotencyStore for Faults {
    fn begin(
        &self,
        request: IdempotentBegin,
        d: Deadline,
    ) -> BoxFuture<'_, Outcome<IdempotencyState, StoreError>> {
        let call = self.store.begin(request, d);
        Box::pin(self.through(Op::Begin, call, |error| error))
    }

    fn complete(
        &self,
        scope: IdempotencyScope,
        key_hash: [u8; 32],
        status: u16,
        response: Vec<u8>,
        d: Deadline,
    ) -> BoxFuture<'_, Outcome<(), StoreError>> {
        let call = self.store.complete(scope, key_hash, status, response, d);
        Box::pin(self.through(Op::Complete, call, |error| error))
    }

    fn abandon(
        &self,
        scope: IdempotencyScope,
        key_hash: [u8; 32],
        d: Deadline,
    ) -> BoxFuture<'_, Outcome<(), StoreError>> {
        self.store.abandon(scope, key_hash, d)
    }

    fn purge(&self, before: Timestamp, d: Deadline) -> BoxFuture<'_, Outcome<u64, StoreError>> {
        self.store.purge(before, d)
    }
}

/// How a service is set up.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) anonymous_create: bool,
    pub(crate) immutable: bool,
    /// Creates with a key go the way of stores that keep links and key rows apart.
    pub(crate) in_steps: bool,
    /// The store has no lists, searches and exports.
    pub(crate) without_lists: bool,
    pub(crate) max_body: usize,
    pub(crate) rates: Rates,
    pub(crate) codes: CodeSettings,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            anonymous_create: false,
            immutable: false,
            in_steps: false,
            without_lists: false,
            max_body: 64 * 1024,
            rates: Rates::default(),
            codes: CodeSettings::default(),
        }
    }
}

/// A service.
pub(crate) struct World {
    pub(crate) app: AppState,
    pub(crate) clock: Arc<HandClock>,
    pub(crate) faults: Arc<Faults>,
    pub(crate) figures: Arc<Figures>,
    pub(crate) store: SqliteStore,
    router: Router,
    setup: Setup,
    dir: Arc<tempfile::TempDir>,
}

pub(crate) fn soon() -> Deadline {
    Deadline::after(Instant::now(), Duration::from_secs(20))
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(Setup::default()).await
    }

    /// Over stores that keep links and key rows apart.
    pub(crate) async fn in_steps() -> Self {
        Self::with(Setup { in_steps: true, ..Setup::default() }).await
    }

    pub(crate) async fn with(setup: Setup) -> Self {
        Self::over(Arc::new(tempfile::tempdir().unwrap()), setup, EPOCH).await
    }

    async fn over(dir: Arc<tempfile::TempDir>, setup: Setup, millis: i64) -> Self {
        let store = SqliteStore::open(dir.path(), SqliteOptions::default()).unwrap();
        let shared = Arc::new(store.clone());
        let clock = Arc::new(HandClock(AtomicI64::new(millis)));
        let faults = Arc::new(Faults {
            store: store.clone(),
            queued: Mutex::default(),
            bitten: AtomicU64::new(0),
        });
        let figures = Arc::new(Figures::default());
        let options = Options {
            l1_bytes: 1 << 20,
            negative_ttl: Duration::from_secs(1),
            load_timeout: TIMEOUT,
            claim_timeout: TIMEOUT,
        };
        let writer = Arc::clone(&faults);
        let resolver =
            Resolver::new(shared.clone(), writer, Arc::clone(&clock) as _, options, (1, 2));
        let code_ports =
            CodePorts { meta: shared.clone(), pool: shared.clone(), leases: shared.clone() };
        let codes = Allocator::open(setup.codes.clone(), code_ports, soon()).await.unwrap();
        let ports = Ports {
            reader: shared.clone(),
            writer: Arc::clone(&faults) as _,
            once: (!setup.in_steps).then(|| Arc::clone(&faults) as _),
            query: (!setup.without_lists).then(|| shared.clone() as _),
            domains: shared.clone(),
            domain_map: Arc::new(DomainMap::default()),
            clock: Arc::clone(&clock) as _,
        };
        let base_url = "http://127.0.0.1:8080".to_owned();
        let link_settings = LinkSettings {
            base_url: base_url.clone(),
            immutable: setup.immutable,
            extra_schemes: Vec::new(),
        };
        let idempotency = Idempotency::new(Arc::clone(&faults) as _, Arc::clone(&clock) as _);
        let links = Links::new(
            ports,
            idempotency,
            Arc::new(codes),
            Arc::clone(&resolver) as _,
            link_settings,
        );
        links.load_domains(soon()).await.unwrap();
        let app = Arc::new(App {
            links,
            auth: Auth::new(shared.clone(), Arc::clone(&clock) as _),
            limits: Limits::new(setup.rates, [0; 32]),
            resolver,
            rollups: Arc::clone(&figures) as _,
            clock: Arc::clone(&clock) as _,
            settings: Settings {
                base_url,
                anonymous_create: setup.anonymous_create,
                limit_loopback: true,
                max_body: setup.max_body,
                request_timeout: TIMEOUT,
            },
        });
        let router = shunt_http::api::router(Arc::clone(&app));
        Self { app, clock, faults, figures, store, router, setup, dir }
    }

    /// The same data in a new process: what was in memory is gone.
    pub(crate) async fn restarted(self) -> Self {
        let (dir, setup, millis) =
            (Arc::clone(&self.dir), self.setup.clone(), self.clock.now().as_millis());
        self.store.close();
        drop(self);
        Self::over(dir, setup, millis).await
    }

    /// A key with these scopes.
    pub(crate) async fn key(&self, scopes: &[Scope], owner: Option<u64>) -> String {
        let scopes = scopes.iter().fold(Scopes::default(), |set, scope| set.with(*scope));
        let request = KeyRequest {
            name: "test".to_owned(),
            scopes,
            owner: owner.map(OwnerId),
            expires_at: None,
        };
        let secret = self.app.auth.fresh_secret().unwrap();
        self.app.auth.create_key(request, &secret, soon()).await.unwrap();
        secret.reveal().to_owned()
    }

    pub(crate) async fn admin(&self) -> String {
        self.key(&[Scope::Admin], None).await
    }

    pub(crate) async fn send(&self, ask: Ask) -> Answer {
        let response = self.router.clone().oneshot(ask.request()).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let answer = Answer { status: parts.status, headers: parts.headers, body };
        answer.check();
        answer
    }
}

/// A request.
#[derive(Clone)]
pub(crate) struct Ask {
    method: &'static str,
    uri: String,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
    stream: Option<Vec<Bytes>>,
    client: Option<Client>,
}

/// A neighbour on the network, and somebody on this machine.
pub(crate) const REMOTE: Client = Client {
    transport: Transport::Plain,
    peer: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)),
    address: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)),
    forwarded: false,
};
pub(crate) const LOOPBACK: Client = Client {
    transport: Transport::Plain,
    peer: IpAddr::V4(Ipv4Addr::LOCALHOST),
    address: IpAddr::V4(Ipv4Addr::LOCALHOST),
    forwarded: false,
};

impl Ask {
    /// From this machine, without a key.
    pub(crate) fn new(method: &'static str, uri: impl Into<String>) -> Self {
        Self {
            method,
            uri: uri.into(),
            headers: vec![("host", "127.0.0.1:8080".to_owned())],
            body: Bytes::new(),
            stream: None,
            client: Some(LOOPBACK),
        }
    }

    pub(crate) fn get(uri: impl Into<String>) -> Self {
        Self::new("GET", uri)
    }

    pub(crate) fn post(uri: impl Into<String>, body: &Value) -> Self {
        Self::new("POST", uri).json(body)
    }

    pub(crate) fn json(self, body: &Value) -> Self {
        self.header("content-type", "application/json").body(body.to_string())
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.retain(|(there, _)| *there != name);
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn and_header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn key(self, key: &str) -> Self {
        self.header("authorization", format!("Bearer {key}"))
    }

    pub(crate) fn once(self, key: &str) -> Self {
        self.header("idempotency-key", key)
    }

    pub(crate) fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// A body in pieces, without a length.
    pub(crate) fn pieces(mut self, pieces: Vec<Bytes>) -> Self {
        self.stream = Some(pieces);
        self
    }

    pub(crate) fn by(mut self, client: Option<Client>) -> Self {
        self.client = client;
        self
    }

    pub(crate) fn request(self) -> Request<Body> {
        let mut request = Request::builder().method(self.method).uri(self.uri);
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        if let Some(client) = self.client {
            request = request.extension(client);
        }
        let body = match self.stream {
            None => Body::from(self.body),
            Some(pieces) => {
                let pieces = pieces.into_iter().map(Ok::<_, std::convert::Infallible>);
                Body::from_stream(futures_util::stream::iter(pieces))
            }
        };
        request.body(body).unwrap()
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    /// What holds for every answer of the API.
    fn check(&self) {
        let kind = self.text_header("content-type");
        if self.status.is_client_error() || self.status.is_server_error() {
            assert_eq!(kind, "application/problem+json", "{self:?}");
            let problem = self.json();
            let code = problem["code"].as_str().unwrap();
            assert_eq!(problem["type"], format!("urn:shunt:problem:{code}"));
            assert_eq!(problem["status"], self.status.as_u16());
            assert!(!problem["title"].as_str().unwrap().is_empty());
            let detail = problem["detail"].as_str().unwrap();
            assert!(!detail.is_empty() && !detail.contains('\n'), "one line: {detail}");
        }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn lines(&self) -> Vec<Value> {
        let text = std::str::from_utf8(&self.body).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub(crate) fn text_header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// `(status, code, field)` of a problem.
    pub(crate) fn problem(&self) -> (u16, String, String) {
        let body = self.json();
        let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        (self.status.as_u16(), text("code"), text("field"))
    }

    pub(crate) fn code(&self) -> String {
        assert!(self.status.is_success(), "{self:?}");
        self.json()["code"].as_str().unwrap().to_owned()
    }

    pub(crate) fn replayed(&self) -> bool {
        self.text_header("idempotency-replayed") == "true"
    }
}

/// A problem as [`Answer::problem`] gives it.
pub(crate) fn problem(status: u16, code: &str, field: &str) -> (u16, String, String) {
    (status, code.to_owned(), field.to_owned())
}
