//! PostgreSQL: what was committed survives what the kit can do to a server, and nothing survives
//! the value.

use std::net::SocketAddr;
use std::path::Path;

use shunt_cluster::postgres::{Config, Postgres};
use shunt_cluster::{Process, Spec, tree, until, wait};

/// A client that holds its connection and a running statement until it is killed.
fn sleeper(config: &Config, logs: &Path) -> Process {
    let spec = config.psql_spec("postgres").unwrap().args(["-c", "SELECT pg_sleep(1000)"]);
    spec.spawn(logs).unwrap()
}

fn busy_backends(server: &Postgres) -> String {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(1000)'";
    server.psql(sql).unwrap()
}

/// Whether the machine has a System V shared memory segment of this number.
fn has_segment(id: &str) -> bool {
    let segments = std::fs::read_to_string("/proc/sysvipc/shm").unwrap();
    segments.lines().any(|line| line.split_whitespace().nth(1) == Some(id))
}

fn segment(server: &Postgres) -> String {
    let file = std::fs::read_to_string(server.data().join("postmaster.pid")).unwrap();
    file.lines().nth(6).unwrap().split_whitespace().nth(1).unwrap().to_owned()
}

/// Waits until somebody is connected to a server that may be frozen: the kernel takes connections
/// for it, and the client then waits for a word of the server's.
pub fn wait_for_connection(server: SocketAddr) {
    let port = format!(":{:04X}", server.port());
    until(wait::PATIENCE, "a client to connect", || {
        let connections = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let mut connections = connections.lines().map(|line| line.split_whitespace());
        // The third field is the peer, the fourth the state: 01 is established.
        let found = connections.any(|mut fields| {
            fields.nth(2).is_some_and(|peer| peer.ends_with(&port)) && fields.next() == Some("01")
        });
        found.then_some(())
    })
    .unwrap();
}

#[test]
fn committed_rows_survive_kill_9_and_only_the_password_lets_in() {
    let mut server = Postgres::start().unwrap();
    for (name, value) in
        [("wal_level", "logical"), ("fsync", "on"), ("synchronous_commit", "on"), ("port", "")]
    {
        let shown = server.psql(&format!("SHOW {name}")).unwrap();
        let port = server.socket().port().to_string();
        assert_eq!(shown, if value.is_empty() { port.as_str() } else { value }, "{name}");
    }
    let kept = server.psql("SELECT rolpassword FROM pg_authid WHERE rolname = 'postgres'").unwrap();
    assert!(kept.starts_with("SCRAM-SHA-256$"), "{kept}");
    let stranger = Config { password: "wrong".to_owned(), ..server.config().clone() };
    let refused = stranger.psql("postgres", "SELECT 1").unwrap_err();
    assert!(format!("{refused:#}").contains("password authentication failed"), "{refused:#}");

    server.create_database("links").unwrap();
    server.config().psql("links", "CREATE TABLE t (n int); INSERT INTO t VALUES (7)").unwrap();
    let logs = tempfile::tempdir().unwrap();
    let mut client = sleeper(server.config(), logs.path());
    until(wait::PATIENCE, "a busy backend", || (busy_backends(&server) == "1").then_some(()))
        .unwrap();
    let pids = server.pids();
    assert!(pids.len() > 5, "{pids:?}");
    server.kill().unwrap();
    assert!(pids.iter().all(|pid| tree::state(*pid).is_none()), "something lives");
    assert!(!client.wait(wait::PATIENCE).unwrap().success());
    assert!(server.psql("SELECT 1").is_err());

    server.restart().unwrap();
    assert_eq!(server.config().psql("links", "SELECT n FROM t").unwrap(), "7");
    assert!(server.log().contains("was not properly shut down"), "{}", server.log());
    server.stop().unwrap();
    assert!(!server.running());
    server.restart().unwrap();
    assert_eq!(server.config().psql("links", "SELECT n FROM t").unwrap(), "7");
}

#[test]
fn a_frozen_server_answers_when_it_is_thawed_and_can_be_killed_while_it_is_not() {
    let mut server = Postgres::setup().fast().setting("work_mem", "5MB").start().unwrap();
    assert_eq!(server.psql("SHOW fsync").unwrap(), "off");
    assert_eq!(server.psql("SHOW work_mem").unwrap(), "5MB");
    server.set("work_mem", "6MB").unwrap();
    until(wait::PATIENCE, "the setting", || {
        (server.psql("SHOW work_mem").unwrap() == "6MB").then_some(())
    })
    .unwrap();

    server.freeze().unwrap();
    assert!(server.freeze().is_err());
    let pids = server.pids();
    assert!(pids.iter().all(|pid| tree::state(*pid) == Some('T')), "not all stand still");
    let logs = tempfile::tempdir().unwrap();
    let spec = server.config().psql_spec("postgres").unwrap().args(["-c", "SELECT 42"]);
    let mut client = spec.spawn(logs.path()).unwrap();
    wait_for_connection(server.socket());
    assert!(client.running() && client.stdout().is_empty());
    server.thaw();
    assert!(client.wait(wait::PATIENCE).unwrap().success());
    assert_eq!(client.stdout(), "42\n");

    server.freeze().unwrap();
    let pids = server.pids();
    server.kill().unwrap();
    assert!(pids.iter().all(|pid| tree::state(*pid).is_none()), "something lives");
}

