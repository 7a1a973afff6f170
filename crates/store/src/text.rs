//! Text search: folding case, and the comparison with a row.

/// A search text, folded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Needle {
    folded: String,
}

impl Needle {
    pub(crate) fn new(text: &str) -> Self {
        Self { folded: text.chars().map(fold).collect() }
    }

    /// The folded text.
    pub(crate) fn as_str(&self) -> &str {
        &self.folded
    }

    /// Whether `hay` contains the text, case aside.
    pub(crate) fn is_in(&self, hay: &str) -> bool {
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
}
