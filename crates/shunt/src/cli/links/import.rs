//! `shunt links import`.
//!
//! The file is read on a thread of its own, a chunk ahead; each chunk is one request, and what the
//! server acknowledged is noted before the next one goes out.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;

use anyhow::Context as _;
use axum::body::Body;
use http::Request;
use http::header::CONTENT_TYPE;
use serde_json::{Value, json};
use shunt_domain::TargetRules;
use tokio::sync::mpsc;

use crate::cli::exit::{Code, Failure};
use crate::cli::output::{self, Progress, printable};
use crate::cli::rows::judge;
use crate::cli::rows::reader::{Chunk, Format, Place, Rows};
use crate::cli::rows::state::{State, StateFile, hash};
use crate::client::{ApiClient, Lines, problem};
use crate::config::Config;

#[derive(Debug, clap::Args)]
#[command(
    long_about = "Take in links from a file: an export of shunt, or a list of addresses.\n\n\
    CSV needs a header with a column for the target (target, url, long_url, destination, \
    original_url, ...) and may have code (slug, short_code, keyword, alias, ...), domain, title, \
    tags (comma-separated), status_code, forward_query, enabled, valid_from, expires_at, \
    max_clicks and owner. A file of nothing but addresses needs no header. NDJSON has a JSON \
    object with the same fields on each line.\n\n\
    A refused row is said on standard error with its number and the reason, and the rest goes on. \
    A link that is there already, the very same, is left as it is. An import that was stopped \
    goes on with --resume.\n\n\
    With --legacy there is no file: the links of another service's tables (settings of [legacy]) \
    are taken over into the store."
)]
pub(crate) struct Args {
    /// The file; `-` reads standard input
    #[arg(required_unless_present = "legacy")]
    file: Option<PathBuf>,
    /// Take over the links of the other service that the settings under legacy name; goes on where
    /// it was stopped
    #[arg(long, conflicts_with_all = ["file", "format", "resume", "dry_run"])]
    pub(super) legacy: bool,
    /// With --legacy: put its unused keys into the pool as well
    #[arg(long, requires = "legacy")]
    pub(super) keys: bool,
    /// The format; left out, by the file's first bytes
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Go on with the import of this file that was stopped
    #[arg(long, conflicts_with = "restart")]
    resume: bool,
    /// Begin anew although an import of this file was stopped
    #[arg(long)]
    pub(super) restart: bool,
    /// Read and judge the rows only; the server may still refuse some, such as taken codes
    #[arg(long, conflicts_with_all = ["resume", "restart"])]
    dry_run: bool,
    /// Print the summary as JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// Refused rows that are said one by one; beyond, they are only counted.
const MAX_SAID: u64 = 100_000;

pub(super) async fn run(args: &Args, client: &ApiClient, config: &Config) -> anyhow::Result<()> {
    let path = args.file.as_deref().context("name a file")?;
    let from_stdin = path.as_os_str() == "-";
    let name = path.display();
    let (input, size, hash): (Box<dyn BufRead + Send>, _, _) = if from_stdin {
        if args.resume {
            let text = "standard input can't be resumed; import a file";
            return Err(Failure::error(Code::Usage, text));
        }
        (Box::new(BufReader::new(std::io::stdin())), None, None)
    } else {
        let file = File::open(path).with_context(|| format!("open {name}"))?;
        let size = file.metadata().with_context(|| format!("read {name}"))?.len();
        let hash = hash(path).with_context(|| format!("read {name}"))?;
        (Box::new(BufReader::with_capacity(1 << 18, file)), Some(size), Some(hash))
    };
    let rows = Rows::open(input, args.format).with_context(|| format!("import {name}"))?;
    if !rows.ignored().is_empty() {
        eprintln!("columns that mean nothing here are left out: {}", rows.ignored().join(", "));
    }
    let (state, file) = begin(args, config, hash)?;
    let dry_run = args.dry_run.then(|| judge::rules(config));
    let mut import = Import { state, file, client, said: 0, dry_run };
    let mut progress = Progress::new("bytes", size);
    let outcome = import.all(rows, &mut progress).await;
    let elapsed = progress.elapsed();
    drop(progress);
    if let Err(error) = outcome {
        let settled = import.state.settled;
        let error = error.context(format!("import {name}, {settled} rows are settled"));
        return Err(if import.file.is_some() {
            error.context("stopped; go on with --resume")
        } else {
            error
        });
    }
    if let Some(file) = &import.file {
        file.remove();
    }
    summary(args, &import.state, elapsed)
}

fn begin(
    args: &Args,
    config: &Config,
    hash: Option<String>,
) -> anyhow::Result<(State, Option<StateFile>)> {
    let Some(hash) = hash.filter(|_| !args.dry_run) else {
        return Ok((State::new(String::new())?, None));
    };
    let file = StateFile::of(&config.data_dir, &hash);
    let earlier = if args.restart { None } else { file.read()? };
    match (earlier, args.resume) {
        (Some(state), true) if state.file == hash => Ok((state, Some(file))),
        (None, true) | (Some(_), true) => {
            let text = "no import of this file was stopped; start one without --resume";
            Err(Failure::error(Code::NoInput, text))
        }
        (Some(state), false) => Err(Failure::error(
            Code::Usage,
            format!(
                "an import of this file was stopped after {} rows; go on with --resume, or begin \
                 anew with --restart",
                state.settled
            ),
        )),
        (None, false) => Ok((State::new(hash)?, Some(file))),
    }
}

fn summary(args: &Args, state: &State, elapsed: std::time::Duration) -> anyhow::Result<()> {
    let seconds = elapsed.as_secs_f64();
    if args.json {
        output::json(&json!({
            "rows": state.settled, "created": state.created, "restored": state.restored,
            "exists": state.exists, "refused": state.refused, "seconds": seconds,
            "dry_run": args.dry_run,
        }))?;
    } else if args.dry_run {
        output::line(&format!(
            "{} rows read, {} of them would be refused; nothing was imported",
            state.settled, state.refused
        ))?;
    } else {
        output::line(&format!(
            "{} rows: {} created, {} restored, {} there already, {} refused ({seconds:.1} s)",
            state.settled, state.created, state.restored, state.exists, state.refused
        ))?;
    }
    if state.refused > 0 {
        let text = format!("{} rows were refused; see above", state.refused);
        return Err(Failure::error(Code::Data, text));
    }
    Ok(())
}

struct Import<'a> {
    state: State,
    file: Option<StateFile>,
    client: &'a ApiClient,
    said: u64,
    /// The rules to judge by instead of sending.
    dry_run: Option<TargetRules>,
}

