//! The operations listener: liveness, readiness and metrics, never on a public address by default.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;

use crate::metrics::Metrics;

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Degraded {
    /// Which part, in one word.
    pub part: &'static str,
    /// What is wrong and what it means, in one line.
    pub what: String,
    /// Whether no traffic should come here because of it.
    pub unready: bool,
}

/// Asks the parts how they are. Called on each `/readyz`; must not block.
pub type Probe = Arc<dyn Fn() -> Vec<Degraded> + Send + Sync>;

/// State of the operations listener.
#[derive(Clone)]
pub struct Ops {
    /// What `/metrics` shows.
    pub metrics: Arc<Metrics>,
    /// What `/readyz` asks.
    pub probe: Probe,
    /// Whether the process is on its way out.
    pub draining: Arc<AtomicBool>,
}

/// Serves until `stop` resolves.
pub async fn serve(listener: TcpListener, ops: Ops, stop: impl Future<Output = ()>) {
    let router = router(ops);
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.as_mut() => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                pause_after(&error).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(10))
                .max_buf_size(16 * 1024)
                .serve_connection(TokioIo::new(stream), service);
            // A scraper that left is nobody's problem.
            let _ = connection.await;
        });
    }
}

async fn pause_after(error: &io::Error) {
    tracing::warn!(%error, "the operations listener could not accept");
    tokio::time::sleep(Duration::from_millis(100)).await;
}

fn router(ops: Ops) -> Router {
    Router::new()
        .route("/healthz", get(|| async { plain(StatusCode::OK, "ok\n".into()) }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(ops)
}

async fn ready(State(ops): State<Ops>) -> Response {
    let mut degraded = (ops.probe)();
    if ops.draining.load(Ordering::Relaxed) {
        let what = "shutting down: finishing what is here, taking nothing new".to_owned();
        degraded.push(Degraded { part: "process", what, unready: true });
    }
    let unready = degraded.iter().any(|part| part.unready);
    let state = match (unready, degraded.is_empty()) {
        (true, _) => "unready",
        (false, false) => "degraded",
        (false, true) => "ready",
    };
    let status = if unready { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let body = serde_json::json!({ "status": state, "degraded": degraded }).to_string();
    let mut response = plain(status, body + "\n");
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

async fn metrics(State(ops): State<Ops>) -> Response {
    let mut response = plain(StatusCode::OK, ops.metrics.render());
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn plain(status: StatusCode, body: String) -> Response {
    let mut response = (status, body).into_response();
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
