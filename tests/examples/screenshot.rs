//! Takes the pictures of the front page that stand in the README: `docs/screenshot.png` and
//! `docs/screenshot-dark.png`.
//!
//! `cargo build -p shunt && cargo run -p shunt-tests --example screenshot`

use std::path::Path;

use anyhow::Result;
use serde_json::json;
use shunt_cluster::{Chromedriver, Shunt, until, wait::PATIENCE};

/// Targets and endings, oldest first; the last one is the new link.
const LINKS: [(&str, &str); 3] = [
    ("https://www.postgresql.org/docs/current/indexes-types.html#INDEXES-TYPES-BRIN", ""),
    ("https://maps.example.com/route?from=Lindau&to=Bregenz&by=bike&avoid=hills&lang=en", "lake"),
    ("https://en.wikipedia.org/wiki/Railroad_switch?useskin=vector#Types_of_switches", "points"),
];

fn main() -> Result<()> {
    let mut shunt = Shunt::new()?.arg("--base-url").arg("https://go.example");
    shunt.start()?;
    let browser = Chromedriver::start(1120, 940, &[])?;
    for (target, code) in LINKS {
        browser.open(&shunt.url("/"))?;
        browser.type_into("#long_url", target)?;
        browser.type_into("#code", code)?;
        browser.click("#shorten button[type=submit]")?;
        browser.text("#short-url")?;
    }
    // All of the page, however high it is.
    let height = browser.script("return document.documentElement.scrollHeight")?;
    let size = json!({"width": 1120, "height": height, "deviceScaleFactor": 1, "mobile": false});
    browser.devtools("Emulation.setDeviceMetricsOverride", &size)?;
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    std::fs::create_dir_all(&docs)?;
    for (scheme, file) in [("light", "screenshot.png"), ("dark", "screenshot-dark.png")] {
        browser.prefer_colors(scheme)?;
        // The picture is of a page at rest: the QR code there, the arrival over, nothing focused.
        browser.script("document.activeElement.blur(); window.scrollTo(0, 0)")?;
        until(PATIENCE, "a page at rest", || {
            let script = "const i = document.querySelector('img.qr'); \
                          return i.complete && i.naturalWidth > 0 && \
                          document.getAnimations().every(a => a.playState === 'finished')";
            (browser.script(script).ok()? == json!(true)).then_some(())
        })?;
        browser.screenshot(&docs.join(file))?;
    }
    Ok(())
}
