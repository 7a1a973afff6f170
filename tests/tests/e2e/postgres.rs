//! The same binary on PostgreSQL: what a user does who outgrows one file.

use std::fs;

use serde_json::{Value, json};
use shunt_cluster::{PgBouncer, Postgres, Request, Shunt, until};

use crate::kit::{self, SOON, get, leads, link};

const DATABASE: &str = "links";

/// A server with an empty database.
fn server() -> Postgres {
    let postgres = Postgres::setup().fast().start().unwrap();
    postgres.create_database(DATABASE).unwrap();
    postgres
}

/// A node on a store, not started.
fn node(store: &str, migrate: &str) -> Shunt {
    Shunt::new().unwrap().env("SHUNT_STORE", store).env("SHUNT_STORE_MIGRATE", migrate)
}

fn migrated(node: &Shunt) -> Value {
    let finished = node.cli(["migrate", "--json"], SOON).unwrap();
    assert_eq!(finished.code(), 0, "{finished:?}");
    serde_json::from_str(&finished.stdout).unwrap()
}

/// What a start that fails says, in its one line.
fn refusal(node: &Shunt) -> (i32, String) {
    let finished = node.serve_spec().unwrap().run(node.files(), SOON * 2).unwrap();
    let lines: Vec<&str> =
        finished.stderr.lines().filter(|line| line.starts_with("shunt: ")).collect();
    assert_eq!(lines.len(), 1, "{finished:?}");
    (finished.code(), lines[0].to_owned())
}

#[test]
fn two_nodes_share_a_database_behind_pgbouncer() {
    // As it is set up for use: the doctor finds nothing.
    let postgres = Postgres::start().unwrap();
    postgres.create_database(DATABASE).unwrap();
    let pooler = PgBouncer::setup().database(DATABASE, postgres.config()).start().unwrap();
    let (store, direct) = (pooler.url(DATABASE), postgres.url(DATABASE));
    let mut first = node(&store, &direct);
    let (code, said) = refusal(&first);
    assert_eq!(code, 69, "{said}");
    assert!(said.contains("shunt migrate"), "{said}");

    assert_eq!(migrated(&first)["from"], 0);
    let again = migrated(&first);
    assert_eq!(again["from"], again["to"]);

    first.start().unwrap();
    link(&first, "one", "https://example.com/one");
    leads(&first, "one", "https://example.com/one");

    // The address can come from a file, as all secrets can.
    let file = first.files().join("store");
    fs::write(&file, &store).unwrap();
    let mut second = Shunt::new().unwrap().env("SHUNT_STORE_FILE", &file);
    second.start().unwrap();
    leads(&second, "one", "https://example.com/one");
    link(&second, "two", "https://example.com/two");
    leads(&first, "two", "https://example.com/two");
    let taken = kit::create(&first, &json!({"code": "two", "target": "https://example.com/"}));
    assert_eq!(taken.status, 409, "{taken:?}");

    // Everything else is there as well: lists, figures, keys.
    let listed = first.cli(["links", "list", "--json"], SOON).unwrap();
    assert!(listed.stdout.contains("two") && listed.stdout.contains("one"), "{listed:?}");
    // Of several fresh nodes the latest one's link counts.
    let admin = kit::admin(&second);
    let stats =
        Request::get("/api/v1/links/one/stats").header("Authorization", format!("Bearer {admin}"));
    until(SOON, "both nodes' clicks", || {
        let answer = second.ask(&stats).unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        (answer.json().unwrap()["totals"]["clicks"] == 2).then_some(())
    })
    .unwrap();

    // A node keeps its number and its directory keeps others out.
    let number = fs::read_to_string(first.data().join("node")).unwrap();
    let rival = node(&store, &direct).on(first.data());
    assert_eq!(refusal(&rival).0, 75);
    assert!(first.stop().unwrap().success());
    first.start().unwrap();
    assert_eq!(fs::read_to_string(first.data().join("node")).unwrap(), number);
    leads(&first, "two", "https://example.com/two");
    let doctor = first.cli(["doctor"], SOON).unwrap();
    assert_eq!(doctor.code(), 0, "{doctor:?}");
}

#[test]
fn what_is_wrong_with_the_database_is_said() {
    let postgres = server();
    let right = postgres.url(DATABASE);
    let password = &postgres.config().password;
    // A port that somebody has who is no PostgreSQL: it takes the connection and says nothing.
    let elsewhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let cases = [
        (right.replace(password.as_str(), "wrong"), 69, "password"),
        (right.replace("/links", "/nothing"), 69, "createdb"),
        (
            right.replace(
                &postgres.socket().to_string(),
                &elsewhere.local_addr().unwrap().to_string(),
            ),
            69,
            "check the address",
        ),
        (format!("{right}?sslmode=prefer"), 64, "verify-full"),
        (right.replace("postgres://", "mysql://"), 64, "postgres://"),
    ];
    for (store, code, words) in cases {
        let (found, said) = refusal(&node(&store, ""));
        assert_eq!(found, code, "{said}");
        assert!(said.contains(words), "{words} in {said}");
        assert!(!said.contains(password.as_str()), "{said}");
    }
}

/// A server that goes and comes back: 503 for what nobody knows, cached links go on, and nobody
/// has to do anything.
#[test]
fn a_database_that_restarts_is_found_again() {
    let mut postgres = server();
    let url = postgres.url(DATABASE);
    let mut node = node(&url, "");
    migrated(&node);
    node.start().unwrap();
    link(&node, "cached", "https://example.com/cached");
    leads(&node, "cached", "https://example.com/cached");
    postgres.kill().unwrap();
    let unknown = get(&node, "/unknown");
    assert_eq!(unknown.status, 503, "{unknown:?}");
    assert!(unknown.header("retry-after").is_some(), "{unknown:?}");
    leads(&node, "cached", "https://example.com/cached");
    let refused = kit::create(&node, &json!({"target": "https://example.com/new"}));
    assert_eq!(refused.status, 503, "{refused:?}");
    postgres.restart().unwrap();
    until(SOON, "the database", || {
        let made = kit::create(&node, &json!({"target": "https://example.com/new"}));
        (made.status == 201).then_some(())
    })
    .unwrap();
    assert_eq!(get(&node, "/unknown").status, 404);
}
