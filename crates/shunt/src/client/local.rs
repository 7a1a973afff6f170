//! What only the holder of the data directory may ask: routes under `/local/`, served on the
//! 0600 socket and in process; to anybody else they do not exist. No part of the public API.
//!
//! Long work answers `application/x-ndjson`: lines `{"progress": {"done", "total"}}` while it runs,
//! with lines `{"note": text}` between them, then one line `{"report": …}` or `{"error": …}`. A caller who goes away stops hearing, not the
//! work.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::IntoResponse as _;
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use shunt_domain::Deadline;
use shunt_domain::ports::LedgerRow;
use shunt_engine::codes::Allocator;
use shunt_http::app::AppState;
use shunt_http::client::{Client, Transport};
use tokio::sync::mpsc;

use crate::stores::Backend;
use crate::stores::import::{Hears, LegacyImport, Wanted};

/// Lines under way to a caller that reads slowly; progress beyond them is dropped.
const LINES: usize = 16;

/// How long one read of the ledger, or one row of the pool, may take.
const STEP: Duration = Duration::from_secs(30);

/// The most links one request warms.
const MAX_WARM: usize = 10_000;

/// The parts of the service that these routes work on.
#[derive(Clone)]
pub(crate) struct LocalParts {
    /// The use cases.
    pub(crate) app: AppState,
    /// What the store does in its own way.
    pub(crate) backend: Arc<dyn Backend>,
    /// The allocator of codes.
    pub(crate) allocator: Arc<Allocator>,
    /// What takes another service's links over, if there is one.
    pub(crate) import: Option<LegacyImport>,
}

/// The router. Whoever does not come through the socket or from this process gets a 404, wherever
/// it is mounted.
pub(crate) fn router(parts: LocalParts) -> Router {
    Router::new()
        .route("/local/info", get(info))
        .route("/local/backup", post(backup))
        .route("/local/diagnose", post(diagnose))
        .route("/local/pool", post(fill_pool))
        .route("/local/warm", post(warm))
        .route("/local/legacy", post(legacy))
        .route_layer(middleware::from_fn(only_local))
        .with_state(parts)
}

async fn only_local(request: Request, next: Next) -> axum::response::Response {
    let client = request.extensions().get::<Client>();
    if client.is_some_and(|client| client.transport == Transport::Local) {
        next.run(request).await
    } else {
        StatusCode::NOT_FOUND.into_response()
    }
}

async fn info(State(parts): State<LocalParts>) -> Json<Value> {
    Json(json!({
        "pid": std::process::id(),
        "version": env!("CARGO_PKG_VERSION"),
        "base_url": parts.app.settings.base_url,
        "store": parts.backend.place(),
        "code_length": parts.allocator.length(),
    }))
}

/// The sending end of an answer in lines.
#[derive(Clone)]
struct Lines(mpsc::Sender<Value>);

impl Lines {
    /// Tells how far the work is, if the caller keeps up.
    fn progress(&self, done: u64, total: Option<u64>) {
        let _dropped_if_full =
            self.0.try_send(json!({ "progress": { "done": done, "total": total } }));
    }

    /// The last line.
    async fn finish(self, outcome: Result<Value, String>) {
        let line = match outcome {
            Ok(report) => json!({ "report": report }),
            Err(error) => json!({ "error": error }),
        };
        let _nobody_listens = self.0.send(line).await;
    }
}

fn lines() -> (Lines, Response<Body>) {
    let (sender, receiver) = mpsc::channel(LINES);
    let stream =
        futures_util::stream::unfold(receiver, |mut receiver: mpsc::Receiver<Value>| async {
            let line = receiver.recv().await?;
            let bytes = Bytes::from(format!("{line}\n"));
            Some((Ok::<_, std::convert::Infallible>(bytes), receiver))
        });
    let mut response = Response::new(Body::from_stream(stream));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    (Lines(sender), response)
}

