//! Creates, reads, changes, deletes and lists links; knows their domains.
//!
//! Invariants:
//! - every target, whatever entry it came by, is judged by the one parser under the one set of
//!   rules of [`DomainTable::rules`];
//! - the store's primary key alone judges whether a code is free;
//! - other people's links answer exactly as links that do not exist;
//! - every local write is told to [`Changed`] before its caller is answered, unknown outcomes
//!   included.

mod bulk;
mod create;
mod domains;
mod draft;
mod error;
mod journal;
mod source;

use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use shunt_domain::ports::{
    CachedLink, Change, Clock, CreateOnce, DomainStore, LinkQuery, LinkReader, LinkWriter,
    ListError, ListQuery, Page,
};
use shunt_domain::{
    Code, Deadline, DomainId, Link, LinkKey, LinkPatch, Outcome, StoreError, Stored, UnknownCause,
    Version,
};

pub use bulk::{CHUNK, Chunk, ImportRow, RestoreDraft, RowOutcome, TombstoneDraft};
pub use domains::{DomainTable, normalise_host};
pub use draft::{Draft, MAX_CLICKS, PatchDraft, parse_code};
pub use error::{FieldError, LinkError};
pub use source::{Changed, CodeSource, DrawError};

use crate::auth::Actor;
use crate::domains::DomainMap;
use crate::idempotency::{Answer, Attempt, Idempotency, Once, StoredAnswer};
use crate::resolve::News;
use error::settle;

/// The shortest search text, in characters: what a trigram index can answer.
pub const MIN_SEARCH_CHARS: usize = 3;
/// The longest search text, in characters.
pub const MAX_SEARCH_CHARS: usize = 256;

/// The stores that links need.
#[derive(Clone)]
pub struct Ports {
    /// Reads one link.
    pub reader: Arc<dyn LinkReader>,
    /// Writes links.
    pub writer: Arc<dyn LinkWriter>,
    /// Makes a link and its idempotency row in one transaction, where the store can.
    pub once: Option<Arc<dyn CreateOnce>>,
    /// Lists and exports, where the store can (501 else).
    pub query: Option<Arc<dyn LinkQuery>>,
    /// Numbers host names.
    pub domains: Arc<dyn DomainStore>,
    /// What redirects look their host up in; replaced whenever the domains are read.
    pub domain_map: Arc<DomainMap>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
}

/// Settings of links.
#[derive(Clone, Debug, Default)]
pub struct LinkSettings {
    /// Scheme, host and path of the default domain's links, without a trailing slash.
    pub base_url: String,
    /// Whether edits are refused.
    pub immutable: bool,
    /// Target schemes accepted beside http and https.
    pub extra_schemes: Vec<String>,
}

/// The use cases of links. One for the whole process.
pub struct Links {
    ports: Ports,
    codes: Arc<dyn CodeSource>,
    changed: Arc<dyn Changed>,
    idempotency: Idempotency,
    settings: LinkSettings,
    domains: ArcSwap<DomainTable>,
}

impl Links {
    /// Over the stores. Call [`Links::load_domains`] before the first request.
    pub fn new(
        ports: Ports,
        idempotency: Idempotency,
        codes: Arc<dyn CodeSource>,
        changed: Arc<dyn Changed>,
        settings: LinkSettings,
    ) -> Self {
        let table = DomainTable::new(&settings.base_url, &settings.extra_schemes, &[]);
        let domains = ArcSwap::from_pointee(table);
        Self { ports, codes, changed, idempotency, settings, domains }
    }

    /// The idempotency rows, for writes of other kinds (keys, domains).
    pub const fn idempotency(&self) -> &Idempotency {
        &self.idempotency
    }

    /// Reads the registered domains anew. At start, and now and then where other processes
    /// register some.
    ///
    /// # Errors
    /// [`StoreError`]; what was known stays known.
    pub async fn load_domains(&self, deadline: Deadline) -> Result<(), StoreError> {
        let registered = self.ports.domains.domains(deadline).await?;
        let settings = &self.settings;
        let table = DomainTable::new(&settings.base_url, &settings.extra_schemes, &registered);
        self.domains.store(Arc::new(table));
        self.ports.domain_map.replace(registered);
        Ok(())
    }

