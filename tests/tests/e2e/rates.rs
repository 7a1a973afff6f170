//! Rate limits as a client sees them.

use serde_json::json;
use shunt_cluster::{Connection, Request, Response, Shunt};

use crate::kit;

/// A server on which this machine is limited as everybody is, behind a proxy that is believed.
fn limited(limits: &str) -> Shunt {
    let config = format!(
        "[limits]\nloopback = true\n{limits}\n[proxies]\ntrusted = [\"127.0.0.1\"]\n\
         [auth]\nanonymous_create = true\n"
    );
    let mut shunt = Shunt::new().unwrap().config(&config).unwrap();
    shunt.start().unwrap();
    shunt
}

/// `GET` for a visitor at this address.
fn get_as(connection: &mut Connection, visitor: &str, path: &str) -> Response {
    connection.ask(&Request::get(path).header("X-Forwarded-For", visitor)).unwrap()
}

#[track_caller]
fn says_when(answer: &Response, kind: &str) {
    assert_eq!(answer.status, 429, "{answer:?}");
    let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=3_600).contains(&wait), "{answer:?}");
    let left = answer.header("ratelimit").unwrap();
    assert!(left.starts_with(&format!("\"{kind}\";r=0;t=")), "{left}");
    let policy = answer.header("ratelimit-policy").unwrap();
    assert!(policy.starts_with(&format!("\"{kind}\";q=")), "{policy}");
}

/// Asks for `most` codes that do not exist; answers how many got 404.
fn guess(connection: &mut Connection, visitor: &str, most: usize) -> usize {
    let mut missed = 0;
    for n in 0..most {
        let answer = get_as(connection, visitor, &format!("/guess-{n}"));
        if answer.status == 404 {
            missed += 1;
            let left = answer.header("ratelimit").unwrap();
            assert!(left.starts_with("\"redirect-miss\";r="), "{left}");
        } else {
            says_when(&answer, "redirect-miss");
        }
    }
    missed
}

#[test]
fn guessing_codes_ends_in_429_and_cached_links_go_on() {
    let shunt = limited("misses = \"20/1h\"");
    kit::link(&shunt, "warm", "https://example.com/warm");
    kit::link(&shunt, "cold", "https://example.com/cold");
    kit::leads(&shunt, "warm", "https://example.com/warm");
    let mut connection = shunt.connect().unwrap();
    assert_eq!(guess(&mut connection, "192.0.2.1", 200), 20);
    for _ in 0..100 {
        assert_eq!(get_as(&mut connection, "192.0.2.1", "/warm").status, 302);
    }
    // What is not cached could be a guess that hit; pages about links tell as much.
    for path in ["/cold", "/cold+", "/cold.qr", "/api/urls/cold", "/none+", "/none.qr"] {
        says_when(&get_as(&mut connection, "192.0.2.1", path), "redirect-miss");
    }
    assert_eq!(get_as(&mut connection, "192.0.2.1", "/").status, 200);
    // Others are others; a /64 is one.
    assert_eq!(get_as(&mut connection, "192.0.2.2", "/cold").status, 302);
    assert_eq!(guess(&mut connection, "2001:db8::1", 30), 20);
    for n in 1..200 {
        assert_eq!(guess(&mut connection, &format!("2001:db8::{n:x}:1"), 1), 0);
    }
    assert_eq!(guess(&mut connection, "2001:db8:0:1::1", 30), 20);
    // Pages are counted as look-ups are.
    for n in 0..20 {
        let path = format!("/none-{n}{}", if n % 2 == 0 { "+" } else { ".qr" });
        assert_eq!(get_as(&mut connection, "192.0.2.3", &path).status, 404);
    }
    says_when(&get_as(&mut connection, "192.0.2.3", "/none"), "redirect-miss");
    let metrics = shunt.ask_ops("/metrics").unwrap().text();
    let refused = "shunt_limited_total{kind=\"redirect-miss\",decided=\"local\"}";
    let line = metrics.lines().find(|line| line.starts_with(refused)).unwrap();
    let count: f64 = line.rsplit(' ').next().unwrap().parse().unwrap();
    assert!(count >= 380.0, "{line}");
    assert!(!metrics.contains("192.0.2") && !shunt.said().contains("192.0.2"));
}

