//! The contract's rows on single links: create, read, list, change, delete, figures, dialects.

use serde_json::{Value, json};
use shunt_domain::ports::HourRow;
use shunt_domain::{Code, DomainId, LinkKey, Scope};
use shunt_engine::codes::CodeSettings;

use crate::kit::{Ask, EPOCH, Setup, World, problem};

const TARGET: &str = "https://example.com/page?a=1#b";

#[tokio::test]
async fn a_link_is_created_read_changed_and_deleted() {
    let world = World::new().await;
    let key = world.key(&[Scope::Read, Scope::Create], Some(77)).await;
    let body = json!({
        "target": TARGET, "code": "abc", "title": " Title ", "tags": ["B", "a", "b"],
        "valid_from": "2026-11-22T07:00:00+01:00", "expires_at": "2027-01-01T00:00:00Z",
        "max_clicks": 5, "status_code": 307, "forward_query": true,
    });
    let created = world.send(Ask::post("/api/v1/links", &body).key(&key)).await;
    assert_eq!(created.status, 201, "{created:?}");
    assert_eq!(created.text_header("location"), "http://127.0.0.1:8080/abc");
    assert_eq!(created.text_header("etag"), "\"1\"");
    assert!(!created.replayed());
    let mut view = created.json();
    let expected = json!({
        "code": "abc", "short_url": "http://127.0.0.1:8080/abc", "target": TARGET,
        "mixed_script": false, "domain": null, "title": "Title", "tags": ["a", "b"], "owner": 77,
        "version": 1, "created_at": "2026-11-22T06:00:00Z", "updated_at": "2026-11-22T06:00:00Z",
        "valid_from": "2026-11-22T06:00:00Z", "expires_at": "2027-01-01T00:00:00Z",
        "max_clicks": 5, "status_code": 307, "forward_query": true, "enabled": true,
    });
    assert_eq!(view, expected);

    let read = world.send(Ask::get("/api/v1/links/abc").key(&key)).await;
    assert_eq!((read.status.as_u16(), read.json()), (200, view.clone()));
    assert_eq!(read.text_header("etag"), "\"1\"");

    let change = json!({"title": null, "tags": null, "max_clicks": null, "enabled": false});
    let patch = Ask::new("PATCH", "/api/v1/links/abc").key(&key);
    let patch = patch.header("content-type", "application/merge-patch+json");
    let patched = world.send(patch.body(change.to_string())).await;
    assert_eq!(patched.status, 200, "{patched:?}");
    assert_eq!(patched.text_header("etag"), "\"2\"");
    for (name, value) in [
        ("title", Value::Null),
        ("tags", json!([])),
        ("max_clicks", Value::Null),
        ("enabled", json!(false)),
        ("version", json!(2)),
    ] {
        view[name] = value;
    }
    assert_eq!(patched.json(), view, "what was left out stays");

    let deleted = world.send(Ask::new("DELETE", "/api/v1/links/abc").key(&key)).await;
    assert_eq!((deleted.status.as_u16(), deleted.body.len()), (204, 0));
    for method in ["GET", "DELETE"] {
        let again = world.send(Ask::new(method, "/api/v1/links/abc").key(&key)).await;
        assert_eq!(again.problem(), problem(404, "not-found", ""), "{method}");
    }
    let body = json!({"target": TARGET, "code": "abc"});
    let reuse = world.send(Ask::post("/api/v1/links", &body).key(&key)).await;
    assert_eq!(reuse.problem(), problem(409, "code-retired", "code"));
}

#[tokio::test]
async fn a_code_has_one_owner() {
    let world = World::new().await;
    let body = json!({"target": TARGET, "code": "mine"});
    let results = futures_util::future::join_all((0..32).map(|_| {
        let ask = Ask::post("/api/v1/links", &body);
        world.send(ask)
    }))
    .await;
    assert_eq!(results.iter().filter(|answer| answer.status == 201).count(), 1);
    let taken = results.iter().filter(|answer| answer.problem_code() == "taken").count();
    assert_eq!(taken, 31);
}

impl crate::kit::Answer {
    fn problem_code(&self) -> String {
        if self.status.is_success() { String::new() } else { self.problem().1 }
    }
}

