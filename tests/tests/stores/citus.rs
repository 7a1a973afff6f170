//! The store on Citus: the conformance suite, and where each statement goes.

use std::time::{Duration, SystemTime};

use shunt_store::postgres::statements::{self, Class, Described};
use shunt_store::postgres::{PostgresRollups, PostgresStore};
use shunt_store::{conformance_rollups, conformance_suite};
use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

use crate::cluster::{Cluster, OnCluster, subjects, with_cluster};
use crate::kit::with_client;

fn on_citus() -> impl FnMut() -> OnCluster<PostgresStore> {
    subjects()
}

fn rollups_on_citus() -> impl FnMut() -> OnCluster<PostgresRollups> {
    subjects()
}

conformance_suite!(ports, on_citus, conformance_function);
conformance_rollups!(rollups_on_citus, conformance_function);

/// Every port's facts, one after the other.
fn everything() {
    let all: [(&str, fn()); 11] = [
        ("links", ports::links),
        ("listing", ports::listing),
        ("domains", ports::domains),
        ("idempotency", ports::idempotency),
        ("once", ports::once),
        ("keys", ports::keys),
        ("pool", ports::pool),
        ("ranges", ports::ranges),
        ("meta", ports::meta),
        ("durability", ports::durability),
        ("rollups", rollups),
    ];
    let failed = all.iter().filter(|(_, port)| std::panic::catch_unwind(port).is_err());
    let failed: Vec<&str> = failed.map(|(name, _)| *name).collect();
    assert!(failed.is_empty(), "facts of these ports do not hold: {}", failed.join(", "));
}

#[test]
fn citus_passes_the_conformance_suite() {
    with_cluster(false, everything);
}

#[test]
fn through_pgbouncer_citus_passes_it_too() {
    with_cluster(true, everything);
}

/// A value for a parameter of each type that statements have; other seeds are other values.
fn value(kind: &Type, seed: i64) -> Box<dyn ToSql + Sync> {
    let text = || format!("v{seed}");
    match *kind {
        Type::TEXT => Box::new(text()),
        Type::INT8 => Box::new(seed),
        Type::INT4 => Box::new(seed as i32),
        Type::INT2 => Box::new(seed as i16),
        Type::BOOL => Box::new(true),
        Type::BYTEA => Box::new(text().into_bytes()),
        Type::TIMESTAMPTZ => Box::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 30)),
        Type::TEXT_ARRAY => Box::new((0..20).map(|n| format!("{n}v{seed}")).collect::<Vec<_>>()),
        Type::INT8_ARRAY => Box::new(vec![seed, seed + 1]),
        ref other => panic!("a parameter of type {other}"),
    }
}

/// The plan of a statement, in lines.
async fn explain(client: &Client, statement: &Described, seed: i64) -> String {
    let types = statement.types.iter().map(|oid| Type::from_oid(*oid).unwrap());
    // The second row of two is another one.
    let values: Vec<(Box<dyn ToSql + Sync>, Type)> =
        types.enumerate().map(|(at, kind)| (value(&kind, seed + at as i64), kind)).collect();
    let params: Vec<(&(dyn ToSql + Sync), Type)> =
        values.iter().map(|(value, kind)| (&**value, kind.clone())).collect();
    let sql = format!("EXPLAIN (COSTS OFF) {}", statement.sql);
    let rows = client.query_typed(&sql, &params).await;
    let rows = rows.unwrap_or_else(|error| panic!("{}: {error:?}\n{sql}", statement.name));
    rows.iter().map(|row| row.get::<_, String>(0) + "\n").collect()
}

/// How many nodes' work a plan is: the highest count of tasks, and how many plans are in it.
fn tasks(plan: &str) -> (u32, usize) {
    let counts = plan.lines().filter_map(|line| line.trim().strip_prefix("Task Count: "));
    let highest = counts.map(|count| count.parse().unwrap()).max().unwrap_or(0);
    (highest, plan.matches("Custom Scan (Citus").count())
}

/// Every statement needs as many nodes as its class says; what redirects and single creates send
/// is one task on one node.
#[test]
fn the_plans_of_citus_are_those_of_the_registry() {
    let Some(cluster) = Cluster::find(false) else { return };
    let coordinator = format!("port={}", cluster.port());
    with_client(&cluster.url(), async |client| {
        client.batch_execute("BEGIN").await.unwrap();
        let all = statements::all();
        let stage = all.iter().find(|statement| statement.name == "STAGE").unwrap();
        client.batch_execute(&stage.sql).await.unwrap();
        for statement in &all {
            let name = statement.name;
            if matches!(statement.class, Class::Ddl | Class::Cluster | Class::Shard) {
                if statement.name != "STAGE" {
                    let types = statement.types.iter().map(|oid| Type::from_oid(*oid).unwrap());
                    let types: Vec<Type> = types.collect();
                    let prepared = client.prepare_typed(&statement.sql, &types).await;
                    prepared.unwrap_or_else(|error| panic!("{name}: {error:?}"));
                }
                continue;
            }
            // Two rows may belong to one shard: other values, then.
            let mut plan = String::new();
            for seed in 0..16 {
                plan = explain(client, statement, seed).await;
                if statement.class != Class::MultiShard || tasks(&plan).0 > 1 {
                    break;
                }
            }
            let (most, scans) = tasks(&plan);
            let right = match statement.class {
                Class::Router => (most, scans) == (1, 1) && !plan.contains("Distributed Subplan"),
                Class::Reference => {
                    let reads = statement.sql.starts_with("SELECT");
                    (most, scans) == (1, 1) && (!reads || plan.contains(&coordinator))
                }
                Class::MultiShard => most > 1 || plan.contains("INSERT/SELECT"),
                Class::Local => (most, scans) == (0, 0),
                Class::Ddl | Class::Cluster | Class::Shard => true,
            };
            assert!(right, "{name} is no {:?} statement:\n{plan}", statement.class);
        }
    });
}
