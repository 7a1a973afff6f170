//! The wiring of the limits, and their figures.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use shunt_domain::limit::LimitKind;
use shunt_domain::ports::MetaStore;
use shunt_domain::{Deadline, Outcome, Timestamp};
use shunt_engine::limits::{Decided, Limits, Rates};
use shunt_http::metrics::Sample;
use shunt_redis::RedisLimiter;

use super::sharing::Redis;
use crate::config::Config;

/// How long the store may take to tell the day's secret.
const PATIENCE: Duration = Duration::from_secs(2);

/// The limits as configured: kept by this process, and together with others where there is a Redis.
///
/// Addresses are hashed under a secret that nobody else has and that ends with the process, until
/// there is one that all nodes share ([`SharedSecret`]).
pub(super) fn limits(config: &Config, redis: Option<&Redis>) -> anyhow::Result<Limits> {
    let limits = &config.limits;
    let rates = Rates {
        creates_per_key: limits.creates_per_key,
        creates_per_address: limits.creates_per_address,
        misses: limits.misses,
        logins: limits.logins,
    };
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).context("get random numbers from the system")?;
    let kept = Limits::new(rates, secret);
    Ok(match redis {
        Some(redis) => {
            let limiter = RedisLimiter::new(Arc::clone(&redis.handle), &config.cache.prefix);
            kept.shared(Arc::new(limiter), limits.deadline)
        }
        None => kept,
    })
}

/// Sees to it that all nodes hash addresses alike: under the day's secret for visitor hashes, which
/// the store shares and destroys 48 hours after its day. So nothing that Redis ever held leads back
/// to an address once the secret is gone.
#[derive(Debug)]
pub(super) struct SharedSecret {
    /// The day whose secret is in use; none yet.
    day: AtomicI64,
}

impl SharedSecret {
    /// No secret is in use yet.
    pub(super) const fn new() -> Self {
        Self { day: AtomicI64::new(i64::MIN) }
    }

    /// Puts the day's secret in use if it is not yet. Called every second; asks the store once a
    /// day, and again as long as it does not answer: until then the limits of nodes differ, which
    /// makes them less exact.
    pub(super) async fn refresh(&self, limits: &Limits, store: &dyn MetaStore) {
        let day = Timestamp::from(SystemTime::now()).day();
        if !limits.is_shared() || self.day.load(Ordering::Relaxed) == day {
            return;
        }
        let mut fresh = [0; 32];
        if getrandom::fill(&mut fresh).is_err() {
            return;
        }
        let deadline = Deadline::after(Instant::now(), PATIENCE);
        match store.visitor_secret(day, fresh, deadline).await {
            Outcome::Done(secret) => {
                limits.share_secret(secret);
                self.day.store(day, Ordering::Relaxed);
            }
            Outcome::Refused(error) => {
                tracing::warn!(%error, "no shared secret for limits; each node counts addresses apart");
            }
            Outcome::Unknown(cause) => {
                tracing::warn!(%cause, "no shared secret for limits; each node counts addresses apart");
            }
        }
    }
}

/// What `/metrics` shows of the limits.
pub(super) fn samples(limits: &Limits) -> Vec<Sample> {
    let stats = limits.stats();
    let (remembered, capacity) = limits.remembered();
    let refused = LimitKind::ALL.into_iter().flat_map(|kind| {
        Decided::ALL.into_iter().map(move |decided| {
            Sample::counter("shunt_limited", "Uses beyond a limit", stats.limited(kind, decided))
                .with("kind", kind.name())
                .with("decided", decided.name())
        })
    });
    refused
        .chain([
            Sample::counter(
                "shunt_limits_alone",
                "Uses that the shared counter did not count in time",
                stats.alone(),
            ),
            Sample::gauge(
                "shunt_limits_together",
                "Whether addresses are counted together with other nodes",
                f64::from(u8::from(limits.is_shared() && limits.secret_is_shared())),
            ),
            Sample::gauge("shunt_limits_remembered", "Callers with a count", remembered as f64),
            Sample::gauge(
                "shunt_limits_capacity",
                "How many callers with a count are remembered",
                capacity as f64,
            ),
        ])
        .collect()
}
