//! Facts about small settings and daily secrets.

use shunt_domain::Outcome;
use shunt_domain::ports::MetaStore;

use super::Subject;
use super::fixtures::soon;
use super::links::join_all;

/// Missing, stored, replaced, empty.
pub async fn settings_are_kept<S: Subject>(subject: S)
where
    S::Store: MetaStore,
{
    let store = subject.store();
    assert_eq!(store.meta("node", soon()).await, Ok(None));
    for value in [&b"one"[..], b"\0\xff", b""] {
        store.set_meta("node", value.to_vec(), soon()).await.done().unwrap();
        assert_eq!(store.meta("node", soon()).await, Ok(Some(value.to_vec())));
    }
    assert_eq!(store.meta("other", soon()).await, Ok(None));
}

/// Everybody gets what was stored first.
pub async fn the_first_of_two_inserts_wins<S: Subject>(subject: S)
where
    S::Store: MetaStore,
{
    let store = subject.store();
    let tries = (0..8_u8).map(|value| store.meta_or_insert("node", vec![value], soon()));
    let mut answers: Vec<Vec<u8>> =
        join_all(tries).await.into_iter().map(|outcome| outcome.done().unwrap()).collect();
    answers.dedup();
    assert_eq!(answers.len(), 1);
    assert_eq!(store.meta("node", soon()).await.unwrap(), answers.pop());
}

/// The first one stays.
pub async fn a_day_has_one_secret<S: Subject>(subject: S)
where
    S::Store: MetaStore,
{
    let store = subject.store();
    assert_eq!(store.visitor_secret(100, [1; 32], soon()).await, Outcome::Done([1; 32]));
    assert_eq!(store.visitor_secret(100, [2; 32], soon()).await, Outcome::Done([1; 32]));
    assert_eq!(store.visitor_secret(101, [3; 32], soon()).await, Outcome::Done([3; 32]));
    assert_eq!(store.visitor_secret(100, [4; 32], soon()).await, Outcome::Done([1; 32]));
}

/// A day that is more than two days over has no secret any more.
pub async fn secrets_are_destroyed_two_days_later<S: Subject>(subject: S)
where
    S::Store: MetaStore,
{
    let store = subject.store();
    for day in 100..=102 {
        store.visitor_secret(day, [day as u8; 32], soon()).await.done().unwrap();
    }
    assert_eq!(store.visitor_secret(100, [1; 32], soon()).await, Outcome::Done([100; 32]));
    assert_eq!(store.visitor_secret(103, [103; 32], soon()).await, Outcome::Done([103; 32]));
    assert_eq!(store.visitor_secret(101, [1; 32], soon()).await, Outcome::Done([101; 32]));
    assert_eq!(store.visitor_secret(100, [2; 32], soon()).await, Outcome::Done([2; 32]));
}
