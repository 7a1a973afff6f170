//! The report of a run: one set of figures, written for people and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context;
use hdrhistogram::Histogram;
use serde::Serialize;

use super::plan::{Pace, Plan};
use super::tally::{Failure, Second, Tally};

/// Everything a run found. The JSON report is this, field by field; times are microseconds.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Version of this format; a reader refuses one it does not know.
    pub(super) format: u32,
    pub(super) url: String,
    /// `open` or `closed`.
    pub(super) mode: &'static str,
    /// Requests a second asked for; absent in a closed loop.
    pub(super) rate: Option<f64>,
    pub(super) connections: usize,
    pub(super) threads: usize,
    pub(super) pipeline: usize,
    pub(super) keys: u64,
    pub(super) seed: u64,
    /// Length of the measured window up to its last answer, in seconds.
    pub(super) seconds: f64,
    pub(super) answered: u64,
    /// Answered as expected.
    pub(super) good: u64,
    pub(super) good_creates: u64,
    pub(super) failed: u64,
    /// Good answers a second.
    pub(super) per_second: f64,
    /// Answers of the whole run, warm-up included.
    pub(super) all_answered: u64,
    pub(super) failures: BTreeMap<&'static str, u64>,
    pub(super) statuses: BTreeMap<u16, u64>,
    /// From the intended send time.
    pub(super) latency: Latency,
    /// From the actual send time.
    pub(super) service: Latency,
    pub(super) create_latency: Latency,
    /// How late requests were sent although a connection was free.
    pub(super) slip: Latency,
    /// Share of its CPU time the load generator used, per thread; above 0.95 its own latencies
    /// are in the figures.
    pub(super) generator_busy: f64,
    pub(super) reconnects: u64,
    pub(super) bytes_read: u64,
    pub(super) interrupted: bool,
    pub(super) examples: Vec<String>,
    pub(super) series: Vec<Point>,
}

/// Percentiles in microseconds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct Latency {
    pub(super) count: u64,
    pub(super) min: f64,
    pub(super) mean: f64,
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
    pub(super) p999: f64,
    pub(super) p9999: f64,
    pub(super) max: f64,
}

impl Latency {
    fn of(histogram: &Histogram<u64>) -> Self {
        if histogram.is_empty() {
            return Self::default();
        }
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        Self {
            count: histogram.len(),
            min: histogram.min() as f64 / 1e3,
            mean: histogram.mean() / 1e3,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            p9999: at(0.9999),
            max: histogram.max() as f64 / 1e3,
        }
    }
}

/// One second of the run, warm-up included.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Point {
    pub(super) second: u64,
    pub(super) answered: u64,
    pub(super) good: u64,
    pub(super) failed: u64,
    pub(super) p50: f64,
    pub(super) p99: f64,
}

impl Point {
    pub(super) fn of(second: u64, share: &Second) -> Self {
        let latency = Latency::of(&share.latency);
        Self {
            second,
            answered: share.answered,
            good: share.good,
            failed: share.failed,
            p50: latency.p50,
            p99: latency.p99,
        }
    }
}

impl Report {
    pub(super) fn new(
        url: &str,
        plan: &Plan,
        tally: Tally,
        series: Vec<Point>,
        interrupted: bool,
    ) -> Self {
        let seconds = tally.window_ns as f64 / 1e9;
        let failures = Failure::ALL
            .iter()
            .map(|failure| (failure.name(), tally.failures_of(*failure)))
            .filter(|(_, count)| *count > 0)
            .collect();
        Self {
            format: 1,
            url: url.to_owned(),
            mode: if plan.pace == Pace::Closed { "closed" } else { "open" },
            rate: match plan.pace {
                Pace::Open(rate) => Some(rate),
                Pace::Closed => None,
            },
            connections: plan.connections,
            threads: plan.threads,
            pipeline: plan.pipeline,
            keys: plan.keys.len(),
            seed: plan.seed,
            seconds,
            answered: tally.answered,
            good: tally.good,
            good_creates: tally.good_creates,
            failed: tally.failed(),
            per_second: if seconds > 0.0 { tally.good as f64 / seconds } else { 0.0 },
            all_answered: tally.all_answered,
            failures,
            latency: Latency::of(&tally.latency),
            service: Latency::of(&tally.service),
            create_latency: Latency::of(&tally.create_latency),
            slip: Latency::of(&tally.slip),
            generator_busy: tally.cpu_ns.saturating_sub(tally.idle_ns) as f64
                / (tally.wall_ns as f64).max(1.0),
            reconnects: tally.reconnects,
            bytes_read: tally.bytes_read,
            interrupted,
            statuses: tally.statuses,
            examples: tally.examples,
            series,
        }
    }

