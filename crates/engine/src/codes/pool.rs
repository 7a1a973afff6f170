//! Pre-generated codes: rows of a thousand are claimed durably, one at a time.
//!
//! A row that was claimed and not used up goes back at a clean shutdown and is burned by a crash.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use shunt_domain::ports::{BoxFuture, CodePool};
use shunt_domain::{Code, Deadline};

use super::random::RandomSource;
use super::{AllocateError, CodeSource, lock, settled, until};

/// Codes per row of the pool.
pub const ROW: usize = 1_000;

/// How long one step of a refill in the background may take.
const REFILL_STEP: Duration = Duration::from_secs(10);

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
        }))
    }

    /// How many codes the pool holds, without the claimed rest.
    pub(super) async fn size(&self, deadline: Deadline) -> Result<u64, AllocateError> {
        Ok(self.0.pool.pool_size(deadline).await?)
    }

    /// Adds `codes` codes, a row per write.
    pub(super) async fn fill(
        &self,
        codes: u64,
        step: Duration,
        mut progress: impl FnMut(u64) + Send,
    ) -> Result<u64, AllocateError> {
        let mut added = 0;
        while added < codes {
            let want = usize::try_from(codes - added).unwrap_or(ROW).min(ROW);
            added += self.add_row(want, Deadline::after(Instant::now(), step)).await?;
            progress(added);
        }
        Ok(added)
    }

    async fn add_row(&self, codes: usize, deadline: Deadline) -> Result<u64, AllocateError> {
        let row = self.0.random.draw(codes, deadline).await?;
        let count = row.len() as u64;
        settled(self.0.pool.add_codes(vec![row], deadline).await)?;
        Ok(count)
    }

    /// Fills up to twice the low-water mark if there is less than it. Does nothing without one.
    pub(super) async fn refill(&self, deadline: Deadline) -> Result<(), AllocateError> {
        let mut size = self.size(deadline).await?;
        if size >= self.0.refill_below {
            return Ok(());
        }
        while size < self.0.refill_below.saturating_mul(2) {
            let step = Deadline::after(Instant::now(), REFILL_STEP);
            size += self.add_row(ROW, step).await?;
        }
        Ok(())
    }

    /// Looks after the pool in the background; one task at a time. A failure is seen by the draw
    /// that finds the pool empty, and the next claim tries again.
    fn refill_in_background(&self) {
        if self.0.refill_below == 0 || self.0.refilling.swap(true, Ordering::AcqRel) {
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
            return Err(AllocateError::PoolEmpty);
        };
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