#[tokio::test]
async fn entity_tags_guard_changes() {
    let world = World::new().await;
    let key = world.admin().await;
    let body = json!({"target": TARGET, "code": "abc"});
    world.send(Ask::post("/api/v1/links", &body).key(&key)).await;
    let get = |tag: &str| Ask::get("/api/v1/links/abc").key(&key).header("if-none-match", tag);
    let same = world.send(get("W/\"1\"")).await;
    assert_eq!((same.status.as_u16(), same.body.len()), (304, 0));
    assert_eq!(same.text_header("etag"), "\"1\"");
    assert_eq!(world.send(get("\"2\", \"9\"")).await.status, 200);
    let patch = |tag: &str, title: &str| {
        let ask = Ask::new("PATCH", "/api/v1/links/abc").key(&key).json(&json!({"title": title}));
        ask.header("if-match", tag)
    };
    assert_eq!(world.send(patch("\"1\"", "a")).await.status, 200);
    for stale in ["\"1\"", "W/\"2\"", "\"x\"", "\"02\""] {
        let refused = world.send(patch(stale, "b")).await;
        assert_eq!(refused.problem(), problem(412, "stale", "If-Match"), "{stale}");
        assert_eq!(refused.text_header("etag"), "\"2\"");
    }
    assert_eq!(world.send(patch("\"7\", \"2\"", "c")).await.status, 200);
    assert_eq!(world.send(patch("*", "d")).await.status, 200);
    let malformed = world.send(patch("4", "e")).await;
    assert_eq!(malformed.problem(), problem(400, "bad-entity-tag", "If-Match"));
    let delete =
        |tag: &str| Ask::new("DELETE", "/api/v1/links/abc").key(&key).header("if-match", tag);
    assert_eq!(world.send(delete("\"3\"")).await.status, 412);
    assert_eq!(world.send(delete("\"4\"")).await.status, 204);
}

#[tokio::test]
async fn concurrent_edits_of_the_two_ends_of_a_window_never_close_it() {
    let world = World::new().await;
    let key = world.admin().await;
    let body = json!({"target": TARGET, "code": "w", "valid_from": "2027-01-01T00:00:00Z",
        "expires_at": "2027-12-01T00:00:00Z"});
    world.send(Ask::post("/api/v1/links", &body).key(&key)).await;
    let patch =
        |body: Value| world.send(Ask::new("PATCH", "/api/v1/links/w").key(&key).json(&body));
    let (from, to) = tokio::join!(
        patch(json!({"valid_from": "2027-10-01T00:00:00Z"})),
        patch(json!({"expires_at": "2027-02-01T00:00:00Z"})),
    );
    let mut statuses = [from.status.as_u16(), to.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 400], "{from:?} {to:?}");
}

#[tokio::test]
async fn an_empty_patch_changes_nothing_and_ends_may_lie_in_the_past() {
    let world = World::new().await;
    let key = world.admin().await;
    let body = json!({"target": TARGET, "code": "e"});
    world.send(Ask::post("/api/v1/links", &body).key(&key)).await;
    let patch =
        |body: Value| world.send(Ask::new("PATCH", "/api/v1/links/e").key(&key).json(&body));
    let same = patch(json!({})).await;
    assert_eq!((same.status.as_u16(), same.text_header("etag")), (200, "\"1\""));
    let ended = patch(json!({"expires_at": "2020-01-01T00:00:00Z"})).await;
    assert_eq!(ended.status, 200, "{ended:?}");
}

#[tokio::test]
async fn immutable_links_are_made_and_deleted_but_not_edited() {
    let world = World::with(Setup { immutable: true, ..Setup::default() }).await;
    let key = world.admin().await;
    let body = json!({"target": TARGET, "code": "i"});
    assert_eq!(world.send(Ask::post("/api/v1/links", &body).key(&key)).await.status, 201);
    let patch = Ask::new("PATCH", "/api/v1/links/i").key(&key).json(&json!({"title": "x"}));
    assert_eq!(world.send(patch).await.problem(), problem(409, "immutable", ""));
    let absent = Ask::new("PATCH", "/api/v1/links/none").key(&key).json(&json!({"title": "x"}));
    assert_eq!(world.send(absent).await.status, 404);
    assert_eq!(world.send(Ask::new("DELETE", "/api/v1/links/i").key(&key)).await.status, 204);
}

