//! The page as a person sees it, in real headless Chromium.

use serde_json::json;
use shunt_cluster::{Chromedriver, Request, Shunt, until};

use crate::kit::{self, SOON};

/// No error and no refused load in the console.
#[track_caller]
fn quiet(browser: &Chromedriver) {
    let messages = browser.console().unwrap();
    let bad: Vec<_> = messages.iter().filter(|message| message.contains("SEVERE")).collect();
    assert!(bad.is_empty(), "{bad:#?}");
}

fn shorten_by_hand(shunt: &Shunt, browser: &Chromedriver, target: &str) {
    browser.open(&shunt.url("/")).unwrap();
    browser.type_into("#long_url", target).unwrap();
    browser.click("#shorten button[type=submit]").unwrap();
    // The answer may come as a page or be put into this one: until the link is there and right.
    until(SOON, "the short link", || {
        let shown = browser.text("#short-url").ok()?;
        let code = shown.rsplit('/').next().filter(|code| !code.is_empty())?;
        let answer = shunt.ask(&Request::get(format!("/{code}"))).ok()?;
        (answer.location() == target).then_some(())
    })
    .unwrap();
}

#[test]
fn a_person_pastes_a_url_and_gets_a_short_link() {
    let shunt = Shunt::started().unwrap();
    let browser = Chromedriver::start(1280, 900, &[]).unwrap();
    shorten_by_hand(&shunt, &browser, "https://example.com/a/very/long/address?with=query#part");
    // The QR code is a picture that loaded.
    until(SOON, "the QR code", || {
        let script = "const i = document.querySelector('#result img'); \
                      return i && i.complete && i.naturalWidth > 0";
        (browser.script(script).ok()? == json!(true)).then_some(())
    })
    .unwrap();
    // Copy works: the button is there (it is hidden without JavaScript) and says so.
    browser.click("#result [data-copy]").unwrap();
    quiet(&browser);

    // Recent links are there after a reload, newest first.
    shorten_by_hand(&shunt, &browser, "https://example.org/second");
    browser.open(&shunt.url("/")).unwrap();
    let recent = browser.text("#recent").unwrap();
    let (second, first) = (recent.find("example.org/second"), recent.find("example.com/a/very"));
    assert!(second.is_some() && second < first, "{recent}");
    quiet(&browser);

    // An error is shown beside its field, and what was typed is still there.
    browser.open(&shunt.url("/")).unwrap();
    browser.type_into("#long_url", "javascript:alert(1)").unwrap();
    browser.click("#shorten button[type=submit]").unwrap();
    assert!(!browser.text("#long_url-error").unwrap().is_empty());
    let kept = browser.script("return document.querySelector('#long_url').value").unwrap();
    assert_eq!(kept, json!("javascript:alert(1)"));
}

#[test]
fn the_page_works_without_javascript() {
    let shunt = Shunt::started().unwrap();
    let browser =
        Chromedriver::start(1280, 900, &["--blink-settings=scriptEnabled=false"]).unwrap();
    shorten_by_hand(&shunt, &browser, "https://example.com/no-script");
}

#[test]
fn the_page_fits_a_phone_and_a_dark_room() {
    let shunt = Shunt::started().unwrap();
    let browser = Chromedriver::start(390, 844, &[]).unwrap();
    shorten_by_hand(&shunt, &browser, "https://example.com/phone");
    let wide = "return document.documentElement.scrollWidth - window.innerWidth";
    for path in ["/", "/missing"] {
        browser.open(&shunt.url(path)).unwrap();
        let over = browser.script(wide).unwrap().as_f64().unwrap();
        assert!(over <= 0.0, "{path} is {over} pixels too wide");
    }
    let background = "return getComputedStyle(document.body).backgroundColor";
    let light = browser.script(background).unwrap();
    browser.prefer_colors("dark").unwrap();
    let dark = browser.script(background).unwrap();
    assert_ne!(light, dark, "dark mode changes nothing");
}

/// Script in every field that a page shows is text.
#[test]
fn nothing_that_was_typed_runs() {
    let shunt = Shunt::started().unwrap();
    let polyglot = "\"'><img src=x onerror=window.pwned=1><script>window.pwned=1</script>";
    let encoded: String = polyglot.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let wish = json!({
        "code": "script", "title": polyglot,
        "target": format!("https://example.com/?q={polyglot}"),
    });
    let answer = kit::create(&shunt, &wish);
    let browser = Chromedriver::start(1280, 900, &[]).unwrap();
    let mut pages = vec![format!("/{encoded}"), format!("/?long_url={encoded}")];
    if answer.status == 201 {
        pages.push("/script+".to_owned());
    }
    for page in pages {
        browser.open(&shunt.url(&page)).unwrap();
        let pwned = browser.script("return window.pwned === 1").unwrap();
        assert_eq!(pwned, json!(false), "{page}");
    }
    let form = Request::new("POST", "/shorten")
        .header("Content-Type", "application/x-www-form-urlencoded")
        .body(format!("long_url={encoded}"));
    let page = shunt.ask(&form).unwrap().text();
    assert!(!page.contains("<img src=x") && !page.contains("<script>window"), "{page}");
}
