//! PgBouncer, a primary and its synchronous standby, and the connections to them: restarted, killed,
//! promoted, behind, exhausted, half-open.

use std::time::{Duration, Instant};

use serde_json::json;
use shunt_cluster::{Redis, Relay, Request};
use shunt_tests::switch::{count, figure, full};

use crate::fleet::{Fleet, SOON};
use crate::traffic::{Traffic, healed};

/// Codes come from the pool, which nobody refills but the test. Links are read from the copies of
/// the database, not from Redis. Writes that hang are given up soon.
const SETTINGS: &str = "[links]\nallocator = \"pool\"\npool_refill_below = 0\n\
                        [cache]\nl2 = false\n[timeouts]\nrequest = \"3s\"\n";

/// The node that new links are read at asks a standby that is behind as well.
const PATIENT: &str = "[store]\nmax_lag = \"60s\"\n";

/// What creates may take to go on after a promotion, without a restart.
const RESUMED: Duration = Duration::from_secs(10);

#[test]
fn whatever_happens_to_the_database_and_the_way_to_it_links_and_codes_survive() {
    let redis = Redis::start().unwrap();
    let to_redis = Relay::start(redis.socket()).unwrap();
    let cache = format!("redis://:{}@{}", redis.password(), to_redis.socket());
    let mut fleet = Fleet::start(&cache, [SETTINGS, &format!("{SETTINGS}{PATIENT}")]);
    fill(&fleet, count(1_000_000));
    let [one, other] = fleet.addresses();
    let traffic = Traffic::start(&fleet, &one, &other);
    pgbouncer_is_restarted(&mut fleet, &traffic);
    connections_to_redis_are_half_open(&to_redis, &fleet, &traffic);
    connections_to_the_database_are_half_open(&fleet, &traffic);
    the_standby_is_ten_seconds_behind(&mut fleet, &traffic);
    the_standby_is_promoted(&mut fleet, &traffic);
    the_pool_of_codes_is_exhausted(&fleet, &traffic);
    let links = traffic.judge(&fleet, &fleet.addresses());
    println!("{links} links were acknowledged, all are there, no code came twice");
}

fn fill(fleet: &Fleet, codes: usize) {
    let filled = fleet.nodes[0].cli(["keys", "fill", "--count", &codes.to_string()], SOON);
    filled.unwrap().ok().unwrap();
}

fn pgbouncer_is_restarted(fleet: &mut Fleet, traffic: &Traffic) {
    let mut fault = traffic.fault("PgBouncer restarted");
    let made = |fleet: &Fleet| fleet.metric("shunt_store_connections_made_total", "");
    let (before, mut times) = (made(fleet), 0);
    fault.bites();
    while !fault.lasted() || times < 3 {
        let connected = made(fleet);
        fleet.pooler.restart().unwrap();
        times += 1;
        traffic.wait("new connections", || made(fleet) > connected);
        traffic.more(100);
    }
    assert!(made(fleet) >= before + f64::from(times), "nobody lost a connection");
    fault.ends(0);
    healed(fleet, traffic);
}

/// Both nodes' connections go nowhere and are not closed, and new ones as well; later on the new
/// ones work, and those from before are still open.
fn connections_to_redis_are_half_open(to_redis: &Relay, fleet: &Fleet, traffic: &Traffic) {
    let mut fault = traffic.fault("half-open connections to Redis");
    let timeouts = fleet.metric("shunt_redis_calls_total", "timeout");
    let caught = to_redis.silence();
    assert!(caught >= 4, "{caught} connections to Redis");
    fault.bites();
    fleet.wait_metric("shunt_bus_up", "", |up| up == 0.0);
    fault.outlast();
    assert!(to_redis.swallowed() > 0, "nobody said anything into the silence");
    assert!(fleet.metric("shunt_redis_calls_total", "timeout") > timeouts);
    fault.ends(0);
    to_redis.resume();
    healed(fleet, traffic);
}

/// Every other connection to the pooler and to the standby, again and again. Writes under way on them
/// are never answered, and must not be in the way of others for ever.
fn connections_to_the_database_are_half_open(fleet: &Fleet, traffic: &Traffic) {
    let mut fault = traffic.fault("half-open connections to the database");
    let stalled = |fleet: &Fleet| fleet.metric("shunt_store_connections_stalled_total", "");
    let unknown = |fleet: &Fleet| fleet.metric("shunt_store_writes_unknown_total", "");
    let (before, unknown_before) = (stalled(fleet), unknown(fleet));
    let (mut caught, mut times) = (0, 0);
    fault.bites();
    while !fault.lasted() || unknown(fleet) == unknown_before {
        for relay in [&fleet.to_pooler, &fleet.to_standby] {
            caught += relay.strand(|number| number % 2 == times % 2);
        }
        times += 1;
        traffic.more(100);
    }
    let swallowed = [&fleet.to_pooler, &fleet.to_standby].map(Relay::swallowed);
    println!("{caught} connections fell silent, {swallowed:?} bytes went nowhere");
    assert!(swallowed[0] > 0 && swallowed[1] > 0, "{swallowed:?}");
    fault.ends(0);
    healed(fleet, traffic);
    assert!(stalled(fleet) > before, "no silent connection was replaced");
}

