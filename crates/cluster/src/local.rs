//! The reference architecture on one machine, under one directory: what `shunt dev` runs.
//!
//! A PostgreSQL primary with two standbys, three shards (three-node Citus where the extension is
//! installed, else three databases of their own), PgBouncer, a Redis Cluster of six, a broker with
//! the Kafka API where there is one, two shunt nodes, and HAProxy in front.
//!
//! Invariants: all servers are started by the thread that made the [`Local`], and die with it;
//! data, ports and secrets are the directory's and the same at the next start; a directory has one
//! [`Local`] at a time.

mod data;
mod heal;
mod nodes;
mod status;
mod tools;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};

pub use status::{State, Status};

use crate::identity::{self, Owner};
use crate::place::{Place, remove};
use crate::process::Spec;
use crate::server::Server;
use crate::{Haproxy, PgBouncer, Postgres, RedisCluster, Shunt, Tansu, tree, wait};

/// The database of the links, on every PostgreSQL server.
const DATABASE: &str = "shunt";

/// What can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The three shards or the Citus.
    Shards,
    /// PgBouncer; the nodes reach PostgreSQL directly then.
    PgBouncer,
    /// The Redis Cluster.
    Redis,
    /// The broker with the Kafka API.
    Kafka,
    /// HAProxy.
    Haproxy,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Shards, Self::PgBouncer, Self::Redis, Self::Kafka, Self::Haproxy];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Shards => "shards",
            Self::PgBouncer => "pgbouncer",
            Self::Redis => "redis",
            Self::Kafka => "kafka",
            Self::Haproxy => "haproxy",
        }
    }
}

/// Where the nodes keep their links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// On the primary with its standbys.
    Postgres,
    /// On the three shards, which are databases of their own then and no Citus.
    Shards,
}

impl Store {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Postgres, Self::Shards];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Shards => "shards",
        }
    }
}

/// What is to be started, and where.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory; made if it is not there.
    pub directory: PathBuf,
    /// The `shunt` program that the nodes run.
    pub binary: PathBuf,
    /// Where the nodes keep their links; `None` for where they did, [`Store::Postgres`] at first.
    pub store: Option<Store>,
    /// What is left out.
    pub without: Vec<Part>,
}

/// One server of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Postgres(usize),
    Shard(usize),
    PgBouncer,
    Redis(usize),
    Kafka,
    Shunt(usize),
    Haproxy,
}

/// The running cluster. Dropped, everything is killed; the directory stays.
#[derive(Debug)]
pub struct Local {
    // Those in front go first when the value is dropped.
    haproxy: Option<Haproxy>,
    nodes: Vec<Shunt>,
    kafka: Option<Tansu>,
    redis: Option<RedisCluster>,
    pgbouncer: Option<PgBouncer>,
    /// The shards, or coordinator and workers.
    shards: Vec<Postgres>,
    citus: bool,
    store: Store,
    postgres: Vec<Postgres>,
    api_key: String,
    place: Place,
}

impl Local {
    /// Starts all of it, on what the directory holds from an earlier time; `progress` is told
    /// what is being started. What a crashed run has left behind is killed first.
    ///
    /// # Errors
    /// When a program is missing, the directory is in use or can't be used, a port has been taken
    /// meanwhile, or a server does not start; with what it said.
    pub fn start(options: &Options, progress: &mut dyn FnMut(&str)) -> Result<Self> {
        tools::check(&options.without)?;
        let place = claim(&options.directory)?;
        sweep(place.path())?;
        let secret = kept(&place.path().join(PASSWORD), || Ok(identity::password()?.to_owned()))?;
        identity::set_password(&secret)?;
        let with = |part| !options.without.contains(&part);
        let store = chosen(place.path(), options.store)?;
        if store == Store::Shards && !with(Part::Shards) {
            bail!("the nodes keep their links on the shards; leave out --without shards");
        }
        let mut local = Self {
            haproxy: None,
            nodes: Vec::new(),
            kafka: None,
            redis: None,
            pgbouncer: None,
            shards: Vec::new(),
            citus: false,
            store,
            postgres: Vec::new(),
            api_key: String::new(),
            place,
        };
        local.start_data(with(Part::Shards), with(Part::Redis), progress)?;
        if with(Part::PgBouncer) {
            progress("PgBouncer");
            local.start_pgbouncer()?;
        }
        if with(Part::Kafka) && tools::find("tansu").is_some() {
            progress("a broker with the Kafka API");
            local.kafka = Some(Tansu::start_at(&local.path("kafka"))?);
        }
        local.write_pids()?;
        local.start_nodes(&options.binary, with(Part::Haproxy), progress)?;
        local.write_pids()?;
        Ok(local)
    }

