//! `shunt copy`: a live store into another one and back, stopped in the middle, and switched over.

use std::fs;

use serde_json::{Value, json};
use shunt_cluster::{Postgres, Request, Shunt, until};

use crate::kit::{self, SOON, get, leads, link};

const DATABASE: &str = "links";

fn database(postgres: &Postgres, name: &str) -> String {
    postgres.create_database(name).unwrap();
    let url = postgres.url(name);
    let node = Shunt::new().unwrap().env("SHUNT_STORE", &url);
    node.cli(["migrate"], SOON).unwrap().ok().unwrap();
    url
}

fn sqlite(node: &Shunt) -> String {
    format!("sqlite://{}/links.db", node.data().display())
}

/// Runs a copy (or a comparison) and answers its report.
fn copy(by: &Shunt, from: &str, to: &str, flags: &[&str]) -> Value {
    let args = ["copy", "--json", "--from", from, "--to", to];
    let finished = by.cli(args.iter().chain(flags), SOON * 5).unwrap();
    assert_eq!(finished.code(), 0, "{finished:?}");
    serde_json::from_str(finished.stdout.trim()).unwrap()
}

fn exported(node: &Shunt) -> String {
    let file = node.files().join("export.ndjson");
    let path = file.to_str().unwrap();
    let args = ["links", "export", "--format", "ndjson", "--force", "--output", path];
    node.cli(args, SOON).unwrap().ok().unwrap();
    // The address alone is each node's own.
    fs::read_to_string(file).unwrap().replace(&node.url("/"), "https://short.example/")
}

fn api(node: &Shunt, key: &str, method: &str, path: &str, body: &Value) -> Value {
    let answer = node.ask(&Request::new(method, path).key(key).json(body)).unwrap();
    assert!((200..300).contains(&answer.status), "{method} {path}: {answer:?}");
    answer.json().unwrap_or_default()
}

/// A running node with something of everything: owners, domains, edits, tombstones, limits.
fn furnished() -> (Shunt, String) {
    let node = Shunt::started().unwrap();
    let admin = kit::admin(&node);
    let made = node.cli(["apikeys", "add", "ada", "--scope", "create"], SOON).unwrap();
    let ada = kit::key_in(&made.ok().unwrap()).unwrap();
    api(&node, &admin, "POST", "/api/v1/domains", &json!({"host": "go.example"}));
    let rows: Vec<Value> = (0..2_500)
        .map(|n| json!({"code": format!("c{n}"), "target": format!("https://site{n}.example/ä?q={n}")}))
        .collect();
    for rows in rows.chunks(500) {
        let batch = Request::post_json("/api/v1/links:batch", &json!(rows)).key(&ada);
        let answer = node.ask(&batch).unwrap().text();
        assert!(answer.contains("\"created\":500"), "{answer}");
    }
    let there =
        json!({"code": "c1", "target": "https://elsewhere.example/", "domain": "go.example"});
    api(&node, &admin, "POST", "/api/v1/links", &there);
    for n in 0..20 {
        let path = format!("/api/v1/links/c{n}");
        api(&node, &ada, "PATCH", &path, &json!({"title": format!("Title {n}"), "tags": ["x"]}));
    }
    for n in 100..120 {
        let gone = node.ask(&Request::new("DELETE", format!("/api/v1/links/c{n}")).key(&ada));
        assert_eq!(gone.unwrap().status, 204);
    }
    let thrice = json!({"code": "thrice", "target": "https://example.com/3", "max_clicks": 3});
    api(&node, &ada, "POST", "/api/v1/links", &thrice);
    leads(&node, "thrice", "https://example.com/3");
    (node, ada)
}

