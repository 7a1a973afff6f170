//! Where codes come from when nobody chose one.
//!
//! Invariants:
//! - a source produces *candidates*; only the insert into the store, judged by the primary key,
//!   gives a code out. No source is trusted to be free of collisions;
//! - no source ever answers a reserved word (`shunt_domain::reserved`);
//! - every draw is bounded: a full space is an error ([`AllocateError::Exhausted`]), never a loop.
//!
//! The caller draws, tries to create, and tells the allocator how it went ([`Allocator::report`]);
//! candidates it did not offer to the store go back by [`Allocator::put_back`]. The allocator
//! makes codes longer by what it is told.

mod alphabet;
mod bridge;
mod entropy;
mod growth;
mod permute;
mod pool;
mod random;
mod range;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shunt_domain::ports::{BoxFuture, CodePool, MetaStore, RangeLeases};
use shunt_domain::{Code, Deadline, Outcome, StoreError};

pub use alphabet::{Alphabet, AlphabetError};
pub use permute::Permutation;
pub use pool::{PoolSource, PoolStats, ROW};
pub use random::{LENGTH_META, RandomSource};
pub use range::{Place, RangeCodes, RangeSource};

/// Why no candidates could be drawn. No link was created by the failed draw.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AllocateError {
    /// Every code up to the maximum length was tried (507).
    #[error(
        "all codes of up to {max_length} characters are used up; raise links.code_max_length or \
         choose the code yourself"
    )]
    Exhausted {
        /// The configured maximum, in characters.
        max_length: usize,
    },
    /// The pool of pre-generated codes is empty (503, `pool-empty`).
    #[error("the pool of codes is empty; run `shunt keys fill` or set links.pool_refill_below")]
    PoolEmpty,
    /// The store that holds pool, leases or permutation key gave no answer (503, 507).
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The operating system gave no random bytes (500).
    #[error("the operating system gave no random bytes: {0}")]
    Entropy(String),
    /// The allocator was shut down (503).
    #[error("no codes are drawn while the server shuts down; try again")]
    Stopped,
}

/// Turns the outcome of a pool or lease write into a result. An unknown outcome only means that a
/// row or a lease may be burned; no link hangs on it, so it counts as "unavailable".
fn settled<T>(outcome: Outcome<T, StoreError>) -> Result<T, AllocateError> {
    match outcome {
        Outcome::Done(value) => Ok(value),
        Outcome::Refused(error) => Err(AllocateError::Store(error)),
        Outcome::Unknown(cause) => {
            Err(AllocateError::Store(StoreError::Unavailable(cause.to_string())))
        }
    }
}

/// Waits for `future` at most until the deadline.
async fn until<T>(deadline: Deadline, future: impl Future<Output = T>) -> Result<T, AllocateError> {
    tokio::time::timeout_at(deadline.instant().into(), future).await.map_err(|_| {
        let why = "the deadline passed while waiting for codes".to_owned();
        AllocateError::Store(StoreError::Unavailable(why))
    })
}

/// Locks a mutex of plain data: every critical section leaves it consistent, so a panic in another
/// thread does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A source of candidates.
pub trait CodeSource: Send + Sync {
    /// Between one and `n` candidates (none only for `n` = 0).
    ///
    /// # Errors
    /// [`AllocateError`].
    fn draw(&self, n: usize, deadline: Deadline)
    -> BoxFuture<'_, Result<Vec<Code>, AllocateError>>;

    /// How the primary key judged `drawn` candidates: `collided` of them were taken.
    fn report(&self, drawn: usize, collided: usize);

    /// Takes candidates back that were never offered to the store.
    fn put_back(&self, unused: Vec<Code>);

    /// Gives back what was claimed and not used; later draws fail. May be called twice.
    ///
    /// # Errors
    /// [`AllocateError::Store`]: the rest is burned, nothing else is lost.
    fn shutdown(&self, deadline: Deadline) -> BoxFuture<'_, Result<(), AllocateError>>;

    /// The length of the codes drawn now, in characters.
    fn length(&self) -> usize;
}

/// Which source to draw from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SourceKind {
    /// Random codes: the default.
    #[default]
    Random,
    /// Pre-generated rows of random codes.
    Pool {
        /// Refill in the background when fewer codes than this are left; 0 never refills.
        refill_below: u64,
    },
    /// Leased counter values through a keyed permutation.
    Range {
        /// Counter values per lease; a crash burns at most so many codes.
        lease: u64,
    },
}

/// Settings of the allocator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodeSettings {
    /// The characters of codes.
    pub alphabet: Alphabet,
    /// The length to begin with, 1 to 128 characters. A longer one reached earlier wins.
    pub length: usize,
    /// The longest length to grow to; at least `length`.
    pub max_length: usize,
    /// Where candidates come from.
    pub source: SourceKind,
}

