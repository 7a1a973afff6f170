//! What can be wrong when the server starts: one line that says what, why and what to do, a right
//! exit code, and nothing changed.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use shunt_cluster::faults::SmallDisk;
use shunt_cluster::process::Finished;
use shunt_cluster::{Request, Shunt, Spec};

use crate::kit::{self, SOON};

/// Starts a server that must not start.
fn refused(shunt: &Shunt) -> Finished {
    let finished = shunt.serve_spec().unwrap().run(shunt.files(), SOON).unwrap();
    assert_ne!(finished.code(), 0, "it started: {finished:?}");
    finished
}

/// The error is one line and no trace of the inside.
#[track_caller]
fn one_line(finished: &Finished, words: &[&str]) {
    let errors: Vec<&str> =
        finished.stderr.lines().filter(|line| line.starts_with("shunt: ")).collect();
    assert_eq!(errors.len(), 1, "{finished:?}");
    for word in words {
        assert!(finished.stderr.contains(word), "{word} in {finished:?}");
    }
    for inside in ["panicked", "backtrace", "Err(", "Os {", "unwrap"] {
        assert!(!finished.stderr.contains(inside), "{finished:?}");
    }
}

#[test]
fn a_taken_port_is_said_with_its_address() {
    let shunt = Shunt::new().unwrap();
    let _taken = TcpListener::bind(shunt.socket()).unwrap();
    let finished = refused(&shunt);
    one_line(&finished, &[&shunt.socket().to_string(), "--listen"]);
}

/// Listeners share their port by `SO_REUSEPORT`, which must not make two strangers share it.
#[test]
fn another_shunts_port_is_taken_too() {
    let first = Shunt::started().unwrap();
    kit::link(&first, "mine", "https://example.com/mine");
    let second = Shunt::new().unwrap();
    let spec = second.serve_spec().unwrap().args(["--listen", &first.socket().to_string()]);
    let finished = spec.run(second.files(), SOON);
    let finished = finished.expect("the second server shares the first one's port");
    assert_ne!(finished.code(), 0, "{finished:?}");
    for _ in 0..20 {
        kit::leads(&first, "mine", "https://example.com/mine");
    }
}

#[test]
fn two_servers_on_one_directory_are_refused() {
    let first = Shunt::started().unwrap();
    kit::link(&first, "mine", "https://example.com/mine");
    let second = Shunt::new().unwrap().on(first.data());
    let finished = refused(&second);
    one_line(&finished, &[first.data().to_str().unwrap()]);
    kit::leads(&first, "mine", "https://example.com/mine");
    kit::link(&first, "more", "https://example.com/more");
}

#[test]
fn a_read_only_directory_is_refused() {
    let disk = SmallDisk::mount(1024).unwrap();
    let shunt = Shunt::new().unwrap().on(disk.path().join("data"));
    let spec = Spec::new("mount", "mount").args(["-o", "remount,ro"]).arg(disk.path());
    spec.run(shunt.files(), SOON).unwrap().ok().unwrap();
    one_line(&refused(&shunt), &[disk.path().to_str().unwrap()]);
}

#[test]
fn a_data_directory_that_is_a_file_is_refused() {
    let shunt = Shunt::new().unwrap();
    fs::write(shunt.data(), "not a directory").unwrap();
    one_line(&refused(&shunt), &[shunt.data().to_str().unwrap()]);
    assert_eq!(fs::read_to_string(shunt.data()).unwrap(), "not a directory");
}

/// A made-up server that has run once, so that its files exist.
fn used() -> Shunt {
    let mut shunt = Shunt::started().unwrap();
    kit::link(&shunt, "kept", "https://example.com/kept");
    shunt.stop().unwrap();
    shunt
}

#[test]
fn a_file_that_is_no_database_is_refused_and_left_alone() {
    let shunt = used();
    let path = shunt.data().join("links.db");
    for content in ["this is no database".repeat(1000).into_bytes(), b"SQLite format 3\0".to_vec()]
    {
        let wal = shunt.data().join("links.db-wal");
        let _ = fs::remove_file(&wal);
        fs::write(&path, &content).unwrap();
        one_line(&refused(&shunt), &["links.db"]);
        assert_eq!(fs::read(&path).unwrap(), content, "the file was changed");
    }
}

#[test]
fn somebody_elses_database_is_refused_and_left_alone() {
    let shunt = used();
    let path = shunt.data().join("links.db");
    for entry in fs::read_dir(shunt.data()).unwrap() {
        let entry = entry.unwrap().path();
        if entry.file_name().unwrap().to_str().unwrap().starts_with("links.db") {
            fs::remove_file(entry).unwrap();
        }
    }
    let foreign = rusqlite::Connection::open(&path).unwrap();
    foreign
        .execute_batch("CREATE TABLE links (code TEXT); INSERT INTO links VALUES ('x');")
        .unwrap();
    foreign.close().unwrap();
    let before = fs::read(&path).unwrap();
    one_line(&refused(&shunt), &["links.db"]);
    assert_eq!(fs::read(&path).unwrap(), before, "the file was changed");
}

