//! The floor: the least a Rust server on this runtime can do for a redirect.
//!
//! One thread per core, each with its own current-thread runtime and its own `SO_REUSEPORT`
//! listener; a task per connection that reads into a scratch buffer shared by the thread, parses
//! the request head with `httparse` and writes one fixed answer. No routing, no lookup, no clock,
//! no counting, no deadlines: whatever `shunt serve` costs above this is what its redirect path
//! costs. It is a bench target and not a server; it binds loopback addresses only.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};

use anyhow::{Context as _, bail};
use clap::Parser;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

/// What is answered when no `--answer-file` is given: the redirect head of `shunt serve`.
const ANSWER: &[u8] = b"HTTP/1.1 302 Found\r\n\
    location: https://www.example.com/articles/2026/11/a-target-of-middling-length-000001\r\n\
    cache-control: private, max-age=0\r\n\
    referrer-policy: strict-origin-when-cross-origin\r\n\
    content-length: 0\r\n\
    date: Sun, 22 Nov 2026 06:00:00 GMT\r\n\r\n";

/// Size of the read buffer each thread shares among its connections, in bytes.
const SCRATCH: usize = 16 * 1024;

/// Largest request head, in bytes; a connection that sends more is closed.
const MAX_HEAD: usize = 16 * 1024;

/// Answers every request with one fixed redirect.
#[derive(Parser)]
struct Args {
    /// Address to listen on; loopback only.
    #[arg(long, default_value = "127.0.0.1:8099")]
    listen: SocketAddr,
    /// Threads, each with a listener and a runtime of its own.
    #[arg(long, default_value_t = 1)]
    cores: usize,
    /// File whose bytes are the answer, head and body; the harness stores a real answer of
    /// `shunt serve` there.
    #[arg(long)]
    answer_file: Option<PathBuf>,
}

thread_local! {
    static SCRATCH_BUFFER: RefCell<Box<[u8; SCRATCH]>> = RefCell::new(Box::new([0; SCRATCH]));
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if !args.listen.ip().is_loopback() {
        bail!("floor: {} is not a loopback address; it is a bench target only", args.listen);
    }
    let answer: &'static [u8] = match &args.answer_file {
        Some(path) => std::fs::read(path)
            .with_context(|| format!("read the answer from {}", path.display()))?
            .leak(),
        None => ANSWER,
    };
    let mut threads = Vec::new();
    for _ in 0..args.cores.max(1) {
        let listener = listen(args.listen).with_context(|| format!("listen on {}", args.listen))?;
        threads.push(std::thread::spawn(move || serve(listener, answer)));
    }
    for thread in threads {
        thread.join().map_err(|_| anyhow::anyhow!("a core of floor panicked"))??;
    }
    Ok(())
}

fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

fn serve(listener: std::net::TcpListener, answer: &'static [u8]) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async move {
        let listener = TcpListener::from_std(listener)?;
        loop {
            // A failed accept (a client that gave up, no descriptor left) must not end the run.
            if let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(connection(stream, answer));
            }
        }
    })
}

/// Serves one connection until the peer leaves, sends rubbish or stops reading.
async fn connection(mut stream: TcpStream, answer: &'static [u8]) {
    // Bytes of a head that came in pieces; empty, and never allocated, in the usual case.
    let mut rest: Vec<u8> = Vec::new();
    loop {
        match poll_fn(|cx| step(&mut stream, cx, &mut rest, answer)).await {
            Ok(true) => {}
            Ok(false) | Err(_) => return,
        }
    }
}

/// Reads once and answers every whole request in what came. `Ok(false)` ends the connection.
fn step(
    stream: &mut TcpStream,
    cx: &mut Context<'_>,
    rest: &mut Vec<u8>,
    answer: &[u8],
) -> Poll<io::Result<bool>> {
    SCRATCH_BUFFER.with_borrow_mut(|scratch| {
        let mut buffer = ReadBuf::new(&mut scratch[..]);
        // `poll_read` and not `try_read`: a short read then clears the readiness by itself and
        // saves the second system call that only says "would block".
        match Pin::new(&mut *stream).poll_read(cx, &mut buffer) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => return Poll::Ready(Ok(false)),
            Poll::Ready(Ok(())) => {}
        }
        if rest.is_empty() {
            let (used, ok) = answer_all(stream, buffer.filled(), answer)?;
            rest.extend_from_slice(buffer.filled().get(used..).unwrap_or_default());
            Poll::Ready(Ok(ok))
        } else {
            rest.extend_from_slice(buffer.filled());
            let (used, ok) = answer_all(stream, rest, answer)?;
            rest.drain(..used);
            Poll::Ready(Ok(ok && rest.len() <= MAX_HEAD))
        }
    })
}

/// Answers each whole request in `input`; returns the bytes used and whether to go on.
fn answer_all(stream: &TcpStream, input: &[u8], answer: &[u8]) -> io::Result<(usize, bool)> {
    let mut used = 0;
    while let Some(head) = input.get(used..).filter(|left| !left.is_empty()) {
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(head) {
            Ok(httparse::Status::Complete(length)) => used += length,
            Ok(httparse::Status::Partial) => break,
            Err(_) => return Ok((used, false)),
        }
        if request.method.is_none_or(|method| method != "GET") || request.path.is_none() {
            return Ok((used, false));
        }
        // A peer that doesn't read its answers loses the connection: no buffering here.
        if stream.try_write(answer)? != answer.len() {
            return Ok((used, false));
        }
    }
    Ok((used, true))
}
