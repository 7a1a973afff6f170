//! The ports that lead to the primary, with what has to be done besides: changes of links are
//! remembered for reads, and what is read at a start comes from a standby when there is no primary.

use std::time::Instant;

use shunt_domain::ports::{
    ApiKey, BoxFuture, Change, ChangeRefusal, Claim, CodePool, CreateOnce, CreateRefusal,
    CreatedOnce, DomainStore, ExportPage, HighWater, IdempotencyScope, IdempotencyState,
    IdempotencyStore, IdempotentBegin, KeyStore, LinkQuery, LinkWriter, ListError, ListQuery,
    MetaStore, NewApiKey, Page, Raised, Range, RangeLeases, RenderCreated,
};
use shunt_domain::{
    ApiKeyId, Code, Deadline, DomainId, Link, LinkKey, LinkPatch, NewLink, Outcome, StoreError,
    Stored, Timestamp, Version,
};

use super::recent::Need;
use super::store::{ReplicatedStore, is_unreachable};
use crate::postgres::Copy;

/// Makes methods that only hand on to the primary.
macro_rules! handed_on {
    ($($name:ident($($arg:ident: $kind:ty),*) -> $answer:ty;)*) => {
        $(
            fn $name(&self, $($arg: $kind),*) -> BoxFuture<'_, $answer> {
                self.primary().$name($($arg),*)
            }
        )*
    };
}

impl ReplicatedStore {
    /// Remembers what a change needs of later reads.
    fn changed<T, R>(
        &self,
        key: LinkKey,
        outcome: &Outcome<T, R>,
        need: impl FnOnce(&T) -> Option<Need>,
    ) {
        let need = match outcome {
            Outcome::Done(value) => need(value),
            Outcome::Refused(_) => None,
            Outcome::Unknown(_) => Some(Need::Primary),
        };
        if let Some(need) = need {
            self.recent().note(key, need, Instant::now());
        }
    }

    /// Reads from the primary, or if that can't be asked from whichever standby answers: for what
    /// hardly ever changes and is needed to serve redirects at all.
    pub(super) async fn on_any<'a, T>(
        &'a self,
        primary: BoxFuture<'a, Result<T, StoreError>>,
        standby: impl Fn(&'a Copy) -> BoxFuture<'a, Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.lookout().first_look().await;
        if self.has_primary() {
            match primary.await {
                Err(error) if is_unreachable(&error) => {}
                answer => return answer,
            }
        }
        self.on_standby(standby).await
    }

    /// Whether a copy takes writes, as far as is known.
    pub(crate) fn has_primary(&self) -> bool {
        self.lookout().views().1.primary.is_some()
    }

    /// Reads from a standby that answers, the one that is least behind if it does.
    pub(super) async fn on_standby<'a, T>(
        &'a self,
        standby: impl Fn(&'a Copy) -> BoxFuture<'a, Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let (views, _) = self.lookout().views();
        let mut standbys: Vec<_> = self.lookout().copies().iter().zip(&views).collect();
        standbys.retain(|(_, view)| {
            view.report.is_some_and(|report| report.in_recovery) && !view.foreign
        });
        standbys.sort_by_key(|(_, view)| view.lag.map_or(u64::MAX, |lag| lag.bytes));
        let mut last = None;
        for (watched, _) in standbys {
            match standby(&watched.copy).await {
                Ok(answer) => return Ok(answer),
                Err(error) => last = Some(error),
            }
        }
        let nobody = || StoreError::Unavailable("no copy of the database answers".to_owned());
        Err(last.unwrap_or_else(nobody))
    }
}

impl LinkWriter for ReplicatedStore {
    handed_on! {
        create(link: NewLink, deadline: Deadline) -> Outcome<Link, CreateRefusal>;
        create_many(links: Vec<NewLink>, deadline: Deadline)
            -> Outcome<Vec<Result<Link, CreateRefusal>>, StoreError>;
        restore_many(rows: Vec<Stored>, deadline: Deadline)
            -> Outcome<Vec<Result<(), CreateRefusal>>, StoreError>;
    }

