//! `GET /api/v1/links:export`: everything, streamed.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use http::HeaderValue;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use shunt_domain::Scope;

use super::body::{self, NDJSON};
use super::caller;
use super::dto::ExportRow;
use super::query::Params;
use crate::app::{App, AppState};
use crate::problem::Problem;

/// Rows read at once: at most 1 MiB of targets.
const PAGE: u32 = 128;

/// Exports every link of every owner and domain, tombstones, versions and used clicks included,
/// in creation order.
#[utoipa::path(
    get,
    path = "/api/v1/links:export",
    tag = "links",
    operation_id = "exportLinks",
    responses((status = 200, description = "An `ExportRow` a line. A connection that ends without \
        the last chunk means that the export broke off.",
        body = String, content_type = "application/x-ndjson")),
)]
pub(crate) async fn export(
    State(app): State<AppState>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, _) = request.into_parts();
    caller::with_scope(&app, &parts, Scope::Admin, app.deadline()).await?;
    body::none(&parts.headers)?;
    Params::parse(&parts.uri, &[])?;
    // The first page comes before the answer's first byte, so that a store that is not there gets
    // a proper status.
    let (first, next) = page(&app, None).await?;
    let rest = stream::try_unfold((app, next), |(app, cursor)| async move {
        let Some(cursor) = cursor else { return Ok(None) };
        match page(&app, Some(cursor)).await {
            Ok((lines, next)) => Ok(Some((lines, (app, next)))),
            // Cutting the connection is the one way left to say that this is not all.
            Err(problem) => Err(std::io::Error::other(problem.detail().to_owned())),
        }
    });
    let first = stream::once(std::future::ready(Ok::<_, std::io::Error>(first)));
    let mut response = Response::new(Body::from_stream(stream::StreamExt::chain(first, rest)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(NDJSON));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

async fn page(app: &App, cursor: Option<String>) -> Result<(Bytes, Option<String>), Problem> {
    let (rows, next) = app.links.export(cursor, PAGE, app.deadline()).await?;
    let mut lines = Vec::with_capacity(512 * rows.len());
    for row in &rows {
        // Writing our own types to memory does not fail.
        let _ = serde_json::to_writer(&mut lines, &ExportRow::of(&app.links, row));
        lines.push(b'\n');
    }
    Ok((lines.into(), next))
}
