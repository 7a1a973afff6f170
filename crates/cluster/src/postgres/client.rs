//! What clients of PostgreSQL need, and the client programs that it comes with.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use super::STATEMENT;
use crate::process::Spec;

/// Where Debian puts the programs of each version.
const ROOT: &str = "/usr/lib/postgresql";

/// What a client needs to reach a server: PostgreSQL itself or a pooler in front of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where it listens.
    pub host: String,
    /// Where it listens.
    pub port: u16,
    /// Who logs in.
    pub user: String,
    /// With what.
    pub password: String,
}

impl Config {
    pub(crate) fn new(address: SocketAddr, user: &str, password: &str) -> Self {
        Self {
            host: address.ip().to_string(),
            port: address.port(),
            user: user.to_owned(),
            password: password.to_owned(),
        }
    }

    /// `postgres://USER:PASSWORD@HOST:PORT/DATABASE`.
    pub fn url(&self, database: &str) -> String {
        let Self { host, port, user, password } = self;
        format!("postgres://{user}:{password}@{host}:{port}/{database}")
    }

    /// The command `psql` on a database, without arguments that say what to do: add `-c` and the
    /// rest. It reads no start-up file, stops at the first error and prints bare rows.
    ///
    /// # Errors
    /// When PostgreSQL is not installed.
    pub fn psql_spec(&self, database: &str) -> Result<Spec> {
        Ok(self
            .client("psql")?
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"])
            .args(["-d", database]))
    }

    /// Runs SQL with `psql` and answers its rows, columns parted by `|`, without the last line
    /// end. Several statements are one transaction.
    ///
    /// # Errors
    /// When the server can't be reached or refuses; with its message.
    pub fn psql(&self, database: &str, sql: &str) -> Result<String> {
        self.psql_within(STATEMENT, database, sql)
    }

    /// As [`Self::psql`], for at most `bound`, connecting included.
    ///
    /// # Errors
    /// As [`Self::psql`], or when it takes longer.
    pub fn psql_within(&self, bound: Duration, database: &str, sql: &str) -> Result<String> {
        let logs = tempfile::tempdir()?;
        let spec = self.psql_spec(database)?.args(["-c", sql]);
        let finished = spec.run(logs.path(), bound)?;
        let out = finished.ok().with_context(|| format!("psql: {sql}"))?;
        Ok(out.trim_end_matches('\n').to_owned())
    }

    /// One of PostgreSQL's client programs, told where the server is and who logs in.
    ///
    /// # Errors
    /// When PostgreSQL is not installed.
    pub fn client(&self, program: &str) -> Result<Spec> {
        // Not Debian's wrappers of the same names: they look for clusters of the system's own.
        Ok(Spec::new(program, programs()?.join(program))
            .env("PGHOST", &self.host)
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", &self.user)
            .env("PGPASSWORD", &self.password)
            .env("PGCONNECT_TIMEOUT", "20"))
    }
}

/// Where the programs of the newest installed PostgreSQL are.
///
/// # Errors
/// When there is none.
pub fn programs() -> Result<PathBuf> {
    Ok(Path::new(ROOT).join(version()?.to_string()).join("bin"))
}

/// The newest installed PostgreSQL: 15.
///
/// # Errors
/// When there is none.
pub fn version() -> Result<u32> {
    let versions = fs::read_dir(ROOT).into_iter().flatten().flatten();
    let newest = versions
        .filter(|entry| entry.path().join("bin/initdb").exists())
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .max();
    newest.ok_or_else(|| anyhow!("no PostgreSQL (Debian package postgresql)"))
}
