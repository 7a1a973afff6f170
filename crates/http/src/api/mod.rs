//! The API: `/api/v1`, the reference contracts, and `/openapi.json`.
//!
//! Every handler does the same in the same order: who calls, may they; parameters; media type;
//! idempotency key; body; then one call of the engine; then the answer. So a stranger learns
//! nothing from how a bad request is refused, and no body is read for somebody who may not send it.
//!
//! Invariants:
//! - every refusal is a [`Problem`] with a stable code, and names the field where there is one;
//! - unknown parameters and unknown fields are refused, never ignored;
//! - a body is bounded in size and time; only the streamed ones have no bound as a whole.

mod admin;
mod answer;
mod body;
mod bulk;
pub(crate) mod caller;
mod conditional;
mod dialects;
mod dto;
mod export;
pub(crate) mod json;
mod links;
mod openapi;
mod query;
mod rows;
mod stats;
mod time;

use axum::Router;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};

pub use openapi::openapi_json;

use crate::app::AppState;
use crate::problem::Problem;

/// The routes of the API. Expects a [`crate::client::Client`] in each request's extensions;
/// without one the caller counts as a stranger.
pub fn router(state: AppState) -> Router {
    let (routes, _) = openapi::routes().split_for_parts();
    routes
        .route("/openapi.json", get(document))
        .method_not_allowed_fallback(method_not_allowed)
        .route("/api", any(unknown))
        .route("/api/", any(unknown))
        .route("/api/{*rest}", any(unknown))
        .with_state(state)
}

async fn document() -> Response {
    let mut response = openapi_json().into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(body::JSON));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"));
    response
}

async fn unknown() -> Problem {
    let detail = "there is no such address in this API; see /openapi.json";
    Problem::new(StatusCode::NOT_FOUND, "unknown-address", detail)
}

async fn method_not_allowed() -> Response {
    let detail = "this address does not know that method; Allow lists those it knows";
    let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", detail);
    let mut response = problem.into_response();
    // The router knows the methods and adds them.
    response.headers_mut().remove(ALLOW);
    response
}
