//! Nodes behind HAProxy that are killed, restarted and stopped in their tracks, one after the other:
//! nobody who follows a link gets an error, and no create is sent twice by anybody but its client.

use std::time::Duration;

use shunt_cluster::{Haproxy, Redis};
use shunt_tests::switch::{count, figure};

use crate::fleet::Fleet;
use crate::traffic::{Traffic, healed};

/// Nodes that are killed and started again, and those that are asked to end; together 100.
const KILLED: usize = 50;
const RESTARTED: usize = 50;

/// Nodes that are stopped in their tracks.
const STOPPED: usize = 10;

/// What one redirect of a hundred may take when every other node is on its way down or up.
const DETOUR: Duration = Duration::from_secs(1);

/// Requests that HAProxy has sent again, in one of its backends.
fn sent_again(proxy: &Haproxy, backend: &str) -> u64 {
    let cells = (0..2).flat_map(|node| ["wretr", "wredis"].map(|column| (node, column)));
    cells
        .map(|(node, column)| proxy.stat(backend, node, column).unwrap().parse::<u64>().unwrap())
        .sum()
}

#[test]
fn nodes_that_are_killed_restarted_and_stopped_cost_no_redirect() {
    let redis = Redis::start().unwrap();
    let mut fleet = Fleet::start(&redis.url(), [""; 2]);
    let proxy = Haproxy::start(&fleet.nodes.each_ref().map(|node| node.socket())).unwrap();
    let entry = proxy.address();
    let mut traffic = Traffic::start(&fleet, &entry, &entry);
    traffic.unnoticed = DETOUR;
    nodes_are_killed(&mut fleet, &proxy, &traffic);
    nodes_are_restarted(&mut fleet, &proxy, &traffic);
    nodes_are_stopped(&mut fleet, &proxy, &traffic);
    assert_eq!(sent_again(&proxy, "write"), 0, "a create was sent twice by HAProxy");
    let [one, other] = fleet.addresses();
    let links = traffic.judge(&fleet, &[one, other, entry]);
    println!("{links} links were acknowledged, all are there, no code came twice");
}

fn nodes_are_killed(fleet: &mut Fleet, proxy: &Haproxy, traffic: &Traffic) {
    let mut fault = traffic.fault("nodes behind HAProxy killed in a loop");
    let (before, mut times) = (sent_again(proxy, "read"), 0);
    fault.bites();
    while !fault.lasted() || times < count(KILLED) {
        let node = times % 2;
        fleet.nodes[node].kill();
        traffic.more(20);
        fleet.nodes[node].start().unwrap();
        proxy.wait_up(node, true).unwrap();
        traffic.more(20);
        times += 1;
    }
    assert!(
        sent_again(proxy, "read") > before,
        "no redirect was under way at any of {times} kills"
    );
    fault.ends(0);
    figure("nodes killed behind HAProxy", &format!("{times}, no redirect failed"));
    healed(fleet, traffic);
}

fn nodes_are_restarted(fleet: &mut Fleet, proxy: &Haproxy, traffic: &Traffic) {
    let mut fault = traffic.fault("nodes behind HAProxy restarted in a loop");
    let mut times = 0;
    fault.bites();
    while !fault.lasted() || times < count(RESTARTED) {
        let node = times % 2;
        let before = fleet.nodes[node].process().unwrap().pid();
        assert!(fleet.nodes[node].stop().unwrap().success());
        traffic.more(20);
        fleet.nodes[node].start().unwrap();
        assert_ne!(fleet.nodes[node].process().unwrap().pid(), before);
        proxy.wait_up(node, true).unwrap();
        traffic.more(20);
        times += 1;
    }
    fault.ends(0);
    figure("nodes restarted behind HAProxy", &format!("{times}, no redirect failed"));
    healed(fleet, traffic);
}

fn nodes_are_stopped(fleet: &mut Fleet, proxy: &Haproxy, traffic: &Traffic) {
    for time in 0..count(STOPPED) {
        let mut fault = traffic.fault("a node behind HAProxy stopped in its tracks");
        let node = time % 2;
        fleet.nodes[node].process().unwrap().freeze().unwrap();
        proxy.wait_up(node, false).unwrap();
        fault.bites();
        fault.outlast();
        // Those who were on their way to it waited, and were answered by the other one.
        assert!(fault.slowest() > Duration::from_secs(1), "nobody met the stopped node");
        fault.ends(0);
        fleet.nodes[node].process().unwrap().heal().unwrap();
        proxy.wait_up(node, true).unwrap();
        healed(fleet, traffic);
    }
}
