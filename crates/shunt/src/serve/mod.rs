//! `shunt serve`: binds, wires, serves, drains; three steps that tests and the CLI share.
//!
//! Order at the start: sockets first (a taken port is the commonest mistake), then the store, then
//! the clicks, then the cores. Order at the end: stop accepting, finish requests, close the click
//! boot, give leases back, close the store, which frees the data directory for the next process.

mod app;
mod background;
mod banner;
mod codes;
mod handover;
mod limits;
mod logging;
mod samples;
mod sharing;
mod sockets;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use shunt_clicks::{Pipeline, PipelineConfig};
use shunt_domain::Deadline;
use shunt_domain::ports::MetaStore;
use shunt_http::listener::core::{ListenerOptions, Shared, VisitorSecret};
use shunt_http::listener::guard::Deadlines;
use shunt_http::listener::limits::ConnectionLimits;
use shunt_http::listener::passing::Quiet;
use shunt_http::listener::proxies::TrustedProxies;
use shunt_http::listener::server::{CoreInput, Server};
use shunt_http::listener::sockets::Listening;
use shunt_http::listener::tls::{Certificates, TlsFiles};
use shunt_http::metrics::Metrics;
use shunt_http::ops::{self, Ops};
use tokio::runtime::Runtime;

use crate::config::Config;

pub use app::{Built, OpenMode, build_app};

/// How long the next process waits for the data directory after the one before has let go.
const LOCK_WAIT: Duration = Duration::from_secs(5);
/// How long the click pipeline may take to store what it has at a clean end.
const CLICKS_PATIENCE: Duration = Duration::from_secs(20);

/// Runs the server until it is told to stop. `takeover` takes the listening sockets over from the
/// server that runs on the same data directory.
///
/// # Errors
/// Whatever kept it from starting, with what to do; afterwards nothing.
pub fn run(config: &Config, takeover: bool) -> anyhow::Result<()> {
    logging::start(&config.log)?;
    let runtime = api_runtime(config)?;
    let signals = {
        let _within = runtime.enter();
        background::Signals::install()?
    };
    let certificates = certificates(config)?;
    let predecessor = if takeover {
        handover::ask(config).context("take over from the running server")?
    } else {
        None
    };
    let (sockets, predecessor) = sockets::collect(config, predecessor)?;
    let base_url = config.base_url(sockets.main_address()?);

    // From here on the server before us drains; new connections wait in the sockets' queues, and
    // those it has between two requests come to us.
    let connections = match predecessor {
        Some(predecessor) => {
            predecessor.wait_until_gone(config.timeouts.shutdown + CLICKS_PATIENCE + LOCK_WAIT)?
        }
        None => Vec::new(),
    };
    let built =
        runtime.block_on(build_app(config, &base_url, OpenMode::Serve { wait: LOCK_WAIT }))?;
    let started = start(config, &runtime, &built, sockets, connections, certificates)?;
    // Stdout may be closed; that is no reason not to serve.
    let setup = runtime.block_on(built.setup_link());
    banner::print(config, &base_url, setup.as_deref(), &started.addresses);
    tracing::info!(base_url, "ready");

    runtime.block_on(background::until_told_to_stop(config, &started, signals))?;
    tracing::info!("stopping: finishing what is here");
    stop(config, &runtime, built, started);
    tracing::info!("stopped");
    Ok(())
}

/// The runtime of the API, the pages and the background work; redirects have their own per core.
fn api_runtime(config: &Config) -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.core_count().clamp(1, 8))
        .thread_name("shunt-api")
        .enable_all()
        .build()
        .context("start the threads of the API")
}

fn certificates(config: &Config) -> anyhow::Result<Option<Arc<Certificates>>> {
    let (Some(_), Some(certificate), Some(key)) =
        (config.tls.listen, config.tls.cert.clone(), config.tls.key.clone())
    else {
        return Ok(None);
    };
    Ok(Some(Certificates::load(TlsFiles { certificate, key })?))
}

/// A server with everything around it.
struct Started {
    server: Server,
    pipeline: Arc<Pipeline>,
    shared: Arc<Shared>,
    meta: Arc<dyn MetaStore>,
    draining: Arc<AtomicBool>,
    certificates: Option<Arc<Certificates>>,
    addresses: sockets::Addresses,
    handover: handover::Offer,
    stop_ops: tokio::sync::watch::Sender<bool>,
}

