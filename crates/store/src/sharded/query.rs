//! Lists and exports: every shard is asked for its rows behind one position, and the answers are
//! merged. A position means the same on all shards, so a cursor holds one, whatever moves between
//! two pages.

use std::sync::Arc;
use std::time::Instant;

use futures_util::future::try_join_all;
use shunt_domain::ports::{BoxFuture, ExportPage, LinkQuery, ListError, ListQuery, Page, Sort};
use shunt_domain::ring::Place;
use shunt_domain::{Deadline, StoreError};

use super::map::Map;
use super::shard::Word;
use super::{LEASE, ShardedStore};
use crate::cursor::Shape;
use crate::postgres::{Next, Placed, Position, PostgresStore, lock, shape, start};

/// The most rows in a page.
const MAX_LIMIT: u32 = 1_000;

/// How often a page is read again because rows were moved while it was.
const ROUNDS: u32 = 10;

/// Merges pages of several shards into the first `limit` rows. `owns` says whether a row is the
/// shard's that gave it: rows on their way are on two.
fn merge<T>(
    pages: Vec<Placed<T>>,
    sort: Sort,
    limit: usize,
    owns: impl Fn(usize, &Position) -> bool,
) -> Placed<T> {
    // Behind the first place where a shard stopped nothing is known of that shard.
    let stops = pages.iter().filter_map(|page| page.next.as_ref());
    let horizon: Option<Next> = stops.min_by(|a, b| a.0.compare(&b.0, sort)).cloned();
    let mut rows: Vec<(Position, T)> = Vec::new();
    for (at, page) in pages.into_iter().enumerate() {
        rows.extend(page.rows.into_iter().filter(|(position, _)| owns(at, position)));
    }
    rows.sort_by(|(a, _), (b, _)| a.compare(b, sort));
    if let Some((end, _)) = &horizon {
        rows.retain(|(position, _)| position.compare(end, sort).is_le());
    }
    let more = rows.len() > limit;
    rows.truncate(limit);
    let in_windows = horizon.as_ref().is_some_and(|(_, in_windows)| *in_windows);
    let next = match rows.last() {
        Some((last, _)) if more => Some((last.clone(), in_windows)),
        _ => horizon,
    };
    Placed { rows, next }
}

impl ShardedStore {
    /// Reads a page of every shard and merges them, again if rows were moved meanwhile.
    async fn merged<'a, T>(
        &'a self,
        sort: Sort,
        limit: u32,
        deadline: Deadline,
        read: impl Fn(&'a PostgresStore) -> BoxFuture<'a, Result<Placed<T>, StoreError>>,
    ) -> Result<Placed<T>, ListError> {
        let limit = limit.clamp(1, MAX_LIMIT) as usize;
        for _ in 0..ROUNDS {
            let map = self.map(deadline).await;
            let pages = self.inner.shards.iter().map(|shard| {
                let page = read(&shard.store);
                async move { page.await.map_err(|error| shard.named(error)) }
            });
            let pages = try_join_all(pages).await.map_err(ListError::Store)?;
            let now = Instant::now();
            let since = now.checked_sub(LEASE).unwrap_or(now);
            let all = 0..self.inner.shards.len();
            let stale = all.filter(|at| {
                lock(&self.shard(*at).known)
                    .confirmed(Word::Primary)
                    .is_none_or(|then| then < since)
            });
            let confirming = stale.map(|at| self.confirm(at, since, Word::Primary, deadline));
            try_join_all(confirming).await.map_err(ListError::Store)?;
            if same(&map, &lock(&self.inner.map)) {
                let owner = |key: &Position| map.owner(Place::of(key.key().code.as_str()));
                return Ok(merge(pages, sort, limit, |at, key| owner(key) == Some(at)));
            }
        }
        let why = "links are being moved between shards all the time".to_owned();
        Err(ListError::Store(StoreError::Unavailable(why)))
    }
}

fn same(one: &Arc<Map>, other: &Arc<Map>) -> bool {
    Arc::ptr_eq(one, other) || one.owners() == other.owners()
}

impl LinkQuery for ShardedStore {
    fn list(&self, query: ListQuery, deadline: Deadline) -> BoxFuture<'_, Result<Page, ListError>> {
        Box::pin(async move {
            let shape = shape(&query);
            let start = start(&shape, query.cursor.as_deref())?;
            let page = self
                .merged(query.sort, query.limit, deadline, |store| {
                    let (query, start) = (query.clone(), start.clone());
                    let store = store.clone();
                    Box::pin(async move { store.placed_list(query, start, deadline).await })
                })
                .await?;
            let (links, next) = page.page(&shape);
            Ok(Page { links, next })
        })
    }

    fn export(
        &self,
        cursor: Option<String>,
        limit: u32,
        deadline: Deadline,
    ) -> BoxFuture<'_, Result<ExportPage, ListError>> {
        Box::pin(async move {
            let shape = Shape::export();
            let start = start(&shape, cursor.as_deref())?;
            let page = self
                .merged(Sort::CreatedAsc, limit, deadline, |store| {
                    let (store, start) = (store.clone(), start.clone());
                    Box::pin(async move { store.placed_export(start, limit, deadline).await })
                })
                .await?;
            Ok(page.page(&shape))
        })
    }

    fn approximate_count(&self, deadline: Deadline) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(async move {
            let counts = self.inner.shards.iter().map(|shard| async move {
                let count = shard.store.approximate_count(deadline).await;
                count.map_err(|error| shard.named(error))
            });
            Ok(try_join_all(counts).await?.into_iter().sum())
        })
    }
}
