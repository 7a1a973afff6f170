//! The reference model: every port of a store over plain maps, obviously right and slow. Other
//! stores are compared with it, answer by answer.

use std::collections::BTreeMap;
use std::future::ready;
use std::sync::{Mutex, MutexGuard, PoisonError};

use shunt_domain::ports::{
    ApiKey, BoxFuture, Change, ChangeRefusal, Claim, CreateOnce, CreateRefusal, CreatedOnce,
    DomainStore, IdempotencyScope, IdempotencyState, IdempotencyStore, IdempotentBegin, KeyStore,
    LinkQuery, LinkReader, LinkWriter, ListError, ListQuery, NewApiKey, Page, Range, RenderCreated,
    Sort,
};
use shunt_domain::{
    ApiKeyId, Code, Deadline, DomainId, Link, LinkKey, LinkPatch, NewLink, Outcome, OwnerId,
    StoreError, Stored, Timestamp, Tombstone, Version,
};

mod codes;

/// How many links can be created in one millisecond before the next one is used.
const TIES: u32 = 65_536;

/// A new link this much older than the newest one counts as just created.
const SLACK_MS: i64 = 100;

/// Rows of an export, and where the next ones begin.
type ExportPage = (Vec<Stored>, Option<String>);

/// A place in the order of creation: milliseconds, then a tie-break.
type Place = (i64, u32);

#[derive(Clone, Debug)]
struct Attempt {
    request: IdempotentBegin,
    boot: u64,
    lease_until: Timestamp,
    answer: Option<(u16, Vec<u8>)>,
}

#[derive(Debug, Default)]
struct Data {
    rows: BTreeMap<Place, Stored>,
    places: BTreeMap<LinkKey, Place>,
    domains: Vec<String>,
    attempts: Vec<((IdempotencyScope, [u8; 32]), Attempt)>,
    boot: u64,
    keys: Vec<ApiKey>,
    setup: Option<[u8; 32]>,
    pool: Vec<Vec<Code>>,
    high: u64,
    rests: Vec<Range>,
    leased: Vec<Range>,
    meta: BTreeMap<&'static str, Vec<u8>>,
    secrets: BTreeMap<i64, [u8; 32]>,
}

/// A store in memory.
#[derive(Debug, Default)]
pub struct ModelStore {
    data: Mutex<Data>,
}

impl ModelStore {
    /// What a restart does: leases of earlier lives are void.
    pub fn restart(&self) {
        let mut data = self.data();
        data.boot += 1;
        data.leased.clear();
    }

    fn data(&self) -> MutexGuard<'_, Data> {
        self.data.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn now<T: Send + 'static>(value: T) -> BoxFuture<'static, T> {
    Box::pin(ready(value))
}

fn done<T: Send + 'static, R: Send + 'static>(value: T) -> BoxFuture<'static, Outcome<T, R>> {
    now(Outcome::Done(value))
}

fn outcome<T, R>(result: Result<T, R>) -> Outcome<T, R> {
    match result {
        Ok(value) => Outcome::Done(value),
        Err(refusal) => Outcome::Refused(refusal),
    }
}

impl Data {
    fn row(&self, key: &LinkKey) -> Option<&Stored> {
        self.rows.get(self.places.get(key)?)
    }

    fn link_mut(&mut self, key: &LinkKey) -> Option<&mut Link> {
        match self.rows.get_mut(self.places.get(key)?)? {
            Stored::Link(link) => Some(link),
            Stored::Tombstone(_) => None,
        }
    }

    /// The first place at or after `ms` that is behind everything of its millisecond.
    fn place_in(&self, mut ms: i64) -> Place {
        loop {
            match self.rows.range((ms, 0)..=(ms, TIES - 1)).next_back() {
                None => return (ms, 0),
                Some((&(_, tie), _)) if tie + 1 < TIES => return (ms, tie + 1),
                Some(_) => ms += 1,
            }
        }
    }

    /// The place of a new link: behind all others, unless it says that it is much older.
    fn new_place(&self, at: Timestamp) -> Place {
        let ms = at.as_millis();
        match self.rows.last_key_value() {
            Some((&(newest, _), _)) if ms <= newest && newest - ms <= SLACK_MS => {
                self.place_in(newest)
            }
            _ => self.place_in(ms),
        }
    }

