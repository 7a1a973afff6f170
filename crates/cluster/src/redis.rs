//! Redis, alone or as a node of a [`RedisCluster`], from the configuration that `deploy/` ships.

mod cluster;
mod resp;

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

pub use cluster::{Member, RedisCluster};
pub use resp::{Connection, Reply};

use crate::deploy;
use crate::identity::password;
use crate::place::Place;
use crate::ports::Port;
use crate::process::{Process, Spec};
use crate::wait;

/// Removes every key of a server, one by one (a cluster's node takes no command on keys of several
/// slots), and answers how many there were. FLUSHALL is renamed away.
const EMPTY: &str = "local cursor, count = '0', 0 \
    repeat \
      local found = redis.call('SCAN', cursor, 'COUNT', 1000) \
      cursor = found[1] \
      for _, key in ipairs(found[2]) do count = count + redis.call('UNLINK', key) end \
    until cursor == '0' \
    return count";

/// A Redis or a Redis Cluster to be.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    at: Option<PathBuf>,
    settings: Vec<(String, String)>,
}

impl Setup {
    /// Uses this directory, which is kept, and the data in it from an earlier process. A cluster's
    /// nodes have directories `nodes/1` to `nodes/6` in it.
    #[must_use]
    pub fn at(mut self, directory: impl Into<PathBuf>) -> Self {
        self.at = Some(directory.into());
        self
    }

    /// Overrides a setting of the file that ships (`cluster-node-timeout`, `maxmemory`, …), on
    /// every node.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts a single Redis.
    ///
    /// # Errors
    /// When Redis is not installed or does not start; with what it said.
    pub fn start(&self) -> Result<Redis> {
        Redis::launched(self, Place::of(self.at.as_deref(), "redis")?, false)
    }

    /// Starts six nodes and joins them, unless they were before, into a cluster of three masters
    /// with a replica each; answered when all slots are served and every replica is linked to its master.
    ///
    /// # Errors
    /// As [`Self::start`], or when the nodes don't join.
    pub fn start_cluster(&self) -> Result<RedisCluster> {
        RedisCluster::joined(self)
    }
}

/// A running (or stopped, or killed) Redis with its data.
#[derive(Debug)]
pub struct Redis {
    port: Port,
    /// For the nodes of a cluster to talk to each other.
    _bus: Option<Port>,
    password: &'static str,
    process: Option<Process>,
    frozen: bool,
    place: Place,
}

impl Redis {
    /// A single Redis as it ships.
    ///
    /// # Errors
    /// As [`Setup::start`].
    pub fn start() -> Result<Self> {
        Self::setup().start()
    }

    /// A Redis to be.
    pub fn setup() -> Setup {
        Setup::default()
    }

    fn launched(setup: &Setup, place: Place, in_cluster: bool) -> Result<Self> {
        let port = place.port("redis")?;
        let bus = if in_cluster { Some(place.port("bus")?) } else { None };
        let password = password()?;
        let number = port.number();
        let cluster = bus.as_ref().map_or_else(String::new, |bus| {
            let bus = bus.number();
            format!(
                "cluster-enabled yes\ncluster-config-file nodes.conf\ncluster-port {bus}\n\
                 cluster-announce-ip 127.0.0.1\ncluster-announce-port {number}\n\
                 cluster-announce-bus-port {bus}\n"
            )
        });
        let dir = place.path().display();
        let blocks = [
            ("places", format!("bind 127.0.0.1\nport {number}\ndir {dir}\n")),
            ("secrets", format!("requirepass {password}\nmasterauth {password}\n")),
            ("cluster", cluster),
        ];
        let mut file = deploy::fill(deploy::REDIS, &blocks)?;
        // The last value counts.
        for (name, value) in &setup.settings {
            file += &format!("{name} {value}\n");
        }
        fs::write(place.path().join("redis.conf"), file)?;
        let mut redis = Self { port, _bus: bus, password, process: None, frozen: false, place };
        redis.launch()?;
        Ok(redis)
    }

    fn launch(&mut self) -> Result<()> {
        let mut process = Spec::new("redis", "redis-server")
            .arg(self.place.path().join("redis.conf"))
            .spawn(self.place.path())?;
        // Until its data are loaded it answers with an error.
        let ready = process.wait_ready(wait::PATIENCE, |_| self.ask(&["PING"]).ok());
        let log = process.stdout();
        self.process = Some(process);
        self.frozen = false;
        // It logs on standard output, which a failed start of the program leaves empty.
        ready
            .map(|_| ())
            .with_context(|| format!("start Redis (Debian package redis-server): {log}"))
    }

