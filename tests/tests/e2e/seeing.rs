//! What can be seen from outside: metrics, health, logs, and what must not be seen anywhere.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::json;
use shunt_cluster::process::Signal;
use shunt_cluster::{Request, Shunt, until};

use crate::kit::{self, SOON};

/// `name{labels}` of every series.
fn series(text: &str) -> BTreeSet<String> {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines.map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect()
}

#[test]
fn metric_labels_come_from_enums() {
    let shunt = Shunt::started().unwrap();
    let key = kit::admin(&shunt);
    kit::link(&shunt, "some", "https://example.com/");
    for path in ["/some", "/some", "/missing", "/", "/api/v1/links", "/some+", "/some.qr"] {
        shunt.ask(&Request::get(path).key(&key)).unwrap();
    }
    let before = series(&shunt.ask_ops("/metrics").unwrap().text());
    for i in 0..300 {
        let path = format!("/canary{i}/x?utm_source=canary{i}");
        shunt.ask(&Request::get(path).header("Host", format!("canary{i}.example"))).unwrap();
        shunt.ask(&Request::get(format!("/canary{i}"))).unwrap();
        shunt.ask(&Request::new("BREW", format!("/api/v1/canary{i}"))).unwrap();
    }
    let text = shunt.ask_ops("/metrics").unwrap().text();
    let after = series(&text);
    let grown: Vec<_> = after.difference(&before).collect();
    assert!(grown.len() < 10, "series grow with what visitors send: {grown:#?}");
    assert!(!text.contains("canary"), "what visitors send is in a label");
    for line in &after {
        let name = line.split('{').next().unwrap();
        assert!(name.starts_with("shunt_") || name.starts_with("process_"), "{line}");
        assert!(line.len() < 200, "{line}");
    }
    for wanted in [
        "shunt_build_info",
        "shunt_links_answered_total",
        "shunt_http_requests_total",
        "shunt_request_duration_seconds_bucket",
        "shunt_cache_bytes",
        "shunt_clicks_numbered_total",
        "shunt_clicks_counted_total",
        "shunt_clicks_lost_total",
    ] {
        assert!(after.iter().any(|line| line.starts_with(wanted)), "no {wanted}");
    }
}

#[test]
fn health_is_on_both_listeners_and_metrics_on_one() {
    let shunt = Shunt::started().unwrap();
    assert_eq!(kit::get(&shunt, "/health").status, 200);
    assert_eq!(shunt.ask_ops("/healthz").unwrap().status, 200);
    assert_eq!(shunt.ask_ops("/readyz").unwrap().status, 200);
    assert_eq!(shunt.ask_ops("/metrics").unwrap().status, 200);
    for path in ["/metrics", "/readyz", "/healthz"] {
        assert_eq!(kit::get(&shunt, path).status, 404, "{path} is for the operators");
    }
    let head = shunt.ask(&Request::new("HEAD", "/health")).unwrap();
    assert_eq!(head.status, 200);
}

/// While it drains it says so, and the load balancer that asks goes elsewhere.
#[test]
fn a_draining_server_is_not_healthy() {
    let config = "[timeouts]\nshutdown = \"20s\"\n";
    let mut shunt = Shunt::new().unwrap().config(config).unwrap();
    shunt.start().unwrap();
    // A request under way keeps it draining; a kept connection asks how it is.
    let mut busy = shunt.connect().unwrap();
    let head = "POST /api/v1/links HTTP/1.1\r\nHost: 127.0.0.1\r\n\
                Content-Type: application/json\r\nContent-Length: 40\r\n\r\n";
    busy.send_raw(head.as_bytes()).unwrap();
    let mut probe = shunt.connect().unwrap();
    assert_eq!(probe.ask(&Request::get("/health")).unwrap().status, 200);
    shunt.process().unwrap().signal(Signal::TERM).unwrap();
    let status = until(SOON, "503, or the end of the connection", || {
        match probe.ask(&Request::get("/health")) {
            Ok(answer) if answer.status == 200 && !answer.closes() => None,
            Ok(answer) => Some(answer.status),
            Err(_) => Some(0),
        }
    })
    .unwrap();
    assert!(matches!(status, 503 | 200 | 0), "{status}");
    drop(busy);
    assert_eq!(shunt.process().unwrap().wait(Duration::from_secs(30)).unwrap().code(), Some(0));
}

