//! `shunt bench`: a load generator for redirects and creates.
//!
//! Open loop (`--rate`): requests arrive at a constant rate whether or not the server keeps up,
//! and latency runs from the moment a request was *due*, so that a stall is charged to every
//! request it delayed and not only to the one that met it (no coordinated omission). Closed loop
//! (`--workers`): each connection sends its next request when the last is answered, which finds
//! the most a server can do. `--find-rate` bisects for the highest open-loop rate at which p99
//! holds a bound.
//!
//! One thread drives its connections from one epoll loop with hand-made requests: an async runtime
//! would cost a third of the core the load needs, and its millisecond timers can't keep a rate.
//!
//! Invariants: every run is bounded by its duration plus one timeout and stops by itself; targets
//! that are not loopback are refused unless the caller says they are theirs; an answer counts as
//! good only if its status (and with `--expect-location` its `Location`) is what was asked for.

mod acks;
mod conn;
mod find_rate;
mod keys;
mod plan;
mod report;
mod request;
mod response;
mod run;
mod sample;
mod tally;
mod worker;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;

/// What `shunt bench` is told.
#[derive(Debug, Clone, clap::Args)]
#[command(
    about = "Put load on a server and measure it",
    long_about = "Put load on a server and measure it.\n\n\
        Open loop with --rate (latency from the intended send time), closed loop with --workers, \
        or a search for the highest rate at which p99 holds a bound with --find-rate."
)]
pub(crate) struct Args {
    /// Server to put load on: `http://host[:port][/prefix]`.
    #[arg(default_value = "http://127.0.0.1:8080")]
    pub(crate) url: String,

    /// Open loop: requests a second, over all connections.
    #[arg(long, value_name = "N", conflicts_with_all = ["workers", "find_rate"])]
    pub(crate) rate: Option<f64>,
    /// Open loop: watch clock and sockets instead of sleeping between requests. They are sent on
    /// the dot and nobody waits for this side to wake up; it takes a core for each thread.
    #[arg(long, conflicts_with = "workers")]
    pub(crate) spin: bool,
    /// Closed loop: this many connections, each with --pipeline requests in flight. The default
    /// (64) when neither --rate nor --find-rate is given.
    #[arg(long, value_name = "N", conflicts_with_all = ["connections", "find_rate"])]
    pub(crate) workers: Option<usize>,
    /// Search for the highest rate at which p99 stays within --p99.
    #[arg(long)]
    pub(crate) find_rate: bool,

    /// How long to measure, after the warm-up.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub(crate) duration: Duration,
    /// How long to run before measuring.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    pub(crate) warmup: Duration,
    /// Connections of an open-loop run.
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub(crate) connections: usize,
    /// Threads; the connections and the rate are divided among them.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) threads: usize,
    /// Requests in flight on one connection.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) pipeline: usize,
    /// A request without an answer for this long has failed and its connection is closed.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    pub(crate) timeout: Duration,

    /// File of keys to ask for: a code or path a line, CSV with `code` and `target`, or NDJSON.
    #[arg(long, value_name = "FILE", conflicts_with = "pattern")]
    pub(crate) keys: Option<PathBuf>,
    /// Keys made of a number: {} stands for it, {:07} for seven digits.
    #[arg(long, value_name = "PATTERN", default_value = "{}")]
    pub(crate) pattern: String,
    /// Numbers for --pattern, the last one excluded.
    #[arg(long, value_name = "FIRST..LAST", default_value = "0..100000")]
    pub(crate) range: String,
    /// Zipf exponent: the first keys are asked for far more often than the last. Uniform without.
    #[arg(long, value_name = "S", conflicts_with_all = ["sequential", "once"])]
    pub(crate) zipf: Option<f64>,
    /// Take the keys in their order, again from the first after the last.
    #[arg(long)]
    pub(crate) sequential: bool,
    /// Take every key once, in order, and stop.
    #[arg(long, conflicts_with = "sequential")]
    pub(crate) once: bool,
    /// Seed of the random choice of keys, to repeat a run; another one each time without.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Check that each key's Location is the target the keys file names.
    #[arg(long, requires = "keys")]
    pub(crate) expect_location: bool,

