//! Where a request to change something comes from: our own page, another site, or no browser at
//! all.
//!
//! Invariants:
//! - what another site makes a browser send is refused, whatever else comes with it;
//! - without an API key, links are made from this machine only: the peer and the `Host` are
//!   loopback and nothing forwarded the request (a page that re-binds its DNS name to loopback
//!   still sends its own name as `Host`).

use std::net::IpAddr;

use http::HeaderMap;
use http::header::{HOST, HeaderName, ORIGIN};

use crate::app::Settings;
use crate::client::Client;

/// `Sec-Fetch-Site` (W3C Fetch Metadata): set by browsers, out of reach of scripts.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Whether a browser sent the request on behalf of another site. Browsers leave out Fetch Metadata
/// on plain http to other machines; `Origin` decides then. A request with neither is no browser's.
pub(crate) fn is_cross_site(headers: &HeaderMap, settings: &Settings) -> bool {
    if let Some(site) = headers.get(SEC_FETCH_SITE) {
        return !matches!(site.as_bytes(), b"same-origin" | b"none");
    }
    let Some(origin) = headers.get(ORIGIN) else {
        return false;
    };
    let Some((_, authority)) = origin.to_str().ok().and_then(|origin| origin.split_once("://"))
    else {
        // `null`, or nothing that an origin could be.
        return true;
    };
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let same = |own: &str| !own.is_empty() && authority.eq_ignore_ascii_case(own);
    // A proxy may pass on another `Host` than the one that people type.
    let public = settings.base_url.split_once("://").map_or("", |(_, rest)| rest);
    !(same(host) || same(public.split('/').next().unwrap_or_default()))
}

/// Whether the request may make links without an API key.
pub(crate) fn may_be_anonymous(
    client: Option<&Client>,
    headers: &HeaderMap,
    settings: &Settings,
) -> bool {
    if is_cross_site(headers, settings) {
        return false;
    }
    settings.anonymous_create
        || headers.get_all(HOST).iter().count() == 1
            && client
                .zip(headers.get(HOST).and_then(|host| host.to_str().ok()))
                .is_some_and(|(client, host)| is_this_machine(client.peer, client.forwarded, host))
}

/// Whether a request comes from this machine itself: the peer is loopback, nothing says that it
/// speaks for somebody else, and it named this machine. A proxy that keeps quiet about its clients
/// still passes on the name that they asked for.
pub(crate) fn is_this_machine(peer: IpAddr, forwarded: bool, host: &str) -> bool {
    peer.is_loopback() && !forwarded && is_loopback(host)
}

/// Whether a `Host` value names this machine by a name that no DNS answers for.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _port)) => address,
        None => host.rsplit_once(':').map_or(host, |(name, _port)| name),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::super::tests::settings;
    use super::*;
    use crate::client::Transport;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn other_sites_are_told_from_our_own_page_and_from_programs() {
        let settings = settings("https://go.example/s");
        for (pairs, cross) in [
            (&[("host", "10.0.0.5:8080")][..], false),
            (&[("sec-fetch-site", "same-origin")], false),
            (&[("sec-fetch-site", "none")], false),
            (&[("sec-fetch-site", "same-site")], true),
            (&[("sec-fetch-site", "cross-site")], true),
            (&[("sec-fetch-site", "")], true),
            // Fetch Metadata wins: an origin can be equal and the site still another one.
            (&[("sec-fetch-site", "cross-site"), ("origin", "http://a"), ("host", "a")], true),
            (&[("origin", "http://10.0.0.5:8080"), ("host", "10.0.0.5:8080")], false),
            (&[("origin", "http://10.0.0.5:8081"), ("host", "10.0.0.5:8080")], true),
            (&[("origin", "https://GO.example"), ("host", "internal:1")], false),
            (&[("origin", "https://go.example.evil"), ("host", "internal:1")], true),
            (&[("origin", "null"), ("host", "null")], true),
            (&[("origin", "http://"), ("host", "")], true),
        ] {
            assert_eq!(is_cross_site(&headers(pairs), &settings), cross, "{pairs:?}");
        }
    }

    #[test]
    fn without_a_key_only_this_machine_makes_links() {
        let local = Client {
            transport: Transport::Plain,
            peer: "127.0.0.1".parse().unwrap(),
            address: "127.0.0.1".parse().unwrap(),
            forwarded: false,
        };
        let remote = Client { peer: "192.0.2.7".parse().unwrap(), ..local };
        let forwarded = Client { forwarded: true, ..local };
        let mut settings = settings("http://127.0.0.1:8080");
        let ok = headers(&[("host", "127.0.0.1:8080")]);
        assert!(may_be_anonymous(Some(&local), &ok, &settings));
        for host in ["localhost", "LOCALHOST:1", "[::1]:8080", "127.9.9.9"] {
            assert!(may_be_anonymous(Some(&local), &headers(&[("host", host)]), &settings));
        }
        for host in ["evil.example", "localhost.evil.example:80", "", "127.0.0.1.evil:8080", "0"] {
            assert!(!may_be_anonymous(Some(&local), &headers(&[("host", host)]), &settings));
        }
        assert!(!may_be_anonymous(Some(&remote), &ok, &settings));
        assert!(!may_be_anonymous(Some(&forwarded), &ok, &settings));
        assert!(!may_be_anonymous(None, &ok, &settings));
        let cross = headers(&[("host", "127.0.0.1"), ("sec-fetch-site", "cross-site")]);
        assert!(!may_be_anonymous(Some(&local), &cross, &settings));
        settings.anonymous_create = true;
        assert!(may_be_anonymous(Some(&remote), &ok, &settings));
        assert!(!may_be_anonymous(Some(&remote), &cross, &settings));
    }
}
