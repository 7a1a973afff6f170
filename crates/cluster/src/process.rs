//! One child process: its command, its log files, its signals and its end.
//!
//! Invariants: a process leads a group of its own, and the whole group is killed when the value is
//! dropped; the kernel kills the process when the thread that started it ends without that
//! (`setpriv --pdeathsig`), so start servers from the thread that owns them. Its environment is
//! what the [`Spec`] says and nothing inherited but `PATH`.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process, kill_process_group};

use crate::wait;

/// What is to be started.
#[derive(Clone, Debug)]
pub struct Spec {
    name: String,
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    wrapper: Vec<OsString>,
    directory: Option<PathBuf>,
}

impl Spec {
    /// A program without arguments. `name` is used for log files and messages.
    pub fn new(name: impl Into<String>, program: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            wrapper: Vec::new(),
            directory: None,
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Runs the program under another one that ends by executing it (`prlimit --nofile=256`).
    #[must_use]
    pub fn wrap<S: AsRef<OsStr>>(mut self, wrapper: impl IntoIterator<Item = S>) -> Self {
        self.wrapper.extend(wrapper.into_iter().map(|word| word.as_ref().to_owned()));
        self
    }

    /// Runs it in this directory instead of the log directory.
    #[must_use]
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    fn command(&self, logs: &Path) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).args(&self.wrapper);
        command.arg(&self.program).args(&self.args);
        command.env_clear();
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        command.env("HOME", logs).env("LC_ALL", "C.UTF-8").env("TMPDIR", logs);
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command.current_dir(self.directory.as_deref().unwrap_or(logs));
        command.process_group(0).stdin(Stdio::null());
        command
    }

    /// Starts it. Its output is appended to `NAME.out` and `NAME.err` in `logs`.
    ///
    /// # Errors
    /// When the log files or the process can't be made.
    pub fn spawn(&self, logs: &Path) -> Result<Process> {
        let stdout = logs.join(format!("{}.out", self.name));
        let stderr = logs.join(format!("{}.err", self.name));
        let open = |path: &Path| {
            let file = File::options().create(true).append(true).open(path);
            file.with_context(|| format!("open the log file {}", path.display()))
        };
        let (out, err) = (open(&stdout)?, open(&stderr)?);
        let from = (length(&stdout), length(&stderr));
        let child = self
            .command(logs)
            .stdout(out)
            .stderr(err)
            .spawn()
            .with_context(|| format!("start {}", self.program.display()))?;
        Ok(Process { name: self.name.clone(), child, stdout, stderr, from, ended: None })
    }

    /// Runs it to its end, at most for `bound`, and answers its exit status and output.
    ///
    /// # Errors
    /// When it can't be started or does not end in time (it is killed then).
    pub fn run(&self, logs: &Path, bound: Duration) -> Result<Finished> {
        let mut process = self.spawn(logs)?;
        let status = process.wait(bound)?;
        Ok(Finished { status, stdout: process.stdout(), stderr: process.stderr() })
    }
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |meta| meta.len())
}

/// What a process that ran to its end left behind.
#[derive(Clone, Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote on standard output.
    pub stdout: String,
    /// What it wrote on standard error.
    pub stderr: String,
}

impl Finished {
    /// The exit code; 128 + N when signal N ended it, as a shell says.
    pub fn code(&self) -> i32 {
        let signal = self.status.signal().unwrap_or(0);
        self.status.code().unwrap_or(128 + signal)
    }

    /// The standard output of a run that ended well.
    ///
    /// # Errors
    /// When it ended otherwise; with all it said.
    pub fn ok(self) -> Result<String> {
        if !self.status.success() {
            bail!("ended with {}: {}{}", self.code(), self.stdout, self.stderr);
        }
        Ok(self.stdout)
    }
}

/// A running (or ended) process.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
    /// Where this process's part of the two log files begins.
    from: (u64, u64),
    ended: Option<ExitStatus>,
}

