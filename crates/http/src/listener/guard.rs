//! Deadlines of a connection, for every phase and under every protocol.
//!
//! First byte, request head, idle keep-alive and a stalled write are four deadlines. None needs a
//! timer of its own: a connection notes the tick by which something must have happened, and one
//! sweep per tick and core wakes those that are late. Setting a deadline is storing a number.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How long one tick of the sweep is. Deadlines are late by at most this much.
pub const TICK: Duration = Duration::from_millis(100);

/// The deadlines, in ticks.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// From accept to the first byte (TLS handshake and PROXY header included).
    pub first_byte: u32,
    /// From the first byte of a request to the end of its head.
    pub head: u32,
    /// Between requests.
    pub idle: u32,
    /// Without progress while the peer does not read.
    pub write: u32,
}

impl Deadlines {
    /// Whole ticks of a duration, rounded up, at least one.
    pub fn ticks(duration: Duration) -> u32 {
        let ticks = duration.as_millis().div_ceil(TICK.as_millis());
        u32::try_from(ticks).unwrap_or(u32::MAX / 2).max(1)
    }
}

/// What a connection is waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Its first byte.
    First,
    /// The rest of a request's head.
    Head,
    /// Us: a handler is at work, or its body is being read (which has deadlines of its own).
    Busy,
    /// The next request.
    Idle,
}

const NEVER: u32 = u32::MAX;

/// The state of one connection that the sweep looks at.
pub struct ConnState {
    phase: Cell<Phase>,
    deadline: Cell<u32>,
    expired: Cell<bool>,
    stalled: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    now: Rc<Cell<u32>>,
    deadlines: Deadlines,
}

impl ConnState {
    /// What the connection waits for.
    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// A request is being handled: the connection itself has no deadline.
    pub fn busy(&self) {
        self.phase.set(Phase::Busy);
        self.deadline.set(NEVER);
    }

    /// The answer is on its way: from now on the peer is waited for.
    pub fn idle(&self) {
        self.phase.set(Phase::Idle);
        self.stalled.set(false);
        self.deadline.set(self.now.get() + self.deadlines.idle);
    }

    /// Whether no byte of a request has come and none is answered.
    pub fn is_quiet(&self) -> bool {
        matches!(self.phase.get(), Phase::Idle | Phase::First)
    }

    /// Ends the connection at the latest `ticks` from now.
    pub fn hurry(&self, ticks: u32) {
        self.deadline.set(self.deadline.get().min(self.now.get() + ticks));
    }

    /// Whether the sweep has given up on it.
    pub fn expired(&self) -> bool {
        self.expired.get()
    }

    fn bytes_came(&self) {
        if matches!(self.phase.get(), Phase::First | Phase::Idle) {
            self.phase.set(Phase::Head);
            self.deadline.set(self.now.get() + self.deadlines.head);
        }
    }

    fn write_stalled(&self) {
        if !self.stalled.replace(true) {
            self.deadline.set(self.now.get() + self.deadlines.write);
        }
    }

    fn write_went(&self) {
        self.stalled.set(false);
        match self.phase.get() {
            Phase::Idle => self.deadline.set(self.now.get() + self.deadlines.idle),
            Phase::Busy => self.deadline.set(NEVER),
            Phase::First | Phase::Head => {}
        }
    }

    fn remember(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        match &mut *waker {
            Some(known) if known.will_wake(cx.waker()) => {}
            slot => *slot = Some(cx.waker().clone()),
        }
    }
}

/// All connections of one core.
#[derive(Default)]
pub struct Registry {
    slots: RefCell<Vec<Option<Rc<ConnState>>>>,
    free: RefCell<Vec<usize>>,
    now: Rc<Cell<u32>>,
}

impl Registry {
    /// Registers a connection that was just accepted.
    pub fn register(self: &Rc<Self>, deadlines: Deadlines) -> Registered {
        let state = Rc::new(ConnState {
            phase: Cell::new(Phase::First),
            deadline: Cell::new(self.now.get() + deadlines.first_byte),
            expired: Cell::new(false),
            stalled: Cell::new(false),
            waker: RefCell::new(None),
            now: Rc::clone(&self.now),
            deadlines,
        });
        let mut slots = self.slots.borrow_mut();
        let slot = self.free.borrow_mut().pop().unwrap_or_else(|| {
            slots.push(None);
            slots.len() - 1
        });
        if let Some(place) = slots.get_mut(slot) {
            *place = Some(Rc::clone(&state));
        }
        Registered { registry: Rc::clone(self), slot, state }
    }

