//! PostgreSQL with streaming standbys.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use shunt_http::metrics::Sample;
use shunt_store::postgres::{PostgresOptions, PostgresRollups};
use shunt_store::replicated::{CopyState, ReplicatedOptions, ReplicatedStore};
use shunt_store::sqlite::DirLock;

use super::postgres::{BACKUP, Prepared, overdue, prepare, samples};
use super::{Backend, Checked, Stores, Tell};
use crate::config::Config;
use crate::serve::OpenMode;

/// Copies and shards as labels: by their place in the settings, because addresses and names are no
/// enum.
pub(super) const NUMBERS: [&str; 64] = [
    "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16",
    "17", "18", "19", "20", "21", "22", "23", "24", "25", "26", "27", "28", "29", "30", "31", "32",
    "33", "34", "35", "36", "37", "38", "39", "40", "41", "42", "43", "44", "45", "46", "47", "48",
    "49", "50", "51", "52", "53", "54", "55", "56", "57", "58", "59", "60", "61", "62", "63",
];

pub(super) async fn open(
    config: &Config,
    options: &PostgresOptions,
    mode: OpenMode,
) -> anyhow::Result<Stores> {
    let Prepared { lock, node, options, rollups } = prepare(config, options, mode)?;
    let store = ReplicatedStore::open(&ReplicatedOptions {
        primary: options,
        replicas: config.store.standbys(),
        max_lag: config.store.max_lag,
    })?;
    let checking = store.clone();
    tokio::task::spawn_blocking(move || checking.check())
        .await
        .context("look at the database")??;
    let rollups = store.rollups(rollups)?;
    let port = Arc::new(store.clone());
    let primary = Arc::new(store.primary().clone());
    let rollup_port = Arc::new(rollups.clone());
    let backend = Arc::new(Copies { store, rollups, _lock: lock });
    Ok(Stores {
        reader: primary.clone(),
        feed: Some(primary),
        alone: false,
        ..Stores::of(port, rollup_port, node, backend)
    })
}

/// What is this store's own.
struct Copies {
    store: ReplicatedStore,
    rollups: PostgresRollups,
    _lock: DirLock,
}

/// Figures of one copy.
fn of_copy(copy: &CopyState, label: &'static str) -> Vec<Sample> {
    let flag = |value: bool| f64::from(u8::from(value));
    let mut samples = vec![
        Sample::gauge("shunt_store_copy_up", "Whether a copy answers", flag(copy.up)),
        Sample::gauge(
            "shunt_store_copy_primary",
            "Whether a copy is the one that is written to",
            flag(copy.primary),
        ),
        Sample::counter(
            "shunt_store_copy_reads",
            "Links that a copy answered as a standby",
            copy.reads,
        ),
        Sample::counter(
            "shunt_store_copy_reads_failed",
            "Links that a standby was asked for and did not answer",
            copy.failures,
        ),
    ];
    if let Some(lag) = copy.lag {
        samples.push(Sample::gauge(
            "shunt_store_copy_lag_bytes",
            "Bytes of the primary's log that a standby has not replayed",
            lag.bytes as f64,
        ));
        if let Some(time) = lag.time {
            samples.push(Sample::gauge(
                "shunt_store_copy_lag_seconds",
                "How long ago the first of the bytes was written that a standby has not replayed",
                time.as_secs_f64(),
            ));
        }
    }
    if let Some(latency) = copy.latency {
        samples.push(Sample::gauge(
            "shunt_store_copy_round_trip_seconds",
            "The smoothed time of a round trip to a copy",
            latency.as_secs_f64(),
        ));
    }
    samples.into_iter().map(|sample| sample.with("copy", label)).collect()
}

/// Figures of the copies of one database.
pub(super) fn of_copies(store: &ReplicatedStore) -> Vec<Sample> {
    let stats = store.stats();
    let confirmed = |why, value| {
        let help = "Reads of a standby that did not count without the primary's word, by why";
        Sample::counter("shunt_store_reads_confirmed", help, value).with("why", why)
    };
    let mut samples = vec![
        Sample::counter(
            "shunt_store_primary_reads",
            "Links that redirects read from the primary, confirmations included",
            stats.primary_reads(),
        ),
        confirmed("absent", stats.confirmed_misses()),
        confirmed("old", stats.confirmed_old()),
        Sample::counter(
            "shunt_store_reads_hedged",
            "Reads for which another copy was asked because one was silent",
            stats.hedged(),
        ),
        Sample::counter(
            "shunt_store_primary_moves",
            "How often another copy became the primary",
            store.primary_moves(),
        ),
    ];
    let copies = store.copies();
    samples.extend(copies.iter().zip(NUMBERS).flat_map(|(copy, label)| of_copy(copy, label)));
    samples
}

impl Backend for Copies {
    fn place(&self) -> String {
        format!("postgres at {}", self.store.address())
    }

    fn samples(&self) -> Vec<Sample> {
        let mut all = samples(&[self.store.primary()]);
        all.extend(of_copies(&self.store));
        // Families must stand together.
        all.sort_by_key(|sample| sample.name);
        all
    }

    fn degraded(&self) -> Option<String> {
        let problems = self.store.problems().into_iter().map(|problem| problem.to_string());
        let all: Vec<String> =
            overdue(&[self.store.primary()]).into_iter().chain(problems).collect();
        (!all.is_empty()).then(|| all.join(". "))
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
