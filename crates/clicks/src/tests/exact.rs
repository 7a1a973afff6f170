//! Every click is counted once, whatever the store says.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use shunt_domain::click::{Click, ClickKind};
use shunt_domain::ports::ClickRecorder;

use super::support::{Model, ModelStore, NODE, click, config, eventually, soon};
use crate::{Pipeline, ShutdownReport, StartError, WorkerState};

const BROWSER: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0";
const DONE: ShutdownReport = ShutdownReport { closed: true, stored: true };

/// `cores` threads record `each` clicks of 100 links, every tenth a HEAD, every fourth a bot's.
fn record_all(pipeline: &Pipeline, cores: usize, each: usize) {
    std::thread::scope(|scope| {
        for core in 0..cores {
            let mut recorder = pipeline.take_recorder(core).expect("a recorder");
            scope.spawn(move || {
                for i in 0..each {
                    let code = format!("code-{}", i % 100);
                    let agent = if i % 4 == 0 { "Googlebot/2.1" } else { BROWSER };
                    let kind = if i % 10 == 9 { ClickKind::Head } else { ClickKind::Served };
                    let hour = i64::from(i >= each / 2);
                    let base = click(&code, hour * 3_600_000, agent);
                    recorder.record(&Click { kind, ..base });
                }
            });
        }
    });
}

fn check_all(model: &Model, cores: usize, each: usize) {
    assert_eq!(model.events(), (cores * each) as u64);
    for link in 0..100 {
        let of_link = || (0..each).filter(|i| i % 100 == link);
        for hour in [0, 1] {
            let in_hour = || of_link().filter(|&i| i64::from(i >= each / 2) == hour);
            let clicks = in_hour().filter(|i| i % 10 != 9).count() * cores;
            let humans = in_hour().filter(|i| i % 10 != 9 && i % 4 != 0).count() * cores;
            let heads = in_hour().filter(|i| i % 10 == 9).count() * cores;
            let code = format!("code-{link}");
            let row = model
                .hours
                .iter()
                .find(|((key, at), _)| key.code.as_str() == code && *at == hour)
                .map(|(_, row)| *row);
            assert_eq!(row, Some((clicks as u64, humans as u64, heads as u64)), "{code} {hour}");
        }
    }
    for row in model.ledger() {
        assert!(row.closed && !row.unknown, "{row:?}");
        assert_eq!(row.counted + row.lost, row.served, "{row:?}");
    }
}

#[test]
fn every_click_of_every_core_is_counted_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Arc::new(ModelStore::default());
    // Large enough that nothing is lost however slowly the machine drains.
    let mut settings = config(dir.path(), 4);
    settings.ring_bytes = 8 << 20;
    let ring_dir = settings.ring_dir.clone().expect("a directory");
    let pipeline = Pipeline::start(settings, NODE, store.clone()).expect("it starts");
    record_all(&pipeline, 4, 20_000);
    let stats = pipeline.stats();
    assert_eq!(stats.numbered, 80_000);
    assert!(stats.ring_durable);
    eventually("everything is counted", || pipeline.stats().counted == 80_000);
    eventually("nothing is behind", || pipeline.stats().worker_lag.is_zero());
    let stats = pipeline.stats();
    assert_eq!((stats.ring_bytes, stats.spooled), (0, 80_000));
    assert!(stats.fsyncs >= stats.frames && stats.frames > 0);
    assert_eq!(pipeline.shutdown(soon()), DONE);
    let model = store.model.lock().expect("no panic");
    check_all(&model, 4, 20_000);
    let ledger = model.ledger();
    assert_eq!((ledger[0].served, ledger[0].lost), (80_000, 0));
    assert!(!ring_dir.exists(), "a closed boot's rings are removed, and their empty directory");
}

#[test]
fn whatever_the_store_answers_every_click_is_counted_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Arc::new(ModelStore::default());
    store.unavailable.store(3, Ordering::Relaxed);
    store.unknown_done.store(2, Ordering::Relaxed);
    store.unknown_not_done.store(2, Ordering::Relaxed);
    let mut settings = config(dir.path(), 2);
    settings.ring_bytes = 8 << 20;
    settings.fold_rows = 50;
    let pipeline = Pipeline::start(settings, NODE, store.clone()).expect("it starts");
    record_all(&pipeline, 2, 10_000);
    eventually("everything is counted", || {
        store.model.lock().expect("no panic").events() == 20_000
    });
    let refolds = pipeline.stats().refolds;
    assert_eq!(pipeline.shutdown(soon()), DONE);
    check_all(&store.model.lock().expect("no panic"), 2, 10_000);
    assert!(refolds >= 1, "an unknown batch that was stored had to be met again");
}

