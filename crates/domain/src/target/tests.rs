//! The corpus, row by row, and the corners of the other functions.

use std::collections::{HashMap, HashSet};

use super::*;

mod properties;

const CORPUS: &str = include_str!("../../tests/corpus/targets.tsv");

/// The rules named in the head of the corpus.
fn corpus_rules() -> TargetRules {
    let own = ["sho.rt", "kurz.münchen.example", "127.0.0.1:8080", "192.0.2.1", "[2001:db8::1]"];
    let base = OwnHost::from_base_url("https://firma.example/s");
    let extra = ["mailto", "tel", "ftp", "Spotify", "javascript", "data", "file"];
    TargetRules {
        own_hosts: own.into_iter().filter_map(OwnHost::parse).chain(base).collect(),
        extra_schemes: extra.map(String::from).to_vec(),
    }
}

struct Row {
    line: usize,
    input: String,
    verdict: &'static str,
    location: String,
    mixed: bool,
}

fn corpus() -> Vec<Row> {
    let lines = CORPUS.lines().enumerate().filter(|(_, l)| !l.is_empty() && !l.starts_with('#'));
    lines
        .map(|(index, text)| {
            let mut columns = text.split('\t');
            let input = unescape(columns.next().unwrap());
            let verdict = columns.next().unwrap();
            let location = match columns.next() {
                None | Some("") => input.clone(),
                Some(location) => location.to_owned(),
            };
            let mixed = columns.next() == Some("mixed");
            assert_eq!(columns.next(), None, "line {}", index + 1);
            Row { line: index + 1, input, verdict, location, mixed }
        })
        .collect()
}

/// The escapes of the corpus, as its head describes them.
fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((plain, escape)) = rest.split_once('\\') {
        out.push_str(plain);
        let (kind, after) = escape.split_at(1);
        rest = after;
        match kind {
            "t" => out.push('\t'),
            "n" => out.push('\n'),
            "r" => out.push('\r'),
            "0" => out.push('\0'),
            "\\" => out.push('\\'),
            "u" => {
                let (hex, after) = after.strip_prefix('{').unwrap().split_once('}').unwrap();
                out.push(char::from_u32(u32::from_str_radix(hex, 16).unwrap()).unwrap());
                rest = after;
            }
            "*" => {
                let (inner, after) = after.strip_prefix('{').unwrap().split_once('}').unwrap();
                let (times, text) = inner.split_once(',').unwrap();
                out.push_str(&text.repeat(times.parse().unwrap()));
                rest = after;
            }
            other => panic!("unknown escape \\{other}"),
        }
    }
    out + rest
}

