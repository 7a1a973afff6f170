//! Figures of the parts that don't know metrics: cache, store, clicks; and how they are doing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use shunt_clicks::{Pipeline, PipelineStats, SpoolState, WorkerState};
use shunt_http::listener::core::Shared;
use shunt_http::metrics::{Metrics, Sample};
use shunt_http::ops::{Degraded, Probe};

use super::{Built, sharing};
use crate::config::Config;

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// Shows everything that `/metrics` should have beside the listener's own counters.
pub(super) fn register(metrics: &Metrics, built: &Built, pipeline: &Arc<Pipeline>) {
    let resolver = Arc::clone(&built.app.resolver);
    metrics.add_source(move || {
        let (l1, stats) = (resolver.l1(), resolver.stats());
        vec![
            Sample::gauge("shunt_cache_bytes", "Bytes in L1", l1.bytes() as f64),
            Sample::gauge("shunt_cache_capacity_bytes", "The bound of L1", l1.capacity() as f64),
            Sample::gauge("shunt_cache_entries", "Entries in L1", l1.len() as f64),
            Sample::counter("shunt_loads", "Loads of links from the store", get(&stats.loads)),
            Sample::counter("shunt_loads_shared", "Misses that joined a load", get(&stats.shared)),
            Sample::counter("shunt_loads_failed", "Loads without an answer", get(&stats.failed)),
            Sample::counter(
                "shunt_fills_refused",
                "Loads that came after a change and did not fill L1",
                get(&stats.refused_fills),
            ),
        ]
    });
    let allocator = Arc::clone(&built.allocator);
    metrics.add_source(move || super::codes::samples(&allocator));
    if let Some(ranges) = built.ranges.clone() {
        metrics.add_source(move || super::codes::range_samples(&ranges));
    }
    let app = Arc::clone(&built.app);
    metrics.add_source(move || super::limits::samples(&app.limits));
    let (resolver, redis) = (Arc::clone(&built.app.resolver), built.redis.clone());
    metrics.add_source(move || sharing::samples(&resolver, redis.as_ref()));
    let backend = Arc::clone(&built.stores.backend);
    metrics.add_source(move || backend.samples());
    let pipeline = Arc::downgrade(pipeline);
    metrics.add_source(move || {
        pipeline.upgrade().map(|pipeline| click_samples(&pipeline.stats())).unwrap_or_default()
    });
}

/// How many connections are open.
pub(super) fn connections(shared: &Arc<Shared>) -> impl Fn() -> Vec<Sample> + Send + Sync + use<> {
    let limits = Arc::clone(&shared.limits);
    move || {
        let open = limits.open() as f64;
        vec![Sample::gauge("shunt_connections_open", "Connections open now", open)]
    }
}

fn click_samples(stats: &PipelineStats) -> Vec<Sample> {
    let lost = |cause, value| {
        Sample::counter("shunt_clicks_lost", "Click events lost, by cause", value)
            .with("cause", cause)
    };
    vec![
        Sample::counter(
            "shunt_clicks_numbered",
            "Click events numbered by the redirect path",
            stats.numbered,
        ),
        Sample::counter(
            "shunt_clicks_spooled",
            "Click events made durable in the spool",
            stats.spooled,
        ),
        Sample::counter("shunt_clicks_counted", "Click events folded into roll-ups", stats.counted),
        Sample::counter(
            "shunt_clicks_recovered",
            "Click events of earlier boots taken from their rings",
            stats.recovered,
        ),
        lost("ring_full", stats.lost_ring_full),
        lost("spool_full", stats.lost_spool_full),
        lost("disk_error", stats.lost_disk_error),
        lost("crash", stats.lost_crash),
        lost("undecodable", stats.undecodable),
        Sample::gauge(
            "shunt_click_ring_bytes",
            "Bytes waiting on all rings",
            stats.ring_bytes as f64,
        ),
        Sample::gauge(
            "shunt_click_ring_capacity_bytes",
            "Bytes all rings can hold",
            stats.ring_capacity as f64,
        ),
        Sample::gauge(
            "shunt_click_spool_bytes",
            "Bytes of the spool on disk",
            stats.spool_bytes as f64,
        ),
        Sample::gauge(
            "shunt_click_spool_limit_bytes",
            "The bound of the spool",
            stats.spool_limit as f64,
        ),
        Sample::counter("shunt_click_spool_frames", "Frames made durable", stats.frames),
        Sample::counter("shunt_click_spool_fsyncs", "Calls of fsync on the spool", stats.fsyncs),
        Sample::counter(
            "shunt_click_spool_errors",
            "Writes and fsyncs of the spool that failed",
            stats.disk_errors,
        ),
        Sample::gauge(
            "shunt_click_worker_lag_seconds",
            "How far roll-ups are behind the spool",
            stats.worker_lag.as_secs_f64(),
        ),
        Sample::counter("shunt_click_worker_batches", "Batches of roll-ups stored", stats.batches),
    ]
}

/// What `/readyz` names. Nothing here makes a node unready by itself: it serves what it has.
pub(super) fn probe(built: &Built, pipeline: &Arc<Pipeline>, config: &Config) -> Probe {
    let (resolver, redis) = (Arc::clone(&built.app.resolver), built.redis.clone());
    let backend = Arc::clone(&built.stores.backend);
    let pipeline = Arc::downgrade(pipeline);
    let worker_wanted = config.clicks.worker;
    Arc::new(move || {
        let mut degraded = sharing::degraded(&resolver, redis.as_ref());
        let mut say = |part, what: String| degraded.push(Degraded { part, what, unready: false });
        if let Some(stats) = pipeline.upgrade().map(|pipeline| pipeline.stats()) {
            let error = stats.spool_error.clone().unwrap_or_default();
            match stats.spool_state {
                SpoolState::Full => say("spool", "full: clicks wait in memory, then are lost and counted as lost; is the worker behind?".into()),
                SpoolState::DiskError => say("spool", format!("the disk refuses click events: {error}")),
                _ => {}
            }
            let error = stats.worker_error.clone().unwrap_or_default();
            match stats.worker_state {
                WorkerState::StoreError => say(
                    "worker",
                    format!("roll-ups can't be stored, clicks wait in the spool: {error}"),
                ),
                WorkerState::ReadError => {
                    say("worker", format!("the spool can't be read: {error}"))
                }
                WorkerState::Paused if worker_wanted => say("worker", "paused".into()),
                _ => {}
            }
        }
        if let Some(what) = backend.degraded() {
            say("store", what);
        }
        degraded
    })
}
