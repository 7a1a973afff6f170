//! The PostgreSQL server behind `store.url`, and the address for migrations.

use std::time::Duration;

use shunt_store::postgres::doctor::{
    self, Facts, NotAsked, Pooler, Refusal, Slot, Standby, Tables,
};
use shunt_store::postgres::{PostgresError, PostgresOptions};

use crate::config::{AllocatorKind, Config};
use crate::stores;

use super::findings::Findings;
use super::{citus, copies, pooler, problems};

/// How long one address may take to tell all it has to tell.
const PATIENCE: Duration = Duration::from_secs(8);

/// A clock that differs by more makes leases and expiry visibly wrong; by more than the second one
/// nothing can be said about time at all. Milliseconds.
const CLOCK_WARNING: i64 = 1_000;
const CLOCK_WRONG: i64 = 10_000;

/// A transaction that does nothing for so long was forgotten; one that works for so long is no
/// request. Seconds.
const IDLE_TRANSACTION: f64 = 60.0;
const BUSY_TRANSACTION: f64 = 3_600.0;

/// The server takes no writes at about 2,144 million.
const AGE_WARNING: i64 = 1_000_000_000;
const AGE_WRONG: i64 = 1_700_000_000;

/// Idempotency rows are kept for a day and cleared every minute. Seconds.
const OLD_KEY: i64 = 2 * 86_400;

/// What this node asks of a server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Needs {
    /// Connections in all.
    pub(super) connections: u64,
    /// Those of them that write.
    pub(super) writers: u64,
    /// Our own deadline.
    pub(super) request: Duration,
    /// Standbys that are further behind serve only when nothing else answers.
    pub(super) max_lag: Duration,
    /// Codes below which the pool is refilled; `None` when codes come from elsewhere.
    pub(super) pool_refill_below: Option<u64>,
}

impl Needs {
    fn of(config: &Config, options: &PostgresOptions) -> Self {
        let pool = config.links.allocator == AllocatorKind::Pool;
        Self {
            connections: stores::postgres_connections(config, options) as u64,
            writers: config.store.writers as u64,
            request: config.timeouts.request,
            max_lag: config.store.max_lag,
            pool_refill_below: pool.then_some(config.links.pool_refill_below),
        }
    }
}

/// Looks at the database that `options` name and what is in front of it; answers whether the
/// service can use it.
pub(super) async fn check(
    config: &Config,
    options: &PostgresOptions,
    findings: &mut Findings,
) -> bool {
    let needs = Needs::of(config, options);
    // Who can't be asked here is told of below, where the real database is asked for.
    let between = doctor::pooler(options, PATIENCE).await.unwrap_or(Pooler::None);
    let direct = config.store.migrate.as_deref();
    let passes = pooler::judge(&between, &needs, findings);
    let copies = match passes {
        true => copies::look(config, options).await,
        // Nothing that goes through the pooler would be answered.
        false => Ok(None),
    };
    let copies = match copies {
        Ok(copies) => copies,
        Err(error) => {
            findings.wrong(&problems::POSTGRES_OPTIONS, error.to_string());
            return false;
        }
    };
    let before = findings.0.len();
    let primary = copies.as_ref().and_then(|copies| {
        copies.judge(options, findings);
        copies.primary.as_ref()
    });
    let way = if passes { primary.or(Some(options)) } else { direct };
    let Some(way) = way else { return false };
    let facts = match doctor::look(way, PATIENCE).await {
        Ok(facts) => facts,
        Err(refused) => {
            refusal(&refused, findings);
            return false;
        }
    };
    // That no copy takes writes is said.
    if copies.is_some() && primary.is_none() {
        return false;
    }
    let usable = judge(&facts, &needs, copies.is_some(), findings);
    match &between {
        Pooler::None => connections(&facts, &needs, findings),
        Pooler::Open(pool) => pooler::against(pool, &facts, findings),
        Pooler::Closed(_) => {}
    }
    migrations(direct, &facts, between != Pooler::None, findings).await;
    let usable = usable && citus::check(way, PATIENCE, findings).await;
    if findings.0.len() == before {
        let known = facts.tables.as_ref().map_or(0, |tables| tables.known);
        findings.fine("postgres", format!("{} has schema {known}", facts.address));
        let standbys = facts.standbys.as_ref().map_or(0, Vec::len);
        findings.fine("standby", format!("{standbys} follow"));
    }
    passes && usable
}