impl Process {
    /// The process's number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn rustix_pid(&self) -> Option<Pid> {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
    }

    /// Whether it still runs.
    pub fn running(&mut self) -> bool {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended.is_none()
    }

    /// Sends a signal to the process alone.
    ///
    /// # Errors
    /// When it has ended.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if !self.running() {
            bail!("{} has ended already", self.name);
        }
        let pid = self.rustix_pid().ok_or_else(|| anyhow!("{} has no number", self.name))?;
        kill_process(pid, signal).with_context(|| format!("signal {}", self.name))
    }

    /// Kills the whole group at once (`SIGKILL`) and waits until the process is gone.
    pub fn kill(&mut self) {
        if self.running() {
            if let Some(pid) = self.rustix_pid() {
                // The group may be gone already; the process itself is certain.
                let _ = kill_process_group(pid, Signal::KILL);
            }
            let _ = self.child.kill();
        }
        if self.ended.is_none() {
            self.ended = self.child.wait().ok();
        }
    }

    /// Asks it to end (`SIGTERM`) and waits for it.
    ///
    /// # Errors
    /// When it has ended before, or does not end within `bound`; it is killed then.
    pub fn terminate(&mut self, bound: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait(bound)
    }

    /// Stops it in its tracks (`SIGSTOP`), connections open.
    ///
    /// # Errors
    /// When it has ended.
    pub fn freeze(&mut self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on (`SIGCONT`).
    ///
    /// # Errors
    /// When it has ended.
    pub fn heal(&mut self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it does not end within `bound`; it is killed then.
    pub fn wait(&mut self, bound: Duration) -> Result<ExitStatus> {
        let name = self.name.clone();
        let ended = wait::until(bound, &format!("the end of {name}"), || {
            (!self.running()).then_some(()).and(self.ended)
        });
        if ended.is_err() {
            self.kill();
        }
        ended
    }

    /// Waits until `ready` answers `Some`, as long as the process runs.
    ///
    /// # Errors
    /// When the process ends before, or `bound` passes; with what it said.
    pub fn wait_ready<T>(
        &mut self,
        bound: Duration,
        mut ready: impl FnMut(&mut Self) -> Option<T>,
    ) -> Result<T> {
        let what = format!("{} to be ready", self.name);
        let answer = wait::until(bound, &what, || {
            if let Some(value) = ready(self) {
                return Some(Ok(value));
            }
            (!self.running()).then(|| Err(anyhow!("{} ended while starting", self.name)))
        });
        match answer {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) | Err(error) => {
                Err(error.context(format!("{}\n{}", self.stdout(), self.stderr())))
            }
        }
    }

    /// What this process has written on standard output so far.
    pub fn stdout(&self) -> String {
        text_from(&self.stdout, self.from.0)
    }

    /// What this process has written on standard error so far.
    pub fn stderr(&self) -> String {
        text_from(&self.stderr, self.from.1)
    }

    /// Processor time it has used so far, user and system, from `/proc`.
    ///
    /// # Errors
    /// When it is gone.
    pub fn cpu_time(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid()))
            .with_context(|| format!("read the state of {}", self.name))?;
        // The second field is the name in brackets and may hold blanks.
        let fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        let ticks: u64 =
            fields.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().unwrap_or(0)).sum();
        let hertz = rustix::param::clock_ticks_per_second().max(1);
        Ok(Duration::from_millis(ticks * 1000 / hertz))
    }

    /// Bytes of memory it holds now (`VmRSS`).
    ///
    /// # Errors
    /// When it is gone.
    pub fn resident_bytes(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))
            .with_context(|| format!("read the state of {}", self.name))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kib.map(|kib| kib * 1024).ok_or_else(|| anyhow!("{} has no VmRSS", self.name))
    }

    /// How many file descriptors it has open.
    ///
    /// # Errors
    /// When it is gone.
    pub fn open_files(&self) -> Result<usize> {
        let path = format!("/proc/{}/fd", self.pid());
        let entries = fs::read_dir(&path).with_context(|| format!("read {path}"))?;
        Ok(entries.count())
    }
}

