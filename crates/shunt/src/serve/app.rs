//! The wiring of store and engine without any listener: what `serve` and the CLI commands share.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use shunt_domain::Deadline;
use shunt_domain::ports::Clock;
use shunt_engine::auth::Auth;
use shunt_engine::clock::SystemClock;
use shunt_engine::codes::{Allocator, CodePorts};
use shunt_engine::domains::DomainMap;
use shunt_engine::idempotency::Idempotency;
use shunt_engine::links::{LinkSettings, Links, Ports};
use shunt_engine::resolve::{Options, Resolver};
use shunt_http::app::{App, AppState, Settings};
use shunt_redis::RedisRanges;

use super::codes::Ranges;
use super::sharing::{self, Redis};
use crate::config::Config;
use crate::stores::Stores;
use crate::stores::earlier::Earlier;
use crate::stores::import::LegacyImport;

/// How long the small reads and writes at the start may take.
const START_PATIENCE: Duration = Duration::from_secs(10);
/// How long one central decision about a click may take.
const CLAIM_PATIENCE: Duration = Duration::from_secs(5);

/// Who opens the store, and for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// The server: makes the data directory if it is missing, waits for a leaving predecessor.
    Serve {
        /// How long it waits.
        wait: Duration,
    },
    /// A command that works on an existing store.
    Existing,
    /// A command that may make the store (import into a fresh directory).
    Create,
}

/// The wired parts.
pub struct Built {
    /// What the routers get.
    pub app: AppState,
    /// The stores.
    pub stores: Stores,
    /// What stands behind them, and their ports with it.
    pub earlier: Earlier,
    /// Where codes come from.
    pub allocator: Arc<Allocator>,
    /// Ranges that Redis proposes, where there is one.
    pub ranges: Option<Arc<RedisRanges>>,
    /// Hosts of registered domains.
    pub domains: Arc<DomainMap>,
    /// The connections to Redis, if one is named.
    pub redis: Option<Redis>,
}

/// Opens the stores and wires the engine over them.
///
/// # Errors
/// What is in the way, with what to do.
pub async fn build_app(config: &Config, base_url: &str, mode: OpenMode) -> anyhow::Result<Built> {
    let stores = Stores::open(config, mode).await?;
    let earlier = Earlier::open(config, base_url, &stores).await?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let deadline = || Deadline::after(Instant::now(), START_PATIENCE);

    let (redis, sharing) = sharing::prepare(config, &stores, &clock, mode).await?;
    let ranges = Ranges::new(config, Arc::clone(&stores.leases), redis.as_ref());
    let ports = CodePorts {
        meta: Arc::clone(&stores.meta),
        pool: Arc::clone(&stores.pool),
        leases: ranges.leases,
    };
    let allocator = Allocator::open(config.code_settings(), ports, deadline())
        .await
        .context("prepare the code allocator")?;
    let allocator = Arc::new(allocator);
    let resolver = Resolver::build(
        Arc::clone(&earlier.redirects),
        Arc::clone(&earlier.writer),
        Arc::clone(&clock),
        Options {
            l1_bytes: config.cache.l1_bytes,
            negative_ttl: config.cache.negative_ttl,
            load_timeout: config.timeouts.load,
            claim_timeout: CLAIM_PATIENCE,
        },
        hash_key()?,
        sharing,
    );
    let domains = Arc::new(DomainMap::default());
    let links = Links::new(
        Ports {
            reader: Arc::clone(&earlier.reader),
            writer: Arc::clone(&earlier.writer),
            once: earlier.once.clone(),
            query: stores.query.clone(),
            domains: Arc::clone(&stores.domains),
            domain_map: Arc::clone(&domains),
            clock: Arc::clone(&clock),
        },
        Idempotency::new(Arc::clone(&stores.idempotency), Arc::clone(&clock)),
        allocator.clone(),
        resolver.clone(),
        LinkSettings {
            base_url: base_url.to_owned(),
            immutable: config.links.immutable,
            extra_schemes: config.links.extra_schemes.clone(),
        },
    );
    links.load_domains(deadline()).await.context("read the registered domains")?;
    let app = Arc::new(App {
        links,
        auth: Auth::new(Arc::clone(&stores.keys), Arc::clone(&clock)),
        limits: super::limits::limits(config, redis.as_ref())?,
        resolver,
        rollups: Arc::clone(&stores.rollups),
        clock,
        settings: Settings {
            base_url: base_url.to_owned(),
            anonymous_create: config.auth.anonymous_create,
            limit_loopback: config.limits.loopback,
            max_body: config.limits.max_body,
            request_timeout: config.timeouts.request,
        },
    });
    earlier.serve(&app);
    Ok(Built { app, stores, earlier, allocator, ranges: ranges.together, domains, redis })
}

/// Two random words for L1's keyed hash, new in each process.
fn hash_key() -> anyhow::Result<(u64, u64)> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).context("get random numbers from the system")?;
    let [low, high] = [0, 8].map(|at| {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[at..at + 8]);
        u64::from_le_bytes(word)
    });
    Ok((low, high))
}

impl Built {
    /// The API and the pages.
    pub fn router(&self) -> axum::Router {
        let local = crate::client::local_router(crate::client::LocalParts {
            app: Arc::clone(&self.app),
            backend: Arc::clone(&self.stores.backend),
            allocator: Arc::clone(&self.allocator),
            import: self
                .earlier
                .legacy
                .clone()
                .map(|legacy| LegacyImport::new(legacy, &self.stores)),
        });
        // Guarded by itself: on every way in but the socket it answers 404.
        shunt_http::router(Arc::clone(&self.app)).merge(local)
    }

    /// The one-time link that makes the first admin key; `None` when there is an admin already or
    /// the store can't say.
    pub async fn setup_link(&self) -> Option<String> {
        let deadline = Deadline::after(Instant::now(), START_PATIENCE);
        match self.app.auth.issue_setup_secret(deadline).await {
            Ok(secret) => secret.map(|secret| {
                format!("{}/setup?token={}", self.app.settings.base_url, secret.reveal())
            }),
            Err(error) => {
                tracing::warn!(%error, "no setup link could be made");
                None
            }
        }
    }

    /// Gives leases back and closes the stores, which frees the data directory.
    pub async fn close(self) {
        let deadline = Deadline::after(Instant::now(), START_PATIENCE);
        if let Err(error) = self.allocator.shutdown(deadline).await {
            tracing::warn!(%error, "unused codes could not be given back; they are skipped");
        }
        if let Some(redis) = &self.redis {
            redis.handle.close();
        }
        let (stores, earlier) = (self.stores, self.earlier);
        // Blocks while the last commits are finished.
        let closing = tokio::task::spawn_blocking(move || {
            earlier.close();
            stores.backend.close();
        });
        if closing.await.is_err() {
            tracing::error!("closing the store failed; the next start checks it");
        }
    }
}