#[test]
fn nothing_of_a_server_outlives_its_value_or_the_thread_that_owned_it() {
    let mut server = Postgres::setup().fast().start().unwrap();
    let (data, kept) = (server.data(), segment(&server));
    assert!(has_segment(&kept));
    server.kill().unwrap();
    assert!(has_segment(&kept), "a killed server frees nothing by itself");
    drop(server);
    assert!(!has_segment(&kept) && !data.exists());

    let (pids, kept, data) = std::thread::spawn(|| {
        let server = Postgres::setup().fast().start().unwrap();
        let logs = tempfile::tempdir().unwrap();
        let _client = sleeper(server.config(), logs.path());
        until(wait::PATIENCE, "a busy backend", || (busy_backends(&server) == "1").then_some(()))
            .unwrap();
        let found = (server.pids(), segment(&server), server.data());
        std::mem::forget(server);
        found
    })
    .join()
    .unwrap();
    until(wait::PATIENCE, "the end of an orphaned server", || {
        (pids.iter().all(|pid| tree::state(*pid).is_none()) && !has_segment(&kept)).then_some(())
    })
    .unwrap();
    // What a forgotten value can't do itself.
    std::fs::remove_dir_all(data.parent().unwrap()).unwrap();
}

#[test]
fn rules_and_files_of_a_setup_are_in_force_tls_for_one() {
    let files = tempfile::tempdir().unwrap();
    let spec = Spec::new("openssl", "openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args(["-nodes", "-subj", "/CN=localhost", "-days", "2"])
        .args(["-keyout", "server.key", "-out", "server.crt"]);
    spec.run(files.path(), wait::PATIENCE).unwrap().ok().unwrap();
    let read = |name: &str| std::fs::read(files.path().join(name)).unwrap();
    let server = Postgres::setup()
        .fast()
        .setting("ssl", "on")
        .file("server.key", read("server.key"))
        .file("server.crt", read("server.crt"))
        .rule("hostnossl all all 127.0.0.1/32 reject")
        .start()
        .unwrap();
    // psql prefers TLS where it is offered.
    let sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    assert_eq!(server.psql(sql).unwrap(), "t");
    let plain = server.config().psql_spec("postgres").unwrap().env("PGSSLMODE", "disable");
    let refused = plain.args(["-c", sql]).run(files.path(), wait::PATIENCE).unwrap();
    assert!(refused.stderr.contains("pg_hba.conf rejects"), "{}", refused.stderr);
}

#[test]
fn a_standby_streams_is_promoted_and_the_old_primary_follows_it() {
    let mut primary = Postgres::setup().fast().start().unwrap();
    primary.psql("CREATE TABLE t (n int); INSERT INTO t VALUES (1)").unwrap();
    let mut standby = primary.standby().unwrap();
    primary.psql("INSERT INTO t VALUES (2)").unwrap();
    primary.wait_for(&standby).unwrap();
    assert_eq!(standby.psql("SELECT sum(n) FROM t").unwrap(), "3");
    let refused = standby.psql("INSERT INTO t VALUES (9)").unwrap_err();
    assert!(format!("{refused:#}").contains("read-only transaction"), "{refused:#}");

    // By its name it can be made a synchronous one.
    primary.set("synchronous_standby_names", standby.name()).unwrap();
    let sql = "SELECT application_name, state, sync_state FROM pg_stat_replication";
    let expected = format!("{}|streaming|sync", standby.name());
    until(wait::PATIENCE, "a synchronous standby", || {
        (primary.psql(sql).unwrap() == expected).then_some(())
    })
    .unwrap();
    primary.psql("INSERT INTO t VALUES (3)").unwrap();

    primary.kill().unwrap();
    standby.promote().unwrap();
    standby.psql("INSERT INTO t VALUES (4)").unwrap();
    assert_eq!(standby.psql("SELECT sum(n) FROM t").unwrap(), "10");

    let port = primary.socket();
    primary.follow(&standby).unwrap();
    standby.psql("INSERT INTO t VALUES (5)").unwrap();
    standby.wait_for(&primary).unwrap();
    assert_eq!(primary.psql("SELECT sum(n), pg_is_in_recovery() FROM t").unwrap(), "15|t");
    assert_eq!(primary.socket(), port);
    assert_ne!(primary.name(), standby.name());
    // In this order, or the new primary's end waits for nobody.
    primary.stop().unwrap();
    standby.stop().unwrap();
}
