//! `shunt seed`: made-up links to try things out and to measure with.

use std::fmt::Write as _;
use std::io::BufRead as _;
use std::path::PathBuf;

use anyhow::Context as _;
use axum::body::Body;
use http::Request;
use http::header::CONTENT_TYPE;
use serde_json::{Value, json};

use crate::client::{ApiClient, Lines, problem};

use super::exit::{Code, Failure};
use super::output::{self, Progress};

/// Rows per request: what the server takes in one transaction.
const CHUNK: u64 = 1_000;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// How many links
    count: u64,
    /// Codes made of a number: {} stands for it, {:07} for seven digits; left out, generated codes
    #[arg(long, value_name = "PATTERN")]
    pattern: Option<String>,
    /// The first number
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Beginning of the made-up targets; the number is added to it
    #[arg(long, value_name = "URL", default_value = "https://www.example.com/seed/")]
    target_prefix: String,
    /// Take the targets from this file instead, one a line, again from the first after the last
    #[arg(long, value_name = "FILE", conflicts_with = "target_prefix")]
    file: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args, client: &ApiClient) -> anyhow::Result<()> {
    if let Some(pattern) = &args.pattern {
        code(pattern, 0)?;
    }
    let targets = targets(&args)?;
    let mut progress = Progress::new("links", Some(args.count));
    let (mut created, mut exists, mut done) = (0, 0, 0);
    while done < args.count {
        let count = (args.count - done).min(CHUNK);
        let mut body = String::new();
        for number in args.first + done..args.first + done + count {
            let target = match &targets {
                Some(targets) => {
                    let at = (number % targets.len() as u64) as usize;
                    targets.get(at).cloned().unwrap_or_default()
                }
                None => format!("{}{number}", args.target_prefix),
            };
            let mut row = json!({ "target": target });
            if let (Some(pattern), Some(fields)) = (&args.pattern, row.as_object_mut()) {
                fields.insert("code".to_owned(), code(pattern, number)?.into());
            }
            let _ = writeln!(body, "{row}");
        }
        let summary = send(client, body).await?;
        let number = |name: &str| summary.get(name).and_then(Value::as_u64).unwrap_or_default();
        created += number("created");
        exists += number("exists");
        done += count;
        progress.at(done, None);
    }
    let seconds = progress.elapsed().as_secs_f64();
    drop(progress);
    if args.json {
        let report = json!({ "created": created, "exists": exists, "seconds": seconds });
        return output::json(&report);
    }
    output::line(&format!("{created} links made, {exists} were there already ({seconds:.1} s)"))
}

/// Sends one chunk; any refused row is an error, because these rows are ours.
async fn send(client: &ApiClient, body: String) -> anyhow::Result<Value> {
    let request = Request::post("/api/v1/links:import")
        .header(CONTENT_TYPE, "application/x-ndjson")
        .body(Body::from(body))
        .context("build the request")?;
    let response = client.send(request).await?;
    let status = response.status();
    let mut lines = Lines::of(response.into_body());
    if !status.is_success() {
        return Err(problem(status, &lines.next().await?.unwrap_or_default()));
    }
    while let Some(line) = lines.next().await? {
        let line: Value = serde_json::from_slice(&line).context("read the answer")?;
        if let Some(error) = line.get("error") {
            let detail = error.get("detail").and_then(Value::as_str).unwrap_or("it was refused");
            let code = match line.get("status").and_then(Value::as_u64) {
                Some(507) => Code::Io,
                Some(500..) => Code::Unavailable,
                _ => Code::Data,
            };
            return Err(Failure::error(code, format!("a link could not be made: {detail}")));
        }
        if let Some(summary) = line.get("summary") {
            return Ok(summary.clone());
        }
    }
    Err(Failure::error(Code::Unavailable, "the answer has no end; try again"))
}

/// The targets of a file, a header left out.
fn targets(args: &Args) -> anyhow::Result<Option<Vec<String>>> {
    let Some(path) = &args.file else { return Ok(None) };
    let file = std::fs::File::open(path).with_context(|| format!("open {}", path.display()))?;
    let mut targets = Vec::new();
    for line in std::io::BufReader::new(file).lines() {
        let line = line.with_context(|| format!("read {}", path.display()))?;
        if line.contains("://") {
            targets.push(line.trim().to_owned());
        }
    }
    if targets.is_empty() {
        let text = format!("{} has no line with an address", path.display());
        return Err(Failure::error(Code::Data, text));
    }
    Ok(Some(targets))
}

/// The code of a number: `{}` and `{:0N}` as in the bench.
fn code(pattern: &str, number: u64) -> anyhow::Result<String> {
    let wrong = || {
        let text =
            format!("{pattern:?} is no pattern; write {{}} or {{:07}} where the number goes");
        Failure::error(Code::Usage, text)
    };
    let (before, rest) = pattern.split_once('{').ok_or_else(wrong)?;
    let (width, after) = rest.split_once('}').ok_or_else(wrong)?;
    let width = match width.strip_prefix(":0") {
        Some(width) => width.parse::<usize>().ok().filter(|w| *w <= 20).ok_or_else(wrong)?,
        None if width.is_empty() => 0,
        None => return Err(wrong()),
    };
    Ok(format!("{before}{number:0width$}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_make_codes() {
        assert_eq!(code("{}", 7).unwrap(), "7");
        assert_eq!(code("s{:07}x", 42).unwrap(), "s0000042x");
        for bad in ["abc", "{", "{x}", "{:7}", "{:099}"] {
            assert!(code(bad, 0).is_err(), "{bad}");
        }
    }
}
