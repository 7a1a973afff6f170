//! Judges the host of a target: names, IPv4, bracketed IPv6, internationalised names.
//!
//! Stricter than WHATWG URL on purpose. A browser repairs a host (it maps styled letters to ASCII,
//! reads `0x7f.1` as 127.0.0.1, decodes percent-escapes); each repair is a second spelling under
//! which a blocklist, a person or our own loop check sees another host than the browser visits. So
//! whatever would be repaired into something else is refused, and what remains means the same to
//! everyone. Decided in favour of real sites: underscores in labels (DNS carries them), hyphens in
//! the third and fourth place and at the end of a label other than the last (`volans-.github.io`),
//! one trailing dot after a name (a fully qualified name), single-label hosts (intranets).

use std::borrow::Cow;
use std::net::{Ipv4Addr, Ipv6Addr};

use idna::AsciiDenyList;
use idna::uts46::{DnsLength, Hyphens, Uts46};
use unicode_security::GeneralSecurityProfile;
use unicode_security::MixedScript;
use unicode_security::confusable_detection::skeleton;

use super::{Reason, text};

/// RFC 1035 section 2.3.4, without the root label and the length bytes.
const MAX_HOST_BYTES: usize = 253;
/// RFC 1035 section 2.3.4.
const MAX_LABEL_BYTES: usize = 63;
/// Real hosts have fewer than ten labels; the only longer names are reverse-DNS ones (34 labels).
const MAX_LABELS: usize = 40;

/// What a browser must find as well when it parses the target.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Name,
    V4,
    V6(Ipv6Addr),
}

/// An accepted host.
#[derive(Debug)]
pub(super) struct Judged<'a> {
    /// As it goes into the location, brackets included: as typed when it was ASCII.
    pub(super) ascii: Cow<'a, str>,
    pub(super) kind: Kind,
    /// Whether a reader may take the name for another one, see [`check_punycode`].
    pub(super) mixed_script: bool,
}

/// Judges the part of the authority between the brackets of an IPv6 address.
pub(super) fn judge_v6(inner: &str) -> Result<Ipv6Addr, Reason> {
    if inner.contains('%') {
        // RFC 6874; WHATWG URL refuses zones.
        return Err(Reason::Ipv6Zone);
    }
    if inner.starts_with(['v', 'V']) {
        // IPvFuture of RFC 3986 section 3.2.2.
        return Err(Reason::IpFuture);
    }
    inner.parse().map_err(|_| Reason::Ipv6Invalid)
}

/// Judges a host that is not bracketed.
pub(super) fn judge(host: &str) -> Result<Judged<'_>, Reason> {
    let ascii = if host.is_ascii() { Cow::Borrowed(host) } else { Cow::Owned(to_ascii(host)?) };
    let shape = check_shape(&ascii)?;
    let mixed_script = shape.punycode && check_punycode(&ascii)?;
    let kind = if shape.numeric_end { check_v4(&ascii)? } else { Kind::Name };
    if shape.last_hyphen {
        return Err(Reason::HyphenTrailing);
    }
    Ok(Judged { ascii, kind, mixed_script })
}

/// The punycode form of a name with non-ASCII characters, after the checks on what was typed.
fn to_ascii(host: &str) -> Result<String, Reason> {
    for c in host.chars() {
        if c.is_ascii() {
            check_byte(c)?;
        } else {
            check_typed(c)?;
        }
    }
    for label in host.split('.').filter(|label| is_punycode(label.as_bytes())) {
        check_punycode_label(label)?;
    }
    // The same call with the same options as `url` makes (WHATWG "domain to ASCII", beStrict off);
    // lengths and hyphens are judged on the result.
    Uts46::new()
        .to_ascii(host.as_bytes(), AsciiDenyList::URL, Hyphens::Allow, DnsLength::Ignore)
        .map(Cow::into_owned)
        .map_err(|_| Reason::IdnaInvalid)
}

fn check_byte(c: char) -> Result<(), Reason> {
    match c {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '.' | '_' => Ok(()),
        '%' => Err(Reason::HostPercentEncoded),
        _ => Err(Reason::HostCharacter),
    }
}

