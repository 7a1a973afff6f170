//! How far a standby is behind: a history of where the primary was when.
//!
//! A standby that has replayed all the primary has written is not behind, however long nothing
//! was written. Else the first byte that it lacks was written shortly before the history first
//! knew of it: the lag is the time since then, right to the second in which the primary is looked
//! at. No clock but this process's is needed, and a primary that idles or is dead changes nothing.
//! A standby that is behind everything in the history is as far behind as its own clock says, at
//! least as far as the history reaches.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Positions that are kept: an hour's, when the primary writes in every second of it.
const KEPT: usize = 3_600;

/// How far a standby is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lag {
    /// Bytes of the log that it has not replayed.
    pub bytes: u64,
    /// How long ago the first of them was written; `None` when nobody knows.
    pub time: Option<Duration>,
}

impl Lag {
    /// Whether it is more than `limit` behind, or may be.
    pub(super) fn is_more_than(self, limit: Duration) -> bool {
        self.time.is_none_or(|time| time > limit)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct History {
    /// When the primary was first known to have come so far. Both go up.
    heads: VecDeque<(Instant, u64)>,
}

impl History {
    /// The primary was at `position` at `now`. A new primary may be behind what is known: what the
    /// old one wrote last and nobody has is no part of the history any more.
    pub(super) fn primary(&mut self, now: Instant, position: u64) {
        while self.heads.back().is_some_and(|(_, head)| *head > position) {
            self.heads.pop_back();
        }
        self.at_least(now, position);
    }

    /// Somebody has received the log up to `position`, so it was written.
    pub(super) fn at_least(&mut self, now: Instant, position: u64) {
        if self.heads.back().is_some_and(|(_, head)| *head >= position) {
            return;
        }
        if self.heads.len() >= KEPT {
            self.heads.pop_front();
        }
        self.heads.push_back((now, position));
    }

    /// How far a standby is behind that has replayed up to `position`; `behind` is what its own
    /// clock says.
    pub(super) fn lag(&self, now: Instant, position: u64, behind: Option<Duration>) -> Lag {
        let Some((_, head)) = self.heads.back() else { return Lag { bytes: 0, time: None } };
        let bytes = head.saturating_sub(position);
        let lacking = self.heads.partition_point(|(_, head)| *head <= position);
        let time = match self.heads.get(lacking) {
            None => Some(Duration::ZERO),
            Some((first, _)) => {
                let known = now.saturating_duration_since(*first);
                if lacking == 0 { behind.map(|behind| behind.max(known)) } else { Some(known) }
            }
        };
        Lag { bytes, time }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(begun: Instant, seconds: u64) -> Instant {
        begun + Duration::from_secs(seconds)
    }

    fn seconds(lag: Lag) -> Option<u64> {
        lag.time.map(|time| time.as_secs())
    }

    #[test]
    fn lag_is_the_age_of_the_first_byte_that_is_missing() {
        let begun = Instant::now();
        let mut history = History::default();
        for second in 0..60 {
            history.primary(at(begun, second), 1_000 + second * 100);
        }
        let now = at(begun, 60);
        // All of second 49, nothing of second 50.
        let lag = history.lag(now, 5_900, None);
        assert_eq!((lag.bytes, seconds(lag)), (1_000, Some(10)));
        // In the middle of second 50.
        assert_eq!(seconds(history.lag(now, 5_950, None)), Some(10));
        assert!(history.lag(now, 5_900, None).is_more_than(Duration::from_secs(9)));
        assert!(!history.lag(now, 5_900, None).is_more_than(Duration::from_secs(10)));
    }

    #[test]
    fn an_idle_primary_makes_nobody_lag() {
        let begun = Instant::now();
        let mut history = History::default();
        history.primary(begun, 500);
        history.primary(at(begun, 1), 700);
        for second in 2..100 {
            history.primary(at(begun, second), 700);
        }
        let now = at(begun, 1_000);
        assert_eq!(history.lag(now, 700, None), Lag { bytes: 0, time: Some(Duration::ZERO) });
        // It has received more than was seen on the primary.
        assert_eq!(history.lag(now, 900, None), Lag { bytes: 0, time: Some(Duration::ZERO) });
        // It lacks what was written long ago.
        assert_eq!(seconds(history.lag(now, 500, None)), Some(999));
    }

    #[test]
    fn before_the_history_its_own_clock_counts() {
        let begun = Instant::now();
        let mut history = History::default();
        assert_eq!(history.lag(begun, 10, None).time, None);
        history.at_least(begun, 100);
        let now = at(begun, 5);
        assert_eq!(history.lag(now, 50, None).time, None);
        assert!(history.lag(now, 50, None).is_more_than(Duration::from_secs(1_000)));
        let minute = Some(Duration::from_secs(60));
        assert_eq!(seconds(history.lag(now, 50, minute)), Some(60));
        assert_eq!(seconds(history.lag(now, 50, Some(Duration::ZERO))), Some(5));
        assert_eq!(seconds(history.lag(now, 100, minute)), Some(0));
    }

    #[test]
    fn what_only_an_old_primary_had_is_forgotten() {
        let begun = Instant::now();
        let mut history = History::default();
        for second in 0..10 {
            history.primary(at(begun, second), 100 * (second + 1));
        }
        // Promoted at 750.
        history.primary(at(begun, 10), 760);
        let lag = history.lag(at(begun, 12), 760, None);
        assert_eq!(lag, Lag { bytes: 0, time: Some(Duration::ZERO) });
        assert_eq!(history.lag(at(begun, 12), 700, None).bytes, 60);
    }

    #[test]
    fn the_history_is_bounded() {
        let begun = Instant::now();
        let mut history = History::default();
        for second in 0..10_000 {
            history.primary(at(begun, second), second);
        }
        assert_eq!(history.heads.len(), KEPT);
    }
}
