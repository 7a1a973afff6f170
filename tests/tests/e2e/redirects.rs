//! What a short link answers, case by case.

use serde_json::{Value, json};
use shunt_cluster::{Request, Response, Shunt};

use crate::kit;

fn make(shunt: &Shunt, key: &str, code: &str, more: &[(&str, Value)]) {
    let mut link = json!({"target": "https://example.com/t", "code": code});
    for (name, value) in more {
        link[*name] = value.clone();
    }
    let answer = shunt.ask(&Request::post_json("/api/v1/links", &link).key(key)).unwrap();
    assert_eq!(answer.status, 201, "{answer:?}");
}

/// The same answer, but for what names this one request.
fn same_page(a: &Response, b: &Response) -> bool {
    let headers = |response: &Response| -> Vec<(String, String)> {
        let varying = ["date", "x-request-id", "content-security-policy"];
        let kept = response.headers.iter().filter(|(name, _)| !varying.contains(&name.as_str()));
        kept.cloned().collect()
    };
    a.status == b.status && headers(a) == headers(b) && a.body.len() == b.body.len()
}

#[test]
fn each_state_of_a_link_has_its_answer() {
    let shunt = Shunt::started().unwrap();
    let key = kit::admin(&shunt);
    make(&shunt, &key, "plain", &[]);
    for status in [301, 302, 307, 308] {
        make(&shunt, &key, &format!("s{status}"), &[("status_code", json!(status))]);
    }
    make(&shunt, &key, "later", &[("valid_from", json!("2999-01-01T00:00:00Z"))]);
    make(&shunt, &key, "past", &[("expires_at", json!("2999-01-01T00:00:00Z"))]);
    make(&shunt, &key, "off", &[]);
    make(&shunt, &key, "gone", &[]);
    make(&shunt, &key, "used", &[("max_clicks", json!(1))]);
    let change = |method: &str, code: &str, patch: Option<Value>| {
        let mut request = Request::new(method, format!("/api/v1/links/{code}")).key(&key);
        if let Some(patch) = patch {
            request = request
                .header("Content-Type", "application/merge-patch+json")
                .body(patch.to_string());
        }
        let answer = shunt.ask(&request).unwrap();
        assert!((200..300).contains(&answer.status), "{method} {code}: {answer:?}");
    };
    change("PATCH", "past", Some(json!({"expires_at": "2001-01-01T00:00:00Z"})));
    change("PATCH", "off", Some(json!({"enabled": false})));
    change("DELETE", "gone", None);

    // Twice each: from the store, then from L1.
    for _ in 0..2 {
        let plain = kit::get(&shunt, "/plain");
        assert_eq!((plain.status, plain.location()), (302, "https://example.com/t"));
        assert_eq!(plain.header("cache-control"), Some("private, max-age=0"));
        let policy = plain.header("referrer-policy");
        assert_eq!(policy, Some("strict-origin-when-cross-origin"));
        for status in [301, 302, 307, 308] {
            let answer = kit::get(&shunt, &format!("/s{status}"));
            assert_eq!((answer.status, answer.location()), (status, "https://example.com/t"));
            let age = if matches!(status, 301 | 308) { 60 } else { 0 };
            let control = format!("private, max-age={age}");
            assert_eq!(answer.header("cache-control"), Some(&*control), "{status}");
        }
        for path in ["/later", "/unknown", "/PLAIN", "/plain/", "/plain%00", "/%70lain%2f"] {
            let answer = kit::get(&shunt, path);
            assert_eq!((answer.status, answer.location()), (404, ""), "{path}");
        }
        assert_eq!(kit::get(&shunt, "/%70lain").status, 302, "a code is decoded once");
        assert_eq!(kit::get(&shunt, "/%2570lain").status, 404, "and not twice");
    }
    assert_eq!(kit::get(&shunt, "/used").status, 302);
    let expired = kit::get(&shunt, "/past");
    assert_eq!(expired.status, 410, "{expired:?}");
    for code in ["off", "gone", "used"] {
        let answer = kit::get(&shunt, &format!("/{code}"));
        assert!(same_page(&expired, &answer), "{code}: {answer:?} is not {expired:?}");
    }
}

