//! Asking the table: threads of the store's own, a bound on what is under way, deadlines outside
//! the driver, and what is asked again.
//!
//! The threads are the store's own because its callers live on event loops that must not wait for
//! it and may end before it. The driver's own repetition is off: only here is it known which
//! request may be repeated without its being done twice.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_config::BehaviorVersion;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::config::{Credentials, Region, StalledStreamProtectionConfig};
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use futures_util::stream::{self, StreamExt};
use shunt_domain::ports::BoxFuture;
use shunt_domain::{Deadline, Outcome, StoreError, UnknownCause};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::Semaphore;
use tokio::time::timeout_at;

use super::error::{DynamoError, Failure, Verdict, late, shutting_down, verdict};
use super::options::DynamoOptions;
use super::store::DynamoStats;
use super::table::{Key, PK, SK};

/// How long a closing store waits for what is under way.
const LAST_REQUESTS: Duration = Duration::from_secs(5);

/// How often a request is made that is known not to have been done, or that may be done twice.
const ATTEMPTS: u32 = 6;

/// The pause before the second attempt, in milliseconds; it doubles with each further one.
const FIRST_PAUSE_MS: u64 = 25;

/// The attributes of an item by their names.
pub(super) type Item = HashMap<String, AttributeValue>;

/// What a request does when it is made and its answer is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing that matters: a read, a number drawn and not used, the same item once more. It is
    /// made again.
    Harmless,
    /// It may have changed what the caller asked for: nobody knows.
    Change,
}

/// See the module.
pub(super) struct Client {
    runtime: Mutex<Option<Runtime>>,
    handle: Handle,
    session: Session,
    max_in_flight: u32,
    closed: AtomicBool,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("table", &self.session.table).finish_non_exhaustive()
    }
}

/// Region, endpoint and credentials as the options and the environment say.
async fn connect(options: DynamoOptions) -> Result<aws_sdk_dynamodb::Client, DynamoError> {
    let http = aws_smithy_http_client::Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .build_https();
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(http)
        .retry_config(RetryConfig::disabled())
        .timeout_config(TimeoutConfig::builder().connect_timeout(options.connect_timeout).build())
        // Answers are at most a megabyte, and each request has a deadline.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
    if let Some(region) = options.region {
        loader = loader.region(Region::new(region));
    }
    if let Some(endpoint) = options.endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    if let Some(key) = options.access_key {
        loader = loader.credentials_provider(Credentials::new(
            key.id,
            key.secret,
            None,
            None,
            "shunt's options",
        ));
    }
    let config = loader.load().await;
    if config.region().is_none() {
        return Err(DynamoError::NoRegion);
    }
    Ok(aws_sdk_dynamodb::Client::new(&config))
}

/// Runs something on the store's threads and waits for it, from any thread.
fn wait_for<T: Send + 'static>(
    handle: &Handle,
    work: impl Future<Output = T> + Send + 'static,
) -> Option<T> {
    let (reply, answer) = std::sync::mpsc::channel();
    handle.spawn(async move {
        // Nobody waits only when the waiting thread was killed.
        let _ = reply.send(work.await);
    });
    answer.recv().ok()
}