#[tokio::test]
async fn a_store_without_lists_answers_501_and_does_everything_else() {
    let world = World::with(Setup { without_lists: true, ..Setup::default() }).await;
    let admin = world.admin().await;
    let body = json!({"target": TARGET, "code": "i"});
    assert_eq!(world.send(Ask::post("/api/v1/links", &body).key(&admin)).await.status, 201);
    assert_eq!(world.send(Ask::get("/api/v1/links/i").key(&admin)).await.status, 200);
    for uri in ["/api/v1/links", "/api/v1/links?q=abc&sort=-code", "/api/v1/links:export"] {
        let answer = world.send(Ask::get(uri).key(&admin)).await;
        assert_eq!(answer.problem(), problem(501, "unsupported", ""), "{uri}");
    }
}

#[tokio::test]
async fn lists_are_pages_of_ones_own_links() {
    let world = World::new().await;
    let mine = world.key(&[Scope::Read, Scope::Create], None).await;
    let theirs = world.key(&[Scope::Read, Scope::Create], None).await;
    for n in 0..7 {
        world.clock.forward(std::time::Duration::from_millis(10));
        let tag = if n % 2 == 0 { "even" } else { "odd" };
        let body = json!({"target": format!("https://example.com/Needle/{n}"),
            "code": format!("c{n}"), "tags": [tag]});
        world.send(Ask::post("/api/v1/links", &body).key(&mine)).await;
    }
    let body = json!({"target": TARGET, "code": "other"});
    world.send(Ask::post("/api/v1/links", &body).key(&theirs)).await;
    let codes = |answer: &crate::kit::Answer| -> Vec<String> {
        let links = answer.json()["links"].as_array().unwrap().clone();
        links.iter().map(|link| link["code"].as_str().unwrap().to_owned()).collect()
    };
    // Page by page until the end.
    let (mut all, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let mut uri = "/api/v1/links?limit=3&sort=created".to_owned();
        if let Some(cursor) = &cursor {
            uri.push_str(&format!("&cursor={cursor}"));
        }
        let page = world.send(Ask::get(uri).key(&mine)).await;
        assert_eq!(page.status, 200, "{page:?}");
        all.extend(codes(&page));
        cursor = page.json()["next"].as_str().map(ToOwned::to_owned);
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(all, ["c0", "c1", "c2", "c3", "c4", "c5", "c6"]);
    for (query, expected) in [
        ("?sort=-code&limit=2", vec!["c6", "c5"]),
        ("?tag=ODD", vec!["c5", "c3", "c1"]),
        ("?q=nEEdle/4", vec!["c4"]),
        ("?q=zzz", vec![]),
    ] {
        let page = world.send(Ask::get(format!("/api/v1/links{query}")).key(&mine)).await;
        assert_eq!(codes(&page), expected, "{query}");
    }
    let admin = world.admin().await;
    assert_eq!(codes(&world.send(Ask::get("/api/v1/links").key(&admin)).await).len(), 8);
    for (query, code, field) in [
        ("?q=ab", "bad-search", "q"),
        ("?limit=0", "out-of-range", "limit"),
        ("?limit=201", "out-of-range", "limit"),
        ("?limit=+1", "out-of-range", "limit"),
        ("?sort=clicks", "bad-sort", "sort"),
        ("?cursor=nonsense", "bad-cursor", "cursor"),
        ("?tag=", "bad-tag", "tag"),
        ("?page=2", "unknown-parameter", "page"),
        ("?q=abc&q=abd", "repeated-parameter", "q"),
        ("?domain=nobody.example", "unknown-domain", "domain"),
    ] {
        let page = world.send(Ask::get(format!("/api/v1/links{query}")).key(&mine)).await;
        assert_eq!(page.problem(), problem(400, code, field), "{query}");
    }
}

#[tokio::test]
async fn domains_keep_their_codes_apart_and_are_loops() {
    let world = World::new().await;
    let admin = world.admin().await;
    let user = world.key(&[Scope::Read, Scope::Create], None).await;
    let create = |key: &str, domain: Value| {
        let body = json!({"target": TARGET, "code": "same", "domain": domain});
        world.send(Ask::post("/api/v1/links", &body).key(key))
    };
    let unknown = create(&user, json!("go.example")).await;
    assert_eq!(unknown.problem(), problem(400, "unknown-domain", "domain"));
    let bad = create(&admin, json!("http://go.example")).await;
    assert_eq!(bad.problem(), problem(400, "bad-domain", "domain"));
    // An admin registers a domain by using it; then everybody may, under any spelling.
    let first = create(&admin, json!("Go.Example.")).await;
    assert_eq!(first.json()["domain"], "go.example");
    assert_eq!(first.json()["short_url"], "http://go.example/same");
    assert_eq!(create(&user, json!("GO.EXAMPLE")).await.status, 409);
    assert_eq!(create(&user, json!(null)).await.status, 201);
    let read = world.send(Ask::get("/api/v1/links/same?domain=go.example").key(&admin)).await;
    assert_eq!(read.json()["short_url"], "http://go.example/same");
    // The user's own link is the one on the default domain, by either of its names.
    for uri in ["/api/v1/links/same", "/api/v1/links/same?domain=127.0.0.1"] {
        assert_eq!(world.send(Ask::get(uri).key(&user)).await.json()["domain"], json!(null));
    }
    let hidden = world.send(Ask::get("/api/v1/links/same?domain=go.example").key(&user)).await;
    assert_eq!(hidden.status, 404);
    for own in ["http://go.example/x", "https://GO.EXAMPLE:81/", "http://127.0.0.1:8080/x"] {
        let loops = world.send(Ask::post("/api/v1/links", &json!({"target": own}))).await;
        assert_eq!(loops.problem(), problem(400, "own-host", "target"), "{own}");
    }
}

#[tokio::test]
async fn a_small_space_is_used_up_to_its_last_code_and_then_says_so() {
    let alphabet = shunt_engine::codes::Alphabet::parse("abcdefgh").unwrap();
    let codes = CodeSettings { alphabet, length: 2, max_length: 2, ..CodeSettings::default() };
    let world = World::with(Setup { codes, ..Setup::default() }).await;
    let mut seen = std::collections::HashSet::new();
    for n in 0..64 {
        let answer = world.send(Ask::post("/api/v1/links", &json!({"target": TARGET}))).await;
        assert_eq!(answer.status, 201, "link {n}: {answer:?}");
        assert!(seen.insert(answer.code()), "a code was handed out twice");
    }
    let began = std::time::Instant::now();
    let full = world.send(Ask::post("/api/v1/links", &json!({"target": TARGET}))).await;
    assert_eq!(full.problem(), problem(507, "code-space-exhausted", ""));
    assert!(began.elapsed() < std::time::Duration::from_secs(2), "{:?}", began.elapsed());
    let once = Ask::post("/api/v1/links", &json!({"target": TARGET}));
    let full = world.send(once.once("1234567890123456789012")).await;
    assert_eq!(full.problem(), problem(507, "code-space-exhausted", ""));
}

#[tokio::test]
async fn figures_are_totals_and_hours() {
    let world = World::new().await;
    let key = world.key(&[Scope::Read, Scope::Create], None).await;
    let body = json!({"target": TARGET, "code": "s", "max_clicks": 9});
    world.send(Ask::post("/api/v1/links", &body).key(&key)).await;
    let link = LinkKey::new(DomainId::DEFAULT, Code::parse("s").unwrap());
    let hour = EPOCH / 3_600_000;
    for (hour, clicks) in [(hour - 30, 100), (hour - 2, 7), (hour - 1, 5), (hour, 1)] {
        let row = HourRow { key: link.clone(), hour, clicks, humans: clicks / 2, heads: 1 };
        world.figures.0.lock().unwrap().push(row);
    }
    let stats = world.send(Ask::get("/api/v1/links/s/stats").key(&key)).await;
    assert_eq!(stats.status, 200, "{stats:?}");
    let stats = stats.json();
    assert_eq!(stats["totals"], json!({"clicks": 113, "humans": 55, "heads": 4}));
    assert_eq!((&stats["used"], &stats["max_clicks"]), (&json!(0), &json!(9)));
    assert_eq!(stats["from"], "2026-11-21T06:00:00Z");
    assert_eq!(stats["to"], "2026-11-22T06:00:00Z");
    assert_eq!(stats["series"].as_array().unwrap().len(), 2);
    let uri = "/api/v1/links/s/stats?from=2026-11-22T05:30:00Z&to=2026-11-22T06:00:01Z&unit=hour";
    let series = world.send(Ask::get(uri).key(&key)).await.json()["series"].clone();
    assert_eq!(
        series,
        json!([
            {"at": "2026-11-22T05:00:00Z", "clicks": 5, "humans": 2, "heads": 1},
            {"at": "2026-11-22T06:00:00Z", "clicks": 1, "humans": 0, "heads": 1},
        ])
    );
    for (query, code, field) in [
        ("?by=country", "unknown-parameter", "by"),
        ("?unit=day", "bad-unit", "unit"),
        ("?from=yesterday", "bad-time", "from"),
        ("?from=2026-11-22T06:00:00Z&to=2026-11-22T05:00:00Z", "empty-window", "to"),
        ("?from=2026-01-01T00:00:00Z", "window-too-long", "from"),
    ] {
        let refused = world.send(Ask::get(format!("/api/v1/links/s/stats{query}")).key(&key)).await;
        assert_eq!(refused.problem(), problem(400, code, field), "{query}");
    }
    let other = world.key(&[Scope::Read], None).await;
    let hidden = world.send(Ask::get("/api/v1/links/s/stats").key(&other)).await;
    let absent = world.send(Ask::get("/api/v1/links/none/stats").key(&other)).await;
    assert_eq!(hidden, absent);
}

#[tokio::test]
async fn the_reference_contracts_are_kept() {
    let world = World::new().await;
    let body = json!({"longUrl": TARGET, "userId": "u1"});
    let url = world.send(Ask::post("/api/urls", &body)).await;
    assert_eq!(url.status, 201, "{url:?}");
    let view = url.json();
    assert_eq!(view["longUrl"], TARGET);
    assert_eq!(url.text_header("location"), view["shortUrl"].as_str().unwrap());
    let admin = world.admin().await;
    let code = view["id"].as_str().unwrap();
    let link = world.send(Ask::get(format!("/api/v1/links/{code}")).key(&admin)).await;
    assert_eq!(link.json()["target"], TARGET);

    let short = world.send(Ask::post("/api/short", &json!({"longurl": TARGET}))).await;
    assert_eq!(short.status, 200, "{short:?}");
    assert_eq!(short.json().as_object().unwrap().len(), 1);
    let code = short.json()["redirect_id"].as_str().unwrap().to_owned();
    let link = world.send(Ask::get(format!("/api/v1/links/{code}")).key(&admin)).await;
    assert_eq!(link.json()["target"], TARGET);

    for (uri, field) in [("/api/urls", "longUrl"), ("/api/short", "longurl")] {
        let bad = world.send(Ask::post(uri, &json!({field: "javascript:alert(1)"}))).await;
        assert_eq!(bad.problem(), problem(400, "scheme-dangerous", field));
        let missing = world.send(Ask::post(uri, &json!({}))).await;
        assert_eq!(missing.problem(), problem(400, "missing-field", field));
        let extra = world.send(Ask::post(uri, &json!({field: TARGET, "alias": "x"}))).await;
        assert_eq!(extra.problem(), problem(400, "unknown-field", "alias"));
        let key = "0123456789012345678901";
        let first = world.send(Ask::post(uri, &json!({field: TARGET})).once(key)).await;
        let again = world.send(Ask::post(uri, &json!({field: TARGET})).once(key)).await;
        // The key was used at the other address before: that is another request.
        if uri == "/api/urls" {
            assert_eq!((first.body, again.replayed()), (again.body.clone(), true));
        } else {
            assert_eq!(first.status, 422);
        }
    }
}
