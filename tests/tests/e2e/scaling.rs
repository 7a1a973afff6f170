//! docs/scaling.md: what it says about settings is what shunt reads.

use std::collections::BTreeMap;

use serde_json::json;
use shunt_cluster::{PgBouncer, Postgres, RedisCluster, Request, Shunt};
use shunt_tests::markdown;

use crate::kit::{self, SOON, leads, link};

/// `$NAME` replaced by its value, the longest names first.
fn filled(template: &str, values: &BTreeMap<&str, &str>) -> String {
    let mut names: Vec<&&str> = values.keys().collect();
    names.sort_by_key(|name| std::cmp::Reverse(name.len()));
    names
        .into_iter()
        .fold(template.to_owned(), |text, name| text.replace(&format!("${name}"), values[*name]))
}

/// The words between backticks of one cell.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

#[test]
fn variables_of_others_become_ours_as_the_table_says() {
    let page = std::fs::read_to_string(shunt_tests::tree::root().join("docs/scaling.md")).unwrap();
    let theirs = BTreeMap::from([
        ("PORT", "3000"),
        ("PG_HOST", "10.0.0.5"),
        ("PG_PORT", "6432"),
        ("PG_USER", "app"),
        ("PG_PASSWORD", "geheim"),
        ("PG_DATABASE", "url_shortener"),
        ("REDIS_NODE1", "10.0.1.1"),
        ("REDIS_NODE2", "10.0.1.2"),
        ("REDIS_NODE3", "10.0.1.3"),
        ("REDIS_PORT", "6379"),
        ("REDIS_PASSWORD", "geheim2"),
        ("BASE_URL", "http://links.example.com/api/urls"),
    ]);
    let table = page.split("| theirs | ours |").nth(1).unwrap();
    let mut named = Vec::new();
    let mut node = Shunt::new().unwrap();
    for row in table.lines().skip(2).take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = row.split('|').collect();
        named.extend(quoted(cells[1]));
        let [ours] = quoted(cells[2])[..] else { panic!("one of ours in {row}") };
        let (name, template) = ours.split_once('=').unwrap();
        node = node.env(name, filled(template, &theirs));
    }
    named.sort_unstable();
    assert_eq!(named, theirs.keys().copied().collect::<Vec<_>>(), "all are in the table");

    let shown = node.cli(["config", "show", "--json"], SOON).unwrap();
    assert_eq!(shown.code(), 0, "{shown:?}");
    let shown: serde_json::Value = serde_json::from_str(&shown.stdout).unwrap();
    let value = |key: &str| shown["settings"][key]["value"].as_str().unwrap().to_owned();
    assert_eq!(value("listen"), "0.0.0.0:3000");
    assert_eq!(value("base_url"), "http://links.example.com/api/urls");
    for (key, words) in [
        ("store.url", ["10.0.0.5:6432/url_shortener"].as_slice()),
        ("cache.url", &["10.0.1.1:6379,10.0.1.2:6379,10.0.1.3:6379"]),
    ] {
        let value = value(key);
        assert!(words.iter().all(|word| value.contains(word)), "{key}: {value}");
        assert!(!value.contains("geheim"), "{key}: {value}");
    }
}

/// Somebody who follows the page, with every machine that it names.
struct Walk {
    node: Shunt,
    env: BTreeMap<String, String>,
    /// What the page writes, and what it is here.
    names: Vec<(String, String)>,
    postgres: Postgres,
    admin: Option<String>,
    /// Codes, and where they lead.
    links: BTreeMap<String, String>,
    serves: usize,
    copies: usize,
    /// Directories of earlier servers; the first one's has the data.
    places: Vec<Shunt>,
}

impl Walk {
    fn here(&self, text: &str) -> String {
        let text = self
            .names
            .iter()
            .fold(text.replace('"', ""), |text, (name, here)| text.replace(name.as_str(), here));
        self.env.iter().fold(text, |text, (name, value)| text.replace(&format!("${name}"), value))
    }

