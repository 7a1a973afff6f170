//! The binary with the feature `dynamodb`, on dynalite.

use serde_json::json;
use shunt_cluster::{Dynalite, Request, Shunt, until};
use shunt_tests::switch::tool;

use crate::kit;

/// A server whose links are in a table of `dynalite`, which is made first.
fn serving(dynalite: &Dynalite, table: &str) -> Shunt {
    let address =
        format!("dynamodb://{table}?endpoint={}&region={}", dynalite.endpoint(), Dynalite::REGION);
    let mut shunt = Shunt::new()
        .unwrap()
        .env("SHUNT_STORE", address)
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "test");
    shunt.cli(["migrate"], kit::SOON).unwrap().ok().unwrap();
    shunt.start().unwrap();
    shunt
}

#[test]
fn links_are_in_dynamodb_and_lists_answer_501() {
    let dynalite = Dynalite::start(&tool("dynalite/node_modules/.bin/dynalite")).unwrap();
    let mut shunt = serving(&dynalite, "links");
    let key = kit::admin(&shunt);
    let ask = |shunt: &Shunt, method: &str, path: &str| {
        shunt.ask(&Request::new(method, path).key(&key)).unwrap()
    };
    kit::link(&shunt, "abc", "https://example.com/abc");
    let again = json!({"code": "abc", "target": "https://example.com/other"});
    assert_eq!(kit::create(&shunt, &again).status, 409);
    kit::leads(&shunt, "abc", "https://example.com/abc");
    assert_eq!(kit::get(&shunt, "/nobody").status, 404);
    let list = ask(&shunt, "GET", "/api/v1/links");
    assert_eq!(list.status, 501, "{list:?}");
    let migrated = shunt.cli(["migrate"], kit::SOON).unwrap();
    assert!(migrated.ok().unwrap().contains("is there"));
    // Another process finds what the first one left.
    shunt.kill();
    shunt.start().unwrap();
    kit::leads(&shunt, "abc", "https://example.com/abc");
    assert_eq!(ask(&shunt, "DELETE", "/api/v1/links/abc").status, 204);
    assert_eq!(kit::get(&shunt, "/abc").status, 410);
    assert_eq!(kit::create(&shunt, &again).status, 409);
}

/// A second node takes the first one's edit over although nothing tells it.
#[test]
fn nodes_of_one_table_agree_within_ten_seconds() {
    let dynalite = Dynalite::start(&tool("dynalite/node_modules/.bin/dynalite")).unwrap();
    let one = serving(&dynalite, "links");
    // Before there is another one, whose setup link would count.
    let key = kit::admin(&one);
    let two = serving(&dynalite, "links");
    kit::link(&one, "abc", "https://example.com/one");
    kit::leads(&two, "abc", "https://example.com/one");
    let edit = Request::new("PATCH", "/api/v1/links/abc")
        .key(&key)
        .json(&json!({"target": "https://example.com/two"}));
    assert_eq!(one.ask(&edit).unwrap().status, 200);
    kit::leads(&one, "abc", "https://example.com/two");
    until(kit::SOON, "the edit to be seen", || {
        let seen = kit::get(&two, "/abc");
        (seen.header("location") == Some("https://example.com/two")).then_some(())
    })
    .unwrap();
}
