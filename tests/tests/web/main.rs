//! The pages in real headless Chromium, beyond what a first visit shows: the clipboard, the API
//! browser, setup, previews, small screens, and that no page ever loads or runs anything foreign.

#![expect(clippy::unwrap_used, reason = "every function here is a test or part of one")]

use serde_json::{Value, json};
use shunt_cluster::{Chromedriver, Request, Shunt, until, wait::PATIENCE};

/// Script that leaves every kind of place where text can stand in a page.
const POLYGLOTS: [&str; 5] = [
    "<script>window.pwned=1</script>",
    "\"><img src=x onerror=\"window.pwned=1\">",
    "' autofocus onfocus='window.pwned=1",
    "jaVasCript:/*-/*`/*\\`/*'/*\"/**/(/* */oNcliCk=window.pwned=1)//</stYle/</titLe/</teXtarEa/\
     </scRipt/--!>\\x3csVg/<sVg/oNloAd=window.pwned=1//>\\x3e",
    "</title><svg/onload=window.pwned=1>",
];

/// A server and a window.
struct Visit {
    shunt: Shunt,
    browser: Chromedriver,
}

impl Visit {
    fn new(width: u32, height: u32, flags: &[&str]) -> Self {
        let shunt = Shunt::started().unwrap();
        let browser = Chromedriver::start(width, height, flags).unwrap();
        Self { shunt, browser }
    }

    fn open(&self, path: &str) {
        self.browser.open(&self.shunt.url(path)).unwrap();
    }

    fn ask(&self, script: &str) -> Value {
        self.browser.script(script).unwrap()
    }

    #[track_caller]
    fn wait(&self, what: &str, script: &str) -> Value {
        until(PATIENCE, what, || {
            self.browser
                .script(script)
                .ok()
                .filter(|value| *value != json!(false) && !value.is_null())
        })
        .unwrap()
    }

    /// Shortens by the form and answers the short link as shown.
    fn shorten(&self, target: &str) -> String {
        self.open("/");
        self.browser.type_into("#long_url", target).unwrap();
        self.browser.click("#shorten button[type=submit]").unwrap();
        // The answer replaces the form's page; its text is there a moment after its element.
        let script = "const e = document.querySelector('#short-url'); return e && e.innerText";
        self.wait("the short link", script).as_str().unwrap().to_owned()
    }

    /// Makes a link by the API.
    fn create(&self, link: &Value) {
        let answer = self.shunt.ask(&Request::post_json("/api/v1/links", link)).unwrap();
        assert_eq!(answer.status, 201, "{answer:?}");
    }

    /// No violation of the policy, no refused load, no error, and nothing loaded from elsewhere.
    #[track_caller]
    fn quiet(&self, page: &str) {
        let mut console = self.browser.console().unwrap();
        // The browser notes every answer of 400 or more; a refused form is meant to have one.
        console.retain(|line| !(line.contains("/shorten - ") && line.contains("status of 400")));
        assert!(console.is_empty(), "{page}: {console:#?}");
        let loads = self.ask("return performance.getEntriesByType('resource').map(r => r.name)");
        for load in loads.as_array().unwrap() {
            let load = load.as_str().unwrap();
            let own = load.starts_with(&self.shunt.url("/")) || load.starts_with("data:");
            assert!(own, "{page} loads {load}");
        }
    }

    fn phone(&self) {
        let metrics = json!({"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": true});
        self.browser.devtools("Emulation.setDeviceMetricsOverride", &metrics).unwrap();
    }
}

#[test]
fn copy_puts_the_short_link_on_the_clipboard_and_says_so() {
    let visit = Visit::new(1000, 900, &[]);
    let shown = visit.shorten("https://example.com/clipboard");
    let address = visit.browser.url().unwrap();
    assert_eq!(address, visit.shunt.url("/"), "the page stayed where it was");
    // The link is read out, and the next press of a key copies it.
    let said = visit.wait(
        "a word for screen readers",
        "return document.querySelector('#say').textContent || null",
    );
    assert_eq!(said, json!(format!("Your short link is {shown}")));
    assert_eq!(visit.ask("return document.activeElement.textContent"), json!("Copy"));
    visit.browser.click("#result [data-copy]").unwrap();
    visit.wait(
        "the button says so",
        "return document.querySelector('#result [data-copy]').textContent === 'Copied'",
    );
    // Pasted as a person would: with the keyboard (U+E009 is the control key).
    visit.browser.type_into("#code", "\u{e009}v").unwrap();
    let pasted = visit.ask("return document.querySelector('#code').value");
    assert_eq!(pasted, json!(format!("http://{shown}")));
    visit.quiet("/");
}

