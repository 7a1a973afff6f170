//! The schema and the statements, as a real server sees them.

use shunt_cluster::Postgres;
use shunt_domain::ports::{LinkQuery, LinkWriter};
use shunt_store::conformance::check;
use shunt_store::conformance::fixtures::{create, link, soon, tags};
use shunt_store::postgres::statements::{self, Class};
use shunt_store::postgres::{PostgresError, PostgresStore, Secret, migrate};
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use crate::kit::{self, Servers, options};

fn servers() -> Servers {
    Servers::start(Postgres::setup().fast(), false)
}

/// Runs something with a connection of the driver's own to a database.
fn with_client<T>(servers: &Servers, database: &str, work: impl AsyncFnOnce(&Client) -> T) -> T {
    kit::with_client(&servers.postgres.url(database), work)
}

/// Text, columns and types of all statements are right.
#[test]
fn the_server_understands_every_statement() {
    let mut servers = servers();
    let database = servers.database();
    let all = statements::all();
    assert!(all.len() > 60);
    with_client(&servers, &database, async |client| {
        // Statements on the table that a COPY fills need it.
        let stage = all.iter().find(|statement| statement.name == "STAGE").unwrap();
        client.batch_execute("BEGIN").await.unwrap();
        client.batch_execute(&stage.sql).await.unwrap();
        // What asks about a cluster needs one; tests on Citus hold those.
        for statement in all.iter().filter(|statement| statement.class != Class::Cluster) {
            let types: Vec<Type> =
                statement.types.iter().map(|oid| Type::from_oid(*oid).unwrap()).collect();
            let prepared = client.prepare_typed(&statement.sql, &types).await;
            let prepared = prepared
                .unwrap_or_else(|error| panic!("{}: {error:?}\n{}", statement.name, statement.sql));
            assert_eq!(prepared.params(), types, "{}", statement.name);
        }
    });
}

/// The plan of a statement with these values, without the costs.
async fn plan(client: &Client, name: &str, values: &[&str]) -> String {
    let statement = statements::all().into_iter().find(|s| s.name == name).unwrap();
    let mut sql = statement.sql;
    // From the highest number down: $1 is the beginning of $10.
    for (at, value) in values.iter().enumerate().rev() {
        sql = sql.replace(&format!("${}", at + 1), value);
    }
    let rows = client.query(&format!("EXPLAIN (COSTS OFF) {sql}"), &[]).await.unwrap();
    let lines: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    lines.join("\n")
}

/// Ten thousand links: half of them with a tag, one in a thousand with a rare word and tag.
fn fill(store: &PostgresStore) {
    check(async {
        for round in 0..10 {
            let new = |at: u32| {
                let number = round * 1_000 + at;
                let mut new = link(&format!("c{}", number.wrapping_mul(2_654_435_761)));
                if number.is_multiple_of(2) {
                    new.tags = tags(&["half"]);
                }
                if number.is_multiple_of(1_000) {
                    new.tags = tags(&["rare"]);
                    new.title = Some("A needle in the haystack".into());
                }
                new.owner = shunt_domain::OwnerId(u64::from(number % 50));
                new
            };
            let made = store.create_many((0..1_000).map(new).collect(), soon()).await;
            assert!(made.done().unwrap().iter().all(Result::is_ok));
        }
    });
}

#[test]
fn statements_use_the_indexes_that_were_made_for_them() {
    let mut servers = servers();
    let database = servers.database();
    let store = PostgresStore::open(servers.options(&database)).unwrap();
    fill(&store);
    with_client(&servers, &database, async |client| {
        client.batch_execute("VACUUM ANALYZE links").await.unwrap();
        let null = "NULL::bigint";
        let none = "NULL::text";
        // Later than every link, so that the cursor has them all behind it.
        let time = "'2100-01-01'::timestamptz";
        let list = |owner, tag, pattern, behind: bool| {
            let (code, domain) = if behind { ("'c5'::text", "0::bigint") } else { (none, null) };
            [owner, null, tag, pattern, code, domain, time, none, null, time, "20"]
        };
        let everything = list(null, none, none, false);
        let further = list(null, none, none, true);
        let owned = list("7::bigint", none, none, true);
        let common = list(null, "'half'::text", none, true);
        let rare = list(null, "'rare'::text", none, true);
        let words = list(null, none, "'%needle%'::text", true);
        let cases: [(&str, &[&str], &str); 16] = [
            ("GET", &["'c5'", "0"], "links_pkey"),
            ("GET_MANY", &["ARRAY['c5', 'c6']"], "links_pkey"),
            ("CLAIM", &["'c5'", "0", time], "links_pkey"),
            ("NEWEST", &[], "links_created"),
            ("LAST_PLACE", &[time, time], "links_created"),
            ("LIST_CREATED_DESC", &everything, "links_created"),
            ("LIST_CREATED_DESC", &further, "links_created"),
            ("LIST_CREATED_ASC", &further, "links_created"),
            ("LIST_CREATED_DESC", &owned, "links_owner"),
            ("LIST_CREATED_DESC", &common, "links_created"),
            ("LIST_CREATED_DESC", &rare, "links_tags"),
            ("LIST_CREATED_DESC", &words, "links_words"),
            ("LIST_CODE_ASC", &further, "links_pkey"),
            ("WINDOW_CREATED_DESC", &["'c5'", "0", time, "5000"], "links_created"),
            ("EXPORT", &["'c5'", "0", time, "100"], "links_created"),
            ("HOLDERS", &["ARRAY['c5', 'c6']"], "links_pkey"),
        ];
        for (name, values, index) in cases {
            let plan = plan(client, name, values).await;
            assert!(plan.contains(index), "{name} {values:?}:\n{plan}");
            assert!(!plan.contains("Seq Scan"), "{name} {values:?}:\n{plan}");
        }
        // What stands behind a cursor is found by the index, not by reading what stands before it.
        for (name, values) in [("LIST_CREATED_DESC", further), ("LIST_CODE_ASC", further)] {
            let plan = plan(client, name, &values).await;
            assert!(plan.contains("Index Cond: (ROW("), "{name}:\n{plan}");
        }
    });
}

