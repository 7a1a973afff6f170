//! PgBouncer in front of real databases.

use shunt_cluster::postgres::Config;
use shunt_cluster::{PgBouncer, Postgres, Process, until, wait};

#[test]
fn it_pools_transactions_with_the_numbers_that_ship() {
    let server = Postgres::setup().fast().start().unwrap();
    server.create_database("links").unwrap();
    let mut pooler = PgBouncer::setup().database("links", server.config()).start().unwrap();
    let config = pooler.console("SHOW CONFIG").unwrap();
    for (name, value) in [
        ("pool_mode", "transaction"),
        ("max_client_conn", "1000"),
        ("default_pool_size", "20"),
        ("ignore_startup_parameters", "extra_float_digits"),
        ("auth_type", "scram-sha-256"),
    ] {
        assert!(config.lines().any(|line| line.starts_with(&format!("{name}|{value}|"))), "{name}");
    }
    let limit = "kernel file descriptor limit: 8192";
    assert!(pooler.log().contains(limit), "{}", pooler.log());

    // More clients than there are connections, each of which stays after its transaction: pooling
    // by session would keep the 21st waiting.
    let logs = tempfile::tempdir().unwrap();
    let mut clients: Vec<Process> = (0..25)
        .map(|number| {
            let logs = logs.path().join(number.to_string());
            std::fs::create_dir(&logs).unwrap();
            let spec = pooler.config().psql_spec("links").unwrap();
            let spec = spec.args(["-c", "SELECT pg_backend_pid()", "-c", "\\! sleep 1000"]);
            spec.spawn(&logs).unwrap()
        })
        .collect();
    let mut backends = until(wait::PATIENCE, "all clients to be served", || {
        clients.iter().map(|client| client.stdout().trim().parse::<u32>().ok()).collect()
    })
    .map(|pids: Vec<u32>| pids)
    .unwrap();
    assert!(clients.iter_mut().all(Process::running));
    backends.sort_unstable();
    backends.dedup();
    assert!(backends.len() <= 20, "{} connections", backends.len());
    pooler.stop().unwrap();
}

#[test]
fn only_the_password_lets_in_and_one_user_has_one() {
    let server = Postgres::setup().fast().start().unwrap();
    let pooler = PgBouncer::setup().alias("short", server.config(), "postgres").start().unwrap();
    assert_eq!(pooler.config().psql("short", "SELECT current_database()").unwrap(), "postgres");
    let stranger = Config { password: "wrong".to_owned(), ..pooler.config().clone() };
    let refused = format!("{:#}", stranger.psql("short", "SELECT 1").unwrap_err());
    assert!(refused.contains("SASL authentication failed"), "{refused}");
    let unknown = format!("{:#}", pooler.config().psql("none", "SELECT 1").unwrap_err());
    assert!(unknown.contains("no such database"), "{unknown}");
}

#[test]
fn it_comes_back_from_a_kill_a_freeze_and_the_end_of_the_server_behind() {
    let mut server = Postgres::setup().fast().start().unwrap();
    let mut pooler = PgBouncer::setup().database("postgres", server.config()).start().unwrap();
    let ask = |config: &Config| config.psql("postgres", "SELECT 7");
    assert_eq!(ask(pooler.config()).unwrap(), "7");
    pooler.kill();
    let refused = format!("{:#}", ask(pooler.config()).unwrap_err());
    assert!(refused.contains("Connection refused"), "{refused}");
    pooler.restart().unwrap();
    assert_eq!(ask(pooler.config()).unwrap(), "7");
    pooler.restart().unwrap();
    assert_eq!(ask(pooler.config()).unwrap(), "7");

    pooler.freeze().unwrap();
    let logs = tempfile::tempdir().unwrap();
    let spec = pooler.config().psql_spec("postgres").unwrap().args(["-c", "SELECT 8"]);
    let mut client = spec.spawn(logs.path()).unwrap();
    super::postgres::wait_for_connection(pooler.socket());
    assert!(client.running() && client.stdout().is_empty());
    pooler.thaw().unwrap();
    assert!(client.wait(wait::PATIENCE).unwrap().success());
    assert_eq!(client.stdout(), "8\n");

    server.kill().unwrap();
    assert!(ask(pooler.config()).is_err());
    server.restart().unwrap();
    // It tries again a second after a failure, so this takes some tries.
    until(wait::PATIENCE, "the pooler to find the server again", || ask(pooler.config()).ok())
        .unwrap();
}

#[test]
fn a_database_is_pointed_at_a_promoted_standby() {
    let mut primary = Postgres::setup().fast().start().unwrap();
    let mut standby = primary.standby().unwrap();
    let mut pooler = PgBouncer::setup()
        .alias("links", primary.config(), "postgres")
        .alias("near", standby.config(), "postgres")
        .setting("default_pool_size", "3")
        .start()
        .unwrap();
    assert!(pooler.console("SHOW CONFIG").unwrap().contains("default_pool_size|3|"));
    let config = pooler.config().clone();
    config.psql("links", "CREATE TABLE t (n int); INSERT INTO t VALUES (1)").unwrap();
    primary.wait_for(&standby).unwrap();
    assert_eq!(config.psql("near", "SELECT n, pg_is_in_recovery() FROM t").unwrap(), "1|t");

    primary.kill().unwrap();
    standby.promote().unwrap();
    pooler.point("links", standby.config()).unwrap();
    until(wait::PATIENCE, "writes to go to the promoted one", || {
        config.psql("links", "INSERT INTO t VALUES (2)").ok()
    })
    .unwrap();
    assert_eq!(standby.psql("SELECT count(*) FROM t").unwrap(), "2");
    assert!(pooler.point("none", standby.config()).is_err());
}
