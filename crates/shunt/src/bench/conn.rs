//! One client connection: its socket, what is still to be written, what is waited for.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};

use socket2::{Domain, Protocol, Socket, Type};

/// A request on its way. Times are nanoseconds since the run began.
#[derive(Debug, Clone, Copy)]
pub(super) struct Inflight {
    /// When it was due.
    pub(super) intended: u64,
    /// When it was written.
    pub(super) sent: u64,
    pub(super) kind: Kind,
    /// Index of the key, or number of the create.
    pub(super) subject: u64,
}

/// What a request asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Create,
}

/// Where a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// No socket; the next attempt is due then.
    Down { retry_at: u64 },
    /// Under way since then.
    Connecting { since: u64 },
    /// Ready for requests.
    Up,
}

/// Longest wait between two attempts to connect, in nanoseconds.
const MAX_BACKOFF: u64 = 1_000_000_000;
/// First wait after a failed attempt, in nanoseconds.
const FIRST_BACKOFF: u64 = 10_000_000;

/// One connection slot; sockets come and go in it, each under its own generation.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) stream: Option<TcpStream>,
    pub(super) phase: Phase,
    /// Counts the sockets of this slot, so that leftovers of an earlier one are recognised.
    pub(super) generation: u32,
    pub(super) inflight: VecDeque<Inflight>,
    /// Bytes of an answer that is not whole yet.
    pub(super) rest: Vec<u8>,
    pub(super) out: Vec<u8>,
    written: usize,
    failures: u32,
}

impl Conn {
    pub(super) fn new() -> Self {
        Self {
            stream: None,
            phase: Phase::Down { retry_at: 0 },
            generation: 0,
            inflight: VecDeque::new(),
            rest: Vec::new(),
            out: Vec::new(),
            written: 0,
            failures: 0,
        }
    }

    /// Begins to connect; the socket is returned registered nowhere. It may be connected already.
    pub(super) fn connect(&mut self, address: SocketAddr, now: u64) -> io::Result<&TcpStream> {
        let domain = Domain::for_address(address);
        let socket = Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        socket.set_tcp_nodelay(true)?;
        match socket.connect(&address.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(IN_PROGRESS) => {}
            Err(error) => return Err(error),
        }
        self.generation = self.generation.wrapping_add(1);
        self.phase = Phase::Connecting { since: now };
        Ok(self.stream.insert(socket.into()))
    }

    /// The socket is writable: the connection stands, or its error is returned.
    pub(super) fn connected(&mut self) -> io::Result<()> {
        let stream = self.stream.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        match stream.take_error()? {
            Some(error) => Err(error),
            None => {
                self.phase = Phase::Up;
                self.failures = 0;
                Ok(())
            }
        }
    }

    /// Closes the socket and forgets what it carried; `failed` waits before the next attempt,
    /// longer each time in a row.
    pub(super) fn close(&mut self, now: u64, failed: bool) {
        self.stream = None;
        self.inflight.clear();
        self.rest.clear();
        self.out.clear();
        self.written = 0;
        let wait = if failed {
            self.failures = self.failures.saturating_add(1);
            (FIRST_BACKOFF << (self.failures - 1).min(16)).min(MAX_BACKOFF)
        } else {
            0
        };
        self.phase = Phase::Down { retry_at: now + wait };
    }

    /// Writes what is waiting, as far as the socket takes it.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let Some(stream) = self.stream.as_mut() else {
            return Ok(());
        };
        while let Some(left) = self.out.get(self.written..).filter(|left| !left.is_empty()) {
            match stream.write(left) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        self.written = 0;
        Ok(())
    }
}

/// `EINPROGRESS`: a connection attempt that goes on in the background.
const IN_PROGRESS: i32 = rustix::io::Errno::INPROGRESS.raw_os_error();
