//! The general service behind hyper: everything the fast loop does not take.
//!
//! Look-ups of links are answered here on the core's own thread by the same rules as in the fast
//! loop; the API and the pages run on the API runtime, so that a slow handler or a panic never
//! touches a core's loop.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::response::Response;
use http::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, Version};
use hyper::body::Incoming;
use shunt_domain::click::ClickKind;
use shunt_domain::reserved::is_reserved;
use shunt_domain::{Code, DomainId, LinkKey};
use tower::ServiceExt;

use super::core::Core;
use super::facts::{Facts, visitor};
use super::guard::ConnState;
use super::misses::{self, Visitor};
use super::paced::{Pace, Paced};
use super::redirect::{Verdict, look_up, missing, wants};
use crate::client::Client;
use crate::metrics::Route;
use crate::web::errors::error_page;

/// One connection's service.
#[derive(Clone)]
pub struct Service {
    /// The core it runs on.
    pub core: Rc<Core>,
    /// The connection's deadlines.
    pub state: Rc<ConnState>,
    /// Who is on the other end, headers not looked at yet.
    pub client: Client,
}

type Answering = Pin<Box<dyn Future<Output = Result<Response, Infallible>>>>;

impl hyper::service::Service<Request<Incoming>> for Service {
    type Response = Response;
    type Error = Infallible;
    type Future = Answering;

    fn call(&self, request: Request<Incoming>) -> Answering {
        let this = self.clone();
        this.state.busy();
        Box::pin(async move {
            let version = request.version();
            let mut response = this.answer(request).await;
            this.state.idle();
            if this.core.draining() && version < Version::HTTP_2 {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(response)
        })
    }
}

/// What a path under the base path asks for.
enum Wanted {
    Health,
    Link(Code),
    Preview(Code),
    Qr(Code),
    /// The API and the pages.
    Router,
}

impl Service {
    async fn answer(&self, request: Request<Incoming>) -> Response {
        let began = Instant::now();
        if let Err(status) = sane(&request) {
            let mut response = error_page(status, wants(accept(request.headers())));
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            self.core.metrics.requested(Route::Page, status.as_u16());
            return response;
        }
        let head = request.method() == Method::HEAD;
        let looks = head || request.method() == Method::GET;
        match self.wanted(request.uri().path()) {
            Wanted::Health => self.health(request.method()),
            Wanted::Link(code) if looks => self.look(request, code, head, began).await,
            Wanted::Preview(code) if looks => {
                let key = self.key(&request, code);
                let app = &self.core.shared.app;
                let page = crate::web::preview::preview(app, &key, request.headers());
                self.page(self.counted(&key, request.headers(), page).await)
            }
            Wanted::Qr(code) if looks => {
                let key = self.key(&request, code);
                let query = request.uri().query().unwrap_or_default();
                let app = &self.core.shared.app;
                let page = crate::web::qr::qr(app, &key, query, request.headers());
                self.page(self.counted(&key, request.headers(), page).await)
            }
            Wanted::Link(_) | Wanted::Preview(_) | Wanted::Qr(_) => {
                let mut response =
                    error_page(StatusCode::METHOD_NOT_ALLOWED, wants(accept(request.headers())));
                response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
                self.page(response)
            }
            Wanted::Router => self.route(request, began).await,
        }
    }

    /// A page about a link, made by `page`: guessing codes by it is limited as by look-ups.
    async fn counted(
        &self,
        key: &LinkKey,
        headers: &HeaderMap,
        page: impl Future<Output = Response>,
    ) -> Response {
        let app = &self.core.shared.app;
        let facts = Facts::of(pairs(headers));
        let Some(subject) = self.visitor(headers).limited(app, &facts) else { return page.await };
        if app.resolver.cached(key).is_none_or(|entry| missing(entry.kind()))
            && let Some(quota) = misses::spent(app, subject)
        {
            return misses::page(&quota, wants(facts.accept));
        }
        let response = page.await;
        if response.status() != StatusCode::NOT_FOUND {
            return response;
        }
        let quota = misses::count(app, subject).await;
        quota.map_or(response, |quota| misses::page(&quota, wants(facts.accept)))
    }

    fn page(&self, response: Response) -> Response {
        self.core.metrics.requested(Route::Page, response.status().as_u16());
        response
    }

