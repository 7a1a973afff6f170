//! `shunt backup`.

use std::path::PathBuf;

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::client::ApiClient;

use super::exit::{Code, Failure};
use super::output::{self, Progress};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The file to write; it must not exist
    file: PathBuf,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args, client: &ApiClient) -> anyhow::Result<()> {
    let to = std::path::absolute(&args.file).context("find the backup's place")?;
    if to.exists() {
        let text = format!("{} exists already; name another file", to.display());
        return Err(Failure::error(Code::CantCreate, text));
    }
    let mut progress = Progress::new("pages", None);
    let body = json!({ "to": to });
    let report = super::local::call(client, "/local/backup", &body, &mut progress).await?;
    drop(progress);
    if args.json {
        return output::json(&report);
    }
    let number = |name: &str| report.get(name).and_then(Value::as_u64).unwrap_or_default();
    output::line(&format!(
        "{} links in {} ({} bytes); click figures are not part of a backup",
        number("links"),
        to.display(),
        number("bytes")
    ))
}
