//! A Redis Cluster of six nodes: three masters with a replica each.

use std::net::SocketAddr;
use std::ops::RangeInclusive;

use anyhow::{Context, Result, anyhow};

use super::{Redis, Reply, Setup, value_of};
use crate::place::Place;
use crate::process::Spec;
use crate::wait;

/// How many nodes there are.
const NODES: usize = 6;

/// Where their directories are in the cluster's.
const DIRECTORY: &str = "nodes";

/// What one node of a cluster is to the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its number: its place in [`RedisCluster::nodes`].
    pub node: usize,
    /// The number of its master; `None` for a master.
    pub master: Option<usize>,
    /// The slots that it owns; none for a replica, and for a master that was replaced.
    pub slots: Vec<RangeInclusive<u16>>,
    /// Whether the others take it for dead.
    pub failed: bool,
}

impl Member {
    /// Whether it owns this slot.
    pub fn owns(&self, slot: u16) -> bool {
        self.slots.iter().any(|range| range.contains(&slot))
    }
}

/// Six nodes. They are numbered from 0; which of them are masters the cluster itself decides.
#[derive(Debug)]
pub struct RedisCluster {
    nodes: Vec<Redis>,
    _place: Place,
}

impl RedisCluster {
    /// A cluster as it ships.
    ///
    /// # Errors
    /// As [`Setup::start_cluster`].
    pub fn start() -> Result<Self> {
        Redis::setup().start_cluster()
    }

    pub(super) fn joined(setup: &Setup) -> Result<Self> {
        let place = Place::of(setup.at.as_deref(), "redis-cluster")?;
        let root = place.path().join(DIRECTORY);
        let launch = || -> Result<Vec<Redis>> {
            let places = (1..=NODES).map(|number| Place::keep(&root.join(number.to_string())));
            places.map(|place| Redis::launched(setup, place?, true)).collect()
        };
        let mut nodes = Vec::new();
        place.make_once(DIRECTORY, || {
            nodes = launch()?;
            join(&nodes)
        })?;
        if nodes.is_empty() {
            nodes = launch()?;
        }
        let mut cluster = Self { nodes, _place: place };
        cluster.wait_settled()?;
        Ok(cluster)
    }

    /// The nodes.
    pub fn nodes(&self) -> &[Redis] {
        &self.nodes
    }

