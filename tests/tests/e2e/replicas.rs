//! The same binary on a database with streaming standbys: what visitors and writers see when the
//! primary goes and a standby takes its place.

use std::time::{Duration, Instant};

use serde_json::json;
use shunt_cluster::{Postgres, Shunt, until};

use crate::kit::{self, SOON, get, leads, link};

const DATABASE: &str = "links";

/// A node on these servers, the first of which is the primary's address; not started.
fn node(servers: [&Postgres; 2]) -> Shunt {
    Shunt::new()
        .unwrap()
        .env("SHUNT_STORE", servers[0].url(DATABASE))
        .env("SHUNT_STORE_REPLICAS", servers[1].url(DATABASE))
}

fn creates(node: &Shunt) -> bool {
    kit::create(node, &json!({"target": "https://example.com/new"})).status == 201
}

fn readyz(node: &Shunt) -> String {
    node.ask_ops("/readyz").unwrap().text()
}

#[test]
fn redirects_go_on_without_a_primary_and_a_promoted_standby_is_found() {
    let mut primary = Postgres::setup().fast().start().unwrap();
    primary.create_database(DATABASE).unwrap();
    let mut standby = primary.standby().unwrap();
    let mut first = node([&primary, &standby]);
    let migrated = first.cli(["migrate"], SOON).unwrap();
    assert_eq!(migrated.code(), 0, "{migrated:?}");
    first.start().unwrap();
    for at in 0..20 {
        link(&first, &format!("old{at}"), "https://example.com/old");
        // Just made: the standby may not have it, and it is there all the same.
        leads(&first, &format!("old{at}"), "https://example.com/old");
    }
    until(SOON, "a healthy node", || readyz(&first).contains("\"ready\"").then_some(()))
        .unwrap_or_else(|error| panic!("{error}: {}", readyz(&first)));
    primary.wait_for(&standby).unwrap();
    // Another node, which has nothing in its cache.
    let mut reader = node([&primary, &standby]);
    reader.start().unwrap();
    for at in 0..20 {
        leads(&reader, &format!("old{at}"), "https://example.com/old");
    }
    assert!(reader.metric("shunt_store_copy_reads_total", "copy=\"1\"").unwrap() > 0.0);
    assert_eq!(first.metric("shunt_store_copy_primary", "copy=\"0\"").unwrap(), 1.0);
    assert!(first.metric("shunt_store_copy_lag_seconds", "copy=\"1\"").unwrap() < 5.0);

    primary.kill().unwrap();
    until(SOON, "the loss to be named", || {
        readyz(&first).contains("no copy of the database takes writes").then_some(())
    })
    .unwrap();
    // One that starts now comes up on the standby alone.
    let mut second = node([&primary, &standby]);
    let begun = Instant::now();
    second.start().unwrap();
    kit::figure(
        "a node that starts without a primary",
        &format!("serves after {:?}", begun.elapsed()),
    );
    assert!(begun.elapsed() < Duration::from_secs(10), "it started in {:?}", begun.elapsed());
    for node in [&first, &second] {
        for at in 0..20 {
            leads(node, &format!("old{at}"), "https://example.com/old");
        }
        let unknown = get(node, "/never-made");
        assert_eq!(unknown.status, 503, "absence is the primary's word: {unknown:?}");
        let refused = kit::create(node, &json!({"target": "https://example.com/new"}));
        assert_eq!(refused.status, 503, "{refused:?}");
        assert!(refused.header("retry-after").is_some(), "{refused:?}");
    }

    standby.promote().unwrap();
    let promoted = Instant::now();
    for node in [&first, &second] {
        until(SOON, "creates", || creates(node).then_some(())).unwrap();
    }
    let resumed = promoted.elapsed();
    kit::figure("creates after a promotion", &format!("resume after {resumed:?}"));
    assert!(resumed < Duration::from_secs(10), "creates resumed after {resumed:?}");
    assert_eq!(first.metric("shunt_store_copy_primary", "copy=\"1\"").unwrap(), 1.0);
    assert_eq!(get(&first, "/never-made").status, 404);

    // The old primary comes back and takes writes; it is named, and gets none.
    primary.restart().unwrap();
    until(SOON, "the old primary to be named", || {
        readyz(&second).contains("takes writes beside the primary").then_some(())
    })
    .unwrap();
    let count = |server: &Postgres| -> u32 {
        let sql = "SELECT count(*) FROM links";
        server.config().psql(DATABASE, sql).unwrap().parse().unwrap()
    };
    let (old, new) = (count(&primary), count(&standby));
    for _ in 0..20 {
        assert!(creates(&second));
    }
    assert_eq!((count(&primary), count(&standby)), (old, new + 20));
}

#[test]
fn standbys_that_make_no_sense_are_refused_at_the_start() {
    let cases = [
        ("", "postgres://a:geheim@127.0.0.1/x", "store.url"),
        ("postgres://a:geheim@127.0.0.1/x", "postgres://a:geheim@h1/x, mysql://h2", "number 2"),
        ("postgres://a:geheim@127.0.0.1/x", "postgres://a:geheim@h1,h2/x", "number"),
    ];
    for (store, replicas, words) in cases {
        let node =
            Shunt::new().unwrap().env("SHUNT_STORE", store).env("SHUNT_STORE_REPLICAS", replicas);
        let checked = node.cli(["config", "check"], SOON).unwrap();
        assert_eq!(checked.code(), 64, "{checked:?}");
        let said = checked.stdout + &checked.stderr;
        assert!(said.contains("store.replicas") && said.contains(words), "{said}");
        assert!(!said.contains("geheim"), "{said}");
    }
}
