//! The way to Redis: one server or a cluster, with deadlines, breakers and scripts.
//!
//! Routing in a cluster is our own, over one connection of the driver to each node. The driver's
//! own cluster client is one task for all nodes, which stands still for all of them while it looks
//! for a new master or waits for a node that hangs (redis-rs #1005, #1528, #1953, #2085); here a
//! node that hangs costs its own keys only, and each has its breaker.

mod breaker;
mod node;
mod slots;
mod stats;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use redis::{Cmd, Value, cmd};
use shunt_domain::Deadline;
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::options::{Address, OptionsError, RedisOptions};
use node::{Node, lock};
use slots::SLOTS;

pub(crate) use node::Connector;
pub use stats::{LATENCY_BOUNDS, Stats};

/// How often a cluster is asked who has which keys, when nothing is wrong.
const REFRESH: Duration = Duration::from_secs(5);
/// The same while somebody was sent elsewhere or a master is down.
const REFRESH_IN_TROUBLE: Duration = Duration::from_millis(100);
/// How long the answer may take.
const REFRESH_PATIENCE: Duration = Duration::from_millis(300);

/// Why there was no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedisError {
    /// Not sent: there is no connection, or the breaker is open.
    #[error("Redis is not reachable: {0}")]
    Down(String),
    /// Not sent: too many calls are under way.
    #[error("too many calls to Redis are under way")]
    Busy,
    /// No answer within the deadline. The command may have been carried out, or may yet be.
    #[error("Redis did not answer within the deadline")]
    Timeout,
    /// The connection broke. The command may have been carried out.
    #[error("the connection to Redis broke: {0}")]
    Lost(String),
    /// The server can't at the moment: it loads its data, is a replica, or its cluster is down.
    #[error("Redis can't answer now: {0}")]
    NotNow(String),
    /// The server refused the command or us.
    #[error("Redis refused: {0}")]
    Refused(String),
    /// The server answered something else than this command's answer.
    #[error("Redis answered what was not asked for")]
    Unexpected,
    /// The server does not know the script. Handled inside.
    #[error("Redis does not know the script")]
    NoScript,
    /// The key is at another node. Handled inside.
    #[error("the key is at {0}")]
    Moved(Address),
    /// The key is just moving to another node. Handled inside.
    #[error("the key moves to {0}")]
    Ask(Address),
}

impl RedisError {
    const fn is_lost(&self) -> bool {
        matches!(self, Self::Lost(_))
    }

    /// Part of normal life.
    const fn is_routine(&self) -> bool {
        matches!(self, Self::NoScript | Self::Moved(_) | Self::Ask(_))
    }
}

/// A Lua script on one key.
#[derive(Debug)]
pub(crate) struct Script {
    code: &'static str,
    /// SHA-1 of the code in hexadecimal, as `EVALSHA` wants it.
    hash: String,
}

impl Script {
    pub(crate) fn new(code: &'static str) -> Self {
        Self { code, hash: redis::Script::new(code).get_hash().to_owned() }
    }
}

/// A node and the task that keeps it connected, which ends with it.
struct Kept {
    node: Arc<Node>,
    keeper: AbortHandle,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

/// Who has which keys.
struct Map {
    nodes: Vec<Arc<Kept>>,
    /// For each slot the number of its master in `nodes`; empty for a single server, and until a
    /// cluster has told.
    masters: Vec<u16>,
}

impl Map {
    fn find(&self, address: &Address) -> Option<&Arc<Kept>> {
        self.nodes.iter().find(|kept| kept.node.address == *address)
    }

    fn of_slot(&self, slot: u16) -> Option<&Arc<Kept>> {
        self.nodes.get(usize::from(*self.masters.get(usize::from(slot))?))
    }
}

struct Shared {
    options: RedisOptions,
    connector: Arc<Connector>,
    map: ArcSwap<Map>,
    stats: Arc<Stats>,
    /// Somebody was sent elsewhere.
    moved: Notify,
}

/// The connections to Redis. One for the whole process; cheap to call from any thread.
pub struct Handle {
    shared: Arc<Shared>,
    runtime: Mutex<Option<Runtime>>,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").field("options", &self.shared.options).finish_non_exhaustive()
    }
}

