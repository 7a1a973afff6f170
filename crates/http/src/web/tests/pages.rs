//! Previews, QR codes and error pages, and the headers of everything.

use std::num::NonZeroU64;
use std::sync::atomic::Ordering;

use http::header::ACCEPT;
use http::{HeaderMap, HeaderValue, StatusCode};
use shunt_domain::Timestamp;

use super::forms::{POLYGLOTS, delete};
use super::world::{key, service};
use super::{Answer, assert_secure, preview_of, qr_of, request, send, settings, shorten, skeleton};
use crate::web::qr::{Matrix, QrError};
use crate::web::{Wants, error_page, preview, qr, warning};

const BASE: &str = "http://127.0.0.1:8080";

#[tokio::test]
async fn a_preview_sets_off_the_host_and_links_to_the_target() {
    let (state, memory) = service(BASE).await;
    for (code, url, before, host, after) in [
        ("a", "https://example.com/x?y#z", "https://", "example.com", "/x?y#z"),
        ("b", "http://HTTP.example:81/http.example", "http://", "HTTP.example", ":81/http.example"),
        ("c", "https://[2001:db8::1]:8443/", "https://[", "2001:db8::1", "]:8443/"),
        ("d", "https://s/", "https://", "s", "/"),
    ] {
        shorten(&state, &[("long_url", url), ("code", code)]).await;
        memory.edit(code, |link| link.data.created_at = Timestamp::from_millis(1_795_356_187_000));
        let page = preview_of(&state, code).await;
        assert_eq!(page.status, StatusCode::OK, "{url}");
        assert_secure(&page, url);
        assert_eq!(page.header("cache-control"), "no-store");
        let html = page.text();
        assert!(html.contains(&format!("{before}<strong>{host}</strong>{after}")), "{html}");
        assert!(html.contains("22 November 2026, 14:03 UTC"));
        let go = format!("href=\"{url}\" rel=\"noreferrer noopener nofollow\"");
        assert!(html.contains(&go), "{html}");
        assert!(!html.contains("Look before you go"));
    }
}

#[tokio::test]
async fn a_misleading_host_is_shown_in_ascii_with_a_warning() {
    let (state, _) = service(BASE).await;
    // The second letter is Cyrillic.
    shorten(&state, &[("long_url", "https://p\u{430}ypal.com/login"), ("code", "m")]).await;
    let page = preview_of(&state, "m").await;
    assert!(page.text().contains("<strong>xn--pypal-4ve.com</strong>/login"), "{}", page.text());
    assert!(page.text().contains("Look before you go."));
    let location = "https://xn--pypal-4ve.com/login?from=1";
    let page = warning(&settings("https://go.example/s"), "https://go.example/s/m", location);
    let page = Answer::read(page).await;
    assert_eq!((page.status, page.header("cache-control")), (StatusCode::OK, "no-store"));
    assert_secure(&page, "warning");
    assert!(page.text().contains("Look before you go."));
    assert!(page.text().contains("<strong>xn--pypal-4ve.com</strong>/login?from=1"));
    assert!(page.text().contains("go.example/s/m"));
    // What is no target at all is never put into a link.
    let bad = warning(&settings(BASE), "x", "javascript:alert(1)");
    assert_eq!(bad.status(), StatusCode::INTERNAL_SERVER_ERROR);
}

#[tokio::test]
async fn limited_links_are_previewed_without_their_target() {
    let (state, memory) = service(BASE).await;
    shorten(&state, &[("long_url", "https://secret.example/p"), ("code", "l")]).await;
    memory.edit("l", |link| {
        link.data.max_clicks = NonZeroU64::new(3);
        link.data.title = Some("secret title".into());
    });
    let page = preview_of(&state, "l").await;
    assert_eq!(page.status, StatusCode::OK);
    assert!(!page.text().contains("secret"), "{}", page.text());
    assert!(page.text().contains("href=\"http://127.0.0.1:8080/l\""));
    let svg = qr_of(&state, "l", "").await;
    assert!(!svg.text().contains("secret"));
}

