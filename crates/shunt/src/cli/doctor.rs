//! `shunt doctor`: looks at everything that can be wrong with a data directory and its machine.
//!
//! Each check is independent: one that fails hides none of the others.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::client::{ApiClient, Need};
use crate::config::{CommonFlags, Config, Environment, Loaded};

use super::exit::{Code, Failure, one_line};
use super::output::{self, Progress};

#[derive(Debug, clap::Args)]
#[command(long_about = "Check the store, the click ledger and the machine.\n\n\
    Works through the running server or, without one, on the store itself. Takes about a minute \
    per few million links. Exits with 0 when nothing is wrong (there may be warnings), with 1 when \
    something is.")]
pub(super) struct Args {
    /// Leave out the full check of the store
    #[arg(long)]
    quick: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Fine,
    Warning,
    Wrong,
}

impl Verdict {
    const fn word(self) -> &'static str {
        match self {
            Self::Fine => "ok",
            Self::Warning => "warning",
            Self::Wrong => "WRONG",
        }
    }
}

/// What the checks found.
#[derive(Default)]
struct Findings(Vec<(&'static str, Verdict, String)>);

impl Findings {
    fn add(&mut self, check: &'static str, verdict: Verdict, detail: impl Into<String>) {
        self.0.push((check, verdict, detail.into()));
    }

    fn fine(&mut self, check: &'static str, detail: impl Into<String>) {
        self.add(check, Verdict::Fine, detail);
    }

    fn warn(&mut self, check: &'static str, detail: impl Into<String>) {
        self.add(check, Verdict::Warning, detail);
    }

    fn wrong(&mut self, check: &'static str, detail: impl Into<String>) {
        self.add(check, Verdict::Wrong, detail);
    }

    fn count(&self, verdict: Verdict) -> usize {
        self.0.iter().filter(|(_, found, _)| *found == verdict).count()
    }
}

pub(super) fn run(args: &Args, flags: &CommonFlags) -> anyhow::Result<()> {
    let loaded = Loaded::load(flags, &Environment::of_process())?;
    let config = &loaded.config;
    let mut findings = Findings::default();
    for warning in &loaded.warnings {
        findings.warn("settings", warning.as_str());
    }
    findings.fine("settings", "they can be read");
    directory(config, &mut findings);
    space(config.store_dir(), &mut findings);
    clock(config, &mut findings);
    let checked = super::block_on(service(args, config, &mut findings));
    if let Err(error) = checked {
        findings.wrong("store", one_line(&error));
    }
    report(args, &findings)
}

fn report(args: &Args, findings: &Findings) -> anyhow::Result<()> {
    let wrong = findings.count(Verdict::Wrong);
    if args.json {
        let checks: Vec<Value> = findings
            .0
            .iter()
            .map(|(check, verdict, detail)| {
                json!({ "check": check, "verdict": verdict.word().to_lowercase(), "detail": detail })
            })
            .collect();
        output::json(&json!({ "ok": wrong == 0, "checks": checks }))?;
    } else {
        for (check, verdict, detail) in &findings.0 {
            output::line(&format!("{:8} {check}: {detail}", verdict.word()))?;
        }
    }
    if wrong == 0 {
        return Ok(());
    }
    Err(Failure::error(Code::Failure, format!("{wrong} checks found something wrong; see above")))
}

/// Owner and permissions of the directory and what lies in it.
fn directory(config: &Config, findings: &mut Findings) {
    let dir = &config.data_dir;
    let found = match std::fs::metadata(dir) {
        Ok(found) => found,
        Err(error) => {
            findings.wrong("directory", format!("{}: {error}", dir.display()));
            return;
        }
    };
    let user = rustix::process::geteuid().as_raw();
    if found.uid() != user && user != 0 {
        let owner = found.uid();
        let text = format!("{} belongs to user {owner}; run shunt as that user", dir.display());
        findings.warn("directory", text);
    }
    let open: Vec<String> = std::iter::once(dir.clone())
        .chain(["links.db", "clicks.db", "shunt.sock"].map(|name| config.store_dir().join(name)))
        .filter_map(|path| {
            let mode = std::fs::metadata(&path).ok()?.permissions().mode();
            // Others who write can change links; a socket that others reach is an open admin door.
            let too_open = if path.ends_with("shunt.sock") { 0o077 } else { 0o022 };
            (mode & too_open != 0).then(|| format!("{} ({:o})", path.display(), mode & 0o777))
        })
        .collect();
    if open.is_empty() {
        findings.fine("directory", dir.display().to_string());
    } else {
        let text = format!("others may write {}; take their rights away", open.join(", "));
        findings.wrong("directory", text);
    }
}

/// File systems on which SQLite's locks and shared memory can't be relied on
/// (sqlite.org/wal.html): NFS, SMB, CIFS, SMB2, AFS, 9P, Ceph.
const NETWORK: [u64; 7] =
    [0x6969, 0x517b, 0xff53_4d42, 0xfe53_4d42, 0x5346_414f, 0x0102_1997, 0x00c3_6400];

const MIB: u64 = 1 << 20;

fn space(dir: &Path, findings: &mut Findings) {
    let (Ok(space), Ok(kind)) = (rustix::fs::statvfs(dir), rustix::fs::statfs(dir)) else {
        findings.warn("disk", format!("{} can't be looked at", dir.display()));
        return;
    };
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    let total = space.f_blocks.saturating_mul(space.f_frsize).max(1);
    let text = format!("{} MiB free of {} MiB", free / MIB, total / MIB);
    if free < 64 * MIB {
        findings.wrong("disk", format!("{text}; free some space before creates are refused"));
    } else if free < 512 * MIB || free.saturating_mul(20) < total {
        findings.warn("disk", format!("{text}; free some space"));
    } else {
        findings.fine("disk", text);
    }
    // The width and sign of this field differ between platforms; the numbers are 32 bits wide.
    #[allow(clippy::unnecessary_cast, reason = "see above")]
    let magic = kind.f_type as u64 & 0xffff_ffff;
    if NETWORK.contains(&magic) {
        let text = format!("{} is on a network file system; use a local disk", dir.display());
        findings.wrong("disk", text);
    }
}

/// 2026-01-01 and 2100-01-01 in seconds: a clock outside is not set.
const PLAUSIBLE: std::ops::Range<u64> = 1_767_225_600..4_102_444_800;

fn clock(config: &Config, findings: &mut Findings) {
    let now = SystemTime::now();
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    if !PLAUSIBLE.contains(&seconds) {
        let text = format!("it says {seconds} s since 1970; set it before links expire wrongly");
        findings.wrong("clock", text);
        return;
    }
    let written = std::fs::metadata(config.links_db()).and_then(|found| found.modified());
    let ahead = written.ok().and_then(|at| at.duration_since(now).ok());
    match ahead {
        Some(ahead) if ahead > Duration::from_secs(60) => {
            let text = format!("links.db was written {} s in the future", ahead.as_secs());
            findings.warn("clock", format!("{text}; the clock was set back, look at it"));
        }
        _ => findings.fine("clock", "plausible"),
    }
}

/// What only the service knows: store, ledger, and the limits of its process.
async fn service(args: &Args, config: &Config, findings: &mut Findings) -> anyhow::Result<()> {
    let client = ApiClient::open(config, Need::Existing).await?;
    let outcome = ask(args, config, &client, findings).await;
    client.close().await;
    outcome
}

async fn ask(
    args: &Args,
    config: &Config,
    client: &ApiClient,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    let info = client.get("/local/info").await?;
    let pid = info.get("pid").and_then(Value::as_u64).unwrap_or_default();
    let runs = matches!(client, ApiClient::Socket(_));
    findings.fine("server", if runs { format!("process {pid} runs") } else { "none runs".into() });
    open_files(pid, config, findings);
    if args.quick {
        return Ok(());
    }
    let mut progress = Progress::new("rows", None);
    let report = super::local::call(client, "/local/diagnose", &json!({}), &mut progress).await?;
    drop(progress);
    let number = |name: &str| report.get(name).and_then(Value::as_u64).unwrap_or_default();
    let problems = report.get("problems").and_then(Value::as_array);
    let problems = problems.map_or(&[][..], Vec::as_slice);
    for problem in problems.iter().filter_map(Value::as_str) {
        findings.wrong("store", format!("{problem}; restore a backup with `shunt restore`"));
    }
    if problems.is_empty() {
        let text = format!("{} links in {} rows, all sound", number("links"), number("rows"));
        findings.fine("store", text);
    }
    ledger(report.get("ledger").unwrap_or(&Value::Null), findings);
    Ok(())
}

/// Whether the process that serves may open as many files as it may have connections.
fn open_files(pid: u64, config: &Config, findings: &mut Findings) {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default();
    let Some(soft) = open_file_limit(&limits) else {
        findings.warn("open files", "the limit can't be read");
        return;
    };
    // Store, spool, listeners and logs beside the connections.
    let needed = config.limits.max_connections as u64 + 256;
    if soft >= needed {
        findings.fine("open files", format!("{soft} allowed, {needed} needed"));
    } else {
        let text = format!(
            "{soft} allowed, {needed} needed for limits.max_connections; raise ulimit -n or lower \
             that setting"
        );
        findings.warn("open files", text);
    }
}

/// The soft limit out of `/proc/PID/limits`.
fn open_file_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find(|line| line.starts_with("Max open files"))?;
    match line.split_whitespace().nth(3)? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

/// Served = counted + lost, for every life of every node.
fn ledger(ledger: &Value, findings: &mut Findings) {
    let Some(rows) = ledger.as_array() else {
        let why = ledger.get("error").and_then(Value::as_str).unwrap_or("it can't be read");
        findings.wrong("clicks", why);
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
        findings.wrong("clicks", format!("{}; please report this", over.join(", ")));
    }
    if lost > 0 {
        let text = format!("{lost} clicks were lost and reported; see clicks.spool_bytes");
        findings.warn("clicks", text);
    }
    if waiting > 0 {
        findings.warn("clicks", format!("{waiting} of {served_in_all} are not counted yet"));
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
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_limit_of_open_files_is_read() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max open files            1024                 524288               files     \n";
        assert_eq!(open_file_limit(limits), Some(1_024));
        assert_eq!(open_file_limit("Max open files unlimited unlimited files"), Some(u64::MAX));
        assert_eq!(open_file_limit(""), None);
        assert!(open_file_limit(&std::fs::read_to_string("/proc/self/limits").unwrap()).is_some());
    }

    fn verdicts(rows: &Value) -> Vec<Verdict> {
        let mut findings = Findings::default();
        ledger(rows, &mut findings);
        findings.0.into_iter().map(|(_, verdict, _)| verdict).collect()
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

    #[test]
    fn permissions_are_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { data_dir: dir.path().to_owned(), ..Config::default() };
        let check = || {
            let mut findings = Findings::default();
            directory(&config, &mut findings);
            findings.count(Verdict::Wrong)
        };
        assert_eq!(check(), 0);
        let socket = dir.path().join("shunt.sock");
        std::fs::write(&socket, "").unwrap();
        std::fs::set_permissions(&socket, PermissionsExt::from_mode(0o640)).unwrap();
        assert_eq!(check(), 1);
        std::fs::set_permissions(&socket, PermissionsExt::from_mode(0o600)).unwrap();
        assert_eq!(check(), 0);
        let missing = Config { data_dir: "/no/such/dir".into(), ..Config::default() };
        let mut findings = Findings::default();
        directory(&missing, &mut findings);
        assert_eq!(findings.count(Verdict::Wrong), 1);
    }
}
