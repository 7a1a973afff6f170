//! Copies a store into another one, page by page, as often as it takes to catch up with a store
//! that lives, and compares the two.
//!
//! Invariants:
//! - nothing is written to the source;
//! - a row is compared before it is written, so a page that is copied twice changes nothing, and a
//!   copy that was stopped can go on from the place that the target keeps;
//! - API keys keep their numbers, because links name their owners by them.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::{Deserialize, Serialize};
use shunt_domain::ports::{ApiKey, CreateRefusal, ListError, NewApiKey};
use shunt_domain::{
    Deadline, DomainId, LinkKey, Outcome, OwnerId, Scopes, StoreError, Stored, Version,
};
use shunt_engine::codes::LENGTH_META;
use shunt_store::earlier::on_domain;

use super::plain::Plain;

/// Where the target keeps how far the copy is.
const STATE: &str = "copy";

/// Rows of one page, which is one transaction.
const PAGE: u32 = 1_000;

/// How long one step may take.
const STEP: Duration = Duration::from_secs(60);

/// Rows looked at in the other store at a time.
const LOOKS: usize = 128;

/// How often a store that lives is gone through to catch up with it.
const PASSES: u32 = 20;

/// A store may move a creation time to keep its order total; by so much it is still the same.
const MOVED_MILLIS: i64 = 60_000;

/// The name of a key that only keeps a number from being given away; it was never valid.
const PLACEHOLDER: &str = "(a number that is not used)";

/// From where to where.
pub(crate) struct Copier {
    from: Plain,
    to: Plain,
    /// The source's domains, as the target numbers them.
    domains: HashMap<DomainId, DomainId>,
}

/// How far it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    /// Where the rows come from.
    source: String,
    /// Behind which row this pass goes on.
    cursor: Option<String>,
    /// How many times all rows were gone through.
    pub(crate) passes: u32,
    /// Rows written that were not there, in all passes.
    pub(crate) copied: u64,
    /// Rows written that had changed, in all passes.
    pub(crate) changed: u64,
    /// Rows written in this pass.
    written: u64,
    /// Rows gone through in this pass.
    pub(crate) rows: u64,
}

/// What a comparison found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Compared {
    /// Rows of the source.
    pub(crate) rows: u64,
    /// Rows of the target.
    pub(crate) target_rows: u64,
    /// Rows, domains and keys of the source that are not, or not as new, in the target.
    pub(crate) differences: u64,
    /// Rows that the target has newer than the source, or alone.
    pub(crate) ahead: u64,
    /// The first of them.
    pub(crate) first: Vec<String>,
}

impl Compared {
    fn differs(&mut self, what: String) {
        self.differences += 1;
        if self.first.len() < 20 {
            self.first.push(what);
        }
    }
}

fn step() -> Deadline {
    Deadline::after(Instant::now(), STEP)
}

fn settled<T>(outcome: Outcome<T, StoreError>) -> Result<T, String> {
    match outcome {
        Outcome::Done(value) => Ok(value),
        Outcome::Refused(error) => Err(error.to_string()),
        Outcome::Unknown(cause) => Err(cause.to_string()),
    }
}

/// Whether two rows say the same.
fn same(a: &Stored, b: &Stored) -> bool {
    let near = |a: shunt_domain::Timestamp, b: shunt_domain::Timestamp| {
        (a.as_millis() - b.as_millis()).abs() <= MOVED_MILLIS
    };
    match (a, b) {
        (Stored::Link(a), Stored::Link(b)) => {
            let mut b = b.clone();
            // Untouched since its creation, whenever that is said to be.
            let untouched = a.updated_at == a.data.created_at && b.updated_at == b.data.created_at;
            if near(a.data.created_at, b.data.created_at) {
                b.data.created_at = a.data.created_at;
                b.updated_at = if untouched { a.updated_at } else { b.updated_at };
            }
            *a == b
        }
        (Stored::Tombstone(a), Stored::Tombstone(b)) => {
            let mut b = b.clone();
            if near(a.created_at, b.created_at) {
                b.created_at = a.created_at;
            }
            *a == b
        }
        _ => false,
    }
}

/// What the target's row is to the source's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relation {
    Same,
    /// It is older: to be replaced.
    Behind,
    /// It was changed, or clicked, in the target.
    Ahead,
    /// Another row of the same version.
    Conflict,
}

fn relation(row: &Stored, there: &Stored) -> Relation {
    use std::cmp::Ordering::{Equal, Greater, Less};
    match there.version().cmp(&row.version()) {
        Less => Relation::Behind,
        Greater => Relation::Ahead,
        Equal if same(row, there) => Relation::Same,
        Equal => {
            let mut level = there.clone();
            if let Stored::Link(link) = &mut level {
                link.used = row.used();
            }
            match there.used().cmp(&row.used()) {
                _ if !same(row, &level) => Relation::Conflict,
                Less => Relation::Behind,
                Equal | Greater => Relation::Ahead,
            }
        }
    }
}