    /// How many connections there are.
    pub fn len(&self) -> usize {
        self.slots.borrow().len() - self.free.borrow().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Advances to `tick` and wakes every connection that is late; answers how many in each phase
    /// (first byte, head, idle, write).
    pub fn sweep(&self, tick: u32) -> [u64; 4] {
        self.now.set(tick);
        let mut late = [0; 4];
        for state in self.slots.borrow().iter().flatten() {
            if state.deadline.get() > tick || state.expired.replace(true) {
                continue;
            }
            late[match (state.stalled.get(), state.phase.get()) {
                (true, _) | (_, Phase::Busy) => 3,
                (_, Phase::First) => 0,
                (_, Phase::Head) => 1,
                (_, Phase::Idle) => 2,
            }] += 1;
            if let Some(waker) = state.waker.borrow_mut().take() {
                waker.wake();
            }
        }
        late
    }

    /// Wakes every connection that waits for its next request, to look whether it should go on
    /// waiting here.
    pub fn wake_idle(&self) {
        for state in self.slots.borrow().iter().flatten() {
            if state.is_quiet()
                && let Some(waker) = state.waker.borrow_mut().take()
            {
                waker.wake();
            }
        }
    }

    /// Tells every connection that waits for its next request to end soon.
    pub fn hurry_idle(&self, ticks: u32) {
        for state in self.slots.borrow().iter().flatten() {
            if state.is_quiet() {
                state.hurry(ticks);
            }
        }
    }
}

/// A registered connection; leaves the registry when dropped.
pub struct Registered {
    registry: Rc<Registry>,
    slot: usize,
    state: Rc<ConnState>,
}

impl Registered {
    /// The connection's state.
    pub const fn state(&self) -> &Rc<ConnState> {
        &self.state
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        if let Some(place) = self.registry.slots.borrow_mut().get_mut(self.slot) {
            *place = None;
            self.registry.free.borrow_mut().push(self.slot);
        }
    }
}

/// A stream whose reads and writes keep the connection's deadlines.
pub struct Guarded<IO> {
    io: IO,
    conn: Registered,
}

impl<IO> Guarded<IO> {
    /// Guards a stream.
    pub const fn new(io: IO, conn: Registered) -> Self {
        Self { io, conn }
    }

    /// The connection's state.
    pub const fn state(&self) -> &Rc<ConnState> {
        &self.conn.state
    }

    /// The stream and its registration, to wrap the stream in another protocol.
    pub fn into_parts(self) -> (IO, Registered) {
        (self.io, self.conn)
    }
}

fn too_late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the connection's deadline passed")
}

impl<IO: AsyncRead + Unpin> AsyncRead for Guarded<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.conn.state.expired() {
            return Poll::Ready(Err(too_late()));
        }
        let before = buf.filled().len();
        let result = Pin::new(&mut self.io).poll_read(cx, buf);
        match &result {
            Poll::Pending => self.conn.state.remember(cx),
            Poll::Ready(Ok(())) if buf.filled().len() > before => self.conn.state.bytes_came(),
            Poll::Ready(_) => {}
        }
        result
    }
}

