use std::sync::atomic::Ordering;

use shunt_domain::ports::{BoxFuture, Change, ChangeRefusal, CreateRefusal};
use shunt_domain::{Code, DomainId, Link, LinkPatch, NewLink, Timestamp};
use tokio::sync::Notify;

use super::*;
use crate::l1::Kind;
use crate::testing::{GatedReader, ManualClock, link};

/// The resolver only ever claims; nothing else is called.
pub(super) struct NoWriter;

impl LinkWriter for NoWriter {
    fn create(&self, _: NewLink, _: Deadline) -> BoxFuture<'_, Outcome<Link, CreateRefusal>> {
        unreachable!("the resolver creates nothing")
    }
    fn create_many(
        &self,
        _: Vec<NewLink>,
        _: Deadline,
    ) -> BoxFuture<'_, Outcome<Vec<Result<Link, CreateRefusal>>, StoreError>> {
        unreachable!("the resolver creates nothing")
    }
    fn restore_many(
        &self,
        _: Vec<Stored>,
        _: Deadline,
    ) -> BoxFuture<'_, Outcome<Vec<Result<(), CreateRefusal>>, StoreError>> {
        unreachable!("the resolver restores nothing")
    }
    fn patch(
        &self,
        _: Change,
        _: LinkPatch,
        _: Timestamp,
        _: Deadline,
    ) -> BoxFuture<'_, Outcome<Link, ChangeRefusal>> {
        unreachable!("the resolver changes nothing")
    }
    fn delete(
        &self,
        _: Change,
        _: Timestamp,
        _: Deadline,
    ) -> BoxFuture<'_, Outcome<Version, ChangeRefusal>> {
        unreachable!("the resolver deletes nothing")
    }
    fn claim_click(
        &self,
        _: LinkKey,
        _: Timestamp,
        _: Deadline,
    ) -> BoxFuture<'_, Outcome<Claim, StoreError>> {
        Box::pin(std::future::pending())
    }
}

fn resolver() -> (Arc<Resolver>, Arc<GatedReader>, Arc<ManualClock>) {
    let reader = Arc::new(GatedReader::default());
    let clock = Arc::new(ManualClock::default());
    let options = Options {
        l1_bytes: 1 << 20,
        negative_ttl: Duration::from_secs(1),
        load_timeout: Duration::from_secs(5),
        claim_timeout: Duration::from_secs(5),
    };
    let resolver =
        Resolver::new(reader.clone(), Arc::new(NoWriter), clock.clone(), options, (1, 2));
    (resolver, reader, clock)
}

