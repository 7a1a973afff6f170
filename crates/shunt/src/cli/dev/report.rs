//! What `shunt dev` prints.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use shunt_cluster::Local;
use shunt_cluster::local::Status;

use crate::cli::exit::{Code, Failure};
use crate::cli::output;

/// The steps of a piece of work: a spinner on a terminal, else a line each; on standard error.
pub(super) struct Steps {
    verb: &'static str,
    bar: Option<ProgressBar>,
}

impl Steps {
    pub(super) fn new(verb: &'static str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed:>3} {msg}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Self { verb, bar }
    }

    pub(super) fn at(&mut self, what: &str) {
        let text = format!("{} {what}", self.verb);
        match &self.bar {
            Some(bar) => bar.set_message(text),
            None => eprintln!("{text}"),
        }
    }

    pub(super) fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

/// All there is to say about a cluster.
pub(super) fn of(local: &mut Local) -> anyhow::Result<Value> {
    let servers: Vec<Value> = local.status()?.iter().map(Status::json).collect();
    let addresses: Vec<Value> = local
        .addresses()
        .into_iter()
        .map(|(name, address, command)| json!({ "name": name, "address": address, "try": command }))
        .collect();
    Ok(json!({
        "directory": local.directory(), "supervisor": std::process::id(), "entry": local.entry(), "api_key": local.api_key(),
        "addresses": addresses, "servers": servers,
    }))
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Columns as wide as they have to be, the last one as it comes.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut table = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        table.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        table.push('\n');
    }
    table
}

/// What `up` has started, where it is, and what to do with it.
pub(super) fn up(report: &Value, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        return output::json(report);
    }
    let rows: Vec<Vec<String>> = list(report, "addresses")
        .iter()
        .map(|row| {
            let cell = |name| text(row, name).to_owned();
            // What is tried names the address anyway, and the address of a database its password.
            let address = cell("address");
            let address = address.rsplit_once('@').map_or(&*address, |(_, place)| place).to_owned();
            vec![format!("  {}", cell("name")), address, cell("try")]
        })
        .collect();
    let (directory, entry) = (text(report, "directory"), text(report, "entry"));
    output::text_out(&format!(
        "\nThe local cluster in {directory} is up.\n\n{}\n\
         Shorten something, then open the short URL that comes back:\n\n  \
         curl -sS -H 'authorization: Bearer {}' -H 'content-type: application/json' \\\n    \
         -d '{{\"target\":\"https://example.com/\"}}' {entry}/api/v1/links\n\n\
         Then take something away and look: `shunt dev kill shunt-1`, `shunt dev status`, \
         `shunt dev heal`.\n",
        table(&rows),
        text(report, "api_key"),
    ))
}

/// The state of each server.
///
/// # Errors
/// When one is not up.
pub(super) fn status(report: &Value, as_json: bool) -> anyhow::Result<()> {
    let servers = list(report, "servers");
    if as_json {
        let (directory, entry) = (report.get("directory"), report.get("entry"));
        output::json(&json!({ "directory": directory, "entry": entry, "servers": servers }))?;
    } else {
        let head = ["SERVER", "ROLE", "STATE", "ADDRESS", "PID", "FACTS"].map(str::to_owned);
        let mut rows = vec![head.to_vec()];
        rows.extend(servers.iter().map(row));
        output::text_out(&table(&rows))?;
    }
    let wrong: Vec<String> = servers
        .iter()
        .filter(|server| text(server, "state") != "up")
        .map(|server| format!("{} is {}", text(server, "name"), text(server, "state")))
        .collect();
    if wrong.is_empty() {
        return Ok(());
    }
    let text = format!("{}; `shunt dev heal` brings back what is down or frozen", wrong.join(", "));
    Err(Failure::error(Code::Unavailable, text))
}

fn row(server: &Value) -> Vec<String> {
    let dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    let pid = server.get("pid").and_then(Value::as_u64).map_or_else(String::new, |n| n.to_string());
    let facts = server.get("facts").and_then(Value::as_object).into_iter().flatten();
    let facts = facts.map(|(name, value)| {
        let value = match value {
            Value::String(text) => output::printable(text),
            Value::Array(values) if values.iter().all(Value::is_string) => {
                values.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")
            }
            other => other.to_string(),
        };
        format!("{name} {value}")
    });
    vec![
        text(server, "name").to_owned(),
        dash(text(server, "role")),
        text(server, "state").to_owned(),
        text(server, "address").to_owned(),
        dash(&pid),
        facts.collect::<Vec<_>>().join(", "),
    ]
}

/// What was healed.
pub(super) fn healed(report: &Value, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        return output::json(report);
    }
    let done = list(report, "healed");
    if done.is_empty() {
        return output::line("nothing was down or frozen");
    }
    done.iter()
        .try_for_each(|one| output::line(&format!("{}: {}", text(one, "name"), text(one, "done"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["a", "bcd", ""], ["ab", "c", "é"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(table(&rows), "a   bcd\nab  c    é\n");
    }

    #[test]
    fn a_server_that_is_not_up_fails_the_status() {
        let server = |state: &str| json!({ "name": "redis-1", "state": state, "facts": {} });
        assert!(status(&json!({ "servers": [server("up")] }), true).is_ok());
        let error = status(&json!({ "servers": [server("up"), server("down")] }), true);
        assert!(error.unwrap_err().to_string().contains("redis-1 is down"));
    }
}
