//! One copy of the database at one address, primary or standby: what it says of itself, and quick
//! reads from it.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use shunt_domain::{Deadline, DomainId, LinkKey, StoreError, Stored};
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_postgres::Row;

use super::connect::{Connected, Connector, Route};
use super::error::{Fault, PostgresError};
use super::options::PostgresOptions;
use super::readers::Readers;
use super::statements::copies;
use super::stats::PostgresStats;
use super::store::missing;
use super::{ShardRow, arcs, domains, meta, migrate, row};
use crate::sharded::map::Arcs;

/// What a copy says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    /// It is a standby.
    pub(crate) in_recovery: bool,
    /// How far it is: what it has written or replayed, in bytes of the log.
    pub(crate) position: u64,
    /// How much of the log it has received, 0 for a primary that never was a standby.
    pub(crate) received: u64,
    /// Its timeline: one more with every promotion.
    pub(crate) timeline: u64,
    /// Which cluster it is a copy of.
    pub(crate) system: i64,
    /// How long ago the last transaction was committed that it replayed, by its own clock; `None`
    /// for a primary, and for a standby that has replayed none since it was started.
    pub(crate) behind: Option<Duration>,
    /// It receives the log from somebody.
    pub(crate) streaming: bool,
}

impl Report {
    fn read(row: &Row) -> Result<Self, StoreError> {
        let behind: Option<i64> = row::get(row, 5)?;
        Ok(Self {
            in_recovery: row::get(row, 0)?,
            position: row::unsigned(row, 1)?,
            received: row::unsigned(row, 2)?,
            timeline: row::unsigned(row, 3)?,
            system: row::get(row, 4)?,
            behind: behind.map(|millis| Duration::from_millis(u64::try_from(millis).unwrap_or(0))),
            streaming: row::get(row, 6)?,
        })
    }
}

/// See the module.
pub(crate) struct Copy {
    options: PostgresOptions,
    route: Route,
    connector: Arc<Connector>,
    handle: Handle,
    looking: Mutex<Option<Connected>>,
    /// Started with the first read: the primary's never are.
    readers: OnceLock<Arc<Readers>>,
    stats: Arc<PostgresStats>,
}

impl std::fmt::Debug for Copy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Copy").field("connector", &self.connector).finish_non_exhaustive()
    }
}

impl Copy {
    /// A copy that is reached by these options; connects to nobody. Its connections live on the
    /// threads of `handle`.
    ///
    /// # Errors
    /// [`PostgresError::Options`].
    pub(crate) fn new(handle: Handle, options: PostgresOptions) -> Result<Self, PostgresError> {
        let stats = Arc::<PostgresStats>::default();
        Ok(Self {
            route: Route::new(&options)?,
            connector: Arc::new(Connector::new(&options, None, Arc::clone(&stats))?),
            options,
            handle,
            looking: Mutex::default(),
            readers: OnceLock::new(),
            stats,
        })
    }

    /// Its address, for messages.
    pub(crate) fn address(&self) -> &str {
        self.connector.address()
    }

    /// A way to it on which nothing was made yet.
    pub(crate) fn route(&self) -> Route {
        self.route.anew()
    }

    /// Asks it about itself; with the time that it took, without that of connecting.
    ///
    /// # Errors
    /// When it can't be reached, or does not answer within `patience` once it is.
    pub(crate) async fn look(&self, patience: Duration) -> Result<(Report, Duration), StoreError> {
        let mut kept = self.looking.lock().await;
        let connected = match kept.take().filter(|connected| !connected.client.is_closed()) {
            Some(connected) => connected,
            None => self.connector.connect().await.map_err(|fault| fault.store_error())?.0,
        };
        let begun = Instant::now();
        let asking = connected.client.query_typed(copies::POSITION.sql, &[]);
        let rows = match timeout(patience, asking).await {
            Ok(Ok(rows)) => rows,
            Ok(Err(error)) => {
                connected.cut();
                return Err(Fault::from(error).store_error());
            }
            Err(_) => {
                connected.cut();
                return Err(StoreError::Unavailable(format!("no answer within {patience:?}")));
            }
        };
        let took = begun.elapsed();
        *kept = Some(connected);
        self.connector.answered();
        Ok((Report::read(rows.first().ok_or_else(|| missing("a position"))?)?, took))
    }

    /// Whether it has this program's schema.
    ///
    /// # Errors
    /// [`PostgresError`] when it has not, or can't be asked.
    pub(crate) async fn check(&self) -> Result<(), PostgresError> {
        migrate::check(&self.connector).await
    }

    fn readers(&self) -> &Arc<Readers> {
        self.readers.get_or_init(|| {
            Readers::start(&self.handle, &self.connector, &self.stats, &self.options)
        })
    }

    /// One row of `links` as it is here.
    ///
    /// # Errors
    /// When it can't be asked or the deadline passes.
    pub(crate) async fn get(
        &self,
        key: LinkKey,
        deadline: Deadline,
    ) -> Result<Option<Stored>, StoreError> {
        self.readers().get(key, deadline).await
    }

    /// A setting as it is here.
    ///
    /// # Errors
    /// When it can't be asked or the deadline passes.
    pub(crate) async fn meta(
        &self,
        name: &'static str,
        deadline: Deadline,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        meta::value(self.readers(), name, deadline).await
    }

    /// All domains but the default one, as they are here.
    ///
    /// # Errors
    /// When it can't be asked or the deadline passes.
    pub(crate) async fn domains(
        &self,
        deadline: Deadline,
    ) -> Result<Vec<(DomainId, String)>, StoreError> {
        domains::registered(self.readers(), deadline).await
    }

    /// Which shard it is a copy of; `None` when of none.
    ///
    /// # Errors
    /// When it can't be asked or the deadline passes.
    pub(crate) async fn shard_row(
        &self,
        deadline: Deadline,
    ) -> Result<Option<ShardRow>, StoreError> {
        arcs::identity(self.readers(), deadline).await
    }

    /// The highest epoch of the arcs as they are here.
    ///
    /// # Errors
    /// When it can't be asked or the deadline passes.
    pub(crate) async fn arcs_epoch(&self, deadline: Deadline) -> Result<i64, StoreError> {
        arcs::epoch(self.readers(), deadline).await
    }

    /// All arcs as they are here.
    ///
    /// # Errors
    /// When it can't be asked or the deadline passes.
    pub(crate) async fn arcs(&self, deadline: Deadline) -> Result<Arcs, StoreError> {
        arcs::all(self.readers(), deadline).await
    }

    /// Makes no connections any more and ends those that there are.
    pub(crate) fn close(&self) {
        if let Some(readers) = self.readers.get() {
            readers.close();
        }
    }
}