impl<IO: AsyncWrite + Unpin> Guarded<IO> {
    fn watch_write(
        &self,
        cx: &Context<'_>,
        result: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match &result {
            Poll::Pending => {
                self.conn.state.remember(cx);
                self.conn.state.write_stalled();
            }
            Poll::Ready(Ok(_)) => self.conn.state.write_went(),
            Poll::Ready(Err(_)) => {}
        }
        result
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Guarded<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.conn.state.expired() {
            return Poll::Ready(Err(too_late()));
        }
        let result = Pin::new(&mut self.io).poll_write(cx, buf);
        self.watch_write(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.conn.state.expired() {
            return Poll::Ready(Err(too_late()));
        }
        let result = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.watch_write(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.conn.state.expired() {
            return Poll::Ready(Err(too_late()));
        }
        let result = Pin::new(&mut self.io).poll_flush(cx);
        if result.is_pending() {
            self.conn.state.remember(cx);
        }
        result
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.conn.state.expired() {
            return Poll::Ready(Ok(()));
        }
        let result = Pin::new(&mut self.io).poll_shutdown(cx);
        if result.is_pending() {
            self.conn.state.remember(cx);
        }
        result
    }
}

/// A stream with bytes in front of it that were read already.
pub struct Prefixed<IO> {
    prefix: Vec<u8>,
    at: usize,
    io: IO,
}

impl<IO> Prefixed<IO> {
    /// `prefix`, then the stream.
    pub const fn new(prefix: Vec<u8>, io: IO) -> Self {
        Self { prefix, at: 0, io }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Prefixed<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(rest) = this.prefix.get(this.at..).filter(|rest| !rest.is_empty()) {
            let n = rest.len().min(buf.remaining());
            buf.put_slice(&rest[..n]);
            this.at += n;
            if this.at == this.prefix.len() {
                this.prefix = Vec::new();
                this.at = 0;
            }
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.io).poll_read(cx, buf)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Prefixed<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const DEADLINES: Deadlines = Deadlines { first_byte: 5, head: 3, idle: 10, write: 4 };

    #[tokio::test]
    async fn a_silent_connection_ends_at_the_first_byte_deadline() {
        let registry = Rc::new(Registry::default());
        let (near, _far) = tokio::io::duplex(64);
        let mut guarded = Guarded::new(near, registry.register(DEADLINES));
        let mut byte = [0; 1];
        let mut read = Box::pin(guarded.read(&mut byte));
        assert!(futures_util::poll!(&mut read).is_pending());
        assert_eq!(registry.sweep(4), [0; 4]);
        assert!(futures_util::poll!(&mut read).is_pending());
        assert_eq!(registry.sweep(5), [1, 0, 0, 0]);
        assert_eq!(read.await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn half_a_head_ends_at_the_head_deadline_however_it_drips() {
        let registry = Rc::new(Registry::default());
        let (near, mut far) = tokio::io::duplex(64);
        let mut guarded = Guarded::new(near, registry.register(DEADLINES));
        let mut byte = [0; 1];
        for tick in 0..3 {
            registry.sweep(tick);
            far.write_all(b"G").await.unwrap();
            guarded.read_exact(&mut byte).await.unwrap();
        }
        assert_eq!(registry.sweep(3), [0, 1, 0, 0], "dripping bytes must not renew the deadline");
        assert!(guarded.read(&mut byte).await.is_err());
    }

    #[tokio::test]
    async fn idle_and_busy_have_their_own_rules() {
        let registry = Rc::new(Registry::default());
        let (near, _far) = tokio::io::duplex(64);
        let guarded = Guarded::new(near, registry.register(DEADLINES));
        guarded.state().busy();
        assert_eq!(registry.sweep(1_000), [0; 4], "a handler at work is not the peer's fault");
        guarded.state().idle();
        assert_eq!(registry.sweep(1_009), [0; 4]);
        assert_eq!(registry.sweep(1_010), [0, 0, 1, 0]);
    }

    #[tokio::test]
    async fn a_reader_that_does_not_read_ends_at_the_write_deadline() {
        let registry = Rc::new(Registry::default());
        let (near, _far) = tokio::io::duplex(4);
        let mut guarded = Guarded::new(near, registry.register(DEADLINES));
        guarded.state().idle();
        let mut write = Box::pin(guarded.write_all(b"more than fits"));
        assert!(futures_util::poll!(&mut write).is_pending());
        assert_eq!(registry.sweep(4), [0, 0, 0, 1]);
        assert!(write.await.is_err());
    }

    #[test]
    fn a_connection_leaves_the_registry_when_it_ends() {
        let registry = Rc::new(Registry::default());
        let one = registry.register(DEADLINES);
        let two = registry.register(DEADLINES);
        assert_eq!(registry.len(), 2);
        drop(one);
        assert_eq!(registry.len(), 1);
        let _three = registry.register(DEADLINES);
        drop(two);
        assert_eq!(registry.len(), 1);
    }
}
