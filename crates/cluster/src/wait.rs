//! The one place that waits: for a condition, never for a clock, and never without a bound.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long a wait takes at most unless a caller knows better: long enough for a machine whose
/// cores are all busy, short enough that a hang is told from slowness.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The pause between two looks at a condition.
const STEP: Duration = Duration::from_millis(3);

/// Asks `condition` until it answers `Some`, at most for `bound`, and answers what it answered.
/// It is asked at least once, and once more at the end.
///
/// # Errors
/// When the bound has passed; the message names `what` was waited for.
pub fn until<T>(
    bound: Duration,
    what: &str,
    mut condition: impl FnMut() -> Option<T>,
) -> Result<T> {
    let end = Instant::now() + bound;
    loop {
        let last = Instant::now() >= end;
        if let Some(value) = condition() {
            return Ok(value);
        }
        if last {
            bail!("waited {bound:?} in vain for: {what}");
        }
        pause(STEP);
    }
}

/// Lets time pass for those who need time itself: a slow client's gap between two bytes, or the
/// pace of a load. Never for "it will have happened by then".
#[expect(clippy::disallowed_methods, reason = "the one pause that all waits are made of")]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}
