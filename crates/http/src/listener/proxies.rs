//! Whose word about the visitor's address is believed.
//!
//! Only a peer on the operator's list may speak for others. Headers are read from the right: the
//! last address that is not itself a trusted proxy is the visitor, whatever stands left of it.

use std::net::IpAddr;
use std::str::FromStr;

/// A network in CIDR notation, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    network: u128,
    mask: u128,
    v4: bool,
}

impl Cidr {
    fn holds(self, address: IpAddr) -> bool {
        let (bits, v4) = bits(address);
        v4 == self.v4 && bits & self.mask == self.network
    }
}

fn bits(address: IpAddr) -> (u128, bool) {
    match address.to_canonical() {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()), true),
        IpAddr::V6(v6) => (v6.to_bits(), false),
    }
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is neither an address nor a network like 10.0.0.0/8");
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.trim().parse().map_err(|_| wrong())?;
        let (bits, v4) = bits(address);
        let width = if v4 { 32 } else { 128 };
        let prefix: u32 = match prefix {
            Some(prefix) => prefix.trim().parse().map_err(|_| wrong())?,
            None => width,
        };
        if prefix > width {
            return Err(wrong());
        }
        let mask = if prefix == 0 { 0 } else { u128::MAX << (width - prefix) };
        let mask = if v4 { mask & u128::from(u32::MAX) } else { mask };
        Ok(Self { network: bits & mask, mask, v4 })
    }
}

/// The proxies that are believed.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies(pub Vec<Cidr>);

impl TrustedProxies {
    /// Whether this peer is one of them.
    pub fn trusts(&self, peer: IpAddr) -> bool {
        self.0.iter().any(|network| network.holds(peer))
    }

    /// The visitor behind `peer`. `forwarded` and `x_forwarded_for` are the header values in the
    /// order they came; `Forwarded` (RFC 7239) is preferred because it can't be mistaken.
    pub fn visitor<'a>(
        &self,
        peer: IpAddr,
        forwarded: impl DoubleEndedIterator<Item = &'a [u8]>,
        x_forwarded_for: impl DoubleEndedIterator<Item = &'a [u8]>,
    ) -> IpAddr {
        if !self.trusts(peer) {
            return peer;
        }
        let mut named = false;
        let mut last = peer;
        for value in forwarded.rev() {
            for element in value.rsplit(|b| *b == b',') {
                named = true;
                match node_of(element) {
                    Some(address) if self.trusts(address) => last = address,
                    Some(address) => return address,
                    // "unknown", an obfuscated name or garbage: nothing left of it can be believed.
                    None => return last,
                }
            }
        }
        if named {
            return last;
        }
        for value in x_forwarded_for.rev() {
            for element in value.rsplit(|b| *b == b',') {
                match std::str::from_utf8(element).ok().and_then(parse_node) {
                    Some(address) if self.trusts(address) => last = address,
                    Some(address) => return address,
                    None => return last,
                }
            }
        }
        last
    }
}

/// The `for=` of one element of `Forwarded`.
fn node_of(element: &[u8]) -> Option<IpAddr> {
    let element = std::str::from_utf8(element).ok()?;
    element.split(';').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim()
            .eq_ignore_ascii_case("for")
            .then(|| parse_node(value.trim().trim_matches('"')))?
    })
}

/// `192.0.2.1`, `192.0.2.1:47011`, `[2001:db8::1]`, `[2001:db8::1]:47011` or `2001:db8::1`.
fn parse_node(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    if let Some(rest) = text.strip_prefix('[') {
        return rest.split(']').next()?.parse().ok().map(IpAddr::V6);
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address.to_canonical());
    }
    let (address, port) = text.rsplit_once(':')?;
    port.parse::<u16>().ok()?;
    address.parse().ok().map(IpAddr::V4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn proxies(list: &[&str]) -> TrustedProxies {
        TrustedProxies(list.iter().map(|text| text.parse().unwrap()).collect())
    }

    fn visitor(proxies: &TrustedProxies, peer: &str, forwarded: &[&str], xff: &[&str]) -> IpAddr {
        proxies.visitor(
            ip(peer),
            forwarded.iter().map(|v| v.as_bytes()),
            xff.iter().map(|v| v.as_bytes()),
        )
    }

    #[test]
    fn strangers_are_never_believed() {
        let trusted = proxies(&["10.0.0.0/8"]);
        assert_eq!(visitor(&trusted, "192.0.2.9", &[], &["1.2.3.4"]), ip("192.0.2.9"));
        assert_eq!(visitor(&trusted, "192.0.2.9", &["for=1.2.3.4"], &[]), ip("192.0.2.9"));
        assert_eq!(visitor(&proxies(&[]), "10.0.0.1", &[], &["1.2.3.4"]), ip("10.0.0.1"));
    }

    #[test]
    fn the_rightmost_stranger_is_the_visitor() {
        let trusted = proxies(&["10.0.0.0/8", "2001:db8::/32"]);
        let x = |values: &[&str]| visitor(&trusted, "10.0.0.1", &[], values);
        assert_eq!(x(&["203.0.113.7"]), ip("203.0.113.7"));
        assert_eq!(x(&["6.6.6.6, 203.0.113.7, 10.1.1.1"]), ip("203.0.113.7"));
        assert_eq!(x(&["6.6.6.6", "203.0.113.7"]), ip("203.0.113.7"));
        assert_eq!(x(&["6.6.6.6, garbage"]), ip("10.0.0.1"));
        assert_eq!(x(&["203.0.113.7:1234"]), ip("203.0.113.7"));
        assert_eq!(x(&["2001:db9::1"]), ip("2001:db9::1"));
        assert_eq!(x(&["::ffff:203.0.113.7"]), ip("203.0.113.7"));
        assert_eq!(x(&[]), ip("10.0.0.1"));
        assert_eq!(visitor(&trusted, "::ffff:10.0.0.1", &[], &["203.0.113.7"]), ip("203.0.113.7"));
    }

    #[test]
    fn forwarded_is_read_as_rfc_7239_says() {
        let trusted = proxies(&["10.0.0.0/8"]);
        let f = |values: &[&str]| visitor(&trusted, "10.0.0.1", values, &["9.9.9.9"]);
        assert_eq!(f(&["for=203.0.113.7;proto=https"]), ip("203.0.113.7"));
        assert_eq!(f(&["for=6.6.6.6, For=\"[2001:db9::17]:4711\""]), ip("2001:db9::17"));
        assert_eq!(f(&["for=203.0.113.7, for=10.2.2.2"]), ip("203.0.113.7"));
        assert_eq!(f(&["for=203.0.113.7, for=unknown"]), ip("10.0.0.1"));
        assert_eq!(f(&["for=_hidden"]), ip("10.0.0.1"));
    }

    #[test]
    fn networks_are_parsed_or_refused() {
        for good in ["10.0.0.0/8", "192.0.2.1", "::1", "2001:db8::/32", "0.0.0.0/0"] {
            assert!(good.parse::<Cidr>().is_ok(), "{good}");
        }
        for bad in ["", "10.0.0.0/33", "::1/129", "host", "10.0.0.0/-1", "10.0.0/8"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
        assert!(!proxies(&["0.0.0.0/0"]).trusts(ip("2001:db8::1")));
    }
}
