//! `shunt migrate`: brings the store to this version's schema.

use serde_json::json;

use shunt_store::postgres::Migrated;
use shunt_store::sharded;

use crate::client::{ApiClient, Need};
use crate::config::{Config, StoreUrl};

use super::output;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, config: &Config) -> anyhow::Result<()> {
    match &config.store.url {
        StoreUrl::DataDir | StoreUrl::Sqlite(_) => by_opening(args, config),
        StoreUrl::Postgres(options) => {
            let options = config.store.migrate.as_ref().unwrap_or(options);
            let place = format!("PostgreSQL at {}", options.address());
            migrated(args, &place, crate::stores::migrate(options)?)
        }
        StoreUrl::Shards(_) => super::block_on(async {
            for (name, done) in sharded::migrate(&config.store.shards()).await? {
                migrated(args, &format!("shard {name}"), done)?;
            }
            Ok(())
        }),
        #[cfg(feature = "dynamodb")]
        StoreUrl::Dynamo(options) => {
            let place = format!("DynamoDB table {}", options.table);
            let made = crate::stores::dynamodb::migrate(options)?;
            if args.json {
                return output::json(&json!({ "store": place, "made": made, "server": false }));
            }
            let done = if made { "was made" } else { "is there" };
            output::line(&format!("the {place} {done}"))
        }
    }
}

fn migrated(args: &Args, place: &str, done: Migrated) -> anyhow::Result<()> {
    if args.json {
        return output::json(
            &json!({ "store": place, "from": done.from, "to": done.to, "server": false }),
        );
    }
    output::line(&match (done.from, done.to) {
        (from, to) if from == to => {
            format!("the store in {place} has this version's schema ({to})")
        }
        (from, to) => format!("the store in {place} went from schema {from} to {to}"),
    })
}

/// The embedded store has migrated whenever it is open.
fn by_opening(args: &Args, config: &Config) -> anyhow::Result<()> {
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
