//! What a copy of the database is asked about itself. An ordinary user may ask all of it.

use super::{Class, Statement};

statements! {
    /// Whether it is a standby; how far it is, and what it has received, in bytes of the log; its
    /// timeline; which cluster it is a copy of; how long ago the last transaction it replayed was
    /// committed, by its own clock, in milliseconds; whether it receives.
    ///
    /// A standby's timeline is the highest it knows of: what it receives is of the new one long
    /// before its control file is.
    POSITION: Local [] =
        "SELECT pg_is_in_recovery(),
             (coalesce(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
                  ELSE pg_current_wal_lsn() END, '0/0') - '0/0'::pg_lsn)::bigint,
             (coalesce(pg_last_wal_receive_lsn(), '0/0') - '0/0'::pg_lsn)::bigint,
             CASE WHEN pg_is_in_recovery() THEN
                 greatest((SELECT timeline_id FROM pg_control_checkpoint()),
                          (SELECT min_recovery_end_timeline FROM pg_control_recovery()),
                          (SELECT received_tli FROM pg_stat_wal_receiver))::bigint
             ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::bigint
             END,
             (SELECT system_identifier FROM pg_control_system()),
             (extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())
                  * 1000)::bigint,
             EXISTS (SELECT FROM pg_stat_wal_receiver
                     WHERE coalesce(status, 'streaming') = 'streaming')";
    /// Whether it has been at work on something of this user's for four seconds.
    AT_WORK: Local [] =
        "SELECT EXISTS (SELECT FROM pg_stat_activity
             WHERE datname = current_database() AND usename = current_user
               AND pid <> pg_backend_pid() AND state = 'active'
               AND query_start < now() - interval '4 seconds')";
}
