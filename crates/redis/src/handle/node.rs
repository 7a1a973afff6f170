//! One Redis server: its connection, who keeps it, and whether it is worth asking.
//!
//! What callers ask for in one turn of their thread goes to the driver as one message: the driver
//! has a thread of its own, and waking it up costs more than a command. Nobody waits for others to
//! come.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ErrorKind, IntoConnectionInfo, Pipeline,
    RedisConnectionInfo, ServerErrorKind, TlsCertificates, Value, cmd,
};
use shunt_domain::Deadline;
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::time::{timeout, timeout_at};

use super::RedisError;
use super::breaker::Breaker;
use super::stats::Stats;
use crate::options::{Address, OptionsError, RedisOptions};

/// Signs of life missed in a row until calls are kept away, and until the connection is given up.
const MISSED_TO_OPEN: u32 = 2;
const MISSED_TO_RECONNECT: u32 = 10;

/// A call that was given less time than this says nothing about the server when it fails.
const FAIR: Duration = Duration::from_millis(10);

/// Makes connections.
#[derive(Debug)]
pub(crate) struct Connector {
    options: RedisOptions,
}

impl Connector {
    /// # Errors
    /// [`OptionsError::Ca`].
    pub(crate) fn new(options: RedisOptions) -> Result<Self, OptionsError> {
        let connector = Self { options };
        // The certificates are read here, so that bad ones are told of at the start.
        if let Some(seed) = connector.options.seeds.first() {
            connector.client(seed).map_err(|_| OptionsError::Ca)?;
        }
        Ok(connector)
    }

    fn client(&self, address: &Address) -> redis::RedisResult<Client> {
        let options = &self.options;
        let mut login = RedisConnectionInfo::default().set_skip_set_lib_name();
        if !options.cluster {
            login = login.set_db(options.database);
        }
        if let Some(user) = &options.user {
            login = login.set_username(user);
        }
        if let Some(password) = &options.password {
            login = login.set_password(password);
        }
        let (host, port) = (address.host.clone(), address.port);
        let place = if options.tls {
            ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
        } else {
            ConnectionAddr::Tcp(host, port)
        };
        let info = place
            .into_connection_info()?
            .set_redis_settings(login)
            .set_tcp_settings(TcpSettings::default().set_nodelay(true));
        if options.tls {
            let certificates = TlsCertificates { client_tls: None, root_cert: options.ca.clone() };
            return Client::build_with_tls(info, certificates);
        }
        Client::open(info)
    }

    /// A connection for commands.
    pub(crate) async fn connect(
        &self,
        address: &Address,
    ) -> Result<MultiplexedConnection, RedisError> {
        let client = self.client(address).map_err(RedisError::from)?;
        let patience = self.options.connect_timeout;
        // Deadlines are the callers' own.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(patience))
            .set_response_timeout(None)
            .set_pipeline_buffer_size(self.options.concurrency);
        let connection = client.get_multiplexed_async_connection_with_config(&config);
        Ok(timeout(patience, connection).await.map_err(|_| RedisError::Timeout)??)
    }

    /// A connection for subscriptions.
    pub(super) async fn subscriber(
        &self,
        address: &Address,
    ) -> Result<redis::aio::PubSub, RedisError> {
        let client = self.client(address).map_err(RedisError::from)?;
        let connection = client.get_async_pubsub();
        let patience = self.options.connect_timeout;
        Ok(timeout(patience, connection).await.map_err(|_| RedisError::Timeout)??)
    }
}

/// A command that goes out with the next message.
struct Waiting {
    command: Cmd,
    reply: oneshot::Sender<Result<Value, RedisError>>,
}

/// Sends what waits. Dropped before that, with a runtime that ends, it lets the callers go, so that
/// those who come later start anew.
struct Departure(Option<Arc<Node>>);