    /// 200 while accepting, 503 while draining; never asks the store.
    fn health(&self, method: &Method) -> Response {
        let (status, text) = match method {
            &Method::GET | &Method::HEAD if self.core.draining() => {
                (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
            }
            &Method::GET | &Method::HEAD => (StatusCode::OK, "ok\n"),
            _ => (StatusCode::METHOD_NOT_ALLOWED, "use GET\n"),
        };
        self.core.metrics.requested(Route::Health, status.as_u16());
        let mut response = Response::new(Body::from(text));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        response
    }

    fn key<B>(&self, request: &Request<B>, code: Code) -> LinkKey {
        LinkKey::new(self.domain(request), code)
    }

    fn domain<B>(&self, request: &Request<B>) -> DomainId {
        let authority = request.uri().authority().map(|authority| authority.as_str().as_bytes());
        let host = request.headers().get(HOST).map(HeaderValue::as_bytes);
        // An absolute-form target wins over `Host` (RFC 9112, section 3.2.2).
        self.core.shared.domains.of_host(authority.or(host).unwrap_or_default())
    }

    fn wanted(&self, path: &str) -> Wanted {
        let base = std::str::from_utf8(self.core.base_path()).unwrap_or_default();
        let Some(rest) = path.strip_prefix(base).and_then(|rest| rest.strip_prefix('/')) else {
            // Load balancers ask at the root, whatever the base path is.
            return if path == "/health" { Wanted::Health } else { Wanted::Router };
        };
        if let Some(code) = rest.strip_prefix("api/urls/") {
            return code_of(code).map_or(Wanted::Router, Wanted::Link);
        }
        if rest.is_empty() || rest.contains('/') {
            return Wanted::Router;
        }
        if rest == "health" {
            return Wanted::Health;
        }
        // Decoded once: what is an escape after that is no code.
        let Some(segment) = decode(rest) else {
            return Wanted::Router;
        };
        if let Some(code) = segment.strip_suffix('+').and_then(code_of) {
            return Wanted::Preview(code);
        }
        if let Some(code) = segment.strip_suffix(".qr").and_then(code_of) {
            return Wanted::Qr(code);
        }
        if is_reserved(&segment) {
            return Wanted::Router;
        }
        code_of(&segment).map_or(Wanted::Router, Wanted::Link)
    }

    async fn look(
        &self,
        request: Request<Incoming>,
        code: Code,
        head: bool,
        began: Instant,
    ) -> Response {
        let core = &self.core;
        let key = self.key(&request, code);
        let headers = request.headers();
        let facts = Facts::of(pairs(headers));
        let query = request.uri().query();
        let visitor = self.visitor(headers);
        let verdict = look_up(&core.shared, &key, visitor, head, &facts, query).await;
        core.metrics.answered(verdict.answer(), 1);
        if matches!(verdict, Verdict::Redirect { .. }) {
            let address = visitor.address;
            let kind = if head { ClickKind::Head } else { ClickKind::Served };
            let now = core.wall(began);
            let (code, visitor) = (key.code.as_str(), core.visitor(&facts, address));
            core.record(&facts, key.domain, code, now, kind, visitor, address, query);
        }
        let response = verdict.into_response(&core.shared, &key, facts.accept).await;
        core.metrics.miss.observe(began.elapsed(), 1);
        response
    }

    fn visitor(&self, headers: &HeaderMap) -> Visitor {
        let pairs: Vec<_> = pairs(headers).collect();
        let (peer, proxies) = (self.client.peer, &self.core.shared.options.proxies);
        Visitor { peer, address: visitor(proxies, peer, &pairs.iter().copied()) }
    }

    async fn route(&self, request: Request<Incoming>, began: Instant) -> Response {
        let shared = &self.core.shared;
        let path = request.uri().path();
        let api = path.starts_with("/api/") || path.contains("/api/");
        // Streams take as long as they move; the body's pace is watched all the same.
        let stream =
            path.ends_with(":batch") || path.ends_with(":import") || path.ends_with(":export");
        let client = Client {
            address: self.visitor(request.headers()).address,
            forwarded: Facts::of(pairs(request.headers())).forwarded,
            ..self.client
        };
        let wants = wants(accept(request.headers()));
        let window = shared.options.body_window;
        let pace = Arc::new(Pace::default());
        let watched = Arc::clone(&pace);
        let mut request = request.map(|body| Body::new(Paced::new(body, window, watched)));
        request.extensions_mut().insert(client);
        let router = shared.router.clone();
        let handler = shared.api.spawn(router.oneshot(request));
        let timeout = shared.options.request_timeout;
        let answer = if stream {
            Some(handler.await)
        } else {
            tokio::time::timeout(timeout, handler).await.ok()
        };
        let response = match answer {
            _ if pace.too_slow() => error_page(StatusCode::REQUEST_TIMEOUT, wants),
            Some(Ok(Ok(response))) => response,
            Some(Ok(Err(never))) => match never {},
            Some(Err(error)) => {
                // A panic in a handler ends that request, not the process.
                tracing::error!(%error, "a handler failed");
                error_page(StatusCode::INTERNAL_SERVER_ERROR, wants)
            }
            // Whose fault it is, is told by whether the body was still on its way.
            None if !pace.ended() => error_page(StatusCode::REQUEST_TIMEOUT, wants),
            None => error_page(StatusCode::SERVICE_UNAVAILABLE, wants),
        };
        let route = if api { Route::Api } else { Route::Page };
        self.core.metrics.requested(route, response.status().as_u16());
        self.core.metrics.other.observe(began.elapsed(), 1);
        response
    }
}

/// What must hold of any request before it is looked at (RFC 9112, sections 3.2 and 6.3).
fn sane<B>(request: &Request<B>) -> Result<(), StatusCode> {
    let headers = request.headers();
    if request.version() < Version::HTTP_2 {
        let mut hosts = headers.get_all(HOST).iter();
        let host = hosts.next();
        if hosts.next().is_some() || (host.is_none() && request.version() == Version::HTTP_11) {
            return Err(StatusCode::BAD_REQUEST);
        }
        if host.is_some_and(|host| !is_host(host.as_bytes())) {
            return Err(StatusCode::BAD_REQUEST);
        }
        // One coding, and the only one we read: whoever stands in front of us must not see another
        // end of the message than we do.
        let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
        if let Some(coding) = codings.next() {
            let plain = coding.as_bytes().eq_ignore_ascii_case(b"chunked");
            let alone = codings.next().is_none() && !headers.contains_key(CONTENT_LENGTH);
            if !plain || !alone || request.version() == Version::HTTP_10 {
                return Err(StatusCode::BAD_REQUEST);
            }
        }
    }
    if headers.get_all(CONTENT_LENGTH).iter().count() > 1 {
        return Err(StatusCode::BAD_REQUEST);
    }
    if request.method() == Method::CONNECT || request.uri() == &Uri::from_static("*") {
        return Err(StatusCode::METHOD_NOT_ALLOWED);
    }
    Ok(())
}

/// The characters of an authority (RFC 3986, section 3.2), without user information.
pub(super) fn is_host(host: &[u8]) -> bool {
    host.len() <= 300 && host.iter().all(|b| HOST_BYTES[usize::from(*b)])
}

const HOST_BYTES: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let marks = b"-._~:[]%!$&'()*+,;=";
    let mut at = 0;
    while at < marks.len() {
        table[marks[at] as usize] = true;
        at += 1;
    }
    table
};

fn pairs(headers: &HeaderMap) -> impl Iterator<Item = (&[u8], &[u8])> {
    headers.iter().map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()))
}