#[tokio::test]
async fn all_that_is_gone_answers_with_the_same_bytes() {
    let (state, memory) = service(BASE).await;
    for code in ["expired", "used", "disabled", "deleted"] {
        shorten(&state, &[("long_url", "https://secret.example/"), ("code", code)]).await;
    }
    memory.edit("expired", |link| link.data.expires_at = Some(Timestamp::from_millis(1)));
    memory.edit("disabled", |link| link.data.enabled = false);
    memory.edit("used", |link| {
        link.data.max_clicks = NonZeroU64::new(2);
        link.used = 2;
    });
    delete(&state, "deleted").await;
    let page = Answer::read(error_page(StatusCode::GONE, Wants::Html)).await;
    assert!(!page.text().contains("secret"));
    for code in ["expired", "used", "disabled", "deleted"] {
        for answer in [preview_of(&state, code).await, qr_of(&state, code, "").await] {
            assert_eq!(answer.status, StatusCode::GONE, "{code}");
            assert_eq!(answer.body, page.body, "{code}");
            assert_eq!(answer.headers, page.headers, "{code}");
        }
    }
    for answer in [preview_of(&state, "never").await, qr_of(&state, "never", "").await] {
        assert_eq!(answer.status, StatusCode::NOT_FOUND);
    }
    memory.edit("expired", |link| {
        link.data.expires_at = None;
        link.data.valid_from = Some(Timestamp::MAX);
    });
    assert_eq!(preview_of(&state, "expired").await.status, StatusCode::NOT_FOUND);
    memory.cut.store(true, Ordering::Relaxed);
    for answer in [preview_of(&state, "never").await, qr_of(&state, "never", "").await] {
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "never 404 unasked");
    }
}

#[tokio::test]
async fn titles_and_targets_stay_text() {
    let (state, memory) = service(BASE).await;
    shorten(&state, &[("long_url", "https://example.com/"), ("code", "t")]).await;
    memory.edit("t", |link| link.data.title = Some("plain".into()));
    let plain = skeleton(preview_of(&state, "t").await.text());
    for polyglot in POLYGLOTS {
        memory.edit("t", |link| link.data.title = Some((*polyglot).into()));
        assert_eq!(skeleton(preview_of(&state, "t").await.text()), plain, "{polyglot}");
    }
    for nasty in ["https://example.com/'\"><script>alert(1)</script>", "https://e.com/&quot;"] {
        let parsed = shunt_domain::Target::parse(nasty, &shunt_domain::TargetRules::default());
        memory.edit("t", |link| link.data.target = parsed.unwrap());
        assert_eq!(skeleton(preview_of(&state, "t").await.text()), plain, "{nasty}");
    }
}

/// Reads a QR code out of grey values, one byte a pixel.
fn decode(width: usize, grey: impl Fn(usize, usize) -> u8) -> String {
    let mut image = rqrr::PreparedImage::prepare_from_greyscale(width, width, grey);
    let grids = image.detect_grids();
    assert_eq!(grids.len(), 1, "one code in the image");
    grids[0].decode().unwrap().1
}

#[tokio::test]
async fn qr_codes_read_as_the_short_url() {
    let (state, _) = service("https://go.example/s").await;
    let long = "x".repeat(128);
    for code in ["a", "Zz09_-", &long] {
        shorten(&state, &[("long_url", "https://example.com/"), ("code", code)]).await;
        let short_url = format!("https://go.example/s/{code}");
        for size in [200, 333, 2048] {
            let query = format!("format=png&size={size}");
            let answer = qr_of(&state, code, &query).await;
            assert_eq!(answer.status, StatusCode::OK);
            assert_eq!(answer.header("content-type"), "image/png");
            assert_secure(&answer, "png");
            let decoder = png::Decoder::new(std::io::Cursor::new(&answer.body));
            let mut reader = decoder.read_info().unwrap();
            let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
            let info = reader.next_frame(&mut pixels).unwrap();
            assert_eq!((info.width, info.height), (size, size));
            let row = info.line_size;
            let grey = |x: usize, y: usize| {
                if pixels[y * row + x / 8] & (0x80 >> (x % 8)) == 0 { 0 } else { 255 }
            };
            assert_eq!(decode(size as usize, grey), short_url, "{size}");
        }
        let answer = qr_of(&state, code, "size=256").await;
        assert_eq!(answer.header("content-type"), "image/svg+xml");
        assert_secure(&answer, "svg");
        let svg = answer.text();
        assert!(svg.contains("width=\"256\" height=\"256\""));
        assert!(!svg.contains("example") && !svg.contains("script"));
        let modules = runs(svg);
        let width = modules.len();
        let grey = |x: usize, y: usize| if modules[y / 6][x / 6] { 0 } else { 255 };
        assert_eq!(decode(width * 6, grey), short_url, "svg");
    }
}

