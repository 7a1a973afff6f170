//! The three servers: nginx, the floor and shunt, each with its own directory and ports.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::dataset;
use crate::http::Client;
use crate::machine;
use crate::process::Process;

/// A server that answers.
#[derive(Debug)]
pub struct Server {
    /// The process.
    pub process: Process,
    /// Where it redirects.
    pub address: SocketAddr,
    /// Where its metrics are; shunt only.
    pub ops: Option<SocketAddr>,
}

/// How long a server may take until it listens; ten million links of an nginx map are slow.
const START: Duration = Duration::from_secs(120);

/// A port nobody listens on now.
///
/// # Errors
/// No port is free.
pub fn free_port() -> anyhow::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
    Ok(listener.local_addr()?.port())
}

const TEMPLATE: &str = include_str!("../nginx.conf.tmpl");

/// Starts nginx with a map of `links` links.
///
/// # Errors
/// nginx is not installed, or does not come up.
pub fn nginx(dir: &Path, core: usize, map: &Path, links: u64) -> anyhow::Result<Server> {
    std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    let port = free_port()?;
    let conf = TEMPLATE
        .replace("{{dir}}", &dir.display().to_string())
        .replace("{{port}}", &port.to_string())
        .replace("{{map_file}}", &map.display().to_string())
        .replace("{{hash_max}}", &(2 * links).next_power_of_two().to_string())
        .replace("{{hash_bucket}}", "128");
    let path = dir.join("nginx.conf");
    std::fs::write(&path, conf).with_context(|| format!("write {}", path.display()))?;
    let mut command = Command::new("nginx");
    command.arg("-p").arg(dir).arg("-c").arg(&path);
    let mut process = Process::start("nginx", Some(core), &mut command, &dir.join("nginx.log"))
        .context("nginx is needed as the yardstick; on Debian: apt-get install nginx-light")?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    process.wait_listening(address, START)?;
    Ok(Server { process, address, ops: None })
}

/// Starts the floor with the answer it is to give.
///
/// # Errors
/// The binary is missing or does not come up.
pub fn floor(binary: &Path, dir: &Path, core: usize, answer: &[u8]) -> anyhow::Result<Server> {
    std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    let file = dir.join("answer");
    std::fs::write(&file, answer).with_context(|| format!("write {}", file.display()))?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
    let mut command = Command::new(binary);
    command.arg("--listen").arg(address.to_string()).arg("--answer-file").arg(&file);
    let mut process = Process::start("floor", Some(core), &mut command, &dir.join("floor.log"))?;
    process.wait_listening(address, START)?;
    Ok(Server { process, address, ops: None })
}

/// The `shunt` binary and its command lines: the one place that knows them.
#[derive(Debug, Clone)]
pub struct Shunt {
    /// The release binary.
    pub binary: PathBuf,
}

impl Shunt {
    /// `shunt serve` on one core with the given settings (`key=value`).
    ///
    /// # Errors
    /// It does not come up.
    pub fn serve(&self, data: &Path, core: usize, settings: &[&str]) -> anyhow::Result<Server> {
        self.serve_on(data, Some(core), settings)
    }

    /// `shunt serve` with one thread for redirects, on a core or on any.
    ///
    /// # Errors
    /// It does not come up.
    pub fn serve_on<S: AsRef<str>>(
        &self,
        data: &Path,
        core: Option<usize>,
        settings: &[S],
    ) -> anyhow::Result<Server> {
        let mut server = self.spawn(data, core, settings)?;
        server.process.wait_listening(server.address, START)?;
        Ok(server)
    }

    /// The same without waiting.
    ///
    /// # Errors
    /// It can't be started.
    pub fn spawn<S: AsRef<str>>(
        &self,
        data: &Path,
        core: Option<usize>,
        settings: &[S],
    ) -> anyhow::Result<Server> {
        std::fs::create_dir_all(data).with_context(|| format!("create {}", data.display()))?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let ops = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let mut command = self.command(data, settings);
        command
            .arg("serve")
            .args(["--cores", "1", "--listen", &address.to_string()])
            .args(["--ops-listen", &ops.to_string()]);
        let log = data.join("serve.log");
        let process = Process::start("shunt serve", core, &mut command, &log)?;
        Ok(Server { process, address, ops: Some(ops) })
    }

    /// `shunt links import` into a directory no server runs on.
    ///
    /// # Errors
    /// The import fails.
    pub fn import(&self, data: &Path, csv: &Path) -> anyhow::Result<()> {
        self.import_into(data, &[], csv)
    }

    /// The same with settings, for another store than that of the directory.
    ///
    /// # Errors
    /// The import fails.
    pub fn import_into(&self, data: &Path, settings: &[String], csv: &Path) -> anyhow::Result<()> {
        let csv = csv.display().to_string();
        self.output(data, settings, &["links", "import", &csv]).map(|_| ())
    }

