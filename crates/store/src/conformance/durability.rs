//! Facts about what survives a restart or a crash.

use std::num::NonZeroU64;

use shunt_domain::ports::{
    Claim, CodePool, DomainStore, IdempotencyState, IdempotencyStore, KeyStore, LinkQuery,
    LinkReader, LinkWriter, ListQuery, MetaStore, Range, RangeLeases,
};
use shunt_domain::{LinkPatch, OwnerId, Stored};

use super::fixtures::{
    BIRTH, api_key, change, codes, create, export_all, full_link, get, key, link, list_all, soon,
    tags,
};
use super::idempotency::{attempt, begin};
use super::ranges::{give_back, lease, values};
use super::{Restart, pool};

/// Writes one of everything, ends the store's life by `end`, and looks for all of it.
async fn survives<S: Restart>(subject: S, end: impl FnOnce(S) -> S)
where
    S::Store: LinkReader + LinkWriter + LinkQuery + DomainStore + KeyStore + MetaStore,
{
    let store = subject.store();
    let rows = (0..300).map(|at| link(&format!("c{at:03}"))).collect();
    store.create_many(rows, soon()).await.done().unwrap();
    create(store, full_link("full")).await;
    store.delete(change("c007"), BIRTH, soon()).await.done().unwrap();
    let patch = LinkPatch {
        title: Some(Some("patched".into())),
        tags: Some(tags(&["kept"])),
        owner: Some(OwnerId(4)),
        ..LinkPatch::default()
    };
    store.patch(change("c008"), patch, BIRTH, soon()).await.done().unwrap();
    let domain = store.ensure_domain("a.example".to_owned(), soon()).await.done().unwrap();
    let api_key = store.add_key(api_key(1), soon()).await.done().unwrap();
    store.set_meta("node", b"seven".to_vec(), soon()).await.done().unwrap();
    store.visitor_secret(100, [1; 32], soon()).await.done().unwrap();
    let before = export_all(store, 100).await;
    assert_eq!(before.len(), 301);

    let subject = end(subject);
    let store = subject.store();
    assert_eq!(export_all(store, 100).await, before);
    assert_eq!(store.approximate_count(soon()).await, Ok(300));
    let found = ListQuery {
        text: Some("patched".to_owned()),
        tag: tags(&["kept"]).pop(),
        owner: Some(OwnerId(4)),
        limit: 10,
        ..ListQuery::default()
    };
    assert_eq!(codes(&list_all(store, &found).await), ["c008"]);
    assert_eq!(store.domains(soon()).await, Ok(vec![(domain, "a.example".to_owned())]));
    assert_eq!(store.keys(soon()).await, Ok(vec![api_key]));
    assert_eq!(store.meta("node", soon()).await, Ok(Some(b"seven".to_vec())));
    assert_eq!(store.visitor_secret(100, [2; 32], soon()).await.done(), Some([1; 32]));
    // And it goes on.
    create(store, link("after")).await;
    assert!(store.create(link("c007"), soon()).await.done().is_none());
}

/// Every kind of row, after a kill.
pub async fn acknowledged_writes_survive_a_crash<S: Restart>(subject: S)
where
    S::Store: LinkReader + LinkWriter + LinkQuery + DomainStore + KeyStore + MetaStore,
{
    survives(subject, S::crash).await;
}

/// Every kind of row, after a shutdown.
pub async fn acknowledged_writes_survive_a_restart<S: Restart>(subject: S)
where
    S::Store: LinkReader + LinkWriter + LinkQuery + DomainStore + KeyStore + MetaStore,
{
    survives(subject, S::restart).await;
}

/// A granted click stays granted.
pub async fn claimed_clicks_survive_a_crash<S: Restart>(mut subject: S)
where
    S::Store: LinkReader + LinkWriter,
{
    let mut new = link("abc");
    new.max_clicks = NonZeroU64::new(4);
    create(subject.store(), new).await;
    let mut granted = 0;
    for _ in 0..3 {
        for _ in 0..2 {
            let claim = subject.store().claim_click(key("abc"), BIRTH, soon()).await;
            granted += u64::from(matches!(claim.done(), Some(Claim::Granted(_))));
        }
        subject = subject.crash();
    }
    assert_eq!(granted, 4);
    let Some(Stored::Link(link)) = get(subject.store(), &key("abc")).await else {
        panic!("the link is gone")
    };
    assert_eq!(link.used, 4);
}

/// A crash burns what was leased, given-back rests aside.
pub async fn ranges_are_never_leased_again_after_a_crash<S: Restart>(mut subject: S)
where
    S::Store: RangeLeases,
{
    let mut leased = Vec::new();
    let mut dead = Vec::new();
    for _ in 0..4 {
        for len in [10, 100] {
            leased.push(lease(subject.store(), len).await);
        }
        dead.extend(leased.last().copied());
        subject = subject.crash();
        // The dead process's rest comes too late.
        for Range { start, end } in &dead {
            give_back(subject.store(), *start, *end).await;
        }
    }
    values(&leased);
}

/// A clean shutdown wastes nothing, and the rest is leased to one caller.
pub async fn rests_given_back_survive_a_restart_and_come_out_once<S: Restart>(subject: S)
where
    S::Store: RangeLeases,
{
    let first = lease(subject.store(), 100).await;
    give_back(subject.store(), first.start + 30, first.end).await;
    let subject = subject.restart();
    let second = lease(subject.store(), 100).await;
    assert_eq!(second, Range { start: first.start + 30, end: first.end });
    let subject = subject.crash();
    let third = lease(subject.store(), 100).await;
    values(&[Range { start: first.start, end: first.start + 30 }, second, third]);
}

/// A row of the pool that was handed out is gone, crash or not.
pub async fn claimed_codes_do_not_come_back<S: Restart>(subject: S)
where
    S::Store: CodePool,
{
    subject.store().add_codes(pool::rows(3, 4), soon()).await.done().unwrap();
    let first = subject.store().claim_codes(soon()).await.done().unwrap().unwrap();
    let subject = subject.crash();
    let second = subject.store().claim_codes(soon()).await.done().unwrap().unwrap();
    let subject = subject.restart();
    let third = subject.store().claim_codes(soon()).await.done().unwrap().unwrap();
    let mut all = [first, second, third].concat();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 12);
    assert_eq!(subject.store().pool_size(soon()).await, Ok(0));
}

/// A lease counts while its process lives, not longer.
pub async fn running_attempts_are_resumed_after_a_crash<S: Restart>(subject: S)
where
    S::Store: IdempotencyStore,
{
    let store = subject.store();
    assert_eq!(begin(store, attempt(1, 1, "first", 0)).await, IdempotencyState::Fresh);
    let subject = subject.crash();
    let resumed = IdempotencyState::Resume { choice: "first".to_owned(), began_at: BIRTH };
    assert_eq!(begin(subject.store(), attempt(1, 1, "second", 1)).await, resumed);
    assert_eq!(begin(subject.store(), attempt(1, 1, "third", 2)).await, IdempotencyState::Running);
}

/// Links created after a restart are newer than those before, at the same instant.
pub async fn order_goes_on_after_a_restart<S: Restart>(mut subject: S)
where
    S::Store: LinkWriter + LinkQuery,
{
    let mut expected = Vec::new();
    for at in 0..6 {
        let code = format!("c{}", (at * 5) % 7);
        create(subject.store(), link(&code)).await;
        expected.insert(0, code);
        subject = if at % 2 == 0 { subject.crash() } else { subject.restart() };
    }
    let query = ListQuery { limit: 10, ..ListQuery::default() };
    assert_eq!(codes(&list_all(subject.store(), &query).await), expected);
}
