//! Full and failing disks: redirects never wait, losses are numbers, and it heals alone.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use shunt_domain::ports::{ClickRecorder, LedgerRow};

use super::support::{ModelStore, NODE, click, config, eventually, soon};
use crate::{Pipeline, PipelineConfig, RingProducer, SpoolState};

const AGENT: &str = "Mozilla/5.0 (a user agent that makes an event of ordinary size, or so)";

fn record(recorder: &mut RingProducer, count: i64) {
    for i in 0..count {
        recorder.record(&click("full", i, AGENT));
    }
}

/// Closes the pipeline and answers its only boot's row, which must balance.
fn close(pipeline: &Pipeline, store: &ModelStore) -> LedgerRow {
    let report = pipeline.shutdown(soon());
    assert!(report.closed && report.stored, "{report:?}");
    let model = store.model.lock().expect("no panic");
    let ledger = model.ledger();
    assert_eq!(ledger.len(), 1);
    let row = ledger[0];
    assert!(row.closed && !row.unknown);
    assert_eq!(row.counted + row.lost, row.served, "{row:?}");
    assert_eq!(model.events(), row.counted);
    row
}

#[test]
fn a_full_spool_loses_exact_numbers_and_heals_when_it_drains() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Arc::new(ModelStore::default());
    let mut settings = config(dir.path(), 1);
    settings.spool_bytes = 1 << 20;
    settings.ring_bytes = 64 << 10;
    let pipeline = Pipeline::start(settings, NODE, store.clone()).expect("it starts");
    pipeline.pause_worker(true);
    let mut recorder = pipeline.take_recorder(0).expect("a recorder");
    eventually("the spool is full and its losses are told apart", || {
        record(&mut recorder, 100);
        pipeline.stats().spool_state == SpoolState::Full && pipeline.stats().lost_spool_full > 0
    });
    let stats = pipeline.stats();
    assert!(stats.spool_bytes <= 1 << 20, "{} bytes", stats.spool_bytes);
    assert!(stats.spool_error.expect("a reason").contains("full"));
    pipeline.pause_worker(false);
    eventually("it drains", || pipeline.stats().spool_state == SpoolState::Running);
    let lost = {
        eventually("the ring is empty", || pipeline.stats().ring_bytes == 0);
        let stats = pipeline.stats();
        stats.lost_spool_full + stats.lost_ring_full
    };
    record(&mut recorder, 10);
    drop(recorder);
    let row = close(&pipeline, &store);
    assert_eq!(row.lost, lost, "what the metric says is what the ledger says");
    assert!(row.lost > 0);
}

#[test]
fn failing_writes_and_fsyncs_lose_nothing_while_the_ring_holds() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Arc::new(ModelStore::default());
    let mut settings = config(dir.path(), 2);
    settings.ring_bytes = 8 << 20;
    let pipeline = Pipeline::start(settings, NODE, store.clone()).expect("it starts");
    let mut recorders: Vec<_> =
        (0..2).map(|core| pipeline.take_recorder(core).expect("a recorder")).collect();
    let mut all = |count| recorders.iter_mut().for_each(|recorder| record(recorder, count));
    all(1000);
    for round in 0..5 {
        // The same frame is tried again while more events of both cores come in between.
        let before = pipeline.stats().disk_errors;
        pipeline.faults.sync.store(3, Ordering::Relaxed);
        all(500);
        eventually("the fsyncs fail", || {
            all(1);
            pipeline.stats().disk_errors >= before + 3
        });
        eventually("it goes on", || pipeline.stats().spool_state == SpoolState::Running);
        if round == 2 {
            pipeline.faults.write.store(true, Ordering::Relaxed);
            all(500);
            eventually("the writes fail", || pipeline.stats().spool_state == SpoolState::DiskError);
            all(500);
            pipeline.faults.write.store(false, Ordering::Relaxed);
        }
    }
    drop(recorders);
    let row = close(&pipeline, &store);
    assert_eq!(row.lost, 0, "{row:?}");
    assert!(row.served > 8000);
}