/// Refuses a typed character that stands for, or looks like, something else in a host.
fn check_typed(c: char) -> Result<(), Reason> {
    if let Some(reason) = text::refused_in_host(c) {
        return Err(reason);
    }
    let mapped = mapping(c);
    if mapped.bytes().any(is_delimiter) {
        return Err(Reason::DisguisedDelimiter);
    }
    if mapped.contains('.') {
        return Err(Reason::DisguisedDot);
    }
    if !mapped.is_empty() && mapped.is_ascii() {
        return Err(Reason::DisguisedAscii);
    }
    look_alike(c)
}

/// What UTS 46 maps this one character to; U+FFFD inside when it allows none.
pub(super) fn mapping(c: char) -> String {
    let mut buffer = [0; 4];
    let typed = c.encode_utf8(&mut buffer);
    Uts46::new().to_unicode(typed.as_bytes(), AsciiDenyList::EMPTY, Hyphens::Allow).0.into_owned()
}

fn is_delimiter(byte: u8) -> bool {
    matches!(byte, b'/' | b':' | b'@' | b'?' | b'#' | b'\\' | b'%' | b'[' | b']')
}

/// Refuses symbols that UTS 46 keeps but readers take for a delimiter: `example.com⁄login.evil.tld`
/// is a subdomain of `evil.tld`. Letters stay (the katakana `ノ` is confusable with a slash, and
/// Japanese can't do without it): only what UTS 39 doesn't recommend for identifiers is refused.
fn look_alike(c: char) -> Result<(), Reason> {
    if c.is_ascii() || c.identifier_allowed() {
        return Ok(());
    }
    let mut buffer = [0; 4];
    let mut looks = skeleton(c.encode_utf8(&mut buffer));
    match (looks.next(), looks.next()) {
        (Some('.'), None) => Err(Reason::DisguisedDot),
        // U+1735, U+2044, U+2215, U+29F8… for the slash, U+2236, U+A789… for the colon.
        (Some(sign), None) if u8::try_from(sign).is_ok_and(is_delimiter) => {
            Err(Reason::DisguisedDelimiter)
        }
        _ => Ok(()),
    }
}

struct Shape {
    /// Some label begins with `xn--`.
    punycode: bool,
    /// WHATWG URL "ends in a number": the host is an IPv4 address or invalid.
    numeric_end: bool,
    last_hyphen: bool,
}

/// Characters, labels and lengths of an ASCII host, in one pass.
fn check_shape(host: &str) -> Result<Shape, Reason> {
    let mut shape = Shape { punycode: false, numeric_end: false, last_hyphen: false };
    for byte in host.bytes() {
        check_byte(char::from(byte))?;
    }
    // One trailing dot only says that the name is fully qualified.
    let name = host.strip_suffix('.').unwrap_or(host);
    if name.len() > MAX_HOST_BYTES {
        return Err(Reason::HostTooLong);
    }
    let mut labels = 0;
    for label in name.as_bytes().split(|byte| *byte == b'.') {
        labels += 1;
        let Some(first) = label.first() else {
            return Err(Reason::LabelEmpty);
        };
        if label.len() > MAX_LABEL_BYTES {
            return Err(Reason::LabelTooLong);
        }
        // RFC 1123 section 2.1; besides, a host that begins with a hyphen is an option to every
        // program it is handed to.
        if *first == b'-' {
            return Err(Reason::HyphenLeading);
        }
        shape.punycode |= is_punycode(label);
        shape.numeric_end = is_number(label);
        shape.last_hyphen = label.ends_with(b"-");
    }
    if labels > MAX_LABELS {
        return Err(Reason::TooManyLabels);
    }
    Ok(shape)
}

fn is_punycode(label: &[u8]) -> bool {
    label.get(..4).is_some_and(|head| head.eq_ignore_ascii_case(b"xn--"))
}

/// A number in the eyes of the WHATWG IPv4 parser: digits, or `0x` and hexadecimal digits or none.
fn is_number(part: &[u8]) -> bool {
    let digits = !part.is_empty() && part.iter().all(u8::is_ascii_digit);
    digits || hex_digits(part).is_some_and(|rest| rest.iter().all(u8::is_ascii_hexdigit))
}

