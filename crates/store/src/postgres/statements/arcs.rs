//! Statements on the arcs of a shard, and those that move rows. Sent to databases that are shards,
//! never to a cluster.

use tokio_postgres::types::Type;

use super::{Class, Statement};

/// The rows of an arc: from `$1` on, to before `$2` if that is not NULL.
macro_rules! within {
    ($place:literal) => {
        concat!($place, " >= $1 AND ($2 IS NULL OR ", $place, " < $2)")
    };
}

/// The place of a link, and of an idempotency row: the expressions of their indexes.
macro_rules! link_place {
    () => {
        "md5(code)::uuid"
    };
}
macro_rules! key_place {
    () => {
        "encode(substring(key_hash FOR 16), 'hex')::uuid"
    };
}

statements! {
    SHARD: Shard [] = "SELECT name, home, ring, epoch FROM shard";
    SHARD_SET: Shard [TEXT, TEXT, TEXT, INT8] =
        "INSERT INTO shard (name, home, ring, epoch) VALUES ($1, $2, $3, $4)
         ON CONFLICT (single) DO UPDATE SET ring = excluded.ring, epoch = excluded.epoch";
    ARCS: Shard [] = "SELECT start, owner, state, epoch FROM arcs ORDER BY start";
    /// Rises whenever an arc comes or goes.
    ARCS_EPOCH: Shard [] = "SELECT coalesce(max(epoch), 0) FROM arcs";
    /// Arcs with their owners for a database that has none; `$3` is its name.
    ARCS_FILL: Shard [UUID_ARRAY, TEXT_ARRAY, TEXT, INT8_ARRAY] =
        "INSERT INTO arcs (start, owner, state, epoch)
         SELECT start, owner, CASE WHEN owner = $3 THEN 1 ELSE 0 END, epoch
         FROM unnest($1, $2, $4) AS arc (start, owner, epoch) ON CONFLICT (start) DO NOTHING";
    /// Cuts arcs in two; the later part is like the earlier one.
    ARCS_CUT: Shard [UUID_ARRAY] =
        "INSERT INTO arcs (start, owner, state, epoch)
         SELECT cut, old.owner, old.state, old.epoch FROM unnest($1) AS cut, LATERAL
             (SELECT * FROM arcs WHERE start <= cut ORDER BY start DESC LIMIT 1) AS old
         ON CONFLICT (start) DO NOTHING";

    /// The rest of the transaction writes rows of whatever arc, and shows all values in one way.
    MOVER: Shard [] =
        "SELECT set_config('shunt.mover', 'on', true), set_config('TimeZone', 'UTC', true),
             set_config('DateStyle', 'ISO, YMD', true), set_config('statement_timeout', '0', true),
             set_config('idle_in_transaction_session_timeout', '30000', true)";
    /// Whether nobody else arranges shards; until the end of the transaction.
    MOVER_ALONE: Shard [] =
        "SELECT pg_try_advisory_xact_lock(1936224868, 64),
             set_config('idle_in_transaction_session_timeout', '0', true)";
    /// Waits for the writes that are under way in a bucket and lets no other begin; see the
    /// function `arc_check`.
    ARC_GATE: Shard [INT4] = "SELECT pg_advisory_xact_lock(1936224868, $1)";
    ARC_COMING: Shard [UUID] =
        "UPDATE arcs SET state = 3 WHERE start = $1 AND state IN (0, 3) RETURNING start";
    ARC_LEAVING: Shard [UUID] =
        "UPDATE arcs SET state = 2 WHERE start = $1 AND state IN (1, 2) RETURNING start";
    ARC_GONE: Shard [UUID, TEXT, INT8] =
        "UPDATE arcs SET state = 4, owner = $2, epoch = $3 WHERE start = $1 AND state = 2
         RETURNING start";
    ARC_TAKE: Shard [UUID, TEXT, INT8] =
        "UPDATE arcs SET state = 1, owner = $2, epoch = $3
         WHERE start = $1 AND state = 3 AND epoch < $3 RETURNING start";
    /// Tells a shard that has nothing to do with it who owns an arc.
    ARC_TOLD: Shard [UUID, TEXT, INT8] =
        "UPDATE arcs SET owner = $2, epoch = $3 WHERE start = $1 AND state = 0 AND epoch < $3
         RETURNING start";
    ARC_CLEARED: Shard [UUID] =
        "UPDATE arcs SET state = 0 WHERE start = $1 AND state = 4 RETURNING start";

    ARC_CHANGES: Shard [UUID, INT8] =
        "SELECT id, code, domain, key_hash, scope FROM arc_changes WHERE start = $1
         ORDER BY id LIMIT $2";
    ARC_CHANGES_DONE: Shard [INT8_ARRAY] = "DELETE FROM arc_changes WHERE id = ANY($1)";
    ARC_CHANGES_CLEAR: Shard [UUID] = "DELETE FROM arc_changes WHERE start = $1";

    /// How many rows of links an arc has.
    ARC_COUNT: Shard [UUID, UUID] =
        concat!("SELECT count(*) FROM links WHERE ", within!("md5(code)::uuid"));
    /// Rows of an arc as texts, in the order of their places, behind `$3` to `$5`.
    ARC_LINKS: Shard [UUID, UUID, UUID, TEXT, INT8, INT8] = concat!(
        "SELECT links::text, ", link_place!(), ", code, domain FROM links
         WHERE ", within!("md5(code)::uuid"), "
           AND (", link_place!(), ", code, domain) > ($3, $4, $5)
         ORDER BY ", link_place!(), ", code, domain LIMIT $6"
    );
    ARC_KEYS: Shard [UUID, UUID, UUID, BYTEA, INT8, INT8] = concat!(
        "SELECT idempotency::text, ", key_place!(), ", key_hash, scope FROM idempotency
         WHERE ", within!("encode(substring(key_hash FOR 16), 'hex')::uuid"), "
           AND (", key_place!(), ", key_hash, scope) > ($3, $4, $5)
         ORDER BY ", key_place!(), ", key_hash, scope LIMIT $6"
    );
    /// The same for keys: links by code and domain, rows by hash and scope.
    LINK_TEXTS: Shard [TEXT_ARRAY, INT8_ARRAY] =
        "SELECT links::text, code, domain FROM links
         WHERE (code, domain) IN (SELECT * FROM unnest($1, $2)) ORDER BY code, domain";
    KEY_TEXTS: Shard [BYTEA_ARRAY, INT8_ARRAY] =
        "SELECT idempotency::text, key_hash, scope FROM idempotency
         WHERE (key_hash, scope) IN (SELECT * FROM unnest($1, $2)) ORDER BY key_hash, scope";
    LINKS_REMOVE: Shard [TEXT_ARRAY, INT8_ARRAY] =
        "DELETE FROM links WHERE (code, domain) IN (SELECT * FROM unnest($1, $2))";
    KEYS_REMOVE: Shard [BYTEA_ARRAY, INT8_ARRAY] =
        "DELETE FROM idempotency WHERE (key_hash, scope) IN (SELECT * FROM unnest($1, $2))";
    /// Rows from their texts. OFFSET keeps the text from being read once for each column.
    LINKS_PUT: Shard [TEXT_ARRAY] =
        "INSERT INTO links SELECT (made).* FROM
             (SELECT line::links AS made FROM unnest($1) AS line OFFSET 0) AS lines";
    KEYS_PUT: Shard [TEXT_ARRAY] =
        "INSERT INTO idempotency SELECT (made).* FROM
             (SELECT line::idempotency AS made FROM unnest($1) AS line OFFSET 0) AS lines";
    /// Deletes up to `$3` rows of an arc; answers how many.
    ARC_LINKS_PURGE: Shard [UUID, UUID, INT8] = concat!(
        "WITH gone AS (DELETE FROM links WHERE (code, domain) IN
             (SELECT code, domain FROM links WHERE ", within!("md5(code)::uuid"), " LIMIT $3)
             RETURNING 1)
         SELECT count(*) FROM gone"
    );
    ARC_KEYS_PURGE: Shard [UUID, UUID, INT8] = concat!(
        "WITH gone AS (DELETE FROM idempotency WHERE (key_hash, scope) IN
             (SELECT key_hash, scope FROM idempotency
              WHERE ", within!("encode(substring(key_hash FOR 16), 'hex')::uuid"), " LIMIT $3)
             RETURNING 1)
         SELECT count(*) FROM gone"
    );
    /// Which life of each node is the latest, for a shard that gets its leases.
    LIVES: Shard [] = "SELECT node, boot FROM nodes";
    LIVES_HEAR: Shard [INT8_ARRAY, INT8_ARRAY] =
        "INSERT INTO nodes (node, boot) SELECT * FROM unnest($1, $2)
         ON CONFLICT (node) DO UPDATE SET boot = greatest(nodes.boot, excluded.boot)";
    /// Keys of all links in their order, behind `$1` and `$2`.
    LINK_KEYS: Shard [TEXT, INT8, INT8] =
        "SELECT code, domain FROM links WHERE (code, domain) > ($1, $2)
         ORDER BY code, domain LIMIT $3";
}