    /// Its directory.
    pub fn directory(&self) -> &Path {
        self.place.path()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// Whether the shards are a Citus.
    pub const fn is_citus(&self) -> bool {
        self.citus
    }

    fn slots(&self) -> Vec<Slot> {
        let mut slots: Vec<Slot> = (0..self.postgres.len()).map(Slot::Postgres).collect();
        slots.extend((0..self.shards.len()).map(Slot::Shard));
        slots.extend(self.pgbouncer.as_ref().map(|_| Slot::PgBouncer));
        let redis = self.redis.as_ref().map_or(0, |cluster| cluster.nodes().len());
        slots.extend((0..redis).map(Slot::Redis));
        slots.extend(self.kafka.as_ref().map(|_| Slot::Kafka));
        slots.extend((0..self.nodes.len()).map(Slot::Shunt));
        slots.extend(self.haproxy.as_ref().map(|_| Slot::Haproxy));
        slots
    }

    fn name(&self, slot: Slot) -> String {
        match slot {
            Slot::Postgres(number) => format!("pg-{}", number + 1),
            Slot::Shard(0) if self.citus => "citus-coordinator".to_owned(),
            Slot::Shard(number) if self.citus => format!("citus-worker-{number}"),
            Slot::Shard(number) => format!("shard-{}", number + 1),
            Slot::PgBouncer => "pgbouncer".to_owned(),
            Slot::Redis(number) => format!("redis-{}", number + 1),
            Slot::Kafka => "kafka".to_owned(),
            Slot::Shunt(number) => format!("shunt-{}", number + 1),
            Slot::Haproxy => "haproxy".to_owned(),
        }
    }

    /// The names of all servers, in the order of their start.
    pub fn names(&self) -> Vec<String> {
        self.slots().into_iter().map(|slot| self.name(slot)).collect()
    }

    fn slot(&self, name: &str) -> Result<Slot> {
        let found = self.slots().into_iter().find(|slot| self.name(*slot) == name);
        found.ok_or_else(|| {
            anyhow!("there is no server {name}; there are {}", self.names().join(", "))
        })
    }

    fn server(&mut self, slot: Slot) -> Result<&mut dyn Server> {
        fn dynamic<S: Server>(server: Option<&mut S>) -> Option<&mut dyn Server> {
            server.map(|server| server as &mut dyn Server)
        }
        let server = match slot {
            Slot::Postgres(number) => dynamic(self.postgres.get_mut(number)),
            Slot::Shard(number) => dynamic(self.shards.get_mut(number)),
            Slot::PgBouncer => dynamic(self.pgbouncer.as_mut()),
            Slot::Redis(number) => {
                dynamic(self.redis.as_mut().and_then(|cluster| cluster.node(number).ok()))
            }
            Slot::Kafka => dynamic(self.kafka.as_mut()),
            Slot::Shunt(number) => dynamic(self.nodes.get_mut(number)),
            Slot::Haproxy => dynamic(self.haproxy.as_mut()),
        };
        server.with_context(|| format!("there is no {slot:?}"))
    }

    /// The number of a server's process, and whether it is frozen; `None` when it is down.
    fn process(&mut self, slot: Slot) -> Result<Option<(u32, bool)>> {
        let pid = self.server(slot)?.pid();
        Ok(pid.map(|pid| (pid, tree::state(pid) == Some('T'))))
    }

    /// Kills a server at once (`SIGKILL`), or freezes it (`SIGSTOP`).
    ///
    /// # Errors
    /// When there is none of this name, or it is down or frozen already.
    pub fn kill(&mut self, name: &str, freeze: bool) -> Result<()> {
        let slot = self.slot(name)?;
        match self.process(slot)? {
            None => bail!("{name} is down already; bring it back with `shunt dev heal {name}`"),
            Some((_, true)) if freeze => bail!("{name} is frozen already"),
            Some(_) if freeze => self.server(slot)?.freeze(),
            Some(_) => self.server(slot)?.kill(),
        }
    }

    /// Ends all servers in order, those in front first.
    ///
    /// # Errors
    /// The first server's that did not end in order; all are ended then nevertheless.
    pub fn stop(mut self, progress: &mut dyn FnMut(&str)) -> Result<()> {
        let mut outcome = Ok(());
        let mut slots = self.slots();
        slots.reverse();
        // Standbys get all there is, so they outlive their primary, frozen ones awake.
        let primary = self.primary().ok();
        slots.sort_by_key(|slot| match slot {
            Slot::Postgres(number) => usize::from(Some(*number) != primary) + 1,
            _ => 0,
        });
        for slot in &slots {
            if let Ok(Some((_, true))) = self.process(*slot) {
                self.server(*slot)?.thaw()?;
            }
        }
        for slot in slots {
            if self.process(slot)?.is_none() {
                continue;
            }
            let name = self.name(slot);
            progress(&name);
            let stopped = self.server(slot)?.stop().with_context(|| format!("stop {name}"));
            outcome = outcome.and(stopped);
        }
        remove_file(&self.path(PIDS))?;
        outcome
    }

    /// Where things are and what to type there, label, address and command, for people.
    pub fn addresses(&self) -> Vec<(String, String, String)> {
        let mut rows = Vec::new();
        let mut row = |label: &str, address: String, command: String| {
            rows.push((label.to_owned(), address, command));
        };
        if let Some(haproxy) = &self.haproxy {
            let url = format!("http://{}", haproxy.socket());
            row("entry (HAProxy)", url.clone(), format!("curl -sS {url}/health"));
        }
        for (number, node) in self.nodes.iter().enumerate() {
            let ops = format!("curl -sS http://{}/readyz", node.ops_socket());
            row(&self.name(Slot::Shunt(number)), node.url(""), ops);
        }
        let psql = |url: String| (url.clone(), format!("psql {url}"));
        if let Some(pgbouncer) = &self.pgbouncer {
            let (url, command) = psql(pgbouncer.url(DATABASE));
            row("pgbouncer", url, command);
        }
        for (slot, server) in self
            .postgres
            .iter()
            .enumerate()
            .map(|(number, server)| (Slot::Postgres(number), server))
            .chain(self.shards.iter().enumerate().map(|(n, server)| (Slot::Shard(n), server)))
        {
            let (url, command) = psql(server.url(DATABASE));
            row(&self.name(slot), url, command);
        }
        if let Some(redis) = &self.redis {
            for (number, node) in redis.nodes().iter().enumerate() {
                let (password, port) = (node.password(), node.socket().port());
                let command = format!("redis-cli -c -p {port} -a {password} --no-auth-warning");
                row(&self.name(Slot::Redis(number)), node.url(), command);
            }
        }
        if let Some(kafka) = &self.kafka {
            row("kafka", kafka.socket().to_string(), String::new());
        }
        rows
    }

    /// The key for the API, with all scopes.
    pub fn api_key(&self) -> &str {
        &self.api_key
    }

    /// The address that visitors and clients use: HAProxy's, or the first node's without it.
    pub fn entry(&self) -> String {
        let node = self.nodes.first().map(Shunt::socket);
        let socket = self.haproxy.as_ref().map(Haproxy::socket).or(node);
        socket.map_or_else(String::new, |socket| format!("http://{socket}"))
    }

    /// Notes the processes, for [`sweep`] to find them should this process be killed.
    fn write_pids(&mut self) -> Result<()> {
        let mut servers = Vec::new();
        for slot in self.slots() {
            if let Some((pid, _)) = self.process(slot)? {
                servers.push(
                    json!({ "name": self.name(slot), "pid": pid, "began": tree::began(pid) }),
                );
            }
        }
        let path = self.path(PIDS);
        let text = Value::from(servers).to_string();
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    }
}

/// The file that names the running processes.
const PIDS: &str = "servers.json";

/// Longer paths leave no room for the names of Unix sockets, which the kernel limits to 107 bytes.
const LONGEST_PATH: usize = 70;

/// The line in a directory that makes it a local cluster's, and the secret of all its servers.
const PASSWORD: &str = "password";

/// The key for the API, made with the first node.
const API_KEY: &str = "api-key";

/// What the supervisor says, in the directory; the one file that may be there before the cluster.
pub const LOG: &str = "supervisor.log";

/// Checks that a directory may become a local cluster's or is one: nobody's files are touched or
/// removed with it.
///
/// # Errors
/// When it holds something else, or its path is too long for what has to be in it.
pub fn check_directory(directory: &Path) -> Result<()> {
    let directory = std::path::absolute(directory)?;
    if directory.as_os_str().len() > LONGEST_PATH {
        bail!(
            "{} is too long a path: Unix sockets leave {LONGEST_PATH} bytes; choose another --dir",
            directory.display()
        );
    }
    let mut entries = fs::read_dir(&directory).into_iter().flatten().flatten();
    let foreign = entries
        .find(|entry| ![LOG, crate::place::LOCK].map(OsStr::new).contains(&&*entry.file_name()));
    if let Some(foreign) = foreign
        && !directory.join(PASSWORD).exists()
    {
        bail!(
            "{} holds other files ({}) and no local cluster; choose another --dir",
            directory.display(),
            foreign.file_name().display()
        );
    }
    Ok(())
}

/// Makes the directory this process's.
fn claim(directory: &Path) -> Result<Place> {
    check_directory(directory)?;
    let directory = std::path::absolute(directory)?;
    let place = Place::keep(&directory).with_context(|| {
        format!("use {0}: see `shunt dev status --dir {0}`", directory.display())
    })?;
    let owner = Owner::of_servers()?;
    if owner.is_other() {
        // They pass through it and see nothing.
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o711))?;
        let logs = tempfile::tempdir()?;
        let spec = Spec::new("test", "test").arg("-x").arg(&directory).directory("/");
        if spec.wrap(owner.wrapper("KILL")).run(logs.path(), wait::PATIENCE)?.ok().is_err() {
            bail!(
                "PostgreSQL does not run as root, and its user can't reach {}; choose another \
                 --dir, below /var/tmp for one",
                directory.display()
            );
        }
    }
    Ok(place)
}