/// The modules that the path of an SVG of ours draws.
fn runs(svg: &str) -> Vec<Vec<bool>> {
    let number = |text: &str| text.parse::<usize>().unwrap();
    let width = svg.split("viewBox=\"0 0 ").nth(1).unwrap().split(' ').next().map(number).unwrap();
    let mut modules = vec![vec![false; width]; width];
    let path = svg.split("<path d=\"").nth(1).unwrap().split('"').next().unwrap();
    for run in path.split('M').skip(1) {
        let (x, rest) = run.split_once(' ').unwrap();
        let (y, rest) = rest.split_once('h').unwrap();
        let (length, _) = rest.split_once('v').unwrap();
        modules[number(y)][number(x)..number(x) + number(length)].fill(true);
    }
    for quiet in 0..4 {
        for at in 0..width {
            let corners =
                [(quiet, at), (at, quiet), (width - 1 - quiet, at), (at, width - 1 - quiet)];
            assert!(corners.iter().all(|(y, x)| !modules[*y][*x]), "the quiet zone is light");
        }
    }
    modules
}

#[tokio::test]
async fn qr_codes_are_kept_by_their_etag_and_bounded() {
    let (state, _) = service(BASE).await;
    shorten(&state, &[("long_url", "https://example.com/"), ("code", "q")]).await;
    let mut tags = Vec::new();
    for query in ["", "format=png", "size=64", "format=png&size=2048", "size=2048"] {
        let answer = qr_of(&state, "q", query).await;
        assert_eq!(answer.status, StatusCode::OK, "{query}");
        tags.push(answer.header("etag").to_owned());
        let headers: HeaderMap = [(
            http::header::IF_NONE_MATCH,
            HeaderValue::from_str(&format!("\"x\", W/{}", tags[tags.len() - 1])).unwrap(),
        )]
        .into_iter()
        .collect();
        let again = Answer::read(qr(&state, &key("q"), query, &headers).await).await;
        assert_eq!((again.status, again.body.len()), (StatusCode::NOT_MODIFIED, 0), "{query}");
        assert_eq!(again.header("etag"), tags[tags.len() - 1]);
    }
    tags.sort();
    tags.dedup();
    assert_eq!(tags.len(), 5, "another image, another tag");
    for bad in
        ["size=63", "size=2049", "size=-1", "size=x", "format=gif", "size=64&size=65", "format="]
    {
        assert_eq!(qr_of(&state, "q", bad).await.status, StatusCode::BAD_REQUEST, "{bad}");
    }
    // More modules than pixels, and more text than any code holds.
    let matrix = |length: usize| Matrix::new(&"x".repeat(length));
    assert_eq!(matrix(1_000).ok().map(|m| m.png(64).err()), Some(Some(QrError::TooSmall)));
    assert!(matrix(1_000).is_ok_and(|m| m.png(256).is_ok()));
    assert_eq!(matrix(2_400).err(), Some(QrError::TooLong));
}

#[tokio::test]
async fn every_page_has_every_header() {
    let (state, _) = service(BASE).await;
    shorten(&state, &[("long_url", "https://example.com/"), ("code", "h")]).await;
    for uri in ["/", "/docs", "/robots.txt", "/favicon.ico", "/assets/none.css"] {
        assert_secure(&send(&state, request("GET", uri)).await, uri);
    }
    assert_secure(&shorten(&state, &[("long_url", "https://example.com/")]).await, "result");
    assert_secure(&preview_of(&state, "h").await, "preview");
    for code in 400..600 {
        let Ok(status) = StatusCode::from_u16(code) else {
            continue;
        };
        for wants in [Wants::Html, Wants::Problem, Wants::Text] {
            let page = Answer::read(error_page(status, wants)).await;
            assert_secure(&page, &format!("{code} {wants:?}"));
            assert_eq!(page.status, status);
            assert_eq!(page.header("cache-control"), "no-store");
            assert!(page.text().contains(&code.to_string()), "{code} {wants:?}");
        }
    }
}

