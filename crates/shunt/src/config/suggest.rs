//! "Did you mean": the nearest known name to a mistyped one.

/// The nearest of `names` if it is near enough to be meant: at most a third of the letters differ.
pub(super) fn nearest<'a>(
    typed: &str,
    names: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let (distance, name) =
        names.into_iter().map(|name| (distance(typed, name), name)).min_by_key(|(d, _)| *d)?;
    (distance * 3 <= typed.len().max(3)).then_some(name)
}

/// Levenshtein's distance over bytes, in two rows.
fn distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (at, l) in left.bytes().enumerate() {
        let mut diagonal = at;
        let mut before = at + 1;
        if let Some(first) = row.first_mut() {
            *first = before;
        }
        for (slot, r) in row.iter_mut().skip(1).zip(right.bytes()) {
            let above = *slot;
            before = (diagonal + usize::from(l != r)).min(above + 1).min(before + 1);
            *slot = before;
            diagonal = above;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_levenshteins() {
        for (left, right, expected) in
            [("", "", 0), ("a", "", 1), ("", "abc", 3), ("kitten", "sitting", 3), ("abc", "abc", 0)]
        {
            assert_eq!(distance(left, right), expected, "{left} {right}");
            assert_eq!(distance(right, left), expected, "{right} {left}");
        }
    }

    #[test]
    fn only_near_names_are_suggested() {
        let names = ["listen", "ops_listen", "links.code_length"];
        assert_eq!(nearest("lisen", names), Some("listen"));
        assert_eq!(nearest("link.code_lenght", names), Some("links.code_length"));
        assert_eq!(nearest("colour", names), None);
        assert_eq!(nearest("x", names), None);
    }
}
