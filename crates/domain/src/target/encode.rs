//! Percent-encoding, and the visitor's query behind a target's own.

use std::borrow::Cow;

use super::MAX_TARGET_BYTES;

const HEX: [char; 16] =
    ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];

/// Appends one byte as `%XX`, upper case as RFC 3986 section 2.1 asks.
fn push_encoded(out: &mut String, byte: u8) {
    let digit = |nibble: u8| HEX.get(usize::from(nibble)).copied().unwrap_or('0');
    out.push('%');
    out.push(digit(byte >> 4));
    out.push(digit(byte & 15));
}

/// Appends `text` with every non-ASCII character percent-encoded as UTF-8 and nothing else
/// touched: what is typed in ASCII stays as typed, valid escape or not.
pub(super) fn push_ascii(out: &mut String, text: &str) {
    push_where(out, text, |byte| byte.is_ascii());
}

fn push_where(out: &mut String, text: &str, keep: impl Fn(u8) -> bool) {
    for byte in text.bytes() {
        if keep(byte) {
            out.push(char::from(byte));
        } else {
            push_encoded(out, byte);
        }
    }
}

/// Whether this byte of a visitor's query may stand in the query of the answer as it is.
///
/// The bytes of the special-query percent-encode set (WHATWG URL) may not, so that a browser
/// changes nothing; `#` would begin a fragment; the backslash no target holds.
fn stands_in_query(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~') && !matches!(byte, b'"' | b'#' | b'\'' | b'<' | b'>' | b'\\')
}

/// `location` with `visitor_query` behind its own query and before its fragment, or unchanged
/// when there is nothing to add or the sum is longer than a target may be.
pub(super) fn with_query<'a>(location: &'a str, visitor_query: &str) -> Cow<'a, str> {
    if visitor_query.is_empty() {
        return Cow::Borrowed(location);
    }
    let extra: usize = visitor_query.bytes().map(|b| if stands_in_query(b) { 1 } else { 3 }).sum();
    // One more for the `?` or `&` between them.
    if location.len() + extra + 1 > MAX_TARGET_BYTES {
        return Cow::Borrowed(location);
    }
    let (before, fragment) = match location.find('#') {
        Some(at) => location.split_at(at),
        None => (location, ""),
    };
    let mut out = String::with_capacity(location.len() + extra + 1);
    out.push_str(before);
    match before.split_once('?') {
        None => out.push('?'),
        Some((_, query)) if query.is_empty() || query.ends_with('&') => {}
        Some(_) => out.push('&'),
    }
    push_where(&mut out, visitor_query, stands_in_query);
    out.push_str(fragment);
    Cow::Owned(out)
}
