//! What every page has in common, and the pages over stores in memory.

mod assets;
mod forms;
mod pages;
pub(crate) mod world;

use axum::body::Body;
use axum::response::Response;
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;

use crate::app::{AppState, Settings};
use crate::client::{Client, Transport};

/// Settings with a base URL.
pub(crate) fn settings(base_url: &str) -> Settings {
    Settings {
        limit_loopback: false,
        base_url: base_url.to_owned(),
        anonymous_create: false,
        max_body: 64 * 1024,
        request_timeout: std::time::Duration::from_secs(5),
    }
}

/// What came back.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    async fn read(response: Response) -> Self {
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes().to_vec();
        Self { status: parts.status, headers: parts.headers, body }
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The `name=value` of the first cookie set.
    fn cookie(&self) -> &str {
        self.header("set-cookie").split(';').next().unwrap_or_default()
    }
}

/// Somebody on this machine.
fn local() -> Client {
    let address = "127.0.0.1".parse().unwrap();
    Client { transport: Transport::Plain, peer: address, address, forwarded: false }
}

/// Somebody elsewhere.
fn remote() -> Client {
    let address = "192.0.2.9".parse().unwrap();
    Client { transport: Transport::Plain, peer: address, address, forwarded: false }
}

/// A request from this machine.
fn request(method: &str, uri: &str) -> Request<Body> {
    let mut request = Request::new(Body::empty());
    *request.method_mut() = method.parse().unwrap();
    *request.uri_mut() = uri.parse().unwrap();
    request.headers_mut().insert(HOST, HeaderValue::from_static("127.0.0.1:8080"));
    request.headers_mut().insert("accept", HeaderValue::from_static("text/html"));
    request.extensions_mut().insert(local());
    request
}

/// A form sent from this machine.
fn form(uri: &str, fields: &[(&str, &str)]) -> Request<Body> {
    let body = fields
        .iter()
        .map(|(name, value)| format!("{name}={}", escape(value)))
        .collect::<Vec<_>>()
        .join("&");
    let mut request = request("POST", uri);
    request
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
    *request.body_mut() = Body::from(body);
    request
}

fn with(mut request: Request<Body>, name: &'static str, value: &str) -> Request<Body> {
    request.headers_mut().insert(name, HeaderValue::from_str(value).unwrap());
    request
}

fn escape(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

async fn send(state: &AppState, request: Request<Body>) -> Answer {
    let router = super::router(state.clone());
    Answer::read(router.oneshot(request).await.unwrap()).await
}

/// Makes a link by the form and answers the page.
async fn shorten(state: &AppState, fields: &[(&str, &str)]) -> Answer {
    send(state, form("/shorten", fields)).await
}

async fn preview_of(state: &AppState, code: &str) -> Answer {
    let headers = request("GET", "/").headers().clone();
    Answer::read(super::preview(state, &world::key(code), &headers).await).await
}

async fn qr_of(state: &AppState, code: &str, query: &str) -> Answer {
    let headers = request("GET", "/").headers().clone();
    Answer::read(super::qr(state, &world::key(code), query, &headers).await).await
}

/// What no page may lack, whatever it says.
fn assert_secure(answer: &Answer, what: &str) {
    let csp = answer.header("content-security-policy");
    assert!(csp.starts_with("default-src 'none'"), "{what}: {csp:?}");
    assert!(csp.contains("frame-ancestors 'none'"), "{what}: {csp:?}");
    assert!(!csp.contains("unsafe-eval") && !csp.contains('*'), "{what}: {csp:?}");
    assert!(!csp.contains("http"), "{what} trusts another host: {csp:?}");
    let script = csp.split(';').find(|part| part.contains("script-src")).unwrap_or_default();
    assert!(!script.contains("unsafe") && !script.contains("data:"), "{what}: {script}");
    assert_eq!(answer.header("x-content-type-options"), "nosniff", "{what}");
    assert_eq!(answer.header("referrer-policy"), "no-referrer", "{what}");
    assert!(answer.header("permissions-policy").contains("camera=()"), "{what}");
    assert!(!answer.header("cache-control").is_empty(), "{what}");
}

/// The elements of a page with the names of their attributes, in order. Two pages that differ only
/// in what somebody typed have the same skeleton, or else the text broke out of its place.
fn skeleton(html: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut rest = html;
    while let Some(at) = rest.find('<') {
        rest = &rest[at + 1..];
        // Attribute values are quoted; a `>` in one doesn't end the tag.
        let (mut quoted, mut shape) = (false, String::new());
        let mut end = rest.len();
        for (at, c) in rest.char_indices() {
            match c {
                '"' => quoted = !quoted,
                '>' if !quoted => {
                    end = at;
                    break;
                }
                _ if !quoted => shape.push(c),
                _ => {}
            }
        }
        out.push(shape);
        rest = &rest[end..];
    }
    out
}

#[test]
fn a_skeleton_changes_when_text_breaks_out() {
    assert_eq!(skeleton("<a b=\"c\">d</a>"), ["a b=", "/a"]);
    assert_eq!(skeleton("<a b=\"x>y\">z</a>"), skeleton("<a b=\"c\">d</a>"));
    assert_ne!(skeleton("<a b=\"\" onload=\"\">z</a>"), skeleton("<a b=\"c\">d</a>"));
    assert_ne!(skeleton("<a b=\"c\"><i>z</a>"), skeleton("<a b=\"c\">d</a>"));
}
