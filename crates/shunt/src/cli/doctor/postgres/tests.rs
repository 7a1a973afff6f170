use std::collections::BTreeMap;

use shunt_store::postgres::doctor::OpenTransaction;

use super::super::findings::Verdict::{self, Warning, Wrong};
use super::*;

fn needs() -> Needs {
    Needs {
        connections: 16,
        writers: 8,
        request: Duration::from_secs(10),
        max_lag: Duration::from_secs(10),
        pool_refill_below: Some(100),
    }
}

fn standby() -> Standby {
    Standby {
        name: "s1".to_owned(),
        state: "streaming".to_owned(),
        sync_state: "async".to_owned(),
        lag_seconds: 0.5,
        behind_bytes: 4_096,
    }
}

fn slot() -> Slot {
    Slot {
        name: "s1".to_owned(),
        active: true,
        wal_status: "reserved".to_owned(),
        retained_bytes: 4_096,
    }
}

/// A server on which nothing is wrong.
fn sound() -> Facts {
    let settings = [
        ("autovacuum", "on"),
        ("fsync", "on"),
        ("full_page_writes", "on"),
        ("max_connections", "100"),
        ("max_slot_wal_keep_size", "-1"),
        ("max_wal_size", "1024"),
        ("statement_timeout", "0"),
        ("superuser_reserved_connections", "3"),
        ("synchronous_commit", "on"),
        ("synchronous_standby_names", ""),
        ("track_counts", "on"),
    ];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Facts {
        address: "db:5432".to_owned(),
        user: "shunt".to_owned(),
        identity: Some((7, 16_384)),
        in_recovery: false,
        read_only: false,
        encoding: "UTF8".to_owned(),
        clock_ahead_millis: -900,
        clock_error_millis: 3,
        transaction_age: 60_000_000,
        has_trigrams: true,
        settings: BTreeMap::from(settings),
        tables: Ok(Tables {
            version: 2,
            known: 2,
            missing: Vec::new(),
            forbidden: Vec::new(),
            invalid_indexes: Vec::new(),
            pooled_codes: Ok(1_000),
            oldest_key_seconds: Ok(86_400),
        }),
        slots: Ok(vec![slot()]),
        standbys: Ok(vec![standby()]),
        transactions: Ok(Vec::new()),
    }
}

