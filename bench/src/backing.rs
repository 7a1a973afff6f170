//! The servers beside shunt, from the test kit: a database behind PgBouncer, a Redis Cluster, and
//! pgbench, which puts the same load on the database without shunt.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use shunt_cluster::postgres::Config;
use shunt_cluster::server::Server as _;
use shunt_cluster::{Citus, PgBouncer, Postgres, RedisCluster, citus};

use crate::machine;
use crate::process::cpu_of;

/// The database of the links.
const DATABASE: &str = "shunt";

/// How long one command of psql or one run of pgbench may take beyond what it was asked for.
const PATIENCE: Duration = Duration::from_secs(600);

/// What keeps the servers of a database alive.
#[derive(Debug)]
enum Servers {
    Postgres(Box<Postgres>),
    Citus(Box<Citus>),
}

/// A durable database with shunt's schema to be, behind a PgBouncer as it ships.
#[derive(Debug)]
pub struct Database {
    servers: Servers,
    pooler: PgBouncer,
    pooler_pid: u32,
}

impl Database {
    /// Plain PostgreSQL, on a core or on any. Started by the thread that keeps it.
    ///
    /// # Errors
    /// PostgreSQL or PgBouncer is not installed or does not start.
    pub fn postgres(core: Option<usize>) -> anyhow::Result<Self> {
        machine::on_core(core, || {
            let postgres = Postgres::start()?;
            postgres.create_database(DATABASE)?;
            Self::pooled(Servers::Postgres(Box::new(postgres)))
        })
    }

    /// A coordinator and two workers.
    ///
    /// # Errors
    /// The same, or Citus is not installed.
    pub fn citus(core: Option<usize>) -> anyhow::Result<Self> {
        machine::on_core(core, || {
            let cluster = Citus::setup().start()?;
            cluster.create_database(DATABASE)?;
            Self::pooled(Servers::Citus(Box::new(cluster)))
        })
    }

    /// Whether there can be one.
    ///
    /// # Errors
    /// There is no PostgreSQL.
    pub fn citus_is_installed() -> anyhow::Result<bool> {
        citus::installed()
    }

    fn pooled(servers: Servers) -> anyhow::Result<Self> {
        let config = match &servers {
            Servers::Postgres(postgres) => postgres.config(),
            Servers::Citus(cluster) => cluster.coordinator.config(),
        };
        let mut pooler = PgBouncer::setup().database(DATABASE, config).start()?;
        let pooler_pid = pooler.pid().context("PgBouncer does not run")?;
        Ok(Self { servers, pooler, pooler_pid })
    }

    fn direct(&self) -> &Config {
        match &self.servers {
            Servers::Postgres(postgres) => postgres.config(),
            Servers::Citus(cluster) => cluster.coordinator.config(),
        }
    }

    /// What shunt is told to use it: through PgBouncer, and past it for migrations.
    pub fn settings(&self) -> Vec<String> {
        vec![
            format!("store.url={}", self.pooler.url(DATABASE)),
            format!("store.migrate={}", self.direct().url(DATABASE)),
        ]
    }

    /// Runs SQL past PgBouncer and answers its rows.
    ///
    /// # Errors
    /// The server refuses.
    pub fn sql(&self, sql: &str) -> anyhow::Result<String> {
        self.direct().psql_within(PATIENCE, DATABASE, sql)
    }

    /// The same through PgBouncer, by a psql on this core.
    ///
    /// # Errors
    /// The server refuses.
    pub fn sql_pooled(&self, core: usize, sql: &str) -> anyhow::Result<String> {
        machine::on_core(Some(core), || self.pooler.config().psql_within(PATIENCE, DATABASE, sql))
    }

    /// What a database does sooner or later is done now: indexes are caught up with, statistics
    /// gathered, pages written.
    ///
    /// # Errors
    /// The server refuses.
    pub fn settle(&self) -> anyhow::Result<()> {
        self.sql("VACUUM ANALYZE links")?;
        self.sql("CHECKPOINT").map(|_| ())
    }

