//! Servers that are reached and are not as they should be.

use std::fs;
use std::time::{Duration, Instant};

use shunt_cluster::{Postgres, RedisCluster};

use crate::kit::{
    DATABASE, Deployment, Found, NOTHING, SOON, USER, app, finds, migrate, node, prepare,
};

/// Changes something, waits for the finding, and changes it back; the next case shows that nothing
/// is left of this one.
struct Cases<'a>(&'a Deployment);

impl Cases<'_> {
    #[track_caller]
    fn finds(&self, found: &[Found<'_>]) {
        finds(&self.0.node, &[], found);
    }

    /// A setting of the primary.
    #[track_caller]
    fn setting(&self, name: &str, value: &str, found: Found<'_>) {
        let primary = &self.0.primary;
        primary.set(name, value).unwrap();
        self.finds(&[found]);
        primary.psql(&format!("ALTER SYSTEM RESET {name}")).unwrap();
        primary.psql("SELECT pg_reload_conf()").unwrap();
    }

    /// What SQL does to the database, and what undoes it.
    #[track_caller]
    fn sql(&self, makes: &str, undoes: &str, found: Found<'_>) {
        let config = self.0.primary.config();
        config.psql(DATABASE, makes).unwrap();
        self.finds(&[found]);
        config.psql(DATABASE, undoes).unwrap();
    }

    /// Settings of PgBouncer: name, wrong value, right value.
    #[track_caller]
    fn pooler(&self, settings: &[(&str, &str, &str)], found: Found<'_>) {
        let set = |name: &str, value: &str| {
            self.0.pooler.console(&format!("SET {name} = '{value}'")).unwrap();
        };
        settings.iter().for_each(|(name, wrong, _)| set(name, wrong));
        self.finds(&[found]);
        settings.iter().for_each(|(name, _, right)| set(name, right));
    }
}

#[test]
fn a_deployment_is_found_sound_and_every_fault_for_what_it_is() {
    let cache = RedisCluster::start().unwrap();
    let deployment = Deployment::start(&cache.url());
    let cases = Cases(&deployment);
    cases.finds(NOTHING);
    // For people it is a line for each check that begins with "ok".
    let report = deployment.node.cli(["doctor"], SOON).unwrap();
    for check in ["postgres: ", "pooler: ", "standby: 1", "redis: 6", "clicks: ", "server: "] {
        assert!(report.stdout.contains(&format!("ok       {check}")), "{check} in {report:?}");
    }
    // And for one that is wrong what to do stands in the same line.
    deployment.primary.set("fsync", "off").unwrap();
    cases.finds(&[("postgres-fsync", "wrong")]);
    let report = deployment.node.cli(["doctor"], SOON).unwrap();
    let line = report.stdout.lines().find(|line| line.starts_with("WRONG")).unwrap();
    let tells = |part: &str| line.contains(part);
    assert!(tells("postgres-fsync: fsync is off") && tells("set fsync = on"), "{line}");
    assert_eq!(report.code(), 1, "{report:?}");
    deployment.primary.set("fsync", "on").unwrap();

    settings(&cases);
    contents(&cases);
    pooler(&cases);
    cases.finds(NOTHING);
}

fn settings(cases: &Cases<'_>) {
    cases.setting("full_page_writes", "off", ("postgres-full-page-writes", "wrong"));
    cases.setting("synchronous_commit", "off", ("postgres-synchronous-commit", "wrong"));
    cases.setting("synchronous_standby_names", "nobody", ("postgres-synchronous-standby", "wrong"));
    cases.setting("autovacuum", "off", ("postgres-autovacuum", "warning"));
    cases.setting("statement_timeout", "2s", ("postgres-statement-timeout", "warning"));
    cases.setting("default_transaction_read_only", "on", ("postgres-read-only", "wrong"));
}