    /// One node, to kill, freeze, restart or empty it.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn node(&mut self, node: usize) -> Result<&mut Redis> {
        self.nodes.get_mut(node).with_context(|| format!("there is no node {node}"))
    }

    /// The nodes' addresses.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        addresses(&self.nodes)
    }

    /// `redis-cluster://:PASSWORD@HOST:PORT,HOST:PORT,…`.
    pub fn url(&self) -> String {
        let password = self.nodes.first().map_or("", Redis::password);
        let addresses: Vec<String> = self.addresses().iter().map(ToString::to_string).collect();
        format!("redis-cluster://:{password}@{}", addresses.join(","))
    }

    /// Who is what, as the first node that is awake sees it, in the nodes' order.
    ///
    /// # Errors
    /// When none is awake or it does not answer.
    pub fn members(&mut self) -> Result<Vec<Member>> {
        let viewer = self.nodes.iter_mut().position(Redis::awake);
        self.view(viewer.context("no node of the cluster is awake")?)
    }

    /// Who is what, as this node sees it, in the nodes' order.
    ///
    /// # Errors
    /// When there is no such node or it does not answer.
    pub fn view(&self, node: usize) -> Result<Vec<Member>> {
        let viewer = self.nodes.get(node).with_context(|| format!("there is no node {node}"))?;
        let reply = viewer.ask(&["CLUSTER", "NODES"])?;
        members(reply.text().unwrap_or_default(), &self.addresses())
    }

    /// The number of the node that owns a key's slot now.
    ///
    /// # Errors
    /// When no node is awake, or nobody owns the slot.
    pub fn master_of(&mut self, key: &str) -> Result<usize> {
        let slot = self.slot_of(key)?;
        let members = self.members()?;
        let master = members.iter().find(|member| member.owns(slot));
        master.map(|member| member.node).ok_or_else(|| anyhow!("nobody owns slot {slot}"))
    }

    /// The number of a master's replica.
    ///
    /// # Errors
    /// When no node is awake, or it has none.
    pub fn replica_of(&mut self, master: usize) -> Result<usize> {
        let members = self.members()?;
        let replica = members.iter().find(|member| member.master == Some(master));
        replica.map(|member| member.node).ok_or_else(|| anyhow!("node {master} has no replica"))
    }

    fn slot_of(&mut self, key: &str) -> Result<u16> {
        let awake = self.nodes.iter_mut().find_map(|node| node.awake().then_some(&*node));
        let reply =
            awake.context("no node of the cluster is awake")?.ask(&["CLUSTER", "KEYSLOT", key])?;
        let slot = reply.number().and_then(|slot| u16::try_from(slot).ok());
        slot.with_context(|| format!("no slot of {key}: {reply:?}"))
    }

    /// Runs a command on the master of `key`.
    ///
    /// # Errors
    /// As [`Self::master_of`] and [`super::Connection::ask`].
    pub fn ask(&mut self, key: &str, words: &[&str]) -> Result<Reply> {
        let master = self.master_of(key)?;
        self.node(master)?.ask(words)
    }

    /// Waits until another node than `before` owns the key's slot and serves it, and answers its
    /// number. With the settings that ship that takes about eight seconds from a master's end.
    ///
    /// # Errors
    /// When nobody takes over within [`wait::PATIENCE`].
    pub fn wait_for_takeover(&mut self, key: &str, before: usize) -> Result<usize> {
        wait::until(wait::PATIENCE, "a replica to take over", || {
            let master = self.master_of(key).ok().filter(|master| *master != before)?;
            self.node(master).ok()?.ask(&["EXISTS", key]).ok().map(|_| master)
        })
    }

    /// Waits until all nodes that are awake agree: every slot is served by one of them, and every
    /// replica among them is linked to a master among them. A replica whose master was replaced
    /// has to find the new one first.
    ///
    /// # Errors
    /// When they don't within [`wait::PATIENCE`]; with what each thinks.
    pub fn wait_settled(&mut self) -> Result<()> {
        let mut last = anyhow!("nobody was asked");
        let settled = wait::until(wait::PATIENCE, "the cluster to settle", || {
            self.settled().map_err(|error| last = error).ok()
        });
        settled.map_err(|error| last.context(error))
    }

    fn settled(&mut self) -> Result<()> {
        let awake: Vec<usize> = self
            .nodes
            .iter_mut()
            .enumerate()
            .filter_map(|(number, node)| node.awake().then_some(number))
            .collect();
        let mut first: Option<Vec<Member>> = None;
        for &number in &awake {
            let node = self.node(number)?;
            for (name, wanted) in [("cluster_state", "ok"), ("cluster_slots_ok", "16384")] {
                let value = node.cluster_info(name)?;
                if value != wanted {
                    return Err(anyhow!("node {number} has {name} {value:?}"));
                }
            }
            let linked = value_of(&replication(node)?, "master_link_status");
            let view = self.view(number)?;
            let me = view.get(number).context("a node that does not know itself")?;
            if let Some(master) = me.master {
                if linked.as_deref() != Some("up") || !awake.contains(&master) {
                    return Err(anyhow!("node {number} is not linked to {master}: {linked:?}"));
                }
            } else if me.slots.is_empty() {
                return Err(anyhow!("node {number} is a master of nothing"));
            }
            if view.len() != NODES || *first.get_or_insert_with(|| view.clone()) != view {
                return Err(anyhow!("node {number} sees {view:?}, another one {first:?}"));
            }
            if view.iter().any(|m| awake.contains(&m.node) && m.failed) {
                return Err(anyhow!("node {number} takes a living one for dead: {view:?}"));
            }
        }
        if awake.is_empty() { Err(anyhow!("no node is awake")) } else { Ok(()) }
    }

    /// Cuts the link of a replica to its master and keeps it cut, both alive: what the master
    /// acknowledges from now on the replica does not have. [`Self::mend_link`] undoes it.
    ///
    /// # Errors
    /// When one of them does not answer, or the link stays.
    pub fn cut_link(&mut self, replica: usize) -> Result<()> {
        let members = self.members()?;
        let master = members.get(replica).and_then(|member| member.master);
        let master = master.with_context(|| format!("node {replica} is no replica"))?;
        // It can't log in again once it is thrown out.
        self.node(replica)?.ask(&["CONFIG", "SET", "masterauth", "cut"])?;
        self.node(master)?.ask(&["CLIENT", "KILL", "TYPE", "replica"])?;
        let node = self.node(replica)?;
        wait::until(wait::PATIENCE, "the link to be cut", || {
            let status = value_of(&replication(node).ok()?, "master_link_status");
            (status.as_deref() == Some("down")).then_some(())
        })
    }

    /// Lets a replica log in to its master again; do it before it has to follow another one.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn mend_link(&mut self, replica: usize) -> Result<()> {
        let node = self.node(replica)?;
        let password = node.password().to_owned();
        node.ask(&["CONFIG", "SET", "masterauth", &password]).map(|_| ())
    }
}