    /// The socket's address.
    pub fn socket(&self) -> SocketAddr {
        self.port.address()
    }

    /// What clients log in with, as the user `default`.
    pub const fn password(&self) -> &str {
        self.password
    }

    /// `redis://:PASSWORD@HOST:PORT`.
    pub fn url(&self) -> String {
        format!("redis://:{}@{}", self.password, self.port.address())
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// As [`Connection::open`].
    pub fn connect(&self) -> Result<Connection> {
        Connection::open(self.port.address(), self.password)
    }

    /// Runs one command on a connection of its own.
    ///
    /// # Errors
    /// As [`Connection::ask`].
    pub fn ask(&self, words: &[&str]) -> Result<Reply> {
        self.connect()?.ask(words)
    }

    /// One value of `INFO`, `master_link_status` for one.
    ///
    /// # Errors
    /// When the server does not answer or has no such value.
    pub fn info(&self, name: &str) -> Result<String> {
        let reply = self.ask(&["INFO", "everything"])?;
        value_of(reply.text().unwrap_or_default(), name).with_context(|| format!("no {name}"))
    }

    /// One value of `CLUSTER INFO`, `cluster_state` for one.
    ///
    /// # Errors
    /// When the server does not answer or has no such value.
    pub fn cluster_info(&self, name: &str) -> Result<String> {
        let reply = self.ask(&["CLUSTER", "INFO"])?;
        value_of(reply.text().unwrap_or_default(), name).with_context(|| format!("no {name}"))
    }

    /// Removes all keys and answers how many there were: what FLUSHALL would do, which the file
    /// that ships renames away. On a master; its replica follows.
    ///
    /// # Errors
    /// When the server does not answer or is a replica.
    pub fn empty(&self) -> Result<i64> {
        let reply = self.ask(&["EVAL", EMPTY, "0"])?;
        reply.number().with_context(|| format!("emptying answered {reply:?}"))
    }

    /// Whether it runs, frozen or not.
    pub fn running(&mut self) -> bool {
        self.process.as_mut().is_some_and(Process::running)
    }

    /// Whether it can answer: it runs and is not frozen.
    fn awake(&mut self) -> bool {
        !self.frozen && self.running()
    }

    /// The process.
    ///
    /// # Errors
    /// When it was not started.
    pub fn process(&mut self) -> Result<&mut Process> {
        self.process.as_mut().context("Redis was not started")
    }

    /// What it has said since its last start.
    pub fn log(&self) -> String {
        self.process.as_ref().map_or_else(String::new, Process::stdout)
    }

    /// Kills it at once. What it had written to its append-only file is the kernel's and survives.
    pub fn kill(&mut self) {
        if let Some(process) = &mut self.process {
            process.kill();
        }
    }

    /// Ends it in order. A frozen one is thawed.
    ///
    /// # Errors
    /// When it does not run or does not end in time.
    pub fn stop(&mut self) -> Result<()> {
        self.thaw()?;
        self.process()?.terminate(wait::PATIENCE).map(|_| ())
    }

    /// Stops it if it runs, and starts it on the same port and data.
    ///
    /// # Errors
    /// When it does not end or not start.
    pub fn restart(&mut self) -> Result<()> {
        if self.running() {
            self.stop()?;
        }
        self.launch()
    }

    /// Throws its data away. It must not run.
    ///
    /// # Errors
    /// When it runs or they can't be removed.
    pub fn forget(&mut self) -> Result<()> {
        if self.running() {
            bail!("a running Redis keeps its data");
        }
        match fs::remove_dir_all(self.place.path().join("appendonlydir")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Stops it in its tracks: connections stay open and nobody answers.
    ///
    /// # Errors
    /// When it does not run.
    pub fn freeze(&mut self) -> Result<()> {
        self.process()?.freeze()?;
        self.frozen = true;
        Ok(())
    }

    /// Lets a frozen one go on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn thaw(&mut self) -> Result<()> {
        self.process()?.heal()?;
        self.frozen = false;
        Ok(())
    }
}

/// A value of the lines `NAME:VALUE` that `INFO` and `CLUSTER INFO` answer.
fn value_of(text: &str, name: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.map(|value| value.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    #[test]
    fn values_are_found_by_their_whole_name() {
        let text = "# Replication\r\nrole:master\r\nrole_x:1\r\n";
        assert_eq!(super::value_of(text, "role").as_deref(), Some("master"));
        assert_eq!(super::value_of(text, "rol"), None);
    }
}