/// Kills what a crashed run has left. The kernel does that too, so this seldom finds anybody.
fn sweep(directory: &Path) -> Result<()> {
    let path = directory.join(PIDS);
    let Ok(text) = fs::read_to_string(&path) else { return Ok(()) };
    let servers: Value = serde_json::from_str(&text).unwrap_or_default();
    for server in servers.as_array().into_iter().flatten() {
        let pid = server.get("pid").and_then(Value::as_u64).and_then(|pid| u32::try_from(pid).ok());
        let Some(pid) = pid else { continue };
        // Another process may have the number by now.
        let began = server.get("began").and_then(Value::as_u64);
        if began.is_some() && tree::began(pid) == began {
            tree::kill(pid)?;
        }
    }
    remove_file(&path)
}

/// Ends what a crashed run has left in a directory that nobody runs, and removes all data of it if
/// `purge` is asked for.
///
/// # Errors
/// When a cluster runs there, it is no such directory, or it can't be removed.
pub fn clear(directory: &Path, purge: bool) -> Result<()> {
    if !directory.join(PASSWORD).exists() {
        bail!("{} holds no local cluster", directory.display());
    }
    let place = Place::keep(directory)?;
    sweep(place.path())?;
    if purge {
        remove(directory)?;
        crate::shunt::sweep_rings();
    }
    Ok(())
}

