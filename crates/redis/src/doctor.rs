//! What Redis says of itself, for `shunt doctor`: facts alone, judged by whoever asked.
//!
//! Invariants: nothing is changed; every look has our own deadline; each node of a cluster is asked
//! for itself, because they may be of different opinions.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use futures_util::future::join_all;
use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue, Value, cmd};

use crate::handle::{Connector, RedisError};
use crate::options::{Address, RedisOptions};

/// What one server says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Server {
    /// The fields of `INFO`.
    pub info: BTreeMap<String, String>,
    /// Whether `FLUSHALL` is there under its own name.
    pub can_flush: bool,
}

impl Server {
    /// A field of `INFO`; empty when there is none.
    pub fn field(&self, name: &str) -> &str {
        self.info.get(name).map_or("", String::as_str)
    }

    /// Whether it is a node of a cluster.
    pub fn in_cluster(&self) -> bool {
        self.field("cluster_enabled") == "1"
    }

    /// Whether it is a replica.
    pub fn is_replica(&self) -> bool {
        self.field("role") == "slave"
    }
}

/// A node as the cluster sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Where it is.
    pub address: String,
    /// Whether the others take it for dead.
    pub failed: bool,
    /// Whether it owns slots.
    pub has_slots: bool,
    /// Living replicas that follow it.
    pub replicas: usize,
}

/// What a node says of its cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// `ok` or `fail`.
    pub state: String,
    /// Slots, of 16,384, that a living master serves.
    pub slots_served: u32,
    /// Everybody it knows.
    pub members: Vec<Member>,
}

/// Why a server could not be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotAsked {
    /// Whether it is the user or the password.
    pub is_login: bool,
    /// Whether it is there and still reads its data.
    pub is_loading: bool,
    /// The same in words.
    pub text: String,
}

impl fmt::Display for NotAsked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl NotAsked {
    fn new(address: &Address, error: &RedisError) -> Self {
        let text = error.to_string();
        let said = |words: &[&str]| words.iter().any(|word| text.contains(word));
        let login = ["WRONGPASS", "NOAUTH", "invalid password", "AuthenticationFailed"];
        Self {
            is_login: said(&login) || said(&["Password authentication failed", "NOPERM"]),
            is_loading: said(&["LOADING", "loading"]),
            text: format!("{address}: {text}"),
        }
    }
}

/// What Redis says of itself.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Every server that is known: the one that is named, or all nodes of the cluster.
    pub servers: Vec<(Address, Result<Server, NotAsked>)>,
    /// The cluster, where there is one.
    pub cluster: Option<Cluster>,
}

/// Looks at the servers that `options` name, for at most `patience` in all.
///
/// # Errors
/// [`NotAsked`] of the first one when none can be asked.
pub async fn look(options: &RedisOptions, patience: Duration) -> Result<Facts, NotAsked> {
    // A third for each round: the seeds, the cluster, its nodes.
    let step = patience / 3;
    let seeds = join_all(options.seeds.iter().map(|seed| server(options, seed, step))).await;
    let seeds: Vec<_> = options.seeds.iter().cloned().zip(seeds).collect();
    let Some((first, _)) = seeds.iter().find(|(_, server)| server.is_ok()) else {
        let refused = seeds.into_iter().find_map(|(_, server)| server.err());
        return Err(refused.unwrap_or_else(|| NotAsked {
            is_login: false,
            is_loading: false,
            text: "no address is named".to_owned(),
        }));
    };
    let in_cluster = seeds.iter().any(|(_, server)| server.as_ref().is_ok_and(Server::in_cluster));
    if !in_cluster {
        return Ok(Facts { servers: seeds, cluster: None });
    }
    let cluster = within(first, step, async {
        let mut connection = connect(options, first).await?;
        cluster(&mut connection).await
    })
    .await?;
    let known: BTreeSet<&Address> = seeds.iter().map(|(address, _)| address).collect();
    let others: Vec<Address> = cluster
        .members
        .iter()
        .filter(|member| !member.failed)
        .filter_map(|member| Address::parse(&member.address))
        .filter(|address| !known.contains(address))
        .collect();
    let asked = join_all(others.iter().map(|address| server(options, address, step))).await;
    let mut servers = seeds.clone();
    servers.extend(others.iter().cloned().zip(asked));
    Ok(Facts { servers, cluster: Some(cluster) })
}