#[test]
fn head_answers_as_get_without_a_body_and_uses_nothing_up() {
    let shunt = Shunt::started().unwrap();
    let key = kit::admin(&shunt);
    make(&shunt, &key, "plain", &[]);
    make(&shunt, &key, "once", &[("max_clicks", json!(1))]);
    for path in ["/plain", "/plain", "/once", "/once", "/once", "/missing"] {
        // On one connection, so that a body that should not be there would be seen.
        let mut connection = shunt.connect().unwrap();
        let head = connection.ask(&Request::new("HEAD", path)).unwrap();
        let next = connection.ask(&Request::get("/health")).unwrap();
        assert_eq!(next.status, 200, "{path}");
        match path {
            "/plain" => assert_eq!((head.status, head.location()), (302, "https://example.com/t")),
            "/missing" => assert_eq!(head.status, 404, "{head:?}"),
            // Whoever only looks at a limited link is not told where it leads.
            _ => assert!(head.status < 400 && head.location().is_empty(), "{path}: {head:?}"),
        }
    }
    // Bots and prefetches use nothing up either.
    for (name, value) in [
        ("User-Agent", "Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)"),
        ("User-Agent", "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"),
        ("Sec-Purpose", "prefetch;prerender"),
        ("Purpose", "prefetch"),
    ] {
        let answer = shunt.ask(&Request::get("/once").header(name, value)).unwrap();
        assert_ne!(answer.status, 410, "{name}: {value}: {answer:?}");
    }
    let person = Request::get("/once").header("User-Agent", "Mozilla/5.0 Firefox/140.0");
    assert_eq!(shunt.ask(&person).unwrap().status, 302);
    assert_eq!(shunt.ask(&person).unwrap().status, 410);
}

#[test]
fn previews_and_qr_codes_are_served_and_hide_what_must_be_hidden() {
    let shunt = Shunt::started().unwrap();
    let key = kit::admin(&shunt);
    make(&shunt, &key, "seen", &[]);
    make(&shunt, &key, "few", &[("max_clicks", json!(3))]);
    let preview = kit::get(&shunt, "/seen+");
    assert_eq!(preview.status, 200);
    assert_eq!(preview.header("cache-control"), Some("no-store"));
    assert!(preview.text().contains("https://example.com/t"), "{preview:?}");
    let limited = kit::get(&shunt, "/few+");
    assert!(!limited.text().contains("example.com/t"), "{limited:?}");

    let svg = kit::get(&shunt, "/seen.qr");
    assert_eq!((svg.status, svg.header("content-type")), (200, Some("image/svg+xml")));
    assert!(svg.text().contains("<svg"));
    let png = kit::get(&shunt, "/seen.qr?format=png&size=200");
    assert_eq!((png.status, png.header("content-type")), (200, Some("image/png")));
    assert!(png.body.starts_with(b"\x89PNG\r\n\x1a\n"));
    assert_eq!(kit::get(&shunt, "/seen.qr?size=1000000").status, 400);
    assert_eq!(kit::get(&shunt, "/nothing.qr").status, 404);
    assert_eq!(kit::get(&shunt, "/nothing+").status, 404);
}

#[test]
fn pages_are_strict_and_load_nothing_from_outside() {
    let shunt = kit::shared();
    for (path, status) in [("/", 200), ("/no-such-link", 404)] {
        let page = kit::get(shunt, path);
        assert_eq!(page.status, status, "{path}");
        let csp = page.header("content-security-policy").unwrap_or_default();
        assert!(csp.contains("default-src"), "{path}: {csp}");
        assert!(!csp.contains("unsafe-"), "{path}: {csp}");
        assert!(csp.contains("frame-ancestors 'none'"), "{path}: {csp}");
        assert_eq!(page.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert!(page.header("referrer-policy").is_some(), "{path}");
        let text = page.text();
        for outside in ["src=\"http", "src=\"//", "url(http", "@import"] {
            assert!(!text.contains(outside), "{path}: {outside}");
        }
    }
}

#[test]
fn the_same_slug_on_another_host_is_another_link() {
    let shunt = Shunt::started().unwrap();
    let key = kit::admin(&shunt);
    make(&shunt, &key, "slug", &[]);
    make(
        &shunt,
        &key,
        "slug",
        &[("domain", json!("go.example")), ("target", json!("https://example.org/other"))],
    );
    let ask = |host: &str| {
        let answer = shunt.ask(&Request::get("/slug").header("Host", host)).unwrap();
        answer.location().to_owned()
    };
    for _ in 0..2 {
        assert_eq!(ask("go.example"), "https://example.org/other");
        assert_eq!(ask("GO.EXAMPLE:8080"), "https://example.org/other");
        assert_eq!(ask("go.example."), "https://example.org/other");
        assert_eq!(ask("unknown.example"), "https://example.com/t", "unknown: the default domain");
        assert_eq!(ask("127.0.0.1"), "https://example.com/t");
    }
}
