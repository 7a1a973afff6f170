//! A Citus cluster: a coordinator and workers, each a PostgreSQL server of its own.
//!
//! Citus is no package of Debian's, so [`installed`] is asked first. Every node asks for the
//! password, the other nodes too: they know it from Citus' own table of logins.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::postgres::{self, Config, Postgres};

/// Whether Citus is installed beside the PostgreSQL that the kit starts.
///
/// # Errors
/// When there is no PostgreSQL.
pub fn installed() -> Result<bool> {
    let version = postgres::version()?;
    let control = format!("/usr/share/postgresql/{version}/extension/citus.control");
    let library = format!("/usr/lib/postgresql/{version}/lib/citus.so");
    Ok(Path::new(&control).is_file() && Path::new(&library).is_file())
}

/// A server that is to be a node of a cluster.
pub fn node() -> postgres::Setup {
    Postgres::setup()
        .setting("shared_preload_libraries", "citus")
        // Transactions of several nodes are prepared on each first.
        .setting("max_prepared_transactions", "200")
        // Its own processes, those that move shards, and background jobs.
        .setting("max_worker_processes", "24")
        // It calls nobody.
        .setting("citus.enable_statistics_collection", "off")
        // On loopback, without TLS, and without a look for certificates at home.
        .setting("citus.node_conninfo", "sslmode=disable")
        .setting("citus.local_hostname", "127.0.0.1")
}

/// Makes running servers with a database of this name on each one cluster. Those that are joined
/// already stay so.
///
/// # Errors
/// When a server refuses.
pub fn join(coordinator: &Postgres, workers: &[Postgres], database: &str) -> Result<()> {
    for server in std::iter::once(coordinator).chain(workers) {
        let Config { user, password, .. } = server.config();
        // What its sessions log in with at the other nodes.
        let sql = format!(
            "CREATE EXTENSION IF NOT EXISTS citus; \
             INSERT INTO pg_dist_authinfo (nodeid, rolename, authinfo) \
             SELECT 0, '{user}', 'password={password}' \
             WHERE NOT EXISTS (SELECT FROM pg_dist_authinfo)"
        );
        server.config().psql(database, &sql).context("make the extension Citus")?;
    }
    let ask = |sql: &str| coordinator.config().psql(database, sql);
    let known = ask("SELECT nodeport FROM pg_dist_node")?;
    let is_known = |server: &Postgres| {
        let port = server.config().port.to_string();
        known.lines().any(|line| line == port)
    };
    let place = |server: &Postgres| {
        let Config { host, port, .. } = server.config();
        format!("'{host}', {port}")
    };
    if !is_known(coordinator) {
        ask(&format!("SELECT citus_set_coordinator_host({})", place(coordinator)))?;
    }
    for worker in workers.iter().filter(|worker| !is_known(worker)) {
        ask(&format!("SELECT citus_add_node({})", place(worker))).context("add a Citus worker")?;
    }
    Ok(())
}

/// A cluster to be.
#[derive(Clone, Debug)]
pub struct Setup {
    node: postgres::Setup,
    workers: usize,
}

impl Setup {
    /// As [`postgres::Setup::fast`].
    #[must_use]
    pub fn fast(mut self) -> Self {
        self.node = self.node.fast();
        self
    }

    /// Starts the nodes. They are a cluster for each database that [`Citus::create_database`]
    /// makes.
    ///
    /// # Errors
    /// When Citus or PostgreSQL is not installed, or a node does not start; with what it said.
    pub fn start(self) -> Result<Citus> {
        if !installed()? {
            bail!("Citus is not installed: PostgreSQL has no extension of that name");
        }
        let coordinator = self.node.clone().start().context("start the coordinator")?;
        let start = |_| self.node.clone().start().context("start a worker");
        let workers = (0..self.workers).map(start).collect::<Result<_>>()?;
        Ok(Citus { node: self.node, coordinator, workers })
    }
}

/// A running cluster.
#[derive(Debug)]
pub struct Citus {
    node: postgres::Setup,
    /// The node that clients talk to.
    pub coordinator: Postgres,
    /// The nodes that have the shards.
    pub workers: Vec<Postgres>,
}

impl Citus {
    /// A durable cluster of a coordinator and two workers.
    pub fn setup() -> Setup {
        let node = node()
            // How often it looks for shards to be moved, in milliseconds.
            .setting("citus.background_task_queue_interval", "200")
            // A table has 32 unless said otherwise; each costs a test its time.
            .setting("citus.shard_count", "8");
        Setup { node, workers: 2 }
    }

    /// Makes a database on every node, and these one cluster.
    ///
    /// # Errors
    /// When there is one of that name, or a node refuses.
    pub fn create_database(&self, name: &str) -> Result<()> {
        self.coordinator.create_database(name)?;
        self.make_cluster(name)
    }

    /// Makes a database that the coordinator has the cluster's.
    ///
    /// # Errors
    /// When a worker has one of that name, or a node refuses.
    pub fn make_cluster(&self, name: &str) -> Result<()> {
        self.workers.iter().try_for_each(|worker| worker.create_database(name))?;
        join(&self.coordinator, &self.workers, name)
    }

    /// Starts one more worker and makes it part of the cluster of a database. Shards go there when
    /// it is rebalanced.
    ///
    /// # Errors
    /// When it does not start, or a node refuses.
    pub fn add_worker(&mut self, database: &str) -> Result<()> {
        let worker = self.node.clone().start().context("start a worker")?;
        worker.create_database(database)?;
        self.workers.push(worker);
        join(&self.coordinator, &self.workers, database)
    }
}
