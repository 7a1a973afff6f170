//! The form of the front page: what it makes, whom it lets, and how it says no.

use std::sync::atomic::Ordering;

use http::StatusCode;
use shunt_domain::{Scope, Scopes};

use super::world::{api_key, service};
use super::{Answer, form, remote, request, send, shorten, skeleton, with};
use crate::app::{App, AppState};

const BASE: &str = "http://127.0.0.1:8080";

/// Texts that leave every kind of place in a page where text can stand.
pub(super) const POLYGLOTS: &[&str] = &[
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>",
    "' autofocus onfocus='alert(1)",
    "jaVasCript:/*-/*`/*\\`/*'/*\"/**/(/* */oNcliCk=alert() )//%0D%0A%0d%0a//</stYle/</titLe/\
     </teXtarEa/</scRipt/--!>\\x3csVg/<sVg/oNloAd=alert()//>\\x3e",
    "</title><svg/onload=alert(1)>",
    "{{ 7 * 7 }}{% raw %}${7*7}<%= 7 %>",
    "&lt;script&gt;&#x3c;&quot;",
    "--><b a=\"",
];

fn once_of(page: &Answer) -> String {
    let html = page.text();
    let start = html.find("name=\"once\" value=\"").unwrap() + "name=\"once\" value=\"".len();
    html[start..].split('"').next().unwrap().to_owned()
}

#[tokio::test]
async fn the_form_makes_a_link_and_remembers_it() {
    let (state, _) = service(BASE).await;
    let page = shorten(&state, &[("long_url", "https://example.com/a?b=c&d")]).await;
    assert_eq!(page.status, StatusCode::OK);
    assert!(page.header("content-type").starts_with("text/html"));
    let html = page.text();
    assert!(html.contains("href=\"http://127.0.0.1:8080/n1\""), "{html}");
    assert!(html.contains("src=\"/n1.qr\"") && html.contains("href=\"/n1+\""));
    assert!(html.contains("https://example.com/a?b=c&#38;d"));
    assert_eq!(page.cookie(), "shunt_recent=n1");

    let named = with(
        form("/shorten", &[("long_url", "https://example.com/2"), ("code", "Mine_2")]),
        "cookie",
        page.cookie(),
    );
    let page = send(&state, named).await;
    assert_eq!(page.cookie(), "shunt_recent=Mine_2.n1");
    let home = send(&state, with(request("GET", "/"), "cookie", page.cookie())).await;
    let at = |text: &str| home.text().find(text).unwrap();
    assert!(at("127.0.0.1:8080/Mine_2") < at("127.0.0.1:8080/n1"), "newest first");

    let cleared = form("/shorten/forget", &[]);
    let cleared = send(&state, with(cleared, "cookie", page.cookie())).await;
    assert_eq!((cleared.status, cleared.header("location")), (StatusCode::SEE_OTHER, "/"));
    assert_eq!(cleared.cookie(), "shunt_recent=");
    assert!(cleared.header("set-cookie").contains("Max-Age=0"));
}

#[tokio::test]
async fn a_form_sent_twice_makes_one_link_and_a_changed_one_another() {
    let (state, memory) = service(BASE).await;
    let once = once_of(&send(&state, request("GET", "/")).await);
    assert!(once.len() >= 22);
    let fields = [("long_url", "https://example.com/x"), ("once", once.as_str())];
    let first = shorten(&state, &fields).await;
    let second = shorten(&state, &fields).await;
    assert_eq!(first.cookie(), second.cookie());
    assert_eq!(memory.rows.lock().unwrap().len(), 1);
    assert_ne!(once_of(&second), once, "the next form is another one");
    // Back in the history, another target: the old word must not stand in the way.
    let other = [("long_url", "https://example.com/y"), ("once", once.as_str())];
    let third = shorten(&state, &other).await;
    assert_eq!(third.status, StatusCode::OK);
    assert_ne!(third.cookie(), first.cookie());
}

