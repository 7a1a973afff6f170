use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use proptest::prelude::*;
use shunt_domain::{Code, Link, Stored};

use super::*;
use crate::testing::link;

fn cache() -> L1 {
    L1::new(1 << 20, (1, 2))
}

fn put_at(l1: &L1, hash: u64, link: &Link, now: i64) {
    let stored = Stored::Link(Box::new(link.clone()));
    l1.insert(hash, link.key(), &Entry::new(Some(&stored), Timestamp::from_millis(now), 0));
}

fn put(l1: &L1, hash: u64, link: &Link) {
    put_at(l1, hash, link, 0);
}

/// What L1 says about a code of the default domain at a time.
fn ask(l1: &L1, hash: u64, code: &str, now: i64) -> Option<(Head, String)> {
    let mut target = b"left over".to_vec();
    let now = Timestamp::from_millis(now);
    let head = l1.get(hash, DomainId::DEFAULT, code.as_bytes(), now, 0, &mut target)?;
    Some((head, String::from_utf8(target).unwrap()))
}

fn code_of(i: usize) -> String {
    format!("c{i:06}")
}

fn key_hash(l1: &L1, code: &str) -> u64 {
    l1.hash(DomainId::DEFAULT, code.as_bytes())
}

fn fill(l1: &L1, i: usize) {
    let code = code_of(i);
    let link = link(&code, &format!("https://example.com/some/path/{i}"));
    put(l1, key_hash(l1, &code), &link);
}

fn has(l1: &L1, i: usize) -> bool {
    let code = code_of(i);
    let found = ask(l1, key_hash(l1, &code), &code, 1);
    if let Some((_, target)) = &found {
        assert_eq!(*target, format!("https://example.com/some/path/{i}"));
    }
    found.is_some()
}

#[test]
fn a_hash_collision_is_a_miss_not_another_link() {
    let l1 = cache();
    put(&l1, 42, &link("aaaaaaa", "https://a.example/"));
    let now = Timestamp::from_millis(1);
    let get = |domain, code: &[u8]| l1.get(42, domain, code, now, 0, &mut Vec::new()).is_some();
    assert!(get(DomainId::DEFAULT, b"aaaaaaa"));
    assert!(!get(DomainId::DEFAULT, b"bbbbbbb"));
    assert!(!get(DomainId(1), b"aaaaaaa"));
    assert!(!get(DomainId::DEFAULT, b"aaaaaa"));
    assert!(!get(DomainId::DEFAULT, b"aaaaaaa\0"));
}

#[test]
fn an_entry_ends_when_the_link_does() {
    let l1 = cache();
    let mut expiring = link("aaaaaaa", "https://a.example/");
    expiring.data.expires_at = Some(Timestamp::from_millis(1_000));
    put(&l1, 7, &expiring);
    assert!(ask(&l1, 7, "aaaaaaa", 999).is_some());
    assert!(ask(&l1, 7, "aaaaaaa", 1_000).is_none());
}

#[test]
fn a_clock_put_back_makes_the_judgement_worthless() {
    let l1 = cache();
    let mut expired = link("aaaaaaa", "https://a.example/");
    expired.data.expires_at = Some(Timestamp::from_millis(50_000));
    put_at(&l1, 7, &expired, 60_000);
    assert_eq!(ask(&l1, 7, "aaaaaaa", 60_000).map(|(head, _)| head.kind), Some(Kind::Gone));
    assert!(ask(&l1, 7, "aaaaaaa", 40_000).is_none(), "judged by a clock that was wrong");
}

#[test]
fn absent_follows_the_monotonic_clock() {
    let l1 = cache();
    let key = LinkKey::new(DomainId::DEFAULT, Code::parse("nope").unwrap());
    l1.insert(9, &key, &Entry::new(None, Timestamp::from_millis(0), 500));
    let far = Timestamp::from_millis(1 << 40);
    let at = |mono| l1.get(9, DomainId::DEFAULT, b"nope", far, mono, &mut Vec::new());
    assert_eq!(at(499).map(|head| head.kind), Some(Kind::Absent));
    assert!(at(500).is_none());
}

