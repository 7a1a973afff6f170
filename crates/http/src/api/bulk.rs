//! `POST /api/v1/links:batch` and `POST /api/v1/links:import`: many rows in, results out, both
//! streamed.
//!
//! Invariants:
//! - at most two chunks are held, the one that is being made durable and the one that is being
//!   read meanwhile: [`CHUNK`] rows or [`CHUNK_BYTES`] each, whichever comes first;
//! - what an answer line says is durable before the line is sent;
//! - where chunks begin depends on the rows alone, so a repeated request has the same chunks;
//! - nothing was taken in before an answer that is no 200.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use http_body_util::BodyExt;
use serde::Serialize;
use shunt_domain::limit::{LimitKind, LimitSubject};
use shunt_domain::{LinkKey, Scope, UnknownCause};
use shunt_engine::auth::Actor;
use shunt_engine::idempotency::{Once, digest};
use shunt_engine::links::{CHUNK, Chunk, FieldError, ImportRow, LinkError, RowOutcome};
use tokio::task::JoinHandle;
use utoipa::ToSchema;

use super::body::{self, JSON, NDJSON};
use super::query::Params;
use super::rows::{Broken, Layout, Rows};
use super::{answer, caller, dto};
use crate::app::AppState;
use crate::limited;
use crate::problem::Problem;

/// The most bytes of rows of one chunk.
const CHUNK_BYTES: usize = 1024 * 1024;
/// How long the next piece of a streamed body may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// The result of one row.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RowResult {
    /// Which row, from 1.
    #[schema(minimum = 1)]
    row: u64,
    /// The status that this row alone would have got: 201 when its link was made.
    #[schema(minimum = 200, maximum = 599)]
    status: u16,
    /// The link's code.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    code: Option<String>,
    /// The address that people follow.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    short_url: Option<String>,
    /// The link's version.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    version: Option<u64>,
    /// Whether an earlier request with this idempotency key got this result.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    replayed: bool,
    /// Why it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    error: Option<RowProblem>,
}

/// Why a row was refused.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RowProblem {
    /// The kind of problem as one word, stable; for a refused target the reason's code.
    #[schema(pattern = "^[a-z0-9-]+$")]
    code: String,
    /// The field that is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    field: Option<String>,
    /// What is wrong and what to do.
    detail: String,
}

/// How far an import has come: every row up to here is settled, durably.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Progress {
    /// Rows settled so far.
    done: u64,
}

/// The last line.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SummaryLine {
    summary: Summary,
}

/// What became of the rows.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Summary {
    /// Rows read.
    rows: u64,
    /// Links made.
    created: u64,
    /// Rows of an export put back.
    restored: u64,
    /// Rows that were there already, the very same.
    exists: u64,
    /// Rows refused.
    refused: u64,
    /// Whether the body was read to its end.
    complete: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    error: Option<RowProblem>,
}

/// Creates many links. One result a row, as NDJSON, while rows still come in: read while you send.
#[utoipa::path(
    post,
    path = "/api/v1/links:batch",
    tag = "links",
    operation_id = "createLinks",
    params(("Idempotency-Key" = Option<String>, Header, description = "See `createLink`; counts \
        for each 1,000 rows by themselves, so that a repeated request goes on where the first one \
        ended.", min_length = 1, max_length = 255, pattern = "^[!-~]+$")),
    request_body(
        description = "An array of `LinkCreate`, or one a line. Each row is judged by itself.",
        content(
            (Vec<serde_json::Value> = "application/json"),
            (String = "application/x-ndjson"),
        ),
    ),
    responses((status = 200, description = "A `RowResult` a row, in order, then a `SummaryLine`. \
        Rows are durable, up to 1,000 at once, before their results are sent.",
        body = String, content_type = "application/x-ndjson")),
)]
pub(crate) async fn batch(
    State(app): State<AppState>,
    request: Request,
) -> Result<Response, Problem> {
    start(app, request, Kind::Batch).await
}

/// Takes in links out of an export, or new ones. A row that is there already, the very same,
/// changes nothing, so that a broken import can be repeated.
#[utoipa::path(
    post,
    path = "/api/v1/links:import",
    tag = "links",
    operation_id = "importLinks",
    params(("Idempotency-Key" = Option<String>, Header, description = "See `createLinks`; needed \
        only for rows without a code.", min_length = 1, max_length = 255, pattern = "^[!-~]+$")),
    request_body(
        description = "Rows of `exportLinks` or of `createLinks`, as an array or one a line.",
        content(
            (Vec<serde_json::Value> = "application/json"),
            (String = "application/x-ndjson"),
        ),
    ),
    responses((status = 200, description = "A `RowResult` for each refused row, a `Progress` after \
        each chunk of up to 1,000 rows, then a `SummaryLine`.",
        body = String, content_type = "application/x-ndjson")),
)]
pub(crate) async fn import(
    State(app): State<AppState>,
    request: Request,
) -> Result<Response, Problem> {
    start(app, request, Kind::Import).await
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Batch,
    Import,
}

