//! What the kinds of stores have in common.

use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use shunt_domain::Deadline;
use shunt_domain::ports::{MetaStore, NodeId};
use shunt_http::metrics::Sample;
use shunt_store::histogram::Log2Histogram;
use shunt_store::sqlite::DirLock;

use crate::config::Config;
use crate::serve::OpenMode;

/// How long the small reads and writes at the start may take.
const START_PATIENCE: Duration = Duration::from_secs(10);

/// Where a data directory keeps its node's number when the store is shared: 16 hexadecimal digits.
const NODE_FILE: &str = "node";

fn fresh_number() -> anyhow::Result<[u8; 8]> {
    let mut fresh = [0; 8];
    getrandom::fill(&mut fresh).context("get random numbers from the system")?;
    Ok(fresh)
}

/// Makes the data directory of a node whose links are elsewhere, takes it and reads its number.
///
/// # Errors
/// What is in the way.
pub(super) fn directory(config: &Config, mode: OpenMode) -> anyhow::Result<(DirLock, NodeId)> {
    let dir = config.data_dir.as_path();
    std::fs::create_dir_all(dir)
        .with_context(|| format!("make the data directory {}", dir.display()))?;
    let wait = match mode {
        OpenMode::Serve { wait } => wait,
        OpenMode::Existing | OpenMode::Create => Duration::ZERO,
    };
    let lock = DirLock::acquire(dir, wait)?;
    Ok((lock, node_in_directory(dir)?))
}

/// The number of the data directory whose store this is, made at the first start.
///
/// # Errors
/// What is in the way.
pub(super) async fn node_in_store(store: &dyn MetaStore) -> anyhow::Result<NodeId> {
    let deadline = Deadline::after(Instant::now(), START_PATIENCE);
    let stored = store.meta_or_insert("node_id", fresh_number()?.to_vec(), deadline).await;
    let stored = stored
        .done()
        .context("the store did not keep this node's number; look at the disk and start again")?;
    let bytes = <[u8; 8]>::try_from(stored.as_slice())
        .context("the store holds a damaged node number; run `shunt doctor`")?;
    Ok(NodeId(u64::from_le_bytes(bytes)))
}

/// The number of this data directory, made at the first start. The caller holds its lock.
///
/// # Errors
/// What is in the way.
fn node_in_directory(dir: &Path) -> anyhow::Result<NodeId> {
    let path = dir.join(NODE_FILE);
    let found = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let fresh = format!("{:016x}\n", u64::from_le_bytes(fresh_number()?));
            write_whole(dir, &path, &fresh)
                .with_context(|| format!("keep this node's number in {}", path.display()))?;
            fresh
        }
        Err(error) => {
            return Err(error).with_context(|| format!("read {}", path.display()));
        }
    };
    let number = u64::from_str_radix(found.trim(), 16);
    number.map(NodeId).with_context(|| {
        let path = path.display();
        format!("{path} holds no node number; if the spool is empty, delete it and start again")
    })
}

/// Writes a small file that is there whole or not at all, even after a power cut.
fn write_whole(dir: &Path, path: &Path, text: &str) -> std::io::Result<()> {
    let part = path.with_extension("part");
    std::fs::write(&part, text)?;
    std::fs::File::open(&part)?.sync_all()?;
    std::fs::rename(&part, path)?;
    std::fs::File::open(dir)?.sync_all()
}

/// Count and sum of a latency, of one database or of all that are one store: rate and mean over any
/// time.
pub(super) fn latency(
    samples: &mut Vec<Sample>,
    operation: &'static str,
    histograms: &[&Log2Histogram],
) {
    let count: u64 = histograms.iter().map(|histogram| histogram.count()).sum();
    let sum: u64 = histograms.iter().map(|histogram| histogram.sum()).sum();
    samples.push(
        Sample::counter("shunt_store_operations", "Store operations timed", count)
            .with("operation", operation),
    );
    samples.push(
        Sample::counter(
            "shunt_store_operation_microseconds",
            "Time spent in store operations, in microseconds",
            sum,
        )
        .with("operation", operation),
    );
    // Families must stand together: sort by name, keeping the order of their first members.
    samples.sort_by_key(|sample| sample.name);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_keeps_its_number() {
        let dir = tempfile::tempdir().unwrap();
        let node = node_in_directory(dir.path()).unwrap();
        assert_eq!(node_in_directory(dir.path()).unwrap(), node);
        let other = tempfile::tempdir().unwrap();
        assert_ne!(node_in_directory(other.path()).unwrap(), node);
        std::fs::write(dir.path().join(NODE_FILE), "x").unwrap();
        let error = node_in_directory(dir.path()).unwrap_err().to_string();
        assert!(error.contains("no node number"), "{error}");
    }
}
