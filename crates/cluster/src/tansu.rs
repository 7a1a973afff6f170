//! `tansu`, a broker with the Kafka API, on one SQLite file.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::place::Place;
use crate::ports::Port;
use crate::process::{Process, Spec};
use crate::wait;

/// How long connecting, and each read or write of [`Tansu::ask`], may take.
const TIMEOUT: Duration = Duration::from_secs(3);

/// A running (or stopped, or killed) broker with its data.
#[derive(Debug)]
pub struct Tansu {
    port: Port,
    process: Option<Process>,
    place: Place,
}

impl Tansu {
    /// Starts a broker in a passing directory.
    ///
    /// # Errors
    /// When tansu is not installed or does not start; with what it said.
    pub fn start() -> Result<Self> {
        Self::begin(Place::new("tansu")?)
    }

    /// Starts a broker on a directory that is kept, and the data in it from an earlier process.
    ///
    /// # Errors
    /// As [`Self::start`], or when the directory is in use.
    pub fn start_at(directory: &Path) -> Result<Self> {
        Self::begin(Place::keep(directory)?)
    }

    fn begin(place: Place) -> Result<Self> {
        let mut broker = Self { port: place.port("kafka")?, process: None, place };
        broker.launch()?;
        Ok(broker)
    }

    fn launch(&mut self) -> Result<()> {
        let url = format!("tcp://{}", self.port.address());
        let mut process = Spec::new("tansu", "tansu")
            .args(["broker", "--cluster-id", "shunt"])
            // The one engine that survives a restart; the path is relative to the directory.
            .args(["--storage-engine", "sqlite://tansu.db"])
            .args(["--listener-url", &url, "--advertised-listener-url", &url])
            .spawn(self.place.path())?;
        let ready = process.wait_ready(wait::PATIENCE, |_| self.ask().ok());
        self.process = Some(process);
        ready.map(|_| ()).context("start tansu (`cargo install tansu --features libsql`)")
    }

    /// The socket's address.
    pub fn socket(&self) -> SocketAddr {
        self.port.address()
    }

    /// `kafka://HOST:PORT`.
    pub fn url(&self) -> String {
        format!("kafka://{}", self.port.address())
    }

    /// Asks which requests it understands (ApiVersions), and answers how many.
    ///
    /// # Errors
    /// When it does not answer, or with an error.
    pub fn ask(&self) -> Result<u32> {
        let mut stream = TcpStream::connect_timeout(&self.socket(), TIMEOUT)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        // Length, request 18, version 0, correlation 1, no client id.
        stream.write_all(&[0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 1, 0xff, 0xff])?;
        // Length, correlation, error, number of entries.
        let mut head = [0_u8; 14];
        stream.read_exact(&mut head).context("read the broker's answer")?;
        let [_, _, _, _, 0, 0, 0, 1, 0, 0, a, b, c, d] = head else {
            bail!("the broker answers {head:?}");
        };
        Ok(u32::from_be_bytes([a, b, c, d]))
    }

    /// The process.
    ///
    /// # Errors
    /// When it was not started.
    pub fn process(&mut self) -> Result<&mut Process> {
        self.process.as_mut().context("tansu was not started")
    }

    /// Kills it at once.
    pub fn kill(&mut self) {
        if let Some(process) = &mut self.process {
            process.kill();
        }
    }

    /// Ends it in order.
    ///
    /// # Errors
    /// When it does not run or does not end in time.
    pub fn stop(&mut self) -> Result<()> {
        self.process()?.terminate(wait::PATIENCE).map(|_| ())
    }

    /// Stops it if it runs, and starts it on the same port and data.
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
