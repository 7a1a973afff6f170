//! PostgreSQL, directly or through PgBouncer.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use shunt_domain::ports::NodeId;
use shunt_http::metrics::Sample;
use shunt_store::histogram::Log2Histogram;
use shunt_store::postgres::{
    Migrated, PostgresError, PostgresOptions, PostgresRollups, PostgresStats, PostgresStore,
};
use shunt_store::sqlite::DirLock;

use super::shared::{directory, latency};
use super::{Backend, Checked, Stores, Tell};
use crate::config::Config;
use crate::serve::OpenMode;

/// How many of the store's connections roll-ups get: one batch at a time is written.
const ROLLUP_WRITERS: usize = 2;

/// How many connections of roll-ups read.
const ROLLUP_READERS: usize = 1;

/// How many of them scan.
const ROLLUP_SCANNERS: usize = 1;

/// How many connections a node makes to its database, at most.
pub(crate) const fn connections(config: &Config, options: &PostgresOptions) -> usize {
    let links = config.store.writers + options.readers + options.scanners;
    links + ROLLUP_WRITERS + ROLLUP_READERS + ROLLUP_SCANNERS
}

/// What a store on a database server has on this machine, and how it uses the server.
pub(super) struct Prepared {
    pub(super) lock: DirLock,
    pub(super) node: NodeId,
    /// For links and all else.
    pub(super) options: PostgresOptions,
    /// For roll-ups.
    pub(super) rollups: PostgresOptions,
}

/// Takes the data directory, and lays down how the server is used.
///
/// # Errors
/// What is in the way of the directory.
pub(super) fn prepare(
    config: &Config,
    options: &PostgresOptions,
    mode: OpenMode,
) -> anyhow::Result<Prepared> {
    let (lock, node) = directory(config, mode)?;
    let options = adjusted(config, options, node);
    let rollups = for_rollups(&options);
    Ok(Prepared { lock, node, options, rollups })
}

pub(super) async fn open(
    config: &Config,
    options: &PostgresOptions,
    mode: OpenMode,
) -> anyhow::Result<Stores> {
    let Prepared { lock, node, options, rollups } = prepare(config, options, mode)?;
    let place = options.address();
    let store = PostgresStore::open(options)?;
    let checking = store.clone();
    tokio::task::spawn_blocking(move || checking.check())
        .await
        .context("look at the database")??;
    let rollups = PostgresRollups::open(rollups)?;
    let port = Arc::new(store.clone());
    let rollup_port = Arc::new(rollups.clone());
    let backend = Arc::new(Server { store, rollups, place, _lock: lock });
    Ok(Stores {
        feed: Some(port.clone()),
        alone: false,
        ..Stores::of(port, rollup_port, node, backend)
    })
}

/// How this node uses a database.
pub(super) fn adjusted(
    config: &Config,
    options: &PostgresOptions,
    node: NodeId,
) -> PostgresOptions {
    PostgresOptions {
        node: node.0,
        writers: config.store.writers,
        max_overdue: options.max_overdue.min(config.store.writers),
        ..options.clone()
    }
}

/// The same for its roll-ups.
pub(super) fn for_rollups(options: &PostgresOptions) -> PostgresOptions {
    PostgresOptions {
        writers: ROLLUP_WRITERS,
        max_overdue: ROLLUP_WRITERS,
        readers: ROLLUP_READERS,
        scanners: ROLLUP_SCANNERS,
        ..options.clone()
    }
}

/// Brings a database to this version's schema. Blocks.
///
/// # Errors
/// What is in the way and what to do.
pub(crate) fn migrate(options: &PostgresOptions) -> Result<Migrated, PostgresError> {
    PostgresStore::migrate(options)
}

/// The PostgreSQL store's own.
struct Server {
    store: PostgresStore,
    rollups: PostgresRollups,
    place: String,
    _lock: DirLock,
}

