//! What holds for every input, over generated ones.

use proptest::prelude::*;
use url::Url;

use super::super::{MAX_TARGET_BYTES, Target, rules};
use super::{corpus, corpus_rules};

/// Pieces in which two parsers ever differed, or that a filter ever overlooked.
const NASTY: [&str; 96] = [
    "http",
    "https",
    "HTTP",
    "ftp",
    "://",
    ":",
    "/",
    "//",
    "///",
    "?",
    "#",
    "@",
    "[",
    "]",
    "\\",
    "::",
    "::1",
    "ffff:",
    "1",
    ".",
    "..",
    "-",
    "_",
    "xn--",
    "xn--bcher-kva",
    "xn--80ak6aa92e",
    "xn--a",
    "example",
    "com",
    "sho.rt",
    "localhost",
    "127",
    "0x7f",
    "0",
    "010",
    "256",
    "%",
    "%00",
    "%2e",
    "%2F",
    "%0a",
    "%zz",
    "%25",
    "%40",
    "ü",
    "ß",
    "ς",
    "א",
    "م",
    "日本",
    "а",
    "ο",
    "。",
    "．",
    "／",
    "：",
    "＠",
    "①",
    "ｅ",
    "⁄",
    "ノ",
    "K",
    "İ",
    "ı",
    "ſ",
    "·",
    "٠",
    "\u{300}",
    "\u{200b}",
    "\u{200d}",
    "\u{200e}",
    "\u{202e}",
    "\u{ad}",
    "\u{feff}",
    "\u{fe0f}",
    "\u{fffd}",
    "\u{e000}",
    "\u{a0}",
    "\u{2028}",
    "\u{85}",
    "😀",
    " ",
    "\t",
    "\n",
    "\r",
    "\0",
    "\u{7f}",
    "&",
    "=",
    ";",
    "|",
    "{",
    "\"",
    "<",
    "'",
    "8080",
];

fn nasty() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => proptest::sample::select(&NASTY[..]).prop_map(String::from),
        1 => any::<char>().prop_map(String::from),
        1 => proptest::char::range('\u{80}', '\u{17ff}').prop_map(String::from),
    ]
}

/// Heaps of nasty pieces, with and without a good beginning, and rows of the corpus with pieces
/// put in, cut out or doubled.
fn hostile() -> impl Strategy<Value = String> {
    let heap = || proptest::collection::vec(nasty(), 0..12).prop_map(|pieces| pieces.concat());
    let begun = ("https?://", heap()).prop_map(|(scheme, rest)| scheme + &rest);
    let rows: Vec<String> =
        corpus().into_iter().map(|row| row.input).filter(|input| input.len() < 300).collect();
    let edit = (any::<proptest::sample::Index>(), 0..3_usize, nasty());
    let mutated = (proptest::sample::select(rows), proptest::collection::vec(edit, 1..4)).prop_map(
        |(row, edits)| {
            let mut chars: Vec<char> = row.chars().collect();
            for (index, cut, piece) in edits {
                let at = index.index(chars.len() + 1);
                let end = (at + cut).min(chars.len());
                chars.splice(at..end, piece.chars());
            }
            chars.into_iter().collect()
        },
    );
    prop_oneof![2 => heap(), 3 => begun, 5 => mutated]
}

/// More cases than the default; PROPTEST_CASES asks for more still.
fn config() -> ProptestConfig {
    let default = ProptestConfig::default();
    ProptestConfig { cases: default.cases.max(4_096), ..default }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn what_is_accepted_is_safe_stable_and_read_alike_by_browsers(input in hostile()) {
        let rules = corpus_rules();
        let target = match Target::parse(&input, &rules) {
            Ok(target) => target,
            Err(reason) => {
                prop_assert_eq!(Target::parse(&input, &rules), Err(reason));
                return Ok(());
            }
        };
        let location = target.as_str();
        prop_assert!(location.bytes().all(|b| matches!(b, b'!'..=b'~')));
        prop_assert!(location.len() <= MAX_TARGET_BYTES);
        if input.is_ascii() {
            prop_assert_eq!(location, &input);
        }
        let again = Target::parse(location, &rules);
        prop_assert_eq!(again.as_ref(), Ok(&target));
        prop_assert_eq!(Target::from_stored(location, target.mixed_script()), Some(target.clone()));

        // A browser goes to the same host, from what was typed and from what we answer.
        let browser = Url::parse(location).unwrap();
        let typed = Url::parse(&input).unwrap();
        prop_assert_eq!(browser.host_str(), typed.host_str());
        prop_assert_eq!(browser.port(), typed.port());
        if let ("http" | "https", Some(host)) = (browser.scheme(), browser.host_str()) {
            let host = host.trim_matches(['[', ']']);
            prop_assert_eq!(host.strip_suffix('.').unwrap_or(host), &*target.host_key());
        }
        prop_assert!(browser.username().is_empty() && browser.password().is_none());
    }

    #[test]
    fn a_visitors_query_changes_nothing_but_the_query(
        input in hostile(),
        pieces in proptest::collection::vec(nasty(), 0..12),
    ) {
        let rules = corpus_rules();
        let Ok(target) = Target::parse(&input, &rules) else { return Ok(()) };
        let query = pieces.concat();
        let answer = target.with_query(&query);
        let (before, after) = (Url::parse(target.as_str()).unwrap(), Url::parse(&answer).unwrap());
        prop_assert_eq!(before.scheme(), after.scheme());
        prop_assert_eq!(before.host_str(), after.host_str());
        prop_assert_eq!(before.port(), after.port());
        prop_assert_eq!(before.path(), after.path());
        prop_assert_eq!(before.fragment(), after.fragment());
        prop_assert_eq!(before.username(), after.username());
        let own = before.query().unwrap_or("");
        prop_assert!(after.query().unwrap_or("").starts_with(own));
        prop_assert!(answer.len() <= MAX_TARGET_BYTES);
        let accepted = Target::parse(&answer, &rules);
        prop_assert_eq!(accepted.map(|t| t.as_str().to_owned()), Ok(answer.into_owned()));
    }

    #[test]
    fn nothing_unsafe_comes_out_of_a_broken_store(text in hostile(), mixed: bool) {
        if let Some(target) = Target::from_stored(&text, mixed) {
            prop_assert_eq!(target.as_str(), &text);
            prop_assert!(text.bytes().all(|b| matches!(b, b'!'..=b'~')));
            prop_assert!(!rules::is_dangerous(target.scheme()));
            let _ = (target.host(), target.host_key(), target.with_query(&text));
        }
    }
}
