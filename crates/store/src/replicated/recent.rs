//! What this process has changed lately: reads of it must not come from a copy that does not have
//! it yet.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use shunt_domain::{LinkKey, Version};

use crate::postgres::lock;

/// How long a change is remembered. Standbys that are further behind serve only when nothing else
/// answers.
pub(super) const REMEMBERED: Duration = Duration::from_secs(120);

/// Changes that are remembered, about 100 bytes each. With more of them in that time all reads go
/// to the primary.
const MOST: usize = 100_000;

/// What a read of a link needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// A row of at least this version.
    AtLeast(Version),
    /// The primary's answer: it is not known what became of a change, or how many clicks are left.
    Primary,
}

#[derive(Debug, Default)]
struct Changes {
    needs: HashMap<LinkKey, (Need, Instant)>,
    /// Too many changes to remember: until then the primary is asked for everything.
    too_many_until: Option<Instant>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Recent {
    changes: Mutex<Changes>,
}

impl Recent {
    /// Notes a change.
    pub(super) fn note(&self, key: LinkKey, need: Need, now: Instant) {
        if !self.note_if_there_is_room(key, need, now) {
            lock(&self.changes).too_many_until = Some(now + REMEMBERED);
        }
    }

    /// Notes what would be good to know and does no harm when it is not. Answers whether it did.
    pub(super) fn note_if_there_is_room(&self, key: LinkKey, need: Need, now: Instant) -> bool {
        let mut changes = lock(&self.changes);
        if changes.needs.len() >= MOST {
            changes.needs.retain(|_, (_, at)| now.saturating_duration_since(*at) < REMEMBERED);
        }
        if changes.needs.len() >= MOST && !changes.needs.contains_key(&key) {
            return false;
        }
        changes.needs.insert(key, (need, now));
        true
    }

    /// What a read of `key` needs.
    pub(super) fn need(&self, key: &LinkKey, min_version: Version, now: Instant) -> Need {
        let changes = lock(&self.changes);
        if changes.too_many_until.is_some_and(|until| now < until) {
            return Need::Primary;
        }
        match changes.needs.get(key) {
            Some((need, at)) if now.saturating_duration_since(*at) < REMEMBERED => match need {
                Need::AtLeast(version) => Need::AtLeast(min_version.max(*version)),
                Need::Primary => Need::Primary,
            },
            _ => Need::AtLeast(min_version),
        }
    }
}

#[cfg(test)]
mod tests {
    use shunt_domain::{Code, DomainId};

    use super::*;

    fn key(code: &str) -> LinkKey {
        LinkKey::new(DomainId::DEFAULT, Code::parse(code).unwrap())
    }

    #[test]
    fn a_change_is_remembered_for_its_time() {
        let (recent, now) = (Recent::default(), Instant::now());
        recent.note(key("a"), Need::AtLeast(Version(3)), now);
        recent.note(key("b"), Need::Primary, now);
        let need = |code: &str, min, at| recent.need(&key(code), Version(min), at);
        assert_eq!(need("a", 0, now), Need::AtLeast(Version(3)));
        assert_eq!(need("a", 5, now), Need::AtLeast(Version(5)));
        assert_eq!(need("b", 0, now), Need::Primary);
        assert_eq!(need("c", 2, now), Need::AtLeast(Version(2)));
        let later = now + REMEMBERED;
        assert_eq!(need("a", 0, later), Need::AtLeast(Version(0)));
        assert_eq!(need("b", 0, later), Need::AtLeast(Version(0)));
    }

    #[test]
    fn too_many_changes_send_everything_to_the_primary() {
        let (recent, now) = (Recent::default(), Instant::now());
        for at in 0..MOST {
            recent.note(key(&format!("c{at}")), Need::AtLeast(Version(2)), now);
        }
        assert_eq!(recent.need(&key("x"), Version(0), now), Need::AtLeast(Version(0)));
        recent.note(key("x"), Need::AtLeast(Version(2)), now);
        assert_eq!(recent.need(&key("x"), Version(0), now), Need::Primary);
        assert_eq!(recent.need(&key("y"), Version(0), now), Need::Primary);
        // What was remembered is forgotten in time, and there is room again.
        let later = now + REMEMBERED;
        recent.note(key("x"), Need::AtLeast(Version(2)), later);
        assert_eq!(recent.need(&key("x"), Version(0), later), Need::AtLeast(Version(2)));
        assert_eq!(recent.need(&key("y"), Version(0), later), Need::AtLeast(Version(0)));
    }
}
