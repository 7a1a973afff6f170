//! API keys and domains.

use serde_json::{Value, json};

use crate::kit::{Ask, World, problem};

#[tokio::test]
async fn keys_are_made_listed_used_and_revoked() {
    let world = World::new().await;
    let admin = world.admin().await;
    let body = json!({"name": "ci", "scopes": ["create", "read", "create"], "owner": 7,
        "expires_at": "2027-01-01T00:00:00Z"});
    let made = world.send(Ask::post("/api/v1/keys", &body).key(&admin)).await;
    assert_eq!(made.status, 201, "{made:?}");
    let mut view = made.json();
    let secret = view["secret"].as_str().unwrap().to_owned();
    assert!(secret.starts_with("shunt_") && secret.len() == 6 + 43);
    view.as_object_mut().unwrap().remove("secret");
    assert_eq!(view["scopes"], json!(["read", "create"]));
    assert_eq!((&view["owner"], &view["revoked_at"]), (&json!(7), &Value::Null));
    let list = world.send(Ask::get("/api/v1/keys").key(&admin)).await;
    assert!(list.json()["keys"].as_array().unwrap().contains(&view));
    assert!(!String::from_utf8_lossy(&list.body).contains(&secret));
    let links = Ask::get("/api/v1/links").key(&secret);
    assert_eq!(world.send(links.clone()).await.status, 200);
    let uri = format!("/api/v1/keys/{}", view["id"]);
    let revoke = || world.send(Ask::new("DELETE", uri.clone()).key(&admin));
    assert_eq!(revoke().await.status, 204);
    assert_eq!(world.send(links).await.status, 401, "at once");
    assert_eq!(revoke().await.problem(), problem(404, "not-found", ""));
    for id in ["0", "abc", "-1", "18446744073709551615", "99999999999999999999"] {
        let ask = Ask::new("DELETE", format!("/api/v1/keys/{id}")).key(&admin);
        assert_eq!(world.send(ask).await.status, 404, "{id}");
    }
    for (body, code, field) in [
        (json!({"scopes": ["read"]}), "missing-field", "name"),
        (json!({"name": "x"}), "missing-field", "scopes"),
        (json!({"name": "", "scopes": ["read"]}), "bad-name", "name"),
        (json!({"name": "x", "scopes": []}), "no-scopes", "scopes"),
        (json!({"name": "x", "scopes": ["root"]}), "bad-scope", "scopes[0]"),
        (json!({"name": "x", "scopes": "read"}), "wrong-type", "scopes"),
        (json!({"name": "x", "scopes": ["read"], "secret": "mine"}), "unknown-field", "secret"),
        (
            json!({"name": "x", "scopes": ["read"], "expires_at": "2020-01-01T00:00:00Z"}),
            "already-expired",
            "expires_at",
        ),
    ] {
        let answer = world.send(Ask::post("/api/v1/keys", &body).key(&admin)).await;
        assert_eq!(answer.problem(), problem(400, code, field), "{body}");
    }
}

#[tokio::test]
async fn domains_are_registered_once_under_one_spelling() {
    let world = World::new().await;
    let admin = world.admin().await;
    let post =
        |host: &str| world.send(Ask::post("/api/v1/domains", &json!({"host": host})).key(&admin));
    let first = post("Müller.Example.").await;
    assert_eq!(first.status, 201, "{first:?}");
    assert_eq!(first.json()["host"], "xn--mller-kva.example");
    assert_eq!(post("xn--mller-kva.example").await.json(), first.json());
    let list = world.send(Ask::get("/api/v1/domains").key(&admin)).await;
    assert_eq!(list.json(), json!({"domains": [first.json()]}));
    for bad in ["", "a b", "http://a.example", "a.example/x", "a.example:80", "[::1]", "a..b"] {
        let answer = post(bad).await;
        assert_eq!(answer.problem(), problem(400, "bad-domain", "host"), "{bad:?}");
    }
    let world = world.restarted().await;
    let list = world.send(Ask::get("/api/v1/domains").key(&admin)).await;
    assert_eq!(list.json(), json!({"domains": [first.json()]}));
}