    /// CPU time that all database servers have used so far, and that PgBouncer has.
    ///
    /// # Errors
    /// One of them is gone.
    pub fn cpu(&self) -> anyhow::Result<(Duration, Duration)> {
        let servers: Vec<&Postgres> = match &self.servers {
            Servers::Postgres(postgres) => vec![postgres.as_ref()],
            Servers::Citus(cluster) => {
                std::iter::once(&cluster.coordinator).chain(&cluster.workers).collect()
            }
        };
        let mut sum = Duration::ZERO;
        for server in servers {
            sum += cpu_of(*server.pids().first().context("a database server is down")?)?;
        }
        Ok((sum, cpu_of(self.pooler_pid)?))
    }

    /// Runs pgbench through PgBouncer for so long, on a core of its own, with the simple protocol
    /// and no pause; transactions a second.
    ///
    /// # Errors
    /// pgbench is not installed, or a statement failed.
    pub fn pgbench(&self, run: &Pgbench<'_>) -> anyhow::Result<f64> {
        let file = run.scratch.join("pgbench.sql");
        std::fs::write(&file, run.script).with_context(|| format!("write {}", file.display()))?;
        let seconds = run.time.as_secs().max(1).to_string();
        let spec = self
            .pooler
            .config()
            .client("pgbench")?
            .args(["-n", "-M", "simple", "-j", "1", "-c", &run.clients.to_string()])
            .args(["-T", &seconds, "-f"])
            .arg(&file)
            .arg(DATABASE);
        let finished =
            machine::on_core(Some(run.core), || spec.run(run.scratch, run.time + PATIENCE))?;
        let text = finished.ok().context("run pgbench")?;
        rate_of(&text).with_context(|| format!("pgbench did not say how fast it was: {text}"))
    }
}

/// One run of pgbench.
#[derive(Debug)]
pub struct Pgbench<'a> {
    /// What each transaction does.
    pub script: &'a str,
    /// Connections.
    pub clients: usize,
    /// How long, in whole seconds.
    pub time: Duration,
    /// Where pgbench itself runs.
    pub core: usize,
    /// For its script and its logs.
    pub scratch: &'a Path,
}

/// What pgbench says at its end; nothing when a transaction failed.
fn rate_of(text: &str) -> Option<f64> {
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim_start_matches([' ', ':', '=']).split(' ').next()?.parse::<f64>().ok()
    };
    let all_went_well = value("number of failed transactions")? == 0.0;
    value("tps").filter(|_| all_went_well)
}

/// A Redis Cluster of six as it ships.
#[derive(Debug)]
pub struct Redis {
    cluster: RedisCluster,
    pids: Vec<u32>,
}

impl Redis {
    /// Starts it, on any core.
    ///
    /// # Errors
    /// Redis is not installed or does not start.
    pub fn start() -> anyhow::Result<Self> {
        let mut cluster = RedisCluster::start()?;
        let nodes = cluster.nodes().len();
        let pids: Vec<u32> = (0..nodes).filter_map(|node| cluster.node(node).ok()?.pid()).collect();
        ensure!(pids.len() == nodes, "a node of the Redis Cluster is down");
        Ok(Self { cluster, pids })
    }

    /// What shunt is told to use it.
    pub fn setting(&self) -> String {
        format!("cache.url={}", self.cluster.url())
    }

    /// CPU time that all nodes have used so far.
    ///
    /// # Errors
    /// One of them is gone.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        self.pids.iter().map(|pid| cpu_of(*pid)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pgbench_is_believed_when_nothing_failed() {
        let text = |failed| {
            format!(
                "transaction type: x.sql\nnumber of failed transactions: {failed} (0.000%)\n\
                 latency average = 1.5 ms\ntps = 12345.678901 (without initial connection time)\n"
            )
        };
        assert_eq!(rate_of(&text(0)), Some(12_345.678_901));
        assert_eq!(rate_of(&text(1)), None);
        assert_eq!(rate_of("tps = 5"), None);
    }
}
