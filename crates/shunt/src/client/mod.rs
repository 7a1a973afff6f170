//! How a command reaches the service: through the running server's socket, or, when none runs, in
//! this process over the same router.
//!
//! Invariants:
//! - both ways speak the same HTTP to the same handlers, so a command can't tell them apart;
//! - the store is only opened here when no server answers on the socket, and the store's own lock
//!   refuses it when somebody has it all the same.

mod lines;
mod local;
mod socket;

use std::time::{Duration, Instant};

use anyhow::Context as _;
use axum::Router;
use axum::body::Body;
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::Value;
use shunt_http::client::Client;
use tower::ServiceExt as _;

pub(crate) use lines::Lines;
pub(crate) use local::{LocalParts, router as local_router};

use crate::cli::exit::{Code, Failure, code_of};
use crate::config::Config;
use crate::serve::{Built, OpenMode, build_app};

/// How long a command waits for whoever has the store but does not listen.
const STARTING: Duration = Duration::from_secs(5);

/// Between two looks at it.
const RETRY: Duration = Duration::from_millis(50);

/// How long a request whose answer is small may take.
const ANSWER: Duration = Duration::from_secs(60);

/// The largest answer that is read whole: a page of 200 links with targets of 8 KiB is 2 MiB.
const MAX_ANSWER: usize = 16 << 20;

/// A way to the service.
pub(crate) enum ApiClient {
    /// A server that runs.
    Socket(socket::SocketClient),
    /// The service in this process.
    InProcess(Box<InProcess>),
}

/// The service without listeners.
pub(crate) struct InProcess {
    built: Built,
    router: Router,
}

/// Whether a command may make a store that is not there yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// It works on what is there.
    Existing,
    /// It may begin a new one.
    Create,
}

impl ApiClient {
    /// The running server of the configured data directory, else the store itself.
    pub(crate) async fn open(config: &Config, need: Need) -> anyhow::Result<Self> {
        let mode = match need {
            Need::Existing => OpenMode::Existing,
            Need::Create => OpenMode::Create,
        };
        let any = std::net::SocketAddr::from(([127, 0, 0, 1], 8080));
        let base_url = config.base_url(config.listen.unwrap_or(any));
        let patience = Instant::now() + STARTING;
        loop {
            if let Some(client) = Self::running(config).await? {
                return Ok(client);
            }
            match build_app(config, &base_url, mode).await {
                Ok(built) => {
                    let router = built.router();
                    return Ok(Self::InProcess(Box::new(InProcess { built, router })));
                }
                // Somebody has the store and does not listen (yet): a server that is starting or
                // stopping, or another command.
                Err(error) if code_of(&error) == Code::Temporary && Instant::now() < patience => {
                    tokio::time::sleep(RETRY).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The running server, if there is one.
    pub(crate) async fn running(config: &Config) -> anyhow::Result<Option<Self>> {
        Ok(socket::SocketClient::find(&config.socket()).await?.map(Self::Socket))
    }

    /// Sends a request whose URI is a path; answers whatever status came.
    pub(crate) async fn send(&self, mut request: Request<Body>) -> anyhow::Result<Response<Body>> {
        // Requests need a Host; this one says that the caller is on this machine.
        request.headers_mut().entry(HOST).or_insert(HeaderValue::from_static("localhost"));
        match self {
            Self::Socket(client) => client.send(request).await,
            Self::InProcess(service) => {
                request.extensions_mut().insert(Client::LOCAL);
                let router = service.router.clone();
                router.oneshot(request).await.map_err(|never| match never {})
            }
        }
    }

    /// Sends a request with an optional JSON body and reads a JSON answer. A problem becomes an
    /// error with the exit code that fits it. No content is `Value::Null`.
    pub(crate) async fn json(
        &self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, String)],
        body: Option<&Value>,
    ) -> anyhow::Result<Value> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        if body.is_some() && !headers.iter().any(|(name, _)| *name == CONTENT_TYPE) {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = body.map_or_else(Body::empty, |value| Body::from(value.to_string()));
        let request = request.body(body).context("build the request")?;
        let exchange = async {
            let response = self.send(request).await?;
            read_json(response).await
        };
        tokio::time::timeout(ANSWER, exchange).await.map_err(|_| {
            let text = format!("no answer within {ANSWER:?}; see the server's log, then try again");
            Failure::error(Code::Unavailable, text)
        })?
    }

    /// GET.
    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.json(Method::GET, path, &[], None).await
    }

    /// Finishes what the service in this process still has to do, and frees the store.
    pub(crate) async fn close(self) {
        if let Self::InProcess(service) = self {
            let InProcess { built, router } = *service;
            // It holds parts of the store.
            drop(router);
            built.close().await;
        }
    }
}

/// Reads an answer whole, as JSON; a problem becomes an error.
pub(crate) async fn read_json(response: Response<Body>) -> anyhow::Result<Value> {
    let status = response.status();
    let body = http_body_util::Limited::new(response.into_body(), MAX_ANSWER);
    let bytes = body.collect().await.map_err(|error| {
        Failure::error(Code::Unavailable, format!("the answer broke off: {error}; try again"))
    })?;
    let bytes = bytes.to_bytes();
    if status.is_success() {
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        return serde_json::from_slice(&bytes).context("read the answer");
    }
    Err(problem(status, &bytes))
}

/// The error that a problem document stands for.
pub(crate) fn problem(status: StatusCode, body: &[u8]) -> anyhow::Error {
    let document: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |name: &str| document.get(name).and_then(Value::as_str).unwrap_or_default();
    let detail = match text("detail") {
        "" => format!("the server answered {status}"),
        detail => detail.to_owned(),
    };
    let message = match text("field") {
        "" => detail,
        field => format!("{field}: {detail}"),
    };
    let code = match status.as_u16() {
        400 | 413 | 415 | 422 => Code::Data,
        503 | 504 => Code::Unavailable,
        507 => Code::Io,
        _ => Code::Failure,
    };
    Failure::error(code, message)
}

/// A text as part of a path or query: everything but unreserved characters percent-encoded
/// (RFC 3986 section 2.3).
pub(crate) fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            use std::fmt::Write as _;
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// A fresh idempotency key: 128 random bits.
pub(crate) fn idempotency_key() -> anyhow::Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).context("get random bytes")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_encoded_for_paths() {
        assert_eq!(encoded("aZ0-._~"), "aZ0-._~");
        assert_eq!(encoded("a/b?c=d&e ä"), "a%2Fb%3Fc%3Dd%26e%20%C3%A4");
    }

    #[test]
    fn problems_become_errors_with_codes() {
        let body = br#"{"detail":"the code is taken","field":"code"}"#;
        let error = problem(StatusCode::CONFLICT, body);
        assert_eq!(error.to_string(), "code: the code is taken");
        assert_eq!(code_of(&error), Code::Failure);
        assert_eq!(code_of(&problem(StatusCode::BAD_REQUEST, body)), Code::Data);
        assert_eq!(code_of(&problem(StatusCode::SERVICE_UNAVAILABLE, b"x")), Code::Unavailable);
        assert_eq!(code_of(&problem(StatusCode::INSUFFICIENT_STORAGE, b"")), Code::Io);
        let plain = problem(StatusCode::BAD_GATEWAY, b"<html>").to_string();
        assert!(plain.contains("502"), "{plain}");
    }
}
