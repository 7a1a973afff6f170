//! Text search: folding case, the query for the text index, and the comparison with the row.

/// Trigrams that are in nearly every row: they narrow nothing down, so they are left out of a
/// query that has others.
const EVERYWHERE: &[&str] = &[
    "htt", "ttp", "tps", "ps:", "s:/", "p:/", "://", "//w", "/ww", "www", "ww.", ".co", "com",
    "om/", "org", ".or", "rg/", "net", ".ne", "et/",
];

/// The most trigrams asked for in one query; the comparison with the row does the rest.
const MAX_TRIGRAMS: usize = 8;

/// A search text, folded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Needle {
    folded: String,
}

impl Needle {
    pub(super) fn new(text: &str) -> Self {
        Self { folded: text.chars().map(fold).collect() }
    }

    /// The folded text.
    pub(super) fn as_str(&self) -> &str {
        &self.folded
    }

    /// Whether `hay` contains the text, case aside.
    pub(super) fn is_in(&self, hay: &str) -> bool {
        if !hay.is_ascii() {
            return hay.chars().map(fold).collect::<String>().contains(&self.folded);
        }
        let needle = self.folded.as_bytes();
        let Some((&first, rest)) = needle.split_first() else { return true };
        let upper = first.to_ascii_uppercase();
        let mut hay = hay.as_bytes();
        while let Some(at) = hay.iter().position(|&b| b == first || b == upper) {
            let Some(behind) = hay.get(at + 1..) else { return false };
            match behind.get(..rest.len()) {
                None => return false,
                Some(candidate) if candidate.eq_ignore_ascii_case(rest) => return true,
                Some(_) => hay = behind,
            }
        }
        false
    }

    /// The query that finds every row that may contain the text; `None` when it is shorter than a
    /// trigram. Every trigram is quoted, so nothing in it is query syntax.
    pub(super) fn fts_query(&self) -> Option<String> {
        let chars: Vec<char> = self.folded.chars().collect();
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
}

/// Simple case folding: the lower case of a character, where that is one character.
fn fold(c: char) -> char {
    if c.is_ascii() {
        return c.to_ascii_lowercase();
    }
    let mut lower = c.to_lowercase();
    match (lower.next(), lower.next()) {
        (Some(one), None) => one,
        _ => c,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_is_folded_on_both_sides() {
        assert!(Needle::new("ExAmPlE").is_in("https://eXample.com"));
        assert!(Needle::new("ÄÖÜ").is_in("xäöüx"));
        assert!(Needle::new("привет").is_in("ПРИВЕТ"));
        assert!(Needle::new("").is_in("x"));
        assert!(!Needle::new("abcd").is_in("abc"));
        assert!(!Needle::new("abc").is_in("ababab"));
        assert!(Needle::new("aab").is_in("aaab"));
    }

    #[test]
    fn query_syntax_in_the_text_is_literal() {
        assert_eq!(Needle::new("a\"b").fts_query().as_deref(), Some("\"a\"\"b\""));
        assert_eq!(
            Needle::new("a OR b").fts_query().as_deref(),
            Some("\"a o\" AND \" or\" AND \"or \" AND \"r b\"")
        );
        assert_eq!(Needle::new("ab").fts_query(), None);
    }

    #[test]
    fn trigrams_that_are_everywhere_are_only_asked_for_alone() {
        assert_eq!(Needle::new("https://zq").fts_query().as_deref(), Some("\"//z\" AND \"/zq\""));
        assert_eq!(Needle::new("http").fts_query().as_deref(), Some("\"htt\" AND \"ttp\""));
    }

    #[test]
    fn long_texts_ask_for_a_bounded_number_of_trigrams() {
        let text: String = (0..400).map(|i| char::from(b'a' + (i * i % 26) as u8)).collect();
        let query = Needle::new(&text).fts_query().unwrap();
        assert!(query.matches(" AND ").count() < MAX_TRIGRAMS);
    }
}
