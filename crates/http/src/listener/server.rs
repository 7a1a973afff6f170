//! Runs the cores: accept loops, protocol set-up, draining.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use shunt_domain::ports::ClickRecorder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::runtime::LocalOptions;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::core::{Core, Shared};
use super::fast::{End, Fast};
use super::guard::{Guarded, Registered, TICK};
use super::limits::Refused;
use super::passing::Quiet;
use super::proxy_protocol::read_header;
use super::service::Service;
use super::sockets::{Arrives, Listening};
use crate::client::{Client, Transport};

/// What one core gets.
pub struct CoreInput {
    /// Its listening sockets.
    pub sockets: Vec<Listening>,
    /// Its end of the click pipeline.
    pub recorder: Box<dyn ClickRecorder>,
    /// The control socket, for one of the cores.
    pub local: Option<std::os::unix::net::UnixListener>,
    /// Connections of the process before this one.
    pub connections: Vec<Quiet>,
}

/// What a server is told while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Serve,
    /// Stop accepting, finish what is there.
    Drain,
    /// Stop at once.
    Stop,
}

/// A running server.
pub struct Server {
    threads: Vec<JoinHandle<io::Result<()>>>,
    orders: watch::Sender<Order>,
    shared: Arc<Shared>,
}

impl Server {
    /// Starts one thread per core.
    ///
    /// # Errors
    /// If a thread can't be started.
    pub fn start(
        shared: Arc<Shared>,
        tls: Option<&Arc<rustls::ServerConfig>>,
        cores: Vec<CoreInput>,
    ) -> io::Result<Self> {
        let (orders, _) = watch::channel(Order::Serve);
        let mut threads = Vec::with_capacity(cores.len());
        for (index, input) in cores.into_iter().enumerate() {
            let (shared, tls, orders) = (Arc::clone(&shared), tls.cloned(), orders.subscribe());
            let thread = std::thread::Builder::new()
                .name(format!("shunt-core-{index}"))
                .spawn(move || run_core(shared, tls, input, orders))?;
            threads.push(thread);
        }
        Ok(Self { threads, orders, shared })
    }

    /// Stops accepting and lets connections finish their requests; those that are still there
    /// after `patience` are cut. With a successor, plain connections between two requests are kept
    /// for it in [`Shared::passing`] and not closed. The listening sockets stay open in whoever else holds them, and
    /// in this process until it exits: closing one would drop the connections in its queue.
    pub fn drain(self, patience: Duration, successor: bool) {
        if successor {
            self.shared.passing.begin();
        }
        self.shared.draining.store(true, Ordering::Relaxed);
        self.orders.send_replace(Order::Drain);
        let until = Instant::now() + patience;
        let orders = self.orders.clone();
        let (done, ended) = std::sync::mpsc::channel::<()>();
        // The watchdog cuts the rest when time is up and leaves when all cores have ended.
        let watchdog = std::thread::spawn(move || {
            let left = until.saturating_duration_since(Instant::now());
            if ended.recv_timeout(left).is_err() {
                orders.send_replace(Order::Stop);
            }
        });
        for thread in self.threads {
            if let Ok(Err(error)) = thread.join() {
                tracing::error!(%error, "a core ended with an error");
            }
        }
        // Nobody listens any more if the watchdog has fired.
        let _ = done.send(());
        drop(watchdog.join());
    }
}

fn run_core(
    shared: Arc<Shared>,
    tls: Option<Arc<rustls::ServerConfig>>,
    input: CoreInput,
    orders: watch::Receiver<Order>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())?;
    let served = runtime.block_on(serve_core(shared, tls, input, orders));
    // What is left are cut connections and loads nobody waits for.
    runtime.shutdown_timeout(Duration::from_millis(100));
    served
}

async fn serve_core(
    shared: Arc<Shared>,
    tls: Option<Arc<rustls::ServerConfig>>,
    input: CoreInput,
    mut orders: watch::Receiver<Order>,
) -> io::Result<()> {
    let core = Core::new(shared, input.recorder);
    let ticking = tokio::task::spawn_local(tick(Rc::clone(&core)));
    let mut accepting = Vec::new();
    // Kept to the end of the process's serving life; see `Server::drain`.
    let mut kept_open = Vec::new();
    for Listening { socket, arrives } in input.sockets {
        let acceptor = tls.clone().filter(|_| arrives.tls()).map(TlsAcceptor::from);
        kept_open.push((socket.try_clone()?, arrives, acceptor.clone()));
        let listener = TcpListener::from_std(socket)?;
        let core = Rc::clone(&core);
        accepting.push(tokio::task::spawn_local(accept(core, listener, arrives, acceptor)));
    }
    for quiet in input.connections {
        adopt(&core, quiet);
    }
    if let Some(local) = input.local {
        local.set_nonblocking(true)?;
        let listener = UnixListener::from_std(local)?;
        accepting.push(tokio::task::spawn_local(accept_local(Rc::clone(&core), listener)));
    }
    let _ = orders.wait_for(|order| *order != Order::Serve).await;
    for task in &accepting {
        task.abort();
    }
    for task in accepting {
        // Aborted; awaiting makes sure that it has let go of its socket.
        let _ = task.await;
    }
    if !core.shared.passing.wanted() {
        // Nobody follows who would serve what waits in the queues: their clients were connected
        // before the stop.
        for (socket, arrives, acceptor) in &kept_open {
            while let Ok((stream, peer)) = socket.accept() {
                stream.set_nonblocking(true)?;
                let (stream, peer) = (TcpStream::from_std(stream)?, peer.ip().to_canonical());
                welcome(&core, stream, peer, *arrives, acceptor.as_ref());
            }
        }
    }
    core.drain_began.notify_waiters();
    core.tick();
    core.registry.wake_idle();
    let empty = async {
        while !core.registry.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = empty => {}
        _ = orders.wait_for(|order| *order == Order::Stop) => {}
    }
    ticking.abort();
    drop(kept_open);
    Ok(())
}

