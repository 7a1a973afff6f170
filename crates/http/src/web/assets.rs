//! The files that pages load, embedded in the binary and named after their content.
//!
//! A path `/assets/<name>.<hash>.<ext>` never changes its bytes, so it may be kept for a year; a
//! new build has new paths. Another hash answers 404 rather than bytes under a wrong name.

use std::sync::LazyLock;

use axum::body::Body;
use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY};
use http::{HeaderMap, HeaderValue, StatusCode};
use sha2::{Digest, Sha256};

use super::errors::{Wants, error_page};
use super::headers::{INERT_CSP, secure};

const JS: &str = "text/javascript; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// What crawlers may read: the front page. Short links are for people; a crawler that follows one
/// would only skew its figures.
const ROBOTS: &str = "User-agent: *\nAllow: /$\nDisallow: /\n";

/// An embedded file.
pub(crate) struct Asset {
    file: String,
    mime: &'static str,
    bytes: &'static [u8],
    etag: HeaderValue,
}

impl Asset {
    fn new(stem: &str, extension: &str, mime: &'static str, bytes: &'static [u8]) -> Self {
        let hash = fingerprint(bytes);
        let etag = etag(&hash);
        Self { file: format!("{stem}.{hash}.{extension}"), mime, bytes, etag }
    }

    /// The file, or 304 for a client that has it.
    fn answer(&self, headers: &HeaderMap, cache: &'static str) -> Response {
        let response = if is_known(headers, &self.etag) {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            let mut response = Response::new(Body::from(Bytes::from_static(self.bytes)));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(self.mime));
            response
        };
        kept(response, self.etag.clone(), cache)
    }
}

/// All embedded files.
pub(crate) struct Assets {
    css: Asset,
    js: Asset,
    icon: Asset,
    docs_js: Asset,
    docs_css: Asset,
    viewer_js: Asset,
    viewer_css: Asset,
    favicon: Asset,
    robots: Asset,
}

static ASSETS: LazyLock<Assets> = LazyLock::new(|| Assets {
    css: Asset::new("shunt", "css", CSS, include_bytes!("../../assets/shunt.css")),
    js: Asset::new("shunt", "js", JS, include_bytes!("../../assets/shunt.js")),
    icon: Asset::new("icon", "svg", SVG, include_bytes!("../../assets/icon.svg")),
    docs_js: Asset::new("docs", "js", JS, include_bytes!("../../assets/docs.js")),
    docs_css: Asset::new("docs", "css", CSS, include_bytes!("../../assets/docs.css")),
    viewer_js: Asset::new(
        "swagger-ui",
        "js",
        JS,
        include_bytes!("../../assets/vendor/swagger-ui/swagger-ui-bundle.js"),
    ),
    viewer_css: Asset::new(
        "swagger-ui",
        "css",
        CSS,
        include_bytes!("../../assets/vendor/swagger-ui/swagger-ui.css"),
    ),
    favicon: Asset::new(
        "favicon",
        "ico",
        "image/x-icon",
        include_bytes!("../../assets/favicon.ico"),
    ),
    robots: Asset::new("robots", "txt", "text/plain; charset=utf-8", ROBOTS.as_bytes()),
});

impl Assets {
    /// The files under `/assets/`.
    pub(crate) fn named(&self) -> [&Asset; 7] {
        let Self { css, js, icon, docs_js, docs_css, viewer_js, viewer_css, .. } = self;
        [css, js, icon, docs_js, docs_css, viewer_js, viewer_css]
    }
}

/// The file names of the assets, as templates put them behind `<base path>/assets/`.
pub(crate) struct Names {
    /// The style sheet of all pages.
    pub(crate) css: &'static str,
    /// The script of all pages.
    pub(crate) js: &'static str,
    /// The icon.
    pub(crate) icon: &'static str,
    /// The script that starts the API browser.
    pub(crate) docs_js: &'static str,
    /// The style sheet that fits the API browser into our pages.
    pub(crate) docs_css: &'static str,
    /// The API browser.
    pub(crate) viewer_js: &'static str,
    /// Its style sheet.
    pub(crate) viewer_css: &'static str,
}

/// The names of the assets in this build.
pub(crate) fn names() -> Names {
    let assets = &*ASSETS;
    Names {
        css: &assets.css.file,
        js: &assets.js.file,
        icon: &assets.icon.file,
        docs_js: &assets.docs_js.file,
        docs_css: &assets.docs_css.file,
        viewer_js: &assets.viewer_js.file,
        viewer_css: &assets.viewer_css.file,
    }
}

/// `GET /assets/{file}`.
pub(crate) async fn serve(Path(file): Path<String>, headers: HeaderMap) -> Response {
    match ASSETS.named().into_iter().find(|asset| asset.file == file) {
        Some(asset) => asset.answer(&headers, "public, max-age=31536000, immutable"),
        None => error_page(StatusCode::NOT_FOUND, Wants::from_headers(&headers)),
    }
}

/// `GET /favicon.ico`, which browsers ask for without being told to.
pub(crate) async fn favicon(headers: HeaderMap) -> Response {
    ASSETS.favicon.answer(&headers, "public, max-age=86400")
}

/// `GET /robots.txt`.
pub(crate) async fn robots(headers: HeaderMap) -> Response {
    ASSETS.robots.answer(&headers, "public, max-age=86400")
}

/// The first 64 bits of the SHA-256 of `bytes`, in hexadecimal.
pub(crate) fn fingerprint(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha256::digest(bytes).iter().take(8).fold(String::new(), |mut hex, byte| {
        // Writing to a string can't fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// A strong `ETag` of hexadecimal digits.
pub(crate) fn etag(fingerprint: &str) -> HeaderValue {
    HeaderValue::try_from(format!("\"{fingerprint}\""))
        .unwrap_or_else(|_| HeaderValue::from_static("\"0\""))
}

/// Marks a response that may be kept, and secures it.
pub(crate) fn kept(mut response: Response, etag: HeaderValue, cache: &'static str) -> Response {
    let headers = response.headers_mut();
    headers.insert(ETAG, etag);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(cache));
    headers.remove(VARY);
    secure(headers, HeaderValue::from_static(INERT_CSP));
    response
}

/// Whether the client says that it has this very version (RFC 9110, section 13.1.2: weak
/// comparison, lists and `*` included).
pub(crate) fn is_known(headers: &HeaderMap, etag: &HeaderValue) -> bool {
    let etag = etag.as_bytes();
    headers.get_all(IF_NONE_MATCH).iter().any(|value| {
        value.as_bytes().split(|&b| b == b',').any(|candidate| {
            let candidate = candidate.trim_ascii();
            let candidate = candidate.strip_prefix(b"W/").unwrap_or(candidate);
            candidate == etag || candidate == b"*"
        })
    })
}
