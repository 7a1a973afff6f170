//! The writer and the readers at work: groups, deadlines, panics, closing.

use std::fs;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use shunt_domain::ports::{CreateRefusal, LinkReader, LinkWriter, ListQuery, MetaStore};
use shunt_domain::{Deadline, Outcome, StoreError, Version};

use super::super::{Lane, SqliteOptions, SqliteStore};
use crate::conformance::check;
use crate::conformance::fixtures::{BIRTH, codes, create, get, key, link, list_all, soon};

use super::{database, fresh};

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

/// Reads share snapshots under load; none is older than the read that was asked for, and none is
/// kept: each round sees the round's own write in every answer, a failing query among them.
#[test]
fn reads_that_come_together_see_what_was_committed_before_them() {
    let (_dir, store) = fresh();
    check(async {
        for round in 0..60 {
            create(&store, link(&format!("c{round}"))).await;
            let points = (0..200).map(|at| {
                let store = &store;
                async move {
                    if at % 50 == 7 {
                        let broken = store
                            .readers()
                            .run(Lane::Point, soon(), |db| db.execute("no sql", []))
                            .await;
                        assert!(broken.is_err());
                    }
                    get(store, &key(&format!("c{round}"))).await
                }
            });
            let found = crate::conformance::join_all(points).await;
            assert!(found.iter().all(Option::is_some), "round {round}");
            assert_eq!(store.reader_stats().queued.load(Ordering::Relaxed), 0);
        }
    });
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

/// Trigrams that are in every row but never together: the text index gives no row to go on from,
/// so the search is stopped and goes on by rows, in bounded pages, to its end.
#[test]
fn a_search_that_the_text_index_can_not_bound_still_ends() {
    let dir = tempfile::tempdir().unwrap();
    let list_budget = super::super::ListBudget { time: Duration::from_micros(200), rows: u64::MAX };
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
