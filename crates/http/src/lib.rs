//! HTTP of shunt: the redirect listener with its hot path, the API, the pages, and the operations
//! listener. Sees the engine and the ports, never an adapter.

pub mod api;
pub mod app;
pub mod client;
mod limited;
pub mod listener;
pub mod metrics;
pub mod ops;
pub mod problem;
pub mod web;

/// The API and the pages as one router, for callers that need no redirects.
pub fn router(state: app::AppState) -> axum::Router {
    api::router(state.clone()).merge(web::router(state))
}
