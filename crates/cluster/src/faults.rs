//! Faults that the machine itself can make: failing system calls, full file systems.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process::{Process, Signal, Spec};
use crate::wait;

/// strace attached to a running process and all its threads: counts calls, or makes them fail.
///
/// The fault is in force from [`Strace::attach`] until [`Strace::detach`] or the value's end.
#[derive(Debug)]
pub struct Strace {
    process: Process,
    trace: PathBuf,
    _directory: tempfile::TempDir,
}

impl Strace {
    /// Attaches to `pid`. `calls` is strace's list of calls to look at (`fsync,fdatasync`);
    /// `inject`, if given, what to do to them (`fdatasync:error=EIO:when=3+`).
    ///
    /// # Errors
    /// When strace is missing or may not attach.
    pub fn attach(pid: u32, calls: &str, inject: Option<&str>) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let trace = directory.path().join("trace");
        // Without seccomp-bpf (it can't be used with -p) every call stops the process twice; the
        // caller keeps such runs short.
        let mut spec = Spec::new("strace", "strace")
            .args(["-f", "-y", "-e", &format!("trace={calls}"), "-o"])
            .arg(&trace)
            .args(["-p", &pid.to_string()]);
        if let Some(inject) = inject {
            spec = spec.args(["-e", &format!("inject={inject}")]);
        }
        let mut process =
            spec.spawn(directory.path()).context("start strace (Debian package strace)")?;
        // All threads that there are must be traced before the fault counts as in force.
        process.wait_ready(wait::PATIENCE, |_| all_traced(pid).then_some(()))?;
        Ok(Self { process, trace, _directory: directory })
    }

    /// The calls traced so far, a line each, in the order in which they ended; those under way
    /// come last.
    pub fn lines(&self) -> Vec<String> {
        calls(&String::from_utf8_lossy(&fs::read(&self.trace).unwrap_or_default()))
    }

    /// How many traced lines hold this text.
    pub fn count(&self, text: &str) -> usize {
        self.lines().iter().filter(|line| line.contains(text)).count()
    }

    /// How many calls a fault was put into. A run in which this is 0 proved nothing.
    pub fn injected(&self) -> usize {
        let text = fs::read(&self.trace).unwrap_or_default();
        String::from_utf8_lossy(&text).matches("(INJECTED)").count()
    }

    /// Takes the fault back and lets the process go on.
    ///
    /// # Errors
    /// When strace does not end.
    pub fn detach(&mut self) -> Result<()> {
        self.process.signal(Signal::INT)?;
        self.process.wait(Duration::from_secs(20)).map(|_| ())
    }
}

/// Puts calls together that strace wrote as two lines, because another thread's came between.
fn calls(trace: &str) -> Vec<String> {
    let mut calls = Vec::new();
    let mut under_way: Vec<(&str, &str)> = Vec::new();
    for line in trace.lines() {
        let (thread, call) = line.split_once(' ').unwrap_or((line, ""));
        if let Some(begun) = call.strip_suffix(" <unfinished ...>") {
            under_way.push((thread, begun));
        } else if let Some((_, rest)) = call.split_once(" resumed>") {
            let at = under_way.iter().position(|(known, _)| *known == thread);
            let begun = at.map_or("", |at| under_way.swap_remove(at).1);
            calls.push(format!("{thread} {begun}{rest}"));
        } else {
            calls.push(line.to_owned());
        }
    }
    calls.extend(
        under_way.iter().map(|(thread, begun)| format!("{thread} {begun} <unfinished ...>")),
    );
    calls
}

fn all_traced(pid: u32) -> bool {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return false;
    };
    tasks.flatten().all(|task| {
        fs::read_to_string(task.path().join("status"))
            .is_ok_and(|status| !status.lines().any(|line| line.trim_end() == "TracerPid:\t0"))
    })
}

/// A small file system in memory that can be filled: a full disk without filling one.
#[derive(Debug)]
pub struct SmallDisk {
    directory: tempfile::TempDir,
}

impl SmallDisk {
    /// Mounts a file system of `kib` KiB. Needs root.
    ///
    /// # Errors
    /// When it can't be mounted.
    pub fn mount(kib: u32) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let finished = Spec::new("mount", "mount")
            .args(["-t", "tmpfs", "-o", &format!("size={kib}k,mode=700"), "tmpfs"])
            .arg(directory.path())
            .run(&std::env::temp_dir(), wait::PATIENCE)?;
        finished.ok().context("mount a small tmpfs (needs root)")?;
        Ok(Self { directory })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Fills what is free with one file, `ballast`.
    ///
    /// # Errors
    /// When something else than the full disk stops it.
    pub fn fill(&self) -> Result<()> {
        use std::io::Write;
        let mut file = fs::File::options()
            .create(true)
            .append(true)
            .open(self.path().join("ballast"))
            .context("make the ballast")?;
        for size in [64 * 1024, 4096, 512, 1] {
            let block = vec![b'x'; size];
            loop {
                match file.write_all(&block) {
                    Ok(()) => {}
                    Err(error) if error.kind() == std::io::ErrorKind::StorageFull => break,
                    Err(error) => bail!("fill the disk: {error}"),
                }
            }
        }
        Ok(())
    }

    /// Frees what [`Self::fill`] took.
    ///
    /// # Errors
    /// When it can't be removed.
    pub fn free(&self) -> Result<()> {
        fs::remove_file(self.path().join("ballast")).context("remove the ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, because a server that is being killed may still hold files.
        let spec = Spec::new("umount", "umount").arg("-l").arg(self.directory.path());
        let _ = spec.run(&std::env::temp_dir(), wait::PATIENCE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_strace_wrote_in_two_lines_is_one() {
        let trace = "7 fsync(3</a>) = 0\n7 fsync(3</a> <unfinished ...>\n8 fsync(4</b> <unfinished \
                     ...>\n8 <... fsync resumed>) = -1 EIO (x) (INJECTED)\n7 <... fsync resumed>) \
                     = 0\n9 fsync(5</c> <unfinished ...>\n";
        let expected = [
            "7 fsync(3</a>) = 0",
            "8 fsync(4</b>) = -1 EIO (x) (INJECTED)",
            "7 fsync(3</a>) = 0",
            "9 fsync(5</c> <unfinished ...>",
        ];
        assert_eq!(calls(trace), expected);
    }
}
