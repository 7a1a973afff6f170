//! What an operator decides about targets: our own hosts, and schemes beside http and https.

use std::net::{Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

/// The rules under which a target is judged. The default knows no own host and no extra scheme.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TargetRules {
    /// Hosts that lead back to this service; a target on one of them would be a loop. Every
    /// spelling of the same host matches.
    pub own_hosts: Vec<OwnHost>,
    /// Schemes accepted beside http and https, such as `mailto` or `tel`, in any case. A scheme
    /// that can run code or open local data stays refused, listed or not.
    pub extra_schemes: Vec<String>,
}

impl TargetRules {
    /// Whether targets with this scheme (without its colon, in any case) are accepted.
    pub fn allows_scheme(&self, scheme: &str) -> bool {
        is_web(scheme)
            || (!is_dangerous(scheme)
                && self.extra_schemes.iter().any(|extra| extra.eq_ignore_ascii_case(scheme)))
    }

    /// Whether this parsed target leads back to us.
    pub(super) fn is_own(&self, url: &Url) -> bool {
        !self.own_hosts.is_empty()
            && url.host().is_some_and(|host| {
                let host = plain(&host);
                self.own_hosts.iter().any(|own| own.matches(&host, url))
            })
    }
}

/// The syntax of a scheme (RFC 3986 section 3.1).
pub(super) fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
}

/// The schemes that are always allowed.
pub(super) fn is_web(scheme: &str) -> bool {
    scheme.eq_ignore_ascii_case("https") || scheme.eq_ignore_ascii_case("http")
}

/// Schemes with an authority that WHATWG URL parses as it does that of http ("special" schemes).
pub(super) fn is_special(scheme: &str) -> bool {
    is_web(scheme) || ["ftp", "ws", "wss"].iter().any(|s| s.eq_ignore_ascii_case(scheme))
}

/// Schemes that run code in the page that follows them, wrap another URL past our checks, read
/// local data, or start programs with arguments. They can't be allow-listed.
const DANGEROUS: [&str; 44] = [
    "javascript",
    "jscript",
    "livescript",
    "mocha",
    "vbscript",
    "vbs",
    "data",
    "blob",
    "file",
    "filesystem",
    "about",
    "view-source",
    "view",
    "jar",
    "zip",
    "feed",
    "pcast",
    "wyciwyg",
    "resource",
    "res",
    "chrome",
    "chrome-extension",
    "chrome-untrusted",
    "devtools",
    "edge",
    "brave",
    "opera",
    "vivaldi",
    "moz-extension",
    "moz-icon",
    "safari-web-extension",
    "x-apple.systempreferences",
    "intent",
    "android-app",
    "content",
    "mhtml",
    "mk",
    "its",
    "hcp",
    "shell",
    "search-ms",
    "help",
    "smb",
    "nfs",
];

/// Whether this scheme is never allowed. The `ms-` family (ms-msdt, ms-officecmd, ms-its, …)
/// starts local programs and grows with every release, so all of it counts.
pub(super) fn is_dangerous(scheme: &str) -> bool {
    let ms = scheme.get(..3).is_some_and(|head| head.eq_ignore_ascii_case("ms-"));
    ms || DANGEROUS.iter().any(|dangerous| dangerous.eq_ignore_ascii_case(scheme))
}

/// A host under which this service is reached.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OwnHost {
    host: Host<String>,
    port: Option<u16>,
    /// The path below which the service lives; empty: all of the host is ours.
    path: Box<str>,
}

impl OwnHost {
    /// From `host`, `host:port`, `[v6]`, `[v6]:port` or a bare IPv6 address, in any spelling.
    ///
    /// Without a port, every port of the host is ours. With one, only that port, so that a
    /// service on `localhost:8080` can still shorten links to `localhost:3000`. `None`: this is
    /// no host.
    pub fn parse(text: &str) -> Option<Self> {
        let (host, port) = if let Some(inner) = text.strip_prefix('[') {
            let (inner, rest) = inner.split_once(']')?;
            (
                Host::parse(&format!("[{inner}]")),
                rest.strip_prefix(':').or(rest.is_empty().then_some("")),
            )
        } else {
            match text.split_once(':') {
                Some((_, rest)) if rest.contains(':') => {
                    (Host::parse(&format!("[{text}]")), Some(""))
                }
                Some((host, port)) => (Host::parse(host), Some(port)),
                None => (Host::parse(text), Some("")),
            }
        };
        let port = match port? {
            "" => None,
            digits => Some(digits.parse::<u16>().ok().filter(|port| *port != 0)?),
        };
        Some(Self { host: plain_owned(host.ok()?), port, path: Box::default() })
    }

