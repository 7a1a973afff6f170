//! The embedded store: `links.db` and `clicks.db`.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use shunt_domain::ports::RollupStore;
use shunt_http::metrics::Sample;
use shunt_store::sqlite::{
    DbOptions, Durability, Progress, SqliteOptions, SqliteRollups, SqliteStore,
};

use super::shared::{latency, node_in_store};
use super::{Backend, Checked, Stores, Tell};
use crate::config::{self, Config};
use crate::serve::OpenMode;

pub(super) async fn open(config: &Config, mode: OpenMode) -> anyhow::Result<Stores> {
    let db = DbOptions {
        durability: match config.store.durability {
            config::Durability::Full => Durability::Full,
            config::Durability::Off => Durability::Off,
        },
        mmap_bytes: i64::try_from(config.store.mmap_bytes).unwrap_or(i64::MAX),
        create: mode != OpenMode::Existing,
        ..DbOptions::default()
    };
    let lock_wait = match mode {
        OpenMode::Serve { wait } => wait,
        OpenMode::Existing | OpenMode::Create => Duration::ZERO,
    };
    let dir = config.store_dir();
    let options = SqliteOptions {
        db: db.clone(),
        readers: config.store.readers,
        lock_wait,
        ..SqliteOptions::default()
    };
    let store = SqliteStore::open(dir, options)?;
    // Its own file, so that roll-ups never hold up a link commit. Its directory is locked by now.
    let rollups = SqliteRollups::open(dir, DbOptions { create: true, ..db })?;
    let node = node_in_store(&store).await?;
    let place = format!("sqlite://{}/links.db", dir.display());
    let port = Arc::new(store.clone());
    let rollup_port: Arc<dyn RollupStore> = Arc::new(rollups.clone());
    let backend = Arc::new(Embedded { store, rollups, place });
    Ok(Stores::of(port, rollup_port, node, backend))
}

/// The embedded store's own.
struct Embedded {
    store: SqliteStore,
    rollups: SqliteRollups,
    place: String,
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Backend for Embedded {
    fn place(&self) -> String {
        self.place.clone()
    }

    fn samples(&self) -> Vec<Sample> {
        let (writer, reader) = (self.store.writer_stats(), self.store.reader_stats());
        let files = self.store.file_sizes();
        let mut samples = vec![
            Sample::counter(
                "shunt_store_commits",
                "Groups committed, each with an fsync",
                get(&writer.commits),
            ),
            Sample::counter(
                "shunt_store_writes_acknowledged",
                "Writes acknowledged as durable",
                get(&writer.acknowledged),
            ),
            Sample::counter("shunt_store_writes_refused", "Writes refused", get(&writer.refused)),
            Sample::counter(
                "shunt_store_writes_unknown",
                "Writes with an unknown outcome",
                get(&writer.unknown),
            ),
            Sample::gauge(
                "shunt_store_writes_queued",
                "Writes waiting for a group",
                get(&writer.queued) as f64,
            ),
            Sample::counter(
                "shunt_store_checkpoints",
                "Checkpoints of the log",
                get(&writer.checkpoints),
            ),
            Sample::counter(
                "shunt_store_reopened",
                "Connections reopened after a failed commit",
                get(&writer.reopened),
            ),
            Sample::counter("shunt_store_reads", "Reads done", get(&reader.done)),
            Sample::counter(
                "shunt_store_reads_expired",
                "Reads whose deadline passed in the queue",
                get(&reader.expired),
            ),
            Sample::gauge("shunt_store_reads_queued", "Reads waiting", get(&reader.queued) as f64),
            Sample::gauge("shunt_store_bytes", "Bytes on disk", files.database as f64)
                .with("file", "database"),
            Sample::gauge("shunt_store_bytes", "Bytes on disk", files.log as f64)
                .with("file", "log"),
        ];
        latency(&mut samples, "point", &[&reader.point_micros]);
        latency(&mut samples, "scan", &[&reader.scan_micros]);
        latency(&mut samples, "commit", &[&writer.group_micros]);
        samples
    }

    fn degraded(&self) -> Option<String> {
        let reopened = get(&self.store.writer_stats().reopened);
        (reopened > 0).then(|| {
            format!(
                "{reopened} commits failed with an I/O error since the start; look at the disk \
                 and run `shunt doctor`"
            )
        })
    }

    fn backup(&self, to: &Path, tell: Tell<'_>) -> Result<(u64, u64), String> {
        let mut progress = |progress| match progress {
            Progress::Copying { done, total } => tell(done, Some(total)),
            Progress::Checking => tell(0, None),
        };
        let report = self.store.backup(to, &mut progress).map_err(|error| error.to_string())?;
        Ok((report.bytes, report.links))
    }

    fn diagnose(&self, tell: Tell<'_>) -> Result<Checked, String> {
        let found =
            self.store.diagnose(&mut |rows| tell(rows, None)).map_err(|error| error.to_string())?;
        Ok(Checked { problems: found.problems, rows: found.rows, links: found.links })
    }

    fn close(&self) {
        self.rollups.close();
        self.store.close();
    }
}
