//! The settings of the caches.

use std::time::Duration;

use super::super::super::CacheUrl;
use super::super::super::parse::{Raw, boolean, duration, path, size};
use super::super::{Flag, Setting};
use super::{DAY, KIB, MILLI, SECOND, TIB};

/// What keys in Redis may begin with. No braces: they would choose a node of a cluster.
fn prefix(text: &str) -> Result<String, String> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if text.is_empty() || text.len() > 64 || !text.bytes().all(good) {
        return Err("write 1 to 64 letters, digits, - and _".to_owned());
    }
    Ok(text.to_owned())
}

/// The settings of the caches.
pub(super) const PART: &[Setting] = &[
    setting!(
        secret
        "cache.url",
        "SHUNT_CACHE",
        Flag::Serve("cache"),
        "none",
        "URL or none",
        "The Redis that several nodes over one store share: a second cache tier, and the bus that \
         tells edits to all nodes within a second. redis://:password@host:6379/0, rediss:// with \
         TLS, or a cluster: redis-cluster://:password@host1,host2,host3. Redirects go on without \
         it. Give it maxmemory and the policy allkeys-lru.",
        to!(cache.url, |raw: &Raw| CacheUrl::parse(raw.text()?))
    ),
    setting!(
        "cache.ca",
        "SHUNT_CACHE_CA",
        Flag::No,
        "",
        "path",
        "The certificate authorities (PEM) to trust when Redis is spoken to over TLS. Empty: the \
         system's.",
        to!(cache.ca, path)
    ),
    setting!(
        "cache.prefix",
        "SHUNT_CACHE_PREFIX",
        Flag::No,
        "shunt",
        "name",
        "What every key and channel in Redis begins with: letters, digits, - and _. Nodes over one \
         store have the same; services that share a Redis have different ones.",
        to!(cache.prefix, |raw: &Raw| prefix(raw.text()?))
    ),
    setting!(
        "cache.l2",
        "SHUNT_CACHE_L2",
        Flag::No,
        "true",
        "true or false",
        "Whether links are cached in Redis. false: it carries edits and limits only, and every link \
         that is not in L1 is read from the store.",
        to!(cache.l2, boolean)
    ),
    setting!(
        "cache.l2_ttl",
        "SHUNT_CACHE_L2_TTL",
        Flag::No,
        "10m",
        "duration",
        "How long a link stays in Redis that nobody writes again. Too high: what a failover of \
         Redis brings back from before an edit lives longer. Too low: more reads of the store.",
        to!(cache.l2_ttl, |raw| duration(raw, SECOND..=DAY))
    ),
    setting!(
        "cache.l2_deadline",
        "SHUNT_CACHE_L2_DEADLINE",
        Flag::No,
        "40ms",
        "duration",
        "How long a redirect that is not in L1 waits for Redis before it asks the store. Too high: \
         slow redirects in the second until a hung Redis is noticed. Too low: Redis is asked in \
         vain.",
        to!(cache.l2_deadline, |raw| duration(raw, MILLI..=SECOND))
    ),
    setting!(
        "cache.l1_bytes",
        "SHUNT_CACHE_L1_BYTES",
        Flag::No,
        "128MiB",
        "size",
        "The bound of the cache in this process; a link takes about 110 bytes and its target. Too \
         high: memory. Too low: more redirects have to ask the store.",
        to!(cache.l1_bytes, |raw| size(raw, (64 * KIB)..=TIB))
    ),
    setting!(
        "cache.max_stale",
        "SHUNT_CACHE_MAX_STALE",
        Flag::No,
        "24h",
        "duration",
        "How long a cached link goes on being served while the store does not answer at all. Too \
         high: a link taken down elsewhere is served longer in an outage. Too low: an outage of \
         the store becomes one of the redirects.",
        to!(cache.max_stale, |raw| duration(raw, Duration::ZERO..=(DAY * 30)))
    ),
    setting!(
        "cache.negative_ttl",
        "SHUNT_CACHE_NEGATIVE_TTL",
        Flag::No,
        "1s",
        "duration",
        "How long \"there is no such link\" is repeated without asking the store; at most 1s. Too \
         low: scans for codes reach the store.",
        to!(cache.negative_ttl, |raw| duration(raw, Duration::ZERO..=SECOND))
    ),
];
