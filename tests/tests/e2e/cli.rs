//! The command line: the same answers with and without a running server, right exit codes, and
//! imports that survive a kill.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use serde_json::{Value, json};
use shunt_cluster::process::Finished;
use shunt_cluster::{Request, Shunt, until};

use crate::kit::{self, SOON};

const BOUND: Duration = Duration::from_secs(120);

fn run(shunt: &Shunt, args: &[&str]) -> Finished {
    shunt.cli(args, BOUND).unwrap()
}

#[track_caller]
fn ok(shunt: &Shunt, args: &[&str]) -> String {
    run(shunt, args).ok().unwrap()
}

/// The command fails with this code and one line that holds the word.
#[track_caller]
fn fails(shunt: &Shunt, args: &[&str], code: i32, word: &str) {
    let finished = run(shunt, args);
    assert_eq!(finished.code(), code, "{args:?}: {finished:?}");
    let errors: Vec<&str> =
        finished.stderr.lines().filter(|line| line.starts_with("shunt: ")).collect();
    assert_eq!(errors.len(), 1, "{args:?}: {finished:?}");
    assert!(errors[0].contains(word), "{args:?}: {finished:?}");
}

/// The rows of an export, without what depends on where it was made.
fn exported(shunt: &Shunt) -> Vec<Value> {
    ok(shunt, &["links", "export"])
        .lines()
        .map(|line| {
            let mut row: Value = serde_json::from_str(line).unwrap();
            row.as_object_mut().unwrap().remove("short_url");
            row
        })
        .collect()
}

/// Creates, lists, shows, changes and deletes links; answers what was said on the way.
fn story(shunt: &Shunt) -> Vec<Value> {
    let made = ok(
        shunt,
        &["links", "add", "https://example.com/a", "--code", "one", "--tag", "x", "--json"],
    );
    let mut made: Value = serde_json::from_str(&made).unwrap();
    for moving in ["created_at", "updated_at", "short_url"] {
        made.as_object_mut().unwrap().remove(moving);
    }
    ok(shunt, &["links", "add", "https://example.com/b", "--code", "-two", "--title", "=1+1"]);
    let listed = ok(shunt, &["links", "list", "--sort", "code", "--json"]);
    let codes: Vec<Value> = listed
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["code"].clone())
        .collect();
    ok(shunt, &["links", "edit", "one", "--title", "new", "--if-version", "1"]);
    fails(shunt, &["links", "edit", "one", "--title", "x", "--if-version", "1"], 1, "version");
    let shown: Value =
        serde_json::from_str(&ok(shunt, &["links", "show", "one", "--json"])).unwrap();
    ok(shunt, &["links", "rm", "one"]);
    fails(shunt, &["links", "rm", "one"], 1, "no such link");
    fails(shunt, &["links", "show", "one"], 1, "no such link");
    fails(shunt, &["links", "add", "https://example.com/", "--code", "one"], 1, "code");
    fails(shunt, &["links", "add", "javascript:alert(1)"], 65, "target");
    vec![made, codes.into(), shown["link"]["title"].clone(), shown["link"]["version"].clone()]
}

#[test]
fn commands_say_the_same_with_and_without_a_server() {
    let running = Shunt::started().unwrap();
    let alone = Shunt::new().unwrap();
    let through_the_socket = story(&running);
    assert_eq!(through_the_socket, story(&alone));
    assert_eq!(through_the_socket[1], json!(["-two", "one"]));
    assert_eq!(through_the_socket[2..], [json!("new"), json!(2)]);
    kit::leads(&running, "-two", "https://example.com/b");
}

#[test]
fn exit_codes_tell_what_kind_of_failure_it_was() {
    let shunt = Shunt::new().unwrap();
    let missing = run(&shunt, &["no-such-command"]);
    assert_eq!(missing.code(), 64, "{missing:?}");
    assert_eq!(run(&shunt, &["--help"]).code(), 0);
    fails(&shunt, &["links", "list", "--set", "cores=x"], 64, "cores");
    fails(&shunt, &["links", "list"], 66, "no data directory");
    fails(&shunt, &["links", "import", "/no/such/file"], 66, "/no/such/file");
    fails(&shunt, &["restore", "/no/such/file"], 66, "/no/such/file");
    fails(&shunt, &["warm"], 69, "no server runs");
    let file = shunt.files().join("there.csv");
    fs::write(&file, "title\nx\n").unwrap();
    let file = file.to_str().unwrap();
    fails(&shunt, &["links", "import", file], 65, "no column is called target");
    fails(&shunt, &["links", "export", file], 73, "exists already");
    ok(&shunt, &["links", "export", file, "--force"]);
    assert!(fs::read_to_string(file).unwrap().starts_with("code,domain,target,"));
}

