//! What commands print: results to standard output, progress and everything else to standard
//! error.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

/// Work shorter than this shows no progress.
const PATIENCE: Duration = Duration::from_secs(2);

/// Writes one line to standard output.
pub(crate) fn line(text: &str) -> anyhow::Result<()> {
    text_out(&format!("{text}\n"))
}

/// Writes a text to standard output. A reader that went away (`| head`) is no error: the program
/// ends quietly.
pub(crate) fn text_out(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => other.context("write to standard output"),
    }
}

/// Writes a JSON value on a line of its own.
pub(crate) fn json(value: &Value) -> anyhow::Result<()> {
    line(&value.to_string())
}

/// A text without control characters, for a terminal: titles and targets are other people's.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// A progress bar that comes up when the work lasts longer than two seconds and standard error is
/// a terminal.
pub(crate) struct Progress {
    bar: ProgressBar,
    began: Instant,
    shown: bool,
    what: &'static str,
}

impl Progress {
    /// For work whose whole is `total`, if that is known; `what` names what is counted.
    pub(crate) fn new(what: &'static str, total: Option<u64>) -> Self {
        let bar = match total {
            Some(total) => ProgressBar::new(total),
            None => ProgressBar::no_length(),
        };
        bar.set_draw_target(ProgressDrawTarget::hidden());
        Self { bar, began: Instant::now(), shown: false, what }
    }

    /// How far the work is, and its whole if that is known by now.
    pub(crate) fn at(&mut self, done: u64, total: Option<u64>) {
        if let Some(total) = total {
            self.bar.set_length(total);
        }
        self.bar.set_position(done);
        if !self.shown && self.began.elapsed() > PATIENCE && std::io::stderr().is_terminal() {
            self.shown = true;
            let what = self.what;
            let template = if self.bar.length().is_some() {
                format!(
                    "{{bar:32}} {{human_pos}} of {{human_len}} {what}, {{per_sec}}, {{eta}} left"
                )
            } else {
                format!("{{spinner}} {{human_pos}} {what}, {{per_sec}}")
            };
            if let Ok(style) = ProgressStyle::with_template(&template) {
                self.bar.set_style(style);
            }
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
    }

    /// Writes a line to standard error without tearing the bar.
    pub(crate) fn note(&self, text: &str) {
        self.bar.suspend(|| eprintln!("{text}"));
    }

    /// How long it has taken so far.
    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
