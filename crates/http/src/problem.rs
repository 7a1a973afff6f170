//! What goes wrong, as `application/problem+json` (RFC 9457).
//!
//! Invariants:
//! - `code` (and `type`, which is the same as a URN) is stable and part of the API; `detail` is for
//!   people and says what to do;
//! - what a store or driver said inside never reaches a client.

use std::borrow::Cow;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderName, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use shunt_domain::StoreError;
use shunt_engine::auth::AuthError;
use shunt_engine::links::{FieldError, LinkError};
use utoipa::ToSchema;

/// The media type of a problem.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// How long a client is asked to wait after an outcome that is not known, in seconds: by then the
/// lease of its idempotency key is over.
const RETRY_UNKNOWN: &str = "3";

/// An answer that says what went wrong.
#[derive(Clone, Debug)]
pub struct Problem {
    status: StatusCode,
    code: Cow<'static, str>,
    detail: Cow<'static, str>,
    field: Option<Cow<'static, str>>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// A problem on the wire.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Problem)]
pub struct ProblemBody {
    /// The kind of problem, stable: `urn:shunt:problem:` and the code.
    #[serde(rename = "type")]
    #[schema(pattern = "^urn:shunt:problem:[a-z0-9-]+$", example = "urn:shunt:problem:taken")]
    pub kind: String,
    /// The kind of problem in words.
    #[schema(example = "Taken")]
    pub title: String,
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599, example = 409)]
    pub status: u16,
    /// What is wrong here and what to do about it.
    #[schema(example = "the code is taken; choose another one")]
    pub detail: String,
    /// The kind of problem as one word, stable; for a refused target the reason's code.
    #[schema(pattern = "^[a-z0-9-]+$", example = "taken")]
    pub code: String,
    /// The field, query parameter or header that is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "code")]
    pub field: Option<String>,
}

impl Problem {
    /// A problem of this kind.
    pub fn new(
        status: StatusCode,
        code: impl Into<Cow<'static, str>>,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { status, code: code.into(), detail: detail.into(), field: None, headers: Vec::new() }
    }

    /// A value that breaks a rule: 400.
    pub fn bad_field(
        field: impl Into<Cow<'static, str>>,
        code: impl Into<Cow<'static, str>>,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail).on(field)
    }

    /// The same problem, about this field, parameter or header.
    #[must_use]
    pub fn on(mut self, field: impl Into<Cow<'static, str>>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// The same problem with a header.
    #[must_use]
    pub fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    fn retry_after(self, seconds: &'static str) -> Self {
        self.with(RETRY_AFTER, HeaderValue::from_static(seconds))
    }

    /// No such thing, or not for this caller: the same answer for both, byte for byte.
    pub fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "there is no such link")
    }

    /// No API key, or not a good one.
    pub fn unauthorized(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        let challenge = if code == "bad-key" {
            "Bearer realm=\"shunt\", error=\"invalid_token\""
        } else {
            "Bearer realm=\"shunt\""
        };
        Self::new(StatusCode::UNAUTHORIZED, code, detail)
            .on("Authorization")
            .with(WWW_AUTHENTICATE, HeaderValue::from_static(challenge))
    }

    /// The status.
    pub const fn status(&self) -> StatusCode {
        self.status
    }

    /// The stable code.
    pub fn code(&self) -> &str {
        &self.code
    }

    /// The text for people.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The field it is about.
    pub fn field(&self) -> Option<&str> {
        self.field.as_deref()
    }

    /// As it goes over the wire.
    pub fn body(&self) -> ProblemBody {
        let mut title = self.code.replace('-', " ");
        if let Some(first) = title.get_mut(..1) {
            first.make_ascii_uppercase();
        }
        ProblemBody {
            kind: format!("urn:shunt:problem:{}", self.code),
            title,
            status: self.status.as_u16(),
            detail: self.detail.clone().into_owned(),
            code: self.code.clone().into_owned(),
            field: self.field.clone().map(Cow::into_owned),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        // Strings and numbers always serialise.
        let body = serde_json::to_vec(&self.body()).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.extend(self.headers);
        response
    }
}

