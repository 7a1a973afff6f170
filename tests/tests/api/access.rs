//! Who may do what: every operation of the description times every kind of caller.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use shunt_domain::{Scope, Scopes};
use shunt_engine::auth::KeyRequest;
use shunt_http::client::{Client, Transport};

use crate::kit::{Ask, LOOPBACK, REMOTE, World, problem, soon};

const TARGET: &str = "https://example.com/";

/// What an operation asks of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needs {
    Scope(Scope),
    /// Create, or nobody in particular on this machine.
    OneLink,
}

/// Every operation, with a request that is good apart from its caller.
fn operations() -> BTreeMap<(&'static str, &'static str), (Needs, Ask)> {
    let link = json!({"target": TARGET});
    let row = json!([{"target": TARGET}]);
    let key = json!({"name": "k", "scopes": ["read"]});
    let edit = json!({"title": "x"});
    let post = |uri: &str, body: &Value| Ask::post(uri, body);
    let read = Needs::Scope(Scope::Read);
    let create = Needs::Scope(Scope::Create);
    let admin = Needs::Scope(Scope::Admin);
    [
        ("/api/v1/links", "post", Needs::OneLink, post("/api/v1/links", &link)),
        ("/api/v1/links", "get", read, Ask::get("/api/v1/links")),
        ("/api/v1/links:batch", "post", create, post("/api/v1/links:batch", &row)),
        ("/api/v1/links:import", "post", admin, post("/api/v1/links:import", &row)),
        ("/api/v1/links:export", "get", admin, Ask::get("/api/v1/links:export")),
        ("/api/v1/links/{code}", "get", read, Ask::get("/api/v1/links/none")),
        (
            "/api/v1/links/{code}",
            "patch",
            create,
            Ask::new("PATCH", "/api/v1/links/none").json(&edit),
        ),
        ("/api/v1/links/{code}", "delete", create, Ask::new("DELETE", "/api/v1/links/none")),
        ("/api/v1/links/{code}/stats", "get", read, Ask::get("/api/v1/links/none/stats")),
        ("/api/v1/keys", "get", admin, Ask::get("/api/v1/keys")),
        ("/api/v1/keys", "post", admin, post("/api/v1/keys", &key)),
        ("/api/v1/keys/{id}", "delete", admin, Ask::new("DELETE", "/api/v1/keys/999999")),
        ("/api/v1/domains", "get", admin, Ask::get("/api/v1/domains")),
        ("/api/v1/domains", "post", admin, post("/api/v1/domains", &json!({"host": "a.example"}))),
        ("/api/urls", "post", Needs::OneLink, post("/api/urls", &json!({"longUrl": TARGET}))),
        ("/api/short", "post", Needs::OneLink, post("/api/short", &json!({"longurl": TARGET}))),
    ]
    .into_iter()
    .map(|(path, method, needs, ask)| ((path, method), (needs, ask)))
    .collect()
}

#[test]
fn the_table_knows_every_operation_of_the_description() {
    let document: Value = serde_json::from_str(shunt_http::api::openapi_json()).unwrap();
    let mut described: Vec<(String, String)> = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            // Redirects are the listener's.
            if path != "/api/urls/{code}" {
                described.push((path.clone(), method.clone()));
            }
        }
    }
    described.sort();
    let known: Vec<(String, String)> = operations()
        .into_keys()
        .map(|(path, method)| (path.to_owned(), method.to_owned()))
        .collect();
    assert_eq!(described, known);
}

#[tokio::test]
async fn every_caller_meets_every_operation() {
    let world = World::new().await;
    let read = world.key(&[Scope::Read], None).await;
    let create = world.key(&[Scope::Create], None).await;
    let admin = world.admin().await;
    let revoked = world.admin().await;
    let id = world.app.auth.keys(soon()).await.unwrap().last().unwrap().id;
    world.app.auth.revoke(id, soon()).await.unwrap();
    let expired = world.app.auth.fresh_secret().unwrap();
    let request = KeyRequest {
        name: "short".to_owned(),
        scopes: Scopes::ADMIN,
        owner: None,
        expires_at: Some(shunt_domain::Timestamp::from_millis(crate::kit::EPOCH + 1_000)),
    };
    world.app.auth.create_key(request, &expired, soon()).await.unwrap();
    world.clock.forward(Duration::from_secs(2));

    let local = Client { transport: Transport::Local, ..REMOTE };
    for ((path, method), (needs, ask)) in operations() {
        let verdict = async |ask: Ask| {
            let answer = world.send(ask).await;
            match answer.status.as_u16() {
                401 => {
                    assert!(answer.text_header("www-authenticate").starts_with("Bearer"));
                    "stranger"
                }
                403 => "forbidden",
                200 | 201 | 204 | 404 => "in",
                other => panic!("{path} {method}: {other} {answer:?}"),
            }
        };
        let allows = |scope: Scope| match needs {
            Needs::Scope(needed) => needed == scope || scope == Scope::Admin,
            Needs::OneLink => scope != Scope::Read,
        };
        for (secret, scope) in
            [(&read, Scope::Read), (&create, Scope::Create), (&admin, Scope::Admin)]
        {
            let expected = if allows(scope) { "in" } else { "forbidden" };
            let remote = ask.clone().by(Some(REMOTE));
            let name = format!("{method} {path} with {scope}");
            assert_eq!(verdict(remote.clone().key(secret)).await, expected, "{name}");
            let other_header = remote.header("x-api-key", secret.as_str());
            assert_eq!(verdict(other_header).await, expected, "{name} in X-Api-Key");
        }
        for bad in [&revoked, expired.reveal(), "shunt_guess", ""] {
            let name = format!("{method} {path} with a bad key");
            assert_eq!(verdict(ask.clone().key(bad)).await, "stranger", "{name}");
        }
        let basic = ask.clone().header("authorization", "Basic YTpi");
        assert_eq!(verdict(basic).await, "stranger");
        let two = ask.clone().key(&admin).header("x-api-key", read.as_str());
        assert_eq!(verdict(two).await, "stranger");
        let here = if needs == Needs::OneLink { "in" } else { "stranger" };
        assert_eq!(verdict(ask.clone()).await, here, "{method} {path} without a key, from here");
        let there = ask.clone().by(Some(REMOTE));
        assert_eq!(verdict(there).await, "stranger", "{method} {path} without a key");
        let unknown = ask.clone().by(None);
        assert_eq!(verdict(unknown).await, "stranger", "{method} {path} past the listener");
        assert_eq!(verdict(ask.by(Some(local))).await, "in", "{method} {path} locally");
    }
}

