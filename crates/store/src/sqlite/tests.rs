//! Faults of files, disks and processes, and what the writer and readers promise under them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use shunt_domain::ports::{CreateRefusal, LinkQuery, LinkReader, LinkWriter, ListQuery, MetaStore};
use shunt_domain::{Deadline, Outcome, StoreError, Stored, Version};
use tempfile::TempDir;

use super::{DbOptions, LINKS_DB, Lane, OpenError, Progress, SqliteOptions, SqliteStore};
use crate::conformance::check;
use crate::conformance::fixtures::{
    BIRTH, change, codes, create, export_all, full_link, get, key, link, list_all, soon, tags,
};

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

#[test]
fn writes_that_come_together_share_a_commit() {
    let (_dir, store) = fresh();
    check(async {
        let before = store.writer_stats().commits.load(Ordering::Relaxed);
        let writes = (0..500).map(|at| store.create(link(&format!("c{at}")), soon()));
        let outcomes = crate::conformance::join_all(writes).await;
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Done(_))));
        let stats = store.writer_stats();
        let commits = stats.commits.load(Ordering::Relaxed) - before;
        // The first few go alone while the others gather.
        assert!((1..=50).contains(&commits), "{commits} commits");
        assert!(stats.acknowledged.load(Ordering::Relaxed) >= 500);
        assert_eq!(stats.group_size.sum(), stats.acknowledged.load(Ordering::Relaxed));
        assert_eq!(stats.queued.load(Ordering::Relaxed), 0);
    });
}

/// Text index segments of one group are one: no operation flushes the others' index entries.
#[test]
fn a_group_of_mixed_writes_makes_few_index_segments() {
    let (dir, store) = fresh();
    check(async {
        let mut limited = link("limited");
        limited.max_clicks = std::num::NonZeroU64::new(1_000);
        create(&store, limited).await;
        let creates = (0..200).map(|at| store.create(link(&format!("c{at}")), soon()));
        let claims = (0..200).map(|_| store.claim_click(key("limited"), BIRTH, soon()));
        let (made, claimed) = tokio::join!(
            crate::conformance::join_all(creates),
            crate::conformance::join_all(claims)
        );
        assert!(made.iter().all(|outcome| matches!(outcome, Outcome::Done(_))));
        assert!(claimed.iter().all(|outcome| matches!(outcome, Outcome::Done(_))));
    });
    let commits = store.writer_stats().commits.load(Ordering::Relaxed);
    store.close();
    let db = Connection::open(database(&dir)).unwrap();
    let segments: i64 = db
        .query_row("SELECT count(DISTINCT segid) FROM links_fts_idx", [], |row| row.get(0))
        .unwrap();
    assert!(segments <= commits as i64 + 1, "{segments} segments of {commits} commits");
}

