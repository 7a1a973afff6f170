//! A DynamoDB table; roll-ups of clicks are elsewhere.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use shunt_domain::ports::RollupStore;
use shunt_http::metrics::Sample;
use shunt_store::dynamodb::{Created, DynamoError, DynamoOptions, DynamoStore};
use shunt_store::postgres::PostgresRollups;
use shunt_store::sqlite::{DbOptions, DirLock, SqliteRollups};

use super::shared::directory;
use super::{Backend, Checked, Stores, Tell};
use crate::config::Config;
use crate::serve::OpenMode;

pub(super) async fn open(
    config: &Config,
    options: &DynamoOptions,
    mode: OpenMode,
) -> anyhow::Result<Stores> {
    let (lock, node) = directory(config, mode)?;
    let place = options.table.clone();
    let options = DynamoOptions { node: node.0, ..options.clone() };
    let opening = tokio::task::spawn_blocking(move || {
        let store = DynamoStore::open(&options)?;
        store.check()?;
        Ok::<_, DynamoError>(store)
    });
    let store = opening.await.context("look at the table")??;
    let (rollups, rollup_port): (Rollups, Arc<dyn RollupStore>) = match &config.store.stats {
        Some(options) => {
            let rollups = PostgresRollups::open((**options).clone())?;
            (Rollups::Postgres(rollups.clone()), Arc::new(rollups))
        }
        None => {
            let db = DbOptions { create: true, ..DbOptions::default() };
            let rollups = SqliteRollups::open(&config.data_dir, db)?;
            (Rollups::Sqlite(rollups.clone()), Arc::new(rollups))
        }
    };
    let port = Arc::new(store.clone());
    Ok(Stores {
        reader: port.clone(),
        redirects: port.clone(),
        writer: port.clone(),
        once: None,
        query: None,
        domains: port.clone(),
        idempotency: port.clone(),
        keys: port.clone(),
        meta: port.clone(),
        pool: port.clone(),
        leases: port,
        feed: None,
        alone: false,
        rollups: rollup_port,
        node,
        backend: Arc::new(Table { store, rollups, place, _lock: lock }),
    })
}

/// Makes the table unless it is there; answers whether it did. Blocks.
///
/// # Errors
/// What is in the way and what to do.
pub(crate) fn migrate(options: &DynamoOptions) -> Result<bool, DynamoError> {
    let store = DynamoStore::open(options)?;
    let created = store.migrate();
    store.close();
    Ok(created? == Created::Made)
}

enum Rollups {
    Sqlite(SqliteRollups),
    Postgres(PostgresRollups),
}

/// What is this store's own.
struct Table {
    store: DynamoStore,
    rollups: Rollups,
    place: String,
    _lock: DirLock,
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Backend for Table {
    fn place(&self) -> String {
        format!("DynamoDB table {}", self.place)
    }

    fn samples(&self) -> Vec<Sample> {
        let stats = self.store.stats();
        vec![
            Sample::counter(
                "shunt_store_reads_consistent",
                "Reads made again as consistent ones, because the first found nothing or was old",
                get(&stats.confirmed),
            ),
            Sample::counter(
                "shunt_store_requests",
                "Requests made to the store, repeated ones included",
                get(&stats.requests),
            ),
            Sample::counter(
                "shunt_store_requests_repeated",
                "Requests made again after throttling or a lost answer",
                get(&stats.repeated),
            ),
            Sample::counter(
                "shunt_store_writes_acknowledged",
                "Writes acknowledged as durable",
                get(&stats.done),
            ),
            Sample::counter("shunt_store_writes_refused", "Writes refused", get(&stats.refused)),
            Sample::counter(
                "shunt_store_writes_unknown",
                "Writes with an unknown outcome",
                get(&stats.unknown),
            ),
        ]
    }

    fn degraded(&self) -> Option<String> {
        None
    }

    fn backup(&self, _: &Path, _: Tell<'_>) -> Result<(u64, u64), String> {
        Err("links in DynamoDB are backed up with its own point-in-time recovery and exports"
            .to_owned())
    }

    fn diagnose(&self, _: Tell<'_>) -> Result<Checked, String> {
        self.store.check().map_err(|error| error.to_string())?;
        Ok(Checked::default())
    }

    fn close(&self) {
        match &self.rollups {
            Rollups::Sqlite(rollups) => rollups.close(),
            Rollups::Postgres(rollups) => rollups.close(),
        }
        self.store.close();
    }
}