/// Sixteen connections at once get no more than one, and pay for what was under way.
#[test]
fn guessing_at_once_gains_nothing() {
    let shunt = limited("misses = \"50/1h\"");
    let address = shunt.address();
    let missed: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..16)
            .map(|thread| {
                let address = &address;
                scope.spawn(move || {
                    let mut connection = Connection::open(address).unwrap();
                    (0..100)
                        .filter(|n| {
                            let path = format!("/at-once-{thread}-{n}");
                            get_as(&mut connection, "192.0.2.1", &path).status == 404
                        })
                        .count()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(missed, 50);
}

/// Whoever is no trusted proxy speaks for nobody.
#[test]
fn forged_addresses_change_nothing() {
    let config = "[limits]\nloopback = true\nmisses = \"20/1h\"\n";
    let mut shunt = Shunt::new().unwrap().config(config).unwrap();
    shunt.start().unwrap();
    let mut connection = shunt.connect().unwrap();
    let missed: usize =
        (0..100).map(|n| guess(&mut connection, &format!("203.0.113.{n}"), 1)).sum();
    assert_eq!(missed, 20);
}

/// The default: 60 a minute for strangers, nothing for this machine itself.
#[test]
fn by_default_this_machine_is_not_limited_and_strangers_are() {
    let config = "[proxies]\ntrusted = [\"127.0.0.1\"]\n";
    let mut shunt = Shunt::new().unwrap().config(config).unwrap();
    shunt.start().unwrap();
    let mut connection = shunt.connect().unwrap();
    for n in 0..300 {
        let answer = connection.ask(&Request::get(format!("/none-{n}"))).unwrap();
        assert_eq!(answer.status, 404, "{answer:?}");
        assert_eq!(answer.header("ratelimit"), None);
    }
    let missed = guess(&mut connection, "192.0.2.1", 120);
    // One comes back every second.
    assert!((60..=66).contains(&missed), "{missed}");
    // A name that is not this machine's came from somewhere else.
    let away = Request::get("/none").header("Host", "go.example");
    let missed = (0..120).filter(|_| connection.ask(&away).unwrap().status == 404).count();
    assert!((60..=66).contains(&missed), "{missed}");
}

#[test]
fn creates_are_limited_per_address_and_per_key() {
    let shunt = limited("creates_per_address = \"5/1h\"\ncreates_per_key = \"7/1h\"");
    let admin = kit::admin(&shunt);
    let target = json!({"target": "https://example.com/"});
    let mut connection = shunt.connect().unwrap();
    let mut create = |path: &str, body: &serde_json::Value, key: Option<&str>| {
        let request = Request::post_json(path, body).header("X-Forwarded-For", "192.0.2.1");
        connection.ask(&key.map_or(request.clone(), |key| request.key(key))).unwrap()
    };
    for n in 0..10 {
        let answer = create("/api/v1/links", &target, None);
        if n < 5 {
            assert_eq!(answer.status, 201, "{answer:?}");
            let left = answer.header("ratelimit").unwrap();
            assert!(left.starts_with(&format!("\"create\";r={};t=", 4 - n)), "{left}");
            assert_eq!(answer.header("ratelimit-policy"), Some("\"create\";q=5;w=3600"));
        } else {
            says_when(&answer, "create");
            assert_eq!(answer.json().unwrap()["type"], "urn:shunt:problem:rate-limited");
        }
    }
    // One allowance for all ways in.
    says_when(&create("/api/urls", &json!({"longUrl": "https://example.com/"}), None), "create");
    says_when(&create("/api/short", &json!({"longurl": "https://example.com/"}), None), "create");
    let form = Request::new("POST", "/shorten")
        .header("Content-Type", "application/x-www-form-urlencoded")
        .header("X-Forwarded-For", "192.0.2.1")
        .body("long_url=https%3A%2F%2Fexample.com%2F");
    says_when(&shunt.ask(&form).unwrap(), "create");

    let key = |name: &str| {
        let wish = json!({"name": name, "scopes": ["create"]});
        let made = shunt.ask(&Request::post_json("/api/v1/keys", &wish).key(&admin)).unwrap();
        assert_eq!(made.status, 201, "{made:?}");
        kit::key_in(&made.text()).unwrap()
    };
    let (one, other) = (key("one"), key("other"));
    for n in 0..10 {
        let answer = create("/api/v1/links", &target, Some(&one));
        assert_eq!(answer.status, if n < 7 { 201 } else { 429 }, "{answer:?}");
    }
    // Rows of a batch count: a first chunk goes through, and is paid for before another one.
    let rows = json!([{"target": "https://example.com/"}, {"target": "https://example.com/"}]);
    says_when(&create("/api/v1/links:batch", &rows, Some(&one)), "create");
    for n in 0..6 {
        let answer = create("/api/v1/links:batch", &rows, Some(&other));
        assert_eq!(answer.status, if n < 4 { 200 } else { 429 }, "{n}: {answer:?}");
    }
    for _ in 0..50 {
        assert_eq!(create("/api/v1/links", &target, Some(&admin)).status, 201);
    }
}

#[test]
fn bad_credentials_are_limited_and_good_ones_always_work() {
    let shunt = limited("logins = \"10/15m\"");
    let admin = kit::admin(&shunt);
    let mut connection = shunt.connect().unwrap();
    let mut ask = |path: &str, key: &str, visitor: &str| {
        let request = Request::get(path).key(key).header("X-Forwarded-For", visitor);
        connection.ask(&request).unwrap()
    };
    for n in 0..1_000 {
        let answer = ask("/api/v1/links", &format!("shunt_guess-{n}"), "192.0.2.1");
        if n < 10 {
            assert_eq!(answer.status, 401, "{answer:?}");
        } else {
            says_when(&answer, "login");
        }
        if n % 100 == 0 {
            assert_eq!(ask("/api/v1/links", &admin, "192.0.2.1").status, 200);
        }
    }
    assert_eq!(ask("/api/v1/links", "shunt_guess", "192.0.2.2").status, 401);
    let setup = Request::new("POST", "/setup")
        .header("Content-Type", "application/x-www-form-urlencoded")
        .header("X-Forwarded-For", "192.0.2.1")
        .body(format!("token=setup_{}", "x".repeat(43)));
    says_when(&shunt.ask(&setup).unwrap(), "login");
}
