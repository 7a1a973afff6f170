//! Answers that can be stored for an idempotency key and given again, byte for byte.

use axum::body::Body;
use axum::response::Response;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Serialize;
use shunt_domain::StoreError;
use shunt_engine::auth::Actor;
use shunt_engine::idempotency::{MAX_KEY_LEN, MIN_ANONYMOUS_KEY_LEN, Once, StoredAnswer};

use super::body::JSON;
use crate::problem::Problem;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// A successful answer: status, the headers worth repeating, body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rendered {
    status: StatusCode,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Vec<u8>,
}

impl Rendered {
    /// A JSON body.
    pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> Self {
        // Our own types of strings and numbers always serialise.
        let body = serde_json::to_vec(body).unwrap_or_default();
        Self { status, headers: Vec::new(), body }
    }

    /// No body.
    pub(crate) const fn empty(status: StatusCode) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    /// With a header that is repeated as well. What can't be a header value is left out.
    #[must_use]
    pub(crate) fn with(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.push((name, value));
        }
        self
    }

    /// As stored: `name: value` lines, an empty line, the body.
    pub(crate) fn to_stored(&self) -> StoredAnswer {
        let mut response = Vec::with_capacity(self.body.len() + 128);
        for (name, value) in &self.headers {
            response.extend_from_slice(name.as_str().as_bytes());
            response.extend_from_slice(b": ");
            response.extend_from_slice(value.as_bytes());
            response.push(b'\n');
        }
        response.push(b'\n');
        response.extend_from_slice(&self.body);
        StoredAnswer { status: self.status.as_u16(), response }
    }

    fn from_stored(stored: &StoredAnswer) -> Option<Self> {
        let status = StatusCode::from_u16(stored.status).ok()?;
        let mut rest = stored.response.as_slice();
        let mut headers = Vec::new();
        loop {
            let end = rest.iter().position(|byte| *byte == b'\n')?;
            let (line, after) = rest.split_at(end);
            rest = after.get(1..)?;
            if line.is_empty() {
                return Some(Self { status, headers, body: rest.to_vec() });
            }
            let (name, value) = std::str::from_utf8(line).ok()?.split_once(": ")?;
            headers.push((name.parse().ok()?, HeaderValue::from_str(value).ok()?));
        }
    }

    pub(crate) fn into_response(self, replayed: bool) -> Response {
        let json = !self.body.is_empty();
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        if json {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
        }
        // What a key may see is nobody else's; an ETag may still save the body.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
        if replayed {
            headers.insert(REPLAYED, HeaderValue::from_static("true"));
        }
        headers.extend(self.headers);
        response
    }
}

/// Gives a stored answer again.
///
/// # Errors
/// 503 when it can't be read.
pub(crate) fn replay(stored: &StoredAnswer) -> Result<Response, Problem> {
    let rendered = Rendered::from_stored(stored).ok_or_else(|| {
        StoreError::Corrupt("a stored answer of an idempotency key can't be read".to_owned())
    })?;
    Ok(rendered.into_response(true))
}

/// The idempotency key of a request.
///
/// # Errors
/// 400 for a key that is too short or long, holds other than visible ASCII, or is there twice.
pub(crate) fn idempotency_key<'a>(
    headers: &'a HeaderMap,
    actor: &Actor,
) -> Result<Option<&'a str>, Problem> {
    let bad = |detail: String| Problem::bad_field("Idempotency-Key", "bad-idempotency-key", detail);
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(bad("the header is there twice; send it once".to_owned()));
    }
    let min = if *actor == Actor::Anonymous { MIN_ANONYMOUS_KEY_LEN } else { 1 };
    let text = value.to_str().unwrap_or_default();
    let clean = text.bytes().all(|byte| matches!(byte, b'!'..=b'~'));
    if !clean || !(min..=MAX_KEY_LEN).contains(&text.len()) {
        return Err(bad(format!(
            "a key has {min} to {MAX_KEY_LEN} visible ASCII characters; a UUID will do"
        )));
    }
    Ok(Some(text))
}

/// The write that a key stands for: method, path, query and body make it what it is.
pub(crate) fn once(actor: &Actor, key: &str, parts: &Parts, body: &[u8]) -> Once {
    let path = parts.uri.path_and_query().map_or("", http::uri::PathAndQuery::as_str);
    Once::new(actor, key, &[parts.method.as_str().as_bytes(), path.as_bytes(), body])
}

#[cfg(test)]
mod tests {
    use http::header::{ETAG, LOCATION};

    use super::*;

    #[test]
    fn stored_answers_come_back_byte_for_byte() {
        let rendered = Rendered::json(StatusCode::CREATED, &serde_json::json!({"a": "b\n\nc"}))
            .with(LOCATION, "http://127.0.0.1:8080/abc")
            .with(ETAG, "\"1\"");
        let stored = rendered.to_stored();
        assert_eq!(Rendered::from_stored(&stored), Some(rendered));
        let empty = Rendered::empty(StatusCode::NO_CONTENT);
        assert_eq!(Rendered::from_stored(&empty.to_stored()), Some(empty));
        for damaged in ["", "etag: 1", "x\n\n", "etag \n\n"] {
            let stored = StoredAnswer { status: 201, response: damaged.as_bytes().to_vec() };
            assert_eq!(Rendered::from_stored(&stored), None, "{damaged:?}");
        }
    }

    #[test]
    fn keys_of_anonymous_callers_are_long() {
        let key = |text: &'static str, actor: &Actor| {
            let mut headers = HeaderMap::new();
            headers.insert(IDEMPOTENCY_KEY, HeaderValue::from_static(text));
            idempotency_key(&headers, actor).is_ok()
        };
        assert!(!key("123456789012345678901", &Actor::Anonymous));
        assert!(key("1234567890123456789012", &Actor::Anonymous));
        assert!(key("1", &Actor::Local));
        assert!(
            !key("", &Actor::Local) && !key("a b", &Actor::Local) && !key("a\tb", &Actor::Local)
        );
    }
}
