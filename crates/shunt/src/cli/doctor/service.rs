//! What only the service knows: its store and the ledger of clicks.

use serde_json::{Value, json};

use crate::cli::local;
use crate::cli::output::Progress;
use crate::client::{ApiClient, Need};
use crate::config::Config;

use super::findings::Findings;
use super::{machine, problems};

/// How far the service is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    /// Everything; without a running server the store is opened here.
    Full,
    /// Not every row.
    Quick,
    /// Only whether a server runs: the store can't be used.
    Running,
}

/// Asks the service.
///
/// # Errors
/// Why it can't be asked.
pub(super) async fn check(
    depth: Depth,
    config: &Config,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    let client = if depth == Depth::Running {
        ApiClient::running(config).await?
    } else {
        Some(ApiClient::open(config, Need::Existing).await?)
    };
    let Some(client) = client else {
        findings.fine("server", "none runs");
        return Ok(());
    };
    let outcome = ask(depth, config, &client, findings).await;
    client.close().await;
    outcome
}

async fn ask(
    depth: Depth,
    config: &Config,
    client: &ApiClient,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    let info = client.get("/local/info").await?;
    let pid = info.get("pid").and_then(Value::as_u64).unwrap_or_default();
    let runs = matches!(client, ApiClient::Socket(_));
    findings.fine("server", if runs { format!("process {pid} runs") } else { "none runs".into() });
    machine::open_files(pid, config, findings);
    if depth != Depth::Full {
        return Ok(());
    }
    let mut progress = Progress::new("rows", None);
    let report = local::call(client, "/local/diagnose", &json!({}), &mut progress).await?;
    drop(progress);
    let number = |name: &str| report.get(name).and_then(Value::as_u64).unwrap_or_default();
    let found = report.get("problems").and_then(Value::as_array);
    let found = found.map_or(&[][..], Vec::as_slice);
    for problem in found.iter().filter_map(Value::as_str) {
        findings.wrong(&problems::STORE_DAMAGED, problem);
    }
    // A server's rows are not read one by one.
    let embedded = config.store.url.is_embedded();
    if found.is_empty() && embedded {
        let text = format!("{} links in {} rows, all sound", number("links"), number("rows"));
        findings.fine("store", text);
    }
    ledger(report.get("ledger").unwrap_or(&Value::Null), findings);
    Ok(())
}

/// Served = counted + lost, for every life of every node.
fn ledger(ledger: &Value, findings: &mut Findings) {
    let Some(rows) = ledger.as_array() else {
        let why = ledger.get("error").and_then(Value::as_str).unwrap_or("it can't be read");
        findings.wrong(&problems::CLICKS_UNREADABLE, why);
        return;
    };
    let (mut waiting, mut lost, mut over) = (0_u64, 0_u64, Vec::new());
    let (mut served_in_all, mut open) = (0_u64, 0_u64);
    for row in rows {
        let number = |name: &str| row.get(name).and_then(Value::as_u64).unwrap_or_default();
        let (served, accounted) = (number("served"), number("counted") + number("lost"));
        served_in_all += served;
        lost += number("lost");
        let closed = row.get("closed").and_then(Value::as_bool).unwrap_or(false);
        open += u64::from(!closed);
        // A living boot reports its figures now and then, so its count may be ahead of them.
        if closed && accounted > served {
            over.push(format!("boot {} counted {} too many", number("boot"), accounted - served));
        }
        waiting += served.saturating_sub(accounted);
    }
    if !over.is_empty() {
        findings.wrong(&problems::CLICKS_OVER, over.join(", "));
    }
    if lost > 0 {
        findings.warn(&problems::CLICKS_LOST, format!("{lost} clicks were lost and reported"));
    }
    if waiting > 0 {
        let text = format!("{waiting} of {served_in_all} are not counted yet");
        findings.warn(&problems::CLICKS_WAITING, text);
    }
    if over.is_empty() && lost == 0 && waiting == 0 {
        let text = if open == 0 {
            format!("all {served_in_all} served clicks are counted")
        } else {
            // It runs, or was killed: what is still on its rings is told when they are read.
            format!(
                "all {served_in_all} clicks told so far are counted; an open boot may tell more"
            )
        };
        findings.fine("clicks", text);
    }
}

#[cfg(test)]
mod tests {
    use super::super::findings::Verdict;
    use super::*;

    fn verdicts(rows: &Value) -> Vec<Verdict> {
        let mut findings = Findings::default();
        ledger(rows, &mut findings);
        findings.0.into_iter().map(|finding| finding.verdict).collect()
    }

    #[test]
    fn the_ledger_is_balanced() {
        let row = |served: u64, counted: u64, lost: u64, closed: bool| json!({"boot": 1, "served": served, "counted": counted, "lost": lost, "closed": closed});
        assert_eq!(verdicts(&json!([])), [Verdict::Fine]);
        assert_eq!(verdicts(&json!([row(5, 5, 0, true)])), [Verdict::Fine]);
        assert_eq!(verdicts(&json!([row(5, 6, 0, true)])), [Verdict::Wrong]);
        assert_eq!(verdicts(&json!([row(5, 6, 0, false)])), [Verdict::Fine]);
        assert_eq!(verdicts(&json!([row(5, 4, 0, true)])), [Verdict::Warning]);
        assert_eq!(verdicts(&json!([row(5, 4, 1, true)])), [Verdict::Warning]);
        assert_eq!(verdicts(&json!({"error": "x"})), [Verdict::Wrong]);
    }
}