/// Figures of the stores of one or more databases, added up.
pub(super) fn samples(stores: &[&PostgresStore]) -> Vec<Sample> {
    let get = |counter: fn(&PostgresStats) -> &AtomicU64| -> u64 {
        stores.iter().map(|store| counter(store.stats()).load(Ordering::Relaxed)).sum()
    };
    let gathered = |histogram: fn(&PostgresStats) -> &Log2Histogram| -> u64 {
        stores.iter().map(|store| histogram(store.stats()).count()).sum()
    };
    let overdue: u64 = stores.iter().map(|store| store.overdue()).sum();

    let mut samples = vec![
        Sample::counter(
            "shunt_store_connections_made",
            "Connections made to the database",
            get(|stats| &stats.connections),
        ),
        Sample::counter(
            "shunt_store_connections_failed",
            "Attempts to connect that failed",
            get(|stats| &stats.failed_connections),
        ),
        Sample::counter(
            "shunt_store_writes_acknowledged",
            "Writes acknowledged as durable",
            get(|stats| &stats.done),
        ),
        Sample::counter(
            "shunt_store_writes_refused",
            "Writes refused",
            get(|stats| &stats.refused),
        ),
        Sample::counter(
            "shunt_store_writes_unknown",
            "Writes with an unknown outcome",
            get(|stats| &stats.unknown),
        ),
        Sample::counter(
            "shunt_store_writes_repeated",
            "Transactions run again after a deadlock or a lost connection",
            get(|stats| &stats.repeated),
        ),
        Sample::counter(
            "shunt_store_commits_warned",
            "Commits reported with a warning, which count as unknown",
            get(|stats| &stats.warned),
        ),
        Sample::counter(
            "shunt_store_writes_failed_fast",
            "Writes refused at once because too many were overdue",
            get(|stats| &stats.failed_fast),
        ),
        Sample::gauge(
            "shunt_store_writes_overdue",
            "Writes past their deadline and still under way",
            overdue as f64,
        ),
        Sample::counter("shunt_store_reads", "Reads done", get(|stats| &stats.reads)),
        Sample::counter(
            "shunt_store_read_statements",
            "Statements that reads of links were gathered into",
            gathered(|stats| &stats.reads_per_statement),
        ),
        Sample::counter(
            "shunt_store_create_statements",
            "Statements that single creates were gathered into",
            gathered(|stats| &stats.creates_per_statement),
        ),
        Sample::counter(
            "shunt_store_reads_failed",
            "Reads that failed or came too late",
            get(|stats| &stats.failed_reads),
        ),
        Sample::counter(
            "shunt_store_connections_stalled",
            "Connections replaced because nothing was answered on them",
            get(|stats| &stats.stalled),
        ),
    ];
    let writes: Vec<_> = stores.iter().map(|store| &store.stats().write_micros).collect();
    latency(&mut samples, "write", &writes);
    samples
}

/// What stores on servers suffer from.
pub(super) fn overdue(stores: &[&PostgresStore]) -> Option<String> {
    let overdue: u64 = stores.iter().map(|store| store.overdue()).sum();
    (overdue > 0).then(|| {
        format!(
            "{overdue} writes are past their deadline and still under way; does a standby that \
             commits wait for answer?"
        )
    })
}

/// Why there is no backup of a store on a server.
pub(super) const BACKUP: &str = "a PostgreSQL store is backed up with PostgreSQL's own tools \
    (pg_dump, pg_basebackup); `shunt links export` writes the links as rows";

impl Backend for Server {
    fn place(&self) -> String {
        format!("postgres at {}", self.place)
    }

    fn samples(&self) -> Vec<Sample> {
        samples(&[&self.store])
    }

    fn degraded(&self) -> Option<String> {
        overdue(&[&self.store])
    }

    fn backup(&self, _: &Path, _: Tell<'_>) -> Result<(u64, u64), String> {
        Err(BACKUP.to_owned())
    }

    fn diagnose(&self, _: Tell<'_>) -> Result<Checked, String> {
        self.store.check().map_err(|error| error.to_string())?;
        Ok(Checked::default())
    }

    fn close(&self) {
        self.rollups.close();
        self.store.close();
    }
}
