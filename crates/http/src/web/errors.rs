//! The pages that say no: built once, the same bytes for everybody.
//!
//! An error page loads nothing at all, not even our own style sheet (its style stands in it and is
//! allowed by hash), so it looks right while everything else is down, under any base path, and
//! gives nothing away. All reasons for which a link is gone share one page: whoever asks can't
//! tell an expired link from a deleted or disabled one.

use std::sync::LazyLock;

use askama::Template;
use axum::body::Body;
use axum::response::Response;
use base64::Engine as _;
use bytes::Bytes;
use http::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, VARY};
use http::{HeaderMap, HeaderValue, StatusCode};
use sha2::{Digest, Sha256};

use super::headers::{NO_STORE, secure};

/// Seconds after which a client may try again when we are the ones who can't answer.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("2");

/// What an error says: status, title, and what to do.
struct Text {
    status: StatusCode,
    title: &'static str,
    detail: &'static str,
}

/// Every status that has its own page.
const TEXTS: &[Text] = &[
    Text {
        status: StatusCode::BAD_REQUEST,
        title: "That request made no sense",
        detail: "Something in the address or the form is not as it should be. Go back and check it.",
    },
    Text {
        status: StatusCode::UNAUTHORIZED,
        title: "This needs an API key",
        detail: "Send it as Authorization: Bearer, or type it into the form.",
    },
    Text {
        status: StatusCode::FORBIDDEN,
        title: "Not from there",
        detail: "The request was sent by another website, or its key doesn't allow it. \
                 Open the page here and try again.",
    },
    Text {
        status: StatusCode::NOT_FOUND,
        title: "There is no link here",
        detail: "It doesn't exist, or not yet. Check the address for a typo: \
                 capital and small letters are not the same.",
    },
    Text {
        status: StatusCode::METHOD_NOT_ALLOWED,
        title: "That can't be done here",
        detail: "The address exists, but not for this kind of request.",
    },
    Text {
        status: StatusCode::REQUEST_TIMEOUT,
        title: "That took too long",
        detail: "The request did not arrive in time. Try again.",
    },
    Text {
        status: StatusCode::GONE,
        title: "This link is gone",
        detail: "It led somewhere once, but it has ended. Ask whoever gave it to you for a new one.",
    },
    Text {
        status: StatusCode::PAYLOAD_TOO_LARGE,
        title: "That is too large",
        detail: "The request holds more than is accepted here. Send less.",
    },
    Text {
        status: StatusCode::URI_TOO_LONG,
        title: "That address is too long",
        detail: "Shorten what follows the link.",
    },
    Text {
        status: StatusCode::TOO_MANY_REQUESTS,
        title: "Too many requests",
        detail: "Wait a moment, then try again.",
    },
    Text {
        status: StatusCode::UNAVAILABLE_FOR_LEGAL_REASONS,
        title: "This link is blocked",
        detail: "It was taken out of service because of where it leads.",
    },
    Text {
        status: StatusCode::SERVICE_UNAVAILABLE,
        title: "One moment, please",
        detail: "The link can't be looked up right now. It is not lost; try again in a few seconds.",
    },
    Text {
        status: StatusCode::INSUFFICIENT_STORAGE,
        title: "No room for more links",
        detail: "Existing links work as always, but no new ones can be stored right now.",
    },
    Text {
        status: StatusCode::INTERNAL_SERVER_ERROR,
        title: "Something broke here",
        detail: "It is our fault, not yours. Try again; if it stays, tell whoever runs this service.",
    },
];

/// What kind of answer a client can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// A browser.
    Html,
    /// A program that asks for JSON.
    Problem,
    /// Everybody else: `curl`, `*/*`, no `Accept` at all.
    Text,
}

impl Wants {
    /// What the `Accept` headers ask for (RFC 9110, section 12.5.1): the highest `q`, at a tie the
    /// first one that is named. Only a client that names HTML or JSON gets it.
    pub fn from_headers(headers: &HeaderMap) -> Self {
        let mut best = (0_u16, Self::Text);
        for value in headers.get_all(ACCEPT) {
            for range in value.as_bytes().split(|&b| b == b',') {
                let Some((wants, quality)) = Self::from_range(range) else {
                    continue;
                };
                if quality > best.0 {
                    best = (quality, wants);
                }
            }
        }
        best.1
    }

    fn from_range(range: &[u8]) -> Option<(Self, u16)> {
        let mut parts = range.split(|&b| b == b';').map(<[u8]>::trim_ascii);
        let media = parts.next()?;
        let is = |name: &str| media.eq_ignore_ascii_case(name.as_bytes());
        let wants = if is("text/html") || is("application/xhtml+xml") {
            Self::Html
        } else if is("application/json") || is("application/problem+json") {
            Self::Problem
        } else if is("text/plain") || is("text/*") || is("*/*") {
            Self::Text
        } else {
            return None;
        };
        let quality = parts
            .find_map(|part| part.strip_prefix(b"q=").or_else(|| part.strip_prefix(b"Q=")))
            .map_or(1000, thousandths);
        Some((wants, quality))
    }
}

