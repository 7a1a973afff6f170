//! `shunt links edit`.

use http::Method;
use http::header::{CONTENT_TYPE, IF_MATCH};
use serde_json::{Map, Value};

use crate::cli::exit::{Code, Failure};
use crate::cli::output;
use crate::client::ApiClient;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Its code or short URL; one that begins with a hyphen comes last, after --
    code: String,
    /// The domain it lives on; left out, the default one
    #[arg(long)]
    domain: Option<String>,
    /// A new target
    #[arg(long)]
    target: Option<String>,
    /// A new title; empty: none
    #[arg(long, allow_hyphen_values = true)]
    title: Option<String>,
    /// All tags anew, comma-separated; empty: none
    #[arg(long, value_name = "TAGS")]
    tags: Option<String>,
    /// A new start, such as 2027-01-31T00:00:00Z; empty: none
    #[arg(long, value_name = "TIME")]
    valid_from: Option<String>,
    /// A new end; empty: none
    #[arg(long, value_name = "TIME")]
    expires: Option<String>,
    /// A new limit of redirects; 0: none
    #[arg(long, value_name = "N")]
    max_clicks: Option<u64>,
    /// A new status of the redirect: 301, 302, 307 or 308
    #[arg(long, value_name = "CODE")]
    status: Option<u16>,
    /// Append the visitor's query to the target's, or not
    #[arg(long, value_name = "BOOL")]
    forward_query: Option<bool>,
    /// Enable or disable
    #[arg(long, value_name = "BOOL")]
    enabled: Option<bool>,
    /// Only if the link still has this version
    #[arg(long, value_name = "N")]
    if_version: Option<u64>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args, client: &ApiClient) -> anyhow::Result<()> {
    let path = super::path_of(&args.code, args.domain.as_deref());
    let mut headers = vec![(CONTENT_TYPE, "application/merge-patch+json".to_owned())];
    if let Some(version) = args.if_version {
        headers.push((IF_MATCH, format!("\"{version}\"")));
    }
    let json = args.json;
    let patch = patch(args);
    if patch.is_empty() {
        return Err(Failure::error(
            Code::Usage,
            "nothing to change; see `shunt links edit --help`",
        ));
    }
    let patch = Value::Object(patch);
    let link = client.json(Method::PATCH, &path, &headers, Some(&patch)).await?;
    if json { output::json(&link) } else { output::line(&super::one(&link)) }
}

fn patch(args: Args) -> Map<String, Value> {
    // What is empty clears.
    let clearing = |text: String| if text.is_empty() { Value::Null } else { text.into() };
    let tags = args.tags.map(|tags| {
        tags.split(',').map(str::trim).filter(|tag| !tag.is_empty()).map(Value::from).collect()
    });
    let fields = [
        ("target", args.target.map(Value::from)),
        ("title", args.title.map(clearing)),
        ("tags", tags),
        ("valid_from", args.valid_from.map(clearing)),
        ("expires_at", args.expires.map(clearing)),
        ("max_clicks", args.max_clicks.map(|n| if n == 0 { Value::Null } else { n.into() })),
        ("status_code", args.status.map(Value::from)),
        ("forward_query", args.forward_query.map(Value::from)),
        ("enabled", args.enabled.map(Value::from)),
    ];
    fields
        .into_iter()
        .filter_map(|(name, value)| value.map(|value| (name.to_owned(), value)))
        .collect()
}