async fn start(app: AppState, request: Request, kind: Kind) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let scope = if kind == Kind::Import { Scope::Admin } else { Scope::Create };
    let actor = caller::with_scope(&app, &parts, scope, app.deadline()).await?;
    let limited = limited::creator(&app, parts.extensions.get(), &parts.headers, &actor);
    Params::parse(&parts.uri, &[])?;
    let layout = match body::media_type(&parts.headers, &[JSON, NDJSON])? {
        JSON => Layout::Array,
        _ => Layout::Lines,
    };
    let key = answer::idempotency_key(&parts.headers, &actor)?;
    // What is in the chunks is added chunk by chunk.
    let once = key.map(|key| answer::once(&actor, key, &parts, &[]));
    let mut work = Work {
        app,
        actor,
        limited,
        kind,
        once,
        body,
        rows: Rows::new(layout),
        filling: Vec::new(),
        body_ended: false,
        dry: false,
        broken: None,
        chunk: 0,
        flight: None,
        summary: Summary::default(),
        finished: false,
    };
    // The first chunk comes before the answer's first byte: a body that is no list at all gets a
    // proper status, and so does a server that can't take anything in.
    let first = work.step().await?;
    let rest = stream::unfold(work, |mut work| async move {
        if work.finished {
            return None;
        }
        let lines = match work.step().await {
            Ok(lines) => lines,
            Err(problem) => work.stop(&problem),
        };
        Some((Ok::<_, std::convert::Infallible>(lines), work))
    });
    let first = stream::once(std::future::ready(Ok(first)));
    let mut response = Response::new(Body::from_stream(stream::StreamExt::chain(first, rest)));
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(NDJSON));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// A request under way.
struct Work {
    app: AppState,
    actor: Actor,
    /// Whose allowance the rows use, if anybody's.
    limited: Option<LimitSubject>,
    kind: Kind,
    once: Option<Once>,
    body: Body,
    rows: Rows,
    /// Rows of the chunk that is being read.
    filling: Vec<Bytes>,
    body_ended: bool,
    /// Whether no further row will come.
    dry: bool,
    /// Why no further row can be read, if the body did not just end.
    broken: Option<Problem>,
    chunk: u64,
    /// The chunk that is being made durable.
    flight: Option<Flight>,
    summary: Summary,
    finished: bool,
}

/// A chunk on its way into the store.
struct Flight {
    rows: usize,
    taken: JoinHandle<Result<Chunk, LinkError>>,
}

/// A chunk whose rows were read and understood.
struct Ready {
    rows: Vec<Result<ImportRow, LinkError>>,
    once: Option<Once>,
}

impl Work {
    /// Takes one chunk in, reading the next one meanwhile; answers its lines, and the summary
    /// after the last one.
    async fn step(&mut self) -> Result<Bytes, Problem> {
        if self.flight.is_none() && !self.dry {
            self.read_chunk().await;
            let ready = self.ready();
            self.launch(ready).await;
        }
        let mut lines = Vec::new();
        if let Some(mut flight) = self.flight.take() {
            let mut next = None;
            let taken = if self.dry {
                flight.taken.await
            } else {
                // One after the other into the store, so that the rows are judged in their order.
                tokio::select! {
                    taken = &mut flight.taken => taken,
                    () = self.read_chunk() => {
                        next = self.ready();
                        flight.taken.await
                    }
                }
            };
            let taken = taken.unwrap_or(Err(LinkError::Unknown(UnknownCause::Lost)));
            self.report(flight.rows, taken, next.is_none(), &mut lines)?;
            self.launch(next).await;
        }
        if self.flight.is_none() && self.dry {
            match self.broken.take() {
                Some(problem) if self.summary.rows == 0 => return Err(problem),
                Some(problem) => lines.extend_from_slice(&self.stop(&problem)),
                None => {
                    self.finished = true;
                    self.summary.complete = true;
                    self.push_summary(&mut lines);
                }
            }
        }
        Ok(lines.into())
    }

