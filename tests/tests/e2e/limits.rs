//! Bounds: sizes, counts, and a click limit that is exact.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;
use shunt_cluster::{Request, Shunt};

use crate::kit;

#[test]
fn oversized_requests_are_refused() {
    let shunt = kit::shared();
    kit::link(shunt, "size", "https://example.com/size");
    for path in ["/size", "/size", "/api/v1/links"] {
        let mut long = shunt.connect().unwrap();
        let header = "x".repeat(80_000);
        long.send_raw(format!("GET {path} HTTP/1.1\r\nHost: x\r\nX: {header}\r\n\r\n").as_bytes())
            .unwrap();
        let answer = long.read(false).unwrap();
        assert!(matches!(answer.status, 400 | 431), "{answer:?}");

        let mut many = shunt.connect().unwrap();
        let headers: String = (0..2000).map(|i| format!("X-{i}: y\r\n")).collect();
        // It may close while we still write.
        let _ =
            many.send_raw(format!("GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n").as_bytes());
        if let Ok(answer) = many.read(false) {
            assert!(matches!(answer.status, 400 | 431), "{answer:?}");
        }

        let mut target = shunt.connect().unwrap();
        let query = "q".repeat(100_000);
        let _ =
            target.send_raw(format!("GET {path}?{query} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
        if let Ok(answer) = target.read(false) {
            assert!(matches!(answer.status, 400 | 414 | 431), "{answer:?}");
        }
    }
    // A body by its length, and one that never says how long it is.
    let big = json!({"target": "https://example.com/", "title": "x".repeat(4 << 20)});
    let mut length = shunt.connect().unwrap();
    let request = Request::post_json("/api/v1/links", &big);
    let _ = length.send_raw(&request.to_bytes("127.0.0.1"));
    let answer = length.read(false).unwrap();
    assert_eq!(answer.status, 413, "{answer:?}");
    assert!(
        answer.header("content-type").is_some_and(|t| t.contains("problem+json")),
        "{answer:?}"
    );

    let mut chunked = shunt.connect().unwrap();
    let head = "POST /api/v1/links HTTP/1.1\r\nHost: 127.0.0.1\r\n\
                Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    chunked.send_raw(head.as_bytes()).unwrap();
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    let mut sent = 0;
    while sent < 256 && chunked.send_raw(chunk.as_bytes()).is_ok() {
        sent += 1;
    }
    assert!(sent < 256, "16 MiB were taken");
    kit::leads(shunt, "size", "https://example.com/size");
}

#[test]
fn a_target_of_8_kib_is_taken_and_one_byte_more_is_not() {
    let shunt = kit::shared();
    let base = "https://example.com/";
    let exact = format!("{base}{}", "a".repeat(8192 - base.len()));
    let answer = kit::create(shunt, &json!({"target": exact, "code": "eight"}));
    assert_eq!(answer.status, 201, "{answer:?}");
    kit::leads(shunt, "eight", &exact);
    kit::leads(shunt, "eight", &exact);
    let more = kit::create(shunt, &json!({"target": format!("{exact}a")}));
    assert_eq!(more.status, 400, "{more:?}");
}

/// Never more than N, however many ask at once, and the limit outlives a `kill -9`.
#[test]
fn max_clicks_is_exact_under_concurrency_and_kill_9() {
    let mut shunt = Shunt::started().unwrap();
    let limit = 200;
    let wish = json!({"target": "https://example.com/few", "code": "few", "max_clicks": limit});
    assert_eq!(kit::create(&shunt, &wish).status, 201);
    let granted = AtomicUsize::new(0);
    let unanswered = AtomicUsize::new(0);
    for round in 0..3 {
        let address = shunt.address();
        let process = shunt.process().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    let Ok(mut connection) = shunt_cluster::Connection::open(&address) else {
                        return;
                    };
                    for _ in 0..10 {
                        match connection.ask(&Request::get("/few")) {
                            Ok(answer) if answer.status == 302 => {
                                granted.fetch_add(1, Ordering::AcqRel);
                            }
                            Ok(answer) => assert!(matches!(answer.status, 410 | 503), "{answer:?}"),
                            Err(_) => {
                                unanswered.fetch_add(1, Ordering::AcqRel);
                                return;
                            }
                        }
                    }
                });
            }
            if round < 2 {
                // In the middle: some were granted in this round, most were not.
                let before = granted.load(Ordering::Acquire);
                shunt_cluster::until(kit::SOON, "some clicks", || {
                    (granted.load(Ordering::Acquire) > before + 20).then_some(())
                })
                .unwrap();
                process.kill();
            }
        });
        if round < 2 {
            shunt.start().unwrap();
        }
    }
    let (granted, unanswered) = (granted.into_inner(), unanswered.into_inner());
    assert!(unanswered > 0, "the kills came too late to matter");
    assert!(granted <= limit, "{granted} of {limit}");
    assert!(granted + unanswered >= limit, "{granted} granted, {unanswered} cut off");
    assert_eq!(kit::get(&shunt, "/few").status, 410);
}