#[test]
fn a_store_that_is_down_loses_nothing_and_another_process_goes_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Arc::new(ModelStore::default());
    store.down.store(true, Ordering::Relaxed);
    let mut settings = config(dir.path(), 1);
    settings.ring_bytes = 8 << 20;
    let pipeline = Pipeline::start(settings.clone(), NODE, store.clone()).expect("it starts");
    record_all(&pipeline, 1, 5000);
    eventually("the store is asked", || store.refused.load(Ordering::Relaxed) > 0);
    eventually("it shows", || pipeline.stats().worker_state == WorkerState::StoreError);
    let text = pipeline.stats().worker_error.expect("a reason");
    assert!(text.contains("the test says so"), "{text}");
    let soon = shunt_domain::Deadline::after(
        std::time::Instant::now(),
        std::time::Duration::from_millis(1500),
    );
    let report = pipeline.shutdown(soon);
    assert_eq!(report, ShutdownReport { closed: true, stored: false });
    assert_eq!(store.model.lock().expect("no panic").events(), 0);

    store.down.store(false, Ordering::Relaxed);
    let pipeline = Pipeline::start(settings, NODE, store.clone()).expect("it starts");
    eventually("the rest is counted", || store.model.lock().expect("no panic").events() == 5000);
    assert_eq!(pipeline.shutdown(super::support::soon()), DONE);
    check_all(&store.model.lock().expect("no panic"), 1, 5000);
}

#[test]
fn a_paused_worker_counts_nothing_and_the_spool_goes_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Arc::new(ModelStore::default());
    let mut settings = config(dir.path(), 1);
    settings.ring_bytes = 8 << 20;
    let pipeline = Pipeline::start(settings, NODE, store.clone()).expect("it starts");
    pipeline.pause_worker(true);
    eventually("it is paused", || pipeline.stats().worker_state == WorkerState::Paused);
    record_all(&pipeline, 1, 3000);
    eventually("it is spooled", || pipeline.stats().spooled == 3000);
    assert_eq!(store.model.lock().expect("no panic").events(), 0);
    assert!(pipeline.stats().spool_bytes > 3000 * 50);
    pipeline.pause_worker(false);
    eventually("it is counted", || pipeline.stats().counted == 3000);
    assert_eq!(pipeline.shutdown(soon()), DONE);
}

#[test]
fn a_recorder_that_lives_on_keeps_the_boot_open() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Arc::new(ModelStore::default());
    let settings = config(dir.path(), 1);
    let pipeline = Pipeline::start(settings.clone(), NODE, store.clone()).expect("it starts");
    let mut recorder = pipeline.take_recorder(0).expect("a recorder");
    assert!(pipeline.take_recorder(0).is_none() && pipeline.take_recorder(1).is_none());
    recorder.record(&click("a", 0, BROWSER));
    let now = std::time::Instant::now();
    let brief = shunt_domain::Deadline::after(now, std::time::Duration::from_millis(200));
    assert!(!pipeline.shutdown(brief).closed);
    // Numbered after the end: on the ring all the same.
    recorder.record(&click("a", 0, BROWSER));
    drop(recorder);
    let pipeline = Pipeline::start(settings, NODE, store.clone()).expect("it starts");
    assert_eq!(pipeline.shutdown(soon()), DONE);
    let model = store.model.lock().expect("no panic");
    assert_eq!(model.clicks_of("a"), 2);
    assert!(model.ledger().iter().all(|row| row.closed && row.served == row.counted));
}

#[test]
fn two_pipelines_cannot_have_one_spool() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Arc::new(ModelStore::default());
    let first = Pipeline::start(config(dir.path(), 1), NODE, store.clone()).expect("it starts");
    let second = Pipeline::start(config(dir.path(), 1), NODE, store.clone());
    assert!(matches!(second, Err(StartError::Busy { .. })), "{second:?}");
    let boot = first.boot();
    drop(first);
    let third = Pipeline::start(config(dir.path(), 1), NODE, store).expect("it is free");
    assert!(third.boot() > boot);
}

/// A visitor's address never reaches the pipeline: a click has no field for one. What is there of
/// it, the coarse network, is all that is found.
#[test]
fn no_address_is_in_ring_or_spool() {
    use shunt_domain::click::Network;
    let dir = tempfile::tempdir().expect("a directory");
    let store = Arc::new(ModelStore::default());
    let settings = config(dir.path(), 1);
    let pipeline = Pipeline::start(settings.clone(), NODE, store).expect("it starts");
    pipeline.pause_worker(true);
    let mut recorder = pipeline.take_recorder(0).expect("a recorder");
    let v4 = std::net::Ipv4Addr::new(203, 0, 113, 77);
    let v6: std::net::Ipv6Addr = "2001:db8:77:88:99:aa:bb:cc".parse().expect("an address");
    for address in [std::net::IpAddr::from(v4), v6.into(), v4.to_ipv6_mapped().into()] {
        let network = Network::of(address);
        recorder.record(&Click { network, ..click("canary", 0, BROWSER) });
    }
    eventually("it is spooled", || pipeline.stats().spooled == 3);
    let mut bytes = Vec::new();
    for place in [dir.path().join("spool"), settings.ring_dir.expect("a directory")] {
        for entry in std::fs::read_dir(place).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_file() {
                bytes.extend(std::fs::read(path).expect("its bytes"));
            }
        }
    }
    let holds = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
    assert!(holds(b"canary"), "the events are there");
    assert!(holds(&v4.octets()[..3]) && holds(&v6.octets()[..6]), "the networks are there");
    assert!(!holds(&v4.octets()) && !holds(&v6.octets()) && !holds(&v6.octets()[..8]));
    assert!(!holds(v4.to_string().as_bytes()) && !holds(v6.to_string().as_bytes()));
}
