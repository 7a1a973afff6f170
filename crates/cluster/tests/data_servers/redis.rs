//! Redis, alone and as a cluster.

use shunt_cluster::redis::{Connection, Reply};
use shunt_cluster::{Redis, RedisCluster, until, wait};

fn text(value: &str) -> Reply {
    Reply::Text(value.to_owned())
}

/// Waits until all that was answered is in the append-only file (the kernel's, not the disk's).
fn wait_written(redis: &Redis) {
    until(wait::PATIENCE, "the append-only file", || {
        let buffered = redis.info("aof_buffer_length").ok()?;
        let pending = redis.info("aof_pending_bio_fsync").ok()?;
        (buffered == "0" && pending == "0").then_some(())
    })
    .unwrap();
}

#[test]
fn one_redis_runs_as_it_ships_and_keeps_its_keys_through_kill_9() {
    let mut redis = Redis::start().unwrap();
    assert_eq!(redis.ask(&["PING"]).unwrap(), text("PONG"));
    let refused = Connection::open(redis.socket(), "wrong").unwrap_err().to_string();
    assert!(refused.starts_with("WRONGPASS"), "{refused}");
    for (name, value) in [
        ("appendonly", "yes"),
        ("appendfsync", "everysec"),
        ("maxmemory-policy", "allkeys-lru"),
        ("maxmemory", "268435456"),
        ("cluster-enabled", "no"),
        ("bind", "127.0.0.1"),
        ("masterauth", redis.password()),
    ] {
        let shown = redis.ask(&["CONFIG", "GET", name]).unwrap();
        assert_eq!(shown, Reply::List(vec![text(name), text(value)]));
    }
    for gone in ["FLUSHALL", "FLUSHDB"] {
        let refused = redis.ask(&[gone]).unwrap_err().to_string();
        assert!(refused.contains("unknown command"), "{refused}");
    }

    assert_eq!(redis.ask(&["SET", "a", "1\r\n2"]).unwrap(), text("OK"));
    wait_written(&redis);
    redis.kill();
    assert!(!redis.running() && redis.ask(&["PING"]).is_err());
    redis.restart().unwrap();
    assert_eq!(redis.ask(&["GET", "a"]).unwrap(), text("1\r\n2"));
    redis.restart().unwrap();
    assert_eq!(redis.ask(&["GET", "a"]).unwrap(), text("1\r\n2"));

    assert!(redis.forget().is_err());
    redis.stop().unwrap();
    redis.forget().unwrap();
    redis.restart().unwrap();
    assert_eq!(redis.ask(&["GET", "a"]).unwrap(), Reply::Nil);
}

#[test]
fn a_frozen_redis_answers_when_it_is_thawed_and_can_be_emptied() {
    let mut redis = Redis::setup().setting("maxmemory", "64mb").start().unwrap();
    let shown = redis.ask(&["CONFIG", "GET", "maxmemory"]).unwrap();
    assert_eq!(shown, Reply::List(vec![text("maxmemory"), text("67108864")]));
    let mut connection = redis.connect().unwrap();
    for n in 0..2500 {
        connection.ask(&["SET", &format!("key:{n}"), "x"]).unwrap();
    }
    redis.freeze().unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    let waiting = std::thread::spawn(move || {
        sender.send(()).unwrap();
        connection.ask(&["DBSIZE"])
    });
    receiver.recv().unwrap();
    assert!(!waiting.is_finished());
    redis.thaw().unwrap();
    assert_eq!(waiting.join().unwrap().unwrap(), Reply::Number(2500));
    assert_eq!(redis.empty().unwrap(), 2500);
    assert_eq!(redis.ask(&["DBSIZE"]).unwrap(), Reply::Number(0));
}

#[test]
fn a_killed_masters_replica_takes_over_and_it_comes_back_as_a_replica() {
    let mut cluster = RedisCluster::start().unwrap();
    let members = cluster.members().unwrap();
    assert_eq!(members.len(), 6);
    assert_eq!(members.iter().filter(|member| member.master.is_none()).count(), 3);
    let slots: usize = members.iter().flat_map(|member| &member.slots).map(|r| r.len()).sum();
    assert_eq!(slots, 16384);

    // On every master, and with an owner that the others point to.
    for n in 0..30 {
        cluster.ask(&format!("k{n}"), &["SET", &format!("k{n}"), "v"]).unwrap();
    }
    let master = cluster.master_of("k0").unwrap();
    let replica = cluster.replica_of(master).unwrap();
    let elsewhere = (0..6).find(|node| *node != master && *node != replica).unwrap();
    let moved = cluster.node(elsewhere).unwrap().ask(&["GET", "k0"]).unwrap_err().to_string();
    let address = cluster.addresses()[master].to_string();
    assert!(moved.starts_with("MOVED ") && moved.ends_with(&address), "{moved}");
    let copied = cluster.ask("k0", &["WAIT", "1", "20000"]).unwrap();
    assert_eq!(copied, Reply::Number(1));

    cluster.node(master).unwrap().kill();
    assert_eq!(cluster.wait_for_takeover("k0", master).unwrap(), replica);
    cluster.wait_settled().unwrap();
    assert_eq!(cluster.ask("k0", &["GET", "k0"]).unwrap(), text("v"));
    assert!(cluster.members().unwrap()[master].failed);

    cluster.node(master).unwrap().restart().unwrap();
    cluster.wait_settled().unwrap();
    let members = cluster.members().unwrap();
    assert_eq!(members[master].master, Some(replica));
    assert!(members.iter().all(|member| !member.failed));
    let mut emptied = 0;
    for member in members.iter().filter(|member| member.master.is_none()) {
        emptied += cluster.node(member.node).unwrap().empty().unwrap();
    }
    assert_eq!(emptied, 30);
}

#[test]
fn what_a_master_acknowledged_behind_a_cut_link_is_gone_after_the_takeover() {
    let mut cluster =
        Redis::setup().setting("cluster-node-timeout", "2000").start_cluster().unwrap();
    assert!(cluster.url().matches("127.0.0.1:").count() == 6);
    let master = cluster.master_of("counter").unwrap();
    let replica = cluster.replica_of(master).unwrap();
    cluster.ask("counter", &["INCRBY", "counter", "10"]).unwrap();
    // `WAIT` counts for the connection that wrote.
    let mut connection = cluster.nodes()[master].connect().unwrap();
    connection.ask(&["INCRBY", "counter", "10"]).unwrap();
    assert_eq!(connection.ask(&["WAIT", "1", "20000"]).unwrap(), Reply::Number(1));

    cluster.cut_link(replica).unwrap();
    assert_eq!(connection.ask(&["INCRBY", "counter", "10"]).unwrap(), Reply::Number(30));
    assert_eq!(connection.ask(&["WAIT", "1", "100"]).unwrap(), Reply::Number(0));
    cluster.node(master).unwrap().freeze().unwrap();
    assert_eq!(cluster.wait_for_takeover("counter", master).unwrap(), replica);
    assert_eq!(cluster.ask("counter", &["GET", "counter"]).unwrap(), text("20"));

    cluster.mend_link(replica).unwrap();
    cluster.node(master).unwrap().thaw().unwrap();
    until(wait::PATIENCE, "the old master to follow", || {
        let members = cluster.members().ok()?;
        (members[master].master == Some(replica)).then_some(())
    })
    .unwrap();
    cluster.wait_settled().unwrap();
    assert_eq!(cluster.ask("counter", &["GET", "counter"]).unwrap(), text("20"));
}
