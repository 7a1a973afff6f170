//! Files that are damaged, foreign, locked or missing.

use std::fs;
use std::time::Duration;

use rusqlite::Connection;
use shunt_domain::ports::{LinkReader, LinkWriter};
use shunt_domain::{StoreError, Version};

use super::super::{DbOptions, LINKS_DB, OpenError, SqliteOptions, SqliteStore};
use crate::conformance::check;
use crate::conformance::fixtures::{BIRTH, change, create, full_link, get, key, link, soon};

use super::{database, filled, fresh, open, refusal};

#[test]
fn the_bundled_sqlite_has_no_log_reset_bug() {
    assert!(rusqlite::version_number() >= 3_051_003, "{}", rusqlite::version());
}

#[test]
fn a_text_file_is_foreign_and_stays_untouched() {
    let dir = tempfile::tempdir().unwrap();
    for content in [&b"hello"[..], &[b'x'; 5_000]] {
        fs::write(database(&dir), content).unwrap();
        assert!(matches!(refusal(dir.path()), OpenError::Foreign { .. }));
        assert_eq!(fs::read(database(&dir)).unwrap(), content);
    }
}

#[test]
fn another_programs_database_is_foreign_and_stays_untouched() {
    for sql in [
        "CREATE TABLE links (id INTEGER PRIMARY KEY, url TEXT)",
        "PRAGMA application_id = 77; PRAGMA user_version = 1; CREATE TABLE t (a)",
        "PRAGMA journal_mode = WAL; CREATE TABLE t (a)",
    ] {
        let dir = tempfile::tempdir().unwrap();
        Connection::open(database(&dir)).unwrap().execute_batch(sql).unwrap();
        let before = fs::read(database(&dir)).unwrap();
        assert!(matches!(refusal(dir.path()), OpenError::Foreign { .. }), "{sql}");
        assert_eq!(fs::read(database(&dir)).unwrap(), before);
    }
}