async fn tick(core: Rc<Core>) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        interval.tick().await;
        core.tick();
    }
}

async fn accept(
    core: Rc<Core>,
    listener: TcpListener,
    arrives: Arrives,
    acceptor: Option<TlsAcceptor>,
) {
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                after_accept_error(&core, &error).await;
                continue;
            }
        };
        welcome(&core, stream, peer.ip().to_canonical(), arrives, acceptor.as_ref());
    }
}

/// Finds a place for a connection that was just accepted, and serves it.
fn welcome(
    core: &Rc<Core>,
    stream: TcpStream,
    peer: IpAddr,
    arrives: Arrives,
    acceptor: Option<&TlsAcceptor>,
) {
    core.metrics.accepted();
    let trusted = core.shared.options.proxies.trusts(peer);
    let place = match core.shared.limits.admit(peer, trusted) {
        Ok(place) => place,
        Err(refused) => {
            core.metrics.refused(refused == Refused::Address);
            turn_away(&stream, arrives);
            return;
        }
    };
    // Redirects are one small packet: never wait for more.
    let _ = stream.set_nodelay(true);
    let core = Rc::clone(core);
    let registered = core.registry.register(core.shared.options.deadlines);
    // An error in here is a peer that left or was cut; the counters have it.
    match acceptor.cloned() {
        // The common case by itself: each layer of futures costs at each wake-up.
        None if !arrives.proxied() => tokio::task::spawn_local(async move {
            let _place = place;
            plain_connection(core, Guarded::new(stream, registered), peer).await;
        }),
        acceptor => tokio::task::spawn_local(async move {
            let _place = place;
            let _ = connection(core, stream, registered, peer, arrives, acceptor).await;
        }),
    };
}

/// Goes on with a connection of the process before this one.
fn adopt(core: &Rc<Core>, quiet: Quiet) {
    let Quiet { stream, peer } = quiet;
    let Ok(stream) = TcpStream::from_std(stream) else { return };
    let trusted = core.shared.options.proxies.trusts(peer);
    let Ok(place) = core.shared.limits.admit(peer, trusted) else { return };
    let registered = core.registry.register(core.shared.options.deadlines);
    registered.state().idle();
    let core = Rc::clone(core);
    tokio::task::spawn_local(async move {
        let _place = place;
        plain_connection(core, Guarded::new(stream, registered), peer).await;
    });
}

/// Serves a plain connection to its end, or until the process that follows takes it.
async fn plain_connection(core: Rc<Core>, guarded: Guarded<TcpStream>, peer: IpAddr) {
    // An error in here is a peer that left or was cut; the counters have it.
    if let Ok(Some(guarded)) = http1_connection(Rc::clone(&core), guarded, peer, true).await {
        let (stream, registered) = guarded.into_parts();
        if let Ok(stream) = stream.into_std() {
            core.shared.passing.put(Quiet { stream, peer });
        }
        drop(registered);
    }
}

/// Tells a connection for which there is no place, if it takes one packet at once.
fn turn_away(stream: &TcpStream, arrives: Arrives) {
    const NO_PLACE: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 2\r\n\
        content-length: 0\r\nconnection: close\r\n\r\n";
    if !arrives.tls() {
        let _ = stream.try_write(NO_PLACE);
    }
}

