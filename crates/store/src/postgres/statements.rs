//! Every statement that this store sends, with what it asks of a cluster.
//!
//! Where each table lives on Citus is said in [`super::citus`]; the class says how many nodes a
//! statement needs there. What redirects and single creates send is [`Class::Router`]; tests hold
//! the real server's opinion of every text against this table, plain and Citus.

use std::fmt::Write as _;

use tokio_postgres::types::Type;

use super::session::Param;

/// How many nodes of a cluster a statement needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// One shard, named by the distribution column.
    Router,
    /// A small table that every node has: read where one is, written everywhere.
    Reference,
    /// All shards, or those of many rows.
    MultiShard,
    /// Makes or fills tables.
    Ddl,
    /// For a database that is one shard of several and not a cluster.
    Shard,
    /// About a cluster's own tables and nodes: other servers don't understand it.
    Cluster,
    /// Nothing but the server that is asked: tables that it alone has, or no table at all.
    Local,
}

/// A statement with one text.
#[derive(Debug)]
pub struct Statement {
    /// Its name here.
    pub name: &'static str,
    /// What it asks of a cluster.
    pub class: Class,
    /// The text.
    pub sql: &'static str,
    types: &'static [Type],
}

impl Statement {
    /// The parameters with their types. Types are named so that the server is asked once, with
    /// everything, and prepares nothing that lasts.
    pub(super) fn typed<'a>(&self, params: &[Param<'a>]) -> Vec<(Param<'a>, Type)> {
        debug_assert_eq!(params.len(), self.types.len(), "{}", self.name);
        params.iter().copied().zip(self.types.iter().cloned()).collect()
    }
}

/// A statement for any number of rows: `INSERT … VALUES (…), (…) …`.
#[derive(Debug)]
pub(super) struct Rows {
    name: &'static str,
    /// Of one row, and of several.
    classes: (Class, Class),
    head: &'static str,
    types: &'static [Type],
    tail: &'static str,
}

impl Rows {
    /// The text for `rows` rows.
    pub(super) fn sql(&self, rows: usize) -> String {
        let columns = self.types.len();
        let mut sql = String::with_capacity(self.head.len() + self.tail.len() + rows * columns * 7);
        sql.push_str(self.head);
        for row in 0..rows {
            for column in 0..columns {
                sql.push_str(match (row, column) {
                    (0, 0) => "(",
                    (_, 0) => ", (",
                    _ => ", ",
                });
                // Writing to a String can't fail.
                let _ = write!(sql, "${}", row * columns + column + 1);
            }
            sql.push(')');
        }
        sql.push_str(self.tail);
        sql
    }

    /// The parameters with their types, row by row.
    pub(super) fn typed<'a>(&self, params: &[Param<'a>]) -> Vec<(Param<'a>, Type)> {
        debug_assert_eq!(params.len() % self.types.len(), 0, "{}", self.name);
        params.iter().copied().zip(self.types.iter().cycle().cloned()).collect()
    }
}

/// A statement as the server is asked about it.
#[derive(Clone, Debug)]
pub struct Described {
    /// Its name here.
    pub name: &'static str,
    /// What it asks of a cluster.
    pub class: Class,
    /// The text; of one row and of two where there are as many texts as rows.
    pub sql: String,
    /// The numbers (OID) of its parameters' types.
    pub types: Vec<u32>,
}

/// Every statement: for tests, and for whoever wants to know what is sent.
pub fn all() -> Vec<Described> {
    let numbers = |types: &[Type], times: usize| -> Vec<u32> {
        let all = types.iter().cycle().take(types.len() * times);
        all.map(Type::oid).collect()
    };
    let mut all: Vec<Described> = STATEMENTS
        .iter()
        .chain(copies::STATEMENTS)
        .chain(doctor::STATEMENTS)
        .chain(arcs::STATEMENTS)
        .map(|statement| Described {
            name: statement.name,
            class: statement.class,
            sql: statement.sql.to_owned(),
            types: numbers(statement.types, 1),
        })
        .collect();
    for rows in ROWS {
        for (count, class) in [(1, rows.classes.0), (2, rows.classes.1)] {
            let (sql, types) = (rows.sql(count), numbers(rows.types, count));
            all.push(Described { name: rows.name, class, sql, types });
        }
    }
    all
}

