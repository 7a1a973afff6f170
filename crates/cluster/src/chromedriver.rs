//! Headless Chromium driven over the WebDriver protocol: what a person at a browser would see.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};

use crate::http::{self, Address, Request};
use crate::ports::Port;
use crate::process::{Process, Spec};
use crate::wait;

/// A running chromedriver with one browser session.
#[derive(Debug)]
pub struct Chromedriver {
    address: Address,
    session: String,
    _process: Process,
    _port: Port,
    directory: tempfile::TempDir,
}

/// Flags for a browser that talks to nobody but the page it is shown.
const FLAGS: [&str; 10] = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
];

impl Chromedriver {
    /// Starts chromedriver and a browser window of this size in CSS pixels. `flags` are added to
    /// the browser's own, `--blink-settings=scriptEnabled=false` for one.
    ///
    /// # Errors
    /// When chromium or chromedriver is missing or does not start.
    pub fn start(width: u32, height: u32, flags: &[&str]) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let port = Port::lease()?;
        let mut process = Spec::new("chromedriver", "chromedriver")
            .arg(format!("--port={}", port.number()))
            .spawn(directory.path())
            .context("start chromedriver (Debian package chromium-driver)")?;
        let address = Address::from(port.address());
        process.wait_ready(wait::PATIENCE, |_| {
            let answer = http::ask(&address, &Request::get("/status")).ok()?;
            answer.text().contains("\"ready\":true").then_some(())
        })?;
        let mut args: Vec<String> = FLAGS.iter().chain(flags).map(ToString::to_string).collect();
        args.push(format!("--window-size={width},{height}"));
        args.push(format!("--user-data-dir={}", directory.path().join("profile").display()));
        let capabilities = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": {"args": args},
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let mut driver =
            Self { address, session: String::new(), _process: process, _port: port, directory };
        let answer = driver.call("POST", "/session", Some(&capabilities))?;
        let session = answer.get("sessionId").and_then(Value::as_str);
        let session = session.ok_or_else(|| anyhow!("no browser session: {answer}"))?;
        driver.session = format!("/session/{session}");
        Ok(driver)
    }

    fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        let mut request = Request::new(method, format!("{}{path}", self.session));
        if let Some(body) = body {
            request = request.json(body);
        }
        let mut connection = http::Connection::open(&self.address)?;
        connection.read_timeout(std::time::Duration::from_secs(60))?;
        let answer = connection.ask(&request)?;
        let mut json = answer.json()?;
        let value = json.get_mut("value").map(Value::take).unwrap_or_default();
        if answer.status != 200 {
            bail!("{method} {path}: {value}");
        }
        Ok(value)
    }

    /// Goes to a page and waits until it is loaded.
    ///
    /// # Errors
    /// When the browser can't.
    pub fn open(&self, url: &str) -> Result<()> {
        self.call("POST", "/url", Some(&json!({ "url": url }))).map(|_| ())
    }

    /// The address of the page shown.
    ///
    /// # Errors
    /// When the browser is gone.
    pub fn url(&self) -> Result<String> {
        let url = self.call("GET", "/url", None)?;
        Ok(url.as_str().unwrap_or_default().to_owned())
    }

    /// Runs JavaScript in the page and answers what it `return`s.
    ///
    /// # Errors
    /// When it throws.
    pub fn script(&self, script: &str) -> Result<Value> {
        self.call("POST", "/execute/sync", Some(&json!({"script": script, "args": []})))
    }

    fn element(&self, selector: &str) -> Result<String> {
        let query = json!({"using": "css selector", "value": selector});
        let found = wait::until(wait::PATIENCE, &format!("an element {selector}"), || {
            self.call("POST", "/element", Some(&query)).ok()
        })?;
        let id = found.as_object().and_then(|object| object.values().next()?.as_str());
        id.map(ToOwned::to_owned).ok_or_else(|| anyhow!("no element {selector}: {found}"))
    }

    /// Clicks on the first element that a CSS selector finds, as soon as there is one.
    ///
    /// # Errors
    /// When there is none within the patience of a wait, or it can't be clicked.
    pub fn click(&self, selector: &str) -> Result<()> {
        let element = self.element(selector)?;
        self.call("POST", &format!("/element/{element}/click"), Some(&json!({}))).map(|_| ())
    }

    /// Types into an element.
    ///
    /// # Errors
    /// As [`Self::click`].
    pub fn type_into(&self, selector: &str, text: &str) -> Result<()> {
        let element = self.element(selector)?;
        let body = json!({ "text": text });
        self.call("POST", &format!("/element/{element}/value"), Some(&body)).map(|_| ())
    }

    /// The text of an element as it is shown.
    ///
    /// # Errors
    /// As [`Self::click`].
    pub fn text(&self, selector: &str) -> Result<String> {
        let element = self.element(selector)?;
        let text = self.call("GET", &format!("/element/{element}/text"), None)?;
        Ok(text.as_str().unwrap_or_default().to_owned())
    }

    /// Messages of the browser's console since the last call: refused loads, CSP reports, errors.
    ///
    /// # Errors
    /// When the browser is gone.
    pub fn console(&self) -> Result<Vec<String>> {
        let entries = self.call("POST", "/se/log", Some(&json!({"type": "browser"})))?;
        let entries = entries.as_array().cloned().unwrap_or_default();
        Ok(entries.iter().map(ToString::to_string).collect())
    }

    /// Shows the page as someone who prefers dark (or light) colours sees it.
    ///
    /// # Errors
    /// When the browser is gone.
    pub fn prefer_colors(&self, scheme: &str) -> Result<()> {
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        let body = json!({"cmd": "Emulation.setEmulatedMedia", "params": {"features": features}});
        self.call("POST", "/goog/cdp/execute", Some(&body)).map(|_| ())
    }

    /// Sends a command of the DevTools protocol, such as `Emulation.setDeviceMetricsOverride`.
    ///
    /// # Errors
    /// When the browser does not know it.
    pub fn devtools(&self, command: &str, params: &Value) -> Result<Value> {
        let body = json!({"cmd": command, "params": params});
        self.call("POST", "/goog/cdp/execute", Some(&body))
    }

    /// Writes a picture of the window to a PNG file.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn screenshot(&self, file: &Path) -> Result<()> {
        let picture = self.call("GET", "/screenshot", None)?;
        let bytes = base64(picture.as_str().unwrap_or_default());
        std::fs::write(file, bytes).with_context(|| format!("write {}", file.display()))
    }

    /// A directory for the caller's files that goes with the browser.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Chromedriver {
    fn drop(&mut self) {
        // Lets the browser end by itself; the process group is killed after that.
        let _ = self.call("DELETE", "", None);
    }
}

/// Decodes standard base64; what is not of its alphabet is skipped.
fn base64(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0_u32, 0_u32);
    for byte in text.bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => continue,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    #[test]
    fn base64_is_decoded() {
        assert_eq!(super::base64("AAECA/8="), [0, 1, 2, 3, 255]);
        assert_eq!(super::base64("c2h1bnQ="), b"shunt");
    }
}
