//! One cluster from its first start to its removal, with a fault of each kind in between.

use serde_json::json;
use shunt_cluster::{Request, Spec, until};

use crate::kit::{Dev, LONG, SOON, wait_gone};

/// A target for a link of this name.
fn target(code: &str) -> String {
    format!("https://example.com/{code}")
}

fn create(dev: &Dev, code: &str) -> u16 {
    let link = json!({ "target": target(code), "code": code });
    dev.ask(Request::post_json("/api/v1/links", &link)).status
}

/// Every link redirects, through HAProxy, often enough for both nodes to have their turn.
fn redirects(dev: &Dev, codes: &[&str]) {
    for code in codes.iter().cycle().take(12.max(codes.len() * 2)) {
        let answer = dev.ask(Request::get(format!("/{code}")));
        assert_eq!((answer.status, answer.location()), (302, &*target(code)), "{code}: {answer:?}");
    }
}

#[test]
fn the_local_cluster_lives_through_faults_and_leaves_nothing_behind() {
    let mut dev = Dev::new();
    dev.up();
    everything_is_there(&dev);
    let config = std::fs::read_to_string(dev.dir().join("shunt-1/shunt.toml")).unwrap();
    assert!(config.contains("[cache]\nurl = \"redis-cluster://"), "{config}");
    assert_eq!(create(&dev, "first"), 201);
    redirects(&dev, &["first"]);

    a_node_is_killed(&dev);
    a_redis_master_is_killed(&dev);
    pgbouncer_is_killed(&dev);
    a_standby_is_frozen(&dev);
    the_primary_is_replaced(&dev);
    redirects(&dev, &["first", "second", "third"]);

    // Crashed, not stopped: nothing lives on, and the next start finds everything.
    let again = dev.run(&["up"]);
    assert_eq!(again.code(), 75, "{again:?}");
    let pids = dev.pids();
    assert!(pids.len() > 20, "{pids:?}");
    dev.supervisor().kill();
    wait_gone(&pids);
    assert_eq!(dev.run(&["status"]).code(), 69);

    dev.up_detached();
    dev.wait_all_up();
    redirects(&dev, &["first", "second", "third"]);
    assert_eq!(dev.in_role("primary"), ["pg-2"]);
    let mut pids = dev.pids();
    pids.push(dev.supervisor_pid());
    dev.ok(&["down", "--purge"]);
    wait_gone(&pids);
    assert!(dev.directory_is_gone());
}

fn everything_is_there(dev: &Dev) {
    let (servers, all) = dev.status();
    assert!(all, "{servers:#?}");
    assert_eq!(dev.in_role("primary"), ["pg-1"]);
    assert_eq!(dev.in_role("standby"), ["pg-2", "pg-3"]);
    for (role, count) in [("master", 3), ("replica", 3), ("node", 2), ("pooler", 1), ("entry", 1)] {
        assert_eq!(dev.in_role(role).len(), count, "{role}");
    }
    let shards = servers.iter().filter(|server| {
        ["shard", "coordinator", "worker"].iter().any(|role| server["role"] == *role)
    });
    assert_eq!(shards.count(), 3);
    // For people too, every server with its address.
    let text = dev.ok(&["status"]);
    for server in &servers {
        assert!(text.contains(server["address"].as_str().unwrap()), "{text}");
    }
    let unknown = dev.run(&["kill", "nobody"]);
    assert!(unknown.stderr.contains("there are pg-1, pg-2"), "{unknown:?}");
}

fn a_node_is_killed(dev: &Dev) {
    dev.ok(&["kill", "shunt-1"]);
    assert_eq!(dev.server("shunt-1")["state"], "down");
    let status = dev.run(&["status"]);
    assert_eq!(status.code(), 69);
    assert!(status.stderr.contains("shunt-1 is down"), "{status:?}");
    // From the first moment: HAProxy asks the other one.
    redirects(dev, &["first"]);
    let twice = dev.run(&["kill", "shunt-1"]);
    assert!(twice.stderr.contains("shunt dev heal shunt-1"), "{twice:?}");
    assert_eq!(dev.ok(&["heal", "shunt-1"]), "shunt-1: started\n");
    dev.wait_all_up();
}

fn a_redis_master_is_killed(dev: &Dev) {
    let master = dev.in_role("master").remove(0);
    dev.ok(&["kill", &master]);
    until(LONG, "a replica to take over", || {
        let masters = dev.in_role("master");
        (masters.len() == 3 && !masters.contains(&master)).then_some(())
    })
    .unwrap();
    dev.ok(&["heal"]);
    assert_eq!(dev.server(&master)["role"], "replica");
    dev.wait_all_up();
}

fn pgbouncer_is_killed(dev: &Dev) {
    // Into both nodes' caches: one of them is young.
    redirects(dev, &["first"]);
    dev.ok(&["kill", "pgbouncer"]);
    assert_eq!(dev.server("pgbouncer")["state"], "down");
    // Cached ones.
    redirects(dev, &["first"]);
    dev.ok(&["heal", "pgbouncer"]);
    until(SOON, "creates to go on", || (create(dev, "second") == 201).then_some(())).unwrap();
    redirects(dev, &["second"]);
    dev.wait_all_up();
}

fn a_standby_is_frozen(dev: &Dev) {
    dev.ok(&["kill", "--freeze", "pg-3"]);
    assert_eq!(dev.server("pg-3")["state"], "frozen");
    assert_eq!(dev.ok(&["heal"]), "pg-3: thawed\n");
    dev.wait_all_up();
}

fn the_primary_is_replaced(dev: &Dev) {
    dev.ok(&["kill", "pg-1"]);
    let logs = tempfile::tempdir().unwrap();
    let psql = Spec::new("psql", "psql").args(["-X", "-A", "-t", "-c", "SELECT pg_promote()"]);
    let promoted = psql.arg(dev.address("pg-2")).run(logs.path(), SOON).unwrap().ok().unwrap();
    assert_eq!(promoted.trim(), "t");
    let healed = dev.ok(&["heal"]);
    for line in [
        "pg-1: made a standby of pg-2",
        "pg-3: made a standby of pg-2",
        "pgbouncer: pointed to pg-2",
    ] {
        assert!(healed.contains(line), "{healed}");
    }
    assert_eq!(dev.in_role("primary"), ["pg-2"]);
    assert_eq!(dev.in_role("standby"), ["pg-1", "pg-3"]);
    until(SOON, "creates to go on", || (create(dev, "third") == 201).then_some(())).unwrap();
    dev.wait_all_up();
}
