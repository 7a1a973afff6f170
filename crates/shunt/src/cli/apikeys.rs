//! `shunt apikeys`.

use anyhow::Context as _;
use http::Method;
use serde_json::{Value, json};

use crate::client::ApiClient;

use super::output::{self, printable};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Make a key and print its secret, which is shown this once
    Add {
        /// A name for people
        name: String,
        /// What it allows; may be repeated
        #[arg(long = "scope", value_name = "SCOPE", value_parser = ["read", "create", "admin"],
              default_values = ["read", "create"])]
        scopes: Vec<String>,
        /// Whose links it works on: the number of an owner; left out, a new one
        #[arg(long)]
        owner: Option<u64>,
        /// When it stops working, such as 2027-01-31T00:00:00Z
        #[arg(long, value_name = "TIME")]
        expires: Option<String>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// List all keys, never their secrets
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Revoke a key
    Revoke {
        /// Its number
        id: u64,
    },
}

const PATH: &str = "/api/v1/keys";

pub(super) async fn run(command: Command, client: &ApiClient) -> anyhow::Result<()> {
    match command {
        Command::Add { name, scopes, owner, expires, json } => {
            let mut body = json!({ "name": name, "scopes": scopes });
            if let Some(fields) = body.as_object_mut() {
                if let Some(owner) = owner {
                    fields.insert("owner".into(), owner.into());
                }
                if let Some(expires) = expires {
                    fields.insert("expires_at".into(), expires.into());
                }
            }
            let key = client.json(Method::POST, PATH, &[], Some(&body)).await?;
            if json {
                return output::json(&key);
            }
            let secret = key.get("secret").and_then(Value::as_str);
            let secret = secret.context("read the new key's secret")?;
            eprintln!("Keep this key now: it is stored nowhere and not shown again.");
            output::line(secret)
        }
        Command::List { json } => {
            let all = client.get(PATH).await?;
            if json {
                return output::json(&all);
            }
            let keys = all.get("keys").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            for key in keys {
                output::line(&one(key))?;
            }
            Ok(())
        }
        Command::Revoke { id } => {
            client.json(Method::DELETE, &format!("{PATH}/{id}"), &[], None).await?;
            eprintln!("key {id} is revoked");
            Ok(())
        }
    }
}

/// One key on a line, tab-separated: number, name, scopes, owner, state.
fn one(key: &Value) -> String {
    let text = |name: &str| key.get(name).and_then(Value::as_str);
    let number = |name: &str| key.get(name).and_then(Value::as_u64).unwrap_or_default();
    let scopes: Vec<&str> = key
        .get("scopes")
        .and_then(Value::as_array)
        .map(|scopes| scopes.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    let state = match (text("revoked_at"), text("expires_at")) {
        (Some(at), _) => format!("revoked {at}"),
        (None, Some(at)) => format!("expires {at}"),
        (None, None) => "valid".to_owned(),
    };
    let name = printable(text("name").unwrap_or_default());
    format!("{}\t{name}\t{}\towner {}\t{state}", number("id"), scopes.join(","), number("owner"))
}
