//! Who is on the other end of a request, as far as it can be believed.

use std::net::{IpAddr, Ipv4Addr};

/// Put into every request's extensions by the listener before any handler runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// How the request came in.
    pub transport: Transport,
    /// The address of the connection's other end (what PROXY protocol said, where it is on).
    pub peer: IpAddr,
    /// The visitor's address: the peer's, or what a trusted proxy says it is.
    pub address: IpAddr,
    /// Whether the request carries any forwarding header, believed or not.
    pub forwarded: bool,
}

/// How a request came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Plain TCP.
    Plain,
    /// TLS.
    Tls,
    /// The data directory's 0600 socket, or a call from within the process: the caller could read
    /// the store itself, so it may do everything.
    Local,
}

impl Client {
    /// A caller who holds the data directory.
    pub const LOCAL: Self = Self {
        transport: Transport::Local,
        peer: IpAddr::V4(Ipv4Addr::LOCALHOST),
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        forwarded: false,
    };
}