/// Runs blocking work on a thread of its own and sends what it says.
fn blocking(work: impl FnOnce(&Lines) -> Result<Value, String> + Send + 'static) -> Response<Body> {
    let (lines, response) = lines();
    let teller = lines.clone();
    tokio::spawn(async move {
        let outcome = tokio::task::spawn_blocking(move || work(&teller)).await;
        let outcome = outcome.unwrap_or_else(|panic| Err(format!("a bug in shunt: {panic}")));
        lines.finish(outcome).await;
    });
    response
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BackupRequest {
    /// An absolute path: the server's working directory is not the caller's.
    to: PathBuf,
}

async fn backup(
    State(parts): State<LocalParts>,
    Json(request): Json<BackupRequest>,
) -> Result<Response<Body>, (StatusCode, String)> {
    if !request.to.is_absolute() {
        return Err((StatusCode::BAD_REQUEST, "`to` is no absolute path".to_owned()));
    }
    Ok(blocking(move |lines| {
        let mut tell = |done, total| lines.progress(done, total);
        let (bytes, links) = parts.backend.backup(&request.to, &mut tell)?;
        Ok(json!({ "bytes": bytes, "links": links }))
    }))
}

async fn diagnose(State(parts): State<LocalParts>) -> Response<Body> {
    let deadline = Deadline::after(Instant::now(), STEP);
    let ledger = parts.app.rollups.ledger(deadline).await;
    blocking(move |lines| {
        let found = parts.backend.diagnose(&mut |done, total| lines.progress(done, total))?;
        let ledger = match ledger {
            Ok(rows) => rows.iter().map(ledger_row).collect::<Vec<_>>().into(),
            Err(error) => json!({ "error": error.to_string() }),
        };
        Ok(json!({
            "problems": found.problems,
            "rows": found.rows,
            "links": found.links,
            "ledger": ledger,
        }))
    })
}

fn ledger_row(row: &LedgerRow) -> Value {
    json!({
        "node": format!("{:016x}", row.node.0),
        "boot": row.boot.0,
        "served": row.served,
        "counted": row.counted,
        "lost": row.lost,
        "closed": row.closed,
        "at": row.at.as_millis(),
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PoolRequest {
    /// How many codes to add; 0 only tells how many there are.
    codes: u64,
}

async fn fill_pool(
    State(parts): State<LocalParts>,
    Json(request): Json<PoolRequest>,
) -> Response<Body> {
    let (lines, response) = lines();
    tokio::spawn(async move {
        let teller = lines.clone();
        let filled = async {
            let progress = |done| teller.progress(done, Some(request.codes));
            let added = parts.allocator.fill_pool(request.codes, STEP, progress).await?;
            let size = parts.allocator.pool_size(Deadline::after(Instant::now(), STEP)).await?;
            Ok(json!({ "added": added, "size": size }))
        };
        let outcome = filled.await;
        let told = outcome.map_err(|error: shunt_engine::codes::AllocateError| error.to_string());
        lines.finish(told).await;
    });
    response
}

impl Hears for Lines {
    fn progress(&self, done: u64, total: Option<u64>) {
        Self::progress(self, done, total);
    }

    async fn refused(&self, code: String, why: String) {
        let _nobody_listens = self.0.send(json!({ "note": format!("{code}: {why}") })).await;
    }
}

async fn legacy(State(parts): State<LocalParts>, Json(wanted): Json<Wanted>) -> Response<Body> {
    let (lines, response) = lines();
    tokio::spawn(async move {
        let outcome = match &parts.import {
            Some(import) => import.run(wanted, &lines).await.map(|state| json!(state)),
            None => Err("there is no other service: set legacy.url".to_owned()),
        };
        lines.finish(outcome).await;
    });
    response
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WarmLink {
    code: String,
    #[serde(default)]
    domain: Option<String>,
}

async fn warm(
    State(parts): State<LocalParts>,
    Json(links): Json<Vec<WarmLink>>,
) -> Result<Json<Value>, (StatusCode, String)> {
    if links.len() > MAX_WARM {
        let text = format!("at most {MAX_WARM} links are warmed by one request");
        return Err((StatusCode::BAD_REQUEST, text));
    }
    let (mut warmed, mut failed) = (0_u64, 0_u64);
    for link in links {
        let loaded = match parts.app.links.key(&link.code, link.domain.as_deref()) {
            Ok(key) => parts.app.resolver.resolve(&key).await.is_ok(),
            Err(_) => false,
        };
        if loaded {
            warmed += 1;
        } else {
            failed += 1;
        }
    }
    Ok(Json(json!({ "warmed": warmed, "failed": failed })))
}