#[test]
fn a_write_given_up_in_the_queue_is_not_executed() {
    let (_dir, store) = fresh();
    check(async {
        // The writer is kept busy by a batch; what comes behind it with no time left is refused.
        let batch = (0..3_000).map(|at| link(&format!("c{at}"))).collect();
        let batch = store.create_many(batch, soon());
        let late = async {
            let moment = Deadline::after(Instant::now(), Duration::from_millis(1));
            store.create(link("late"), moment).await
        };
        let (batch, late) = tokio::join!(batch, late);
        assert!(matches!(batch, Outcome::Done(_)));
        match late {
            Outcome::Refused(CreateRefusal::Store(StoreError::Unavailable(_))) => {
                assert_eq!(get(&store, &key("late")).await, None);
            }
            Outcome::Done(_) => assert!(get(&store, &key("late")).await.is_some()),
            Outcome::Unknown(_) => {}
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn a_read_whose_deadline_has_passed_is_not_executed() {
    let (_dir, store) = fresh();
    check(async {
        let past = Deadline::at(Instant::now());
        let read = store
            .readers()
            .run(Lane::Point, past, |_| -> rusqlite::Result<()> { panic!("it must not run") });
        assert!(matches!(read.await, Err(StoreError::Unavailable(_))));
        // The pool is as good as before.
        assert_eq!(get(&store, &key("abc")).await, None);
    });
    assert!(store.reader_stats().expired.load(Ordering::Relaxed) <= 1);
}

#[test]
fn a_panic_in_a_query_or_a_write_is_its_own() {
    let (_dir, store) = fresh();
    check(async {
        for _ in 0..8 {
            let read = store
                .readers()
                .run(Lane::Scan, soon(), |_| -> rusqlite::Result<()> { panic!("on purpose") });
            assert!(matches!(read.await, Err(StoreError::Unavailable(_))));
            let write =
                store.writer().write(soon(), |_| -> rusqlite::Result<()> { panic!("on purpose") });
            assert!(matches!(write.await, Outcome::Unknown(_)));
        }
        create(&store, link("abc")).await;
        assert!(get(&store, &key("abc")).await.is_some());
    });
}

#[test]
fn slow_scans_do_not_hold_up_point_reads() {
    let (_dir, store) = fresh();
    check(async {
        let (release, held) = std::sync::mpsc::channel::<()>();
        let held = std::sync::Arc::new(std::sync::Mutex::new(held));
        let scans = (0..8).map(|_| {
            let held = std::sync::Arc::clone(&held);
            store.readers().run(Lane::Scan, soon(), move |_| {
                // Until the point read below is answered.
                let _ = held.lock().unwrap().recv();
                Ok(())
            })
        });
        let point = async {
            assert_eq!(get(&store, &key("abc")).await, None);
            drop(release);
        };
        let (scans, ()) = tokio::join!(crate::conformance::join_all(scans), point);
        assert!(scans.iter().all(Result::is_ok));
    });
}

#[test]
fn a_closed_store_refuses_and_says_so() {
    let (_dir, store) = fresh();
    let other = store.clone();
    store.close();
    store.close();
    check(async {
        let refused = other.create(link("abc"), soon()).await;
        assert!(
            matches!(refused, Outcome::Refused(CreateRefusal::Store(StoreError::Unavailable(_)))),
            "{refused:?}"
        );
        let refused = other.get(&key("abc"), Version(0), soon()).await;
        assert!(matches!(refused, Err(StoreError::Unavailable(_))));
    });
}

#[test]
fn closing_empties_the_log() {
    let (dir, store) = fresh();
    check(async { drop(create(&store, link("abc")).await) });
    assert!(store.file_sizes().log > 0);
    store.close();
    assert_eq!(store.file_sizes().log, 0);
    assert!(!dir.path().join("links.db-wal").exists());
}

/// Destroyed secrets are in no file any more: not in freed space, and soon not in the log.
#[test]
fn destroyed_secrets_leave_the_disk() {
    let (dir, store) = fresh();
    let holds = |needle: &[u8]| {
        ["links.db", "links.db-wal"].iter().any(|name| {
            let bytes = fs::read(dir.path().join(name)).unwrap_or_default();
            bytes.windows(needle.len()).any(|window| window == needle)
        })
    };
    check(async {
        let old = *b"0123456789abcdefghijklmnopqrstuv";
        store.visitor_secret(10, old, soon()).await.done().unwrap();
        assert!(holds(&old));
        store.visitor_secret(13, [1; 32], soon()).await.done().unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        while holds(&old) {
            assert!(Instant::now() < until, "the secret is still on the disk");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
}

#[test]
fn a_backup_is_whole_checked_and_without_secrets() {
    let (dir, store) = fresh();
    let copy = tempfile::tempdir().unwrap();
    let file = copy.path().join("backup.db");
    let secret = *b"visitor-secret-of-today-32-bytes";
    check(async {
        let rows = (0..3_000).map(|at| link(&format!("c{at}"))).collect();
        store.create_many(rows, soon()).await.done().unwrap();
        store.delete(change("c5"), BIRTH, soon()).await.done().unwrap();
        store.visitor_secret(10, secret, soon()).await.done().unwrap();
    });
    let mut steps = Vec::new();
    let report = store.backup(&file, &mut |progress| steps.push(progress)).unwrap();
    assert_eq!(report.links, 2_999);
    assert_eq!(report.bytes, fs::metadata(&file).unwrap().len());
    assert_eq!(steps.last(), Some(&Progress::Checking));
    let bytes = fs::read(&file).unwrap();
    assert!(!bytes.windows(32).any(|window| window == secret));
    assert_eq!(fs::read_dir(copy.path()).unwrap().count(), 1, "nothing else is left behind");
    let again = store.backup(&file, &mut |_| {}).unwrap_err();
    assert!(matches!(again, OpenError::Exists { .. }));
    // The store still has its own.
    check(async {
        assert_eq!(store.visitor_secret(10, [0; 32], soon()).await.done(), Some(secret));
    });
    drop(dir);
}

#[test]
fn a_backup_under_load_is_one_moment_and_ends() {
    let (_dir, store) = fresh();
    let copy = tempfile::tempdir().unwrap();
    let file = copy.path().join("backup.db");
    check(async {
        let rows = (0..5_000).map(|at| link(&format!("c{at}"))).collect();
        store.create_many(rows, soon()).await.done().unwrap();
    });
    let backing = store.clone();
    let report = std::thread::scope(|scope| {
        let backup = scope.spawn(|| backing.backup(&file, &mut |_| {}));
        check(async {
            let mut at = 0;
            while !backup.is_finished() {
                create(&store, link(&format!("new{at}"))).await;
                at += 1;
            }
        });
        backup.join().unwrap().unwrap()
    });
    let data = tempfile::tempdir().unwrap();
    SqliteStore::restore(&file, data.path(), false, &mut |_| {}).unwrap();
    let restored = open(data.path()).unwrap();
    check(async {
        let rows = export_all(&restored, 1_000).await;
        assert_eq!(rows.len() as u64, report.links);
    });
    assert_eq!(restored.diagnose(&mut |_| {}).unwrap().problems, Vec::<String>::new());
}

#[test]
fn a_restore_replaces_nothing_unasked_and_says_that_it_is_another_epoch() {
    let (dir, store) = fresh();
    let copy = tempfile::tempdir().unwrap();
    let file = copy.path().join("backup.db");
    check(async {
        let mut kept = link("kept");
        kept.tags = tags(&["tag"]);
        create(&store, kept).await;
    });
    store.backup(&file, &mut |_| {}).unwrap();
    check(async { drop(create(&store, link("later")).await) });
    let locked = SqliteStore::restore(&file, dir.path(), true, &mut |_| {}).unwrap_err();
    assert!(matches!(locked, OpenError::Locked { .. }));
    store.close();
    let exists = SqliteStore::restore(&file, dir.path(), false, &mut |_| {}).unwrap_err();
    assert!(matches!(exists, OpenError::Exists { .. }));
    for epoch in 1..3 {
        let report = SqliteStore::restore(&file, dir.path(), true, &mut |_| {}).unwrap();
        assert_eq!((report.links, report.epoch), (1, 1));
        let store = open(dir.path()).unwrap();
        check(async {
            assert!(get(&store, &key("kept")).await.is_some());
            assert_eq!(get(&store, &key("later")).await, None);
            let stored = store.meta(super::META_EPOCH, soon()).await.unwrap();
            assert_eq!(stored, Some(1_u64.to_be_bytes().to_vec()), "round {epoch}");
            let query = ListQuery { tag: tags(&["tag"]).pop(), limit: 5, ..ListQuery::default() };
            assert_eq!(codes(&list_all(&store, &query).await), ["kept"]);
        });
        store.close();
    }
}

#[test]
fn a_damaged_or_foreign_backup_is_not_restored() {
    let (dir, store) = fresh();
    let copy = tempfile::tempdir().unwrap();
    let file = copy.path().join("backup.db");
    check(async {
        let rows = (0..2_000).map(|at| link(&format!("c{at}"))).collect();
        store.create_many(rows, soon()).await.done().unwrap();
    });
    store.backup(&file, &mut |_| {}).unwrap();
    store.close();
    let before = fs::read(database(&dir)).unwrap();
    let whole = fs::read(&file).unwrap();
    let mut garbled = whole.clone();
    for page in (20..whole.len() / 4_096).step_by(3) {
        garbled[page * 4_096..(page + 1) * 4_096].fill(0x5A);
    }
    for bad in [&whole[..whole.len() / 2], &garbled, b"no database"] {
        fs::write(&file, bad).unwrap();
        let error = SqliteStore::restore(&file, dir.path(), true, &mut |_| {}).unwrap_err();
        let expected = matches!(error, OpenError::Corrupt { .. } | OpenError::Foreign { .. });
        assert!(expected, "{error:?}");
        assert_eq!(fs::read(database(&dir)).unwrap(), before);
    }
    let none = copy.path().join("none");
    let error = SqliteStore::restore(&none, dir.path(), true, &mut |_| {}).unwrap_err();
    assert!(matches!(error, OpenError::Missing { .. }));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "database and lock");
}

/// Trigrams that are in every row but never together: the text index gives no row to go on from,
/// so the search is stopped and goes on by rows, in bounded pages, to its end.
#[test]
fn a_search_that_the_text_index_can_not_bound_still_ends() {
    let dir = tempfile::tempdir().unwrap();
    let list_budget = super::ListBudget { time: Duration::from_micros(200), rows: u64::MAX };
    let options = SqliteOptions { list_budget, ..SqliteOptions::default() };
    let store = SqliteStore::open(dir.path(), options).unwrap();
    check(async {
        let rows = (0..4_000)
            .map(|at| {
                let mut new = link(&format!("c{at:05}"));
                // All of "xyxyz" in pieces: xyx, yxy, xyz; whole only once.
                let words = if at == 1_234 { "xyxyz" } else { "xyxy.xyz" };
                new.title = Some(words.into());
                new
            })
            .collect();
        store.create_many(rows, soon()).await.done().unwrap();
        for sort in [shunt_domain::ports::Sort::CreatedDesc, shunt_domain::ports::Sort::CodeAsc] {
            let text = Some("xyxyz".to_owned());
            let query = ListQuery { text, sort, limit: 10, ..ListQuery::default() };
            assert_eq!(codes(&list_all(&store, &query).await), ["c01234"]);
        }
    });
}

#[test]
fn a_query_that_runs_past_its_deadline_is_stopped() {
    let (_dir, store) = fresh();
    check(async {
        let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)
             SELECT count(*) FROM n";
        let moment = Deadline::after(Instant::now(), Duration::from_millis(20));
        for _ in 0..3 {
            let read = store.readers().run(Lane::Scan, moment, move |db| {
                db.query_row(endless, [], |row| row.get::<_, i64>(0))
            });
            assert!(matches!(read.await, Err(StoreError::Unavailable(_))));
        }
        // No thread is stuck: as many scans as there are threads run and end.
        let scans = (0..8).map(|_| store.readers().run(Lane::Scan, soon(), |_| Ok(())));
        assert!(crate::conformance::join_all(scans).await.iter().all(Result::is_ok));
    });
}
