//! One HTTP/1.1 request at a time on a blocking socket: for checks, not for load.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, bail, ensure};

/// A connection that is kept.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<TcpStream>,
    host: String,
    /// Sent with every request, each with its line end.
    pub headers: String,
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// The head as it came, with the empty line.
    pub head: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

impl Client {
    /// # Errors
    /// Nobody listens there.
    pub fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        let stream =
            TcpStream::connect(address).with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        Ok(Self {
            stream: BufReader::new(stream),
            host: address.to_string(),
            headers: String::new(),
        })
    }

    /// # Errors
    /// The connection ended or the answer is none.
    pub fn get(&mut self, path: &str) -> anyhow::Result<Answer> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n{}\r\n", self.host, self.headers);
        self.send(&request).with_context(|| format!("GET {path}"))
    }

    /// Changes what is at a path by a JSON merge patch.
    ///
    /// # Errors
    /// The connection ended or the answer is none.
    pub fn patch(&mut self, path: &str, body: &str) -> anyhow::Result<Answer> {
        let request = format!(
            "PATCH {path} HTTP/1.1\r\nHost: {}\r\n{}Content-Type: application/merge-patch+json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            self.host,
            self.headers,
            body.len()
        );
        self.send(&request).with_context(|| format!("PATCH {path}"))
    }

    fn send(&mut self, request: &str) -> anyhow::Result<Answer> {
        self.stream.get_mut().write_all(request.as_bytes()).context("send the request")?;
        self.answer().context("read the answer")
    }

    fn answer(&mut self) -> anyhow::Result<Answer> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            ensure!(head.len() < 64 * 1024, "the head has no end");
            ensure!(self.stream.read_line(&mut head)? > 0, "the connection ended");
        }
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .context("the status line is none")?;
        let mut answer = Answer { status, head, body: Vec::new() };
        if answer.header("transfer-encoding").is_some() {
            loop {
                let mut size = String::new();
                self.stream.read_line(&mut size)?;
                let size = usize::from_str_radix(size.trim(), 16).context("read a chunk's size")?;
                let start = answer.body.len();
                answer.body.resize(start + size + 2, 0);
                self.stream.read_exact(answer.body.get_mut(start..).unwrap_or_default())?;
                answer.body.truncate(start + size);
                if size == 0 {
                    return Ok(answer);
                }
            }
        }
        let length: usize = match answer.header("content-length") {
            Some(length) => length.parse().context("read the length")?,
            None => bail!("the answer has no length"),
        };
        answer.body.resize(length, 0);
        self.stream.read_exact(&mut answer.body)?;
        Ok(answer)
    }
}