    /// The domains as known now.
    pub fn domains(&self) -> Arc<DomainTable> {
        self.domains.load_full()
    }

    /// Registers a host name, or answers the number it has. Idempotent.
    ///
    /// # Errors
    /// [`LinkError::Invalid`] for what is no host name; else what the store said.
    pub async fn ensure_domain(
        &self,
        host: &str,
        deadline: Deadline,
    ) -> Result<(DomainId, String), LinkError> {
        let host = normalise_host(host)?;
        if let Some(id) = self.domains.load().find(&host) {
            return Ok((id, host));
        }
        let id = settle(self.ports.domains.ensure_domain(host.clone(), deadline).await)?;
        self.load_domains(deadline).await?;
        Ok((id, host))
    }

    /// The domain a write names: an admin registers a new one by using it.
    async fn domain_for_write(
        &self,
        actor: &Actor,
        host: Option<&str>,
        deadline: Deadline,
    ) -> Result<DomainId, LinkError> {
        let Some(host) = host else {
            return Ok(DomainId::DEFAULT);
        };
        let host = normalise_host(host)?;
        if let Some(id) = self.domains.load().find(&host) {
            return Ok(id);
        }
        if actor.is_admin() {
            return Ok(self.ensure_domain(&host, deadline).await?.0);
        }
        // Another process may have registered it since we looked.
        self.load_domains(deadline).await?;
        self.domains.load().find(&host).ok_or_else(|| {
            let detail = "this domain is not registered here; ask an admin to add it";
            FieldError::new("domain", "unknown-domain", detail).into()
        })
    }

    /// The key that a read, change or delete names.
    ///
    /// # Errors
    /// [`LinkError::NotFound`] for what can't be a link: no code, or a domain nobody registered.
    pub fn key(&self, code: &str, host: Option<&str>) -> Result<LinkKey, LinkError> {
        let code = Code::parse(code).map_err(|_| LinkError::NotFound)?;
        let domain = match host {
            None => DomainId::DEFAULT,
            Some(host) => normalise_host(host)
                .ok()
                .and_then(|host| self.domains.load().find(&host))
                .ok_or(LinkError::NotFound)?,
        };
        Ok(LinkKey::new(domain, code))
    }

    /// The address under which people reach a link.
    pub fn short_url(&self, key: &LinkKey) -> String {
        let base = &self.settings.base_url;
        match self.domains.load().host(key.domain) {
            None => format!("{base}/{}", key.code),
            Some(host) => {
                let scheme = base.split_once("://").map_or("https", |(scheme, _)| scheme);
                format!("{scheme}://{host}/{}", key.code)
            }
        }
    }

    /// One link, if the caller may see it.
    ///
    /// # Errors
    /// [`LinkError::NotFound`], or [`LinkError::Store`].
    pub async fn get(
        &self,
        actor: &Actor,
        key: &LinkKey,
        deadline: Deadline,
    ) -> Result<Link, LinkError> {
        let link = self.read(key, deadline).await?.and_then(Stored::into_link);
        let owner = actor.owner_filter();
        link.filter(|link| owner.is_none_or(|owner| owner == link.data.owner))
            .ok_or(LinkError::NotFound)
    }

    async fn read(&self, key: &LinkKey, deadline: Deadline) -> Result<Option<Stored>, StoreError> {
        self.ports.reader.get(key, Version::default(), deadline).await
    }

    /// One page of the caller's links (an admin's: of all links). `query.owner` is overwritten.
    ///
    /// # Errors
    /// [`LinkError::Invalid`] on `q`, [`LinkError::BadCursor`], [`LinkError::Store`].
    pub async fn list(
        &self,
        actor: &Actor,
        mut query: ListQuery,
        deadline: Deadline,
    ) -> Result<Page, LinkError> {
        if let Some(text) = &query.text {
            let chars = text.chars().count();
            if !(MIN_SEARCH_CHARS..=MAX_SEARCH_CHARS).contains(&chars) {
                let detail = format!(
                    "a search text has {MIN_SEARCH_CHARS} to {MAX_SEARCH_CHARS} characters"
                );
                return Err(FieldError::new("q", "bad-search", detail).into());
            }
        }
        if let Some(owner) = actor.owner_filter() {
            query.owner = Some(owner);
        }
        self.query()?.list(query, deadline).await.map_err(list_error)
    }