impl Departure {
    /// Sends all that waits now, as one message, and hands out the answers.
    async fn depart(mut self) {
        let Some(node) = self.0.take() else { return };
        let mut waiting = std::mem::take(&mut *lock(&node.waiting));
        waiting.retain(|waiting| !waiting.reply.is_closed());
        if waiting.is_empty() {
            return;
        }
        let connection = lock(&node.connection).clone();
        let Some(mut connection) = connection else {
            return waiting.into_iter().for_each(|waiting| waiting.answer(Err(node.error())));
        };
        let mut message = Pipeline::with_capacity(waiting.len());
        for Waiting { command, .. } in &mut waiting {
            message.add_command(std::mem::take(command));
        }
        let count = waiting.len();
        let gone = async {
            for waiting in &mut waiting {
                waiting.reply.closed().await;
            }
        };
        let answers = tokio::select! {
            biased;
            answers = connection.send_packed_commands(&message, 0, count) => answers,
            // Deadlines are the callers' own. A server that hangs must not keep this, and with it
            // the connection, for longer than somebody waits.
            () = gone => return,
        };
        match answers {
            Ok(answers) => {
                for (waiting, answer) in waiting.into_iter().zip(answers) {
                    waiting.answer(checked(answer));
                }
            }
            Err(error) => {
                let error = RedisError::from(error);
                waiting.into_iter().for_each(|waiting| waiting.answer(Err(error.clone())));
            }
        }
    }
}

impl Drop for Departure {
    fn drop(&mut self) {
        if let Some(node) = &self.0 {
            lock(&node.waiting).clear();
        }
    }
}

impl Waiting {
    fn answer(self, answer: Result<Value, RedisError>) {
        // The caller may have gone.
        let _ = self.reply.send(answer);
    }
}

/// The server's errors as errors.
fn checked(answer: Value) -> Result<Value, RedisError> {
    match answer {
        Value::ServerError(error) => Err(redis::RedisError::from(error).into()),
        value => Ok(value),
    }
}

/// See the module.
pub(super) struct Node {
    pub(super) address: Address,
    connection: Mutex<Option<MultiplexedConnection>>,
    waiting: Mutex<Vec<Waiting>>,
    breaker: Breaker,
    places: Semaphore,
    /// Wakes the keeper before its time.
    trouble: Notify,
    /// What the last attempt to connect said, if it failed.
    error: Mutex<Option<String>>,
    stats: Arc<Stats>,
}

impl Node {
    pub(super) fn new(address: Address, concurrency: usize, stats: Arc<Stats>) -> Self {
        Self {
            address,
            connection: Mutex::new(None),
            waiting: Mutex::default(),
            breaker: Breaker::new(),
            places: Semaphore::new(concurrency.clamp(1, Semaphore::MAX_PERMITS)),
            trouble: Notify::new(),
            error: Mutex::new(None),
            stats,
        }
    }

    /// Whether it is worth asking.
    pub(super) fn is_up(&self) -> bool {
        !self.breaker.is_open()
    }

    /// Why it is not, as far as is known.
    pub(super) fn error(&self) -> RedisError {
        let error = lock(&self.error).clone();
        RedisError::Down(error.unwrap_or_else(|| format!("{} shows no sign of life", self.address)))
    }

    /// Runs a command; `asking` tells a node that a slot is just moving to it. The server's errors
    /// come as [`RedisError::Refused`].
    ///
    /// # Errors
    /// [`RedisError`].
    pub(super) async fn call(
        self: &Arc<Self>,
        command: &Cmd,
        asking: bool,
        deadline: Deadline,
    ) -> Result<Value, RedisError> {
        let connected = !self.breaker.is_open() && lock(&self.connection).is_some();
        let (true, Ok(_place)) = (connected, self.places.try_acquire()) else {
            Stats::add(&self.stats.refused);
            return Err(if self.is_up() { RedisError::Busy } else { self.error() });
        };
        Stats::add(&self.stats.calls);
        let begun = Instant::now();
        let answer = async {
            if asking { self.send_asking(command).await } else { self.send(command).await }
        };
        let answer = timeout_at(deadline.instant().into(), answer).await;
        let time = begun.elapsed();
        self.stats.took(time);
        let error = match answer {
            Ok(Ok(value)) => {
                self.breaker.good();
                return Ok(value);
            }
            Ok(Err(error)) => error,
            Err(_) => {
                Stats::add(&self.stats.timeouts);
                if time >= FAIR && self.breaker.bad() {
                    Stats::add(&self.stats.opened);
                    self.trouble.notify_one();
                }
                return Err(RedisError::Timeout);
            }
        };
        if matches!(error, RedisError::Lost(_)) {
            Stats::add(&self.stats.errors);
            self.forget();
        } else {
            // It lives, whatever it thinks of the command.
            self.breaker.good();
            if !error.is_routine() {
                Stats::add(&self.stats.errors);
            }
        }
        Err(error)
    }