impl Client {
    /// Starts the threads and looks for region and credentials; no request to the table is made.
    /// Blocks: where neither options nor environment name a region, the instance is asked for it.
    ///
    /// # Errors
    /// [`DynamoError::Options`], [`DynamoError::NoRegion`].
    pub(super) fn start(
        options: &DynamoOptions,
        stats: Arc<DynamoStats>,
    ) -> Result<Self, DynamoError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(options.io_threads.max(1))
            .thread_name("dynamodb")
            .enable_all()
            .build()
            .map_err(|error| DynamoError::Options(format!("can't start threads: {error}")))?;
        let handle = runtime.handle().clone();
        let connecting = Box::pin(connect(options.clone()));
        let sdk = wait_for(&handle, connecting).unwrap_or_else(|| {
            let text = "its threads ended while they looked for AWS's settings";
            Err(DynamoError::Options(text.to_owned()))
        });
        let sdk = match sdk {
            Ok(sdk) => sdk,
            Err(error) => {
                // Not dropped, which would block an event loop.
                runtime.shutdown_background();
                return Err(error);
            }
        };
        let max_in_flight = options.max_in_flight.clamp(1, 1 << 16);
        let session = Session {
            sdk,
            table: options.table.as_str().into(),
            batch: options.batch_in_flight.clamp(1, max_in_flight),
            permits: Arc::new(Semaphore::new(max_in_flight)),
            deadline: Deadline::at(Instant::now()),
            changed: Arc::default(),
            stats,
        };
        Ok(Self {
            runtime: Mutex::new(Some(runtime)),
            handle,
            session,
            max_in_flight: max_in_flight as u32,
            closed: AtomicBool::new(false),
        })
    }

    /// Takes no more work, waits for requests that are under way (five seconds at most), and ends
    /// all connections. Blocks.
    pub(super) fn close(&self) {
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        let permits = Arc::clone(&self.session.permits);
        let all = self.max_in_flight;
        wait_for(&self.handle, async move {
            // Late requests are cut off below; their callers learn that nobody knows.
            let _ = tokio::time::timeout(LAST_REQUESTS, permits.acquire_many(all)).await;
            permits.close();
        });
        self.stop();
    }

    fn stop(&self) {
        let runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(runtime) = runtime {
            runtime.shutdown_background();
        }
    }

    pub(super) fn table(&self) -> &str {
        &self.session.table
    }

    fn session(&self, deadline: Deadline) -> Result<Session, StoreError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(shutting_down());
        }
        if deadline.passed(Instant::now()) {
            return Err(late());
        }
        Ok(Session { deadline, changed: Arc::default(), ..self.session.clone() })
    }

    /// Does a write, which goes on when its caller goes away.
    pub(super) fn write<T, F, Fut>(
        &self,
        deadline: Deadline,
        op: F,
    ) -> BoxFuture<'_, Outcome<T, StoreError>>
    where
        T: Send + 'static,
        F: FnOnce(Session) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        Box::pin(async move {
            let session = match self.session(deadline) {
                Ok(session) => session,
                Err(error) => return Outcome::Refused(error),
            };
            let changed = Arc::clone(&session.changed);
            let outcome = match self.handle.spawn(Box::pin(op(session))).await {
                Ok(Ok(value)) => Outcome::Done(value),
                // Some of it was done before.
                Ok(Err(Failure::Refused(_))) if changed.load(Ordering::Acquire) => {
                    Outcome::Unknown(UnknownCause::Lost)
                }
                Ok(Err(Failure::Refused(error))) => Outcome::Refused(error),
                Ok(Err(Failure::Unknown(cause))) => Outcome::Unknown(cause),
                // The threads are gone.
                Err(_) => Outcome::Unknown(UnknownCause::Lost),
            };
            self.session.stats.tally(&outcome);
            outcome
        })
    }

    /// Does a read.
    pub(super) fn read<T, F, Fut>(
        &self,
        deadline: Deadline,
        op: F,
    ) -> BoxFuture<'_, Result<T, StoreError>>
    where
        T: Send + 'static,
        F: FnOnce(Session) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        Box::pin(async move {
            let session = self.session(deadline)?;
            match self.handle.spawn(Box::pin(op(session))).await {
                Ok(Ok(value)) => Ok(value),
                Ok(Err(Failure::Refused(error))) => Err(error),
                Ok(Err(Failure::Unknown(cause))) => Err(StoreError::Unavailable(cause.to_string())),
                Err(_) => Err(shutting_down()),
            }
        })
    }

    /// Does something at start-up, with `patience`. Blocks.
    pub(super) fn block_on<T, F, Fut>(&self, patience: Duration, op: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(Session) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        let session = self.session(Deadline::after(Instant::now(), patience))?;
        match wait_for(&self.handle, Box::pin(op(session))) {
            Some(Ok(value)) => Ok(value),
            Some(Err(Failure::Refused(error))) => Err(error),
            Some(Err(Failure::Unknown(cause))) => Err(StoreError::Unavailable(cause.to_string())),
            None => Err(shutting_down()),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.stop();
    }
}

/// When an item may be written: an expression over attributes and the values it names.
#[derive(Clone, Debug, Default)]
pub(super) struct Condition {
    text: String,
    values: Vec<(String, AttributeValue)>,
}