#[test]
fn the_qr_code_is_a_picture_and_the_list_remembers() {
    let visit = Visit::new(1000, 900, &[]);
    let first = visit.shorten("https://example.com/one");
    let second = visit.shorten("https://example.com/two");
    let size = visit.wait(
        "the QR code",
        "const i = document.querySelector('#result img.qr'); \
         return i.complete && i.naturalWidth > 0 && i.getBoundingClientRect().width",
    );
    assert!(size.as_f64().unwrap() >= 120.0, "{size}");
    let codes = "return [...document.querySelectorAll('#recent .code')].map(a => a.textContent)";
    assert_eq!(visit.ask(codes), json!([second, first]));
    visit.open("/");
    assert_eq!(visit.ask(codes), json!([second, first]), "after a reload too");
    assert_eq!(visit.ask("return document.cookie"), json!(""), "out of reach of scripts");
    visit.browser.click("#recent form button").unwrap();
    visit.wait("an empty list", "return !document.querySelector('#recent')");
    visit.open("/");
    assert_eq!(visit.ask(codes), json!([]));
    visit.quiet("/");
}

#[test]
fn without_javascript_everything_but_the_copy_button_works() {
    let visit = Visit::new(1000, 900, &["--blink-settings=scriptEnabled=false"]);
    let shown = visit.shorten("https://example.com/no-script");
    assert_eq!(visit.browser.url().unwrap(), visit.shunt.url("/shorten"), "a plain form");
    let code = shown.rsplit('/').next().unwrap().to_owned();
    let answer = visit.shunt.ask(&Request::get(format!("/{code}"))).unwrap();
    assert_eq!(answer.location(), "https://example.com/no-script");
    assert!(visit.browser.text("#recent").unwrap().contains(&code));
    // A button that could do nothing is not shown.
    assert_eq!(visit.browser.text("#result [data-copy]").unwrap(), "");
    visit.browser.type_into("#long_url", "example.com").unwrap();
    visit.browser.click("#shorten button[type=submit]").unwrap();
    assert!(visit.browser.text("#long_url-error").unwrap().contains("no scheme"));
    // Going on to the preview and back home is plain links.
    visit.open(&format!("/{code}+"));
    assert!(visit.browser.text("main").unwrap().contains("https://example.com/no-script"));
    visit.browser.click("a.brand").unwrap();
    visit.browser.text("#shorten").unwrap();
}

#[test]
fn pages_fit_small_screens_in_both_colour_schemes() {
    let visit = Visit::new(1000, 900, &[]);
    let long = format!("https://example.com/{}?q={}", "path".repeat(60), "x".repeat(300));
    visit.create(&json!({"target": long, "code": "w".repeat(128), "title": "t".repeat(300)}));
    visit.create(&json!({"target": long, "code": "limited", "max_clicks": 2}));
    visit.phone();
    let mut grounds = Vec::new();
    for scheme in ["light", "dark"] {
        visit.browser.prefer_colors(scheme).unwrap();
        visit.shorten(&long);
        let mut pages = vec![String::new()];
        let named = format!("/{}+", "w".repeat(128));
        pages.extend(["/", "/missing", "/limited+", "/docs"].map(str::to_owned));
        pages.push(named);
        for page in pages {
            if !page.is_empty() {
                visit.open(&page);
            }
            let over = visit.ask(
                "return document.documentElement.scrollWidth - document.documentElement.clientWidth",
            );
            assert_eq!(over, json!(0), "{page:?} in {scheme} scrolls sideways");
        }
        visit.open("/");
        grounds.push(visit.ask("return getComputedStyle(document.body).backgroundColor"));
        // What is tapped is large enough (WCAG 2.2, 2.5.8).
        let small = visit.ask(
            "return [...document.querySelectorAll('main button, main a, main input')] \
             .filter(e => e.offsetParent && e.getBoundingClientRect().height < 24) \
             .map(e => e.outerHTML)",
        );
        assert_eq!(small, json!([]), "{scheme}");
    }
    assert_ne!(grounds[0], grounds[1], "dark mode changes nothing");
}

