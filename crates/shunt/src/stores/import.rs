//! Takes the links of another service over into the store, so that it can be let go.
//!
//! Page by page in the order of codes; where it stands is kept in the store itself, so that an
//! import that was stopped goes on wherever it is started again. A page that is taken over twice
//! changes nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::{Deserialize, Serialize};
use shunt_domain::ports::{CodePool, CreateRefusal, LinkReader, LinkWriter, MetaStore};
use shunt_domain::{Deadline, Link, Outcome, StoreError, Stored, Version};
use shunt_store::postgres::legacy::{LegacyPlace, LegacyRow, LegacyTable};

use super::Stores;

/// Where the store keeps how far the import is.
const STATE: &str = "legacy_import";

/// Rows of one page, which is one transaction.
const PAGE: u32 = 1_000;

/// How long one step may take.
const STEP: Duration = Duration::from_secs(60);

/// How long the rows may be counted; more than that and nobody knows how many there are.
const COUNT: Duration = Duration::from_secs(10);

/// Looks at links that are there already under way at a time.
const LOOKS: usize = 32;

/// What the import works on.
#[derive(Clone)]
pub(crate) struct LegacyImport {
    table: Arc<LegacyTable>,
    reader: Arc<dyn LinkReader>,
    writer: Arc<dyn LinkWriter>,
    meta: Arc<dyn MetaStore>,
    pool: Arc<dyn CodePool>,
}

/// What to do.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    /// Begin anew although an import was stopped.
    pub(crate) restart: bool,
    /// Put unused keys into the pool as well.
    pub(crate) keys: bool,
}

/// How far it is; and at the end, the report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    shard: usize,
    after: String,
    links_done: bool,
    keys_shard: usize,
    keys_after: String,
    /// Rows looked at.
    pub(crate) rows: u64,
    /// Links taken over.
    pub(crate) imported: u64,
    /// Links that the store has already: taken over, changed or deleted before.
    pub(crate) exists: u64,
    /// Rows that can't be links here.
    pub(crate) refused: u64,
    /// Codes put into the pool.
    pub(crate) keys: u64,
}

/// Somebody who hears of it.
pub(crate) trait Hears: Send + Sync {
    /// So many rows are done, of so many if that is known.
    fn progress(&self, done: u64, total: Option<u64>);
    /// A row was refused.
    fn refused(&self, code: String, why: String) -> impl Future<Output = ()> + Send;
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

impl LegacyImport {
    /// Out of this table into the store itself: what stands behind it is where the rows come from.
    pub(crate) fn new(table: Arc<LegacyTable>, stores: &Stores) -> Self {
        Self {
            table,
            reader: Arc::clone(&stores.reader),
            writer: Arc::clone(&stores.writer),
            meta: Arc::clone(&stores.meta),
            pool: Arc::clone(&stores.pool),
        }
    }

    /// Takes everything over that is not here yet.
    ///
    /// # Errors
    /// What stopped it; started again it goes on there.
    pub(crate) async fn run(&self, wanted: Wanted, hears: &impl Hears) -> Result<State, String> {
        let stopped = |why: String| format!("{why}; run it again to go on");
        let mut state = if wanted.restart { State::default() } else { self.earlier().await? };
        let count = self.table.count(Deadline::after(Instant::now(), COUNT)).await.ok();
        while !state.links_done {
            self.page(&mut state, hears).await.map_err(stopped)?;
            self.note(Some(&state)).await.map_err(stopped)?;
            hears.progress(state.rows, count);
        }
        if wanted.keys {
            while self.keys(&mut state).await.map_err(stopped)? {
                self.note(Some(&state)).await.map_err(stopped)?;
            }
        }
        self.note(None).await.map_err(stopped)?;
        Ok(state)
    }

    /// Where an import stands that was stopped.
    async fn earlier(&self) -> Result<State, String> {
        let stored = self.meta.meta(STATE, step()).await.map_err(|error| error.to_string())?;
        let Some(stored) = stored.filter(|stored| !stored.is_empty()) else {
            return Ok(State::default());
        };
        serde_json::from_slice(&stored).map_err(|error| {
            format!("the state of the last import is damaged ({error}); --restart")
        })
    }

    /// Keeps how far the import is; `None` at its end.
    async fn note(&self, state: Option<&State>) -> Result<(), String> {
        let text = state.map_or_else(|| Ok(Vec::new()), serde_json::to_vec);
        let text = text.map_err(|error| error.to_string())?;
        settled(self.meta.set_meta(STATE, text, step()).await)
    }

    async fn page(&self, state: &mut State, hears: &impl Hears) -> Result<(), String> {
        let place = LegacyPlace { shard: state.shard, after: state.after.clone() };
        let page =
            self.table.page(&place, PAGE, step()).await.map_err(|error| error.to_string())?;
        let (rows, next) = page;
        state.rows += rows.len() as u64;
        let mut links = Vec::with_capacity(rows.len());
        for row in rows {
            match row {
                LegacyRow::Link(link) => links.push(*link),
                LegacyRow::Refused { code, why } => {
                    state.refused += 1;
                    hears.refused(code, why).await;
                }
            }
        }
        let put: Vec<Stored> =
            links.iter().map(|link| Stored::Link(Box::new(link.clone()))).collect();
        let verdicts = match put.is_empty() {
            true => Vec::new(),
            false => settled(self.writer.restore_many(put, step()).await)?,
        };
        let mut there = Vec::new();
        for (link, verdict) in links.into_iter().zip(verdicts) {
            match verdict {
                Ok(()) => state.imported += 1,
                Err(CreateRefusal::Taken | CreateRefusal::Retired) => there.push(link),
                Err(CreateRefusal::Store(error)) => return Err(error.to_string()),
            }
        }
        let looks = there.into_iter().map(|link| self.is_another(link));
        let others: Vec<Option<String>> = stream::iter(looks).buffered(LOOKS).try_collect().await?;
        for other in others {
            match other {
                None => state.exists += 1,
                Some(code) => {
                    state.refused += 1;
                    let why = "the store has another link of this code, and keeps it (taken)";
                    hears.refused(code, why.to_owned()).await;
                }
            }
        }
        match next {
            Some(next) => (state.shard, state.after) = (next.shard, next.after),
            None => state.links_done = true,
        }
        Ok(())
    }

    /// The code, if the store has a link of it that never was the other service's.
    async fn is_another(&self, link: Link) -> Result<Option<String>, String> {
        let found = self.reader.get(link.key(), Version::default(), step()).await;
        Ok(match found.map_err(|error| error.to_string())? {
            Some(Stored::Link(own)) if own.version == link.version => {
                (own.data.target != link.data.target).then(|| link.code().to_string())
            }
            // Changed or deleted here since.
            _ => None,
        })
    }

    /// A page of keys; whether there may be more.
    async fn keys(&self, state: &mut State) -> Result<bool, String> {
        let place = LegacyPlace { shard: state.keys_shard, after: state.keys_after.clone() };
        let page = self.table.unused_keys(&place, PAGE, step()).await;
        let (codes, next) = page.map_err(|error| error.to_string())?;
        state.keys += codes.len() as u64;
        if !codes.is_empty() {
            settled(self.pool.add_codes(vec![codes], step()).await)?;
        }
        if let Some(next) = &next {
            (state.keys_shard, state.keys_after) = (next.shard, next.after.clone());
        }
        Ok(next.is_some())
    }
}
