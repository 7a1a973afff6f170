//! Facts about roll-ups: batches are applied whole and once, whatever is repeated.

use shunt_domain::ports::{
    BootId, HourRow, LedgerRow, NodeId, RollupBatch, RollupRefusal, RollupStore, SeqRange, Totals,
};
use shunt_domain::{Code, Deadline, DomainId, Lane, LinkKey, Outcome, Timestamp};

use super::fixtures::{key, soon};
use super::links::join_all;
use super::{Restart, Subject};

pub mod model;

/// `RollupStore`.
#[macro_export]
macro_rules! conformance_rollups {
    ($make:expr) => {
        $crate::conformance_rollups!($make, conformance_facts);
    };
    ($make:expr, $how:ident) => {
        $crate::$how!(
            rollups,
            $make,
            [
                nothing_is_counted_at_first,
                a_batch_is_applied_whole,
                hours_are_sorted_and_from_is_inclusive,
                links_differ_by_domain_and_by_case,
                a_repeated_batch_is_refused_and_changes_nothing,
                a_batch_that_overlaps_is_refused_by_what_overlaps,
                marks_are_merged_runs,
                marks_of_lanes_boots_and_nodes_are_apart,
                a_batch_may_be_rows_or_ledger_or_nothing_alone,
                the_ledger_keeps_the_last_word,
                concurrent_copies_of_a_batch_have_one_winner,
                a_batch_whose_deadline_has_passed_is_not_acknowledged,
                applied_batches_survive_a_crash_and_a_restart,
            ]
        );
    };
}

const NODE: NodeId = NodeId(0xffee_ddcc_bbaa_9988);

fn run(lane: u8, first: u64, last: u64) -> SeqRange {
    SeqRange { node: NODE, boot: BootId(3), lane: Lane::new(lane).unwrap(), first, last }
}

fn row(code: &str, hour: i64, clicks: u64) -> HourRow {
    HourRow { key: key(code), hour, clicks, humans: clicks / 2, heads: clicks / 5 }
}

fn ledger(boot: u64, served: u64) -> LedgerRow {
    LedgerRow {
        node: NODE,
        boot: BootId(boot),
        served,
        lost: 1,
        counted: 0,
        at: Timestamp::from_millis(1_795_305_600_000),
        closed: false,
        unknown: false,
    }
}

fn batch(marks: &[SeqRange], rows: &[HourRow]) -> RollupBatch {
    RollupBatch { marks: marks.to_vec(), rows: rows.to_vec(), ledger: Vec::new() }
}

async fn totals(store: &impl RollupStore, key: &LinkKey) -> (u64, u64, u64) {
    let Totals { clicks, humans, heads } = store.totals(key, soon()).await.unwrap();
    (clicks, humans, heads)
}

async fn marks(store: &impl RollupStore) -> Vec<SeqRange> {
    store.marks(NODE, soon()).await.unwrap()
}

/// Zero is an answer, not an error.
pub async fn nothing_is_counted_at_first<S: Subject>(subject: S)
where
    S::Store: RollupStore,
{
    let store = subject.store();
    assert_eq!(totals(store, &key("a")).await, (0, 0, 0));
    assert_eq!(store.hours(&key("a"), i64::MIN, i64::MAX, soon()).await, Ok(Vec::new()));
    assert_eq!(marks(store).await, []);
    assert_eq!(store.ledger(soon()).await, Ok(Vec::new()));
}