/// Every file under a directory that holds one of these byte strings.
fn holding(directory: &Path, needles: &[(&str, Vec<u8>)], found: &mut Vec<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let path = entry.path();
        if entry.file_type().unwrap().is_dir() {
            holding(&path, needles, found);
        } else if let Ok(bytes) = fs::read(&path) {
            for (name, needle) in needles {
                if bytes.windows(needle.len()).any(|window| window == needle.as_slice()) {
                    found.push(format!("{name} in {}", path.display()));
                }
            }
        }
    }
}

/// Canaries go in by every door; none is in a store, the spool, a log, a metric or a message.
#[test]
fn no_canary_is_found_in_anything_that_is_kept() {
    let config = "[proxies]\ntrusted = [\"127.0.0.1\"]\n[log]\nlevel = \"trace\"\n";
    let mut shunt = Shunt::new().unwrap().config(config).unwrap();
    shunt.start().unwrap();
    let setup = kit::setup_link(&shunt);
    let key = kit::admin(&shunt);
    kit::link(&shunt, "open", "https://example.com/open");
    let mut answers = String::new();
    // A visitor's address, as a trusted proxy tells it, in every notation.
    for i in 0..50 {
        let request = Request::get("/open")
            .header("X-Forwarded-For", "203.0.113.77")
            .header("User-Agent", "Mozilla/5.0")
            .header(
                "Referer",
                format!("https://user{i}:canarypassword@ref.example/path?canaryquery"),
            );
        assert_eq!(shunt.ask(&request).unwrap().status, 302);
    }
    let six = Request::get("/open").header("Forwarded", "for=\"[2001:db8:cafe::abcd:ef01]\"");
    assert_eq!(shunt.ask(&six).unwrap().status, 302);
    // Credentials in a target, on each entry; they are refused.
    let target = "https://user:canarypassword@example.com/";
    for request in [
        Request::post_json("/api/v1/links", &json!({"target": target})),
        Request::post_json("/api/urls", &json!({"longUrl": target})),
        Request::new("POST", "/shorten")
            .header("Content-Type", "application/x-www-form-urlencoded")
            .body("long_url=https%3A%2F%2Fuser%3Acanarypassword%40example.com%2F"),
    ] {
        let answer = shunt.ask(&request).unwrap();
        assert_eq!(answer.status, 400, "{answer:?}");
        // The page may show what was typed to the one who typed it; an API answer need not.
        if answer.header("content-type").is_some_and(|media| media.contains("json")) {
            answers += &answer.text();
        }
    }
    // The key: right, mistyped, in the wrong place.
    for request in [
        Request::get("/api/v1/links").key(&key),
        Request::get("/api/v1/links").key(&format!("{key}x")),
        Request::get(format!("/api/v1/links?key={key}")),
        Request::get(format!("/open?key={key}")),
        Request::get("/api/v1/links").header("X-Api-Key", &key),
    ] {
        answers += &shunt.ask(&request).unwrap().text();
    }
    let idempotency = "canary-idempotency-key-0123456789";
    let once = Request::post_json("/api/v1/links", &json!({"target": "https://example.com/"}))
        .header("Idempotency-Key", idempotency);
    assert_eq!(shunt.ask(&once).unwrap().status, 201);
    kit::balanced(&shunt, 51);
    let metrics = shunt.ask_ops("/metrics").unwrap().text();
    let ready = shunt.ask_ops("/readyz").unwrap().text();
    fs::write(shunt.files().join("said"), metrics + &ready + &answers).unwrap();
    shunt.stop().unwrap();

    let secret =
        setup[setup.find("setup_").unwrap()..].trim_end_matches(|c: char| c.is_ascii_punctuation());
    let needles: Vec<(&str, Vec<u8>)> = vec![
        ("the API key", key.clone().into_bytes()),
        ("the API key's random part", key.trim_start_matches("shunt_").as_bytes().to_vec()),
        ("a password", b"canarypassword".to_vec()),
        ("a query of a referrer", b"canaryquery".to_vec()),
        ("an IPv4 address", b"203.0.113.77".to_vec()),
        ("an IPv4 address, binary", vec![203, 0, 113, 77]),
        ("an IPv4 address, reversed", vec![77, 113, 0, 203]),
        ("an IPv6 address", b"abcd:ef01".to_vec()),
        ("an IPv6 address, binary", vec![0, 0, 0, 0, 0xab, 0xcd, 0xef, 0x01]),
        ("an idempotency key", idempotency.as_bytes().to_vec()),
    ];
    let mut found = Vec::new();
    holding(shunt.files(), &needles, &mut found);
    // The one place where the setup secret may be is the line that hands it out.
    let secrets = [("the setup secret", secret.as_bytes().to_vec())];
    holding(shunt.data(), &secrets, &mut found);
    assert!(found.is_empty(), "{}", found.join("\n"));

    // And the search does find what is there.
    let mut planted = Vec::new();
    holding(shunt.files(), &[("a target", b"https://example.com/open".to_vec())], &mut planted);
    assert!(planted.iter().any(|line| line.contains("links.db")), "{planted:?}");
}