/// A server that holds the directory but can't be reached is no reason to open the store beside it.
#[test]
fn a_store_in_use_is_refused_and_its_owner_named() {
    let mut shunt = Shunt::started().unwrap();
    let socket = shunt.data().join("shunt.sock");
    let mode = fs::metadata(&socket).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600, "only the owner may use the socket");
    fs::rename(&socket, shunt.data().join("hidden")).unwrap();
    let pid = shunt.process().unwrap().pid().to_string();
    fails(&shunt, &["links", "list"], 75, &pid);
    fs::rename(shunt.data().join("hidden"), &socket).unwrap();
    ok(&shunt, &["links", "list"]);
}

#[test]
fn local_routes_do_not_exist_on_the_network() {
    let shunt = Shunt::started().unwrap();
    let key = kit::admin(&shunt);
    for (method, path) in [
        ("GET", "/local/info"),
        ("POST", "/local/backup"),
        ("POST", "/local/diagnose"),
        ("POST", "/local/pool"),
        ("POST", "/local/warm"),
    ] {
        let request = Request::new(method, path)
            .header("Content-Type", "application/json")
            .key(&key)
            .body("{}");
        let answer = shunt.ask(&request).unwrap();
        assert_eq!(answer.status, 404, "{method} {path}: {answer:?}");
    }
    assert!(ok(&shunt, &["doctor"]).contains("process"));
}

/// The server is killed in the middle of an import of rows that name no codes; the import goes on
/// and every row becomes one link, none two.
#[test]
fn a_killed_import_goes_on_without_making_anything_twice() {
    let mut shunt = Shunt::started().unwrap();
    let count = 40_000;
    let file = shunt.files().join("many.csv");
    let rows: String = (0..count).map(|n| format!("https://example.com/{n}\n")).collect();
    fs::write(&file, format!("url\n{rows}")).unwrap();
    let path = file.to_str().unwrap().to_owned();
    // A server that stands still, so that the import is under way when the server is killed.
    let data = shunt.data().to_owned();
    let state = move || {
        let found = fs::read_dir(&data).ok()?.filter_map(Result::ok).find(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            name.starts_with("import-") && name.ends_with(".json")
        })?;
        let text = fs::read_to_string(found.path()).ok()?;
        serde_json::from_str::<Value>(&text).ok()?["settled"].as_u64()
    };
    let settled = std::thread::scope(|scope| {
        let import = scope.spawn(|| shunt.cli(["links", "import", &path], BOUND).unwrap());
        let settled = until(SOON, "the first chunks of the import", || {
            state().filter(|settled| *settled >= 2_000)
        });
        let settled = settled.unwrap();
        let killed = std::process::Command::new("kill")
            .args(["-9", &pid_in(&shunt.data().join("lock"))])
            .status();
        assert!(killed.unwrap().success());
        let import = import.join().unwrap();
        assert_eq!(import.code(), 69, "{import:?}");
        assert!(import.stderr.contains("--resume"), "{import:?}");
        settled
    });
    assert!(settled < count, "the import was over before the kill: nothing was tested");
    shunt.kill();
    shunt.start().unwrap();
    fails(&shunt, &["links", "import", &path], 64, "--resume");
    let resumed: Value =
        serde_json::from_str(&ok(&shunt, &["links", "import", &path, "--resume", "--json"]))
            .unwrap();
    assert_eq!(resumed["rows"], count, "{resumed}");
    let rows = exported(&shunt);
    let targets: BTreeSet<&str> = rows.iter().filter_map(|row| row["target"].as_str()).collect();
    assert_eq!(rows.len() as u64, count, "a row was made twice or lost");
    assert_eq!(targets.len() as u64, count);
    fails(&shunt, &["links", "import", &path, "--resume"], 66, "no import of this file");
}

