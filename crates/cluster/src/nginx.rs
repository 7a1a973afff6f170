//! nginx as a reverse proxy or a plain server, from a config written for one test.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::http::{Address, Connection};
use crate::ports::Port;
use crate::process::{Process, Spec};
use crate::wait;

/// A running nginx with one worker.
#[derive(Debug)]
pub struct Nginx {
    process: Process,
    port: Port,
    _directory: tempfile::TempDir,
}

impl Nginx {
    /// Starts nginx with `http_block` inside its `http { … }`; `{port}` in it is the port to
    /// listen on.
    ///
    /// # Errors
    /// When nginx is not installed or does not take the config.
    pub fn start(http_block: &str) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let port = Port::lease()?;
        let block = http_block.replace("{port}", &port.number().to_string());
        let config = format!(
            "daemon off; master_process off; worker_processes 1; pid nginx.pid; error_log stderr warn;\n\
             events {{ worker_connections 4096; }}\n\
             http {{ access_log off; client_body_temp_path body; proxy_temp_path proxy;\n\
             fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;\n{block}\n}}\n"
        );
        fs::write(directory.path().join("nginx.conf"), config)?;
        let mut process = Spec::new("nginx", "nginx")
            .arg("-p")
            .arg(directory.path())
            .args(["-c", "nginx.conf", "-e", "stderr"])
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .spawn(directory.path())
            .context("start nginx (Debian package nginx)")?;
        let address = Address::from(port.address());
        process.wait_ready(wait::PATIENCE, |_| Connection::open(&address).ok())?;
        Ok(Self { process, port, _directory: directory })
    }

    /// nginx as a proxy in front of `upstream`, with connections to it kept alive and reused, which
    /// is what smuggling needs.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn proxy(upstream: SocketAddr) -> Result<Self> {
        Self::start(&format!(
            "upstream shunt {{ server {upstream}; keepalive 1; }}\n\
             server {{ listen 127.0.0.1:{{port}}; underscores_in_headers on;\n\
             location / {{ proxy_pass http://shunt; proxy_http_version 1.1;\n\
             proxy_set_header Connection \"\"; proxy_request_buffering off;\n\
             proxy_set_header Host $http_host; proxy_set_header X-Forwarded-For $remote_addr; }} }}"
        ))
    }

    /// Where it listens.
    pub fn address(&self) -> Address {
        self.port.address().into()
    }

    /// What it said.
    pub fn log(&self) -> String {
        self.process.stderr()
    }

    /// The process, to freeze or kill it.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Ends it.
    ///
    /// # Errors
    /// When it does not end within ten seconds.
    pub fn stop(mut self) -> Result<()> {
        self.process.terminate(Duration::from_secs(10)).map(|_| ())
    }
}

/// Whether a program of this name is on the machine.
pub fn installed(program: &str) -> bool {
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        .iter()
        .any(|directory| Path::new(directory).join(program).exists())
}
