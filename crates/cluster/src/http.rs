//! A small blocking HTTP/1.1 client for tests: it sends what it is told, byte for byte, and reads
//! answers strictly, so that a malformed answer is an error and not a guess.

use std::fmt;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

/// How long one read or write may take unless a caller sets it otherwise.
pub const TIMEOUT: Duration = Duration::from_secs(20);

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A Unix domain socket.
    Unix(PathBuf),
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn set_read_timeout(&self, timeout: Duration) -> std::io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_read_timeout(Some(timeout)),
            Self::Unix(stream) => stream.set_read_timeout(Some(timeout)),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buf),
            Self::Unix(stream) => stream.read(buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(buf),
            Self::Unix(stream) => stream.write(buf),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A request. `Host` and, with a body, `Content-Length` are added unless a header of that name is
/// given.
#[derive(Clone, Debug)]
pub struct Request {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    /// A request without headers and body.
    pub fn new(method: impl Into<String>, target: impl Into<String>) -> Self {
        Self { method: method.into(), target: target.into(), headers: Vec::new(), body: Vec::new() }
    }

    /// A `GET`.
    pub fn get(target: impl Into<String>) -> Self {
        Self::new("GET", target)
    }

    /// A `POST` of a JSON text.
    pub fn post_json(target: impl Into<String>, json: &serde_json::Value) -> Self {
        Self::new("POST", target).json(json)
    }

    /// Sets a JSON body.
    #[must_use]
    pub fn json(self, json: &serde_json::Value) -> Self {
        self.header("Content-Type", "application/json").body(json.to_string())
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Adds the API key.
    #[must_use]
    pub fn key(self, key: &str) -> Self {
        self.header("Authorization", format!("Bearer {key}"))
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// The bytes on the wire, for a server known as `host`.
    pub fn to_bytes(&self, host: &str) -> Vec<u8> {
        use std::fmt::Write as _;
        let has = |name: &str| self.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        if !has("host") {
            let _ = write!(head, "Host: {host}\r\n");
        }
        for (name, value) in &self.headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        let wants_length = !self.body.is_empty() || !matches!(&*self.method, "GET" | "HEAD");
        if wants_length && !has("content-length") && !has("transfer-encoding") {
            let _ = write!(head, "Content-Length: {}\r\n", self.body.len());
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// An answer.
#[derive(Clone, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Names lower-cased, in order, duplicates kept.
    pub headers: Vec<(String, String)>,
    /// The body, transfer coding removed.
    pub body: Vec<u8>,
}

impl Response {
    /// The first header of this name (lower-case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// `Location`, or nothing.
    pub fn location(&self) -> &str {
        self.header("location").unwrap_or_default()
    }

    /// Whether the connection ends with this answer.
    pub fn closes(&self) -> bool {
        self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// When it is none.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("no JSON: {self:?}"))
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body: String = self.text().chars().take(600).collect();
        write!(f, "{} {:?} {body:?}", self.status, self.headers)
    }
}

/// One connection.
pub struct Connection {
    stream: BufReader<Stream>,
    host: String,
}

impl Connection {
    /// Opens a connection.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn open(address: &Address) -> Result<Self> {
        let (stream, host) = match address {
            Address::Tcp(socket) => {
                let stream = TcpStream::connect_timeout(socket, TIMEOUT)
                    .with_context(|| format!("connect to {socket}"))?;
                stream.set_nodelay(true)?;
                stream.set_write_timeout(Some(TIMEOUT))?;
                (Stream::Tcp(stream), socket.to_string())
            }
            Address::Unix(path) => {
                let stream = UnixStream::connect(path)
                    .with_context(|| format!("connect to {}", path.display()))?;
                stream.set_write_timeout(Some(TIMEOUT))?;
                (Stream::Unix(stream), "localhost".to_owned())
            }
        };
        stream.set_read_timeout(TIMEOUT)?;
        Ok(Self { stream: BufReader::new(stream), host })
    }

    /// How long one read may take.
    ///
    /// # Errors
    /// When the socket refuses.
    pub fn read_timeout(&self, timeout: Duration) -> Result<()> {
        Ok(self.stream.get_ref().set_read_timeout(timeout)?)
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// When the other side is gone.
    pub fn send_raw(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.get_mut().write_all(bytes).context("send")
    }

    /// Says that nothing more will be sent.
    ///
    /// # Errors
    /// When the other side is gone.
    pub fn finish_sending(&self) -> Result<()> {
        match self.stream.get_ref() {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write)?,
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write)?,
        }
        Ok(())
    }

    /// Sends a request and reads its answer.
    ///
    /// # Errors
    /// When the connection breaks or the answer is malformed.
    pub fn ask(&mut self, request: &Request) -> Result<Response> {
        let bytes = request.to_bytes(&self.host);
        self.send_raw(&bytes)?;
        self.read(request.method == "HEAD")
    }

    /// Reads one answer; `head` when it answers a `HEAD`.
    ///
    /// # Errors
    /// When the connection breaks or the answer is malformed.
    pub fn read(&mut self, head: bool) -> Result<Response> {
        loop {
            let response = self.read_one(head)?;
            // Interim answers (100 Continue) come before the answer.
            if response.status >= 200 {
                return Ok(response);
            }
        }
    }

    fn line(&mut self) -> Result<String> {
        let mut line = Vec::new();
        let limit = 128 * 1024;
        let read = self.stream.by_ref().take(limit).read_until(b'\n', &mut line);
        read.context("read the answer's head")?;
        if line.is_empty() {
            bail!("the connection was closed before an answer");
        }
        let Some(text) = line.strip_suffix(b"\r\n") else {
            bail!("a line of the head has no CR LF: {:?}", String::from_utf8_lossy(&line));
        };
        String::from_utf8(text.to_vec()).context("the answer's head is not UTF-8")
    }

    fn read_one(&mut self, head: bool) -> Result<Response> {
        let start = self.line()?;
        let status = start
            .strip_prefix("HTTP/1.1 ")
            .or_else(|| start.strip_prefix("HTTP/1.0 "))
            .and_then(|rest| rest.get(..3)?.parse::<u16>().ok())
            .ok_or_else(|| anyhow!("no status line: {start:?}"))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) =
                line.split_once(':').ok_or_else(|| anyhow!("no header: {line:?}"))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut response = Response { status, headers, body: Vec::new() };
        let bodiless = head || status < 200 || status == 204 || status == 304;
        if !bodiless {
            response.body = self.read_body(&response)?;
        }
        Ok(response)
    }

    fn read_body(&mut self, response: &Response) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        let chunked = response.header("transfer-encoding").is_some();
        if chunked && response.header("content-length").is_some() {
            bail!("an answer with both lengths: {response:?}");
        }
        if chunked {
            loop {
                let line = self.line()?;
                let size = line.split(';').next().unwrap_or_default();
                let size = usize::from_str_radix(size, 16)
                    .with_context(|| format!("chunk size {line:?}"))?;
                let mut chunk = vec![0; size];
                self.stream.read_exact(&mut chunk).context("read a chunk")?;
                body.extend_from_slice(&chunk);
                if !self.line()?.is_empty() {
                    bail!("a chunk is longer than it says");
                }
                if size == 0 {
                    return Ok(body);
                }
            }
        }
        if let Some(length) = response.header("content-length") {
            let length: usize = length.parse().context("Content-Length")?;
            body.resize(length, 0);
            self.stream.read_exact(&mut body).context("read the body")?;
        } else {
            self.stream.read_to_end(&mut body).context("read the body to the end")?;
        }
        Ok(body)
    }

    /// Reads whatever comes until the other side closes, at most `limit` bytes: `(bytes, closed)`.
    /// A reset counts as closed; a read that times out does not.
    pub fn drain(&mut self, limit: usize) -> (Vec<u8>, bool) {
        let mut bytes = Vec::new();
        let mut buffer = [0; 16 * 1024];
        while bytes.len() < limit {
            match self.stream.read(&mut buffer) {
                Ok(0) => return (bytes, true),
                Ok(n) => bytes.extend_from_slice(buffer.get(..n).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    let timed_out =
                        matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
                    return (bytes, !timed_out);
                }
            }
        }
        (bytes, false)
    }
}

/// Sends one request over a connection of its own.
///
/// # Errors
/// When nobody listens, the connection breaks, or the answer is malformed.
pub fn ask(address: &Address, request: &Request) -> Result<Response> {
    Connection::open(address)?.ask(request)
}

/// Splits bytes into the answers they hold, as a client that sent only `GET`s would.
///
/// # Errors
/// When the bytes are not a whole number of well-formed answers.
pub fn split_answers(bytes: &[u8]) -> Result<Vec<Response>> {
    let (ours, mut theirs) = UnixStream::pair()?;
    let mut connection =
        Connection { stream: BufReader::new(Stream::Unix(ours)), host: String::new() };
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || {
        // A reader that gives up early is told by its own error.
        let _ = theirs.write_all(&bytes);
    });
    let mut answers = Vec::new();
    let result = loop {
        match connection.stream.fill_buf() {
            Ok([]) => break Ok(answers),
            Ok(_) => match connection.read_one(false) {
                Ok(answer) => answers.push(answer),
                Err(error) => break Err(error),
            },
            Err(error) => break Err(error.into()),
        }
    };
    drop(connection);
    let _ = writer.join();
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_split_by_their_own_lengths() {
        let bytes = b"HTTP/1.1 302 Found\r\nLocation: http://a/\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 400 Bad Request\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
        let answers = split_answers(bytes).unwrap();
        assert_eq!(answers.len(), 2);
        assert_eq!((answers[0].status, answers[0].location()), (302, "http://a/"));
        assert_eq!(answers[1].text(), "abc");
    }

    #[test]
    fn malformed_answers_are_errors() {
        for bytes in [
            &b"HTTP/1.1 200 OK\nContent-Length: 0\n\n"[..],
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"garbage\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nno header\r\n\r\n",
        ] {
            assert!(split_answers(bytes).is_err(), "{}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn a_request_has_its_host_and_length_unless_given() {
        let text = |request: Request| String::from_utf8(request.to_bytes("h:1")).unwrap();
        assert_eq!(text(Request::get("/x")), "GET /x HTTP/1.1\r\nHost: h:1\r\n\r\n");
        let post = Request::new("POST", "/").header("host", "other").body("ab");
        assert_eq!(text(post), "POST / HTTP/1.1\r\nhost: other\r\nContent-Length: 2\r\n\r\nab");
    }
}