#[test]
fn an_entry_is_replaced_and_only_a_newer_version_removes_it() {
    let l1 = cache();
    let mut one = link("aaaaaaa", "https://one.example/");
    put(&l1, 5, &one);
    one.version = Version(7);
    one.data.target = link("aaaaaaa", "https://two.example/longer").data.target;
    put(&l1, 5, &one);
    assert_eq!(l1.len(), 1);
    assert_eq!(ask(&l1, 5, "aaaaaaa", 1).unwrap().1, "https://two.example/longer");
    l1.remove_older(5, Version(7));
    assert!(ask(&l1, 5, "aaaaaaa", 1).is_some());
    l1.remove_older(5, Version(8));
    assert!(ask(&l1, 5, "aaaaaaa", 1).is_none());
    assert!(l1.is_empty());
}

#[test]
fn nothing_is_left_after_clear() {
    let l1 = L1::new(8 << 20, (3, 4));
    (0..5_000).for_each(|i| fill(&l1, i));
    assert_eq!(l1.len(), 5_000);
    l1.clear();
    assert!(l1.is_empty());
    assert!((0..5_000).all(|i| !has(&l1, i)));
    fill(&l1, 1);
    assert!(has(&l1, 1));
}

#[test]
fn the_capacity_bounds_what_is_used_whatever_its_size() {
    for capacity in [1, 64 << 10, 256 << 10, 1 << 20, (5 << 20) + 17, 40 << 20] {
        let l1 = L1::new(capacity, (3, 4));
        let bound = capacity.max(64 << 10);
        for i in 0..20_000 {
            fill(&l1, i);
            assert!(i % 1_000 != 0 || l1.bytes() <= bound, "{} of {capacity}", l1.bytes());
        }
        let held = (0..20_000).filter(|&i| has(&l1, i)).count();
        assert_eq!(held, l1.len(), "{capacity}");
        // A few sets may be full before the logs are.
        assert!(held >= 19_990.min(bound as usize / 240), "{held} in {capacity}");
    }
}

#[test]
fn what_fits_stays() {
    // 100,000 entries of about a hundred bytes and their slots.
    let l1 = L1::new(16 << 20, (5, 6));
    (0..100_000).for_each(|i| fill(&l1, i));
    let held = (0..100_000).filter(|&i| has(&l1, i)).count();
    assert!(held > 99_900, "{held}");
}

#[test]
fn the_longest_code_and_target_fit_and_what_does_not_is_left_out() {
    for capacity in [64 << 10, 1 << 20, 64 << 20] {
        let l1 = L1::new(capacity, (7, 8));
        let code = "x".repeat(Code::MAX_LEN);
        let target = format!("https://a.example/{}", "y".repeat(8_150));
        put(&l1, 11, &link(&code, &target));
        assert_eq!(ask(&l1, 11, &code, 1).unwrap().1, target);
    }
}

#[test]
fn a_scan_does_not_push_out_what_is_used() {
    let l1 = L1::new(2 << 20, (9, 10));
    let mut next = 1_000_000;
    let hot = 3_000;
    // Fill up, so that new entries pass probation from here on.
    (0..40_000).for_each(|i| fill(&l1, next + i));
    next += 40_000;
    for _ in 0..3 {
        for i in 0..hot {
            if !has(&l1, i) {
                fill(&l1, i);
            }
        }
    }
    for round in 0..20 {
        (0..5_000).for_each(|i| fill(&l1, next + i));
        next += 5_000;
        let kept = (0..hot).filter(|&i| has(&l1, i)).count();
        assert!(kept > hot * 95 / 100, "{kept} of {hot} after round {round}");
    }
}

