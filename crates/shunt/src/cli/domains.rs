//! `shunt domains`.

use http::Method;
use serde_json::{Value, json};

use crate::client::ApiClient;

use super::output;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List the registered domains
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Register a domain: the host name under which links of their own live
    Add {
        /// Its host name
        host: String,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

const PATH: &str = "/api/v1/domains";

pub(super) async fn run(command: Command, client: &ApiClient) -> anyhow::Result<()> {
    match command {
        Command::List { json } => {
            let all = client.get(PATH).await?;
            if json {
                return output::json(&all);
            }
            let rows = all.get("domains").and_then(Value::as_array);
            for domain in rows.map_or(&[][..], Vec::as_slice) {
                print(domain)?;
            }
            Ok(())
        }
        Command::Add { host, json } => {
            let body = json!({ "host": host });
            let domain = client.json(Method::POST, PATH, &[], Some(&body)).await?;
            if json { output::json(&domain) } else { print(&domain) }
        }
    }
}

fn print(domain: &Value) -> anyhow::Result<()> {
    let id = domain.get("id").and_then(Value::as_u64).unwrap_or_default();
    let host = domain.get("host").and_then(Value::as_str).unwrap_or_default();
    output::line(&format!("{id}\t{host}"))
}
