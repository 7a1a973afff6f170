//! A store with an earlier one behind it: where links were before, and may still be.
//!
//! Invariants:
//! - what the store itself has counts, a tombstone too; the earlier one is asked only about keys
//!   that it has never had;
//! - an earlier one that can't be asked is an error, never an absent link;
//! - the earlier one is never written to. A link that is to change is adopted first: put into the
//!   store as it is, and from then on it is the store's own;
//! - a code that the earlier one has is given to nobody else.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use shunt_domain::ports::{
    BoxFuture, Change, ChangeRefusal, Claim, CreateOnce, CreateRefusal, CreatedOnce, DomainStore,
    IdempotentBegin, LinkReader, LinkWriter, RenderCreated,
};
use shunt_domain::{
    Deadline, DomainId, Link, LinkKey, LinkPatch, NewLink, Outcome, OwnerId, StoreError, Stored,
    Timestamp, UnknownCause, Version,
};

/// How many questions of one batch are under way to the earlier store at a time.
const ASKED_AT_ONCE: usize = 64;

/// The ports of a store that has an earlier one behind it. Every create costs a look there.
pub struct WithEarlier {
    reader: Arc<dyn LinkReader>,
    writer: Arc<dyn LinkWriter>,
    once: Option<Arc<dyn CreateOnce>>,
    earlier: Arc<dyn LinkReader>,
}

/// Why a link could not be adopted.
enum NotAdopted {
    /// It is not there, or was there already: what the store said first stands.
    Nothing,
    /// The stores can't be asked or written.
    Store(StoreError),
    /// Nobody knows.
    Unknown(UnknownCause),
}

impl From<StoreError> for NotAdopted {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// What the holder of a code means for whoever wants it.
const fn refusal(holder: &Stored) -> CreateRefusal {
    match holder {
        Stored::Link(_) => CreateRefusal::Taken,
        Stored::Tombstone(_) => CreateRefusal::Retired,
    }
}

impl WithEarlier {
    /// Puts `earlier` behind a store.
    pub fn new(
        reader: Arc<dyn LinkReader>,
        writer: Arc<dyn LinkWriter>,
        once: Option<Arc<dyn CreateOnce>>,
        earlier: Arc<dyn LinkReader>,
    ) -> Self {
        Self { reader, writer, once, earlier }
    }

    /// The earlier store's row of a key.
    async fn before(
        &self,
        key: &LinkKey,
        deadline: Deadline,
    ) -> Result<Option<Stored>, StoreError> {
        self.earlier.get(key, Version::default(), deadline).await
    }

    /// What stands in the way of a key that the store itself would not see: the earlier store's
    /// row, unless the store has one of its own.
    async fn unseen(
        &self,
        key: &LinkKey,
        deadline: Deadline,
    ) -> Result<Option<Stored>, StoreError> {
        let Some(holder) = self.before(key, deadline).await? else { return Ok(None) };
        let own = self.reader.get(key, Version::default(), deadline).await?;
        Ok(own.is_none().then_some(holder))
    }

    /// The same for many keys, in order.
    async fn all_unseen(
        &self,
        keys: Vec<LinkKey>,
        deadline: Deadline,
    ) -> Result<Vec<Option<Stored>>, StoreError> {
        let asked = keys.into_iter().map(|key| async move { self.unseen(&key, deadline).await });
        stream::iter(asked).buffered(ASKED_AT_ONCE).try_collect().await
    }

    /// Makes a link that only the earlier store has the store's own, if `owner` may change it.
    async fn adopt(
        &self,
        key: &LinkKey,
        owner: Option<OwnerId>,
        deadline: Deadline,
    ) -> Result<(), NotAdopted> {
        if self.reader.get(key, Version::default(), deadline).await?.is_some() {
            return Err(NotAdopted::Nothing);
        }
        let Some(Stored::Link(link)) = self.before(key, deadline).await? else {
            return Err(NotAdopted::Nothing);
        };
        if owner.is_some_and(|owner| owner != link.data.owner) {
            return Err(NotAdopted::Nothing);
        }
        // Refused means that somebody adopted it meanwhile, which is as good.
        match self.writer.restore_many(vec![Stored::Link(link)], deadline).await {
            Outcome::Done(_) => Ok(()),
            Outcome::Refused(error) => Err(NotAdopted::Store(error)),
            Outcome::Unknown(cause) => Err(NotAdopted::Unknown(cause)),
        }
    }

