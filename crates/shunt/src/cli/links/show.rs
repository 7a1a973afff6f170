//! `shunt links show`.

use serde_json::{Value, json};

use crate::cli::output::{self, printable};
use crate::client::{ApiClient, encoded};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Its code or short URL
    code: String,
    /// The domain it lives on; left out, the default one
    #[arg(long)]
    domain: Option<String>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: &Args, client: &ApiClient) -> anyhow::Result<()> {
    let path = super::path_of(&args.code, args.domain.as_deref());
    let link = client.get(&path).await?;
    let stats = client.get(&stats_path(&link)).await?;
    let clicks = stats.get("totals").cloned().unwrap_or_default();
    if args.json {
        return output::json(&json!({ "link": link, "clicks": clicks, "used": stats.get("used") }));
    }
    let Some(fields) = link.as_object() else { return output::json(&link) };
    for (name, value) in fields {
        match value {
            Value::Null => {}
            Value::Array(items) if items.is_empty() => {}
            Value::String(text) => output::line(&format!("{name}: {}", printable(text)))?,
            Value::Array(items) => {
                let items: Vec<String> =
                    items.iter().filter_map(Value::as_str).map(printable).collect();
                output::line(&format!("{name}: {}", items.join(", ")))?;
            }
            other => output::line(&format!("{name}: {other}"))?,
        }
    }
    let count = |name: &str| clicks.get(name).and_then(Value::as_u64).unwrap_or_default();
    output::line(&format!("clicks: {}, of people: {}", count("clicks"), count("humans")))
}

fn stats_path(link: &Value) -> String {
    let code = encoded(super::text(link, "code"));
    match super::text(link, "domain") {
        "" => format!("/api/v1/links/{code}/stats"),
        domain => format!("/api/v1/links/{code}/stats?domain={}", encoded(domain)),
    }
}