impl Condition {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), values: Vec::new() }
    }

    #[must_use]
    pub(super) fn with(mut self, name: impl Into<String>, value: AttributeValue) -> Self {
        self.values.push((name.into(), value));
        self
    }

    /// There is no such item.
    pub(super) fn absent() -> Self {
        Self::new(format!("attribute_not_exists({PK})"))
    }

    /// There is such an item.
    pub(super) fn present() -> Self {
        Self::new(format!("attribute_exists({PK})"))
    }
}

/// One operation's way to the table: every request is bounded by its deadline.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) sdk: aws_sdk_dynamodb::Client,
    pub(super) table: Arc<str>,
    pub(super) deadline: Deadline,
    /// Requests under way for one batch.
    pub(super) batch: usize,
    permits: Arc<Semaphore>,
    /// Something was changed for this operation.
    changed: Arc<AtomicBool>,
    stats: Arc<DynamoStats>,
}

impl Session {
    /// Makes a request, again where that can do no harm, until the deadline. `None`: its condition
    /// does not hold.
    pub(super) async fn send<T, E, Fut>(
        &self,
        effect: Effect,
        request: impl Fn() -> Fut + Send + Sync,
    ) -> Result<Option<T>, Failure>
    where
        T: Send,
        E: ProvideErrorMetadata + std::error::Error + Send + 'static,
        Fut: Future<Output = Result<T, SdkError<E, HttpResponse>>> + Send,
    {
        let until = self.deadline.instant().into();
        for attempt in 1.. {
            let permit = match timeout_at(until, self.permits.acquire()).await {
                Ok(Ok(permit)) => permit,
                Ok(Err(_)) => return Err(shutting_down().into()),
                Err(_) => return Err(late().into()),
            };
            self.stats.requests.fetch_add(1, Ordering::Relaxed);
            let answer = timeout_at(until, Box::pin(request())).await;
            drop(permit);
            let error = match answer {
                Ok(Ok(value)) => {
                    if effect == Effect::Change {
                        self.changed.store(true, Ordering::Release);
                    }
                    return Ok(Some(value));
                }
                Ok(Err(error)) => match (verdict(&error), effect) {
                    (Verdict::Condition, _) => return Ok(None),
                    (Verdict::Refused(error), _) => return Err(error.into()),
                    (Verdict::Lost(_), Effect::Change) => {
                        return Err(Failure::Unknown(UnknownCause::Lost));
                    }
                    (Verdict::Lost(text), Effect::Harmless) => StoreError::Unavailable(text),
                    (Verdict::Again(error), _) => error,
                },
                Err(_) if effect == Effect::Change => {
                    return Err(Failure::Unknown(UnknownCause::Deadline));
                }
                Err(_) => {
                    let text = "DynamoDB gave no answer before the deadline".to_owned();
                    return Err(StoreError::Unavailable(text).into());
                }
            };
            let pause = self.pause(attempt);
            if attempt >= ATTEMPTS || self.deadline.left(Instant::now()) <= pause {
                return Err(error.into());
            }
            self.stats.repeated.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(pause).await;
        }
        // Attempts are counted without end only by the compiler.
        Err(late().into())
    }

    /// How long to wait after so many attempts: half of it by chance, so that those who were
    /// refused together don't come back together.
    fn pause(&self, attempt: u32) -> Duration {
        use std::hash::{BuildHasher, RandomState};
        let whole = FIRST_PAUSE_MS << attempt.clamp(1, ATTEMPTS).saturating_sub(1);
        let requests = self.stats.requests.load(Ordering::Relaxed);
        let chance = RandomState::new().hash_one(requests) % (whole / 2 + 1);
        Duration::from_millis(whole / 2 + chance)
    }

    /// Reads an item; with `consistent` as it is after every write that was answered before.
    pub(super) async fn get(&self, key: &Key, consistent: bool) -> Result<Option<Item>, Failure> {
        let request = self
            .sdk
            .get_item()
            .table_name(&*self.table)
            .set_key(Some(key.attributes()))
            .consistent_read(consistent);
        let answer = self.send(Effect::Harmless, || request.clone().send()).await?;
        Ok(answer.and_then(|answer| answer.item))
    }

