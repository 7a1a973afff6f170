//! `/docs`: the API browser, a vendored viewer over our own `/openapi.json`.

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;

use super::headers::{DOCS_CSP, page};
use super::{Page, render};
use crate::app::AppState;

#[derive(Template)]
#[template(path = "docs.html")]
struct DocsTemplate<'a> {
    page: Page<'a>,
}

/// `GET /docs`.
pub(crate) async fn docs(State(state): State<AppState>) -> Response {
    let template = DocsTemplate { page: Page::new(&state.settings) };
    page(StatusCode::OK, DOCS_CSP, render(&template))
}
