//! A Redis Cluster whose master is killed, that is gone, hangs or forgets everything, under nodes
//! that lease their codes through it.

use shunt_cluster::{Redis, RedisCluster};

use crate::fleet::Fleet;
use crate::traffic::{Traffic, healed};

/// Small leases: the counter is asked all the time.
const SETTINGS: &str = "[links]\nallocator = \"range\"\nrange_lease = 20\n";

/// Where the counter of the codes is.
const COUNTER: &str = "shunt:range";

fn counter(cluster: &mut RedisCluster) -> u64 {
    let reply = cluster.ask(COUNTER, &["GET", COUNTER]).unwrap();
    reply.text().unwrap().parse().unwrap()
}

/// Ranges leased so, by both nodes.
fn ranges(fleet: &Fleet, how: &str) -> f64 {
    fleet.metric("shunt_ranges_total", how)
}

fn calls(fleet: &Fleet, outcome: &str) -> f64 {
    fleet.metric("shunt_redis_calls_total", outcome)
}

/// All that the cluster can do again after a fault, and the fleet with it.
fn heal(cluster: &mut RedisCluster, fleet: &Fleet, traffic: &Traffic) {
    cluster.wait_settled().unwrap();
    healed(fleet, traffic);
}

#[test]
fn whatever_happens_to_redis_links_and_codes_survive() {
    let setup = Redis::setup().setting("cluster-node-timeout", "2000");
    let mut cluster = setup.start_cluster().unwrap();
    let fleet = Fleet::start(&cluster.url(), [SETTINGS; 2]);
    let [one, other] = fleet.addresses();
    let traffic = Traffic::start(&fleet, &one, &other);
    a_master_is_killed_behind_a_cut_link(&mut cluster, &fleet, &traffic);
    all_of_it_is_gone(&mut cluster, &fleet, &traffic);
    all_of_it_hangs(&mut cluster, &fleet, &traffic);
    all_of_it_is_emptied(&mut cluster, &fleet, &traffic);
    let links = traffic.judge(&fleet, &fleet.addresses());
    println!("{links} links were acknowledged, all are there, no code came twice");
}

/// What the master proposed since the cut is proposed again by the replica that takes over.
fn a_master_is_killed_behind_a_cut_link(
    cluster: &mut RedisCluster,
    fleet: &Fleet,
    traffic: &Traffic,
) {
    let mut fault = traffic.fault("a Redis master killed behind a cut link");
    let master = cluster.master_of(COUNTER).unwrap();
    let replica = cluster.replica_of(master).unwrap();
    cluster.cut_link(replica).unwrap();
    traffic.more(200);
    let (last, lifted) = (counter(cluster), ranges(fleet, "lifted"));
    cluster.node(master).unwrap().kill();
    fault.bites();
    assert_eq!(cluster.wait_for_takeover(COUNTER, master).unwrap(), replica);
    traffic.wait("a counter that went back to be seen", || ranges(fleet, "lifted") > lifted);
    traffic.wait("the counter to go on", || counter(cluster) > last);
    fault.outlast();
    fault.ends(0);
    cluster.mend_link(replica).unwrap();
    cluster.node(master).unwrap().restart().unwrap();
    heal(cluster, fleet, traffic);
}

fn all_of_it_is_gone(cluster: &mut RedisCluster, fleet: &Fleet, traffic: &Traffic) {
    let mut fault = traffic.fault("all of Redis gone");
    let nodes = cluster.nodes().len();
    for node in 0..nodes {
        cluster.node(node).unwrap().kill();
    }
    fleet.wait_metric("shunt_redis_nodes", "state=\"up\"", |up| up == 0.0);
    fleet.wait_metric("shunt_bus_up", "", |up| up == 0.0);
    let alone = ranges(fleet, "alone");
    fault.bites();
    fault.outlast();
    assert!(ranges(fleet, "alone") > alone, "nobody missed Redis");
    fault.ends(0);
    for node in 0..nodes {
        cluster.node(node).unwrap().restart().unwrap();
    }
    heal(cluster, fleet, traffic);
}

fn all_of_it_hangs(cluster: &mut RedisCluster, fleet: &Fleet, traffic: &Traffic) {
    let mut fault = traffic.fault("all of Redis hung");
    let (nodes, timeouts) = (cluster.nodes().len(), calls(fleet, "timeout"));
    for node in 0..nodes {
        cluster.node(node).unwrap().freeze().unwrap();
    }
    fault.bites();
    fleet.wait_metric("shunt_bus_up", "", |up| up == 0.0);
    fault.outlast();
    assert!(calls(fleet, "timeout") > timeouts, "nobody waited for Redis in vain");
    assert_eq!(fleet.metric("shunt_redis_nodes", "state=\"up\""), 0.0, "breakers are open");
    fault.ends(0);
    for node in 0..nodes {
        cluster.node(node).unwrap().thaw().unwrap();
    }
    heal(cluster, fleet, traffic);
}

/// Again and again, as long as it lasts.
fn all_of_it_is_emptied(cluster: &mut RedisCluster, fleet: &Fleet, traffic: &Traffic) {
    let mut fault = traffic.fault("Redis emptied");
    let (mut lost, mut times, before) = (0, 0, ranges(fleet, "lifted"));
    fault.bites();
    while !fault.lasted() || times < 3 {
        let lifted = ranges(fleet, "lifted");
        let members = cluster.members().unwrap();
        for member in members.iter().filter(|member| !member.slots.is_empty()) {
            lost += cluster.nodes()[member.node].empty().unwrap();
        }
        traffic.wait("the lost counter to be seen", || ranges(fleet, "lifted") > lifted);
        times += 1;
    }
    assert!(lost > 1_000, "{lost} keys were there to be lost");
    assert!(ranges(fleet, "lifted") >= before + f64::from(times));
    fault.ends(0);
    heal(cluster, fleet, traffic);
}