fn contents(cases: &Cases<'_>) {
    let deployment = cases.0;
    let revoke = format!("REVOKE INSERT ON links FROM {USER}");
    let grant = format!("GRANT INSERT ON links TO {USER}");
    cases.sql(&revoke, &grant, ("postgres-grants", "wrong"));
    let revoke = format!("REVOKE pg_monitor FROM {USER}");
    let grant = format!("GRANT pg_monitor TO {USER}");
    cases.sql(&revoke, &grant, ("postgres-hidden", "warning"));
    let drop = "DROP EXTENSION pg_trgm CASCADE";
    cases.sql(drop, "CREATE EXTENSION pg_trgm", ("postgres-trigrams", "wrong"));
    // Two links are in the same state: the index stays unfinished.
    let config = deployment.primary.config();
    let broken = "CREATE UNIQUE INDEX CONCURRENTLY broken ON links (state)";
    config.psql(DATABASE, broken).unwrap_err();
    cases.sql("SELECT 1", "DROP INDEX broken", ("postgres-index", "warning"));

    let pool = ["--set", "links.allocator=pool"];
    finds(&deployment.node, &pool, &[("pool-low", "wrong")]);
    let filled = deployment.node.cli(["keys", "fill", "--count", "1000"], SOON).unwrap();
    assert_eq!(filled.code(), 0, "{filled:?}");
    finds(&deployment.node, &pool, &[("pool-low", "warning")]);
    let low = ["--set", "links.allocator=pool", "--set", "links.pool_refill_below=1000"];
    finds(&deployment.node, &low, NOTHING);
}

fn pooler(cases: &Cases<'_>) {
    let pooler = &cases.0.pooler;
    // Before sessions are lent for long: it waits for them.
    pooler.console(&format!("PAUSE {DATABASE}")).unwrap();
    cases.finds(&[("pooler-paused", "wrong")]);
    pooler.console(&format!("RESUME {DATABASE}")).unwrap();
    let session = ("pool_mode", "session", "transaction");
    let small = ("default_pool_size", "4", "20");
    cases.pooler(&[small], ("pooler-size", "warning"));
    let large = ("default_pool_size", "400", "20");
    cases.pooler(&[large], ("pooler-oversized", "warning"));
    cases.pooler(&[("query_wait_timeout", "0", "5")], ("pooler-waits-forever", "warning"));
    cases.pooler(&[("query_timeout", "3", "0")], ("pooler-query-timeout", "warning"));
    cases
        .pooler(&[session, ("default_pool_size", "100", "20")], ("pooler-session-mode", "warning"));
    cases.pooler(&[session, small], ("pooler-session-mode", "wrong"));
    let statement = ("pool_mode", "statement", "transaction");
    cases.pooler(&[statement], ("pooler-statement-mode", "wrong"));
    // One less than it makes at most, so that the doctor gets in.
    cases.pooler(&[("max_client_conn", "23", "1000")], ("pooler-clients", "wrong"));
}

#[test]
fn a_small_server_a_wrong_clock_and_one_that_hangs_are_noticed() {
    let mut server = Postgres::setup()
        .setting("max_connections", "12")
        .setting("max_wal_senders", "2")
        .start()
        .unwrap();
    prepare(&server);
    let url = app(&server).url(DATABASE);
    let few = node(&url, "");
    migrate(&few);
    finds(&few, &[], &[("postgres-connections", "wrong")]);
    let writers = ["--set", "store.writers=1"];
    finds(&few, &writers, NOTHING);
    let (late, wrong) = ([("postgres-clock", "warning")], [("postgres-clock", "wrong")]);
    for (offset, found) in [("+0", NOTHING), ("+3", &late), ("-60", &wrong)] {
        let skewed = node(&url, "")
            .env("LD_PRELOAD", libfaketime())
            .env("FAKETIME", offset)
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("DONT_FAKE_MONOTONIC", "1");
        finds(&skewed, &writers, found);
    }

    // Connections are taken by the kernel and nobody answers: doctor ends all the same.
    server.freeze().unwrap();
    let begun = Instant::now();
    finds(&few, &writers, &[("postgres-unreachable", "wrong")]);
    assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
    server.thaw();
    finds(&few, &writers, NOTHING);
}

/// libfaketime, wherever Debian has put it on this architecture.
fn libfaketime() -> String {
    let library = fs::read_dir("/usr/lib").unwrap().flatten().find_map(|entry| {
        let path = entry.path().join("faketime/libfaketimeMT.so.1");
        path.exists().then(|| path.to_str().unwrap().to_owned())
    });
    library.expect("Debian's package faketime is missing: `./test tools` installs it")
}
