//! The links of another shortener: served from where they are, taken over, and its database let go.

use serde_json::{Value, json};
use shunt_cluster::{Postgres, Request, Shunt, until};
use shunt_domain::ring::{Ring, RingNode};

use crate::kit::{self, SOON, get, leads};

const DATABASE: &str = "shortener";

const USERS: &str = "
    CREATE TABLE urls (
        short_url_id varchar(16) PRIMARY KEY, long_url text, user_id integer,
        created_at timestamptz NOT NULL
    );
    CREATE TABLE keys (short_url_id varchar(16) PRIMARY KEY, used boolean NOT NULL);
    INSERT INTO urls SELECT 'k' || n, 'https://site' || n % 40 || '.example/p/' || n, n % 5,
        timestamptz '2024-03-01 12:00:00+00' + n * interval '1 minute'
        FROM generate_series(1, 2300) n;
    INSERT INTO urls VALUES ('script', 'javascript:alert(1)', 1, now());
    INSERT INTO keys SELECT 'free' || n, false FROM generate_series(1, 1200) n;";

fn server(schema: &str) -> Postgres {
    let postgres = Postgres::setup().fast().start().unwrap();
    postgres.create_database(DATABASE).unwrap();
    postgres.config().psql(DATABASE, schema).unwrap();
    postgres
}

/// A node that serves what the first schema has.
fn node(url: &str) -> Shunt {
    Shunt::new()
        .unwrap()
        .env("SHUNT_LEGACY", url)
        .env("SHUNT_LEGACY_CODE", "short_url_id")
        .env("SHUNT_LEGACY_OWNER", "user_id")
        .env("SHUNT_LEGACY_KEYS", "keys")
}

fn import(node: &Shunt, flags: &[&str]) -> (i32, Value) {
    let args = ["links", "import", "--legacy", "--json"].iter().chain(flags);
    let finished = node.cli(args, SOON * 3).unwrap();
    let report = finished.stdout.lines().last().map(serde_json::from_str);
    (finished.code(), report.unwrap_or_else(|| panic!("{finished:?}")).unwrap())
}

#[test]
fn another_shortener_is_served_imported_and_let_go() {
    let postgres = server(USERS);
    let url = postgres.url(DATABASE);
    let mut node = node(&url);
    node.start().unwrap();
    leads(&node, "k7", "https://site7.example/p/7");
    leads(&node, "k2300", "https://site20.example/p/2300");
    assert_eq!(get(&node, "/k2301").status, 404);
    assert_eq!(get(&node, "/script").status, 410);

    // Its codes are taken, with and without an idempotency key, alone and in a batch.
    let wish = json!({"code": "k9", "target": "https://mine.example/"});
    assert_eq!(kit::create(&node, &wish).status, 409);
    let once = Request::post_json("/api/v1/links", &wish)
        .header("Idempotency-Key", "a-key-that-is-long-enough-1");
    assert_eq!(node.ask(&once).unwrap().status, 409);
    leads(&node, "k9", "https://site9.example/p/9");

    // A change takes the link over; the other service's table stays as it is.
    let edit = ["links", "edit", "k7", "--target", "https://new.example/"];
    node.cli(edit, SOON).unwrap().ok().unwrap();
    leads(&node, "k7", "https://new.example/");
    node.cli(["links", "rm", "k8"], SOON).unwrap().ok().unwrap();
    assert_eq!(get(&node, "/k8").status, 410);
    let there = postgres.config().psql(DATABASE, "SELECT count(*) FROM urls").unwrap();
    assert_eq!(there, "2301");

    let (code, report) = import(&node, &["--keys"]);
    assert_eq!(code, 65, "one row is refused: {report}");
    let number = |name: &str| report[name].as_u64().unwrap();
    let counts = ["rows", "imported", "exists", "refused", "keys"].map(number);
    assert_eq!(counts, [2_301, 2_298, 2, 1, 1_200]);
    // Again: nothing is new.
    let (_, again) = import(&node, &[]);
    assert_eq!((&again["imported"], &again["exists"]), (&json!(0), &json!(2_300)));
    assert!(node.stop().unwrap().success());

    // Without the other service, and without its settings.
    drop(postgres);
    let mut alone = Shunt::new().unwrap().on(node.data());
    alone.start().unwrap();
    leads(&alone, "k9", "https://site9.example/p/9");
    leads(&alone, "k7", "https://new.example/");
    assert_eq!(get(&alone, "/k8").status, 410);
    assert_eq!(get(&alone, "/script").status, 404);
    let file = alone.files().join("export.ndjson");
    let export = ["links", "export", "--format", "ndjson", "--output", file.to_str().unwrap()];
    alone.cli(export, SOON).unwrap().ok().unwrap();
    // Live links and one tombstone.
    assert_eq!(std::fs::read_to_string(file).unwrap().lines().count(), 2_300);
    let pool = alone.cli(["keys", "fill", "--count", "0", "--json"], SOON).unwrap();
    let pool: Value = serde_json::from_str(&pool.ok().unwrap()).unwrap();
    assert_eq!(pool["size"], 1_200);
}

