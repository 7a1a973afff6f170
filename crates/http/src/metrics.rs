//! Counters of the HTTP side, and how everything is shown to Prometheus.
//!
//! Invariants: labels come from the enums here, never from codes, paths or users; the redirect
//! path touches only its own core's block, which is summed up when somebody scrapes.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

/// How a look-up of a link ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Redirected from L1.
    RedirectL1,
    /// Redirected after a load.
    RedirectStore,
    /// Redirected after a central decision.
    RedirectClaimed,
    /// 404.
    NotFound,
    /// 410.
    Gone,
    /// 451.
    Blocked,
    /// The warning page of a mixed-script target.
    Warned,
    /// A limited link asked for by a robot, a prefetch or `HEAD`: no target shown, none used up.
    Withheld,
    /// 503.
    Unavailable,
    /// 429: somebody who asked for too many links that do not exist.
    Limited,
}

impl Answer {
    const ALL: [(Self, &'static str); 10] = [
        (Self::RedirectL1, "redirect_l1"),
        (Self::RedirectStore, "redirect_store"),
        (Self::RedirectClaimed, "redirect_claimed"),
        (Self::NotFound, "not_found"),
        (Self::Gone, "gone"),
        (Self::Blocked, "blocked"),
        (Self::Warned, "warned"),
        (Self::Withheld, "withheld"),
        (Self::Unavailable, "unavailable"),
        (Self::Limited, "limited"),
    ];
}

/// What kind of route a request that is no redirect was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// `/api/…` and the reference contracts.
    Api,
    /// Pages, QR codes and assets.
    Page,
    /// `/health`.
    Health,
}

impl Route {
    const ALL: [(Self, &'static str); 3] =
        [(Self::Api, "api"), (Self::Page, "page"), (Self::Health, "health")];
}

const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
const PHASES: [&str; 4] = ["first_byte", "head", "idle", "write"];

/// Upper bounds in microseconds. A cached redirect takes a few, a load tens, a durable create
/// thousands; a hung part shows at the right end.
const BOUNDS_US: [u64; 16] = [
    5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 500_000,
    2_000_000,
];

/// A histogram of durations with fixed buckets.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BOUNDS_US.len() + 1],
    sum_ns: AtomicU64,
}

/// Adds to a counter that only this thread writes: a load and a store instead of a locked add.
fn bump(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
}

impl Histogram {
    /// Counts `n` events that took `each`.
    pub fn observe(&self, each: Duration, n: u64) {
        let ns = u64::try_from(each.as_nanos()).unwrap_or(u64::MAX);
        let us = ns / 1_000;
        // Sixteen bounds: counting those below is branch-free and beats a search.
        let bucket = BOUNDS_US.iter().filter(|bound| us >= **bound).count();
        if let Some(counter) = self.buckets.get(bucket) {
            bump(counter, n);
        }
        bump(&self.sum_ns, ns.saturating_mul(n));
    }
}

/// Counters of one core. Written by that core's thread only.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct CoreMetrics {
    answers: [AtomicU64; Answer::ALL.len()],
    requests: [[AtomicU64; CLASSES.len()]; Route::ALL.len()],
    late: [AtomicU64; PHASES.len()],
    accepted: AtomicU64,
    refused_full: AtomicU64,
    refused_address: AtomicU64,
    accept_errors: AtomicU64,
    handed_over: AtomicU64,
    /// Time to answer a redirect from L1, from the request's last byte to the answer's write.
    pub hit: Histogram,
    /// The same for look-ups that had to load or decide.
    pub miss: Histogram,
    /// The same for everything else.
    pub other: Histogram,
}

impl CoreMetrics {
    /// Counts look-ups.
    pub fn answered(&self, answer: Answer, n: u64) {
        if let Some(counter) = self.answers.get(answer as usize) {
            bump(counter, n);
        }
    }