#[test]
fn a_disk_that_stays_broken_costs_only_what_the_ring_can_not_hold() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Arc::new(ModelStore::default());
    let mut settings = config(dir.path(), 1);
    settings.ring_bytes = 64 << 10;
    let pipeline = Pipeline::start(settings, NODE, store.clone()).expect("it starts");
    let mut recorder = pipeline.take_recorder(0).expect("a recorder");
    record(&mut recorder, 50);
    eventually("it is spooled", || pipeline.stats().spooled == 50);
    pipeline.faults.write.store(true, Ordering::Relaxed);
    record(&mut recorder, 1);
    eventually("it shows", || pipeline.stats().spool_state == SpoolState::DiskError);
    record(&mut recorder, 5000);
    eventually("the loss shows", || pipeline.stats().lost_disk_error > 0);
    pipeline.faults.write.store(false, Ordering::Relaxed);
    eventually("it heals", || pipeline.stats().spool_state == SpoolState::Running);
    eventually("the ring is empty", || pipeline.stats().ring_bytes == 0);
    let stats = pipeline.stats();
    drop(recorder);
    let row = close(&pipeline, &store);
    assert_eq!(row.served, 5051);
    assert_eq!(row.lost, stats.lost_disk_error + stats.lost_ring_full);
    assert!(row.lost > 4000, "64 KiB hold a few hundred: {row:?}");
}

#[test]
fn a_process_that_ends_while_the_disk_fails_leaves_its_clicks_on_the_ring() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Arc::new(ModelStore::default());
    let settings = config(dir.path(), 1);
    let pipeline = Pipeline::start(settings.clone(), NODE, store.clone()).expect("it starts");
    let mut recorder = pipeline.take_recorder(0).expect("a recorder");
    record(&mut recorder, 50);
    eventually("it is spooled", || pipeline.stats().spooled == 50);
    pipeline.faults.write.store(true, Ordering::Relaxed);
    record(&mut recorder, 100);
    eventually("it shows", || pipeline.stats().spool_state == SpoolState::DiskError);
    drop(pipeline);
    let pipeline = Pipeline::start(settings, NODE, store.clone()).expect("it starts");
    let report = pipeline.shutdown(soon());
    assert!(report.closed && report.stored, "{report:?}");
    let ledger = store.model.lock().expect("no panic").ledger();
    let row = ledger.first().expect("the first boot");
    assert_eq!((row.served, row.counted, row.lost, row.closed), (150, 150, 0, true));
}

/// A file system of one mebibyte, when we may make one.
struct Tiny<'a>(&'a Path);

impl<'a> Tiny<'a> {
    fn mount(path: &'a Path) -> Option<Self> {
        std::fs::create_dir_all(path).expect("a directory");
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
            .arg(path)
            .status()
            .is_ok_and(|status| status.success());
        done.then_some(Self(path))
    }
}

impl Drop for Tiny<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

#[test]
fn a_full_file_system_loses_exact_numbers_and_heals_when_space_is_freed() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let Some(tiny) = Tiny::mount(&data) else {
        // Only root can mount; the failing writes above stand in for everybody else.
        eprintln!("no file system could be mounted: run as root to try a really full one");
        return;
    };
    let store = Arc::new(ModelStore::default());
    let mut settings: PipelineConfig = config(&data, 1);
    settings.ring_dir = Some(dir.path().join("ring"));
    settings.ring_bytes = 64 << 10;
    let ballast = data.join("ballast");
    std::fs::write(&ballast, vec![1; 600 << 10]).expect("there is room");
    let pipeline = Pipeline::start(settings, NODE, store.clone()).expect("it starts");
    let mut recorder = pipeline.take_recorder(0).expect("a recorder");
    eventually("the disk is full and clicks are lost", || {
        record(&mut recorder, 200);
        pipeline.stats().lost_disk_error > 0
    });
    let text = pipeline.stats().spool_error.expect("a reason");
    assert!(text.contains("No space left"), "{text}");
    std::fs::remove_file(ballast).expect("space is freed");
    eventually("it heals without a restart", || {
        pipeline.stats().spool_state == SpoolState::Running
    });
    drop(recorder);
    let row = close(&pipeline, &store);
    assert!(row.lost > 0 && row.counted > 0, "{row:?}");
    drop(tiny);
}
