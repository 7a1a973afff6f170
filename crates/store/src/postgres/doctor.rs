//! What a server says of itself, for `shunt doctor`: facts alone, judged by whoever asked.
//!
//! Invariants: nothing is changed; every look has our own deadline, so that a server that hangs
//! keeps nobody waiting; an ordinary user may ask, and what such a user may not see says so; all
//! of it works through a pooler in transaction mode.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio_postgres::{Row, SimpleQueryMessage};

use super::citus::{self, ClusterFinding};
use super::connect::{Connected, Connector};
use super::error::{Fault, PostgresError};
use super::migrate::{applied, ask};
use super::options::PostgresOptions;
use super::schema;
use super::statements::{self, Statement, doctor as asked};

/// What was seen, or why it can't be looked at.
pub type Looked<T> = Result<T, String>;

/// One standby that is connected to a primary.
#[derive(Clone, Debug, PartialEq)]
pub struct Standby {
    /// Its `application_name`.
    pub name: String,
    /// `streaming`, or what it does instead.
    pub state: String,
    /// `async`, `potential`, `sync` or `quorum`.
    pub sync_state: String,
    /// How far what it shows lies behind, in seconds.
    pub lag_seconds: f64,
    /// The same in bytes of the log.
    pub behind_bytes: i64,
}

/// One replication slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// Whether somebody reads from it.
    pub active: bool,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: String,
    /// Bytes of the log that it keeps on the disk.
    pub retained_bytes: i64,
}

/// One session with a transaction that has been open for more than a minute.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenTransaction {
    /// The server's process.
    pub pid: i32,
    /// `active`, `idle in transaction`, …
    pub state: String,
    /// What the client calls itself.
    pub application: String,
    /// How long it has been open, in seconds.
    pub seconds: f64,
}

/// The schema as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tables {
    /// The migration that was applied last; 0 for none.
    pub version: i32,
    /// The migration that this program needs.
    pub known: i32,
    /// Tables and sequences of this program that are not there.
    pub missing: Vec<String>,
    /// Tables and sequences that the user can't read and write.
    pub forbidden: Vec<String>,
    /// Indexes that the server does not use because they were never finished.
    pub invalid_indexes: Vec<String>,
    /// Codes in the pool.
    pub pooled_codes: Looked<i64>,
    /// Age of the oldest idempotency row in seconds; 0 when there is none.
    pub oldest_key_seconds: Looked<i64>,
}

/// What a server says of itself.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Where it was asked.
    pub address: String,
    /// Who asked.
    pub user: String,
    /// Which server and database it is, if that may be known: the same by every way to it.
    pub identity: Option<(i64, i64)>,
    /// Whether it is a standby.
    pub in_recovery: bool,
    /// Whether a transaction of ours may write.
    pub read_only: bool,
    /// How texts are stored: `UTF8`, or something else.
    pub encoding: String,
    /// Milliseconds that its clock is ahead of this machine's.
    pub clock_ahead_millis: i64,
    /// How wrong that figure may be.
    pub clock_error_millis: i64,
    /// Transactions since the oldest that a table still remembers, in the database that is worst.
    pub transaction_age: i64,
    /// Whether the extension `pg_trgm` is there.
    pub has_trigrams: bool,
    /// Settings as they hold for this user's sessions, numbers in the unit of `pg_settings`.
    pub settings: BTreeMap<String, String>,
    /// The schema, or what is the matter with it.
    pub tables: Result<Tables, PostgresError>,
    /// Replication slots.
    pub slots: Looked<Vec<Slot>>,
    /// Connected standbys; none on a standby.
    pub standbys: Looked<Vec<Standby>>,
    /// Transactions that have been open for long.
    pub transactions: Looked<Vec<OpenTransaction>>,
}

impl Facts {
    /// A setting's text; empty when the server has none of that name.
    pub fn setting(&self, name: &str) -> &str {
        self.settings.get(name).map_or("", String::as_str)
    }

