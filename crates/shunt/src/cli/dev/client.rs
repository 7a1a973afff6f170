//! What the other commands say to the supervisor: one line of JSON, answered by lines.

use std::io::{BufReader, ErrorKind, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shunt_cluster::local;

use super::SOCKET;
use super::report::Steps;
use crate::cli::exit::{Code, Failure};

/// What is asked for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Request {
    Status,
    Kill { node: String, freeze: bool },
    Heal { node: Option<String> },
    Down { purge: bool },
}

/// One line of the answer: steps, and at the end an outcome.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Line {
    Step(String),
    Done(Value),
    Failed(String),
}

impl Line {
    /// The line with its end.
    pub(super) fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default() + "\n"
    }
}

/// Reads lines up to the outcome.
pub(super) fn outcome(
    lines: impl std::io::BufRead,
    step: &mut dyn FnMut(&str),
) -> anyhow::Result<Value> {
    for line in lines.lines() {
        let line = line.context("read the supervisor's answer")?;
        match serde_json::from_str(&line).context("read the supervisor's answer")? {
            Line::Step(what) => step(&what),
            Line::Done(value) => return Ok(value),
            Line::Failed(why) => return Err(Failure::error(Code::Failure, why)),
        }
    }
    Err(Failure::error(
        Code::Unavailable,
        "the supervisor ended before it was done; its servers ended with it",
    ))
}

/// The supervisor of a directory, if it has one.
pub(super) fn connect(dir: &Path) -> anyhow::Result<Option<UnixStream>> {
    match UnixStream::connect(dir.join(SOCKET)) {
        Ok(stream) => Ok(Some(stream)),
        Err(error)
            if matches!(
                error.kind(),
                // The last one: a path on which no socket can be, and so no cluster.
                ErrorKind::NotFound | ErrorKind::ConnectionRefused | ErrorKind::InvalidInput
            ) =>
        {
            Ok(None)
        }
        Err(error) => {
            Err(error).with_context(|| format!("reach the supervisor of {}", dir.display()))
        }
    }
}

/// Asks the supervisor and waits for the outcome.
pub(super) fn ask(
    dir: &Path,
    request: &Request,
    step: &mut dyn FnMut(&str),
) -> anyhow::Result<Value> {
    let Some(mut stream) = connect(dir)? else {
        let dir = dir.display();
        let text = format!("no local cluster runs in {dir}; `shunt dev up --dir {dir}` starts one");
        return Err(Failure::error(Code::Unavailable, text));
    };
    let line = serde_json::to_string(request).context("write the request")? + "\n";
    stream.write_all(line.as_bytes()).context("ask the supervisor")?;
    outcome(BufReader::new(stream), step)
}

/// Stops what runs, or clears up after what has crashed.
pub(super) fn down(dir: &Path, purge: bool) -> anyhow::Result<()> {
    if connect(dir)?.is_none() {
        return local::clear(dir, purge)
            .map_err(|error| Failure::error(Code::NoInput, format!("{error:#}")));
    }
    let mut steps = Steps::new("stopping");
    ask(dir, &Request::Down { purge }, &mut |what| steps.at(what))?;
    steps.finish();
    Ok(())
}
