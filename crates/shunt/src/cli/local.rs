//! Calls of the `/local/` routes: long work with progress.

use anyhow::Context as _;
use axum::body::Body;
use http::Request;
use http::header::CONTENT_TYPE;
use serde_json::Value;

use crate::client::{ApiClient, Lines, problem};

use super::exit::{Code, Failure};
use super::output::{Progress, printable};

/// Asks for a piece of long work, shows how far it is, and answers its report.
pub(super) async fn call(
    client: &ApiClient,
    path: &str,
    body: &Value,
    progress: &mut Progress,
) -> anyhow::Result<Value> {
    let request = Request::post(path)
        .header(CONTENT_TYPE, "application/json")
        .body(Body::from(body.to_string()))
        .context("build the request")?;
    let response = client.send(request).await?;
    let status = response.status();
    let mut lines = Lines::of(response.into_body());
    if !status.is_success() {
        let text = lines.next().await?.unwrap_or_default();
        return Err(problem(status, &text));
    }
    while let Some(line) = lines.next().await? {
        let line: Value = serde_json::from_slice(&line).context("read the answer")?;
        if let Some(at) = line.get("progress") {
            let number = |name: &str| at.get(name).and_then(Value::as_u64);
            progress.at(number("done").unwrap_or_default(), number("total"));
        } else if let Some(note) = line.get("note").and_then(Value::as_str) {
            progress.note(&printable(note));
        } else if let Some(error) = line.get("error").and_then(Value::as_str) {
            return Err(Failure::error(Code::Failure, error));
        } else if let Some(report) = line.get("report") {
            return Ok(report.clone());
        }
    }
    Err(Failure::error(Code::Unavailable, "the server stopped before it was done; try again"))
}