    /// From the base URL of the service, port and path included.
    ///
    /// With a path (`https://example.com/s`) only targets below it are loops: the rest of the host
    /// is somebody else's. Without a port every port of a public name is ours; on a loopback
    /// address only the default port of the scheme, since other programs live on the others.
    pub fn from_base_url(text: &str) -> Option<Self> {
        let url = Url::parse(text).ok().filter(|url| is_web(url.scheme()))?;
        let host = plain(&url.host()?);
        let port = if is_loopback(&host) { url.port_or_known_default() } else { url.port() };
        let path = url.path().trim_matches('/').into();
        Some(Self { host, port, path })
    }

    fn matches(&self, host: &Host<String>, url: &Url) -> bool {
        let same_host = self.host == *host || (is_loopback(&self.host) && is_loopback(host));
        same_host
            && self.port.is_none_or(|port| url.port_or_known_default() == Some(port))
            && self.is_above(url.path())
    }

    /// Whether this (dot-free) path lies below ours, read as it stands or decoded: a proxy in
    /// front of us may do either, so both count.
    fn is_above(&self, path: &str) -> bool {
        if segments(&self.path).next().is_none() {
            return true;
        }
        let below = |path: &str| begins_with(segments(path), segments(&self.path));
        below(path) || below(&decode(path))
    }
}

fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|segment| !matches!(*segment, "" | "."))
}

fn begins_with<'a>(
    mut path: impl Iterator<Item = &'a str>,
    mut prefix: impl Iterator<Item = &'a str>,
) -> bool {
    prefix.all(|want| path.next().is_some_and(|have| have.eq_ignore_ascii_case(want)))
}

/// Percent-decodes what decodes; the rest stays. Bytes that form no UTF-8 can't match a path of
/// ours and become U+FFFD.
fn decode(path: &str) -> String {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let (byte, after) = match escape(rest) {
            Some(byte) => (byte, tail.get(2..).unwrap_or_default()),
            None => (*first, tail),
        };
        out.push(byte);
        rest = after;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The byte that the percent-escape at the head of `bytes` stands for.
pub(super) fn escape(bytes: &[u8]) -> Option<u8> {
    let [b'%', high, low, ..] = bytes else {
        return None;
    };
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(*high)? * 16 + digit(*low)?).ok()
}

/// The one form of a host in which two spellings compare equal: a name without its trailing dot
/// (WHATWG keeps it, DNS does not care), an IPv4 address out of the IPv6 forms that carry one.
fn plain(host: &Host<&str>) -> Host<String> {
    plain_owned(host.to_owned())
}

fn plain_owned(host: Host<String>) -> Host<String> {
    match host {
        Host::Domain(mut name) => {
            if name.ends_with('.') {
                name.pop();
            }
            Host::Domain(name)
        }
        Host::Ipv6(address) => match embedded_v4(address) {
            Some(v4) => Host::Ipv4(v4),
            None => Host::Ipv6(address),
        },
        v4 @ Host::Ipv4(_) => v4,
    }
}

/// The IPv4 address inside a mapped (RFC 4291), compatible, 6to4 (RFC 3056) or NAT64 (RFC 6052)
/// one.
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = address.segments();
    let low = Ipv4Addr::from((u32::from(g) << 16) | u32::from(h));
    match [a, b, c, d, e, f] {
        [0, 0, 0, 0, 0, 0xffff] | [0x64, 0xff9b, 0, 0, 0, 0] => Some(low),
        // Not `::` and `::1`, which are addresses of their own.
        [0, 0, 0, 0, 0, 0] if g != 0 => Some(low),
        [0x2002, high, low, ..] => Some(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low))),
        _ => None,
    }
}

/// Whether this host is the visitor's own machine under one of its names (RFC 6761 section 6.3
/// for `localhost` and below). The unspecified address reaches it too on Linux and macOS.
fn is_loopback(host: &Host<String>) -> bool {
    match host {
        Host::Domain(name) => {
            matches!(
                name.as_str(),
                "localhost" | "localhost.localdomain" | "ip6-localhost" | "ip6-loopback"
            ) || name.ends_with(".localhost")
        }
        Host::Ipv4(address) => address.is_loopback() || address.is_unspecified(),
        Host::Ipv6(address) => address.is_loopback() || address.is_unspecified(),
    }
}
