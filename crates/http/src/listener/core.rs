//! What all connections of one core share, and what all cores share.

use std::cell::{Cell, RefCell};
use std::hash::Hasher;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use shunt_domain::click::{ClickFlags, ClickKind};
use shunt_domain::ports::ClickRecorder;
use shunt_domain::{DomainId, RedirectStatus, Timestamp};
use shunt_engine::domains::DomainMap;
use siphasher::sip::SipHasher24;

use super::facts::{Facts, utm_of};
use super::guard::{Deadlines, Registry, TICK};
use super::limits::ConnectionLimits;
use super::passing::Passing;
use super::proxies::TrustedProxies;
use super::redirect::{POLICY, cache_control};
use crate::app::AppState;
use crate::metrics::{CoreMetrics, Metrics};

/// Settings of the redirect listener.
#[derive(Clone, Debug)]
pub struct ListenerOptions {
    /// Deadlines of a connection.
    pub deadlines: Deadlines,
    /// The longest request head, in bytes; longer ones get 431.
    pub max_head: usize,
    /// Whose forwarding headers are believed.
    pub proxies: TrustedProxies,
    /// Whether visitors are hashed at all (uniques need it).
    pub hash_visitors: bool,
    /// Whether visitors who send `Sec-GPC: 1` or `DNT: 1` are left unhashed.
    pub honour_gpc: bool,
    /// How long an API handler may take; streams excepted.
    pub request_timeout: Duration,
    /// How long one body may send less than a kilobyte before it is given up.
    pub body_window: Duration,
}

/// The secret that visitors are hashed with today: 32 random bytes, destroyed 48 hours after
/// their day.
#[derive(Clone, Copy)]
pub struct VisitorSecret {
    /// Days since the Unix epoch, UTC.
    pub day: i64,
    /// The secret.
    pub secret: [u8; 32],
}

impl VisitorSecret {
    /// SipHash-2-4 under the day's secret; address and user agent go in.
    fn hasher(&self) -> SipHasher24 {
        let word = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&self.secret[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        // SipHash takes 128 bits; the other half of the secret goes in as data.
        let mut hasher = SipHasher24::new_with_keys(word(0), word(8));
        hasher.write(&self.secret[16..]);
        hasher
    }
}

/// One visitor's hash, from the hasher of the day. Never 0, which means "not known".
fn visitor_hash(mut hasher: SipHasher24, address: IpAddr, user_agent: &[u8]) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(v4) => hasher.write(&v4.octets()),
        IpAddr::V6(v6) => hasher.write(&v6.octets()),
    }
    hasher.write(user_agent);
    hasher.finish().max(1)
}

/// What all cores share.
pub struct Shared {
    /// The use cases.
    pub app: AppState,
    /// Hosts of registered domains.
    pub domains: Arc<DomainMap>,
    /// Settings.
    pub options: ListenerOptions,
    /// Connection caps.
    pub limits: Arc<ConnectionLimits>,
    /// All metrics.
    pub metrics: Arc<Metrics>,
    /// The API and the pages.
    pub router: axum::Router,
    /// Where the API runs, so that it never holds up a core's loop.
    pub api: tokio::runtime::Handle,
    /// Today's visitor secret; replaced at midnight UTC.
    pub visitor_secret: ArcSwapOption<VisitorSecret>,
    /// Whether the process is on its way out.
    pub draining: AtomicBool,
    /// Connections for the process that follows.
    pub passing: Passing,
}

/// The clocks at the last tick.
#[derive(Clone, Copy, Debug)]
struct Clocks {
    at: Instant,
    /// Milliseconds since 1970.
    wall: i64,
    /// Milliseconds of the resolver.
    mono: i64,
}

/// How many answers of a tick are timed one by one.
const TIMED_PER_TICK: u64 = 64;
/// How many answers one that is timed stands for after that.
const TIMED_EACH: u64 = 8;

/// Which answers from L1 were timed since the last tick.
#[derive(Clone, Copy, Debug, Default)]
struct Timing {
    timed: u64,
    untimed: u64,
    last: Duration,
}

/// What all connections of one core share. Lives on that core's thread.
pub struct Core {
    /// What all cores share.
    pub shared: Arc<Shared>,
    /// The core's connections.
    pub registry: Rc<Registry>,
    /// The core's counters.
    pub metrics: Arc<CoreMetrics>,
    /// Told once, when draining begins.
    pub drain_began: tokio::sync::Notify,
    /// Bytes are read into here; borrowed only within one poll.
    pub(super) scratch: RefCell<Box<[u8]>>,
    /// Answers are put together here; borrowed only within one poll.
    pub(super) out: RefCell<Vec<u8>>,
    /// Targets are copied out of L1 into here; borrowed only within one poll.
    pub(super) target: RefCell<Vec<u8>>,
    recorder: RefCell<Box<dyn ClickRecorder>>,
    base_path: Box<[u8]>,
    clock: Cell<Clocks>,
    timing: Cell<Timing>,
    started: Instant,
    date: Cell<[u8; 29]>,
    date_second: Cell<u64>,
    /// What follows the location of a redirect, but for its last line end: of those that are asked
    /// for again at once, and of the others.
    tails: RefCell<[Vec<u8>; 2]>,
    visitor_secret: RefCell<Option<Arc<VisitorSecret>>>,
    visitor_hasher: RefCell<Option<SipHasher24>>,
}