    fn refusal(&self, key: &LinkKey) -> Option<CreateRefusal> {
        Some(match self.row(key)? {
            Stored::Link(_) => CreateRefusal::Taken,
            Stored::Tombstone(_) => CreateRefusal::Retired,
        })
    }

    fn put(&mut self, place: Place, row: Stored) {
        self.places.insert(row.key().clone(), place);
        self.rows.insert(place, row);
    }

    fn create(&mut self, mut data: NewLink) -> Result<Link, CreateRefusal> {
        if let Some(refusal) = self.refusal(&data.key) {
            return Err(refusal);
        }
        let place = self.new_place(data.created_at);
        data.created_at = Timestamp::from_millis(place.0);
        let updated_at = data.created_at;
        let link = Link { data, version: Version::FIRST, updated_at, used: 0 };
        self.put(place, Stored::Link(Box::new(link.clone())));
        Ok(link)
    }

    fn restore(&mut self, mut row: Stored) -> Result<(), CreateRefusal> {
        if let Some(refusal) = self.refusal(row.key()) {
            return Err(refusal);
        }
        let created_at = match &mut row {
            Stored::Link(link) => &mut link.data.created_at,
            Stored::Tombstone(tombstone) => &mut tombstone.created_at,
        };
        let place = self.place_in(created_at.as_millis());
        *created_at = Timestamp::from_millis(place.0);
        self.put(place, row);
        Ok(())
    }

    fn changeable(&mut self, change: &Change) -> Result<&mut Link, ChangeRefusal> {
        let link = self.link_mut(&change.key).ok_or(ChangeRefusal::NotFound)?;
        if change.owner.is_some_and(|owner| owner != link.data.owner) {
            return Err(ChangeRefusal::NotFound);
        }
        if change.expected.is_some_and(|version| version != link.version) {
            return Err(ChangeRefusal::Stale(link.version));
        }
        Ok(link)
    }

    fn delete(&mut self, change: &Change, now: Timestamp) -> Result<Version, ChangeRefusal> {
        let link = self.changeable(change)?;
        let tombstone = Tombstone {
            key: link.data.key.clone(),
            owner: link.data.owner,
            created_at: link.data.created_at,
            deleted_at: now,
            version: link.version.next(),
        };
        let version = tombstone.version;
        if let Some(&place) = self.places.get(&change.key) {
            self.rows.insert(place, Stored::Tombstone(tombstone));
        }
        Ok(version)
    }

    fn claim(&mut self, key: &LinkKey, now: Timestamp) -> Claim {
        let Some(row) = self.row(key).cloned() else { return Claim::Absent };
        let Some(link) = self.link_mut(key) else { return Claim::Denied(Box::new(row)) };
        let data = &link.data;
        let begun = data.valid_from.is_none_or(|from| now >= from);
        let over = data.expires_at.is_some_and(|end| now >= end);
        let left = data.max_clicks.is_none_or(|max| link.used < max.get());
        if !(data.enabled && begun && !over && left) {
            return Claim::Denied(Box::new(row));
        }
        link.used += u64::from(link.data.max_clicks.is_some());
        Claim::Granted(Box::new(link.clone()))
    }

    fn list(&self, query: &ListQuery) -> Result<Page, ListError> {
        let shape = ListQuery { cursor: None, limit: 0, ..query.clone() };
        let mut found: Vec<(Place, &Link)> = self
            .rows
            .iter()
            .filter_map(|(place, row)| match row {
                Stored::Link(link) if takes(query, link) => Some((*place, &**link)),
                _ => None,
            })
            .collect();
        if matches!(query.sort, Sort::CodeAsc | Sort::CodeDesc) {
            found.sort_by_key(|(_, link)| link.key().clone());
        }
        if matches!(query.sort, Sort::CreatedDesc | Sort::CodeDesc) {
            found.reverse();
        }
        // A cursor names the last link of its page, which may have been deleted since: everything
        // is compared with its place.
        if let Some(cursor) = &query.cursor {
            let (place, key) = read_cursor(cursor, &shape).ok_or(ListError::BadCursor)?;
            found.retain(|(other, link)| match query.sort {
                Sort::CreatedDesc => *other < place,
                Sort::CreatedAsc => *other > place,
                Sort::CodeAsc => *link.key() > key,
                Sort::CodeDesc => *link.key() < key,
            });
        }
        let limit = query.limit.clamp(1, 1_000) as usize;
        let next = match found.get(limit - 1) {
            Some((place, link)) if found.len() > limit => {
                Some(write_cursor(&shape, *place, link.key()))
            }
            _ => None,
        };
        let links = found.into_iter().take(limit).map(|(_, link)| link.clone()).collect();
        Ok(Page { links, next })
    }

