//! What the doctor asks a server about itself. An ordinary user may ask all of it; what only a
//! member of `pg_monitor` sees comes back empty for others.

use tokio_postgres::types::Type;

use super::{Class, Statement};

statements! {
    /// What kind of server it is for us, and what is not said by its settings.
    SERVER: Local [] =
        "SELECT pg_is_in_recovery(),
             current_setting('transaction_read_only')::bool,
             current_setting('server_encoding'),
             current_user::text,
             (SELECT max(age(datfrozenxid)) FROM pg_database)::int8,
             EXISTS (SELECT FROM pg_extension WHERE extname = 'pg_trgm'),
             pg_has_role(current_user, 'pg_monitor', 'USAGE')";
    /// Which server and database it is: the same by every way to it.
    IDENTITY: Local [] =
        "SELECT system_identifier,
             (SELECT oid::int8 FROM pg_database WHERE datname = current_database())
         FROM pg_control_system()";
    /// Its clock, in milliseconds.
    CLOCK: Local [] = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::int8";
    /// The server's process that our session is.
    SESSION: Local [] = "SELECT pg_backend_pid()";
    /// Settings as they hold for our sessions, numbers in the unit of `pg_settings`.
    NAMED: Local [TEXT_ARRAY] = "SELECT name, setting FROM pg_settings WHERE name = ANY($1)";
    /// Of each name: whether the table is there, and whether this user may read and write it.
    TABLE_RIGHTS: Local [TEXT_ARRAY] =
        "SELECT name, to_regclass(name) IS NOT NULL,
             coalesce(has_table_privilege(to_regclass(name), 'SELECT')
                  AND has_table_privilege(to_regclass(name), 'INSERT')
                  AND has_table_privilege(to_regclass(name), 'UPDATE')
                  AND has_table_privilege(to_regclass(name), 'DELETE'), false)
         FROM unnest($1) AS name";
    /// Of each name: whether the sequence is there, and whether this user may use it.
    SEQUENCE_RIGHTS: Local [TEXT_ARRAY] =
        "SELECT name, to_regclass(name) IS NOT NULL,
             coalesce(has_sequence_privilege(to_regclass(name), 'USAGE'), false)
         FROM unnest($1) AS name";
    /// Indexes of these tables that were never finished.
    INVALID_INDEXES: Local [TEXT_ARRAY] =
        "SELECT indexrelid::regclass::text FROM pg_index
         WHERE NOT indisvalid AND indrelid IN (SELECT to_regclass(name) FROM unnest($1) AS name)";
    /// Seconds since the oldest idempotency key was written.
    OLDEST_KEY: MultiShard [] =
        "SELECT coalesce(extract(epoch FROM now() - min(began_at)), 0)::int8 FROM idempotency";
    /// Who keeps the log: name, whether somebody reads, state, bytes kept.
    SLOTS: Local [] =
        "SELECT slot_name::text, active, coalesce(wal_status, ''),
             coalesce(pg_wal_lsn_diff(
                 CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn()
                      ELSE pg_current_wal_lsn() END, restart_lsn), 0)::int8
         FROM pg_replication_slots WHERE NOT temporary ORDER BY slot_name";
    /// The standbys as a primary sees them. A base backup that is being made is none.
    STANDBYS: Local [] =
        "SELECT application_name, state, sync_state,
             coalesce(extract(epoch FROM replay_lag), 0)::float8,
             coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn), 0)::int8
         FROM pg_stat_replication
         WHERE state <> 'backup' AND application_name <> 'pg_basebackup'
         ORDER BY application_name";
    /// Others' transactions that have been open for more than a minute, the oldest first.
    TRANSACTIONS: Local [] =
        "SELECT pid, coalesce(state, ''), application_name,
             extract(epoch FROM clock_timestamp() - xact_start)::float8
         FROM pg_stat_activity
         WHERE datname = current_database() AND backend_type = 'client backend'
           AND pid <> pg_backend_pid() AND xact_start < clock_timestamp() - interval '1 minute'
         ORDER BY xact_start LIMIT 10";
}