#[test]
fn a_newer_schema_is_refused() {
    let dir = filled(1);
    let db = Connection::open(database(&dir)).unwrap();
    db.execute_batch("PRAGMA user_version = 1000").unwrap();
    drop(db);
    match refusal(dir.path()) {
        OpenError::Newer { found: 1_000, known, .. } => {
            assert_eq!(known, LINKS_DB.migrations.len() as i64);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_truncated_file_is_corrupt() {
    let dir = filled(2_000);
    let whole = fs::read(database(&dir)).unwrap();
    for part in [whole.len() / 2, whole.len() - 4_096, whole.len() - 1, 8_192] {
        fs::write(database(&dir), &whole[..part]).unwrap();
        assert!(matches!(refusal(dir.path()), OpenError::Corrupt { .. }), "{part}");
    }
    fs::write(database(&dir), &whole[..50]).unwrap();
    assert!(matches!(refusal(dir.path()), OpenError::Foreign { .. }));
}

#[test]
fn a_garbled_schema_or_root_page_is_corrupt() {
    let dir = filled(2_000);
    let whole = fs::read(database(&dir)).unwrap();
    // Page 1 behind the header is the schema.
    let mut garbled = whole.clone();
    garbled[100..4_096].fill(0xAA);
    fs::write(database(&dir), &garbled).unwrap();
    assert!(matches!(refusal(dir.path()), OpenError::Corrupt { .. }));
    // Page 2 is the root of the first table.
    let mut garbled = whole;
    garbled[4_096..8_192].fill(0xAA);
    fs::write(database(&dir), &garbled).unwrap();
    assert!(matches!(refusal(dir.path()), OpenError::Corrupt { .. }));
}

#[test]
fn damage_deep_inside_is_found_by_the_full_check_and_never_answered_as_absent() {
    let dir = filled(3_000);
    let mut bytes = fs::read(database(&dir)).unwrap();
    // The pages with the rows of the later links.
    for page in bytes.chunks_mut(4_096) {
        let words = b"https://example.com/c02";
        if page.windows(words.len()).any(|window| window == words) {
            page.fill(0x5A);
        }
    }
    fs::write(database(&dir), &bytes).unwrap();
    let store = open(dir.path()).unwrap();
    let diagnosis = store.diagnose(&mut |_| {}).unwrap();
    assert!(!diagnosis.problems.is_empty());
    check(async {
        let mut damaged = 0;
        for at in (0..3_000).step_by(50) {
            match store.get(&key(&format!("c{at:05}")), Version(0), soon()).await {
                Ok(Some(_)) => {}
                Err(StoreError::Corrupt(_)) => damaged += 1,
                other => panic!("{other:?}"),
            }
        }
        assert!(damaged > 0);
    });
}

#[test]
fn a_healthy_store_has_no_problems() {
    let (_dir, store) = fresh();
    check(async {
        let rows = (0..500).map(|at| link(&format!("c{at:05}"))).collect();
        store.create_many(rows, soon()).await.done().unwrap();
        create(&store, full_link("full")).await;
        for at in 0..100 {
            store.delete(change(&format!("c{at:05}")), BIRTH, soon()).await.done().unwrap();
        }
    });
    let mut told = 0;
    let diagnosis = store.diagnose(&mut |rows| told = rows).unwrap();
    assert_eq!(diagnosis.problems, Vec::<String>::new());
    assert_eq!((diagnosis.rows, diagnosis.links, told), (501, 401, 501));
}

#[test]
fn tables_that_disagree_are_found_by_the_full_check() {
    for (sql, finding) in [
        ("UPDATE counters SET value = 7 WHERE name = 'live'", "counter"),
        ("INSERT INTO link_tags VALUES ('stray', 1)", "tag"),
        ("INSERT INTO range_rests VALUES (5, 9)", "ranges"),
        ("UPDATE links SET target = 'javascript:alert(1)' WHERE code = 'c00001'", "c00001"),
        ("UPDATE links SET target = 'https://other.example/zzzyyyxxx'", "text index misses"),
    ] {
        let dir = filled(10);
        Connection::open(database(&dir)).unwrap().execute_batch(sql).unwrap();
        let problems = open(dir.path()).unwrap().diagnose(&mut |_| {}).unwrap().problems;
        assert!(problems.iter().any(|problem| problem.contains(finding)), "{sql}: {problems:?}");
    }
}

#[test]
fn a_second_opener_is_told_who_has_the_directory() {
    let (dir, store) = fresh();
    match refusal(dir.path()) {
        OpenError::Locked { pid, .. } => assert_eq!(pid, Some(std::process::id())),
        other => panic!("{other:?}"),
    }
    store.close();
    open(dir.path()).unwrap();
}

#[test]
fn a_successor_can_wait_for_the_directory() {
    let (dir, store) = fresh();
    let options = SqliteOptions { lock_wait: Duration::from_secs(30), ..SqliteOptions::default() };
    let path = dir.path().to_owned();
    let successor = std::thread::spawn(move || SqliteStore::open(&path, options));
    check(async {
        create(&store, link("last")).await;
    });
    store.close();
    let successor = successor.join().unwrap().unwrap();
    check(async { assert!(get(&successor, &key("last")).await.is_some()) });
}

#[test]
fn a_missing_store_is_only_made_when_that_is_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let db = DbOptions { create: false, ..DbOptions::default() };
    let options = SqliteOptions { db, ..SqliteOptions::default() };
    for path in [dir.path().to_owned(), dir.path().join("none")] {
        let error = SqliteStore::open(&path, options.clone()).unwrap_err();
        assert!(matches!(error, OpenError::Missing { .. }), "{error:?}");
    }
    assert!(fs::read_dir(dir.path()).unwrap().next().is_none());
    open(&dir.path().join("made/for/it")).unwrap();
}

#[test]
fn a_directory_that_can_not_be_made_says_so() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), b"").unwrap();
    let error = refusal(&dir.path().join("file/data"));
    assert!(matches!(error, OpenError::CannotCreate { .. }), "{error:?}");
}
