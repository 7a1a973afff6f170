//! A process and all that it started, as one: for servers whose children lead groups of their own
//! (PostgreSQL's do), so that a signal to the group reaches the first of them alone.
//!
//! Only the root of such a tree starts others; it is stopped before the tree is counted, so that
//! none is missed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::process::{Process, Spec};
use crate::wait;

/// State (`R`, `S`, `T`, …) and parent of a process; `None` when it is gone or only waits to be
/// buried.
fn look(pid: u32) -> Option<(char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the name in brackets and may hold anything.
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    (!matches!(state, 'Z' | 'X')).then_some((state, parent))
}

/// The state letter of a living process, as `/proc` has it: `T` for a frozen one.
pub fn state(pid: u32) -> Option<char> {
    look(pid).map(|(state, _)| state)
}

/// When a living process began, in clock ticks since the machine's start: with its number that
/// names it for ever.
pub fn began(pid: u32) -> Option<u64> {
    state(pid)?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()
}

/// The living processes of a tree, the root first; nothing when the root is gone.
pub fn members(root: u32) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        if let Some((_, parent)) = look(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::from_iter(state(root).map(|_| root));
    let mut next = 0;
    while let Some(&pid) = found.get(next) {
        found.extend(children.remove(&pid).unwrap_or_default());
        next += 1;
    }
    found
}

fn send(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // One that has just ended needs no signal.
        let _ = kill_process(pid, signal);
    }
}

/// Sends `signal` to the whole tree, the root frozen first, and answers who got it.
fn strike(root: u32, signal: Signal) -> Result<Vec<u32>> {
    send(root, Signal::STOP);
    // A signal under way does not stop a fork under way.
    wait::until(wait::PATIENCE, "the first process to stand still", || {
        state(root).is_none_or(|state| matches!(state, 'T' | 't')).then_some(())
    })?;
    let mut struck = BTreeSet::new();
    loop {
        let fresh: Vec<u32> =
            members(root).into_iter().filter(|pid| *pid != root && struck.insert(*pid)).collect();
        if fresh.is_empty() {
            break;
        }
        fresh.into_iter().for_each(|pid| send(pid, signal));
    }
    send(root, signal);
    struck.insert(root);
    Ok(struck.into_iter().collect())
}

/// Kills the whole tree at once (`SIGKILL`), frozen or not, and waits until nothing of it lives.
///
/// # Errors
/// When something of it still lives after [`wait::PATIENCE`].
pub fn kill(root: u32) -> Result<()> {
    let struck = strike(root, Signal::KILL)?;
    wait::until(wait::PATIENCE, "the end of a killed tree", || {
        struck.iter().all(|pid| state(*pid).is_none()).then_some(())
    })
}

/// A tree that was stopped in its tracks (`SIGSTOP`), connections open, until [`Frozen::thaw`].
///
/// Should this process end before, a guard kills the tree: the kernel's own signal reaches the
/// root only, and stopped children would stay for ever. When the value is dropped the tree stays
/// as it is, without a guard.
#[derive(Debug)]
pub struct Frozen {
    pids: Vec<u32>,
    _guard: Process,
}

/// Waits for the end of the first process named, and kills the others.
const GUARD: &str = "tail --pid=\"$1\" -f /dev/null; shift; kill -KILL \"$@\"";

impl Frozen {
    /// Freezes the tree for as long as the process `owner` lives at most. The guard's log goes to
    /// `logs`.
    ///
    /// # Errors
    /// When the tree can't be stopped or the guard does not start.
    pub fn freeze(root: u32, owner: u32, logs: &Path) -> Result<Self> {
        let pids = strike(root, Signal::STOP)?;
        let guard = Spec::new("guard", "sh")
            // It has to outlive the owner.
            .wrap(["setpriv", "--pdeathsig", "clear", "--"])
            .args(["-c", GUARD, "guard", &owner.to_string()])
            .args(pids.iter().map(ToString::to_string))
            .spawn(logs)
            .context("start the guard of a frozen server")?;
        let frozen = Self { pids, _guard: guard };
        wait::until(wait::PATIENCE, "the tree to stand still", || {
            frozen.pids.iter().all(|pid| state(*pid).is_none_or(|s| s == 'T')).then_some(())
        })?;
        Ok(frozen)
    }

    /// Lets the tree go on (`SIGCONT`).
    pub fn thaw(self) {
        self.pids.iter().for_each(|pid| send(*pid, Signal::CONT));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A shell with two children, one of which leads a session of its own.
    fn tree(logs: &Path) -> (Process, Vec<u32>) {
        let script = "sleep 1000 & setsid sleep 1000 & wait";
        let process = Spec::new("sh", "sh").args(["-c", script]).spawn(logs).unwrap();
        let pids = wait::until(wait::PATIENCE, "three processes", || {
            let pids = members(process.pid());
            (pids.len() == 3).then_some(pids)
        });
        (process, pids.unwrap())
    }

    fn all_gone(pids: &[u32]) -> bool {
        pids.iter().all(|pid| state(*pid).is_none())
    }

    #[test]
    fn a_tree_is_frozen_thawed_and_killed_as_one() {
        let logs = tempfile::tempdir().unwrap();
        let (process, pids) = tree(logs.path());
        assert_eq!(pids[0], process.pid());
        let frozen = Frozen::freeze(pids[0], std::process::id(), logs.path()).unwrap();
        assert!(pids.iter().all(|pid| state(*pid) == Some('T')));
        frozen.thaw();
        wait::until(wait::PATIENCE, "all to go on", || {
            pids.iter().all(|pid| state(*pid) == Some('S')).then_some(())
        })
        .unwrap();
        kill(pids[0]).unwrap();
        assert!(all_gone(&pids));
        assert!(members(pids[0]).is_empty());
    }

    #[test]
    fn a_frozen_tree_is_killed_when_its_owner_is_gone() {
        let logs = tempfile::tempdir().unwrap();
        let (_process, pids) = tree(logs.path());
        let mut owner = Spec::new("owner", "sleep").arg("1000").spawn(logs.path()).unwrap();
        let _frozen = Frozen::freeze(pids[0], owner.pid(), logs.path()).unwrap();
        assert!(pids.iter().all(|pid| state(*pid) == Some('T')));
        owner.kill();
        wait::until(wait::PATIENCE, "the guard", || all_gone(&pids).then_some(())).unwrap();
    }
}
