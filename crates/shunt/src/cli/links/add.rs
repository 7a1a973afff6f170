//! `shunt links add`.

use http::{HeaderName, Method};
use serde_json::{Map, Value};

use crate::cli::output;
use crate::client::{ApiClient, idempotency_key};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where it leads
    target: String,
    /// The code; left out, one is generated
    #[arg(long, allow_hyphen_values = true)]
    code: Option<String>,
    /// The domain it lives on; left out, the default one
    #[arg(long)]
    domain: Option<String>,
    /// A name for people
    #[arg(long, allow_hyphen_values = true)]
    title: Option<String>,
    /// A tag; may be repeated
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// From when on it works, such as 2027-01-31T00:00:00Z
    #[arg(long, value_name = "TIME")]
    valid_from: Option<String>,
    /// When it ends
    #[arg(long, value_name = "TIME")]
    expires: Option<String>,
    /// How many redirects it serves in all
    #[arg(long, value_name = "N")]
    max_clicks: Option<u64>,
    /// Status of the redirect: 301, 302, 307 or 308
    #[arg(long, value_name = "CODE")]
    status: Option<u16>,
    /// Append the visitor's query to the target's
    #[arg(long)]
    forward_query: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args, client: &ApiClient) -> anyhow::Result<()> {
    let mut body = Map::new();
    let fields = [
        ("target", Some(Value::from(args.target))),
        ("code", args.code.map(Value::from)),
        ("domain", args.domain.map(Value::from)),
        ("title", args.title.map(Value::from)),
        ("tags", (!args.tags.is_empty()).then(|| Value::from(args.tags))),
        ("valid_from", args.valid_from.map(Value::from)),
        ("expires_at", args.expires.map(Value::from)),
        ("max_clicks", args.max_clicks.map(Value::from)),
        ("status_code", args.status.map(Value::from)),
        ("forward_query", args.forward_query.then_some(Value::Bool(true))),
    ];
    for (name, value) in fields {
        if let Some(value) = value {
            body.insert(name.to_owned(), value);
        }
    }
    let key = (HeaderName::from_static("idempotency-key"), idempotency_key()?);
    let body = Value::Object(body);
    let link = client.json(Method::POST, "/api/v1/links", &[key], Some(&body)).await?;
    if args.json { output::json(&link) } else { output::line(super::text(&link, "short_url")) }
}
