//! Rate limits that all nodes keep together: the rule of [`shunt_domain::limit::gcra`], carried out
//! where the instant is kept.
//!
//! The clock is that of the Redis node which has the key, so the nodes' own clocks don't matter. A
//! key ends when its allowance is full again. Keys hold hashes, never addresses.

use std::sync::Arc;

use redis::{Value, from_redis_value};
use shunt_domain::limit::{Counting, LimitAnswer, LimitKey, LimitSubject};
use shunt_domain::ports::{BoxFuture, RateLimiter, Use};
use shunt_domain::{Deadline, StoreError};

use crate::handle::{Handle, RedisError, Script};

/// One use. Key: the theoretical arrival time in microseconds since 1970. Arguments: the time in
/// which a unit comes back and the longest debt, in microseconds; amount; cost; 1 to count it
/// whether or not it is allowed. Answers whether it was, and how far ahead the arrival time is now.
///
/// Numbers of Lua are exact up to 2^53, which microseconds since 1970 reach in the year 2255.
const COUNT: &str = "\
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local emission, debt, amount, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local arrival = tonumber(redis.call('GET', KEYS[1]) or now) or now
local ahead = math.min(math.max(arrival - now, 0), debt)
local tell = ARGV[5] == '1'
local wanted = tell and 1 or math.min(cost, amount)
local allowed = ahead + wanted * emission <= amount * emission
if allowed or tell then
  ahead = math.min(ahead + cost * emission, debt)
  local life = math.max(math.ceil(ahead / 1000), 1)
  redis.call('SET', KEYS[1], string.format('%.0f', now + ahead), 'PX', string.format('%.0f', life))
end
return {allowed and 1 or 0, ahead}
";

/// Limits kept in Redis. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RedisLimiter {
    handle: Arc<Handle>,
    prefix: Arc<str>,
    script: Arc<Script>,
}

impl RedisLimiter {
    /// Limits behind this handle; `prefix` as for [`crate::RedisCache`].
    pub fn new(handle: Arc<Handle>, prefix: &str) -> Self {
        Self { handle, prefix: prefix.into(), script: Arc::new(Script::new(COUNT)) }
    }

    async fn ask(&self, used: Use, deadline: Deadline) -> Result<LimitAnswer, RedisError> {
        let rate = used.rate;
        let numbers = [
            rate.emission_micros().to_string(),
            rate.debt_micros().to_string(),
            rate.amount().to_string(),
            used.cost.to_string(),
            u8::from(used.counting == Counting::Tell).to_string(),
        ];
        let args = numbers.each_ref().map(String::as_bytes);
        let key = key(&self.prefix, &used.key);
        let answer = self.handle.script(&self.script, key.as_bytes(), &args, deadline).await?;
        let (allowed, ahead) = read(answer).ok_or(RedisError::Unexpected)?;
        Ok(LimitAnswer::new(rate, used.cost, used.counting, allowed, ahead))
    }
}

fn read(answer: Value) -> Option<(bool, u64)> {
    let (allowed, ahead): (u8, u64) = from_redis_value(answer).ok()?;
    Some((allowed == 1, ahead))
}

/// `PREFIX:limit:create:key:7`, `PREFIX:limit:login:client:` and 32 hexadecimal digits.
fn key(prefix: &str, key: &LimitKey) -> String {
    let kind = key.kind.name();
    match key.subject {
        LimitSubject::Key(id) => format!("{prefix}:limit:{kind}:key:{}", id.0),
        LimitSubject::Client(hash) => {
            format!("{prefix}:limit:{kind}:client:{:032x}", u128::from_be_bytes(hash.0))
        }
    }
}

impl RateLimiter for RedisLimiter {
    fn count(
        &self,
        used: Use,
        deadline: Deadline,
    ) -> BoxFuture<'_, Result<LimitAnswer, StoreError>> {
        Box::pin(async move {
            self.ask(used, deadline)
                .await
                .map_err(|error| StoreError::Unavailable(error.to_string()))
        })
    }
}

#[cfg(test)]
mod tests {
    use shunt_domain::ApiKeyId;
    use shunt_domain::limit::{ClientHash, LimitKind};

    use super::*;

    #[test]
    fn keys_hold_kind_and_subject_and_no_braces() {
        let of = |kind, subject| key("shunt", &LimitKey { kind, subject });
        assert_eq!(
            of(LimitKind::Create, LimitSubject::Key(ApiKeyId(7))),
            "shunt:limit:create:key:7"
        );
        assert_eq!(
            of(LimitKind::Login, LimitSubject::Client(ClientHash([1; 16]))),
            "shunt:limit:login:client:01010101010101010101010101010101"
        );
    }
}
