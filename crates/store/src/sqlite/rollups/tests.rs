//! The conformance suite on SQLite and on the model, both side by side, and what is SQLite's own.

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::conformance::fixtures::{key, soon};
use crate::conformance::rollups::model::RollupModel;
use crate::conformance::{Restart, Subject, check};
use crate::sqlite::Durability;

struct Model(RollupModel);

fn model() -> Model {
    Model(RollupModel::default())
}

impl Subject for Model {
    type Store = RollupModel;

    fn store(&self) -> &RollupModel {
        &self.0
    }
}

impl Restart for Model {
    fn restart(self) -> Self {
        self
    }

    fn crash(self) -> Self {
        self
    }
}

struct Sqlite {
    store: SqliteRollups,
    dir: TempDir,
}

fn open(dir: TempDir) -> Sqlite {
    Sqlite { store: SqliteRollups::open(dir.path(), DbOptions::default()).unwrap(), dir }
}

fn sqlite() -> Sqlite {
    open(tempfile::tempdir().unwrap())
}

impl Subject for Sqlite {
    type Store = SqliteRollups;

    fn store(&self) -> &SqliteRollups {
        &self.store
    }
}

impl Restart for Sqlite {
    fn restart(self) -> Self {
        self.store.close();
        open(self.dir)
    }

    /// What a kill leaves: the files as the operating system has them at this moment.
    fn crash(self) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["clicks.db", "clicks.db-wal"] {
            std::fs::copy(self.dir.path().join(name), dir.path().join(name)).unwrap();
        }
        open(dir)
    }
}

mod on_model {
    use super::*;
    crate::conformance_rollups!(model);
}

mod on_sqlite {
    use super::*;
    crate::conformance_rollups!(sqlite);
}

/// A fact that nobody runs proves nothing.
#[test]
fn every_fact_is_in_its_macro() {
    let source = include_str!("../../conformance/rollups/mod.rs");
    let facts: Vec<&str> = source
        .lines()
        .filter_map(|line| line.strip_prefix("pub async fn ")?.split('<').next())
        .collect();
    assert!(facts.len() >= 13);
    for fact in facts {
        assert!(source.contains(&format!("            {fact},\n")), "{fact} is not run");
    }
}

fn lane(number: u8) -> Lane {
    Lane::new(number).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Batches of any runs and rows, applied to both: the same answers, the same state.
    #[test]
    fn behaves_like_the_model(
        batches in proptest::collection::vec(
            (
                proptest::collection::btree_map((0_u64..2, 0_u8..2, 0_u64..40), 1_u64..6, 0..4),
                proptest::collection::btree_map(("[ab]{1,2}", -1_i64..3), 0_u64..5, 0..5),
                proptest::option::of((0_u64..2, 0_u64..50, any::<bool>())),
            ),
            1..30,
        ),
    ) {
        let (ours, theirs) = (sqlite(), model());
        let node = NodeId(u64::MAX - 5);
        check(async {
            for (marks, rows, word) in batches {
                let mut end = (0, 0, 0);
                let marks = marks
                    .into_iter()
                    .filter_map(|((boot, number, first), len)| {
                        // Sorted and apart, as a folder makes them.
                        let apart = (boot, number) != (end.0, end.1) || first > end.2;
                        let last = first + len - 1;
                        end = if apart { (boot, number, last + 1) } else { end };
                        let boot = BootId(boot);
                        apart.then_some(SeqRange { node, boot, lane: lane(number), first, last })
                    })
                    .collect();
                let rows = rows
                    .into_iter()
                    .map(|((code, hour), clicks)| HourRow {
                        key: key(&code),
                        hour,
                        clicks,
                        humans: clicks / 2,
                        heads: clicks % 2,
                    })
                    .collect();
                let ledger = word
                    .map(|(boot, served, closed)| LedgerRow {
                        node,
                        boot: BootId(boot),
                        served,
                        lost: served / 3,
                        counted: 0,
                        at: Timestamp::from_millis(served as i64),
                        closed,
                        unknown: closed && served % 2 == 0,
                    })
                    .into_iter()
                    .collect();
                let batch = RollupBatch { marks, rows, ledger };
                let expected = theirs.store().apply(batch.clone(), soon()).await;
                assert_eq!(ours.store().apply(batch, soon()).await, expected);
            }
            let (ours, theirs) = (ours.store(), theirs.store());
            assert_eq!(ours.marks(node, soon()).await, theirs.marks(node, soon()).await);
            assert_eq!(ours.ledger(soon()).await, theirs.ledger(soon()).await);
            for code in ["a", "b", "aa", "ab", "ba", "bb"] {
                let key = key(code);
                assert_eq!(ours.totals(&key, soon()).await, theirs.totals(&key, soon()).await);
                let hours = ours.hours(&key, 0, 2, soon()).await;
                assert_eq!(hours, theirs.hours(&key, 0, 2, soon()).await);
            }
        });
    }
}

