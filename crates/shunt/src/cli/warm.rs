//! `shunt warm`: loads links into the running server's cache, the newest first.

use std::io::BufRead as _;
use std::path::PathBuf;

use anyhow::Context as _;
use http::Method;
use serde_json::{Value, json};

use crate::client::{ApiClient, encoded};
use crate::config::Config;

use super::exit::{Code, Failure};
use super::output::{self, Progress};

/// Links per request: a page of the list.
const PAGE: usize = 200;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// How many of the newest links
    #[arg(long, default_value_t = 100_000, conflicts_with = "file")]
    newest: u64,
    /// Codes instead, one a line; `-` reads standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args, config: &Config) -> anyhow::Result<()> {
    super::block_on(async {
        let Some(client) = ApiClient::running(config).await? else {
            let text = "no server runs on this data directory; start `shunt serve`, then warm it";
            return Err(Failure::error(Code::Unavailable, text));
        };
        warm(args, &client).await
    })
}

async fn warm(args: Args, client: &ApiClient) -> anyhow::Result<()> {
    let mut totals = (0, 0);
    match &args.file {
        Some(path) => {
            let input: Box<dyn std::io::BufRead> = if path.as_os_str() == "-" {
                Box::new(std::io::stdin().lock())
            } else {
                let file = std::fs::File::open(path)
                    .with_context(|| format!("open {}", path.display()))?;
                Box::new(std::io::BufReader::new(file))
            };
            let mut progress = Progress::new("links", None);
            let mut page = Vec::with_capacity(PAGE);
            for line in input.lines() {
                let line = line.context("read the codes")?;
                if !line.trim().is_empty() {
                    page.push(json!({ "code": line.trim() }));
                }
                if page.len() == PAGE {
                    send(client, &mut page, &mut totals).await?;
                    progress.at(totals.0 + totals.1, None);
                }
            }
            send(client, &mut page, &mut totals).await?;
        }
        None => newest(args.newest, client, &mut totals).await?,
    }
    let (warmed, failed) = totals;
    if args.json {
        return output::json(&json!({ "warmed": warmed, "failed": failed }));
    }
    output::line(&format!("{warmed} links warmed, {failed} could not be loaded"))
}

async fn newest(count: u64, client: &ApiClient, totals: &mut (u64, u64)) -> anyhow::Result<()> {
    let mut progress = Progress::new("links", Some(count));
    let mut cursor: Option<String> = None;
    let mut left = count;
    while left > 0 {
        let mut path = format!("/api/v1/links?limit={}", left.min(PAGE as u64));
        if let Some(cursor) = &cursor {
            path.push_str("&cursor=");
            path.push_str(&encoded(cursor));
        }
        let answer = client.get(&path).await?;
        let links = answer.get("links").and_then(Value::as_array);
        let mut page: Vec<Value> = links
            .map_or(&[][..], Vec::as_slice)
            .iter()
            .map(|link| json!({ "code": link.get("code"), "domain": link.get("domain") }))
            .collect();
        left = left.saturating_sub(page.len() as u64);
        send(client, &mut page, totals).await?;
        progress.at(totals.0 + totals.1, None);
        cursor = answer.get("next").and_then(Value::as_str).map(str::to_owned);
        if cursor.is_none() {
            break;
        }
    }
    Ok(())
}

async fn send(
    client: &ApiClient,
    page: &mut Vec<Value>,
    totals: &mut (u64, u64),
) -> anyhow::Result<()> {
    if page.is_empty() {
        return Ok(());
    }
    let body = Value::Array(std::mem::take(page));
    let answer = client.json(Method::POST, "/local/warm", &[], Some(&body)).await?;
    let number = |name: &str| answer.get(name).and_then(Value::as_u64).unwrap_or_default();
    totals.0 += number("warmed");
    totals.1 += number("failed");
    Ok(())
}