/// A day's work of a quiet server leaves no warning in its log, and what it logs is structured.
#[test]
fn ordinary_work_logs_no_warning() {
    let config = "[log]\nformat = \"json\"\nlevel = \"debug\"\n";
    let mut shunt = Shunt::new().unwrap().config(config).unwrap();
    shunt.start().unwrap();
    let key = kit::admin(&shunt);
    kit::link(&shunt, "open", "https://example.com/open");
    for path in ["/open", "/missing", "/", "/open+", "/api/v1/links", "/openapi.json"] {
        shunt.ask(&Request::get(path).key(&key)).unwrap();
    }
    kit::create(&shunt, &json!({"target": "nonsense"}));
    shunt.stop().unwrap();
    let mut lines = 0;
    for line in shunt.said().lines().filter(|line| line.starts_with('{')) {
        let entry: serde_json::Value = serde_json::from_str(line).unwrap();
        let level = entry["level"].as_str().unwrap_or_default();
        assert!(!matches!(level, "WARN" | "ERROR"), "{line}");
        lines += 1;
    }
    assert!(lines > 0, "nothing was logged: {}", shunt.said());
}

/// ANSI codes and line ends sent by visitors are not written to a terminal.
#[test]
fn a_log_line_cannot_be_forged() {
    let config = "[log]\nlevel = \"trace\"\n";
    let mut shunt = Shunt::new().unwrap().config(config).unwrap();
    shunt.start().unwrap();
    for path in ["/%1b[31mforged", "/x%0aERROR%20forged", "/x%0d%0aforged"] {
        shunt.ask(&Request::get(path).header("User-Agent", "a\tb")).unwrap();
        shunt.ask(&Request::new("DELETE", format!("/api/v1/links{path}"))).unwrap();
    }
    let wish = json!({"target": "https://example.com/\u{1b}[31m\nforged", "title": "\nforged"});
    kit::create(&shunt, &wish);
    shunt.stop().unwrap();
    let said = shunt.said();
    assert!(!said.contains("\u{1b}[31m"), "{said}");
    assert!(!said.lines().any(|line| line.trim_start().starts_with("forged")), "{said}");
}