impl Core {
    /// A core that records its clicks with `recorder`.
    pub fn new(shared: Arc<Shared>, recorder: Box<dyn ClickRecorder>) -> Rc<Self> {
        let metrics = shared.metrics.core();
        let base_path = shared.app.settings.base_path().as_bytes().into();
        let core = Rc::new(Self {
            registry: Rc::new(Registry::default()),
            metrics,
            drain_began: tokio::sync::Notify::new(),
            scratch: RefCell::new(vec![0; shared.options.max_head].into()),
            out: RefCell::new(Vec::with_capacity(16 * 1024)),
            target: RefCell::new(Vec::with_capacity(1024)),
            recorder: RefCell::new(recorder),
            base_path,
            clock: Cell::new(Clocks { at: Instant::now(), wall: 0, mono: 0 }),
            timing: Cell::default(),
            started: Instant::now(),
            date: Cell::new([b' '; 29]),
            date_second: Cell::new(u64::MAX),
            tails: RefCell::default(),
            visitor_secret: RefCell::new(None),
            visitor_hasher: RefCell::new(None),
            shared,
        });
        core.tick();
        core
    }

    /// The path under which the service lives: empty, or `/s`.
    pub fn base_path(&self) -> &[u8] {
        &self.base_path
    }

    /// Whether the process is on its way out.
    pub fn draining(&self) -> bool {
        self.shared.draining.load(Ordering::Relaxed)
    }

    /// Whether connections between two requests go to the process that follows.
    pub fn passing_on(&self) -> bool {
        self.draining() && self.shared.passing.wanted()
    }

    /// The wall clock at a monotonic instant, right to a millisecond or two: one clock is read per
    /// request instead of two.
    pub fn wall(&self, at: Instant) -> Timestamp {
        self.clocks(at).0
    }

    /// The wall clock and the resolver's milliseconds at a monotonic instant.
    pub(super) fn clocks(&self, at: Instant) -> (Timestamp, i64) {
        let base = self.clock.get();
        let since = at.saturating_duration_since(base.at).as_millis();
        let since = i64::try_from(since).unwrap_or(0);
        (Timestamp::from_millis(base.wall + since), base.mono + since)
    }

    /// Puts the time of `hits` answers that began together into the histogram. Beyond
    /// [`TIMED_PER_TICK`] answers in a tick one of [`TIMED_EACH`] is timed and stands for those
    /// before it: reading the clock costs as much as looking a link up.
    pub(super) fn time_hits(&self, began: Instant, hits: u64) {
        let mut timing = self.timing.get();
        timing.untimed += hits;
        if timing.timed < TIMED_PER_TICK || timing.untimed >= TIMED_EACH {
            timing.last = began.elapsed();
            timing.timed += 1;
            self.metrics.hit.observe(timing.last, std::mem::take(&mut timing.untimed));
        }
        self.timing.set(timing);
    }

    /// The `Date` header's value (RFC 9110, section 6.6.1), at most a tick old.
    pub fn date(&self) -> [u8; 29] {
        self.date.get()
    }

    /// Appends what follows the location of a redirect, but for its last line end.
    pub(super) fn put_tail(&self, out: &mut Vec<u8>, status: RedirectStatus) {
        let [again, kept] = &*self.tails.borrow();
        out.extend_from_slice(match status {
            RedirectStatus::Found | RedirectStatus::Temporary => again,
            RedirectStatus::MovedPermanently | RedirectStatus::Permanent => kept,
        });
    }

    /// The once-per-tick housekeeping: clocks, late connections, the day's secret.
    pub fn tick(&self) {
        let now = Instant::now();
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.clock.set(Clocks {
            at: now,
            wall: i64::try_from(wall.as_millis()).unwrap_or(0),
            mono: self.shared.app.resolver.mono(now),
        });
        let timing = self.timing.get();
        if timing.untimed > 0 {
            self.metrics.hit.observe(timing.last, timing.untimed);
        }
        self.timing.set(Timing { timed: 0, untimed: 0, ..timing });
        if self.date_second.replace(wall.as_secs()) != wall.as_secs() {
            let date = http_date(wall.as_secs());
            self.date.set(date);
            let statuses = [RedirectStatus::Found, RedirectStatus::Permanent];
            *self.tails.borrow_mut() = statuses.map(|status| tail(status, &date));
        }
        let ticks = now.duration_since(self.started).as_millis() / TICK.as_millis();
        self.metrics.late(self.registry.sweep(u32::try_from(ticks).unwrap_or(u32::MAX - 1)));
        let secret = self.shared.visitor_secret.load_full();
        let mut known = self.visitor_secret.borrow_mut();
        if known.as_ref().map(|known| known.secret) != secret.as_ref().map(|new| new.secret) {
            *self.visitor_hasher.borrow_mut() = secret.as_ref().map(|secret| secret.hasher());
            *known = secret;
        }
        drop(known);
        if self.draining() {
            // A client that is quiet for two seconds is told by the closed connection; one that is
            // at work gets `Connection: close` with its next answer.
            self.registry.hurry_idle(20);
        }
    }

