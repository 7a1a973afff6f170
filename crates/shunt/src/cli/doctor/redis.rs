//! Redis or the Redis Cluster behind `cache.url`.

use std::time::Duration;

use shunt_redis::RedisOptions;
use shunt_redis::doctor::{self, Cluster, Facts, NotAsked, Server};

use super::findings::Findings;
use super::problems;

/// How long all of it may take to tell all it has to tell.
const PATIENCE: Duration = Duration::from_secs(6);

/// How many slots a cluster has.
const SLOTS: u32 = 16_384;

/// Looks at the servers that `options` name.
pub(super) async fn check(options: &RedisOptions, findings: &mut Findings) {
    match doctor::look(options, PATIENCE).await {
        Ok(facts) => judge(&facts, options.cluster, findings),
        Err(refused) => refusal(&refused, findings),
    }
}

fn refusal(refused: &NotAsked, findings: &mut Findings) {
    let text = refused.to_string();
    if refused.is_login {
        findings.wrong(&problems::REDIS_PASSWORD, text);
    } else if refused.is_loading {
        findings.warn(&problems::REDIS_LOADING, text);
    } else {
        findings.wrong(&problems::REDIS_UNREACHABLE, text);
    }
}

/// Judges what the servers said of themselves; `named_cluster` says what the address takes them
/// for.
fn judge(facts: &Facts, named_cluster: bool, findings: &mut Findings) {
    let before = findings.0.len();
    match (&facts.cluster, named_cluster) {
        (None, true) => {
            findings.wrong(&problems::REDIS_NOT_CLUSTER, "the server is no node of a cluster");
        }
        (Some(_), false) => {
            findings.wrong(&problems::REDIS_IS_CLUSTER, "the server is a node of a cluster");
        }
        _ => {}
    }
    if let Some(cluster) = &facts.cluster {
        together(cluster, findings);
    }
    for (address, server) in &facts.servers {
        let gone = facts.cluster.as_ref().is_some_and(|cluster| {
            let failed = cluster.members.iter().filter(|member| member.failed);
            failed.into_iter().any(|member| member.address == address.to_string())
        });
        match server {
            Ok(server) => alone(&address.to_string(), server, findings),
            // The cluster says so, and it is told of there.
            Err(_) if gone => {}
            Err(refused) if refused.is_login || refused.is_loading => refusal(refused, findings),
            Err(refused) => findings.warn(&problems::REDIS_NODE, refused.to_string()),
        }
    }
    if findings.0.len() == before {
        let what = if facts.cluster.is_some() { "nodes of a cluster" } else { "server" };
        findings.fine("redis", format!("{} {what}", facts.servers.len()));
    }
}

fn together(cluster: &Cluster, findings: &mut Findings) {
    if cluster.state != "ok" {
        let text = format!("cluster_state is {}", cluster.state);
        findings.wrong(&problems::REDIS_CLUSTER_FAIL, text);
    } else if cluster.slots_served < SLOTS {
        let text = format!("{} of {SLOTS} slots are served", cluster.slots_served);
        findings.wrong(&problems::REDIS_SLOTS, text);
    }
    let bare = cluster
        .members
        .iter()
        .filter(|member| member.has_slots && !member.failed && member.replicas == 0);
    let bare: Vec<&str> = bare.map(|member| member.address.as_str()).collect();
    if !bare.is_empty() {
        let text = format!("{} has no replica", bare.join(", "));
        findings.warn(&problems::REDIS_REPLICA, text);
    }
}

fn alone(address: &str, server: &Server, findings: &mut Findings) {
    if server.field("maxmemory") == "0" {
        findings.warn(&problems::REDIS_MEMORY, format!("{address} has maxmemory 0"));
    }
    let policy = server.field("maxmemory_policy");
    if !policy.starts_with("allkeys-") {
        findings.warn(&problems::REDIS_POLICY, format!("{address} has maxmemory-policy {policy}"));
    }
    if server.field("aof_enabled") == "0" {
        findings.warn(&problems::REDIS_AOF, format!("{address} has appendonly no"));
    }
    if server.can_flush {
        findings.warn(&problems::REDIS_FLUSH, format!("{address} takes FLUSHALL"));
    }
    if server.is_replica() && server.field("master_link_status") != "up" {
        findings.warn(&problems::REDIS_LINK, format!("{address} has no link to its master"));
    }
    if server.field("loading") == "1" {
        findings.warn(&problems::REDIS_LOADING, format!("{address} reads its data"));
    }
}

#[cfg(test)]
mod tests {
    use shunt_redis::doctor::Member;

    use super::super::findings::Verdict::{self, Warning, Wrong};
    use super::*;

    fn server(fields: &[(&str, &str)]) -> Server {
        let sound = [
            ("role", "master"),
            ("loading", "0"),
            ("maxmemory", "268435456"),
            ("maxmemory_policy", "allkeys-lru"),
            ("aof_enabled", "1"),
        ];
        let fields = sound.iter().chain(fields);
        let info = fields.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Server { info, can_flush: false }
    }

    fn found(
        server: Server,
        cluster: Option<Cluster>,
        named: bool,
    ) -> Vec<(&'static str, Verdict)> {
        let address = RedisOptions::parse("redis://127.0.0.1:7001").unwrap().seeds.remove(0);
        let mut findings = Findings::default();
        let facts = Facts { servers: vec![(address, Ok(server))], cluster };
        judge(&facts, named, &mut findings);
        findings.bad()
    }

    #[test]
    fn a_server_is_judged_by_its_settings() {
        let one = |fields: &[(&str, &str)]| found(server(fields), None, false);
        assert_eq!(one(&[]), []);
        assert_eq!(one(&[("maxmemory", "0")]), [("redis-memory", Warning)]);
        assert_eq!(one(&[("maxmemory_policy", "noeviction")]), [("redis-policy", Warning)]);
        assert_eq!(one(&[("maxmemory_policy", "allkeys-lfu")]), []);
        assert_eq!(one(&[("aof_enabled", "0")]), [("redis-aof", Warning)]);
        assert_eq!(one(&[("loading", "1")]), [("redis-loading", Warning)]);
        let replica = [("role", "slave"), ("master_link_status", "down")];
        assert_eq!(one(&replica), [("redis-replica-link", Warning)]);
        let open = Server { can_flush: true, ..server(&[]) };
        assert_eq!(found(open, None, false), [("redis-flushall", Warning)]);
    }

    #[test]
    fn a_cluster_is_judged_as_a_whole() {
        let member = |replicas: usize, failed: bool| Member {
            address: "127.0.0.1:7001".to_owned(),
            failed,
            has_slots: true,
            replicas,
        };
        let cluster = |state: &str, slots_served: u32, member: Member| {
            let state = state.to_owned();
            Some(Cluster { state, slots_served, members: vec![member] })
        };
        let judged = |cluster, named| found(server(&[]), cluster, named);
        assert_eq!(judged(cluster("ok", SLOTS, member(1, false)), true), []);
        let fail = judged(cluster("fail", 100, member(1, false)), true);
        assert_eq!(fail, [("redis-cluster-fail", Wrong)]);
        let holes = judged(cluster("ok", SLOTS - 1, member(1, false)), true);
        assert_eq!(holes, [("redis-slots", Wrong)]);
        let bare = judged(cluster("ok", SLOTS, member(0, false)), true);
        assert_eq!(bare, [("redis-replica", Warning)]);
        let single = judged(cluster("ok", SLOTS, member(1, false)), false);
        assert_eq!(single, [("redis-is-cluster", Wrong)]);
        assert_eq!(judged(None, true), [("redis-not-cluster", Wrong)]);
    }
}