    /// Reads until a chunk is full or there is no further row. May be dropped at any moment: what
    /// was read stays.
    async fn read_chunk(&mut self) {
        let mut size: usize = self.filling.iter().map(Bytes::len).sum();
        while !self.dry && self.filling.len() < CHUNK && size < CHUNK_BYTES {
            match self.rows.next(self.body_ended) {
                Ok(Some(row)) => {
                    size += row.len();
                    self.filling.push(row);
                    continue;
                }
                Ok(None) if self.body_ended => {
                    self.dry = true;
                    continue;
                }
                Ok(None) => {}
                Err(broken) => {
                    self.give_up(broken_rows(broken));
                    continue;
                }
            }
            match tokio::time::timeout(PATIENCE, self.body.frame()).await {
                Err(_) => self.give_up(body::too_slow()),
                Ok(None) => self.body_ended = true,
                Ok(Some(Err(_))) => self.give_up(body::broken()),
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        self.rows.push(&data);
                    }
                }
            }
        }
    }

    fn give_up(&mut self, problem: Problem) {
        self.dry = true;
        self.broken = Some(problem);
    }

    /// The chunk that was read, if it has any row.
    fn ready(&mut self) -> Option<Ready> {
        let rows = std::mem::take(&mut self.filling);
        if rows.is_empty() {
            return None;
        }
        let once = self.once.as_ref().map(|once| {
            let parts: Vec<&[u8]> = rows.iter().map(|row| &row[..]).collect();
            once.part(self.chunk, &digest(&parts))
        });
        self.chunk += 1;
        let import = self.kind == Kind::Import;
        let rows = rows
            .iter()
            .map(|row| {
                let parsed = if import {
                    dto::import_row(row)
                } else {
                    dto::draft(row).map(|draft| ImportRow::Create(Box::new(draft)))
                };
                parsed.map_err(|error: FieldError| error.into())
            })
            .collect();
        Some(Ready { rows, once })
    }

    /// Sends a chunk on its way. It arrives even if the client leaves, like any other write.
    ///
    /// A chunk goes through whole while anything is left of the allowance, and is paid back later:
    /// the rows are bounded, and half a chunk would be another one when it is repeated.
    async fn launch(&mut self, ready: Option<Ready>) {
        let Some(Ready { rows, once }) = ready else { return };
        if let Some(subject) = self.limited {
            let limits = &self.app.limits;
            if let Some(quota) = limits.spent(LimitKind::Create, subject) {
                return self.give_up(quota.into());
            }
            // At most CHUNK.
            limits.tell(LimitKind::Create, subject, rows.len() as u32).await;
        }
        let (app, actor) = (self.app.clone(), self.actor.clone());
        let (count, import) = (rows.len(), self.kind == Kind::Import);
        let taken = tokio::spawn(async move {
            let deadline = app.deadline();
            app.links.take_chunk(&actor, rows, import, once.as_ref(), deadline).await
        });
        self.flight = Some(Flight { rows: count, taken });
    }

    /// The lines about a chunk.
    fn report(
        &mut self,
        count: usize,
        taken: Result<Chunk, LinkError>,
        last: bool,
        lines: &mut Vec<u8>,
    ) -> Result<(), Problem> {
        let (outcomes, replayed) = match taken {
            Ok(chunk) => (chunk.rows, chunk.replayed),
            // Nothing was said to the client yet: the whole request gets the status.
            Err(error) if self.summary.rows == 0 && last && self.dry => return Err(error.into()),
            Err(error) => (vec![RowOutcome::Refused(error); count], false),
        };
        for outcome in outcomes {
            self.summary.rows += 1;
            self.push_row(&outcome, replayed, lines);
        }
        if self.kind == Kind::Import {
            push_line(lines, &Progress { done: self.summary.rows });
        }
        Ok(())
    }

    fn push_row(&mut self, outcome: &RowOutcome, replayed: bool, lines: &mut Vec<u8>) {
        let row = self.summary.rows;
        let made = |status: u16, key: &LinkKey, version: Option<u64>| RowResult {
            row,
            status,
            code: Some(key.code.to_string()),
            short_url: Some(self.app.links.short_url(key)),
            version,
            replayed,
            error: None,
        };
        let (count, result) = match outcome {
            RowOutcome::Created { key, version } => {
                (&mut self.summary.created, made(201, key, Some(version.0)))
            }
            RowOutcome::Restored { key } => (&mut self.summary.restored, made(201, key, None)),
            RowOutcome::Exists { key } => (&mut self.summary.exists, made(200, key, None)),
            RowOutcome::Refused(error) => {
                let problem = Problem::from(error.clone());
                let result = RowResult {
                    row,
                    status: problem.status().as_u16(),
                    code: None,
                    short_url: None,
                    version: None,
                    replayed,
                    error: Some(RowProblem::of(&problem)),
                };
                (&mut self.summary.refused, result)
            }
        };
        *count += 1;
        // An import only speaks of rows that need somebody's attention.
        if self.kind == Kind::Batch || result.error.is_some() {
            push_line(lines, &result);
        }
    }

    /// The end before the end.
    fn stop(&mut self, problem: &Problem) -> Bytes {
        self.finished = true;
        self.summary.error = Some(RowProblem::of(problem));
        let mut lines = Vec::new();
        self.push_summary(&mut lines);
        lines.into()
    }

    fn push_summary(&self, lines: &mut Vec<u8>) {
        push_line(lines, &SummaryLine { summary: self.summary.clone() });
    }
}

impl RowProblem {
    fn of(problem: &Problem) -> Self {
        Self {
            code: problem.code().to_owned(),
            field: problem.field().map(ToOwned::to_owned),
            detail: problem.detail().to_owned(),
        }
    }
}

fn push_line(lines: &mut Vec<u8>, line: &impl Serialize) {
    // Writing our own types to memory does not fail.
    let _ = serde_json::to_writer(&mut *lines, line);
    lines.push(b'\n');
}

fn broken_rows(broken: Broken) -> Problem {
    let detail = broken.to_string();
    if broken == Broken::TooLong {
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "row-too-large", detail).on("body")
    } else {
        Problem::bad_field("body", "bad-json", detail)
    }
}
