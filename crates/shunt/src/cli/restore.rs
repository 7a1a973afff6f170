//! `shunt restore`.

use std::path::PathBuf;

use serde_json::json;
use shunt_store::sqlite::{Progress as Step, SqliteStore};

use crate::client::ApiClient;
use crate::config::Config;

use super::exit::{Code, Failure};
use super::output::{self, Progress};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The backup
    file: PathBuf,
    /// Replace the links that are there
    #[arg(long)]
    replace: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, config: &Config) -> anyhow::Result<()> {
    if super::block_on(ApiClient::running(config))?.is_some() {
        let text = format!("a server runs on {}; stop it, then restore", config.data_dir.display());
        return Err(Failure::error(Code::Temporary, text));
    }
    if !args.file.exists() {
        let text = format!("there is no backup {}; check the path", args.file.display());
        return Err(Failure::error(Code::NoInput, text));
    }
    if !config.store.url.is_embedded() {
        let text = "a backup is of the embedded store; PostgreSQL has pg_restore, and rows of an \
                    export come back with `shunt links import`";
        return Err(Failure::error(Code::Usage, text));
    }
    let mut progress = Progress::new("pages", None);
    let mut tell = |step: Step| match step {
        Step::Copying { done, total } => progress.at(done, Some(total)),
        Step::Checking => {}
    };
    let report = SqliteStore::restore(&args.file, config.store_dir(), args.replace, &mut tell)?;
    drop(progress);
    if args.json {
        let epoch = report.epoch;
        return output::json(&json!({ "links": report.links, "epoch": epoch }));
    }
    output::line(&format!(
        "{} links restored. Codes given out after the backup was made are not known any more and \
         may be given out again.",
        report.links
    ))
}
