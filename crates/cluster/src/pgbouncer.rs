//! PgBouncer in transaction pooling mode, from the configuration that `deploy/` ships.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::deploy;
use crate::http::{Address, Connection};
use crate::identity::Owner;
use crate::place::Place;
use crate::ports::Port;
use crate::postgres::Config;
use crate::process::{Process, Spec};
use crate::wait;

/// The database that is PgBouncer's own console.
const CONSOLE: &str = "pgbouncer";

/// One database as clients know it, and where it really is.
#[derive(Clone, Debug)]
struct Database {
    name: String,
    server: Config,
    /// What it is called there.
    real: String,
}

/// A PgBouncer to be.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    at: Option<PathBuf>,
    databases: Vec<Database>,
    users: Vec<(String, String)>,
    settings: Vec<(String, String)>,
}

impl Setup {
    /// Uses this directory, which is kept.
    #[must_use]
    pub fn at(mut self, directory: impl Into<PathBuf>) -> Self {
        self.at = Some(directory.into());
        self
    }

    /// Passes on the database `name` of `server`.
    #[must_use]
    pub fn database(self, name: &str, server: &Config) -> Self {
        self.alias(name, server, name)
    }

    /// Passes on the database `real` of `server` under another name. The server's user becomes one
    /// of PgBouncer's.
    #[must_use]
    pub fn alias(mut self, name: &str, server: &Config, real: &str) -> Self {
        let server = server.clone();
        self.databases.push(Database { name: name.to_owned(), server, real: real.to_owned() });
        self
    }

    /// Lets another user in, who must be known to the servers by the same password.
    #[must_use]
    pub fn user(mut self, name: &str, password: &str) -> Self {
        self.users.push((name.to_owned(), password.to_owned()));
        self
    }

    /// Overrides a setting of the file that ships (`pool_mode`, `default_pool_size`, …).
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts it.
    ///
    /// # Errors
    /// When PgBouncer is not installed, there is no database, a user has two passwords, or it does
    /// not start; with what it said.
    pub fn start(self) -> Result<PgBouncer> {
        let Some(first) = self.databases.first() else {
            bail!("a PgBouncer needs a database");
        };
        let place = Place::of(self.at.as_deref(), "pgbouncer")?;
        let owner = Owner::of_servers()?;
        owner.give(place.path())?;
        let port = place.port("pgbouncer")?;
        let config = Config::new(port.address(), &first.server.user, &first.server.password);
        let mut pooler = PgBouncer { setup: self, owner, config, port, process: None, place };
        pooler.write()?;
        pooler.launch()?;
        Ok(pooler)
    }

    /// The auth file: every user once.
    fn users(&self) -> Result<String> {
        let mut known: Vec<(&str, &str)> = Vec::new();
        let servers = self.databases.iter().map(|d| (&*d.server.user, &*d.server.password));
        let others = self.users.iter().map(|(name, password)| (&**name, &**password));
        for (name, password) in servers.chain(others) {
            match known.iter().find(|(other, _)| *other == name) {
                None => known.push((name, password)),
                Some((_, same)) if *same == password => {}
                Some(_) => bail!("PgBouncer can know one password of {name} only"),
            }
        }
        let quote = |text: &str| text.replace('"', "\"\"");
        let lines = known.iter().map(|(n, p)| format!("\"{}\" \"{}\"\n", quote(n), quote(p)));
        Ok(lines.collect())
    }
}

/// A running (or stopped, or killed) PgBouncer.
#[derive(Debug)]
pub struct PgBouncer {
    setup: Setup,
    owner: Owner,
    config: Config,
    port: Port,
    process: Option<Process>,
    place: Place,
}

impl PgBouncer {
    /// A PgBouncer to be, without databases.
    pub fn setup() -> Setup {
        Setup::default()
    }

    /// Writes its files anew.
    fn write(&self) -> Result<()> {
        let directory = self.place.path();
        let list = directory.join("userlist.txt");
        let databases = self.setup.databases.iter().map(|Database { name, server, real }| {
            format!("{name} = host={} port={} dbname={real}\n", server.host, server.port)
        });
        let places = format!(
            // No Unix socket, and the log on standard error, where it goes by itself.
            "listen_addr = {}\nlisten_port = {}\nunix_socket_dir =\nauth_file = {}\n\
             admin_users = {}\n",
            self.config.host,
            self.config.port,
            list.display(),
            self.config.user
        );
        let blocks = [("databases", databases.collect()), ("places", places)];
        let mut file = deploy::fill(deploy::PGBOUNCER, &blocks)?;
        // The last section of the file is the one that settings are in, and the last value counts.
        for (name, value) in &self.setup.settings {
            file += &format!("{name} = {value}\n");
        }
        for (path, text) in [(list, self.setup.users()?), (self.file(), file)] {
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
            self.owner.give(&path)?;
        }
        Ok(())
    }