    /// A setting as a number; 0 when it is none.
    pub fn number(&self, name: &str) -> i64 {
        self.setting(name).parse().unwrap_or_default()
    }
}

/// Why a server could not be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// User or password are wrong.
    Password,
    /// `pg_hba.conf` does not let this user, or this machine, in.
    Denied,
    /// There is no such database.
    NoDatabase,
    /// All its connections are taken.
    Full,
    /// An option or a file that it names is wrong.
    Options,
    /// Nobody answers, or in time.
    Unreachable,
}

/// A server that could not be asked: why, and in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotAsked {
    /// Why.
    pub why: Refusal,
    /// The same in words, without what to do.
    pub text: String,
}

impl fmt::Display for NotAsked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl NotAsked {
    fn new(address: &str, fault: &Fault) -> Self {
        // PgBouncer tells some of these apart by their words alone.
        let said = |words: &str| fault.text().contains(words);
        let why = match fault.code() {
            Some("28P01") => Refusal::Password,
            Some("08P01") if said("SASL") || said("password") => Refusal::Password,
            Some("3D000") => Refusal::NoDatabase,
            Some("08P01") if said("no such database") => Refusal::NoDatabase,
            Some("53300") => Refusal::Full,
            Some("08P01") if said("no more connections") => Refusal::Full,
            Some(code) if code.starts_with("28") => Refusal::Denied,
            _ => Refusal::Unreachable,
        };
        Self { why, text: format!("{address}: {}", fault.text()) }
    }

    fn options(error: &PostgresError) -> Self {
        Self { why: Refusal::Options, text: error.to_string() }
    }

    fn silent(address: &str, patience: Duration) -> Self {
        let text = format!("{address}: no answer within {} s", patience.as_secs_f32());
        Self { why: Refusal::Unreachable, text }
    }
}

/// The settings that are looked at.
const SETTINGS: &[&str] = &[
    "autovacuum",
    "autovacuum_freeze_max_age",
    "fsync",
    "full_page_writes",
    "max_connections",
    "max_slot_wal_keep_size",
    "max_wal_size",
    "statement_timeout",
    "superuser_reserved_connections",
    "synchronous_commit",
    "synchronous_standby_names",
    "track_counts",
];

/// Looks at the server that `options` name, for at most `patience` in all.
///
/// # Errors
/// [`NotAsked`] when there is nobody to ask.
pub async fn look(options: &PostgresOptions, patience: Duration) -> Result<Facts, NotAsked> {
    let connector = connector(options)?;
    within(connector.address(), patience, async {
        let connected = connect(&connector).await?;
        facts(options, &connector, &connected).await
    })
    .await
}

/// Looks a Citus cluster over, for at most `patience` in all: whether every table is where it
/// belongs and can be moved, and whether every node is there. Finds nothing where there is none.
///
/// # Errors
/// [`NotAsked`] when the coordinator does not answer: it waits for nodes that hang.
pub async fn cluster(
    options: &PostgresOptions,
    patience: Duration,
) -> Result<Vec<ClusterFinding>, NotAsked> {
    let connector = connector(options)?;
    within(connector.address(), patience, async {
        let connected = connect(&connector).await?;
        let found = citus::findings(&connected).await;
        found.map_err(|fault| NotAsked::new(connector.address(), &fault))
    })
    .await
}

async fn within<T>(
    address: &str,
    patience: Duration,
    looking: impl Future<Output = Result<T, NotAsked>>,
) -> Result<T, NotAsked> {
    let looked = tokio::time::timeout(patience, looking).await;
    looked.unwrap_or_else(|_| Err(NotAsked::silent(address, patience)))
}

fn connector(options: &PostgresOptions) -> Result<Connector, NotAsked> {
    Connector::new(options, None, Arc::default()).map_err(|error| NotAsked::options(&error))
}

