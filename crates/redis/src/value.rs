//! How rows lie in the second tier, and invalidations go over the bus. Version 1 of both, pinned by
//! tests: nodes of two versions share one Redis while they are replaced.
//!
//! A value: format (1 byte), version of the row (8, big endian, where the scripts look for it),
//! kind (1), then for a link: flags (1), status (2), start and end in milliseconds (8 each, `i64`,
//! the smallest and largest for none), target. An absent one: version 0, and when it was written
//! (8, wall-clock milliseconds). All numbers are big endian.

use shunt_domain::ports::{Cached, CachedLink, Invalidation, Terms};
use shunt_domain::{Code, DomainId, LinkKey, RedirectStatus, Target, Timestamp, Version};

/// Of values and messages.
const FORMAT: u8 = 1;

const KIND_ABSENT: u8 = 0;
const KIND_LINK: u8 = 1;
const KIND_TOMBSTONE: u8 = 2;

const ENABLED: u8 = 1;
const FORWARD_QUERY: u8 = 2;
const CENTRAL: u8 = 4;
const MIXED_SCRIPT: u8 = 8;

const NO_START: i64 = i64::MIN;
const NO_END: i64 = i64::MAX;

/// An absent one is believed for so long after it was written, by the clock on the wall: a server
/// that hung may have carried it out late.
const ABSENT_MILLIS: i64 = 1_000;

/// Cuts fields off a text of bytes.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }
}

/// The value of a row.
pub(crate) fn row(row: &CachedLink) -> Vec<u8> {
    let mut out =
        Vec::with_capacity(32 + row.terms.as_ref().map_or(0, |t| t.target.as_str().len()));
    out.push(FORMAT);
    out.extend(row.version.0.to_be_bytes());
    let Some(terms) = &row.terms else {
        out.push(KIND_TOMBSTONE);
        return out;
    };
    out.push(KIND_LINK);
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    out.push(
        flag(terms.enabled, ENABLED)
            | flag(terms.forward_query, FORWARD_QUERY)
            | flag(terms.central, CENTRAL)
            | flag(terms.target.mixed_script(), MIXED_SCRIPT),
    );
    out.extend(terms.status.code().to_be_bytes());
    out.extend(terms.valid_from.map_or(NO_START, Timestamp::as_millis).to_be_bytes());
    out.extend(terms.expires_at.map_or(NO_END, Timestamp::as_millis).to_be_bytes());
    out.extend(terms.target.as_str().as_bytes());
    out
}

/// The value that says "there is no such link".
pub(crate) fn absent(now: Timestamp) -> Vec<u8> {
    let mut out = vec![FORMAT];
    out.extend(0_u64.to_be_bytes());
    out.push(KIND_ABSENT);
    out.extend(now.as_millis().to_be_bytes());
    out
}

/// Reads a value; `None` for what this version did not write, and for what is too old to believe.
pub(crate) fn read(value: &[u8], now: Timestamp) -> Option<Cached> {
    let mut fields = Fields(value);
    if fields.byte()? != FORMAT {
        return None;
    }
    let version = Version(u64::from_be_bytes(fields.take()?));
    match fields.byte()? {
        KIND_ABSENT => {
            let age = now.as_millis().saturating_sub(i64::from_be_bytes(fields.take()?));
            (age < ABSENT_MILLIS).then_some(Cached::Absent)
        }
        KIND_TOMBSTONE => Some(Cached::Row(CachedLink { version, terms: None })),
        KIND_LINK => {
            let flags = fields.byte()?;
            let status = RedirectStatus::from_code(u16::from_be_bytes(fields.take()?))?;
            let start = i64::from_be_bytes(fields.take()?);
            let end = i64::from_be_bytes(fields.take()?);
            let target = std::str::from_utf8(fields.0).ok()?;
            let terms = Terms {
                target: Target::from_stored(target, flags & MIXED_SCRIPT != 0)?,
                status,
                forward_query: flags & FORWARD_QUERY != 0,
                enabled: flags & ENABLED != 0,
                valid_from: (start != NO_START).then(|| Timestamp::from_millis(start)),
                expires_at: (end != NO_END).then(|| Timestamp::from_millis(end)),
                central: flags & CENTRAL != 0,
            };
            Some(Cached::Row(CachedLink { version, terms: Some(terms) }))
        }
        _ => None,
    }
}

