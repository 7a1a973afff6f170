//! The second cache tier.
//!
//! Invariants:
//! - a row is only ever replaced by one with a higher version: by one script, so by one server's
//!   one thread;
//! - "there is no such link" is never written over a row, and is gone after less than half a second.
//!
//! Keys are `PREFIX:l:DOMAIN:CODE`. A code has no braces, so that nobody can choose a slot by one.

use std::sync::Arc;
use std::time::Duration;

use redis::{Value, cmd};
use shunt_domain::ports::{
    ABSENT_TTL, BoxFuture, Cached, CachedLink, Clock, LinkCache, SharedError,
};
use shunt_domain::{Deadline, LinkKey, Version};

use crate::handle::{Handle, RedisError, Script};
use crate::value;

/// What a value begins with that the scripts understand: its format and the row's version.
/// `KEYS[1]` the key, `ARGV[1]` the value, `ARGV[2]` its time to live in milliseconds.
const PUT: &str = "\
local function version(value) \
  if #value < 9 or string.byte(value) ~= 1 then return -1 end \
  return (struct.unpack('>I8', value, 2)) \
end \
if version(redis.call('GETRANGE', KEYS[1], 0, 8)) >= version(ARGV[1]) then return 0 end \
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) \
return 1";

/// `KEYS[1]` the key, `ARGV[1]` the version in decimal. What this version of shunt can't read goes
/// as well.
const DROP_OLDER: &str = "\
local value = redis.call('GETRANGE', KEYS[1], 0, 8) \
if #value == 9 and string.byte(value) == 1 \
  and struct.unpack('>I8', value, 2) >= tonumber(ARGV[1]) then return 0 end \
return redis.call('UNLINK', KEYS[1])";

/// See the module.
pub struct RedisCache {
    handle: Arc<Handle>,
    prefix: String,
    ttl: String,
    clock: Arc<dyn Clock>,
    put: Script,
    drop_older: Script,
}

impl std::fmt::Debug for RedisCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisCache").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl RedisCache {
    /// `prefix` keeps several services on one Redis apart: letters and digits. `ttl` is how long a
    /// row stays that nobody writes again; what failovers may have brought back is gone after it.
    pub fn new(handle: Arc<Handle>, prefix: &str, ttl: Duration, clock: Arc<dyn Clock>) -> Self {
        Self {
            handle,
            prefix: prefix.to_owned(),
            ttl: ttl.as_millis().max(1).to_string(),
            clock,
            put: Script::new(PUT),
            drop_older: Script::new(DROP_OLDER),
        }
    }

    fn key(&self, key: &LinkKey) -> String {
        format!("{}:l:{}:{}", self.prefix, key.domain.0, key.code)
    }
}

impl From<RedisError> for SharedError {
    fn from(error: RedisError) -> Self {
        Self(error.to_string())
    }
}

impl LinkCache for RedisCache {
    fn get<'a>(
        &'a self,
        key: &'a LinkKey,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Option<Cached>, SharedError>> {
        Box::pin(async move {
            let name = self.key(key);
            let mut get = cmd("GET");
            get.arg(&name);
            match self.handle.run(name.as_bytes(), &get, deadline).await? {
                Value::Nil => Ok(None),
                Value::BulkString(value) => Ok(value::read(&value, self.clock.now())),
                _ => Err(RedisError::Unexpected.into()),
            }
        })
    }

    fn put<'a>(
        &'a self,
        key: &'a LinkKey,
        row: &'a CachedLink,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<(), SharedError>> {
        Box::pin(async move {
            let (name, value) = (self.key(key), value::row(row));
            let args = [value.as_slice(), self.ttl.as_bytes()];
            self.handle.script(&self.put, name.as_bytes(), &args, deadline).await?;
            Ok(())
        })
    }

    fn put_absent<'a>(
        &'a self,
        key: &'a LinkKey,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<(), SharedError>> {
        Box::pin(async move {
            let name = self.key(key);
            let ttl = u64::try_from(ABSENT_TTL.as_millis()).unwrap_or(1);
            let mut set = cmd("SET");
            set.arg(&name).arg(value::absent(self.clock.now())).arg("NX").arg("PX").arg(ttl);
            self.handle.run(name.as_bytes(), &set, deadline).await?;
            Ok(())
        })
    }

    fn drop_older<'a>(
        &'a self,
        key: &'a LinkKey,
        version: Version,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<(), SharedError>> {
        Box::pin(async move {
            let (name, version) = (self.key(key), version.0.to_string());
            let args = [version.as_bytes()];
            self.handle.script(&self.drop_older, name.as_bytes(), &args, deadline).await?;
            Ok(())
        })
    }
}
