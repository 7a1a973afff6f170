//! Two nodes of the real binary on one PostgreSQL and one Redis.

use shunt_cluster::{Postgres, Redis, Request, Shunt, until};

use crate::kit::SOON;

const DATABASE: &str = "links";

struct Fleet {
    nodes: [Shunt; 2],
    redis: Redis,
    postgres: Postgres,
}

/// Two nodes that limit this machine as everybody.
fn fleet(config: &str) -> Fleet {
    let postgres = Postgres::setup().fast().start().unwrap();
    postgres.create_database(DATABASE).unwrap();
    let redis = Redis::start().unwrap();
    let config = format!(
        "{config}\n[limits]\nloopback = true\nmisses = \"40/1h\"\ndeadline = \"1s\"\n\
         creates_per_address = \"0\"\n"
    );
    let node = || {
        let node = Shunt::new().unwrap().config(&config).unwrap();
        node.env("SHUNT_STORE", postgres.url(DATABASE)).env("SHUNT_CACHE", redis.url())
    };
    let mut nodes = [node(), node()];
    let migrated = nodes[0].cli(["migrate"], SOON).unwrap();
    assert_eq!(migrated.code(), 0, "{migrated:?}");
    for node in &mut nodes {
        node.start().unwrap();
    }
    Fleet { nodes, redis, postgres }
}

/// How many of `most` guesses got 404; the others got 429.
fn guess(node: &Shunt, most: usize) -> usize {
    let mut connection = node.connect().unwrap();
    let missed = (0..most).filter(|n| {
        let answer = connection.ask(&Request::get(format!("/guess-{n}"))).unwrap();
        assert!(matches!(answer.status, 404 | 429), "{answer:?}");
        assert!(answer.header("ratelimit").is_some(), "{answer:?}");
        answer.status == 404
    });
    missed.count()
}

fn figure(node: &Shunt, name: &str) -> f64 {
    let metrics = node.ask_ops("/metrics").unwrap().text();
    let lines = metrics.lines().filter(|line| line.starts_with(name));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

/// The allowances in Redis.
fn kept(redis: &Redis) -> Vec<String> {
    let keys = redis.ask(&["KEYS", "*:limit:*"]).unwrap();
    let shunt_cluster::redis::Reply::List(keys) = keys else { panic!("{keys:?}") };
    keys.iter().map(|key| key.text().unwrap().to_owned()).collect()
}

#[test]
fn two_nodes_share_a_limit_and_go_on_when_redis_is_killed() {
    let Fleet { nodes: [one, other], mut redis, postgres: _postgres } = fleet("");
    // Until both are connected and know the day's secret, each counts for itself.
    for node in [&one, &other] {
        until(SOON, "a node to count with the other", || {
            let ready = ["shunt_limits_together", "shunt_redis_nodes{state=\"up\"}"];
            ready.iter().all(|name| figure(node, name) >= 1.0).then_some(())
        })
        .unwrap();
    }
    let first = guess(&one, 25);
    let keys = kept(&redis);
    assert_eq!(first, 25);
    assert!(!keys.is_empty() && keys.iter().all(|key| !key.contains("127.0.0")), "{keys:?}");
    assert_eq!(guess(&other, 100), 15, "{keys:?} {:?}", kept(&redis));
    assert_eq!(guess(&one, 100), 0);
    assert_eq!(kept(&redis).len(), 1, "both call this machine by one name");
    assert!(figure(&one, "shunt_limited_total{kind=\"redirect-miss\"") >= 100.0);
    assert!(figure(&one, "shunt_limited_total{kind=\"redirect-miss\",decided=\"shared\"") >= 1.0);

    redis.kill();
    assert_eq!(guess(&one, 50), 0, "what was known is not forgotten");
    let key = |node: &Shunt, n: usize| {
        node.ask(&Request::get("/api/v1/links").key(&format!("shunt_guess-{n}"))).unwrap().status
    };
    for node in [&one, &other] {
        // The default: ten bad keys in a quarter of an hour, now for each node.
        let refused = (0..30).filter(|n| key(node, *n) == 401).count();
        assert_eq!(refused, 10);
        assert!(figure(node, "shunt_limits_alone_total") > 0.0, "nobody missed Redis");
        assert_eq!(guess(node, 5), 0);
    }
}

/// Codes of both nodes come from one counter, and none is made twice when it is deleted.
#[test]
fn two_nodes_lease_codes_from_one_counter_that_forgets() {
    let Fleet { nodes, redis, postgres: _postgres } =
        fleet("[links]\nallocator = \"range\"\nrange_lease = 20\n");
    let mut codes = std::collections::BTreeSet::new();
    let mut connections = nodes.each_ref().map(|node| node.connect().unwrap());
    let body = serde_json::json!({"target": "https://example.com/"});
    let request = Request::post_json("/api/v1/links", &body);
    let created = |connection: &mut shunt_cluster::Connection| {
        let answer = connection.ask(&request).unwrap();
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.json().unwrap()["code"].as_str().unwrap().to_owned()
    };
    for round in 0..200 {
        for connection in &mut connections {
            let code = created(connection);
            assert!(codes.insert(code.clone()), "{code} came twice in round {round}");
        }
        if round % 50 == 49 {
            redis.ask(&["DEL", "shunt:range"]).unwrap();
        }
    }
    let proposed: f64 =
        nodes.iter().map(|node| figure(node, "shunt_ranges_total{how=\"proposed\"}")).sum();
    assert!(proposed >= 10.0, "{proposed} ranges were proposed by Redis");
}