fn refusal(refused: &NotAsked, findings: &mut Findings) {
    let problem = match refused.why {
        Refusal::Password => &problems::POSTGRES_PASSWORD,
        Refusal::Denied => &problems::POSTGRES_DENIED,
        Refusal::NoDatabase => &problems::POSTGRES_DATABASE,
        Refusal::Full => &problems::POSTGRES_FULL,
        Refusal::Options => &problems::POSTGRES_OPTIONS,
        Refusal::Unreachable => &problems::POSTGRES_UNREACHABLE,
    };
    findings.wrong(problem, refused.to_string());
}

/// The address for migrations: it leads past the pooler, to the same database.
async fn migrations(
    direct: Option<&PostgresOptions>,
    facts: &Facts,
    pooled: bool,
    findings: &mut Findings,
) {
    let Some(options) = direct else {
        if pooled {
            let text = "store.url leads through PgBouncer and store.migrate is not set";
            findings.warn(&problems::MIGRATE_POOLED, text);
        }
        return;
    };
    if matches!(doctor::pooler(options, PATIENCE).await, Ok(Pooler::Open(_) | Pooler::Closed(_))) {
        let text = format!("a PgBouncer answers at store.migrate, {}", options.address());
        findings.warn(&problems::MIGRATE_POOLED, text);
    }
    match doctor::look(options, PATIENCE).await {
        Err(refused) => findings.warn(&problems::MIGRATE_UNREACHABLE, refused.to_string()),
        Ok(there) => elsewhere(facts, &there, findings),
    }
}

fn elsewhere(facts: &Facts, there: &Facts, findings: &mut Findings) {
    let differs = matches!((facts.identity, there.identity), (Some(a), Some(b)) if a != b);
    let address = &there.address;
    if differs {
        let text = format!("{address} is not the database of store.url");
        findings.wrong(&problems::MIGRATE_ELSEWHERE, text);
    } else if there.in_recovery && !facts.in_recovery {
        let text = format!("{address} is a standby of the database of store.url");
        findings.wrong(&problems::MIGRATE_ELSEWHERE, text);
    }
}

/// Connections that the server has for ordinary users.
pub(super) fn room(facts: &Facts) -> u64 {
    let room = facts.number("max_connections") - facts.number("superuser_reserved_connections");
    u64::try_from(room).unwrap_or_default()
}

fn connections(facts: &Facts, needs: &Needs, findings: &mut Findings) {
    let (room, needed) = (room(facts), needs.connections);
    if room < needed {
        let text = format!("the server has {room} for users, this node makes {needed}");
        findings.wrong(&problems::POSTGRES_CONNECTIONS, text);
    }
}

/// Judges what a server said of itself; answers whether the service can use it. How the standbys
/// are doing is not judged by it where they are `named` and were asked themselves.
pub(super) fn judge(facts: &Facts, needs: &Needs, named: bool, findings: &mut Findings) -> bool {
    let usable = role(facts, findings) & schema(facts, needs, findings);
    durability(facts, findings);
    if !named {
        standbys(facts, needs.max_lag, findings);
    }
    slots(facts, findings);
    upkeep(facts, needs, findings);
    hidden(facts, findings);
    usable
}

/// Whether it takes writes.
fn role(facts: &Facts, findings: &mut Findings) -> bool {
    if facts.in_recovery {
        findings.wrong(&problems::POSTGRES_STANDBY, format!("{} is a standby", facts.address));
    } else if facts.read_only {
        let text = format!("{} gives {} read-only transactions", facts.address, facts.user);
        findings.wrong(&problems::POSTGRES_READ_ONLY, text);
    }
    !facts.in_recovery && !facts.read_only
}