async fn connect(connector: &Connector) -> Result<Connected, NotAsked> {
    let connected = connector.connect().await;
    connected.map(|(made, _)| made).map_err(|fault| NotAsked::new(connector.address(), &fault))
}

async fn facts(
    options: &PostgresOptions,
    connector: &Connector,
    connected: &Connected,
) -> Result<Facts, NotAsked> {
    let lost = |fault: Fault| NotAsked::new(connector.address(), &fault);
    let wrong = |error: tokio_postgres::Error| lost(error.into());
    let rows = ask(connected, &asked::SERVER, &[]).await.map_err(lost)?;
    let row = rows.first().ok_or_else(|| lost(Fault::lost("the server gave no answer")))?;
    let in_recovery: bool = row.try_get(0).map_err(wrong)?;
    let may_see: bool = row.try_get(6).map_err(wrong)?;
    let (ahead, error) = clock(connected).await.map_err(lost)?;
    let mut settings = BTreeMap::new();
    for row in ask(connected, &asked::NAMED, &[&SETTINGS]).await.map_err(lost)? {
        settings.insert(row.try_get(0).map_err(wrong)?, row.try_get(1).map_err(wrong)?);
    }
    let hidden = format!("{} may not see it", options.user);
    let identity = ask(connected, &asked::IDENTITY, &[]).await.ok();
    Ok(Facts {
        address: options.address(),
        user: row.try_get(3).map_err(wrong)?,
        identity: identity.and_then(|rows| {
            let row = rows.first()?;
            Some((row.try_get(0).ok()?, row.try_get(1).ok()?))
        }),
        in_recovery,
        read_only: row.try_get(1).map_err(wrong)?,
        encoding: row.try_get(2).map_err(wrong)?,
        clock_ahead_millis: ahead,
        clock_error_millis: error,
        transaction_age: row.try_get(4).map_err(wrong)?,
        has_trigrams: row.try_get(5).map_err(wrong)?,
        settings,
        slots: all(connected, &asked::SLOTS, slot).await,
        standbys: match (in_recovery, may_see) {
            (true, _) => Ok(Vec::new()),
            (false, true) => all(connected, &asked::STANDBYS, standby).await,
            (false, false) => Err(hidden.clone()),
        },
        transactions: if may_see {
            all(connected, &asked::TRANSACTIONS, transaction).await
        } else {
            Err(hidden)
        },
        // Last, because nothing is answered behind a node of a cluster that hangs.
        tables: tables(connector, connected).await,
    })
}

/// Every row of a statement as a value.
async fn all<T>(
    connected: &Connected,
    statement: &Statement,
    value: fn(&Row) -> Result<T, tokio_postgres::Error>,
) -> Looked<Vec<T>> {
    let rows = ask(connected, statement, &[]).await.map_err(|fault| fault.text().to_owned())?;
    rows.iter().map(|row| value(row).map_err(|error| error.to_string())).collect()
}

fn slot(row: &Row) -> Result<Slot, tokio_postgres::Error> {
    Ok(Slot {
        name: row.try_get(0)?,
        active: row.try_get(1)?,
        wal_status: row.try_get(2)?,
        retained_bytes: row.try_get(3)?,
    })
}

fn standby(row: &Row) -> Result<Standby, tokio_postgres::Error> {
    Ok(Standby {
        name: row.try_get(0)?,
        state: row.try_get(1)?,
        sync_state: row.try_get(2)?,
        lag_seconds: row.try_get(3)?,
        behind_bytes: row.try_get(4)?,
    })
}

fn transaction(row: &Row) -> Result<OpenTransaction, tokio_postgres::Error> {
    Ok(OpenTransaction {
        pid: row.try_get(0)?,
        state: row.try_get(1)?,
        application: row.try_get(2)?,
        seconds: row.try_get(3)?,
    })
}

