//! Request smuggling: whatever two parsers might read differently is refused, or is one request.
//!
//! The corpus runs against every path that has a parser of its own: a cached link (the fast path),
//! a link that is not cached, the API, and a page; and once more through nginx with its connection
//! to us kept alive, where a leftover byte would become the next visitor's request.

mod corpus;

use std::fmt::Write as _;
use std::time::Duration;

use shunt_cluster::http::split_answers;
use shunt_cluster::{Address, Connection, Nginx, Request, Response, Shunt};

use crate::kit;
use corpus::Verdict::{Either, One, Refused};
use corpus::{Vector, corpus};

/// What a server said to a vector followed by an honest `GET /next`.
fn answers(address: &Address, vector: &Vector) -> (Vec<Response>, bool, String) {
    let mut connection = Connection::open(address).unwrap();
    connection.read_timeout(Duration::from_secs(25)).unwrap();
    let mut bytes = vector.bytes.clone();
    bytes.extend_from_slice(b"GET /next HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    // A server that refuses may close before it has read all; what it said is what counts.
    let _ = connection.send_raw(&bytes);
    let (said, closed) = connection.drain(1 << 20);
    let text = String::from_utf8_lossy(&said).into_owned();
    let answers = split_answers(&said).unwrap_or_default();
    (answers, closed, text)
}

fn judge(vector: &Vector, answers: &[Response], closed: bool, text: &str) -> Option<String> {
    let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    let told = |why: &str| {
        let start: String = text.chars().take(300).collect();
        Some(format!("{}: {why} (answers {statuses:?}, closed {closed}): {start:?}", vector.name))
    };
    if answers.iter().any(|answer| answer.location().contains("canary")) {
        return told("the hidden request was answered");
    }
    let finals: Vec<&Response> = answers.iter().filter(|answer| answer.status >= 200).collect();
    let is_next = |answer: &Response| answer.location() == "https://example.com/next";
    let refused =
        |answer: &Response| matches!(answer.status, 400..=499 | 501 | 505) && !is_next(answer);
    let fits = match (vector.verdict, finals.as_slice()) {
        (Refused, [only]) => refused(only) && closed,
        (One, [_, next]) => is_next(next) && closed,
        // One answer and the end: whatever followed was thrown away, which is safe.
        (Either, [_]) => closed,
        (Either, [_, next]) => is_next(next) && closed,
        _ => false,
    };
    if fits { None } else { told("wrong") }
}

fn prepared() -> Shunt {
    let shunt = Shunt::started().unwrap();
    for code in ["hot", "next", "canary"] {
        kit::link(&shunt, code, &format!("https://example.com/{code}"));
    }
    // Into L1.
    for code in ["hot", "next"] {
        kit::leads(&shunt, code, &format!("https://example.com/{code}"));
    }
    shunt
}

fn run(path: &str) {
    let shunt = prepared();
    let vectors = corpus(path);
    assert!(vectors.len() >= 100, "{} vectors", vectors.len());
    let mut wrong = Vec::new();
    for vector in &vectors {
        let (answers, closed, text) = answers(&shunt.address(), vector);
        // An answer to HEAD has no body: the splitter would take the next answer for it.
        if vector.name.starts_with("HEAD") {
            if text.contains("canary") {
                wrong.push(format!("{}: the hidden request was answered", vector.name));
            }
            continue;
        }
        wrong.extend(judge(vector, &answers, closed, &text));
    }
    let mut report = String::new();
    for line in &wrong {
        let _ = writeln!(report, "{line}");
    }
    assert!(wrong.is_empty(), "{} of {} for {path}:\n{report}", wrong.len(), vectors.len());
    // And the server is none the worse.
    kit::leads(&shunt, "canary", "https://example.com/canary");
}

#[test]
fn a_cached_link_hides_no_second_request() {
    run("/hot");
}

#[test]
fn an_unknown_link_hides_no_second_request() {
    run("/unknown");
}

#[test]
fn the_api_hides_no_second_request() {
    run("/api/v1/links");
}

#[test]
fn the_health_check_hides_no_second_request() {
    run("/health");
}

/// The operations listener is for the machine itself and has no links, hosts or bodies; what would
/// make two requests of one is refused all the same.
#[test]
fn the_operations_listener_hides_no_second_request() {
    let shunt = prepared();
    let mut wrong = Vec::new();
    for vector in corpus("/healthz").iter().filter(|vector| vector.verdict == Refused) {
        let about_lengths = ["CL", "chunk", "name", "obs-fold", "NUL", "CR"];
        if !about_lengths.iter().any(|start| vector.name.starts_with(start)) {
            continue;
        }
        let (answers, closed, text) = answers(&shunt.ops_address(), vector);
        wrong.extend(judge(vector, &answers, closed, &text));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The bytes of a vector in pieces, so that each parser resumes in the middle of everything.
#[test]
fn vectors_in_single_bytes_get_the_same_verdict() {
    let shunt = prepared();
    let mut wrong = Vec::new();
    for vector in corpus("/hot").iter().step_by(7).filter(|v| !v.name.starts_with("HEAD")) {
        let mut connection = shunt.connect().unwrap();
        let next = b"GET /next HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        for byte in vector.bytes.iter().chain(next) {
            if connection.send_raw(&[*byte]).is_err() {
                break;
            }
        }
        let (said, closed) = connection.drain(1 << 20);
        let answers = split_answers(&said).unwrap_or_default();
        wrong.extend(judge(vector, &answers, closed, &String::from_utf8_lossy(&said)));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Behind nginx: after every vector each visitor still gets the answer to their own request.
#[test]
fn nothing_is_left_over_for_the_next_visitor_behind_nginx() {
    let shunt = prepared();
    for code in 0..8 {
        kit::link(&shunt, &format!("own{code}"), &format!("https://example.com/own{code}"));
    }
    let nginx = Nginx::proxy(shunt.socket()).unwrap();
    let mut wrong = Vec::new();
    let mut passed_on = 0;
    for path in ["/hot", "/api/v1/links"] {
        for vector in corpus(path) {
            let (_, _, text) = answers(&nginx.address(), &vector);
            // nginx itself drops headers with odd names and so sees two requests where there are
            // two: what counts is whose answer the next visitor gets.
            // Every page and redirect of ours has one of these; nginx's own pages have neither.
            let ours = text.contains("referrer-policy") || text.contains("problem+json");
            passed_on += usize::from(ours);
            for visitor in 0..8 {
                let path = format!("/own{visitor}");
                let answer = shunt_cluster::http::ask(&nginx.address(), &Request::get(&path));
                let location = answer.map(|answer| answer.location().to_owned());
                let expected = format!("https://example.com{path}");
                if location.as_ref().ok() != Some(&expected) {
                    wrong.push(format!("{}: {path} got {location:?}", vector.name));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "desynchronised:\n{}", wrong.join("\n"));
    // Otherwise nginx refused everything itself and this test looked at nginx alone.
    assert!(passed_on > 20, "only {passed_on} vectors reached us");
}

/// The judge itself: what a fooled server would say is found.
#[test]
fn the_judge_finds_a_smuggled_request() {
    let answer = |status: u16, location: &str| Response {
        status,
        headers: vec![("location".to_owned(), format!("https://example.com/{location}"))],
        body: Vec::new(),
    };
    let found = |verdict, answers: &[&Response], closed| {
        let answers: Vec<Response> = answers.iter().copied().cloned().collect();
        let vector = Vector { name: String::new(), bytes: Vec::new(), verdict };
        judge(&vector, &answers, closed, "").is_some()
    };
    let (hot, hidden, next) = (answer(302, "hot"), answer(302, "canary"), answer(302, "next"));
    let bad = answer(400, "");
    assert!(found(Either, &[&hot, &hidden, &next], true));
    assert!(found(Refused, &[&hidden], true));
    assert!(found(Refused, &[&hot, &next], true), "not refused");
    assert!(found(Refused, &[&bad], false), "not closed");
    assert!(found(Refused, &[&bad, &next], true), "went on");
    assert!(found(Refused, &[], true), "no answer");
    assert!(found(One, &[&next], true), "swallowed");
    assert!(found(Either, &[&hot, &bad, &next], true), "seen as two");
    assert!(!found(Refused, &[&bad], true));
    assert!(!found(One, &[&hot, &next], true));
    assert!(!found(Either, &[&hot, &next], true));
}
