//! Which links this process changed a moment ago.
//!
//! A read is eventually consistent unless there is a reason, which halves its price. A change by
//! this process is one: whoever changed a link must read what they wrote, and a load that begins
//! after the change must not fill a cache with what was before it.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use shunt_domain::LinkKey;

/// How long a change counts as recent: as long as invalidations are kept everywhere else. Copies
/// of a table usually agree within a second.
const RECENT: Duration = Duration::from_secs(120);

/// Changes are noted by a hash of their key. Two keys in one slot only cost a consistent read.
const SLOTS: usize = 1 << 14;

/// When the latest change of each slot was, in milliseconds since the start plus one; 0 is never.
#[derive(Debug)]
pub(super) struct Recent {
    begun: Instant,
    hasher: RandomState,
    slots: Box<[AtomicU64]>,
}

impl Recent {
    pub(super) fn new() -> Self {
        let slots = (0..SLOTS).map(|_| AtomicU64::new(0)).collect();
        Self { begun: Instant::now(), hasher: RandomState::new(), slots }
    }

    fn slot(&self, key: &LinkKey) -> Option<&AtomicU64> {
        // SLOTS is a power of two far below usize::MAX.
        self.slots.get(self.hasher.hash_one(key) as usize % SLOTS)
    }

    fn millis(&self, now: Instant) -> u64 {
        let millis = now.saturating_duration_since(self.begun).as_millis();
        u64::try_from(millis).unwrap_or(u64::MAX - 1) + 1
    }

    /// Notes that `key` is being changed.
    pub(super) fn note(&self, key: &LinkKey, now: Instant) {
        if let Some(slot) = self.slot(key) {
            slot.fetch_max(self.millis(now), Ordering::Relaxed);
        }
    }

    /// Whether `key` may have been changed a moment ago.
    pub(super) fn has(&self, key: &LinkKey, now: Instant) -> bool {
        let noted = self.slot(key).map_or(0, |slot| slot.load(Ordering::Relaxed));
        noted > 0 && self.millis(now).saturating_sub(noted) <= RECENT.as_millis() as u64
    }
}

#[cfg(test)]
mod tests {
    use shunt_domain::{Code, DomainId};

    use super::*;

    #[test]
    fn changes_count_for_a_while() {
        let recent = Recent::new();
        let key = |code: &str| LinkKey::new(DomainId::DEFAULT, Code::parse(code).unwrap());
        let start = recent.begun;
        assert!(!recent.has(&key("abc"), start));
        recent.note(&key("abc"), start);
        assert!(recent.has(&key("abc"), start));
        assert!(recent.has(&key("abc"), start + RECENT));
        assert!(!recent.has(&key("abc"), start + RECENT + Duration::from_millis(1)));
        recent.note(&key("abc"), start + RECENT);
        recent.note(&key("abc"), start);
        assert!(recent.has(&key("abc"), start + RECENT * 2), "the latest change counts");
        let others = (0..100).filter(|n| recent.has(&key(&format!("n{n}")), start)).count();
        assert!(others < 5, "{others} of 100 others share its slot");
    }
}
