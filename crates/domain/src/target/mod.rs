//! The one parser of redirect targets, for every entry: API, forms, import, edit, command line.
//!
//! Three things hold for every [`Target`]:
//! - what was typed in ASCII comes back byte for byte. Nothing is normalised: not the case of the
//!   host, not a default port, not dot segments, not percent-escapes. Only non-ASCII changes: it
//!   is percent-encoded as UTF-8, and as punycode in the host (UTS 46);
//! - the location is printable ASCII, so that it can't break a header, and at most
//!   [`MAX_TARGET_BYTES`] long; parsing it again gives the same target;
//! - a browser goes to the host that was judged: the host is found by our own checks and again by
//!   the `url` crate (WHATWG URL), and where the two differ the target is refused.
//!
//! Reading order: [`Reason`] for what is refused, `parse` for how a target is taken apart, `text`
//! and `host` for the judgement of characters and hosts, `rules` for loops and schemes, `encode`
//! for the visitor's query.

mod encode;
mod host;
mod parse;
mod reason;
mod rules;
mod text;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;

pub use reason::{Reason, UnknownReason};
pub use rules::{OwnHost, TargetRules};

/// The longest target in bytes, as typed and as it goes into `Location`.
pub const MAX_TARGET_BYTES: usize = 8192;

/// An accepted redirect target: the value of a `Location` header, and whether its host deserves a
/// warning.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    location: Box<str>,
    mixed_script: bool,
}

impl Target {
    /// Judges a target that somebody gave us.
    pub fn parse(input: &str, rules: &TargetRules) -> Result<Self, Reason> {
        parse::parse(input, rules)
    }

    /// Takes back what an earlier [`Target::parse`] accepted, out of our own store.
    ///
    /// The store is not trusted blindly: `None` unless the value is printable ASCII without a
    /// backslash, not too long, under a scheme that can be allowed, and, for http and https, has a
    /// host and no credentials. The rest is not judged again: rules that became stricter since must
    /// not break links that exist. Whether the scheme is still on the list of
    /// [`TargetRules::allows_scheme`] is for the caller to ask.
    pub fn from_stored(location: &str, mixed_script: bool) -> Option<Self> {
        if location.len() > MAX_TARGET_BYTES || !location.bytes().all(text::is_plain) {
            return None;
        }
        let (scheme, rest) = location.split_once(':')?;
        if !rules::is_scheme(scheme) || rules::is_dangerous(scheme) || rest.is_empty() {
            return None;
        }
        let (host, authority) = locate(location);
        if rules::is_special(scheme) && host.is_empty() || authority.contains('@') {
            return None;
        }
        Some(Self { location: location.into(), mixed_script })
    }

    /// Exactly what goes into `Location`: printable ASCII.
    pub fn as_str(&self) -> &str {
        &self.location
    }

    /// The scheme as typed, without its colon.
    pub fn scheme(&self) -> &str {
        self.location.split_once(':').map_or("", |(scheme, _)| scheme)
    }

    /// The ASCII host as it stands in the location: case and trailing dot as typed, punycode for
    /// an internationalised name, no port, no brackets around an IPv6 address. Empty for a scheme
    /// without an authority (`mailto:`). To compare hosts, take [`Target::host_key`].
    pub fn host(&self) -> &str {
        locate(&self.location).0
    }

    /// The host in the one form in which two spellings compare equal: lower case, no trailing dot,
    /// IPv6 as WHATWG URL writes it. For blocklists, statistics and pages.
    pub fn host_key(&self) -> Cow<'_, str> {
        let host = self.host();
        if let Ok(address) = host.parse() {
            let bracketed = url::Host::<&str>::Ipv6(address).to_string();
            return Cow::Owned(bracketed.trim_matches(['[', ']']).to_owned());
        }
        let name = host.strip_suffix('.').unwrap_or(host);
        if name.bytes().any(|b| b.is_ascii_uppercase()) {
            Cow::Owned(name.to_ascii_lowercase())
        } else {
            Cow::Borrowed(name)
        }
    }

    /// Whether a reader may take the host for another one, so that a preview comes first: a label
    /// mixes scripts, is made of look-alikes of ASCII letters, or hides a joiner (UTS 39). Typed in
    /// Unicode and as `xn--` label alike.
    pub fn mixed_script(&self) -> bool {
        self.mixed_script
    }

    /// The location with a visitor's query (without its `?`) behind the target's own and before its
    /// fragment.
    ///
    /// Scheme, host, port, path and fragment never change. What may not stand in a query is
    /// percent-encoded; unchanged are a target that would grow longer than [`MAX_TARGET_BYTES`],
    /// one with nothing to add, and one that is neither http nor https (a visitor must not add
    /// `bcc` to a `mailto:`).
    pub fn with_query(&self, visitor_query: &str) -> Cow<'_, str> {
        if rules::is_web(self.scheme()) {
            encode::with_query(&self.location, visitor_query)
        } else {
            Cow::Borrowed(&self.location)
        }
    }
}

impl AsRef<str> for Target {
    fn as_ref(&self) -> &str {
        &self.location
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.location)
    }
}

/// Host and authority of a location.
fn locate(location: &str) -> (&str, &str) {
    let Some((_, rest)) = location.split_once(':') else {
        return ("", "");
    };
    let Some(after) = rest.strip_prefix("//") else {
        return ("", "");
    };
    let end = after.find(['/', '?', '#']).unwrap_or(after.len());
    let authority = after.split_at(end).0;
    let host = match authority.strip_prefix('[') {
        Some(bracketed) => bracketed.split_once(']').map_or("", |(inner, _)| inner),
        None => authority.split_once(':').map_or(authority, |(host, _)| host),
    };
    (host, authority)
}
