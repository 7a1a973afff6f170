//! Several PostgreSQL databases on a ring, each with or without standbys.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use shunt_http::metrics::Sample;
use shunt_store::postgres::{PostgresRollups, PostgresStore};
use shunt_store::sharded::{ShardOptions, ShardedStore};
use shunt_store::sqlite::DirLock;

use super::postgres::{BACKUP, adjusted, for_rollups, overdue, samples};
use super::replicated::{NUMBERS, of_copies};
use super::shared::directory;
use super::{Backend, Checked, Stores, Tell};
use crate::config::Config;
use crate::serve::OpenMode;

pub(super) async fn open(config: &Config, mode: OpenMode) -> anyhow::Result<Stores> {
    let (lock, node) = directory(config, mode)?;
    let mut shards = config.store.shards();
    for shard in &mut shards {
        shard.database = adjusted(config, &shard.database, node);
    }
    let opened = shards.clone();
    let store = tokio::task::spawn_blocking(move || ShardedStore::open(opened))
        .await
        .context("look at the databases")??;
    for (name, error) in store.unreachable() {
        tracing::warn!(shard = name, error, "a shard is unavailable, and so are its links");
    }
    let ShardOptions { database, .. } =
        shards.get(store.home()).context("the shards have no home")?;
    // A lane lives whole in one database: all of them at home.
    let rollups = store.rollups(for_rollups(database))?;
    let port = Arc::new(store.clone());
    Ok(Stores {
        reader: Arc::new(store.primaries()),
        redirects: port.clone(),
        writer: port.clone(),
        // A key's row lies elsewhere than its link.
        once: None,
        query: Some(port.clone()),
        domains: port.clone(),
        idempotency: port.clone(),
        keys: port.clone(),
        meta: port.clone(),
        pool: port.clone(),
        leases: port.clone(),
        feed: Some(port),
        alone: false,
        rollups: Arc::new(rollups.clone()),
        node,
        backend: Arc::new(Shards { store, rollups, _lock: lock }),
    })
}

/// The sharded store's own.
struct Shards {
    store: ShardedStore,
    rollups: PostgresRollups,
    _lock: DirLock,
}

impl Shards {
    fn stores(&self) -> Vec<&PostgresStore> {
        self.store.shards().map(|(_, store)| store).collect()
    }
}

impl Backend for Shards {
    fn place(&self) -> String {
        let names: Vec<&str> = self.store.shards().map(|(name, _)| name).collect();
        format!("postgres shards {}", names.join(", "))
    }

    fn samples(&self) -> Vec<Sample> {
        let mut all = samples(&self.stores());
        for (at, _, copies) in self.store.copies() {
            let Some(label) = NUMBERS.get(at) else { continue };
            all.extend(of_copies(copies).into_iter().map(|sample| sample.with("shard", label)));
        }
        // Families must stand together.
        all.sort_by_key(|sample| sample.name);
        all
    }

    fn degraded(&self) -> Option<String> {
        let mut all: Vec<String> = Vec::new();
        for (name, error) in self.store.unreachable() {
            all.push(format!("shard {name} is unavailable ({error})"));
        }
        for (_, name, copies) in self.store.copies() {
            all.extend(copies.problems().iter().map(|problem| format!("shard {name}: {problem}")));
        }
        all.extend(overdue(&self.stores()));
        (!all.is_empty()).then(|| all.join(". "))
    }

    fn backup(&self, _: &Path, _: Tell<'_>) -> Result<(u64, u64), String> {
        Err(BACKUP.to_owned())
    }

    fn diagnose(&self, _: Tell<'_>) -> Result<Checked, String> {
        let wrong = |(name, error)| format!("shard {name}: {error}");
        let problems = self.store.check().into_iter().map(wrong).collect();
        Ok(Checked { problems, ..Checked::default() })
    }

    fn close(&self) {
        self.rollups.close();
        self.store.close();
    }
}