fn accept(headers: &HeaderMap) -> &[u8] {
    headers.get(http::header::ACCEPT).map(HeaderValue::as_bytes).unwrap_or_default()
}

fn code_of(text: &str) -> Option<Code> {
    Code::parse(text).ok()
}

/// Percent-decodes one path segment; `None` if an escape is broken or the result is no ASCII.
fn decode(segment: &str) -> Option<String> {
    if !segment.contains('%') {
        return Some(segment.to_owned());
    }
    let mut decoded = String::with_capacity(segment.len());
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        let byte = if byte == b'%' {
            let digit = |b: u8| char::from(b).to_digit(16);
            let (high, low) = (digit(bytes.next()?)?, digit(bytes.next()?)?);
            u8::try_from(high * 16 + low).ok()?
        } else {
            byte
        };
        if !byte.is_ascii_graphic() {
            return None;
        }
        decoded.push(char::from(byte));
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_decoded_once() {
        assert_eq!(decode("abc").as_deref(), Some("abc"));
        assert_eq!(decode("%61bc").as_deref(), Some("abc"));
        assert_eq!(decode("%2561bc").as_deref(), Some("%61bc"));
        assert_eq!(decode("abc%2B").as_deref(), Some("abc+"));
        for bad in ["%", "%4", "%zz", "%00", "%0a", "%ff", "%20"] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }

    #[test]
    fn requests_that_two_parties_could_read_differently_are_refused() {
        let check = |headers: &[(&str, &str)]| {
            let mut request = Request::builder().uri("/x");
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            sane(&request.body(()).unwrap())
        };
        assert_eq!(check(&[("host", "a.example")]), Ok(()));
        assert_eq!(check(&[("host", "[::1]:8080")]), Ok(()));
        for bad in [
            &[][..],
            &[("host", "a"), ("host", "b")],
            &[("host", "a b")],
            &[("host", "a/b")],
            &[("host", "user@a")],
            &[("host", "a"), ("content-length", "1"), ("content-length", "2")],
            &[("host", "a"), ("content-length", "1"), ("transfer-encoding", "chunked")],
        ] {
            assert_eq!(check(bad), Err(StatusCode::BAD_REQUEST), "{bad:?}");
        }
    }
}
