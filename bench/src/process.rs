//! A child process under measurement: started on one core, read through `/proc`, never left behind.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::machine;

/// A running child; killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    /// When it was started.
    pub started: Instant,
}

/// Memory of a process, in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Memory {
    /// Resident in all.
    pub resident: u64,
    /// Resident and its own: neither a file's pages nor shared memory.
    pub anonymous: u64,
}

impl Process {
    /// Starts `command` on a core, or on any; what it prints goes to `log`.
    ///
    /// # Errors
    /// The log can't be created or the program not started.
    pub fn start(
        name: &str,
        core: Option<usize>,
        command: &mut Command,
        log: &Path,
    ) -> anyhow::Result<Self> {
        let out = std::fs::File::create(log)
            .with_context(|| format!("create the log {}", log.display()))?;
        let err = out.try_clone().context("use the log for both outputs")?;
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        let started = Instant::now();
        let child = machine::spawn_on(core, command)?;
        Ok(Self { child, name: name.to_owned(), started })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until something accepts connections at `address`.
    ///
    /// # Errors
    /// The process ended, or nothing listened within `limit`.
    pub fn wait_listening(&mut self, address: SocketAddr, limit: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            if TcpStream::connect(address).is_ok() {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended before it listened on {address}: {status}; see its log", self.name);
            }
            if Instant::now() > deadline {
                bail!("{} did not listen on {address} within {limit:?}", self.name);
            }
            pause(Duration::from_millis(2));
        }
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// The system can't tell.
    pub fn is_running(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// User and system time of the process, its threads and its children, living and waited for.
    ///
    /// # Errors
    /// The process is gone.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        cpu_of(self.id())
    }

    /// Memory of the process itself.
    ///
    /// # Errors
    /// The process is gone.
    pub fn memory(&self) -> anyhow::Result<Memory> {
        let path = format!("/proc/{}/status", self.id());
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let kib = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
                .unwrap_or(0_u64)
        };
        Ok(Memory { resident: kib("VmRSS:") * 1024, anonymous: kib("RssAnon:") * 1024 })
    }

    /// Asks it to end and waits; kills it after `limit`.
    ///
    /// # Errors
    /// The system can't tell whether it ended.
    pub fn stop(mut self, limit: Duration) -> anyhow::Result<()> {
        signal(self.id(), Signal::TERM);
        let deadline = Instant::now() + limit;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                bail!("{} did not stop within {limit:?} of SIGTERM", self.name);
            }
            pause(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // Children of a master (nginx) end with SIGTERM only; a kill would orphan them.
            signal(self.id(), Signal::TERM);
            let deadline = Instant::now() + Duration::from_secs(10);
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
                pause(Duration::from_millis(5));
            }
            // Already gone in the usual case.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn signal(id: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(id).ok().and_then(Pid::from_raw) {
        // It may have ended by itself.
        let _ = kill_process(pid, signal);
    }
}

/// User and system time of a process, its threads and its children, living and waited for.
///
/// # Errors
/// The process is gone.
pub fn cpu_of(root: u32) -> anyhow::Result<Duration> {
    let ticks = rustix::param::clock_ticks_per_second();
    let mut sum = ticks_of(root)?;
    let children = |id: u32| {
        let path = format!("/proc/{id}/task/{id}/children");
        let children = std::fs::read_to_string(path).unwrap_or_default();
        children.split_whitespace().filter_map(|id| id.parse::<u32>().ok()).collect::<Vec<_>>()
    };
    let mut todo = children(root);
    while let Some(id) = todo.pop() {
        // A child that ends now is in its parent's figure at the next look.
        sum += ticks_of(id).unwrap_or(0);
        todo.extend(children(id));
    }
    Ok(Duration::from_nanos(sum * 1_000_000_000 / ticks.max(1)))
}

/// utime + stime + cutime + cstime of one process, in clock ticks.
fn ticks_of(id: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{id}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    // The name may hold spaces and parentheses; the fields begin after the last one.
    let (_, fields) = text.rsplit_once(')').context("read the fields of /proc/PID/stat")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let tick = |at: usize| fields.get(at).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
    Ok((11..=14).map(tick).sum())
}

/// Waits without reason to be woken: the harness polls other processes, which send no signal.
pub fn pause(time: Duration) {
    let (_sender, never) = mpsc::channel::<()>();
    let _ = never.recv_timeout(time);
}
