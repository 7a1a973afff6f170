//! Leases of counter values: proposed by a counter in Redis, given by the store.
//!
//! Redis may forget: a failover to a replica that was behind, an eviction or a FLUSHALL takes the
//! counter back, and then it proposes values a second time. So a proposal is worth nothing until
//! the store's high-water mark was raised over it, which one statement does for one owner only
//! (`UPDATE … WHERE high <= start`). A counter that fell behind is lifted to the mark. Values
//! between a refused proposal and the mark are nobody's; they are never given out.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use redis::{Value, from_redis_value};
use shunt_domain::ports::{BoxFuture, HighWater, Raised, Range, RangeLeases};
use shunt_domain::{Deadline, Outcome, StoreError};

use crate::handle::{Handle, RedisError, Script};

/// Takes a run, beginning at the mark if the counter is not between the mark and the bound beyond
/// it, or is no number. Arguments: the mark, the bound, the length. Answers the end of the run and
/// whether the counter was set to the mark. The end is a text: numbers of Lua are exact only up to 2^53, so they are compared as texts as well, by length,
/// then by digits.
const PROPOSE: &str = "\
local function less(a, b) return #a < #b or (#a == #b and a < b) end
local counter, mark, bound = redis.call('GET', KEYS[1]), ARGV[1], ARGV[2]
local lifted = 0
if not counter or not string.match(counter, '^[1-9]%d*$')
    or less(counter, mark) or less(bound, counter) then
  redis.call('SET', KEYS[1], mark)
  lifted = 1
end
redis.call('INCRBY', KEYS[1], ARGV[3])
return {redis.call('GET', KEYS[1]), lifted}
";

/// How far the counter may be beyond the mark that a process last saw: other nodes lease too, but
/// not so many values. Without a bound, one wrong value in Redis would use the code space up.
const AHEAD: u64 = 1 << 32;

/// Proposals that others were faster with, after which the store is asked for a lease of its own:
/// that one can't be refused.
const TRIES: u32 = 8;

/// Counters of the leases, for the metrics.
#[derive(Debug, Default)]
pub struct RangeStats {
    /// Runs that Redis proposed and the store gave.
    pub proposed: AtomicU64,
    /// Rests that were given again.
    pub rests: AtomicU64,
    /// Counters that were behind the mark, far beyond it, or gone.
    pub lifted: AtomicU64,
    /// Proposals that the store refused: another node knew a higher mark, or was faster.
    pub refused: AtomicU64,
    /// Leases that the store made without Redis.
    pub alone: AtomicU64,
}

/// Leases over a store, with the counter in Redis.
pub struct RedisRanges {
    handle: Arc<Handle>,
    script: Script,
    /// The counter's key: one, so one node of a cluster has it.
    key: String,
    store: Arc<dyn HighWater>,
    patience: Duration,
    /// The highest mark this process has seen; 0 before it saw any.
    mark: AtomicU64,
    stats: RangeStats,
}

impl RedisRanges {
    /// Leases that `store` judges; `prefix` as for [`crate::RedisCache`]. Redis has `patience` for
    /// a proposal.
    pub fn new(
        handle: Arc<Handle>,
        prefix: &str,
        store: Arc<dyn HighWater>,
        patience: Duration,
    ) -> Self {
        Self {
            handle,
            key: format!("{prefix}:range"),
            script: Script::new(PROPOSE),
            store,
            patience,
            mark: AtomicU64::new(0),
            stats: RangeStats::default(),
        }
    }

    /// Counters.
    pub const fn stats(&self) -> &RangeStats {
        &self.stats
    }

    async fn propose(&self, len: u64) -> Result<Range, RedisError> {
        let mark = self.mark.load(Ordering::Acquire);
        let bound = mark.saturating_add(AHEAD);
        let args = [mark.to_string(), bound.to_string(), len.to_string()];
        let args = args.each_ref().map(String::as_bytes);
        let deadline = Deadline::after(Instant::now(), self.patience);
        let answer = self.handle.script(&self.script, self.key.as_bytes(), &args, deadline).await?;
        let (end, lifted) = read(answer).ok_or(RedisError::Unexpected)?;
        if lifted {
            add(&self.stats.lifted);
        }
        let start = end.checked_sub(len).ok_or(RedisError::Unexpected)?;
        Ok(Range { start, end })
    }

    async fn take(&self, len: u64, deadline: Deadline) -> Outcome<Range, StoreError> {
        match self.store.take_rest(len, deadline).await {
            Outcome::Done(None) => {}
            Outcome::Done(Some(rest)) => {
                add(&self.stats.rests);
                return Outcome::Done(rest);
            }
            Outcome::Refused(error) => return Outcome::Refused(error),
            Outcome::Unknown(cause) => return Outcome::Unknown(cause),
        }
        // The first lease is the store's own, which tells where the mark is.
        let tries = if self.mark.load(Ordering::Acquire) == 0 { 0 } else { TRIES };
        for _ in 0..tries {
            let Ok(range) = self.propose(len).await else { break };
            match self.store.raise(range, deadline).await {
                Outcome::Done(Raised::Yes) => {
                    self.mark.fetch_max(range.end, Ordering::AcqRel);
                    add(&self.stats.proposed);
                    return Outcome::Done(range);
                }
                Outcome::Done(Raised::Beyond(mark)) => {
                    add(&self.stats.refused);
                    self.mark.fetch_max(mark, Ordering::AcqRel);
                }
                Outcome::Refused(error) => return Outcome::Refused(error),
                // It may be ours; then it is burned.
                Outcome::Unknown(cause) => return Outcome::Unknown(cause),
            }
        }
        let leased = self.store.lease(len, deadline).await;
        if let Outcome::Done(range) = &leased {
            add(&self.stats.alone);
            self.mark.fetch_max(range.end, Ordering::AcqRel);
        }
        leased
    }
}

fn read(answer: Value) -> Option<(u64, bool)> {
    let (end, lifted): (String, u8) = from_redis_value(answer).ok()?;
    // Redis counts in 64 bits with a sign.
    let end = end.parse::<u64>().ok().filter(|end| i64::try_from(*end).is_ok())?;
    Some((end, lifted == 1))
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl RangeLeases for RedisRanges {
    fn lease(&self, len: u64, deadline: Deadline) -> BoxFuture<'_, Outcome<Range, StoreError>> {
        Box::pin(self.take(len.max(1), deadline))
    }

    fn give_back(&self, rest: Range, deadline: Deadline) -> BoxFuture<'_, Outcome<(), StoreError>> {
        self.store.give_back(rest, deadline)
    }
}
