//! Pre-generated codes: rows of a thousand are claimed durably, one at a time.
//!
//! The pool is drawn from the system's random numbers like any other code, so it may hold a code
//! twice, or one that somebody chose meanwhile. That is harmless: the links' primary key judges
//! each of them when it is used. Looking for duplicates beforehand would cost an index over the
//! whole pool and save one insert in a billion.
//!
//! A row that was claimed and not used up goes back at a clean shutdown and is burned by a crash.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use shunt_domain::ports::{BoxFuture, CodePool};
use shunt_domain::{Code, Deadline};

use super::random::RandomSource;
use super::{AllocateError, CodeSource, lock, settled, until};

/// Codes per row of the pool.
pub const ROW: usize = 1_000;

/// Rows in one write: large enough that a million codes are few transactions, small enough that
/// nobody waits long behind one and that progress is seen.
const ROWS: usize = 50;

/// How long one step of a refill in the background may take.
const REFILL_STEP: Duration = Duration::from_secs(10);

/// Counters of the pool, for the metrics.
#[derive(Debug, Default)]
pub struct PoolStats {
    /// Codes in the pool when it was last counted, which each claim and fill does.
    pub left: AtomicU64,
    /// Rows claimed by this process.
    pub claimed: AtomicU64,
    /// Rows added by this process, refills and fills by hand.
    pub added: AtomicU64,
    /// Refills that the low-water mark began.
    pub refills: AtomicU64,
    /// Claims that found nothing.
    pub empty: AtomicU64,
}

/// The pool source. Cheap to clone: all clones share the claimed row.
#[derive(Clone)]
pub struct PoolSource(Arc<Inner>);

struct Inner {
    random: Arc<RandomSource>,
    pool: Arc<dyn CodePool>,
    refill_below: u64,
    refilling: AtomicBool,
    /// Held while a row is claimed, so that callers who find nothing claim one row together.
    claiming: tokio::sync::Mutex<()>,
    hand: Mutex<Hand>,
    stats: PoolStats,
}

#[derive(Default)]
struct Hand {
    codes: Vec<Code>,
    stopped: bool,
}

impl PoolSource {
    /// A source over `pool`; `random` makes the codes of its rows.
    pub fn new(random: Arc<RandomSource>, pool: Arc<dyn CodePool>, refill_below: u64) -> Self {
        Self(Arc::new(Inner {
            random,
            pool,
            refill_below,
            refilling: AtomicBool::new(false),
            claiming: tokio::sync::Mutex::new(()),
            hand: Mutex::new(Hand::default()),
            stats: PoolStats::default(),
        }))
    }

    /// Counters.
    pub(super) fn stats(&self) -> &PoolStats {
        &self.0.stats
    }

    /// How many codes the pool holds, without the claimed rest.
    pub(super) async fn size(&self, deadline: Deadline) -> Result<u64, AllocateError> {
        let size = self.0.pool.pool_size(deadline).await?;
        self.0.stats.left.store(size, Ordering::Relaxed);
        Ok(size)
    }

    /// Adds `codes` codes, some rows per write, each of which may take `step`.
    pub(super) async fn fill(
        &self,
        codes: u64,
        step: Duration,
        mut progress: impl FnMut(u64) + Send,
    ) -> Result<u64, AllocateError> {
        let mut added = 0;
        while added < codes {
            added += self.add(codes - added, Deadline::after(Instant::now(), step)).await?;
            progress(added);
        }
        Ok(added)
    }

    /// Adds up to `codes` codes in one write, and answers how many.
    async fn add(&self, codes: u64, deadline: Deadline) -> Result<u64, AllocateError> {
        let mut left = usize::try_from(codes).unwrap_or(usize::MAX).min(ROW * ROWS);
        let (mut rows, mut count) = (Vec::new(), 0);
        while left > 0 {
            let row = self.0.random.draw(left.min(ROW), deadline).await?;
            left -= row.len();
            count += row.len() as u64;
            rows.push(row);
        }
        let added = rows.len() as u64;
        settled(self.0.pool.add_codes(rows, deadline).await)?;
        self.0.stats.added.fetch_add(added, Ordering::Relaxed);
        Ok(count)
    }

