//! A Redis and a Redis Cluster that are reached and are not as they should be, or are not reached.

use shunt_cluster::{Redis, RedisCluster, Shunt};

use crate::kit::{Found, NOTHING, finds};

/// A node that runs without a cache; the doctor is told of one.
struct Node(Shunt);

impl Node {
    fn start() -> Self {
        Self(Shunt::started().unwrap())
    }

    #[track_caller]
    fn finds(&self, cache: &str, found: &[Found<'_>]) {
        let told = Shunt::new().unwrap().env("SHUNT_CACHE", cache).on(self.0.data());
        finds(&told, &[], found);
    }
}

#[test]
fn a_redis_is_found_sound_and_every_fault_for_what_it_is() {
    let node = Node::start();
    let mut redis = Redis::start().unwrap();
    let url = redis.url();
    node.finds(&url, NOTHING);
    for (name, bad, good, id) in [
        ("maxmemory", "0", "268435456", "redis-memory"),
        ("maxmemory-policy", "noeviction", "allkeys-lru", "redis-policy"),
        ("appendonly", "no", "yes", "redis-aof"),
    ] {
        redis.ask(&["CONFIG", "SET", name, bad]).unwrap();
        node.finds(&url, &[(id, "warning")]);
        redis.ask(&["CONFIG", "SET", name, good]).unwrap();
    }
    let (before, rest) = url.split_once("://:").unwrap();
    node.finds(&format!("{before}://:x{rest}"), &[("redis-password", "wrong")]);
    node.finds(&url.replace("redis://", "redis-cluster://"), &[("redis-not-cluster", "wrong")]);
    redis.freeze().unwrap();
    node.finds(&url, &[("redis-unreachable", "wrong")]);
    redis.thaw().unwrap();
    redis.kill();
    node.finds(&url, &[("redis-unreachable", "wrong")]);
}

#[test]
fn a_cluster_is_found_sound_and_every_fault_for_what_it_is() {
    let node = Node::start();
    let mut cluster = RedisCluster::start().unwrap();
    let url = cluster.url();
    node.finds(&url, NOTHING);
    node.finds(&cluster.nodes()[0].url(), &[("redis-is-cluster", "wrong")]);

    // A slot that nobody has.
    let members = cluster.members().unwrap();
    let owner = members.iter().find(|member| member.owns(0)).unwrap().node;
    let everywhere = |words: &[&str]| {
        for node in cluster.nodes() {
            // The owner's word may have been heard in between.
            let _ = node.ask(words);
        }
    };
    everywhere(&["CLUSTER", "DELSLOTS", "0"]);
    node.finds(&url, &[("redis-slots", "wrong")]);
    everywhere(&["CONFIG", "SET", "cluster-require-full-coverage", "yes"]);
    // The setting alone has nobody think again.
    everywhere(&["CLUSTER", "DELSLOTS", "1"]);
    node.finds(&url, &[("redis-cluster-fail", "wrong")]);
    everywhere(&["CONFIG", "SET", "cluster-require-full-coverage", "no"]);
    cluster.nodes()[owner].ask(&["CLUSTER", "ADDSLOTS", "0", "1"]).unwrap();
    node.finds(&url, NOTHING);

    let replica = cluster.replica_of(owner).unwrap();
    cluster.cut_link(replica).unwrap();
    node.finds(&url, &[("redis-replica-link", "warning")]);
    cluster.mend_link(replica).unwrap();
    node.finds(&url, NOTHING);
    cluster.node(replica).unwrap().kill();
    node.finds(&url, &[("redis-replica", "warning")]);
}