impl Import<'_> {
    async fn all(&mut self, mut rows: Rows, progress: &mut Progress) -> anyhow::Result<()> {
        // One chunk is read while the one before it is under way.
        let (sender, mut chunks) = mpsc::channel::<std::io::Result<Chunk>>(1);
        let reader = std::thread::Builder::new().name("import".to_owned()).spawn(move || {
            while let Some(chunk) = rows.chunk().transpose() {
                let failed = chunk.is_err();
                if sender.blocking_send(chunk).is_err() || failed {
                    break;
                }
            }
        });
        // It ends with the channel; nothing waits for it.
        let _reader = reader.context("start the reader")?;
        let mut seen = 0;
        while let Some(chunk) = chunks.recv().await {
            let chunk = chunk.context("read the file")?;
            seen += chunk.rows();
            if seen > self.state.settled {
                self.chunk(&chunk, progress).await?;
            }
            progress.at(chunk.position, None);
        }
        Ok(())
    }

    /// Takes one chunk in, or nothing of it is noted.
    async fn chunk(&mut self, chunk: &Chunk, progress: &Progress) -> anyhow::Result<()> {
        let mut next = self.state.clone();
        let mut refused: Vec<(Place, String)> =
            chunk.refused.iter().map(|row| (row.place, row.why.clone())).collect();
        match &self.dry_run {
            Some(rules) => {
                let rows = chunk.body.split(|byte| *byte == b'\n').zip(&chunk.places);
                refused.extend(
                    rows.filter_map(|(row, place)| Some((*place, judge::refusal(row, rules)?))),
                );
            }
            None if chunk.places.is_empty() => {}
            None => self.send(chunk, &mut next, &mut refused).await?,
        }
        next.refused += refused.len() as u64;
        next.settled += chunk.rows();
        if let Some(file) = &self.file {
            file.write(&next)?;
        }
        self.state = next;
        refused.sort_by_key(|(place, _)| *place);
        for (place, why) in refused {
            self.said += 1;
            match self.said.cmp(&(MAX_SAID + 1)) {
                std::cmp::Ordering::Less => {
                    progress.note(&format!("{place}: {}", printable(&why)));
                }
                std::cmp::Ordering::Equal => {
                    progress.note("further refused rows are only counted");
                }
                std::cmp::Ordering::Greater => {}
            }
        }
        Ok(())
    }

    async fn send(
        &self,
        chunk: &Chunk,
        next: &mut State,
        refused: &mut Vec<(Place, String)>,
    ) -> anyhow::Result<()> {
        let mut request =
            Request::post("/api/v1/links:import").header(CONTENT_TYPE, "application/x-ndjson");
        if chunk.codeless {
            // Sent again after a lost answer, it makes no second links.
            let key = format!("import-{}-{}", self.state.run, self.state.settled);
            request = request.header("idempotency-key", key);
        }
        let request = request.body(Body::from(chunk.body.clone())).context("build the request")?;
        let response = self.client.send(request).await?;
        let status = response.status();
        let mut lines = Lines::of(response.into_body());
        if !status.is_success() {
            return Err(problem(status, &lines.next().await?.unwrap_or_default()));
        }
        while let Some(line) = lines.next().await? {
            let line: Value = serde_json::from_slice(&line).context("read the answer")?;
            if let Some(error) = line.get("error") {
                refused.push(row_refusal(chunk, &line, error)?);
            } else if let Some(summary) = line.get("summary") {
                let count = |name: &str| summary.get(name).and_then(Value::as_u64).unwrap_or(0);
                if count("rows") != chunk.places.len() as u64 {
                    let why = summary.get("error").map(reason).unwrap_or_default();
                    let text = format!("the server did not read all rows: {why}");
                    return Err(Failure::error(Code::Unavailable, text));
                }
                next.created += count("created");
                next.restored += count("restored");
                next.exists += count("exists");
                return Ok(());
            }
        }
        Err(Failure::error(Code::Unavailable, "the answer has no end; try again"))
    }
}

