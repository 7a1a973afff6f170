//! What changed in the last two minutes: a floor under what copies of a row may be believed.

use std::collections::HashMap;
use std::time::Duration;

use shunt_domain::Version;

/// How long a change is remembered: longer than any load, replication lag or failover that could
/// bring an older row.
const KEEP: Duration = Duration::from_secs(120);
/// The same for a creation: what is older is only "there is no such link", which lives a second.
const KEEP_CREATED: Duration = Duration::from_secs(2);
/// Most changes remembered in one map: 3 MiB in all the resolver's maps together.
const MOST: usize = 4_096;

/// Changes by the hash of their key. Two keys with one hash share the higher version, which costs
/// a look into the primary and nothing else.
#[derive(Debug, Default)]
pub(super) struct Notes {
    by_hash: HashMap<u64, Note>,
    /// Until then nothing is known: too much changed at once. Milliseconds, monotonic.
    blind_until: i64,
}

#[derive(Clone, Copy, Debug)]
struct Note {
    version: Version,
    until: i64,
}

impl Notes {
    /// Notes a change at `now`. Answers whether it was unknown.
    pub(super) fn add(&mut self, hash: u64, version: Version, now: i64) -> bool {
        let keep = if version <= Version::FIRST { KEEP_CREATED } else { KEEP };
        let until = now.saturating_add(millis(keep));
        if let Some(note) = self.by_hash.get_mut(&hash).filter(|note| note.until > now) {
            let new = version > note.version;
            note.version = note.version.max(version);
            note.until = note.until.max(until);
            return new;
        }
        if self.by_hash.len() >= MOST {
            self.by_hash.retain(|_, note| note.until > now);
        }
        if self.by_hash.len() >= MOST {
            self.by_hash.clear();
            self.blind_until = now.saturating_add(millis(KEEP));
        }
        self.by_hash.insert(hash, Note { version, until });
        true
    }

    /// What a copy of the row must have at least to be believed: `Version(u64::MAX)` means that
    /// none may be.
    pub(super) fn floor(&self, hash: u64, now: i64) -> Version {
        if now < self.blind_until {
            return Version(u64::MAX);
        }
        let note = self.by_hash.get(&hash).filter(|note| note.until > now);
        note.map_or(Version(0), |note| note.version)
    }
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_version_stays_for_its_time() {
        let mut notes = Notes::default();
        assert!(notes.add(1, Version(3), 0));
        assert!(!notes.add(1, Version(2), 1) && !notes.add(1, Version(3), 1));
        assert!(notes.add(1, Version(4), 2));
        assert_eq!(notes.floor(1, 119_999), Version(4));
        assert_eq!(notes.floor(1, 120_002), Version(0));
        assert!(notes.add(2, Version::FIRST, 0));
        assert_eq!((notes.floor(2, 1_999), notes.floor(2, 2_000)), (Version(1), Version(0)));
        assert_eq!(notes.floor(3, 0), Version(0));
    }

    #[test]
    fn too_many_changes_make_blind_and_never_forgetful() {
        let mut notes = Notes::default();
        for hash in 0..MOST as u64 {
            notes.add(hash, Version(2), 0);
        }
        assert_eq!(notes.floor(MOST as u64, 0), Version(0));
        notes.add(MOST as u64, Version(2), 0);
        assert!(notes.by_hash.len() < MOST);
        assert_eq!(notes.floor(0, 119_999), Version(u64::MAX));
        // When sight comes back, all that was forgotten has had its time.
        assert_eq!(notes.floor(0, 120_000), Version(0));
    }
}
