//! The API's contract, seen from outside.

use serde_json::{Value, json};
use shunt_cluster::{Request, Response, Shunt};

use crate::kit;

fn api(shunt: &Shunt, key: &str, method: &str, path: &str, body: Option<&Value>) -> Response {
    let mut request = Request::new(method, path).key(key);
    if let Some(body) = body {
        request = request.json(body);
    }
    shunt.ask(&request).unwrap()
}

#[test]
fn a_link_lives_from_create_to_tombstone() {
    let shunt = Shunt::started().unwrap();
    let key = kit::admin(&shunt);
    let wish = json!({
        "target": "https://example.com/a?b=c", "code": "life", "title": "A life",
        "tags": ["one", "two"], "status_code": 307, "forward_query": true,
    });
    let created = api(&shunt, &key, "POST", "/api/v1/links", Some(&wish));
    assert_eq!(created.status, 201, "{created:?}");
    assert!(created.location().ends_with("/life"), "{created:?}");
    let body = created.json().unwrap();
    for (name, value) in [
        ("code", json!("life")),
        ("short_url", json!(shunt.url("/life"))),
        ("target", json!("https://example.com/a?b=c")),
        ("version", json!(1)),
        ("title", json!("A life")),
        ("tags", json!(["one", "two"])),
        ("status_code", json!(307)),
    ] {
        assert_eq!(body[name], value, "{name} in {body}");
    }
    let redirect = kit::get(&shunt, "/life?d=e");
    assert_eq!(redirect.status, 307);
    assert_eq!(redirect.location(), "https://example.com/a?b=c&d=e");

    let read = api(&shunt, &key, "GET", "/api/v1/links/life", None);
    assert_eq!(read.status, 200);
    let etag = read.header("etag").unwrap().to_owned();
    assert!(etag.starts_with('"') && etag.ends_with('"'), "a strong tag: {etag}");

    let path = "/api/v1/links/life";
    let merge = |etag: &str, patch: &Value| {
        let request = Request::new("PATCH", path)
            .key(&key)
            .header("If-Match", etag)
            .header("Content-Type", "application/merge-patch+json")
            .body(patch.to_string());
        shunt.ask(&request).unwrap()
    };
    let patched = merge(&etag, &json!({"target": "https://example.org/new", "title": null}));
    assert_eq!(patched.status, 200, "{patched:?}");
    assert_eq!(patched.json().unwrap()["version"], 2);
    assert!(patched.json().unwrap().get("title").is_none_or(Value::is_null));
    assert_eq!(merge(&etag, &json!({"title": "late"})).status, 412);

    assert_eq!(api(&shunt, &key, "DELETE", path, None).status, 204);
    assert_eq!(api(&shunt, &key, "DELETE", path, None).status, 404);
    assert_eq!(kit::get(&shunt, "/life").status, 410);
    let retired = api(&shunt, &key, "POST", "/api/v1/links", Some(&wish));
    assert_eq!(retired.status, 409);
    assert!(retired.text().contains("code-retired"), "{retired:?}");
}

#[test]
fn bad_requests_are_problems_that_name_the_field() {
    let shunt = kit::shared();
    for (body, status, word) in [
        (json!({"target": "javascript:alert(1)"}).to_string(), 400, "target"),
        (json!({"target": 5}).to_string(), 400, "target"),
        (json!({}).to_string(), 400, "target"),
        (json!({"target": "https://example.com/", "password": "x"}).to_string(), 400, "password"),
        (json!({"target": "https://example.com/", "rules": []}).to_string(), 400, "rules"),
        (json!({"target": "https://example.com/", "code": "a b"}).to_string(), 400, "code"),
        (json!({"target": "https://example.com/", "code": "api"}).to_string(), 400, "code"),
        (json!({"target": "https://example.com/", "max_clicks": 0}).to_string(), 400, "max_clicks"),
        (json!({"target": "https://e.com/", "status_code": 303}).to_string(), 400, "status_code"),
        (json!({"target": "https://e.com/", "expires_at": "soon"}).to_string(), 400, "expires_at"),
        ("{\"target\": ".to_owned(), 400, ""),
        ("[]".to_owned(), 400, ""),
        ("\u{feff}{}".to_owned(), 400, ""),
        (format!("{{\"target\": {}1{}}}", "[".repeat(5000), "]".repeat(5000)), 400, ""),
    ] {
        let request = Request::new("POST", "/api/v1/links")
            .header("Content-Type", "application/json")
            .body(body.clone());
        let answer = shunt.ask(&request).unwrap();
        assert_eq!(answer.status, status, "{body:.80}: {answer:?}");
        let media = answer.header("content-type").unwrap_or_default();
        assert!(media.starts_with("application/problem+json"), "{body:.80}: {answer:?}");
        assert!(answer.text().contains(word), "{word} in {answer:?}");
    }
    let plain = Request::new("POST", "/api/v1/links").header("Content-Type", "text/plain");
    let answer = shunt.ask(&plain.body("{}")).unwrap();
    assert!(matches!(answer.status, 400 | 415), "{answer:?}");
    assert_eq!(shunt.ask(&Request::new("PUT", "/api/v1/links")).unwrap().status, 405);
}

#[test]
fn the_same_idempotency_key_gives_the_same_link() {
    let shunt = kit::shared();
    let ask = |key: &str, target: &str| {
        let request = Request::post_json("/api/v1/links", &json!({"target": target}))
            .header("Idempotency-Key", key);
        shunt.ask(&request).unwrap()
    };
    let key = "an-idempotency-key-long-enough-1";
    let first = ask(key, "https://example.com/once");
    let second = ask(key, "https://example.com/once");
    assert_eq!((first.status, second.status), (201, 201), "{second:?}");
    assert_eq!(first.body, second.body);
    assert_eq!(first.location(), second.location());
    assert_eq!(second.header("idempotency-replayed"), Some("true"));
    assert_eq!(first.header("idempotency-replayed"), None);
    assert_eq!(ask(key, "https://example.com/other").status, 422);
    assert_eq!(ask("too-short", "https://example.com/").status, 400);
}

