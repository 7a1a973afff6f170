//! How each server is, by its own word.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Map, Value, json};

use super::{DATABASE, Local, Slot};
use crate::http::{Address, Connection, Request, Response};
use crate::postgres::Postgres;
use crate::redis::Redis;

/// How long one server may take to answer a question.
const BOUND: Duration = Duration::from_secs(4);

/// The role (of a shard too), then what a primary or a standby knows of the other side.
const POSTGRES: &str = "SELECT CASE WHEN pg_is_in_recovery() THEN 'standby' ELSE 'primary' END, \
     (SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'), \
     coalesce((SELECT status FROM pg_stat_wal_receiver), 'none'), \
     (SELECT sender_port FROM pg_stat_wal_receiver), \
     greatest(0, pg_wal_lsn_diff((SELECT latest_end_lsn FROM pg_stat_wal_receiver), \
     CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() END))";

/// How a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It runs and does what it is there for.
    Up,
    /// It runs, and something is wrong with it.
    Degraded,
    /// It is stopped in its tracks.
    Frozen,
    /// It does not run.
    Down,
}

impl State {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Degraded => "degraded",
            Self::Frozen => "frozen",
            Self::Down => "down",
        }
    }
}

/// One server's line.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// Its name, as `kill` and `heal` take it.
    pub name: String,
    /// What it is at the moment: `primary`, `standby`, `master`, `replica`, …; empty when it does
    /// not say.
    pub role: &'static str,
    /// How it is.
    pub state: State,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its process, if it runs.
    pub pid: Option<u32>,
    /// What it says of itself, by name.
    pub facts: Map<String, Value>,
}

impl Status {
    /// As JSON.
    pub fn json(&self) -> Value {
        json!({
            "name": self.name, "role": self.role, "state": self.state.name(),
            "address": self.address.to_string(), "pid": self.pid, "facts": self.facts,
        })
    }
}

/// What a server has answered.
struct Answer {
    role: &'static str,
    fine: bool,
    facts: Vec<(&'static str, Value)>,
}

impl Local {
    /// Asks every server, all at the same time.
    ///
    /// # Errors
    /// When there is a bug: a server that does not answer is [`State::Degraded`].
    pub fn status(&mut self) -> Result<Vec<Status>> {
        let mut slots = Vec::new();
        for slot in self.slots() {
            slots.push((slot, self.process(slot)?));
        }
        let local = &*self;
        thread::scope(|scope| {
            let asked: Vec<_> = slots
                .into_iter()
                .map(|(slot, process)| scope.spawn(move || local.look(slot, process)))
                .collect();
            let answers = asked.into_iter().map(|thread| thread.join());
            answers.map(|answer| answer.map_err(|_| anyhow!("a thread panicked"))?).collect()
        })
    }

    fn look(&self, slot: Slot, process: Option<(u32, bool)>) -> Result<Status> {
        let answer = match process {
            None => Err((State::Down, None)),
            Some((_, true)) => Err((State::Frozen, None)),
            Some(_) => self.ask(slot).map_err(|error| (State::Degraded, Some(error))),
        };
        let (role, state, facts) = match answer {
            Ok(answer) => {
                let state = if answer.fine { State::Up } else { State::Degraded };
                (answer.role, state, answer.facts)
            }
            Err((state, error)) => {
                let error = error.map(|error| {
                    let text = format!("{error:#}");
                    json!(text.split_whitespace().collect::<Vec<_>>().join(" "))
                });
                ("", state, Vec::from_iter(error.map(|error| ("error", error))))
            }
        };
        let facts = facts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let (name, address) = (self.name(slot), self.socket(slot)?);
        Ok(Status { name, role, state, address, pid: process.map(|(pid, _)| pid), facts })
    }

    fn socket(&self, slot: Slot) -> Result<SocketAddr> {
        let socket = match slot {
            Slot::Postgres(number) => self.postgres.get(number).map(Postgres::socket),
            Slot::Shard(number) => self.shards.get(number).map(Postgres::socket),
            Slot::PgBouncer => self.pgbouncer.as_ref().map(crate::PgBouncer::socket),
            Slot::Redis(number) => self.redis_node(number).map(Redis::socket),
            Slot::Kafka => self.kafka.as_ref().map(crate::Tansu::socket),
            Slot::Shunt(number) => self.nodes.get(number).map(crate::Shunt::socket),
            Slot::Haproxy => self.haproxy.as_ref().map(crate::Haproxy::socket),
        };
        socket.with_context(|| format!("there is no {slot:?}"))
    }

    fn redis_node(&self, number: usize) -> Option<&Redis> {
        self.redis.as_ref()?.nodes().get(number)
    }

    fn ask(&self, slot: Slot) -> Result<Answer> {
        match slot {
            Slot::Postgres(number) => {
                self.ask_postgres(self.postgres.get(number).context("no such server")?)
            }
            Slot::Shard(number) => {
                self.ask_shard(number, self.shards.get(number).context("no such shard")?)
            }
            Slot::PgBouncer => self.ask_pgbouncer(),
            Slot::Redis(number) => self.ask_redis(number),
            Slot::Kafka => {
                let requests = self.kafka.as_ref().context("no broker")?.ask()?;
                Ok(Answer {
                    role: "broker",
                    fine: true,
                    facts: vec![("requests", json!(requests))],
                })
            }
            Slot::Shunt(number) => self.ask_node(number),
            Slot::Haproxy => self.ask_haproxy(),
        }
    }