    /// Share of the requests that were due and were not answered as expected.
    pub(super) fn failed_share(&self) -> f64 {
        let all = self.good + self.failed;
        if all == 0 { 1.0 } else { self.failed as f64 / all as f64 }
    }

    /// The summary for people, several lines.
    pub(super) fn summary(&self) -> String {
        let mut text = String::new();
        // Writing to a string can't fail.
        let _ = self.write_summary(&mut text);
        text
    }

    fn write_summary(&self, out: &mut String) -> std::fmt::Result {
        write!(out, "{}  {} loop", self.url, self.mode)?;
        if let Some(rate) = self.rate {
            write!(out, " at {rate:.0}/s")?;
        }
        writeln!(
            out,
            ", {} connections, {} threads, {:.1} s{}",
            self.connections,
            self.threads,
            self.seconds,
            if self.interrupted { " (interrupted)" } else { "" }
        )?;
        writeln!(
            out,
            "good {} ({:.0}/s), failed {} ({:.3} %)",
            self.good,
            self.per_second,
            self.failed,
            100.0 * self.failed_share()
        )?;
        writeln!(
            out,
            "{:<22}{:>10}{:>10}{:>10}{:>10}{:>10}",
            "", "p50", "p90", "p99", "p99.9", "max"
        )?;
        for (name, latency) in [
            ("latency", &self.latency),
            ("from actual sending", &self.service),
            ("creates", &self.create_latency),
        ] {
            if latency.count > 0 {
                writeln!(
                    out,
                    "{name:<22}{:>10}{:>10}{:>10}{:>10}{:>10}",
                    time(latency.p50),
                    time(latency.p90),
                    time(latency.p99),
                    time(latency.p999),
                    time(latency.max)
                )?;
            }
        }
        write!(out, "statuses")?;
        for (status, count) in &self.statuses {
            write!(out, "  {status}: {count}")?;
        }
        if !self.failures.is_empty() {
            write!(out, "\nfailures")?;
            for (name, count) in &self.failures {
                write!(out, "  {name}: {count}")?;
            }
        }
        if self.reconnects > 0 {
            write!(out, "\nconnections the server closed between requests: {}", self.reconnects)?;
        }
        writeln!(out, "\ngenerator busy {:.0} %", 100.0 * self.generator_busy)?;
        if self.generator_busy > 0.95 && self.rate.is_some() {
            writeln!(
                out,
                "warning: the generator had no time left; its own delays are in these latencies"
            )?;
        }
        for example in &self.examples {
            writeln!(out, "  {example}")?;
        }
        Ok(())
    }
}

/// Microseconds with a unit that fits.
pub(super) fn time(micros: f64) -> String {
    if micros < 1_000.0 {
        format!("{micros:.0} µs")
    } else if micros < 1_000_000.0 {
        format!("{:.2} ms", micros / 1e3)
    } else {
        format!("{:.2} s", micros / 1e6)
    }
}

/// Prints the summary, or the JSON when it is to go to standard output, and writes the JSON file.
pub(super) fn publish<T: Serialize>(
    json: Option<&Path>,
    value: &T,
    summary: &str,
) -> anyhow::Result<()> {
    let Some(path) = json else {
        print!("{summary}");
        return Ok(());
    };
    let text = serde_json::to_string_pretty(value).context("write the report as JSON")?;
    if path == Path::new("-") {
        println!("{text}");
    } else {
        print!("{summary}");
        std::fs::write(path, text + "\n")
            .with_context(|| format!("--json {}: the report can't be written", path.display()))?;
    }
    Ok(())
}
