//! The scenarios, one module per figure of the issue, and what they share.

pub mod citus;
pub mod cold;
pub mod connected;
pub mod creates;
pub mod hot;
pub mod idle;
pub mod import;
pub mod l2;
pub mod memory;
pub mod overload;
pub mod pg_creates;
pub mod search;
pub mod store_reads;

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rusqlite::{Connection, OpenFlags};

use crate::backing::Database;
use crate::dataset::Cache;
use crate::load::{Generator, Load, Report};
use crate::machine::{self, Pinning};
use crate::results::median;
use crate::servers::{Server, Shunt};

/// What every scenario is given.
#[derive(Debug, Clone)]
pub struct Bench {
    /// Which core does what.
    pub pinning: Pinning,
    /// Datasets kept between runs.
    pub cache: Cache,
    /// The program under test.
    pub shunt: Shunt,
    /// The bare loop.
    pub floor: PathBuf,
    /// The load.
    pub generator: Generator,
    /// Logs and directories of this run; emptied at its start.
    pub scratch: PathBuf,
    /// Rounds, of which the median counts.
    pub rounds: usize,
    /// Measured time of one round.
    pub round: Duration,
    /// Links of the cold, start and search scenarios.
    pub many: u64,
    /// Links of the L1 scenario and rows of the import.
    pub million: u64,
    /// Rows of the import into PostgreSQL.
    pub bulk: u64,
    /// Whether the server under test should have its core for itself, so that a round in which it
    /// had not is void. Turned off by scenarios whose other servers need a place.
    pub alone: Cell<bool>,
    /// The largest share of the server's core that others took in a measured round.
    pub foreign: Cell<f64>,
}

/// Links of the hot scenario.
pub const HOT_LINKS: u64 = 100_000;
/// Connections wherever the issue names a number of them.
pub const CONNECTIONS: usize = 64;
/// How long a server may take to stop.
pub const STOP: Duration = Duration::from_secs(30);
/// Warm-up of a measured round.
pub const WARMUP: Duration = Duration::from_secs(1);

/// Turns of one round: what the machine does to one contender meanwhile, it does to all of them.
const TURNS: u32 = 4;
/// Warm-up of a turn: connections are opened and what slept is awake.
const TURN_WARMUP: Duration = Duration::from_millis(300);

/// One measured round on one server.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Figures {
    /// Answers its CPU time was used for.
    pub answered: u64,
    /// Good answers a second.
    pub per_second: f64,
    /// CPU of the server for each answer, microseconds.
    pub cpu: f64,
    /// Median latency, microseconds.
    pub p50: f64,
    /// 99th percentile, microseconds.
    pub p99: f64,
    /// Share of the load core that was used.
    pub generator_busy: f64,
    /// Share of the server's core that other processes took.
    pub foreign: f64,
}

/// Share of the server's core others may take; above it a round is void, at most twice.
const MAX_FOREIGN: f64 = 0.08;
/// Share of its own core above which the generator has no time left.
const MAX_BUSY: f64 = 0.95;

impl Figures {
    fn of_turns(turns: &[Self]) -> Self {
        let all = |of: fn(&Self) -> f64| turns.iter().map(of).collect::<Vec<_>>();
        let mean = |of: fn(&Self) -> f64| all(of).iter().sum::<f64>() / turns.len().max(1) as f64;
        let answered = turns.iter().map(|turn| turn.answered).sum::<u64>();
        let used: f64 = turns.iter().map(|turn| turn.cpu * turn.answered as f64).sum();
        Self {
            answered,
            per_second: mean(|turn| turn.per_second),
            cpu: used / answered.max(1) as f64,
            p50: median(&all(|turn| turn.p50)),
            p99: median(&all(|turn| turn.p99)),
            generator_busy: mean(|turn| turn.generator_busy),
            foreign: all(|turn| turn.foreign).into_iter().fold(0.0, f64::max),
        }
    }
}

