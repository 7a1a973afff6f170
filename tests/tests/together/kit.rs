//! What the tests share.

use std::sync::Arc;
use std::time::{Duration, Instant};

use shunt_cluster::{Redis, RedisCluster, until};
use shunt_domain::Deadline;
use shunt_redis::{Handle, RedisOptions};
pub(crate) use shunt_tests::switch::count;

/// The bound of a wait whose condition is expected at once.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A deadline that only a bug reaches.
pub(crate) fn soon() -> Deadline {
    Deadline::after(Instant::now(), SOON)
}

/// A handle on this URL, connected to every master. A node that gives no sign of life for so long
/// counts as down.
fn handle(url: &str, heartbeat: Duration) -> Arc<Handle> {
    let options = RedisOptions { heartbeat, ..RedisOptions::parse(url).unwrap() };
    let handle = Handle::start(options).unwrap();
    connected(&handle);
    handle
}

/// Waits until every master is worth asking.
pub(crate) fn connected(handle: &Handle) {
    until(SOON, "all masters to be connected", || {
        let (up, all) = handle.up();
        (up == all && all > 0).then_some(())
    })
    .unwrap();
}

/// A Redis and a handle on it.
pub(crate) fn redis() -> (Redis, Arc<Handle>) {
    let redis = Redis::start().unwrap();
    let handle = handle(&redis.url(), Duration::from_millis(200));
    (redis, handle)
}

/// A cluster whose nodes miss each other soon, and a handle on it that knows who has which keys and
/// takes no busy machine for a dead one.
pub(crate) fn cluster() -> (RedisCluster, Arc<Handle>) {
    let cluster = Redis::setup().setting("cluster-node-timeout", "2000").start_cluster().unwrap();
    let handle = handle(&cluster.url(), Duration::from_secs(1));
    until(SOON, "the cluster's map", || (handle.up() == (3, 3)).then_some(())).unwrap();
    (cluster, handle)
}

/// A runtime for the tasks of a test.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}