    fn patch(
        &self,
        change: Change,
        patch: LinkPatch,
        now: Timestamp,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Link, ChangeRefusal>> {
        Box::pin(async move {
            let key = change.key.clone();
            let outcome = self.primary().patch(change, patch, now, deadline).await;
            self.changed(key, &outcome, |link| Some(Need::AtLeast(link.version)));
            outcome
        })
    }

    fn delete(
        &self,
        change: Change,
        now: Timestamp,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Version, ChangeRefusal>> {
        Box::pin(async move {
            let key = change.key.clone();
            let outcome = self.primary().delete(change, now, deadline).await;
            self.changed(key, &outcome, |version| Some(Need::AtLeast(*version)));
            outcome
        })
    }

    fn claim_click(
        &self,
        key: LinkKey,
        now: Timestamp,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Claim, StoreError>> {
        Box::pin(async move {
            let outcome = self.primary().claim_click(key.clone(), now, deadline).await;
            // How many clicks are left is decided by the claim; a read that shows fewer used than
            // there are does no harm.
            if !matches!(outcome, Outcome::Refused(_) | Outcome::Done(Claim::Absent)) {
                self.recent().note_if_there_is_room(key, Need::Primary, Instant::now());
            }
            outcome
        })
    }
}

impl CreateOnce for ReplicatedStore {
    handed_on! {
        create_once(
            link: NewLink, request: IdempotentBegin, render: RenderCreated, deadline: Deadline
        ) -> Outcome<CreatedOnce, CreateRefusal>;
    }
}

impl LinkQuery for ReplicatedStore {
    handed_on! {
        list(query: ListQuery, deadline: Deadline) -> Result<Page, ListError>;
        export(cursor: Option<String>, limit: u32, deadline: Deadline)
            -> Result<ExportPage, ListError>;
        approximate_count(deadline: Deadline) -> Result<u64, StoreError>;
    }
}

impl DomainStore for ReplicatedStore {
    fn domains(
        &self,
        deadline: Deadline,
    ) -> BoxFuture<'_, Result<Vec<(DomainId, String)>, StoreError>> {
        let primary = self.primary().domains(deadline);
        Box::pin(self.on_any(primary, move |copy| Box::pin(copy.domains(deadline))))
    }

    handed_on! {
        ensure_domain(host: String, deadline: Deadline) -> Outcome<DomainId, StoreError>;
    }
}

impl IdempotencyStore for ReplicatedStore {
    handed_on! {
        begin(request: IdempotentBegin, deadline: Deadline)
            -> Outcome<IdempotencyState, StoreError>;
        complete(
            scope: IdempotencyScope, key_hash: [u8; 32], status: u16, response: Vec<u8>,
            deadline: Deadline
        ) -> Outcome<(), StoreError>;
        abandon(scope: IdempotencyScope, key_hash: [u8; 32], deadline: Deadline)
            -> Outcome<(), StoreError>;
        purge(before: Timestamp, deadline: Deadline) -> Outcome<u64, StoreError>;
    }
}

impl KeyStore for ReplicatedStore {
    handed_on! {
        key_by_hash(hash: [u8; 32], deadline: Deadline) -> Result<Option<ApiKey>, StoreError>;
        keys(deadline: Deadline) -> Result<Vec<ApiKey>, StoreError>;
        add_key(key: NewApiKey, deadline: Deadline) -> Outcome<ApiKey, StoreError>;
        revoke_key(id: ApiKeyId, now: Timestamp, deadline: Deadline)
            -> Outcome<bool, StoreError>;
        set_setup_secret(hash: Option<[u8; 32]>, deadline: Deadline) -> Outcome<(), StoreError>;
        redeem_setup(hash: [u8; 32], key: NewApiKey, deadline: Deadline)
            -> Outcome<Option<ApiKey>, StoreError>;
    }
}

impl CodePool for ReplicatedStore {
    handed_on! {
        add_codes(rows: Vec<Vec<Code>>, deadline: Deadline) -> Outcome<(), StoreError>;
        claim_codes(deadline: Deadline) -> Outcome<Option<Vec<Code>>, StoreError>;
        pool_size(deadline: Deadline) -> Result<u64, StoreError>;
    }
}

impl RangeLeases for ReplicatedStore {
    handed_on! {
        lease(len: u64, deadline: Deadline) -> Outcome<Range, StoreError>;
        give_back(rest: Range, deadline: Deadline) -> Outcome<(), StoreError>;
    }
}

impl HighWater for ReplicatedStore {
    handed_on! {
        take_rest(len: u64, deadline: Deadline) -> Outcome<Option<Range>, StoreError>;
        raise(proposed: Range, deadline: Deadline) -> Outcome<Raised, StoreError>;
    }
}

impl MetaStore for ReplicatedStore {
    fn meta(
        &self,
        name: &'static str,
        deadline: Deadline,
    ) -> BoxFuture<'_, Result<Option<Vec<u8>>, StoreError>> {
        let primary = self.primary().meta(name, deadline);
        Box::pin(self.on_any(primary, move |copy| Box::pin(copy.meta(name, deadline))))
    }

    /// What is there already is read from a standby when there is no primary.
    fn meta_or_insert(
        &self,
        name: &'static str,
        value: Vec<u8>,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Vec<u8>, StoreError>> {
        Box::pin(async move {
            let outcome = self.primary().meta_or_insert(name, value, deadline).await;
            let Outcome::Refused(error) = outcome else { return outcome };
            if !is_unreachable(&error) {
                return Outcome::Refused(error);
            }
            match self.meta(name, deadline).await {
                Ok(Some(value)) => Outcome::Done(value),
                Ok(None) | Err(_) => Outcome::Refused(error),
            }
        })
    }

    handed_on! {
        set_meta(name: &'static str, value: Vec<u8>, deadline: Deadline)
            -> Outcome<(), StoreError>;
        visitor_secret(day: i64, fresh: [u8; 32], deadline: Deadline)
            -> Outcome<[u8; 32], StoreError>;
    }
}
