//! The files that pages load: named by content, kept, ours or a vendor's byte for byte.

use std::path::Path;

use http::StatusCode;
use sha2::{Digest, Sha256};

use super::world::service;
use super::{assert_secure, request, send, with};

const CRATE: &str = env!("CARGO_MANIFEST_DIR");

#[tokio::test]
async fn files_are_served_under_their_fingerprint_for_good() {
    let (state, _) = service("http://127.0.0.1:8080").await;
    let mut files = 0;
    for uri in ["/", "/docs"] {
        let page = send(&state, request("GET", uri)).await;
        for file in page.text().split("/assets/").skip(1) {
            let uri = format!("/assets/{}", file.split('"').next().unwrap());
            let answer = send(&state, request("GET", &uri)).await;
            assert_eq!(answer.status, StatusCode::OK, "{uri}");
            assert_eq!(answer.header("cache-control"), "public, max-age=31536000, immutable");
            assert_secure(&answer, &uri);
            let etag = answer.header("etag").to_owned();
            assert!(uri.contains(etag.trim_matches('"')), "{uri} is named by {etag}");
            let known = with(request("GET", &uri), "if-none-match", &etag);
            let known = send(&state, known).await;
            assert_eq!((known.status, known.body.len()), (StatusCode::NOT_MODIFIED, 0));
            let other = uri.replacen(etag.trim_matches('"'), "0000000000000000", 1);
            assert_eq!(send(&state, request("GET", &other)).await.status, StatusCode::NOT_FOUND);
            files += 1;
        }
    }
    assert_eq!(files, 3 + 7, "three files of every page, four more of the API browser");
    let icon = send(&state, request("GET", "/favicon.ico")).await;
    assert_eq!(icon.header("content-type"), "image/x-icon");
    assert!(icon.body.starts_with(&[0, 0, 1, 0]), "an ICO file");
}

#[test]
fn the_vendored_files_are_what_the_vendor_published() {
    let folder = Path::new(CRATE).join("assets/vendor/swagger-ui");
    let sums = std::fs::read_to_string(folder.join("SHA256SUMS")).unwrap();
    let mut named = vec!["README.md".to_owned(), "SHA256SUMS".to_owned()];
    for line in sums.lines() {
        let (sum, name) = line.split_once("  ").unwrap();
        let bytes = std::fs::read(folder.join(name)).unwrap();
        let found: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(found, sum, "{name}");
        named.push(name.to_owned());
    }
    for file in std::fs::read_dir(&folder).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        assert!(named.contains(&name), "{name} has no checksum");
    }
    assert!(named.iter().any(|name| name == "LICENSE"));
}

/// All our own files and templates, by name.
fn own_files() -> Vec<(String, String)> {
    let mut files = Vec::new();
    for folder in ["assets", "templates"] {
        for entry in std::fs::read_dir(Path::new(CRATE).join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() && path.extension().is_some_and(|extension| extension != "ico") {
                let text = std::fs::read_to_string(&path).unwrap();
                files.push((path.display().to_string(), text));
            }
        }
    }
    assert!(files.len() >= 11, "{}", files.len());
    files
}

#[test]
fn nothing_of_ours_loads_from_outside() {
    for (name, text) in own_files() {
        for url in text.split("//").skip(1) {
            let host: String =
                url.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '.').collect();
            // A namespace and a placeholder are no loads; a comment or a regular expression has no
            // host.
            let known = ["www.w3.org", "example.com", ""];
            assert!(known.contains(&host.as_str()) || !host.contains('.'), "{name}: {host}");
        }
        assert!(!text.contains("@import"), "{name}");
    }
}

#[test]
fn no_template_has_inline_code_or_style() {
    for (name, text) in own_files().into_iter().filter(|(name, _)| name.ends_with(".html")) {
        let lower = text.to_ascii_lowercase();
        for script in lower.split("<script").skip(1) {
            let (attributes, rest) = script.split_once('>').unwrap();
            assert!(attributes.contains("src="), "{name}: an inline script");
            assert!(rest.starts_with("</script>"), "{name}: an inline script");
        }
        assert!(!lower.contains(" style="), "{name}: a style attribute");
        assert!(!lower.contains("javascript:"), "{name}");
        for word in lower.split_whitespace().filter(|word| word.starts_with("on")) {
            assert!(!word.contains('='), "{name}: an event attribute {word}");
        }
        // The style of error pages is allowed by its hash; everything else is escaped.
        let raw = lower.matches("|safe").count();
        assert_eq!(raw, usize::from(name.ends_with("error.html")), "{name}");
    }
}

/// The contrast of every pair of text and ground that the style sheet uses (WCAG 2.2, 1.4.3 and
/// 1.4.11), in both colour schemes.
#[test]
fn colours_are_far_enough_apart() {
    let css = std::fs::read_to_string(Path::new(CRATE).join("assets/shunt.css")).unwrap();
    let schemes: Vec<&str> = css.split(":root {").skip(1).take(2).collect();
    assert_eq!(schemes.len(), 2);
    for scheme in schemes {
        let scheme = scheme.split('}').next().unwrap();
        let luminance = |name: &str| {
            let value = scheme.split(&format!("--{name}: #")).nth(1).unwrap();
            let channel = |at: usize| {
                let byte = u8::from_str_radix(&value[at..at + 2], 16).unwrap();
                let part = f64::from(byte) / 255.0;
                if part <= 0.04045 { part / 12.92 } else { ((part + 0.055) / 1.055).powf(2.4) }
            };
            0.2126 * channel(0) + 0.7152 * channel(2) + 0.0722 * channel(4)
        };
        let contrast = |one: &str, other: &str| {
            let (a, b) = (luminance(one), luminance(other));
            (a.max(b) + 0.05) / (a.min(b) + 0.05)
        };
        for (text, ground) in [
            ("ink", "ground"),
            ("ink", "sheet"),
            ("ink", "tint"),
            ("muted", "ground"),
            ("muted", "sheet"),
            ("accent", "ground"),
            ("accent", "sheet"),
            ("accent", "tint"),
            ("accent-deep", "ground"),
            ("accent-deep", "tint"),
            ("on-accent", "accent"),
            ("on-accent", "accent-deep"),
            ("bad", "sheet"),
            ("bad", "bad-tint"),
            ("warn", "warn-tint"),
        ] {
            assert!(
                contrast(text, ground) >= 4.5,
                "{text} on {ground}: {}",
                contrast(text, ground)
            );
        }
        for ground in ["ground", "sheet"] {
            assert!(
                contrast("edge", ground) >= 3.0,
                "edge on {ground}: {}",
                contrast("edge", ground)
            );
        }
    }
}
