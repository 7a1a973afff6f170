//! Facts about leases of counter ranges.

use shunt_domain::ports::{HighWater, Raised, Range, RangeLeases};

use super::Subject;
use super::fixtures::soon;
use super::links::join_all;

/// Leases a range that must be given.
pub(super) async fn lease<S: RangeLeases>(store: &S, len: u64) -> Range {
    store.lease(len, soon()).await.done().expect("a range is leased")
}

/// Gives a rest back.
pub(super) async fn give_back<S: RangeLeases>(store: &S, start: u64, end: u64) {
    store.give_back(Range { start, end }, soon()).await.done().expect("a rest is taken back");
}

/// Every value of the ranges, none twice.
pub(super) fn values(ranges: &[Range]) -> Vec<u64> {
    let mut values: Vec<u64> = ranges.iter().flat_map(|range| range.start..range.end).collect();
    let all = values.len();
    values.sort_unstable();
    values.dedup();
    assert_eq!(values.len(), all, "a value was leased twice: {ranges:?}");
    values
}

/// One after the other, of any length, never empty.
pub async fn leases_do_not_overlap<S: Subject>(subject: S)
where
    S::Store: RangeLeases,
{
    let mut ranges = Vec::new();
    for len in [1, 1_000, 7, 0, 100] {
        let range = lease(subject.store(), len).await;
        assert!(range.end > range.start && range.end - range.start <= len.max(1));
        ranges.push(range);
    }
    values(&ranges);
}

/// A rest is leased again, in pieces if it is larger than asked for, and then no more.
pub async fn rests_come_back_once<S: Subject>(subject: S)
where
    S::Store: RangeLeases,
{
    let store = subject.store();
    let first = lease(store, 100).await;
    let second = lease(store, 100).await;
    give_back(store, first.start + 40, first.end).await;
    give_back(store, second.start + 90, second.end).await;
    let mut used = vec![
        Range { start: first.start, end: first.start + 40 },
        Range { start: second.start, end: second.start + 90 },
    ];
    let mut again = Vec::new();
    for _ in 0..6 {
        again.push(lease(store, 25).await);
    }
    let rests: u64 = again
        .iter()
        .filter(|range| range.start < second.end.max(first.end))
        .map(|range| range.end - range.start)
        .sum();
    assert_eq!(rests, 70, "what was given back comes out first: {again:?}");
    used.extend(again);
    values(&used);
}

/// Given back twice, or never leased: not handed out twice.
pub async fn only_what_was_leased_can_be_given_back<S: Subject>(subject: S)
where
    S::Store: RangeLeases,
{
    let store = subject.store();
    let first = lease(store, 100).await;
    give_back(store, first.start + 50, first.end).await;
    give_back(store, first.start + 50, first.end).await;
    give_back(store, first.end + 1_000, first.end + 2_000).await;
    give_back(store, first.start + 10, first.start + 10).await;
    let mut all = vec![Range { start: first.start, end: first.start + 50 }];
    for _ in 0..50 {
        all.push(lease(store, 30).await);
    }
    give_back(store, first.start + 50, first.end + 1).await;
    for _ in 0..3 {
        all.push(lease(store, 30).await);
    }
    values(&all);
}

/// Callers at once get different values.
pub async fn concurrent_leases_do_not_overlap<S: Subject>(subject: S)
where
    S::Store: RangeLeases,
{
    let leases = join_all((0..32).map(|n| subject.store().lease(n + 1, soon()))).await;
    let ranges: Vec<Range> = leases.into_iter().map(|lease| lease.done().unwrap()).collect();
    values(&ranges);
}

/// Proposes a run and answers how it was judged.
async fn propose<S: HighWater>(store: &S, start: u64, end: u64) -> Raised {
    store.raise(Range { start, end }, soon()).await.done().expect("a proposal is judged")
}

/// The mark goes up over a proposal once, and nothing below it is leased again by any way.
pub async fn a_proposal_is_leased_only_above_the_mark<S: Subject>(subject: S)
where
    S::Store: HighWater,
{
    let store = subject.store();
    let first = lease(store, 100).await;
    let mark = first.end;
    assert_eq!(propose(store, mark, mark + 50).await, Raised::Yes);
    for (start, end) in [(mark, mark + 50), (mark + 49, mark + 99), (0, 10), (0, mark + 1_000)] {
        assert_eq!(propose(store, start, end).await, Raised::Beyond(mark + 50), "{start}..{end}");
    }
    // A gap is nobody's.
    assert_eq!(propose(store, mark + 60, mark + 70).await, Raised::Yes);
    assert_eq!(propose(store, mark + 50, mark + 60).await, Raised::Beyond(mark + 70));
    // Nonsense is refused, not stored.
    for (start, end) in [(mark + 80, mark + 80), (mark + 90, mark + 80), (mark + 80, u64::MAX)] {
        assert_eq!(propose(store, start, end).await, Raised::Beyond(mark + 70), "{start}..{end}");
    }
    let next = lease(store, 10).await;
    assert_eq!(next.start, mark + 70);
}

/// What is left of a leased proposal goes back like the rest of any lease, and comes out once.
pub async fn rests_of_proposals_come_back_once<S: Subject>(subject: S)
where
    S::Store: HighWater,
{
    let store = subject.store();
    assert_eq!(store.take_rest(10, soon()).await.done(), Some(None));
    assert_eq!(propose(store, 1_000, 1_100).await, Raised::Yes);
    give_back(store, 1_040, 1_100).await;
    // Never leased: the proposal was refused.
    assert_eq!(propose(store, 500, 600).await, Raised::Beyond(1_100));
    give_back(store, 500, 600).await;
    let mut again = Vec::new();
    while let Some(rest) = store.take_rest(25, soon()).await.done().unwrap() {
        again.push(rest);
    }
    assert_eq!(values(&again), (1_040..1_100).collect::<Vec<_>>());
}

/// Of the same proposal made by many at once one gets it.
pub async fn one_of_equal_proposals_wins<S: Subject>(subject: S)
where
    S::Store: HighWater,
{
    let store = subject.store();
    for round in 0..10_u64 {
        let proposed = Range { start: round * 100, end: round * 100 + 100 };
        let judged = join_all((0..16).map(|_| store.raise(proposed, soon()))).await;
        let won = judged
            .into_iter()
            .filter(|raised| matches!(raised, shunt_domain::Outcome::Done(Raised::Yes)));
        assert_eq!(won.count(), 1, "round {round}");
    }
}
