//! The DynamoDB store on dynalite: the conformance suite of the ports it has, and what happens when
//! the server misbehaves.
//!
//! It has no `LinkQuery`, so facts that need lists are left out: of durability, those that compare
//! exports.

use std::sync::{Arc, Mutex};

use shunt_cluster::Dynalite;
use shunt_domain::ports::{CreateRefusal, LinkReader, LinkWriter};
use shunt_domain::{Outcome, StoreError, Stored, UnknownCause, Version};
use shunt_store::conformance::fixtures::{change, create, get, key, link, soon};
use shunt_store::conformance::{Restart, Subject, check};
use shunt_store::conformance_together;
use shunt_store::dynamodb::{AccessKey, Created, DynamoError, DynamoOptions, DynamoStore};
use shunt_store::{conformance_domains, conformance_idempotency, conformance_keys};
use shunt_store::{conformance_links, conformance_meta, conformance_pool, conformance_ranges};
use shunt_tests::switch::tool;

use crate::kit::within;

fn dynalite() -> Dynalite {
    Dynalite::start(&tool("dynalite/node_modules/.bin/dynalite")).unwrap()
}

fn options(dynalite: &Dynalite, table: &str) -> DynamoOptions {
    let address =
        format!("dynamodb://{table}?endpoint={}&region={}", dynalite.endpoint(), Dynalite::REGION);
    DynamoOptions {
        access_key: Some(AccessKey { id: "test".to_owned(), secret: "test".to_owned() }),
        node: 7,
        ..DynamoOptions::parse(&address).unwrap()
    }
}

fn opened(options: &DynamoOptions) -> DynamoStore {
    let store = DynamoStore::open(options).unwrap();
    store.migrate().unwrap();
    store
}

struct Subjected {
    store: DynamoStore,
    options: DynamoOptions,
    dynalite: Arc<Mutex<Dynalite>>,
}

impl Subject for Subjected {
    type Store = DynamoStore;

    fn store(&self) -> &DynamoStore {
        &self.store
    }
}

impl Restart for Subjected {
    fn restart(self) -> Self {
        self.store.close();
        Self { store: DynamoStore::open(&self.options).unwrap(), ..self }
    }

    /// The server is killed as well, and comes back with its data.
    fn crash(self) -> Self {
        {
            let mut dynalite = self.dynalite.lock().unwrap();
            dynalite.kill();
            dynalite.restart().unwrap();
        }
        // Not closed: what the store had under way is cut off.
        drop(self.store);
        Self { store: DynamoStore::open(&self.options).unwrap(), ..self }
    }
}

/// Starts a server and answers what makes empty stores on it, each in a table of its own.
fn subjects() -> impl FnMut() -> Subjected {
    let server = dynalite();
    let address = options(&server, "store");
    let dynalite = Arc::new(Mutex::new(server));
    let mut made = 0;
    move || {
        made += 1;
        let options = DynamoOptions { table: format!("store{made}"), ..address.clone() };
        Subjected { store: opened(&options), options, dynalite: Arc::clone(&dynalite) }
    }
}

mod on_dynalite {
    use super::*;

    conformance_links!(subjects, conformance_together);
    conformance_domains!(subjects, conformance_together);
    conformance_idempotency!(subjects, conformance_together);
    conformance_keys!(subjects, conformance_together);
    conformance_pool!(subjects, conformance_together);
    conformance_ranges!(subjects, conformance_together);
    conformance_meta!(subjects, conformance_together);
    conformance_together!(
        durability,
        subjects,
        [
            claimed_clicks_survive_a_crash,
            ranges_are_never_leased_again_after_a_crash,
            rests_given_back_survive_a_restart_and_come_out_once,
            claimed_codes_do_not_come_back,
            running_attempts_are_resumed_after_a_crash,
        ]
    );
}

#[test]
fn a_table_is_made_once_and_checked() {
    let server = dynalite();
    let options = options(&server, "made-once");
    let store = DynamoStore::open(&options).unwrap();
    assert!(matches!(store.check(), Err(DynamoError::NoTable { .. })));
    assert_eq!(store.migrate().unwrap(), Created::Made);
    assert_eq!(store.migrate().unwrap(), Created::Found);
    store.check().unwrap();
    // Any number of processes may find it missing at the same time.
    let options = DynamoOptions { table: "made-by-many".to_owned(), ..options };
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| DynamoStore::open(&options).unwrap().migrate().unwrap());
        }
    });
    DynamoStore::open(&options).unwrap().check().unwrap();
}

