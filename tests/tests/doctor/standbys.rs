//! Standbys, and what a primary keeps for them.

use shunt_cluster::{Postgres, Shunt, until};

use crate::kit::{
    DATABASE, Deployment, Found, NOTHING, SOON, app, diagnose, finds, migrate, node, prepare,
};

/// Nobody follows by this slot.
const AWAY: Found<'static> = ("standby-away", "warning");

#[test]
fn slots_and_standbys_are_watched() {
    let deployment = Deployment::start("none");
    // One that does not know of the standby sees it through the primary's eyes.
    let direct = app(&deployment.primary).url(DATABASE);
    let unnamed = deployment.with(&direct, "");
    let Deployment { primary, mut standby, pooler: _pooler, node } = deployment;
    for node in [&node, &unnamed] {
        finds(node, &[], NOTHING);
    }
    let slot = "pg_create_physical_replication_slot('abandoned', true)";
    primary.psql(&format!("SELECT {slot}")).unwrap();
    finds(&node, &[], &[AWAY]);
    // Segments of 16 MB each, with next to nothing in them.
    for _ in 0..6 {
        let fill = "SELECT pg_logical_emit_message(false, 'test', 'x'), pg_switch_wal()";
        primary.psql(fill).unwrap();
    }
    finds(&node, &[], &[("slot-retains-wal", "wrong")]);
    primary.wait_for(&standby).unwrap();
    primary.set("max_slot_wal_keep_size", "48MB").unwrap();
    until(SOON, "the slot to lose its log", || {
        primary.psql("CHECKPOINT").unwrap();
        let status = "SELECT wal_status FROM pg_replication_slots WHERE slot_name = 'abandoned'";
        (primary.psql(status).unwrap() == "lost").then_some(())
    })
    .unwrap();
    finds(&node, &[], &[("slot-lost", "wrong")]);
    primary.psql("SELECT pg_drop_replication_slot('abandoned')").unwrap();
    finds(&node, &[], NOTHING);

    standby.set("recovery_min_apply_delay", "1h").unwrap();
    for node in [&node, &unnamed] {
        late(node, &primary);
    }
    standby.psql("ALTER SYSTEM RESET recovery_min_apply_delay").unwrap();
    standby.psql("SELECT pg_reload_conf()").unwrap();
    for node in [&node, &unnamed] {
        finds(node, &[], NOTHING);
    }

    // It runs, and follows nobody.
    let source = standby.psql("SHOW primary_conninfo").unwrap();
    standby.set("primary_conninfo", "host=127.0.0.1 port=1").unwrap();
    finds(&node, &[], &[AWAY, ("standby-not-streaming", "warning")]);
    finds(&unnamed, &[], &[AWAY]);
    standby.set("primary_conninfo", &source).unwrap();
    finds(&node, &[], NOTHING);

    standby.freeze().unwrap();
    finds(&node, &[], &[("standby-unreachable", "warning")]);
    standby.thaw();
    standby.stop().unwrap();
    finds(&node, &[], &[AWAY, ("standby-unreachable", "warning")]);
    finds(&unnamed, &[], &[AWAY]);
}

/// Waits until the standby is found to be behind, by more than is allowed for this test.
fn late(node: &Shunt, primary: &Postgres) {
    let strict = ["--set", "store.max_lag=1s"];
    let wanted = vec![("standby-lag".to_owned(), "warning".to_owned())];
    until(SOON, "the standby to be late", || {
        // It tells how late it is when there is something new.
        primary.psql("SELECT pg_logical_emit_message(true, 'test', 'x')").unwrap();
        let (found, said) = diagnose(node, &strict);
        assert!(found.is_empty() || found == wanted, "{said}");
        (found == wanted).then_some(())
    })
    .unwrap();
}

#[test]
fn copies_of_nothing_and_of_two_primaries_are_found() {
    let mut primary = Postgres::setup().start().unwrap();
    prepare(&primary);
    let mut standby = primary.standby().unwrap();
    let [url, copy] = [&primary, &standby].map(|server| app(server).url(DATABASE));
    let alone = node(&url, "");
    migrate(&alone);
    finds(&alone, &[], NOTHING);
    let with = |replica: &str| node(&url, "").on(alone.data()).env("SHUNT_STORE_REPLICAS", replica);
    let node = with(&copy);
    primary.wait_for(&standby).unwrap();
    finds(&node, &[], NOTHING);

    let stranger = Postgres::setup().start().unwrap();
    prepare(&stranger);
    finds(&with(&app(&stranger).url(DATABASE)), &[], &[("standby-foreign", "wrong")]);
    let wrong = copy.replace(&primary.config().password, "canary");
    finds(&with(&wrong), &[], &[("standby-unreachable", "warning")]);

    primary.stop().unwrap();
    let gone = ("postgres-unreachable", "wrong");
    finds(&alone, &[], &[gone]);
    finds(&node, &[], &[("postgres-no-primary", "wrong"), gone]);
    standby.promote().unwrap();
    // What is named first is a copy like any other now.
    finds(&node, &[], &[("standby-unreachable", "warning")]);
    primary.restart().unwrap();
    finds(&node, &[], &[("standby-rival", "wrong")]);
}