/// The same between a file and several databases.
#[test]
fn links_are_copied_to_shards_and_back() {
    let (node, _) = furnished();
    let postgres = Postgres::setup().fast().start().unwrap();
    for name in ["a", "b", "c"] {
        postgres.create_database(name).unwrap();
    }
    let address = |name| postgres.url(name).replace("postgres://", "");
    let shards = ["a", "b", "c"].map(|name| format!("{name}={}", address(name))).join(",");
    let shards = format!("shards+postgres://{shards}");
    let sharded = Shunt::new().unwrap().env("SHUNT_STORE", &shards);
    sharded.cli(["migrate"], SOON).unwrap().ok().unwrap();
    let there = copy(&node, &sqlite(&node), &shards, &[]);
    assert_eq!((&there["differences"], &there["rows"]), (&json!(0), &there["target_rows"]));
    let verified = sharded.cli(["shards", "verify", "--json"], SOON).unwrap().ok().unwrap();
    let verified: Value = serde_json::from_str(verified.trim()).unwrap();
    assert_eq!((&verified["misplaced"], &verified["right"]), (&json!(0), &there["rows"]));
    let back = Shunt::new().unwrap();
    let again = copy(&back, &shards, &sqlite(&back), &[]);
    assert_eq!((&again["differences"], &again["copied"]), (&json!(0), &there["rows"]));
}

#[test]
fn there_and_back_nothing_is_lost() {
    let postgres = Postgres::setup().fast().start().unwrap();
    let url = database(&postgres, DATABASE);
    let (mut first, ada) = furnished();
    let before = exported(&first);
    // The server on the source runs.
    let there = copy(&first, &sqlite(&first), &url, &[]);
    assert_eq!((&there["differences"], &there["ahead"]), (&json!(0), &json!(0)), "{there}");
    assert_eq!(there["copied"], there["rows"], "{there}");
    let again = copy(&first, &sqlite(&first), &url, &[]);
    assert_eq!((&again["copied"], &again["changed"]), (&json!(0), &json!(0)), "{again}");

    let mut third = Shunt::new().unwrap();
    let back = copy(&third, &url, &sqlite(&third), &[]);
    assert_eq!((&back["differences"], &back["ahead"]), (&json!(0), &json!(0)), "{back}");
    third.start().unwrap();
    assert_eq!(exported(&third), before);
    // Two of the three clicks are left, and the same keys open the same links.
    leads(&third, "thrice", "https://example.com/3");
    leads(&third, "thrice", "https://example.com/3");
    assert_eq!(get(&third, "/thrice").status, 410);
    api(&third, &ada, "PATCH", "/api/v1/links/c7", &json!({"title": "mine"}));
    assert_eq!(get(&third, "/c100").status, 410);
    assert!(first.stop().unwrap().success());

    // A comparison finds what was tampered with.
    postgres
        .config()
        .psql(DATABASE, "UPDATE links SET target = 'https://x.example/' WHERE code = 'c9'")
        .unwrap();
    postgres.config().psql(DATABASE, "DELETE FROM links WHERE code = 'c11'").unwrap();
    let source = sqlite(&first);
    let args = ["copy", "--verify", "--from", &source, "--to", &url];
    let found = first.cli(args, SOON).unwrap();
    assert_eq!(found.code(), 75, "{found:?}");
    assert!(found.stderr.contains("c9 is another one") && found.stderr.contains("c11 is missing"));
}

