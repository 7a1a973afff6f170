//! `shunt links list`.

use serde_json::Value;

use crate::cli::output;
use crate::client::{ApiClient, encoded};

/// Links per page: the most the API gives.
const PAGE: u64 = 200;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only links whose code, title or target holds this text (3 characters or more)
    #[arg(long, short)]
    query: Option<String>,
    /// Only links with this tag
    #[arg(long)]
    tag: Option<String>,
    /// Only links of this domain; empty: of the default one
    #[arg(long)]
    domain: Option<String>,
    /// The order
    #[arg(long, value_parser = ["created", "-created", "code", "-code"],
          default_value = "-created", allow_hyphen_values = true)]
    sort: String,
    /// At most so many links
    #[arg(long, default_value_t = 50, conflicts_with = "all")]
    limit: u64,
    /// All links
    #[arg(long)]
    all: bool,
    /// As JSON, one link a line
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: &Args, client: &ApiClient) -> anyhow::Result<()> {
    let mut left = if args.all { u64::MAX } else { args.limit };
    let mut filter = format!("&sort={}", args.sort);
    for (name, value) in [("q", &args.query), ("tag", &args.tag), ("domain", &args.domain)] {
        if let Some(value) = value {
            filter.push_str(&format!("&{name}={}", encoded(value)));
        }
    }
    let mut cursor = String::new();
    while left > 0 {
        let path = format!("/api/v1/links?limit={}{filter}{cursor}", left.min(PAGE));
        let page = client.get(&path).await?;
        let links = page.get("links").and_then(Value::as_array);
        for link in links.map_or(&[][..], Vec::as_slice) {
            if args.json {
                output::json(link)?
            } else {
                output::line(&super::one(link))?
            }
            left = left.saturating_sub(1);
        }
        match page.get("next").and_then(Value::as_str) {
            Some(next) => cursor = format!("&cursor={}", encoded(next)),
            None => break,
        }
    }
    Ok(())
}
