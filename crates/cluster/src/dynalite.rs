//! dynalite (npm), a server that speaks DynamoDB's protocol over LevelDB.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::http::{Address, Connection};
use crate::place::Place;
use crate::ports::Port;
use crate::process::{Process, Spec};
use crate::wait;

/// A running (or killed) dynalite with its data on disk.
#[derive(Debug)]
pub struct Dynalite {
    program: PathBuf,
    port: Port,
    process: Option<Process>,
    place: Place,
}

impl Dynalite {
    /// The region it takes itself for.
    pub const REGION: &str = "us-east-1";

    /// Starts `program`, npm's `dynalite`, which needs Node.js (Debian package nodejs).
    ///
    /// # Errors
    /// When it does not start; with what it said.
    pub fn start(program: &Path) -> Result<Self> {
        let place = Place::new("dynalite")?;
        let port = Port::lease()?;
        let mut dynalite = Self { program: program.to_owned(), port, process: None, place };
        dynalite.restart()?;
        Ok(dynalite)
    }

    /// Starts it again, after a kill, on the same port and data.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn restart(&mut self) -> Result<()> {
        self.kill();
        let mut process = Spec::new("dynalite", &self.program)
            .args(["--host", "127.0.0.1", "--port", &self.port.number().to_string()])
            .args(["--createTableMs", "0", "--deleteTableMs", "0"])
            .arg("--path")
            .arg(self.place.path().join("data"))
            .spawn(self.place.path())?;
        let address = Address::from(self.port.address());
        let ready = process.wait_ready(wait::PATIENCE, |_| Connection::open(&address).ok());
        let log = process.stderr();
        self.process = Some(process);
        ready.map(drop).with_context(|| {
            format!("start dynalite (needs Node.js, Debian package nodejs): {log}")
        })
    }

    /// The socket's address.
    pub fn socket(&self) -> SocketAddr {
        self.port.address()
    }

    /// `http://HOST:PORT`: the endpoint for clients, which may show any credentials.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.port.address())
    }

    /// The process, to freeze it.
    ///
    /// # Errors
    /// When it was not started.
    pub fn process(&mut self) -> Result<&mut Process> {
        self.process.as_mut().context("dynalite was not started")
    }

    /// Kills it at once. What it has answered is the kernel's and survives.
    pub fn kill(&mut self) {
        if let Some(process) = &mut self.process {
            process.kill();
        }
    }
}