impl Copier {
    /// Between two stores that are open.
    pub(crate) fn new(from: Plain, to: Plain) -> Self {
        Self { from, to, domains: HashMap::new() }
    }

    /// Copies until a whole pass finds nothing to write. `tell` hears of rows done in this pass,
    /// and of all there are if that is known.
    ///
    /// # Errors
    /// What stopped it; started again it goes on there.
    pub(crate) async fn copy(
        &mut self,
        tell: &mut dyn FnMut(u64, Option<u64>),
    ) -> Result<State, String> {
        let stopped = |why: String| format!("{why}; run it again to go on");
        let mut state = self.earlier().await?;
        // A place that the source does not know any more: this pass begins anew.
        if state.cursor.is_some() && export(&self.from, state.cursor.clone()).await.is_err() {
            (state.cursor, state.rows) = (None, 0);
        }
        let all = self.from.query.approximate_count(step()).await.ok();
        while state.passes < PASSES {
            self.small_things().await.map_err(stopped)?;
            loop {
                let more = self.page(&mut state).await.map_err(stopped)?;
                tell(state.rows, all);
                if !more {
                    break;
                }
                self.note(Some(&state)).await.map_err(stopped)?;
            }
            state.passes += 1;
            if state.written == 0 {
                break;
            }
            (state.cursor, state.written, state.rows) = (None, 0, 0);
            self.note(Some(&state)).await.map_err(stopped)?;
        }
        self.note(None).await.map_err(stopped)?;
        Ok(state)
    }

    /// Where a copy from the same place stands that was stopped.
    async fn earlier(&self) -> Result<State, String> {
        let fresh = State { source: self.from.place.clone(), ..State::default() };
        let stored = self.to.meta.meta(STATE, step()).await.map_err(|error| error.to_string())?;
        let earlier = stored.and_then(|stored| serde_json::from_slice::<State>(&stored).ok());
        Ok(earlier.filter(|state| state.source == fresh.source).unwrap_or(fresh))
    }

    async fn note(&self, state: Option<&State>) -> Result<(), String> {
        let text = state.map_or_else(|| Ok(Vec::new()), serde_json::to_vec);
        let text = text.map_err(|error| error.to_string())?;
        settled(self.to.meta.set_meta(STATE, text, step()).await)
    }

    /// Domains, keys, and the length that codes have reached.
    async fn small_things(&mut self) -> Result<(), String> {
        self.copy_domains().await?;
        self.copy_keys().await?;
        if let Some(length) =
            self.from.meta.meta(LENGTH_META, step()).await.map_err(|error| error.to_string())?
        {
            settled(self.to.meta.meta_or_insert(LENGTH_META, length, step()).await)?;
        }
        Ok(())
    }

    async fn copy_domains(&mut self) -> Result<(), String> {
        for (id, host) in
            self.from.domains.domains(step()).await.map_err(|error| error.to_string())?
        {
            let there = settled(self.to.domains.ensure_domain(host, step()).await)?;
            self.domains.insert(id, there);
        }
        self.domains.insert(DomainId::DEFAULT, DomainId::DEFAULT);
        Ok(())
    }

    async fn copy_keys(&self) -> Result<(), String> {
        let mut there = self.to.keys.keys(step()).await.map_err(|error| error.to_string())?;
        for key in self.from.keys.keys(step()).await.map_err(|error| error.to_string())? {
            let known = there.iter().find(|other| other.hash == key.hash).cloned();
            let made = match known {
                Some(known) => known,
                None => self.add_key(&key, &mut there).await?,
            };
            if made.id != key.id {
                return Err(format!(
                    "the API key {:?} has number {} in the source and {} in the target, and links \
                     name their owners by it; begin with an empty target",
                    key.name, key.id.0, made.id.0
                ));
            }
            if let (Some(at), None) = (key.revoked_at, made.revoked_at) {
                settled(self.to.keys.revoke_key(key.id, at, step()).await)?;
            }
        }
        Ok(())
    }

