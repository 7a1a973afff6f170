//! Passing listening sockets on to the next process, so that a restart drops nothing.
//!
//! The running server offers its sockets on `handover.sock` (0600) in the data directory. The next
//! process connects, receives all descriptors (`SCM_RIGHTS`, unix(7)) with one letter each, and
//! says "go" when it has everything it needs but the store. The server then stops accepting,
//! finishes its requests, closes the store, sends the connections that are between two requests,
//! and exits; the end of the connection says so. Meanwhile new connections wait in the queues of the
//! very same sockets, and bytes of the old ones in theirs: nothing is ever closed.

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::{IpAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use shunt_http::listener::passing::Quiet;
use shunt_http::listener::sockets::{Arrives, Listening};
use tokio::sync::Notify;

use super::sockets::Sockets;
use crate::config::Config;

/// The letter of the operations listener.
const OPS: u8 = b'o';
/// The most descriptors one message carries on Linux (`SCM_MAX_FD`).
const MAX_FDS: usize = 253;
/// How long the other side may take for each step that needs no waiting.
const STEP: Duration = Duration::from_secs(5);
/// Bytes that say who is at the other end of a connection: an IPv6 address.
const PEER: usize = 16;
const HELLO: &[u8] = b"shunt-handover-1\n";
const GO: &[u8] = b"go\n";

fn path(config: &Config) -> PathBuf {
    config.data_dir.join("handover.sock")
}

/// The server that runs on this data directory, willing to go.
pub(super) struct Predecessor {
    stream: UnixStream,
    sockets: Option<Sockets>,
}

/// Asks the running server for its sockets; `None` when no server runs.
pub(super) fn ask(config: &Config) -> anyhow::Result<Option<Predecessor>> {
    let Ok(mut stream) = UnixStream::connect(path(config)) else {
        tracing::info!("no server runs on this data directory; starting afresh");
        return Ok(None);
    };
    stream.set_read_timeout(Some(STEP))?;
    stream.set_write_timeout(Some(STEP))?;
    stream.write_all(HELLO)?;
    let sockets = receive_sockets(&stream)?;
    Ok(Some(Predecessor { stream, sockets: Some(sockets) }))
}

impl Predecessor {
    pub(super) fn take_sockets(&mut self) -> Sockets {
        self.sockets.take().unwrap_or(Sockets { serving: Vec::new(), ops: None })
    }

    /// Tells it to stop accepting and to leave.
    pub(super) fn let_go(&mut self) -> anyhow::Result<()> {
        self.stream.write_all(GO).context("tell the running server to go")
    }

    /// Waits until it has ended; answers the connections it passed on.
    pub(super) fn wait_until_gone(self, patience: Duration) -> anyhow::Result<Vec<Quiet>> {
        self.stream.set_read_timeout(Some(patience))?;
        let mut connections = Vec::new();
        loop {
            let mut peers = [0; MAX_FDS * PEER];
            let (bytes, fds) = match receive(&self.stream, &mut peers) {
                Ok((0, _)) => return Ok(connections),
                Ok(received) => received,
                Err(rustix::io::Errno::CONNRESET) => return Ok(connections),
                Err(_) => bail!(
                    "the running server did not finish within {} s; stop it and start again",
                    patience.as_secs()
                ),
            };
            if bytes != fds.len() * PEER {
                bail!("the running server said something unexpected; are both versions shunt?");
            }
            let (peers, _) = peers.as_chunks::<PEER>();
            for (peer, fd) in peers.iter().zip(fds) {
                let peer = IpAddr::from(*peer).to_canonical();
                connections.push(Quiet { stream: TcpStream::from(fd), peer });
            }
        }
    }
}

fn receive(
    stream: &UnixStream,
    bytes: &mut [u8],
) -> Result<(usize, Vec<OwnedFd>), rustix::io::Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(bytes)];
    let message = recvmsg(stream, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let fds = ancillary
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    Ok((message.bytes, fds))
}

