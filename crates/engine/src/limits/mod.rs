//! How much a caller may do in a time: making links, guessing codes, guessing keys.
//!
//! Invariants:
//! - a cached redirect is never limited and never comes by here;
//! - this process always counts for itself; what the nodes count together comes on top, under a
//!   deadline of its own. So a shared counter that is down, slow or emptied makes a limit less
//!   exact (each node for itself), never unlimited, and never fails a request;
//! - addresses are hashed under a secret key before anything else sees them.

mod local;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use sha2::{Digest, Sha256};
use shunt_domain::Deadline;
use shunt_domain::limit::{
    ClientHash, Counting, LimitAnswer, LimitKey, LimitKind, LimitSubject, Rate, customer,
};
use shunt_domain::ports::{RateLimiter, Use};

use self::local::Local;

/// The rates; `None` for what is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Links made with one API key. Admin keys are not limited: they may change the limits.
    pub creates_per_key: Option<Rate>,
    /// Links made from one address without an API key.
    pub creates_per_address: Option<Rate>,
    /// Look-ups of links that do not exist, from one address.
    pub misses: Option<Rate>,
    /// Bad credentials from one address.
    pub logins: Option<Rate>,
}

impl Rates {
    fn of(&self, key: &LimitKey) -> Option<Rate> {
        match (key.kind, key.subject) {
            (LimitKind::Create, LimitSubject::Key(_)) => self.creates_per_key,
            (LimitKind::Create, LimitSubject::Client(_)) => self.creates_per_address,
            (LimitKind::RedirectMiss, _) => self.misses,
            (LimitKind::Login, _) => self.logins,
        }
    }
}

/// Who found that there was nothing left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decided {
    /// This process alone.
    Local,
    /// The nodes together.
    Shared,
}

impl Decided {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Local, Self::Shared];

    /// Its name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Shared => "shared",
        }
    }
}

/// How somebody's allowance stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// For what.
    pub kind: LimitKind,
    /// How large it is.
    pub rate: Rate,
    /// What is left of it.
    pub answer: LimitAnswer,
}

/// Counters of the limits, for the metrics.
#[derive(Debug, Default)]
pub struct Stats {
    limited: [[AtomicU64; Decided::ALL.len()]; LimitKind::ALL.len()],
    alone: AtomicU64,
}

impl Stats {
    /// How often somebody was told that nothing is left.
    pub fn limited(&self, kind: LimitKind, decided: Decided) -> u64 {
        self.limited[kind as usize][decided as usize].load(Ordering::Relaxed)
    }

    /// How often the shared counter gave no answer, and this process counted alone.
    pub fn alone(&self) -> u64 {
        self.alone.load(Ordering::Relaxed)
    }
}

/// The counter that all nodes share.
struct Shared {
    limiter: Arc<dyn RateLimiter>,
    patience: Duration,
}

/// The limits of one process.
pub struct Limits {
    rates: Rates,
    local: Local,
    shared: Option<Shared>,
    secret: ArcSwap<[u8; 32]>,
    /// Whether the other nodes have the same secret.
    secret_shared: AtomicBool,
    stats: Stats,
}

impl Limits {
    /// Limits that this process keeps by itself. `secret` is random; it keys the hashes of
    /// addresses.
    pub fn new(rates: Rates, secret: [u8; 32]) -> Self {
        Self {
            rates,
            local: Local::new(),
            shared: None,
            secret: ArcSwap::from_pointee(secret),
            secret_shared: AtomicBool::new(false),
            stats: Stats::default(),
        }
    }

    /// The same limits, kept together with other nodes; the shared counter has `patience` to
    /// answer. All nodes need the same secret ([`Limits::share_secret`]).
    #[must_use]
    pub fn shared(mut self, limiter: Arc<dyn RateLimiter>, patience: Duration) -> Self {
        self.shared = Some(Shared { limiter, patience });
        self
    }

    /// Whether other nodes keep the same limits.
    pub const fn is_shared(&self) -> bool {
        self.shared.is_some()
    }

