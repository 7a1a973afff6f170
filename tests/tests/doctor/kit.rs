//! A sound deployment, and what the doctor says of it.

use std::time::Duration;

use serde_json::{Value, json};
use shunt_cluster::postgres::Config;
use shunt_cluster::{PgBouncer, Postgres, Request, Shunt, until};

/// The database of links.
pub(crate) const DATABASE: &str = "links";

/// The user that shunt logs in as: no superuser, as it should be.
pub(crate) const USER: &str = "app";

/// How long a finding may take to be there, or to be gone.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// What is found, and how bad it is.
pub(crate) type Found<'a> = (&'a str, &'a str);

/// Nothing is.
pub(crate) const NOTHING: &[Found<'static>] = &[];

/// A primary with a standby, a pooler, and a node that runs on them.
pub(crate) struct Deployment {
    pub(crate) primary: Postgres,
    pub(crate) standby: Postgres,
    pub(crate) pooler: PgBouncer,
    pub(crate) node: Shunt,
}

/// A server's user as shunt logs in.
pub(crate) fn app(server: &Postgres) -> Config {
    Config { user: USER.to_owned(), ..server.config().clone() }
}

/// Makes the user, and a database of its own.
pub(crate) fn prepare(server: &Postgres) {
    let password = &server.config().password;
    server.psql(&format!("CREATE ROLE {USER} LOGIN PASSWORD '{password}'")).unwrap();
    server.psql(&format!("GRANT pg_monitor TO {USER}")).unwrap();
    create(server, DATABASE, "");
}

/// Makes another database of that user.
pub(crate) fn create(server: &Postgres, name: &str, options: &str) {
    server.psql(&format!("CREATE DATABASE {name} OWNER {USER} {options}")).unwrap();
}

/// A node that is not started.
pub(crate) fn node(store: &str, migrate: &str) -> Shunt {
    Shunt::new().unwrap().env("SHUNT_STORE", store).env("SHUNT_STORE_MIGRATE", migrate)
}

pub(crate) fn migrate(node: &Shunt) {
    let finished = node.cli(["migrate"], SOON).unwrap();
    assert_eq!(finished.code(), 0, "{finished:?}");
}

impl Deployment {
    /// A node that reads from the standby, too.
    pub(crate) fn start(cache: &str) -> Self {
        let primary = Postgres::setup()
            // Small, so that a slot that keeps more than this is soon made.
            .setting("max_wal_size", "64MB")
            .rule("host all barred 127.0.0.1/32 reject")
            .start()
            .unwrap();
        prepare(&primary);
        let standby = primary.standby().unwrap();
        let server = app(&primary);
        let pooler = PgBouncer::setup().database(DATABASE, &server).start().unwrap();
        let node = node(&pooler.url(DATABASE), &server.url(DATABASE));
        let node = node.env("SHUNT_STORE_REPLICAS", app(&standby).url(DATABASE));
        let mut node = node.env("SHUNT_CACHE", cache);
        migrate(&node);
        node.start().unwrap();
        for code in ["one", "two"] {
            let link = json!({"code": code, "target": "https://example.com/"});
            let answer = node.ask(&Request::post_json("/api/v1/links", &link)).unwrap();
            assert_eq!(answer.status, 201, "{answer:?}");
        }
        Self { primary, standby, pooler, node }
    }

    /// The same data directory with other addresses, and no standby named.
    pub(crate) fn with(&self, store: &str, migrate: &str) -> Shunt {
        node(store, migrate).on(self.node.data())
    }
}

/// Ids and verdicts of all that is not fine, with what was said.
pub(crate) fn diagnose(node: &Shunt, args: &[&str]) -> (Vec<(String, String)>, String) {
    let args = ["doctor", "--json"].iter().chain(args);
    let finished = node.cli(args, SOON).unwrap();
    let report: Value = serde_json::from_str(&finished.stdout)
        .unwrap_or_else(|error| panic!("{error}: {finished:?}"));
    let checks = report["checks"].as_array().unwrap();
    let text = |check: &Value, name: &str| check[name].as_str().unwrap().to_owned();
    let bad = checks.iter().filter(|check| check["verdict"] != "ok");
    for check in bad.clone() {
        for name in ["check", "detail", "why", "remedy"] {
            let said = text(check, name);
            assert!(!said.is_empty() && !said.contains('\n'), "{name} of {check}");
        }
    }
    let mut found: Vec<(String, String)> = bad
        .map(|check| (text(check, "id"), text(check, "verdict")))
        // How full the disk of the machine is that the tests run on is none of their business.
        .filter(|(id, _)| id != "disk-space")
        .collect();
    found.sort();
    let wrong = checks.iter().any(|check| check["verdict"] == "wrong");
    assert_eq!((finished.code(), report["ok"] == true), (i32::from(wrong), !wrong), "{finished:?}");
    (found, finished.stdout + &finished.stderr)
}

/// Waits until exactly these are found, in the order of their ids.
#[track_caller]
pub(crate) fn finds(node: &Shunt, args: &[&str], wanted: &[Found<'_>]) {
    let mut last = String::new();
    let found = until(SOON, "the doctor", || {
        let (found, said) = diagnose(node, args);
        last = said;
        let found = found.iter().map(|(id, verdict)| (id.as_str(), verdict.as_str()));
        found.eq(wanted.iter().copied()).then_some(())
    });
    if let Err(error) = found {
        panic!("{error}; wanted {wanted:?}, found {last}");
    }
}