fn text_from(path: &Path, from: u64) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    let from = usize::try_from(from).unwrap_or(usize::MAX).min(bytes.len());
    String::from_utf8_lossy(bytes.get(from..).unwrap_or_default()).into_owned()
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        // Whoever it started and did not take along.
        if let Some(pid) = self.rustix_pid() {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Duration = Duration::from_secs(20);

    fn alive(pid: u32) -> bool {
        // A zombie is dead: whoever inherited it has not looked yet.
        fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
    }

    #[test]
    fn a_dropped_process_takes_its_children_along() {
        let logs = tempfile::tempdir().unwrap();
        let script = "sleep 1000 & echo $!; wait";
        let process = Spec::new("sh", "/bin/sh").args(["-c", script]).spawn(logs.path()).unwrap();
        let child: u32 =
            wait::until(BOUND, "the child's number", || process.stdout().trim().parse().ok())
                .unwrap();
        assert!(alive(child));
        drop(process);
        wait::until(BOUND, "the child's end", || (!alive(child)).then_some(())).unwrap();
    }

    #[test]
    fn a_process_ends_with_the_thread_that_started_it_even_when_its_value_is_leaked() {
        let logs = tempfile::tempdir().unwrap();
        let path = logs.path().to_owned();
        let pid = std::thread::spawn(move || {
            let process = Spec::new("sleep", "sleep").arg("1000").spawn(&path).unwrap();
            let pid = process.pid();
            // Until setpriv has set the signal and become `sleep`.
            let ready = || {
                let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                (name.trim() == "sleep").then_some(())
            };
            wait::until(BOUND, "sleep", ready).unwrap();
            std::mem::forget(process);
            pid
        })
        .join()
        .unwrap();
        wait::until(BOUND, "its end", || (!alive(pid)).then_some(())).unwrap();
    }

    #[test]
    fn freezing_stops_and_healing_resumes() {
        let logs = tempfile::tempdir().unwrap();
        let mut process = Spec::new("sleep", "sleep").arg("1000").spawn(logs.path()).unwrap();
        let pid = process.pid();
        let state = |wanted: &str| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.contains(wanted).then_some(())
        };
        wait::until(BOUND, "the program", || state("(sleep)")).unwrap();
        process.freeze().unwrap();
        wait::until(BOUND, "T", || state(") T ")).unwrap();
        process.heal().unwrap();
        wait::until(BOUND, "S", || state(") S ")).unwrap();
        assert_eq!(process.terminate(BOUND).unwrap().signal(), Some(15));
        assert!(process.signal(Signal::TERM).is_err());
    }

    #[test]
    fn the_environment_is_the_specs_alone_and_output_is_kept() {
        let logs = tempfile::tempdir().unwrap();
        let spec = Spec::new("env", "env").env("SHUNT_X", "1");
        let finished = spec.run(logs.path(), BOUND).unwrap();
        let out = finished.ok().unwrap();
        assert!(out.contains("SHUNT_X=1"));
        let foreign = out.lines().any(|line| line.starts_with("CARGO"));
        assert!(!foreign, "{out}");
    }

    #[test]
    fn a_program_that_fails_says_so() {
        let logs = tempfile::tempdir().unwrap();
        let spec = Spec::new("sh", "sh").args(["-c", "echo why >&2; exit 3"]);
        let finished = spec.run(logs.path(), BOUND).unwrap();
        assert_eq!(finished.code(), 3);
        assert!(finished.ok().unwrap_err().to_string().contains("why"));
        let mut process = spec.spawn(logs.path()).unwrap();
        let error = process.wait_ready(BOUND, |_| None::<()>).unwrap_err();
        assert!(format!("{error:#}").contains("ended while starting"), "{error:#}");
    }
}
