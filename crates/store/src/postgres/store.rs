//! The store as a whole: opening, closing, and what the ports share.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use shunt_domain::StoreError;
use tokio::sync::OnceCell;

use super::connect::Guide;
use super::create::PendingCreate;
use super::database::Database;
use super::error::{Failure, PostgresError};
use super::gather::Gather;
use super::migrate::{self, Migrated};
use super::options::PostgresOptions;
use super::place::{Counter, Places};
use super::row;
use super::session::Session;
use super::statements;
use super::stats::PostgresStats;

/// Links, keys, settings and everything else but clicks, in a PostgreSQL database that any number
/// of processes share.
///
/// Cheap to clone. The last clone to go ends its connections; call [`PostgresStore::close`] before,
/// off the event loop, so that writes under way come to their end.
#[derive(Clone, Debug)]
pub struct PostgresStore {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) database: Database,
    pub(super) places: Arc<Places>,
    pub(super) creates: Arc<Gather<PendingCreate>>,
    /// Ranges leased by this process and not given back: start and end.
    pub(super) leases: Arc<Mutex<BTreeMap<u64, u64>>>,
    pub(super) boot: Arc<Boot>,
}

/// Which life of which node this process is.
#[derive(Debug)]
pub(super) struct Boot {
    pub(super) node: i64,
    /// As in [`Together`].
    opened: i64,
    number: OnceCell<i64>,
}

impl Boot {
    /// The number of this life, higher than that of any earlier one; noted when it is first asked
    /// for.
    ///
    /// # Errors
    /// When the server can't be asked. An unknown outcome burns a number, so it is no more than
    /// that.
    pub(super) async fn number(&self, session: &Session) -> Result<i64, Failure> {
        let noting = || async {
            let rows = session.read(&statements::BOOT, &[&self.node, &self.opened]).await?;
            let row = rows.first().ok_or_else(|| missing("a boot"))?;
            Ok::<i64, Failure>(row::get(row, 0)?)
        };
        self.number.get_or_try_init(noting).await.copied()
    }
}

/// What the databases of one store share in a process: new links get their places from one counter,
/// and the process has one number as a life of its node.
#[derive(Clone, Debug)]
pub(crate) struct Together {
    counter: Arc<Counter>,
    /// When the store was opened, in microseconds since 1970.
    opened: i64,
}

impl Default for Together {
    fn default() -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let opened = i64::try_from(since.as_micros()).unwrap_or(i64::MAX);
        Self { counter: Arc::default(), opened }
    }
}

/// A statement that always answers a row answered none.
pub(super) fn missing(what: &str) -> StoreError {
    StoreError::Corrupt(format!("the server gave no answer where there must be {what}"))
}

impl PostgresStore {
    /// Opens the store. The server need not be there: connections are made in the background, and
    /// calls wait for them as long as their deadlines let them. See [`Self::check`].
    ///
    /// # Errors
    /// [`PostgresError::Options`].
    pub fn open(options: PostgresOptions) -> Result<Self, PostgresError> {
        Self::start(options, &Together::default(), None)
    }

    /// The same as one of several databases that are one store, and on a database whose primary
    /// moves: then every connection leads where the guide says.
    ///
    /// # Errors
    /// [`PostgresError::Options`].
    pub(crate) fn start(
        options: PostgresOptions,
        together: &Together,
        guide: Option<Arc<dyn Guide>>,
    ) -> Result<Self, PostgresError> {
        let boot = Boot {
            node: options.node.cast_signed(),
            opened: together.opened,
            number: OnceCell::new(),
        };
        let creates = Gather::new(options.writers, options.creates_per_statement);
        let database = Database::start(options, guide)?;
        let inner = Inner {
            database,
            places: Arc::new(Places::new(Arc::clone(&together.counter))),
            creates: Arc::new(creates),
            leases: Arc::default(),
            boot: Arc::new(boot),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Brings the database to the schema of this program; see [`migrate::migrate`].
    ///
    /// # Errors
    /// [`PostgresError`] says what is in the way and what to do.
    pub fn migrate(options: &PostgresOptions) -> Result<Migrated, PostgresError> {
        migrate::migrate(options)
    }

    /// Whether the server can be reached, lets us in, and has this program's schema. Blocks, for
    /// `connect_timeout` and one answer at most.
    ///
    /// # Errors
    /// [`PostgresError`] says what is in the way and what to do.
    pub fn check(&self) -> Result<(), PostgresError> {
        let database = &self.inner.database;
        let (connector, patience) =
            (Arc::clone(&database.connector), database.options.connect_timeout * 2);
        let checked = database.block_on(async move {
            let checking = tokio::time::timeout(patience, migrate::check(&connector));
            checking.await.unwrap_or_else(|_| {
                let address = connector.address().to_owned();
                Err(PostgresError::Unreachable { address, reason: "no answer".to_owned() })
            })
        });
        checked.unwrap_or_else(|error| Err(PostgresError::Options(error.to_string())))
    }

    /// Takes no more work, lets writes that are under way come to their end (five seconds at
    /// most), and ends all connections. Blocks. What is asked of the store afterwards is refused
    /// as unavailable.
    pub fn close(&self) {
        self.inner.database.close();
    }

    /// Figures.
    pub fn stats(&self) -> &PostgresStats {
        &self.inner.database.stats
    }

    /// Writes past their deadline and still under way, now.
    pub fn overdue(&self) -> u64 {
        self.inner.database.writers.overdue().count()
    }

    /// Spawns work on the store's own threads.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.inner.database.spawn(work);
    }

    /// Runs something on the threads of the store and waits for it.
    pub(crate) fn block_on<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.inner.database.block_on(work)
    }

    pub(super) fn database(&self) -> &Database {
        &self.inner.database
    }
}
