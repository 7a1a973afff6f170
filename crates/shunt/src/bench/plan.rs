//! The checked form of the arguments: what every thread of a run shares.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};

use super::Args;
use super::acks::Acks;
use super::keys::{Keys, Order};
use super::request::Requests;
use super::sample::Zipf;

/// How requests are paced.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Pace {
    /// Requests a second, over all threads.
    Open(f64),
    /// Each connection sends when it has been answered.
    Closed,
}

/// A run, checked and shared by its threads.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) address: SocketAddr,
    pub(super) pace: Pace,
    pub(super) spin: bool,
    pub(super) connections: usize,
    pub(super) threads: usize,
    pub(super) pipeline: usize,
    pub(super) warmup: Duration,
    pub(super) duration: Duration,
    pub(super) timeout: Duration,
    pub(super) keys: Arc<Keys>,
    pub(super) zipf: Option<Zipf>,
    pub(super) sequential: bool,
    pub(super) once: bool,
    pub(super) seed: u64,
    pub(super) expect_location: bool,
    pub(super) head: bool,
    pub(super) creates: f64,
    pub(super) requests: Arc<Requests>,
    pub(super) acks: Option<Arc<Acks>>,
}

/// Longest run: bounds a single pass over a file that a server answers one key a minute.
const LONGEST: Duration = Duration::from_secs(86_400);
/// Most connections of one run: more than any descriptor limit allows, few enough to index.
const MAX_CONNECTIONS: usize = 1_000_000;

impl Plan {
    pub(super) fn new(args: &Args) -> anyhow::Result<Self> {
        let uri: http::Uri = args
            .url
            .parse()
            .with_context(|| format!("{} is no URL; write http://127.0.0.1:8080", args.url))?;
        ensure!(
            uri.scheme_str() == Some("http"),
            "{}: only http:// can be measured; put the load behind the TLS end",
            args.url
        );
        let host = uri.host().with_context(|| format!("{} names no host", args.url))?;
        let address = resolve(host, uri.port_u16().unwrap_or(80), args.i_own_this_target)?;

        let pace = match args.rate {
            Some(rate) => Pace::Open(rate),
            None if args.find_rate => Pace::Open(args.min_rate),
            None => Pace::Closed,
        };
        if let Pace::Open(rate) = pace {
            ensure!(
                rate.is_finite() && (0.1..=10_000_000.0).contains(&rate),
                "--rate {rate}: give 0.1 to 10,000,000 requests a second"
            );
        }
        let connections = match pace {
            Pace::Open(_) => args.connections,
            Pace::Closed => args.workers.unwrap_or(args.connections),
        };
        ensure!(
            (1..=MAX_CONNECTIONS).contains(&connections),
            "--workers or --connections {connections}: give 1 to {MAX_CONNECTIONS}"
        );
        ensure!((1..=256).contains(&args.threads), "--threads {}: give 1 to 256", args.threads);
        ensure!(
            (1..=1_024).contains(&args.pipeline),
            "--pipeline {}: give 1 to 1024",
            args.pipeline
        );
        ensure!(!args.duration.is_zero(), "--duration 0: nothing would be measured");
        ensure!(args.timeout >= Duration::from_millis(1), "--timeout: give 1ms or more");
        ensure!(
            args.precision > 0.0 && args.precision < 1.0,
            "--precision {}: give a share between 0 and 1",
            args.precision
        );
        ensure!(
            (0.0..=1.0).contains(&args.creates),
            "--creates {}: give a share between 0 and 1",
            args.creates
        );

        let keys = match &args.keys {
            Some(path) => Keys::read(path)?,
            None => Keys::pattern(&args.pattern, &args.range)?,
        };
        ensure!(
            !args.expect_location || keys.has_targets(),
            "--expect-location: the keys file names no target; add a second column"
        );
        let zipf = match args.zipf {
            Some(s) if s.is_finite() && (0.01..=10.0).contains(&s) => {
                Some(Zipf::new(keys.len(), s))
            }
            Some(s) => bail!("--zipf {s}: give an exponent between 0.01 and 10"),
            None => None,
        };
        let acks = match &args.record_acks {
            Some(path) => Some(Arc::new(Acks::create(path)?)),
            None => None,
        };
        // A single pass ends with the last key and not with the clock, and every key counts.
        let (warmup, duration) =
            if args.once { (Duration::ZERO, LONGEST) } else { (args.warmup, args.duration) };
        Ok(Self {
            address,
            pace,
            spin: args.spin && pace != Pace::Closed,
            connections,
            threads: args.threads.min(connections),
            pipeline: args.pipeline,
            warmup,
            duration,
            timeout: args.timeout,
            keys: Arc::new(keys),
            zipf,
            sequential: args.sequential,
            once: args.once,
            // Runs must differ by themselves: the keys of the last run are the ones a cache holds.
            seed: args.seed.unwrap_or_else(|| {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                now.as_nanos() as u64 ^ u64::from(std::process::id())
            }),
            expect_location: args.expect_location,
            head: args.head,
            creates: args.creates,
            requests: Arc::new(Requests::new(args, &uri)?),
            acks,
        })
    }

    /// The order of keys for one thread.
    pub(super) fn order(&self, thread: usize) -> Order {
        match &self.zipf {
            Some(zipf) => Order::Zipf(zipf.clone()),
            None if self.sequential || self.once => {
                Order::Sequence { next: thread as u64, step: self.threads as u64, once: self.once }
            }
            None => Order::Uniform,
        }
    }
}

/// Resolves the target and refuses one that is not on this machine unless it is the caller's.
fn resolve(host: &str, port: u16, owned: bool) -> anyhow::Result<SocketAddr> {
    let name = host.trim_start_matches('[').trim_end_matches(']');
    let addresses: Vec<SocketAddr> = (name, port)
        .to_socket_addrs()
        .with_context(|| format!("the host {name} can't be resolved"))?
        .collect();
    // All of them: a name that is loopback today by luck of order must not pass.
    if !owned && !addresses.iter().all(|address| address.ip().is_loopback()) {
        bail!(
            "{name} is not this machine; putting load on a server that isn't yours is an attack. \
             If it is yours, say --i-own-this-target"
        );
    }
    addresses.first().copied().with_context(|| format!("the host {name} has no address"))
}