    fn ask_postgres(&self, server: &Postgres) -> Result<Answer> {
        let row = server.config().psql_within(BOUND, "postgres", POSTGRES)?;
        let fields: Vec<&str> = row.split('|').collect();
        let [role, standbys, receiver, source, lag] = fields.as_slice() else {
            bail!("an answer of another form: {row:?}");
        };
        let timeline = json!(server.history().timeline);
        if *role == "primary" {
            let standbys = standbys.parse::<u64>()?;
            let facts = vec![("standbys", json!(standbys)), ("timeline", timeline)];
            return Ok(Answer { role: "primary", fine: true, facts });
        }
        let of = self.postgres.iter().position(|other| other.config().port.to_string() == *source);
        let facts = vec![
            ("primary", json!(of.map(|number| self.name(Slot::Postgres(number))))),
            ("receiver", json!(receiver)),
            ("lag_bytes", json!(lag.parse::<u64>().ok())),
            ("timeline", timeline),
        ];
        Ok(Answer { role: "standby", fine: *receiver == "streaming", facts })
    }

    fn ask_shard(&self, number: usize, server: &Postgres) -> Result<Answer> {
        let ask = |sql: &str| server.config().psql_within(BOUND, DATABASE, sql);
        if !self.citus {
            let links = ask("SELECT to_regclass('links')")?;
            let facts = vec![("links", json!(if links.is_empty() { "none" } else { "table" }))];
            return Ok(Answer { role: "shard", fine: true, facts });
        }
        let version = ask("SELECT extversion FROM pg_extension WHERE extname = 'citus'")?;
        if number > 0 {
            let facts = vec![("citus", json!(version))];
            return Ok(Answer { role: "worker", fine: !version.is_empty(), facts });
        }
        let sql = "SELECT count(*) FROM pg_dist_node WHERE isactive AND groupid > 0";
        let workers: usize = ask(sql)?.parse()?;
        let fine = workers + 1 == self.shards.len();
        let facts = vec![("citus", json!(version)), ("workers", json!(workers))];
        Ok(Answer { role: "coordinator", fine, facts })
    }

    fn ask_pgbouncer(&self) -> Result<Answer> {
        let pgbouncer = self.pgbouncer.as_ref().context("no PgBouncer")?;
        let lists = pgbouncer.config().psql_within(BOUND, "pgbouncer", "SHOW LISTS")?;
        let number = |name: &str| {
            let line = lists.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('|'));
            json!(line.and_then(|value| value.parse::<u64>().ok()))
        };
        let target = pgbouncer.target(DATABASE);
        let target = self.postgres.iter().position(|server| Some(server.config()) == target);
        let through = pgbouncer.config().psql_within(BOUND, DATABASE, "SELECT pg_is_in_recovery()");
        let behind = match through.as_deref() {
            Ok("f") => "primary",
            Ok(_) => "standby",
            Err(_) => "no answer",
        };
        let facts = vec![
            ("target", json!(target.map(|number| self.name(Slot::Postgres(number))))),
            ("behind", json!(behind)),
            ("clients", number("used_clients")),
            ("servers", number("used_servers")),
        ];
        Ok(Answer { role: "pooler", fine: behind == "primary", facts })
    }

    fn ask_redis(&self, number: usize) -> Result<Answer> {
        let cluster = self.redis.as_ref().context("no Redis Cluster")?;
        let node = self.redis_node(number).context("no such node")?;
        let state = node.cluster_info("cluster_state")?;
        let view = cluster.view(number)?;
        let me = view.get(number).context("a node that does not know itself")?;
        let mut facts = vec![("cluster_state", json!(state))];
        let Some(master) = me.master else {
            let slots: Vec<String> =
                me.slots.iter().map(|range| format!("{}-{}", range.start(), range.end())).collect();
            let fine = state == "ok" && !slots.is_empty();
            facts.push(("slots", json!(slots.join(","))));
            return Ok(Answer { role: "master", fine, facts });
        };
        let link = node.info("master_link_status")?;
        let fine = state == "ok" && link == "up";
        facts.push(("master", json!(self.name(Slot::Redis(master)))));
        facts.push(("link", json!(link)));
        Ok(Answer { role: "replica", fine, facts })
    }

    fn ask_node(&self, number: usize) -> Result<Answer> {
        let node = self.nodes.get(number).context("no such node")?;
        let health = get(&node.address(), "/health")?;
        let ready = get(&node.ops_address(), "/readyz")?;
        let body = ready.json()?;
        let status = body.get("status").cloned().unwrap_or_default();
        let fine = health.status == 200 && ready.status == 200;
        let mut facts = vec![("health", json!(health.status)), ("ready", status)];
        let degraded = body.get("degraded").and_then(Value::as_array);
        if let Some(degraded) = degraded.filter(|parts| !parts.is_empty()) {
            facts.push(("degraded", json!(degraded)));
        }
        Ok(Answer { role: "node", fine, facts })
    }

    fn ask_haproxy(&self) -> Result<Answer> {
        let haproxy = self.haproxy.as_ref().context("no HAProxy")?;
        let mut serving = Vec::new();
        for number in 0..self.nodes.len() {
            if haproxy.is_up(number)? {
                serving.push(self.name(Slot::Shunt(number)));
            }
        }
        let fine = !serving.is_empty();
        Ok(Answer { role: "entry", fine, facts: vec![("serving", json!(serving))] })
    }
}

fn get(address: &Address, path: &str) -> Result<Response> {
    let mut connection = Connection::open(address)?;
    connection.read_timeout(BOUND)?;
    connection.ask(&Request::get(path))
}