/// The process that holds a data directory, as its lock file says.
fn pid_in(lock: &std::path::Path) -> String {
    fs::read_to_string(lock).unwrap().trim().to_owned()
}

/// Formulas in titles are guarded in CSV, and come back as they were, byte for byte.
#[test]
fn csv_keeps_spreadsheets_from_running_titles_and_comes_back_the_same() {
    let one = Shunt::new().unwrap();
    let titles = ["=1+1", "+x", "-x", "@x", "'=x", "'x", "a,b", "say \"hi\"", "ünï"];
    let rows: String = titles
        .iter()
        .enumerate()
        .map(|(n, title)| {
            let row = json!({
                "target": format!("https://example.com/{n}"), "title": title,
                "tags": ["=t", "u"], "max_clicks": n + 1, "domain": "go.example",
            });
            format!("{row}\n")
        })
        .collect();
    let file = one.files().join("rows.ndjson");
    fs::write(&file, rows).unwrap();
    ok(&one, &["links", "import", file.to_str().unwrap()]);
    let csv = one.files().join("out.csv");
    let csv = csv.to_str().unwrap();
    ok(&one, &["links", "export", csv]);
    let text = fs::read_to_string(csv).unwrap();
    assert!(text.contains(",'=1+1,") && text.contains(",''=x,"), "{text}");
    let two = Shunt::new().unwrap();
    ok(&two, &["links", "import", csv]);
    assert_eq!(exported(&one), exported(&two));
    // Once more changes nothing.
    let again: Value =
        serde_json::from_str(&ok(&two, &["links", "import", csv, "--json"])).unwrap();
    assert_eq!((again["exists"].as_u64(), again["restored"].as_u64()), (Some(9), Some(0)));
}

#[test]
fn a_dry_run_names_the_same_rows_and_changes_nothing() {
    let shunt = Shunt::new().unwrap();
    let file = shunt.files().join("x.csv");
    fs::write(&file, "url,code\nhttps://a.example/,\njavascript:1,\nhttps://b.example/,api\n")
        .unwrap();
    let file = file.to_str().unwrap();
    let dry = run(&shunt, &["links", "import", file, "--dry-run"]);
    let wet = run(&shunt, &["links", "import", file]);
    assert_eq!((dry.code(), wet.code()), (65, 65));
    for finished in [&dry, &wet] {
        assert!(finished.stderr.contains("row 2 (line 3): target"), "{finished:?}");
        assert!(finished.stderr.contains("row 3 (line 4): code"), "{finished:?}");
    }
    assert!(wet.stdout.contains("1 created"), "{wet:?}");
    assert_eq!(exported(&shunt).len(), 1, "the dry run made none");
}

#[test]
fn keys_work_over_the_network_until_they_are_revoked() {
    let shunt = Shunt::started().unwrap();
    let key = ok(&shunt, &["apikeys", "add", "robot", "--scope", "read"]);
    let key = key.trim();
    let list = || shunt.ask(&Request::get("/api/v1/links").key(key)).unwrap().status;
    assert_eq!(list(), 200);
    let listed = ok(&shunt, &["apikeys", "list"]);
    assert!(listed.contains("robot") && !listed.contains(key), "{listed}");
    let id = listed.split('\t').next().unwrap().to_owned();
    ok(&shunt, &["apikeys", "revoke", &id]);
    until(SOON, "the key to be refused", || (list() == 401).then_some(())).unwrap();
}

/// Two characters give 3,844 codes, eight of which are reserved words (js and qr in every case).
#[test]
fn a_small_space_is_used_up_to_its_last_code() {
    let shunt = Shunt::new()
        .unwrap()
        .env("SHUNT_LINKS_CODE_LENGTH", "2")
        .env("SHUNT_LINKS_CODE_MAX_LENGTH", "2");
    fails(&shunt, &["seed", "4000"], 74, "used up");
    let codes: BTreeSet<String> = exported(&shunt)
        .iter()
        .filter_map(|row| row["code"].as_str().map(ToOwned::to_owned))
        .collect();
    assert_eq!(codes.len(), 3_844 - 8);
    assert!(codes.iter().all(|code| code.len() == 2));
    fails(&shunt, &["links", "add", "https://example.com/"], 74, "used up");
}

