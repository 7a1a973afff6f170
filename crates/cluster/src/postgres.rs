//! PostgreSQL clusters of their own, and streaming standbys of them.
//!
//! Invariants: every connection needs the password (SCRAM), the superuser's local ones too; what
//! depends on the place (port, directories, name) is on the command line and nowhere in the
//! cluster's files, so that a copy of them is a standby's; nothing is left in shared memory when a
//! value is dropped.

mod client;

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};

pub use client::{Config, programs, version};

use crate::identity::{Owner, password};
use crate::place::{Place, remove};
use crate::ports::Port;
use crate::process::{Process, Signal, Spec};
use crate::tree::{self, Frozen};
use crate::wait;

/// How long one statement of [`Config::psql`], a base backup or a promotion may take.
const STATEMENT: Duration = Duration::from_secs(120);

/// Connections that a server takes: PgBouncer's pools of 20 for several databases, and tests that
/// come without it.
const MAX_CONNECTIONS: u32 = 300;

/// How a cluster is to be made.
#[derive(Clone, Debug)]
pub struct Setup {
    name: String,
    at: Option<PathBuf>,
    durable: bool,
    settings: Vec<(String, String)>,
    rules: Vec<String>,
    files: Vec<(String, Vec<u8>)>,
}

impl Setup {
    /// Calls it something else than `primary`; see [`Postgres::name`].
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// Uses this directory, which is kept, and what is in it from an earlier process.
    #[must_use]
    pub fn at(mut self, directory: impl Into<PathBuf>) -> Self {
        self.at = Some(directory.into());
        self
    }

    /// Without fsync: faster, and still safe when the server is killed, for what it has written is
    /// the kernel's. Not for measurements and not for tests that count fsyncs.
    #[must_use]
    pub fn fast(mut self) -> Self {
        self.durable = false;
        self
    }

    /// Sets a parameter in `postgresql.conf`.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds a rule to `pg_hba.conf`, before those that ask everybody for a SCRAM password.
    #[must_use]
    pub fn rule(mut self, line: &str) -> Self {
        self.rules.push(line.to_owned());
        self
    }

    /// Adds a file to the data directory that the server alone can read, a TLS key for one.
    #[must_use]
    pub fn file(mut self, name: &str, contents: impl Into<Vec<u8>>) -> Self {
        self.files.push((name.to_owned(), contents.into()));
        self
    }

    /// Makes the cluster, unless it is there, and starts it.
    ///
    /// # Errors
    /// When PostgreSQL is not installed, or does not start; with what it said.
    pub fn start(self) -> Result<Postgres> {
        let mut server = self.reserve()?;
        server.make()?;
        server.launch()?;
        Ok(server)
    }

    /// A server with a place and a port, that was not started and has no data unless it was given
    /// a directory that holds some: to be made and restarted, or to follow another one.
    ///
    /// # Errors
    /// When there is no port or no place.
    pub fn reserve(self) -> Result<Postgres> {
        let place = Place::of(self.at.as_deref(), "postgres")?;
        let owner = Owner::of_servers()?;
        owner.give(place.path())?;
        let port = place.port("postgres")?;
        let config = Config::new(port.address(), "postgres", password()?);
        let name = self.name.clone();
        Ok(Postgres { owner, config, name, setup: self, port, process: None, frozen: None, place })
    }

    fn parameters(&self) -> String {
        let mut lines = vec![
            "wal_level = logical".to_owned(),
            format!("max_connections = {MAX_CONNECTIONS}"),
            // Enough for tests, and several servers fit on a small machine.
            "shared_buffers = 64MB".to_owned(),
            // In the data directory, so that a killed server leaves nothing in /dev/shm.
            "dynamic_shared_memory_type = mmap".to_owned(),
            "log_line_prefix = '%m [%p] %q%u@%d '".to_owned(),
        ];
        if !self.durable {
            lines.extend(["fsync = off", "full_page_writes = off"].map(ToOwned::to_owned));
        }
        for (name, value) in &self.settings {
            lines.push(format!("{name} = {}", literal(value)));
        }
        lines.join("\n") + "\n"
    }
}

/// What a server's data say of its past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct History {
    /// Whether there are data.
    pub born: bool,
    /// How often somebody was promoted before or now, from 1: of two primaries that have the same
    /// origin the higher one is the true one.
    pub timeline: u32,
    /// Whether it is a standby, and the port of the server that it streams from, if it says so.
    pub follows: Option<Option<u16>>,
}

/// A running (or stopped, or killed) server with its data.
///
/// Its superuser is `postgres`, its databases are UTF-8 and sort by code point.
#[derive(Debug)]
pub struct Postgres {
    owner: Owner,
    config: Config,
    name: String,
    setup: Setup,
    port: Port,
    process: Option<Process>,
    frozen: Option<Frozen>,
    place: Place,
}

