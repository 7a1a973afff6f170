//! A TCP relay that can fall silent: what a cut cable, a host without power or a router that forgot
//! its connections leaves behind. Both ends keep their connection, nobody is told that it is over,
//! and whatever they send goes nowhere.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::ports::Port;

/// How long the other end may take to be connected to.
const CONNECT: Duration = Duration::from_secs(5);

/// A relay on a loopback port of its own, with threads for each connection.
#[derive(Debug)]
pub struct Relay {
    port: Port,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    state: Mutex<State>,
    swallowed: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    silent: bool,
    stopping: bool,
    pairs: Vec<Arc<Pair>>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection: the client's half, and the target's unless there was silence when it came.
#[derive(Debug)]
struct Pair {
    client: TcpStream,
    target: Option<TcpStream>,
    silent: AtomicBool,
    /// Directions that are still read.
    open: AtomicUsize,
}

impl Pair {
    fn close(&self) {
        for stream in std::iter::once(&self.client).chain(&self.target) {
            // It may be closed already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Carries one direction until its sender ends, which the receiver is told unless there is
    /// silence.
    fn pump(&self, from: &TcpStream, to: Option<&TcpStream>, swallowed: &AtomicU64) {
        let (mut from, mut buffer) = (from, [0; 16 * 1024]);
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            let bytes = buffer.get(..read).unwrap_or_default();
            match to.filter(|_| !self.silent.load(Ordering::Acquire)) {
                Some(mut to) => {
                    if to.write_all(bytes).is_err() {
                        break;
                    }
                }
                None => {
                    swallowed.fetch_add(read as u64, Ordering::Relaxed);
                }
            }
        }
        if !self.silent.load(Ordering::Acquire)
            && let Some(to) = to
        {
            let _ = to.shutdown(Shutdown::Write);
        }
        self.open.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Relay {
    /// Starts a relay to `target`, which need not be there yet: a connection that can't be carried
    /// on is closed.
    ///
    /// # Errors
    /// When there is no port or no thread.
    pub fn start(target: SocketAddr) -> Result<Self> {
        let port = Port::lease()?;
        let listener = TcpListener::bind(port.address()).context("listen as a relay")?;
        let shared =
            Arc::new(Shared { target, state: Mutex::default(), swallowed: AtomicU64::new(0) });
        let accepting = Arc::clone(&shared);
        let acceptor = std::thread::Builder::new().name("relay".to_owned()).spawn(move || {
            for stream in listener.incoming().flatten() {
                if accepting.state().stopping {
                    return;
                }
                // The client sees a connection that is closed at once.
                let _ = carry(&accepting, stream);
            }
        })?;
        Ok(Self { port, shared, acceptor: Some(acceptor) })
    }

    /// Where it listens.
    pub fn socket(&self) -> SocketAddr {
        self.port.address()
    }

    /// Falls silent both ways: on the connections there are, for ever, and on those that come, as
    /// long as it is not [`Self::resume`]d. Answers how many connections there were.
    pub fn silence(&self) -> usize {
        self.shared.state().silent = true;
        self.strand(|_| true)
    }

    /// Falls silent for ever on those of the connections there are that `choose` picks by their
    /// number, the oldest being 0. Others, and those that come, go on. Answers how many fell silent.
    pub fn strand(&self, mut choose: impl FnMut(usize) -> bool) -> usize {
        let mut state = self.shared.state();
        let alive = |pair: &Arc<Pair>| {
            pair.open.load(Ordering::Acquire) > 0 && !pair.silent.load(Ordering::Acquire)
        };
        state.pairs.retain(|pair| pair.open.load(Ordering::Acquire) > 0);
        let alive = state.pairs.iter().filter(|pair| alive(pair)).enumerate();
        let chosen = alive.filter(|(number, _)| choose(*number));
        chosen.map(|(_, pair)| pair.silent.store(true, Ordering::Release)).count()
    }

    /// Carries new connections again. Those that met the silence stay silent and open: the half-open
    /// connections that a fault of the network leaves when it is over.
    pub fn resume(&self) {
        self.shared.state().silent = false;
    }

    /// How many bytes have gone nowhere. A test in which this is 0 proved nothing.
    pub fn swallowed(&self) -> u64 {
        self.shared.swallowed.load(Ordering::Relaxed)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.state().stopping = true;
        // The acceptor looks at its state when somebody comes.
        let woken = TcpStream::connect_timeout(&self.socket(), CONNECT).is_ok();
        if let Some(acceptor) = self.acceptor.take()
            && woken
        {
            let _ = acceptor.join();
        }
        // Their threads end with them.
        self.shared.state().pairs.iter().for_each(|pair| pair.close());
    }
}

/// Connects a client on and starts the threads of its two directions.
fn carry(shared: &Arc<Shared>, client: TcpStream) -> Result<()> {
    let silent = shared.state().silent;
    let target = if silent {
        None
    } else {
        let target = TcpStream::connect_timeout(&shared.target, CONNECT)?;
        target.set_nodelay(true)?;
        client.set_nodelay(true)?;
        Some(target)
    };
    let directions = if target.is_some() { 2 } else { 1 };
    let pair = Arc::new(Pair {
        client,
        target,
        silent: AtomicBool::new(silent),
        open: AtomicUsize::new(directions),
    });
    let mut state = shared.state();
    // Silence may have fallen meanwhile.
    pair.silent.fetch_or(state.silent, Ordering::AcqRel);
    state.pairs.retain(|pair| pair.open.load(Ordering::Acquire) > 0);
    state.pairs.push(Arc::clone(&pair));
    drop(state);
    if pair.target.is_some() {
        let (pair, shared) = (Arc::clone(&pair), Arc::clone(shared));
        spawn(move || {
            if let Some(target) = &pair.target {
                pair.pump(target, Some(&pair.client), &shared.swallowed);
            }
        })?;
    }
    let shared = Arc::clone(shared);
    spawn(move || pair.pump(&pair.client, pair.target.as_ref(), &shared.swallowed))
}

fn spawn(work: impl FnOnce() + Send + 'static) -> Result<()> {
    let thread = std::thread::Builder::new().name("relay".to_owned()).stack_size(128 * 1024);
    thread.spawn(work).context("start a thread of a relay").map(|_| ())
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    /// A server that sends back what it gets, on as many connections as come.
    fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    let mut reader = stream.try_clone().unwrap();
                    let _ = std::io::copy(&mut reader, &mut &stream);
                });
            }
        });
        address
    }

    fn open(relay: &Relay) -> TcpStream {
        let stream = TcpStream::connect(relay.socket()).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        stream
    }

    fn heard(mut stream: &TcpStream, word: &[u8]) -> Result<Vec<u8>, ErrorKind> {
        stream.write_all(word).unwrap();
        let mut answer = [0; 16];
        let read = stream.read(&mut answer).map_err(|error| error.kind())?;
        Ok(answer[..read].to_vec())
    }

    #[test]
    fn silence_is_neither_an_answer_nor_an_end_and_those_who_met_it_never_hear_again() {
        let relay = Relay::start(echo()).unwrap();
        let (old, other) = (open(&relay), open(&relay));
        for stream in [&old, &other] {
            assert_eq!(heard(stream, b"hello"), Ok(b"hello".to_vec()));
        }
        assert_eq!((relay.silence(), relay.swallowed()), (2, 0));
        let new = open(&relay);
        for stream in [&old, &new] {
            assert_eq!(heard(stream, b"anybody"), Err(ErrorKind::WouldBlock));
        }
        assert!(relay.swallowed() >= 14, "{}", relay.swallowed());
        relay.resume();
        for stream in [&old, &new] {
            assert_eq!(heard(stream, b"still"), Err(ErrorKind::WouldBlock));
        }
        let after = open(&relay);
        assert_eq!(heard(&after, b"again"), Ok(b"again".to_vec()));
        // An end is passed on where there is no silence.
        after.shutdown(Shutdown::Write).unwrap();
        assert_eq!((&after).read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn a_relay_that_is_dropped_closes_what_it_carried() {
        let relay = Relay::start(echo()).unwrap();
        let stream = open(&relay);
        assert_eq!(heard(&stream, b"hello"), Ok(b"hello".to_vec()));
        drop(relay);
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        assert_eq!((&stream).read(&mut [0]).unwrap_or(0), 0);
    }
}