/// A caller who comes through a proxy, from another site, or under another name is not the person
/// at this machine.
#[test]
fn only_the_person_at_this_machine_creates_without_a_key() {
    let shunt = kit::shared();
    let wish = json!({"target": "https://example.com/"});
    let ask = |name: &str, value: &str| {
        shunt.ask(&Request::post_json("/api/v1/links", &wish).header(name, value)).unwrap().status
    };
    assert_eq!(ask("Accept", "*/*"), 201);
    for (name, value) in [
        ("X-Forwarded-For", "127.0.0.1"),
        ("Forwarded", "for=127.0.0.1"),
        ("X-Real-IP", "127.0.0.1"),
        ("Via", "1.1 proxy"),
        ("Host", "go.example"),
        ("Host", "127.0.0.1.evil.example"),
        ("Sec-Fetch-Site", "cross-site"),
        ("Origin", "https://evil.example"),
        ("Origin", "null"),
    ] {
        assert!(matches!(ask(name, value), 401 | 403), "{name}: {value} → {}", ask(name, value));
    }
    for path in ["/api/v1/links", "/api/v1/links/x"] {
        assert_eq!(kit::get(shunt, path).status, 401, "{path}");
    }
    let delete = shunt.ask(&Request::new("DELETE", "/api/v1/links/x")).unwrap();
    assert_eq!(delete.status, 401);
    let bad = Request::get("/api/v1/links").key("shunt_0000000000000000000000000000000000000000");
    assert_eq!(shunt.ask(&bad).unwrap().status, 401);
}

#[test]
fn a_batch_answers_each_row_and_a_summary() {
    let shunt = Shunt::started().unwrap();
    let key = kit::admin(&shunt);
    let rows = [
        json!({"target": "https://example.com/1", "code": "b1"}),
        json!({"target": "ftp://example.com/2"}),
        json!({"target": "https://example.com/3", "code": "b1"}),
        json!({"target": "https://example.com/4"}),
    ];
    let body: String = rows.iter().map(|row| format!("{row}\n")).collect();
    let request = Request::new("POST", "/api/v1/links:batch")
        .key(&key)
        .header("Content-Type", "application/x-ndjson")
        .body(body);
    let answer = shunt.ask(&request).unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    let lines: Vec<Value> =
        answer.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 5, "{answer:?}");
    let statuses: Vec<_> = lines.iter().take(4).map(|line| line["status"].clone()).collect();
    assert_eq!(statuses, [201, 400, 409, 201]);
    kit::leads(&shunt, "b1", "https://example.com/1");
}

#[test]
fn the_reference_contracts_are_served() {
    let shunt = kit::shared();
    let target = "https://example.com/reference";
    let urls = Request::post_json("/api/urls", &json!({"longUrl": target, "userId": "u"}));
    let answer = shunt.ask(&urls).unwrap();
    assert_eq!(answer.status, 201, "{answer:?}");
    let short = answer.json().unwrap()["shortUrl"].as_str().unwrap().to_owned();
    let code = short.rsplit('/').next().unwrap().to_owned();
    let redirect = kit::get(shunt, &format!("/api/urls/{code}"));
    assert!((301..=308).contains(&redirect.status), "{redirect:?}");
    assert_eq!(redirect.location(), target);

    let short = Request::post_json("/api/short", &json!({"longurl": target}));
    let answer = shunt.ask(&short).unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    let code = answer.json().unwrap()["redirect_id"].as_str().unwrap().to_owned();
    kit::leads(shunt, &code, target);

    let form = Request::new("POST", "/shorten")
        .header("Content-Type", "application/x-www-form-urlencoded")
        .body("long_url=https%3A%2F%2Fexample.com%2Freference");
    let answer = shunt.ask(&form).unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.text().contains(&shunt.url("/")), "{answer:?}");
}

/// What is refused is refused on every entry, and nothing is stored.
#[test]
fn hostile_targets_are_refused_on_every_entry() {
    let shunt = Shunt::started().unwrap();
    let own = shunt.url("/loop");
    for target in [
        "javascript:alert(1)",
        "data:text/html,x",
        "java\tscript:alert(1)",
        "//evil.example/",
        "https:\\\\evil.example\\",
        "https://user:pass@example.com/",
        "https://example.com/\r\nSet-Cookie: a=b",
        "https://example.com/\0",
        "https://[fe80::1%25eth0]/",
        "file:///etc/passwd",
        own.as_str(),
        "",
    ] {
        let json_entries = [
            Request::post_json("/api/v1/links", &json!({"target": target})),
            Request::post_json("/api/urls", &json!({"longUrl": target})),
            Request::post_json("/api/short", &json!({"longurl": target})),
        ];
        for request in json_entries {
            let answer = shunt.ask(&request).unwrap();
            assert_eq!(answer.status, 400, "{target:?} by {request:?}: {answer:?}");
        }
        let encoded: String = target.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let form = Request::new("POST", "/shorten")
            .header("Content-Type", "application/x-www-form-urlencoded")
            .body(format!("long_url={encoded}"));
        let answer = shunt.ask(&form).unwrap();
        assert_eq!(answer.status, 400, "{target:?} by form: {answer:?}");
    }
    let key = kit::admin(&shunt);
    let list = shunt.ask(&Request::get("/api/v1/links").key(&key)).unwrap().json().unwrap();
    assert_eq!(list["links"], json!([]), "{list}");
}
