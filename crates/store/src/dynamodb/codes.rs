//! The pool of pre-generated codes, and leases of counter ranges.
//!
//! A row of the pool is two items: the codes in a partition of their own, and in one of a few
//! buckets how many there are. Whoever deletes the codes has them; what stands in a bucket is only
//! where to look, and is small enough to be counted.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shunt_domain::ports::{BoxFuture, CodePool, HighWater, Raised, Range, RangeLeases};
use shunt_domain::{Code, Deadline, Outcome, StoreError};

use super::DynamoStore;
use super::client::{Condition, Effect, Item, Session, keyed, side_by_side};
use super::error::{Failure, bad_value};
use super::item::{n, number, s, text};
use super::table::{Key, SK};
use crate::leases::let_go;

/// The most codes in one row of the pool.
const ROW_CODES: usize = 1_000;

/// How many buckets rows are spread over.
const BUCKETS: usize = 16;

/// How many rows of a bucket a claim looks at: with one of them by chance, those who claim at the
/// same time seldom meet.
const CANDIDATES: usize = 16;

/// The partition of rests that were given back, by their start.
const RESTS: &str = "range-rests";

/// How often a lease or a claim is tried that loses against others every time.
const ROUNDS: u32 = 100;

/// The bucket where the next row goes, or the next claim begins.
fn next_bucket() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    // Processes that start together begin at different places.
    NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(std::process::id() as usize) % BUCKETS
}

/// A number by chance, below `end`.
fn chance(end: usize) -> usize {
    RandomState::new().hash_one(0) as usize % end.max(1)
}

fn bucket(number: usize) -> String {
    format!("pool/{number:02}")
}

fn row_key(id: &str) -> Key {
    Key::alone(format!("pool-row/{id}"))
}

/// Stores one row: the codes first, so that nothing in a bucket is without them but for a claim
/// that is under way or broke off.
async fn add_row(session: &Session, codes: &[Code]) -> Result<(), Failure> {
    let id =
        format!("{:016x}{:016x}", RandomState::new().hash_one(0), RandomState::new().hash_one(1));
    let texts: Vec<&str> = codes.iter().map(Code::as_str).collect();
    let mut row = keyed(&row_key(&id));
    row.insert("codes".to_owned(), s(texts.join(" ")));
    session.put(Effect::Change, row, None).await?;
    let mut place = keyed(&Key::new(bucket(next_bucket()), id));
    place.insert("amount".to_owned(), n(texts.len()));
    session.put(Effect::Change, place, None).await.map(drop)
}

async fn add(session: &Session, rows: &[Vec<Code>]) -> Result<(), Failure> {
    let mut adding: Vec<BoxFuture<'_, Result<(), Failure>>> = Vec::new();
    for row in rows {
        for codes in row.chunks(ROW_CODES) {
            adding.push(Box::pin(add_row(session, codes)));
        }
    }
    side_by_side(session.batch, adding).await.into_iter().collect()
}

/// Takes a row out of one bucket; `None` when there is none.
async fn claim_from(session: &Session, number: usize) -> Result<Option<Vec<Code>>, Failure> {
    for _ in 0..ROUNDS {
        let places = session.partition(&bucket(number), CANDIDATES).await?;
        let Some(place) = places.get(chance(places.len())) else { return Ok(None) };
        let id = text(place, SK)?;
        let row = session.delete(Effect::Change, &row_key(id), Condition::present()).await?;
        let behind = Key::new(bucket(number), id);
        let gone = session.delete(Effect::Harmless, &behind, Condition::default());
        match row {
            Some(row) => {
                // A place that stays is taken away by whoever finds nothing behind it.
                let _ = gone.await;
                let codes = text(&row, "codes")?.split(' ');
                let codes = codes.map(|code| Code::parse(code).map_err(bad_value));
                return Ok(Some(codes.collect::<Result<_, _>>()?));
            }
            // Somebody else has it, and may have broken off before its place was taken away.
            None => drop(gone.await?),
        }
    }
    Err(StoreError::Unavailable("others take codes from the pool all the time".to_owned()).into())
}

async fn claim(session: &Session) -> Result<Option<Vec<Code>>, Failure> {
    let first = next_bucket();
    for step in 0..BUCKETS {
        if let Some(codes) = claim_from(session, (first + step) % BUCKETS).await? {
            return Ok(Some(codes));
        }
    }
    Ok(None)
}

async fn size(session: &Session) -> Result<u64, Failure> {
    let mut size = 0;
    let mut buckets: Vec<BoxFuture<'_, Result<Vec<Item>, Failure>>> = Vec::new();
    for number in 0..BUCKETS {
        buckets.push(Box::pin(async move { session.partition(&bucket(number), usize::MAX).await }));
    }
    for places in side_by_side(BUCKETS, buckets).await {
        for place in places? {
            size += number::<u64>(&place, "amount")?;
        }
    }
    Ok(size)
}

