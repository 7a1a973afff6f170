//! Facts about links that are made together with their idempotency rows.

use std::sync::Arc;

use shunt_domain::ports::{
    CreateOnce, CreateRefusal, CreatedOnce, IdempotencyState, IdempotencyStore, LinkReader,
    LinkWriter, RenderCreated,
};
use shunt_domain::{Outcome, Stored};

use super::Subject;
use super::fixtures::{create, get, key, link, soon};
use super::idempotency::{attempt, begin};
use super::links::join_all;

/// The answer shows that it was made of the link as stored.
fn render() -> RenderCreated {
    Arc::new(|link| {
        let text = format!("{} {}", link.code(), link.data.created_at.as_millis());
        (201, text.into_bytes())
    })
}

/// A read gives the link, a repetition its answer.
pub async fn the_link_and_its_answer_are_made_together<S: Subject>(subject: S)
where
    S::Store: CreateOnce + IdempotencyStore + LinkReader,
{
    let store = subject.store();
    let made = store.create_once(link("one"), attempt(1, 1, "one", 0), render(), soon()).await;
    let Outcome::Done(CreatedOnce::Created(made)) = made else { panic!("{made:?}") };
    let response = format!("one {}", made.data.created_at.as_millis()).into_bytes();
    assert_eq!(get(store, &key("one")).await, Some(Stored::Link(made)));
    let done = IdempotencyState::Done { status: 201, response };
    let again = store.create_once(link("two"), attempt(1, 1, "two", 5), render(), soon()).await;
    assert_eq!(again, Outcome::Done(CreatedOnce::Earlier(done.clone())));
    assert_eq!(begin(store, attempt(1, 1, "three", 5_000)).await, done);
    assert_eq!(get(store, &key("two")).await, None);
}

/// A code that is taken leaves nothing behind: the same key may be used for anything.
pub async fn a_refused_create_leaves_the_key_free<S: Subject>(subject: S)
where
    S::Store: CreateOnce + IdempotencyStore + LinkReader + LinkWriter,
{
    let store = subject.store();
    let first = create(store, link("one")).await;
    let taken = store.create_once(link("one"), attempt(1, 1, "one", 0), render(), soon()).await;
    assert_eq!(taken, Outcome::Refused(CreateRefusal::Taken));
    assert_eq!(get(store, &key("one")).await, Some(Stored::Link(Box::new(first))));
    assert_eq!(begin(store, attempt(1, 2, "other", 1)).await, IdempotencyState::Fresh);
}

/// A running attempt, another request, an attempt that broke off: each as `begin` tells it.
pub async fn other_attempts_are_seen_and_nothing_is_made<S: Subject>(subject: S)
where
    S::Store: CreateOnce + IdempotencyStore + LinkReader,
{
    let store = subject.store();
    begin(store, attempt(1, 1, "first", 0)).await;
    let resume =
        IdempotencyState::Resume { choice: "first".to_owned(), began_at: attempt(1, 1, "", 0).now };
    for (request, expected) in [
        (attempt(1, 1, "new", 999), IdempotencyState::Running),
        (attempt(1, 2, "new", 1_000), IdempotencyState::Mismatch),
        (attempt(1, 1, "new", 1_000), resume),
        // The lease was taken over.
        (attempt(1, 1, "new", 1_500), IdempotencyState::Running),
    ] {
        let told = store.create_once(link("new"), request, render(), soon()).await;
        assert_eq!(told, Outcome::Done(CreatedOnce::Earlier(expected)));
        assert_eq!(get(store, &key("new")).await, None);
    }
}

/// All but one are answered with what the one made.
pub async fn concurrent_creates_under_one_key_make_one_link<S: Subject>(subject: S)
where
    S::Store: CreateOnce + LinkReader,
{
    let store = subject.store();
    let codes: Vec<String> = (0..16).map(|n| format!("code{n}")).collect();
    let tries = codes
        .iter()
        .map(|code| store.create_once(link(code), attempt(1, 1, code, 0), render(), soon()));
    let mut made = Vec::new();
    let mut told = Vec::new();
    for outcome in join_all(tries).await {
        match outcome.done().unwrap() {
            CreatedOnce::Created(link) => made.push(link),
            CreatedOnce::Earlier(IdempotencyState::Done { response, .. }) => told.push(response),
            CreatedOnce::Earlier(other) => panic!("{other:?}"),
        }
    }
    assert_eq!((made.len(), told.len()), (1, 15));
    let answer = format!("{} {}", made[0].code(), made[0].data.created_at.as_millis());
    assert!(told.iter().all(|response| response == answer.as_bytes()));
    let mut found = 0;
    for code in &codes {
        found += usize::from(get(store, &key(code)).await.is_some());
    }
    assert_eq!(found, 1);
}
