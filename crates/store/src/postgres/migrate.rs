//! Bringing a database to the schema of this program, and checking that it has it.
//!
//! All steps that are missing are one transaction under one advisory lock, so a migration happens
//! whole or not at all, and once however many programs try. The lock is the transaction's: nothing
//! is left behind in a session. On Citus every table is then put where it belongs, in the same
//! transaction, also when there was no other step: that is how a database becomes a cluster. Give the server's own address, not a pooler's: a pooler may have
//! limits of time that are right for everything else.

use std::sync::Arc;
use std::time::Duration;

use shunt_domain::ports::BoxFuture;

use super::citus;
use super::connect::{Connected, Connector};
use super::error::{Fault, PostgresError};
use super::options::PostgresOptions;
use super::schema::{MIGRATIONS, known};
use super::session::Param;
use super::statements::{self, Statement};

/// How long another program may take to migrate.
const PATIENCE: Duration = Duration::from_secs(60);

/// The advisory lock's number: "shunt" and a version of the scheme.
const LOCK: i64 = 0x7368_756e_7401;

/// What a migration did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migrated {
    /// The schema that was found; 0 when there was none.
    pub from: i32,
    /// The schema that is there now.
    pub to: i32,
}

/// Brings the database to this program's schema. Blocks, a minute at most for another program that
/// does the same, and as long as the steps take.
///
/// # Errors
/// [`PostgresError`] says what is in the way and what to do; nothing has changed then.
pub fn migrate(options: &PostgresOptions) -> Result<Migrated, PostgresError> {
    blocking(options, |connector, connected| Box::pin(steps(connector, connected)))
}

/// Does something with a connection of its own, and waits for it on any thread.
pub(super) fn blocking<T: Send + 'static>(
    options: &PostgresOptions,
    work: impl for<'a> FnOnce(&'a Connector, &'a Connected) -> BoxFuture<'a, Result<T, PostgresError>>
    + Send
    + 'static,
) -> Result<T, PostgresError> {
    let connector = Connector::new(options, None, Arc::default())?;
    let work = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| {
            PostgresError::Options(format!("can't start threads for PostgreSQL: {error}"))
        })?;
        runtime.block_on(async {
            let connected = connector.connect().await;
            let (connected, _) = connected.map_err(|fault| connector.explain(&fault))?;
            let done = work(&connector, &connected).await;
            if done.is_err() {
                connected.cut();
            }
            done
        })
    };
    // A thread of its own, because the caller's may have a runtime that must not be blocked twice.
    let thread = std::thread::Builder::new().name("postgres".to_owned()).spawn(work);
    let thread = thread.map_err(|error| {
        PostgresError::Options(format!("can't start threads for PostgreSQL: {error}"))
    })?;
    thread.join().unwrap_or_else(|_| {
        Err(PostgresError::Options(
            "what was asked of PostgreSQL broke off; this is a bug".to_owned(),
        ))
    })
}

/// One statement of the registry.
pub(super) async fn ask(
    connected: &Connected,
    statement: &Statement,
    params: &[Param<'_>],
) -> Result<Vec<tokio_postgres::Row>, Fault> {
    let typed = statement.typed(params);
    connected.client.query_typed(statement.sql, &typed).await.map_err(Fault::from)
}

async fn steps(connector: &Connector, connected: &Connected) -> Result<Migrated, PostgresError> {
    let refused = |what: &str| {
        let what = what.to_owned();
        move |fault: Fault| refusal(connector, what, &fault)
    };
    let begun = connected.client.batch_execute("BEGIN").await.map_err(Fault::from);
    begun.map_err(refused("to begin"))?;
    let patience = PATIENCE.as_millis().to_string();
    ask(connected, &statements::MIGRATION_PATIENCE, &[&patience])
        .await
        .map_err(refused("a limit"))?;
    ask(connected, &statements::MIGRATION_LOCK, &[&LOCK]).await.map_err(refused("the lock"))?;
    ask(connected, &statements::MIGRATIONS_MAKE, &[]).await.map_err(refused("a table"))?;
    let from = applied(connector, connected).await?;
    for migration in MIGRATIONS.iter().filter(|migration| migration.version > from) {
        let what = format!("migration {} ({})", migration.version, migration.name);
        let done = connected.client.batch_execute(migration.sql).await.map_err(Fault::from);
        done.map_err(refused(&what))?;
        let checksum = migration.checksum();
        let note: [Param<'_>; 3] = [&migration.version, &migration.name, &checksum];
        ask(connected, &statements::MIGRATION_NOTE, &note).await.map_err(refused(&what))?;
    }
    let laid_out = citus::lay_out(connected).await;
    laid_out.map_err(|(what, fault)| refusal(connector, what, &fault))?;
    let done = connected.client.batch_execute("COMMIT").await.map_err(Fault::from);
    done.map_err(refused("to commit"))?;
    Ok(Migrated { from, to: known() })
}

/// The highest migration that is applied, after a comparison of all with this program's.
pub(super) async fn applied(
    connector: &Connector,
    connected: &Connected,
) -> Result<i32, PostgresError> {
    let rows = match ask(connected, &statements::MIGRATIONS, &[]).await {
        Ok(rows) => rows,
        // Nobody has migrated this database yet.
        Err(fault) if fault.code() == Some("42P01") => return Ok(0),
        Err(fault) => return Err(refusal(connector, "to read its migrations".to_owned(), &fault)),
    };
    let mut found = 0;
    for row in rows {
        let value = |fault: tokio_postgres::Error| connector.explain(&fault.into());
        let version: i32 = row.try_get(0).map_err(value)?;
        let checksum: i64 = row.try_get(1).map_err(value)?;
        if version > known() {
            return Err(PostgresError::Newer { found: version, known: known() });
        }
        let ours = MIGRATIONS.iter().find(|migration| migration.version == version);
        if ours.is_none_or(|migration| migration.checksum() != checksum) {
            return Err(PostgresError::Foreign { version });
        }
        found = version;
    }
    Ok(found)
}

/// Whether the database has this program's schema.
///
/// # Errors
/// [`PostgresError`] when it has not, or can't be asked.
pub(super) async fn check(connector: &Connector) -> Result<(), PostgresError> {
    let (connected, _) = connector.connect().await.map_err(|fault| connector.explain(&fault))?;
    let found = applied(connector, &connected).await?;
    if found < known() {
        return Err(PostgresError::Outdated { found, known: known() });
    }
    let tables = citus::not_laid_out(&connected).await;
    let tables = tables.map_err(|fault| {
        refusal(connector, "to say how its tables are distributed".to_owned(), &fault)
    })?;
    if !tables.is_empty() {
        return Err(PostgresError::NotDistributed { tables: tables.join(", ") });
    }
    Ok(())
}

fn refusal(connector: &Connector, what: String, fault: &Fault) -> PostgresError {
    let reason = fault.text().to_owned();
    let advice = match fault.code() {
        None => return connector.explain(fault),
        Some("55P03") => return PostgresError::Busy(PATIENCE),
        Some("42501") => "let the owner of the database migrate, or grant CREATE on it",
        Some("0A000" | "58P01") => "install PostgreSQL's contrib modules (pg_trgm)",
        Some("42P07" | "42710") => {
            "the database has tables of these names already: use an empty one"
        }
        Some("25006") => "give the address of the primary",
        Some(_) => "look into the server's log",
    };
    PostgresError::Refused { what, reason, advice }
}
