//! What every handler gets: the use cases and the settings of the HTTP side.

use std::sync::Arc;
use std::time::Instant;

use shunt_domain::Deadline;
use shunt_domain::ports::{Clock, RollupStore};
use shunt_engine::auth::Auth;
use shunt_engine::limits::Limits;
use shunt_engine::links::Links;
use shunt_engine::resolve::Resolver;

/// The state of the routers, cheap to clone.
pub type AppState = Arc<App>;

/// The use cases and settings behind the API and the pages.
pub struct App {
    /// Creates, reads, changes and lists links.
    pub links: Links,
    /// Knows API keys.
    pub auth: Auth,
    /// Knows who did too much.
    pub limits: Limits,
    /// Resolves codes for previews, QR codes and redirects that missed the hot path.
    pub resolver: Arc<Resolver>,
    /// Click totals.
    pub rollups: Arc<dyn RollupStore>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Settings.
    pub settings: Settings,
}

impl App {
    /// Until when a request that begins now waits for the stores.
    pub fn deadline(&self) -> Deadline {
        Deadline::after(Instant::now(), self.settings.request_timeout)
    }
}

/// Settings of the HTTP side.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Scheme, host and path under which the default domain's links are known to people, without a
    /// trailing slash: `http://127.0.0.1:8080`, `https://go.example/s`.
    pub base_url: String,
    /// Whether callers without an API key may create links from anywhere.
    pub anonymous_create: bool,
    /// Whether callers on this machine itself are limited as all others are.
    pub limit_loopback: bool,
    /// The largest body of an ordinary API request, in bytes.
    pub max_body: usize,
    /// How long a handler may take before it answers 503.
    pub request_timeout: std::time::Duration,
}

impl Settings {
    /// The path part of `base_url`: empty, or `/s`.
    pub fn base_path(&self) -> &str {
        let after_scheme = self.base_url.find("://").map_or(0, |at| at + 3);
        let rest = self.base_url.get(after_scheme..).unwrap_or_default();
        rest.find('/').and_then(|slash| rest.get(slash..)).unwrap_or_default()
    }
}
