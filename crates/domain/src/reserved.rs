//! The one list of words that are no codes: router, generator, allocators and import all ask here.

/// First path segments that belong to the service itself, lower-case, sorted (searched by
/// bisection).
///
/// The list is generous so that it need not grow: a later version that adds a page adds no word
/// for it unless the router asks for a link with that code first, because a word that exists as a
/// code is never reserved afterwards.
pub const RESERVED: &[&str] = &[
    "about",
    "account",
    "admin",
    "api",
    "app",
    "apple-touch-icon",
    "assets",
    "auth",
    "css",
    "dashboard",
    "docs",
    "domains",
    "favicon",
    "health",
    "healthz",
    "help",
    "img",
    "index",
    "js",
    "keys",
    "links",
    "live",
    "login",
    "logout",
    "metrics",
    "oauth",
    "openapi",
    "preview",
    "qr",
    "readyz",
    "report",
    "rest",
    "robots",
    "security",
    "settings",
    "setup",
    "shorten",
    "shunt",
    "signup",
    "sitemap",
    "static",
    "stats",
    "status",
    "tags",
    "terms",
    "users",
    "well-known",
    "worker",
    "yourls-api",
];

/// Whether a code is one of the service's own words. Case is folded first, so that nobody gets
/// `/Login` on a server whose users trust `/login`. Logarithmic in the length of the list.
pub fn is_reserved(code: &str) -> bool {
    let mut lower = [0_u8; 24];
    let Some(slot) = lower.get_mut(..code.len()) else {
        return false;
    };
    slot.copy_from_slice(code.as_bytes());
    slot.make_ascii_lowercase();
    RESERVED.binary_search_by(|word| word.as_bytes().cmp(slot)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted_lower_case_and_fits_the_buffer() {
        assert!(RESERVED.is_sorted_by(|a, b| a < b), "sort the list");
        for word in RESERVED {
            assert_eq!(*word, word.to_lowercase());
            assert!(word.len() <= 24);
            assert!(crate::Code::parse(word).is_ok(), "{word} could never be a code");
        }
    }

    #[test]
    fn reserved_words_are_found_in_any_case() {
        for word in ["api", "API", "Login", "health", "yourls-api"] {
            assert!(is_reserved(word), "{word}");
        }
        for word in ["apis", "x", "", "loginn", &"x".repeat(128)] {
            assert!(!is_reserved(word), "{word}");
        }
    }
}
