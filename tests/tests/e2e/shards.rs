//! Several databases as one store, through the real binary: shards come and go under two nodes, the
//! rebalancer is killed, a shard is.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shunt_cluster::{Connection, Postgres, Process, Request, Shunt, Spec, until};
use shunt_domain::ring::{Ring, RingNode};

use crate::kit::{self, Dice, SOON, get, leads, link};

/// How long a rebalance may take on a machine with other things to do.
const LONG: Duration = Duration::from_secs(120);

fn shards(servers: &[(&str, &Postgres)]) -> String {
    let shard = |(name, server): &(&str, &Postgres)| format!("{name}={}", server.url(name));
    servers.iter().map(shard).collect::<Vec<_>>().join(",")
}

fn node(shards: &str) -> Shunt {
    Shunt::new().unwrap().env("SHUNT_STORE_SHARDS", shards)
}

/// What a command says as JSON.
fn said(node: &Shunt, args: &[&str]) -> Value {
    let finished = node.cli(args.iter().chain(&["--json"]), LONG).unwrap();
    assert_eq!(finished.code(), 0, "{finished:?}");
    serde_json::from_str(finished.stdout.lines().last().unwrap()).unwrap()
}

fn migrate(node: &Shunt) {
    let finished = node.cli(["migrate"], LONG).unwrap();
    assert_eq!(finished.code(), 0, "{finished:?}");
}

fn ring(names: &[&str]) -> Ring {
    Ring::new(names.iter().map(|name| RingNode::new(*name)).collect()).unwrap()
}

fn owner(ring: &Ring, code: &str) -> String {
    ring.nodes()[ring.owner(code)].name.clone()
}

/// What the clients were told.
#[derive(Default)]
struct Told {
    links: Mutex<(BTreeMap<String, String>, Vec<String>)>,
    edits: AtomicU64,
    redirects: AtomicU64,
    claims: AtomicU64,
    busy: AtomicU64,
    wrong: Mutex<Vec<String>>,
    stop: AtomicBool,
}