    fn lease(&mut self, len: u64) -> Range {
        self.rests.sort_by_key(|rest| rest.start);
        let range = if self.rests.is_empty() {
            let start = self.high;
            self.high += len.max(1);
            Range { start, end: self.high }
        } else {
            let rest = self.rests.remove(0);
            let end = rest.end.min(rest.start + len.max(1));
            if end < rest.end {
                self.rests.push(Range { start: end, end: rest.end });
            }
            Range { start: rest.start, end }
        };
        self.leased.push(range);
        range
    }

    fn give_back(&mut self, rest: Range) {
        let holds = |lease: &Range| lease.start <= rest.start && rest.end <= lease.end;
        if rest.start >= rest.end {
            return;
        }
        if let Some(at) = self.leased.iter().position(holds) {
            let lease = self.leased.remove(at);
            self.leased.push(Range { start: lease.start, end: rest.start });
            self.leased.push(Range { start: rest.end, end: lease.end });
            self.rests.push(rest);
        }
    }

    fn earlier(&mut self, request: &IdempotentBegin) -> Option<IdempotencyState> {
        let boot = self.boot;
        let key = (request.scope, request.key_hash);
        let (_, earlier) = self.attempts.iter_mut().find(|(other, _)| *other == key)?;
        if earlier.request.request_hash != request.request_hash {
            return Some(IdempotencyState::Mismatch);
        }
        if let Some((status, response)) = earlier.answer.clone() {
            return Some(IdempotencyState::Done { status, response });
        }
        if earlier.boot == boot && earlier.lease_until > request.now {
            return Some(IdempotencyState::Running);
        }
        earlier.boot = boot;
        earlier.lease_until = request.lease_until;
        let choice = earlier.request.choice.clone();
        Some(IdempotencyState::Resume { choice, began_at: earlier.request.now })
    }

    fn note(&mut self, request: IdempotentBegin, answer: Option<(u16, Vec<u8>)>) {
        let (boot, lease_until) = (self.boot, request.lease_until);
        let key = (request.scope, request.key_hash);
        self.attempts.push((key, Attempt { request, boot, lease_until, answer }));
    }

    fn begin(&mut self, request: IdempotentBegin) -> IdempotencyState {
        self.earlier(&request).unwrap_or_else(|| {
            self.note(request, None);
            IdempotencyState::Fresh
        })
    }

    fn add_key(&mut self, new: NewApiKey) -> ApiKey {
        if let Some(known) = self.keys.iter().find(|key| key.hash == new.hash) {
            return known.clone();
        }
        let id = self.keys.len() as u64 + 1;
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
        self.keys.push(key.clone());
        key
    }
}

fn lower(text: &str) -> String {
    let one = |c: char| {
        let mut lower = c.to_lowercase();
        if lower.len() == 1 { lower.next().unwrap_or(c) } else { c }
    };
    text.chars().map(one).collect()
}

fn takes(query: &ListQuery, link: &Link) -> bool {
    let has = |needle: &str| {
        let title = link.data.title.as_deref().unwrap_or_default();
        [link.code().as_str(), title, link.data.target.as_str()]
            .iter()
            .any(|hay| lower(hay).contains(&lower(needle)))
    };
    query.owner.is_none_or(|owner| owner == link.data.owner)
        && query.domain.is_none_or(|domain| domain == link.domain())
        && query.tag.as_ref().is_none_or(|tag| link.data.tags.contains(tag))
        && query.text.as_deref().is_none_or(has)
}

fn write_cursor(shape: &ListQuery, place: Place, key: &LinkKey) -> String {
    format!("{} {} {} {} {shape:?}", place.0, place.1, key.domain.0, key.code)
}