/// The place and reason of a refused row. A row that failed because the server could not do its
/// work is no bad row: the import stops there and can go on later.
fn row_refusal(chunk: &Chunk, result: &Value, error: &Value) -> anyhow::Result<(Place, String)> {
    let number = |name: &str| result.get(name).and_then(Value::as_u64).unwrap_or_default();
    let status = number("status");
    if status >= 500 || status == 409 && is_running(error) {
        let code = if status == 507 { Code::Io } else { Code::Unavailable };
        return Err(Failure::error(code, reason(error)));
    }
    let at = usize::try_from(number("row")).unwrap_or_default().wrapping_sub(1);
    let place = chunk.places.get(at).copied().context("read the answer: no such row")?;
    Ok((place, reason(error)))
}

/// Whether an earlier try of the same chunk is still at work.
fn is_running(error: &Value) -> bool {
    error.get("code").and_then(Value::as_str) == Some("still-running")
}

fn reason(error: &Value) -> String {
    let text = |name: &str| error.get(name).and_then(Value::as_str).unwrap_or_default();
    match (text("field"), text("detail"), text("code")) {
        ("", detail, code) => format!("{detail} ({code})"),
        (field, detail, code) => format!("{field}: {detail} ({code})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk() -> Chunk {
        let places = vec![Place { row: 1, line: 2 }, Place { row: 2, line: 5 }];
        Chunk { places, ..Chunk::default() }
    }

    #[test]
    fn refused_rows_are_named_by_their_line() {
        let result = json!({"row": 2, "status": 400,
            "error": {"code": "bad-scheme", "field": "target", "detail": "no such scheme"}});
        let (place, why) = row_refusal(&chunk(), &result, &result["error"]).unwrap();
        assert_eq!(place.line, 5);
        assert_eq!(why, "target: no such scheme (bad-scheme)");
    }

    #[test]
    fn a_failing_server_is_no_bad_row() {
        for (status, code) in [(503, Code::Unavailable), (507, Code::Io)] {
            let result = json!({"row": 1, "status": status, "error": {"detail": "no"}});
            let error = row_refusal(&chunk(), &result, &result["error"]).unwrap_err();
            assert_eq!(crate::cli::exit::code_of(&error), code);
        }
    }

    #[test]
    fn stopped_imports_are_resumed_or_restarted_but_never_mixed() {
        use clap::Parser as _;
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            args: Args,
        }
        let args =
            |flags: &[&str]| Line::try_parse_from(["x", "f.csv"].iter().chain(flags)).unwrap().args;
        let dir = tempfile::tempdir().unwrap();
        let config = Config { data_dir: dir.path().to_owned(), ..Config::default() };
        let hash = || Some("ab".repeat(32));
        assert!(begin(&args(&["--resume"]), &config, hash()).is_err(), "nothing to resume");
        let (mut state, file) = begin(&args(&[]), &config, hash()).unwrap();
        state.settled = 3_000;
        file.unwrap().write(&state).unwrap();
        assert!(begin(&args(&[]), &config, hash()).is_err(), "must say which");
        assert_eq!(begin(&args(&["--resume"]), &config, hash()).unwrap().0, state);
        let (fresh, _) = begin(&args(&["--restart"]), &config, hash()).unwrap();
        assert_eq!(fresh.settled, 0);
        assert_ne!(fresh.run, state.run);
        assert!(begin(&args(&["--dry-run"]), &config, hash()).unwrap().1.is_none());
    }
}