/// Where the nodes keep their links: links don't move from one to the other.
fn chosen(directory: &Path, asked: Option<Store>) -> Result<Store> {
    let first = asked.filter(|_| !directory.join(API_KEY).exists()).unwrap_or(Store::Postgres);
    let found = kept(&directory.join("store"), || Ok(first.name().to_owned()))?;
    let store = Store::ALL.into_iter().find(|store| store.name() == found);
    let store = store.with_context(|| format!("{}/store holds {found:?}", directory.display()))?;
    if asked.is_some_and(|asked| asked != store) {
        bail!(
            "the links in {} are on {found}; go on with that, or begin anew after `shunt dev down \
             --purge`",
            directory.display()
        );
    }
    Ok(store)
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// The line in a file for the owner alone; made and written if it is not there.
fn kept(path: &Path, make: impl FnOnce() -> Result<String>) -> Result<String> {
    if let Ok(text) = fs::read_to_string(path) {
        return Ok(text.trim().to_owned());
    }
    let made = make()?;
    let early = path.with_extension("new");
    fs::write(&early, "").with_context(|| format!("write {}", early.display()))?;
    fs::set_permissions(&early, fs::Permissions::from_mode(0o600))?;
    fs::write(&early, format!("{made}\n"))?;
    fs::rename(&early, path)?;
    Ok(made)
}