/// How far the server's clock is ahead of ours, and how wrong that may be, in milliseconds: the
/// best of three answers.
async fn clock(connected: &Connected) -> Result<(i64, i64), Fault> {
    let mut best: Option<(i64, i64)> = None;
    for _ in 0..3 {
        let (asked, begun) = (SystemTime::now(), Instant::now());
        let rows = ask(connected, &asked::CLOCK, &[]).await?;
        let half = begun.elapsed() / 2;
        let there: i64 = rows.first().map_or(Ok(0), |row| row.try_get(0))?;
        let here = (asked + half).duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let millis = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        let seen = (there - millis(here), millis(half) + 1);
        best = Some(best.filter(|best| best.1 <= seen.1).unwrap_or(seen));
    }
    Ok(best.unwrap_or_default())
}

async fn tables(connector: &Connector, connected: &Connected) -> Result<Tables, PostgresError> {
    let version = applied(connector, connected).await?;
    let mut tables = Tables {
        version,
        known: schema::known(),
        missing: Vec::new(),
        forbidden: Vec::new(),
        invalid_indexes: Vec::new(),
        pooled_codes: Ok(0),
        oldest_key_seconds: Ok(0),
    };
    if version < tables.known {
        return Ok(tables);
    }
    let explain = |fault: Fault| connector.explain(&fault);
    let value = |error: tokio_postgres::Error| connector.explain(&error.into());
    let (names, sequences) = (schema::objects("TABLE"), schema::objects("SEQUENCE"));
    let mut rows = ask(connected, &asked::TABLE_RIGHTS, &[&names]).await.map_err(explain)?;
    rows.extend(ask(connected, &asked::SEQUENCE_RIGHTS, &[&sequences]).await.map_err(explain)?);
    for row in &rows {
        let name: String = row.try_get(0).map_err(value)?;
        if !row.try_get::<_, bool>(1).map_err(value)? {
            tables.missing.push(name);
        } else if !row.try_get::<_, bool>(2).map_err(value)? {
            tables.forbidden.push(name);
        }
    }
    for row in ask(connected, &asked::INVALID_INDEXES, &[&names]).await.map_err(explain)? {
        tables.invalid_indexes.push(row.try_get(0).map_err(value)?);
    }
    tables.pooled_codes = number(connected, &statements::POOL_SIZE).await;
    tables.oldest_key_seconds = number(connected, &asked::OLDEST_KEY).await;
    Ok(tables)
}

/// How long is waited for a figure that all nodes of a cluster have a part of: without it
/// everything else can still be told.
const FIGURE: Duration = Duration::from_secs(2);

async fn number(connected: &Connected, statement: &Statement) -> Looked<i64> {
    let asking = all(connected, statement, |row| row.try_get(0));
    let asked = tokio::time::timeout(FIGURE, asking).await;
    let rows = asked.unwrap_or_else(|_| Err(format!("no answer within {FIGURE:?}")))?;
    rows.first().copied().ok_or_else(|| "the server gave no answer".to_owned())
}

/// How one database is reached through a PgBouncer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// `session`, `transaction` or `statement`.
    pub mode: String,
    /// Connections to the server for one user.
    pub size: u64,
    /// Whether it holds back everybody who asks for this database.
    pub paused: bool,
    /// Its settings.
    pub settings: BTreeMap<String, String>,
}

/// What is between us and the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pooler {
    /// No PgBouncer.
    None,
    /// One that tells us of its settings.
    Open(Pool),
    /// One that does not; and whether two connections were lent the same session of the server, as
    /// in transaction mode, if that could be tried.
    Closed(Option<bool>),
}

/// The database that is PgBouncer's own console.
const CONSOLE: &str = "pgbouncer";