#[tokio::test]
async fn a_second_look_asks_nobody() {
    let (resolver, reader, _) = resolver();
    let a = link("aaaaaaa", "https://a.example/");
    reader.put(&a);
    for _ in 0..3 {
        let entry = resolver.resolve(a.key()).await.unwrap();
        assert_eq!(entry.target(), "https://a.example/");
    }
    assert_eq!(reader.reads.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_thousand_misses_at_once_are_one_load() {
    let (resolver, reader, _) = resolver();
    let a = link("aaaaaaa", "https://a.example/");
    reader.put(&a);
    let gate = Arc::new(Notify::new());
    *reader.gate.lock().unwrap() = Some(gate.clone());
    let asks: Vec<_> = (0..1_000)
        .map(|_| {
            let (resolver, key) = (resolver.clone(), a.key().clone());
            tokio::spawn(async move { resolver.resolve(&key).await })
        })
        .collect();
    reader.at_gate.notified().await;
    while resolver.stats().shared.load(Ordering::Relaxed) < 999 {
        tokio::task::yield_now().await;
    }
    gate.notify_one();
    for ask in asks {
        assert!(ask.await.unwrap().is_ok());
    }
    assert_eq!(reader.reads.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_load_outlives_the_client_that_started_it() {
    let (resolver, reader, _) = resolver();
    let a = link("aaaaaaa", "https://a.example/");
    reader.put(&a);
    let gate = Arc::new(Notify::new());
    *reader.gate.lock().unwrap() = Some(gate.clone());
    let (first, key) = (resolver.clone(), a.key().clone());
    let leaver = tokio::spawn(async move { first.resolve(&key).await });
    reader.at_gate.notified().await;
    leaver.abort();
    let _ = leaver.await;
    *reader.gate.lock().unwrap() = None;
    let (second, key) = (resolver.clone(), a.key().clone());
    let stayer = tokio::spawn(async move { second.resolve(&key).await });
    while resolver.stats().shared.load(Ordering::Relaxed) < 1 {
        tokio::task::yield_now().await;
    }
    gate.notify_one();
    assert!(stayer.await.unwrap().is_ok());
    assert_eq!(reader.reads.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_load_begun_before_an_edit_never_fills_and_later_callers_see_the_edit() {
    let (resolver, reader, _) = resolver();
    let old = link("aaaaaaa", "https://old.example/");
    reader.put(&old);
    let gate = Arc::new(Notify::new());
    *reader.gate.lock().unwrap() = Some(gate.clone());
    let (held, key) = (resolver.clone(), old.key().clone());
    let early = tokio::spawn(async move { held.resolve(&key).await });
    reader.at_gate.notified().await;

    // The edit commits while the old row is on its way.
    let mut new = link("aaaaaaa", "https://new.example/");
    new.version = Version(2);
    reader.put(&new);
    resolver.link_changed(new.key(), new.version);
    *reader.gate.lock().unwrap() = None;
    let entry = resolver.resolve(new.key()).await.unwrap();
    assert_eq!(entry.target(), "https://new.example/", "asked after the edit");

    gate.notify_one();
    assert_eq!(early.await.unwrap().unwrap().target(), "https://old.example/");
    let entry = resolver.resolve(new.key()).await.unwrap();
    assert_eq!(entry.target(), "https://new.example/", "the late load must not fill");
    assert_eq!(resolver.stats().refused_fills.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn clearing_keeps_earlier_loads_out_too() {
    let (resolver, reader, _) = resolver();
    let old = link("aaaaaaa", "https://old.example/");
    reader.put(&old);
    let gate = Arc::new(Notify::new());
    *reader.gate.lock().unwrap() = Some(gate.clone());
    let (held, key) = (resolver.clone(), old.key().clone());
    let early = tokio::spawn(async move { held.resolve(&key).await });
    reader.at_gate.notified().await;
    resolver.clear();
    gate.notify_one();
    early.await.unwrap().unwrap();
    assert!(resolver.l1().is_empty());
}

#[tokio::test]
async fn an_unreachable_store_is_never_cached_as_absent() {
    let (resolver, reader, _) = resolver();
    let a = link("aaaaaaa", "https://a.example/");
    reader.put(&a);
    reader.failing.store(true, Ordering::Relaxed);
    assert!(matches!(resolver.resolve(a.key()).await, Err(StoreError::Unavailable(_))));
    reader.failing.store(false, Ordering::Relaxed);
    assert_eq!(resolver.resolve(a.key()).await.unwrap().target(), "https://a.example/");
}

#[tokio::test]
async fn absent_is_remembered_and_a_create_ends_it_at_once() {
    let (resolver, reader, _) = resolver();
    let key = LinkKey::new(DomainId::DEFAULT, Code::parse("newlink").unwrap());
    for _ in 0..2 {
        assert_eq!(resolver.resolve(&key).await.unwrap().kind(), Kind::Absent);
    }
    assert_eq!(reader.reads.load(Ordering::Relaxed), 1);
    let created = link("newlink", "https://a.example/");
    reader.put(&created);
    resolver.link_changed(&key, created.version);
    assert_eq!(resolver.resolve(&key).await.unwrap().target(), "https://a.example/");
}

#[tokio::test(start_paused = true)]
async fn a_hung_store_is_unavailable_at_the_deadline() {
    let (resolver, reader, _) = resolver();
    let a = link("aaaaaaa", "https://a.example/");
    reader.put(&a);
    *reader.gate.lock().unwrap() = Some(Arc::new(Notify::new()));
    assert!(matches!(resolver.resolve(a.key()).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(resolver.claim(a.key()).await, Outcome::Unknown(UnknownCause::Deadline)));
}