/// What goes over the bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// A node's sign of life to itself: its random number of this boot.
    Heartbeat(u64),
    /// A link changed.
    Invalidation(Invalidation),
}

impl Message {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        match self {
            Self::Heartbeat(node) => {
                out.push(b'h');
                out.extend(node.to_be_bytes());
            }
            Self::Invalidation(news) => {
                out.push(b'i');
                out.extend(news.version.0.to_be_bytes());
                out.extend(news.key.domain.0.to_be_bytes());
                out.extend(news.key.code.as_str().as_bytes());
            }
        }
        out
    }

    /// `None` for what is no message of this version.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        if fields.byte()? != FORMAT {
            return None;
        }
        match fields.byte()? {
            b'h' => Some(Self::Heartbeat(u64::from_be_bytes(fields.take()?))),
            b'i' => {
                let version = Version(u64::from_be_bytes(fields.take()?));
                let domain = DomainId(u32::from_be_bytes(fields.take()?));
                let code = std::str::from_utf8(fields.bytes(fields.0.len())?).ok()?;
                let key = LinkKey::new(domain, Code::parse(code).ok()?);
                Some(Self::Invalidation(Invalidation { key, version }))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    fn link() -> CachedLink {
        CachedLink {
            version: Version(0x0102),
            terms: Some(Terms {
                target: Target::from_stored("https://a.example/x", true).unwrap(),
                status: RedirectStatus::Permanent,
                forward_query: true,
                enabled: true,
                valid_from: None,
                expires_at: Some(Timestamp::from_millis(5)),
                central: false,
            }),
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn values_and_messages_lie_as_pinned() {
        assert_eq!(
            hex(&row(&link())),
            "010000000000000102010b01348000000000000000000000000000000568747470733a2f2f612e6578616d706c652f78"
        );
        let tombstone = CachedLink { version: Version(7), terms: None };
        assert_eq!(hex(&row(&tombstone)), "01000000000000000702");
        assert_eq!(hex(&absent(NOW)), "0100000000000000000000000000000f4240");
        assert_eq!(hex(&Message::Heartbeat(9).encode()), "01680000000000000009");
        let key = LinkKey::new(DomainId(3), Code::parse("aZ").unwrap());
        let news = Message::Invalidation(Invalidation { key, version: Version(4) });
        assert_eq!(hex(&news.encode()), "0169000000000000000400000003615a");
        assert_eq!(Message::decode(&news.encode()), Some(news));
        assert_eq!(Message::decode(&Message::Heartbeat(9).encode()), Some(Message::Heartbeat(9)));
    }

    #[test]
    fn rows_come_back_and_absence_grows_old() {
        for stored in [link(), CachedLink { version: Version(7), terms: None }] {
            assert_eq!(read(&row(&stored), NOW), Some(Cached::Row(stored)));
        }
        let written = absent(NOW);
        assert_eq!(read(&written, NOW), Some(Cached::Absent));
        assert_eq!(read(&written, Timestamp::from_millis(1_001_000)), None);
    }

    proptest! {
        #[test]
        fn nonsense_is_read_as_nothing_and_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Message::decode(&bytes);
            let mut value = bytes;
            if let Some(first) = value.first_mut() {
                *first = FORMAT + 1;
            }
            prop_assert_eq!(read(&value, NOW), None);
        }

        #[test]
        fn a_value_cut_short_is_no_other_row(len in 0_usize..29) {
            let value = row(&link());
            prop_assert_eq!(read(&value[..len], NOW), None);
        }
    }
}