    /// Counts a request that was no look-up.
    pub fn requested(&self, route: Route, status: u16) {
        let class = usize::from(status / 100).wrapping_sub(1).min(CLASSES.len() - 1);
        if let Some(counter) = self.requests.get(route as usize).and_then(|row| row.get(class)) {
            bump(counter, 1);
        }
    }

    /// Counts connections that the sweep ended.
    pub fn late(&self, by_phase: [u64; 4]) {
        for (counter, n) in self.late.iter().zip(by_phase) {
            bump(counter, n);
        }
    }

    /// Counts an accepted connection.
    pub fn accepted(&self) {
        bump(&self.accepted, 1);
    }

    /// Counts a connection that was turned away, by the global cap or by that of its address.
    pub fn refused(&self, for_address: bool) {
        bump(if for_address { &self.refused_address } else { &self.refused_full }, 1);
    }

    /// Counts a failed accept (no file descriptors left, for example).
    pub fn accept_failed(&self) {
        bump(&self.accept_errors, 1);
    }

    /// Counts a connection that went from the fast loop to hyper.
    pub fn handed_over(&self) {
        bump(&self.handed_over, 1);
    }
}

/// One figure that some other part of the process can say about itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Full name without the `_total` of counters; `shunt_…`.
    pub name: &'static str,
    /// One line.
    pub help: &'static str,
    /// Whether it only grows.
    pub counter: bool,
    /// Labels from enums, not more than a few.
    pub labels: Vec<(&'static str, &'static str)>,
    /// The value.
    pub value: f64,
}

impl Sample {
    /// A value that goes up and down.
    pub const fn gauge(name: &'static str, help: &'static str, value: f64) -> Self {
        Self { name, help, counter: false, labels: Vec::new(), value }
    }

    /// A value that only grows.
    pub const fn counter(name: &'static str, help: &'static str, value: u64) -> Self {
        Self { name, help, counter: true, labels: Vec::new(), value: value as f64 }
    }

    /// The same with one more label.
    #[must_use]
    pub fn with(mut self, label: &'static str, value: &'static str) -> Self {
        self.labels.push((label, value));
        self
    }
}

/// Something with figures: the store, the click pipeline, the cache.
pub trait Source: Send + Sync {
    /// Its figures now. Samples of one name stand together.
    fn samples(&self) -> Vec<Sample>;
}

impl<F: Fn() -> Vec<Sample> + Send + Sync> Source for F {
    fn samples(&self) -> Vec<Sample> {
        self()
    }
}

/// All metrics of the process.
pub struct Metrics {
    state: Arc<State>,
    registry: Registry,
}

#[derive(Default)]
struct State {
    cores: Mutex<Vec<Arc<CoreMetrics>>>,
    sources: Mutex<Vec<Box<dyn Source>>>,
    build: Vec<(&'static str, String)>,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// No figures yet but the build's.
    pub fn new(version: &str, commit: &str) -> Self {
        let build = vec![("version", version.to_owned()), ("commit", commit.to_owned())];
        let state = Arc::new(State { build, ..State::default() });
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Shown(Arc::clone(&state))));
        Self { state, registry }
    }

    /// A block for one more core.
    pub fn core(&self) -> Arc<CoreMetrics> {
        let core = Arc::new(CoreMetrics::default());
        self.state.cores.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&core));
        core
    }

    /// Shows one more part's figures.
    pub fn add_source(&self, source: impl Source + 'static) {
        self.state.sources.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(source));
    }

    /// Everything in the OpenMetrics text format.
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a string fails only if a source's own formatting does.
        if prometheus_client::encoding::text::encode(&mut text, &self.registry).is_err() {
            text.clear();
        }
        text
    }
}

#[derive(Debug)]
struct Shown(Arc<State>);

type Labels<'a> = &'a [(&'static str, &'static str)];

fn counter(metric: &mut MetricEncoder<'_>, labels: Labels<'_>, value: u64) -> fmt::Result {
    metric.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, f64>(&value, None)
}