async fn within<T>(
    address: &Address,
    patience: Duration,
    work: impl Future<Output = Result<T, RedisError>>,
) -> Result<T, NotAsked> {
    let done = tokio::time::timeout(patience, work).await;
    let done = done.unwrap_or(Err(RedisError::Timeout));
    done.map_err(|error| NotAsked::new(address, &error))
}

async fn connect(
    options: &RedisOptions,
    address: &Address,
) -> Result<MultiplexedConnection, RedisError> {
    let connector = Connector::new(options.clone());
    let connector = connector.map_err(|error| RedisError::Refused(error.to_string()))?;
    connector.connect(address).await
}

async fn ask<T: FromRedisValue>(
    connection: &mut MultiplexedConnection,
    words: &[&str],
) -> Result<T, RedisError> {
    let mut words = words.iter();
    let mut command = cmd(words.next().copied().unwrap_or_default());
    for word in words {
        command.arg(*word);
    }
    command.query_async(connection).await.map_err(RedisError::from)
}

/// Lines of `NAME:VALUE`.
fn fields(text: &str) -> BTreeMap<String, String> {
    let pairs = text.lines().filter_map(|line| line.trim_end().split_once(':'));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

async fn server(
    options: &RedisOptions,
    address: &Address,
    patience: Duration,
) -> Result<Server, NotAsked> {
    within(address, patience, async {
        let mut connection = connect(options, address).await?;
        let info: String = ask(&mut connection, &["INFO"]).await?;
        let flush: Value = ask(&mut connection, &["COMMAND", "INFO", "FLUSHALL"]).await?;
        let known = matches!(&flush, Value::Array(all) if all.iter().any(|v| *v != Value::Nil));
        Ok(Server { info: fields(&info), can_flush: known })
    })
    .await
}

async fn cluster(connection: &mut MultiplexedConnection) -> Result<Cluster, RedisError> {
    let info: String = ask(connection, &["CLUSTER", "INFO"]).await?;
    let info = fields(&info);
    let nodes: String = ask(connection, &["CLUSTER", "NODES"]).await?;
    Ok(Cluster {
        state: info.get("cluster_state").cloned().unwrap_or_default(),
        slots_served: info.get("cluster_slots_ok").and_then(|n| n.parse().ok()).unwrap_or_default(),
        members: members(&nodes),
    })
}

/// Reads `CLUSTER NODES`: `ID ADDRESS@BUS[,NAME] FLAGS MASTER … STATE SLOT…`.
fn members(text: &str) -> Vec<Member> {
    let lines: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|words| words.len() >= 8)
        .collect();
    let failed = |flags: &str| flags.split(',').any(|flag| flag == "fail" || flag == "noaddr");
    let named = lines.iter().filter_map(|words| {
        let [id, place, flags, ..] = words.as_slice() else { return None };
        let followers = lines.iter().filter(|other| other.get(3) == Some(id));
        let replicas = followers.filter(|other| other.get(2).is_some_and(|flags| !failed(flags)));
        Some(Member {
            address: place.split_once('@').map_or(*place, |(address, _)| address).to_owned(),
            failed: failed(flags),
            has_slots: words.len() > 8,
            replicas: replicas.count(),
        })
    });
    named.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_members_of_a_cluster_are_read() {
        let text = "a1 127.0.0.1:7001@17001 myself,master - 0 0 1 connected 0-5460\n\
                    b2 127.0.0.1:7002@17002,host master,fail - 1 2 2 disconnected 5461-10922\n\
                    c3 127.0.0.1:7003@17003 slave a1 0 3 1 connected\n\
                    d4 127.0.0.1:7004@17004 slave,fail a1 0 3 1 connected\n\
                    e5 :0@0 master,noaddr - 1 2 3 disconnected\n";
        let member = |port: u16, failed: bool, has_slots: bool, replicas: usize| Member {
            address: format!("127.0.0.1:{port}"),
            failed,
            has_slots,
            replicas,
        };
        let mut found = members(text);
        let gone = found.pop().unwrap();
        assert!(gone.failed && !gone.has_slots, "{gone:?}");
        let wanted = [
            member(7001, false, true, 1),
            member(7002, true, true, 0),
            member(7003, false, false, 0),
            member(7004, true, false, 0),
        ];
        assert_eq!(found, wanted);
    }

    #[test]
    fn information_comes_in_lines() {
        let info = fields("# Server\r\nrole:master\r\n\r\nmaxmemory:0\r\n");
        assert_eq!(info.len(), 2);
        assert_eq!(info["role"], "master");
    }
}
