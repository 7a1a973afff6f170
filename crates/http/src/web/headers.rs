//! The security headers of every page, in one place.
//!
//! No page of ours runs inline code, loads from another host, can be framed, or tells the next
//! site where the visitor came from.

use axum::response::Response;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderName, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use http::{HeaderMap, HeaderValue};

/// The policy of ordinary pages: own style sheet, own script, own images, forms to ourselves.
pub(crate) const PAGE_CSP: &str = "default-src 'none'; style-src 'self'; script-src 'self'; \
    img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; \
    frame-ancestors 'none'";

/// The policy of the API browser: the vendored viewer sets style attributes, and calls the API.
pub(crate) const DOCS_CSP: &str = "default-src 'none'; style-src 'self' 'unsafe-inline'; \
    script-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; \
    base-uri 'none'; frame-ancestors 'none'";

/// The policy of images and other bodies that are never a document of their own.
pub(crate) const INERT_CSP: &str = "default-src 'none'; frame-ancestors 'none'; sandbox";

/// No device or payment API is for us or for anything embedded in us.
const PERMISSIONS_POLICY: &str = "accelerometer=(), camera=(), display-capture=(), \
    geolocation=(), gyroscope=(), microphone=(), midi=(), payment=(), usb=()";

/// `Permissions-Policy` (W3C), which the `http` crate has no constant for.
pub(crate) const PERMISSIONS_POLICY_NAME: HeaderName =
    HeaderName::from_static("permissions-policy");

/// What a page may be kept for: not at all. It shows state, a key, or a person's recent links.
pub(crate) const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// Adds the headers of a page to `headers`; a `Cache-Control` that is there already stays.
pub(crate) fn secure(headers: &mut HeaderMap, csp: HeaderValue) {
    headers.insert(CONTENT_SECURITY_POLICY, csp);
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(PERMISSIONS_POLICY_NAME, HeaderValue::from_static(PERMISSIONS_POLICY));
    headers.insert(
        HeaderName::from_static("cross-origin-opener-policy"),
        HeaderValue::from_static("same-origin"),
    );
    headers.entry(CACHE_CONTROL).or_insert(NO_STORE);
}

/// An HTML page that nobody keeps.
pub(crate) fn page(status: http::StatusCode, csp: &'static str, html: String) -> Response {
    let mut response = Response::new(axum::body::Body::from(html));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers
        .insert(http::header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    secure(headers, HeaderValue::from_static(csp));
    response
}
