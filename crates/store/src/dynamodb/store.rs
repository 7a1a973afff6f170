//! The store as a whole: opening, closing, and what the ports share.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use shunt_domain::Outcome;
use tokio::sync::OnceCell;

use super::client::Condition;
use super::client::{Client, Effect, Session, count};
use super::error::{DynamoError, Failure};
use super::item::n;
use super::item::number;
use super::options::DynamoOptions;
use super::recent::Recent;
use super::table::{self, Created, Key};

/// Figures of a DynamoDB store, since it was opened.
#[derive(Debug, Default)]
pub struct DynamoStats {
    /// Requests made, repeated ones included.
    pub requests: AtomicU64,
    /// Requests made again, because they were throttled or their answers were lost.
    pub repeated: AtomicU64,
    /// Reads that were made again as consistent ones, because the first found nothing or something
    /// too old.
    pub confirmed: AtomicU64,
    /// Writes that are done.
    pub done: AtomicU64,
    /// Writes that were refused, by the store or by what is stored.
    pub refused: AtomicU64,
    /// Writes of which nobody knows.
    pub unknown: AtomicU64,
}

impl DynamoStats {
    pub(super) fn tally<T, R>(&self, outcome: &Outcome<T, R>) {
        count(match outcome {
            Outcome::Done(_) => &self.done,
            Outcome::Refused(_) => &self.refused,
            Outcome::Unknown(_) => &self.unknown,
        });
    }
}

/// Links, keys, settings and everything else but lists and clicks, in a DynamoDB table that any
/// number of processes share.
///
/// Cheap to clone. The last clone to go ends its connections; call [`DynamoStore::close`] before,
/// off the event loop, so that writes under way come to their end.
#[derive(Clone, Debug)]
pub struct DynamoStore {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) client: Client,
    pub(super) recent: Arc<Recent>,
    /// Ranges leased by this process and not given back: start and end.
    pub(super) leases: Arc<Mutex<BTreeMap<u64, u64>>>,
    pub(super) boot: Arc<Boot>,
    /// The hour in which this process last noted that attempts begin in it.
    pub(super) noted_hour: Arc<Mutex<Option<i64>>>,
    pub(super) stats: Arc<DynamoStats>,
}

/// Which life of which node this process is.
#[derive(Debug)]
pub(super) struct Boot {
    pub(super) node: u64,
    number: OnceCell<u64>,
}

impl Boot {
    pub(super) fn key(node: u64) -> Key {
        Key::alone(format!("boot/{node}"))
    }

    /// The number of this life, higher than that of any earlier one; noted when it is first asked
    /// for.
    pub(super) async fn number(&self, session: &Session) -> Result<u64, Failure> {
        let noting = || async {
            let step = Condition::default().with(":one", n(1));
            let key = Self::key(self.node);
            // A repeated request burns a number, which is no more than that.
            let item = session.update(Effect::Harmless, &key, "ADD latest :one", step).await?;
            Ok::<u64, Failure>(number(&item.unwrap_or_default(), "latest")?)
        };
        self.number.get_or_try_init(noting).await.copied()
    }
}

impl DynamoStore {
    /// Opens the store. The table need not be there: see [`Self::check`]. Blocks while the
    /// environment is looked through for region and credentials.
    ///
    /// # Errors
    /// [`DynamoError::Options`], [`DynamoError::NoRegion`].
    pub fn open(options: &DynamoOptions) -> Result<Self, DynamoError> {
        let stats = Arc::<DynamoStats>::default();
        let client = Client::start(options, Arc::clone(&stats))?;
        let inner = Inner {
            client,
            recent: Arc::new(Recent::new()),
            leases: Arc::default(),
            boot: Arc::new(Boot { node: options.node, number: OnceCell::new() }),
            noted_hour: Arc::default(),
            stats,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Makes the table unless it is there, and waits until it takes requests: some seconds on AWS.
    /// Blocks.
    ///
    /// # Errors
    /// [`DynamoError`] says what is in the way and what to do.
    pub fn migrate(&self) -> Result<Created, DynamoError> {
        self.at_start(table::MIGRATION, |session| async move { table::migrate(&session).await })
    }

    /// Whether the table can be asked, is ours, and has a format that this program knows. Blocks,
    /// for ten seconds at most.
    ///
    /// # Errors
    /// [`DynamoError`] says what is in the way and what to do.
    pub fn check(&self) -> Result<(), DynamoError> {
        self.at_start(table::CHECK, |session| async move { table::check(&session).await })
    }

    fn at_start<T, F, Fut>(&self, patience: std::time::Duration, op: F) -> Result<T, DynamoError>
    where
        T: Send + 'static,
        F: FnOnce(Session) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, DynamoError>> + Send + 'static,
    {
        let client = &self.inner.client;
        let done = client.block_on(patience, |session| async move { Ok(op(session).await) });
        done.unwrap_or_else(|error| {
            Err(DynamoError::Store { table: client.table().to_owned(), error })
        })
    }

    /// Takes no more work, lets requests that are under way come to their end (five seconds at
    /// most), and ends all connections. Blocks. What is asked of the store afterwards is refused
    /// as unavailable.
    pub fn close(&self) {
        self.inner.client.close();
    }

    /// Figures.
    pub fn stats(&self) -> &DynamoStats {
        &self.inner.stats
    }

    pub(super) fn client(&self) -> &Client {
        &self.inner.client
    }
}
