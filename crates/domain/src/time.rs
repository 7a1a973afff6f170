//! Wall-clock instants as stored and compared, and deadlines as handed to every port.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A wall-clock instant: milliseconds since the Unix epoch, UTC. Links live and expire by it.
///
/// It is never used to measure how long something took (clocks jump); that is [`Instant`]'s job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The largest instant accepted from outside: 9999-12-30T22:00:00.999Z, the last one that can
    /// be written as RFC 3339 in every time zone.
    pub const MAX: Self = Self(253_402_207_200_999);

    /// From milliseconds since the Unix epoch.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// Whole hours since the Unix epoch, rounded towards the past: the bucket of hourly roll-ups.
    pub const fn hour(self) -> i64 {
        self.0.div_euclid(3_600_000)
    }

    /// Whole UTC days since the Unix epoch, rounded towards the past.
    pub const fn day(self) -> i64 {
        self.0.div_euclid(86_400_000)
    }

    /// This instant moved by `duration` towards the future, saturating.
    pub fn plus(self, duration: Duration) -> Self {
        let millis = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(millis))
    }

    /// This instant moved by `duration` towards the past, saturating.
    pub fn minus(self, duration: Duration) -> Self {
        let millis = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        Self(self.0.saturating_sub(millis))
    }
}

impl From<SystemTime> for Timestamp {
    /// Instants before 1970 become 0: no clock that early is right.
    fn from(time: SystemTime) -> Self {
        let millis = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        Self(i64::try_from(millis).unwrap_or(i64::MAX))
    }
}

/// The monotonic instant after which the caller no longer wants an answer.
///
/// Every port takes one; the adapter enforces it outside the driver, because drivers are known to
/// hang past their own timeouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// The deadline at `instant`.
    pub const fn at(instant: Instant) -> Self {
        Self(instant)
    }

    /// The deadline `duration` after `now`.
    pub fn after(now: Instant, duration: Duration) -> Self {
        Self(now + duration)
    }

    /// The instant itself.
    pub const fn instant(self) -> Instant {
        self.0
    }

    /// Time left at `now`; zero when it has passed.
    pub fn left(self, now: Instant) -> Duration {
        self.0.saturating_duration_since(now)
    }

    /// Whether it has passed at `now`.
    pub fn passed(self, now: Instant) -> bool {
        now >= self.0
    }
}
