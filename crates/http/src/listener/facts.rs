//! What a redirect needs to know of a request's headers, and the click made of it.

use std::net::IpAddr;

use shunt_domain::click::{Click, ClickFlags, ClickKind, Network};
use shunt_domain::{DomainId, Timestamp};

use super::proxies::TrustedProxies;

/// The few headers that matter to a redirect, borrowed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts<'a> {
    /// The `Host` header.
    pub host: &'a [u8],
    /// How many `Host` headers there are.
    pub hosts: u8,
    /// `User-Agent`.
    pub user_agent: &'a [u8],
    /// `Referer`.
    pub referer: &'a [u8],
    /// `Accept-Language`.
    pub language: &'a [u8],
    /// `Accept`.
    pub accept: &'a [u8],
    /// Prefetch, GPC, DNT.
    pub flags: ClickFlags,
    /// Whether any forwarding header is there.
    pub forwarded: bool,
    /// Whether the message has or may have a body, wants an upgrade, or says anything about the
    /// connection but keep-alive: not for the fast loop.
    pub special: bool,
}

impl<'a> Facts<'a> {
    /// The facts in a list of headers. One look at each name's length sorts most of them out.
    pub fn of(headers: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Self {
        let mut facts = Self::default();
        for (name, value) in headers {
            facts.note(name, value);
        }
        facts
    }

    fn note(&mut self, name: &[u8], value: &'a [u8]) {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        match name.len() {
            2 if is("te") => self.special = true,
            3 if is("dnt") && value == b"1" => self.flags = self.flags.with(ClickFlags::DNT),
            4 if is("host") => {
                self.host = value;
                self.hosts = self.hosts.saturating_add(1);
            }
            5 if is("x-moz") && value.eq_ignore_ascii_case(b"prefetch") => {
                self.flags = self.flags.with(ClickFlags::PREFETCH);
            }
            6 if is("accept") => self.accept = value,
            6 if is("expect") => self.special = true,
            7 if is("referer") => self.referer = value,
            7 if is("purpose") && says_prefetch(value) => {
                self.flags = self.flags.with(ClickFlags::PREFETCH);
            }
            7 if is("sec-gpc") && value == b"1" => {
                self.flags = self.flags.with(ClickFlags::GPC);
            }
            7 if is("upgrade") => self.special = true,
            9 if is("forwarded") || is("x-real-ip") => self.forwarded = true,
            10 if is("user-agent") => self.user_agent = value,
            10 if is("connection") && !value.eq_ignore_ascii_case(b"keep-alive") => {
                self.special = true;
            }
            11 if is("sec-purpose") && says_prefetch(value) => {
                self.flags = self.flags.with(ClickFlags::PREFETCH);
            }
            14 if is("content-length") => self.special = true,
            15 if is("accept-language") => self.language = value,
            15 if is("x-forwarded-for") => self.forwarded = true,
            16 if is("x-forwarded-host") => self.forwarded = true,
            17 if is("transfer-encoding") => self.special = true,
            17 if is("x-forwarded-proto") => self.forwarded = true,
            3 if is("via") => self.forwarded = true,
            _ => {}
        }
    }

    /// The `User-Agent` as text; a header that is no UTF-8 counts as none.
    pub fn agent(&self) -> &'a str {
        text(self.user_agent)
    }

    /// The click of this request.
    #[allow(clippy::too_many_arguments, reason = "each is one field of the event")]
    pub fn click(
        &self,
        domain: DomainId,
        code: &'a str,
        at: Timestamp,
        kind: ClickKind,
        visitor: u64,
        address: IpAddr,
        utm: &'a str,
    ) -> Click<'a> {
        Click {
            domain,
            code,
            at,
            kind,
            flags: self.flags,
            visitor,
            network: Network::of(address),
            referrer: host_of(text(self.referer)),
            user_agent: self.agent(),
            language: first_language(text(self.language)),
            utm,
            rule: 0,
        }
    }
}

/// The visitor's address as far as it can be believed; headers are looked at only for a trusted
/// peer.
pub fn visitor<'a>(
    proxies: &TrustedProxies,
    peer: IpAddr,
    headers: &(impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone),
) -> IpAddr {
    if !proxies.trusts(peer) {
        return peer;
    }
    let named = |name: &'static str| {
        headers
            .clone()
            .filter(move |(known, _)| known.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| value)
            .collect::<Vec<_>>()
    };
    proxies.visitor(peer, named("forwarded").into_iter(), named("x-forwarded-for").into_iter())
}

