//! What goes on beside the requests: signals, the day's visitor secret, certificates, old rows.

use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use shunt_domain::ports::MetaStore;
use shunt_domain::{Deadline, Outcome, Timestamp};
use shunt_http::listener::core::{Shared, VisitorSecret};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Started;
use super::limits::SharedSecret;
use crate::config::Config;

const PATIENCE: Duration = Duration::from_secs(5);

/// The signals a server listens to, from its first moment: one that comes while it starts must
/// not kill it half-way.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    replace: Signal,
}

impl Signals {
    /// Begins to listen. Within a runtime.
    pub(super) fn install() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("listen for SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("listen for SIGINT")?,
            hang_up: signal(SignalKind::hangup()).context("listen for SIGHUP")?,
            replace: signal(SignalKind::user_defined2()).context("listen for SIGUSR2")?,
        })
    }
}

/// Runs the background work until SIGTERM, SIGINT, or a successor that took the sockets.
pub(super) async fn until_told_to_stop(
    config: &Config,
    started: &Started,
    mut signals: Signals,
) -> anyhow::Result<()> {
    let mut second = tokio::time::interval(Duration::from_secs(1));
    let mut minute = tokio::time::interval(Duration::from_secs(60));
    let limits_secret = SharedSecret::new();
    let mut successor = std::pin::pin!(started.handover.taken());
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => return Ok(()),
            _ = signals.interrupt.recv() => return Ok(()),
            () = successor.as_mut() => return Ok(()),
            _ = signals.replace.recv() => super::handover::spawn_successor(config),
            _ = signals.hang_up.recv() => reload_certificates(started),
            _ = second.tick() => {
                reload_certificates(started);
                if secret_is_old(&started.shared) {
                    refresh(&started.shared, &*started.meta).await;
                }
                limits_secret.refresh(&started.shared.app.limits, &*started.meta).await;
            }
            _ = minute.tick() => purge(started).await,
        }
    }
}

fn reload_certificates(started: &Started) {
    let Some(certificates) = &started.certificates else { return };
    match certificates.reload_if_changed() {
        Ok(true) => tracing::info!("new TLS certificate in use"),
        Ok(false) => {}
        Err(error) => {
            tracing::error!(%error, "the new TLS certificate can't be used; the old one stays")
        }
    }
}

fn today() -> i64 {
    Timestamp::from(SystemTime::now()).day()
}

fn secret_is_old(shared: &Shared) -> bool {
    shared.visitor_secret.load().as_ref().is_none_or(|secret| secret.day != today())
}

/// Sees to a visitor secret for today. Without one redirects go on and clicks are counted, but
/// visitors are not told apart; it is tried again every second.
pub(super) async fn refresh(shared: &Shared, store: &dyn MetaStore) {
    if let Err(error) = refresh_visitor_secret(shared, store).await {
        // Yesterday's secret must not go on: no hashes at all until there is a new one.
        shared.visitor_secret.store(None);
        tracing::warn!(%error, "no visitor secret for today; visitors are not told apart");
    }
}

/// Puts today's visitor secret in use; the store destroys those of past days.
///
/// # Errors
/// If the store did not keep one.
async fn refresh_visitor_secret(shared: &Shared, store: &dyn MetaStore) -> anyhow::Result<()> {
    if !shared.options.hash_visitors {
        return Ok(());
    }
    let day = today();
    let mut fresh = [0; 32];
    getrandom::fill(&mut fresh).context("get random numbers from the system")?;
    let deadline = Deadline::after(Instant::now(), PATIENCE);
    match store.visitor_secret(day, fresh, deadline).await {
        Outcome::Done(secret) => {
            let secret = VisitorSecret { day, secret };
            shared.visitor_secret.store(Some(std::sync::Arc::new(secret)));
            Ok(())
        }
        Outcome::Refused(error) => Err(error).context("keep today's visitor secret"),
        Outcome::Unknown(cause) => anyhow::bail!("keep today's visitor secret: {cause}"),
    }
}

/// Forgets idempotency keys after their day.
async fn purge(started: &Started) {
    let deadline = Deadline::after(Instant::now(), PATIENCE);
    let idempotency = started.shared.app.links.idempotency();
    match idempotency.purge(deadline).await {
        Ok(0) => {}
        Ok(rows) => tracing::debug!(rows, "old idempotency keys forgotten"),
        Err(error) => tracing::warn!(%error, "old idempotency keys could not be forgotten"),
    }
}
