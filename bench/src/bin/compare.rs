//! `compare`: measures shunt against nginx, the floor and the bars of the issue.
//!
//! See `bench/README.md`. Exit code 1 when a bar is missed, 2 when something could not be measured.

use std::cell::Cell;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::{Parser, ValueEnum};
use shunt_bench::dataset::Cache;
use shunt_bench::load::Generator;
use shunt_bench::machine::{Pinning, raise_descriptors};
use shunt_bench::results::{Outcome, Run, keep};
use shunt_bench::scenario::{
    Bench, citus, cold, connected, creates, hot, idle, import, l2, memory, overload, pg_creates,
    search, store_reads,
};
use shunt_bench::servers::Shunt;

/// Measures shunt and writes what it finds into bench/RESULTS.md.
#[derive(Parser)]
struct Args {
    /// What to measure.
    #[arg(required = true)]
    scenarios: Vec<Scenario>,
    /// The counts of the issue: ten million links where it says so. Takes minutes to seed, once.
    #[arg(long)]
    full: bool,
    /// Links of the cold, start and search scenarios; the default is a million, ten with --full.
    #[arg(long)]
    links: Option<u64>,
    /// Rounds, of which the median counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of one round.
    #[arg(long, default_value_t = 6)]
    seconds: u64,
    /// The shunt to measure; the default is the one beside this program.
    #[arg(long)]
    shunt: Option<PathBuf>,
    /// The shunt whose `bench` makes the load; the default is the one to measure.
    #[arg(long)]
    generator: Option<PathBuf>,
    /// Where Citus is, for its scenario: `local` starts three nodes, where it is installed.
    #[arg(long, env = "SHUNT_TEST_CITUS_URL", hide_env_values = true)]
    citus: Option<String>,
    /// Where datasets and reports are kept.
    #[arg(long, default_value = "target")]
    target_dir: PathBuf,
    /// The page to update.
    #[arg(long, default_value = "bench/RESULTS.md")]
    page: PathBuf,
}

#[derive(Clone, Copy, ValueEnum, PartialEq)]
enum Scenario {
    /// Hot redirects against nginx and the floor
    Hot,
    /// Bytes per entry of L1
    L1Memory,
    /// Redirects L1 can't answer
    Cold,
    /// Durable creates
    Creates,
    /// Bulk import
    Import,
    /// Memory at rest and with idle connections, time to the first redirect
    Idle,
    /// List and search
    Search,
    /// Three times the capacity
    Overload,
    /// L1 hits with Redis and PostgreSQL connected, against the embedded default
    Connected,
    /// Redirects that the Redis Cluster answers
    L2,
    /// Redirects that PostgreSQL answers, against pgbench
    StoreReads,
    /// Durable creates and imports on PostgreSQL, against pgbench and psql
    PgCreates,
    /// Citus against plain PostgreSQL; with --citus local only
    Citus,
    /// All of them
    All,
}

type Measure = fn(&Bench) -> anyhow::Result<Outcome>;

/// Every scenario with its name on the command line.
const EACH: [(Scenario, &str, Measure); 13] = [
    (Scenario::Hot, "hot", hot::run),
    (Scenario::L1Memory, "l1-memory", memory::run),
    (Scenario::Cold, "cold", cold::run),
    (Scenario::Creates, "creates", creates::run),
    (Scenario::Import, "import", import::run),
    (Scenario::Idle, "idle", idle::run),
    (Scenario::Search, "search", search::run),
    (Scenario::Overload, "overload", overload::run),
    (Scenario::Connected, "connected", connected::run),
    (Scenario::L2, "l2", l2::run),
    (Scenario::StoreReads, "store-reads", store_reads::run),
    (Scenario::PgCreates, "pg-creates", pg_creates::run),
    (Scenario::Citus, "citus", citus::run),
];

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("compare: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> anyhow::Result<bool> {
    ensure!(args.rounds >= 1 && args.seconds >= 1, "--rounds and --seconds are 1 or more");
    raise_descriptors(4_096)?;
    let pinning = Pinning::new()?;
    let beside = std::env::current_exe().context("find this program")?;
    let beside = beside.parent().context("find this program's directory")?.to_owned();
    let shunt = args.shunt.clone().unwrap_or_else(|| beside.join("shunt"));
    ensure!(
        shunt.exists(),
        "{} is missing; build it first: cargo build --release -p shunt -p shunt-bench",
        shunt.display()
    );
    let target = std::path::absolute(&args.target_dir).context("find the target directory")?;
    let scratch = target.join("bench-scratch");
    if scratch.exists() {
        std::fs::remove_dir_all(&scratch)
            .with_context(|| format!("empty {}", scratch.display()))?;
    }
    std::fs::create_dir_all(&scratch).with_context(|| format!("create {}", scratch.display()))?;
    let bench = Bench {
        pinning,
        cache: Cache::new(&target.join("bench-data"))?,
        generator: Generator {
            binary: args.generator.clone().unwrap_or_else(|| shunt.clone()),
            core: Some(pinning.load),
            scratch: scratch.clone(),
        },
        shunt: Shunt { binary: shunt },
        floor: beside.join("floor"),
        scratch,
        rounds: args.rounds,
        round: Duration::from_secs(args.seconds),
        many: args.links.unwrap_or(if args.full { 10_000_000 } else { 1_000_000 }),
        million: 1_000_000,
        bulk: if args.full { 1_000_000 } else { 100_000 },
        alone: Cell::new(true),
        foreign: Cell::new(0.0),
    };
    let mut all_hold = true;
    for (scenario, name, measure) in EACH {
        if !args.scenarios.iter().any(|asked| *asked == scenario || *asked == Scenario::All) {
            continue;
        }
        eprintln!("== {name}");
        let run = Run::new(command_line(args, name));
        if scenario == Scenario::Citus && !citus::wanted(args.citus.as_deref())? {
            eprintln!("not measured: it takes --citus local and the extension");
            continue;
        }
        bench.foreign.set(0.0);
        bench.alone.set(true);
        let mut outcome = measure(&bench).with_context(|| format!("measure {name}"))?;
        if bench.foreign.get() > 0.0 {
            let foreign = format!("{:.0} %", 100.0 * bench.foreign.get());
            outcome.note("most that others took of the server's core in a round", &foreign);
        }
        println!("{}", outcome.markdown(&run));
        keep(&outcome, &run, &args.page, &target.join("bench-results"))?;
        all_hold &= outcome.holds();
    }
    Ok(all_hold)
}

/// The command that repeats one scenario.
fn command_line(args: &Args, name: &str) -> String {
    let mut command = format!("cargo run --release -p shunt-bench --bin compare -- {name}");
    if name == "citus" {
        command.push_str(" --citus local");
    }
    if args.full {
        command.push_str(" --full");
    }
    if let Some(links) = args.links {
        command.push_str(&format!(" --links {links}"));
    }
    if args.rounds != 3 {
        command.push_str(&format!(" --rounds {}", args.rounds));
    }
    if args.seconds != 6 {
        command.push_str(&format!(" --seconds {}", args.seconds));
    }
    command
}