fn read_cursor(cursor: &str, shape: &ListQuery) -> Option<(Place, LinkKey)> {
    let mut parts = cursor.splitn(5, ' ');
    let place = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let domain = DomainId(parts.next()?.parse().ok()?);
    let key = LinkKey::new(domain, Code::parse(parts.next()?).ok()?);
    (parts.next()? == format!("{shape:?}")).then_some((place, key))
}

impl LinkReader for ModelStore {
    fn get<'a>(
        &'a self,
        key: &'a LinkKey,
        _min_version: Version,
        _deadline: Deadline,
    ) -> BoxFuture<'a, Result<Option<Stored>, StoreError>> {
        now(Ok(self.data().row(key).cloned()))
    }
}

impl LinkWriter for ModelStore {
    fn create(&self, link: NewLink, _: Deadline) -> BoxFuture<'_, Outcome<Link, CreateRefusal>> {
        now(outcome(self.data().create(link)))
    }

    fn create_many(
        &self,
        links: Vec<NewLink>,
        _: Deadline,
    ) -> BoxFuture<'_, Outcome<Vec<Result<Link, CreateRefusal>>, StoreError>> {
        let mut data = self.data();
        done(links.into_iter().map(|link| data.create(link)).collect())
    }

    fn restore_many(
        &self,
        rows: Vec<Stored>,
        _: Deadline,
    ) -> BoxFuture<'_, Outcome<Vec<Result<(), CreateRefusal>>, StoreError>> {
        let mut data = self.data();
        done(rows.into_iter().map(|row| data.restore(row)).collect())
    }

    fn patch(
        &self,
        change: Change,
        patch: LinkPatch,
        at: Timestamp,
        _: Deadline,
    ) -> BoxFuture<'_, Outcome<Link, ChangeRefusal>> {
        let mut data = self.data();
        let changed = data.changeable(&change).map(|link| {
            *link = patch.apply(link, at);
            link.clone()
        });
        now(outcome(changed))
    }

    fn delete(
        &self,
        change: Change,
        at: Timestamp,
        _: Deadline,
    ) -> BoxFuture<'_, Outcome<Version, ChangeRefusal>> {
        now(outcome(self.data().delete(&change, at)))
    }

    fn claim_click(
        &self,
        key: LinkKey,
        at: Timestamp,
        _: Deadline,
    ) -> BoxFuture<'_, Outcome<Claim, StoreError>> {
        done(self.data().claim(&key, at))
    }
}

impl LinkQuery for ModelStore {
    fn list(&self, query: ListQuery, _: Deadline) -> BoxFuture<'_, Result<Page, ListError>> {
        now(self.data().list(&query))
    }

    fn export(
        &self,
        cursor: Option<String>,
        limit: u32,
        _: Deadline,
    ) -> BoxFuture<'_, Result<ExportPage, ListError>> {
        let from = match cursor.map(|cursor| {
            let (ms, tie) = cursor.strip_prefix("export ")?.split_once(' ')?;
            Some((ms.parse().ok()?, tie.parse::<u32>().ok()? + 1))
        }) {
            None => (i64::MIN, 0),
            Some(Some(place)) => place,
            Some(None) => return now(Err(ListError::BadCursor)),
        };
        let data = self.data();
        let limit = limit.clamp(1, 1_000) as usize;
        let page: Vec<_> = data.rows.range(from..).take(limit + 1).collect();
        let next = match page.get(limit - 1) {
            Some((place, _)) if page.len() > limit => {
                Some(format!("export {} {}", place.0, place.1))
            }
            _ => None,
        };
        now(Ok((page.into_iter().take(limit).map(|(_, row)| row.clone()).collect(), next)))
    }

    fn approximate_count(&self, _: Deadline) -> BoxFuture<'_, Result<u64, StoreError>> {
        let live = |row: &&Stored| matches!(row, Stored::Link(_));
        now(Ok(self.data().rows.values().filter(live).count() as u64))
    }
}

