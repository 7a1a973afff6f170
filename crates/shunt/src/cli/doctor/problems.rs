//! Every problem that `shunt doctor` can find: what it looks like, why it matters, what to do.
//!
//! `docs/troubleshooting.md` is this list (`shunt doctor --explain`). Ids are for scripts and never
//! change their meaning.

use std::fmt::Write as _;

/// A kind of problem.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// Its name for programs: the check, then what is wrong with it.
    pub(super) id: &'static str,
    /// What one sees of it without this command.
    pub(super) symptom: &'static str,
    /// Why it matters.
    pub(super) why: &'static str,
    /// What to do.
    pub(super) remedy: &'static str,
}

macro_rules! problems {
    ($($title:literal: { $($name:ident = $id:literal, $symptom:literal, $why:literal, $remedy:literal;)* })*) => {
        $($(
            pub(super) static $name: Problem =
                Problem { id: $id, symptom: $symptom, why: $why, remedy: $remedy };
        )*)*
        /// All of them, under their headings.
        static ALL: &[(&str, &[&Problem])] = &[$(($title, &[$(&$name),*])),*];
    };
}

problems! {
    "Settings and machine": {
        SETTINGS_UNKNOWN = "settings-unknown",
            "A setting has no effect.",
            "a setting that nobody reads changes nothing",
            "correct its name, or take it out";
        DIRECTORY_MISSING = "directory-missing",
            "Nothing starts.",
            "shunt keeps its node number, spool and sockets there",
            "make the directory, or name the right one with data_dir";
        DIRECTORY_OWNER = "directory-owner",
            "Commands of one user can't use what another's server made.",
            "files made by the wrong user can't be opened by the right one",
            "run shunt as the user that owns the directory";
        DIRECTORY_OPEN = "directory-open",
            "None, until somebody uses it.",
            "others may change links, or act as an administrator through the socket",
            "take the others' rights away with chmod";
        DISK_UNKNOWN = "disk-unknown",
            "None.",
            "a disk that fills up would not be noticed",
            "look at the directory's file system";
        DISK_SPACE = "disk-space",
            "Creates answer 507; clicks are reported lost.",
            "a full disk takes no links and no clicks",
            "free some space, or grow the disk";
        DISK_NETWORK = "disk-network",
            "Damaged databases after two machines wrote.",
            "SQLite's locks can't be relied on there",
            "move the directory to a local disk";
        CLOCK_UNSET = "clock-unset",
            "Links expire, or begin, at the wrong time.",
            "links end by the clock on the wall",
            "set the machine's clock, and keep it with NTP";
        CLOCK_BACK = "clock-back",
            "Links that were made last stand behind older ones.",
            "the clock was set back",
            "look at the machine's clock and its NTP service";
        FILES_LIMIT = "files-limit",
            "Connections are refused under load.",
            "each connection needs an open file",
            "raise ulimit -n, or lower limits.max_connections";
    }
    "The service": {
        STORE_CLOSED = "store-closed",
            "Commands and the server end with this message.",
            "nothing can be read or changed without the store",
            "do what the message says and run the check again";
        STORE_DAMAGED = "store-damaged",
            "Some links answer 503, or are not listed.",
            "what is stored contradicts itself",
            "restore a backup with `shunt restore`";
        CLICKS_UNREADABLE = "clicks-unreadable",
            "No statistics.",
            "clicks can't be accounted for",
            "do what the message says";
        CLICKS_OVER = "clicks-overcounted",
            "Statistics are too high.",
            "a click was counted twice",
            "report this as a bug, with the report of this command";
        CLICKS_LOST = "clicks-lost",
            "Statistics are too low by that much.",
            "the spool or its disk was full",
            "raise clicks.spool_bytes, or look at the disk";
        CLICKS_WAITING = "clicks-waiting",
            "Statistics are behind.",
            "the worker has not caught up, or does not run",
            "wait; if it stays so, look at clicks.worker and at /readyz";
    }
    "PostgreSQL: getting in": {
        POSTGRES_UNREACHABLE = "postgres-unreachable",
            "Redirects that are not cached and all creates answer 503.",
            "without the database nothing but cached links is served",
            "check the address in store.url, that the server runs, and the network between";
        POSTGRES_PASSWORD = "postgres-password",
            "The server does not start.",
            "the server does not know this user by this password",
            "correct store.url, or the role's password with ALTER ROLE; behind a pooler its \
             auth_file as well";
        POSTGRES_DENIED = "postgres-denied",
            "The server does not start, on this machine or as this user.",
            "the server's pg_hba.conf lets nobody in like this",
            "add a line to pg_hba.conf for this user, database and address, and reload it";
        POSTGRES_DATABASE = "postgres-database",
            "The server does not start.",
            "store.url names a database that is not there",
            "make it with createdb, or correct store.url";
        POSTGRES_FULL = "postgres-full",
            "Nodes that start later don't get in.",
            "all connections are taken",
            "raise max_connections (behind PgBouncer its max_client_conn), lower store.writers, or \
             put PgBouncer in between";
        POSTGRES_OPTIONS = "postgres-options",
            "The server does not start.",
            "the address or a file that it names can't be used",
            "correct store.url";
        POSTGRES_STANDBY = "postgres-standby",
            "Creates answer 503; redirects go on.",
            "store.url names a standby, which takes no writes",
            "name the primary, or all servers of the database: host1,host2";
        POSTGRES_NO_PRIMARY = "postgres-no-primary",
            "Creates answer 503; redirects go on.",
            "a standby does not take over by itself",
            "start the primary, or promote a standby (pg_ctl promote)";
        POSTGRES_READ_ONLY = "postgres-read-only",
            "Creates answer 503; redirects go on.",
            "the server gives this user read-only transactions",
            "set default_transaction_read_only = off for the role, the database and the server";
        POSTGRES_HIDDEN = "postgres-hidden",
            "This command says less than it could.",
            "this can't be looked at by an ordinary user",
            "GRANT pg_monitor to the user that shunt logs in as";
    }
    "PostgreSQL: the schema": {
        POSTGRES_SCHEMA = "postgres-schema",
            "The server does not start.",
            "the tables are not those that this version works with",
            "run `shunt migrate`";
        POSTGRES_SCHEMA_FOREIGN = "postgres-schema-foreign",
            "The server does not start.",
            "this version does not know what it would break",
            "start the version of shunt that migrated this database, or name another database";
        POSTGRES_TABLES = "postgres-tables",
            "Some requests answer 503.",
            "what a migration made was taken away, or is outside the user's search_path",
            "restore the tables from a backup, or set the role's search_path";
        POSTGRES_GRANTS = "postgres-grants",
            "Some requests answer 503.",
            "every node reads and writes all tables",
            "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES and USAGE ON ALL SEQUENCES to the \
             user that shunt logs in as";
        POSTGRES_INDEX = "postgres-index",
            "Lists or creates are slow.",
            "an index that was not finished is written to and never used",
            "REINDEX INDEX CONCURRENTLY, or drop it";
        POSTGRES_TRIGRAMS = "postgres-trigrams",
            "Searches take seconds.",
            "without pg_trgm searches read every link",
            "CREATE EXTENSION pg_trgm (contrib), and make the index links_words again";
        POSTGRES_ENCODING = "postgres-encoding",
            "Titles come back as noise, or are refused.",
            "texts are UTF-8",
            "make a new database with ENCODING 'UTF8' and copy the links into it";
        POOL_LOW = "pool-low",
            "Soon creates without a code of their own answer 503.",
            "the allocator takes codes from the pool alone",
            "run `shunt keys fill`, and see that a node refills it (links.pool_refill_below)";
        POSTGRES_IDEMPOTENCY = "postgres-idempotency",
            "The table idempotency grows.",
            "keys are kept for a day; no node clears older ones",
            "see that a node runs, and look into its log for what stops it";
    }
    "PostgreSQL: durability": {
        POSTGRES_FSYNC = "postgres-fsync",
            "None, until the power fails: then links are gone or the cluster is damaged.",
            "an acknowledged link must survive a power cut",
            "set fsync = on and restart the server";
        POSTGRES_TORN = "postgres-full-page-writes",
            "None, until the power fails: then pages may be half-written.",
            "a page torn by a crash can't be repaired",
            "set full_page_writes = on";
        POSTGRES_COMMIT = "postgres-synchronous-commit",
            "None, until the server crashes: then the last links are gone.",
            "a link is acknowledged before it is on the disk",
            "set synchronous_commit = on for the server, the database and the role";
        POSTGRES_SYNC_STANDBY = "postgres-synchronous-standby",
            "Creates hang and answer 503 with an unknown outcome.",
            "commits wait for a standby that is not there",
            "start it, or correct synchronous_standby_names (its cluster_name or \
             application_name)";
    }
    "PostgreSQL: standbys and the log": {
        STANDBY_AWAY = "standby-away",
            "Fewer copies than you think.",
            "nobody reads from this slot, so that standby does not follow; the log is kept for it",
            "start the standby and look into its log, or drop the slot with \
             pg_drop_replication_slot";
        STANDBY_UNREACHABLE = "standby-unreachable",
            "Redirects have fewer copies to read from.",
            "a copy that does not answer helps nobody when the primary goes",
            "look whether it runs, and whether the addresses in store.url and store.replicas are \
             right";
        STANDBY_FOREIGN = "standby-foreign",
            "None of that server's load is taken over.",
            "it has another system identifier, so it is no copy of this database",
            "make it anew with pg_basebackup, or take it out of store.replicas";
        STANDBY_RIVAL = "standby-rival",
            "Links that others write there are seen by nobody.",
            "two servers think that they are the primary; shunt writes to one alone",
            "stop the other one and make it a standby (pg_rewind or pg_basebackup)";
        STANDBY_NOT_STREAMING = "standby-not-streaming",
            "Redirects from that standby are late.",
            "what it shows gets older for as long as the log does not stream to it",
            "look into its log, and at primary_conninfo and primary_slot_name; if it stays so make \
             it anew with pg_basebackup";
        STANDBY_LAG = "standby-lag",
            "Changes show late; redirects go to other copies.",
            "a standby further behind than store.max_lag serves only when nothing else answers",
            "look at the standby's disk, its network, recovery_min_apply_delay and long queries \
             on it";
        SLOT_RETAINS = "slot-retains-wal",
            "The disk of the server fills up; then it stops.",
            "a slot that nobody reads keeps the log for ever",
            "start the standby, or drop the slot; set max_slot_wal_keep_size as a bound";
        SLOT_LOST = "slot-lost",
            "The standby does not come back.",
            "the log that it still needs was removed",
            "drop the slot and make the standby anew with pg_basebackup";
    }
    "PostgreSQL: upkeep": {
        POSTGRES_CONNECTIONS = "postgres-connections",
            "Writes wait, or a second node does not get in.",
            "the server has fewer connections for users than this node makes",
            "raise max_connections, lower store.writers, or put PgBouncer in between";
        POSTGRES_CLOCK = "postgres-clock",
            "Leases and expiry are judged differently by different nodes.",
            "the server's clock and this machine's differ",
            "keep both with NTP";
        POSTGRES_AUTOVACUUM = "postgres-autovacuum",
            "Tables grow and get slow; in the end the server takes no writes.",
            "dead rows are never removed",
            "set autovacuum = on and track_counts = on";
        POSTGRES_WRAPAROUND = "postgres-wraparound",
            "The server stops taking writes at two thousand million.",
            "old transactions were not frozen for long",
            "find what holds vacuum up (long transactions, slots, prepared transactions), then \
             VACUUM FREEZE";
        POSTGRES_TRANSACTIONS = "postgres-open-transaction",
            "Tables grow; migrations wait.",
            "a transaction that stays open keeps vacuum from removing anything",
            "end it with pg_terminate_backend, and set idle_in_transaction_session_timeout";
        POSTGRES_TIMEOUT = "postgres-statement-timeout",
            "Long lists, exports and imports end with 503.",
            "the server ends statements before shunt's own deadlines",
            "set statement_timeout = 0 for the role: shunt has its own";
    }
    "PgBouncer": {
        POOLER_PAUSED = "pooler-paused",
            "Everything that is not cached answers 503.",
            "it holds back all who ask for this database",
            "RESUME or ENABLE the database on PgBouncer's console";
        POOLER_SESSION = "pooler-session-mode",
            "With several nodes some get no connection at all.",
            "each of shunt's connections keeps one of the server's for itself",
            "set pool_mode = transaction";
        POOLER_STATEMENT = "pooler-statement-mode",
            "Creates answer 503.",
            "transactions of more than one statement are refused",
            "set pool_mode = transaction";
        POOLER_SIZE = "pooler-size",
            "Writes wait under load.",
            "more writes are under way at a time than the pool has connections",
            "raise default_pool_size (or the database's pool_size), or lower store.writers";
        POOLER_OVERSIZED = "pooler-oversized",
            "Under load PgBouncer is refused with \"too many clients\".",
            "the pool may grow beyond what the server takes",
            "raise the server's max_connections, or lower the pool";
        POOLER_CLIENTS = "pooler-clients",
            "A node does not get all of its connections.",
            "it refuses clients beyond this",
            "raise max_client_conn, and the service's limit of open files with it";
        POOLER_WAITS = "pooler-waits-forever",
            "After the server was away, old requests come first.",
            "a client waits for ever for a connection that nobody needs any more",
            "set query_wait_timeout = 5";
        POOLER_TIMEOUT = "pooler-query-timeout",
            "Long lists, exports and imports break off.",
            "it ends statements before shunt's own deadlines",
            "set query_timeout = 0";
        MIGRATE_POOLED = "migrate-pooled",
            "A migration hangs, or breaks off half-way through its wait.",
            "migrations go through the pooler and its limits of time",
            "name the server's own address as store.migrate";
        MIGRATE_UNREACHABLE = "migrate-unreachable",
            "The next upgrade stops at `shunt migrate`.",
            "the address for migrations can't be used",
            "correct store.migrate";
        MIGRATE_ELSEWHERE = "migrate-elsewhere",
            "`shunt migrate` succeeds and the server still does not start.",
            "store.migrate and store.url lead to different databases",
            "correct store.migrate";
    }
    "Citus": {
        CITUS_TABLE = "citus-table",
            "The server does not start, or one node does the work of all.",
            "a table is not where its statements look for it",
            "run `shunt migrate`";
        CITUS_PRIMARY_KEY = "citus-primary-key",
            "A rebalance stops.",
            "its shards can't move while they are written to",
            "add a primary key that begins with the distribution column";
        CITUS_WAL_LEVEL = "citus-wal-level",
            "A rebalance stops.",
            "shards can't move away from a node without logical decoding while they are written \
             to",
            "set wal_level = logical there and restart it";
        CITUS_INACTIVE = "citus-node-inactive",
            "Less room than you think.",
            "the node takes no part in the cluster",
            "SELECT citus_activate_node(host, port) on the coordinator, or remove it there";
        CITUS_UNREACHABLE = "citus-node-unreachable",
            "Some links answer 503.",
            "what is in its shards is unavailable",
            "start it, or put a standby in its place with citus_update_node";
        CITUS_WORKERS = "citus-workers",
            "No node is faster than one.",
            "the coordinator has all shards",
            "SELECT citus_add_node(host, port) for each worker, then citus_rebalance_start()";
        CITUS_COORDINATOR = "citus-coordinator",
            "Creates and lists are slower.",
            "every read of a small table costs a worker",
            "SELECT citus_set_coordinator_host(host, port)";
        CITUS_HIDDEN = "citus-hidden",
            "This command says less than it could.",
            "the cluster can't be looked over",
            "do what the message says";
    }
    "Redis": {
        REDIS_UNREACHABLE = "redis-unreachable",
            "Redirects ask the store; nodes hear of each other's changes late.",
            "the shared cache, the bus and the limits are out of use",
            "check the address in cache.url, that the server runs, and the network between";
        REDIS_PASSWORD = "redis-password",
            "Redirects ask the store; nodes hear of each other's changes late.",
            "Redis does not let us in, or not to these commands",
            "correct the user and the password in cache.url, or the server's requirepass or ACL";
        REDIS_NODE = "redis-node",
            "Part of the cache is out of use.",
            "a node of the cluster can't be reached from this machine",
            "start it, or correct cluster-announce-ip and the firewall";
        REDIS_NOT_CLUSTER = "redis-not-cluster",
            "The cache is out of use.",
            "cache.url names a cluster and this server is alone",
            "write redis:// instead of redis-cluster://, or set cluster-enabled yes";
        REDIS_IS_CLUSTER = "redis-is-cluster",
            "Most of the cache is out of use.",
            "cache.url names a single server, and a node of a cluster has part of the keys",
            "write redis-cluster:// and several of its nodes";
        REDIS_CLUSTER_FAIL = "redis-cluster-fail",
            "The cache is out of use.",
            "a cluster in this state answers nothing",
            "look at `redis-cli --cluster check`; start what is down, or give its slots to others";
        REDIS_SLOTS = "redis-slots",
            "Part of the cache is out of use.",
            "nobody serves the keys of these slots",
            "run `redis-cli --cluster fix`";
        REDIS_REPLICA = "redis-replica",
            "When that master goes, part of the cache goes too.",
            "nobody can take over from a master without a replica",
            "start its replica, or add one with `redis-cli --cluster add-node`";
        REDIS_LINK = "redis-replica-link",
            "When its master goes, counters go back.",
            "a replica that does not follow takes over with old data",
            "look into its log; masterauth has to be the master's requirepass";
        REDIS_MEMORY = "redis-memory",
            "The machine runs out of memory.",
            "without a bound the cache grows until it is killed",
            "set maxmemory";
        REDIS_POLICY = "redis-policy",
            "When it is full, nothing new is cached, and the limits fail.",
            "a cache throws the least used away",
            "set maxmemory-policy allkeys-lru";
        REDIS_AOF = "redis-aof",
            "After a restart it is empty, and counters go back.",
            "nothing of it is on the disk",
            "set appendonly yes";
        REDIS_FLUSH = "redis-flushall",
            "None, until somebody types it.",
            "one word empties the cache of all nodes",
            "rename-command FLUSHALL \"\" and FLUSHDB \"\" in redis.conf";
        REDIS_LOADING = "redis-loading",
            "Redirects ask the store for a while.",
            "it answers nothing until its data are read",
            "wait";
    }
}