impl Handle {
    /// Begins to connect, in the background: the server need not be there yet.
    ///
    /// # Errors
    /// [`OptionsError`], when no thread can be started or a certificate can't be read.
    pub fn start(options: RedisOptions) -> Result<Arc<Self>, OptionsError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(options.io_threads.max(1))
            .thread_name("redis")
            .enable_all()
            .build()
            .map_err(|_| OptionsError::Threads)?;
        let shared = Arc::new(Shared {
            connector: Arc::new(Connector::new(options.clone())?),
            map: ArcSwap::from_pointee(Map { nodes: Vec::new(), masters: Vec::new() }),
            stats: Arc::default(),
            moved: Notify::new(),
            options,
        });
        let _guard = runtime.enter();
        let seeds = shared.options.seeds.clone();
        shared.map.store(Arc::new(Map {
            nodes: seeds.iter().map(|seed| shared.kept(seed)).collect(),
            masters: Vec::new(),
        }));
        if shared.options.cluster {
            tokio::spawn(Arc::clone(&shared).follow());
        }
        Ok(Arc::new(Self { shared, runtime: Mutex::new(Some(runtime)) }))
    }

    /// Counters.
    pub fn stats(&self) -> &Stats {
        &self.shared.stats
    }

    /// Nodes that are worth asking, of how many that have keys; none of the seeds until a cluster
    /// has told which those are.
    pub fn up(&self) -> (usize, usize) {
        let map = self.shared.map.load();
        if self.shared.options.cluster && map.masters.is_empty() {
            return (0, map.nodes.len());
        }
        let masters: BTreeSet<usize> = if map.masters.is_empty() {
            BTreeSet::from([0])
        } else {
            map.masters.iter().map(|at| usize::from(*at)).collect()
        };
        let nodes = masters.iter().filter_map(|at| map.nodes.get(*at));
        (nodes.filter(|kept| kept.node.is_up()).count(), masters.len())
    }

    /// Runs a command on the node that has `key`.
    ///
    /// # Errors
    /// [`RedisError`].
    pub(crate) async fn run(
        &self,
        key: &[u8],
        command: &Cmd,
        deadline: Deadline,
    ) -> Result<Value, RedisError> {
        let map = self.shared.map.load_full();
        let kept = if self.shared.options.cluster {
            map.of_slot(slots::slot_of(key))
        } else {
            map.nodes.first()
        };
        let Some(kept) = kept else {
            Stats::add(&self.shared.stats.refused);
            return Err(map.nodes.first().map_or_else(
                || RedisError::Down("no node is known".into()),
                |kept| kept.node.error(),
            ));
        };
        let answer = kept.node.call(command, false, deadline).await;
        let (address, asking) = match answer {
            Err(RedisError::Moved(address)) => {
                self.shared.moved.notify_one();
                (address, false)
            }
            Err(RedisError::Ask(address)) => (address, true),
            Err(RedisError::NotNow(text)) => {
                self.shared.moved.notify_one();
                return Err(RedisError::NotNow(text));
            }
            answer => return answer,
        };
        // Once: who is sent on again asks too early.
        match map.find(&address) {
            Some(kept) => kept.node.call(command, asking, deadline).await,
            None => Err(RedisError::NotNow(format!("{address} is not connected yet"))),
        }
    }

    /// Runs a script on the node that has `key`, its only key.
    ///
    /// # Errors
    /// [`RedisError`].
    pub(crate) async fn script(
        &self,
        script: &Script,
        key: &[u8],
        args: &[&[u8]],
        deadline: Deadline,
    ) -> Result<Value, RedisError> {
        let invocation = |name: &str, code: &[u8]| {
            let mut command = cmd(name);
            command.arg(code).arg(1).arg(key).arg(args);
            command
        };
        let short = invocation("EVALSHA", script.hash.as_bytes());
        match self.run(key, &short, deadline).await {
            // A server that was restarted, or a replica that took over.
            Err(RedisError::NoScript) => {
                let long = invocation("EVAL", script.code.as_bytes());
                self.run(key, &long, deadline).await
            }
            answer => answer,
        }
    }

    /// Runs a command on any node: one after the other until one answers.
    ///
    /// # Errors
    /// The last node's [`RedisError`].
    pub(crate) async fn run_anywhere(
        &self,
        command: &Cmd,
        deadline: Deadline,
    ) -> Result<Value, RedisError> {
        let map = self.shared.map.load_full();
        let mut error = RedisError::Down("no node is known".into());
        let (up, down): (Vec<_>, Vec<_>) = map.nodes.iter().partition(|kept| kept.node.is_up());
        for (at, kept) in up.iter().enumerate() {
            // A node that hangs must leave time for the next one.
            let left = deadline.left(Instant::now());
            let rest = u32::try_from(up.len() - at).unwrap_or(u32::MAX).min(3);
            let part = Deadline::after(Instant::now(), left / rest);
            match kept.node.call(command, false, part).await {
                Ok(value) => return Ok(value),
                Err(last) => error = last,
            }
        }
        if let (true, Some(kept)) = (up.is_empty(), down.first()) {
            error = kept.node.error();
        }
        Err(error)
    }

    /// The addresses of all nodes, those that are worth asking first.
    pub(crate) fn addresses(&self) -> Vec<Address> {
        let map = self.shared.map.load();
        let (up, down): (Vec<_>, Vec<_>) = map.nodes.iter().partition(|kept| kept.node.is_up());
        up.iter().chain(&down).map(|kept| kept.node.address.clone()).collect()
    }

    /// Opens a connection for subscriptions.
    ///
    /// # Errors
    /// [`RedisError`].
    pub(crate) async fn subscriber(
        &self,
        address: &Address,
    ) -> Result<redis::aio::PubSub, RedisError> {
        self.shared.connector.subscriber(address).await
    }

    /// Ends all connections and what runs beside the requests. Calls made later find nothing.
    pub fn close(&self) {
        // A runtime must not be waited for inside another one.
        if let Some(runtime) = lock(&self.runtime).take() {
            runtime.shutdown_background();
        }
    }

    /// Runs something beside the requests, on the threads of this crate; it ends with the handle.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        if let Some(runtime) = lock(&self.runtime).as_ref() {
            runtime.spawn(work);
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn kept(&self, address: &Address) -> Arc<Kept> {
        let node = Node::new(address.clone(), self.options.concurrency, Arc::clone(&self.stats));
        let node = Arc::new(node);
        let keeper = tokio::spawn(Arc::clone(&node).keep(Arc::clone(&self.connector)));
        Arc::new(Kept { node, keeper: keeper.abort_handle() })
    }

    /// Keeps the map of a cluster as its nodes tell it.
    async fn follow(self: Arc<Self>) {
        let mut from = 0;
        loop {
            let known = self.refresh(from).await;
            // Another one next time: one that was cut off knows old things.
            from += 1;
            let map = self.map.load_full();
            let well = known
                && (0..SLOTS)
                    .step_by(16)
                    .all(|slot| map.of_slot(slot).is_some_and(|kept| kept.node.is_up()));
            let pause = if well { REFRESH } else { REFRESH_IN_TROUBLE };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.moved.notified() => {
                    // Not for each of those who were sent on.
                    tokio::time::sleep(REFRESH_IN_TROUBLE).await;
                }
            }
        }
    }

    /// Asks one node who has which keys. Answers whether one told.
    async fn refresh(&self, from: usize) -> bool {
        let map = self.map.load_full();
        let mut question = cmd("CLUSTER");
        question.arg("SLOTS");
        let count = map.nodes.len().max(1);
        for at in 0..count {
            let Some(kept) = map.nodes.get((from + at) % count) else { continue };
            if !kept.node.is_up() {
                continue;
            }
            let deadline = Deadline::after(Instant::now(), REFRESH_PATIENCE);
            let Ok(answer) = kept.node.call(&question, false, deadline).await else { continue };
            if let Some(runs) = slots::parse(&answer, &kept.node.address) {
                self.adopt(&map, &runs);
                return true;
            }
        }
        false
    }

    fn adopt(&self, old: &Map, runs: &[slots::Run]) {
        let mut nodes: Vec<Arc<Kept>> = Vec::new();
        let mut masters = vec![u16::MAX; usize::from(SLOTS)];
        let mut number = |address: &Address| {
            if let Some(at) = nodes.iter().position(|kept| kept.node.address == *address) {
                return at;
            }
            nodes.push(old.find(address).cloned().unwrap_or_else(|| self.kept(address)));
            nodes.len() - 1
        };
        for run in runs {
            let master = u16::try_from(number(&run.master)).unwrap_or(u16::MAX);
            for slot in run.first..=run.last {
                if let Some(entry) = masters.get_mut(usize::from(slot)) {
                    *entry = master;
                }
            }
            for replica in &run.replicas {
                number(replica);
            }
        }
        // The way back when all others are gone.
        for seed in &self.options.seeds {
            number(seed);
        }
        self.map.store(Arc::new(Map { nodes, masters }));
    }
}
