//! What L1 holds for a link: how it answers, until when, and how that lies in the log.

use std::sync::Arc;

use shunt_domain::ports::CachedLink;
use shunt_domain::{Link, LinkKey, RedirectStatus, Stored, Timestamp, Version};

/// What an entry answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A redirect that any node may answer by itself.
    Redirect(RedirectStatus),
    /// A redirect whose target has a mixed-script host: people see the preview first.
    Warn(RedirectStatus),
    /// Must be decided centrally for each request: the link has a click limit.
    Central,
    /// Expired, disabled or deleted: 410.
    Gone,
    /// Exists, but not yet valid: 404 until it is.
    NotYet,
    /// The store said that there is no such link. Lives a second at most.
    Absent,
}

impl Kind {
    /// Five bits: three of the variant, two of its status.
    const fn to_bits(self) -> u8 {
        let (variant, status) = match self {
            Self::Redirect(status) => (0, status as u8),
            Self::Warn(status) => (1, status as u8),
            Self::Central => (2, 0),
            Self::Gone => (3, 0),
            Self::NotYet => (4, 0),
            Self::Absent => (5, 0),
        };
        variant << 2 | status
    }

    const fn from_bits(bits: u8) -> Self {
        let status = match bits & 3 {
            0 => RedirectStatus::MovedPermanently,
            1 => RedirectStatus::Found,
            2 => RedirectStatus::Temporary,
            _ => RedirectStatus::Permanent,
        };
        match bits >> 2 & 7 {
            0 => Self::Redirect(status),
            1 => Self::Warn(status),
            2 => Self::Central,
            3 => Self::Gone,
            4 => Self::NotYet,
            _ => Self::Absent,
        }
    }
}

/// The fixed part of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// What it answers.
    pub kind: Kind,
    /// Whether the visitor's query is appended.
    pub forward_query: bool,
    /// Of the link it was made from; saturates after four thousand million edits of one link.
    version: u32,
    /// When the link was judged: seconds of the wall clock. Put back behind it, the clock makes the
    /// judgement (expired, begun) worthless.
    judged: u32,
    /// Until when the entry may be used: wall-clock milliseconds; for [`Kind::Absent`] milliseconds
    /// of the cache's monotonic clock.
    until: i64,
}

/// Set beside the kind's bits when the visitor's query is appended.
const FORWARD: u8 = 1 << 5;

/// Head and lengths as they lie in the log, but for the hash.
pub(super) struct Header {
    pub(super) head: Head,
    pub(super) domain: u32,
    pub(super) code_len: usize,
    pub(super) target_len: usize,
}

impl Header {
    pub(super) const fn to_words(&self) -> [u64; 3] {
        let Self { head, domain, code_len, target_len } = self;
        let kind = head.kind.to_bits() | if head.forward_query { FORWARD } else { 0 };
        [
            // A code has at most 128 bytes, a target 8 KiB.
            *domain as u64
                | (*target_len as u64) << 32
                | (*code_len as u64) << 48
                | (kind as u64) << 56,
            head.until.cast_unsigned(),
            head.version as u64 | (head.judged as u64) << 32,
        ]
    }

    pub(super) const fn from_words([lengths, until, version]: [u64; 3]) -> Self {
        let kind = (lengths >> 56) as u8;
        Self {
            head: Head {
                kind: Kind::from_bits(kind),
                forward_query: kind & FORWARD != 0,
                version: version as u32,
                judged: (version >> 32) as u32,
                until: until.cast_signed(),
            },
            domain: lengths as u32,
            code_len: (lengths >> 48 & 0xff) as usize,
            target_len: (lengths >> 32 & 0xffff) as usize,
        }
    }
}

impl Head {
    /// The version of the link it was made from; 0 for [`Kind::Absent`].
    pub fn version(&self) -> Version {
        Version(u64::from(self.version))
    }

    /// Whether it may be used, by the wall clock and the cache's monotonic clock.
    pub(super) fn in_force(&self, now: Timestamp, mono: i64) -> bool {
        match self.kind {
            Kind::Absent => mono < self.until,
            // A second of grace: cores read their clocks at different moments.
            _ => {
                let judged = i64::from(self.judged) * 1_000;
                now.as_millis() < self.until && now.as_millis() + 1_000 >= judged
            }
        }
    }
}

/// An answer outside the cache: what a load brought, shared by all who waited for it.
#[derive(Clone, Debug)]
pub struct Entry {
    head: Head,
    target: Arc<str>,
}

impl Entry {
    /// The entry for what the store said at `now`. `absent_until` is the monotonic millisecond
    /// until which "there is none" may be repeated.
    pub fn new(stored: Option<&Stored>, now: Timestamp, absent_until: i64) -> Self {
        match stored {
            None => Self::make((Kind::Absent, absent_until), Version(0), "", false, now),
            Some(Stored::Tombstone(tombstone)) => Self::gone(tombstone.version, now),
            Some(Stored::Link(link)) => {
                let data = &link.data;
                let target = data.target.as_str();
                Self::make(judge(link, now), link.version, target, data.forward_query, now)
            }
        }
    }

