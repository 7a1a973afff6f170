//! This process's own counts.

use std::time::Instant;

use quick_cache::sync::{Cache, EntryAction, EntryResult};
use shunt_domain::limit::{Counting, LimitAnswer, LimitKey, gcra};
use shunt_domain::ports::Use;

/// The most allowances that are remembered, about 70 bytes each. Beyond it those used least are
/// forgotten, and so full again; somebody with many addresses pushes out what was seen once, not
/// what is used again and again (S3-FIFO).
pub(super) const CAPACITY: usize = 65_536;

/// Counts in this process. Constant time, bounded memory; never fails.
pub(super) struct Local {
    /// Theoretical arrival times, in microseconds since `born`. Those in the past need no sweep:
    /// they are as good as none, and make room when room is needed.
    arrivals: Cache<LimitKey, u64>,
    born: Instant,
}

impl Local {
    pub(super) fn new() -> Self {
        Self { arrivals: Cache::new(CAPACITY), born: Instant::now() }
    }

    fn micros(&self, now: Instant) -> u64 {
        // Past in 584,000 years.
        now.saturating_duration_since(self.born).as_micros() as u64
    }

    /// How many allowances are remembered.
    pub(super) fn len(&self) -> usize {
        self.arrivals.len()
    }

    /// Counts one use.
    pub(super) fn count(&self, used: Use, now: Instant) -> LimitAnswer {
        let now = self.micros(now);
        self.change(&used.key, |arrival| gcra(used.rate, arrival, now, used.cost, used.counting))
    }

    /// How the allowance stands, nothing counted.
    pub(super) fn look(&self, used: Use, now: Instant) -> LimitAnswer {
        let mut arrival = self.arrivals.get(&used.key).unwrap_or_default();
        gcra(used.rate, &mut arrival, self.micros(now), 0, Counting::Tell)
    }

    /// Takes over that nothing is left until `answer` says so: others were told of uses that this
    /// process knows nothing of.
    pub(super) fn catch_up(&self, used: Use, answer: LimitAnswer, now: Instant) {
        let ahead = answer.reset.as_micros() as u64;
        let at_least = self.micros(now) + ahead.min(used.rate.debt_micros());
        self.change(&used.key, |arrival| *arrival = (*arrival).max(at_least));
    }

    /// Changes one arrival time under its shard's lock.
    fn change<T>(&self, key: &LimitKey, change: impl Fn(&mut u64) -> T) -> T {
        let entry =
            self.arrivals.entry(key, None, |_, arrival| EntryAction::Retain(change(arrival)));
        match entry {
            EntryResult::Retained(answer) => answer,
            entry => {
                let mut arrival = 0;
                let answer = change(&mut arrival);
                if let EntryResult::Vacant(place) = entry {
                    // Nobody takes the place away while it is held.
                    let _ = place.insert(arrival);
                }
                answer
            }
        }
    }
}
