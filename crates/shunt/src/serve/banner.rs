//! What the first screen says: everything a newcomer needs to have a link within a minute.

use std::io::{IsTerminal, Write};

use super::sockets::Addresses;
use crate::config::Config;

/// Prints it. A closed stdout is not an error.
pub(super) fn print(config: &Config, base_url: &str, setup: Option<&str>, addresses: &Addresses) {
    let mut text = format!("\nshunt {} is ready.\n\n", env!("CARGO_PKG_VERSION"));
    let mut line = |label: &str, value: &str| {
        text.push_str(&format!("  {label:<10} {value}\n"));
    };
    line("open", &format!("{base_url}/"));
    line("data", &config.data_dir.display().to_string());
    if let Some(ops) = addresses.ops {
        line("metrics", &format!("http://{ops}/metrics"));
    }
    if let Some(tls) = addresses.tls {
        line("tls", &format!("https://{tls}/"));
    }
    if let Some(setup) = setup {
        line("set up", &format!("{setup}\n{:13}(makes your admin key; works once)", ""));
    }
    text.push_str("\nShorten something from another terminal:\n\n");
    text.push_str(&format!(
        "  curl -sS -H 'content-type: application/json' -d '{{\"target\":\"https://example.com/\"}}' {base_url}/api/v1/links\n\n"
    ));
    let mut out = std::io::stdout();
    let _ = out.write_all(text.as_bytes());
    if out.is_terminal() {
        let _ = out.write_all(b"Stop it with Ctrl-C.\n\n");
    }
    let _ = out.flush();
}