/// Rows, marks and ledger of one batch, and a second one on top.
pub async fn a_batch_is_applied_whole<S: Subject>(subject: S)
where
    S::Store: RollupStore,
{
    let store = subject.store();
    let first = RollupBatch {
        marks: vec![run(0, 0, 9), run(63, 0, 4)],
        rows: vec![row("a", 100, 10), row("a", 101, 20), row("b", 100, 5)],
        ledger: vec![ledger(3, 17)],
    };
    assert_eq!(store.apply(first, soon()).await, Outcome::Done(()));
    let second = batch(&[run(0, 10, 10)], &[row("a", 101, 10), row("c", 101, 1)]);
    assert_eq!(store.apply(second, soon()).await, Outcome::Done(()));
    assert_eq!(totals(store, &key("a")).await, (40, 20, 8));
    assert_eq!(totals(store, &key("b")).await, (5, 2, 1));
    assert_eq!(totals(store, &key("c")).await, (1, 0, 0));
    let hours = store.hours(&key("a"), 0, 1000, soon()).await.unwrap();
    assert_eq!(hours, [row("a", 100, 10), HourRow { humans: 15, ..row("a", 101, 30) }]);
    assert_eq!(marks(store).await, [run(0, 0, 10), run(63, 0, 4)]);
    let rows = store.ledger(soon()).await.unwrap();
    assert_eq!(rows, [LedgerRow { counted: 16, ..ledger(3, 17) }]);
}

/// Also before 1970, and with wide gaps.
pub async fn hours_are_sorted_and_from_is_inclusive<S: Subject>(subject: S)
where
    S::Store: RollupStore,
{
    let store = subject.store();
    let hours = [-700_000, -1, 0, 1, 5, 500_000];
    let rows: Vec<HourRow> = hours.iter().map(|&hour| row("a", hour, 3)).collect();
    // Other links' hours lie in between.
    let others: Vec<HourRow> = (-3..9).map(|hour| row("b", hour, 1)).collect();
    let all = [rows.clone(), others].concat();
    assert_eq!(store.apply(batch(&[run(0, 0, 0)], &all), soon()).await, Outcome::Done(()));
    let a = key("a");
    assert_eq!(store.hours(&a, i64::MIN, i64::MAX, soon()).await.unwrap(), rows);
    assert_eq!(store.hours(&a, -1, 5, soon()).await.unwrap(), rows[1..4]);
    assert_eq!(store.hours(&a, -1, 6, soon()).await.unwrap(), rows[1..5]);
    assert_eq!(store.hours(&a, 2, 5, soon()).await.unwrap(), []);
    assert_eq!(store.hours(&a, 5, 5, soon()).await.unwrap(), []);
    assert_eq!(store.hours(&a, 6, 5, soon()).await.unwrap(), []);
}

/// A code is bytes, and a link is its code and domain.
pub async fn links_differ_by_domain_and_by_case<S: Subject>(subject: S)
where
    S::Store: RollupStore,
{
    let store = subject.store();
    let keys = [("AB", 0), ("Ab", 0), ("ab", 0), ("ab", 1), ("ab", u32::MAX)];
    let keys =
        keys.map(|(code, domain)| LinkKey::new(DomainId(domain), Code::parse(code).unwrap()));
    let rows: Vec<HourRow> = keys
        .iter()
        .zip(1..)
        .map(|(key, clicks)| HourRow { key: key.clone(), ..row("x", 7, clicks) })
        .collect();
    assert_eq!(store.apply(batch(&[run(1, 0, 0)], &rows), soon()).await, Outcome::Done(()));
    for (key, row) in keys.iter().zip(rows) {
        assert_eq!(totals(store, key).await.0, row.clicks);
        assert_eq!(store.hours(key, 0, 10, soon()).await.unwrap(), [row]);
    }
}

/// Twice the same: the second time nothing happens, and the store says why.
pub async fn a_repeated_batch_is_refused_and_changes_nothing<S: Subject>(subject: S)
where
    S::Store: RollupStore,
{
    let store = subject.store();
    let marks_of = [run(0, 0, 9), run(1, 5, 5)];
    let mut once = batch(&marks_of, &[row("a", 1, 10)]);
    assert_eq!(store.apply(once.clone(), soon()).await, Outcome::Done(()));
    once.ledger.push(ledger(3, 100));
    let again = store.apply(once, soon()).await;
    assert_eq!(again, Outcome::Refused(RollupRefusal::Counted(marks_of.to_vec())));
    assert_eq!(totals(store, &key("a")).await.0, 10);
    assert_eq!(marks(store).await, marks_of);
    assert_eq!(store.ledger(soon()).await.unwrap(), []);
}

