//! Facts about idempotent writes.

use shunt_domain::ports::{IdempotencyScope, IdempotencyState, IdempotencyStore, IdempotentBegin};
use shunt_domain::{ApiKeyId, Outcome, Timestamp};

use super::Subject;
use super::fixtures::{BIRTH, soon};
use super::links::join_all;

fn at(offset: i64) -> Timestamp {
    Timestamp::from_millis(BIRTH.as_millis() + offset)
}

/// An attempt at `offset` milliseconds whose lease ends a second later.
pub(super) fn attempt(key: u8, request: u8, choice: &str, offset: i64) -> IdempotentBegin {
    IdempotentBegin {
        scope: IdempotencyScope::Key(ApiKeyId(1)),
        key_hash: [key; 32],
        request_hash: [request; 32],
        choice: choice.to_owned(),
        now: at(offset),
        lease_until: at(offset + 1_000),
    }
}

const SCOPE: IdempotencyScope = IdempotencyScope::Key(ApiKeyId(1));

/// Begins an attempt that the store must answer.
pub(super) async fn begin<S: IdempotencyStore>(
    store: &S,
    request: IdempotentBegin,
) -> IdempotencyState {
    store.begin(request, soon()).await.done().expect("an attempt begins")
}

/// The second attempt is told that the first one runs, until its lease ends.
pub async fn the_first_attempt_is_fresh_and_others_wait<S: Subject>(subject: S)
where
    S::Store: IdempotencyStore,
{
    let store = subject.store();
    assert_eq!(begin(store, attempt(1, 1, "a", 0)).await, IdempotencyState::Fresh);
    assert_eq!(begin(store, attempt(1, 1, "b", 999)).await, IdempotencyState::Running);
    assert_eq!(begin(store, attempt(2, 1, "c", 0)).await, IdempotencyState::Fresh);
}

/// The stored answer comes back byte for byte, as often as asked.
pub async fn a_completed_write_is_answered_again<S: Subject>(subject: S)
where
    S::Store: IdempotencyStore,
{
    let store = subject.store();
    begin(store, attempt(1, 1, "a", 0)).await;
    let response = b"Location: /x\n\n{\"code\":\"\0\xff\"}".to_vec();
    let done = store.complete(SCOPE, [1; 32], 201, response.clone(), soon()).await;
    assert_eq!(done, Outcome::Done(()));
    for offset in [1, 50_000] {
        let state = begin(store, attempt(1, 1, "b", offset)).await;
        assert_eq!(state, IdempotencyState::Done { status: 201, response: response.clone() });
    }
}

/// While it runs and after it is done.
pub async fn another_request_under_the_same_key_is_a_mismatch<S: Subject>(subject: S)
where
    S::Store: IdempotencyStore,
{
    let store = subject.store();
    begin(store, attempt(1, 1, "a", 0)).await;
    assert_eq!(begin(store, attempt(1, 2, "b", 1)).await, IdempotencyState::Mismatch);
    assert_eq!(begin(store, attempt(1, 2, "b", 9_000)).await, IdempotencyState::Mismatch);
    store.complete(SCOPE, [1; 32], 201, Vec::new(), soon()).await.done().unwrap();
    assert_eq!(begin(store, attempt(1, 2, "b", 2)).await, IdempotencyState::Mismatch);
}

/// The later attempt goes on with the earlier one's choice, and has a lease of its own.
pub async fn an_attempt_whose_lease_ran_out_is_resumed_with_its_choice<S: Subject>(subject: S)
where
    S::Store: IdempotencyStore,
{
    let store = subject.store();
    begin(store, attempt(1, 1, "first", 0)).await;
    let resumed = IdempotencyState::Resume { choice: "first".to_owned(), began_at: at(0) };
    assert_eq!(begin(store, attempt(1, 1, "second", 1_000)).await, resumed);
    assert_eq!(begin(store, attempt(1, 1, "third", 1_500)).await, IdempotencyState::Running);
    assert_eq!(begin(store, attempt(1, 1, "third", 2_000)).await, resumed);
}