#[test]
fn a_skewed_load_is_served_as_well_as_by_a_list_of_the_last_used() {
    // Skewed: the fourth power of a uniform number. Deterministic.
    let (keys, room) = (50_000_u64, 5_000_usize);
    let mut seed = 1_u64;
    let mut draw = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let uniform = (seed >> 33) as f64 / (1_u64 << 31) as f64;
        (uniform.powi(4) * keys as f64) as usize
    };
    // As many entries as the list has: 112 bytes each, the index besides.
    let l1 = L1::new((room * 112 * 10 / 9) as u64, (11, 12));
    let (mut lru, mut clock) = (HashMap::new(), 0_u64);
    let mut order = std::collections::BTreeMap::new();
    let (mut ours, mut theirs) = (0, 0);
    let draws = 300_000;
    for _ in 0..draws {
        let key = draw();
        if has(&l1, key) {
            ours += 1;
        } else {
            fill(&l1, key);
        }
        clock += 1;
        if let Some(last) = lru.insert(key, clock) {
            theirs += 1;
            order.remove(&last);
        } else if lru.len() > room
            && let Some((_, oldest)) = order.pop_first()
        {
            lru.remove(&oldest);
        }
        order.insert(clock, key);
    }
    let (ours, theirs) = (f64::from(ours) / f64::from(draws), f64::from(theirs) / f64::from(draws));
    assert!(ours > theirs - 0.01, "{ours:.3} against {theirs:.3}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A hit is always the newest thing said about the key; what was removed stays away.
    #[test]
    fn a_hit_is_what_was_stored_last(
        capacity in prop::sample::select(vec![64_u64 << 10, 96 << 10, 1 << 20, 2 << 20]),
        steps in prop::collection::vec((0_usize..600, 0_usize..2_500, 0_u8..10), 1..3_000),
    ) {
        let l1 = L1::new(capacity, (13, 14));
        let mut model: HashMap<usize, (u64, String)> = HashMap::new();
        for (version, (i, length, what)) in steps.into_iter().enumerate() {
            let version = version as u64 + 1;
            let code = code_of(i);
            let hash = key_hash(&l1, &code);
            match what {
                0 => {
                    l1.remove_older(hash, Version(version));
                    model.remove(&i);
                }
                1..=5 => {
                    let target = format!("https://example.com/{version}/{}", "p".repeat(length));
                    let mut link = link(&code, &target);
                    link.version = Version(version);
                    put(&l1, hash, &link);
                    model.insert(i, (version, target));
                }
                _ => if let Some((head, target)) = ask(&l1, hash, &code, 1) {
                    let known = model.get(&i);
                    prop_assert_eq!(Some(&(head.version().0, target)), known);
                },
            }
            prop_assert!(l1.bytes() <= capacity);
        }
        let live = (0..600)
            .filter(|&i| ask(&l1, key_hash(&l1, &code_of(i)), &code_of(i), 1).is_some())
            .count();
        prop_assert_eq!(live, l1.len());
    }
}

/// Readers on one side, writers that overwrite every word again and again on the other: whatever
/// is read belongs together.
#[test]
fn a_read_beside_writes_is_whole_or_a_miss() {
    const KEYS: usize = 400;
    // Small, so that the logs come round all the time.
    let l1 = Arc::new(L1::new(80 << 10, (15, 16)));
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (l1, done) = (Arc::clone(&l1), Arc::clone(&done));
            std::thread::spawn(move || {
                let (mut hits, mut round) = (0_u64, 0_u64);
                let mut target = Vec::new();
                while !done.load(Relaxed) || hits == 0 {
                    round += 1;
                    for i in 0..KEYS {
                        let code = code_of(i);
                        let hash = key_hash(&l1, &code);
                        let now = Timestamp::from_millis(1);
                        let code = code.as_bytes();
                        let Some(head) = l1.get(hash, DomainId::DEFAULT, code, now, 0, &mut target)
                        else {
                            continue;
                        };
                        hits += 1;
                        // The target repeats key and version to its end.
                        let text = String::from_utf8(target.clone()).unwrap();
                        let unit = format!("{i}-{}/", head.version().0);
                        let path = text.strip_prefix("https://a.example/").unwrap();
                        assert!(!path.is_empty() && path.len().is_multiple_of(unit.len()));
                        assert_eq!(path, unit.repeat(path.len() / unit.len()), "round {round}");
                    }
                }
                hits
            })
        })
        .collect();
    for version in 1..=150_u64 {
        for i in 0..KEYS {
            let unit = format!("{i}-{version}/");
            let times = 1 + (i * 7 + version as usize) % 60;
            let mut link = link(&code_of(i), &format!("https://a.example/{}", unit.repeat(times)));
            link.version = Version(version);
            put(&l1, key_hash(&l1, &code_of(i)), &link);
        }
    }
    done.store(true, Relaxed);
    for reader in readers {
        assert!(reader.join().unwrap() > 0);
    }
}
