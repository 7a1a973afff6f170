//! The record of acknowledged creates: what a server said was durable, in the client's own file.
//!
//! A line is in the kernel before the thread that received the answer goes on, so that it outlives
//! a kill of the server and of this process; `finish` also puts it on disk.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use serde::Serialize;

/// The file acknowledgements go to, shared by the threads of a run.
#[derive(Debug)]
pub(super) struct Acks(Mutex<File>);

impl Acks {
    pub(super) fn create(path: &Path) -> anyhow::Result<Self> {
        let file = File::create(path).with_context(|| {
            format!("--record-acks {}: the file can't be created", path.display())
        })?;
        Ok(Self(Mutex::new(file)))
    }

    /// Writes whole lines, at once.
    pub(super) fn write(&self, lines: &[u8]) -> std::io::Result<()> {
        let mut file = self.0.lock().map_err(|_| std::io::Error::other("a thread panicked"))?;
        file.write_all(lines)
    }

    /// Puts everything written on disk.
    pub(super) fn finish(&self) -> std::io::Result<()> {
        let file = self.0.lock().map_err(|_| std::io::Error::other("a thread panicked"))?;
        file.sync_all()
    }
}

/// One acknowledgement; `at_ms` is Unix milliseconds.
#[derive(Serialize)]
struct Line<'a> {
    code: &'a str,
    target: &'a str,
    key: &'a str,
    at_ms: u64,
}

/// Appends one acknowledgement as a JSON line: what `--keys` reads again.
pub(super) fn line(code: &str, target: &str, key: &str, out: &mut Vec<u8>) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let line = Line { code, target, key, at_ms: now.as_millis() as u64 };
    // Writing strings and a number to memory can't fail.
    if serde_json::to_writer(&mut *out, &line).is_ok() {
        out.push(b'\n');
    }
}
