//! Whatever is wrong with a request is told with the right status and the field's name.

use bytes::Bytes;
use serde_json::json;

use crate::kit::{Ask, World, problem};

const TARGET: &str = "https://example.com/";

#[tokio::test]
async fn bodies_that_are_not_the_json_they_should_be() {
    let world = World::new().await;
    let deep = format!("{{\"target\":{}", "[".repeat(50_000));
    let send = async |body: Bytes| {
        let ask = Ask::new("POST", "/api/v1/links").header("content-type", "application/json");
        world.send(ask.body(body)).await.problem()
    };
    for bad in [
        "",
        "{",
        "null x",
        "{\"target\":\"https://a.example\"}}",
        "{'target':1}",
        "{\"target\":\"https://a.example\",\"target\":\"https://b.example\"}",
        "{\"target\":NaN}",
        "{\"max_clicks\":1e999}",
        "{\"target\":\"\\ud800\"}",
        &deep,
    ] {
        let answer = send(Bytes::from(bad.to_owned())).await;
        assert_eq!(answer, problem(400, "bad-json", "body"), "{bad:.40}");
    }
    assert_eq!(send(Bytes::from_static(b"{\"target\":\"\xff\"}")).await.1, "bad-json");
    for bad in ["null", "[]", "5", "\"x\"", "true"] {
        let answer = send(Bytes::from(bad)).await;
        assert_eq!(answer, problem(400, "wrong-type", "body"), "{bad}");
    }
}

#[tokio::test]
async fn every_field_is_judged_and_named() {
    let world = World::new().await;
    let long_title = "x".repeat(513);
    let tags: Vec<String> = (0..33).map(|n| n.to_string()).collect();
    let long_target = format!("https://example.com/{}", "x".repeat(8_192));
    for (field, value, code, named) in [
        ("target", json!(null), "wrong-type", "target"),
        ("target", json!(5), "wrong-type", "target"),
        ("target", json!(""), "empty", "target"),
        ("target", json!("data:text/html,x"), "scheme-dangerous", "target"),
        ("target", json!("https://a.example/\r\nSet-Cookie: x"), "line-break", "target"),
        ("target", json!("https://a@b.example/"), "credentials", "target"),
        ("target", json!(long_target), "too-long", "target"),
        ("target", json!("http://127.0.0.1:8080/loop"), "own-host", "target"),
        ("code", json!(""), "bad-code", "code"),
        ("code", json!("a b"), "bad-code", "code"),
        ("code", json!("a.b"), "bad-code", "code"),
        ("code", json!("ä"), "bad-code", "code"),
        ("code", json!("x".repeat(129)), "bad-code", "code"),
        ("code", json!("Login"), "reserved-code", "code"),
        ("code", json!(["a"]), "wrong-type", "code"),
        ("title", json!(long_title), "bad-title", "title"),
        ("title", json!("a\u{7}"), "bad-title", "title"),
        ("title", json!("trimmed\n"), "bad-title", "title"),
        ("tags", json!(["trimmed\t"]), "bad-tag", "tags[0]"),
        ("tags", json!("a"), "wrong-type", "tags"),
        ("tags", json!(null), "wrong-type", "tags"),
        ("tags", json!(tags), "too-many-tags", "tags"),
        ("tags", json!(["ok", ""]), "bad-tag", "tags[1]"),
        ("tags", json!(["ok", 3]), "wrong-type", "tags[1]"),
        ("tags", json!(["a,b"]), "bad-tag", "tags[0]"),
        ("expires_at", json!("tomorrow"), "bad-time", "expires_at"),
        ("expires_at", json!(1_795_327_200), "wrong-type", "expires_at"),
        ("expires_at", json!("2026-11-22T06:00:00Z"), "already-expired", "expires_at"),
        ("valid_from", json!("2026-11-22"), "bad-time", "valid_from"),
        ("max_clicks", json!(0), "bad-max-clicks", "max_clicks"),
        ("max_clicks", json!(-1), "out-of-range", "max_clicks"),
        ("max_clicks", json!(1.5), "out-of-range", "max_clicks"),
        ("max_clicks", json!("5"), "wrong-type", "max_clicks"),
        ("max_clicks", json!(u64::MAX), "out-of-range", "max_clicks"),
        ("status_code", json!(200), "bad-status-code", "status_code"),
        ("status_code", json!(70_000), "bad-status-code", "status_code"),
        ("forward_query", json!("yes"), "wrong-type", "forward_query"),
        ("enabled", json!(1), "wrong-type", "enabled"),
        ("owner", json!(5), "admin-only", "owner"),
        ("domain", json!("a/b"), "bad-domain", "domain"),
        ("password", json!("x"), "unknown-field", "password"),
        ("rules", json!([]), "unknown-field", "rules"),
        ("Target", json!("x"), "unknown-field", "Target"),
    ] {
        let mut body = json!({"target": TARGET});
        body[field] = value.clone();
        let answer = world.send(Ask::post("/api/v1/links", &body)).await;
        assert_eq!(answer.problem(), problem(400, code, named), "{field}: {value:.60}");
    }
    let window = json!({"target": TARGET, "valid_from": "2027-01-02T00:00:00Z",
        "expires_at": "2027-01-01T00:00:00Z"});
    let answer = world.send(Ask::post("/api/v1/links", &window)).await;
    assert_eq!(answer.problem(), problem(400, "empty-window", "expires_at"));
    let missing = world.send(Ask::post("/api/v1/links", &json!({}))).await;
    assert_eq!(missing.problem(), problem(400, "missing-field", "target"));
}

