//! Listening sockets: bound per core, inherited, or received from the process before.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// What arrives at a listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arrives {
    /// HTTP/1.1.
    Plain,
    /// TLS with HTTP/2 or HTTP/1.1 inside.
    Tls,
    /// A PROXY protocol v2 header, then HTTP/1.1.
    ProxiedPlain,
    /// A PROXY protocol v2 header, then TLS.
    ProxiedTls,
}

impl Arrives {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Plain, Self::Tls, Self::ProxiedPlain, Self::ProxiedTls];

    /// Whether a PROXY header comes first.
    pub const fn proxied(self) -> bool {
        matches!(self, Self::ProxiedPlain | Self::ProxiedTls)
    }

    /// Whether it is TLS.
    pub const fn tls(self) -> bool {
        matches!(self, Self::Tls | Self::ProxiedTls)
    }

    /// A stable letter, for passing sockets on.
    pub const fn letter(self) -> u8 {
        match self {
            Self::Plain => b'p',
            Self::Tls => b't',
            Self::ProxiedPlain => b'P',
            Self::ProxiedTls => b'T',
        }
    }

    /// The kind with this letter.
    pub fn from_letter(letter: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.letter() == letter)
    }
}

/// A listening socket and what arrives there.
#[derive(Debug)]
pub struct Listening {
    /// The socket.
    pub socket: TcpListener,
    /// What arrives.
    pub arrives: Arrives,
}

/// Binds `count` sockets to one address, each with its own queue (`SO_REUSEPORT`). Port 0 is
/// chosen once and shared.
///
/// # Errors
/// As the system says; `AddrInUse` also when another process listens without `SO_REUSEPORT`, and
/// (checked first, because two servers that share a port by accident are hard to find) with it.
pub fn bind(address: SocketAddr, count: usize, backlog: i32) -> io::Result<Vec<TcpListener>> {
    // Without SO_REUSEPORT this fails if anybody else is listening.
    let probe = socket(address, false)?;
    probe.bind(&address.into())?;
    drop(probe);
    let mut address = address;
    let mut sockets = Vec::with_capacity(count);
    for _ in 0..count.max(1) {
        let socket = socket(address, true)?;
        socket.bind(&address.into())?;
        socket.listen(backlog)?;
        let listener = TcpListener::from(socket);
        address = listener.local_addr()?;
        sockets.push(listener);
    }
    Ok(sockets)
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // One socket per family; [::] and 0.0.0.0 can both be configured.
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_share_a_port_and_strangers_do_not() {
        let address = "127.0.0.1:0".parse().unwrap();
        let ours = bind(address, 3, 16).unwrap();
        let port = ours[0].local_addr().unwrap().port();
        assert!(ours.iter().all(|socket| socket.local_addr().unwrap().port() == port));
        let again = bind(SocketAddr::from(([127, 0, 0, 1], port)), 1, 16);
        assert_eq!(again.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn letters_round_trip() {
        for kind in Arrives::ALL {
            assert_eq!(Arrives::from_letter(kind.letter()), Some(kind));
        }
        assert_eq!(Arrives::from_letter(b'x'), None);
    }
}