/// What is named is what is counted, no more, and nothing of the batch is applied.
pub async fn a_batch_that_overlaps_is_refused_by_what_overlaps<S: Subject>(subject: S)
where
    S::Store: RollupStore,
{
    let store = subject.store();
    let known = [run(0, 10, 19), run(0, 30, 39), run(2, 0, 0)];
    assert_eq!(store.apply(batch(&known, &[]), soon()).await, Outcome::Done(()));
    let overlaps = [
        (run(0, 0, 10), vec![run(0, 10, 10)]),
        (run(0, 19, 25), vec![run(0, 19, 19)]),
        (run(0, 12, 13), vec![run(0, 12, 13)]),
        (run(0, 0, 100), vec![run(0, 10, 19), run(0, 30, 39)]),
        (run(0, 15, 35), vec![run(0, 15, 19), run(0, 30, 35)]),
    ];
    for (mark, counted) in overlaps {
        let refused = batch(&[mark, run(5, 0, 7)], &[row("a", 1, 1)]);
        let outcome = store.apply(refused, soon()).await;
        assert_eq!(outcome, Outcome::Refused(RollupRefusal::Counted(counted)));
    }
    assert_eq!(marks(store).await, known);
    assert_eq!(totals(store, &key("a")).await.0, 0);
    let between = batch(&[run(0, 20, 29)], &[row("a", 1, 1)]);
    assert_eq!(store.apply(between, soon()).await, Outcome::Done(()));
}

/// Runs that touch become one, in any order.
pub async fn marks_are_merged_runs<S: Subject>(subject: S)
where
    S::Store: RollupStore,
{
    let store = subject.store();
    let steps = [
        (run(7, 0, 4), vec![(0, 4)]),
        (run(7, 10, 14), vec![(0, 4), (10, 14)]),
        (run(7, 15, 15), vec![(0, 4), (10, 15)]),
        (run(7, 9, 9), vec![(0, 4), (9, 15)]),
        (run(7, 6, 7), vec![(0, 4), (6, 7), (9, 15)]),
        (run(7, 5, 5), vec![(0, 7), (9, 15)]),
        (run(7, 8, 8), vec![(0, 15)]),
        (run(7, 17, 17), vec![(0, 15), (17, 17)]),
    ];
    for (mark, runs) in steps {
        assert_eq!(store.apply(batch(&[mark], &[]), soon()).await, Outcome::Done(()));
        let expected: Vec<_> = runs.into_iter().map(|(a, b)| run(7, a, b)).collect();
        assert_eq!(marks(store).await, expected);
    }
    let two = batch(&[run(7, 16, 16), run(7, 18, 20)], &[]);
    assert_eq!(store.apply(two, soon()).await, Outcome::Done(()));
    assert_eq!(marks(store).await, [run(7, 0, 20)]);
}

/// The same numbers elsewhere are other events.
pub async fn marks_of_lanes_boots_and_nodes_are_apart<S: Subject>(subject: S)
where
    S::Store: RollupStore,
{
    let store = subject.store();
    let here = run(4, 0, 9);
    let others = [
        SeqRange { boot: BootId(2), ..here },
        SeqRange { boot: BootId(4), ..here },
        run(3, 0, 9),
        run(5, 0, 9),
    ];
    let elsewhere = SeqRange { node: NodeId(1), ..here };
    for mark in others.iter().chain([&here, &elsewhere]) {
        assert_eq!(store.apply(batch(&[*mark], &[]), soon()).await, Outcome::Done(()));
    }
    let mut expected = [&others[..], &[here]].concat();
    expected.sort_unstable();
    assert_eq!(marks(store).await, expected);
    assert_eq!(store.marks(NodeId(1), soon()).await.unwrap(), [elsewhere]);
    assert_eq!(store.marks(NodeId(2), soon()).await.unwrap(), []);
}