#[test]
fn every_row_of_the_corpus_gets_its_verdict() {
    let rules = corpus_rules();
    assert_eq!(rules.own_hosts.len(), 6);
    let mut wrong = Vec::new();
    for row in corpus() {
        let said = match Target::parse(&row.input, &rules) {
            Ok(target) => ("ok", target.as_str().to_owned(), target.mixed_script()),
            Err(reason) => (reason.code(), row.input.clone(), false),
        };
        let expected = (row.verdict, row.location, row.mixed);
        if said != expected {
            wrong.push(format!("line {}: {:?}: {expected:?}, got {said:?}", row.line, row.input));
        }
    }
    assert!(wrong.is_empty(), "{} rows:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn the_corpus_is_large_and_hits_every_reason() {
    let rows = corpus();
    let inputs: HashSet<&str> = rows.iter().map(|row| row.input.as_str()).collect();
    assert_eq!(inputs.len(), rows.len(), "an input stands twice");
    let refused = rows.iter().filter(|row| row.verdict != "ok").count();
    assert!(rows.len() >= 2_000 && refused >= 1_000, "{} rows, {refused} refused", rows.len());

    let mut hits: HashMap<&str, usize> = HashMap::new();
    for row in &rows {
        *hits.entry(row.verdict).or_default() += 1;
    }
    for reason in Reason::ALL {
        let count = hits.remove(reason.code()).unwrap_or(0);
        assert!(count >= 3, "{reason:?}: {count} rows");
    }
    assert!(hits.keys().eq(&["ok"]), "a verdict that is no reason: {hits:?}");
}

/// A corpus row that is accepted stays accepted out of the store, and nothing else changes.
#[test]
fn accepted_rows_survive_the_store() {
    let rules = corpus_rules();
    for row in corpus().iter().filter(|row| row.verdict == "ok") {
        let target = Target::parse(&row.input, &rules).unwrap();
        let stored = Target::from_stored(target.as_str(), target.mixed_script());
        assert_eq!(stored.as_ref(), Some(&target), "line {}", row.line);
        assert!(rules.allows_scheme(target.scheme()), "line {}", row.line);
    }
}

#[test]
fn reasons_have_distinct_stable_codes() {
    assert!(Reason::ALL.len() >= 40);
    let codes: HashSet<&str> = Reason::ALL.iter().map(|reason| reason.code()).collect();
    let details: HashSet<&str> = Reason::ALL.iter().map(|reason| reason.detail()).collect();
    assert_eq!((codes.len(), details.len()), (Reason::ALL.len(), Reason::ALL.len()));
    for reason in Reason::ALL {
        assert!(reason.code().bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-')));
        assert!(!reason.detail().contains('\n') && !reason.detail().ends_with('.'), "{reason:?}");
        assert_eq!(reason.code().parse(), Ok(*reason));
        assert_eq!(reason.to_string(), reason.detail());
    }
    assert_eq!("Empty".parse::<Reason>(), Err(UnknownReason));
}

#[test]
fn the_longest_target_is_accepted_and_one_byte_more_is_not() {
    let rules = TargetRules::default();
    let at = |length: usize| format!("https://example.com/{}", "a".repeat(length - 20));
    assert_eq!(Target::parse(&at(MAX_TARGET_BYTES), &rules).unwrap().as_str().len(), 8192);
    assert_eq!(Target::parse(&at(MAX_TARGET_BYTES + 1), &rules), Err(Reason::TooLong));
    // Three bytes too long only once the one letter is encoded.
    let grown = format!("{}ü", at(MAX_TARGET_BYTES - 5));
    assert_eq!(Target::parse(&grown, &rules), Err(Reason::TooLongEncoded));
    let fits = format!("{}ü", at(MAX_TARGET_BYTES - 6));
    assert_eq!(Target::parse(&fits, &rules).unwrap().as_str().len(), 8192);
}

#[test]
fn hosts_are_found_and_compared_without_their_decoration() {
    for (input, host, key) in [
        ("https://Example.COM.:8443/x", "Example.COM.", "example.com"),
        ("https://example.com", "example.com", "example.com"),
        ("https://example.com?a@b", "example.com", "example.com"),
        ("http://[2001:DB8:0::2]:80/", "2001:DB8:0::2", "2001:db8::2"),
        ("http://[::ffff:1.2.3.4]/", "::ffff:1.2.3.4", "::ffff:102:304"),
        ("http://1.2.3.4:80/", "1.2.3.4", "1.2.3.4"),
        ("https://Bücher.example/", "xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("http://http://x/", "http", "http"),
        ("mailto:a@example.com", "", ""),
        ("spotify://Track/x", "Track", "track"),
    ] {
        let target = Target::parse(input, &corpus_rules()).unwrap();
        assert_eq!((target.host(), &*target.host_key()), (host, key), "{input}");
    }
}

#[test]
fn the_store_is_not_trusted_blindly() {
    for good in ["https://example.com/", "http://[::1]:80/x", "mailto:a@b", "HTTPS://a?b#c"] {
        assert_eq!(Target::from_stored(good, true).unwrap().as_str(), good);
    }
    let long = format!("https://example.com/{}", "a".repeat(MAX_TARGET_BYTES));
    for bad in [
        "",
        "x",
        "//example.com",
        "https:",
        "https:/example.com",
        "https://",
        "https:///x",
        "https://:80/",
        "https://user@example.com/",
        "https://example.com/\r\nSet-Cookie:a=b",
        "https://example.com/\0",
        "https://example.com/a b",
        "https://example.com/ü",
        "https:\\\\example.com",
        "javascript:alert(1)",
        "JavaScript:alert(1)",
        "data:text/html,x",
        "ms-msdt:/id",
        ":x",
        "1a:x",
        long.as_str(),
    ] {
        assert_eq!(Target::from_stored(bad, false), None, "{bad:?}");
    }
}

#[test]
fn a_dangerous_scheme_can_not_be_listed() {
    let listed = ["javascript", "DATA", "ms-msdt", "mailto", "x-app"];
    let rules =
        TargetRules { extra_schemes: listed.map(String::from).to_vec(), ..TargetRules::default() };
    let allowed = ["http", "HTTPS", "mailto", "MailTo", "x-app"];
    assert!(allowed.iter().all(|scheme| rules.allows_scheme(scheme)));
    let never = ["javascript", "JavaScript", "data", "ms-msdt", "file", "ftp", "", "httpss"];
    assert!(!never.iter().any(|scheme| rules.allows_scheme(scheme)));
}

#[test]
fn own_hosts_are_read_from_any_spelling() {
    let same = |a: &str, b: &str| OwnHost::parse(a).unwrap() == OwnHost::parse(b).unwrap();
    assert!(same("Sho.RT.", "sho.rt"));
    assert!(same("MÜNCHEN.example:80", "xn--mnchen-3ya.example:80"));
    assert!(same("::1", "[0:0::1]"));
    assert!(same("[::ffff:127.0.0.1]:80", "127.0.0.1:80"));
    assert!(!same("sho.rt:80", "sho.rt"));
    for bad in ["", "a b", "sho.rt:0", "sho.rt:x", "sho.rt:70000", "[::1", "[::1]x", "a/b", "a@b"] {
        assert_eq!(OwnHost::parse(bad), None, "{bad}");
    }
    for bad in ["", "sho.rt", "ftp://sho.rt", "javascript:1"] {
        assert_eq!(OwnHost::from_base_url(bad), None, "{bad}");
    }
}

#[test]
fn a_base_url_owns_its_port_and_path_only_where_others_live_beside_it() {
    let judge = |base: &str, target: &str| {
        let own_hosts = OwnHost::from_base_url(base).into_iter().collect();
        Target::parse(target, &TargetRules { own_hosts, ..TargetRules::default() }).err()
    };
    for (base, target, own) in [
        ("https://sho.rt", "http://sho.rt:8080/x", true),
        ("https://sho.rt:8443", "https://sho.rt:8443/x", true),
        ("https://sho.rt:8443", "https://sho.rt/x", false),
        ("http://127.0.0.1", "http://localhost/x", true),
        ("http://127.0.0.1", "http://localhost:80/x", true),
        ("http://127.0.0.1", "http://localhost:3000/x", false),
        ("http://localhost:8080", "http://127.0.0.1:8080/x", true),
        ("http://localhost:8080", "http://127.0.0.1:3000/x", false),
        ("https://a.example/s/t", "https://a.example/s/t/x", true),
        ("https://a.example/s/t/", "https://a.example/s/x", false),
        ("https://a.example/s/t", "https://a.example/s%2ft", true),
        ("https://a.example/s", "https://a.example/%zz/s", false),
    ] {
        assert_eq!(judge(base, target), own.then_some(Reason::OwnHost), "{base} {target}");
    }
}

#[test]
fn a_query_goes_behind_the_own_one_and_before_the_fragment() {
    for (target, query, expected) in [
        ("https://a.example", "x=1", "https://a.example?x=1"),
        ("https://a.example/", "x=1", "https://a.example/?x=1"),
        ("https://a.example/?", "x=1", "https://a.example/?x=1"),
        ("https://a.example/?a=b", "x=1", "https://a.example/?a=b&x=1"),
        ("https://a.example/?a=b&", "x=1", "https://a.example/?a=b&x=1"),
        ("https://a.example/#f", "x=1", "https://a.example/?x=1#f"),
        ("https://a.example/#f?g", "x=1", "https://a.example/?x=1#f?g"),
        ("https://a.example/?a#f#g", "x=1", "https://a.example/?a&x=1#f#g"),
        ("https://a.example/?a", "", "https://a.example/?a"),
        ("https://a.example/", "//evil.example", "https://a.example/?//evil.example"),
        ("https://a.example", "@evil.example", "https://a.example?@evil.example"),
        ("https://a.example/", "a#b", "https://a.example/?a%23b"),
        ("https://a.example/", "a\r\nb c", "https://a.example/?a%0D%0Ab%20c"),
        ("https://a.example/", "ü\0\u{7f}", "https://a.example/?%C3%BC%00%7F"),
        ("https://a.example/", "a%0d%zz", "https://a.example/?a%0d%zz"),
        ("https://a.example/", "\"<'>\\", "https://a.example/?%22%3C%27%3E%5C"),
        ("https://a.example/", "?x", "https://a.example/??x"),
        ("mailto:a@example.com", "bcc=b@example.com", "mailto:a@example.com"),
    ] {
        let target = Target::parse(target, &corpus_rules()).unwrap();
        assert_eq!(target.with_query(query), expected);
    }
    let target = Target::parse("https://a.example/?b", &TargetRules::default()).unwrap();
    let room = MAX_TARGET_BYTES - target.as_str().len() - 1;
    assert_eq!(target.with_query(&"x".repeat(room)).len(), MAX_TARGET_BYTES);
    assert_eq!(target.with_query(&"x".repeat(room + 1)), target.as_str());
    assert_eq!(target.with_query(&"#".repeat(room / 3 + 1)), target.as_str());
}
