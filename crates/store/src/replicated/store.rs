//! The store as a whole: opening, closing, and what its parts share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use shunt_domain::StoreError;
use tokio::runtime::{Handle, Runtime};

use super::lookout::Lookout;
use super::recent::Recent;
use crate::postgres::{
    Copy, Guide, PostgresError, PostgresOptions, PostgresRollups, PostgresStore, Together, lock,
};

/// The most copies that one store has.
pub const MOST_COPIES: usize = 64;

/// Where the copies are, and when one of them is too old.
#[derive(Clone, Debug)]
pub struct ReplicatedOptions {
    /// How the primary is reached and used. Each of its hosts is a copy.
    pub primary: PostgresOptions,
    /// How each standby is reached. How it is used is said by `primary`.
    pub replicas: Vec<PostgresOptions>,
    /// Standbys that are further behind serve only when nothing else answers.
    pub max_lag: Duration,
}

impl ReplicatedOptions {
    /// The default of `max_lag`.
    pub const MAX_LAG: Duration = Duration::from_secs(10);

    /// One set of options for each copy, in the order of [`ReplicatedStore::copies`]: as they are
    /// named, the primary's first.
    pub fn copies(&self) -> Vec<PostgresOptions> {
        let mut copies: Vec<PostgresOptions> = Vec::new();
        for options in std::iter::once(&self.primary).chain(&self.replicas) {
            for host in &options.hosts {
                let hosts = vec![host.clone()];
                if copies.iter().all(|copy| copy.hosts != hosts) {
                    copies.push(PostgresOptions {
                        hosts,
                        user: options.user.clone(),
                        password: options.password.clone(),
                        database: options.database.clone(),
                        application_name: options.application_name.clone(),
                        tls: options.tls.clone(),
                        connect_timeout: options.connect_timeout,
                        ..self.primary.clone()
                    });
                }
            }
        }
        copies
    }
}

/// What is counted of reads, whichever copy they came from.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) primary_reads: AtomicU64,
    pub(super) confirmed_misses: AtomicU64,
    pub(super) confirmed_old: AtomicU64,
    pub(super) hedged: AtomicU64,
}

/// Figures of reads.
#[derive(Debug, Default)]
pub struct ReplicatedStats {
    pub(super) counts: Counts,
}

impl ReplicatedStats {
    /// Reads that the primary answered, confirmations included.
    pub fn primary_reads(&self) -> u64 {
        self.counts.primary_reads.load(Ordering::Relaxed)
    }

    /// Links that a standby did not have and for which the primary was asked.
    pub fn confirmed_misses(&self) -> u64 {
        self.counts.confirmed_misses.load(Ordering::Relaxed)
    }

    /// Links that a standby had in an older version than was needed and for which the primary was
    /// asked.
    pub fn confirmed_old(&self) -> u64 {
        self.counts.confirmed_old.load(Ordering::Relaxed)
    }

    /// Reads for which another copy was asked because one was silent.
    pub fn hedged(&self) -> u64 {
        self.counts.hedged.load(Ordering::Relaxed)
    }
}

/// A PostgreSQL database with any number of streaming standbys. Links are read from the nearest
/// copy, everything else is the primary's, whichever copy that is.
///
/// Cheap to clone. The last clone to go ends its connections; call [`ReplicatedStore::close`]
/// before, off the event loop, so that writes under way come to their end.
#[derive(Clone, Debug)]
pub struct ReplicatedStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    primary: PostgresStore,
    lookout: Arc<Lookout>,
    recent: Recent,
    stats: ReplicatedStats,
    /// All copies, for messages.
    address: String,
    runtime: Mutex<Option<Runtime>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Inner {
    fn stop(&self) {
        self.lookout.close();
        if let Some(runtime) = lock(&self.runtime).take() {
            runtime.shutdown_background();
        }
    }
}

impl ReplicatedStore {
    /// Opens the store. No server need be there: all are looked at in the background, and calls
    /// wait for that as long as their deadlines let them. See [`Self::check`].
    ///
    /// # Errors
    /// [`PostgresError::Options`].
    pub fn open(options: &ReplicatedOptions) -> Result<Self, PostgresError> {
        Self::start(options, &Together::default())
    }

