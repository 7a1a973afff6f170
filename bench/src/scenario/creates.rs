//! Durable creates against one commit per create and against no durability.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rusqlite::{Connection, params};

use super::{Bench, CONNECTIONS, STOP, WARMUP};
use crate::load::Load;
use crate::results::{Outcome, amount, median};
use crate::servers::Server;

/// Measures and judges.
///
/// # Errors
/// The server can't be started, refuses creates, or acknowledges more than it committed.
pub fn run(bench: &Bench) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::new(
        "creates",
        "Creates",
        "64 connections, closed loop, each create with its own target and Idempotency-Key; every \
         201 is durable. Beside it the same with `store.durability=off`, and a bare rusqlite loop \
         that commits each row by itself with synchronous=FULL on the same disk. fsyncs are \
         counted with strace in a run of its own.",
    );
    let load = Load::closed(CONNECTIONS).with("--creates", 1.0).time(bench.round, WARMUP);
    let (mut full, mut off, mut single, mut groups) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 1..=bench.rounds {
        for (durability, rates) in [("full", &mut full), ("off", &mut off)] {
            let data = bench.fresh("creates")?;
            let setting = format!("store.durability={durability}");
            let server = bench.shunt.serve(&data, bench.pinning.server, &[&setting])?;
            let measured = bench.measure(&server, &load, false)?;
            if durability == "full" {
                let (commits, acknowledged) = commits(&server)?;
                groups.push(acknowledged / commits.max(1.0));
            }
            server.process.stop(STOP)?;
            eprintln!(
                "round {round}  durability {durability:<4} {:>8.0}/s  {:.1} µs CPU  p99 {:.0} µs",
                measured.per_second, measured.cpu, measured.p99
            );
            rates.push(measured);
        }
        single.push(one_by_one(&bench.fresh("one-by-one")?, bench.round)?);
        eprintln!(
            "round {round}  one commit per create {:>8.0}/s",
            single.last().copied().unwrap_or(0.0)
        );
    }
    let (fsyncs, commits) = counted_fsyncs(bench)?;
    let rate = |figures: &[super::Figures]| {
        median(&figures.iter().map(|figure| figure.per_second).collect::<Vec<_>>())
    };
    let p99 = |figures: &[super::Figures]| {
        median(&figures.iter().map(|figure| figure.p99).collect::<Vec<_>>())
    };
    outcome.columns = ["", "creates/s", "p99 ms"].map(str::to_owned).to_vec();
    for (name, figures) in [("shunt, durable", &full), ("shunt, synchronous=OFF", &off)] {
        outcome.rows.push(vec![
            name.to_owned(),
            amount(rate(figures), ""),
            amount(p99(figures) / 1e3, ""),
        ]);
    }
    outcome.rows.push(vec![
        "one commit per create".to_owned(),
        amount(median(&single), ""),
        String::new(),
    ]);
    let (of_single, of_off) = (rate(&full) / median(&single), rate(&full) / rate(&off));
    outcome.require(
        "creates/s ≥ 10 × one commit per create, or ≥ 0.70 × synchronous=OFF",
        &format!(
            "{} of one commit per create, {} of OFF",
            amount(of_single, "×"),
            amount(of_off, "×")
        ),
        of_single >= 10.0 || of_off >= 0.70,
    );
    outcome.judge("fsyncs per acknowledged group", fsyncs / commits.max(1.0), 1.0, false, "");
    outcome.note("creates per group", &amount(median(&groups), ""));
    outcome.raw = serde_json::json!({
        "full": full, "off": off, "one_by_one": single, "fsyncs": fsyncs, "commits": commits
    });
    Ok(outcome)
}

fn commits(server: &Server) -> anyhow::Result<(f64, f64)> {
    let get = |name: &str| -> anyhow::Result<f64> {
        server.metric(name, "")?.with_context(|| format!("/metrics does not show {name}"))
    };
    Ok((get("shunt_store_commits_total")?, get("shunt_store_writes_acknowledged_total")?))
}

/// Rows a second of the barest loop that makes every row durable by itself.
fn one_by_one(dir: &Path, time: Duration) -> anyhow::Result<f64> {
    let db = Connection::open(dir.join("bare.db")).context("open the bare database")?;
    db.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
         CREATE TABLE links (code TEXT NOT NULL, domain INTEGER NOT NULL, target TEXT NOT NULL,
                             PRIMARY KEY (code, domain)) WITHOUT ROWID;",
    )?;
    let mut insert = db.prepare("INSERT INTO links VALUES (?1, 0, ?2)")?;
    let began = Instant::now();
    let mut rows = 0_u64;
    while began.elapsed() < time {
        insert.execute(params![crate::dataset::code(rows), crate::dataset::target(rows)])?;
        rows += 1;
    }
    Ok(rows as f64 / began.elapsed().as_secs_f64())
}

/// fsyncs the kernel saw and groups the server counted in one short run under strace. The click
/// path is idle in it: nothing is redirected.
fn counted_fsyncs(bench: &Bench) -> anyhow::Result<(f64, f64)> {
    let data = bench.fresh("creates")?;
    let server = bench.shunt.serve(&data, bench.pinning.server, &["clicks.worker=false"])?;
    let before = commits(&server)?;
    let out = bench.scratch.join("strace.txt");
    let mut strace = Command::new("strace")
        .args(["-f", "-c", "-e", "trace=fsync,fdatasync", "-p", &server.process.id().to_string()])
        .arg("-o")
        .arg(&out)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("strace is needed to count fsyncs; on Debian: apt-get install strace")?;
    // Attached when the kernel names it as the tracer.
    let status = format!("/proc/{}/status", server.process.id());
    let deadline = Instant::now() + Duration::from_secs(10);
    while std::fs::read_to_string(&status)?.contains("TracerPid:\t0\n") {
        ensure!(Instant::now() < deadline, "strace could not attach; is ptrace allowed here?");
        crate::process::pause(Duration::from_millis(5));
    }
    let load = Load::closed(CONNECTIONS)
        .with("--creates", 1.0)
        .time(Duration::from_secs(2), Duration::ZERO);
    let loaded = bench.generator.run(server.address, &load);
    let after = commits(&server)?;
    if let Some(pid) = i32::try_from(strace.id()).ok().and_then(rustix::process::Pid::from_raw) {
        rustix::process::kill_process(pid, rustix::process::Signal::INT).context("stop strace")?;
    }
    strace.wait().context("wait for strace")?;
    super::right(&loaded?)?;
    let text = std::fs::read_to_string(&out).context("read strace's counts")?;
    // "% time  seconds  usecs/call  calls  [errors]  syscall"
    let fsyncs: f64 = text
        .lines()
        .filter(|line| line.ends_with("fsync") || line.ends_with("fdatasync"))
        .filter_map(|line| line.split_whitespace().nth(3)?.parse::<f64>().ok())
        .sum();
    server.process.stop(STOP)?;
    Ok((fsyncs, after.0 - before.0))
}
