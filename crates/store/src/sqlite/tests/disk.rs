//! Disks that are full or can't be written, and logs that were torn.

use std::fs;

use shunt_domain::ports::{CreateRefusal, LinkQuery, LinkWriter, ListQuery};
use shunt_domain::{Outcome, StoreError, Stored};
use tempfile::TempDir;

use super::super::{DbOptions, OpenError, SqliteOptions, SqliteStore};
use crate::conformance::check;
use crate::conformance::fixtures::{create, export_all, get, key, link, list_all, soon};

use super::{database, filled, fresh, open, refusal};

/// Runs a command of the system; false when it is not there or not allowed.
fn run(command: &str, arguments: &[&str]) -> bool {
    let status = std::process::Command::new(command)
        .args(arguments)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

/// A small file system of its own; `None` (said loudly) where mounting is not allowed.
struct Mount(TempDir);

impl Mount {
    fn tmpfs(options: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_str().unwrap();
        if run("mount", &["-t", "tmpfs", "-o", options, "tmpfs", path]) {
            Some(Self(dir))
        } else {
            eprintln!("SKIPPED: mounting a tmpfs needs root");
            None
        }
    }

    fn remount(&self, options: &str) {
        let path = self.0.path().to_str().unwrap();
        assert!(run("mount", &["-o", &format!("remount,{options}"), path]));
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        run("umount", &["-l", self.0.path().to_str().unwrap()]);
    }
}

#[test]
fn a_read_only_directory_says_so() {
    let Some(mount) = Mount::tmpfs("size=16m") else { return };
    mount.remount("ro");
    assert!(matches!(refusal(mount.0.path()), OpenError::ReadOnly { .. }));
    mount.remount("rw");
    open(mount.0.path()).unwrap().close();
    mount.remount("ro");
    assert!(matches!(refusal(mount.0.path()), OpenError::ReadOnly { .. }));
}

#[test]
fn a_full_disk_refuses_writes_loses_nothing_and_heals_without_a_restart() {
    let Some(mount) = Mount::tmpfs("size=2m") else { return };
    let store = open(mount.0.path()).unwrap();
    check(async {
        let mut made = Vec::new();
        let mut refused = 0;
        for at in 0..4_000 {
            let code = format!("c{at:05}");
            match store.create(link(&code), soon()).await {
                Outcome::Done(link) => made.push(link),
                Outcome::Refused(CreateRefusal::Store(StoreError::DiskFull)) => {
                    refused += 1;
                    // Known not done, and everything before is readable.
                    assert_eq!(get(&store, &key(&code)).await, None);
                    if refused == 20 {
                        break;
                    }
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(refused, 20, "the disk never got full");
        for link in &made {
            let found = get(&store, link.key()).await;
            assert_eq!(found, Some(Stored::Link(Box::new(link.clone()))));
        }
        mount.remount("size=64m");
        create(&store, link("healed")).await;
        assert_eq!(export_all(&store, 500).await.len(), made.len() + 1);
    });
    assert_eq!(store.diagnose(&mut |_| {}).unwrap().problems, Vec::<String>::new());
}

#[test]
fn a_disk_too_small_for_a_store_says_so() {
    let Some(mount) = Mount::tmpfs("size=32k") else { return };
    let error = refusal(mount.0.path());
    assert!(matches!(error, OpenError::DiskFull { .. }), "{error:?}");
}

/// Without any file system's help: the database may not grow.
#[test]
fn one_refused_operation_does_not_fail_its_neighbours() {
    let dir = filled(50);
    let pages = fs::metadata(database(&dir)).unwrap().len() / 4_096;
    let db = DbOptions { max_pages: Some(pages as u32 + 60), ..DbOptions::default() };
    let store = SqliteStore::open(dir.path(), SqliteOptions { db, ..SqliteOptions::default() });
    let store = store.unwrap();
    check(async {
        let long = format!("https://example.com/{}", "x".repeat(8_000));
        let huge = (0..200)
            .map(|at| {
                let mut new = link(&format!("huge{at}"));
                new.target = crate::conformance::fixtures::target(&long);
                new
            })
            .collect();
        let (first, huge, last) = tokio::join!(
            store.create(link("first"), soon()),
            store.create_many(huge, soon()),
            store.create(link("last"), soon()),
        );
        assert!(matches!(first, Outcome::Done(_)), "{first:?}");
        assert_eq!(huge, Outcome::Refused(StoreError::DiskFull));
        assert!(matches!(last, Outcome::Done(_)), "{last:?}");
        assert_eq!(store.approximate_count(soon()).await, Ok(52));
        assert_eq!(get(&store, &key("huge0")).await, None);
    });
    assert_eq!(store.diagnose(&mut |_| {}).unwrap().problems, Vec::<String>::new());
}

/// The log is cut at many places, as a power loss does: what was acknowledged before the cut is
/// there, what comes after it is whole or absent, and the store works.
#[test]
fn a_torn_log_loses_nothing_that_was_acknowledged_before_the_tear() {
    let (dir, store) = fresh();
    let log = dir.path().join("links.db-wal");
    // The log's length after each acknowledged create.
    let mut acknowledged: Vec<(String, u64)> = Vec::new();
    check(async {
        for at in 0..12 {
            let code = format!("c{at:05}");
            create(&store, link(&code)).await;
            acknowledged.push((code, fs::metadata(&log).unwrap().len()));
        }
    });
    let files = tempfile::tempdir().unwrap();
    crate::conformance::copy_files(dir.path(), files.path());
    drop(store);
    let bytes = fs::read(files.path().join("links.db-wal")).unwrap();
    let start = acknowledged[5].1 as usize;
    let frame = 4_096 + 24;
    let mut cuts: Vec<usize> = (start..bytes.len()).step_by(701).collect();
    // Around every frame's end, where it matters most.
    let ends = (start..=bytes.len()).step_by(frame);
    cuts.extend(ends.flat_map(|end| [end - 1, end, (end + 1).min(bytes.len())]));
    for cut in cuts {
        let copy = tempfile::tempdir().unwrap();
        crate::conformance::copy_files(files.path(), copy.path());
        fs::write(copy.path().join("links.db-wal"), &bytes[..cut]).unwrap();
        let store = open(copy.path()).unwrap();
        check(async {
            let rows = export_all(&store, 100).await;
            for (at, (code, end)) in acknowledged.iter().enumerate() {
                let there = rows.get(at).is_some_and(|row| row.key() == &key(code));
                assert!(there || *end > cut as u64, "{code} was lost by a cut at {cut}");
            }
            assert_eq!(store.approximate_count(soon()).await, Ok(rows.len() as u64));
            let query =
                ListQuery { text: Some("example".to_owned()), limit: 100, ..ListQuery::default() };
            assert_eq!(list_all(&store, &query).await.len(), rows.len());
            create(&store, link("after")).await;
        });
    }
}

/// A frame whose bytes changed ends the log there.
#[test]
fn a_garbled_log_ends_where_it_is_garbled() {
    let (dir, store) = fresh();
    check(async {
        for at in 0..5 {
            create(&store, link(&format!("c{at:05}"))).await;
        }
    });
    let copy = tempfile::tempdir().unwrap();
    crate::conformance::copy_files(dir.path(), copy.path());
    let log = copy.path().join("links.db-wal");
    let mut bytes = fs::read(&log).unwrap();
    let last = bytes.len() - 2_000;
    bytes[last] ^= 0xFF;
    fs::write(&log, bytes).unwrap();
    let store = open(copy.path()).unwrap();
    check(async {
        let rows = export_all(&store, 100).await;
        assert_eq!(rows.len(), 4, "only the last commit was touched");
    });
}
