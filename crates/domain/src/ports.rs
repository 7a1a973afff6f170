//! The ports: what the engine needs of the world, small and by use. Adapters implement them.
//!
//! Every method takes a [`Deadline`] and enforces it itself, outside the driver. Futures may be
//! dropped at any time: a dropped write may still happen, exactly as an unknown outcome may.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::code::{Code, DomainId, LinkKey};
use crate::key::{ApiKeyId, OwnerId, Scopes};
use crate::link::{Link, LinkPatch, NewLink, Stored, Tag, Version};
use crate::outcome::{Outcome, StoreError};
use crate::time::{Deadline, Timestamp};

mod cache;
mod clicks;
mod limits;

pub use cache::{
    ABSENT_TTL, Bus, BusListener, Cached, CachedLink, ChangeFeed, FeedPage, FeedPosition,
    Invalidation, LinkCache, SharedError, Terms,
};
pub use clicks::{
    BootId, ClickRecorder, HourRow, LedgerRow, NodeId, RollupBatch, RollupRefusal, RollupStore,
    SeqRange, Totals,
};
pub use limits::{RateLimiter, Use};

/// The future that every port returns: boxed, because ports are used as `dyn`.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Reads one link: the redirect's port. A few microseconds embedded, a network round trip else.
pub trait LinkReader: Send + Sync {
    /// The row of `key`, at least as new as `min_version` (a copy that is older asks the primary).
    /// `Ok(None)` is only said on authority; a store that can't be asked is an error.
    ///
    /// # Errors
    /// [`StoreError`]; never used for "not found".
    fn get<'a>(
        &'a self,
        key: &'a LinkKey,
        min_version: Version,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Option<Stored>, StoreError>>;
}

/// Why a link was not created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CreateRefusal {
    /// A live link has the code.
    Taken,
    /// A deleted link had the code; it is never given out again.
    Retired,
    /// The store refused.
    Store(StoreError),
}

/// Why a link was not changed or deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeRefusal {
    /// There is no such link, it is deleted already, or it belongs to somebody else.
    NotFound,
    /// `If-Match` named another version than the current one, which is given.
    Stale(Version),
    /// The store refused.
    Store(StoreError),
}

/// A change to one link.
#[derive(Clone, Debug)]
pub struct Change {
    /// Which link.
    pub key: LinkKey,
    /// Only if it belongs to this owner; `None` for admins.
    pub owner: Option<OwnerId>,
    /// Only if it has this version.
    pub expected: Option<Version>,
}

/// What a central decision about one redirect said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// One click was taken, durably, of the link as given.
    Granted(Box<Link>),
    /// All clicks are used up, or the link is not in force: answer by its state.
    Denied(Box<Stored>),
    /// There is no such link.
    Absent,
}