fn start(
    config: &Config,
    runtime: &Runtime,
    built: &Built,
    sockets: sockets::Sockets,
    mut connections: Vec<Quiet>,
    certificates: Option<Arc<Certificates>>,
) -> anyhow::Result<Started> {
    let cores = config.core_count();
    let pipeline = Arc::new(
        Pipeline::start(
            pipeline_config(config, cores),
            built.stores.node,
            built.app.rollups.clone(),
        )
        .context("start the click pipeline")?,
    );
    pipeline.pause_worker(!config.clicks.worker);
    let metrics = Arc::new(Metrics::new(env!("CARGO_PKG_VERSION"), crate::commit()));
    samples::register(&metrics, built, &pipeline);
    sharing::start(runtime, &built.app.resolver, built.redis.as_ref());

    let shared = Arc::new(shared(config, runtime, built, &metrics));
    runtime.block_on(background::refresh(&shared, &*built.stores.meta));
    metrics.add_source(samples::connections(&shared));

    // Built now, so that the first visitor who meets an error does not wait for the pages.
    shunt_http::web::prepare();
    let addresses = sockets.addresses()?;
    let handover = handover::Offer::prepare(config, &sockets)?;
    let (mut per_core, ops_socket) = sockets.spread(cores)?;
    let mut local = Some(sockets::bind_local(&config.socket())?);
    let mut inputs = Vec::with_capacity(cores);
    for (index, listening) in per_core.drain(..).enumerate() {
        // An equal share of what is left for each core that is left.
        let rest = connections.split_off(connections.len().div_ceil(cores - index));
        let share = std::mem::replace(&mut connections, rest);
        inputs.push(core_input(&pipeline, index, listening, local.take(), share)?);
    }
    let tls = certificates.as_ref().map(Certificates::server_config).transpose()?;
    let draining = Arc::new(AtomicBool::new(false));
    let (stop_ops, ops_stopped) = tokio::sync::watch::channel(false);
    if let Some(socket) = ops_socket {
        let probe = samples::probe(built, &pipeline, config);
        let ops = Ops { metrics, probe, draining: Arc::clone(&draining) };
        spawn_ops(runtime, socket, ops, ops_stopped)?;
    }
    let server =
        Server::start(Arc::clone(&shared), tls.as_ref(), inputs).context("start the cores")?;
    Ok(Started {
        server,
        pipeline,
        shared,
        meta: Arc::clone(&built.stores.meta),
        draining,
        certificates,
        addresses,
        handover,
        stop_ops,
    })
}

fn core_input(
    pipeline: &Pipeline,
    index: usize,
    sockets: Vec<Listening>,
    local: Option<std::os::unix::net::UnixListener>,
    connections: Vec<Quiet>,
) -> anyhow::Result<CoreInput> {
    let recorder = pipeline
        .take_recorder(index)
        .with_context(|| format!("core {index} has no ring; this is a bug"))?;
    Ok(CoreInput { sockets, recorder: Box::new(recorder), local, connections })
}

fn spawn_ops(
    runtime: &Runtime,
    socket: std::net::TcpListener,
    ops: Ops,
    mut stopped: tokio::sync::watch::Receiver<bool>,
) -> anyhow::Result<()> {
    socket.set_nonblocking(true)?;
    let guard = runtime.enter();
    let listener = tokio::net::TcpListener::from_std(socket)?;
    drop(guard);
    runtime.spawn(async move {
        ops::serve(listener, ops, async move {
            // A dropped sender means the same as a stop.
            let _ = stopped.wait_for(|stop| *stop).await;
        })
        .await;
    });
    Ok(())
}

fn pipeline_config(config: &Config, cores: usize) -> PipelineConfig {
    PipelineConfig {
        ring_dir: config.clicks.ring_dir.clone(),
        ring_bytes: usize::try_from(config.clicks.ring_bytes).unwrap_or(usize::MAX),
        flush_interval: config.clicks.flush,
        spool_bytes: config.clicks.spool_bytes,
        fold_interval: config.clicks.fold,
        ..PipelineConfig::new(&config.data_dir, cores)
    }
}

fn shared(config: &Config, runtime: &Runtime, built: &Built, metrics: &Arc<Metrics>) -> Shared {
    let timeouts = &config.timeouts;
    Shared {
        app: Arc::clone(&built.app),
        domains: Arc::clone(&built.domains),
        options: ListenerOptions {
            deadlines: Deadlines {
                first_byte: Deadlines::ticks(timeouts.first_byte),
                head: Deadlines::ticks(timeouts.header),
                idle: Deadlines::ticks(timeouts.idle),
                write: Deadlines::ticks(timeouts.write),
            },
            max_head: config.limits.max_header_bytes,
            proxies: TrustedProxies(config.proxies.trusted.clone()),
            hash_visitors: config.clicks.visitor_hash,
            honour_gpc: config.clicks.honour_gpc,
            request_timeout: timeouts.request,
            body_window: timeouts.request,
        },
        limits: ConnectionLimits::new(
            config.limits.max_connections,
            config.limits.max_connections_per_address,
        ),
        metrics: Arc::clone(metrics),
        router: built.router(),
        api: runtime.handle().clone(),
        visitor_secret: arc_swap::ArcSwapOption::<VisitorSecret>::empty(),
        draining: AtomicBool::new(false),
        passing: Default::default(),
    }
}

fn stop(config: &Config, runtime: &Runtime, built: Built, started: Started) {
    started.draining.store(true, Ordering::Relaxed);
    started.server.drain(config.timeouts.shutdown, started.handover.is_taken());
    let connections = started.shared.passing.take();
    // The cores are gone, and with them the recorders: the boot can be closed.
    drop(started.shared);
    drop(started.meta);
    let report = started.pipeline.shutdown(Deadline::after(Instant::now(), CLICKS_PATIENCE));
    if !(report.closed && report.stored) {
        tracing::warn!("not all clicks could be stored; the next start does it");
    }
    // Best effort: the process is leaving either way.
    let _ = started.stop_ops.send(true);
    runtime.block_on(built.close());
    started.handover.finish(connections);
}