impl Postgres {
    /// A durable server with nothing else asked for.
    ///
    /// # Errors
    /// As [`Setup::start`].
    pub fn start() -> Result<Self> {
        Self::setup().start()
    }

    /// A server to be, durable unless said otherwise.
    pub fn setup() -> Setup {
        Setup {
            name: "primary".to_owned(),
            at: None,
            durable: true,
            settings: Vec::new(),
            rules: Vec::new(),
            files: Vec::new(),
        }
    }

    /// Makes its data, unless they are there: a primary's.
    ///
    /// # Errors
    /// When PostgreSQL is not installed or they can't be made.
    pub fn make(&self) -> Result<()> {
        self.place.make_once("data", || self.initdb())
    }

    fn initdb(&self) -> Result<()> {
        let (data, setup) = (self.data(), &self.setup);
        let secret = self.place.path().join("password");
        self.write(&secret, self.config.password.as_bytes())?;
        let spec = Spec::new("initdb", programs()?.join("initdb"))
            .wrap(self.owner.wrapper("KILL"))
            .arg("-D")
            .arg(&data)
            .args(["--username", &self.config.user, "--auth=scram-sha-256", "--pwfile"])
            .arg(&secret)
            .args(["--encoding=UTF8", "--locale=C.UTF-8"])
            // The machine won't lose its power between this and the first checkpoint's fsync.
            .arg("--no-sync");
        spec.run(self.place.path(), STATEMENT)?.ok().context("make a PostgreSQL cluster")?;
        fs::remove_file(&secret)?;
        let file = data.join("postgresql.conf");
        let parameters = fs::read_to_string(&file)? + "\n" + &setup.parameters();
        self.write(&file, parameters.as_bytes())?;
        let file = data.join("pg_hba.conf");
        let rules = setup.rules.join("\n") + "\n" + &fs::read_to_string(&file)?;
        self.write(&file, rules.as_bytes())?;
        for (name, contents) in &setup.files {
            self.write(&data.join(name), contents)?;
        }
        Ok(())
    }

    /// Writes a file that belongs to the server's user and is for nobody else.
    fn write(&self, path: &Path, contents: &[u8]) -> Result<()> {
        fs::write(path, contents).with_context(|| format!("write {}", path.display()))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        self.owner.give(path)
    }

    fn launch(&mut self) -> Result<()> {
        let data = self.data();
        let mut process = Spec::new("postgres", programs()?.join("postgres"))
            // An immediate shutdown, which takes the children and the shared memory along. A
            // kill would leave both to themselves.
            .wrap(self.owner.wrapper("QUIT"))
            .arg("-D")
            .arg(&data)
            .args(["-h", &self.config.host, "-p", &self.config.port.to_string(), "-k"])
            .arg(self.place.path())
            // Also the name under which a standby reports to its primary.
            .args(["-c", &format!("cluster_name={}", self.name)])
            .spawn(self.place.path())?;
        let pid = process.pid();
        let ready = process.wait_ready(STATEMENT, |_| accepts(&data, pid).then_some(()));
        self.process = Some(process);
        ready
    }

    /// What a client needs.
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// `postgres://USER:PASSWORD@HOST:PORT/DATABASE`.
    pub fn url(&self, database: &str) -> String {
        self.config.url(database)
    }

    /// `primary` unless said otherwise, or a standby's name: its slot on the primary, its
    /// `application_name` in `pg_stat_replication`, and what `synchronous_standby_names` calls it.
    /// No two standbys of one process share one unless they were given it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The data directory. It belongs to the server's user.
    pub fn data(&self) -> PathBuf {
        self.place.path().join("data")
    }

    /// The socket's address.
    pub fn socket(&self) -> SocketAddr {
        self.port.address()
    }

    /// What the server has said since its last start.
    pub fn log(&self) -> String {
        self.process.as_ref().map_or_else(String::new, Process::stderr)
    }

    /// Whether its first process runs, frozen or not.
    pub fn running(&mut self) -> bool {
        self.alive().is_some()
    }

    fn alive(&mut self) -> Option<&mut Process> {
        let process = self.process.as_mut()?;
        process.running().then_some(process)
    }

    /// The living processes of the server, the first one (postmaster) first.
    pub fn pids(&self) -> Vec<u32> {
        self.process.as_ref().map_or_else(Vec::new, |process| tree::members(process.pid()))
    }

    /// Runs SQL in the database `postgres`; see [`Config::psql`].
    ///
    /// # Errors
    /// As [`Config::psql`].
    pub fn psql(&self, sql: &str) -> Result<String> {
        self.config.psql("postgres", sql)
    }

