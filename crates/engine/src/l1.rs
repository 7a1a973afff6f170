//! L1: the byte-bounded cache of resolved links inside the process, shared by all cores.
//!
//! Invariants:
//! - an entry says for which (domain, code) it is, and every hit compares: the 64-bit keyed hash
//!   that finds it may collide, and a collision is a miss, never another link's target;
//! - the weight of all entries stays below the capacity; overhead per entry is accounted for.
//!
//! One entry is one allocation (header, code and target together) behind a thin pointer, because
//! at millions of links the overhead decides how many fit: see `docs/adr/0005-l1.md`.

use std::hash::{BuildHasher, Hasher};

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{OptionsBuilder, Weighter};
use shunt_domain::{DomainId, Link, LinkKey, RedirectStatus, Stored, Timestamp, Version};
use siphasher::sip::SipHasher13;
use triomphe::ThinArc;

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

/// The fixed part of an entry: 24 bytes, kept small on purpose.
#[derive(Clone, Copy, Debug)]
struct Head {
    /// Saturates after four thousand million edits of one link.
    version: u32,
    /// When the link was judged: seconds of the wall clock. Put back behind it, the clock makes the
    /// judgement (expired, begun) worthless.
    judged: u32,
    /// Until when the entry may be used: wall-clock milliseconds; for [`Kind::Absent`] milliseconds
    /// of the cache's monotonic clock.
    until: i64,
    domain: u32,
    code_len: u8,
    kind: Kind,
    forward_query: bool,
}

/// A cached answer. Cloning counts a reference; reading is free of locks.
#[derive(Clone, Debug)]
pub struct Entry(ThinArc<Head, u8>);

impl Entry {
    /// The entry for what the store said about `key` at `now`. `absent_until` is the monotonic
    /// millisecond until which "there is none" may be repeated.
    pub fn new(key: &LinkKey, stored: Option<&Stored>, now: Timestamp, absent_until: i64) -> Self {
        let (kind, until, version, target, forward_query) = match stored {
            None => (Kind::Absent, absent_until, 0, "", false),
            Some(Stored::Tombstone(tombstone)) => {
                (Kind::Gone, i64::MAX, tombstone.version.0, "", false)
            }
            Some(Stored::Link(link)) => {
                let (kind, until) = judge(link, now);
                let target = match kind {
                    Kind::Redirect(_) | Kind::Warn(_) => link.data.target.as_str(),
                    Kind::Central | Kind::Gone | Kind::NotYet | Kind::Absent => "",
                };
                (kind, until, link.version.0, target, link.data.forward_query)
            }
        };
        let code = key.code.as_str().as_bytes();
        let head = Head {
            version: u32::try_from(version).unwrap_or(u32::MAX),
            judged: u32::try_from(now.as_millis() / 1_000).unwrap_or(u32::MAX),
            until,
            domain: key.domain.0,
            // A code has at most 128 bytes.
            code_len: code.len() as u8,
            kind,
            forward_query,
        };
        let mut bytes = Vec::with_capacity(code.len() + target.len());
        bytes.extend_from_slice(code);
        bytes.extend_from_slice(target.as_bytes());
        Self(ThinArc::from_header_and_slice(head, &bytes))
    }

    /// What it answers.
    pub fn kind(&self) -> Kind {
        self.0.header.header.kind
    }

    /// The version of the link it was made from; 0 for [`Kind::Absent`].
    pub fn version(&self) -> Version {
        Version(u64::from(self.0.header.header.version))
    }

    /// Whether the visitor's query is appended.
    pub fn forward_query(&self) -> bool {
        self.0.header.header.forward_query
    }

    /// The code's bytes.
    pub fn code(&self) -> &[u8] {
        self.0.slice.get(..usize::from(self.0.header.header.code_len)).unwrap_or_default()
    }

    /// The code as text.
    pub fn code_str(&self) -> &str {
        std::str::from_utf8(self.code()).unwrap_or_default()
    }

    /// The target's bytes, printable ASCII; empty unless it redirects.
    pub fn target(&self) -> &[u8] {
        self.0.slice.get(usize::from(self.0.header.header.code_len)..).unwrap_or_default()
    }