#[test]
fn nothing_that_was_typed_runs_anywhere() {
    let visit = Visit::new(1000, 900, &[]);
    let unharmed = |page: &str| {
        assert_eq!(visit.ask("return window.pwned === undefined"), json!(true), "{page}");
    };
    for (at, polyglot) in POLYGLOTS.into_iter().enumerate() {
        // As a title, and as far as it is accepted in a target.
        let code = format!("xss{at}");
        let encoded: String = polyglot.replace(' ', "+").replace('\\', "%5C");
        visit.create(&json!({
            "target": format!("https://example.com/?q={encoded}"), "code": code, "title": polyglot,
        }));
        visit.open(&format!("/{code}+"));
        unharmed("preview");
        visit.quiet("preview");
        // Through the form with and without a reload, as target and as ending.
        for field in ["#long_url", "#code"] {
            visit.open("/");
            if field == "#code" {
                visit.browser.type_into("#long_url", "https://example.com/").unwrap();
            }
            visit.browser.type_into(field, polyglot).unwrap();
            visit.browser.click("#shorten button[type=submit]").unwrap();
            visit.browser.text(&format!("{field}-error")).unwrap();
            unharmed(field);
        }
        visit.open("/");
        visit.browser.type_into("#long_url", polyglot).unwrap();
        visit.ask("document.querySelector('#shorten').submit()");
        visit.browser.text("#long_url-error").unwrap();
        unharmed("a plain form");
    }
    // A target that was accepted, in the result and in the list.
    visit.shorten("https://example.com/?\"><img/src=x/onerror=window.pwned=1>");
    unharmed("the result");
    visit.open("/");
    visit.browser.text("#recent").unwrap();
    unharmed("the list");
}

#[test]
fn the_api_browser_shows_the_operations_and_loads_nothing_foreign() {
    let visit = Visit::new(1200, 900, &[]);
    visit.open("/docs");
    let count = visit
        .wait("the operations", "return document.querySelectorAll('#api .opblock').length || null");
    assert!(count.as_u64().unwrap() >= 5, "{count} operations");
    assert!(visit.browser.text("#api").unwrap().contains("/api/v1/links"));
    // It can call what it describes.
    visit.browser.click("#api .opblock.opblock-post .opblock-summary-control").unwrap();
    visit.wait(
        "the details",
        "return !!document.querySelector('#api .opblock.is-open .opblock-body')",
    );
    visit.quiet("/docs");
}

#[test]
fn the_printed_link_makes_a_key_once() {
    let visit = Visit::new(1000, 900, &[]);
    let said = visit.shunt.said();
    let path = said
        .split_whitespace()
        .find_map(|word| word.find("/setup?token=").map(|at| word[at..].to_owned()));
    let path = path.unwrap_or_else(|| panic!("no setup link in: {said}"));
    visit.open(&path);
    visit.browser.click("main form button").unwrap();
    let key = visit.browser.text("#admin-key").unwrap();
    assert!(visit.browser.text("#example").unwrap().contains(&key));
    visit.quiet("setup");
    let list = visit.shunt.ask(&Request::get("/api/v1/links").key(&key)).unwrap();
    assert_eq!(list.status, 200, "{list:?}");
    visit.open(&path);
    // Whether the form or the page that says "gone" comes now, no second key does.
    let gone = visit.shunt.ask(
        &Request::new("POST", "/setup")
            .header("Content-Type", "application/x-www-form-urlencoded")
            .body(path.trim_start_matches("/setup?").to_owned()),
    );
    assert_eq!(gone.unwrap().status, 410);
}

#[test]
fn a_misleading_host_is_stopped_at_and_named_in_ascii() {
    let visit = Visit::new(1000, 900, &[]);
    visit.create(&json!({"target": "https://p\u{430}ypal.com/login", "code": "trap"}));
    visit.open("/trap");
    assert_eq!(visit.browser.url().unwrap(), visit.shunt.url("/trap"), "nobody went there");
    assert_eq!(visit.browser.text("h1").unwrap(), "Look before you go.");
    assert_eq!(visit.browser.text(".address strong").unwrap(), "xn--pypal-4ve.com");
    visit.quiet("warning");
    visit.open("/missing");
    assert_eq!(visit.browser.text("h1").unwrap(), "There is no link here");
    let styled = visit.ask("return getComputedStyle(document.querySelector('main')).maxWidth");
    assert_ne!(styled, json!("none"), "the style in the page is allowed by its hash");
}