impl Bench {
    /// A data directory with `links` links, seeded once and kept; spool and roll-ups of earlier
    /// runs are removed.
    ///
    /// # Errors
    /// The import fails or leaves another number of links.
    pub fn seeded(&self, links: u64) -> anyhow::Result<PathBuf> {
        let dir = self.cache.root().join(format!("data-{links}"));
        let done = self.cache.root().join(format!("data-{links}.done"));
        if !done.exists() {
            eprintln!("seeding {links} links, once");
            remove(&dir)?;
            self.shunt.import(&dir, &self.cache.csv(links)?)?;
            let found = count_links(&dir)?;
            ensure!(found == links, "the import left {found} links of {links}");
            std::fs::write(&done, "").with_context(|| format!("write {}", done.display()))?;
        }
        for entry in std::fs::read_dir(&dir).with_context(|| format!("read {}", dir.display()))? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            // Everything but the links and what identifies the directory is of one run.
            if name.starts_with("clicks.db")
                || name.starts_with("spool")
                || name.starts_with("ring")
            {
                remove(&entry.path())?;
            }
        }
        Ok(dir)
    }

    /// An empty directory of this run.
    ///
    /// # Errors
    /// It can't be made.
    pub fn fresh(&self, name: &str) -> anyhow::Result<PathBuf> {
        let dir = self.scratch.join(name);
        remove(&dir)?;
        std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        Ok(dir)
    }

    /// Asks the server for every key once, so that its caches hold what they can.
    ///
    /// # Errors
    /// One answer is wrong.
    pub fn warm(&self, server: &Server, links: u64) -> anyhow::Result<()> {
        self.warm_with(server, &self.cache.keys(links)?, links)
    }

    /// The same with a file of keys.
    ///
    /// # Errors
    /// One answer is wrong.
    pub fn warm_with(&self, server: &Server, keys: &Path, links: u64) -> anyhow::Result<()> {
        let load = Load::closed(CONNECTIONS).keys(keys).flag("--once");
        let report = self.generator.run(server.address, &load)?;
        right(&report)?;
        ensure!(report.good == links, "{} of {links} links answered", report.good);
        Ok(())
    }

    /// A data directory of this run and the settings for a store in `database`, migrated, with
    /// the links of a CSV file taken in.
    ///
    /// # Errors
    /// shunt refuses, or the rows are not all there.
    pub fn stored(
        &self,
        database: &Database,
        csv: &Path,
        links: u64,
    ) -> anyhow::Result<(PathBuf, Vec<String>)> {
        let (data, settings) = (self.fresh("node")?, database.settings());
        self.shunt.migrate(&data, &settings)?;
        self.shunt.import_into(&data, &settings, csv)?;
        let found = database.sql("SELECT count(*) FROM links")?;
        ensure!(found == links.to_string(), "the import left {found} links of {links}");
        database.settle()?;
        Ok((data, settings))
    }

    /// One round of several servers, a turn each and again: rates are means of the turns, CPU is
    /// that of all turns for all answers, percentiles are medians of the turns. `settle` waits
    /// until a server has done what is left to do after its turn; that counts as its own work.
    ///
    /// # Errors
    /// As [`Bench::measure`], or a server does not settle.
    pub fn in_turns(
        &self,
        contenders: &[(&Server, Load)],
        open: bool,
        settle: impl Fn(usize, &Server) -> anyhow::Result<()>,
    ) -> anyhow::Result<Vec<Figures>> {
        let time = self.round / TURNS;
        let mut turns: Vec<Vec<Figures>> = contenders.iter().map(|_| Vec::new()).collect();
        for _ in 0..TURNS {
            for (index, ((server, load), turns)) in contenders.iter().zip(&mut turns).enumerate() {
                let load = load.clone().time(time, TURN_WARMUP);
                let mut turn = self.measure(server, &load, open)?;
                let measured = server.process.cpu()?;
                settle(index, server)?;
                let rest = server.process.cpu()?.saturating_sub(measured);
                turn.cpu += rest.as_secs_f64() * 1e6 / turn.answered.max(1) as f64;
                turns.push(turn);
            }
        }
        Ok(turns.iter().map(|turns| Figures::of_turns(turns)).collect())
    }

    /// Measures one load on one server. A round in which others took the server's core, or the
    /// generator of an open loop had no time left, is void and repeated.
    ///
    /// # Errors
    /// One answer is wrong, or the generator had no time left three times.
    pub fn measure(&self, server: &Server, load: &Load, open: bool) -> anyhow::Result<Figures> {
        let mut attempt = 1;
        loop {
            let (report, used, foreign) = self.load(server, load)?;
            right(&report)?;
            let starved = open && report.generator_busy > MAX_BUSY;
            if attempt < 3 && (starved || (self.alone.get() && foreign > MAX_FOREIGN)) {
                eprintln!(
                    "void, again: the generator used {:.0} % of its core, others took {:.0} % of the server's",
                    100.0 * report.generator_busy,
                    100.0 * foreign
                );
                attempt += 1;
                continue;
            }
            ensure!(!starved, "the generator had no time left in three runs; is the machine busy?");
            if self.alone.get() {
                self.foreign.set(self.foreign.get().max(foreign));
            }
            return Ok(Figures {
                answered: report.all_answered,
                per_second: report.per_second,
                cpu: used.as_secs_f64() * 1e6 / report.all_answered.max(1) as f64,
                p50: report.latency.p50,
                p99: report.latency.p99,
                generator_busy: report.generator_busy,
                foreign,
            });
        }
    }

    /// Puts a load on a server; the report, the CPU time the server used, and the share of its
    /// core that others took meanwhile.
    ///
    /// # Errors
    /// The generator or the server is gone.
    pub fn load(&self, server: &Server, load: &Load) -> anyhow::Result<(Report, Duration, f64)> {
        let before = (server.process.cpu()?, machine::busy(self.pinning.server)?);
        let began = Instant::now();
        let report = self.generator.run(server.address, load)?;
        let took = began.elapsed();
        let used = server.process.cpu()?.saturating_sub(before.0);
        let busy = machine::busy(self.pinning.server)?.saturating_sub(before.1);
        let foreign = busy.saturating_sub(used).as_secs_f64() / took.as_secs_f64();
        Ok((report, used, foreign))
    }
}

