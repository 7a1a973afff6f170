//! Making connections, and the task that carries each: it hears the server's warnings.
//!
//! Invariants: nothing of a session is relied on (no prepared statement, no setting), so that a
//! pooler may lend us another server for each transaction; a warning is counted before the answer
//! that follows it is handed over.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use shunt_domain::ports::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{Instant, sleep_until};
use tokio_postgres::config::{SslMode, TargetSessionAttrs};
use tokio_postgres::error::Severity;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{AsyncMessage, Client, Config, Connection, NoTls, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::error::{Fault, PostgresError};
use super::options::{PostgresOptions, TlsMode};
use super::pool::{FIRST_PAUSE, lock};
use super::statements;
use super::stats::{PostgresStats, count};

/// How long a silent peer is trusted. Together with the probes below a dead one is found within
/// ten seconds, whether something was sent to it or not.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_PROBES: u32 = 2;
const UNACKNOWLEDGED: Duration = Duration::from_secs(8);

/// The warnings that a server has sent on one connection.
#[derive(Debug, Default)]
pub(super) struct Warnings(AtomicU64);

impl Warnings {
    /// How many there were so far.
    pub(super) fn count(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// A living connection; clones share it. It ends in good order when the last one goes and nothing
/// is under way on it.
#[derive(Clone, Debug)]
pub(super) struct Connected {
    pub(super) client: Arc<Client>,
    pub(super) warnings: Arc<Warnings>,
    /// Whether the server is the coordinator of a Citus cluster.
    pub(super) is_cluster: bool,
    carrier: AbortHandle,
}

impl Connected {
    /// Ends it at once, whatever is under way.
    pub(super) fn cut(&self) {
        self.carrier.abort();
    }
}

/// Where connections lead, and those that were made there.
pub(crate) struct Route {
    config: Config,
    tls: Option<MakeRustlsConnect>,
    made: Mutex<Made>,
    /// Asked on the first connection; a database does not become a cluster's while we use it.
    is_cluster: OnceLock<bool>,
}

/// What was made on a route.
#[derive(Default)]
struct Made {
    closed: bool,
    carriers: Vec<AbortHandle>,
}

impl std::fmt::Debug for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Route").finish_non_exhaustive()
    }
}

impl Route {
    /// Reads the files that the options name; connects to nobody.
    ///
    /// # Errors
    /// [`PostgresError::Options`].
    pub(crate) fn new(options: &PostgresOptions) -> Result<Self, PostgresError> {
        let wrong = |what: &str| Err(PostgresError::Options(what.to_owned()));
        if options.hosts.is_empty() {
            return wrong("no PostgreSQL host was named; name at least one");
        }
        let mut config = Config::new();
        for (host, port) in &options.hosts {
            config.host(host).port(*port);
        }
        config
            .user(&options.user)
            .dbname(&options.database)
            .application_name(&options.application_name)
            .connect_timeout(options.connect_timeout)
            .tcp_user_timeout(UNACKNOWLEDGED)
            .keepalives(true)
            .keepalives_idle(KEEPALIVE_IDLE)
            .keepalives_interval(KEEPALIVE_INTERVAL)
            .keepalives_retries(KEEPALIVE_PROBES);
        if let Some(password) = &options.password {
            config.password(password.reveal());
        }
        if options.hosts.len() > 1 {
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        let tls = match &options.tls {
            TlsMode::Off => {
                config.ssl_mode(SslMode::Disable);
                None
            }
            TlsMode::Verified { authorities } => {
                config.ssl_mode(SslMode::Require);
                Some(MakeRustlsConnect::new(tls_config(authorities)?))
            }
        };
        Ok(Self { config, tls, made: Mutex::default(), is_cluster: OnceLock::new() })
    }

    /// The same way, on which nothing was made yet.
    pub(crate) fn anew(&self) -> Self {
        Self {
            config: self.config.clone(),
            tls: self.tls.clone(),
            made: Mutex::default(),
            is_cluster: self.is_cluster.clone(),
        }
    }

    /// Ends all that was made here, whatever is under way on it, and lets nobody come here again.
    pub(crate) fn close(&self) {
        let mut made = lock(&self.made);
        made.closed = true;
        made.carriers.drain(..).for_each(|carrier| carrier.abort());
    }

    async fn connect(&self) -> Result<(Connected, JoinHandle<()>), Fault> {
        let (connected, task) = match &self.tls {
            None => self.connect_by(NoTls).await?,
            Some(tls) => self.connect_by(tls.clone()).await?,
        };
        let mut made = lock(&self.made);
        if made.closed {
            connected.cut();
            return Err(Fault::lost("the primary moved while a connection to it was made"));
        }
        made.carriers.retain(|carrier| !carrier.is_finished());
        made.carriers.push(connected.carrier.clone());
        drop(made);
        Ok((connected, task))
    }

    async fn connect_by<T>(&self, tls: T) -> Result<(Connected, JoinHandle<()>), Fault>
    where
        T: MakeTlsConnect<Socket>,
        T::Stream: Send + 'static,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        let (client, connection) = self.config.connect(tls).await?;
        let warnings = Arc::<Warnings>::default();
        let task = tokio::spawn(carry(connection, Arc::clone(&warnings)));
        let carrier = task.abort_handle();
        let is_cluster = match self.is_cluster.get() {
            Some(known) => *known,
            None => {
                let rows = client.query_typed(statements::CLUSTER.sql, &[]).await?;
                let found = rows.first().is_some_and(|row| row.try_get(0).unwrap_or(false));
                *self.is_cluster.get_or_init(|| found)
            }
        };
        Ok((Connected { client: Arc::new(client), warnings, is_cluster, carrier }, task))
    }
}

/// Knows the way to a primary that moves.
pub(crate) trait Guide: Send + Sync {
    /// The way to it.
    ///
    /// # Errors
    /// When no copy takes writes.
    fn route(&self) -> BoxFuture<'_, Result<Arc<Route>, Fault>>;

    /// Whether a connection that was just made on this way leads to it still.
    ///
    /// # Errors
    /// When it does not: the connection must not be used.
    fn confirm<'a>(&'a self, route: &'a Arc<Route>) -> BoxFuture<'a, Result<(), Fault>>;
}

/// How the way is found.
enum Way {
    /// It is always the same.
    Fixed(Box<Route>),
    /// Somebody is asked for it.
    Guided(Arc<dyn Guide>),
}

/// Makes connections as the options say.
pub(crate) struct Connector {
    way: Way,
    timeout: Duration,
    address: String,
    stats: Arc<PostgresStats>,
    /// Told when the server was seen to answer.
    answers: Notify,
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Connector {
    /// Reads the files that the options name; connects to nobody. With a guide, the hosts of the
    /// options are for messages only.
    ///
    /// # Errors
    /// [`PostgresError::Options`].
    pub(super) fn new(
        options: &PostgresOptions,
        guide: Option<Arc<dyn Guide>>,
        stats: Arc<PostgresStats>,
    ) -> Result<Self, PostgresError> {
        let way = match guide {
            Some(guide) => Way::Guided(guide),
            None => Way::Fixed(Box::new(Route::new(options)?)),
        };
        Ok(Self {
            way,
            timeout: options.connect_timeout,
            address: options.address(),
            stats,
            answers: Notify::new(),
        })
    }

    /// As [`Self::new`], for a pooler's console, which does not understand what a server does: it
    /// is asked nothing on connecting.
    ///
    /// # Errors
    /// [`PostgresError::Options`].
    pub(super) fn to_console(options: &PostgresOptions) -> Result<Self, PostgresError> {
        let route = Route { is_cluster: OnceLock::from(false), ..Route::new(options)? };
        Ok(Self {
            way: Way::Fixed(Box::new(route)),
            timeout: options.connect_timeout,
            address: options.address(),
            stats: Arc::default(),
            answers: Notify::new(),
        })
    }

    /// The addresses, for messages.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Makes one connection, and the task that ends with it. Takes `connect_timeout` at most,
    /// whatever the driver does.
    ///
    /// # Errors
    /// The [`Fault`] of the last address.
    pub(super) async fn connect(&self) -> Result<(Connected, JoinHandle<()>), Fault> {
        let connected = match tokio::time::timeout(self.timeout, self.go()).await {
            Ok(result) => result,
            Err(_) => Err(Fault::lost(format!("no connection within {:?}", self.timeout))),
        };
        count(match &connected {
            Ok(_) => &self.stats.connections,
            Err(_) => &self.stats.failed_connections,
        });
        if connected.is_ok() {
            self.answered();
        }
        connected
    }

    /// Waits between two attempts to connect, and no longer than until somebody else has had an
    /// answer from the server: one that is back is not refused for the rest of a pause.
    /// At least a little in any case: a server that ends connections at once is not asked in a
    /// tight loop.
    pub(super) async fn pause(&self, at_most: Duration) {
        let begun = Instant::now();
        let mut answered = pin!(self.answers.notified());
        answered.as_mut().enable();
        sleep_until(begun + at_most.min(FIRST_PAUSE)).await;
        tokio::select! {
            () = sleep_until(begun + at_most) => {}
            () = answered => {}
        }
    }

    /// The server has just answered.
    pub(super) fn answered(&self) {
        self.answers.notify_waiters();
    }

    async fn go(&self) -> Result<(Connected, JoinHandle<()>), Fault> {
        let guide = match &self.way {
            Way::Fixed(route) => return route.connect().await,
            Way::Guided(guide) => guide,
        };
        let route = guide.route().await?;
        let (connected, task) = route.connect().await?;
        match guide.confirm(&route).await {
            Ok(()) => Ok((connected, task)),
            Err(fault) => {
                connected.cut();
                Err(fault)
            }
        }
    }

    /// Why the server can't be used, in words for whoever starts the program.
    pub(super) fn explain(&self, fault: &Fault) -> PostgresError {
        let (address, reason) = (self.address.clone(), fault.text().to_owned());
        match fault.code() {
            Some("3D000") => PostgresError::NoDatabase { address, reason },
            Some(code) if code.starts_with("28") => PostgresError::Denied { address, reason },
            _ => PostgresError::Unreachable { address, reason },
        }
    }
}

/// Carries a connection until it ends. Whoever waits for an answer then is told that it is closed.
async fn carry<S, T>(mut connection: Connection<S, T>, warnings: Arc<Warnings>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
        if let AsyncMessage::Notice(notice) = message
            && is_warning(notice.parsed_severity())
        {
            warnings.0.fetch_add(1, Ordering::Release);
        }
    }
}

/// Whether a notice says that something may be wrong with what was done. The text is in the
/// server's language; a severity that is not known counts as a warning.
fn is_warning(severity: Option<Severity>) -> bool {
    let harmless = [Severity::Notice, Severity::Debug, Severity::Info, Severity::Log];
    severity.is_none_or(|severity| !harmless.contains(&severity))
}

fn tls_config(authorities: &std::path::Path) -> Result<rustls::ClientConfig, PostgresError> {
    let wrong = |why: String| {
        PostgresError::Options(format!(
            "can't use the certificates in {}: {why}; name a PEM file of authorities",
            authorities.display()
        ))
    };
    let mut roots = rustls::RootCertStore::empty();
    let certificates =
        CertificateDer::pem_file_iter(authorities).map_err(|error| wrong(error.to_string()))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(wrong("there are none in it".to_owned()));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(error.to_string()))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
