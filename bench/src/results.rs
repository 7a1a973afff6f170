//! What a scenario found: a table, verdicts against the bars, and the files they are kept in.
//!
//! Each scenario owns one section of `RESULTS.md`, between two comment lines; running it again
//! replaces that section and leaves the others, with their own date and commit, alone.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, ensure};
use serde::Serialize;

use crate::machine::Machine;

/// A comparison of one figure with its bar.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// What was asked.
    pub bar: String,
    /// What was found.
    pub found: String,
    /// Whether it holds; `None` where the figure is only reported.
    pub holds: Option<bool>,
}

/// Everything one scenario found.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Its name on the command line.
    pub scenario: &'static str,
    /// Its title on the page.
    pub title: String,
    /// How it was measured, in a sentence or two.
    pub method: String,
    /// Column names.
    pub columns: Vec<String>,
    /// Rows, the first column naming them.
    pub rows: Vec<Vec<String>>,
    /// Bars.
    pub verdicts: Vec<Verdict>,
    /// Raw figures for programs.
    pub raw: serde_json::Value,
}

impl Outcome {
    /// An outcome without figures yet.
    pub fn new(scenario: &'static str, title: &str, method: &str) -> Self {
        Self {
            scenario,
            title: title.to_owned(),
            method: method.to_owned(),
            columns: Vec::new(),
            rows: Vec::new(),
            verdicts: Vec::new(),
            raw: serde_json::Value::Null,
        }
    }

    /// Adds a verdict on `found` (`at most` the bar when `upper`, else `at least`).
    pub fn judge(&mut self, bar: &str, found: f64, limit: f64, upper: bool, unit: &str) {
        let holds = if upper { found <= limit } else { found >= limit };
        self.verdicts.push(Verdict {
            bar: format!("{bar} {} {}", if upper { "≤" } else { "≥" }, amount(limit, unit)),
            found: amount(found, unit),
            holds: Some(holds),
        });
    }

    /// Adds a verdict that is yes or no.
    pub fn require(&mut self, bar: &str, found: &str, holds: bool) {
        self.verdicts.push(Verdict {
            bar: bar.to_owned(),
            found: found.to_owned(),
            holds: Some(holds),
        });
    }

    /// Adds a figure without a bar.
    pub fn note(&mut self, what: &str, found: &str) {
        self.verdicts.push(Verdict { bar: what.to_owned(), found: found.to_owned(), holds: None });
    }

    /// Whether no bar was missed.
    pub fn holds(&self) -> bool {
        self.verdicts.iter().all(|verdict| verdict.holds != Some(false))
    }

    /// The section of the results page.
    pub fn markdown(&self, run: &Run) -> String {
        let mut out = String::new();
        // Writing to a string can't fail.
        let _ = self.write_markdown(run, &mut out);
        out
    }

    fn write_markdown(&self, run: &Run, out: &mut String) -> std::fmt::Result {
        writeln!(out, "## {}\n\n{}\n", self.title, self.method)?;
        writeln!(
            out,
            "`{}` · {} · commit {}\n{}\n",
            run.command,
            run.date,
            run.commit,
            run.machine.line()
        )?;
        if !self.rows.is_empty() {
            writeln!(out, "| {} |", self.columns.join(" | "))?;
            writeln!(out, "|{}", "---|".repeat(self.columns.len()))?;
            for row in &self.rows {
                writeln!(out, "| {} |", row.join(" | "))?;
            }
            writeln!(out)?;
        }
        writeln!(out, "| bar | found | |\n|---|---|---|")?;
        for verdict in &self.verdicts {
            let mark = match verdict.holds {
                Some(true) => "holds",
                Some(false) => "**missed**",
                None => "reported",
            };
            writeln!(out, "| {} | {} | {mark} |", verdict.bar, verdict.found)?;
        }
        Ok(())
    }
}

/// The circumstances of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Run {
    /// The command to repeat it.
    pub command: String,
    /// UTC date and time.
    pub date: String,
    /// Commit of the working tree, `-dirty` when files differ from it.
    pub commit: String,
    /// Where.
    pub machine: Machine,
}