#[tokio::test]
async fn faults_stand_beside_their_field_and_values_stay() {
    let (state, memory) = service(BASE).await;
    for (url, said) in [
        ("", "The target is empty; give a full URL such as https://example.com/page."),
        ("example.com/a", "The target has no scheme; begin with https:// or http://."),
        ("javascript:alert(1)", "runs code or opens local data"),
        ("http://127.0.0.1:8080/loop", "leads back to this service"),
    ] {
        let page = shorten(&state, &[("long_url", url), ("code", "keep-me")]).await;
        assert_eq!(page.status, StatusCode::BAD_REQUEST, "{url}");
        let html = page.text();
        assert!(html.contains(said), "{url}: {html}");
        assert!(html.contains("id=\"long_url-error\"") && html.contains("aria-invalid=\"true\""));
        assert!(html.contains(&format!("value=\"{url}\"")), "{url} is kept");
        assert!(html.contains("value=\"keep-me\""));
        assert_eq!(page.cookie(), "");
    }
    for (code, status, said) in [
        ("a b", StatusCode::BAD_REQUEST, "0-9, A-Z, a-z, _ and - only"),
        ("docs", StatusCode::BAD_REQUEST, "belongs to the service itself"),
        ("taken", StatusCode::CONFLICT, "has this ending already"),
    ] {
        shorten(&state, &[("long_url", "https://example.com/"), ("code", "taken")]).await;
        let page = shorten(&state, &[("long_url", "https://example.com/"), ("code", code)]).await;
        assert_eq!(page.status, status, "{code}");
        assert!(page.text().contains(said), "{code}: {}", page.text());
        assert!(page.text().contains("id=\"code-error\""));
    }
    memory.cut.store(true, Ordering::Relaxed);
    let page = shorten(&state, &[("long_url", "https://example.com/later")]).await;
    assert_eq!(page.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(!page.header("retry-after").is_empty());
    assert!(page.text().contains("value=\"https://example.com/later\""));
    assert!(!page.text().contains("secret-host"), "what a store says stays inside");
}

#[tokio::test]
async fn what_is_no_form_gets_a_page_that_says_so() {
    let (state, _) = service(BASE).await;
    let json = with(form("/shorten", &[]), "content-type", "application/json");
    assert_eq!(send(&state, json).await.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let large = "a".repeat(40_000);
    let large = shorten(&state, &[("long_url", &large)]).await;
    assert_eq!(large.status, StatusCode::PAYLOAD_TOO_LARGE);
    let twice = shorten(&state, &[("long_url", "a"), ("long_url", "b")]).await;
    assert_eq!(twice.status, StatusCode::BAD_REQUEST);
    for page in [large, twice] {
        super::assert_secure(&page, "a refused form");
    }
}

#[tokio::test]
async fn what_is_typed_stays_text() {
    let (state, _) = service(BASE).await;
    let plain_url = skeleton(shorten(&state, &[("long_url", "x")]).await.text());
    let plain_code = skeleton(
        shorten(&state, &[("long_url", "https://example.com/"), ("code", "a b")]).await.text(),
    );
    for polyglot in POLYGLOTS {
        let page = shorten(&state, &[("long_url", polyglot), ("once", polyglot)]).await;
        assert_eq!(skeleton(page.text()), plain_url, "{polyglot}");
        let fields = [("long_url", "https://example.com/"), ("code", polyglot), ("key", "")];
        let page = shorten(&state, &fields).await;
        assert_eq!(skeleton(page.text()), plain_code, "{polyglot}");
    }
    // Accepted targets too: a URL may hold quotes and angle brackets.
    let page = shorten(&state, &[("long_url", "https://example.com/x")]).await;
    let plain = skeleton(page.text());
    for nasty in ["https://example.com/'onload='alert(1)", "https://example.com/?\"<b>&lt;"] {
        let page = shorten(&state, &[("long_url", nasty)]).await;
        assert_eq!(page.status, StatusCode::OK, "{nasty}");
        assert_eq!(skeleton(page.text()), plain, "{nasty}");
    }
}

#[tokio::test]
async fn other_sites_change_nothing() {
    let (state, memory) = service(BASE).await;
    let fields = [("long_url", "https://example.com/")];
    for (name, value) in [
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("origin", "https://evil.example"),
        ("origin", "null"),
        ("origin", "http://127.0.0.1:9999"),
    ] {
        for uri in ["/shorten", "/shorten/forget", "/setup"] {
            let page = send(&state, with(form(uri, &fields), name, value)).await;
            assert_eq!(page.status, StatusCode::FORBIDDEN, "{uri} {name}: {value}");
            assert_eq!(page.cookie(), "");
        }
    }
    assert!(memory.rows.lock().unwrap().is_empty());
    // Looking at a page changes nothing either.
    for uri in ["/shorten?long_url=https://example.com/", "/?long_url=https://example.com/"] {
        send(&state, request("GET", uri)).await;
    }
    assert!(memory.rows.lock().unwrap().is_empty());
    let own = with(form("/shorten", &fields), "origin", "http://127.0.0.1:8080");
    assert_eq!(send(&state, own).await.status, StatusCode::OK);
}

fn from_afar(fields: &[(&str, &str)]) -> http::Request<axum::body::Body> {
    let mut request = with(form("/shorten", fields), "host", "go.example");
    request.extensions_mut().insert(remote());
    request
}

#[tokio::test]
async fn from_elsewhere_a_key_is_needed_and_never_shown_again() {
    let (state, memory) = service("https://go.example").await;
    let url = ("long_url", "https://example.com/");
    let mut home = with(request("GET", "/"), "host", "go.example");
    home.extensions_mut().insert(remote());
    let home = send(&state, home).await;
    assert!(home.text().contains("type=\"password\""), "a field for the key");
    let here = send(&state, request("GET", "/")).await;
    assert!(!here.text().contains("type=\"password\""), "none where none is needed");

    let page = send(&state, from_afar(&[url])).await;
    assert_eq!(page.status, StatusCode::UNAUTHORIZED);
    assert_eq!(page.header("www-authenticate"), "Bearer");
    assert!(page.text().contains("id=\"key-error\""));

    let wrong = format!("shunt_{}", "A".repeat(43));
    let reader = api_key(&state, Scopes::default().with(Scope::Read)).await;
    let creator = api_key(&state, Scopes::default().with(Scope::Create)).await;
    for (key, status) in [
        (wrong.as_str(), StatusCode::UNAUTHORIZED),
        ("<script>", StatusCode::UNAUTHORIZED),
        (reader.as_str(), StatusCode::FORBIDDEN),
        (creator.as_str(), StatusCode::OK),
    ] {
        let page = send(&state, from_afar(&[url, ("key", key)])).await;
        assert_eq!(page.status, status, "{}", page.text());
        assert!(!page.text().contains(key), "a key is in no page");
        assert!(!page.header("set-cookie").contains(key), "nor in a cookie");
        assert!(page.text().contains("type=\"password\""));
    }
    let bearer = with(from_afar(&[url]), "authorization", &format!("Bearer {creator}"));
    assert_eq!(send(&state, bearer).await.status, StatusCode::OK);
    let owners: Vec<u64> = memory
        .rows
        .lock()
        .unwrap()
        .values()
        .filter_map(|row| row.clone().into_link())
        .map(|link| link.data.owner.0)
        .collect();
    assert_eq!(owners.len(), 2);
    assert!(owners.iter().all(|owner| *owner != 0), "links belong to the key's owner");
    // A bad key is refused even where none is needed.
    let bad = shorten(&state, &[url, ("key", &wrong)]).await;
    assert_eq!(bad.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn the_list_shows_only_what_anybody_could_see() {
    let (state, memory) = service(BASE).await;
    for code in ["open", "limited", "disabled", "later", "over", "deleted"] {
        shorten(&state, &[("long_url", "https://secret.example/"), ("code", code)]).await;
    }
    let past = shunt_domain::Timestamp::from_millis(1);
    memory.edit("limited", |link| link.data.max_clicks = std::num::NonZeroU64::new(5));
    memory.edit("disabled", |link| link.data.enabled = false);
    memory.edit("later", |link| link.data.valid_from = Some(shunt_domain::Timestamp::MAX));
    memory.edit("over", |link| link.data.expires_at = Some(past));
    delete(&state, "deleted").await;
    let cookie = "shunt_recent=open.limited.disabled.later.over.deleted.never.<b>";
    let home = send(&state, with(request("GET", "/"), "cookie", cookie)).await;
    assert_eq!(home.text().matches("secret.example").count(), 2, "one link: title and text");
    assert!(home.text().contains("127.0.0.1:8080/open"));
    memory.cut.store(true, Ordering::Relaxed);
    let home = send(&state, with(request("GET", "/"), "cookie", cookie)).await;
    assert_eq!(home.status, StatusCode::OK, "the form is there without the store");
}

pub(super) async fn delete(state: &AppState, code: &str) {
    let actor = shunt_engine::auth::Actor::Local;
    let app: &App = state;
    app.links.delete(&actor, &super::world::key(code), None, super::world::soon()).await.unwrap();
}

#[tokio::test]
async fn setup_makes_one_key_once() {
    let (state, _) = service("https://go.example/s").await;
    let secret = state.auth.issue_setup_secret(super::world::soon()).await.unwrap().unwrap();
    let token = secret.reveal();
    let uri = format!("/setup?token={token}");
    for _ in 0..2 {
        // Whoever only opens the link uses nothing up.
        let page = send(&state, request("GET", &uri)).await;
        assert_eq!(page.status, StatusCode::OK);
        super::assert_secure(&page, "setup");
        assert_eq!(page.header("cache-control"), "no-store");
        assert!(page.text().contains("action=\"/s/setup\""));
    }
    let wrong = format!("setup_{}", "A".repeat(43));
    for bad in [wrong.as_str(), "", "x", "<script>alert(1)</script>"] {
        let page = send(&state, form("/setup", &[("token", bad)])).await;
        assert_eq!(page.status, StatusCode::GONE, "{bad}");
    }
    let page = send(&state, form("/setup", &[("token", token)])).await;
    assert_eq!(page.status, StatusCode::OK);
    super::assert_secure(&page, "the key");
    let html = page.text();
    let start = html.find("<code id=\"admin-key\">").unwrap() + "<code id=\"admin-key\">".len();
    let key = html[start..].split('<').next().unwrap();
    assert!(html.contains("curl -X POST https://go.example/s/api/v1/links"));
    let actor = state.auth.authenticate(key, super::world::soon()).await.unwrap();
    assert!(actor.is_admin());
    let again = send(&state, form("/setup", &[("token", token)])).await;
    assert_eq!(again.status, StatusCode::GONE);
    for uri in ["/setup", "/setup?token=short", "/setup?token=a&token=b"] {
        assert_eq!(send(&state, request("GET", uri)).await.status, StatusCode::GONE, "{uri}");
    }
}