    /// Fills up to twice the low-water mark if there is less than it. Nodes that find so at the
    /// same time fill more than that together, which does no harm.
    pub(super) async fn refill(&self, deadline: Deadline) -> Result<(), AllocateError> {
        let mut size = self.size(deadline).await?;
        if size >= self.0.refill_below {
            return Ok(());
        }
        self.0.stats.refills.fetch_add(1, Ordering::Relaxed);
        while size < self.0.refill_below.saturating_mul(2) {
            let missing = self.0.refill_below.saturating_mul(2) - size;
            let step = Deadline::after(Instant::now(), REFILL_STEP);
            // Whole rows, as each takes one claim.
            size += self.add(missing.next_multiple_of(ROW as u64), step).await?;
        }
        self.0.stats.left.store(size, Ordering::Relaxed);
        Ok(())
    }

    /// Counts the pool in the background and refills it if need be; one task at a time. A failure
    /// is seen by the draw that finds the pool empty, and the next claim tries again.
    fn refill_in_background(&self) {
        if self.0.refilling.swap(true, Ordering::AcqRel) {
            return;
        }
        let source = self.clone();
        tokio::spawn(async move {
            let deadline = Deadline::after(Instant::now(), REFILL_STEP);
            let _retried_by_the_next_claim = source.refill(deadline).await;
            source.0.refilling.store(false, Ordering::Release);
        });
    }

    /// Takes up to `n` codes from the claimed row.
    fn take_from_hand(&self, n: usize) -> Result<Vec<Code>, AllocateError> {
        let mut hand = lock(&self.0.hand);
        if hand.stopped {
            return Err(AllocateError::Stopped);
        }
        let rest = hand.codes.len().saturating_sub(n);
        Ok(hand.codes.split_off(rest))
    }

    async fn claim(&self, n: usize, deadline: Deadline) -> Result<Vec<Code>, AllocateError> {
        let _claiming = until(deadline, self.0.claiming.lock()).await?;
        let codes = self.take_from_hand(n)?;
        if !codes.is_empty() {
            return Ok(codes);
        }
        let row = settled(self.0.pool.claim_codes(deadline).await)?;
        self.refill_in_background();
        let Some(row) = row else {
            self.0.stats.left.store(0, Ordering::Relaxed);
            self.0.stats.empty.fetch_add(1, Ordering::Relaxed);
            return Err(AllocateError::PoolEmpty);
        };
        self.0.stats.claimed.fetch_add(1, Ordering::Relaxed);
        // Stopped meanwhile: nothing is drawn any more, so the row goes back at once.
        if lock(&self.0.hand).stopped {
            settled(self.0.pool.add_codes(vec![row], deadline).await)?;
            return Err(AllocateError::Stopped);
        }
        // Rows written by an older version may hold words that were reserved since.
        let row = row.into_iter().filter(|c| !shunt_domain::reserved::is_reserved(c.as_str()));
        lock(&self.0.hand).codes.extend(row);
        self.take_from_hand(n)
    }
}

impl CodeSource for PoolSource {
    fn draw(
        &self,
        n: usize,
        deadline: Deadline,
    ) -> BoxFuture<'_, Result<Vec<Code>, AllocateError>> {
        Box::pin(async move {
            if n == 0 {
                return Ok(Vec::new());
            }
            loop {
                let codes = self.take_from_hand(n)?;
                if !codes.is_empty() {
                    return Ok(codes);
                }
                // A row whose words are all reserved is an odd one, not the end of the pool.
                let codes = self.claim(n, deadline).await?;
                if !codes.is_empty() {
                    return Ok(codes);
                }
            }
        })
    }

    fn report(&self, drawn: usize, collided: usize) {
        // The rows written from now on get longer codes.
        self.0.random.report(drawn, collided);
    }

    fn put_back(&self, unused: Vec<Code>) {
        lock(&self.0.hand).codes.extend(unused);
    }

    fn shutdown(&self, deadline: Deadline) -> BoxFuture<'_, Result<(), AllocateError>> {
        Box::pin(async move {
            let rest = {
                let mut hand = lock(&self.0.hand);
                hand.stopped = true;
                std::mem::take(&mut hand.codes)
            };
            if !rest.is_empty() {
                let rows = rest.chunks(ROW).map(<[Code]>::to_vec).collect();
                settled(self.0.pool.add_codes(rows, deadline).await)?;
            }
            self.0.random.shutdown(deadline).await
        })
    }

    fn length(&self) -> usize {
        self.0.random.length()
    }
}