/// What is found after one change, and whether the service can use the server.
fn after(change: impl FnOnce(&mut Facts)) -> (Vec<(&'static str, Verdict)>, bool) {
    let mut facts = sound();
    change(&mut facts);
    let mut findings = Findings::default();
    let usable = judge(&facts, &needs(), false, &mut findings);
    connections(&facts, &needs(), &mut findings);
    (findings.bad(), usable)
}

fn set(name: &str, value: &str) -> (Vec<(&'static str, Verdict)>, bool) {
    after(|facts| {
        facts.settings.insert(name.to_owned(), value.to_owned());
    })
}

fn tables(change: impl FnOnce(&mut Tables)) -> (Vec<(&'static str, Verdict)>, bool) {
    after(|facts| change(facts.tables.as_mut().unwrap()))
}

#[test]
fn a_sound_server_has_no_findings() {
    assert_eq!(after(|_| {}), (vec![], true));
}

#[test]
fn a_server_that_takes_no_writes_is_of_no_use() {
    let standby = after(|facts| facts.in_recovery = true);
    assert_eq!(standby, (vec![("postgres-standby", Wrong)], false));
    let read_only = after(|facts| facts.read_only = true);
    assert_eq!(read_only, (vec![("postgres-read-only", Wrong)], false));
}

#[test]
fn the_schema_is_the_right_one_and_may_be_used() {
    assert_eq!(tables(|t| t.version = 1), (vec![("postgres-schema", Wrong)], false));
    let newer = PostgresError::Newer { found: 9, known: 2 };
    let newer = after(|facts| facts.tables = Err(newer));
    assert_eq!(newer, (vec![("postgres-schema-foreign", Wrong)], false));
    let name = || vec!["links".to_owned()];
    assert_eq!(tables(|t| t.missing = name()), (vec![("postgres-tables", Wrong)], false));
    assert_eq!(tables(|t| t.forbidden = name()), (vec![("postgres-grants", Wrong)], false));
    assert_eq!(tables(|t| t.invalid_indexes = name()).0, [("postgres-index", Warning)]);
    assert_eq!(after(|f| f.has_trigrams = false).0, [("postgres-trigrams", Wrong)]);
    let ascii = after(|facts| facts.encoding = "SQL_ASCII".to_owned());
    assert_eq!(ascii.0, [("postgres-encoding", Wrong)]);
    assert_eq!(tables(|t| t.pooled_codes = Ok(99)).0, [("pool-low", Warning)]);
    assert_eq!(tables(|t| t.pooled_codes = Ok(0)).0, [("pool-low", Wrong)]);
    let old = tables(|t| t.oldest_key_seconds = Ok(OLD_KEY + 1));
    assert_eq!(old.0, [("postgres-idempotency", Warning)]);
}

#[test]
fn an_acknowledged_link_must_be_durable() {
    assert_eq!(set("fsync", "off").0, [("postgres-fsync", Wrong)]);
    assert_eq!(set("full_page_writes", "off").0, [("postgres-full-page-writes", Wrong)]);
    assert_eq!(set("synchronous_commit", "off").0, [("postgres-synchronous-commit", Wrong)]);
    assert_eq!(set("synchronous_commit", "local").0, []);
    let waiting = |commit: &str, state: &str, sync_state: &str, names: &str| {
        after(|facts| {
            facts.settings.insert("synchronous_commit".to_owned(), commit.to_owned());
            facts.settings.insert("synchronous_standby_names".to_owned(), names.to_owned());
            let sync_state = sync_state.to_owned();
            facts.standbys = Ok(vec![Standby { sync_state, state: state.to_owned(), ..standby() }]);
        })
        .0
    };
    assert_eq!(waiting("on", "streaming", "sync", "s1"), []);
    assert_eq!(waiting("on", "streaming", "quorum", "ANY 1 (s1, s2)"), []);
    let missing = [("postgres-synchronous-standby", Wrong)];
    assert_eq!(waiting("on", "streaming", "async", "s2"), missing);
    assert_eq!(waiting("on", "streaming", "sync", "FIRST 2 (s1, s2)"), missing);
    let local = [("postgres-synchronous-commit", Warning)];
    assert_eq!(waiting("local", "streaming", "async", "s2"), local);
}

#[test]
fn the_number_of_standbys_is_read_as_the_server_does() {
    for (names, number) in [
        ("", 0),
        ("s1", 1),
        ("s1, s2", 1),
        ("2 (s1, s2, s3)", 2),
        ("FIRST 2 (s1, s2)", 2),
        ("any 3(s1, s2, s3)", 3),
        ("*", 1),
        ("anyone", 1),
    ] {
        assert_eq!(awaited(names), number, "{names}");
    }
}

#[test]
fn standbys_follow_and_slots_are_read() {
    let standby = |change: &dyn Fn(&mut Standby)| {
        after(|facts| change(&mut facts.standbys.as_mut().unwrap()[0])).0
    };
    let slot =
        |change: &dyn Fn(&mut Slot)| after(|facts| change(&mut facts.slots.as_mut().unwrap()[0])).0;
    let stuck = standby(&|standby| standby.state = "catchup".to_owned());
    assert_eq!(stuck, [("standby-not-streaming", Warning)]);
    assert_eq!(standby(&|standby| standby.lag_seconds = 10.0), []);
    let late = standby(&|standby| standby.lag_seconds = 10.1);
    assert_eq!(late, [("standby-lag", Warning)]);
    assert_eq!(slot(&|slot| slot.active = false), [("standby-away", Warning)]);
    let full = slot(&|slot| {
        slot.active = false;
        slot.retained_bytes = 1_025 * MIB;
    });
    assert_eq!(full, [("slot-retains-wal", Wrong)]);
    assert_eq!(slot(&|slot| slot.retained_bytes = 1_025 * MIB), []);
    let lost = slot(&|slot| slot.wal_status = "lost".to_owned());
    assert_eq!(lost, [("slot-lost", Wrong)]);
}

#[test]
fn upkeep_is_looked_at() {
    for (ahead, found) in [
        (1_003, None),
        (1_004, Some(Warning)),
        (-5_000, Some(Warning)),
        (-11_000, Some(Wrong)),
        (10_004, Some(Wrong)),
    ] {
        let found: Vec<_> = found.map(|verdict| ("postgres-clock", verdict)).into_iter().collect();
        assert_eq!(after(|facts| facts.clock_ahead_millis = ahead).0, found, "{ahead}");
    }
    assert_eq!(set("autovacuum", "off").0, [("postgres-autovacuum", Warning)]);
    assert_eq!(set("max_connections", "18").0, [("postgres-connections", Wrong)]);
    assert_eq!(set("max_connections", "19").0, []);
    assert_eq!(set("statement_timeout", "9999").0, [("postgres-statement-timeout", Warning)]);
    assert_eq!(set("statement_timeout", "10000").0, []);
    let age = |age: i64| after(|facts| facts.transaction_age = age).0;
    assert_eq!(age(AGE_WARNING + 1), [("postgres-wraparound", Warning)]);
    assert_eq!(age(AGE_WRONG + 1), [("postgres-wraparound", Wrong)]);
    let open = |state: &str, seconds: f64| {
        let (state, application) = (state.to_owned(), "psql".to_owned());
        let open = OpenTransaction { pid: 7, state, application, seconds };
        after(|facts| facts.transactions = Ok(vec![open])).0
    };
    assert_eq!(open("idle in transaction", 61.0), [("postgres-open-transaction", Warning)]);
    assert_eq!(open("active", 61.0), []);
    assert_eq!(open("active", 3_601.0), [("postgres-open-transaction", Warning)]);
}

#[test]
fn what_can_not_be_seen_is_said_once() {
    let blind = after(|facts| {
        facts.standbys = Err("shunt may not see it".to_owned());
        facts.transactions = Err("shunt may not see it".to_owned());
    });
    assert_eq!(blind, (vec![("postgres-hidden", Warning)], true));
}

#[test]
fn another_database_for_migrations_is_noticed() {
    let found = |change: &dyn Fn(&mut Facts)| {
        let mut there = sound();
        change(&mut there);
        let mut findings = Findings::default();
        elsewhere(&sound(), &there, &mut findings);
        findings.bad()
    };
    let wrong = [("migrate-elsewhere", Wrong)];
    assert_eq!(found(&|_| {}), []);
    assert_eq!(found(&|there| there.identity = Some((7, 5))), wrong);
    assert_eq!(found(&|there| there.in_recovery = true), wrong);
    assert_eq!(found(&|there| there.identity = None), []);
}