impl Told {
    fn wrong(&self, what: String) {
        self.wrong.lock().unwrap().push(what);
        self.stop.store(true, Ordering::Release);
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    fn acknowledge(&self, code: &str, target: &str) {
        let mut links = self.links.lock().unwrap();
        if links.0.insert(code.to_owned(), target.to_owned()).is_none() {
            links.1.push(code.to_owned());
        }
    }

    fn any(&self, dice: &mut Dice) -> Option<String> {
        let links = self.links.lock().unwrap();
        links.1.get(dice.below(links.1.len().max(1))).cloned()
    }
}

/// Sends a request until the answer is not 503 (or, for a key, 409).
fn persist(connection: &mut Connection, request: &Request, told: &Told) -> Option<(u16, Value)> {
    while !told.stopped() {
        let answer = connection.ask(request).unwrap();
        if matches!(answer.status, 503 | 409) {
            told.busy.fetch_add(1, Ordering::AcqRel);
            shunt_cluster::wait::pause(Duration::from_millis(5));
            continue;
        }
        return Some((answer.status, answer.json().unwrap_or(Value::Null)));
    }
    None
}

/// Creates links with a key each and edits one of its own now and then.
fn writer(node: &Shunt, key: &str, number: u64, told: &Told) {
    let mut connection = node.connect().unwrap();
    let mut own: Vec<String> = Vec::new();
    for count in 0_u64.. {
        let target = format!("https://example.com/{number}/{count}");
        let create = Request::post_json("/api/v1/links", &json!({"target": target}))
            .key(key)
            .header("Idempotency-Key", format!("writer-{number:04}-link-{count:012}"));
        match persist(&mut connection, &create, told) {
            None => return,
            Some((201, body)) => {
                let code = body["code"].as_str().unwrap().to_owned();
                told.acknowledge(&code, &target);
                own.push(code);
            }
            Some(other) => return told.wrong(format!("create: {other:?}")),
        }
        // The same again is the same link.
        match persist(&mut connection, &create, told) {
            None => return,
            Some((201, body)) if body["code"] == own[own.len() - 1].as_str() => {}
            Some(other) => return told.wrong(format!("the same key made {other:?}")),
        }
        let code = own[(count / 2) as usize].clone();
        let target = format!("https://example.com/edit/{number}/{count}");
        let edit = Request::new("PATCH", format!("/api/v1/links/{code}"))
            .key(key)
            .header("Content-Type", "application/merge-patch+json")
            .body(json!({"target": target}).to_string());
        match persist(&mut connection, &edit, told) {
            None => return,
            Some((200, _)) => {
                told.acknowledge(&code, &target);
                told.edits.fetch_add(1, Ordering::AcqRel);
            }
            Some(other) => return told.wrong(format!("edit of {code}: {other:?}")),
        }
    }
}

/// Follows links that were acknowledged: each leads somewhere, and none is unknown.
fn visitor(node: &Shunt, seed: u64, told: &Told) {
    let mut dice = Dice(seed);
    let mut connection = node.connect().unwrap();
    while !told.stopped() {
        let Some(code) = told.any(&mut dice) else { continue };
        let answer = connection.ask(&Request::get(format!("/{code}"))).unwrap();
        if answer.status != 302 {
            return told.wrong(format!("{code}: {answer:?}"));
        }
        told.redirects.fetch_add(1, Ordering::AcqRel);
        if told.redirects.load(Ordering::Acquire).is_multiple_of(8) {
            let answer = connection.ask(&Request::get("/limited")).unwrap();
            match answer.status {
                302 => drop(told.claims.fetch_add(1, Ordering::AcqRel)),
                503 => {}
                _ => return told.wrong(format!("a claim: {answer:?}")),
            }
        }
    }
}

/// Starts a rebalance of its own process.
fn rebalance(node: &Shunt, shards: &str, rate: &str) -> Process {
    let spec = Spec::new("rebalance", shunt_cluster::shunt::binary().unwrap())
        .args(["shards", "rebalance", "--json", "--rate", rate])
        .env("SHUNT_DATA_DIR", node.data())
        .env("SHUNT_STORE_SHARDS", shards);
    spec.spawn(node.files()).unwrap()
}

/// Arcs that still have to go.
fn to_go(node: &Shunt) -> u64 {
    let status = said(node, &["shards", "status"]);
    let shards = status["shards"].as_array().unwrap();
    shards.iter().map(|shard| shard["to_go"].as_u64().unwrap()).sum()
}

/// Rebalances; killed twice on the way, each time when some arcs are moved and some are not.
fn killed_twice(node: &Shunt, shards: &str) {
    let all = to_go(node);
    assert!(all > 20, "{all} arcs");
    let mut left = all;
    for _ in 0..2 {
        let mut process = rebalance(node, shards, "100");
        left = until(LONG, "some arcs to be moved", || {
            let now = to_go(node);
            assert!(now > 0, "it was over before it was killed");
            (now < left).then_some(now)
        })
        .unwrap();
        process.kill();
    }
    let mut process = rebalance(node, shards, "1000000");
    let status = process.wait(LONG).unwrap();
    assert!(status.success(), "{}", process.stderr());
    assert_eq!(to_go(node), 0);
}

#[test]
fn shards_come_and_go_under_load_and_the_rebalancer_is_killed() {
    let server = Postgres::setup().fast().start().unwrap();
    let names = ["a", "b", "c", "d"];
    for name in names {
        server.create_database(name).unwrap();
    }
    let all = names.map(|name| (name, &server));
    let (three, four) = (shards(&all[..3]), shards(&all));
    migrate(&node(&three));
    // A shard that comes later owns nothing until it is added.
    migrate(&node(&four));
    let mut first = node(&four);
    let mut second = node(&four);
    first.start().unwrap();
    // Before another node prints a setup link of its own.
    let key = kit::admin(&first);
    second.start().unwrap();
    let status = said(&first, &["shards", "status"]);
    assert_eq!(
        (&status["shards"][3]["arcs"], &status["shards"][3]["weight"]),
        (&json!(0), &json!(0))
    );
    let told = Told::default();
    let limited =
        json!({"code": "limited", "target": "https://example.com/", "max_clicks": 1_000_000});
    assert_eq!(kit::create(&first, &limited).status, 201);
    // Enough that a rebalance at a low rate can be killed on its way.
    let rows: Vec<Value> = (0..1_500)
        .map(|at| json!({"code": format!("seed{at}"), "target": format!("https://example.com/seed/{at}")}))
        .collect();
    let batch = Request::post_json("/api/v1/links:batch", &Value::Array(rows)).key(&key);
    assert_eq!(first.ask(&batch).unwrap().status, 200);
    for at in 0..1_500 {
        told.acknowledge(&format!("seed{at}"), &format!("https://example.com/seed/{at}"));
    }

    std::thread::scope(|scope| {
        for (at, node) in [(1, &first), (2, &second)] {
            let (told, key) = (&told, &key);
            scope.spawn(move || writer(node, key, at, told));
            scope.spawn(move || visitor(node, at, told));
        }
        let work = std::panic::AssertUnwindSafe(|| {
            said(&first, &["shards", "add", "d"]);
            killed_twice(&first, &four);
            let verified = said(&first, &["shards", "verify"]);
            assert_eq!(verified["misplaced"], 0, "{verified}");
            said(&first, &["shards", "remove", "d"]);
            killed_twice(&second, &four);
        });
        let done = std::panic::catch_unwind(work);
        told.stop.store(true, Ordering::Release);
        if let Err(panic) = done {
            std::panic::resume_unwind(panic);
        }
    });
    assert!(told.wrong.lock().unwrap().is_empty(), "{:?}", told.wrong.lock().unwrap());
    let (links, codes) = told.links.into_inner().unwrap();
    assert!(told.edits.into_inner() > 50 && codes.len() > 1_550, "hardly anything went on");
    assert!(told.claims.into_inner() > 10, "hardly a click was claimed");
    println!(
        "{} links, {} redirects, {} answers were 503 or 409",
        codes.len(),
        told.redirects.into_inner(),
        told.busy.into_inner()
    );

    // Every link is there with its last edit, on a node that has cached nothing.
    let mut fresh = node(&four);
    fresh.start().unwrap();
    for (code, target) in &links {
        leads(&fresh, code, target);
    }
    // Each row is on the shard that the ring names, and nowhere else.
    let verified = said(&fresh, &["shards", "verify"]);
    assert_eq!(
        (&verified["misplaced"], &verified["to_move"]),
        (&json!(0), &json!(0)),
        "{verified}"
    );
    assert_eq!((&verified["rows"], &verified["copies"]), (&verified["right"], &json!(0)));
    assert_eq!(verified["rows"], json!(links.len() + 1), "each link is there once");
    let ring = ring(&names[..3]);
    let mut predicted: BTreeMap<String, u64> = BTreeMap::new();
    for code in links.keys().map(String::as_str).chain(["limited"]) {
        *predicted.entry(owner(&ring, code)).or_default() += 1;
    }
    let status = said(&fresh, &["shards", "status"]);
    for shard in status["shards"].as_array().unwrap() {
        let name = shard["name"].as_str().unwrap();
        let expected = predicted.get(name).copied().unwrap_or(0);
        assert_eq!(shard["links"], json!(expected), "{status}");
    }
}

#[test]
fn a_shard_that_is_killed_is_503_for_its_own_links_only() {
    let near = Postgres::setup().fast().start().unwrap();
    let mut far = Postgres::setup().fast().start().unwrap();
    for (name, server) in [("a", &near), ("b", &near), ("c", &far)] {
        server.create_database(name).unwrap();
    }
    let named = shards(&[("a", &near), ("b", &near), ("c", &far)]);
    let mut first = node(&named);
    migrate(&first);
    first.start().unwrap();
    let codes: Vec<String> = (0..40).map(|at| format!("code{at}")).collect();
    for code in &codes {
        link(&first, code, &format!("https://example.com/{code}"));
    }
    // What is cached goes on whatever happens: a second node has cached nothing.
    let mut second = node(&named);
    second.start().unwrap();
    far.kill().unwrap();
    let ring = ring(&["a", "b", "c"]);
    let mut away = 0;
    for code in &codes {
        if owner(&ring, code) == "c" {
            away += 1;
            let answer = get(&second, &format!("/{code}"));
            assert_eq!(answer.status, 503, "{code}: {answer:?}");
        } else {
            leads(&second, code, &format!("https://example.com/{code}"));
        }
        let fresh = format!("{code}x");
        let made = kit::create(&second, &json!({"code": fresh, "target": "https://example.com/"}));
        let expected = if owner(&ring, &fresh) == "c" { 503 } else { 201 };
        assert_eq!(made.status, expected, "{fresh}: {made:?}");
    }
    assert!(away > 5, "the fault bit");
    far.restart().unwrap();
    for code in &codes {
        until(SOON, "the shard", || {
            (get(&second, &format!("/{code}")).status == 302).then_some(())
        })
        .unwrap();
    }
}

/// The primary of a shard goes: what its standby has redirects on, also on nodes that have cached
/// nothing and on one that starts now, and creates resume when the standby is promoted.
#[test]
fn a_shard_with_a_standby_goes_on_without_its_primary() {
    let near = Postgres::setup().fast().start().unwrap();
    let mut far = Postgres::setup().fast().start().unwrap();
    for (name, server) in [("a", &near), ("b", &near), ("c", &far)] {
        server.create_database(name).unwrap();
    }
    let mut standby = far.standby().unwrap();
    let named = shards(&[("a", &near), ("b", &near), ("c", &far)]);
    let replicas = shards(&[("c", &standby)]);
    let new_node = || node(&named).env("SHUNT_STORE_REPLICAS", &replicas);
    let mut first = new_node();
    migrate(&first);
    first.start().unwrap();
    let codes: Vec<String> = (0..40).map(|at| format!("code{at}")).collect();
    for code in &codes {
        link(&first, code, &format!("https://example.com/{code}"));
    }
    far.wait_for(&standby).unwrap();
    let mut second = new_node();
    second.start().unwrap();
    let readyz = |node: &Shunt| node.ask_ops("/readyz").unwrap().text();
    until(SOON, "a healthy node", || readyz(&second).contains("\"ready\"").then_some(())).unwrap();

    far.kill().unwrap();
    until(SOON, "the loss to be named", || {
        readyz(&second).contains("shard c: no copy of the database takes writes").then_some(())
    })
    .unwrap();
    let mut third = new_node();
    third.start().unwrap();
    let ring = ring(&["a", "b", "c"]);
    let lies_far = |code: &str| owner(&ring, code) == "c";
    for (name, node) in [("second", &second), ("third", &third)] {
        for code in &codes {
            leads(node, code, &format!("https://example.com/{code}"));
            let fresh = format!("{code}-{name}");
            let made = kit::create(node, &json!({"code": fresh, "target": "https://example.com/"}));
            let expected = if lies_far(&fresh) { 503 } else { 201 };
            assert_eq!(made.status, expected, "{fresh}: {made:?}");
            let unknown = get(node, &format!("/{code}-never"));
            let expected = if lies_far(&format!("{code}-never")) { 503 } else { 404 };
            assert_eq!(unknown.status, expected, "{code}-never: {unknown:?}");
        }
    }
    assert!(codes.iter().filter(|code| lies_far(code)).count() > 5, "the fault bit");

    standby.promote().unwrap();
    let promoted = Instant::now();
    for (name, node) in [("second", &second), ("third", &third)] {
        for code in codes.iter().filter(|code| lies_far(code)) {
            let mut fresh = (0..).map(|at| format!("{code}-after{at}-{name}"));
            let fresh = fresh.find(|fresh| lies_far(fresh)).unwrap();
            let body = json!({"code": fresh, "target": "https://example.com/"});
            // One whose outcome was not known may have been made.
            until(SOON, "creates on the shard", || {
                [201, 409].contains(&kit::create(node, &body).status).then_some(())
            })
            .unwrap();
            leads(node, &fresh, "https://example.com/");
        }
    }
    let resumed = promoted.elapsed();
    kit::figure("creates on a shard after a promotion", &format!("resume after {resumed:?}"));
    assert!(resumed < Duration::from_secs(15), "creates resumed after {resumed:?}");
    let primary = |copy: &str| {
        let labels = format!("copy=\"{copy}\",shard=\"2\"");
        second.metric("shunt_store_copy_primary", &labels).unwrap()
    };
    assert_eq!((primary("0"), primary("1")), (0.0, 1.0));
    let verified = said(&second, &["shards", "verify"]);
    assert_eq!(verified["misplaced"], 0, "{verified}");
}
