//! Backup and restore.

use std::fs;

use shunt_domain::ports::{LinkWriter, ListQuery, META_RANGE_KEY, MetaStore};

use super::super::{OpenError, Progress, SqliteStore};
use crate::conformance::check;
use crate::conformance::fixtures::{
    BIRTH, change, codes, create, export_all, get, key, link, list_all, soon, tags,
};

use super::{database, fresh, open};

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
        store.set_meta(META_RANGE_KEY, vec![7; 32], soon()).await.done().unwrap();
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
            let stored = store.meta(super::super::META_EPOCH, soon()).await.unwrap();
            assert_eq!(stored, Some(1_u64.to_be_bytes().to_vec()), "round {epoch}");
            // Counter values that count again must not give the codes they gave before.
            assert_eq!(store.meta(META_RANGE_KEY, soon()).await.unwrap(), None);
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