/// Beyond ten thousand links, the statistics are asked.
#[test]
fn the_count_of_many_links_is_near_the_truth() {
    let mut servers = servers();
    let database = servers.database();
    let store = PostgresStore::open(servers.options(&database)).unwrap();
    fill(&store);
    let count = || {
        let mut count = 0;
        check(async { count = store.approximate_count(soon()).await.unwrap() });
        count
    };
    assert_eq!(count(), 10_000, "without statistics all are counted");
    check(async { drop(create(&store, link("one-more")).await) });
    let config = servers.postgres.config();
    config.psql(&database, "VACUUM ANALYZE links").unwrap();
    let estimate = count();
    assert!((9_900..10_200).contains(&estimate), "{estimate}");
}

/// What may be asked of a cluster's hot path goes to one node: the registry says which that is.
#[test]
fn statements_of_every_class_are_there() {
    let all = statements::all();
    for class in [
        Class::Router,
        Class::Reference,
        Class::MultiShard,
        Class::Ddl,
        Class::Cluster,
        Class::Shard,
        Class::Local,
    ] {
        assert!(all.iter().any(|statement| statement.class == class), "{class:?}");
    }
}

#[test]
fn migrations_happen_once_however_many_try() {
    let servers = servers();
    servers.postgres.create_database("fresh").unwrap();
    let options = options(servers.postgres.config(), "fresh");
    let all: Vec<_> = (0..6)
        .map(|_| {
            let options = options.clone();
            std::thread::spawn(move || migrate(&options).unwrap())
        })
        .collect();
    let done: Vec<_> = all.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert_eq!(done.iter().filter(|migrated| migrated.from == 0).count(), 1);
    assert!(done.iter().all(|migrated| migrated.to == done[0].to));
    PostgresStore::open(options).unwrap().check().unwrap();
}

#[test]
fn a_database_that_does_not_fit_is_explained() {
    let mut servers = servers();
    let database = servers.database();
    let config = servers.postgres.config().clone();
    let check = |options| PostgresStore::open(options).unwrap().check();
    let good = options(&config, &database);
    check(good.clone()).unwrap();

    let password = Some(Secret::new("wrong"));
    let denied = check(shunt_store::postgres::PostgresOptions { password, ..good.clone() });
    assert!(matches!(denied, Err(PostgresError::Denied { .. })), "{denied:?}");
    let missing = check(options(&config, "nowhere"));
    assert!(matches!(missing, Err(PostgresError::NoDatabase { .. })), "{missing:?}");
    let empty = check(options(&config, "postgres"));
    assert!(matches!(empty, Err(PostgresError::Outdated { found: 0, .. })), "{empty:?}");

    let psql = |sql: &str| config.psql(&database, sql).unwrap();
    psql("UPDATE shunt_migrations SET checksum = checksum + 1 WHERE version = 1");
    assert_eq!(check(good.clone()), Err(PostgresError::Foreign { version: 1 }));
    assert_eq!(migrate(&good), Err(PostgresError::Foreign { version: 1 }));
    psql("UPDATE shunt_migrations SET checksum = checksum - 1 WHERE version = 1");
    psql("INSERT INTO shunt_migrations (version, name, checksum) VALUES (999, 'later', 0)");
    let newer = check(good.clone());
    assert!(matches!(newer, Err(PostgresError::Newer { found: 999, .. })), "{newer:?}");
    assert_eq!(migrate(&good).map(|_| ()), newer);

    // Somebody else's table in the way: nothing of the migration stays.
    servers.postgres.create_database("foreign").unwrap();
    config.psql("foreign", "CREATE TABLE domains (x int)").unwrap();
    let refused = migrate(&options(&config, "foreign"));
    assert!(matches!(refused, Err(PostgresError::Refused { .. })), "{refused:?}");
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'";
    assert_eq!(config.psql("foreign", tables).unwrap(), "1");

    servers.postgres.stop().unwrap();
    let gone = check(good);
    assert!(matches!(gone, Err(PostgresError::Unreachable { .. })), "{gone:?}");
}
