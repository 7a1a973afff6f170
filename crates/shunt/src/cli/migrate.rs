//! `shunt migrate`: opening the store brings it to this version's schema.

use serde_json::json;

use crate::client::{ApiClient, Need};
use crate::config::Config;

use super::output;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, config: &Config) -> anyhow::Result<()> {
    super::block_on(async {
        let client = ApiClient::open(config, Need::Existing).await?;
        // A server that runs has migrated when it opened the store.
        let by_server = matches!(client, ApiClient::Socket(_));
        client.close().await;
        let place = config.store_dir().display();
        if args.json {
            return output::json(&json!({ "store": place.to_string(), "server": by_server }));
        }
        let by = if by_server { " (the running server saw to it)" } else { "" };
        output::line(&format!("the store in {place} has this version's schema{by}"))
    })
}
