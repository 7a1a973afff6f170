//! Three times what the server can do, in bounded memory, and back.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;

use super::{Bench, CONNECTIONS, HOT_LINKS, WARMUP};
use crate::load::{Load, Point};
use crate::process::pause;
use crate::results::{Outcome, amount, median};

/// Memory the server may have, in bytes.
const LIMIT: u64 = 256 << 20;
/// How long the overload lasts.
const OVERLOAD: Duration = Duration::from_secs(30);
/// How long the return to normal is watched.
const AFTER: Duration = Duration::from_secs(15);
/// Connections of the overload: many more than a server that keeps up would see.
const CROWD: usize = 1_000;

/// Measures and judges.
///
/// # Errors
/// The server can't be started or a load not be run.
pub fn run(bench: &Bench) -> anyhow::Result<Outcome> {
    let group = Group::new(&format!("shunt-bench-{}", std::process::id()));
    let mut outcome = Outcome::new(
        "overload",
        "Overload",
        &format!(
            "Peak rates in a closed loop on {CONNECTIONS} and on {CROWD} connections; then half of \
             the peak, open loop, for the normal p99; then three times the peak on {CROWD} \
             connections for 30 s; then half of the peak again. Goodput is judged by the peak on as \
             many connections, so that only the load differs. The server has 256 MiB: {}. Requests \
             nobody would wait for any more (1 s) are given up by the client and count as not served.",
            if group.is_some() {
                "a limit of its cgroup, and its resident memory is polled every 50 ms"
            } else {
                "no cgroup could be made here, its resident memory is polled every 50 ms"
            }
        ),
    );
    let data = bench.seeded(HOT_LINKS)?;
    let keys = bench.cache.keys(HOT_LINKS)?;
    let mut server = bench.shunt.serve(
        &data,
        bench.pinning.server,
        &["cache.l1_bytes=64MiB", "clicks.spool_bytes=16GiB"],
    )?;
    if let Some(group) = &group {
        group.add(server.process.id())?;
    }
    bench.warm(&server, HOT_LINKS)?;
    let closed = Load::closed(CONNECTIONS).keys(&keys).time(bench.round, WARMUP);
    let peak = bench.measure(&server, &closed, false)?.per_second;
    let crowded = Load::closed(CROWD).keys(&keys).time(bench.round, WARMUP);
    let crowded_peak = bench.measure(&server, &crowded, false)?.per_second;
    let half = |time| Load::open(peak / 2.0, CONNECTIONS).keys(&keys).time(time, Duration::ZERO);
    let before = bench.generator.run(server.address, &half(Duration::from_secs(10)))?;
    super::right(&before)?;
    let normal = median(&seconds(&before.series, 1, 9));

    let largest = AtomicU64::new(0);
    let over = AtomicBool::new(false);
    let (overloaded, _, foreign) = std::thread::scope(|scope| {
        let process = &server.process;
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                if let Ok(memory) = process.memory() {
                    largest.fetch_max(memory.resident, Ordering::Relaxed);
                }
                pause(Duration::from_millis(50));
            }
        });
        let load = Load::open(3.0 * peak, CROWD)
            .keys(&keys)
            .time(OVERLOAD, Duration::ZERO)
            .with("--timeout", "1s");
        let report = bench.load(&server, &load);
        over.store(true, Ordering::Relaxed);
        report
    })?;
    let (after, _, foreign_after) = bench.load(&server, &half(AFTER))?;
    bench.foreign.set(bench.foreign.get().max(foreign).max(foreign_after));
    let alive = server.process.is_running()?;

    // The first and the last second are not whole.
    let goodput: Vec<f64> = overloaded
        .series
        .iter()
        .filter(|point| point.second >= 1 && point.second < OVERLOAD.as_secs() - 1)
        .map(|point| point.good as f64)
        .collect();
    let goodput = goodput.iter().sum::<f64>() / goodput.len().max(1) as f64;
    let bound = (1.5 * normal).max(normal + 500.0);
    let back = back_to(&after.series, bound);
    let largest = largest.into_inner();

    outcome.columns = ["", "offered/s", "good/s", "p99 ms"].map(str::to_owned).to_vec();
    for (name, offered, good, p99) in [
        ("normal", peak / 2.0, before.per_second, normal),
        ("overload", 3.0 * peak, goodput, overloaded.latency.p99),
        ("after", peak / 2.0, after.per_second, after.latency.p99),
    ] {
        outcome.rows.push(vec![
            name.to_owned(),
            amount(offered, ""),
            amount(good, ""),
            amount(p99 / 1e3, ""),
        ]);
    }
    let killed = group.as_ref().is_some_and(Group::killed);
    outcome.require(
        "never killed",
        if alive && !killed { "alive" } else { "killed" },
        alive && !killed,
    );
    outcome.judge(
        "largest resident memory",
        largest as f64 / 1048576.0,
        (LIMIT >> 20) as f64,
        true,
        "MiB",
    );
    let what = format!("goodput, of the peak on {CROWD} connections");
    outcome.judge(&what, goodput / crowded_peak, 0.90, false, "×");
    let what = format!("goodput, of the peak on {CONNECTIONS} connections");
    outcome.note(&what, &amount(goodput / peak, "×"));
    match back {
        Some(second) => outcome.judge(
            &format!("back to normal p99 (under {} ms) after", amount(bound / 1e3, "")),
            second as f64,
            10.0,
            true,
            "s",
        ),
        None => outcome.require("back to normal p99 within 10 s", "not at all", false),
    }
    outcome.note("answers after it that were wrong", &after.failed.to_string());
    outcome.raw = serde_json::json!({
        "peak": peak, "crowded_peak": crowded_peak, "normal_p99": normal, "goodput": goodput, "largest": largest, "back": back,
        "overload_failures": overloaded.failures, "overload_statuses": overloaded.statuses,
        "after_failures": after.failures
    });
    Ok(outcome)
}