fn schema(facts: &Facts, needs: &Needs, findings: &mut Findings) -> bool {
    if facts.encoding != "UTF8" {
        let text = format!("the database stores texts as {}", facts.encoding);
        findings.wrong(&problems::POSTGRES_ENCODING, text);
    }
    let tables = match &facts.tables {
        Ok(tables) => tables,
        Err(error @ (PostgresError::Newer { .. } | PostgresError::Foreign { .. })) => {
            findings.wrong(&problems::POSTGRES_SCHEMA_FOREIGN, error.to_string());
            return false;
        }
        Err(PostgresError::Refused { what, reason, .. }) => {
            findings.wrong(&problems::POSTGRES_GRANTS, format!("{what}: {reason}"));
            return false;
        }
        Err(error) => {
            findings.wrong(&problems::POSTGRES_UNREACHABLE, error.to_string());
            return false;
        }
    };
    let Tables { version, known, missing, forbidden, invalid_indexes, .. } = tables;
    if version < known {
        let text = match version {
            0 => format!("the database has no tables of shunt, this version needs schema {known}"),
            _ => format!("the database has schema {version}, this version needs {known}"),
        };
        findings.wrong(&problems::POSTGRES_SCHEMA, text);
        return false;
    }
    if !missing.is_empty() {
        let text = format!("{} can't find {}", facts.user, missing.join(", "));
        findings.wrong(&problems::POSTGRES_TABLES, text);
    }
    if !forbidden.is_empty() {
        let text = format!("{} may not read and write {}", facts.user, forbidden.join(", "));
        findings.wrong(&problems::POSTGRES_GRANTS, text);
    }
    if !invalid_indexes.is_empty() {
        let text = format!("{} can't be used", invalid_indexes.join(", "));
        findings.warn(&problems::POSTGRES_INDEX, text);
    }
    if !facts.has_trigrams {
        findings.wrong(&problems::POSTGRES_TRIGRAMS, "the extension pg_trgm is not there");
    }
    if let (Some(below), Ok(codes)) = (needs.pool_refill_below, &tables.pooled_codes) {
        let codes = u64::try_from(*codes).unwrap_or_default();
        if codes == 0 {
            findings.wrong(&problems::POOL_LOW, "the pool has no codes");
        } else if codes < below {
            let text = format!("the pool has {codes} codes, links.pool_refill_below is {below}");
            findings.warn(&problems::POOL_LOW, text);
        }
    }
    if let Ok(oldest) = tables.oldest_key_seconds
        && oldest > OLD_KEY
    {
        let text = format!("the oldest idempotency key is {} h old", oldest / 3_600);
        findings.warn(&problems::POSTGRES_IDEMPOTENCY, text);
    }
    missing.is_empty() && forbidden.is_empty()
}

/// How many standbys a commit waits for.
fn awaited(names: &str) -> usize {
    let names = names.trim().to_ascii_lowercase();
    if names.is_empty() {
        return 0;
    }
    let list = names.strip_prefix("any").or_else(|| names.strip_prefix("first"));
    let list = list.filter(|rest| rest.starts_with(' ')).unwrap_or(&names).trim_start();
    let number = list.split_once('(').and_then(|(number, _)| number.trim().parse().ok());
    number.unwrap_or(1)
}

fn durability(facts: &Facts, findings: &mut Findings) {
    if facts.setting("fsync") == "off" {
        findings.wrong(&problems::POSTGRES_FSYNC, "fsync is off");
    }
    if facts.setting("full_page_writes") == "off" {
        findings.wrong(&problems::POSTGRES_TORN, "full_page_writes is off");
    }
    let commit = facts.setting("synchronous_commit");
    let names = facts.setting("synchronous_standby_names");
    if commit == "off" {
        findings.wrong(&problems::POSTGRES_COMMIT, "synchronous_commit is off");
    } else if commit == "local" && !names.is_empty() {
        let text = "synchronous_commit is local, so no commit waits for synchronous_standby_names";
        findings.warn(&problems::POSTGRES_COMMIT, text);
    }
    let waits = !matches!(commit, "off" | "local") && !facts.in_recovery;
    if let (true, Ok(standbys)) = (waits, &facts.standbys) {
        let there = standbys.iter().filter(|standby| {
            matches!(standby.sync_state.as_str(), "sync" | "quorum") && standby.state == "streaming"
        });
        let (needed, there) = (awaited(names), there.count());
        if there < needed {
            let text = format!(
                "commits wait for {needed} of synchronous_standby_names, {there} are there"
            );
            findings.wrong(&problems::POSTGRES_SYNC_STANDBY, text);
        }
    }
}

const MIB: i64 = 1 << 20;

