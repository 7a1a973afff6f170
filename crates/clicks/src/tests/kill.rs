//! The real thing: a process of its own that records, spools and counts, killed with SIGKILL at
//! moments of chance, several times over one directory.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use shunt_domain::ports::ClickRecorder;

use super::support::{ModelStore, NODE, click, config, soon};
use crate::mapping::Mapping;
use crate::{Pipeline, PipelineConfig};

const NAME: &str = "tests::kill::killed_at_any_moment_the_ledger_balances";
const CORES: usize = 2;
const ROUNDS: u64 = 12;
const CHILD: &str = "child-in=";

fn settings(dir: &Path) -> PipelineConfig {
    let mut config = config(dir, CORES);
    // Small segments, so that kills meet rotation and deletion too.
    config.segment_bytes = 60_000;
    config
}

/// The child: records as fast as it may, and tells in shared memory how many it has finished.
fn child(dir: &Path) {
    let store = Arc::new(ModelStore::with_journal(&dir.join("journal")));
    let told = Mapping::open(&dir.join("told")).expect("the parent made it");
    let pipeline = Pipeline::start(settings(dir), NODE, store).expect("it starts");
    println!("\nready");
    std::thread::scope(|scope| {
        for core in 0..CORES {
            let mut recorder = pipeline.take_recorder(core).expect("a recorder");
            let (told, pipeline) = (&told, &pipeline);
            scope.spawn(move || {
                let agent = "Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101";
                for i in 0_i64.. {
                    recorder.record(&click(&format!("c{}", i % 50), i, agent));
                    told.words()[core].fetch_add(1, Ordering::SeqCst);
                    // Not so fast that the ring is always full.
                    while pipeline.stats().ring_bytes > 500_000 {
                        std::thread::yield_now();
                    }
                }
            });
        }
    });
}

#[test]
fn killed_at_any_moment_the_ledger_balances() {
    if let Some(dir) = std::env::args().find_map(|arg| arg.strip_prefix(CHILD).map(str::to_owned)) {
        child(Path::new(&dir));
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let told = Mapping::create(&dir.path().join("told"), 64).expect("shared memory");
    let exe = std::env::current_exe().expect("this test");
    let mut killed_while_recovering = 0;
    for round in 0..ROUNDS {
        let mut process = Command::new(&exe)
            .args([NAME, "--exact", "--nocapture", "--test-threads=1"])
            .arg(format!("{CHILD}{}", dir.path().display()))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a child");
        let out = BufReader::new(process.stdout.take().expect("its output"));
        let ready = out.lines().map_while(Result::ok).any(|line| line == "ready");
        assert!(ready, "the child ended before it began");
        let before: u64 = told.words()[..CORES].iter().map(|w| w.load(Ordering::SeqCst)).sum();
        // Some are killed at once, while they recover the one before; some after a while.
        let life = Duration::from_micros(round * round * 1500);
        let until = Instant::now() + life;
        while Instant::now() < until {
            std::thread::park_timeout(until - Instant::now());
        }
        process.kill().expect("SIGKILL");
        process.wait().expect("it is gone");
        let after: u64 = told.words()[..CORES].iter().map(|w| w.load(Ordering::SeqCst)).sum();
        killed_while_recovering += u64::from(after - before < 50);
    }
    let told: u64 = told.words()[..CORES].iter().map(|word| word.load(Ordering::SeqCst)).sum();

    let store = Arc::new(ModelStore::with_journal(&dir.path().join("journal")));
    let pipeline = Pipeline::start(settings(dir.path()), NODE, store.clone()).expect("it starts");
    let report = pipeline.shutdown(soon());
    assert!(report.closed && report.stored, "{report:?}");
    let model = store.model.lock().expect("no panic");
    let ledger = model.ledger();
    for row in &ledger {
        assert!(row.closed && !row.unknown, "{row:?}");
        assert_eq!(row.counted + row.lost, row.served, "{row:?}");
    }
    let sum = |figure: fn(&shunt_domain::ports::LedgerRow) -> u64| ledger.iter().map(figure).sum();
    let (served, counted, lost): (u64, u64, u64) =
        (sum(|row| row.served), sum(|row| row.counted), sum(|row| row.lost));
    assert_eq!(model.events(), counted, "rows and marks agree");
    assert!(told > 1000, "the children recorded {told} clicks");
    // What was told was numbered before; at most one event per core and kill was under way.
    let slack = ROUNDS * CORES as u64;
    assert!((told..=told + slack).contains(&served), "told {told}, served {served}");
    assert!(lost <= slack, "lost {lost} of {served}");
    assert!(killed_while_recovering < ROUNDS, "no child lived long enough");
    println!(
        "told {told}, served {served}, counted {counted}, lost {lost}, {} boots",
        ledger.len()
    );
}