impl DomainStore for ModelStore {
    fn domains(&self, _: Deadline) -> BoxFuture<'_, Result<Vec<(DomainId, String)>, StoreError>> {
        let data = self.data();
        now(Ok((1..).map(DomainId).zip(data.domains.iter().cloned()).collect()))
    }

    fn ensure_domain(
        &self,
        host: String,
        _: Deadline,
    ) -> BoxFuture<'_, Outcome<DomainId, StoreError>> {
        let mut data = self.data();
        let at = data.domains.iter().position(|known| *known == host).unwrap_or_else(|| {
            data.domains.push(host);
            data.domains.len() - 1
        });
        done(DomainId(at as u32 + 1))
    }
}

impl CreateOnce for ModelStore {
    fn create_once(
        &self,
        link: NewLink,
        request: IdempotentBegin,
        render: RenderCreated,
        _: Deadline,
    ) -> BoxFuture<'_, Outcome<CreatedOnce, CreateRefusal>> {
        let mut data = self.data();
        if let Some(state) = data.earlier(&request) {
            return done(CreatedOnce::Earlier(state));
        }
        now(outcome(data.create(link).map(|link| {
            data.note(request, Some(render(&link)));
            CreatedOnce::Created(Box::new(link))
        })))
    }
}

impl IdempotencyStore for ModelStore {
    fn begin(
        &self,
        request: IdempotentBegin,
        _: Deadline,
    ) -> BoxFuture<'_, Outcome<IdempotencyState, StoreError>> {
        done(self.data().begin(request))
    }

    fn complete(
        &self,
        scope: IdempotencyScope,
        key_hash: [u8; 32],
        status: u16,
        response: Vec<u8>,
        _: Deadline,
    ) -> BoxFuture<'_, Outcome<(), StoreError>> {
        let mut data = self.data();
        for (key, attempt) in &mut data.attempts {
            if *key == (scope, key_hash) && attempt.answer.is_none() {
                attempt.answer = Some((status, response.clone()));
            }
        }
        done(())
    }

    fn abandon(
        &self,
        scope: IdempotencyScope,
        key_hash: [u8; 32],
        _: Deadline,
    ) -> BoxFuture<'_, Outcome<(), StoreError>> {
        self.data()
            .attempts
            .retain(|(key, attempt)| *key != (scope, key_hash) || attempt.answer.is_some());
        done(())
    }

    fn purge(&self, before: Timestamp, _: Deadline) -> BoxFuture<'_, Outcome<u64, StoreError>> {
        let mut data = self.data();
        let all = data.attempts.len();
        data.attempts.retain(|(_, attempt)| attempt.request.now >= before);
        done((all - data.attempts.len()) as u64)
    }
}

impl KeyStore for ModelStore {
    fn key_by_hash(
        &self,
        hash: [u8; 32],
        _: Deadline,
    ) -> BoxFuture<'_, Result<Option<ApiKey>, StoreError>> {
        now(Ok(self.data().keys.iter().find(|key| key.hash == hash).cloned()))
    }

    fn keys(&self, _: Deadline) -> BoxFuture<'_, Result<Vec<ApiKey>, StoreError>> {
        now(Ok(self.data().keys.clone()))
    }

    fn add_key(&self, key: NewApiKey, _: Deadline) -> BoxFuture<'_, Outcome<ApiKey, StoreError>> {
        done(self.data().add_key(key))
    }

    fn revoke_key(
        &self,
        id: ApiKeyId,
        at: Timestamp,
        _: Deadline,
    ) -> BoxFuture<'_, Outcome<bool, StoreError>> {
        let mut data = self.data();
        let key = data.keys.iter_mut().find(|key| key.id == id && key.revoked_at.is_none());
        done(key.map(|key| key.revoked_at = Some(at)).is_some())
    }

    fn set_setup_secret(
        &self,
        hash: Option<[u8; 32]>,
        _: Deadline,
    ) -> BoxFuture<'_, Outcome<(), StoreError>> {
        self.data().setup = hash;
        done(())
    }

    fn redeem_setup(
        &self,
        hash: [u8; 32],
        key: NewApiKey,
        _: Deadline,
    ) -> BoxFuture<'_, Outcome<Option<ApiKey>, StoreError>> {
        let mut data = self.data();
        if data.setup != Some(hash) {
            return done(None);
        }
        data.setup = None;
        done(Some(data.add_key(key)))
    }
}