/// Killed between two pages a copy goes on; what changed behind its back is found by the next pass.
#[test]
fn a_copy_that_was_killed_goes_on_and_catches_up() {
    let postgres = Postgres::setup().fast().start().unwrap();
    let url = database(&postgres, DATABASE);
    let (node, ada) = furnished();
    // A target whose second page hangs: the kill hits in the middle, for sure.
    let hang = "CREATE FUNCTION hang() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF (SELECT count(*) FROM links) >= 1000 THEN PERFORM pg_advisory_xact_lock(7); END IF;
            RETURN NULL; END $$;
        CREATE TRIGGER hang BEFORE INSERT ON links FOR EACH STATEMENT EXECUTE FUNCTION hang();";
    postgres.config().psql(DATABASE, hang).unwrap();
    let psql = postgres.config().psql_spec(DATABASE).unwrap();
    let hold = "SELECT pg_advisory_lock(7); SELECT pg_sleep(600);";
    let _holder = psql.args(["-c", hold]).spawn(node.files()).unwrap();
    let count = |sql: &str| postgres.config().psql(DATABASE, sql).unwrap();
    let waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
    let held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted";
    until(SOON, "the lock", || (count(held) == "1").then_some(())).unwrap();
    let spec = shunt_cluster::process::Spec::new("copy", shunt_cluster::shunt::binary().unwrap())
        .args(["copy", "--from", &sqlite(&node), "--to", &url]);
    let mut copying = spec.spawn(node.files()).unwrap();
    until(SOON, "the second page", || (count(waiting) == "1").then_some(())).unwrap();
    copying.kill();
    // The servers' ends of both don't notice by themselves; first the one that waits.
    for granted in ["NOT granted", "granted"] {
        let of = format!("FROM pg_locks WHERE locktype = 'advisory' AND {granted}");
        count(&format!("SELECT pg_terminate_backend(pid) {of}"));
        until(SOON, "the end of a wait", || {
            (count(&format!("SELECT count(*) {of}")) == "0").then_some(())
        })
        .unwrap();
    }
    postgres.config().psql(DATABASE, "DROP TRIGGER hang ON links").unwrap();

    // Meanwhile the source lives on: an edit of a copied row, a deletion, a new link.
    api(&node, &ada, "PATCH", "/api/v1/links/c3", &json!({"target": "https://new.example/"}));
    let gone = node.ask(&Request::new("DELETE", "/api/v1/links/c4").key(&ada)).unwrap();
    assert_eq!(gone.status, 204);
    link(&node, "late", "https://example.com/late");
    let report = copy(&node, &sqlite(&node), &url, &[]);
    assert_eq!((&report["differences"], &report["ahead"]), (&json!(0), &json!(0)), "{report}");
    assert!(report["passes"].as_u64().unwrap() >= 2, "{report}");
    let target = count("SELECT target FROM links WHERE code = 'c3'");
    assert_eq!(target, "https://new.example/");
}

/// Dual read: what was made on the old store after the copy is found, changed and never given away.
#[test]
fn links_made_during_the_copy_are_found_after_the_switch() {
    let postgres = Postgres::setup().fast().start().unwrap();
    let url = database(&postgres, DATABASE);
    let (old, ada) = furnished();
    copy(&old, &sqlite(&old), &url, &[]);
    link(&old, "late", "https://example.com/late");
    let mut new =
        Shunt::new().unwrap().env("SHUNT_STORE", &url).env("SHUNT_STORE_PREVIOUS", sqlite(&old));
    new.start().unwrap();
    leads(&new, "c5", "https://site5.example/%C3%A4?q=5");
    leads(&new, "late", "https://example.com/late");
    // Made just now, while both run.
    link(&old, "later", "https://example.com/later");
    leads(&new, "later", "https://example.com/later");
    let wish = json!({"code": "later", "target": "https://mine.example/"});
    assert_eq!(kit::create(&new, &wish).status, 409);
    let moved = ["links", "edit", "late", "--target", "https://new.example/"];
    new.cli(moved, SOON).unwrap().ok().unwrap();
    leads(&new, "late", "https://new.example/");
    leads(&old, "late", "https://example.com/late");
    api(&new, &ada, "PATCH", "/api/v1/links/c6", &json!({"target": "https://new.example/6"}));

    // The last run takes what is only there, and leaves alone what is newer here.
    let report = copy(&old, &sqlite(&old), &url, &[]);
    assert_eq!((&report["differences"], &report["copied"]), (&json!(0), &json!(1)), "{report}");
    assert_eq!(report["ahead"], 2, "{report}");
    let mut alone = Shunt::new().unwrap().env("SHUNT_STORE", &url);
    alone.start().unwrap();
    leads(&alone, "late", "https://new.example/");
    leads(&alone, "later", "https://example.com/later");
    leads(&alone, "c6", "https://new.example/6");
}