/// The `utm_*` parameters of a query, as typed, joined by `&`. Allocates only if there are any.
pub fn utm_of(query: &str) -> String {
    if !query.contains("utm_") {
        return String::new();
    }
    let mut utm = String::new();
    for pair in query.split('&').filter(|pair| pair.starts_with("utm_")) {
        if !utm.is_empty() {
            utm.push('&');
        }
        utm.push_str(pair);
    }
    utm
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

fn says_prefetch(value: &[u8]) -> bool {
    // `Purpose: prefetch`, `Sec-Purpose: prefetch;prerender`, `Purpose: preview` (Safari).
    let value = value.trim_ascii_start();
    [&b"prefetch"[..], b"preview", b"prerender"]
        .iter()
        .any(|word| value.get(..word.len()).is_some_and(|v| v.eq_ignore_ascii_case(word)))
}

/// Host of a URL, without user, port, path: only what is between `://` and the next `/?#`.
fn host_of(url: &str) -> &str {
    if url.is_empty() {
        return "";
    }
    let Some((_, rest)) = url.split_once("://") else {
        return "";
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    if host.starts_with('[') {
        return host.find(']').and_then(|end| host.get(..=end)).unwrap_or_default();
    }
    host.split(':').next().unwrap_or_default()
}

/// `de-CH` of `de-CH,de;q=0.9,en;q=0.8`.
fn first_language(header: &str) -> &str {
    header.split([',', ';']).next().unwrap_or_default().trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(lines: &'static [(&'static str, &'static str)]) -> Facts<'static> {
        Facts::of(lines.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes())))
    }

    #[test]
    fn a_browser_request_is_plain() {
        let facts = facts(&[
            ("Host", "go.example"),
            ("Connection", "keep-alive"),
            ("User-Agent", "Mozilla/5.0"),
            ("Accept", "text/html"),
            ("Referer", "https://user:pw@news.example:8443/secret?q=1"),
            ("Accept-Language", "de-CH,de;q=0.9"),
            ("Sec-GPC", "1"),
        ]);
        assert!(!facts.special && !facts.forwarded && facts.hosts == 1);
        let click = facts.click(
            DomainId(0),
            "abc",
            Timestamp::from_millis(5),
            ClickKind::Served,
            1,
            "192.0.2.77".parse().unwrap(),
            "",
        );
        assert_eq!(click.referrer, "news.example");
        assert_eq!(click.language, "de-CH");
        assert_eq!(click.network, Network::V4([192, 0, 2]));
        assert!(click.flags.has(ClickFlags::GPC) && !click.flags.has(ClickFlags::PREFETCH));
    }

    #[test]
    fn whatever_touches_framing_is_special() {
        for line in [
            ("Content-Length", "0"),
            ("transfer-encoding", "identity"),
            ("Connection", "close"),
            ("Connection", "keep-alive, upgrade"),
            ("Upgrade", "h2c"),
            ("Expect", "100-continue"),
            ("TE", "trailers"),
        ] {
            let facts = Facts::of([(line.0.as_bytes(), line.1.as_bytes())].into_iter());
            assert!(facts.special, "{line:?}");
        }
    }

    #[test]
    fn prefetches_are_seen() {
        for line in [
            ("Purpose", "prefetch"),
            ("Sec-Purpose", "prefetch;prerender"),
            ("X-Moz", "prefetch"),
            ("Purpose", "preview"),
        ] {
            let facts = Facts::of([(line.0.as_bytes(), line.1.as_bytes())].into_iter());
            assert!(facts.flags.has(ClickFlags::PREFETCH), "{line:?}");
        }
    }

    #[test]
    fn small_texts_are_cut_out_right() {
        for (url, host) in [
            ("https://a.example/x", "a.example"),
            ("http://a.example:80", "a.example"),
            ("https://[2001:db8::1]:8/", "[2001:db8::1]"),
            ("android-app://com.example/", "com.example"),
            ("nonsense", ""),
            ("https://", ""),
        ] {
            assert_eq!(host_of(url), host);
        }
        assert_eq!(utm_of("a=1&utm_source=x&b=2&utm_medium=y"), "utm_source=x&utm_medium=y");
        assert_eq!(utm_of("autm_x=1"), "");
        assert_eq!(first_language(""), "");
    }
}