    /// One page of an export: everything, tombstones included, in creation order.
    ///
    /// # Errors
    /// [`LinkError::BadCursor`], [`LinkError::Store`].
    pub async fn export(
        &self,
        cursor: Option<String>,
        limit: u32,
        deadline: Deadline,
    ) -> Result<(Vec<Stored>, Option<String>), LinkError> {
        self.query()?.export(cursor, limit, deadline).await.map_err(list_error)
    }

    fn query(&self) -> Result<&dyn LinkQuery, StoreError> {
        self.ports.query.as_deref().ok_or(StoreError::Unsupported("lists, searches and exports"))
    }

    /// Changes a link. `expected` are the versions the caller accepts (`If-Match`); `None`: any.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub async fn patch(
        &self,
        actor: &Actor,
        key: &LinkKey,
        draft: &PatchDraft,
        expected: Option<&[Version]>,
        deadline: Deadline,
    ) -> Result<Link, LinkError> {
        self.patch_attempt(actor, key, draft, expected, false, deadline).await
    }

    /// Changes a link once per idempotency key. A resumed attempt that finds every value it would
    /// set in place, on a version the first attempt did not start from, takes it as done; else the
    /// change is applied now: setting the same values twice is no different from once, and a
    /// change by somebody else in between is protected by `expected` alone, as without a key.
    ///
    /// # Errors
    /// See [`LinkError`].
    #[expect(clippy::too_many_arguments, reason = "the arguments of one request")]
    pub async fn patch_once(
        &self,
        actor: &Actor,
        key: &LinkKey,
        draft: &PatchDraft,
        expected: Option<&[Version]>,
        once: &Once,
        render: impl FnOnce(&Link) -> StoredAnswer,
        deadline: Deadline,
    ) -> Result<Answer<Link>, LinkError> {
        let before = match self.get(actor, key, deadline).await {
            Ok(link) => link.version,
            // It may be gone after a first attempt that went well: the row knows.
            Err(LinkError::NotFound) => Version::default(),
            Err(error) => return Err(error),
        };
        let attempt = |attempt: Attempt| async move {
            let moved = attempt.resumed
                && attempt.choice.parse::<u64>().is_ok_and(|version| version < before.0);
            self.patch_attempt(actor, key, draft, expected, moved, deadline).await
        };
        self.idempotency.run(once, before.0.to_string(), render, attempt, deadline).await
    }

    async fn patch_attempt(
        &self,
        actor: &Actor,
        key: &LinkKey,
        draft: &PatchDraft,
        expected: Option<&[Version]>,
        moved: bool,
        deadline: Deadline,
    ) -> Result<Link, LinkError> {
        let link = self.get(actor, key, deadline).await?;
        if self.settings.immutable {
            return Err(LinkError::Immutable);
        }
        let table = self.domains();
        let patch = draft::check_patch(draft, actor, table.rules())?;
        if moved && patch.clone().apply(&link, link.updated_at).data == link.data {
            return Ok(link);
        }
        draft::check_patched_window(&link, &patch)?;
        // A window is judged against the version it was read with, so that two edits of its two
        // ends can't meet behind it.
        let window = patch.valid_from.is_some() || patch.expires_at.is_some();
        let pinned = expect_one(expected, link.version)?;
        if patch == LinkPatch::default() {
            return Ok(link);
        }
        let mut pin = pinned.or(window.then_some(link.version));
        let mut current = link;
        for _ in 0..WINDOW_TRIES {
            let change = Change { key: key.clone(), owner: actor.owner_filter(), expected: pin };
            let now = self.ports.clock.now();
            let outcome = self.ports.writer.patch(change, patch.clone(), now, deadline).await;
            self.tell(self.noted(key, current.version.next(), &outcome, cached)).await;
            match settle(outcome) {
                Err(LinkError::Stale(_)) if pinned.is_none() => {
                    current = self.get(actor, key, deadline).await?;
                    draft::check_patched_window(&current, &patch)?;
                    pin = Some(current.version);
                }
                settled => return settled,
            }
        }
        Err(LinkError::Stale(current.version))
    }

    /// Deletes a link: its tombstone stays and keeps the code. Answers the tombstone's version.
    ///
    /// # Errors
    /// See [`LinkError`]; a link deleted before is [`LinkError::NotFound`].
    pub async fn delete(
        &self,
        actor: &Actor,
        key: &LinkKey,
        expected: Option<&[Version]>,
        deadline: Deadline,
    ) -> Result<Version, LinkError> {
        self.delete_attempt(actor, key, expected, self.ports.clock.now(), deadline).await
    }

    /// Deletes a link once per idempotency key. A resumed attempt that finds the caller's link
    /// deleted no earlier than the first attempt began takes it as done.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub async fn delete_once(
        &self,
        actor: &Actor,
        key: &LinkKey,
        expected: Option<&[Version]>,
        once: &Once,
        render: impl FnOnce(&Version) -> StoredAnswer,
        deadline: Deadline,
    ) -> Result<Answer<Version>, LinkError> {
        let attempt = |attempt: Attempt| async move {
            if attempt.resumed
                && let Some(Stored::Tombstone(tombstone)) = self.read(key, deadline).await?
            {
                let mine = actor.owner_filter().is_none_or(|owner| owner == tombstone.owner);
                return if mine && tombstone.deleted_at >= attempt.began_at {
                    Ok(tombstone.version)
                } else {
                    Err(LinkError::NotFound)
                };
            }
            // A clock that was set back must not hide the deletion from a resumed attempt.
            let now = self.ports.clock.now().max(attempt.began_at);
            self.delete_attempt(actor, key, expected, now, deadline).await
        };
        self.idempotency.run(once, String::new(), render, attempt, deadline).await
    }

    async fn delete_attempt(
        &self,
        actor: &Actor,
        key: &LinkKey,
        expected: Option<&[Version]>,
        now: shunt_domain::Timestamp,
        deadline: Deadline,
    ) -> Result<Version, LinkError> {
        let link = self.get(actor, key, deadline).await?;
        let change = Change {
            key: key.clone(),
            owner: actor.owner_filter(),
            expected: expect_one(expected, link.version)?,
        };
        let outcome = self.ports.writer.delete(change, now, deadline).await;
        let tombstone = |version: &Version| CachedLink { version: *version, terms: None };
        self.tell(self.noted(key, link.version.next(), &outcome, tombstone)).await;
        settle(outcome)
    }

    /// Tells this node's cache about a write, and answers what the other nodes must be told. An
    /// unknown outcome counts as one: `guess` is the version it would have made.
    fn noted<T, R>(
        &self,
        key: &LinkKey,
        guess: Version,
        outcome: &Outcome<T, R>,
        row: impl FnOnce(&T) -> CachedLink,
    ) -> Option<News> {
        let row = match outcome {
            Outcome::Done(value) => Some(row(value)),
            Outcome::Unknown(_) => None,
            Outcome::Refused(_) => return None,
        };
        let version = row.as_ref().map_or(guess, |row| row.version);
        self.changed.link_changed(key, version);
        self.changed.is_shared().then(|| News { key: key.clone(), version, row })
    }

    /// Tells the other nodes.
    async fn tell(&self, news: Option<News>) {
        if let Some(told) = news.and_then(|news| self.changed.spread(news)) {
            told.await;
        }
    }

    fn time_left(deadline: Deadline) -> Result<(), LinkError> {
        if deadline.passed(Instant::now()) {
            let cause = UnknownCause::Deadline.to_string();
            return Err(StoreError::Unavailable(cause).into());
        }
        Ok(())
    }
}

/// What other nodes are told of a link.
fn cached(link: &Link) -> CachedLink {
    link.into()
}

/// How often an edit of a window is tried again when others edit the link at the same time.
const WINDOW_TRIES: usize = 4;

/// The one version to hand to the store: the current one, if the caller accepts it.
fn expect_one(
    expected: Option<&[Version]>,
    current: Version,
) -> Result<Option<Version>, LinkError> {
    match expected {
        None => Ok(None),
        Some(versions) if versions.contains(&current) => Ok(Some(current)),
        Some(_) => Err(LinkError::Stale(current)),
    }
}

fn list_error(error: ListError) -> LinkError {
    match error {
        ListError::BadCursor => LinkError::BadCursor,
        ListError::Store(error) => LinkError::Store(error),
    }
}