    fn file(&self) -> PathBuf {
        self.place.path().join("pgbouncer.ini")
    }

    fn launch(&mut self) -> Result<()> {
        let mut process = Spec::new("pgbouncer", "pgbouncer")
            // A thousand clients and the pools; the usual limit is 1,024.
            .wrap(["prlimit", "--nofile=8192:", "--"])
            .wrap(self.owner.wrapper("KILL"))
            .arg(self.file())
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .spawn(self.place.path())?;
        let address = Address::from(self.port.address());
        let ready = process.wait_ready(wait::PATIENCE, |_| Connection::open(&address).ok());
        self.process = Some(process);
        ready.map(|_| ()).context("start PgBouncer (Debian package pgbouncer)")
    }

    /// What a client needs: the first database's user.
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// `postgres://USER:PASSWORD@HOST:PORT/DATABASE`.
    pub fn url(&self, database: &str) -> String {
        self.config.url(database)
    }

    /// The socket's address.
    pub fn socket(&self) -> SocketAddr {
        self.port.address()
    }

    /// Runs a command of the console, `SHOW POOLS` for one, and answers its rows, columns parted
    /// by `|`.
    ///
    /// # Errors
    /// When it is not known or PgBouncer does not answer.
    pub fn console(&self, command: &str) -> Result<String> {
        self.config.psql(CONSOLE, command)
    }

    /// Where the clients of a database are sent.
    pub fn target(&self, name: &str) -> Option<&Config> {
        let mut databases = self.setup.databases.iter();
        databases.find(|database| database.name == name).map(|database| &database.server)
    }

    /// Sends the clients of a database to another server from now on: its name there stays, and
    /// clients stay connected. What an operator does after a promotion.
    ///
    /// # Errors
    /// When there is no such database, or the server's user has another password.
    pub fn point(&mut self, name: &str, server: &Config) -> Result<()> {
        let mut setup = self.setup.clone();
        let database = setup.databases.iter_mut().find(|database| database.name == name);
        let Some(database) = database else { bail!("PgBouncer has no database {name}") };
        database.server = server.clone();
        setup.users()?;
        self.setup = setup;
        self.write()?;
        self.console("RELOAD").map(|_| ())
    }

    /// The process.
    ///
    /// # Errors
    /// When it was not started.
    pub fn process(&mut self) -> Result<&mut Process> {
        self.process.as_mut().context("PgBouncer was not started")
    }

    /// What it has said since its last start.
    pub fn log(&self) -> String {
        self.process.as_ref().map_or_else(String::new, Process::stderr)
    }

    /// Kills it at once.
    pub fn kill(&mut self) {
        if let Some(process) = &mut self.process {
            process.kill();
        }
    }

    /// Ends it at once but in order (`SIGTERM`): clients are cut off. A frozen one is thawed.
    ///
    /// # Errors
    /// When it does not run or does not end in time.
    pub fn stop(&mut self) -> Result<()> {
        let process = self.process()?;
        process.heal()?;
        process.terminate(wait::PATIENCE).map(|_| ())
    }

    /// Stops it if it runs, and starts it on the same port.
    ///
    /// # Errors
    /// When it does not end or not start.
    pub fn restart(&mut self) -> Result<()> {
        if self.process()?.running() {
            self.stop()?;
        }
        self.launch()
    }

    /// Stops it in its tracks: connections stay open and nobody answers.
    ///
    /// # Errors
    /// When it does not run.
    pub fn freeze(&mut self) -> Result<()> {
        self.process()?.freeze()
    }

    /// Lets a frozen one go on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn thaw(&mut self) -> Result<()> {
        self.process()?.heal()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_listed_once_and_never_with_two_passwords() {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let server = Config::new(address, "a", "x\"y");
        let setup = PgBouncer::setup().database("one", &server).database("two", &server);
        let setup = setup.user("b", "z");
        assert_eq!(setup.users().unwrap(), "\"a\" \"x\"\"y\"\n\"b\" \"z\"\n");
        assert!(setup.user("a", "other").users().is_err());
    }
}