    /// A change that the store has no link for: adopts the link and says whether to try again, or
    /// what to answer.
    async fn adopt_for<T>(
        &self,
        change: &Change,
        deadline: Deadline,
    ) -> Result<(), Outcome<T, ChangeRefusal>> {
        self.adopt(&change.key, change.owner, deadline).await.map_err(|why| match why {
            NotAdopted::Nothing => Outcome::Refused(ChangeRefusal::NotFound),
            NotAdopted::Store(error) => Outcome::Refused(ChangeRefusal::Store(error)),
            NotAdopted::Unknown(cause) => Outcome::Unknown(cause),
        })
    }
}

impl LinkReader for WithEarlier {
    fn get<'a>(
        &'a self,
        key: &'a LinkKey,
        min_version: Version,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Option<Stored>, StoreError>> {
        Box::pin(async move {
            match self.reader.get(key, min_version, deadline).await? {
                Some(row) => Ok(Some(row)),
                None => self.before(key, deadline).await,
            }
        })
    }
}

impl LinkWriter for WithEarlier {
    fn create(
        &self,
        link: NewLink,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Link, CreateRefusal>> {
        Box::pin(async move {
            match self.unseen(&link.key, deadline).await {
                Ok(None) => self.writer.create(link, deadline).await,
                Ok(Some(holder)) => Outcome::Refused(refusal(&holder)),
                Err(error) => Outcome::Refused(CreateRefusal::Store(error)),
            }
        })
    }

    fn create_many(
        &self,
        links: Vec<NewLink>,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Vec<Result<Link, CreateRefusal>>, StoreError>> {
        Box::pin(async move {
            let keys = links.iter().map(|link| link.key.clone()).collect();
            let unseen = match self.all_unseen(keys, deadline).await {
                Ok(unseen) => unseen,
                Err(error) => return Outcome::Refused(error),
            };
            let (free, verdicts) = part(links, |at, _| unseen.get(at)?.as_ref().map(refusal));
            let outcome = self.writer.create_many(free, deadline).await;
            outcome.map(|made| merge(verdicts, made))
        })
    }

    /// Rows of an export go past the earlier store where they are newer than what it has: a higher
    /// version counts everywhere.
    fn restore_many(
        &self,
        rows: Vec<Stored>,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Vec<Result<(), CreateRefusal>>, StoreError>> {
        Box::pin(async move {
            let keys = rows.iter().map(|row| row.key().clone()).collect();
            let unseen = match self.all_unseen(keys, deadline).await {
                Ok(unseen) => unseen,
                Err(error) => return Outcome::Refused(error),
            };
            let (free, verdicts) = part(rows, |at, row| {
                let holder = unseen.get(at)?.as_ref()?;
                let newer = row.version() > holder.version() || row == holder;
                (!newer).then(|| refusal(holder))
            });
            let outcome = self.writer.restore_many(free, deadline).await;
            outcome.map(|restored| merge(verdicts, restored))
        })
    }

    fn patch(
        &self,
        change: Change,
        patch: LinkPatch,
        now: Timestamp,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Link, ChangeRefusal>> {
        Box::pin(async move {
            let first = self.writer.patch(change.clone(), patch.clone(), now, deadline).await;
            if !matches!(first, Outcome::Refused(ChangeRefusal::NotFound)) {
                return first;
            }
            match self.adopt_for(&change, deadline).await {
                Ok(()) => self.writer.patch(change, patch, now, deadline).await,
                Err(answer) => answer,
            }
        })
    }

    fn delete(
        &self,
        change: Change,
        now: Timestamp,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Version, ChangeRefusal>> {
        Box::pin(async move {
            let first = self.writer.delete(change.clone(), now, deadline).await;
            if !matches!(first, Outcome::Refused(ChangeRefusal::NotFound)) {
                return first;
            }
            match self.adopt_for(&change, deadline).await {
                Ok(()) => self.writer.delete(change, now, deadline).await,
                Err(answer) => answer,
            }
        })
    }

    fn claim_click(
        &self,
        key: LinkKey,
        now: Timestamp,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Claim, StoreError>> {
        Box::pin(async move {
            let first = self.writer.claim_click(key.clone(), now, deadline).await;
            if !matches!(first, Outcome::Done(Claim::Absent)) {
                return first;
            }
            match self.adopt(&key, None, deadline).await {
                Ok(()) => self.writer.claim_click(key, now, deadline).await,
                Err(NotAdopted::Store(error)) => Outcome::Refused(error),
                Err(NotAdopted::Unknown(cause)) => Outcome::Unknown(cause),
                // A tombstone there, or somebody was quicker: the row says which.
                Err(NotAdopted::Nothing) => {
                    match self.get(&key, Version::default(), deadline).await {
                        Ok(None) => Outcome::Done(Claim::Absent),
                        Ok(Some(Stored::Link(_))) => {
                            self.writer.claim_click(key, now, deadline).await
                        }
                        Ok(Some(row)) => Outcome::Done(Claim::Denied(Box::new(row))),
                        Err(error) => Outcome::Refused(error),
                    }
                }
            }
        })
    }
}

impl CreateOnce for WithEarlier {
    fn create_once(
        &self,
        link: NewLink,
        request: IdempotentBegin,
        render: RenderCreated,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<CreatedOnce, CreateRefusal>> {
        Box::pin(async move {
            let Some(once) = &self.once else {
                let unsupported = StoreError::Unsupported("creates in one transaction");
                return Outcome::Refused(CreateRefusal::Store(unsupported));
            };
            match self.unseen(&link.key, deadline).await {
                Ok(None) => once.create_once(link, request, render, deadline).await,
                Ok(Some(holder)) => Outcome::Refused(refusal(&holder)),
                Err(error) => Outcome::Refused(CreateRefusal::Store(error)),
            }
        })
    }
}

/// A store whose domains have other numbers than here: the host name says which is which.
pub struct Renumbered {
    reader: Arc<dyn LinkReader>,
    there: Arc<dyn DomainStore>,
    here: Arc<dyn DomainStore>,
    /// Numbers here, numbers there; only those that are known on both sides.
    known: RwLock<HashMap<DomainId, DomainId>>,
}

impl Renumbered {
    /// Reads links by `reader`; domains are numbered by `there` where they are, by `here` where
    /// they are asked for.
    pub fn new(
        reader: Arc<dyn LinkReader>,
        there: Arc<dyn DomainStore>,
        here: Arc<dyn DomainStore>,
    ) -> Self {
        Self { reader, there, here, known: RwLock::default() }
    }

    /// The number there; `None` for a host that nobody registered there.
    async fn number(
        &self,
        domain: DomainId,
        deadline: Deadline,
    ) -> Result<Option<DomainId>, StoreError> {
        if domain == DomainId::DEFAULT {
            return Ok(Some(domain));
        }
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner).get(&domain).copied();
        if known.is_some() {
            return Ok(known);
        }
        let there: HashMap<String, DomainId> = self
            .there
            .domains(deadline)
            .await?
            .into_iter()
            .map(|(number, host)| (host, number))
            .collect();
        let here = self.here.domains(deadline).await?;
        let both = here.into_iter().filter_map(|(id, host)| Some((id, *there.get(&host)?)));
        let both: HashMap<DomainId, DomainId> = both.collect();
        let number = both.get(&domain).copied();
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = both;
        Ok(number)
    }
}

impl LinkReader for Renumbered {
    fn get<'a>(
        &'a self,
        key: &'a LinkKey,
        min_version: Version,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Option<Stored>, StoreError>> {
        Box::pin(async move {
            let Some(domain) = self.number(key.domain, deadline).await? else { return Ok(None) };
            let there = LinkKey::new(domain, key.code.clone());
            let row = self.reader.get(&there, min_version, deadline).await?;
            Ok(row.map(|row| on_domain(row, key.domain)))
        })
    }
}

/// The same row under another domain's number.
#[must_use]
pub fn on_domain(mut row: Stored, domain: DomainId) -> Stored {
    match &mut row {
        Stored::Link(link) => link.data.key.domain = domain,
        Stored::Tombstone(tombstone) => tombstone.key.domain = domain,
    }
    row
}

/// Parts rows into those that go on and the verdicts of all: `None` where the row goes on.
fn part<T>(
    rows: Vec<T>,
    judge: impl Fn(usize, &T) -> Option<CreateRefusal>,
) -> (Vec<T>, Vec<Option<CreateRefusal>>) {
    let verdicts: Vec<_> = rows.iter().enumerate().map(|(at, row)| judge(at, row)).collect();
    let mut judged = verdicts.iter();
    let free = rows.into_iter().filter(|_| judged.next().is_some_and(Option::is_none)).collect();
    (free, verdicts)
}

/// The answers of the rows that went on, put between the verdicts of the others.
fn merge<T>(
    verdicts: Vec<Option<CreateRefusal>>,
    answers: Vec<Result<T, CreateRefusal>>,
) -> Vec<Result<T, CreateRefusal>> {
    let mut answers = answers.into_iter();
    let missing = || {
        let text = "the store answered fewer rows than it was given".to_owned();
        Err(CreateRefusal::Store(StoreError::Corrupt(text)))
    };
    let answer = |verdict: Option<CreateRefusal>| match verdict {
        Some(refusal) => Err(refusal),
        None => answers.next().unwrap_or_else(missing),
    };
    verdicts.into_iter().map(answer).collect()
}