fn big_batch(first: u64, links: u64, hour: i64) -> RollupBatch {
    let mut rows: Vec<HourRow> = (0..links)
        .map(|i| HourRow { key: key(&format!("k{i}")), hour, clicks: 1, humans: 1, heads: 0 })
        .collect();
    rows.sort();
    let last = first + links - 1;
    let mark = SeqRange { node: NodeId(1), boot: BootId(1), lane: lane(0), first, last };
    RollupBatch { marks: vec![mark], rows, ledger: Vec::new() }
}

/// The disk fills in the middle of a batch: nothing of it is there, and later it works.
#[test]
fn a_full_disk_refuses_the_whole_batch() {
    let dir = tempfile::tempdir().unwrap();
    let small = DbOptions { max_pages: Some(40), ..DbOptions::default() };
    let store = SqliteRollups::open(dir.path(), small).unwrap();
    check(async {
        assert_eq!(store.apply(big_batch(0, 100, 1), soon()).await, Outcome::Done(()));
        let outcome = store.apply(big_batch(100, 20_000, 1), soon()).await;
        assert_eq!(outcome, Outcome::Refused(RollupRefusal::Store(StoreError::DiskFull)));
        assert_eq!(store.totals(&key("k5"), soon()).await.unwrap().clicks, 1);
        let marks = store.marks(NodeId(1), soon()).await.unwrap();
        assert_eq!(marks.iter().map(|m| m.last).max(), Some(99));
    });
    drop(store);
    let store = SqliteRollups::open(dir.path(), DbOptions::default()).unwrap();
    check(async {
        let again = store.apply(big_batch(100, 20_000, 1), soon()).await;
        assert_eq!(again, Outcome::Done(()));
        assert_eq!(store.totals(&key("k5"), soon()).await.unwrap().clicks, 2);
    });
}

/// The other database's file is not taken for this one's.
#[test]
fn a_foreign_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("clicks.db"), vec![7; 4096]).unwrap();
    let error = SqliteRollups::open(dir.path(), DbOptions::default()).unwrap_err();
    assert!(matches!(error, OpenError::Foreign { .. }), "{error}");
}

/// A closed store refuses, and never hangs.
#[test]
fn a_closed_store_is_unavailable() {
    let subject = sqlite();
    subject.store.close();
    check(async {
        let outcome = subject.store.apply(RollupBatch::default(), soon()).await;
        assert!(
            matches!(outcome, Outcome::Refused(RollupRefusal::Store(StoreError::Unavailable(_)))),
            "{outcome:?}"
        );
        let read = subject.store.totals(&key("a"), soon()).await;
        assert!(matches!(read, Err(StoreError::Unavailable(_))), "{read:?}");
    });
}

/// How long a batch of 100,000 links takes, printed for whoever asks (`--nocapture`); the bound
/// only catches what is off by an order of magnitude.
#[test]
fn a_large_batch_is_stored_in_reasonable_time() {
    let dir = tempfile::tempdir().unwrap();
    let options = DbOptions { durability: Durability::Full, ..DbOptions::default() };
    let store = SqliteRollups::open(dir.path(), options).unwrap();
    let links = 100_000;
    check(async {
        for round in 0..3 {
            let batch = big_batch(round * links, links, 5);
            let began = std::time::Instant::now();
            assert_eq!(store.apply(batch, soon()).await, Outcome::Done(()));
            let took = began.elapsed();
            println!("batch {round}: {links} links in {took:?}");
            assert!(took < std::time::Duration::from_secs(20), "{took:?}");
        }
        assert_eq!(store.totals(&key("k99999"), soon()).await.unwrap().clicks, 3);
    });
}
