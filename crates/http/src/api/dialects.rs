//! The reference contracts: two small APIs that other programs already speak.
//!
//! `GET /api/urls/{code}` redirects and is answered by the listener, as every redirect.

use axum::extract::{Request, State};
use axum::response::Response;
use http::StatusCode;
use http::header::LOCATION;
use serde::Serialize;
use shunt_domain::Link;
use shunt_engine::links::{Draft, FieldError, LinkError};
use utoipa::ToSchema;

use super::answer::Rendered;
use super::json::Fields;
use super::links;
use super::time::Instant;
use crate::app::{App, AppState};
use crate::problem::Problem;

/// A URL to be shortened.
#[derive(Debug, ToSchema)]
#[schema(as = UrlCreate)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "documentation of what `create_url` reads")]
pub(crate) struct UrlBody {
    /// Where it leads; the rules of `createLink` hold.
    #[schema(
        rename = "longUrl",
        min_length = 3,
        max_length = 8192,
        pattern = r"^[A-Za-z][A-Za-z0-9+.\-]*:[^\s\\]+$",
        example = "https://example.com/page"
    )]
    long_url: String,
    /// Taken and not kept: whose link it is follows from the API key.
    #[schema(rename = "userId", max_length = 256)]
    user_id: Option<String>,
}

/// A shortened URL.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct UrlView {
    /// The code.
    id: String,
    /// The address that people follow.
    short_url: String,
    /// Where it leads.
    long_url: String,
    /// When it was created.
    #[schema(value_type = String, format = DateTime)]
    created_at: Instant,
}

/// A URL to be shortened.
#[derive(Debug, ToSchema)]
#[schema(as = ShortCreate)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "documentation of what `create_short` reads")]
pub(crate) struct ShortBody {
    /// Where it leads; the rules of `createLink` hold.
    #[schema(
        min_length = 3,
        max_length = 8192,
        pattern = r"^[A-Za-z][A-Za-z0-9+.\-]*:[^\s\\]+$",
        example = "https://example.com/page"
    )]
    longurl: String,
}

/// A shortened URL.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ShortView {
    /// The code.
    redirect_id: String,
}

/// Shortens a URL (reference contract).
#[utoipa::path(
    post,
    path = "/api/urls",
    tag = "reference contracts",
    operation_id = "createUrl",
    params(("Idempotency-Key" = Option<String>, Header, description = "See `createLink`.",
        min_length = 1, max_length = 255, pattern = "^[!-~]+$")),
    request_body(content = UrlBody, content_type = "application/json"),
    responses((status = 201, description = "Created, durably.", body = UrlView, headers(
        ("Location" = String, description = "The short URL."),
        ("Idempotency-Replayed" = Option<String>, description = "`true` if an earlier request with \
            this key made the link."),
    ))),
)]
pub(crate) async fn create_url(
    State(app): State<AppState>,
    request: Request,
) -> Result<Response, Problem> {
    let read = |fields: &mut Fields| {
        let target = fields.required_text("longUrl")?;
        if fields.text("userId")?.flatten().is_some_and(|id| id.chars().count() > 256) {
            return Err(FieldError::new("userId", "too-long", "userId has at most 256 characters"));
        }
        Ok(target)
    };
    let render = |app: &App, link: &Link| {
        let short_url = app.links.short_url(link.key());
        let view = UrlView {
            id: link.code().to_string(),
            short_url: short_url.clone(),
            long_url: link.data.target.to_string(),
            created_at: Instant(link.data.created_at),
        };
        Rendered::json(StatusCode::CREATED, &view).with(LOCATION, &short_url)
    };
    create(&app, request, "longUrl", read, render).await
}

/// Shortens a URL (reference contract).
#[utoipa::path(
    post,
    path = "/api/short",
    tag = "reference contracts",
    operation_id = "createShort",
    params(("Idempotency-Key" = Option<String>, Header, description = "See `createLink`.",
        min_length = 1, max_length = 255, pattern = "^[!-~]+$")),
    request_body(content = ShortBody, content_type = "application/json"),
    responses((status = 200, description = "Created, durably.", body = ShortView, headers(
        ("Idempotency-Replayed" = Option<String>, description = "`true` if an earlier request with \
            this key made the link."),
    ))),
)]
pub(crate) async fn create_short(
    State(app): State<AppState>,
    request: Request,
) -> Result<Response, Problem> {
    let read = |fields: &mut Fields| fields.required_text("longurl");
    let render = |_: &App, link: &Link| {
        let view = ShortView { redirect_id: link.code().to_string() };
        Rendered::json(StatusCode::OK, &view)
    };
    create(&app, request, "longurl", read, render).await
}

async fn create(
    app: &AppState,
    request: Request,
    target_field: &'static str,
    read: impl FnOnce(&mut Fields) -> Result<String, FieldError> + Send,
    render: impl Fn(&App, &Link) -> Rendered + Copy + Send + Sync + 'static,
) -> Result<Response, Problem> {
    let read = |bytes: &[u8]| {
        let mut fields = Fields::parse(bytes)?;
        let draft = Draft::new(read(&mut fields)?);
        fields.finish()?;
        Ok(draft)
    };
    let refuse = |error: LinkError| match error {
        // The engine knows the field by the name it has in our own API.
        LinkError::Invalid(error) if error.field == "target" => {
            Problem::from(error).on(target_field)
        }
        error => error.into(),
    };
    links::make(app, request, read, refuse, render).await
}
