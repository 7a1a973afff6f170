//! The shards as one Citus, where the extension is installed.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::postgres::{self, Config, Postgres, Setup};

/// Whether Citus is installed beside the PostgreSQL that the kit starts.
///
/// # Errors
/// When there is no PostgreSQL.
pub(super) fn installed() -> Result<bool> {
    let version = postgres::version()?;
    let control = format!("/usr/share/postgresql/{version}/extension/citus.control");
    let library = format!("/usr/lib/postgresql/{version}/lib/citus.so");
    Ok(Path::new(&control).is_file() && Path::new(&library).is_file())
}

/// A server that is to be a node of it.
pub(super) fn setup() -> Setup {
    Postgres::setup()
        .setting("shared_preload_libraries", "citus")
        // Transactions of several nodes are prepared on each first.
        .setting("max_prepared_transactions", "200")
        // On loopback, without TLS.
        .setting("citus.node_conninfo", "sslmode=disable")
        .setting("citus.local_hostname", "127.0.0.1")
}

/// Makes one Citus of running servers with a database of this name on each: the first one is the
/// coordinator, the others are workers. Those that are joined already stay so.
///
/// # Errors
/// When there is no server, or one refuses.
pub(super) fn join(servers: &[Postgres], database: &str) -> Result<()> {
    let Some((coordinator, workers)) = servers.split_first() else {
        bail!("a Citus needs a coordinator");
    };
    for server in servers {
        let Config { user, password, .. } = server.config();
        // What its sessions log in with at the other nodes.
        let sql = format!(
            "CREATE EXTENSION IF NOT EXISTS citus; \
             INSERT INTO pg_dist_authinfo (nodeid, rolename, authinfo) \
             SELECT 0, '{user}', 'password={password}' \
             WHERE NOT EXISTS (SELECT FROM pg_dist_authinfo)"
        );
        server.config().psql(database, &sql).context("make the extension Citus")?;
    }
    let ask = |sql: &str| coordinator.config().psql(database, sql);
    let known = ask("SELECT nodeport FROM pg_dist_node")?;
    let is_known = |server: &Postgres| {
        let port = server.config().port.to_string();
        known.lines().any(|line| line == port)
    };
    let place = |server: &Postgres| {
        let Config { host, port, .. } = server.config();
        format!("'{host}', {port}")
    };
    if !is_known(coordinator) {
        ask(&format!("SELECT citus_set_coordinator_host({})", place(coordinator)))?;
    }
    for worker in workers.iter().filter(|worker| !is_known(worker)) {
        ask(&format!("SELECT citus_add_node({})", place(worker))).context("add a Citus worker")?;
    }
    Ok(())
}