#[test]
fn a_missing_table_is_unavailable_and_never_absent() {
    let server = dynalite();
    let store = DynamoStore::open(&options(&server, "nowhere")).unwrap();
    check(async {
        let read = store.get(&key("abc"), Version::default(), soon()).await;
        assert!(matches!(read, Err(StoreError::Unavailable(_))), "{read:?}");
        let created = store.create(link("abc"), soon()).await;
        let Outcome::Refused(CreateRefusal::Store(StoreError::Unavailable(why))) = created else {
            panic!("{created:?}")
        };
        assert!(why.contains("shunt migrate"), "{why}");
    });
}

#[test]
fn acknowledged_links_survive_kills_of_the_server() {
    let mut next = subjects();
    let mut subject = next();
    for round in 0..3 {
        let codes: Vec<String> = (0..100).map(|at| format!("r{round}-{at}")).collect();
        check(async {
            let links = codes.iter().map(|code| link(code)).collect();
            let made = subject.store().create_many(links, soon()).await.done().unwrap();
            assert!(made.iter().all(Result::is_ok));
            subject
                .store()
                .delete(change(&codes[0]), link("x").created_at, soon())
                .await
                .done()
                .unwrap();
        });
        subject = subject.crash();
        check(async {
            for code in &codes[1..] {
                let found = get(subject.store(), &key(code)).await;
                assert!(matches!(found, Some(Stored::Link(_))), "{code}: {found:?}");
            }
            let gone = subject.store().create(link(&codes[0]), soon()).await;
            assert_eq!(gone, Outcome::Refused(CreateRefusal::Retired));
        });
    }
}

#[test]
fn a_frozen_server_makes_writes_unknown_and_reads_unavailable_in_time() {
    let mut server = dynalite();
    let store = opened(&options(&server, "frozen"));
    check(async { drop(create(&store, link("before")).await) });
    server.process().unwrap().freeze().unwrap();
    let began = std::time::Instant::now();
    check(async {
        let created = store.create(link("while"), within(300)).await;
        assert_eq!(created, Outcome::Unknown(UnknownCause::Deadline));
        let read = store.get(&key("before"), Version::default(), within(300)).await;
        assert!(matches!(read, Err(StoreError::Unavailable(_))), "{read:?}");
    });
    assert!(began.elapsed().as_millis() < 5_000, "{:?}", began.elapsed());
    server.process().unwrap().heal().unwrap();
    check(async {
        // Whatever became of it, the code has one owner at most and the store goes on.
        let again = store.create(link("while"), soon()).await;
        assert!(
            matches!(again, Outcome::Done(_) | Outcome::Refused(CreateRefusal::Taken)),
            "{again:?}"
        );
        assert!(matches!(get(&store, &key("while")).await, Some(Stored::Link(_))));
    });
}

#[test]
fn a_server_that_is_gone_refuses_and_is_found_again() {
    let mut server = dynalite();
    let store = opened(&options(&server, "gone"));
    check(async { drop(create(&store, link("before")).await) });
    server.kill();
    check(async {
        // The first may be sent on a connection that is only then found dead.
        let first = store.create(link("first"), within(3_000)).await;
        assert!(!matches!(first, Outcome::Done(_)), "{first:?}");
        let later = store.create(link("later"), within(3_000)).await;
        assert!(
            matches!(later, Outcome::Refused(CreateRefusal::Store(StoreError::Unavailable(_)))),
            "{later:?}"
        );
        let read = store.get(&key("before"), Version::default(), within(3_000)).await;
        assert!(matches!(read, Err(StoreError::Unavailable(_))), "{read:?}");
    });
    server.restart().unwrap();
    check(async {
        assert!(matches!(get(&store, &key("before")).await, Some(Stored::Link(_))));
        assert_eq!(get(&store, &key("later")).await, None);
        create(&store, link("later")).await;
    });
}

#[test]
fn a_closed_store_takes_no_more_work() {
    let server = dynalite();
    let store = opened(&options(&server, "closed"));
    check(async { drop(create(&store, link("before")).await) });
    store.close();
    check(async {
        let created = store.create(link("after"), soon()).await;
        assert!(matches!(created, Outcome::Refused(_)), "{created:?}");
        assert!(store.get(&key("before"), Version::default(), soon()).await.is_err());
    });
}

#[test]
fn misses_and_fresh_changes_are_read_consistently() {
    use std::sync::atomic::Ordering::Relaxed;
    let server = dynalite();
    let store = opened(&options(&server, "consistent"));
    let stats = store.stats();
    check(async {
        create(&store, link("abc")).await;
        let confirmed = stats.confirmed.load(Relaxed);
        let requests = stats.requests.load(Relaxed);
        assert!(get(&store, &key("abc")).await.is_some());
        assert_eq!(stats.requests.load(Relaxed) - requests, 1, "a hit is one request");
        assert_eq!(stats.confirmed.load(Relaxed), confirmed);
        assert!(get(&store, &key("nobody")).await.is_none());
        assert_eq!(stats.confirmed.load(Relaxed), confirmed + 1, "a miss is confirmed");
    });
}
