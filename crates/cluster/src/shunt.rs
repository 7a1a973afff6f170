//! The real `shunt` binary as a value.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::http::{self, Address, Connection, Request, Response};
use crate::place::Place;
use crate::ports::Port;
use crate::process::{Finished, Process, Spec};
use crate::wait;

/// Where the binary under test is: `SHUNT_TEST_BINARY`, or the one that was built beside the
/// running test (`target/<profile>/shunt`).
///
/// # Errors
/// When there is none; the message says how to build it.
#[expect(clippy::disallowed_methods, reason = "a test switch, no setting of the product")]
pub fn binary() -> Result<PathBuf> {
    if let Ok(path) = std::env::var("SHUNT_TEST_BINARY") {
        let path = PathBuf::from(path);
        if path.is_file() {
            return Ok(path);
        }
        bail!("SHUNT_TEST_BINARY names {}, which is no file", path.display());
    }
    let test = std::env::current_exe().context("find the running test")?;
    let beside = test.parent().and_then(Path::parent).map(|profile| profile.join("shunt"));
    beside
        .filter(|path| path.is_file())
        .ok_or_else(|| anyhow!("no shunt beside {}: run `cargo build -p shunt`", test.display()))
}

/// A server: its files, its ports, and its process while it runs.
#[derive(Debug)]
pub struct Shunt {
    place: Place,
    binary: PathBuf,
    data: PathBuf,
    port: Port,
    ops: Port,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    wrapper: Vec<OsString>,
    process: Option<Process>,
}

impl Shunt {
    /// A server that has not been started: fresh ports, a fresh data directory.
    ///
    /// # Errors
    /// When there is no port or no place.
    pub fn new() -> Result<Self> {
        Self::of(Place::new("node")?, binary()?)
    }

    /// A server of this program that has not been started, in a directory that is kept, with the
    /// ports and the data in it from an earlier process.
    ///
    /// # Errors
    /// When the directory is in use or one of the ports is.
    pub fn at(directory: &Path, binary: &Path) -> Result<Self> {
        Self::of(Place::keep(directory)?, binary.to_owned())
    }

    fn of(place: Place, binary: PathBuf) -> Result<Self> {
        sweep_rings();
        Ok(Self {
            data: place.path().join("data"),
            port: place.port("shunt")?,
            ops: place.port("ops")?,
            place,
            binary,
            args: Vec::new(),
            env: Vec::new(),
            wrapper: Vec::new(),
            process: None,
        })
    }

    /// A running server with nothing configured but its ports and its directory.
    ///
    /// # Errors
    /// When it does not start.
    pub fn started() -> Result<Self> {
        let mut shunt = Self::new()?;
        shunt.start()?;
        Ok(shunt)
    }