/// 62² codes of two characters: each is given out once, then the answer is 507, and quickly.
#[test]
fn an_exhausted_code_space_is_said_at_once_and_no_code_comes_twice() {
    let config = "[links]\ncode_length = 2\ncode_max_length = 2\n";
    let mut shunt = Shunt::new().unwrap().config(config).unwrap();
    shunt.start().unwrap();
    let mut connection = shunt.connect().unwrap();
    let mut codes = std::collections::BTreeSet::new();
    let request = Request::post_json("/api/v1/links", &json!({"target": "https://example.com/"}));
    let mut slowest = std::time::Duration::ZERO;
    let mut refused = 0;
    for _ in 0..4000 {
        let began = std::time::Instant::now();
        let answer = connection.ask(&request).unwrap();
        match answer.status {
            201 => {
                let code = answer.json().unwrap()["code"].as_str().unwrap().to_owned();
                assert_eq!(code.len(), 2);
                assert!(codes.insert(code), "twice: {answer:?}");
            }
            507 => {
                refused += 1;
                slowest = slowest.max(began.elapsed());
            }
            _ => panic!("{answer:?}"),
        }
    }
    // Reserved words of two letters are no codes.
    let reserved = ["js", "qr"].len() * 4;
    assert!((3844 - reserved..=3844).contains(&codes.len()), "{} codes", codes.len());
    assert!(refused >= 150, "{refused}");
    kit::figure(
        "exhausted code space",
        &format!("{} codes, then 507 within {slowest:?}", codes.len()),
    );
    assert!(slowest < std::time::Duration::from_millis(500), "{slowest:?}");
}

#[test]
fn codes_grow_when_the_space_gets_crowded() {
    let config = "[links]\ncode_length = 2\ncode_max_length = 7\n";
    let mut shunt = Shunt::new().unwrap().config(config).unwrap();
    shunt.start().unwrap();
    let mut connection = shunt.connect().unwrap();
    let mut lengths = std::collections::BTreeMap::new();
    for _ in 0..4000 {
        let code = kit::shorten(&mut connection, "https://example.com/");
        *lengths.entry(code.len()).or_insert(0) += 1;
    }
    assert!(lengths.keys().max().is_some_and(|longest| (3..=4).contains(longest)), "{lengths:?}");
}

#[test]
fn an_exhausted_pool_is_a_clear_503_and_links_go_on() {
    let config = "[links]\nallocator = \"pool\"\npool_refill_below = 0\n";
    let mut shunt = Shunt::new().unwrap().config(config).unwrap();
    shunt.start().unwrap();
    let filled = shunt.cli(["keys", "fill", "--count", "3", "--json"], kit::SOON).unwrap();
    assert_eq!(filled.code(), 0, "{filled:?}");
    let wish = json!({"target": "https://example.com/pool"});
    let codes: Vec<String> = (0..3)
        .map(|_| {
            let answer = kit::create(&shunt, &wish);
            assert_eq!(answer.status, 201, "{answer:?}");
            answer.json().unwrap()["code"].as_str().unwrap().to_owned()
        })
        .collect();
    let answer = kit::create(&shunt, &wish);
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("5")), "{answer:?}");
    let problem = answer.json().unwrap();
    assert_eq!(problem["type"], "urn:shunt:problem:pool-empty");
    assert!(problem["detail"].as_str().unwrap().contains("keys fill"), "{problem}");
    // A code of one's own needs no pool.
    kit::link(&shunt, "own", "https://example.com/own");
    for code in &codes {
        kit::leads(&shunt, code, "https://example.com/pool");
    }
    let metrics = shunt.ask_ops("/metrics").unwrap().text();
    for line in ["shunt_pool_codes 0.0", "shunt_pool_claimed_total 1", "shunt_pool_empty_total 1"] {
        assert!(metrics.lines().any(|one| one.starts_with(line)), "no {line}");
    }
    let filled = shunt.cli(["keys", "fill", "--count", "1000"], kit::SOON).unwrap();
    assert_eq!(filled.code(), 0, "{filled:?}");
    assert_eq!(kit::create(&shunt, &wish).status, 201);
}