fn hex_digits(part: &[u8]) -> Option<&[u8]> {
    part.strip_prefix(b"0x").or_else(|| part.strip_prefix(b"0X"))
}

/// Accepts four decimal numbers without leading zeros (RFC 3986 `dec-octet`) and nothing else.
fn check_v4(host: &str) -> Result<Kind, Reason> {
    let name = host.strip_suffix('.').unwrap_or(host);
    let parts = || name.as_bytes().split(|byte| *byte == b'.');
    if !parts().all(is_number) {
        return Err(Reason::NumericLastLabel);
    }
    if parts().any(|part| hex_digits(part).is_some()) {
        return Err(Reason::Ipv4Hex);
    }
    if parts().any(|part| part.len() > 1 && part.first() == Some(&b'0')) {
        return Err(Reason::Ipv4Octal);
    }
    match parts().count() {
        1 => return Err(Reason::Ipv4Integer),
        2 | 3 => return Err(Reason::Ipv4Short),
        4 => {}
        _ => return Err(Reason::Ipv4TooManyParts),
    }
    if name.parse::<Ipv4Addr>().is_err() {
        return Err(Reason::Ipv4Range);
    }
    if name.len() < host.len() {
        return Err(Reason::Ipv4TrailingDot);
    }
    Ok(Kind::V4)
}

/// Judges every `xn--` label; `true` when one of them is deceptive.
fn check_punycode(host: &str) -> Result<bool, Reason> {
    let last = host.rsplit('.').find(|label| !label.is_empty()).unwrap_or_default();
    let ascii_end = !is_punycode(last.as_bytes());
    let mut deceptive = false;
    for label in host.split('.').filter(|label| is_punycode(label.as_bytes())) {
        let decoded = check_punycode_label(label)?;
        deceptive |= is_mixed(&decoded) || (ascii_end && is_whole_script_confusable(&decoded));
    }
    // The bidi rule (RFC 5893) spans labels, so the whole name is judged once more.
    Uts46::new()
        .to_ascii(host.as_bytes(), AsciiDenyList::URL, Hyphens::Allow, DnsLength::Ignore)
        .map(|_| deceptive)
        .map_err(|_| Reason::IdnaInvalid)
}

/// The Unicode form of one `xn--` label.
fn check_punycode_label(label: &str) -> Result<Cow<'_, str>, Reason> {
    // `xn--example-` decodes to plain `example`: a second spelling of an ASCII name, which got
    // past blocklists (RUSTSEC-2024-0421).
    if label.len() == 4 || label.ends_with('-') {
        return Err(Reason::PunycodeAscii);
    }
    let (decoded, valid) =
        Uts46::new().to_unicode(label.as_bytes(), AsciiDenyList::URL, Hyphens::Allow);
    if valid.is_err() || decoded.is_ascii() {
        return Err(Reason::PunycodeInvalid);
    }
    for c in decoded.chars() {
        look_alike(c)?;
    }
    Ok(decoded)
}

/// Whether this decoded label mixes scripts (UTS 39 section 5.1, with its augmented sets, so that
/// Japanese, Korean and Chinese each count as one) or hides a joiner.
fn is_mixed(label: &str) -> bool {
    !label.is_single_script() || label.contains(['\u{200c}', '\u{200d}'])
}

/// Whether this decoded label reads as a plain ASCII one: each of its letters is, or looks like,
/// one ASCII letter, digit or hyphen (UTS 39 section 4; `аррӏе` in Cyrillic, `wıkipedia`).
///
/// Asked only below an ASCII top-level name, as browsers do: `со.рф` imitates nothing.
fn is_whole_script_confusable(label: &str) -> bool {
    label.chars().all(|c| {
        let mut buffer = [0; 4];
        let mut looks = skeleton(c.encode_utf8(&mut buffer));
        let one = matches!((looks.next(), looks.next()),
            (Some(sign), None) if sign.is_ascii_alphanumeric() || sign == '-');
        c.is_ascii() || one
    })
}