    /// Makes a database.
    ///
    /// # Errors
    /// When there is one of that name.
    pub fn create_database(&self, name: &str) -> Result<()> {
        self.psql(&format!("CREATE DATABASE {}", identifier(name))).map(|_| ())
    }

    /// Sets a parameter of the running server (`ALTER SYSTEM`) and has it read. One that needs a
    /// restart waits for it.
    ///
    /// # Errors
    /// When the server does not know it.
    pub fn set(&self, name: &str, value: &str) -> Result<()> {
        self.psql(&format!("ALTER SYSTEM SET {} = {}", identifier(name), literal(value)))?;
        self.psql("SELECT pg_reload_conf()").map(|_| ())
    }

    /// Makes a streaming standby of this server, with a slot, and starts it: answered when it
    /// streams and can be read. Whatever [`Self::set`] has set here is copied, and in force once it
    /// is promoted.
    ///
    /// # Errors
    /// When the base backup fails or the standby does not stream.
    pub fn standby(&self) -> Result<Self> {
        let mut standby =
            Setup { at: None, ..self.setup.clone() }.name(&standby_name()).reserve()?;
        standby.follow(self)?;
        Ok(standby)
    }

    /// What its data make of it, whether it runs or not.
    pub fn history(&self) -> History {
        let data = self.data();
        let wal = fs::read_dir(data.join("pg_wal")).into_iter().flatten().flatten();
        // One file for each timeline after the first, named after it.
        let timelines = wal.filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            u32::from_str_radix(name.strip_suffix(".history")?, 16).ok()
        });
        // The last value counts.
        let settings = fs::read_to_string(data.join("postgresql.auto.conf")).unwrap_or_default();
        let source = settings.lines().rfind(|line| line.starts_with("primary_conninfo"));
        let port = source.and_then(|line| line.split_once(" port="));
        let port = port.and_then(|(_, rest)| rest.split([' ', '\'']).next()?.parse().ok());
        History {
            born: data.join("PG_VERSION").exists(),
            timeline: timelines.max().unwrap_or(1),
            follows: if data.join("standby.signal").exists() { Some(port) } else { None },
        }
    }

    /// Makes this server, whatever it was and did, a standby of `primary`: its data is thrown
    /// away. It keeps its port and its name. What a primary that was killed and replaced comes
    /// back as.
    ///
    /// # Errors
    /// As [`Self::standby`].
    pub fn follow(&mut self, primary: &Self) -> Result<()> {
        self.kill()?;
        self.free_memory();
        remove(&self.data())?;
        self.place.make_once("data", || self.copy(primary))?;
        self.launch()?;
        self.wait_streaming(wait::PATIENCE)
    }

    fn copy(&self, primary: &Self) -> Result<()> {
        // Its slot of an earlier life; the server may not have noticed yet that this has ended.
        let name = literal(&self.name);
        let left = format!("FROM pg_replication_slots WHERE slot_name = {name}");
        wait::until(wait::PATIENCE, "the old slot to be free", || {
            primary.psql(&format!("SELECT pg_drop_replication_slot(slot_name) {left}")).ok()
        })?;
        let spec = primary
            .config
            .client("pg_basebackup")?
            .wrap(self.owner.wrapper("KILL"))
            .arg("-D")
            .arg(self.data())
            .args(["-R", "-X", "stream", "-C", "-S", &self.name])
            // Not spread over minutes; and as with initdb, the machine won't lose its power.
            .args(["-c", "fast", "--no-sync"]);
        let finished = spec.run(self.place.path(), STATEMENT)?;
        finished.ok().map(|_| ()).context("copy the primary for a standby")
    }

    /// Waits until this server, a standby, streams, for at most `bound`.
    ///
    /// # Errors
    /// When it does not; with its log.
    pub fn wait_streaming(&self, bound: Duration) -> Result<()> {
        let streams = wait::until(bound, "the standby to stream", || {
            let status = self.psql("SELECT status FROM pg_stat_wal_receiver").ok()?;
            (status == "streaming").then_some(())
        });
        streams.with_context(|| self.log())
    }

    /// Waits until `standby` has replayed all that was committed here before.
    ///
    /// # Errors
    /// When it does not within [`wait::PATIENCE`], or this server is itself a standby.
    pub fn wait_for(&self, standby: &Self) -> Result<()> {
        let at = self.psql("SELECT pg_current_wal_lsn()")?;
        let sql = format!("SELECT pg_last_wal_replay_lsn() >= {}::pg_lsn", literal(&at));
        wait::until(wait::PATIENCE, "the standby to catch up", || {
            standby.psql(&sql).is_ok_and(|caught_up| caught_up == "t").then_some(())
        })
    }

    /// Makes a standby a primary; answered when it takes writes.
    ///
    /// # Errors
    /// When it is no standby.
    pub fn promote(&mut self) -> Result<()> {
        let promoted =
            self.psql(&format!("SELECT pg_promote(true, {})", STATEMENT.as_secs() / 2))?;
        if promoted != "t" {
            bail!("{} was not promoted in time: {}", self.name, self.log());
        }
        Ok(())
    }

    /// Ends it in order: transactions are rolled back, clients are cut off, and standbys get all
    /// there is first (a frozen one keeps this waiting in vain). A frozen server is thawed.
    ///
    /// # Errors
    /// When it does not end within [`wait::PATIENCE`]; it is killed then.
    pub fn stop(&mut self) -> Result<()> {
        self.thaw();
        let Some(process) = self.alive() else { return Ok(()) };
        process.signal(Signal::INT)?;
        let ended = wait::until(wait::PATIENCE, "the server to shut down", || {
            (!process.running()).then_some(())
        });
        if ended.is_err() {
            self.kill()?;
        }
        ended
    }

    /// Kills the server at once with all its processes, frozen or not.
    ///
    /// # Errors
    /// When something of it lives on.
    pub fn kill(&mut self) -> Result<()> {
        // Its guard must not mistake the end of what it guards.
        self.frozen = None;
        let Some(process) = self.alive() else { return Ok(()) };
        let killed = tree::kill(process.pid());
        process.kill();
        killed
    }

    /// Stops all its processes in their tracks: connections stay open, new ones are taken by the
    /// kernel, and nobody answers. Undone by [`Self::thaw`].
    ///
    /// # Errors
    /// When it does not run or is frozen already.
    pub fn freeze(&mut self) -> Result<()> {
        if self.frozen.is_some() {
            bail!("{} is frozen already", self.name);
        }
        let root = self.alive().map(|process| process.pid());
        let root = root.with_context(|| format!("{} does not run", self.name))?;
        self.frozen = Some(Frozen::freeze(root, std::process::id(), self.place.path())?);
        Ok(())
    }

    /// Lets a frozen server go on; does nothing to another.
    pub fn thaw(&mut self) {
        if let Some(frozen) = self.frozen.take() {
            frozen.thaw();
        }
    }

    /// Stops the server if it runs, and starts it on the same data and port; after [`Self::kill`]
    /// that is a crash recovery.
    ///
    /// # Errors
    /// As [`Self::stop`], or when it does not start; with what it said.
    pub fn restart(&mut self) -> Result<()> {
        self.stop()?;
        self.launch()
    }

    /// Frees the System V shared memory segment that a killed server leaves for its next start
    /// (there are 4,096 on a machine, and a test's data directory has no next start).
    fn free_memory(&self) {
        let Some(id) = pid_file(&self.data()).and_then(|lines| {
            // "KEY ID"
            lines.get(6)?.split_whitespace().nth(1).map(ToOwned::to_owned)
        }) else {
            return;
        };
        // The file of a stopped server is gone, that of a killed one tells the truth.
        let _ = Spec::new("ipcrm", "ipcrm").args(["-m", &id]).run(self.place.path(), STATEMENT);
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let _ = self.kill();
        self.free_memory();
    }
}

