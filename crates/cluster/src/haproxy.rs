//! HAProxy in front of any number of shunt nodes, from the configuration that `deploy/` ships.

use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::deploy;
use crate::http::{Address, Connection};
use crate::place::Place;
use crate::ports::Port;
use crate::process::{Process, Spec};
use crate::wait;

/// How long HAProxy may take to answer on its own socket.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A running (or stopped, or killed) HAProxy.
#[derive(Debug)]
pub struct Haproxy {
    port: Port,
    nodes: usize,
    process: Option<Process>,
    place: Place,
}

impl Haproxy {
    /// Starts HAProxy in front of `nodes`, which need not run yet: answered when it has checked
    /// each of them, so that it knows who does.
    ///
    /// # Errors
    /// When HAProxy is not installed, there is no node, or it does not start; with what it said.
    pub fn start(nodes: &[SocketAddr]) -> Result<Self> {
        Self::begin(Place::new("haproxy")?, nodes)
    }

    /// As [`Self::start`], in a directory that is kept.
    ///
    /// # Errors
    /// As [`Self::start`], or when the directory is in use.
    pub fn start_at(directory: &Path, nodes: &[SocketAddr]) -> Result<Self> {
        Self::begin(Place::keep(directory)?, nodes)
    }

    fn begin(place: Place, nodes: &[SocketAddr]) -> Result<Self> {
        if nodes.is_empty() {
            bail!("a HAProxy needs a node");
        }
        let port = place.port("haproxy")?;
        let mut proxy = Self { port, nodes: nodes.len(), process: None, place };
        let server = |(at, node): (usize, &SocketAddr)| (format!("node{}", at + 1), *node);
        let named = || nodes.iter().enumerate().map(server);
        let socket = proxy.admin_socket();
        let blocks = [
            (
                "places",
                format!(
                    "log stdout format raw local0\nstats socket {} level admin\n",
                    socket.display()
                ),
            ),
            ("listen", format!("bind {}\n", proxy.port.address())),
            ("read", named().map(|(name, node)| format!("server {name} {node}\n")).collect()),
            (
                "write",
                named()
                    .map(|(name, node)| format!("server {name} {node} track read/{name}\n"))
                    .collect(),
            ),
        ];
        fs::write(proxy.file(), deploy::fill(deploy::HAPROXY, &blocks)?)?;
        proxy.launch()?;
        Ok(proxy)
    }

    fn launch(&mut self) -> Result<()> {
        let mut process = Spec::new("haproxy", "haproxy")
            // In the foreground, one process.
            .args(["-db", "-f"])
            .arg(self.file())
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .spawn(self.place.path())?;
        let address = self.address();
        let ready = process.wait_ready(wait::PATIENCE, |_| {
            Connection::open(&address).ok()?;
            // A node counts as healthy until its first check ends.
            let checked = |node| self.check(node).is_ok_and(|check| !check.is_empty());
            (0..self.nodes).all(checked).then_some(())
        });
        self.process = Some(process);
        ready.context("start HAProxy (Debian package haproxy)")
    }

    fn file(&self) -> PathBuf {
        self.place.path().join("haproxy.cfg")
    }

    fn admin_socket(&self) -> PathBuf {
        self.place.path().join("admin.sock")
    }

    /// Where it listens.
    pub fn address(&self) -> Address {
        self.port.address().into()
    }

    /// The socket's address.
    pub fn socket(&self) -> SocketAddr {
        self.port.address()
    }

    /// Runs a command of the admin socket, `show stat` for one.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn admin(&self, command: &str) -> Result<String> {
        let mut stream = UnixStream::connect(self.admin_socket()).context("reach HAProxy")?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.write_all(format!("{command}\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).context("read HAProxy's answer")?;
        Ok(answer)
    }

    /// One column of `show stat` (`status`, `wretr`, `hrsp_2xx`, …) of a node, counted from 0, in
    /// the backend `read` or `write`.
    ///
    /// # Errors
    /// When it does not answer or has no such column or node.
    pub fn stat(&self, backend: &str, node: usize, column: &str) -> Result<String> {
        let table = self.admin("show stat")?;
        let name = format!("node{}", node + 1);
        let value = cell(&table, backend, &name, column);
        value.with_context(|| format!("no {column} of {backend}/{name}"))
    }

    /// Whether HAProxy sends requests to a node, counted from 0.
    ///
    /// # Errors
    /// As [`Self::stat`].
    pub fn is_up(&self, node: usize) -> Result<bool> {
        // `UP 1/2` is going down, `DOWN 1/2` going up.
        Ok(self.stat("read", node, "status")?.starts_with("UP"))
    }

    /// What the last check of a node ended with, `L7OK` for one; nothing before the first.
    fn check(&self, node: usize) -> Result<String> {
        let check = self.stat("read", node, "check_status")?;
        // `INI` before the first, `* L4CON` while the next is under way.
        Ok(if check == "INI" { String::new() } else { check })
    }

    /// Waits until HAProxy sends requests to a node, or no longer does.
    ///
    /// # Errors
    /// When it does not come to that within [`wait::PATIENCE`].
    pub fn wait_up(&self, node: usize, up: bool) -> Result<()> {
        let what = format!("node {node} to be {}", if up { "up" } else { "down" });
        wait::until(wait::PATIENCE, &what, || {
            self.is_up(node).is_ok_and(|is| is == up).then_some(())
        })
    }

    /// The process, to freeze it.
    ///
    /// # Errors
    /// When it was not started.
    pub fn process(&mut self) -> Result<&mut Process> {
        self.process.as_mut().context("HAProxy was not started")
    }

    /// What it has said since its last start: requests that went wrong, and its own troubles.
    pub fn log(&self) -> String {
        self.process.as_ref().map_or_else(String::new, |p| p.stdout() + &p.stderr())
    }

    /// Kills it at once.
    pub fn kill(&mut self) {
        if let Some(process) = &mut self.process {
            process.kill();
        }
    }

    /// Ends it at once but in order.
    ///
    /// # Errors
    /// When it does not run or does not end in time.
    pub fn stop(&mut self) -> Result<()> {
        self.process()?.terminate(wait::PATIENCE).map(|_| ())
    }

    /// Stops it if it runs, and starts it on the same port.
    ///
    /// # Errors
    /// When it does not end or not start.
    pub fn restart(&mut self) -> Result<()> {
        if self.process()?.running() {
            self.stop()?;
        }
        self.launch()
    }
}

/// A cell of the table that `show stat` answers, CSV without quotes in the columns used here.
fn cell(table: &str, backend: &str, server: &str, column: &str) -> Option<String> {
    let mut lines = table.lines();
    let head = lines.next()?.trim_start_matches("# ");
    let at = head.split(',').position(|name| name == column)?;
    let row = lines.map(|line| line.split(',').collect::<Vec<_>>());
    let row =
        row.into_iter().find(|row| row.first() == Some(&backend) && row.get(1) == Some(&server));
    row?.get(at).map(|value| (*value).to_owned())
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_cell_is_found_by_row_and_column() {
        let table = "# pxname,svname,status\nread,node1,UP\nread,node2,DOWN 1/2\nwrite,node1,no\n";
        let status = |backend, server| super::cell(table, backend, server, "status");
        assert_eq!(status("read", "node2").as_deref(), Some("DOWN 1/2"));
        assert_eq!(status("write", "node2"), None);
        assert_eq!(super::cell(table, "read", "node1", "none"), None);
    }
}