impl From<FieldError> for Problem {
    fn from(error: FieldError) -> Self {
        Self::bad_field(error.field, error.code, error.detail)
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let unavailable = |code: &'static str, detail: &'static str| {
            Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail)
        };
        match error {
            StoreError::Unavailable(inner) => {
                tracing::warn!(error = inner, "the store is unavailable");
                unavailable("unavailable", "the store gave no answer; nothing was done, try again")
                    .retry_after("1")
            }
            StoreError::Moved => {
                unavailable("unavailable", "the link is being moved; nothing was done, try again")
                    .retry_after("1")
            }
            StoreError::DiskFull => Self::new(
                StatusCode::INSUFFICIENT_STORAGE,
                "disk-full",
                "the disk that holds the store is full; nothing was done",
            ),
            StoreError::ReadOnly(inner) => {
                tracing::error!(error = inner, "the store can only be read");
                unavailable("read-only", "the store can only be read; nothing was done")
                    .retry_after("30")
            }
            StoreError::Corrupt(inner) => {
                tracing::error!(error = inner, "the store is damaged: run `shunt doctor`");
                unavailable("store-damaged", "the store is damaged; tell the operator")
                    .retry_after("30")
            }
            StoreError::Unsupported(what) => Self::new(
                StatusCode::NOT_IMPLEMENTED,
                "unsupported",
                format!("this store does not support {what}"),
            ),
        }
    }
}

impl From<LinkError> for Problem {
    fn from(error: LinkError) -> Self {
        let detail = error.to_string();
        let conflict =
            |code: &'static str, detail: String| Self::new(StatusCode::CONFLICT, code, detail);
        match error {
            LinkError::Invalid(error) => error.into(),
            LinkError::Taken => conflict("taken", detail).on("code"),
            LinkError::Retired => conflict("code-retired", detail).on("code"),
            LinkError::NotFound => Self::not_found(),
            LinkError::Stale(version) => {
                let problem = Self::new(StatusCode::PRECONDITION_FAILED, "stale", detail);
                let etag = HeaderValue::from_str(&format!("\"{}\"", version.0));
                let problem = problem.on("If-Match");
                match etag {
                    Ok(etag) => problem.with(ETAG, etag),
                    Err(_) => problem,
                }
            }
            LinkError::Immutable => conflict("immutable", detail),
            LinkError::CodesExhausted => {
                Self::new(StatusCode::INSUFFICIENT_STORAGE, "code-space-exhausted", detail)
            }
            LinkError::PoolEmpty => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "pool-empty", detail).retry_after("5")
            }
            LinkError::BadCursor => Self::bad_field("cursor", "bad-cursor", detail),
            LinkError::KeyReused => {
                let status = StatusCode::UNPROCESSABLE_ENTITY;
                Self::new(status, "idempotency-key-reused", detail).on("Idempotency-Key")
            }
            LinkError::StillRunning => {
                conflict("still-running", detail).on("Idempotency-Key").retry_after("1")
            }
            LinkError::NoRandomness => {
                let status = StatusCode::SERVICE_UNAVAILABLE;
                Self::new(status, "no-randomness", detail).retry_after("1")
            }
            LinkError::Store(error) => error.into(),
            LinkError::Unknown(cause) => unknown(&cause.to_string()),
        }
    }
}

fn unknown(cause: &str) -> Problem {
    let detail = format!(
        "it is not known whether this was done: {cause}; it is safe to repeat it with the same \
         Idempotency-Key"
    );
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "outcome-unknown", detail)
        .retry_after(RETRY_UNKNOWN)
}

impl From<AuthError> for Problem {
    fn from(error: AuthError) -> Self {
        let detail = error.to_string();
        match error {
            AuthError::BadKey => Self::unauthorized("bad-key", detail),
            AuthError::BadSetupSecret => {
                Self::new(StatusCode::FORBIDDEN, "bad-setup-secret", detail)
            }
            AuthError::BadName => Self::bad_field("name", "bad-name", detail),
            AuthError::AlreadyExpired => Self::bad_field("expires_at", "already-expired", detail),
            AuthError::NoScopes => Self::bad_field("scopes", "no-scopes", detail),
            AuthError::NoRandomness => LinkError::NoRandomness.into(),
            AuthError::Store(error) => error.into(),
            AuthError::Unknown(cause) => unknown(&cause.to_string()),
        }
    }
}