fn encode(metric: &mut MetricEncoder<'_>, sample: &Sample) -> fmt::Result {
    if sample.counter {
        metric.encode_counter::<NoLabelSet, f64, f64>(&sample.value, None)
    } else {
        metric.encode_gauge(&sample.value)
    }
}

fn sum(cores: &[Arc<CoreMetrics>], pick: impl Fn(&CoreMetrics) -> &AtomicU64) -> u64 {
    cores.iter().map(|core| pick(core).load(Ordering::Relaxed)).sum()
}

impl Shown {
    fn answers(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        cores: &[Arc<CoreMetrics>],
    ) -> fmt::Result {
        let mut metric = encoder.encode_descriptor(
            "shunt_links_answered",
            "Look-ups of links by how they ended",
            None,
            MetricType::Counter,
        )?;
        for (answer, name) in Answer::ALL {
            let value = sum(cores, |core| &core.answers[answer as usize]);
            counter(&mut metric, &[("answer", name)], value)?;
        }
        Ok(())
    }

    fn requests(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        cores: &[Arc<CoreMetrics>],
    ) -> fmt::Result {
        let mut metric = encoder.encode_descriptor(
            "shunt_http_requests",
            "Requests that were no look-ups of links",
            None,
            MetricType::Counter,
        )?;
        for (route, name) in Route::ALL {
            for (class, class_name) in CLASSES.into_iter().enumerate() {
                let value = sum(cores, |core| &core.requests[route as usize][class]);
                counter(&mut metric, &[("route", name), ("class", class_name)], value)?;
            }
        }
        Ok(())
    }

    fn connections(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        cores: &[Arc<CoreMetrics>],
    ) -> fmt::Result {
        type Pick = fn(&CoreMetrics) -> &AtomicU64;
        let plain: [(&str, &str, Pick); 3] = [
            ("shunt_connections_accepted", "Connections accepted", |core| &core.accepted),
            ("shunt_accept_errors", "Accepts that failed, for want of descriptors", |core| {
                &core.accept_errors
            }),
            (
                "shunt_connections_handed_over",
                "Connections that left the fast loop for the general one",
                |core| &core.handed_over,
            ),
        ];
        for (name, help, pick) in plain {
            encoder
                .encode_descriptor(name, help, None, MetricType::Counter)?
                .encode_counter::<NoLabelSet, u64, f64>(&sum(cores, pick), None)?;
        }
        let mut metric = encoder.encode_descriptor(
            "shunt_connections_refused",
            "Connections turned away by a cap",
            None,
            MetricType::Counter,
        )?;
        counter(&mut metric, &[("cap", "all")], sum(cores, |core| &core.refused_full))?;
        counter(&mut metric, &[("cap", "address")], sum(cores, |core| &core.refused_address))?;
        let mut metric = encoder.encode_descriptor(
            "shunt_connections_late",
            "Connections ended because a deadline passed",
            None,
            MetricType::Counter,
        )?;
        for (phase, name) in PHASES.into_iter().enumerate() {
            counter(&mut metric, &[("phase", name)], sum(cores, |core| &core.late[phase]))?;
        }
        Ok(())
    }