#[tokio::test]
async fn anonymous_links_are_made_on_this_machine_only() {
    let world = World::new().await;
    let ask = || Ask::post("/api/v1/links", &json!({"target": TARGET}));
    let v6: std::net::IpAddr = "::1".parse().unwrap();
    for (name, good) in [
        ("plain", ask()),
        ("named", ask().header("host", "localhost:8080")),
        ("v6", ask().header("host", "[::1]:8080")),
        ("v6 peer", ask().by(Some(Client { peer: v6, ..LOOPBACK }))),
        ("own page", ask().header("sec-fetch-site", "same-origin")),
        ("own origin", ask().header("origin", "http://127.0.0.1:8080")),
    ] {
        assert_eq!(world.send(good).await.status, 201, "{name}");
    }
    for (name, status, bad) in [
        ("public host", 401, ask().header("host", "go.example")),
        ("rebound host", 401, ask().header("host", "127.0.0.1.evil.example")),
        ("no host", 401, ask().header("host", "")),
        ("two hosts", 401, ask().and_header("host", "127.0.0.1:8080")),
        ("forwarded", 401, ask().by(Some(Client { forwarded: true, ..LOOPBACK }))),
        ("another site", 403, ask().header("sec-fetch-site", "cross-site")),
        ("another port", 403, ask().header("sec-fetch-site", "same-site")),
        ("another origin", 403, ask().header("origin", "https://evil.example")),
        ("no origin", 403, ask().header("origin", "null")),
    ] {
        assert_eq!(world.send(bad).await.status.as_u16(), status, "{name}");
    }
    let setup = crate::kit::Setup { anonymous_create: true, ..Default::default() };
    let open = World::with(setup).await;
    let remote = || ask().by(Some(REMOTE)).header("host", "go.example");
    assert_eq!(open.send(remote()).await.status, 201);
    let page = remote().header("sec-fetch-site", "cross-site");
    assert_eq!(open.send(page).await.problem(), problem(403, "cross-site", ""));
    let list = Ask::get("/api/v1/links").by(Some(REMOTE));
    assert_eq!(open.send(list).await.status, 401, "only creating is open");
}

/// Somebody else's link, an absent one and a deleted one answer the same, byte for byte.
#[tokio::test]
async fn other_peoples_links_do_not_exist() {
    let world = World::new().await;
    let all = [Scope::Read, Scope::Create];
    let (mine, theirs) = (world.key(&all, None).await, world.key(&all, None).await);
    for code in ["mine", "deleted"] {
        let body = json!({"target": TARGET, "code": code});
        world.send(Ask::post("/api/v1/links", &body).key(&mine)).await;
    }
    world.send(Ask::new("DELETE", "/api/v1/links/deleted").key(&mine)).await;
    let edit = json!({"target": "https://evil.example/"});
    for method in ["GET", "PATCH", "DELETE"] {
        let ask = |code: &str| {
            let ask = Ask::new(method, format!("/api/v1/links/{code}")).key(&theirs);
            if method == "PATCH" { ask.json(&edit) } else { ask }
        };
        let hidden = world.send(ask("mine")).await;
        assert_eq!(hidden.status, 404);
        for code in ["absent", "deleted", "not.a.code", "%00", "%ff", &"x".repeat(200)] {
            assert_eq!(world.send(ask(code)).await, hidden, "{method} {code}");
        }
        let guarded = world.send(ask("mine").header("if-match", "\"1\"")).await;
        assert_eq!(guarded, hidden, "{method}");
    }
    let still = world.send(Ask::get("/api/v1/links/mine").key(&mine)).await;
    assert_eq!((&still.json()["target"], &still.json()["version"]), (&json!(TARGET), &json!(1)));
    let body = json!({"target": TARGET, "owner": 1});
    let foist = world.send(Ask::post("/api/v1/links", &body).key(&theirs)).await;
    assert_eq!(foist.problem(), problem(400, "admin-only", "owner"));
}