/// The page `docs/troubleshooting.md`.
pub(super) fn page() -> String {
    let mut page = String::from(
        "# When something is wrong\n\n\
         `shunt doctor` looks at the settings, the machine, the store and what is in front of it, \
         and says of each problem what it is, why it matters and what to do. It changes nothing, \
         works while the server runs, and ends with 1 when something is wrong. `--json` gives \
         each finding the `id` that stands here; ids don't change.\n\n\
         This page is made with `shunt doctor --explain`.\n",
    );
    for (title, problems) in ALL {
        // Writing to a String can't fail.
        let _ = write!(
            page,
            "\n## {title}\n\n| id | what you see | why | what to do |\n|---|---|---|---|\n"
        );
        for Problem { id, symptom, why, remedy } in *problems {
            let _ = writeln!(page, "| `{id}` | {symptom} | {why} | {remedy} |");
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ids_are_unique_and_fit_for_programs() {
        let all: Vec<&str> =
            ALL.iter().flat_map(|(_, problems)| problems.iter().map(|p| p.id)).collect();
        let unique: BTreeSet<&&str> = all.iter().collect();
        assert_eq!(unique.len(), all.len());
        for id in all {
            assert!(id.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{id}");
            assert!(id.contains('-'), "{id} names no check");
        }
    }

    #[test]
    fn every_problem_is_said_in_one_line_without_marks() {
        for Problem { id, symptom, why, remedy } in ALL.iter().flat_map(|(_, all)| *all) {
            for text in [symptom, why, remedy] {
                assert!(!text.is_empty() && !text.contains(['\n', '|']), "{id}: {text}");
            }
            // They go on behind a colon and a semicolon.
            assert!(!why.ends_with('.') && !remedy.ends_with('.'), "{id}");
        }
    }

    #[test]
    fn the_page_is_fresh() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/troubleshooting.md");
        let found = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            found == page(),
            "docs/troubleshooting.md is stale; run: cargo run -- doctor --explain > \
             docs/troubleshooting.md"
        );
    }
}