/// Out of descriptors or memory: wait a moment instead of spinning; whoever closes a connection
/// makes room. Errors of the one connection (reset before it was accepted) cost nothing.
async fn after_accept_error(core: &Core, error: &io::Error) {
    core.metrics.accept_failed();
    let of_that_connection = matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    );
    if !of_that_connection {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn connection(
    core: Rc<Core>,
    mut stream: TcpStream,
    registered: Registered,
    peer: IpAddr,
    arrives: Arrives,
    acceptor: Option<TlsAcceptor>,
) -> io::Result<()> {
    let mut peer = peer;
    if arrives.proxied() {
        // Only the balancer's word is believed, and only before the first byte of HTTP.
        let mut guarded = Guarded::new(&mut stream, registered);
        if let Some(source) = read_header(&mut guarded).await? {
            peer = source;
        }
        let (_, registered) = guarded.into_parts();
        return speak(core, stream, registered, peer, acceptor).await;
    }
    speak(core, stream, registered, peer, acceptor).await
}

async fn speak(
    core: Rc<Core>,
    stream: TcpStream,
    registered: Registered,
    peer: IpAddr,
    acceptor: Option<TlsAcceptor>,
) -> io::Result<()> {
    let Some(acceptor) = acceptor else {
        plain_connection(core, Guarded::new(stream, registered), peer).await;
        return Ok(());
    };
    // The handshake runs under the first deadlines of the connection; afterwards the same state
    // guards the stream inside.
    let state = Rc::clone(registered.state());
    let guarded = Guarded::new(stream, registered);
    // Boxed, like everything behind the fast loop: a connection that only redirects should not
    // carry room for protocols it does not speak.
    let tls = Box::pin(acceptor.accept(guarded)).await?;
    state.idle();
    let h2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
    let client = client(peer, Transport::Tls);
    if h2 {
        let service = Service { core: Rc::clone(&core), state, client };
        return Box::pin(http2_connection(core, tls, service)).await;
    }
    let service = Service { core: Rc::clone(&core), state, client };
    Box::pin(hyper_http1(core, tls, service)).await
}

fn client(peer: IpAddr, transport: Transport) -> Client {
    Client { transport, peer, address: peer, forwarded: false }
}

/// Serves HTTP/1 on any stream, as if it had been accepted from `peer`.
#[cfg(test)]
pub(super) async fn serve_stream<IO>(core: Rc<Core>, stream: IO, peer: IpAddr)
where
    IO: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let registered = core.registry.register(core.shared.options.deadlines);
    let _ = http1_connection(core, Guarded::new(stream, registered), peer, false).await;
}

/// HTTP/1 on a guarded stream: the fast loop first, hyper if it asks for it. Answers the stream if
/// it is `movable` and the process that follows should go on with it.
async fn http1_connection<IO>(
    core: Rc<Core>,
    guarded: Guarded<IO>,
    peer: IpAddr,
    movable: bool,
) -> io::Result<Option<Guarded<IO>>>
where
    IO: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let state = Rc::clone(guarded.state());
    match Fast::new(guarded, Rc::clone(&core), peer, movable).run().await {
        End::Closed => Ok(None),
        End::PassOn(guarded) => Ok(Some(guarded)),
        End::HandOver(stream) => {
            let client = client(peer, Transport::Plain);
            let service = Service { core: Rc::clone(&core), state, client };
            Box::pin(hyper_http1(core, stream, service)).await.map(|()| None)
        }
    }
}

async fn hyper_http1<IO>(core: Rc<Core>, stream: IO, service: Service) -> io::Result<()>
where
    IO: AsyncRead + AsyncWrite + Unpin + 'static,
{
    // Draining needs nothing here: the service closes with the next answer, and the guard ends
    // connections that stay quiet. (hyper's own graceful shutdown would close a connection whose
    // next request is already in our prefix.)
    http1::Builder::new()
        // Deadlines are the guard's.
        .header_read_timeout(None)
        .max_buf_size(core.shared.options.max_head.max(8 * 1024))
        .half_close(false)
        // Not `pipeline_flush`: with bytes left over it keeps the 400 of a parse error back.
        .pipeline_flush(false)
        .serve_connection(TokioIo::new(stream), service)
        .await
        .map_err(io::Error::other)
}

async fn http2_connection<IO>(core: Rc<Core>, stream: IO, service: Service) -> io::Result<()>
where
    IO: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let connection = http2::Builder::new(LocalExecutor)
        .timer(TokioTimer::new())
        .max_concurrent_streams(128)
        .max_header_list_size(u32::try_from(core.shared.options.max_head).unwrap_or(16_384))
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(128)
        .max_send_buf_size(256 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let draining = core.drain_began.notified();
    if !core.draining() {
        tokio::select! {
            biased;
            ended = connection.as_mut() => return ended.map_err(io::Error::other),
            () = draining => {}
        }
    }
    // GOAWAY: streams that were begun are finished.
    connection.as_mut().graceful_shutdown();
    connection.await.map_err(io::Error::other)
}

/// Spawns HTTP/2 streams on the core's own thread.
#[derive(Clone, Copy, Debug)]
struct LocalExecutor;

impl<F> hyper::rt::Executor<F> for LocalExecutor
where
    F: Future + 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}

/// Serves the control socket: the same service, for callers who hold the data directory.
async fn accept_local(core: Rc<Core>, listener: UnixListener) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                after_accept_error(&core, &error).await;
                continue;
            }
        };
        let core = Rc::clone(&core);
        tokio::task::spawn_local(async move {
            let registered = core.registry.register(core.shared.options.deadlines);
            let state = Rc::clone(registered.state());
            let service = Service {
                core: Rc::clone(&core),
                state,
                client: client(IpAddr::V4(Ipv4Addr::LOCALHOST), Transport::Local),
            };
            let _ = hyper_http1(core, Guarded::new(stream, registered), service).await;
        });
    }
}