fn addresses(nodes: &[Redis]) -> Vec<SocketAddr> {
    nodes.iter().map(Redis::socket).collect()
}

/// Joins fresh nodes into a cluster.
fn join(nodes: &[Redis]) -> Result<()> {
    let logs = tempfile::tempdir()?;
    let first = nodes.first().context("a cluster of no nodes")?;
    let spec = Spec::new("redis-cli", "redis-cli")
        .args(["--cluster", "create"])
        .args(addresses(nodes).iter().map(ToString::to_string))
        .args(["--cluster-replicas", "1", "--cluster-yes"])
        .env("REDISCLI_AUTH", first.password());
    let finished = spec.run(logs.path(), wait::PATIENCE)?;
    finished.ok().map(|_| ()).context("join a Redis Cluster (Debian package redis-tools)")
}

fn replication(node: &Redis) -> Result<String> {
    let reply = node.ask(&["INFO", "replication"])?;
    Ok(reply.text().unwrap_or_default().to_owned())
}

/// Reads `CLUSTER NODES`: `ID HOST:PORT@BUS FLAGS MASTER PING PONG EPOCH LINK SLOTS…`, a line each.
fn members(text: &str, addresses: &[SocketAddr]) -> Result<Vec<Member>> {
    let mut known = Vec::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let [id, address, flags, master, _, _, _, _, slots @ ..] = fields.as_slice() else {
            return Err(anyhow!("a node's line has too few fields: {line:?}"));
        };
        let address = address.split('@').next().unwrap_or_default();
        let node = addresses.iter().position(|known| known.to_string() == address);
        let node = node.with_context(|| format!("a node that is none of ours: {line:?}"))?;
        let flags: Vec<&str> = flags.split(',').collect();
        // A slot that is on its way to another node is in brackets.
        let slots = slots.iter().filter(|slot| !slot.starts_with('['));
        let slots = slots.map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            Ok(first.parse()?..=last.parse()?)
        });
        let member = Member {
            node,
            master: None,
            slots: slots.collect::<Result<_>>().with_context(|| format!("slots of {line:?}"))?,
            // `fail?` is one node's suspicion, `fail` what a majority has agreed on.
            failed: flags.contains(&"fail"),
        };
        known.push((*id, *master, member));
    }
    let numbers: Vec<(String, usize)> =
        known.iter().map(|(id, _, member)| ((*id).to_owned(), member.node)).collect();
    let mut members: Vec<Member> = known
        .into_iter()
        .map(|(_, master, member)| {
            let master = numbers.iter().find(|(id, _)| id == master).map(|(_, number)| *number);
            Member { master, ..member }
        })
        .collect();
    members.sort_by_key(|member| member.node);
    Ok(members)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_lines_are_read() {
        let addresses: Vec<SocketAddr> =
            (1..=3).map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect();
        let text = "bb 127.0.0.1:2@12 slave cc 0 1 2 connected\n\
                    aa 127.0.0.1:1@11 master,fail - 0 1 2 disconnected\n\
                    cc 127.0.0.1:3@13,host myself,master - 0 1 2 connected 0-5 7 [9->-aa]\n";
        let found = members(text, &addresses).unwrap();
        assert_eq!(found[0], Member { node: 0, master: None, slots: vec![], failed: true });
        assert_eq!(found[1].master, Some(2));
        assert_eq!(found[2].slots, [0..=5, 7..=7]);
        assert!(found[2].owns(3) && found[2].owns(7) && !found[2].owns(6));
        assert!(members("dd 127.0.0.1:9@1 master - 0 1 2 connected\n", &addresses).is_err());
        assert!(members("short\n", &addresses).is_err());
    }
}