/// A refused write leaves the key free, for any request.
pub async fn an_abandoned_attempt_is_forgotten<S: Subject>(subject: S)
where
    S::Store: IdempotencyStore,
{
    let store = subject.store();
    begin(store, attempt(1, 1, "a", 0)).await;
    store.abandon(SCOPE, [1; 32], soon()).await.done().unwrap();
    assert_eq!(begin(store, attempt(1, 2, "b", 1)).await, IdempotencyState::Fresh);
    // Nothing to forget is no error.
    store.abandon(SCOPE, [77; 32], soon()).await.done().unwrap();
}

/// What was answered stays answered.
pub async fn a_completed_write_can_not_be_abandoned_or_completed_anew<S: Subject>(subject: S)
where
    S::Store: IdempotencyStore,
{
    let store = subject.store();
    begin(store, attempt(1, 1, "a", 0)).await;
    store.complete(SCOPE, [1; 32], 201, b"one".to_vec(), soon()).await.done().unwrap();
    store.complete(SCOPE, [1; 32], 200, b"two".to_vec(), soon()).await.done().unwrap();
    store.abandon(SCOPE, [1; 32], soon()).await.done().unwrap();
    let state = begin(store, attempt(1, 1, "b", 1)).await;
    assert_eq!(state, IdempotencyState::Done { status: 201, response: b"one".to_vec() });
}

/// The same key of two bearers, or of nobody, is three keys.
pub async fn scopes_are_apart<S: Subject>(subject: S)
where
    S::Store: IdempotencyStore,
{
    let store = subject.store();
    let scopes = [
        IdempotencyScope::Anonymous,
        IdempotencyScope::Key(ApiKeyId(1)),
        IdempotencyScope::Key(ApiKeyId(2)),
    ];
    for scope in scopes {
        let request = IdempotentBegin { scope, ..attempt(1, 1, "a", 0) };
        assert_eq!(begin(store, request.clone()).await, IdempotencyState::Fresh, "{scope:?}");
        assert_eq!(begin(store, request).await, IdempotencyState::Running, "{scope:?}");
    }
    store.complete(scopes[0], [1; 32], 201, Vec::new(), soon()).await.done().unwrap();
    assert_eq!(begin(store, attempt(1, 1, "a", 1)).await, IdempotencyState::Running);
}

/// Those begun before the given time, answered or not.
pub async fn old_keys_are_purged<S: Subject>(subject: S)
where
    S::Store: IdempotencyStore,
{
    let store = subject.store();
    for (key, offset) in [(1, 0), (2, 10), (3, 20)] {
        begin(store, attempt(key, 1, "a", offset)).await;
    }
    store.complete(SCOPE, [1; 32], 201, Vec::new(), soon()).await.done().unwrap();
    assert_eq!(store.purge(at(20), soon()).await, Outcome::Done(2));
    assert_eq!(store.purge(at(20), soon()).await, Outcome::Done(0));
    assert_eq!(begin(store, attempt(1, 9, "a", 30)).await, IdempotencyState::Fresh);
    assert_eq!(begin(store, attempt(2, 9, "a", 30)).await, IdempotencyState::Fresh);
    assert_eq!(begin(store, attempt(3, 1, "a", 30)).await, IdempotencyState::Running);
}

/// Of many at once one is fresh, the others wait.
pub async fn concurrent_attempts_have_one_first<S: Subject>(subject: S)
where
    S::Store: IdempotencyStore,
{
    let store = subject.store();
    let tries = (0..16).map(|n| store.begin(attempt(1, 1, &n.to_string(), 0), soon()));
    let states: Vec<IdempotencyState> =
        join_all(tries).await.into_iter().map(|outcome| outcome.done().unwrap()).collect();
    let count = |state| states.iter().filter(|other| **other == state).count();
    assert_eq!((count(IdempotencyState::Fresh), count(IdempotencyState::Running)), (1, 15));
}