/// A newer version's schema is not touched by an older program.
#[test]
fn a_newer_schema_is_refused() {
    let shunt = used();
    let path = shunt.data().join("links.db");
    let db = rusqlite::Connection::open(&path).unwrap();
    let version: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    assert!(version > 0, "the schema is numbered");
    db.pragma_update(None, "user_version", version + 1000).unwrap();
    db.close().unwrap();
    one_line(&refused(&shunt), &["links.db"]);
}

/// One flipped page: the start-up check or the doctor finds it; nothing answers from garbage.
#[test]
fn a_damaged_database_is_found_by_the_doctor() {
    let mut shunt = Shunt::started().unwrap();
    let mut connection = shunt.connect().unwrap();
    for i in 0..500 {
        kit::shorten(&mut connection, &format!("https://example.com/{i}/{}", "x".repeat(500)));
    }
    shunt.stop().unwrap();
    let well = shunt.cli(["doctor"], SOON).unwrap();
    assert_eq!(well.code(), 0, "{well:?}");
    let path = shunt.data().join("links.db");
    let mut bytes = fs::read(&path).unwrap();
    let len = bytes.len();
    for page in bytes[4096..].chunks_mut(4096).step_by(3) {
        page[..64].fill(0xa5);
    }
    assert_eq!(bytes.len(), len);
    fs::write(&path, &bytes).unwrap();
    let ill = shunt.cli(["doctor"], SOON).unwrap();
    assert_ne!(ill.code(), 0, "{ill:?}");
    assert!(ill.stdout.contains("links.db") || ill.stderr.contains("links.db"), "{ill:?}");
}

#[test]
fn every_problem_of_the_configuration_is_listed_at_once_with_code_64() {
    let config = "listen = \"nonsense\"\nno_such_key = 1\n[links]\ncode_length = \"many\"\n\
                  [timeouts]\nheader = \"-3s\"\n[cache]\nl1_bytes = \"12 parsecs\"\n";
    let shunt = Shunt::new().unwrap().config(config).unwrap();
    let file = shunt.files().join("shunt.toml");
    let file = file.to_str().unwrap();
    let check = shunt.cli(["config", "check", "--config", file], SOON).unwrap();
    assert_eq!(check.code(), 64, "{check:?}");
    let said = check.stdout.clone() + &check.stderr;
    for word in ["listen", "no_such_key", "code_length", "header", "l1_bytes"] {
        assert!(said.contains(word), "{word} in {said}");
    }
    // The server itself says one line, and where all are to be had.
    let serve = refused(&shunt);
    assert_eq!(serve.code(), 64, "{serve:?}");
    one_line(&serve, &["no_such_key", "config check"]);
    assert!(!shunt.data().join("links.db").exists(), "nothing was made");

    let broken = Shunt::new().unwrap().config("listen = \"127").unwrap();
    assert_eq!(refused(&broken).code(), 64);
    let missing = Shunt::new().unwrap().arg("--config").arg("/nonexistent/shunt.toml");
    let finished = refused(&missing);
    assert_eq!(finished.code(), 64, "{finished:?}");
    assert!(finished.stderr.contains("/nonexistent/shunt.toml"), "{finished:?}");
    let flag = Shunt::new().unwrap().arg("--cores").arg("lots");
    assert!(matches!(refused(&flag).code(), 2 | 64));
    let variable = Shunt::new().unwrap().env("SHUNT_BACKLOG", "lots");
    let finished = refused(&variable);
    assert_eq!(finished.code(), 64, "{finished:?}");
    assert!(finished.stderr.contains("SHUNT_BACKLOG"), "{finished:?}");
}

/// File < environment < flags.
#[test]
fn a_flag_beats_the_environment_which_beats_the_file() {
    let config = "base_url = \"https://file.example\"\n";
    for (env, flag, expected) in [
        (false, false, "https://file.example/"),
        (true, false, "https://env.example/"),
        (true, true, "https://flag.example/"),
    ] {
        let mut shunt = Shunt::new().unwrap().config(config).unwrap();
        if env {
            shunt = shunt.env("SHUNT_BASE_URL", "https://env.example");
        }
        if flag {
            shunt = shunt.arg("--base-url").arg("https://flag.example");
        }
        shunt.start().unwrap();
        let key = kit::admin(&shunt);
        let wish = serde_json::json!({"target": "https://example.com/"});
        let answer = shunt.ask(&Request::post_json("/api/v1/links", &wish).key(&key)).unwrap();
        assert_eq!(answer.status, 201, "{answer:?}");
        let short = answer.json().unwrap()["short_url"].as_str().unwrap().to_owned();
        assert!(short.starts_with(expected), "{short}");
    }
}

#[test]
fn the_command_socket_is_for_its_owner_alone() {
    let shunt = Shunt::started().unwrap();
    let sockets: Vec<_> = fs::read_dir(shunt.data())
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| std::os::unix::fs::FileTypeExt::is_socket(&entry.file_type().unwrap()))
        .collect();
    assert!(!sockets.is_empty(), "commands find a running server by a socket");
    for socket in sockets {
        let mode = socket.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{:?}", socket.path());
    }
    // And they do: a link made by the command line is served at once.
    let args = ["links", "add", "https://example.com/cli", "--code", "cli"];
    shunt.cli(args, SOON).unwrap().ok().unwrap();
    kit::leads(&shunt, "cli", "https://example.com/cli");
}
