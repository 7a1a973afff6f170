//! `shunt keys`.

use serde_json::{Value, json};

use crate::client::ApiClient;

use super::output::{self, Progress};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Add codes to the pool, in rows of 1,000
    Fill {
        /// How many codes; 0 only tells how many there are
        #[arg(long, value_name = "CODES")]
        count: u64,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn run(command: Command, client: &ApiClient) -> anyhow::Result<()> {
    let Command::Fill { count: codes, json } = command;
    let mut progress = Progress::new("codes", Some(codes));
    let body = json!({ "codes": codes });
    let report = super::local::call(client, "/local/pool", &body, &mut progress).await?;
    drop(progress);
    if json {
        return output::json(&report);
    }
    let number = |name: &str| report.get(name).and_then(Value::as_u64).unwrap_or_default();
    output::line(&format!("{} codes added, {} in the pool", number("added"), number("size")))
}
