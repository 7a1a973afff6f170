//! The port of rate limits that several nodes share.

use super::BoxFuture;
use crate::limit::{Counting, LimitAnswer, LimitKey, Rate};
use crate::outcome::StoreError;
use crate::time::Deadline;

/// One use of an allowance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    /// Whose allowance, for what.
    pub key: LimitKey,
    /// How large it is.
    pub rate: Rate,
    /// Units.
    pub cost: u32,
    /// Before or after the fact.
    pub counting: Counting,
}

/// Counts uses by the rule of [`crate::limit::gcra`], for all nodes together. One network round
/// trip. Not idempotent: a use whose answer was lost may be counted.
pub trait RateLimiter: Send + Sync {
    /// Counts one use.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when nothing was heard until the deadline; the caller falls back
    /// to its own counts.
    fn count(
        &self,
        used: Use,
        deadline: Deadline,
    ) -> BoxFuture<'_, Result<LimitAnswer, StoreError>>;
}