impl CodePool for DynamoStore {
    /// Rows are stored one by one: of an outcome that is unknown some may be there.
    fn add_codes(
        &self,
        rows: Vec<Vec<Code>>,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<(), StoreError>> {
        self.client().write(deadline, move |session| async move { add(&session, &rows).await })
    }

    fn claim_codes(
        &self,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Option<Vec<Code>>, StoreError>> {
        self.client().write(deadline, |session| async move { claim(&session).await })
    }

    fn pool_size(&self, deadline: Deadline) -> BoxFuture<'_, Result<u64, StoreError>> {
        self.client().read(deadline, |session| async move { size(&session).await })
    }
}

fn rest_key(start: u64) -> Key {
    Key::new(RESTS, format!("{start:020}"))
}

fn range_of(rest: &Item) -> Result<Range, StoreError> {
    let start = text(rest, SK)?.parse().map_err(|_| bad_value("the start of a rest"))?;
    Ok(Range { start, end: number(rest, "range_end")? })
}

/// Takes from the rests: a short one whole, the end of a long one.
async fn lease_rest(session: &Session, len: u64) -> Result<Option<Range>, Failure> {
    for _ in 0..ROUNDS {
        let rests = session.partition(RESTS, 1).await?;
        let Some(rest) = rests.first() else { return Ok(None) };
        let rest = range_of(rest)?;
        let same = Condition::new("range_end = :end").with(":end", n(rest.end));
        let key = rest_key(rest.start);
        let taken = if rest.end.saturating_sub(rest.start) <= len {
            let taken = session.delete(Effect::Change, &key, same).await?;
            taken.map(|_| rest)
        } else {
            let cut = rest.end - len;
            let text = "SET range_end = :cut";
            let taken =
                session.update(Effect::Change, &key, text, same.with(":cut", n(cut))).await?;
            taken.map(|_| Range { start: cut, end: rest.end })
        };
        if taken.is_some() {
            return Ok(taken);
        }
    }
    Err(StoreError::Unavailable("others lease ranges all the time".to_owned()).into())
}

/// The high-water mark.
fn mark() -> Key {
    Key::new("counter", "range")
}

/// Raises the mark to the end of what was proposed, unless it is beyond its start.
async fn raise(session: &Session, proposed: Range) -> Result<Raised, Failure> {
    // No counter comes to the upper half: whoever proposes it has lost its way.
    if proposed.start < proposed.end && i64::try_from(proposed.end).is_ok() {
        let below = Condition::new("attribute_not_exists(latest) OR latest <= :start")
            .with(":start", n(proposed.start))
            .with(":end", n(proposed.end));
        // An answer that is lost burns the values: repeated, the mark is beyond them.
        let raised = session.update(Effect::Harmless, &mark(), "SET latest = :end", below).await?;
        if raised.is_some() {
            return Ok(Raised::Yes);
        }
    }
    let mark = session.get(&mark(), true).await?;
    Ok(Raised::Beyond(mark.map_or(Ok(0), |mark| number(&mark, "latest"))?))
}

/// Takes from the rests first, else raises the high-water mark.
async fn lease(session: &Session, len: u64) -> Result<Range, Failure> {
    // At least one value makes progress.
    let len = len.max(1);
    if let Some(rest) = lease_rest(session, len).await? {
        return Ok(rest);
    }
    let Some(room) = u64::MAX.checked_sub(len) else { return Err(used_up()) };
    let key = mark();
    let below = Condition::new("attribute_not_exists(latest) OR latest <= :room")
        .with(":room", n(room))
        .with(":len", n(len));
    // An answer that is lost burns the values, as a crash would.
    let raised = session.update(Effect::Harmless, &key, "ADD latest :len", below).await?;
    let Some(raised) = raised else { return Err(used_up()) };
    let end: u64 = number(&raised, "latest")?;
    let start = end.checked_sub(len).ok_or_else(|| bad_value("the counter of ranges"))?;
    Ok(Range { start, end })
}

fn used_up() -> Failure {
    let text = "the counter of the range allocator is used up";
    Failure::Refused(StoreError::Unavailable(text.to_owned()))
}

type Leases = Mutex<BTreeMap<u64, u64>>;

fn lock(leases: &Leases) -> MutexGuard<'_, BTreeMap<u64, u64>> {
    leases.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RangeLeases for DynamoStore {
    fn lease(&self, len: u64, deadline: Deadline) -> BoxFuture<'_, Outcome<Range, StoreError>> {
        let leases = Arc::clone(&self.inner.leases);
        self.client().write(deadline, move |session| async move {
            let range = lease(&session, len).await?;
            lock(&leases).insert(range.start, range.end);
            Ok(range)
        })
    }

    fn give_back(&self, rest: Range, deadline: Deadline) -> BoxFuture<'_, Outcome<(), StoreError>> {
        Box::pin(async move {
            // First out of memory, so that two who give the same back do it once.
            if !let_go(&mut lock(&self.inner.leases), rest) {
                return Outcome::Done(());
            }
            let given = self.client().write(deadline, move |session| async move {
                let mut item = keyed(&rest_key(rest.start));
                item.insert("range_end".to_owned(), n(rest.end));
                if session.put(Effect::Change, item, Some(Condition::absent())).await? {
                    return Ok(());
                }
                Err(bad_value("a rest that was given back before it was leased").into())
            });
            let given = given.await;
            if matches!(given, Outcome::Refused(_)) {
                lock(&self.inner.leases).insert(rest.start, rest.end);
            }
            given
        })
    }
}

impl HighWater for DynamoStore {
    fn take_rest(
        &self,
        len: u64,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Option<Range>, StoreError>> {
        let leases = Arc::clone(&self.inner.leases);
        self.client().write(deadline, move |session| async move {
            let rest = lease_rest(&session, len.max(1)).await?;
            if let Some(range) = rest {
                lock(&leases).insert(range.start, range.end);
            }
            Ok(rest)
        })
    }

    fn raise(
        &self,
        proposed: Range,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Raised, StoreError>> {
        let leases = Arc::clone(&self.inner.leases);
        self.client().write(deadline, move |session| async move {
            let raised = raise(&session, proposed).await?;
            if raised == Raised::Yes {
                lock(&leases).insert(proposed.start, proposed.end);
            }
            Ok(raised)
        })
    }
}
