//! The query for SQLite's text index.

use crate::text::Needle;

/// Trigrams that are in nearly every row: they narrow nothing down, so they are left out of a
/// query that has others.
const EVERYWHERE: &[&str] = &[
    "htt", "ttp", "tps", "ps:", "s:/", "p:/", "://", "//w", "/ww", "www", "ww.", ".co", "com",
    "om/", "org", ".or", "rg/", "net", ".ne", "et/",
];

/// The most trigrams asked for in one query; the comparison with the row does the rest.
const MAX_TRIGRAMS: usize = 8;

/// The query that finds every row that may contain the text; `None` when it is shorter than a
/// trigram. Every trigram is quoted, so nothing in it is query syntax.
pub(super) fn query(needle: &Needle) -> Option<String> {
    let chars: Vec<char> = needle.as_str().chars().collect();
    let mut trigrams: Vec<String> = Vec::new();
    for window in chars.windows(3) {
        let trigram: String = window.iter().collect();
        if !trigrams.contains(&trigram) {
            trigrams.push(trigram);
        }
    }
    let mut chosen: Vec<&String> =
        trigrams.iter().filter(|t| !EVERYWHERE.contains(&t.as_str())).collect();
    if chosen.is_empty() {
        chosen = trigrams.iter().collect();
    }
    let quoted = |trigram: &String| format!("\"{}\"", trigram.replace('"', "\"\""));
    let step = chosen.len().div_ceil(MAX_TRIGRAMS).max(1);
    let terms: Vec<String> = chosen.into_iter().step_by(step).map(quoted).collect();
    (!terms.is_empty()).then(|| terms.join(" AND "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_syntax_in_the_text_is_literal() {
        assert_eq!(query(&Needle::new("a\"b")).as_deref(), Some("\"a\"\"b\""));
        assert_eq!(
            query(&Needle::new("a OR b")).as_deref(),
            Some("\"a o\" AND \" or\" AND \"or \" AND \"r b\"")
        );
        assert_eq!(query(&Needle::new("ab")), None);
    }

    #[test]
    fn trigrams_that_are_everywhere_are_only_asked_for_alone() {
        assert_eq!(query(&Needle::new("https://zq")).as_deref(), Some("\"//z\" AND \"/zq\""));
        assert_eq!(query(&Needle::new("http")).as_deref(), Some("\"htt\" AND \"ttp\""));
    }

    #[test]
    fn long_texts_ask_for_a_bounded_number_of_trigrams() {
        let text: String = (0..400).map(|i| char::from(b'a' + (i * i % 26) as u8)).collect();
        let query = query(&Needle::new(&text)).unwrap();
        assert!(query.matches(" AND ").count() < MAX_TRIGRAMS);
    }
}