    /// Ask with HEAD instead of GET.
    #[arg(long)]
    pub(crate) head: bool,
    /// Share of requests that create a link, 0 to 1.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub(crate) creates: f64,
    /// Beginning of the targets of created links; a run id and a number are added to it.
    #[arg(long, value_name = "URL", default_value = "https://www.example.com/bench/")]
    pub(crate) target_prefix: String,
    /// Send creates without an Idempotency-Key.
    #[arg(long)]
    pub(crate) no_idempotency_key: bool,
    /// API key for creates.
    #[arg(long, value_name = "KEY", conflicts_with = "api_key_file")]
    pub(crate) api_key: Option<String>,
    /// File that holds the API key.
    #[arg(long, value_name = "FILE")]
    pub(crate) api_key_file: Option<PathBuf>,
    /// A header for every request, "Name: value". May be repeated; a Host here replaces ours.
    #[arg(long, value_name = "HEADER")]
    pub(crate) header: Vec<String>,
    /// Write each acknowledged create to this file, one JSON object a line, before going on.
    #[arg(long, value_name = "FILE")]
    pub(crate) record_acks: Option<PathBuf>,

    /// The bound for --find-rate.
    #[arg(long, value_name = "TIME", default_value = "5ms", value_parser = duration)]
    pub(crate) p99: Duration,
    /// Where --find-rate begins, in requests a second.
    #[arg(long, value_name = "N", default_value_t = 1_000.0)]
    pub(crate) min_rate: f64,
    /// Where --find-rate ends at the latest, in requests a second.
    #[arg(long, value_name = "N", default_value_t = 2_000_000.0)]
    pub(crate) max_rate: f64,
    /// Length of one round of --find-rate.
    #[arg(long, value_name = "TIME", default_value = "4s", value_parser = duration)]
    pub(crate) round: Duration,
    /// How near --find-rate comes to the answer, as a share of it.
    #[arg(long, value_name = "SHARE", default_value_t = 0.03)]
    pub(crate) precision: f64,

    /// Write the report to this file as JSON; `-` for standard output instead of the summary.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Show no progress line.
    #[arg(long)]
    pub(crate) quiet: bool,
    /// Allow a target that is not on this machine. Only for servers that are yours to load.
    #[arg(long)]
    pub(crate) i_own_this_target: bool,
}

/// Runs the load that `args` describe, prints a summary to standard output and writes the JSON
/// report. Blocks until the run has ended or Ctrl-C was pressed; a second Ctrl-C kills.
///
/// # Errors
/// A bad argument, an unreadable keys file, a target that is not loopback, or not one good answer
/// in the whole run.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    // A thread of its own: the caller may already stand inside a runtime, which could not be
    // blocked on.
    std::thread::Builder::new()
        .name("bench".to_owned())
        .spawn(move || {
            let plan = plan::Plan::new(&args)?;
            if args.find_rate { find_rate::run(&args, &plan) } else { run::run(&args, &plan) }
        })
        .context("start the bench thread")?
        .join()
        .map_err(|_| anyhow::anyhow!("the bench thread panicked; this is a bug in shunt bench"))?
}

/// Parses `250us`, `5ms`, `10s`, `1.5m`, `1h`; a bare number is seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("{unit} is no unit of time; use us, ms, s, m or h")),
    };
    let number: f64 =
        number.parse().map_err(|_| format!("{text} is no time; write 250ms, 10s or 2m"))?;
    // A day bounds every loop and every sum of nanoseconds in here.
    if !(0.0..=86_400.0).contains(&(number * seconds)) {
        return Err(format!("{text} is not between 0 and 24h"));
    }
    Ok(Duration::from_secs_f64(number * seconds))
}