    /// Hashes addresses under this secret, which all nodes have, from now on. Everybody's allowance
    /// is full again.
    pub fn share_secret(&self, secret: [u8; 32]) {
        self.secret.store(Arc::new(secret));
        self.secret_shared.store(true, Ordering::Release);
    }

    /// Whether addresses are hashed as the other nodes hash them.
    pub fn secret_is_shared(&self) -> bool {
        self.secret_shared.load(Ordering::Acquire)
    }

    /// Counters.
    pub const fn stats(&self) -> &Stats {
        &self.stats
    }

    /// How many allowances this process remembers, and how many it can.
    pub fn remembered(&self) -> (usize, usize) {
        (self.local.len(), local::CAPACITY)
    }

    /// The rates.
    pub const fn rates(&self) -> &Rates {
        &self.rates
    }

    /// The [`customer`] at this address.
    pub fn client(&self, address: IpAddr) -> LimitSubject {
        let mut hash = Sha256::new();
        // The secret is as long as the state and everything has its length: nothing can be
        // appended to it.
        hash.update(**self.secret.load());
        hash.update(b"shunt limit\0");
        match customer(address) {
            IpAddr::V4(v4) => hash.update(v4.octets()),
            IpAddr::V6(v6) => hash.update(v6.octets()),
        }
        let mut short = [0; 16];
        short.copy_from_slice(&hash.finalize()[..16]);
        LimitSubject::Client(ClientHash(short))
    }

    /// Asks for `cost` units before something is done. `None` where there is no limit.
    pub async fn ask(&self, kind: LimitKind, subject: LimitSubject, cost: u32) -> Option<Quota> {
        self.count(kind, subject, cost, Counting::Ask).await
    }

    /// Counts `cost` units that were used. `None` where there is no limit.
    pub async fn tell(&self, kind: LimitKind, subject: LimitSubject, cost: u32) -> Option<Quota> {
        self.count(kind, subject, cost, Counting::Tell).await
    }

    /// The allowance, if this process knows that nothing is left of it. Asks nobody and counts
    /// nothing.
    pub fn spent(&self, kind: LimitKind, subject: LimitSubject) -> Option<Quota> {
        let key = LimitKey { kind, subject };
        let rate = self.rates.of(&key)?;
        let used = Use { key, rate, cost: 0, counting: Counting::Tell };
        let answer = self.local.look(used, Instant::now());
        if answer.allowed {
            return None;
        }
        self.refused(kind, Decided::Local);
        Some(Quota { kind, rate, answer })
    }

    async fn count(
        &self,
        kind: LimitKind,
        subject: LimitSubject,
        cost: u32,
        counting: Counting,
    ) -> Option<Quota> {
        let key = LimitKey { kind, subject };
        let rate = self.rates.of(&key)?;
        let used = Use { key, rate, cost, counting };
        let mut answer = self.local.count(used, Instant::now());
        let mut decided = Decided::Local;
        // What is refused here is not counted there: whoever hammers on costs one map look-up.
        if (answer.allowed || counting == Counting::Tell)
            && let Some(together) = self.together(used).await
        {
            if answer.allowed && !together.allowed {
                decided = Decided::Shared;
            }
            if together.remaining == 0 {
                self.local.catch_up(used, together, Instant::now());
            }
            answer = answer.and(together);
        }
        if !answer.allowed {
            self.refused(kind, decided);
        }
        Some(Quota { kind, rate, answer })
    }

    /// What the nodes' counter says; `None` without one, or when it does not answer in time.
    async fn together(&self, used: Use) -> Option<LimitAnswer> {
        let shared = self.shared.as_ref()?;
        let deadline = Deadline::after(Instant::now(), shared.patience);
        let counted = shared.limiter.count(used, deadline);
        match tokio::time::timeout_at(deadline.instant().into(), counted).await {
            Ok(Ok(answer)) => Some(answer),
            Ok(Err(_)) | Err(_) => {
                self.stats.alone.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    }

    fn refused(&self, kind: LimitKind, decided: Decided) {
        self.stats.limited[kind as usize][decided as usize].fetch_add(1, Ordering::Relaxed);
    }
}