/// The lines of `postmaster.pid`: number of the process first, shared memory seventh, state eighth.
fn pid_file(data: &Path) -> Option<Vec<String>> {
    let text = fs::read_to_string(data.join("postmaster.pid")).ok()?;
    Some(text.lines().map(|line| line.trim().to_owned()).collect())
}

/// Whether the server that runs as `pid` takes connections: what `pg_ctl -w` looks at.
fn accepts(data: &Path, pid: u32) -> bool {
    pid_file(data).is_some_and(|lines| {
        lines.first().is_some_and(|first| *first == pid.to_string())
            && lines.get(7).is_some_and(|state| state == "ready")
    })
}

fn standby_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("standby_{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Quotes a name for SQL.
fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Quotes a text for SQL and `postgresql.conf`.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_texts_are_quoted() {
        assert_eq!(identifier("a\"b"), "\"a\"\"b\"");
        assert_eq!(literal("it's"), "'it''s'");
    }

    #[test]
    fn parameters_come_in_the_order_of_their_weight() {
        let setup = Postgres::setup().fast().setting("max_connections", "7");
        let text = setup.parameters();
        let place = |line: &str| text.find(line).unwrap();
        assert!(place("max_connections = 300") < place("max_connections = '7'"));
        assert!(text.contains("fsync = off"));
        assert!(!Postgres::setup().parameters().contains("fsync"));
    }
}
