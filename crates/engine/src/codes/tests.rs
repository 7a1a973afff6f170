//! The sources against a model store: a set of codes as primary key, and in-memory ports that
//! fail on command.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use proptest::prelude::*;
use shunt_domain::UnknownCause;
use shunt_domain::ports::Range;
use shunt_domain::reserved::{RESERVED, is_reserved};

use super::*;

/// The three ports in memory. `leased` keeps every value ever leased and not given back.
#[derive(Default)]
struct Ports {
    meta: Mutex<HashMap<&'static str, Vec<u8>>>,
    pool: Mutex<VecDeque<Vec<Code>>>,
    high: AtomicU64,
    rests: Mutex<Vec<Range>>,
    leases: AtomicUsize,
    down: Mutex<Option<StoreError>>,
}

impl Ports {
    fn fails(&self) -> Option<StoreError> {
        lock(&self.down).clone()
    }

    fn answer<T>(&self, value: impl FnOnce() -> T) -> Outcome<T, StoreError> {
        match self.fails() {
            Some(error) => Outcome::Refused(error),
            None => Outcome::Done(value()),
        }
    }
}

impl MetaStore for Ports {
    fn meta<'a>(
        &'a self,
        name: &'static str,
        _deadline: Deadline,
    ) -> BoxFuture<'a, Result<Option<Vec<u8>>, StoreError>> {
        Box::pin(async move {
            match self.fails() {
                Some(error) => Err(error),
                None => Ok(lock(&self.meta).get(name).cloned()),
            }
        })
    }

    fn meta_or_insert(
        &self,
        name: &'static str,
        value: Vec<u8>,
        _deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Vec<u8>, StoreError>> {
        Box::pin(
            async move { self.answer(|| lock(&self.meta).entry(name).or_insert(value).clone()) },
        )
    }

    fn set_meta(
        &self,
        name: &'static str,
        value: Vec<u8>,
        _deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<(), StoreError>> {
        Box::pin(async move {
            self.answer(|| {
                lock(&self.meta).insert(name, value);
            })
        })
    }

    fn visitor_secret(
        &self,
        _day: i64,
        fresh: [u8; 32],
        _deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<[u8; 32], StoreError>> {
        Box::pin(async move { Outcome::Done(fresh) })
    }
}

impl CodePool for Ports {
    fn add_codes(
        &self,
        rows: Vec<Vec<Code>>,
        _deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<(), StoreError>> {
        Box::pin(async move { self.answer(|| lock(&self.pool).extend(rows)) })
    }

    fn claim_codes(
        &self,
        _deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Option<Vec<Code>>, StoreError>> {
        Box::pin(async move { self.answer(|| lock(&self.pool).pop_front()) })
    }

    fn pool_size(&self, _deadline: Deadline) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(async move {
            match self.fails() {
                Some(error) => Err(error),
                None => Ok(lock(&self.pool).iter().map(|row| row.len() as u64).sum()),
            }
        })
    }
}

impl RangeLeases for Ports {
    fn lease(&self, len: u64, _deadline: Deadline) -> BoxFuture<'_, Outcome<Range, StoreError>> {
        Box::pin(async move {
            // Others get a chance to pile up behind this lease.
            tokio::task::yield_now().await;
            self.answer(|| {
                self.leases.fetch_add(1, Ordering::Relaxed);
                if let Some(rest) = lock(&self.rests).pop() {
                    return rest;
                }
                let start = self.high.fetch_add(len, Ordering::Relaxed);
                Range { start, end: start + len }
            })
        })
    }

    fn give_back(
        &self,
        rest: Range,
        _deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<(), StoreError>> {
        Box::pin(async move { self.answer(|| lock(&self.rests).push(rest)) })
    }
}

fn soon() -> Deadline {
    Deadline::after(Instant::now(), Duration::from_secs(30))
}

fn settings(alphabet: &str, length: usize, max_length: usize, source: SourceKind) -> CodeSettings {
    CodeSettings { alphabet: Alphabet::parse(alphabet).unwrap(), length, max_length, source }
}

async fn open(settings: CodeSettings, ports: &Arc<Ports>) -> Allocator {
    let ports = CodePorts {
        meta: Arc::clone(ports) as _,
        pool: Arc::clone(ports) as _,
        leases: Arc::clone(ports) as _,
    };
    Allocator::open(settings, ports, soon()).await.unwrap()
}

/// Creates one link as the engine does: draws, tries, reports, until one is free.
async fn create(allocator: &Allocator, taken: &mut HashSet<Code>) -> Result<Code, AllocateError> {
    loop {
        let mut drawn = allocator.draw(4, soon()).await?.into_iter();
        let mut tried = 0;
        let mut made = None;
        for code in drawn.by_ref() {
            tried += 1;
            assert!(!is_reserved(code.as_str()), "{code} is reserved");
            if taken.insert(code.clone()) {
                made = Some(code);
                break;
            }
        }
        allocator.report(tried, tried - usize::from(made.is_some()));
        allocator.put_back(drawn.collect());
        if let Some(code) = made {
            return Ok(code);
        }
    }
}

fn reserved_of(alphabet: &str, length: usize) -> usize {
    // Every spelling of a reserved word with the letters at hand.
    RESERVED
        .iter()
        .filter(|word| word.len() == length)
        .map(|word| {
            word.chars()
                .map(|c| {
                    [c, c.to_ascii_uppercase()]
                        .into_iter()
                        .collect::<HashSet<_>>()
                        .into_iter()
                        .filter(|spelling| alphabet.contains(*spelling))
                        .count()
                })
                .product::<usize>()
        })
        .sum()
}

#[tokio::test]
async fn a_fixed_space_is_used_up_to_its_last_code_and_then_refused_fast() {
    let ports = Arc::new(Ports::default());
    let allocator = open(settings(Alphabet::BASE62, 2, 2, SourceKind::Random), &ports).await;
    let mut taken = HashSet::new();
    let mut made = HashSet::new();
    let mut refused = 0;
    for _ in 0..4_000 {
        let begin = Instant::now();
        match create(&allocator, &mut taken).await {
            Ok(code) => assert!(made.insert(code), "a code twice"),
            Err(error) => {
                assert_eq!(error, AllocateError::Exhausted { max_length: 2 });
                assert!(begin.elapsed() < Duration::from_millis(50), "{:?}", begin.elapsed());
                refused += 1;
            }
        }
    }
    let words = reserved_of(Alphabet::BASE62, 2);
    assert!(words >= 4, "js and qr in every case");
    assert_eq!(made.len(), 3_844 - words);
    assert_eq!(refused, 4_000 - made.len());
}

#[tokio::test]
async fn candidates_lost_on_the_way_are_found_by_another_walk() {
    let ports = Arc::new(Ports::default());
    let allocator = open(settings("abcdefgh", 2, 2, SourceKind::Random), &ports).await;
    let mut taken = HashSet::new();
    let mut lost = 0;
    let mut made = 0;
    loop {
        // Every seventh candidate gets lost: its client went away before the insert.
        if lost * 6 < made {
            lost += allocator.draw(1, soon()).await.map_or(1, |codes| codes.len());
        }
        match create(&allocator, &mut taken).await {
            Ok(_) => made += 1,
            Err(AllocateError::Exhausted { .. }) => break,
            Err(other) => panic!("{other}"),
        }
    }
    assert!(lost > 5);
    assert_eq!(made, 64, "no code of eight letters is reserved");
}

#[tokio::test]
async fn codes_get_longer_when_more_than_a_tenth_collide_and_stay_so() {
    let ports = Arc::new(Ports::default());
    let fresh = || settings("abcd", 3, 5, SourceKind::Random);
    let allocator = open(fresh(), &ports).await;
    let mut taken = HashSet::new();
    let mut lengths = Vec::new();
    for _ in 0..400 {
        let code = create(&allocator, &mut taken).await.unwrap();
        lengths.push(code.as_str().len());
    }
    assert!(lengths.is_sorted(), "never shorter again");
    assert_eq!(lengths.first(), Some(&3));
    assert_eq!(lengths.last(), Some(&5));
    let three = lengths.iter().filter(|l| **l == 3).count();
    assert!((10..=64).contains(&three), "{three} codes of length 3 before growing");
    // A restart begins at the length reached, another alphabet anew, a longer setting wins.
    assert_eq!(open(fresh(), &ports).await.length(), 5);
    assert_eq!(open(settings("dcba", 3, 5, SourceKind::Random), &ports).await.length(), 3);
    assert_eq!(open(settings("abcd", 9, 9, SourceKind::Random), &ports).await.length(), 9);
    assert_eq!(open(settings("abcd", 3, 4, SourceKind::Random), &ports).await.length(), 4);
}

#[tokio::test]
async fn a_length_that_could_not_be_stored_is_stored_by_a_later_draw() {
    let ports = Arc::new(Ports::default());
    let allocator = open(settings("abcd", 3, 5, SourceKind::Random), &ports).await;
    *lock(&ports.down) = Some(StoreError::Unavailable("cut".into()));
    allocator.report(26, 26);
    assert_eq!(allocator.length(), 4);
    assert_eq!(allocator.draw(1, soon()).await.unwrap()[0].as_str().len(), 4);
    assert!(lock(&ports.meta).is_empty());
    *lock(&ports.down) = None;
    allocator.draw(1, soon()).await.unwrap();
    assert_eq!(lock(&ports.meta).get("code-length"), Some(&b"4 abcd".to_vec()));
}

#[tokio::test]
async fn a_full_space_is_looked_at_again_after_a_while() {
    let ports = Arc::new(Ports::default());
    let settings = settings("ab", 1, 1, SourceKind::Random);
    let random = RandomSource::open(&settings, Arc::clone(&ports) as _, soon()).await.unwrap();
    let allocator = Allocator::over(Arc::new(random.with_recheck(Duration::ZERO)));
    let mut taken = HashSet::new();
    assert!(create(&allocator, &mut taken).await.is_ok());
    assert!(create(&allocator, &mut taken).await.is_ok());
    assert!(create(&allocator, &mut taken).await.is_err());
    // The same codes on another domain.
    let mut elsewhere = HashSet::new();
    assert!(create(&allocator, &mut elsewhere).await.is_ok());
    assert!(create(&allocator, &mut elsewhere).await.is_ok());
    assert!(create(&allocator, &mut elsewhere).await.is_err());
}

#[tokio::test]
async fn no_source_answers_a_reserved_word() {
    // An alphabet in which reserved words are frequent: api, app, qr, js, css, ...
    let letters = "apiqrjscs".chars().collect::<HashSet<_>>().into_iter().collect::<String>();
    for source in
        [SourceKind::Random, SourceKind::Pool { refill_below: 1 }, SourceKind::Range { lease: 100 }]
    {
        let ports = Arc::new(Ports::default());
        let allocator = open(settings(&letters, 2, 4, source), &ports).await;
        let mut seen = 0;
        while seen < 3_000 {
            match allocator.draw(500, soon()).await {
                Ok(codes) => {
                    seen += codes.len();
                    for code in codes {
                        assert!(!is_reserved(code.as_str()), "{code} from {source:?}");
                    }
                }
                Err(AllocateError::PoolEmpty) => tokio::task::yield_now().await,
                Err(other) => panic!("{source:?}: {other}"),
            }
        }
    }
}

#[tokio::test]
async fn the_pool_claims_rows_refills_itself_and_gives_its_rest_back() {
    let ports = Arc::new(Ports::default());
    let source = SourceKind::Pool { refill_below: 1_500 };
    let allocator = open(settings(Alphabet::BASE62, 7, 7, source), &ports).await;
    assert_eq!(allocator.pool_size(soon()).await, Ok(3_000), "filled at the start");
    let mut seen = HashSet::new();
    while seen.len() < 5_000 {
        match allocator.draw(300, soon()).await {
            Ok(codes) => codes.into_iter().for_each(|code| assert!(seen.insert(code))),
            Err(AllocateError::PoolEmpty) => tokio::task::yield_now().await,
            Err(other) => panic!("{other}"),
        }
    }
    let before = allocator.pool_size(soon()).await.unwrap();
    let in_hand = 1_000 - seen.len() as u64 % 1_000;
    allocator.shutdown(soon()).await.unwrap();
    assert_eq!(allocator.draw(1, soon()).await, Err(AllocateError::Stopped));
    let after = allocator.pool_size(soon()).await.unwrap();
    assert!(after >= before + in_hand % 1_000, "{before} + {in_hand} -> {after}");
}

#[tokio::test]
async fn an_empty_pool_says_so_until_it_is_filled() {
    let ports = Arc::new(Ports::default());
    let source = SourceKind::Pool { refill_below: 0 };
    let allocator = open(settings(Alphabet::BASE62, 7, 7, source), &ports).await;
    assert_eq!(allocator.draw(1, soon()).await, Err(AllocateError::PoolEmpty));
    let figures = allocator.pool_stats().unwrap();
    assert_eq!(figures.empty.load(Ordering::Relaxed), 1);
    let mut steps = Vec::new();
    let step = Duration::from_secs(5);
    assert_eq!(allocator.fill_pool(2_500, step, |n| steps.push(n)).await, Ok(2_500));
    assert_eq!(steps, [2_500], "one write");
    steps.clear();
    assert_eq!(allocator.fill_pool(0, step, |n| steps.push(n)).await, Ok(0));
    assert!(steps.is_empty());
    assert_eq!(lock(&ports.pool).iter().map(Vec::len).collect::<Vec<_>>(), [1_000, 1_000, 500]);
    assert_eq!(allocator.draw(10, soon()).await.map(|codes| codes.len()), Ok(10));
    assert_eq!(
        (figures.added.load(Ordering::Relaxed), figures.claimed.load(Ordering::Relaxed)),
        (3, 1)
    );
    *lock(&ports.down) = Some(StoreError::DiskFull);
    assert_eq!(allocator.draw(990, soon()).await.map(|codes| codes.len()), Ok(990), "in hand");
    let full = Err(AllocateError::Store(StoreError::DiskFull));
    assert_eq!(allocator.draw(1, soon()).await, full);
}

#[tokio::test]
async fn range_codes_never_repeat_across_clean_restarts_and_crashes() {
    let ports = Arc::new(Ports::default());
    let mut seen = HashSet::new();
    // 26^2 + 26^3 codes are more than are drawn here, so lengths change on the way.
    for life in 0..60 {
        let source = SourceKind::Range { lease: 37 };
        let allocator = open(settings("abcdefghijklmnopqrstuvwxyz", 2, 3, source), &ports).await;
        for _ in 0..25 {
            for code in allocator.draw(3, soon()).await.unwrap() {
                assert!(seen.insert(code.clone()), "{code} twice, life {life}");
            }
        }
        // Every third life crashes: it gives nothing back.
        if life % 3 != 0 {
            allocator.shutdown(soon()).await.unwrap();
            assert_eq!(allocator.draw(1, soon()).await, Err(AllocateError::Stopped));
        }
    }
    assert!(seen.len() > 4_000);
    let burned = ports.high.load(Ordering::Relaxed) as usize - seen.len();
    assert!(burned <= 20 * 37 + 80, "{burned} values burned by twenty crashes");
}

#[tokio::test]
async fn a_range_is_used_up_to_its_last_code() {
    let ports = Arc::new(Ports::default());
    let source = SourceKind::Range { lease: 10 };
    let allocator = open(settings("abc", 1, 3, source), &ports).await;
    let mut seen = HashSet::new();
    let error = loop {
        match allocator.draw(4, soon()).await {
            Ok(codes) => codes.into_iter().for_each(|code| assert!(seen.insert(code))),
            Err(error) => break error,
        }
    };
    assert_eq!(error, AllocateError::Exhausted { max_length: 3 });
    assert_eq!(seen.len(), 3 + 9 + 27);
    let leases = ports.leases.load(Ordering::Relaxed);
    assert!(allocator.draw(1, soon()).await.is_err());
    assert_eq!(ports.leases.load(Ordering::Relaxed), leases, "no lease for nothing");
}

#[tokio::test]
async fn callers_who_wait_share_one_lease() {
    let ports = Arc::new(Ports::default());
    let source = SourceKind::Range { lease: 1_000 };
    let allocator = Arc::new(open(settings(Alphabet::BASE62, 7, 7, source), &ports).await);
    let tasks: Vec<_> = (0..64)
        .map(|_| {
            let allocator = Arc::clone(&allocator);
            tokio::spawn(async move { allocator.draw(10, soon()).await.unwrap() })
        })
        .collect();
    let mut seen = HashSet::new();
    for task in tasks {
        task.await.unwrap().into_iter().for_each(|code| assert!(seen.insert(code)));
    }
    assert_eq!(seen.len(), 640);
    assert_eq!(ports.leases.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_damaged_key_is_named() {
    let ports = Arc::new(Ports::default());
    lock(&ports.meta).insert("range-key", vec![1, 2, 3]);
    let all = CodePorts {
        meta: Arc::clone(&ports) as _,
        pool: Arc::clone(&ports) as _,
        leases: Arc::clone(&ports) as _,
    };
    let source = SourceKind::Range { lease: 10 };
    let opened = Allocator::open(settings("abc", 1, 3, source), all, soon()).await;
    let error = opened.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(error.contains("range-key has 3 bytes"), "{error}");
}

#[test]
fn an_unknown_outcome_of_a_lease_is_unavailable() {
    let unknown: Outcome<(), StoreError> = Outcome::Unknown(UnknownCause::CommitFailed);
    assert!(matches!(settled(unknown), Err(AllocateError::Store(StoreError::Unavailable(_)))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Counter values to codes is injective over the change of lengths and complete: all codes but
    /// the reserved words come up.
    #[test]
    fn range_codes_are_a_bijection(
        key in any::<[u8; 32]>(),
        size in 2_usize..8,
        length in 1_usize..4,
        more in 0_usize..2,
    ) {
        let alphabet: String = "apiqrjsx".chars().take(size).collect();
        let codes =
            RangeCodes::new(Alphabet::parse(&alphabet).unwrap(), length, length + more, &key);
        let space: usize = (length..=length + more).map(|l| size.pow(l as u32)).sum();
        let mut seen = HashSet::new();
        let mut reserved = 0;
        for counter in 0..space as u64 {
            match codes.place(counter) {
                Place::Code(code) => prop_assert!(seen.insert(code)),
                Place::Reserved => reserved += 1,
                Place::Past => prop_assert!(false, "past at {counter} of {space}"),
            }
        }
        let words: usize = (length..=length + more).map(|l| reserved_of(&alphabet, l)).sum();
        prop_assert_eq!(reserved, words);
        prop_assert_eq!(seen.len() + words, space);
        prop_assert_eq!(codes.place(space as u64), Place::Past);
        prop_assert_eq!(codes.place(u64::MAX), Place::Past);
    }

    /// Very long codes, whose space no counter can hold: right length, right letters, distinct,
    /// and not all with the same beginning.
    #[test]
    fn long_range_codes_are_distinct(
        key in any::<[u8; 32]>(),
        length in 11_usize..=128,
        start in 0_u64..(1 << 59),
    ) {
        let codes = RangeCodes::new(Alphabet::default(), length, length, &key);
        let drawn: HashSet<String> = (start..start + 50)
            .filter_map(|counter| match codes.place(counter) {
                Place::Code(code) => Some(code.to_string()),
                Place::Reserved | Place::Past => None,
            })
            .collect();
        prop_assert_eq!(drawn.len(), 50);
        prop_assert!(drawn.iter().all(|code| code.len() == length));
        let heads: HashSet<&str> = drawn.iter().map(|code| &code[..1]).collect();
        prop_assert!(heads.len() > 10, "{heads:?}");
    }
}
