//! The stores: which adapters the settings name, opened, as one set of ports.
//!
//! Invariants:
//! - here alone it is known which store runs; everything else sees ports and [`Backend`];
//! - one process at a time has a data directory, whatever the store is: its lock is taken first.

pub(crate) mod copy;
#[cfg(feature = "dynamodb")]
pub(crate) mod dynamodb;
pub(crate) mod earlier;
pub(crate) mod import;
pub(crate) mod plain;
mod postgres;
mod replicated;
mod sharded;
mod shared;
mod sqlite;

use std::path::Path;
use std::sync::Arc;

use shunt_domain::ports::{
    ChangeFeed, CodePool, CreateOnce, DomainStore, HighWater, IdempotencyStore, KeyStore,
    LinkQuery, LinkReader, LinkWriter, MetaStore, NodeId, RollupStore,
};
use shunt_http::metrics::Sample;

use crate::config::{Config, StoreUrl};
use crate::serve::OpenMode;

pub(crate) use postgres::{connections as postgres_connections, migrate};

/// Every port of the configured store.
pub struct Stores {
    /// Reads one link, with every write that was answered before: for the API.
    pub reader: Arc<dyn LinkReader>,
    /// Reads one link for a redirect, from the nearest copy where there are several: as new as it
    /// is asked to be, and absent only on authority.
    pub redirects: Arc<dyn LinkReader>,
    /// Writes links.
    pub writer: Arc<dyn LinkWriter>,
    /// Makes a link and its idempotency row in one transaction, where the store can.
    pub once: Option<Arc<dyn CreateOnce>>,
    /// Lists and exports, where the store can (501 else).
    pub query: Option<Arc<dyn LinkQuery>>,
    /// Numbers host names.
    pub domains: Arc<dyn DomainStore>,
    /// Idempotency rows.
    pub idempotency: Arc<dyn IdempotencyStore>,
    /// API keys.
    pub keys: Arc<dyn KeyStore>,
    /// Settings that belong to the data.
    pub meta: Arc<dyn MetaStore>,
    /// Pre-generated codes.
    pub pool: Arc<dyn CodePool>,
    /// Leases of counter values, and the mark that judges them.
    pub leases: Arc<dyn HighWater>,
    /// Changes of links by all processes over this store, where there can be several.
    pub feed: Option<Arc<dyn ChangeFeed>>,
    /// No other process can have the store while this one has it.
    pub alone: bool,
    /// Roll-ups of clicks.
    pub rollups: Arc<dyn RollupStore>,
    /// This data directory's number.
    pub node: NodeId,
    /// What is this kind of store's own.
    pub backend: Arc<dyn Backend>,
}

/// How far a backup or a check is.
pub(crate) type Tell<'a> = &'a mut dyn FnMut(u64, Option<u64>);

/// What a full check found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Checked {
    /// What is wrong, one line each.
    pub(crate) problems: Vec<String>,
    /// Rows looked at, tombstones included.
    pub(crate) rows: u64,
    /// Links among them.
    pub(crate) links: u64,
}

/// What one kind of store does in its own way. All of it may block.
pub trait Backend: Send + Sync {
    /// Where the links are, for people; without secrets.
    fn place(&self) -> String;
    /// Figures for `/metrics`.
    fn samples(&self) -> Vec<Sample>;
    /// What does not work as it should, for `/readyz`.
    fn degraded(&self) -> Option<String>;
    /// Writes a backup to the new file `to`; answers its bytes and links.
    ///
    /// # Errors
    /// What is in the way and what to do, in a line.
    fn backup(&self, to: &Path, tell: Tell<'_>) -> Result<(u64, u64), String>;
    /// Checks everything there is.
    ///
    /// # Errors
    /// Why the check could not run.
    fn diagnose(&self, tell: Tell<'_>) -> Result<Checked, String>;
    /// Finishes what is under way and lets go of everything.
    fn close(&self);
}

impl Stores {
    /// The ports of a store that has them all in one value, alone on it.
    fn of<S>(
        port: Arc<S>,
        rollups: Arc<dyn RollupStore>,
        node: NodeId,
        backend: Arc<dyn Backend>,
    ) -> Self
    where
        S: LinkReader
            + LinkWriter
            + CreateOnce
            + LinkQuery
            + DomainStore
            + IdempotencyStore
            + KeyStore
            + MetaStore
            + CodePool
            + HighWater
            + 'static,
    {
        Self {
            reader: port.clone(),
            redirects: port.clone(),
            writer: port.clone(),
            once: Some(port.clone()),
            query: Some(port.clone()),
            domains: port.clone(),
            idempotency: port.clone(),
            keys: port.clone(),
            meta: port.clone(),
            pool: port.clone(),
            leases: port,
            feed: None,
            alone: true,
            rollups,
            node,
            backend,
        }
    }

    /// Opens what the settings name. Blocks.
    ///
    /// # Errors
    /// What is in the way, with what to do.
    pub async fn open(config: &Config, mode: OpenMode) -> anyhow::Result<Self> {
        match &config.store.url {
            StoreUrl::DataDir | StoreUrl::Sqlite(_) => sqlite::open(config, mode).await,
            StoreUrl::Postgres(options) if config.store.replicas.is_empty() => {
                postgres::open(config, options, mode).await
            }
            StoreUrl::Postgres(options) => replicated::open(config, options, mode).await,
            StoreUrl::Shards(_) => sharded::open(config, mode).await,
            #[cfg(feature = "dynamodb")]
            StoreUrl::Dynamo(options) => dynamodb::open(config, options, mode).await,
        }
    }
}