/// A heartbeat has no marks; a batch of undecodable events has no rows.
pub async fn a_batch_may_be_rows_or_ledger_or_nothing_alone<S: Subject>(subject: S)
where
    S::Store: RollupStore,
{
    let store = subject.store();
    assert_eq!(store.apply(RollupBatch::default(), soon()).await, Outcome::Done(()));
    let only_ledger = RollupBatch { ledger: vec![ledger(3, 5)], ..RollupBatch::default() };
    for _ in 0..2 {
        assert_eq!(store.apply(only_ledger.clone(), soon()).await, Outcome::Done(()));
    }
    assert_eq!(store.apply(batch(&[run(0, 0, 1)], &[]), soon()).await, Outcome::Done(()));
    let rows = store.ledger(soon()).await.unwrap();
    assert_eq!(rows, [LedgerRow { counted: 2, ..ledger(3, 5) }]);
}

/// What a boot said last stands; once it is closed, what comes late changes nothing.
pub async fn the_ledger_keeps_the_last_word<S: Subject>(subject: S)
where
    S::Store: RollupStore,
{
    let store = subject.store();
    let say = async |row: LedgerRow| {
        let only = RollupBatch { ledger: vec![row], ..RollupBatch::default() };
        assert_eq!(store.apply(only, soon()).await, Outcome::Done(()));
        store.ledger(soon()).await.unwrap()
    };
    let later =
        LedgerRow { lost: 4, at: Timestamp::from_millis(1_795_305_700_000), ..ledger(3, 9) };
    let closed = LedgerRow { closed: true, unknown: true, ..later };
    assert_eq!(say(ledger(3, 5)).await, [ledger(3, 5)]);
    assert_eq!(say(later).await, [later]);
    assert_eq!(say(ledger(3, 5)).await, [later], "an older word comes late");
    assert_eq!(say(closed).await, [closed]);
    assert_eq!(say(LedgerRow { served: 99, ..later }).await, [closed]);
    // Another node whose number is small, and an earlier boot: in order.
    let small = LedgerRow { node: NodeId(1), ..ledger(8, 1) };
    say(small).await;
    assert_eq!(say(ledger(2, 7)).await, [small, ledger(2, 7), closed]);
}

/// Two workers that hold the same events.
pub async fn concurrent_copies_of_a_batch_have_one_winner<S: Subject>(subject: S)
where
    S::Store: RollupStore,
{
    let store = subject.store();
    for round in 0..10 {
        let one = batch(&[run(0, round * 10, round * 10 + 9)], &[row("a", 1, 10)]);
        let outcomes = join_all((0..8).map(|_| store.apply(one.clone(), soon()))).await;
        let done = outcomes.iter().filter(|outcome| **outcome == Outcome::Done(())).count();
        assert_eq!(done, 1, "{outcomes:?}");
    }
    assert_eq!(totals(store, &key("a")).await.0, 100);
}

/// It may not have happened, so it is never "done".
pub async fn a_batch_whose_deadline_has_passed_is_not_acknowledged<S: Subject>(subject: S)
where
    S::Store: RollupStore,
{
    let store = subject.store();
    let past = Deadline::at(std::time::Instant::now());
    let outcome = store.apply(batch(&[run(0, 0, 0)], &[row("a", 1, 1)]), past).await;
    assert_ne!(outcome, Outcome::Done(()));
}

/// Acknowledged is durable, and what was counted stays counted.
pub async fn applied_batches_survive_a_crash_and_a_restart<S: Restart>(subject: S)
where
    S::Store: RollupStore,
{
    let once = RollupBatch {
        marks: vec![run(0, 0, 9)],
        rows: vec![row("a", 1, 10)],
        ledger: vec![ledger(3, 17)],
    };
    assert_eq!(subject.store().apply(once.clone(), soon()).await, Outcome::Done(()));
    let mut subject = subject;
    for crash in [true, false] {
        subject = if crash { subject.crash() } else { subject.restart() };
        let store = subject.store();
        assert_eq!(totals(store, &key("a")).await, (10, 5, 2));
        assert_eq!(marks(store).await, [run(0, 0, 9)]);
        let rows = store.ledger(soon()).await.unwrap();
        assert_eq!(rows, [LedgerRow { counted: 10, ..ledger(3, 17) }]);
        let again = store.apply(once.clone(), soon()).await;
        assert!(matches!(again, Outcome::Refused(RollupRefusal::Counted(_))), "{again:?}");
    }
}
