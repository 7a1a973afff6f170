//! Starts after an end that was none: crashes, torn and damaged files, lost rings.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use shunt_domain::ports::{ClickRecorder, LedgerRow};

use super::support::{ModelStore, NODE, click, config, eventually, soon};
use crate::frame::Frame;
use crate::{Pipeline, PipelineConfig, WorkerState};

const AGENT: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0";

fn start(settings: &PipelineConfig, store: &Arc<ModelStore>) -> Pipeline {
    Pipeline::start(settings.clone(), NODE, store.clone()).expect("it starts")
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(dir.join("spool"))
        .expect("a spool")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "spool"))
        .collect();
    found.sort();
    found
}

/// Where each frame of a segment begins, and where the last one ends.
fn frames(bytes: &[u8]) -> Vec<usize> {
    let mut starts = vec![16];
    let mut at = 16;
    while let Some(rest) = bytes.get(at + 4..at + 8) {
        at += u32::from_le_bytes(rest.try_into().expect("four bytes")) as usize;
        starts.push(at);
    }
    starts
}

/// A copy of a directory, so that one crash can be continued in many ways.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        let kind = entry.file_type().expect("a type");
        if kind.is_dir() {
            copy(&entry.path(), &target);
        } else if kind.is_file() {
            fs::copy(entry.path(), target).expect("a copy");
        }
    }
}

/// Starts in `dir`, lets it recover, closes it; the row of the oldest boot.
fn recovered(dir: &Path, store: &Arc<ModelStore>) -> LedgerRow {
    let pipeline = start(&config(dir, 1), store);
    let report = pipeline.shutdown(soon());
    assert!(report.closed && report.stored, "{report:?}");
    let model = store.model.lock().expect("no panic");
    let ledger = model.ledger();
    for row in &ledger {
        assert!(row.closed, "{row:?}");
        assert_eq!(row.counted + row.lost, row.served, "{row:?}");
    }
    assert_eq!(model.events(), ledger.iter().map(|row| row.counted).sum::<u64>());
    ledger[0]
}

/// Leaves a directory with `spooled` events in frames of ten and `on_ring` on the ring, as a kill
/// would. The worker counted nothing.
fn crash(dir: &Path, spooled: u64, on_ring: i64) {
    crash_with(dir, spooled, on_ring, &Arc::new(ModelStore::default()), false);
}

/// The same, but the worker counts in `store` what was spooled, if it may.
fn crash_with(dir: &Path, spooled: u64, on_ring: i64, store: &Arc<ModelStore>, count: bool) {
    let mut settings = config(dir, 1);
    settings.heartbeat = std::time::Duration::from_secs(3600);
    let pipeline = start(&settings, store);
    if !count {
        pipeline.pause_worker(true);
        eventually("it is paused", || pipeline.stats().worker_state == WorkerState::Paused);
    }
    let mut recorder = pipeline.take_recorder(0).expect("a recorder");
    let mut at = 0;
    while pipeline.stats().spooled < spooled {
        for _ in 0..10 {
            recorder.record(&click(&format!("c{}", at % 7), at, AGENT));
            at += 1;
        }
        let so_far = at as u64;
        eventually("it is spooled", || pipeline.stats().spooled == so_far);
    }
    if count {
        eventually("it is counted", || pipeline.stats().counted == spooled);
    }
    drop(pipeline);
    // Nobody drains any more: these stay on the ring.
    for _ in 0..on_ring {
        recorder.record(&click("ring", at, AGENT));
    }
}

#[test]
fn what_a_killed_process_left_on_its_rings_is_counted_once() {
    let dir = tempfile::tempdir().expect("a directory");
    crash(dir.path(), 50, 23);
    let store = Arc::new(ModelStore::default());
    let row = recovered(dir.path(), &store);
    assert_eq!((row.served, row.counted, row.lost, row.unknown), (73, 73, 0, false));
    assert_eq!(store.model.lock().expect("no panic").clicks_of("ring"), 23);
    let again = recovered(dir.path(), &store);
    assert_eq!(again, row, "another start changes nothing");
}

#[test]
fn many_crashes_in_a_row_balance() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Arc::new(ModelStore::default());
    let settings = config(dir.path(), 2);
    let mut served = 0;
    for round in 0..12 {
        let pipeline = start(&settings, &store);
        let mut recorders: Vec<_> =
            (0..2).map(|core| pipeline.take_recorder(core).expect("a recorder")).collect();
        for i in 0..(round * 97) % 400 {
            for recorder in &mut recorders {
                recorder.record(&click("many", i, AGENT));
                served += 1;
            }
        }
        // Dropped at whatever it was doing: recovering the last crash, spooling, folding.
        drop(pipeline);
    }
    recovered(dir.path(), &store);
    let model = store.model.lock().expect("no panic");
    assert_eq!(model.clicks_of("many"), served);
    assert!(model.ledger().iter().all(|row| row.lost == 0 && !row.unknown));
}