    /// Adds a key under its own number. The target numbers keys one after the other, so numbers
    /// that the source has skipped are taken by keys that were never valid.
    async fn add_key(&self, key: &ApiKey, there: &mut Vec<ApiKey>) -> Result<ApiKey, String> {
        let new = NewApiKey {
            name: key.name.clone(),
            hash: key.hash,
            scopes: key.scopes,
            owner: Some(key.owner),
            created_at: key.created_at,
            expires_at: key.expires_at,
        };
        let mut last = there.iter().map(|key| key.id.0).max().unwrap_or(0);
        while last + 1 < key.id.0 {
            let mut hash = [0; 32];
            getrandom::fill(&mut hash).map_err(|error| error.to_string())?;
            let filler = NewApiKey {
                name: PLACEHOLDER.to_owned(),
                hash,
                scopes: Scopes::default(),
                owner: Some(OwnerId::ANONYMOUS),
                expires_at: Some(key.created_at),
                created_at: key.created_at,
            };
            let made = settled(self.to.keys.add_key(filler, step()).await)?;
            settled(self.to.keys.revoke_key(made.id, key.created_at, step()).await)?;
            last = made.id.0;
            there.push(made);
        }
        let made = settled(self.to.keys.add_key(new, step()).await)?;
        there.push(made.clone());
        Ok(made)
    }

    /// One page of the source, with the domains' numbers of the target.
    async fn source_page(
        &mut self,
        cursor: Option<String>,
    ) -> Result<(Vec<Stored>, Option<String>), String> {
        let (rows, next) = export(&self.from, cursor).await?;
        if rows.iter().any(|row| !self.domains.contains_key(&row.key().domain)) {
            // Registered since.
            self.copy_domains().await?;
        }
        let renumbered = rows.into_iter().map(|row| {
            let number = row.key().domain;
            let there = self.domains.get(&number);
            let there = there.ok_or_else(|| format!("a link has the unknown domain {}", number.0));
            there.map(|there| on_domain(row, *there))
        });
        Ok((renumbered.collect::<Result<_, _>>()?, next))
    }

    /// Copies a page; whether there is another one.
    async fn page(&mut self, state: &mut State) -> Result<bool, String> {
        let (rows, next) = self.source_page(state.cursor.clone()).await?;
        state.rows += rows.len() as u64;
        let keys: Vec<LinkKey> = rows.iter().map(|row| row.key().clone()).collect();
        let there = look_up(&self.to, keys).await?;
        let (mut absent, mut changed) = (Vec::new(), Vec::new());
        for (row, there) in rows.into_iter().zip(there) {
            match there {
                None => absent.push(row),
                Some(there) if relation(&row, &there) == Relation::Behind => changed.push(row),
                // The target has been written to since it took over, or is another service's: the
                // comparison says so.
                Some(_) => {}
            }
        }
        state.written += (absent.len() + changed.len()) as u64;
        state.copied += absent.len() as u64;
        state.changed += changed.len() as u64;
        if !absent.is_empty() {
            let put = settled(self.to.writer.restore_many(absent, step()).await)?;
            for verdict in put {
                if let Err(CreateRefusal::Store(error)) = verdict {
                    return Err(error.to_string());
                }
            }
        }
        if !changed.is_empty() {
            settled(self.to.mirror.replace_many(changed, step()).await)?;
        }
        state.cursor.clone_from(&next);
        Ok(next.is_some())
    }

    /// Compares everything that a copy copies, in both directions. Writes nothing.
    ///
    /// # Errors
    /// What stopped it.
    pub(crate) async fn compare(
        &mut self,
        tell: &mut dyn FnMut(u64, Option<u64>),
    ) -> Result<Compared, String> {
        let mut found = Compared::default();
        let hosts: HashMap<String, DomainId> = self
            .to
            .domains
            .domains(step())
            .await
            .map_err(|error| error.to_string())?
            .into_iter()
            .map(|(id, host)| (host, id))
            .collect();
        self.domains = HashMap::from([(DomainId::DEFAULT, DomainId::DEFAULT)]);
        for (id, host) in
            self.from.domains.domains(step()).await.map_err(|error| error.to_string())?
        {
            match hosts.get(&host) {
                Some(there) => {
                    self.domains.insert(id, *there);
                }
                None => found.differs(format!("the domain {host} is missing in the target")),
            }
        }
        self.compare_keys(&mut found).await?;
        let mut cursor = None;
        loop {
            let (rows, next) = export(&self.from, cursor).await?;
            found.rows += rows.len() as u64;
            let known = |row: &Stored| self.domains.get(&row.key().domain).copied();
            let rows: Vec<Stored> = rows
                .into_iter()
                .filter_map(|row| known(&row).map(|to| on_domain(row, to)))
                .collect();
            let keys = rows.iter().map(|row| row.key().clone()).collect();
            for (row, there) in rows.iter().zip(look_up(&self.to, keys).await?) {
                let code = &row.key().code;
                match there.map(|there| relation(row, &there)) {
                    None => found.differs(format!("{code} is missing in the target")),
                    Some(Relation::Same) => {}
                    Some(Relation::Ahead) => found.ahead += 1,
                    Some(Relation::Behind) => {
                        found.differs(format!("{code} is older in the target"));
                    }
                    Some(Relation::Conflict) => {
                        found.differs(format!("{code} is another one in the target"));
                    }
                }
            }
            tell(found.rows, None);
            cursor = next;
            if cursor.is_none() {
                break;
            }
        }
        self.compare_back(&mut found, tell).await?;
        Ok(found)
    }