    /// The visitor's hash of today; 0 where there is none.
    pub(super) fn visitor(&self, facts: &Facts<'_>, address: IpAddr) -> u64 {
        let options = &self.shared.options;
        let asks_not_to = facts.flags.has(ClickFlags::GPC) || facts.flags.has(ClickFlags::DNT);
        if !options.hash_visitors || (options.honour_gpc && asks_not_to) {
            return 0;
        }
        let hasher = *self.visitor_hasher.borrow();
        hasher.map_or(0, |hasher| visitor_hash(hasher, address, facts.user_agent))
    }

    /// Puts one click on this core's ring. Called before the answer's bytes are written.
    #[allow(clippy::too_many_arguments, reason = "each is one fact of the request")]
    pub fn record(
        &self,
        facts: &Facts<'_>,
        domain: DomainId,
        code: &str,
        at: Timestamp,
        kind: ClickKind,
        visitor: u64,
        address: IpAddr,
        query: Option<&str>,
    ) {
        let utm = query.map(utm_of).unwrap_or_default();
        let click = facts.click(domain, code, at, kind, visitor, address, &utm);
        self.recorder.borrow_mut().record(&click);
    }
}

/// The headers of a redirect that follow its location.
fn tail(status: RedirectStatus, date: &[u8]) -> Vec<u8> {
    let (cache, date) = (cache_control(status), String::from_utf8_lossy(date));
    format!(
        "\r\ncache-control: {cache}\r\nreferrer-policy: {POLICY}\r\ncontent-length: 0\r\n\
         date: {date}"
    )
    .into_bytes()
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`.
fn http_date(seconds: u64) -> [u8; 29] {
    const DAYS: [&[u8; 3]; 7] = [b"Thu", b"Fri", b"Sat", b"Sun", b"Mon", b"Tue", b"Wed"];
    let second = i64::try_from(seconds).unwrap_or(0);
    let mut date = *b"Thu, 01 Jan 1970 00:00:00 GMT";
    let Ok(stamp) = jiff::Timestamp::from_second(second) else {
        return date;
    };
    let civil = stamp.to_zoned(jiff::tz::TimeZone::UTC).datetime();
    const MONTHS: [&[u8; 3]; 12] = [
        b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov",
        b"Dec",
    ];
    let two = |value: i8| {
        let value = value.unsigned_abs();
        [b'0' + value / 10 % 10, b'0' + value % 10]
    };
    date[..3].copy_from_slice(DAYS[(seconds / 86_400 % 7) as usize]);
    date[5..7].copy_from_slice(&two(civil.day()));
    if let Some(month) = MONTHS.get(usize::from(civil.month().unsigned_abs()).wrapping_sub(1)) {
        date[8..11].copy_from_slice(*month);
    }
    let year = civil.year().unsigned_abs();
    date[12..14].copy_from_slice(&two((year / 100 % 100) as i8));
    date[14..16].copy_from_slice(&two((year % 100) as i8));
    date[17..19].copy_from_slice(&two(civil.hour()));
    date[20..22].copy_from_slice(&two(civil.minute()));
    date[23..25].copy_from_slice(&two(civil.second()));
    date
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_as_rfc_9110_writes_them() {
        let date = |seconds| String::from_utf8(http_date(seconds).to_vec()).unwrap();
        assert_eq!(date(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(date(0), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(date(1_709_164_800), "Thu, 29 Feb 2024 00:00:00 GMT");
    }

    #[test]
    fn visitors_differ_by_address_agent_and_day() {
        let today = VisitorSecret { day: 1, secret: [7; 32] };
        let hash = |secret: &VisitorSecret, ip: &str, agent: &[u8]| {
            visitor_hash(secret.hasher(), ip.parse().unwrap(), agent)
        };
        let one = hash(&today, "192.0.2.1", b"agent");
        assert_eq!(one, hash(&today, "::ffff:192.0.2.1", b"agent"));
        assert_ne!(one, hash(&today, "192.0.2.2", b"agent"));
        assert_ne!(one, hash(&today, "192.0.2.1", b"other"));
        let mut later = [7; 32];
        later[31] = 8;
        assert_ne!(one, hash(&VisitorSecret { day: 2, secret: later }, "192.0.2.1", b"agent"));
    }
}