    /// Sends a command with whatever else is asked for in this turn.
    async fn send(self: &Arc<Self>, command: &Cmd) -> Result<Value, RedisError> {
        let (reply, answer) = oneshot::channel();
        let first = {
            let mut waiting = lock(&self.waiting);
            waiting.push(Waiting { command: command.clone(), reply });
            waiting.len() == 1
        };
        if first {
            // It runs when those had their turn who are ready now.
            tokio::spawn(Departure(Some(Arc::clone(self))).depart());
        }
        answer.await.unwrap_or_else(|_| Err(RedisError::Lost("the sender has ended".into())))
    }

    /// Sends a command for a slot that is just moving here.
    async fn send_asking(&self, command: &Cmd) -> Result<Value, RedisError> {
        let connection = lock(&self.connection).clone();
        let Some(mut connection) = connection else { return Err(self.error()) };
        let flag = cmd("ASKING");
        let mut again = connection.clone();
        // Sent right behind each other: the flag lasts for one command.
        let (_, answer) = tokio::join!(
            biased;
            again.send_packed_command(&flag),
            connection.send_packed_command(command),
        );
        checked(answer?)
    }

    /// The connection is of no use.
    fn forget(&self) {
        *lock(&self.connection) = None;
        if self.breaker.open() {
            Stats::add(&self.stats.opened);
        }
        self.trouble.notify_one();
    }

    /// Connects, asks for signs of life, connects again, for ever.
    pub(super) async fn keep(self: Arc<Self>, connector: Arc<Connector>) {
        let heartbeat = connector.options.heartbeat;
        let ping = cmd("PING");
        let mut missed = 0;
        loop {
            let connection = lock(&self.connection).clone();
            let mut connection = match connection {
                Some(connection) => connection,
                None => match connector.connect(&self.address).await {
                    Ok(connection) => {
                        Stats::add(&self.stats.connects);
                        missed = 0;
                        *lock(&self.connection) = Some(connection.clone());
                        connection
                    }
                    Err(error) => {
                        *lock(&self.error) = Some(format!("{}: {error}", self.address));
                        tokio::time::sleep(heartbeat).await;
                        continue;
                    }
                },
            };
            match timeout(heartbeat, connection.send_packed_command(&ping)).await {
                Ok(Ok(Value::SimpleString(_) | Value::BulkString(_))) => {
                    missed = 0;
                    *lock(&self.error) = None;
                    self.breaker.close();
                }
                // It lives, but loads its data or has lost its master.
                Ok(Ok(other)) => {
                    *lock(&self.error) = Some(format!("{} answers {other:?}", self.address));
                    self.keep_away();
                }
                Ok(Err(error)) => {
                    *lock(&self.error) = Some(format!("{}: {error}", self.address));
                    if RedisError::from(error).is_lost() {
                        self.forget();
                    } else {
                        self.keep_away();
                    }
                }
                Err(_) => {
                    missed += 1;
                    if missed >= MISSED_TO_OPEN {
                        self.keep_away();
                    }
                    if missed >= MISSED_TO_RECONNECT {
                        self.forget();
                    }
                    // The time has passed already.
                    continue;
                }
            }
            tokio::select! {
                () = tokio::time::sleep(heartbeat) => {}
                () = self.trouble.notified() => {}
            }
        }
    }

    fn keep_away(&self) {
        if self.breaker.open() {
            Stats::add(&self.stats.opened);
        }
    }
}

impl From<redis::RedisError> for RedisError {
    fn from(error: redis::RedisError) -> Self {
        let text = || error.to_string();
        match error.kind() {
            ErrorKind::Server(kind) => match kind {
                ServerErrorKind::NoScript => Self::NoScript,
                ServerErrorKind::Moved | ServerErrorKind::Ask => {
                    let node = error.redirect_node().and_then(|(node, _)| Address::parse(node));
                    match node {
                        Some(node) if kind == ServerErrorKind::Moved => Self::Moved(node),
                        Some(node) => Self::Ask(node),
                        None => Self::Refused(text()),
                    }
                }
                ServerErrorKind::ReadOnly
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::MasterDown
                | ServerErrorKind::BusyLoading
                | ServerErrorKind::TryAgain => Self::NotNow(text()),
                _ => Self::Refused(text()),
            },
            ErrorKind::Extension => Self::Refused(text()),
            ErrorKind::AuthenticationFailed => Self::Refused(text()),
            _ => Self::Lost(text()),
        }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these guard is replaced whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