fn receive_sockets(stream: &UnixStream) -> anyhow::Result<Sockets> {
    let mut letters = [0; MAX_FDS];
    let (bytes, fds) =
        receive(stream, &mut letters).context("receive the sockets of the running server")?;
    if bytes == 0 || bytes != fds.len() {
        bail!("the running server sent {bytes} names for {} sockets", fds.len());
    }
    let mut sockets = Sockets { serving: Vec::new(), ops: None };
    for (letter, fd) in letters.iter().zip(fds) {
        let socket = TcpListener::from(fd);
        socket.set_nonblocking(true)?;
        if *letter == OPS {
            sockets.ops = Some(socket);
        } else if let Some(arrives) = Arrives::from_letter(*letter) {
            sockets.serving.push(Listening { socket, arrives });
        }
    }
    Ok(sockets)
}

fn send_sockets(stream: &UnixStream, sockets: &[(u8, OwnedFd)]) -> std::io::Result<()> {
    let letters: Vec<u8> = sockets.iter().map(|(letter, _)| *letter).collect();
    let fds: Vec<BorrowedFd<'_>> = sockets.iter().map(|(_, fd)| fd.as_fd()).collect();
    send(stream, &letters, &fds)
}

/// Sends connections, as many at once as the system takes. They are closed here as they go.
fn send_connections(stream: &UnixStream, mut connections: Vec<Quiet>) -> std::io::Result<()> {
    while !connections.is_empty() {
        let some = connections.split_off(connections.len().saturating_sub(MAX_FDS));
        let mut peers = Vec::with_capacity(some.len() * PEER);
        for quiet in &some {
            peers.extend(match quiet.peer {
                IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                IpAddr::V6(v6) => v6.octets(),
            });
        }
        let fds: Vec<BorrowedFd<'_>> = some.iter().map(|quiet| quiet.stream.as_fd()).collect();
        send(stream, &peers, &fds)?;
    }
    Ok(())
}

fn send(stream: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> std::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(std::io::Error::other("too many sockets for one message"));
    }
    let sent = sendmsg(stream, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
    if sent != bytes.len() {
        return Err(std::io::ErrorKind::WriteZero.into());
    }
    Ok(())
}

/// This server's offer to its successor.
pub(super) struct Offer {
    path: PathBuf,
    taken: Arc<Notify>,
    /// The successor's connection: closed by the end of this process, not before.
    successor: Arc<Mutex<Option<UnixStream>>>,
}

impl Offer {
    /// Opens the offer.
    pub(super) fn prepare(config: &Config, sockets: &Sockets) -> anyhow::Result<Self> {
        let path = path(config);
        let mut own = Vec::new();
        for listening in &sockets.serving {
            own.push((listening.arrives.letter(), OwnedFd::from(listening.socket.try_clone()?)));
        }
        if let Some(ops) = &sockets.ops {
            own.push((OPS, OwnedFd::from(ops.try_clone()?)));
        }
        let listener = super::sockets::bind_local(&path)?;
        let taken = Arc::new(Notify::new());
        let successor = Arc::new(Mutex::new(None));
        let (told, kept) = (Arc::clone(&taken), Arc::clone(&successor));
        // A thread of its own, because it waits in blocking calls; it ends with the process.
        std::thread::Builder::new()
            .name("shunt-handover".into())
            .spawn(move || offer(&listener, &own, &told, &kept))
            .context("start the hand-over thread")?;
        Ok(Self { path, taken, successor })
    }

    /// Resolves when a successor has the sockets and said "go".
    pub(super) async fn taken(&self) {
        self.taken.notified().await;
    }

    /// Whether a successor has the sockets and said "go".
    pub(super) fn is_taken(&self) -> bool {
        self.successor.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Everything is closed: gives the successor the connections and lets it begin.
    pub(super) fn finish(self, connections: Vec<Quiet>) {
        let successor = self.successor.lock().unwrap_or_else(PoisonError::into_inner).take();
        match successor {
            Some(stream) => {
                if let Err(error) = send_connections(&stream, connections) {
                    tracing::warn!(%error, "quiet connections were closed instead of passed on");
                }
            }
            // Nobody follows; a successor would have made its own file by now.
            None => {
                let _ = std::fs::remove_file(&self.path);
            }
        }
    }
}

fn offer(
    listener: &UnixListener,
    sockets: &[(u8, OwnedFd)],
    taken: &Notify,
    successor: &Mutex<Option<UnixStream>>,
) {
    loop {
        let Ok((mut stream, _)) = listener.accept() else { continue };
        match pass_on(&mut stream, sockets) {
            Ok(()) => {
                *successor.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream);
                taken.notify_one();
                return;
            }
            // It changed its mind or was no successor: go on serving.
            Err(error) => tracing::warn!(%error, "a hand-over was begun and not finished"),
        }
    }
}