#[test]
fn rings_that_are_gone_are_said_to_be_unknown() {
    let dir = tempfile::tempdir().expect("a directory");
    crash(dir.path(), 50, 23);
    fs::remove_dir_all(dir.path().join("ring")).expect("the machine restarted");
    let store = Arc::new(ModelStore::default());
    let row = recovered(dir.path(), &store);
    // The last frame said 50; what came after it, nobody knows.
    assert_eq!((row.served, row.counted, row.lost, row.unknown), (50, 50, 0, true));
    let last_heard = row.at;
    let model = store.model.lock().expect("no panic");
    let newest = model.ledger().last().copied().expect("the second boot");
    assert!(!newest.unknown && newest.at >= last_heard);
}

#[test]
fn a_tail_torn_at_any_byte_costs_nothing_the_ring_still_has() {
    let origin = tempfile::tempdir().expect("a directory");
    crash(origin.path(), 30, 0);
    let segment = segments(origin.path()).pop().expect("a segment");
    let bytes = fs::read(&segment).expect("its bytes");
    let starts = frames(&bytes);
    let (last, end) = (starts[starts.len() - 2], bytes.len());
    assert_eq!(starts.last(), Some(&end));
    // Usually the last ten; fewer when the spool's thread woke up in the midst of them.
    let torn = Frame::parse(&bytes[last..]).expect("a frame").events();
    assert!((1..=10).contains(&torn), "{torn} events");
    // Every byte near the ends of the frame's parts, and a spread in between.
    let cuts = (last..end).filter(|at| {
        let from = at - last;
        from < 80 || end - at < 40 || from.is_multiple_of(61)
    });
    let mut tried = 0;
    for cut in cuts {
        let dir = tempfile::tempdir().expect("a directory");
        let whole = dir.path().join("data");
        copy(origin.path(), &whole);
        let file = whole.join("spool").join(segment.file_name().expect("a name"));
        fs::write(&file, &bytes[..cut]).expect("torn");
        let store = Arc::new(ModelStore::default());
        let row = recovered(&whole, &store);
        // The tail had moved, so the frame's events are neither in a good frame nor on the ring:
        // they are numbered, and reported lost. (A kill before the tail moves: `kill.rs`.)
        assert_eq!((row.served, row.counted, row.lost), (30, 30 - torn, torn), "cut at {cut}");
        tried += 1;
    }
    assert!(tried > 120, "{tried} cuts");
}

/// The last frame was durable and counted, and is damaged afterwards: what is still on the ring
/// must not get its numbers again, or it would be taken for counted.
#[test]
fn numbers_of_a_damaged_last_frame_are_not_used_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Arc::new(ModelStore::default());
    crash_with(dir.path(), 30, 23, &store, true);
    let segment = segments(dir.path()).pop().expect("a segment");
    let mut bytes = fs::read(&segment).expect("its bytes");
    let starts = frames(&bytes);
    bytes[starts[starts.len() - 2] + 40] ^= 1;
    fs::write(&segment, bytes).expect("damaged");
    let row = recovered(dir.path(), &store);
    assert_eq!((row.served, row.counted, row.lost), (53, 53, 0));
    assert_eq!(store.model.lock().expect("no panic").clicks_of("ring"), 23);
}

#[test]
fn a_damaged_frame_in_the_middle_is_a_reported_gap() {
    let origin = tempfile::tempdir().expect("a directory");
    crash(origin.path(), 50, 5);
    let segment = segments(origin.path()).pop().expect("a segment");
    let bytes = fs::read(&segment).expect("its bytes");
    let starts = frames(&bytes);
    let with_events: Vec<_> = starts
        .windows(2)
        .filter(|w| Frame::parse(&bytes[w[0]..w[1]]).expect("a frame").events() > 0)
        .collect();
    assert_eq!(with_events.len(), 5);
    let (from, to) = (with_events[1][0], with_events[1][1]);
    // Magic, length, header, an event, the last byte; and a part that is gone.
    for at in [from, from + 4, from + 5, from + 40, (from + to) / 2, to - 1] {
        let dir = tempfile::tempdir().expect("a directory");
        let whole = dir.path().join("data");
        copy(origin.path(), &whole);
        let file = whole.join("spool").join(segment.file_name().expect("a name"));
        let mut damaged = bytes.clone();
        damaged[at] ^= 0xff;
        fs::write(&file, &damaged).expect("damaged");
        let store = Arc::new(ModelStore::default());
        let row = recovered(&whole, &store);
        assert_eq!((row.served, row.counted, row.lost), (55, 45, 10), "byte {at}");
        fs::write(&file, [&bytes[..from], &bytes[to - 100..]].concat()).expect("a part is gone");
    }
    let dir = tempfile::tempdir().expect("a directory");
    let whole = dir.path().join("data");
    copy(origin.path(), &whole);
    let file = whole.join("spool").join(segment.file_name().expect("a name"));
    fs::write(&file, [&bytes[..from], &bytes[to - 100..]].concat()).expect("a part is gone");
    let store = Arc::new(ModelStore::default());
    let row = recovered(&whole, &store);
    assert_eq!((row.served, row.counted, row.lost), (55, 45, 10));
}