    fn durations(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        cores: &[Arc<CoreMetrics>],
    ) -> fmt::Result {
        let mut metric = encoder.encode_descriptor(
            "shunt_request_duration_seconds",
            "From the request's last byte to its answer's first write",
            None,
            MetricType::Histogram,
        )?;
        type Pick = fn(&CoreMetrics) -> &Histogram;
        let paths: [(&str, Pick); 3] =
            [("hit", |core| &core.hit), ("miss", |core| &core.miss), ("other", |core| &core.other)];
        for (name, pick) in paths {
            let total = |index: usize| -> u64 {
                cores.iter().map(|core| pick(core).buckets[index].load(Ordering::Relaxed)).sum()
            };
            let buckets: Vec<(f64, u64)> = (0..=BOUNDS_US.len())
                .map(|index| {
                    let bound = BOUNDS_US.get(index).map_or(f64::MAX, |us| *us as f64 / 1e6);
                    (bound, total(index))
                })
                .collect();
            let count = buckets.iter().map(|(_, n)| n).sum();
            let sum_ns: u64 =
                cores.iter().map(|core| pick(core).sum_ns.load(Ordering::Relaxed)).sum();
            let labels: Labels<'_> = &[("path", name)];
            metric.encode_family(&labels)?.encode_histogram::<NoLabelSet>(
                sum_ns as f64 / 1e9,
                count,
                &buckets,
                None,
            )?;
        }
        Ok(())
    }

    fn sources(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let sources = self.0.sources.lock().unwrap_or_else(PoisonError::into_inner);
        for source in sources.iter() {
            let samples = source.samples();
            for family in samples.chunk_by(|a, b| a.name == b.name) {
                let Some(first) = family.first() else { continue };
                let kind = if first.counter { MetricType::Counter } else { MetricType::Gauge };
                let mut metric = encoder.encode_descriptor(first.name, first.help, None, kind)?;
                for sample in family {
                    // A family without labels would be written as `name{}`.
                    if sample.labels.is_empty() {
                        encode(&mut metric, sample)?;
                    } else {
                        let labels = sample.labels.as_slice();
                        encode(&mut metric.encode_family(&labels)?, sample)?;
                    }
                }
            }
        }
        Ok(())
    }
}

impl Collector for Shown {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let cores = self.0.cores.lock().unwrap_or_else(PoisonError::into_inner).clone();
        encoder
            .encode_descriptor("shunt_build", "What is running", None, MetricType::Info)?
            .encode_info(&self.0.build)?;
        self.answers(&mut encoder, &cores)?;
        self.requests(&mut encoder, &cores)?;
        self.connections(&mut encoder, &cores)?;
        self.durations(&mut encoder, &cores)?;
        self.sources(&mut encoder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_summed_and_families_stand_once() {
        let metrics = Metrics::new("1.2.3", "abc");
        let (a, b) = (metrics.core(), metrics.core());
        a.answered(Answer::RedirectL1, 3);
        b.answered(Answer::RedirectL1, 4);
        b.requested(Route::Api, 201);
        b.hit.observe(Duration::from_micros(7), 2);
        metrics.add_source(|| {
            vec![
                Sample::counter("shunt_test", "A test", 5).with("kind", "x"),
                Sample::counter("shunt_test", "A test", 6).with("kind", "y"),
                Sample::gauge("shunt_level", "A level", 1.5),
            ]
        });
        let text = metrics.render();
        for line in [
            "shunt_build_info{version=\"1.2.3\",commit=\"abc\"} 1",
            "shunt_links_answered_total{answer=\"redirect_l1\"} 7",
            "shunt_http_requests_total{route=\"api\",class=\"2xx\"} 1",
            "shunt_request_duration_seconds_bucket{le=\"0.000005\",path=\"hit\"} 0",
            "shunt_request_duration_seconds_count{path=\"hit\"} 2",
            "shunt_test_total{kind=\"x\"} 5.0",
            "shunt_test_total{kind=\"y\"} 6.0",
            "shunt_level 1.5",
            "# EOF",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
        for family in ["shunt_test", "shunt_links_answered"] {
            let heads = text.lines().filter(|l| *l == format!("# TYPE {family} counter")).count();
            assert_eq!(heads, 1, "{family}");
        }
    }

    #[test]
    fn enum_order_is_array_order() {
        for (index, (answer, _)) in Answer::ALL.into_iter().enumerate() {
            assert_eq!(answer as usize, index);
        }
        for (index, (route, _)) in Route::ALL.into_iter().enumerate() {
            assert_eq!(route as usize, index);
        }
    }
}