#[tokio::test]
async fn error_pages_load_nothing_and_speak_the_clients_language() {
    for (accept, mime) in [
        ("", "text/plain"),
        ("*/*", "text/plain"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "text/html"),
        ("application/json", "application/problem+json"),
        ("application/problem+json, text/html;q=0.5", "application/problem+json"),
        ("text/html;q=0.5, application/json;q=0.9", "application/problem+json"),
        ("text/html;q=0, */*", "text/plain"),
        ("TEXT/HTML; q=x, image/png", "text/plain"),
        ("image/avif, */*;q=0.1, text/html;q=0.2", "text/html"),
    ] {
        let mut headers = HeaderMap::new();
        if !accept.is_empty() {
            headers.insert(ACCEPT, HeaderValue::from_static(accept));
        }
        let page = error_page(StatusCode::NOT_FOUND, Wants::from_headers(&headers));
        let page = Answer::read(page).await;
        assert!(page.header("content-type").starts_with(mime), "{accept:?}");
        assert_eq!(page.header("vary"), "Accept");
    }
    let html = Answer::read(error_page(StatusCode::GONE, Wants::Html)).await;
    for loads in ["src=", "url(", "@import", "http"] {
        assert!(!html.text().contains(loads), "{loads}");
    }
    assert_eq!(html.text().matches("href=").count(), 1, "the empty icon");
    // The style that stands in the page is the one that the policy allows.
    let style = html.text().split("<style>").nth(1).unwrap().split("</style>").next().unwrap();
    let hash = base64::Engine::encode(
        &base64::engine::general_purpose::STANDARD,
        <sha2::Sha256 as sha2::Digest>::digest(style),
    );
    assert!(html.header("content-security-policy").contains(&format!("'sha256-{hash}'")));
    let problem = Answer::read(error_page(StatusCode::GONE, Wants::Problem)).await;
    let problem: serde_json::Value = serde_json::from_slice(&problem.body).unwrap();
    assert_eq!((problem["status"].as_u64(), problem["code"].as_str()), (Some(410), Some("gone")));
    for status in [StatusCode::SERVICE_UNAVAILABLE, StatusCode::TOO_MANY_REQUESTS] {
        let page = error_page(status, Wants::Html);
        assert!(page.headers().contains_key("retry-after"), "{status}");
    }
}

#[tokio::test]
async fn wrong_methods_are_told_the_right_ones() {
    let (state, _) = service(BASE).await;
    for (method, uri, allowed) in [
        ("DELETE", "/", "GET,HEAD"),
        ("PUT", "/shorten", "GET,HEAD,POST"),
        ("POST", "/docs", "GET,HEAD"),
    ] {
        let page = send(&state, request(method, uri)).await;
        assert_eq!(page.status, StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(page.header("allow"), allowed, "{method} {uri}");
        assert_secure(&page, uri);
    }
    let reloaded = send(&state, request("GET", "/shorten")).await;
    assert_eq!((reloaded.status, reloaded.header("location")), (StatusCode::SEE_OTHER, "/"));
}

#[tokio::test]
async fn everything_of_ours_lives_under_the_base_path() {
    let (state, _) = service("https://go.example/s").await;
    let made = shorten(&state, &[("long_url", "https://example.com/"), ("code", "b")]).await;
    let headers = HeaderMap::new();
    let seen = Answer::read(preview(&state, &key("b"), &headers).await).await;
    let docs = send(&state, request("GET", "/docs")).await;
    for page in [&made, &seen, &docs, &send(&state, request("GET", "/")).await] {
        let html = page.text();
        for attribute in ["href=\"", "src=\"", "action=\"", "data-url=\""] {
            for value in html.split(attribute).skip(1) {
                let value = value.split('"').next().unwrap();
                let ours = value.starts_with("/s/")
                    || value.starts_with("https://go.example/s/")
                    || value == "#main";
                assert!(ours || value == "https://example.com/", "{attribute}{value}");
            }
        }
    }
    assert!(made.header("set-cookie").contains("Path=/s; "));
    assert!(made.header("set-cookie").ends_with("; Secure"));
    assert_eq!(send(&state, request("GET", "/shorten")).await.header("location"), "/s/");
}
