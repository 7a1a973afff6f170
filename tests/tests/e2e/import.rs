//! The main job on real input: every URL of the file goes in, comes out of the redirect byte for
//! byte, and comes out of the export.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use serde_json::Value;
use shunt_cluster::{Request, Shunt};

use crate::kit;

const BOUND: Duration = Duration::from_secs(300);

fn urls() -> Vec<String> {
    let file = shunt_tests::tree::root().join("tests/data/urls.csv");
    let text = fs::read_to_string(file).unwrap();
    let urls: Vec<String> = text.lines().skip(1).map(ToOwned::to_owned).collect();
    assert!(urls.len() > 29_000);
    urls
}

/// Code → target of an export in NDJSON.
fn exported(shunt: &Shunt) -> BTreeMap<String, String> {
    let file = shunt.files().join("export.ndjson");
    let args = ["links", "export", "--format", "ndjson", "--output", file.to_str().unwrap()];
    shunt.cli(args, BOUND).unwrap().ok().unwrap();
    fs::read_to_string(file)
        .unwrap()
        .lines()
        .map(|line| {
            let row: Value = serde_json::from_str(line).unwrap();
            let text = |name: &str| row[name].as_str().unwrap().to_owned();
            (text("code"), text("target"))
        })
        .collect()
}

/// Follows every link and compares the target byte for byte.
fn follow(shunt: &Shunt, links: &BTreeMap<String, String>) {
    let mut connection = shunt.connect().unwrap();
    for (code, target) in links {
        let answer = connection.ask(&Request::get(format!("/{code}"))).unwrap();
        assert_eq!((answer.status, answer.location()), (302, target.as_str()), "{code}");
    }
}

#[test]
fn the_real_urls_round_trip() {
    let mut shunt = Shunt::started().unwrap();
    let urls = urls();
    let file = shunt_tests::tree::root().join("tests/data/urls.csv");
    let began = Instant::now();
    // Through the running server's socket.
    let import = shunt.cli(["links", "import", file.to_str().unwrap()], BOUND).unwrap();
    let took = began.elapsed();
    import.ok().unwrap();

    let links = exported(&shunt);
    let mut targets: Vec<&str> = links.values().map(String::as_str).collect();
    let mut expected: Vec<&str> = urls.iter().map(String::as_str).collect();
    targets.sort_unstable();
    expected.sort_unstable();
    assert!(targets == expected, "{} targets of {} urls", targets.len(), expected.len());
    follow(&shunt, &links);
    // Once more after a restart, from the disk.
    shunt.stop().unwrap();
    shunt.start().unwrap();
    follow(&shunt, &links);

    // Into another, empty service without a running server, codes and all.
    let other = Shunt::new().unwrap();
    let file = shunt.files().join("export.ndjson");
    other.cli(["links", "import", file.to_str().unwrap()], BOUND).unwrap().ok().unwrap();
    assert!(exported(&other) == links, "the export did not come back the same");
    kit::figure("real URLs", &format!("{} imported in {took:?}, all followed twice", urls.len()));
}

#[test]
fn bad_rows_are_listed_with_number_and_reason_and_the_good_ones_go_in() {
    let shunt = Shunt::started().unwrap();
    let file = shunt.files().join("mixed.csv");
    let rows = "target,code\nhttps://example.com/1,one\njavascript:alert(1),two\n\
                https://example.com/3,one\n\"https://example.com/a,b\",four\nnonsense,\n\
                https://example.com/6,api\n";
    fs::write(&file, rows).unwrap();
    let import = shunt.cli(["links", "import", file.to_str().unwrap()], BOUND).unwrap();
    assert_ne!(import.code(), 0, "some rows were refused: {import:?}");
    let said = import.stdout.clone() + &import.stderr;
    for (row, reason) in [("2", "scheme"), ("3", "taken"), ("5", ""), ("6", "reserved")] {
        let line = said.lines().find(|line| {
            let numbered = line.split(|c: char| !c.is_ascii_digit()).any(|word| word == row);
            numbered && line.to_lowercase().contains(reason)
        });
        assert!(line.is_some(), "row {row} ({reason}) in {said}");
    }
    kit::leads(&shunt, "one", "https://example.com/1");
    kit::leads(&shunt, "four", "https://example.com/a,b");
    assert_eq!(kit::get(&shunt, "/two").status, 404);
}

/// Tombstones are exported and come back as tombstones: a code is never given out again.
#[test]
fn tombstones_survive_export_and_import() {
    let shunt = Shunt::started().unwrap();
    let key = kit::admin(&shunt);
    kit::link(&shunt, "dead", "https://example.com/dead");
    kit::link(&shunt, "alive", "https://example.com/alive");
    let delete = Request::new("DELETE", "/api/v1/links/dead").key(&key);
    assert_eq!(shunt.ask(&delete).unwrap().status, 204);
    for format in ["ndjson", "csv"] {
        let file = shunt.files().join(format!("all.{format}"));
        let file = file.to_str().unwrap();
        let args = ["links", "export", file];
        shunt.cli(args, BOUND).unwrap().ok().unwrap();
        let mut other = Shunt::new().unwrap();
        other.cli(["links", "import", file], BOUND).unwrap().ok().unwrap();
        other.start().unwrap();
        kit::leads(&other, "alive", "https://example.com/alive");
        assert_eq!(kit::get(&other, "/dead").status, 410, "{format}");
        let wish = serde_json::json!({"code": "dead", "target": "https://example.com/"});
        let again = kit::create(&other, &wish);
        assert_eq!(again.status, 409, "{format}: {again:?}");
    }
}

/// A backup of a running server is whole, and restores to a server that answers the same.
#[test]
fn a_backup_of_a_running_server_restores() {
    let shunt = Shunt::started().unwrap();
    let mut connection = shunt.connect().unwrap();
    let mut links = BTreeMap::new();
    for i in 0..200 {
        let target = format!("https://example.com/{i}");
        links.insert(kit::shorten(&mut connection, &target), target);
    }
    let backup = shunt.files().join("backup.db");
    shunt.cli(["backup", backup.to_str().unwrap()], BOUND).unwrap().ok().unwrap();
    let mut other = Shunt::new().unwrap();
    other.cli(["restore", backup.to_str().unwrap()], BOUND).unwrap().ok().unwrap();
    other.start().unwrap();
    follow(&other, &links);
}