    /// The same on a core.
    ///
    /// # Errors
    /// The import fails.
    pub fn import_on(
        &self,
        core: usize,
        data: &Path,
        settings: &[String],
        csv: &Path,
    ) -> anyhow::Result<()> {
        machine::on_core(Some(core), || self.import_into(data, settings, csv))
    }

    /// `shunt migrate`.
    ///
    /// # Errors
    /// The command fails.
    pub fn migrate(&self, data: &Path, settings: &[String]) -> anyhow::Result<()> {
        self.output(data, settings, &["migrate"]).map(|_| ())
    }

    /// `shunt apikeys add`: an admin key for a directory no server runs on.
    ///
    /// # Errors
    /// The command fails or prints no key.
    pub fn api_key(&self, data: &Path, settings: &[String]) -> anyhow::Result<String> {
        let out = self.output(
            data,
            settings,
            &["apikeys", "add", "bench", "--scope", "admin", "--json"],
        )?;
        let value: serde_json::Value =
            serde_json::from_str(out.trim()).context("read the new key's JSON")?;
        let secret = value.get("secret").and_then(serde_json::Value::as_str);
        secret.map(str::to_owned).context("the new key's JSON has no \"secret\"")
    }

    fn command<S: AsRef<str>>(&self, data: &Path, settings: &[S]) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg("--data-dir").arg(data).stdin(Stdio::null());
        for setting in settings {
            command.args(["--set", setting.as_ref()]);
        }
        command
    }

    fn output(&self, data: &Path, settings: &[String], words: &[&str]) -> anyhow::Result<String> {
        std::fs::create_dir_all(data).with_context(|| format!("create {}", data.display()))?;
        let output = self
            .command(data, settings)
            .args(words)
            .output()
            .with_context(|| format!("run {}", self.binary.display()))?;
        ensure!(
            output.status.success(),
            "shunt {} failed: {}",
            words.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        String::from_utf8(output.stdout).context("the command printed no text")
    }
}

impl Server {
    /// Asks for a spread sample of `links` and compares every answer. Returns the last answer's
    /// bytes.
    ///
    /// # Errors
    /// One redirect is missing or leads elsewhere.
    pub fn check(&self, links: u64) -> anyhow::Result<Vec<u8>> {
        let mut client = Client::connect(self.address)?;
        let mut last = Vec::new();
        for number in 0..200.min(links) {
            let index = number * links / 200.min(links);
            let answer = client.get(&format!("/{}", dataset::code(index)))?;
            ensure!(
                answer.status == 302 && answer.header("location") == Some(&dataset::target(index)),
                "link {index} is answered {}: {}",
                answer.status,
                answer.head.trim()
            );
            last = answer.head.into_bytes();
        }
        Ok(last)
    }

    /// The sum of a metric over all label sets that contain `labels`; `None` if there is none.
    ///
    /// # Errors
    /// The operations listener does not answer.
    pub fn metric(&self, name: &str, labels: &str) -> anyhow::Result<Option<f64>> {
        let ops = self.ops.context("this server has no metrics")?;
        let answer = Client::connect(ops)?.get("/metrics")?;
        ensure!(answer.status == 200, "/metrics is answered {}", answer.status);
        Ok(sum_metric(&String::from_utf8_lossy(&answer.body), name, labels))
    }
}

fn sum_metric(text: &str, name: &str, labels: &str) -> Option<f64> {
    let values: Vec<f64> = text
        .lines()
        .filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            if !rest.starts_with(['{', ' ']) || !rest.contains(labels) {
                return None;
            }
            rest.rsplit(' ').next()?.parse().ok()
        })
        .collect();
    (!values.is_empty()).then(|| values.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_summed_over_the_labels_asked_for() {
        let text = "# TYPE a counter\na_total{x=\"1\",y=\"2\"} 3\na_total{x=\"1\",y=\"3\"} 4.5\n\
                    a_total_more 9\na_total 1\n";
        assert_eq!(sum_metric(text, "a_total", "x=\"1\""), Some(7.5));
        assert_eq!(sum_metric(text, "a_total", ""), Some(8.5));
        assert_eq!(sum_metric(text, "b", ""), None);
    }

    #[test]
    fn the_template_has_no_place_left_unfilled_but_the_five_it_names() {
        let mut text = TEMPLATE.to_owned();
        for name in ["dir", "port", "map_file", "hash_max", "hash_bucket"] {
            let place = format!("{{{{{name}}}}}");
            assert!(text.contains(&place), "{place}");
            text = text.replace(&place, "x");
        }
        assert!(!text.contains("{{"), "{text}");
    }
}