fn seconds(series: &[Point], from: u64, to: u64) -> Vec<f64> {
    series
        .iter()
        .filter(|point| (from..to).contains(&point.second))
        .map(|point| point.p99)
        .collect()
}

/// How many seconds pass until p99 is within the bound and stays there for all but one of the
/// seconds that follow (a machine has its own hiccups).
fn back_to(series: &[Point], bound: f64) -> Option<u64> {
    series.iter().map(|point| point.second).find(|from| {
        let rest: Vec<&Point> = series.iter().filter(|point| point.second >= *from).collect();
        let first_holds = rest.first().is_some_and(|point| point.p99 <= bound);
        first_holds && rest.iter().filter(|point| point.p99 > bound).count() <= 1
    })
}

/// A memory cgroup of either version, if one can be made; removed when dropped.
#[derive(Debug)]
struct Group {
    path: PathBuf,
    events: &'static str,
}

impl Group {
    fn new(name: &str) -> Option<Self> {
        let roots = [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.oom_control"),
            ("/sys/fs/cgroup", "memory.max", "memory.events"),
        ];
        roots.into_iter().find_map(|(root, limit, events)| {
            let path = Path::new(root).join(name);
            fs::create_dir(&path).ok()?;
            let group = Self { path, events };
            let file = group.path.join(limit);
            // A controller that is not enabled has no such file; dropping removes the directory.
            (file.exists() && fs::write(&file, LIMIT.to_string()).is_ok()).then_some(group)
        })
    }

    fn add(&self, id: u32) -> anyhow::Result<()> {
        fs::write(self.path.join("cgroup.procs"), id.to_string())
            .with_context(|| format!("move the server into {}", self.path.display()))
    }

    /// Whether the kernel killed for want of memory.
    fn killed(&self) -> bool {
        let events = fs::read_to_string(self.path.join(self.events)).unwrap_or_default();
        events.lines().any(|line| line.starts_with("oom_kill ") && !line.ends_with(" 0"))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The last process leaves it a moment before it is reaped.
        for _ in 0..200 {
            if fs::remove_dir(&self.path).is_ok() {
                return;
            }
            pause(Duration::from_millis(10));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_return_is_the_first_second_that_lasts() {
        let series = |p99: &[f64]| -> Vec<Point> {
            let point =
                |(second, p99): (usize, &f64)| Point { second: second as u64, good: 1, p99: *p99 };
            p99.iter().enumerate().map(point).collect()
        };
        assert_eq!(back_to(&series(&[1.0, 1.0, 1.0]), 2.0), Some(0));
        assert_eq!(back_to(&series(&[9.0, 9.0, 1.0, 1.0]), 2.0), Some(2));
        assert_eq!(back_to(&series(&[9.0, 1.0, 9.0, 1.0, 9.0, 1.0]), 2.0), Some(3));
        assert_eq!(back_to(&series(&[9.0, 9.0]), 2.0), None);
    }
}