#[test]
fn frames_that_are_there_twice_change_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    crash(dir.path(), 50, 5);
    let segment = segments(dir.path()).pop().expect("a segment");
    // As after an fsync error whose cut-off did not reach the disk: the same frames again.
    fs::copy(&segment, dir.path().join("spool").join(format!("{:020}.spool", 2))).expect("a copy");
    let store = Arc::new(ModelStore::default());
    let row = recovered(dir.path(), &store);
    assert_eq!((row.served, row.counted, row.lost), (55, 55, 0));
    // And once more, after everything was counted and closed.
    let kept = segments(dir.path());
    let mut bytes = fs::read(kept.first().expect("the newest stays")).expect("its bytes");
    bytes.extend_from_within(16..);
    fs::write(kept.first().expect("the newest stays"), bytes).expect("doubled");
    assert_eq!(recovered(dir.path(), &store), row);
}

#[test]
fn stored_segments_are_deleted_and_the_newest_stays() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Arc::new(ModelStore::default());
    let mut settings = config(dir.path(), 1);
    settings.segment_bytes = 10_000;
    let pipeline = start(&settings, &store);
    let mut recorder = pipeline.take_recorder(0).expect("a recorder");
    for i in 0..2000 {
        recorder.record(&click("a", i, AGENT));
        if i % 50 == 0 {
            eventually("it is spooled", || pipeline.stats().ring_bytes == 0);
        }
    }
    eventually("it is stored", || pipeline.stats().counted == 2000);
    drop(recorder);
    assert!(pipeline.shutdown(soon()).closed);
    let left = segments(dir.path());
    assert!((1..=2).contains(&left.len()), "{left:?}");
    let total: u64 = left.iter().map(|path| fs::metadata(path).expect("a file").len()).sum();
    assert!(total < 40_000, "{total} bytes are left");
    let row = recovered(dir.path(), &store);
    assert_eq!((row.served, row.counted, row.lost), (2000, 2000, 0));
}

/// An event of a newer version is not skipped and not lost: what comes before it is stored, and
/// it waits for a program that knows it.
#[test]
fn events_of_a_newer_version_wait() {
    let dir = tempfile::tempdir().expect("a directory");
    crash(dir.path(), 30, 0);
    let segment = segments(dir.path()).pop().expect("a segment");
    let mut bytes = fs::read(&segment).expect("its bytes");
    let good = bytes.clone();
    let starts = frames(&bytes);
    let last = starts[starts.len() - 2];
    // The version is the first byte behind the first event's length.
    let version = last + crate::frame::header_len(1) + crate::ring::PREFIX;
    assert_eq!(bytes[version], 1);
    bytes[version] = 9;
    let sum =
        xxhash_rust::xxh3::xxh3_64_with_seed(&bytes[last + 16..], (bytes.len() - last) as u64);
    bytes[last + 8..last + 16].copy_from_slice(&sum.to_le_bytes());
    fs::write(&segment, &bytes).expect("written");

    let store = Arc::new(ModelStore::default());
    let pipeline = start(&config(dir.path(), 1), &store);
    eventually("it stops there", || pipeline.stats().worker_state == WorkerState::ReadError);
    eventually("what comes before is stored", || pipeline.stats().counted == 20);
    eventually("it says why", || {
        pipeline.stats().worker_error.is_some_and(|text| text.contains("format 9"))
    });
    drop(pipeline);
    assert_eq!(store.model.lock().expect("no panic").events(), 20);

    // The newer program is started again: here, the old bytes are put back.
    fs::write(&segment, good).expect("written");
    let row = recovered(dir.path(), &store);
    assert_eq!((row.served, row.counted, row.lost), (30, 30, 0));
}