/// A quality value in thousandths; what is no number counts as 0.
fn thousandths(text: &[u8]) -> u16 {
    let value = std::str::from_utf8(text).ok().and_then(|text| text.trim().parse::<f32>().ok());
    // Saturating by definition of `as`; NaN becomes 0.
    (value.unwrap_or(0.0).clamp(0.0, 1.0) * 1000.0) as u16
}

#[derive(Template)]
#[template(path = "error.html")]
struct ErrorTemplate {
    status: u16,
    title: &'static str,
    detail: &'static str,
    style: &'static str,
}

/// The style of error pages; it stands in the page.
const STYLE: &str = include_str!("../../assets/error.css");

/// One status, ready to be sent in each of the three kinds.
struct Built {
    status: StatusCode,
    html: Bytes,
    problem: Bytes,
    text: Bytes,
}

struct Pages {
    built: Vec<Built>,
    html_headers: HeaderMap,
    other_headers: HeaderMap,
}

static PAGES: LazyLock<Pages> = LazyLock::new(|| {
    let hash = base64::engine::general_purpose::STANDARD.encode(Sha256::digest(STYLE));
    let csp = format!(
        "default-src 'none'; style-src 'sha256-{hash}'; img-src 'self' data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'"
    );
    Pages {
        built: TEXTS.iter().map(Built::new).collect(),
        html_headers: base_headers(
            HeaderValue::try_from(csp)
                .unwrap_or_else(|_| HeaderValue::from_static("default-src 'none'")),
        ),
        other_headers: base_headers(HeaderValue::from_static(super::headers::INERT_CSP)),
    }
});

fn base_headers(csp: HeaderValue) -> HeaderMap {
    let mut headers = HeaderMap::new();
    secure(&mut headers, csp);
    headers.insert(CACHE_CONTROL, NO_STORE);
    headers.insert(VARY, HeaderValue::from_static("Accept"));
    headers
}

impl Built {
    fn new(text: &Text) -> Self {
        let status = text.status.as_u16();
        let template =
            ErrorTemplate { status, title: text.title, detail: text.detail, style: STYLE };
        // The template can't fail: it writes to memory and has no filters of its own.
        let html = template.render().unwrap_or_else(|_| text.title.to_owned());
        // The same members as every problem of the API.
        let reason = text.status.canonical_reason().unwrap_or("Error");
        let code = reason.to_ascii_lowercase().replace(' ', "-");
        let problem = serde_json::json!({
            "type": format!("urn:shunt:problem:{code}"),
            "title": reason,
            "status": status,
            "detail": format!("{}. {}", text.title, text.detail),
            "code": code,
        });
        Self {
            status: text.status,
            html: html.into(),
            problem: format!("{problem}\n").into(),
            text: format!("{status} {}\n{}\n", text.title, text.detail).into(),
        }
    }
}

/// The words for a status that has none of its own.
fn fallback(status: StatusCode) -> Text {
    let like = if status.is_client_error() {
        StatusCode::BAD_REQUEST
    } else {
        StatusCode::INTERNAL_SERVER_ERROR
    };
    let words = TEXTS.iter().find(|text| text.status == like);
    Text {
        status,
        title: words.map_or("Error", |text| text.title),
        detail: words.map_or("", |text| text.detail),
    }
}

/// Builds the pages now, so that the first visitor doesn't wait for them.
pub fn prepare() {
    LazyLock::force(&PAGES);
}

/// The answer for `status`, in the kind that the client can read. A status without a page of its
/// own gets the words of a 500 (or of a 400, if it is a client's error) under its own number.
///
/// Adds `Retry-After` to 429 and 503, and `Allow: GET, HEAD` to 405 (a caller that knows better
/// replaces it). Copies no page: bodies share the prebuilt bytes.
pub fn error_page(status: StatusCode, wants: Wants) -> Response {
    let pages = &*PAGES;
    let rare;
    let built = match pages.built.iter().find(|built| built.status == status) {
        Some(built) => built,
        None => {
            rare = Built::new(&fallback(status));
            &rare
        }
    };
    let (body, content_type, headers) = match wants {
        Wants::Html => (&built.html, "text/html; charset=utf-8", &pages.html_headers),
        Wants::Problem => (&built.problem, "application/problem+json", &pages.other_headers),
        Wants::Text => (&built.text, "text/plain; charset=utf-8", &pages.other_headers),
    };
    let mut response = Response::new(Body::from(body.clone()));
    *response.status_mut() = status;
    *response.headers_mut() = headers.clone();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    match status {
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
            headers.insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
        }
        StatusCode::METHOD_NOT_ALLOWED => {
            headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        _ => {}
    }
    response
}
