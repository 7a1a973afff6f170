//! Two nodes of the real binary on one database: PgBouncer before a primary, a synchronous standby
//! beside it, and relays before each of them that can fall silent.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use shunt_cluster::postgres::Config;
use shunt_cluster::{Address, PgBouncer, Postgres, Relay, Shunt, until};

const DATABASE: &str = "links";

/// The bound of a wait whose condition is expected soon, on a machine with other things to do.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// What every node is told.
const CONFIG: &str = "[proxies]\ntrusted = [\"127.0.0.1\"]\n";

/// See the module. Redis, and what is before it, is the test's own.
pub(crate) struct Fleet {
    pub(crate) nodes: [Shunt; 2],
    /// An admin's key.
    pub(crate) key: String,
    /// Before PgBouncer.
    pub(crate) to_pooler: Relay,
    /// Before the standby of the beginning.
    pub(crate) to_standby: Relay,
    pub(crate) pooler: PgBouncer,
    /// PgBouncer leads to the first, whichever of them is the primary.
    copies: [Postgres; 2],
    primary: usize,
}

fn url(config: &Config, socket: SocketAddr) -> String {
    Config { port: socket.port(), ..config.clone() }.url(DATABASE)
}

impl Fleet {
    /// Starts all, on this Redis; each node with settings of its own.
    pub(crate) fn start(cache: &str, settings: [&str; 2]) -> Self {
        let first = Postgres::setup().fast().start().unwrap();
        first.create_database(DATABASE).unwrap();
        let second = first.standby().unwrap();
        let pooler = PgBouncer::setup().database(DATABASE, first.config()).start().unwrap();
        let (to_pooler, to_standby) =
            (Relay::start(pooler.socket()).unwrap(), Relay::start(second.socket()).unwrap());
        let node = |settings: &str| {
            let node = Shunt::new().unwrap().config(&format!("{CONFIG}{settings}")).unwrap();
            node.env("SHUNT_STORE", url(pooler.config(), to_pooler.socket()))
                .env("SHUNT_STORE_MIGRATE", first.url(DATABASE))
                .env("SHUNT_STORE_REPLICAS", url(second.config(), to_standby.socket()))
                .env("SHUNT_CACHE", cache)
        };
        let mut nodes = settings.map(node);
        nodes[0].cli(["migrate"], SOON).unwrap().ok().unwrap();
        for node in &mut nodes {
            node.start().unwrap();
        }
        let words = ["apikeys", "add", "faults", "--json", "--scope", "admin", "--scope", "create"];
        let made = nodes[0].cli(words, SOON).unwrap().ok().unwrap();
        let made: Value = serde_json::from_str(&made).unwrap();
        let key = made["secret"].as_str().unwrap().to_owned();
        let copies = [first, second];
        let fleet = Self { nodes, key, to_pooler, to_standby, pooler, copies, primary: 0 };
        fleet.wait_together();
        fleet.synchronous();
        fleet
    }

    /// The nodes' own addresses.
    pub(crate) fn addresses(&self) -> [Address; 2] {
        self.nodes.each_ref().map(Shunt::address)
    }

    pub(crate) fn primary(&mut self) -> &mut Postgres {
        &mut self.copies[self.primary]
    }

    pub(crate) fn standby(&mut self) -> &mut Postgres {
        &mut self.copies[1 - self.primary]
    }

    /// Waits until the standby has what the primary has.
    pub(crate) fn wait_replicated(&self) {
        self.copies[self.primary].wait_for(&self.copies[1 - self.primary]).unwrap();
    }

    /// Makes commits wait for the standby.
    pub(crate) fn synchronous(&self) {
        let (primary, standby) = (&self.copies[self.primary], &self.copies[1 - self.primary]);
        primary.set("synchronous_standby_names", standby.name()).unwrap();
        let sql = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
        until(SOON, "a synchronous standby", || (primary.psql(sql).unwrap() == "1").then_some(()))
            .unwrap();
    }

    /// The standby, which was promoted, is the primary from here on, and the old one its standby.
    pub(crate) fn swap(&mut self) {
        self.primary = 1 - self.primary;
        let [first, second] = &mut self.copies;
        let (old, new) = if self.primary == 1 { (first, &*second) } else { (second, &*first) };
        old.follow(new).unwrap();
        self.synchronous();
    }

    /// Runs SQL on the links' database, on the primary.
    pub(crate) fn sql(&self, sql: &str) -> String {
        self.copies[self.primary].config().psql(DATABASE, sql).unwrap()
    }

    /// Every code with its target, as the database itself has it.
    pub(crate) fn rows(&self) -> HashMap<String, String> {
        let rows = self.sql("SELECT code || ' ' || target FROM links WHERE state = 0");
        let pair = |row: &str| {
            let (code, target) = row.split_once(' ').unwrap();
            (code.to_owned(), target.to_owned())
        };
        rows.lines().map(pair).collect()
    }

    /// A figure of one node.
    pub(crate) fn of_node(&self, node: usize, name: &str, labels: &str) -> f64 {
        self.nodes[node].metric(name, labels).unwrap()
    }

    /// A figure of both nodes together.
    pub(crate) fn metric(&self, name: &str, labels: &str) -> f64 {
        (0..2).map(|node| self.of_node(node, name, labels)).sum()
    }

    /// Waits until a figure of both nodes together is as it should be.
    pub(crate) fn wait_metric(&self, name: &str, labels: &str, is_so: impl Fn(f64) -> bool) {
        let what = format!("{name}{{{labels}}}");
        until(SOON, &what, || is_so(self.metric(name, labels)).then_some(())).unwrap_or_else(
            |error| panic!("{error}, which is {}: {}", self.metric(name, labels), self.ready()),
        );
    }

    /// What both nodes say of themselves.
    pub(crate) fn ready(&self) -> String {
        let all = self.nodes.iter().map(|node| node.ask_ops("/readyz").unwrap().text());
        all.collect()
    }

    /// Waits until both nodes hear each other and read from the standby.
    pub(crate) fn wait_together(&self) {
        self.wait_metric("shunt_bus_up", "", |up| up == 2.0);
        self.wait_metric("shunt_store_copy_up", "", |up| up == 4.0);
    }
}