    /// The entry for a row as the second tier has it.
    pub fn of_cached(row: &CachedLink, now: Timestamp) -> Self {
        let Some(terms) = &row.terms else {
            return Self::gone(row.version, now);
        };
        let kind = if terms.central {
            Kind::Central
        } else if terms.target.mixed_script() {
            Kind::Warn(terms.status)
        } else {
            Kind::Redirect(terms.status)
        };
        let judged = in_time(kind, terms.enabled, terms.valid_from, terms.expires_at, now);
        Self::make(judged, row.version, terms.target.as_str(), terms.forward_query, now)
    }

    fn gone(version: Version, now: Timestamp) -> Self {
        Self::make((Kind::Gone, i64::MAX), version, "", false, now)
    }

    fn make(
        (kind, until): (Kind, i64),
        version: Version,
        target: &str,
        forward_query: bool,
        now: Timestamp,
    ) -> Self {
        let target = match kind {
            Kind::Redirect(_) | Kind::Warn(_) => target,
            Kind::Central | Kind::Gone | Kind::NotYet | Kind::Absent => "",
        };
        let head = Head {
            kind,
            forward_query,
            version: u32::try_from(version.0).unwrap_or(u32::MAX),
            judged: u32::try_from(now.as_millis() / 1_000).unwrap_or(u32::MAX),
            until,
        };
        Self { head, target: target.into() }
    }

    /// What came out of the cache.
    pub(crate) fn cached(head: Head, target: &[u8]) -> Self {
        // Only targets went in, and those are text.
        Self { head, target: std::str::from_utf8(target).unwrap_or_default().into() }
    }

    /// The fixed part.
    pub const fn head(&self) -> &Head {
        &self.head
    }

    /// What it answers.
    pub const fn kind(&self) -> Kind {
        self.head.kind
    }

    /// Where it leads, printable ASCII; empty unless it redirects.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// How it lies in the log under `key`.
    pub(super) fn header(&self, key: &LinkKey) -> Header {
        Header {
            head: self.head,
            domain: key.domain.0,
            code_len: key.code.as_str().len(),
            target_len: self.target.len(),
        }
    }
}

/// How a link answers at `now`, and until when that stays so without an edit.
pub fn judge(link: &Link, now: Timestamp) -> (Kind, i64) {
    let data = &link.data;
    let kind = if data.max_clicks.is_some() {
        Kind::Central
    } else if data.target.mixed_script() {
        Kind::Warn(data.status)
    } else {
        Kind::Redirect(data.status)
    };
    in_time(kind, data.enabled, data.valid_from, data.expires_at, now)
}

/// The same, given how the link answers while it is in force.
fn in_time(
    kind: Kind,
    enabled: bool,
    valid_from: Option<Timestamp>,
    expires_at: Option<Timestamp>,
    now: Timestamp,
) -> (Kind, i64) {
    let expires = expires_at.map_or(i64::MAX, Timestamp::as_millis);
    if !enabled || expires <= now.as_millis() {
        return (Kind::Gone, i64::MAX);
    }
    if let Some(from) = valid_from.filter(|from| *from > now) {
        return (Kind::NotYet, from.as_millis());
    }
    (kind, expires)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::link;

    #[test]
    fn states_are_judged_in_the_contracts_order() {
        let now = Timestamp::from_millis(1_000);
        let base = link("aaaaaaa", "https://a.example/");
        let kind = |change: &dyn Fn(&mut Link)| {
            let mut link = base.clone();
            change(&mut link);
            judge(&link, now).0
        };
        assert_eq!(kind(&|_| ()), Kind::Redirect(RedirectStatus::Found));
        assert_eq!(kind(&|l| l.data.enabled = false), Kind::Gone);
        assert_eq!(kind(&|l| l.data.expires_at = Some(now)), Kind::Gone);
        assert_eq!(kind(&|l| l.data.valid_from = Some(now)), Kind::Redirect(RedirectStatus::Found));
        let later = Timestamp::from_millis(1_001);
        assert_eq!(kind(&|l| l.data.valid_from = Some(later)), Kind::NotYet);
        assert_eq!(kind(&|l| l.data.max_clicks = std::num::NonZeroU64::new(3)), Kind::Central);
    }

    #[test]
    fn every_header_comes_back_from_its_words() {
        let statuses = [301, 302, 307, 308].map(|code| RedirectStatus::from_code(code).unwrap());
        let kinds = statuses
            .iter()
            .flat_map(|&status| [Kind::Redirect(status), Kind::Warn(status)])
            .chain([Kind::Central, Kind::Gone, Kind::NotYet, Kind::Absent]);
        for (i, kind) in kinds.enumerate() {
            let head = Head {
                kind,
                forward_query: i % 2 == 0,
                version: u32::MAX - i as u32,
                judged: 1_800_000_000,
                until: if i % 3 == 0 { i64::MAX } else { -5 },
            };
            let header = Header { head, domain: u32::MAX, code_len: 128, target_len: 8_192 };
            let back = Header::from_words(header.to_words());
            assert_eq!(back.head, head);
            assert_eq!((back.domain, back.code_len, back.target_len), (u32::MAX, 128, 8_192));
        }
    }
}