fn standbys(facts: &Facts, max_lag: Duration, findings: &mut Findings) {
    for Standby { name, state, lag_seconds, behind_bytes, .. } in
        facts.standbys.as_deref().unwrap_or_default()
    {
        if state != "streaming" {
            let text = format!("{name} is in state {state}, {} MiB behind", behind_bytes / MIB);
            findings.warn(&problems::STANDBY_NOT_STREAMING, text);
        } else if *lag_seconds > max_lag.as_secs_f64() {
            let text =
                format!("{name} is {lag_seconds:.0} s and {} MiB behind", behind_bytes / MIB);
            findings.warn(&problems::STANDBY_LAG, text);
        }
    }
}

fn slots(facts: &Facts, findings: &mut Findings) {
    // What a server keeps in ordinary operation.
    let ordinary = facts.number("max_wal_size").max(64) * MIB;
    let bound = match facts.number("max_slot_wal_keep_size") {
        -1 => "without a bound".to_owned(),
        bound => format!("up to {bound} MiB"),
    };
    for Slot { name, active, wal_status, retained_bytes } in
        facts.slots.as_deref().unwrap_or_default()
    {
        let kept = format!("slot {name} keeps {} MiB of the log, {bound}", retained_bytes / MIB);
        if wal_status == "lost" {
            findings.wrong(&problems::SLOT_LOST, format!("slot {name} has lost its log"));
        } else if !active && (*retained_bytes > ordinary || wal_status == "unreserved") {
            findings.wrong(&problems::SLOT_RETAINS, kept);
        } else if !active {
            findings.warn(&problems::STANDBY_AWAY, kept);
        }
    }
}

fn upkeep(facts: &Facts, needs: &Needs, findings: &mut Findings) {
    let ahead = facts.clock_ahead_millis;
    let off = ahead.abs().saturating_sub(facts.clock_error_millis);
    if off > CLOCK_WARNING {
        let way = if ahead > 0 { "ahead of" } else { "behind" };
        let seconds = ahead.unsigned_abs() as f64 / 1e3;
        let text = format!("the server's clock is {seconds:.1} s {way} this machine's");
        if off > CLOCK_WRONG {
            findings.wrong(&problems::POSTGRES_CLOCK, text);
        } else {
            findings.warn(&problems::POSTGRES_CLOCK, text);
        }
    }
    for name in ["autovacuum", "track_counts"] {
        if facts.setting(name) == "off" {
            findings.warn(&problems::POSTGRES_AUTOVACUUM, format!("{name} is off"));
        }
    }
    let age = facts.transaction_age;
    let text = format!("{} million transactions are not frozen", age / 1_000_000);
    if age > AGE_WRONG {
        findings.wrong(&problems::POSTGRES_WRAPAROUND, text);
    } else if age > AGE_WARNING {
        findings.warn(&problems::POSTGRES_WRAPAROUND, text);
    }
    let forgotten = facts.transactions.as_deref().unwrap_or_default().iter().find(|open| {
        let idle = open.state.starts_with("idle");
        open.seconds > if idle { IDLE_TRANSACTION } else { BUSY_TRANSACTION }
    });
    if let Some(open) = forgotten {
        let (pid, state, name) = (open.pid, &open.state, &open.application);
        let text = format!("process {pid} of {name:?} is {state} since {:.0} s", open.seconds);
        findings.warn(&problems::POSTGRES_TRANSACTIONS, text);
    }
    let timeout = Duration::from_millis(facts.number("statement_timeout").unsigned_abs());
    if !timeout.is_zero() && timeout < needs.request {
        let text =
            format!("statement_timeout is {timeout:?}, timeouts.request is {:?}", needs.request);
        findings.warn(&problems::POSTGRES_TIMEOUT, text);
    }
}

/// What could not be looked at.
fn hidden(facts: &Facts, findings: &mut Findings) {
    let looked = [
        ("standbys", facts.standbys.as_ref().err()),
        ("open transactions", facts.transactions.as_ref().err()),
        ("replication slots", facts.slots.as_ref().err()),
    ];
    let names: Vec<&str> =
        looked.iter().filter(|(_, why)| why.is_some()).map(|(name, _)| *name).collect();
    if let Some(why) = looked.iter().find_map(|(_, why)| *why) {
        let text = format!("{} can't be looked at ({why})", names.join(" and "));
        findings.warn(&problems::POSTGRES_HIDDEN, text);
    }
}

#[cfg(test)]
mod tests;
