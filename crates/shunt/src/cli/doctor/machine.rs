//! The machine: the data directory, its disk, the clock, the limits of the process.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::config::Config;

use super::findings::Findings;
use super::problems;

/// Owner and permissions of the directory and what lies in it.
pub(super) fn directory(config: &Config, findings: &mut Findings) {
    let dir = &config.data_dir;
    let found = match std::fs::metadata(dir) {
        Ok(found) => found,
        Err(error) => {
            findings.wrong(&problems::DIRECTORY_MISSING, format!("{}: {error}", dir.display()));
            return;
        }
    };
    let user = rustix::process::geteuid().as_raw();
    if found.uid() != user && user != 0 {
        let owner = found.uid();
        let text = format!("{} belongs to user {owner}", dir.display());
        findings.warn(&problems::DIRECTORY_OWNER, text);
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
        let text = format!("others may write {}", open.join(", "));
        findings.wrong(&problems::DIRECTORY_OPEN, text);
    }
}

/// File systems on which SQLite's locks and shared memory can't be relied on
/// (sqlite.org/wal.html): NFS, SMB, CIFS, SMB2, AFS, 9P, Ceph.
const NETWORK: [u64; 7] =
    [0x6969, 0x517b, 0xff53_4d42, 0xfe53_4d42, 0x5346_414f, 0x0102_1997, 0x00c3_6400];

const MIB: u64 = 1 << 20;

pub(super) fn space(dir: &Path, findings: &mut Findings) {
    let (Ok(space), Ok(kind)) = (rustix::fs::statvfs(dir), rustix::fs::statfs(dir)) else {
        findings.warn(&problems::DISK_UNKNOWN, format!("{} can't be looked at", dir.display()));
        return;
    };
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    let total = space.f_blocks.saturating_mul(space.f_frsize).max(1);
    let text = format!("{} MiB free of {} MiB", free / MIB, total / MIB);
    if free < 64 * MIB {
        findings.wrong(&problems::DISK_SPACE, text);
    } else if free < 512 * MIB || free.saturating_mul(20) < total {
        findings.warn(&problems::DISK_SPACE, text);
    } else {
        findings.fine("disk", text);
    }
    // The width and sign of this field differ between platforms; the numbers are 32 bits wide.
    #[allow(clippy::unnecessary_cast, reason = "see above")]
    let magic = kind.f_type as u64 & 0xffff_ffff;
    if NETWORK.contains(&magic) {
        let text = format!("{} is on a network file system", dir.display());
        findings.wrong(&problems::DISK_NETWORK, text);
    }
}

/// 2026-01-01 and 2100-01-01 in seconds: a clock outside is not set.
const PLAUSIBLE: std::ops::Range<u64> = 1_767_225_600..4_102_444_800;

pub(super) fn clock(config: &Config, findings: &mut Findings) {
    let now = SystemTime::now();
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    if !PLAUSIBLE.contains(&seconds) {
        findings.wrong(&problems::CLOCK_UNSET, format!("it says {seconds} s since 1970"));
        return;
    }
    let written = std::fs::metadata(config.links_db()).and_then(|found| found.modified());
    let ahead = written.ok().and_then(|at| at.duration_since(now).ok());
    match ahead {
        Some(ahead) if ahead > Duration::from_secs(60) => {
            let text = format!("links.db was written {} s in the future", ahead.as_secs());
            findings.warn(&problems::CLOCK_BACK, text);
        }
        _ => findings.fine("clock", "plausible"),
    }
}

/// Whether the process that serves may open as many files as it may have connections.
pub(super) fn open_files(pid: u64, config: &Config, findings: &mut Findings) {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default();
    let Some(soft) = open_file_limit(&limits) else {
        findings.warn(&problems::FILES_LIMIT, "the limit can't be read");
        return;
    };
    // Store, spool, listeners and logs beside the connections.
    let needed = config.limits.max_connections as u64 + 256;
    if soft >= needed {
        findings.fine("files", format!("{soft} allowed, {needed} needed"));
    } else {
        let text = format!("{soft} allowed, {needed} needed for limits.max_connections");
        findings.warn(&problems::FILES_LIMIT, text);
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::findings::Verdict;
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