    /// The same as one of several databases that are one store.
    ///
    /// # Errors
    /// [`PostgresError::Options`].
    pub(crate) fn start(
        options: &ReplicatedOptions,
        together: &Together,
    ) -> Result<Self, PostgresError> {
        let wrong = |what: String| PostgresError::Options(what);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(options.primary.io_threads.max(1))
            .thread_name("standbys")
            .enable_all()
            .build()
            .map_err(|error| wrong(format!("can't start threads for the standbys: {error}")))?;
        let lookout = lookout(options, runtime.handle())?;
        let address = lookout.copies().iter().map(|watched| watched.copy.address());
        let address = address.collect::<Vec<_>>().join(", ");
        let guide = lookout.clone();
        let primary = PostgresStore::start(options.primary.clone(), together, Some(guide))?;
        let inner = Inner {
            primary,
            lookout,
            recent: Recent::default(),
            stats: ReplicatedStats::default(),
            address,
            runtime: Mutex::new(Some(runtime)),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The roll-ups of the same database, wherever its primary is.
    ///
    /// # Errors
    /// [`PostgresError::Options`].
    pub fn rollups(&self, options: PostgresOptions) -> Result<PostgresRollups, PostgresError> {
        PostgresRollups::guided(options, self.inner.lookout.clone())
    }

    /// Whether there is a copy that lets us in and has this program's schema: the primary, or with
    /// no primary any standby. Blocks, for the time of two connections at most.
    ///
    /// # Errors
    /// [`PostgresError`] says what is in the way and what to do.
    pub fn check(&self) -> Result<(), PostgresError> {
        let lookout = Arc::clone(&self.inner.lookout);
        let checking = async move {
            lookout.first_look().await;
            let (views, elected) = lookout.views();
            let mut standbys: Vec<usize> = (0..views.len()).collect();
            standbys.retain(|at| views.get(*at).is_some_and(|view| view.report.is_some()));
            // The primary judges; without one any standby will do.
            let first = elected.primary.or_else(|| standbys.first().copied()).unwrap_or(0);
            match lookout.copies().get(first) {
                Some(watched) => watched.copy.check().await,
                None => Ok(()),
            }
        };
        let (reply, answer) = std::sync::mpsc::channel();
        let handle = lock(&self.inner.runtime).as_ref().map(|runtime| runtime.handle().clone());
        if let Some(handle) = handle {
            handle.spawn(async move {
                // Nobody waits only when the waiting thread was killed.
                let _ = reply.send(checking.await);
            });
        }
        let closed = |_| Err(PostgresError::Options("the store is shutting down".to_owned()));
        answer.recv().unwrap_or_else(closed)
    }

    /// Takes no more work, lets writes that are under way come to their end (five seconds at
    /// most), and ends all connections. Blocks. What is asked of the store afterwards is refused
    /// as unavailable.
    pub fn close(&self) {
        self.inner.primary.close();
        self.inner.stop();
    }

    /// The store of the primary, whichever copy that is: for all that is not read from standbys.
    pub fn primary(&self) -> &PostgresStore {
        &self.inner.primary
    }

    /// Figures of reads. Those of writes are the primary's.
    pub fn stats(&self) -> &ReplicatedStats {
        &self.inner.stats
    }

    /// All copies, for messages.
    pub fn address(&self) -> &str {
        &self.inner.address
    }

    pub(super) fn lookout(&self) -> &Lookout {
        &self.inner.lookout
    }

    pub(super) fn recent(&self) -> &Recent {
        &self.inner.recent
    }
}

/// Looks at all copies from now on.
fn lookout(options: &ReplicatedOptions, handle: &Handle) -> Result<Arc<Lookout>, PostgresError> {
    let all = options.copies();
    if all.len() > MOST_COPIES {
        return Err(PostgresError::Options(format!(
            "{} copies are named, {MOST_COPIES} can be used; name fewer",
            all.len()
        )));
    }
    let copy = |options| Copy::new(handle.clone(), options);
    let copies = all.into_iter().map(copy).collect::<Result<Vec<_>, _>>()?;
    let lookout = Lookout::new(copies, options.max_lag);
    lookout.start(handle);
    Ok(lookout)
}

/// Knows which copy is the primary, for somebody who has a single connection to it.
pub(crate) struct Watch(Arc<Lookout>);

impl Watch {
    /// Looks at the copies from now on, on the threads of this runtime.
    ///
    /// # Errors
    /// [`PostgresError::Options`].
    pub(crate) fn start(
        options: &ReplicatedOptions,
        handle: &Handle,
    ) -> Result<Self, PostgresError> {
        lookout(options, handle).map(Self)
    }

    /// Leads connections to the primary.
    pub(crate) fn guide(&self) -> Arc<dyn Guide> {
        self.0.clone()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Whether a store could not be asked, so that a copy may be asked instead.
pub(super) fn is_unreachable(error: &StoreError) -> bool {
    matches!(error, StoreError::Unavailable(_))
}