/// Writes links. Each method is one durable transaction; a batch is one as well.
pub trait LinkWriter: Send + Sync {
    /// Creates one link; the primary key (code, domain) judges.
    fn create(
        &self,
        link: NewLink,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Link, CreateRefusal>>;

    /// Creates many links in one transaction; a refused row does not hinder the others. Answers
    /// one result per row in order.
    fn create_many(
        &self,
        links: Vec<NewLink>,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Vec<Result<Link, CreateRefusal>>, StoreError>>;

    /// Puts back rows of an export as they were, versions, used counts and tombstones included;
    /// a row whose (code, domain) exists in any form is refused. Answers one result per row.
    fn restore_many(
        &self,
        rows: Vec<Stored>,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Vec<Result<(), CreateRefusal>>, StoreError>>;

    /// Applies a patch and answers the changed link. `now` becomes `updated_at`.
    fn patch(
        &self,
        change: Change,
        patch: LinkPatch,
        now: Timestamp,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Link, ChangeRefusal>>;

    /// Replaces a link by its tombstone, whose version it answers.
    fn delete(
        &self,
        change: Change,
        now: Timestamp,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Version, ChangeRefusal>>;

    /// Takes one click of a link with `max_clicks`, if it is in force at `now` and has one left.
    /// Durable before it answers; never grants more than the limit, crashes included.
    fn claim_click(
        &self,
        key: LinkKey,
        now: Timestamp,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Claim, StoreError>>;
}

/// Makes a store follow another one. For copies alone: nobody is asked who may change what.
pub trait LinkMirror: Send + Sync {
    /// Writes rows as they are in the other store, in one durable transaction. A row that is here
    /// under the same key is replaced if it is older: a lower version, or the same with fewer
    /// redirects used up. At most 1,000.
    fn replace_many(
        &self,
        rows: Vec<Stored>,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<(), StoreError>>;
}

/// The order of a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Sort {
    /// Newest first.
    #[default]
    CreatedDesc,
    /// Oldest first.
    CreatedAsc,
    /// By code, byte order, then domain.
    CodeAsc,
    /// By code backwards.
    CodeDesc,
}

/// Which links to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListQuery {
    /// Only of this owner; `None` for admins.
    pub owner: Option<OwnerId>,
    /// Only of this domain.
    pub domain: Option<DomainId>,
    /// Only with this tag.
    pub tag: Option<Tag>,
    /// A case-insensitive substring of code, title or target; at least 3 characters (the caller
    /// checks). Case is folded for ASCII and by simple Unicode folding.
    pub text: Option<String>,
    /// The order.
    pub sort: Sort,
    /// Where the last page ended: a value this store gave out before.
    pub cursor: Option<String>,
    /// At most so many links, 1 to 1,000.
    pub limit: u32,
}

/// One page of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Live links in the asked order. May be fewer than asked for, even none, while `next` is
    /// there: the store bounds the work it does for one page.
    pub links: Vec<Link>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<String>,
}

/// Why a list could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListError {
    /// The cursor is not one this store gave out for this query.
    BadCursor,
    /// The store could not be read.
    Store(StoreError),
}

/// Rows of an export, and the cursor of the next page, `None` at the end.
pub type ExportPage = (Vec<Stored>, Option<String>);

/// Lists and exports.
pub trait LinkQuery: Send + Sync {
    /// One page by keyset: no page costs more than another.
    ///
    /// # Errors
    /// [`ListError`].
    fn list(&self, query: ListQuery, deadline: Deadline) -> BoxFuture<'_, Result<Page, ListError>>;

    /// Rows for an export, tombstones included, in creation order after `cursor` (`None` at the
    /// start); with the cursor of the next page, `None` at the end.
    ///
    /// # Errors
    /// [`ListError`].
    fn export(
        &self,
        cursor: Option<String>,
        limit: u32,
        deadline: Deadline,
    ) -> BoxFuture<'_, Result<ExportPage, ListError>>;

    /// How many live links there are, cheaply and approximately (a metric and the doctor use it).
    ///
    /// # Errors
    /// [`StoreError`].
    fn approximate_count(&self, deadline: Deadline) -> BoxFuture<'_, Result<u64, StoreError>>;
}

/// Short-link domains: host names and their numbers.
pub trait DomainStore: Send + Sync {
    /// All domains but the default one.
    ///
    /// # Errors
    /// [`StoreError`].
    fn domains(
        &self,
        deadline: Deadline,
    ) -> BoxFuture<'_, Result<Vec<(DomainId, String)>, StoreError>>;

    /// The number of a host name, registering it if it is new. `host` is a lower-case ASCII host
    /// name without port.
    fn ensure_domain(
        &self,
        host: String,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<DomainId, StoreError>>;
}

/// Where an idempotency key counts: per API key, and one scope for all anonymous callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IdempotencyScope {
    /// Callers without an API key.
    Anonymous,
    /// The bearer of this key.
    Key(ApiKeyId),
}

/// A request to begin an idempotent write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotentBegin {
    /// Whose key it is.
    pub scope: IdempotencyScope,
    /// SHA-256 of the key as sent.
    pub key_hash: [u8; 32],
    /// SHA-256 of method, path and body.
    pub request_hash: [u8; 32],
    /// The code or seed that this attempt would use; an earlier attempt's wins.
    pub choice: String,
    /// Now.
    pub now: Timestamp,
    /// How long other attempts are told "still running" unless this one completes.
    pub lease_until: Timestamp,
}

/// What is known about an idempotency key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdempotencyState {
    /// This attempt goes first, durably noted.
    Fresh,
    /// An earlier attempt began with this choice and was not completed: go on with its choice.
    Resume {
        /// The earlier attempt's choice.
        choice: String,
        /// When the first attempt began.
        began_at: Timestamp,
    },
    /// The write was completed with this answer.
    Done {
        /// HTTP status.
        status: u16,
        /// Headers worth repeating (`Location`, `ETag`), as `name: value` lines, then the body.
        response: Vec<u8>,
    },
    /// The key was used for another request (422).
    Mismatch,
    /// Another attempt is still running (409).
    Running,
}

/// Remembers idempotent writes for 24 hours.
pub trait IdempotencyStore: Send + Sync {
    /// Notes the attempt durably, or says what an earlier one did.
    fn begin(
        &self,
        request: IdempotentBegin,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<IdempotencyState, StoreError>>;

    /// Stores the answer of a successful write.
    fn complete(
        &self,
        scope: IdempotencyScope,
        key_hash: [u8; 32],
        status: u16,
        response: Vec<u8>,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<(), StoreError>>;

    /// Forgets an attempt that was refused (4xx and 5xx are not stored).
    fn abandon(
        &self,
        scope: IdempotencyScope,
        key_hash: [u8; 32],
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<(), StoreError>>;

    /// Deletes what was begun before `before`; answers how many rows, at most 10,000 at once.
    fn purge(
        &self,
        before: Timestamp,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<u64, StoreError>>;
}

/// Makes the answer of a new link that is stored with it: HTTP status, then headers worth repeating
/// and body as in [`IdempotencyState::Done`]. Called inside the transaction, maybe more than once.
pub type RenderCreated = Arc<dyn Fn(&Link) -> (u16, Vec<u8>) + Send + Sync>;

/// What a create that is done once came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CreatedOnce {
    /// The link was made now, and its answer is stored.
    Created(Box<Link>),
    /// The key was used before; nothing was made. Never [`IdempotencyState::Fresh`].
    Earlier(IdempotencyState),
}

/// Creates a link once per key in one transaction, where links and idempotency rows live in one
/// database: one wait for the disk instead of the three of begin, create and complete. Stores that
/// keep them apart don't have this port.
pub trait CreateOnce: Send + Sync {
    /// Looks the key up as [`IdempotencyStore::begin`] does; an attempt that goes first makes the
    /// link and stores its answer. A refused create leaves no trace of the key.
    fn create_once(
        &self,
        link: NewLink,
        request: IdempotentBegin,
        render: RenderCreated,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<CreatedOnce, CreateRefusal>>;
}

/// An API key as stored: never the secret, only its hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    /// Its number.
    pub id: ApiKeyId,
    /// A name for people.
    pub name: String,
    /// SHA-256 of the secret.
    pub hash: [u8; 32],
    /// What it allows.
    pub scopes: Scopes,
    /// Whose links it works on.
    pub owner: OwnerId,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it stops working by itself.
    pub expires_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
}

/// A key to be stored; the store numbers it. `owner` `None` makes a new owner with the key's own
/// number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewApiKey {
    /// A name for people.
    pub name: String,
    /// SHA-256 of the secret.
    pub hash: [u8; 32],
    /// What it allows.
    pub scopes: Scopes,
    /// Whose links it works on.
    pub owner: Option<OwnerId>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it stops working by itself.
    pub expires_at: Option<Timestamp>,
}

/// API keys and the one-time setup secret.
pub trait KeyStore: Send + Sync {
    /// The key with this hash, revoked and expired ones included.
    ///
    /// # Errors
    /// [`StoreError`].
    fn key_by_hash(
        &self,
        hash: [u8; 32],
        deadline: Deadline,
    ) -> BoxFuture<'_, Result<Option<ApiKey>, StoreError>>;

    /// All keys, oldest first.
    ///
    /// # Errors
    /// [`StoreError`].
    fn keys(&self, deadline: Deadline) -> BoxFuture<'_, Result<Vec<ApiKey>, StoreError>>;

    /// Stores a new key.
    fn add_key(
        &self,
        key: NewApiKey,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<ApiKey, StoreError>>;

    /// Revokes a key; `Done(false)` when there is none or it is revoked already.
    fn revoke_key(
        &self,
        id: ApiKeyId,
        now: Timestamp,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<bool, StoreError>>;

    /// Replaces the hash of the one-time setup secret (`None` clears it).
    fn set_setup_secret(
        &self,
        hash: Option<[u8; 32]>,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<(), StoreError>>;

    /// Uses the setup secret up and stores the first admin key in the same transaction;
    /// `Done(None)` when the hash is not the current one.
    fn redeem_setup(
        &self,
        hash: [u8; 32],
        key: NewApiKey,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Option<ApiKey>, StoreError>>;
}

/// Pre-generated codes, in rows of up to 1,000 (allocator `pool`).
pub trait CodePool: Send + Sync {
    /// Adds a row of codes.
    fn add_codes(
        &self,
        rows: Vec<Vec<Code>>,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<(), StoreError>>;

    /// Takes one row out, durably, so that no other caller ever gets it; `Done(None)` when the
    /// pool is empty.
    fn claim_codes(
        &self,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Option<Vec<Code>>, StoreError>>;

    /// How many codes are left.
    ///
    /// # Errors
    /// [`StoreError`].
    fn pool_size(&self, deadline: Deadline) -> BoxFuture<'_, Result<u64, StoreError>>;
}

/// A run of counter values: `start` inclusive, `end` exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Range {
    /// First value.
    pub start: u64,
    /// One past the last value.
    pub end: u64,
}

/// Leases of counter values with a durable high-water mark (allocator `range`).
pub trait RangeLeases: Send + Sync {
    /// A run of `len` values that was never leased before, or a shorter rest given back earlier.
    /// Durable before it answers; a crash burns the lease.
    fn lease(&self, len: u64, deadline: Deadline) -> BoxFuture<'_, Outcome<Range, StoreError>>;

    /// Gives an unused rest back at a clean shutdown.
    fn give_back(&self, rest: Range, deadline: Deadline) -> BoxFuture<'_, Outcome<(), StoreError>>;
}

/// What became of a run that another counter proposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Raised {
    /// It is leased.
    Yes,
    /// The mark is beyond its start already, at this value: some of it may be somebody's.
    Beyond(u64),
}

/// A store whose high-water mark judges runs that another, forgetful counter proposes.
pub trait HighWater: RangeLeases {
    /// Takes up to `len` values of a rest given back earlier; `Done(None)` when there is none.
    fn take_rest(
        &self,
        len: u64,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Option<Range>, StoreError>>;

    /// Leases exactly this run by raising the mark to its end, if the mark is not beyond its start.
    /// Durable before it answers.
    fn raise(
        &self,
        proposed: Range,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Raised, StoreError>>;
}

/// The setting that holds the key of the permutation which range codes go through: 32 random bytes.
/// A restored store throws it away, so that counter values which count again give other codes.
pub const META_RANGE_KEY: &str = "range-key";

/// Small durable settings that belong to the data, not to the process: node id, permutation key,
/// how codes are folded, code length reached.
pub trait MetaStore: Send + Sync {
    /// The value of `name`.
    ///
    /// # Errors
    /// [`StoreError`].
    fn meta(
        &self,
        name: &'static str,
        deadline: Deadline,
    ) -> BoxFuture<'_, Result<Option<Vec<u8>>, StoreError>>;

    /// Stores `value` unless there is one; answers what is there afterwards.
    fn meta_or_insert(
        &self,
        name: &'static str,
        value: Vec<u8>,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Vec<u8>, StoreError>>;

    /// Stores `value` whatever was there.
    fn set_meta(
        &self,
        name: &'static str,
        value: Vec<u8>,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<(), StoreError>>;

    /// The secret of a UTC day for visitor hashes: `fresh` if there is none yet. Secrets of days
    /// before `day - 2` are destroyed in the same transaction.
    fn visitor_secret(
        &self,
        day: i64,
        fresh: [u8; 32],
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<[u8; 32], StoreError>>;
}

/// The wall clock.
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> Timestamp;
}