    /// The target as text.
    pub fn target_str(&self) -> &str {
        std::str::from_utf8(self.target()).unwrap_or_default()
    }

    fn is_for(&self, domain: DomainId, code: &[u8]) -> bool {
        self.0.header.header.domain == domain.0 && self.code() == code
    }

    fn in_force(&self, now: Timestamp, mono: i64) -> bool {
        let until = self.0.header.header.until;
        match self.kind() {
            Kind::Absent => mono < until,
            // A second of grace: cores read their clocks at different moments.
            _ => {
                let judged = i64::from(self.0.header.header.judged) * 1_000;
                now.as_millis() < until && now.as_millis() + 1_000 >= judged
            }
        }
    }
}

/// How a link answers at `now`, and until when that stays so without an edit.
pub fn judge(link: &Link, now: Timestamp) -> (Kind, i64) {
    let data = &link.data;
    let expires = data.expires_at.map_or(i64::MAX, Timestamp::as_millis);
    if !data.enabled || expires <= now.as_millis() {
        return (Kind::Gone, i64::MAX);
    }
    if let Some(from) = data.valid_from.filter(|from| *from > now) {
        return (Kind::NotYet, from.as_millis());
    }
    let kind = if data.max_clicks.is_some() {
        Kind::Central
    } else if data.target.mixed_script() {
        Kind::Warn(data.status)
    } else {
        Kind::Redirect(data.status)
    };
    (kind, expires)
}

/// Bytes an entry costs besides its code and target: allocation header and rounding, the slot in
/// the cache's slab and table. From the RSS of a million entries, `bench/RESULTS.md`.
pub const ENTRY_OVERHEAD: u64 = 96;

#[derive(Clone, Copy, Debug)]
struct Bytes;

impl Weighter<u64, Entry> for Bytes {
    fn weight(&self, _key: &u64, entry: &Entry) -> u64 {
        ENTRY_OVERHEAD + entry.0.slice.len() as u64
    }
}

/// Keys are hashes already.
#[derive(Clone, Copy, Debug, Default)]
struct AlreadyHashed;

struct PassThrough(u64);

impl Hasher for PassThrough {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

impl BuildHasher for AlreadyHashed {
    type Hasher = PassThrough;
    fn build_hasher(&self) -> PassThrough {
        PassThrough(0)
    }
}

/// The cache. All operations are constant-time; a hit takes one shard's read lock.
pub struct L1 {
    cache: Cache<u64, Entry, Bytes, AlreadyHashed>,
    hash_key: (u64, u64),
}

impl L1 {
    /// A cache of at most `capacity` bytes. `hash_key` is secret randomness, so that nobody can
    /// choose codes that collide.
    pub fn new(capacity: u64, hash_key: (u64, u64)) -> Self {
        // A typical entry is 160 bytes. Shards are few enough that the longest target (8 KiB)
        // stays far below a shard's share.
        let items = usize::try_from(capacity / 160).unwrap_or(usize::MAX).max(64);
        let shards = usize::try_from(capacity / (1 << 20)).unwrap_or(1).clamp(1, 16);
        let built = OptionsBuilder::new()
            .shards(shards)
            .estimated_items_capacity(items)
            .weight_capacity(capacity.max(64 * 1024))
            // Half of the resident number is the default; ghosts cost memory that is not in any
            // weight, and a tenth keeps most of their use.
            .ghost_allocation(0.1)
            .build();
        let cache = match built {
            Ok(options) => {
                Cache::with_options(options, Bytes, AlreadyHashed, DefaultLifecycle::default())
            }
            // Only missing fields make it fail, and both are given above.
            Err(_) => {
                Cache::with(items, capacity, Bytes, AlreadyHashed, DefaultLifecycle::default())
            }
        };
        Self { cache, hash_key }
    }