    /// Writes a whole item. `false`: the condition does not hold.
    pub(super) async fn put(
        &self,
        effect: Effect,
        item: Item,
        condition: Option<Condition>,
    ) -> Result<bool, Failure> {
        let mut request = self.sdk.put_item().table_name(&*self.table).set_item(Some(item));
        if let Some(condition) = condition {
            request = request.condition_expression(condition.text);
            for (name, value) in condition.values {
                request = request.expression_attribute_values(name, value);
            }
        }
        let answer = self.send(effect, || request.clone().send()).await?;
        Ok(answer.is_some())
    }

    /// Changes attributes of an item and answers it as it is then. `None`: the condition does not
    /// hold. The values of `condition` are there for `text` as well.
    pub(super) async fn update(
        &self,
        effect: Effect,
        key: &Key,
        text: impl Into<String>,
        condition: Condition,
    ) -> Result<Option<Item>, Failure> {
        let mut request: UpdateItemFluentBuilder = self
            .sdk
            .update_item()
            .table_name(&*self.table)
            .set_key(Some(key.attributes()))
            .update_expression(text)
            .return_values(ReturnValue::AllNew);
        if !condition.text.is_empty() {
            request = request.condition_expression(condition.text);
        }
        for (name, value) in condition.values {
            request = request.expression_attribute_values(name, value);
        }
        let answer = self.send(effect, || request.clone().send()).await?;
        Ok(answer.map(|answer| answer.attributes.unwrap_or_default()))
    }

    /// Deletes an item and answers it as it was. `None`: the condition does not hold.
    pub(super) async fn delete(
        &self,
        effect: Effect,
        key: &Key,
        condition: Condition,
    ) -> Result<Option<Item>, Failure> {
        let mut request = self
            .sdk
            .delete_item()
            .table_name(&*self.table)
            .set_key(Some(key.attributes()))
            .return_values(ReturnValue::AllOld);
        if !condition.text.is_empty() {
            request = request.condition_expression(condition.text);
        }
        for (name, value) in condition.values {
            request = request.expression_attribute_values(name, value);
        }
        let answer = self.send(effect, || request.clone().send()).await?;
        Ok(answer.map(|answer| answer.attributes.unwrap_or_default()))
    }

    /// Items of one partition in the order of their sort keys, read consistently, at most `limit`.
    pub(super) async fn partition(&self, pk: &str, limit: usize) -> Result<Vec<Item>, Failure> {
        let mut items = Vec::new();
        let mut from = None;
        loop {
            let left = limit - items.len();
            let request = self
                .sdk
                .query()
                .table_name(&*self.table)
                .key_condition_expression(format!("{PK} = :pk"))
                .expression_attribute_values(":pk", AttributeValue::S(pk.to_owned()))
                .consistent_read(true)
                .limit(i32::try_from(left).unwrap_or(i32::MAX))
                .set_exclusive_start_key(from);
            let answer = self.send(Effect::Harmless, || request.clone().send()).await?;
            let Some(answer) = answer else { return Ok(items) };
            items.extend(answer.items.unwrap_or_default());
            from = answer.last_evaluated_key;
            if from.is_none() || items.len() >= limit {
                return Ok(items);
            }
        }
    }

    /// The next number of a counter, from 1. A number that is not used is lost.
    pub(super) async fn number(&self, counter: &str) -> Result<u64, Failure> {
        let step = Condition::default().with(":one", AttributeValue::N("1".to_owned()));
        let key = Key::new("counter", counter);
        let item = self.update(Effect::Harmless, &key, "ADD latest :one", step).await?;
        Ok(super::item::number(&item.unwrap_or_default(), "latest")?)
    }
}

/// Does things side by side, at most `at_once` of them, and answers in their order.
pub(super) async fn side_by_side<T>(at_once: usize, things: Vec<BoxFuture<'_, T>>) -> Vec<T> {
    stream::iter(things).buffered(at_once.max(1)).collect().await
}

/// A key with a value for each, as an item begins.
pub(super) fn keyed(key: &Key) -> Item {
    HashMap::from([
        (PK.to_owned(), AttributeValue::S(key.pk.clone())),
        (SK.to_owned(), AttributeValue::S(key.sk.clone())),
    ])
}

/// Counts one more.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
