//! The store's feed of changes, on a real PostgreSQL.

use std::time::Duration;

use shunt_cluster::Postgres;
use shunt_domain::ports::{Change, ChangeFeed, FeedPosition, Invalidation, LinkWriter};
use shunt_domain::{
    Code, DomainId, LinkKey, LinkPatch, NewLink, OwnerId, RedirectStatus, Target, TargetRules,
    Timestamp, Version,
};
use shunt_store::postgres::{PostgresOptions, PostgresStore};
use tokio_postgres::NoTls;

use crate::kit::soon;

struct World {
    postgres: Postgres,
    store: PostgresStore,
    runtime: tokio::runtime::Runtime,
}

impl World {
    fn new() -> Self {
        let postgres = Postgres::setup().fast().start().unwrap();
        postgres.create_database("shunt").unwrap();
        let options = PostgresOptions::from_url(&postgres.url("shunt")).unwrap();
        PostgresStore::migrate(&options).unwrap();
        let store = PostgresStore::open(options).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { postgres, store, runtime }
    }

    fn create(&self, code: &str) -> LinkKey {
        let key = LinkKey::new(DomainId::DEFAULT, Code::parse(code).unwrap());
        let link = NewLink {
            key: key.clone(),
            target: Target::parse("https://a.example/", &TargetRules::default()).unwrap(),
            title: None,
            tags: Vec::new(),
            owner: OwnerId::ANONYMOUS,
            created_at: Timestamp::from_millis(1_000),
            valid_from: None,
            expires_at: None,
            max_clicks: None,
            status: RedirectStatus::Found,
            forward_query: false,
            enabled: true,
        };
        self.runtime.block_on(self.store.create(link, soon())).done().unwrap();
        key
    }

    fn patch(&self, key: &LinkKey, expected: Option<Version>) -> bool {
        let change = Change { key: key.clone(), owner: None, expected };
        let patch = LinkPatch { enabled: Some(false), ..LinkPatch::default() };
        let now = Timestamp::from_millis(2_000);
        self.runtime.block_on(self.store.patch(change, patch, now, soon())).done().is_some()
    }

    fn delete(&self, key: &LinkKey) {
        let change = Change { key: key.clone(), owner: None, expected: None };
        let now = Timestamp::from_millis(3_000);
        self.runtime.block_on(self.store.delete(change, now, soon())).done().unwrap();
    }

    /// What changed since, and from where to read on.
    fn read(&self, position: Option<&FeedPosition>) -> (Vec<(String, u64)>, FeedPosition) {
        let page = self.runtime.block_on(self.store.changes(position, soon())).unwrap();
        assert!(!page.lost && !page.more);
        let told = |news: Invalidation| (news.key.code.as_str().to_owned(), news.version.0);
        let mut changes: Vec<_> = page.changes.into_iter().map(told).collect();
        changes.sort();
        (changes, page.next)
    }

    /// Makes what was noted until now older than the minute that is read each time.
    fn age(&self) {
        let sql = "UPDATE changes SET at = at - interval '2 minutes'";
        self.postgres_in_store(sql);
    }

    fn postgres_in_store(&self, sql: &str) {
        let url = self.postgres.url("shunt");
        self.runtime.block_on(async {
            let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
            let connection = tokio::spawn(connection);
            client.batch_execute(sql).await.unwrap();
            drop(client);
            connection.await.unwrap().unwrap();
        });
    }
}

#[test]
fn every_change_is_told_and_nothing_else_is() {
    let world = World::new();
    let (none, start) = world.read(None);
    assert!(none.is_empty());
    let (a, b) = (world.create("aaaaaaa"), world.create("bbbbbbb"));
    assert!(world.read(Some(&start)).0.is_empty(), "creations are not noted");
    assert!(world.patch(&a, None) && world.patch(&b, Some(Version(1))));
    assert!(!world.patch(&b, Some(Version(1))), "a stale edit changes nothing");
    world.delete(&a);
    let told = |n: u64, code: &str| (code.to_owned(), n);
    let all = [told(2, "aaaaaaa"), told(3, "aaaaaaa"), told(2, "bbbbbbb")];
    let (changes, next) = world.read(Some(&start));
    assert_eq!(changes, all);

    // What is old and known is not told again; until then it is, by the clock.
    assert_eq!(world.read(Some(&next)).0, all);
    world.age();
    assert!(world.read(Some(&next)).0.is_empty());
    assert_eq!(world.read(Some(&start)).0, all);
    let forget = world.store.forget_changes(Duration::from_secs(60), soon());
    assert_eq!(world.runtime.block_on(forget), Ok(3));
    assert!(world.read(Some(&start)).0.is_empty());
}

#[test]
fn a_change_that_commits_late_is_not_missed() {
    let world = World::new();
    let a = world.create("aaaaaaa");
    let url = world.postgres.url("shunt");
    let (_, start) = world.read(None);
    let (late, connection) = world.runtime.block_on(tokio_postgres::connect(&url, NoTls)).unwrap();
    let connection = world.runtime.spawn(connection);
    // As the store itself notes it, two minutes before it is committed.
    let note = "BEGIN; INSERT INTO changes (code, domain, version, xid, at) \
        VALUES ('latecomer', 0, 2, pg_current_xact_id()::text::bigint, \
        now() - interval '2 minutes')";
    world.runtime.block_on(late.batch_execute(note)).unwrap();
    let mut position = start;
    for _ in 0..3 {
        world.patch(&a, None);
        world.age();
        let (changes, next) = world.read(Some(&position));
        assert!(changes.iter().all(|(code, _)| code != "latecomer"));
        position = next;
    }
    world.runtime.block_on(late.batch_execute("COMMIT")).unwrap();
    let (changes, next) = world.read(Some(&position));
    assert!(changes.contains(&("latecomer".to_owned(), 2)), "{changes:?}");
    assert!(world.read(Some(&next)).0.is_empty());
    drop(late);
    world.runtime.block_on(connection).unwrap().unwrap();
}

#[test]
fn a_position_from_another_life_is_told_as_lost() {
    let world = World::new();
    for position in ["9000000000000", "nonsense"] {
        let position = FeedPosition(position.to_owned());
        let page = world.runtime.block_on(world.store.changes(Some(&position), soon())).unwrap();
        assert!(page.lost && page.changes.is_empty());
        assert!(world.read(Some(&page.next)).0.is_empty());
    }
}
