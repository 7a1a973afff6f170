//! The machine: what it is, which core runs what, how many descriptors there are.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::Serialize;

/// What a figure was measured on.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// Model name of the first processor.
    pub cpu: String,
    /// Processors this process may use.
    pub cores: usize,
    /// Kernel name and release.
    pub kernel: String,
    /// Main memory in MiB.
    pub memory_mib: u64,
    /// TCP congestion control: it is part of what a request costs, the same for every server.
    pub congestion: String,
    /// The load average of the last minute, before the measurement began.
    pub load: String,
}

impl Machine {
    /// Reads it from `/proc`.
    pub fn read() -> Self {
        let file = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            text.lines()
                .find(|line| line.starts_with(name))
                .and_then(|line| line.split_once(':'))
                .map_or_else(|| "unknown".to_owned(), |(_, value)| value.trim().to_owned())
        };
        let memory = field(&file("/proc/meminfo"), "MemTotal");
        let memory: u64 = memory.split(' ').next().and_then(|kib| kib.parse().ok()).unwrap_or(0);
        Self {
            cpu: field(&file("/proc/cpuinfo"), "model name"),
            cores: allowed().map_or(1, |cores| cores.len()),
            kernel: format!("Linux {}", file("/proc/sys/kernel/osrelease").trim()),
            memory_mib: memory / 1024,
            congestion: file("/proc/sys/net/ipv4/tcp_congestion_control").trim().to_owned(),
            load: file("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned(),
        }
    }

    /// One line for the results page.
    pub fn line(&self) -> String {
        format!(
            "{}, {} cores, {} MiB, {}, TCP {}, load {} at the start",
            self.cpu, self.cores, self.memory_mib, self.kernel, self.congestion, self.load
        )
    }
}

/// Which core the server and which the load runs on.
#[derive(Debug, Clone, Copy)]
pub struct Pinning {
    /// Core of the server under test.
    pub server: usize,
    /// Core of the generator.
    pub load: usize,
}

impl Pinning {
    /// The first two cores this process may use.
    ///
    /// # Errors
    /// Fewer than two cores: server and load would measure each other.
    pub fn new() -> anyhow::Result<Self> {
        let cores = allowed()?;
        ensure!(
            cores.len() >= 2,
            "one core only: the load would take the time it measures; run this on two or more"
        );
        Ok(Self {
            server: cores.first().copied().unwrap_or(0),
            load: cores.get(1).copied().unwrap_or(1),
        })
    }
}

fn allowed() -> anyhow::Result<Vec<usize>> {
    let set = sched_getaffinity(None).context("ask which cores may be used")?;
    Ok((0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect())
}

/// Does `work` on one core, or on any: children inherit the mask of the thread that starts them,
/// which is put back afterwards. (Setting it in the child would need code between fork and exec.)
///
/// # Errors
/// The mask can't be set, or what `work` answers.
pub fn on_core<T>(
    core: Option<usize>,
    work: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let Some(core) = core else { return work() };
    let before = sched_getaffinity(None).context("read the affinity mask")?;
    let mut one = CpuSet::new();
    one.set(core);
    sched_setaffinity(None, &one).with_context(|| format!("pin to core {core}"))?;
    let done = work();
    sched_setaffinity(None, &before).context("put the affinity mask back")?;
    done
}

/// Starts a child on one core, or on any.
///
/// # Errors
/// The mask can't be set or the program can't be started.
pub fn spawn_on(core: Option<usize>, command: &mut Command) -> anyhow::Result<std::process::Child> {
    on_core(core, || {
        command.spawn().with_context(|| format!("start {}", command.get_program().display()))
    })
}

/// Time a core has spent on anything but idling since the machine started.
///
/// # Errors
/// `/proc/stat` does not show the core.
pub fn busy(core: usize) -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string("/proc/stat").context("read /proc/stat")?;
    let name = format!("cpu{core} ");
    let line = stat
        .lines()
        .find_map(|line| line.strip_prefix(&name))
        .with_context(|| format!("core {core} is not in /proc/stat"))?;
    // user nice system idle iowait irq softirq steal; guests are in user already.
    let ticks: u64 = line
        .split_whitespace()
        .take(8)
        .enumerate()
        .filter(|(column, _)| !matches!(column, 3 | 4))
        .filter_map(|(_, ticks)| ticks.parse::<u64>().ok())
        .sum();
    Ok(Duration::from_nanos(ticks * 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1)))
}

/// Raises the limit of open descriptors as far as it goes; children inherit it.
///
/// # Errors
/// Fewer than `needed` are to be had.
pub fn raise_descriptors(needed: u64) -> anyhow::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).context("raise the limit of open descriptors")?;
    ensure!(
        limit.maximum.is_none_or(|maximum| maximum >= needed),
        "at most {} descriptors may be open, {needed} are needed: raise `ulimit -Hn`",
        limit.maximum.unwrap_or_default()
    );
    Ok(())
}