impl Default for CodeSettings {
    fn default() -> Self {
        Self {
            alphabet: Alphabet::default(),
            length: 7,
            max_length: 16,
            source: SourceKind::Random,
        }
    }
}

impl CodeSettings {
    /// The same settings within their bounds.
    fn clamped(mut self) -> Self {
        self.length = self.length.clamp(1, Code::MAX_LEN);
        self.max_length = self.max_length.clamp(self.length, Code::MAX_LEN);
        self
    }
}

/// The ports that the sources need; each source uses its own.
#[derive(Clone)]
pub struct CodePorts {
    /// Keeps the length reached and the permutation key.
    pub meta: Arc<dyn MetaStore>,
    /// The pool.
    pub pool: Arc<dyn CodePool>,
    /// The leases.
    pub leases: Arc<dyn RangeLeases>,
}

/// Draws candidates for new links.
pub struct Allocator {
    source: Arc<dyn CodeSource>,
    filler: Option<Arc<PoolSource>>,
}

impl Allocator {
    /// Reads what the source needs of the store (length reached, permutation key) and, for a pool
    /// that refills itself, fills it if need be.
    ///
    /// # Errors
    /// [`AllocateError::Store`] or [`AllocateError::Entropy`].
    pub async fn open(
        settings: CodeSettings,
        ports: CodePorts,
        deadline: Deadline,
    ) -> Result<Self, AllocateError> {
        let settings = settings.clamped();
        let random =
            Arc::new(RandomSource::open(&settings, Arc::clone(&ports.meta), deadline).await?);
        let refill_below = match settings.source {
            SourceKind::Pool { refill_below } => refill_below,
            SourceKind::Random | SourceKind::Range { .. } => 0,
        };
        let pool = Arc::new(PoolSource::new(Arc::clone(&random), ports.pool, refill_below));
        let source: Arc<dyn CodeSource> = match settings.source {
            SourceKind::Random => random,
            SourceKind::Pool { .. } => {
                pool.refill(deadline).await?;
                Arc::clone(&pool) as _
            }
            SourceKind::Range { lease } => Arc::new(
                RangeSource::open(&settings, lease, ports.leases, &*ports.meta, deadline).await?,
            ),
        };
        Ok(Self { source, filler: Some(pool) })
    }

    /// An allocator over a source of one's own.
    pub fn over(source: Arc<dyn CodeSource>) -> Self {
        Self { source, filler: None }
    }

    /// Between one and `n` candidates (none only for `n` = 0). Batches may hold the same code
    /// twice when codes are very short; the primary key judges that too.
    ///
    /// # Errors
    /// [`AllocateError`].
    pub async fn draw(&self, n: usize, deadline: Deadline) -> Result<Vec<Code>, AllocateError> {
        self.source.draw(n, deadline).await
    }

    /// How the primary key judged `drawn` candidates: `collided` of them were taken, as a live
    /// link or as a tombstone. An unknown outcome counts as drawn and not collided.
    pub fn report(&self, drawn: usize, collided: usize) {
        self.source.report(drawn, collided);
    }

    /// Takes candidates back that were never offered to the store, so that a small space can be
    /// used up to its last code and no lease is wasted.
    pub fn put_back(&self, unused: Vec<Code>) {
        self.source.put_back(unused);
    }

    /// The length of the codes drawn now, in characters.
    pub fn length(&self) -> usize {
        self.source.length()
    }

    /// Adds `codes` random codes to the pool, in rows of [`ROW`]; `step` is the time each write may
    /// take, `progress` hears how many are in. Answers how many were added.
    ///
    /// # Errors
    /// [`AllocateError`]; rows added before stay.
    pub async fn fill_pool(
        &self,
        codes: u64,
        step: Duration,
        progress: impl FnMut(u64) + Send,
    ) -> Result<u64, AllocateError> {
        match &self.filler {
            Some(pool) => pool.fill(codes, step, progress).await,
            None => Err(AllocateError::Store(StoreError::Unsupported("a pool of codes"))),
        }
    }

    /// How many codes are left in the pool.
    ///
    /// # Errors
    /// [`AllocateError::Store`].
    pub async fn pool_size(&self, deadline: Deadline) -> Result<u64, AllocateError> {
        match &self.filler {
            Some(pool) => pool.size(deadline).await,
            None => Err(AllocateError::Store(StoreError::Unsupported("a pool of codes"))),
        }
    }

    /// Counters of the pool; `None` where there is none.
    pub fn pool_stats(&self) -> Option<&PoolStats> {
        self.filler.as_ref().map(|pool| pool.stats())
    }

    /// Gives back what was claimed and not used. Later draws fail with
    /// [`AllocateError::Stopped`].
    ///
    /// # Errors
    /// [`AllocateError::Store`]: the rest is burned, nothing else is lost.
    pub async fn shutdown(&self, deadline: Deadline) -> Result<(), AllocateError> {
        self.source.shutdown(deadline).await
    }
}

#[cfg(test)]
mod tests;