    /// Adds an argument to `serve`.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds an environment variable to every command.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Writes the configuration file that `serve` is given.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn config(self, toml: &str) -> Result<Self> {
        let path = self.place.path().join("shunt.toml");
        fs::write(&path, toml).context("write the configuration")?;
        Ok(self.arg("--config").arg(path))
    }

    /// Runs the server under another program that executes it, `prlimit --nofile=256` for one.
    #[must_use]
    pub fn wrap<S: AsRef<OsStr>>(mut self, wrapper: impl IntoIterator<Item = S>) -> Self {
        self.wrapper.extend(wrapper.into_iter().map(|word| word.as_ref().to_owned()));
        self
    }

    /// Uses this data directory instead of a fresh one.
    #[must_use]
    pub fn on(mut self, data: impl Into<PathBuf>) -> Self {
        self.data = data.into();
        self
    }

    /// The command `shunt serve` with everything this value sets.
    ///
    /// # Errors
    /// When there is no binary.
    pub fn serve_spec(&self) -> Result<Spec> {
        let spec = Spec::new("shunt", &self.binary)
            .wrap(&self.wrapper)
            .arg("serve")
            .args(["--listen", &self.port.address().to_string()])
            .args(["--ops-listen", &self.ops.address().to_string()])
            .arg("--data-dir")
            .arg(&self.data)
            .args(&self.args);
        Ok(self.env.iter().fold(spec, |spec, (name, value)| spec.env(name, value)))
    }

    /// Starts the server and waits until it serves.
    ///
    /// # Errors
    /// When it runs already, ends, or is not ready in time; with what it said.
    pub fn start(&mut self) -> Result<()> {
        if self.process.as_mut().is_some_and(Process::running) {
            bail!("the server runs already");
        }
        let mut process = self.serve_spec()?.spawn(self.place.path())?;
        let address = self.address();
        process.wait_ready(wait::PATIENCE, |_| healthy(&address).then_some(()))?;
        self.process = Some(process);
        Ok(())
    }

    /// Ends the server if it runs, and starts it on the same ports and data.
    ///
    /// # Errors
    /// As [`Self::stop`] and [`Self::start`].
    pub fn restart(&mut self) -> Result<()> {
        if self.process.as_mut().is_some_and(Process::running) {
            self.stop()?;
        }
        self.start()
    }

    /// Starts a second process on the same directory and sockets that takes over from the first,
    /// and waits until the first has ended well. `args` are added to the command.
    ///
    /// # Errors
    /// When the new one ends, or the old one does not.
    pub fn hand_over(&mut self, args: &[&str], bound: Duration) -> Result<ExitStatus> {
        let mut old = self.process.take().ok_or_else(|| anyhow!("the server does not run"))?;
        let spec = self.serve_spec()?.args(args);
        let mut new = spec.spawn(self.place.path())?;
        let ended = new.wait_ready(bound, |_| (!old.running()).then_some(()));
        self.process = Some(new);
        ended.context("the old process goes on")?;
        old.wait(bound)
    }

    /// The running process.
    ///
    /// # Errors
    /// When it was not started.
    pub fn process(&mut self) -> Result<&mut Process> {
        self.process.as_mut().ok_or_else(|| anyhow!("the server does not run"))
    }

    /// Kills it at once: `kill -9`.
    pub fn kill(&mut self) {
        if let Some(process) = &mut self.process {
            process.kill();
        }
    }

    /// Asks it to end and waits until it has.
    ///
    /// # Errors
    /// When it does not end in time or did not run.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.process()?.terminate(wait::PATIENCE)
    }

    /// The main listener.
    pub fn address(&self) -> Address {
        self.port.address().into()
    }

    /// The main listener's socket address.
    pub fn socket(&self) -> SocketAddr {
        self.port.address()
    }

    /// The operations listener.
    pub fn ops_address(&self) -> Address {
        self.ops.address().into()
    }

    /// The operations listener's socket address.
    pub fn ops_socket(&self) -> SocketAddr {
        self.ops.address()
    }

    /// `http://127.0.0.1:PORT` plus a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.port.address())
    }

    /// The data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// A directory for logs and the test's own files.
    pub fn files(&self) -> &Path {
        self.place.path()
    }

    /// Everything that the current process has said on both outputs.
    pub fn said(&self) -> String {
        self.process.as_ref().map_or_else(String::new, |p| p.stdout() + &p.stderr())
    }

    /// Opens a connection to the main listener.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn connect(&self) -> Result<Connection> {
        Connection::open(&self.address())
    }

    /// Sends one request to the main listener.
    ///
    /// # Errors
    /// As [`http::ask`].
    pub fn ask(&self, request: &Request) -> Result<Response> {
        http::ask(&self.address(), request)
    }

    /// Sends one request to the operations listener.
    ///
    /// # Errors
    /// As [`http::ask`].
    pub fn ask_ops(&self, path: &str) -> Result<Response> {
        http::ask(&self.ops_address(), &Request::get(path))
    }

    /// Runs a CLI command on this server's data directory, for at most `bound`.
    ///
    /// # Errors
    /// When it can't be started or does not end in time.
    pub fn cli<S: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = S>,
        bound: Duration,
    ) -> Result<Finished> {
        // Its own log files, so that runs don't mix.
        let logs = tempfile::Builder::new().prefix("cli-").tempdir_in(self.place.path())?;
        let spec = Spec::new("cli", &self.binary).args(args).env("SHUNT_DATA_DIR", &self.data);
        let spec = self.env.iter().fold(spec, |spec, (name, value)| spec.env(name, value));
        spec.run(logs.path(), bound)
    }

    /// One figure of `/metrics`, the sum over all series of that name whose labels hold `labels`.
    ///
    /// # Errors
    /// When the listener does not answer or there is no such series.
    pub fn metric(&self, name: &str, labels: &str) -> Result<f64> {
        let text = self.ask_ops("/metrics")?.text();
        sum_of(&text, name, labels).ok_or_else(|| anyhow!("no series {name}{{{labels}}}"))
    }
}

/// The sum of all series of this name in a metrics text whose label part holds `labels`; `None`
/// when there is none.
pub fn sum_of(text: &str, name: &str, labels: &str) -> Option<f64> {
    let mut sum = None;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((series, value)) = line.rsplit_once(' ') else {
            continue;
        };
        let (series_name, series_labels) = series.split_once('{').unwrap_or((series, ""));
        if series_name == name && series_labels.contains(labels) {
            *sum.get_or_insert(0.0) += value.parse::<f64>().unwrap_or(f64::NAN);
        }
    }
    sum
}

/// Removes the click rings of servers whose data directory is gone: a killed server leaves them in
/// memory for its next start, which a test that ended never makes.
pub(crate) fn sweep_rings() {
    let Ok(entries) = fs::read_dir("/dev/shm") else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let ours = entry.file_name().to_string_lossy().starts_with("shunt-");
        let orphaned = fs::read_link(path.join("owner")).is_ok_and(|owner| !owner.exists());
        if ours && orphaned {
            // Another test may be sweeping too.
            let _ = fs::remove_dir_all(&path);
        }
    }
}

fn healthy(address: &Address) -> bool {
    let Ok(mut connection) = Connection::open(address) else {
        return false;
    };
    let patient = connection.read_timeout(Duration::from_secs(2)).is_ok();
    patient && connection.ask(&Request::get("/health")).is_ok_and(|answer| answer.status == 200)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_summed_by_name_and_label() {
        let text = "# HELP a x\na{b=\"1\",c=\"x\"} 2\na{b=\"2\",c=\"x\"} 3\nab 7\n";
        assert_eq!(sum_of(text, "a", ""), Some(5.0));
        assert_eq!(sum_of(text, "a", "b=\"2\""), Some(3.0));
        assert_eq!(sum_of(text, "ab", ""), Some(7.0));
        assert_eq!(sum_of(text, "abc", ""), None);
    }
}
