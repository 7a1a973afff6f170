//! A click: what one answered `GET` or `HEAD` of a short link leaves behind.
//!
//! Never an address: the visitor is a keyed hash, the network is coarse. The binary form is in
//! [`codec`].

pub mod codec;

use crate::code::DomainId;
use crate::time::Timestamp;

/// How the link was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClickKind {
    /// A `GET` that was answered with a redirect to a target: this is what *served* means.
    Served,
    /// A `HEAD`: an event of its own kind, never part of *served*.
    Head,
}

/// Facts about a click that are one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ClickFlags(pub u16);

impl ClickFlags {
    /// The browser fetched ahead of a visit (`Purpose`, `Sec-Purpose`, `X-Moz: prefetch`).
    pub const PREFETCH: Self = Self(1);
    /// A preview of the link was fetched, not the link followed.
    pub const PREVIEW: Self = Self(1 << 1);
    /// The visitor asks not to be tracked (`Sec-GPC: 1`).
    pub const GPC: Self = Self(1 << 2);
    /// The visitor asks not to be tracked (`DNT: 1`).
    pub const DNT: Self = Self(1 << 3);

    /// Both sets together.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` is set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// The coarse network of a visitor: enough for a country, too little for a person.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Network {
    /// Not known.
    #[default]
    Unknown,
    /// The first 24 bits of an IPv4 address.
    V4([u8; 3]),
    /// The first 48 bits of an IPv6 address.
    V6([u8; 6]),
}

impl Network {
    /// The network of an address; an IPv4-mapped IPv6 address counts as IPv4.
    pub fn of(address: std::net::IpAddr) -> Self {
        match address.to_canonical() {
            std::net::IpAddr::V4(v4) => {
                let [a, b, c, _] = v4.octets();
                Self::V4([a, b, c])
            }
            std::net::IpAddr::V6(v6) => {
                let [a, b, c, d, e, f, ..] = v6.octets();
                Self::V6([a, b, c, d, e, f])
            }
        }
    }
}

/// One click as the redirect path sees it, borrowed from the request. The codec cuts texts that
/// are too long; see its limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Click<'a> {
    /// The link's domain.
    pub domain: DomainId,
    /// The link's code.
    pub code: &'a str,
    /// When it was answered.
    pub at: Timestamp,
    /// `GET` or `HEAD`.
    pub kind: ClickKind,
    /// One-bit facts.
    pub flags: ClickFlags,
    /// The visitor: a hash keyed with the day's secret, 0 when not wanted or not known.
    pub visitor: u64,
    /// The visitor's coarse network.
    pub network: Network,
    /// Host of the referring page, without port; empty when there is none.
    pub referrer: &'a str,
    /// The `User-Agent` header.
    pub user_agent: &'a str,
    /// The first language of `Accept-Language`.
    pub language: &'a str,
    /// The `utm_*` parameters of the visitor's query as typed, joined by `&`.
    pub utm: &'a str,
    /// The number of the rule that chose the target; 0 is the link's own target.
    pub rule: u16,
}