/// What is refused is refused on every entry with the same reason.
#[tokio::test]
async fn targets_have_one_judge() {
    let world = World::new().await;
    let admin = world.admin().await;
    let body = json!({"target": TARGET, "code": "victim"});
    world.send(Ask::post("/api/v1/links", &body).key(&admin)).await;
    for (target, reason) in [
        ("javascript:alert(1)", "scheme-dangerous"),
        ("JaVaScRiPt:alert(1)", "scheme-dangerous"),
        ("https:\\\\a.example", "backslash"),
        ("https://a.example/\u{0}", "nul-byte"),
        ("https://0x7f.1/", "ipv4-hex"),
        ("https://[fe80::1%25eth0]/", "ipv6-zone"),
        ("https://user@a.example/", "credentials"),
        ("http://127.0.0.1:8080/victim", "own-host"),
    ] {
        let row = json!({"target": target});
        let single = world.send(Ask::post("/api/v1/links", &row).key(&admin)).await;
        assert_eq!(single.problem(), problem(400, reason, "target"), "{target:?}");
        let patch = Ask::new("PATCH", "/api/v1/links/victim").key(&admin).json(&row);
        assert_eq!(world.send(patch).await.problem(), problem(400, reason, "target"));
        for uri in ["/api/v1/links:batch", "/api/v1/links:import"] {
            let many = world.send(Ask::post(uri, &json!([row])).key(&admin)).await;
            assert_eq!(many.lines()[0]["error"]["code"], reason, "{uri} {target:?}");
        }
        let restored = json!([{"target": target, "code": "r", "version": 1,
            "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z"}]);
        let restored = world.send(Ask::post("/api/v1/links:import", &restored).key(&admin)).await;
        assert_eq!(restored.lines()[0]["error"]["code"], reason, "restore {target:?}");
        let url = world.send(Ask::post("/api/urls", &json!({"longUrl": target}))).await;
        assert_eq!(url.problem(), problem(400, reason, "longUrl"));
        let short = world.send(Ask::post("/api/short", &json!({"longurl": target}))).await;
        assert_eq!(short.problem(), problem(400, reason, "longurl"));
    }
    let link = world.send(Ask::get("/api/v1/links/victim").key(&admin)).await;
    assert_eq!(link.json()["version"], 1);
}

#[tokio::test]
async fn sizes_types_methods_and_addresses() {
    let world = World::new().await;
    let admin = world.admin().await;
    let limit = 64 * 1024;
    let fits = format!("{{\"target\":\"{TARGET}\"}}");
    let fits = format!("{fits}{}", " ".repeat(limit - fits.len()));
    let ask = || Ask::new("POST", "/api/v1/links").header("content-type", "application/json");
    assert_eq!(world.send(ask().body(fits.clone())).await.status, 201);
    let over = format!("{fits} ");
    let too_large = problem(413, "too-large", "body");
    assert_eq!(world.send(ask().body(over.clone())).await.problem(), too_large);
    let pieces = over.as_bytes().chunks(1_000).map(Bytes::copy_from_slice).collect();
    assert_eq!(world.send(ask().pieces(pieces)).await.problem(), too_large, "without a length");

    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""] {
        let answer = world.send(ask().header("content-type", kind).body(fits.clone())).await;
        let expected = problem(415, "unsupported-media-type", "Content-Type");
        assert_eq!(answer.problem(), expected, "{kind}");
        assert_eq!(answer.text_header("accept"), "application/json");
    }
    let patch = Ask::new("PATCH", "/api/v1/links/x").key(&admin).body("{}");
    let answer = world.send(patch).await;
    assert_eq!(answer.status, 415);
    assert!(answer.text_header("accept-patch").starts_with("application/merge-patch+json"));

    for (method, uri, allow) in [
        ("PUT", "/api/v1/links", "GET,HEAD,POST"),
        ("POST", "/api/v1/links/abc", "DELETE,GET,HEAD,PATCH"),
        ("GET", "/api/v1/links:batch", "POST"),
        ("DELETE", "/openapi.json", "GET,HEAD"),
        ("GET", "/api/short", "POST"),
    ] {
        let answer = world.send(Ask::new(method, uri).key(&admin)).await;
        assert_eq!(answer.problem(), problem(405, "method-not-allowed", ""), "{method} {uri}");
        let mut methods: Vec<&str> = answer.text_header("allow").split(',').collect();
        methods.sort_unstable();
        assert_eq!(methods.join(","), allow, "{uri}");
    }
    for uri in ["/api", "/api/", "/api/v1", "/api/v2/links", "/api/v1/links/", "/api/v1/links/a/b"]
    {
        let answer = world.send(Ask::get(uri).key(&admin)).await;
        assert_eq!(answer.problem(), problem(404, "unknown-address", ""), "{uri}");
    }
    let extra = world.send(Ask::post("/api/v1/links?dry_run=1", &json!({"target": TARGET}))).await;
    assert_eq!(extra.problem(), problem(400, "unknown-parameter", "dry_run"));
    let body = Ask::get("/api/v1/links").key(&admin).header("content-length", "2").body("{}");
    assert_eq!(world.send(body).await.problem(), problem(400, "unexpected-body", "body"));
}
