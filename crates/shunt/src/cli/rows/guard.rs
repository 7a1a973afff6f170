//! Keeps spreadsheets from running cells as formulas, and undoes it.
//!
//! A cell that begins with one of `= + - @`, tab, carriage return, NUL or an apostrophe gets an
//! apostrophe in front (OWASP "CSV Injection"); reading takes one apostrophe away from a cell that
//! begins with an apostrophe and one of these. Because the apostrophe itself is on the list, every
//! text comes back as it was.

fn is_risky(c: char) -> bool {
    matches!(c, '=' | '+' | '-' | '@' | '\t' | '\r' | '\0' | '\'')
}

/// The text as a cell.
pub(crate) fn guarded(text: &str) -> std::borrow::Cow<'_, str> {
    if text.starts_with(is_risky) { format!("'{text}").into() } else { text.into() }
}

/// The text of a cell.
pub(crate) fn unguarded(cell: &str) -> &str {
    match cell.strip_prefix('\'') {
        Some(rest) if rest.starts_with(is_risky) => rest,
        _ => cell,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn formulas_are_guarded() {
        for formula in ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\0=1"] {
            assert_eq!(guarded(formula), format!("'{formula}"));
        }
        assert_eq!(guarded("https://example.com/"), "https://example.com/");
        assert_eq!(guarded(""), "");
        assert_eq!(unguarded("'tis"), "'tis", "somebody else's apostrophe stays");
    }

    proptest! {
        #[test]
        fn every_text_comes_back(text in "[=+@'\t\r\0a-]{0,6}|\\PC{0,20}") {
            let cell = guarded(&text);
            prop_assert_eq!(unguarded(&cell), text.as_str());
            prop_assert!(!cell.starts_with(['=', '+', '-', '@', '\t', '\r', '\0']));
        }
    }
}