/// The smallest L1 there can be, as a setting: under one in a hundred of the links used here.
pub const NO_L1: &str = "cache.l1_bytes=64KiB";
/// Clicks go to the spool, as ever, and stay there: folding them is another figure.
pub const NO_WORKER: [&str; 2] = ["clicks.worker=false", "clicks.spool_bytes=16GiB"];

/// Settings put together.
fn settings<S: AsRef<str>>(parts: &[&[S]]) -> Vec<String> {
    parts.iter().flat_map(|part| part.iter().map(|one| one.as_ref().to_owned())).collect()
}

/// The metrics of a server's redirects: those answered by L1, and all.
fn redirects(server: &Server) -> anyhow::Result<(f64, f64)> {
    let of = |labels| server.metric("shunt_links_answered_total", labels);
    Ok((of("answer=\"redirect_l1\"")?.unwrap_or(0.0), of("answer=\"redirect")?.unwrap_or(0.0)))
}

/// Waits until a metric of a server is `goal` or more.
fn reaches(server: &Server, name: &str, goal: f64) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while server.metric(name, "")?.unwrap_or_default() < goal {
        ensure!(Instant::now() < deadline, "{name} stays below {goal}");
        crate::process::pause(Duration::from_millis(20));
    }
    Ok(())
}

/// Checks that every answer was right.
fn right(report: &Report) -> anyhow::Result<()> {
    ensure!(
        report.failed == 0,
        "{} of {} answers were wrong: {:?} {:?} {:?}",
        report.failed,
        report.good + report.failed,
        report.failures,
        report.statuses,
        report.examples
    );
    Ok(())
}

/// Reads the links of a directory into the page cache and waits until nothing of earlier scenarios
/// is on its way to the disk: a read behind a gigabyte of an import waits for seconds.
fn cache_file(data: &std::path::Path) -> anyhow::Result<()> {
    let written = std::process::Command::new("sync").status().context("run sync")?;
    ensure!(written.success(), "sync: {written}");
    let path = data.join("links.db");
    let mut file =
        std::fs::File::open(&path).with_context(|| format!("open {}", path.display()))?;
    std::io::copy(&mut file, &mut std::io::sink()).context("read the links")?;
    Ok(())
}

/// Rows of the links table of a directory no server runs on.
fn count_links(dir: &std::path::Path) -> anyhow::Result<u64> {
    let path = dir.join("links.db");
    let db = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .with_context(|| format!("open {}", path.display()))?;
    let count: i64 = db.query_row("SELECT count(*) FROM links", [], |row| row.get(0))?;
    Ok(count.unsigned_abs())
}

/// Removes a file or directory that may not be there.
fn remove(path: &std::path::Path) -> anyhow::Result<()> {
    let removed = if path.is_dir() {
        std::fs::remove_dir_all(path)
    } else if path.exists() {
        std::fs::remove_file(path)
    } else {
        Ok(())
    };
    removed.with_context(|| format!("remove {}", path.display()))
}