fn pass_on(stream: &mut UnixStream, sockets: &[(u8, OwnedFd)]) -> std::io::Result<()> {
    stream.set_read_timeout(Some(STEP))?;
    stream.set_write_timeout(Some(STEP))?;
    let mut hello = [0; HELLO.len()];
    stream.read_exact(&mut hello)?;
    if hello != HELLO {
        return Err(std::io::Error::other("not a successor"));
    }
    send_sockets(stream, sockets)?;
    let mut go = [0; GO.len()];
    stream.read_exact(&mut go)?;
    if go == GO { Ok(()) } else { Err(std::io::Error::other("no go")) }
}

/// SIGUSR2: starts this program anew, with the same arguments, to take over.
pub(super) fn spawn_successor(config: &Config) {
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => {
            tracing::error!(%error, "can't find this program to start it anew");
            return;
        }
    };
    // A file that was replaced shows as "… (deleted)"; the new one has the old name.
    let name = program.to_string_lossy();
    let program = PathBuf::from(name.strip_suffix(" (deleted)").unwrap_or(&name));
    let args: Vec<_> = std::env::args_os().skip(1).filter(|arg| arg != "--takeover").collect();
    match std::process::Command::new(&program).args(args).arg("--takeover").spawn() {
        Ok(child) => tracing::info!(
            pid = child.id(),
            data_dir = %config.data_dir.display(),
            "started a successor"
        ),
        Err(error) => {
            tracing::error!(%error, program = %program.display(), "can't start a successor")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_arrive_alive_with_their_letters() {
        let (near, far) = UnixStream::pair().unwrap();
        let bind = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (plain, tls, ops) = (bind(), bind(), bind());
        let address = plain.local_addr().unwrap();
        let own = [(b'p', plain.into()), (b'T', tls.into()), (OPS, ops.into())];
        send_sockets(&near, &own).unwrap();
        let got = receive_sockets(&far).unwrap();
        let kinds: Vec<Arrives> = got.serving.iter().map(|l| l.arrives).collect();
        assert_eq!(kinds, [Arrives::Plain, Arrives::ProxiedTls]);
        assert!(got.ops.is_some());
        drop(own);
        assert_eq!(got.serving[0].socket.local_addr().unwrap(), address);
        std::net::TcpStream::connect(address).unwrap();
    }
    #[test]
    fn more_connections_than_one_message_takes_arrive_with_their_peers() {
        let (near, far) = UnixStream::pair().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut clients = Vec::new();
        let mut quiet = Vec::new();
        for n in 0..300_u16 {
            clients.push(TcpStream::connect(address).unwrap());
            let (stream, _) = listener.accept().unwrap();
            let peer = if n % 2 == 0 {
                IpAddr::from([192, 0, 2, n as u8])
            } else {
                IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, n])
            };
            quiet.push(Quiet { stream, peer });
        }
        let sending = std::thread::spawn(move || send_connections(&near, quiet).unwrap());
        let predecessor = Predecessor { stream: far, sockets: None };
        let got = predecessor.wait_until_gone(STEP).unwrap();
        sending.join().unwrap();
        assert_eq!(got.len(), 300);
        for Quiet { stream, peer } in got {
            let at = stream.peer_addr().unwrap();
            let n = clients.iter().position(|c| c.local_addr().unwrap() == at).unwrap();
            match peer {
                IpAddr::V4(v4) => assert_eq!((n % 2, v4.octets()[3]), (0, n as u8)),
                IpAddr::V6(v6) => assert_eq!((n % 2, v6.segments()[7]), (1, n as u16)),
            }
        }
    }
}
