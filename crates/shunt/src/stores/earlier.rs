//! What stands behind the configured store: another service's tables, and the store that this one
//! follows.

use std::sync::{Arc, OnceLock, Weak};

use anyhow::Context as _;
use shunt_domain::ports::{CreateOnce, LinkReader, LinkWriter};
use shunt_domain::target::{OwnHost, Reason};
use shunt_domain::{Target, TargetRules};
use shunt_http::app::{App, AppState};
use shunt_store::earlier::{Renumbered, WithEarlier};
use shunt_store::postgres::PostgresError;
use shunt_store::postgres::legacy::{LegacyTable, LegacyTargets};

use super::Stores;
use super::plain::Plain;
use crate::config::Config;

/// The store's ports with everything earlier behind them, for the engine. Who wants the store
/// alone, such as an import, takes [`Stores`].
pub struct Earlier {
    /// Reads one link, with every write that was answered before.
    pub reader: Arc<dyn LinkReader>,
    /// Reads one link for a redirect.
    pub redirects: Arc<dyn LinkReader>,
    /// Writes links.
    pub writer: Arc<dyn LinkWriter>,
    /// Makes a link and its idempotency row in one transaction, where the store can.
    pub once: Option<Arc<dyn CreateOnce>>,
    /// The other service's links.
    pub legacy: Option<Arc<LegacyTable>>,
    targets: Arc<Targets>,
    previous: Option<Plain>,
}

/// Judges the other service's targets by the rules of now.
struct Targets {
    /// The rules before there is an [`App`].
    at_start: TargetRules,
    app: OnceLock<Weak<App>>,
}

impl LegacyTargets for Targets {
    fn target(&self, code: &str, text: &str) -> Result<Target, Reason> {
        let judged = match self.app.get().and_then(Weak::upgrade) {
            Some(app) => Target::parse(text, app.links.domains().rules()),
            None => Target::parse(text, &self.at_start),
        };
        judged.inspect_err(|reason| {
            let (why, reason) = (reason.detail(), reason.code());
            tracing::warn!(code, reason, why, "the target of a legacy link is refused: it is gone");
        })
    }
}

impl Earlier {
    /// Opens what the settings name. Blocks.
    ///
    /// # Errors
    /// What is wrong with it. A legacy database that does not answer is none: its links are
    /// answered with 503 until it does.
    pub async fn open(config: &Config, base_url: &str, stores: &Stores) -> anyhow::Result<Self> {
        let targets = Arc::new(Targets {
            at_start: TargetRules {
                own_hosts: OwnHost::from_base_url(base_url).into_iter().collect(),
                extra_schemes: config.links.extra_schemes.clone(),
            },
            app: OnceLock::new(),
        });
        let mut earlier = Self {
            reader: Arc::clone(&stores.reader),
            redirects: Arc::clone(&stores.redirects),
            writer: Arc::clone(&stores.writer),
            once: stores.once.clone(),
            legacy: None,
            targets,
            previous: None,
        };
        if let Some(url) = &config.store.previous {
            let previous = Plain::read(url, config).await.context("open store.previous")?;
            let (there, here) = (Arc::clone(&previous.domains), Arc::clone(&stores.domains));
            let reader: Arc<dyn LinkReader> =
                Arc::new(Renumbered::new(Arc::clone(&previous.reader), there, here));
            earlier.put_behind(&reader);
            earlier.previous = Some(previous);
        }
        if let Some(options) = config.legacy.options() {
            let table = Arc::new(LegacyTable::open(options, earlier.targets.clone())?);
            let checked = Arc::clone(&table);
            let found = tokio::task::spawn_blocking(move || checked.check()).await;
            for error in found.context("look at the legacy databases")? {
                match error {
                    PostgresError::Unreachable { .. } => {
                        tracing::warn!(%error, "legacy links are answered with 503 until it does");
                    }
                    error => return Err(error).context("open the legacy databases"),
                }
            }
            let reader: Arc<dyn LinkReader> = table.clone();
            earlier.put_behind(&reader);
            earlier.legacy = Some(table);
        }
        Ok(earlier)
    }

    fn put_behind(&mut self, links: &Arc<dyn LinkReader>) {
        let with = |reader: &Arc<dyn LinkReader>| {
            let (reader, writer) = (Arc::clone(reader), Arc::clone(&self.writer));
            Arc::new(WithEarlier::new(reader, writer, self.once.clone(), Arc::clone(links)))
        };
        // What a redirect reads may be a standby's; whether a link is to be adopted is judged by
        // the primary.
        let (both, redirects) = (with(&self.reader), with(&self.redirects));
        self.redirects = redirects;
        self.reader = both.clone();
        self.writer = both.clone();
        self.once = self.once.take().map(|_| both as Arc<dyn CreateOnce>);
    }

    /// From now on targets are judged by this service's rules, registered domains included.
    pub fn serve(&self, app: &AppState) {
        // Once: there is one service in a process.
        let _ = self.targets.app.set(Arc::downgrade(app));
    }

    /// Ends all connections. Blocks.
    pub fn close(&self) {
        if let Some(legacy) = &self.legacy {
            legacy.close();
        }
        if let Some(previous) = &self.previous {
            previous.close();
        }
    }
}
