//! The pages: the front page with its form, setup, previews, QR codes, error pages, the API
//! browser, and the files they load.
//!
//! Invariants:
//! - every page works without JavaScript, loads nothing from outside and carries the headers of
//!   `headers`; whatever somebody typed is escaped by the templates;
//! - a request that changes something and was sent by another site is refused (`origin`);
//! - no key is ever put into an address, a cookie or a page, but for the one answer of `setup`.
//!
//! The listener that serves redirects sends `/{code}+` to `preview`, `/{code}.qr` to `qr`,
//! links with a misleading host to `warning`, and everything that fails to `error_page`.

mod assets;
mod docs;
pub mod errors;
mod headers;
mod home;
pub(crate) mod origin;
pub mod preview;
pub mod qr;
mod recent;
mod setup;
mod time;

#[cfg(test)]
pub(crate) mod tests;

use askama::Template;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::extract::rejection::FormRejection;
use axum::routing::get;
use http::header::ALLOW;
use http::{HeaderMap, StatusCode};

pub use errors::{Wants, error_page, prepare};
pub use preview::{preview, warning};
pub use qr::qr;

use crate::app::{AppState, Settings};

/// The largest body of a form, in bytes: a target of 8 KiB in which every byte is escaped, and the
/// other fields.
const MAX_FORM: usize = 32 * 1024;

/// The pages and their files. Expects a [`crate::client::Client`] in each request's extensions;
/// without one the caller counts as somebody from elsewhere.
pub fn router(state: AppState) -> Router {
    Router::new()
        .route("/", get(home::home))
        .route("/shorten", get(home::to_home).post(home::shorten))
        .route("/shorten/forget", get(home::to_home).post(home::forget))
        .route("/setup", get(setup::form).post(setup::redeem))
        .route("/docs", get(docs::docs))
        .route("/assets/{file}", get(assets::serve))
        .route("/favicon.ico", get(assets::favicon))
        .route("/robots.txt", get(assets::robots))
        .method_not_allowed_fallback(async |headers: HeaderMap| {
            let mut response =
                error_page(StatusCode::METHOD_NOT_ALLOWED, Wants::from_headers(&headers));
            // The router knows which methods there are and adds them.
            response.headers_mut().remove(ALLOW);
            response
        })
        .layer(DefaultBodyLimit::max(MAX_FORM))
        .with_state(state)
}

/// What every page's frame needs.
struct Page<'a> {
    /// The path under which the service lives: empty, or `/s`.
    base: &'a str,
    /// What stands before a code when people say a link: `127.0.0.1:8080/`.
    prefix: String,
    /// The files that pages load.
    assets: assets::Names,
}

impl<'a> Page<'a> {
    fn new(settings: &'a Settings) -> Self {
        Self {
            base: settings.base_path(),
            prefix: format!("{}/", without_scheme(&settings.base_url)),
            assets: assets::names(),
        }
    }
}

/// A URL as people say it.
fn without_scheme(url: &str) -> &str {
    url.split_once("://").map_or(url, |(_, rest)| rest)
}

/// A template as text. Rendering writes to memory and can only fail on a template's own error, of
/// which ours have none; the page would be empty then, never half.
fn render(template: &impl Template) -> String {
    template.render().unwrap_or_default()
}

/// The status for a body that is no form of ours.
fn form_status(rejection: &FormRejection) -> StatusCode {
    match rejection {
        FormRejection::InvalidFormContentType(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        FormRejection::BytesRejection(rejection) => rejection.status(),
        _ => StatusCode::BAD_REQUEST,
    }
}
