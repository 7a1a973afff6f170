//! HTTP/1.1 over the running server's Unix socket.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use axum::body::Body;
use http::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use crate::cli::exit::{Code, Failure};

/// A server that is alive takes a connection at once; one that is overloaded within this.
const CONNECT: Duration = Duration::from_secs(5);

/// The running server of a data directory. Each request has a connection of its own: a Unix
/// socket's costs some microseconds, and nothing has to be said about broken ones.
pub(crate) struct SocketClient {
    path: PathBuf,
}

impl SocketClient {
    /// The server behind the socket; `None` if nobody listens there (any more).
    pub(super) async fn find(path: &Path) -> anyhow::Result<Option<Self>> {
        match connect(path).await {
            Ok(_) => Ok(Some(Self { path: path.to_owned() })),
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) =>
            {
                Ok(None)
            }
            Err(error) => Err(unreachable(path, &error)),
        }
    }

    pub(super) async fn send(&self, request: Request<Body>) -> anyhow::Result<Response<Body>> {
        let stream = connect(&self.path).await.map_err(|error| unreachable(&self.path, &error))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake::<_, Body>(TokioIo::new(stream))
                .await
                .context("speak to the running server")?;
        // Errors of the connection reach the one request on it as well.
        tokio::spawn(async move {
            let _seen_by_the_request = connection.await;
        });
        let response = sender.send_request(request).await.map_err(|error| {
            let text =
                format!("the running server broke off: {error}; see its log, then try again");
            Failure::error(Code::Unavailable, text)
        })?;
        Ok(response.map(Body::new))
    }
}

async fn connect(path: &Path) -> std::io::Result<UnixStream> {
    tokio::time::timeout(CONNECT, UnixStream::connect(path))
        .await
        .unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
}

fn unreachable(path: &Path, error: &std::io::Error) -> anyhow::Error {
    let remedy = if error.kind() == ErrorKind::PermissionDenied {
        "run this as the user the server runs as"
    } else {
        "see the server's log, then try again"
    };
    let text = format!("can't reach the running server at {}: {error}; {remedy}", path.display());
    Failure::error(Code::Unavailable, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_socket_and_a_stale_one_are_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shunt.sock");
        assert!(SocketClient::find(&path).await.unwrap().is_none());
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        assert!(SocketClient::find(&path).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn requests_go_through() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shunt.sock");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let router = axum::Router::new()
            .route("/echo", axum::routing::post(|body: String| async move { body + "!" }));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = hyper_util::service::TowerToHyperService::new(router.clone());
                let connection = hyper::server::conn::http1::Builder::new();
                tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
            }
        });
        let client = SocketClient::find(&path).await.unwrap().unwrap();
        for text in ["a", "b"] {
            let request = Request::post("/echo").header("host", "x").body(Body::from(text));
            let response = client.send(request.unwrap()).await.unwrap();
            let body = axum::body::to_bytes(response.into_body(), 100).await.unwrap();
            assert_eq!(body, format!("{text}!"));
        }
    }
}
