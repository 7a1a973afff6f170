//! Which copy a redirect reads from first, and which after it.
//!
//! The nearest is the one with the lowest smoothed round trip: nobody has to keep a list in order
//! for each node, and a copy whose machine is overloaded is far. Copies within [`ABOUT_EQUAL`] of
//! the nearest take turns, standbys only: the primary has the writes to do. Standbys that lag come
//! last, and only when everything else has failed or is silent.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Copies whose round trips differ by no more than this are equally near.
const ABOUT_EQUAL: Duration = Duration::from_millis(2);

/// Another copy is asked as well when one has not answered for this many round trips of its own,
/// within these bounds.
const ROUND_TRIPS: u32 = 4;
const SOONEST: Duration = Duration::from_millis(25);
const LATEST: Duration = Duration::from_millis(250);

/// A copy that may be read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ready {
    pub(super) at: usize,
    pub(super) primary: bool,
    pub(super) latency: Duration,
    pub(super) lagging: bool,
}

/// Whom to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Whoever is the primary: the only one who may say that there is no such link.
    Primary,
    /// This copy.
    Standby(usize),
}

/// Whom to ask, and how long to wait for the answer before the next one is asked as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) source: Source,
    pub(super) patience: Duration,
    /// Only when nothing else answers.
    pub(super) last_resort: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Standbys that take turns.
    near: Vec<Candidate>,
    /// Everybody else, in order.
    rest: Vec<Candidate>,
    turn: AtomicUsize,
}

impl Plan {
    pub(super) fn new(ready: &[Ready]) -> Self {
        let mut ready = ready.to_vec();
        ready.sort_by_key(|copy| (copy.lagging, copy.latency));
        let nearest = ready.first().map_or(Duration::ZERO, |copy| copy.latency);
        let is_near = |copy: &Ready| {
            !copy.lagging && !copy.primary && copy.latency <= nearest.saturating_add(ABOUT_EQUAL)
        };
        let (near, rest): (Vec<_>, Vec<_>) = ready.iter().partition(|copy| is_near(copy));
        let candidate = |copy: &&Ready| Candidate {
            source: if copy.primary { Source::Primary } else { Source::Standby(copy.at) },
            patience: (copy.latency * ROUND_TRIPS).clamp(SOONEST, LATEST),
            last_resort: copy.lagging,
        };
        let mut rest: Vec<Candidate> = rest.iter().map(candidate).collect();
        // A standby that was just promoted: the primary's connections don't lead there yet, those
        // to it as a copy live on.
        let promoted = ready.iter().find(|copy| copy.primary).map(|copy| Candidate {
            source: Source::Standby(copy.at),
            last_resort: true,
            ..candidate(&copy)
        });
        let lagging = rest.iter().position(|candidate| candidate.last_resort);
        let place = lagging.unwrap_or(rest.len());
        rest.splice(place..place, promoted);
        Self { near: near.iter().map(candidate).collect(), rest, turn: AtomicUsize::new(0) }
    }

    /// Whom to ask for one link, in order.
    pub(super) fn order(&self) -> impl Iterator<Item = Candidate> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let near = self.near.iter().cycle().skip(turn % self.near.len().max(1));
        near.take(self.near.len()).chain(&self.rest).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(at: usize, primary: bool, micros: u64, lagging: bool) -> Ready {
        Ready { at, primary, latency: Duration::from_micros(micros), lagging }
    }

    fn sources(plan: &Plan) -> Vec<Source> {
        plan.order().map(|candidate| candidate.source).collect()
    }

    #[test]
    fn near_standbys_take_turns_and_the_primary_comes_after_them() {
        let plan = Plan::new(&[
            ready(0, true, 100, false),
            ready(1, false, 900, false),
            ready(2, false, 300, false),
            ready(3, false, 90_000, false),
        ]);
        let [zero, one, two, three] = [0, 1, 2, 3].map(Source::Standby);
        assert_eq!(sources(&plan), [two, one, Source::Primary, three, zero]);
        assert_eq!(sources(&plan), [one, two, Source::Primary, three, zero]);
        assert_eq!(sources(&plan), [two, one, Source::Primary, three, zero]);
    }

    #[test]
    fn a_far_standby_comes_after_a_near_primary() {
        let plan = Plan::new(&[ready(0, true, 100, false), ready(1, false, 40_000, false)]);
        assert_eq!(sources(&plan), [Source::Primary, Source::Standby(1), Source::Standby(0)]);
        let patience: Vec<_> = plan.order().map(|candidate| candidate.patience).collect();
        assert_eq!(patience, [SOONEST, Duration::from_millis(160), SOONEST]);
    }

    #[test]
    fn what_lags_is_the_last_resort() {
        let plan = Plan::new(&[ready(0, true, 50_000, false), ready(1, false, 100, true)]);
        let order: Vec<_> =
            plan.order().map(|candidate| (candidate.source, candidate.last_resort)).collect();
        let standby = |at| (Source::Standby(at), true);
        assert_eq!(order, [(Source::Primary, false), standby(0), standby(1)]);
        assert_eq!(sources(&Plan::default()), []);
    }
}
