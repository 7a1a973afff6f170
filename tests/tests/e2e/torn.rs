//! A torn tail, as a power cut leaves it: the logs cut at any byte still start, and what is there
//! is a beginning of what was written, never something else.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;
use shunt_cluster::{Request, Shunt};

use crate::kit::{self, SOON};

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            copy(&entry.path(), &target);
        } else if kind.is_file() {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn the_log_of_links_cut_at_any_byte_holds_a_beginning_of_what_was_written() {
    let mut shunt = Shunt::started().unwrap();
    let mut connection = shunt.connect().unwrap();
    let made: Vec<(String, String)> = (0..30)
        .map(|i| {
            let target = format!("https://example.com/{i}");
            (kit::shorten(&mut connection, &target), target)
        })
        .collect();
    shunt.kill();
    let wal = fs::read(shunt.data().join("links.db-wal")).unwrap();
    // Every byte of the last page (fewer unless counts are full), and places all over the log.
    let half = kit::count(4096);
    let fine = (0..half).map(|cut| cut * 4096 / half);
    let coarse = (1..half).map(|cut| wal.len() * cut / half);
    let cuts: Vec<usize> = fine.chain(coarse).collect();
    let mut shortest = made.len();
    for &cut in &cuts {
        let other = Shunt::new().unwrap();
        copy(shunt.data(), other.data());
        let log = other.data().join("links.db-wal");
        fs::write(&log, &wal[..wal.len() - cut]).unwrap();
        let _ = fs::remove_file(other.data().join("links.db-shm"));
        let args = ["links", "export", "--format", "ndjson"];
        let text = other.cli(args, SOON).unwrap().ok().unwrap();
        let found: BTreeMap<String, String> = text
            .lines()
            .map(|line| {
                let row: Value = serde_json::from_str(line).unwrap();
                let text = |name: &str| row[name].as_str().unwrap().to_owned();
                (text("code"), text("target"))
            })
            .collect();
        let beginning: BTreeMap<String, String> = made[..found.len()].iter().cloned().collect();
        assert_eq!(found, beginning, "{} bytes cut off", cut);
        assert!(cut > 0 || found.len() == made.len(), "nothing was cut, {} found", found.len());
        shortest = shortest.min(found.len());
    }
    assert!(shortest < made.len(), "no cut ever reached a link");
    kit::figure(
        "torn log of links",
        &format!("{} cuts, the deepest left {shortest} of 30 links", cuts.len()),
    );
}

/// The same for the click spool: the server starts, and what is gone is reported, not invented.
#[test]
fn a_torn_spool_starts_and_never_counts_a_click_twice() {
    // The worker is paused, so that all clicks are in the spool and nowhere else.
    let config = "[clicks]\nworker = false\n";
    let mut shunt = Shunt::new().unwrap().config(config).unwrap();
    shunt.start().unwrap();
    kit::link(&shunt, "hot", "https://example.com/hot");
    let mut connection = shunt.connect().unwrap();
    for _ in 0..500 {
        assert_eq!(connection.ask(&Request::get("/hot")).unwrap().status, 302);
    }
    shunt.stop().unwrap();
    let mut segments = Vec::new();
    find_files(shunt.data(), &mut segments);
    let segment = segments
        .into_iter()
        .filter(|path| path.to_str().unwrap().contains("spool"))
        .max_by_key(|path| fs::metadata(path).unwrap().len())
        .expect("the spool has a segment");
    let relative = segment.strip_prefix(shunt.data()).unwrap().to_owned();
    let bytes = fs::read(&segment).unwrap();
    let cuts = kit::count(400);
    for cut in 0..cuts {
        let mut other = Shunt::new().unwrap();
        copy(shunt.data(), other.data());
        let keep = bytes.len() - bytes.len() * cut / cuts;
        fs::write(other.data().join(&relative), &bytes[..keep]).unwrap();
        other.start().unwrap();
        // What was cut off is numbered by nobody any more, or reported lost; never invented.
        let least = if cut == 0 { 500 } else { 0 };
        let ledger = kit::balanced(&other, least);
        assert!(ledger.counted <= 500, "cut to {keep}: {ledger:?}");
        assert!(cut > 0 || (ledger.counted, ledger.lost) == (500, 0), "whole: {ledger:?}");
    }
}

fn find_files(directory: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            find_files(&entry.path(), found);
        } else {
            found.push(entry.path());
        }
    }
}