impl Run {
    /// Collects them.
    pub fn new(command: String) -> Self {
        let git = |args: &[&str]| {
            let output = std::process::Command::new("git").args(args).output().ok()?;
            let text = String::from_utf8(output.stdout).ok()?;
            output.status.success().then(|| text.trim().to_owned())
        };
        let commit = git(&["describe", "--always", "--dirty", "--abbrev=12"]);
        Self {
            command,
            date: jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string(),
            commit: commit.unwrap_or_else(|| "none".to_owned()),
            machine: Machine::read(),
        }
    }
}

/// Writes the section into the page and the JSON beside the data.
///
/// # Errors
/// A file can't be written, or the page has lost one of the two comment lines of the section.
pub fn keep(outcome: &Outcome, run: &Run, page: &Path, json_dir: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(json_dir).with_context(|| format!("create {}", json_dir.display()))?;
    let json = serde_json::json!({ "run": run, "outcome": outcome });
    let json_path = json_dir.join(format!("{}.json", outcome.scenario));
    std::fs::write(&json_path, serde_json::to_string_pretty(&json)? + "\n")
        .with_context(|| format!("write {}", json_path.display()))?;
    let text = std::fs::read_to_string(page).unwrap_or_default();
    let text = replace_section(&text, outcome.scenario, &outcome.markdown(run))
        .with_context(|| format!("update {}", page.display()))?;
    std::fs::write(page, text).with_context(|| format!("write {}", page.display()))
}

/// The page with the section between its two comment lines replaced, or appended with them.
fn replace_section(page: &str, scenario: &str, section: &str) -> anyhow::Result<String> {
    let (begin, end) = (format!("<!-- {scenario} -->"), format!("<!-- /{scenario} -->"));
    match (page.find(&begin), page.find(&end)) {
        (Some(from), Some(to)) if from < to => {
            let (before, _) = page.split_at(from);
            let (_, after) = page.split_at(to);
            Ok(format!("{before}{begin}\n{section}{after}"))
        }
        (None, None) => Ok(format!("{page}\n{begin}\n{section}{end}\n")),
        _ => {
            ensure!(false, "the comment lines {begin} and {end} must both stand, in this order");
            Ok(String::new())
        }
    }
}

/// The middle of the values; the mean of the two middle ones for an even number.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
    if sorted.len() % 2 == 1 { at(half) } else { (at(half.wrapping_sub(1)) + at(half)) / 2.0 }
}

/// A number with as many digits as it deserves.
pub fn amount(value: f64, unit: &str) -> String {
    let number = match value.abs() {
        v if v >= 1_000.0 => grouped(value),
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    };
    match unit {
        "" => number,
        "×" => format!("{number} ×"),
        unit => format!("{number} {unit}"),
    }
}

fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        let left = digits.len() - at;
        if at > 0 && left % 3 == 0 && !out.ends_with('-') {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_need_no_order() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(&[4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn a_section_is_replaced_and_the_others_stay() {
        let page = "# Results\n<!-- a -->\nold\n<!-- /a -->\n<!-- b -->\nkept\n<!-- /b -->\n";
        let new = replace_section(page, "a", "new\n").unwrap();
        assert_eq!(new, "# Results\n<!-- a -->\nnew\n<!-- /a -->\n<!-- b -->\nkept\n<!-- /b -->\n");
        assert!(
            replace_section(page, "c", "x\n").unwrap().ends_with("<!-- c -->\nx\n<!-- /c -->\n")
        );
        assert!(replace_section("<!-- a -->", "a", "x").is_err());
    }

    #[test]
    fn a_missed_bar_is_said() {
        let mut outcome = Outcome::new("x", "X", "How.");
        outcome.judge("CPU", 0.95, 0.90, true, "×");
        outcome.judge("speed", 1.2, 1.1, false, "×");
        outcome.note("aside", "7");
        assert!(!outcome.holds());
        assert_eq!(
            outcome.verdicts.iter().map(|v| v.holds).collect::<Vec<_>>(),
            [Some(false), Some(true), None]
        );
        assert_eq!(outcome.verdicts[0].bar, "CPU ≤ 0.90 ×");
    }

    #[test]
    fn numbers_are_grouped() {
        for (value, text) in [
            (1_234_567.0, "1,234,567"),
            (999.6, "1000"),
            (12.34, "12.3"),
            (0.456, "0.46"),
            (1000.0, "1,000"),
        ] {
            assert_eq!(amount(value, ""), text);
        }
    }
}
