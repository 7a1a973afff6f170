//! Clocks that jump: links end by wall time, deadlines go by the other clock, no code comes twice.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::json;
use shunt_cluster::wait::pause;
use shunt_cluster::{Request, Shunt, until};

use crate::kit::{self, SOON};

/// libfaketime, wherever Debian has put it on this architecture.
fn libfaketime() -> String {
    let library = fs::read_dir("/usr/lib").unwrap().flatten().find_map(|entry| {
        let path = entry.path().join("faketime/libfaketimeMT.so.1");
        path.exists().then(|| path.to_str().unwrap().to_owned())
    });
    library.expect("Debian's package faketime is missing: `./test tools` installs it")
}

/// Sets the server's wall clock this many seconds off, from now on.
fn set(file: &Path, offset: i64) {
    let fresh = file.with_extension("new");
    fs::write(&fresh, format!("{offset:+}\n")).unwrap();
    fs::rename(fresh, file).unwrap();
}

#[test]
fn clocks_that_jump_expire_links_and_nothing_else() {
    let shunt = Shunt::new().unwrap();
    let clock = shunt.files().join("clock");
    set(&clock, 0);
    let mut shunt = shunt
        .env("LD_PRELOAD", libfaketime())
        .env("FAKETIME_TIMESTAMP_FILE", &clock)
        .env("FAKETIME_NO_CACHE", "1")
        // Two spellings: versions differ. With a faked monotonic clock this test would test that.
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("DONT_FAKE_MONOTONIC", "1");
    shunt.start().unwrap();
    let key = kit::admin(&shunt);
    kit::link(&shunt, "ever", "https://example.com/ever");
    // The server's own clock says when a link was made: the jumps are seen by that.
    let created_at = |code: &str| {
        let path = format!("/api/v1/links/{code}");
        let answer = shunt.ask(&Request::get(path).key(&key)).unwrap().json().unwrap();
        answer["created_at"].as_str().unwrap().to_owned()
    };
    let today = created_at("ever");
    let noon = format!("{}T00:00:00Z", &today[..10]);
    // Ends tomorrow at midnight; begins in a year.
    let day = 86_400;
    let (year, rest) = today.split_at(4);
    let next_year = format!("{}{}", year.parse::<u32>().unwrap() + 1, &rest[..6]);
    for (code, more) in [
        ("ends", json!({"expires_at": format!("{next_year}T00:00:00Z")})),
        ("begins", json!({"valid_from": format!("{next_year}T00:00:00Z")})),
    ] {
        let mut wish = json!({"code": code, "target": "https://example.com/t"});
        wish.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = shunt.ask(&Request::post_json("/api/v1/links", &wish).key(&key)).unwrap();
        assert_eq!(answer.status, 201, "{answer:?} {noon}");
    }
    let mut kept = shunt.connect().unwrap();
    let mut codes = BTreeSet::new();
    for (jump, ends, begins) in [
        (0, 302, 404),
        (3600, 302, 404),
        (-3600, 302, 404),
        (day, 302, 404),
        (-day, 302, 404),
        (400 * day, 410, 302),
        (0, 302, 404),
        (-400 * day, 302, 404),
        (1, 302, 404),
    ] {
        set(&clock, jump);
        for (code, status) in [("ends", ends), ("begins", begins), ("ever", 302)] {
            let path = format!("/{code}");
            let mut last = String::new();
            until(SOON, &format!("{status} for {code} after a jump of {jump} s"), || {
                let answer = kept.ask(&Request::get(&path)).unwrap();
                last = format!("{} {:?}", answer.status, answer.header("date"));
                (answer.status == status).then_some(())
            })
            .unwrap_or_else(|error| panic!("{error}; at last {last}; made at {today}"));
        }
        for _ in 0..20 {
            let code = kit::shorten(&mut kept, "https://example.com/x");
            assert!(codes.insert(code.clone()), "{code} came twice");
        }
    }
    // The jumps were seen by the server, or this showed nothing.
    let years: BTreeSet<String> =
        codes.iter().map(|code| created_at(code)[..4].to_owned()).collect();
    assert!(years.len() >= 3, "{years:?}");
    // A kept connection outlived all jumps, and deadlines did not: a minute of wall time passes
    // at once here, and half a second of the other clock does not close anything.
    set(&clock, 60);
    pause(Duration::from_millis(500));
    assert_eq!(kept.ask(&Request::get("/ever")).unwrap().status, 302);
    shunt.kill();
    shunt.start().unwrap();
    kit::leads(&shunt, "ever", "https://example.com/ever");
}