/// The types of the columns that [`STAGE_COPY`] sends.
pub(super) fn staged_types() -> Vec<Type> {
    INSERT.types.iter().cloned().chain([Type::INT8]).collect()
}

macro_rules! statements {
    ($($(#[$doc:meta])* $name:ident: $class:ident [$($kind:ident),*] = $sql:expr;)*) => {
        $(
            $(#[$doc])*
            pub(in crate::postgres) static $name: Statement = Statement {
                name: stringify!($name),
                class: Class::$class,
                sql: $sql,
                types: &[$(Type::$kind),*],
            };
        )*
        pub(super) static STATEMENTS: &[&Statement] = &[$(&$name),*];
    };
}

macro_rules! rows {
    ($($(#[$doc:meta])*
        $name:ident: $one:ident, $many:ident [$($kind:ident),*] = $head:expr, $tail:expr;)*) => {
        $(
            $(#[$doc])*
            pub(super) static $name: Rows = Rows {
                name: stringify!($name),
                classes: (Class::$one, Class::$many),
                head: $head,
                types: &[$(Type::$kind),*],
                tail: $tail,
            };
        )*
        static ROWS: &[&Rows] = &[$(&$name),*];
    };
}

// After the macro, which they use.
pub(super) mod arcs;
pub(super) mod copies;
pub(super) mod doctor;

/// The columns of `links` that are read, in the order of `row::stored`.
macro_rules! read {
    () => {
        "code, domain, created_at, owner, version, state, flags, status, updated_at, valid_from, \
         expires_at, max_clicks, used, target, title, tags"
    };
}

/// The columns of `links` that are written, in the order of `row::Record`.
macro_rules! written {
    () => {
        concat!(read!(), ", folded")
    };
}

/// What a text is looked for in; the same expression as in the index.
macro_rules! words {
    () => {
        "coalesce(folded, lower(code || E'\\n' || coalesce(title, '') || E'\\n' || target))"
    };
}

/// A page of a list: `$1` owner, `$2` domain, `$3` tag, `$4` pattern, `$5` to `$7` code, domain and
/// place of the row behind which the page begins, `$8` to `$10` those of the last row that it may
/// reach, `$11` how many rows. What is NULL is no condition: the server plans each call with its
/// values, so nothing of it is left.
macro_rules! list {
    ($behind:expr, $until:expr, $order:expr) => {
        concat!(
            "SELECT ",
            read!(),
            " FROM links
              WHERE state = 0
                AND ($1 IS NULL OR owner = $1)
                AND ($2 IS NULL OR domain = $2)
                AND ($3 IS NULL OR tags @> ARRAY[$3])
                AND ($4 IS NULL OR ",
            words!(),
            " LIKE $4)
                AND ($6 IS NULL OR ",
            $behind,
            ") AND ($9 IS NULL OR ",
            $until,
            ") ORDER BY ",
            $order,
            " LIMIT $11"
        )
    };
}

/// The end of a window: the `$4`-th row behind the row of `$1` to `$3`.
macro_rules! window {
    ($behind:expr, $order:expr) => {
        concat!(
            "SELECT code, domain, created_at FROM links WHERE ($2 IS NULL OR ",
            $behind,
            ") ORDER BY ",
            $order,
            " OFFSET $4 LIMIT 1"
        )
    };
}

statements! {
    /// The redirect's statement.
    GET: Router [TEXT, INT8] =
        concat!("SELECT ", read!(), " FROM links WHERE code = $1 AND domain = $2");
    /// The same for many codes at once.
    GET_MANY: MultiShard [TEXT_ARRAY] =
        concat!("SELECT ", read!(), " FROM links WHERE code = ANY($1)");
    /// Who has the keys that are not free.
    HOLDERS: MultiShard [TEXT_ARRAY] =
        "SELECT code, domain, state FROM links WHERE code = ANY($1)";
    /// The same for one key.
    HOLDER: Router [TEXT, INT8] =
        "SELECT code, domain, state FROM links WHERE code = $1 AND domain = $2";
    /// Changes one version of a link.
    UPDATE: Router [
        TEXT, INT8, INT8, INT8, INT2, INT2, TIMESTAMPTZ, TIMESTAMPTZ, TIMESTAMPTZ, INT8, TEXT,
        TEXT, TEXT_ARRAY, TEXT
    ] =
        "UPDATE links SET version = version + 1, owner = $4, flags = $5, status = $6,
             updated_at = $7, valid_from = $8, expires_at = $9, max_clicks = $10, target = $11,
             title = $12, tags = $13, folded = $14
         WHERE code = $1 AND domain = $2 AND version = $3 AND state = 0
         RETURNING used";
    /// Makes a link its tombstone.
    DELETE: Router [TEXT, INT8, INT8, INT8, TIMESTAMPTZ] =
        "UPDATE links SET state = 1, version = version + 1, updated_at = $5, flags = 0, status = 0,
             valid_from = NULL, expires_at = NULL, max_clicks = NULL, used = 0, target = NULL,
             title = NULL, tags = NULL, folded = NULL
         WHERE code = $1 AND domain = $2 AND state = 0
           AND ($3 IS NULL OR owner = $3) AND ($4 IS NULL OR version = $4)
         RETURNING version";
    /// Takes an older row away whose place the newer one takes in the same transaction.
    REMOVE: Router [TEXT, INT8, INT8, INT8] =
        "DELETE FROM links WHERE code = $1 AND domain = $2
           AND (version < $3 OR version = $3 AND used < $4)
         RETURNING version";
    /// Takes one click. A limit with its top bit set is larger than any count can become.
    CLAIM: Router [TEXT, INT8, TIMESTAMPTZ] = concat!(
        "UPDATE links SET used = used + 1
         WHERE code = $1 AND domain = $2 AND state = 0 AND flags & 1 = 1
           AND (valid_from IS NULL OR valid_from <= $3)
           AND (expires_at IS NULL OR expires_at > $3)
           AND (max_clicks < 0 OR used < max_clicks)
         RETURNING ",
        read!()
    );
    /// Notes a change, with the number of its transaction.
    CHANGE_NOTE: Router [TEXT, INT8, INT8] =
        "INSERT INTO changes (code, domain, version, xid, at)
         VALUES ($1, $2, $3, pg_current_xact_id()::text::bigint, now())
         ON CONFLICT (code, domain, version) DO UPDATE SET xid = excluded.xid, at = excluded.at";
    /// The lowest number of a transaction that is under way, or the next one.
    CHANGES_HORIZON: Local [] = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint";
    CHANGES: MultiShard [INT8, INT8] =
        "SELECT code, domain, version FROM changes
         WHERE xid >= $1 OR at > now() - interval '1 minute' LIMIT $2";
    CHANGES_FORGET: MultiShard [INT8] =
        "WITH gone AS (
             DELETE FROM changes WHERE at < now() - $1 * interval '1 second' RETURNING 1)
         SELECT count(*) FROM gone";
    /// The place of the newest link.
    NEWEST: MultiShard [] = "SELECT max(created_at) FROM links";
    /// The places that are taken in a span of time, the latest first.
    PLACES: MultiShard [TIMESTAMPTZ, TIMESTAMPTZ, INT8] =
        "SELECT created_at FROM links WHERE created_at >= $1 AND created_at < $2
         ORDER BY created_at DESC LIMIT $3";
    /// The latest of them.
    LAST_PLACE: MultiShard [TIMESTAMPTZ, TIMESTAMPTZ] =
        "SELECT max(created_at) FROM links WHERE created_at >= $1 AND created_at < $2";
    /// Rows that come by COPY go beside the table first: a taken code must not hinder the others.
    STAGE: Ddl [] =
        "CREATE TEMPORARY TABLE links_stage (LIKE links, at bigint NOT NULL) ON COMMIT DROP";
    STAGE_COPY: Ddl [] =
        concat!("COPY links_stage (", written!(), ", at) FROM STDIN (FORMAT binary)");
    /// Sorted, so that no two of them wait for each other. The first of equal keys wins.
    STAGE_MERGE: MultiShard [] = concat!(
        "INSERT INTO links (", written!(), ") SELECT ", written!(),
        " FROM links_stage ORDER BY code, domain, at
         ON CONFLICT (code, domain) DO NOTHING RETURNING code, domain"
    );

    LIST_CREATED_DESC: MultiShard [
        INT8, INT8, TEXT, TEXT, TEXT, INT8, TIMESTAMPTZ, TEXT, INT8, TIMESTAMPTZ, INT8
    ] = list!(
        "(created_at, code, domain) < ($7, $5, $6)",
        "(created_at, code, domain) >= ($10, $8, $9)",
        "created_at DESC, code DESC, domain DESC"
    );
    LIST_CREATED_ASC: MultiShard [
        INT8, INT8, TEXT, TEXT, TEXT, INT8, TIMESTAMPTZ, TEXT, INT8, TIMESTAMPTZ, INT8
    ] = list!(
        "(created_at, code, domain) > ($7, $5, $6)",
        "(created_at, code, domain) <= ($10, $8, $9)",
        "created_at, code, domain"
    );
    LIST_CODE_ASC: MultiShard [
        INT8, INT8, TEXT, TEXT, TEXT, INT8, TIMESTAMPTZ, TEXT, INT8, TIMESTAMPTZ, INT8
    ] = list!("(code, domain) > ($5, $6)", "(code, domain) <= ($8, $9)", "code, domain");
    LIST_CODE_DESC: MultiShard [
        INT8, INT8, TEXT, TEXT, TEXT, INT8, TIMESTAMPTZ, TEXT, INT8, TIMESTAMPTZ, INT8
    ] = list!("(code, domain) < ($5, $6)", "(code, domain) >= ($8, $9)", "code DESC, domain DESC");
    WINDOW_CREATED_DESC: MultiShard [TEXT, INT8, TIMESTAMPTZ, INT8] = window!(
        "(created_at, code, domain) < ($3, $1, $2)",
        "created_at DESC, code DESC, domain DESC"
    );
    WINDOW_CREATED_ASC: MultiShard [TEXT, INT8, TIMESTAMPTZ, INT8] =
        window!("(created_at, code, domain) > ($3, $1, $2)", "created_at, code, domain");
    WINDOW_CODE_ASC: MultiShard [TEXT, INT8, TIMESTAMPTZ, INT8] =
        window!("(code, domain) > ($1, $2)", "code, domain");
    WINDOW_CODE_DESC: MultiShard [TEXT, INT8, TIMESTAMPTZ, INT8] =
        window!("(code, domain) < ($1, $2)", "code DESC, domain DESC");
    /// A page of an export: tombstones too.
    EXPORT: MultiShard [TEXT, INT8, TIMESTAMPTZ, INT8] = concat!(
        "SELECT ", read!(), " FROM links
         WHERE ($2 IS NULL OR (created_at, code, domain) > ($3, $1, $2))
         ORDER BY created_at, code, domain LIMIT $4"
    );
    /// Bounds what follows in the transaction, in milliseconds.
    TIME_LIMIT: Local [TEXT] = "SELECT set_config('statement_timeout', $1, true)";
    COUNT: MultiShard [INT8] =
        "SELECT count(*) FROM (SELECT 1 FROM links WHERE state = 0 LIMIT $1) AS few";
    /// As many live links as the last `ANALYZE` found in the index that holds them alone, and what
    /// the table has grown by since. NULL before the first one.
    ESTIMATE: Local [] =
        "SELECT CASE WHEN t.relpages > 0 AND i.reltuples >= 0 THEN
             (i.reltuples / t.relpages
                 * (pg_relation_size(t.oid) / current_setting('block_size')::bigint))::bigint END
         FROM pg_class AS t, pg_class AS i
         WHERE t.oid = 'links'::regclass AND i.oid = 'links_owner'::regclass";

    /// The same for the shards of a cluster, each with the statistics of its own.
    ESTIMATE_SHARDS: Cluster [] =
        "SELECT CASE WHEN count(*) = count(result) THEN sum(result::bigint)::bigint END FROM (
             SELECT nullif(result, '') AS result FROM run_command_on_shards('links', $$
                 SELECT CASE
                     WHEN pg_relation_size(t.oid) = 0 THEN 0
                     WHEN t.relpages > 0 AND i.reltuples >= 0 THEN (i.reltuples / t.relpages
                         * (pg_relation_size(t.oid) / current_setting('block_size')::bigint))::bigint
                     END
                 FROM pg_class AS t, pg_class AS i
                 WHERE t.oid = '%1$s'::regclass
                   AND i.oid = replace('%1$s', 'links_', 'links_owner_')::regclass $$)) AS shards";

    /// Whether the database is a Citus cluster's.
    CLUSTER: Local [] = "SELECT EXISTS (SELECT 1 FROM pg_extension WHERE extname = 'citus')";
    /// How each table of a schema is spread: `h` by hash of the column, `n` a copy on every node.
    SPREAD: Cluster [] =
        "SELECT logicalrelid::regclass::text, partmethod::text,
             column_to_column_name(logicalrelid, partkey)
         FROM pg_dist_partition ORDER BY 1";
    DISTRIBUTE: Cluster [TEXT, TEXT, TEXT] =
        "SELECT create_distributed_table($1::regclass, $2, colocate_with => $3)";
    REPLICATE: Cluster [TEXT] = "SELECT create_reference_table($1::regclass)";
    /// The nodes that are known: where, whether work is sent there, whether shards are, and
    /// whether it is the coordinator. Standbys are left out.
    NODES: Cluster [] =
        "SELECT nodename || ':' || nodeport, isactive, shouldhaveshards, groupid = 0
         FROM pg_dist_node WHERE noderole = 'primary' ORDER BY nodeid";
    /// What a node says of a setting; not `t` when it can't be asked.
    WAL_LEVELS: Cluster [] =
        "SELECT nodename || ':' || nodeport, success, result
         FROM run_command_on_all_nodes('SHOW wal_level') JOIN pg_dist_node USING (nodeid)
         ORDER BY nodeid";
    /// Tables that are spread and have no primary key.
    WITHOUT_KEY: Cluster [] =
        "SELECT logicalrelid::regclass::text FROM pg_dist_partition
         WHERE partmethod = 'h' AND NOT EXISTS (
             SELECT 1 FROM pg_index WHERE indrelid = logicalrelid AND indisprimary)
         ORDER BY 1";
    /// What is in a table when it is distributed stays in the coordinator's file, unseen.
    FORGET_LOCAL: Cluster [TEXT] = "SELECT truncate_local_data_after_distributing_table($1::regclass)";
    /// Rows for many shards go over one connection to each node: in bulk that is the faster way.
    /// A server that is no cluster has no use for the setting and does not mind it.
    ONE_CONNECTION_A_NODE: Local [] =
        "SELECT set_config('citus.max_adaptive_executor_pool_size', '1', true)";

    /// One program migrates at a time; the lock ends with the transaction.
    MIGRATION_LOCK: Local [INT8] = "SELECT pg_advisory_xact_lock($1)";
    MIGRATION_PATIENCE: Local [TEXT] = "SELECT set_config('lock_timeout', $1, true)";
    MIGRATIONS_MAKE: Ddl [] =
        "CREATE TABLE IF NOT EXISTS shunt_migrations (
             version    integer PRIMARY KEY,
             name       text NOT NULL,
             checksum   bigint NOT NULL,
             applied_at timestamptz NOT NULL DEFAULT now())";
    MIGRATIONS: Local [] = "SELECT version, checksum FROM shunt_migrations ORDER BY version";
    MIGRATION_NOTE: Local [INT4, TEXT, INT8] =
        "INSERT INTO shunt_migrations (version, name, checksum) VALUES ($1, $2, $3)";

    /// This process is the latest one of its node; `$2` is the time it started at, so that all
    /// shards give it one number.
    BOOT: Local [INT8, INT8] =
        "INSERT INTO nodes (node, boot) VALUES ($1, $2)
         ON CONFLICT (node) DO UPDATE SET boot = greatest(nodes.boot + 1, $2) RETURNING boot";
    /// The latest process of a node.
    LATEST_BOOT: Local [INT8] = "SELECT boot FROM nodes WHERE node = $1";
    ATTEMPT_NOTE: Router [
        BYTEA, INT8, BYTEA, TEXT, TIMESTAMPTZ, INT8, INT8, TIMESTAMPTZ, INT2, BYTEA
    ] =
        "INSERT INTO idempotency (key_hash, scope, request_hash, choice, began_at, node, boot,
             lease_until, status, response)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
         ON CONFLICT (key_hash, scope) DO NOTHING RETURNING scope";
    ATTEMPT: Router [BYTEA, INT8] =
        "SELECT request_hash, choice, began_at, node, boot, lease_until, status, response
         FROM idempotency WHERE key_hash = $1 AND scope = $2";
    /// Takes a lease over that ran out, or whose process is gone, from whoever is known to have it.
    ATTEMPT_TAKE_OVER: Router [BYTEA, INT8, INT8, INT8, TIMESTAMPTZ, INT8, INT8, TIMESTAMPTZ] =
        "UPDATE idempotency SET node = $6, boot = $7, lease_until = $8
         WHERE key_hash = $1 AND scope = $2 AND node = $3 AND boot = $4 AND lease_until = $5
           AND status IS NULL RETURNING scope";
    ATTEMPT_COMPLETE: Router [BYTEA, INT8, INT2, BYTEA] =
        "UPDATE idempotency SET status = $3, response = $4
         WHERE key_hash = $1 AND scope = $2 AND status IS NULL";
    ATTEMPT_ABANDON: Router [BYTEA, INT8] =
        "DELETE FROM idempotency WHERE key_hash = $1 AND scope = $2 AND status IS NULL";
    ATTEMPTS_PURGE: MultiShard [TIMESTAMPTZ, INT8] =
        "WITH gone AS (
             DELETE FROM idempotency WHERE (key_hash, scope) IN
                 (SELECT key_hash, scope FROM idempotency WHERE began_at < $1
                  ORDER BY began_at LIMIT $2)
             RETURNING 1)
         SELECT count(*) FROM gone";

    DOMAINS: Reference [] = "SELECT id, host FROM domains ORDER BY id";
    DOMAIN: Reference [TEXT] = "SELECT id FROM domains WHERE host = $1";
    DOMAIN_NUMBER: Local [] = "SELECT nextval('domain_numbers')";
    DOMAIN_ADD: Reference [INT8, TEXT] =
        "INSERT INTO domains (id, host) VALUES ($1, $2) ON CONFLICT (host) DO NOTHING RETURNING id";

    KEYS: Reference [] =
        "SELECT id, name, hash, scopes, owner, created_at, expires_at, revoked_at
         FROM api_keys ORDER BY id";
    KEY: Reference [BYTEA] =
        "SELECT id, name, hash, scopes, owner, created_at, expires_at, revoked_at
         FROM api_keys WHERE hash = $1";
    KEY_NUMBER: Local [] = "SELECT nextval('key_numbers')";
    KEY_ADD: Reference [INT8, TEXT, BYTEA, INT2, INT8, TIMESTAMPTZ, TIMESTAMPTZ] =
        "INSERT INTO api_keys (id, name, hash, scopes, owner, created_at, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (hash) DO NOTHING RETURNING id";
    KEY_REVOKE: Reference [INT8, TIMESTAMPTZ] =
        "UPDATE api_keys SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL RETURNING id";

    META: Reference [TEXT] = "SELECT value FROM meta WHERE name = $1";
    META_ADD: Reference [TEXT, BYTEA] =
        "INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING
         RETURNING value";
    META_SET: Reference [TEXT, BYTEA] =
        "INSERT INTO meta (name, value) VALUES ($1, $2)
         ON CONFLICT (name) DO UPDATE SET value = excluded.value";
    META_REMOVE: Reference [TEXT] = "DELETE FROM meta WHERE name = $1";
    /// Removes a value that is exactly this one.
    META_USE_UP: Reference [TEXT, BYTEA] =
        "DELETE FROM meta WHERE name = $1 AND value = $2 RETURNING name";
    SECRETS_FORGET: Local [INT8] = "DELETE FROM visitor_secrets WHERE day < $1";
    SECRET_ADD: Local [INT8, BYTEA] =
        "INSERT INTO visitor_secrets (day, secret) VALUES ($1, $2) ON CONFLICT (day) DO NOTHING";
    SECRET: Local [INT8] = "SELECT secret FROM visitor_secrets WHERE day = $1";

    /// One row of the pool, whoever else takes rows at the same time.
    POOL_CLAIM: Router [INT2] =
        "DELETE FROM code_pool WHERE bucket = $1 AND id =
             (SELECT id FROM code_pool WHERE bucket = $1 ORDER BY id LIMIT 1
              FOR UPDATE SKIP LOCKED)
         RETURNING codes";
    POOL_COPY: Ddl [] = "COPY code_pool (bucket, amount, codes) FROM STDIN (FORMAT binary)";
    POOL_BUCKETS: MultiShard [] = "SELECT DISTINCT bucket FROM code_pool";
    POOL_SIZE: MultiShard [] = "SELECT coalesce(sum(amount), 0)::bigint FROM code_pool";
    /// Takes up to `$1` values of the lowest rest; what is left of it stays.
    RANGE_REST: Local [INT8] =
        "WITH taken AS (
             DELETE FROM range_rests WHERE start =
                 (SELECT start FROM range_rests ORDER BY start LIMIT 1 FOR UPDATE SKIP LOCKED)
             RETURNING start, stop),
         back AS (
             INSERT INTO range_rests (start, stop)
             SELECT start + $1, stop FROM taken WHERE stop - start > $1)
         SELECT start, CASE WHEN stop - start > $1 THEN start + $1 ELSE stop END FROM taken";
    /// Raises the counter by up to `$1`; nothing when it is used up.
    RANGE_RAISE: Local [INT8] =
        "UPDATE counters SET value = CASE WHEN old.value > 9223372036854775807 - $1
             THEN 9223372036854775807 ELSE old.value + $1 END
         FROM (SELECT value FROM counters WHERE name = 'range_high' FOR UPDATE) AS old
         WHERE counters.name = 'range_high' AND old.value < 9223372036854775807
         RETURNING old.value, counters.value";
    /// Raises the counter from `$1` or less to `$2`.
    RANGE_CONFIRM: Local [INT8, INT8] =
        "UPDATE counters SET value = $2 WHERE name = 'range_high' AND value <= $1
         RETURNING value";
    RANGE_HIGH: Local [] = "SELECT value FROM counters WHERE name = 'range_high'";
    RANGE_GIVE_BACK: Local [INT8, INT8] =
        "INSERT INTO range_rests (start, stop) VALUES ($1, $2)";

    /// What was counted of some streams of one lane; locks them. Citus locks rows of one shard only.
    MARKS_LOCK: Router [INT2, INT8_ARRAY, INT8_ARRAY] =
        "SELECT lane, node, boot, runs FROM marks
         WHERE lane = $1 AND (node, boot) IN (SELECT * FROM unnest($2, $3))
         ORDER BY node, boot FOR UPDATE";
    MARKS: MultiShard [INT8] =
        "SELECT lane, node, boot, runs FROM marks WHERE node = $1";
    COUNTED: MultiShard [] =
        "SELECT node, boot, sum(counted)::bigint FROM marks GROUP BY node, boot";
    LEDGER: MultiShard [] = "SELECT node, boot, served, lost, at, closed, unknown FROM ledger";
    CLICK_TOTALS: Router [INT2, TEXT, INT8] =
        "SELECT clicks, humans, heads FROM totals WHERE lane = $1 AND code = $2 AND domain = $3";
    CLICK_HOURS: Router [INT2, TEXT, INT8, INT8, INT8] =
        "SELECT hour, clicks, humans, heads FROM hours
         WHERE lane = $1 AND code = $2 AND domain = $3 AND hour >= $4 AND hour < $5
         ORDER BY hour";
}

rows! {
    /// New links, or rows of an export.
    INSERT: Router, MultiShard [
        TEXT, INT8, TIMESTAMPTZ, INT8, INT8, INT2, INT2, INT2, TIMESTAMPTZ, TIMESTAMPTZ,
        TIMESTAMPTZ, INT8, INT8, TEXT, TEXT, TEXT_ARRAY, TEXT
    ] =
        concat!("INSERT INTO links (", written!(), ") VALUES "),
        " ON CONFLICT (code, domain) DO NOTHING RETURNING code, domain";
    POOL_ADD: Router, MultiShard [INT2, INT4, TEXT] =
        "INSERT INTO code_pool (bucket, amount, codes) VALUES ", "";
    MARKS_OPEN: Router, MultiShard [INT2, INT8, INT8] =
        "INSERT INTO marks (lane, node, boot) VALUES ",
        " ON CONFLICT (lane, node, boot) DO NOTHING";
    MARKS_SET: Router, MultiShard [INT2, INT8, INT8, INT8_ARRAY, INT8] =
        "INSERT INTO marks (lane, node, boot, runs, counted) VALUES ",
        " ON CONFLICT (lane, node, boot) DO UPDATE
          SET runs = excluded.runs, counted = excluded.counted";
    HOURS_ADD: Router, MultiShard [INT2, TEXT, INT8, INT8, INT8, INT8, INT8] =
        "INSERT INTO hours (lane, code, domain, hour, clicks, humans, heads) VALUES ",
        " ON CONFLICT (lane, code, domain, hour) DO UPDATE SET
          clicks = hours.clicks + excluded.clicks, humans = hours.humans + excluded.humans,
          heads = hours.heads + excluded.heads";
    TOTALS_ADD: Router, MultiShard [INT2, TEXT, INT8, INT8, INT8, INT8] =
        "INSERT INTO totals (lane, code, domain, clicks, humans, heads) VALUES ",
        " ON CONFLICT (lane, code, domain) DO UPDATE SET
          clicks = totals.clicks + excluded.clicks, humans = totals.humans + excluded.humans,
          heads = totals.heads + excluded.heads";
    /// What was said later wins; the last word, once said, stays.
    LEDGER_SAY: Router, MultiShard [INT8, INT8, INT8, INT8, TIMESTAMPTZ, BOOL, BOOL] =
        "INSERT INTO ledger (node, boot, served, lost, at, closed, unknown) VALUES ",
        " ON CONFLICT (node, boot) DO UPDATE SET
          served = excluded.served, lost = excluded.lost, at = excluded.at,
          closed = excluded.closed, unknown = excluded.unknown
          WHERE excluded.closed > ledger.closed
             OR excluded.closed = ledger.closed AND excluded.served >= ledger.served";
}

#[cfg(test)]
mod tests;
