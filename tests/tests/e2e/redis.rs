//! Two nodes that share a PostgreSQL and a Redis: what is edited at one the other shows, and what
//! happens to Redis is told and costs nobody a redirect.

use std::time::Duration;

use serde_json::json;
use shunt_cluster::ports::Port;
use shunt_cluster::{Postgres, Redis, Request, Shunt, until};

use crate::kit::{self, SOON, get, leads, link};
use crate::tls::Authority;

const BOUND: Duration = Duration::from_secs(1);

fn metric(node: &Shunt, name: &str, labels: &str) -> f64 {
    node.metric(name, labels).unwrap()
}

/// Until the node hears the others and reads the shared cache.
fn wait_hearing(node: &Shunt) {
    until(SOON, "the node to hear the others", || {
        let (bus, l2) = (metric(node, "shunt_bus_up", ""), metric(node, "shunt_l2_open", ""));
        (bus > 0.0 && l2 > 0.0).then_some(())
    })
    .unwrap();
}

#[test]
fn two_nodes_share_a_redis_and_miss_it_without_harm() {
    let postgres = Postgres::setup().fast().start().unwrap();
    postgres.create_database("links").unwrap();
    let mut redis = Redis::start().unwrap();
    let node = || {
        Shunt::new()
            .unwrap()
            .env("SHUNT_STORE", postgres.url("links"))
            .env("SHUNT_CACHE", redis.url())
    };
    let (mut one, mut two) = (node(), node());
    assert_eq!(one.cli(["migrate"], SOON).unwrap().code(), 0);
    one.start().unwrap();
    two.start().unwrap();
    wait_hearing(&one);
    wait_hearing(&two);
    // Of several fresh nodes the latest one's link counts.
    let admin = kit::admin(&two);
    let edit = |node: &Shunt, code: &str, target: &str| {
        let request = Request::new("PATCH", format!("/api/v1/links/{code}"))
            .json(&json!({"target": target}))
            .key(&admin);
        let answer = node.ask(&request).unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
    };
    let seen = |node: &Shunt, code: &str, target: &str, bound: Duration| {
        until(bound, "the edit", || {
            (get(node, &format!("/{code}")).location() == target).then_some(())
        })
        .unwrap();
    };

    link(&one, "warm", "https://example.com/1");
    for node in [&one, &two] {
        leads(node, "warm", "https://example.com/1");
    }
    let reads = [&one, &two].map(|node| metric(node, "shunt_store_reads_total", ""));
    for _ in 0..100 {
        for node in [&one, &two] {
            leads(node, "warm", "https://example.com/1");
        }
    }
    assert_eq!([&one, &two].map(|node| metric(node, "shunt_store_reads_total", "")), reads);
    for n in 2..12 {
        let target = format!("https://example.com/{n}");
        let (writer, reader) = if n % 2 == 0 { (&one, &two) } else { (&two, &one) };
        edit(writer, "warm", &target);
        leads(writer, "warm", &target);
        seen(reader, "warm", &target, BOUND);
    }

    // A command that works on the store itself tells the servers, too.
    let elsewhere = node();
    let edited = elsewhere
        .cli(["links", "edit", "warm", "--target", "https://example.com/cli"], SOON)
        .unwrap();
    assert_eq!(edited.code(), 0, "{edited:?}");
    for node in [&one, &two] {
        seen(node, "warm", "https://example.com/cli", BOUND);
    }

    redis.kill();
    until(SOON, "the loss to be told", || {
        let ready = one.ask_ops("/readyz").unwrap();
        let text = ready.text();
        (ready.status == 200 && text.contains("redis") && text.contains("bus")).then_some(())
    })
    .unwrap();
    link(&one, "cold", "https://example.com/cold");
    leads(&two, "cold", "https://example.com/cold");
    edit(&one, "warm", "https://example.com/feed");
    seen(&two, "warm", "https://example.com/feed", Duration::from_secs(60));
    redis.restart().unwrap();
    wait_hearing(&one);
    wait_hearing(&two);
    edit(&two, "warm", "https://example.com/back");
    seen(&one, "warm", "https://example.com/back", BOUND);
    let ready = one.ask_ops("/readyz").unwrap().text();
    assert!(!ready.contains("redis") && !ready.contains("\"bus\""), "{ready}");
    for node in [&mut one, &mut two] {
        assert!(node.stop().unwrap().success());
    }
}

#[test]
fn what_is_wrong_with_the_address_of_redis_is_said_without_its_password() {
    for (address, words) in [
        ("memcached://localhost", "redis://"),
        ("redis://:hunter2@a,b", "redis-cluster://"),
        ("redis-cluster://:hunter2@a,b/1", "numbered databases"),
    ] {
        let node = Shunt::new().unwrap().env("SHUNT_CACHE", address);
        let finished = node.serve_spec().unwrap().run(node.files(), SOON).unwrap();
        assert_eq!(finished.code(), 64, "{finished:?}");
        assert!(finished.stderr.contains(words), "{finished:?}");
        assert!(!finished.stderr.contains("hunter2"), "{finished:?}");
    }
}

/// Whom the node does not believe it does not tell the password; links redirect all the same.
#[test]
fn redis_over_tls_is_believed_with_the_right_authority_only() {
    let postgres = Postgres::setup().fast().start().unwrap();
    postgres.create_database("links").unwrap();
    let place = Shunt::new().unwrap();
    let (authority, stranger) = (Authority::new(), Authority::new());
    authority.renew(place.files(), "127.0.0.1");
    let file = |name: &str, text: &str| {
        let path = place.files().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let (right, wrong) = (file("ca.pem", &authority.pem), file("other.pem", &stranger.pem));
    let port = Port::lease().unwrap();
    let path = |name: &str| place.files().join(name).display().to_string();
    let redis = Redis::setup()
        .setting("tls-port", &port.number().to_string())
        .setting("tls-cert-file", &path("cert.pem"))
        .setting("tls-key-file", &path("key.pem"))
        .setting("tls-ca-cert-file", &path("ca.pem"))
        .setting("tls-auth-clients", "no")
        .start()
        .unwrap();
    let plain = redis.url();
    let (secret, _) = plain.strip_prefix("redis://").unwrap().split_once('@').unwrap();
    let node = |ca: &std::path::Path| {
        Shunt::new()
            .unwrap()
            .env("SHUNT_STORE", postgres.url("links"))
            .env("SHUNT_CACHE", format!("rediss://{secret}@{}", port.address()))
            .env("SHUNT_CACHE_CA", ca)
    };
    let (mut one, mut two) = (node(&right), node(&wrong));
    one.cli(["migrate"], SOON).unwrap().ok().unwrap();
    one.start().unwrap();
    wait_hearing(&one);
    link(&one, "tls", "https://example.com/tls");
    until(SOON, "the link in the shared cache", || {
        let keys = redis.connect().unwrap().ask(&["DBSIZE"]).unwrap();
        (keys.number()? > 0).then_some(())
    })
    .unwrap();

    two.start().unwrap();
    until(SOON, "the failure to be named", || {
        let ready = two.ask_ops("/readyz").unwrap().text();
        ready.contains("bus").then_some(())
    })
    .unwrap();
    leads(&two, "tls", "https://example.com/tls");
    assert_eq!(metric(&two, "shunt_bus_up", ""), 0.0);
}