/// Looks whether a PgBouncer is at the address that `options` name, for at most `patience` in all.
///
/// # Errors
/// [`NotAsked`] when nobody answers there, or nobody whom we know.
pub async fn pooler(options: &PostgresOptions, patience: Duration) -> Result<Pooler, NotAsked> {
    let console = PostgresOptions {
        database: CONSOLE.to_owned(),
        // Of several hosts the one that takes writes is used, and a console can't be asked for it.
        hosts: options.hosts.iter().take(1).cloned().collect(),
        ..options.clone()
    };
    let connector = Connector::to_console(&console).map_err(|error| NotAsked::options(&error))?;
    within(connector.address(), patience, async {
        let fault = match connector.connect().await {
            Ok((connected, _)) => match pool(options, &connected).await {
                Ok(pool) => return Ok(Pooler::Open(pool)),
                Err(fault) => fault,
            },
            Err(fault) => fault,
        };
        match fault.code() {
            // A database of that name on a PostgreSQL: `SHOW CONFIG` is no setting of it.
            Some("3D000" | "42704" | "42601") => Ok(Pooler::None),
            Some("08P01") if fault.text().contains("not allowed") => {
                Ok(Pooler::Closed(lends_sessions(options).await))
            }
            // No such user in the pooler, or pg_hba.conf names the databases that may be asked for.
            Some("28000") => Ok(Pooler::None),
            _ => Err(NotAsked::new(connector.address(), &fault)),
        }
    })
    .await
}

/// A command of the console; its rows by column.
async fn show(connected: &Connected, sql: &str) -> Result<Vec<BTreeMap<String, String>>, Fault> {
    let messages = connected.client.simple_query(sql).await.map_err(Fault::from)?;
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    Ok(rows
        .map(|row| {
            let names = row.columns().iter().map(|column| column.name().to_owned()).enumerate();
            names.filter_map(|(at, name)| Some((name, row.get(at)?.to_owned()))).collect()
        })
        .collect())
}

async fn pool(options: &PostgresOptions, connected: &Connected) -> Result<Pool, Fault> {
    let settings: BTreeMap<String, String> = show(connected, "SHOW CONFIG")
        .await?
        .into_iter()
        .filter_map(|mut row| Some((row.remove("key")?, row.remove("value")?)))
        .collect();
    let named = |rows: Vec<BTreeMap<String, String>>, name: &str| {
        rows.into_iter().find(|row| row.get("name").is_some_and(|found| found == name))
    };
    let database =
        named(show(connected, "SHOW DATABASES").await?, &options.database).unwrap_or_default();
    let user = named(show(connected, "SHOW USERS").await?, &options.user).unwrap_or_default();
    let own = |row: &BTreeMap<String, String>, name: &str| {
        row.get(name).filter(|value| !value.is_empty()).cloned()
    };
    // The user's counts before the database's, and that before everybody's.
    let mode = own(&user, "pool_mode").or_else(|| own(&database, "pool_mode"));
    let size = own(&database, "pool_size").and_then(|size| size.parse().ok());
    let setting = |name: &str| settings.get(name).cloned().unwrap_or_default();
    Ok(Pool {
        mode: mode.unwrap_or_else(|| setting("pool_mode")),
        size: size.unwrap_or_else(|| setting("default_pool_size").parse().unwrap_or_default()),
        paused: ["paused", "disabled"]
            .iter()
            .any(|name| own(&database, name).as_deref() == Some("1")),
        settings,
    })
}

/// Whether two connections that are never busy at a time are lent one session.
async fn lends_sessions(options: &PostgresOptions) -> Option<bool> {
    let connector = connector(options).ok()?;
    let (first, second) = (connect(&connector).await.ok()?, connect(&connector).await.ok()?);
    // Others may take the free one in between, so several times.
    for _ in 0..8 {
        let a = ask(&first, &asked::SESSION, &[]).await.ok()?.first()?.try_get::<_, i32>(0).ok()?;
        let b =
            ask(&second, &asked::SESSION, &[]).await.ok()?.first()?.try_get::<_, i32>(0).ok()?;
        if a == b {
            return Some(true);
        }
    }
    Some(false)
}