fn the_standby_is_ten_seconds_behind(fleet: &mut Fleet, traffic: &Traffic) {
    let mut fault = traffic.fault("a standby ten seconds behind");
    let absent = |fleet: &Fleet| fleet.of_node(1, "shunt_store_reads_confirmed_total", "absent");
    let behind = |fleet: &Fleet| fleet.of_node(1, "shunt_store_copy_lag_seconds", "copy=\"1\"");
    fleet.standby().set("recovery_min_apply_delay", "10s").unwrap();
    traffic.wait("a standby ten seconds behind", || behind(fleet) > 9.0);
    fault.bites();
    let before = absent(fleet);
    traffic.wait("a standby that is asked for what it does not have", || {
        absent(fleet) > before + 100.0
    });
    fault.outlast();
    assert!(behind(fleet) > 9.0, "{}", behind(fleet));
    fault.ends(0);
    fleet.standby().set("recovery_min_apply_delay", "0").unwrap();
    fleet.wait_replicated();
    healed(fleet, traffic);
}

fn the_standby_is_promoted(fleet: &mut Fleet, traffic: &Traffic) {
    let promotions = if full() { 20 } else { 1 };
    let mut slowest = Duration::ZERO;
    for _ in 0..promotions {
        let name = "the primary killed and its synchronous standby promoted";
        let mut fault = traffic.fault(name);
        let moves = |fleet: &Fleet| fleet.metric("shunt_store_primary_moves_total", "");
        let before = moves(fleet);
        fleet.primary().kill().unwrap();
        fault.bites();
        traffic.wait("both nodes to miss the primary", || {
            fleet.ready().matches("no copy of the database takes writes").count() == 2
        });
        // While nobody can create, those that were created last are asked for.
        traffic.wait("look-ups without a primary", || fault.tally().newest > 2_000);
        fleet.standby().promote().unwrap();
        let promoted = Instant::now();
        traffic.more(20);
        slowest = slowest.max(promoted.elapsed());
        assert!(moves(fleet) >= before + 2.0, "both nodes write to another server");
        fault.outlast();
        fleet.swap();
        fault.ends(0);
        healed(fleet, traffic);
    }
    assert!(slowest < RESUMED, "creates went on {slowest:?} after a promotion");
    figure(
        "promotions under load",
        &format!("{promotions}, creates went on {slowest:.1?} after one at the latest"),
    );
}

/// Creates without a code of their own are refused and told why; those with one, and redirects, go
/// on. More codes in the pool, and all is well.
fn the_pool_of_codes_is_exhausted(fleet: &Fleet, traffic: &Traffic) {
    let mut fault = traffic.fault("the pool of codes exhausted");
    let claimed = |node| fleet.of_node(node, "shunt_pool_claimed_total", "");
    fleet.sql("DELETE FROM code_pool");
    // What each node has left in its hand is used up.
    let create = Request::post_json("/api/v1/links", &json!({"target": "https://example.com/"}));
    let create = create.key(&fleet.key);
    for node in &fleet.nodes {
        let mut connection = node.connect().unwrap();
        let refusal = (0..2_000).map(|_| connection.ask(&create).unwrap());
        let refusal = refusal.into_iter().find(|answer| answer.status != 201).unwrap();
        assert_eq!(refusal.status, 503, "{refusal:?}");
        assert!(refusal.header("retry-after").is_some(), "{refusal:?}");
        let said = refusal.json().unwrap();
        assert_eq!(said["code"], "pool-empty", "{said}");
        assert!(said["detail"].as_str().unwrap().contains("shunt keys fill"), "{said}");
    }
    fault.bites();
    fault.outlast();
    assert!(fault.tally().pool_empty > 10, "{:?}", fault.tally());
    assert!(fleet.metric("shunt_pool_empty_total", "") > 10.0);
    fault.ends(0);
    let before = [claimed(0), claimed(1)];
    fill(fleet, 20_000);
    traffic.wait("both nodes to claim codes", || claimed(0) > before[0] && claimed(1) > before[1]);
    healed(fleet, traffic);
}
