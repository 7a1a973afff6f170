//! Classes of characters: what is refused anywhere, and what only in a host.
//!
//! A character that a reader can't see, or that changes the order in which he sees the others,
//! makes two different targets look the same. In a path it would be harmless once percent-encoded,
//! but it is there by accident (copied out of a document) or to deceive, and the sender can always
//! write it percent-encoded: `%E2%80%8B` is accepted, a raw U+200B is not. Two families are let
//! through outside the host because ordinary text needs them: the joiners U+200C and U+200D
//! (Persian and Indic spelling, emoji sequences) and the variation selectors U+FE00 to U+FE0F
//! (the second half of many emoji).

use super::Reason;

/// Whether this byte can stand anywhere in a target without a second look: printable ASCII except
/// the backslash, which WHATWG URL reads as a slash in http and https.
pub(super) fn is_plain(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~') && byte != b'\\'
}

/// Looks at every character once. `Ok(true)`: the whole input is plain ASCII.
pub(super) fn scan(input: &str) -> Result<bool, Reason> {
    // The ordinary input ends here, after one pass over its bytes.
    if input.bytes().all(is_plain) {
        return Ok(true);
    }
    let mut ascii = true;
    for (at, c) in input.char_indices() {
        ascii &= c.is_ascii();
        if c == ' ' {
            let edge = at == 0 || input.get(at..).is_some_and(only_spaces);
            return Err(if edge { Reason::SurroundingSpace } else { Reason::Space });
        }
        if let Some(reason) = refused_anywhere(c) {
            return Err(reason);
        }
    }
    Ok(ascii)
}

fn only_spaces(text: &str) -> bool {
    text.bytes().all(|b| b == b' ')
}

/// The reason for which this character is refused wherever it stands.
fn refused_anywhere(c: char) -> Option<Reason> {
    Some(match c {
        '\0' => Reason::NulByte,
        '\t' => Reason::Tab,
        '\n' | '\r' => Reason::LineBreak,
        '\u{1}'..='\u{1f}' | '\u{7f}' => Reason::ControlCharacter,
        '\\' => Reason::Backslash,
        '\0'..='\u{7e}' => return None,
        '\u{80}'..='\u{9f}' => Reason::C1Control,
        '\u{feff}' => Reason::ByteOrderMark,
        // Bidi_Control (UAX 44, UAX 9), and the deprecated shaping controls beside them.
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{206f}' => {
            Reason::BidiControl
        }
        '\u{200b}' | '\u{2060}' | '\u{180e}' => Reason::ZeroWidth,
        // U+2800, the blank Braille pattern, is no White_Space but shows as one.
        '\u{2800}' => Reason::UnicodeSpace,
        _ if c.is_whitespace() => Reason::UnicodeSpace,
        '\u{fff9}'..='\u{fffc}' => Reason::FormatCharacter,
        '\u{fffd}' => Reason::ReplacementCharacter,
        '\u{fdd0}'..='\u{fdef}' => Reason::Noncharacter,
        _ if u32::from(c) & 0xfffe == 0xfffe => Reason::Noncharacter,
        // The rest of Default_Ignorable_Code_Point (UAX 44, DerivedCoreProperties), variation
        // selectors excepted; tag characters (U+E0000..) can carry a whole hidden text.
        '\u{ad}'
        | '\u{34f}'
        | '\u{115f}'
        | '\u{1160}'
        | '\u{17b4}'
        | '\u{17b5}'
        | '\u{2061}'..='\u{2065}'
        | '\u{3164}'
        | '\u{ffa0}'
        | '\u{fff0}'..='\u{fff8}'
        | '\u{1bca0}'..='\u{1bca3}'
        | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}' => Reason::DefaultIgnorable,
        _ => return None,
    })
}

/// The reason for which this invisible or unassigned character is refused in a host.
pub(super) fn refused_in_host(c: char) -> Option<Reason> {
    Some(match c {
        '\u{200c}' | '\u{200d}' => Reason::ZeroWidth,
        '\u{180b}'..='\u{180f}' | '\u{fe00}'..='\u{fe0f}' => Reason::DefaultIgnorable,
        '\u{e000}'..='\u{f8ff}' | '\u{f0000}'..='\u{10ffff}' => Reason::PrivateUse,
        _ => return None,
    })
}