#[test]
fn the_pool_is_filled_and_used_and_range_codes_differ_across_restarts() {
    let pool = Shunt::new()
        .unwrap()
        .env("SHUNT_LINKS_ALLOCATOR", "pool")
        .env("SHUNT_LINKS_POOL_REFILL_BELOW", "0");
    fails(&pool, &["links", "add", "https://example.com/"], 69, "keys fill");
    let filled: Value =
        serde_json::from_str(&ok(&pool, &["keys", "fill", "--count", "1500", "--json"])).unwrap();
    assert_eq!((&filled["added"], &filled["size"]), (&json!(1_500), &json!(1_500)));
    ok(&pool, &["seed", "700"]);
    let left = ok(&pool, &["keys", "fill", "--count", "0", "--json"]);
    let left: Value = serde_json::from_str(&left).unwrap();
    assert_eq!(left["size"], 800, "a clean end gives the rest of the row back");

    let range = Shunt::new()
        .unwrap()
        .env("SHUNT_LINKS_ALLOCATOR", "range")
        .env("SHUNT_LINKS_RANGE_LEASE", "64");
    for _ in 0..5 {
        ok(&range, &["seed", "100"]);
    }
    assert_eq!(exported(&range).len(), 500);
}

#[test]
fn settings_are_layered_and_shown_with_their_origin() {
    let shunt = Shunt::new().unwrap().env("SHUNT_LINKS_CODE_LENGTH", "6");
    fs::create_dir_all(shunt.data()).unwrap();
    fs::write(
        shunt.data().join("shunt.toml"),
        "backlog = 17\n[links]\ncode_length = 5\nimmutable = true\n",
    )
    .unwrap();
    let shown: Value = serde_json::from_str(&ok(
        &shunt,
        &["config", "show", "--json", "--set", "links.immutable=false"],
    ))
    .unwrap();
    let setting = |key: &str| &shown["settings"][key];
    assert_eq!(setting("backlog")["value"], "17");
    assert!(setting("backlog")["origin"].as_str().unwrap().ends_with("shunt.toml:1"));
    assert_eq!(setting("links.code_length")["value"], "6");
    assert_eq!(setting("links.code_length")["origin"], "SHUNT_LINKS_CODE_LENGTH");
    assert_eq!(setting("links.immutable")["value"], "false");
    assert_eq!(setting("links.immutable")["origin"], "--set");
    let file = shunt.files().join("bad.toml");
    fs::write(&file, "lisen = 1\n[links]\nalphabet = 'aa'\n").unwrap();
    let file = file.to_str().unwrap();
    let check = run(&shunt, &["config", "check", "--config", file, "--set", "cores=x"]);
    assert_eq!(check.code(), 64);
    for part in ["bad.toml:1: lisen", "did you mean listen?", "bad.toml:3", "--set: cores"] {
        assert!(check.stderr.contains(part), "{part} in {check:?}");
    }
}

#[test]
fn doctor_finds_what_is_planted() {
    let shunt = Shunt::started().unwrap();
    kit::link(&shunt, "well", "https://example.com/");
    let fine: Value = serde_json::from_str(&ok(&shunt, &["doctor", "--json"])).unwrap();
    assert_eq!(fine["ok"], true, "{fine}");
    let db = shunt.data().join("links.db");
    let before = fs::metadata(&db).unwrap().permissions();
    fs::set_permissions(&db, fs::Permissions::from_mode(0o666)).unwrap();
    let ill = run(&shunt, &["doctor"]);
    assert_eq!(ill.code(), 1, "{ill:?}");
    assert!(ill.stdout.contains("links.db (666)"), "{ill:?}");
    fs::set_permissions(&db, before).unwrap();
    ok(&shunt, &["doctor"]);
}

#[test]
fn warming_fills_the_running_servers_cache() {
    let shunt = Shunt::started().unwrap();
    ok(&shunt, &["seed", "500", "--pattern", "w{:03}"]);
    let warmed: Value = serde_json::from_str(&ok(&shunt, &["warm", "--json"])).unwrap();
    assert_eq!((&warmed["warmed"], &warmed["failed"]), (&json!(500), &json!(0)));
    kit::leads(&shunt, "w499", "https://www.example.com/seed/499");
}
