//! The bus: plain `PUBLISH`, which a cluster carries to all its nodes, and a subscription that
//! proves to itself that it hears.
//!
//! Sharded channels were out for 7.5 s in a failover, plain ones for none. Both are at most once, so
//! a node publishes a heartbeat and must hear it within a second; else the bus counts as down.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use redis::cmd;
use shunt_domain::Deadline;
use shunt_domain::ports::{BoxFuture, Bus, BusListener, Invalidation, SharedError};
use tokio::time::{interval, timeout};

use crate::handle::{Handle, RedisError};
use crate::value::Message;

/// How often a node tells itself that it lives, and how long that may take.
const HEARTBEAT: Duration = Duration::from_millis(200);
/// Silence for so long means that the bus is down.
const SILENCE: Duration = Duration::from_millis(900);
/// How often that is looked at: silence is noticed within a second.
const LOOK: Duration = Duration::from_millis(50);
/// A subscription that is silent for so long is given up for one at another node.
const GIVE_UP: Duration = Duration::from_secs(2);
/// Pause between two attempts to subscribe.
const PAUSE: Duration = Duration::from_millis(100);

/// Counters of the bus.
#[derive(Debug, Default)]
pub struct BusStats {
    /// Invalidations a server has taken from us.
    pub sent: AtomicU64,
    /// Invalidations that no server took.
    pub unsent: AtomicU64,
    /// Invalidations heard, our own included.
    pub heard: AtomicU64,
    /// Messages that could not be read.
    pub unreadable: AtomicU64,
    /// How often the bus went down.
    pub downs: AtomicU64,
    /// Whether it is up.
    pub up: AtomicBool,
    /// When our own heartbeat was heard last: milliseconds since the bus was made.
    last: AtomicU64,
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// See the module.
#[derive(Debug)]
pub struct RedisBus {
    handle: Arc<Handle>,
    channel: String,
    /// What tells our heartbeats from those of others.
    node: u64,
    born: Instant,
    stats: BusStats,
}

impl RedisBus {
    /// `prefix` as for [`crate::RedisCache`]; `node` is random and of this process alone.
    pub fn new(handle: Arc<Handle>, prefix: &str, node: u64) -> Arc<Self> {
        let (channel, stats) = (format!("{prefix}:bus"), BusStats::default());
        Arc::new(Self { handle, channel, node, born: Instant::now(), stats })
    }

    /// Begins to listen, until the handle is closed.
    pub fn listen(self: &Arc<Self>, listener: Arc<dyn BusListener>) {
        self.handle.spawn(Arc::clone(self).beat());
        self.handle.spawn(Arc::clone(self).subscribe(listener));
    }

    /// Counters.
    pub const fn stats(&self) -> &BusStats {
        &self.stats
    }

    /// How long ago the bus was last known to carry; since it was made, if never.
    pub fn silence(&self) -> Duration {
        let last = Duration::from_millis(self.stats.last.load(Ordering::Relaxed));
        self.born.elapsed().saturating_sub(last)
    }

    async fn send(&self, message: &Message, deadline: Deadline) -> Result<(), RedisError> {
        let mut publish = cmd("PUBLISH");
        publish.arg(&self.channel).arg(message.encode());
        self.handle.run_anywhere(&publish, deadline).await.map(|_| ())
    }

    async fn beat(self: Arc<Self>) {
        let message = Message::Heartbeat(self.node);
        let mut beat = interval(HEARTBEAT);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            beat.tick().await;
            let deadline = Deadline::after(Instant::now(), HEARTBEAT);
            // That it did not arrive is heard, or rather not.
            let _ = self.send(&message, deadline).await;
        }
    }

    async fn subscribe(self: Arc<Self>, listener: Arc<dyn BusListener>) {
        for attempt in 0_usize.. {
            let addresses = self.handle.addresses();
            if let Some(address) = addresses.get(attempt % addresses.len().max(1))
                && let Ok(mut subscriber) = self.handle.subscriber(address).await
                && let Ok(Ok(())) = timeout(SILENCE, subscriber.subscribe(&self.channel)).await
            {
                self.hear(subscriber, listener.as_ref()).await;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Passes on what comes until the connection ends or is silent for long.
    async fn hear(&self, subscriber: redis::aio::PubSub, listener: &dyn BusListener) {
        // The sending half keeps the connection open.
        let (_sender, messages) = subscriber.split();
        let mut messages = pin!(messages);
        let mut look = interval(LOOK);
        let (mut up, mut last) = (false, Instant::now());
        loop {
            tokio::select! {
                // What has arrived counts before the silence does.
                biased;
                message = messages.next() => {
                    let Some(message) = message else { break };
                    match Message::decode(message.get_payload_bytes()) {
                        Some(Message::Heartbeat(node)) if node == self.node => {
                            last = Instant::now();
                            self.carries();
                            if !up {
                                up = true;
                                self.stats.up.store(true, Ordering::Relaxed);
                                listener.bus_up();
                            }
                        }
                        Some(Message::Heartbeat(_)) => {}
                        Some(Message::Invalidation(news)) => {
                            add(&self.stats.heard);
                            listener.heard(news);
                        }
                        None => add(&self.stats.unreadable),
                    }
                }
                _ = look.tick() => {}
            }
            if up && last.elapsed() > SILENCE {
                up = false;
                self.down(listener);
            }
            if last.elapsed() > GIVE_UP {
                break;
            }
        }
        if up {
            self.down(listener);
        }
    }

    fn carries(&self) {
        let now = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.stats.last.store(now, Ordering::Relaxed);
    }

    fn down(&self, listener: &dyn BusListener) {
        self.stats.up.store(false, Ordering::Relaxed);
        add(&self.stats.downs);
        listener.bus_down();
    }
}

impl Bus for RedisBus {
    fn publish<'a>(
        &'a self,
        news: &'a Invalidation,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<(), SharedError>> {
        Box::pin(async move {
            let sent = self.send(&Message::Invalidation(news.clone()), deadline).await;
            add(if sent.is_ok() { &self.stats.sent } else { &self.stats.unsent });
            sent.map_err(SharedError::from)
        })
    }
}