    /// A command of the page.
    fn run(&mut self, line: &str) {
        let here = self.here(line);
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["createuser", "--pwprompt", user] => {
                let sql = format!("CREATE ROLE {user} LOGIN PASSWORD 'PASSWORD'");
                self.postgres.config().psql("postgres", &sql).unwrap();
            }
            [
                "createdb",
                "--owner",
                owner,
                "--encoding",
                "UTF8",
                "--template",
                "template0",
                name,
            ] => {
                let sql = format!(
                    "CREATE DATABASE {name} OWNER {owner} ENCODING 'UTF8' TEMPLATE template0"
                );
                self.postgres.config().psql("postgres", &sql).unwrap();
            }
            ["export", _] => {
                let (name, value) = here["export ".len()..].split_once('=').unwrap();
                self.env.insert(name.to_owned(), value.to_owned());
            }
            ["unset", name] => assert!(self.env.remove(name).is_some(), "{name} is set"),
            ["shunt", "serve"] => self.serve(),
            ["shunt", command, ..] => {
                if command == "copy" {
                    self.copies += 1;
                    if here.contains("--to sqlite:") {
                        self.node.stop().unwrap();
                    }
                }
                let words: Vec<&str> = here.split_whitespace().skip(1).collect();
                // Beside the server that runs, as from another terminal.
                let mut other = Shunt::new().unwrap();
                for (name, value) in &self.env {
                    other = other.env(name, value);
                }
                other.cli(words, SOON * 3).unwrap().ok().unwrap();
            }
            _ => panic!("the page has a command that this test does not know: {line}"),
        }
    }

    /// Starts the server anew with the settings that are set, and looks at all links.
    fn serve(&mut self) {
        let data = self.node.data().to_owned();
        // Between a copy back and the start it does not run.
        let _ = self.node.stop();
        let mut node = Shunt::new().unwrap().on(data);
        for (name, value) in &self.env {
            node = node.env(name, value);
        }
        node.start().unwrap();
        // The files of the first one hold the data directory: it is kept for the whole walk.
        self.places.push(std::mem::replace(&mut self.node, node));
        self.serves += 1;
        for (code, target) in &self.links {
            leads(&self.node, code, target);
        }
        let admin = self.admin.get_or_insert_with(|| kit::admin(&self.node)).clone();
        let (code, target) = (format!("stage{}", self.serves), "https://example.com/first");
        link(&self.node, &code, target);
        self.links.insert(code, target.to_owned());
        // One that was made on an earlier stage changes on each.
        let target = format!("https://example.com/{}", self.serves);
        let edit = Request::new("PATCH", "/api/v1/links/stage1").key(&admin);
        let edited = self.node.ask(&edit.json(&json!({"target": target}))).unwrap();
        assert_eq!(edited.status, 200, "{edited:?}");
        leads(&self.node, "stage1", &target);
        self.links.insert("stage1".to_owned(), target);
    }
}

#[test]
fn the_page_is_walked_to_each_stage_and_back() {
    let page = std::fs::read_to_string(shunt_tests::tree::root().join("docs/scaling.md")).unwrap();
    let postgres = Postgres::setup().fast().start().unwrap();
    let standby = postgres.standby().unwrap();
    let shard = |name: &str| {
        let database = format!("shunt_{name}");
        postgres.create_database(&database).unwrap();
        let there = format!("shunt:PASSWORD@db-{name}.internal:5432/shunt");
        (there, postgres.url(&database).replace("postgres://", ""))
    };
    let shards = ["a", "b", "c"].map(shard);
    let pooler = PgBouncer::setup().database("shunt", postgres.config()).start().unwrap();
    let redis = RedisCluster::start().unwrap();
    let node = Shunt::new().unwrap();
    let data = node.data().display().to_string();
    let address = |server: &str| format!("postgres://shunt:PASSWORD@{server}/shunt");
    let mut names = vec![
        ("sqlite:///var/lib/shunt/links.db".to_owned(), format!("sqlite://{data}/links.db")),
        (address("db.internal:5432"), postgres.url("shunt")),
        (address("db2.internal:5432"), standby.url("shunt")),
        (address("pgbouncer.internal:6432"), pooler.url("shunt")),
        (
            "redis-cluster://:PASSWORD@redis1.internal:6379,redis2.internal:6379,\
             redis3.internal:6379"
                .to_owned(),
            redis.url(),
        ),
    ];
    names.extend(shards);
    let mut walk = Walk {
        node,
        env: BTreeMap::new(),
        names,
        postgres,
        admin: None,
        links: BTreeMap::new(),
        serves: 0,
        copies: 0,
        places: Vec::new(),
    };
    // The first stage is where everybody is.
    walk.serve();
    for fence in markdown::fences(&page).into_iter().filter(|fence| fence.language == "sh") {
        for line in fence.text.lines() {
            walk.run(line.trim());
        }
    }
    assert!(walk.serves >= 12 && walk.copies >= 5, "{} {}", walk.serves, walk.copies);
    assert_eq!(walk.env.len(), 1, "every stage but the database has its way back: {:?}", walk.env);
    assert!(walk.node.metric("shunt_store_connections_made_total", "").unwrap() > 0.0);
}