    /// The keyed hash of (domain, code): SipHash-1-3.
    pub fn hash(&self, domain: DomainId, code: &[u8]) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.hash_key.0, self.hash_key.1);
        hasher.write_u32(domain.0);
        hasher.write(code);
        hasher.finish()
    }

    /// The entry of a link if it is there and in force.
    pub fn get(
        &self,
        hash: u64,
        domain: DomainId,
        code: &[u8],
        now: Timestamp,
        mono: i64,
    ) -> Option<Entry> {
        self.cache
            .get(&hash)
            .filter(|entry| entry.is_for(domain, code) && entry.in_force(now, mono))
    }

    /// Stores an entry.
    pub fn insert(&self, hash: u64, entry: Entry) {
        self.cache.insert(hash, entry);
    }

    /// Drops the entry with this hash if its version is below `version`.
    pub fn remove_older(&self, hash: u64, version: Version) {
        self.cache.remove_if(&hash, |entry| entry.version() < version);
    }

    /// Drops everything.
    pub fn clear(&self) {
        self.cache.clear();
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.cache.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.cache.is_empty()
    }

    /// Bytes in use, overhead included.
    pub fn bytes(&self) -> u64 {
        self.cache.weight()
    }

    /// The bound of [`Self::bytes`].
    pub fn capacity(&self) -> u64 {
        self.cache.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::link;
    use shunt_domain::Code;

    fn cache() -> L1 {
        L1::new(1 << 20, (1, 2))
    }

    fn put(l1: &L1, hash: u64, link: &Link) {
        let stored = Stored::Link(Box::new(link.clone()));
        l1.insert(hash, Entry::new(link.key(), Some(&stored), Timestamp::from_millis(0), 0));
    }

    #[test]
    fn a_hash_collision_is_a_miss_not_another_link() {
        let l1 = cache();
        let a = link("aaaaaaa", "https://a.example/");
        put(&l1, 42, &a);
        let now = Timestamp::from_millis(1);
        assert!(l1.get(42, DomainId::DEFAULT, b"aaaaaaa", now, 0).is_some());
        assert!(l1.get(42, DomainId::DEFAULT, b"bbbbbbb", now, 0).is_none());
        assert!(l1.get(42, DomainId(1), b"aaaaaaa", now, 0).is_none());
        assert!(l1.get(42, DomainId::DEFAULT, b"aaaaaa", now, 0).is_none());
    }

    #[test]
    fn an_entry_ends_when_the_link_does() {
        let l1 = cache();
        let mut expiring = link("aaaaaaa", "https://a.example/");
        expiring.data.expires_at = Some(Timestamp::from_millis(1_000));
        put(&l1, 7, &expiring);
        let at = |ms| l1.get(7, DomainId::DEFAULT, b"aaaaaaa", Timestamp::from_millis(ms), 0);
        assert!(at(999).is_some());
        assert!(at(1_000).is_none());
    }

    #[test]
    fn a_clock_put_back_makes_the_judgement_worthless() {
        let l1 = cache();
        let mut expired = link("aaaaaaa", "https://a.example/");
        expired.data.expires_at = Some(Timestamp::from_millis(50_000));
        let stored = Stored::Link(Box::new(expired.clone()));
        let later = Timestamp::from_millis(60_000);
        l1.insert(7, Entry::new(expired.key(), Some(&stored), later, 0));
        let at = |ms| l1.get(7, DomainId::DEFAULT, b"aaaaaaa", Timestamp::from_millis(ms), 0);
        assert_eq!(at(60_000).map(|entry| entry.kind()), Some(Kind::Gone));
        assert!(at(40_000).is_none(), "judged by a clock that was wrong");
    }

    #[test]
    fn absent_follows_the_monotonic_clock() {
        let l1 = cache();
        let key = LinkKey::new(DomainId::DEFAULT, Code::parse("nope").unwrap());
        l1.insert(9, Entry::new(&key, None, Timestamp::from_millis(0), 500));
        let far = Timestamp::from_millis(1 << 40);
        assert!(l1.get(9, DomainId::DEFAULT, b"nope", far, 499).is_some());
        assert!(l1.get(9, DomainId::DEFAULT, b"nope", far, 500).is_none());
    }

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
    fn the_capacity_bounds_the_weight() {
        let l1 = L1::new(256 * 1024, (3, 4));
        for i in 0..20_000 {
            let code = format!("c{i:06}");
            let link = link(&code, "https://example.com/some/path");
            put(&l1, l1.hash(DomainId::DEFAULT, code.as_bytes()), &link);
        }
        assert!(l1.bytes() <= 256 * 1024, "{}", l1.bytes());
        assert!(l1.len() > 1_000, "{}", l1.len());
    }
}
