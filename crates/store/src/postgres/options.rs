//! How a PostgreSQL store is reached and used.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// A password: never shown, not even by `{:?}`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps `text` to itself.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// How connections are encrypted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TlsMode {
    /// Not at all: for a server on this machine or a network of one's own.
    #[default]
    Off,
    /// Encrypted, and the server's certificate must be signed by one of the authorities in this
    /// PEM file and name the host that was asked for (libpq's `verify-full`).
    Verified {
        /// The authorities' certificates.
        authorities: PathBuf,
    },
}

/// How much work one page of a list may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListBudget {
    /// How long the server may look for a page by the way it prefers before it is stopped and the
    /// page is read in windows; zero reads in windows at once.
    pub time: Duration,
    /// How long windows are read before the page is answered as far as it is. At least one is.
    pub scan_time: Duration,
    /// Rows in one window.
    pub window: u32,
}

impl Default for ListBudget {
    fn default() -> Self {
        Self {
            time: Duration::from_millis(250),
            scan_time: Duration::from_millis(50),
            window: 5_000,
        }
    }
}

/// Where the database is, how many connections are held, and how long is waited for what.
///
/// Every wait is bounded by the caller's deadline as well; what stands here is for what happens
/// between calls, and for giving up early.
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    /// Hosts (names, addresses, or directories of Unix sockets) and ports, tried in order. With
    /// more than one, the first that takes writes is used, so a promoted standby is found.
    pub hosts: Vec<(String, u16)>,
    /// Who logs in.
    pub user: String,
    /// With what: SCRAM or md5, as the server asks.
    pub password: Option<Secret>,
    /// The database.
    pub database: String,
    /// The name that the server shows for our connections.
    pub application_name: String,
    /// How connections are encrypted.
    pub tls: TlsMode,
    /// This node's number, from its data directory. A lease of an idempotency key counts as long
    /// as the process that took it is the latest one with its node's number, so two processes at
    /// a time must not share one.
    pub node: u64,
    /// Connections that point reads share, each with many under way. 2 to 4 are enough; more cost
    /// the server a process each.
    pub readers: usize,
    /// Connections for writes, each with one transaction under way. Through PgBouncer no more than
    /// its pool has; too few make writes wait, too many only crowd the server.
    pub writers: usize,
    /// Connections for lists, searches and exports.
    pub scanners: usize,
    /// Threads that talk to the server. One keeps up with tens of thousands of statements a
    /// second.
    pub io_threads: usize,
    /// Point reads that go out as one statement when many wait, 1 to 1,000. With 1 each is a
    /// statement of its own, which a Citus router sends to one node.
    pub reads_per_statement: usize,
    /// Single creates that go out as one statement when more of them wait than connections are
    /// free, 1 to 1,000. With 1 each is a statement of its own.
    pub creates_per_statement: usize,
    /// How long making a connection may take: name, socket, TLS and login.
    pub connect_timeout: Duration,
    /// A write connection idle for longer is asked whether it still lives before it is used.
    pub recycle_after: Duration,
    /// How long that question may take.
    pub recycle_timeout: Duration,
    /// When no connection could be made for so long, calls are refused at once, until one can be.
    pub fail_fast_after: Duration,
    /// A shared connection on which nothing was answered for so long, while somebody waits, is
    /// replaced.
    pub stall_timeout: Duration,
    /// With so many writes past their deadline and still under way, further ones are refused at
    /// once. Not more than `writers`.
    pub max_overdue: usize,
    /// How much work one page of a list may be.
    pub list_budget: ListBudget,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self {
            hosts: vec![("127.0.0.1".to_owned(), 5432)],
            user: "shunt".to_owned(),
            password: None,
            database: "shunt".to_owned(),
            application_name: "shunt".to_owned(),
            tls: TlsMode::Off,
            node: 0,
            readers: 2,
            writers: 8,
            scanners: 2,
            io_threads: 1,
            reads_per_statement: 64,
            creates_per_statement: 256,
            connect_timeout: Duration::from_secs(3),
            recycle_after: Duration::from_secs(15),
            recycle_timeout: Duration::from_millis(500),
            fail_fast_after: Duration::from_secs(1),
            stall_timeout: Duration::from_secs(1),
            max_overdue: 4,
            list_budget: ListBudget::default(),
        }
    }
}

impl PostgresOptions {
    /// The addresses, for messages.
    pub fn address(&self) -> String {
        let hosts: Vec<String> =
            self.hosts.iter().map(|(host, port)| format!("{host}:{port}")).collect();
        hosts.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_shown() {
        let password = Some(Secret::new("canary"));
        let options = PostgresOptions { password, ..PostgresOptions::default() };
        assert!(!format!("{options:?}").contains("canary"));
    }
}
