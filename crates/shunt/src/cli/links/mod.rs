//! `shunt links`.

mod add;
mod edit;
mod export;
mod import;
mod legacy;
mod list;
mod rm;
mod show;

use serde_json::Value;

use crate::client::{ApiClient, encoded};
use crate::config::Config;

use super::output::printable;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Create a link and print its short URL
    Add(add::Args),
    /// List links, the newest first
    List(list::Args),
    /// Show a link and its clicks
    Show(show::Args),
    /// Change a link
    Edit(edit::Args),
    /// Delete links; their codes are never given out again
    Rm(rm::Args),
    /// Take in links from a CSV or NDJSON file
    Import(import::Args),
    /// Write all links to a CSV or NDJSON file
    Export(export::Args),
}

pub(super) async fn run(
    command: Command,
    client: &ApiClient,
    config: &Config,
) -> anyhow::Result<()> {
    match command {
        Command::Add(args) => add::run(args, client).await,
        Command::List(args) => list::run(&args, client).await,
        Command::Show(args) => show::run(&args, client).await,
        Command::Edit(args) => edit::run(args, client).await,
        Command::Rm(args) => rm::run(&args, client).await,
        Command::Import(args) if args.legacy => legacy::run(&args, client).await,
        Command::Import(args) => import::run(&args, client, config).await,
        Command::Export(args) => export::run(&args, client).await,
    }
}

/// The API's path of a link. A short URL is taken for its last segment, so that what a command
/// printed can be given to the next one.
fn path_of(code: &str, domain: Option<&str>) -> String {
    let code = match code.split_once("://") {
        Some((_, rest)) => rest.trim_end_matches('/').rsplit('/').next().unwrap_or(code),
        None => code,
    };
    let mut path = format!("/api/v1/links/{}", encoded(code));
    if let Some(domain) = domain {
        path.push_str("?domain=");
        path.push_str(&encoded(domain));
    }
    path
}

fn text<'a>(link: &'a Value, field: &str) -> &'a str {
    link.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// A link on a line, tab-separated: short URL, target, title.
fn one(link: &Value) -> String {
    let title = printable(text(link, "title"));
    let line = format!("{}\t{}", text(link, "short_url"), printable(text(link, "target")));
    if title.is_empty() { line } else { format!("{line}\t{title}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_short_urls_name_links() {
        assert_eq!(path_of("abc", None), "/api/v1/links/abc");
        assert_eq!(path_of("a/b", Some("go.x")), "/api/v1/links/a%2Fb?domain=go.x");
        assert_eq!(path_of("http://127.0.0.1:8080/abc", None), "/api/v1/links/abc");
        assert_eq!(path_of("https://go.x/s/abc/", None), "/api/v1/links/abc");
    }
}
