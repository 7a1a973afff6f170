//! Faults of files, disks and processes, and what the writer and readers promise under them.

mod backup;
mod disk;
mod files;
mod running;

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::{LINKS_DB, OpenError, SqliteOptions, SqliteStore};
use crate::conformance::check;
use crate::conformance::fixtures::{link, soon};
use shunt_domain::ports::LinkWriter;

fn open(dir: &Path) -> Result<SqliteStore, OpenError> {
    SqliteStore::open(dir, SqliteOptions::default())
}

fn fresh() -> (TempDir, SqliteStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    (dir, store)
}

/// A closed store with `count` links in it.
fn filled(count: usize) -> TempDir {
    let (dir, store) = fresh();
    check(async {
        let rows = (0..count).map(|at| link(&format!("c{at:05}"))).collect();
        store.create_many(rows, soon()).await.done().unwrap();
    });
    store.close();
    dir
}

fn database(dir: &TempDir) -> PathBuf {
    dir.path().join(LINKS_DB.file_name)
}

/// The error that opening ends with, which must be one line that says what to do.
fn refusal(dir: &Path) -> OpenError {
    let error = open(dir).expect_err("the store must not open");
    let text = error.to_string();
    assert!(!text.contains('\n') && (text.contains(';') || text.contains(':')), "{text}");
    error
}