/// A command that is started while the server is not finds the tables itself; a wrong name is a
/// wrong setting.
#[test]
fn an_import_needs_no_server_and_says_what_is_wrong() {
    let postgres = server(USERS);
    let url = postgres.url(DATABASE);
    let (_, report) = import(&node(&url), &[]);
    assert_eq!(report["imported"], 2_300);
    let wrong = node(&url).env("SHUNT_LEGACY_TARGET", "adress");
    let finished = wrong.cli(["links", "import", "--legacy"], SOON).unwrap();
    assert_eq!(finished.code(), 64, "{finished:?}");
    assert!(finished.stderr.contains("adress") && finished.stderr.contains("[legacy]"));
    let none = Shunt::new().unwrap().cli(["links", "import", "--legacy"], SOON).unwrap();
    assert!(none.stderr.contains("legacy.url"), "{none:?}");
}

#[test]
fn a_shard_that_is_down_costs_its_own_codes_only() {
    let schema = "
        CREATE TABLE urls (
            short_code varchar(10) PRIMARY KEY, long_url text NOT NULL,
            created_at timestamp NOT NULL, click_count integer NOT NULL DEFAULT 0, category text
        );";
    let mut servers = [0, 1, 2].map(|_| server(schema));
    let nodes = ["shard0", "shard1", "shard2"].map(RingNode::new);
    let ring = Ring::new(nodes.to_vec()).unwrap();
    let codes: Vec<String> = (0..90).map(|n| format!("c{}", n * 7_919)).collect();
    for code in &codes {
        let sql = format!("INSERT INTO urls VALUES ('{code}', 'https://x.example/{code}', now())");
        servers[ring.owner(code)].config().psql(DATABASE, &sql).unwrap();
    }
    let urls: Vec<String> = servers.iter().map(|server| server.url(DATABASE)).collect();
    let mut node = Shunt::new()
        .unwrap()
        .env("SHUNT_LEGACY", urls.join(" "))
        .env("SHUNT_LEGACY_NODES", "shard0,shard1,shard2");
    node.start().unwrap();
    let (before, after) = codes.split_at(45);
    for code in before {
        leads(&node, code, &format!("https://x.example/{code}"));
    }
    servers[2].kill().unwrap();
    let mut lost = 0;
    for code in after {
        let answer = get(&node, &format!("/{code}"));
        let down = ring.owner(code) == 2;
        assert_eq!(answer.status, if down { 503 } else { 302 }, "{code}: {answer:?}");
        assert!(!down || answer.header("retry-after").is_some(), "{answer:?}");
        lost += usize::from(down);
    }
    assert!(lost > 5, "the fault did not bite");
    // A node that starts now starts all the same.
    node.restart().unwrap();
    for code in before {
        let down = ring.owner(code) == 2;
        assert_eq!(get(&node, &format!("/{code}")).status, if down { 503 } else { 302 }, "{code}");
    }
    servers[2].restart().unwrap();
    for code in &codes {
        until(SOON, "the shard", || (get(&node, &format!("/{code}")).status == 302).then_some(()))
            .unwrap();
    }
}