    /// What the target has and the source has not.
    async fn compare_back(
        &self,
        found: &mut Compared,
        tell: &mut dyn FnMut(u64, Option<u64>),
    ) -> Result<(), String> {
        let back: HashMap<DomainId, DomainId> =
            self.domains.iter().map(|(from, to)| (*to, *from)).collect();
        let mut cursor = None;
        loop {
            let (rows, next) = export(&self.to, cursor).await?;
            found.target_rows += rows.len() as u64;
            let mut keys = Vec::with_capacity(rows.len());
            for row in &rows {
                let key = row.key();
                match back.get(&key.domain) {
                    Some(domain) => keys.push(LinkKey::new(*domain, key.code.clone())),
                    None => found.ahead += 1,
                }
            }
            let there = look_up(&self.from, keys).await?;
            found.ahead += there.iter().filter(|row| row.is_none()).count() as u64;
            tell(found.rows + found.target_rows, None);
            cursor = next;
            if cursor.is_none() {
                return Ok(());
            }
        }
    }

    async fn compare_keys(&self, found: &mut Compared) -> Result<(), String> {
        let there = self.to.keys.keys(step()).await.map_err(|error| error.to_string())?;
        for key in self.from.keys.keys(step()).await.map_err(|error| error.to_string())? {
            if !there.contains(&key) {
                found.differs(format!("the API key {:?} is missing or another one", key.name));
            }
        }
        Ok(())
    }

    /// Lets both go. Blocks.
    pub(crate) fn close(&self) {
        self.from.close();
        self.to.close();
    }
}

async fn export(
    store: &Plain,
    cursor: Option<String>,
) -> Result<(Vec<Stored>, Option<String>), String> {
    store.query.export(cursor, PAGE, step()).await.map_err(|error| match error {
        ListError::BadCursor => "the place where the copy stood is not known any more".to_owned(),
        ListError::Store(error) => error.to_string(),
    })
}

/// The rows of many keys, in order.
async fn look_up(store: &Plain, keys: Vec<LinkKey>) -> Result<Vec<Option<Stored>>, String> {
    let asked = keys.into_iter().map(|key| async move {
        store.reader.get(&key, Version::default(), step()).await.map_err(|error| error.to_string())
    });
    stream::iter(asked).buffered(LOOKS).try_collect().await
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use shunt_domain::{
        Code, Link, LinkKey, NewLink, OwnerId, RedirectStatus, Target, Timestamp, Tombstone,
    };

    use super::*;

    fn link(version: u64, used: u64, created: i64) -> Stored {
        let created_at = Timestamp::from_millis(created);
        let data = NewLink {
            key: LinkKey::new(DomainId::DEFAULT, Code::parse("x").unwrap()),
            target: Target::from_stored("https://example.com/", false).unwrap(),
            title: None,
            tags: Vec::new(),
            owner: OwnerId::ANONYMOUS,
            created_at,
            valid_from: None,
            expires_at: None,
            max_clicks: NonZeroU64::new(9),
            status: RedirectStatus::Found,
            forward_query: false,
            enabled: true,
        };
        let link = Link { data, version: Version(version), updated_at: created_at, used };
        Stored::Link(Box::new(link))
    }

    #[test]
    fn the_newer_row_counts_and_clicks_are_never_given_back() {
        let row = link(2, 3, 1_000);
        let mut other = link(2, 3, 1_000);
        if let Stored::Link(link) = &mut other {
            link.data.enabled = false;
        }
        let tombstone = Stored::Tombstone(Tombstone {
            key: row.key().clone(),
            owner: OwnerId::ANONYMOUS,
            created_at: Timestamp::from_millis(1_000),
            deleted_at: Timestamp::from_millis(2_000),
            version: Version(3),
        });
        for (there, expected) in [
            (link(2, 3, 1_000), Relation::Same),
            // Moved by the store, to keep its order.
            (link(2, 3, 1_003), Relation::Same),
            (link(2, 3, 99_000), Relation::Conflict),
            (link(1, 3, 1_000), Relation::Behind),
            (link(2, 2, 1_000), Relation::Behind),
            (link(2, 4, 1_000), Relation::Ahead),
            (link(3, 0, 1_000), Relation::Ahead),
            (tombstone, Relation::Ahead),
            (other, Relation::Conflict),
        ] {
            assert_eq!(relation(&row, &there), expected, "{there:?}");
        }
    }
}
