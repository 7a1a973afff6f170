//! The generator: `shunt bench` as a process of its own on the load core, read through its JSON.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::Deserialize;

use crate::machine;

/// What the harness reads of a report; times are microseconds.
#[derive(Debug, Clone, Deserialize)]
pub struct Report {
    format: u32,
    /// Good answers a second.
    pub per_second: f64,
    /// Answered as expected, after the warm-up.
    pub good: u64,
    /// Not answered as expected, after the warm-up.
    pub failed: u64,
    /// Answers of the whole run, warm-up included: what CPU time is divided by.
    pub all_answered: u64,
    /// From the intended send time.
    pub latency: Latency,
    /// Share of its core the generator used.
    pub generator_busy: f64,
    /// Failures by kind.
    pub failures: std::collections::BTreeMap<String, u64>,
    /// Answers by status.
    pub statuses: std::collections::BTreeMap<u16, u64>,
    /// Second by second, warm-up included.
    pub series: Vec<Point>,
    /// A few wrong answers in words.
    pub examples: Vec<String>,
}

/// Percentiles in microseconds.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub struct Latency {
    /// Median.
    pub p50: f64,
    /// 99th percentile.
    pub p99: f64,
    /// 99.9th percentile.
    pub p999: f64,
}

/// One second of a run.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Point {
    /// Its number.
    pub second: u64,
    /// Good answers in it.
    pub good: u64,
    /// 99th percentile in it, microseconds.
    pub p99: f64,
}

/// The value of an option.
#[derive(Debug)]
pub struct Word(String);

impl From<&str> for Word {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl From<String> for Word {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<usize> for Word {
    fn from(number: usize) -> Self {
        Self(number.to_string())
    }
}

impl From<f64> for Word {
    fn from(number: f64) -> Self {
        Self(number.to_string())
    }
}

/// One load to put on a server.
#[derive(Debug, Clone)]
pub struct Load {
    words: Vec<String>,
}

impl Load {
    /// As fast as `workers` connections go.
    pub fn closed(workers: usize) -> Self {
        Self { words: Vec::new() }.with("--workers", workers)
    }

    /// `rate` requests a second on `connections`. The load core is the generator's own, so it
    /// does not sleep: on a virtual machine the wake-ups alone cost more than an answer.
    pub fn open(rate: f64, connections: usize) -> Self {
        Self::open_sleeping(rate, connections).flag("--spin")
    }

    /// The same for servers that are several processes and need what the load leaves of its core:
    /// the generator sleeps between requests.
    pub fn open_sleeping(rate: f64, connections: usize) -> Self {
        let load = Self { words: Vec::new() }.with("--rate", rate);
        load.with("--connections", connections)
    }

    /// An option and its value.
    #[must_use]
    pub fn with(mut self, option: &str, value: impl Into<Word>) -> Self {
        self.words.push(option.to_owned());
        self.words.push(value.into().0);
        self
    }

    /// An option without a value.
    #[must_use]
    pub fn flag(mut self, option: &str) -> Self {
        self.words.push(option.to_owned());
        self
    }

    /// Uniform keys from a file, each redirect checked against its target.
    #[must_use]
    pub fn keys(self, path: &Path) -> Self {
        self.with("--keys", path.display().to_string()).flag("--expect-location")
    }

    /// Measured and warm-up time.
    #[must_use]
    pub fn time(self, duration: Duration, warmup: Duration) -> Self {
        self.with("--duration", format!("{}ms", duration.as_millis()))
            .with("--warmup", format!("{}ms", warmup.as_millis()))
    }
}

/// Where the generator is and on which core it runs.
#[derive(Debug, Clone)]
pub struct Generator {
    /// The `shunt` binary.
    pub binary: PathBuf,
    /// Its core; `None`: any.
    pub core: Option<usize>,
    /// Directory for its reports.
    pub scratch: PathBuf,
}

impl Generator {
    /// Puts a load on a server and waits for the report. Wrong answers are no error here: the
    /// report counts them, and the scenario decides.
    ///
    /// # Errors
    /// The generator can't be started or leaves no report.
    pub fn run(&self, address: SocketAddr, load: &Load) -> anyhow::Result<Report> {
        let path = self.scratch.join("load.json");
        let _ = std::fs::remove_file(&path);
        let mut command = Command::new(&self.binary);
        command
            .arg("bench")
            .arg(format!("http://{address}"))
            .args(&load.words)
            .arg("--quiet")
            .arg("--json")
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let output = machine::spawn_on(self.core, &mut command)?
            .wait_with_output()
            .context("wait for it")?;
        let text = std::fs::read_to_string(&path).with_context(|| {
            format!(
                "the generator left no report: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            )
        })?;
        let report: Report = serde_json::from_str(&text).context("read the generator's report")?;
        ensure!(report.format == 1, "report format {} is not known here", report.format);
        Ok(report)
    }
}
