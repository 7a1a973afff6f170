//! A million creates at two nodes, with codes from ranges, from the pool and by chance: no code
//! comes twice, whatever becomes of the counter in Redis meanwhile.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use serde_json::{Value, json};
use shunt_cluster::{Postgres, Redis, Request, Shunt};
use shunt_tests::switch::{count, figure};

use crate::fleet::SOON;

const DATABASE: &str = "links";
const BATCH: usize = 1_000;
const CREATES: usize = 1_000_000;

/// Clients of each node.
const CLIENTS: usize = 2;

const ALLOCATORS: [&str; 3] = ["range", "pool", "random"];

/// Creates links at a node until all clients together have made so many; answers their codes.
fn create(node: &Shunt, key: &str, made: &AtomicUsize, goal: usize) -> Vec<String> {
    let row = format!("{}\n", json!({"target": "https://example.com/one-of-a-million"}));
    let request = Request::new("POST", "/api/v1/links:batch")
        .key(key)
        .header("Content-Type", "application/x-ndjson")
        .body(row.repeat(BATCH));
    let (mut codes, mut connection) = (Vec::new(), node.connect().unwrap());
    while made.load(Ordering::Acquire) < goal {
        let answer = connection.ask(&request).unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        let before = codes.len();
        for line in answer.text().lines() {
            let row: Value = serde_json::from_str(line).unwrap();
            match row["status"].as_u64() {
                Some(201) => codes.push(row["code"].as_str().unwrap().to_owned()),
                Some(status) => panic!("a row was answered {status}: {row}"),
                None => assert_eq!(row["summary"]["complete"], true, "{row}"),
            }
        }
        made.fetch_add(codes.len() - before, Ordering::AcqRel);
    }
    codes
}

#[test]
fn no_code_comes_twice_in_a_million_creates() {
    let postgres = Postgres::setup().fast().start().unwrap();
    postgres.create_database(DATABASE).unwrap();
    let redis = Redis::start().unwrap();
    let share = count(CREATES).div_ceil(ALLOCATORS.len());
    let (mut codes, mut lifted, begun) = (HashSet::new(), 0.0, Instant::now());
    for allocator in ALLOCATORS {
        let node = || {
            let node = Shunt::new().unwrap().env("SHUNT_LINKS_ALLOCATOR", allocator);
            node.env("SHUNT_STORE", postgres.url(DATABASE)).env("SHUNT_CACHE", redis.url())
        };
        let mut nodes = [node(), node()];
        nodes[0].cli(["migrate"], SOON).unwrap().ok().unwrap();
        for node in &mut nodes {
            node.start().unwrap();
        }
        let words = ["apikeys", "add", allocator, "--json", "--scope", "create"];
        let added = nodes[0].cli(words, SOON).unwrap().ok().unwrap();
        let added: Value = serde_json::from_str(&added).unwrap();
        let key = added["secret"].as_str().unwrap();
        if allocator == "pool" {
            let keys = (share + 2 * CLIENTS * BATCH).next_multiple_of(BATCH).to_string();
            nodes[0].cli(["keys", "fill", "--count", &keys], SOON).unwrap().ok().unwrap();
        }
        let made = AtomicUsize::new(0);
        let of_all: Vec<Vec<String>> = std::thread::scope(|scope| {
            let clients = nodes.iter().flat_map(|node| std::iter::repeat_n(node, CLIENTS));
            let clients: Vec<_> =
                clients.map(|node| scope.spawn(|| create(node, key, &made, share))).collect();
            // The counter of the ranges is lost again and again.
            while allocator == "range" && clients.iter().any(|client| !client.is_finished()) {
                let before = made.load(Ordering::Acquire);
                redis.empty().unwrap();
                shunt_cluster::until(SOON, "more creates", || {
                    let now = made.load(Ordering::Acquire);
                    (now > before + 4 * BATCH || now >= share).then_some(())
                })
                .unwrap();
            }
            clients.into_iter().map(|client| client.join().unwrap()).collect()
        });
        for code in of_all.into_iter().flatten() {
            assert!(!codes.contains(&code), "{code} came twice, now by {allocator}");
            codes.insert(code);
        }
        let of = |name: &str, labels: &str| -> f64 {
            nodes.iter().map(|node| node.metric(name, labels).unwrap()).sum()
        };
        match allocator {
            "range" => lifted = of("shunt_ranges_total", "lifted"),
            "pool" => assert!(of("shunt_pool_claimed_total", "") * 1e3 >= share as f64),
            _ => {}
        }
    }
    assert!(lifted > 0.0, "no counter that went back was seen");
    let rows = postgres.config().psql(DATABASE, "SELECT code FROM links").unwrap();
    let there: HashSet<&str> = rows.lines().collect();
    let lost = codes.iter().filter(|code| !there.contains(code.as_str())).count();
    assert_eq!(lost, 0, "acknowledged links are not in the database");
    let made = codes.len();
    assert!(made >= count(CREATES));
    figure(
        "no code twice",
        &format!(
            "{made} creates at two nodes by {}, {lifted} ranges lifted over a counter that was \
             lost, 0 codes twice, {:.0?}",
            ALLOCATORS.join(", "),
            begun.elapsed()
        ),
    );
}
