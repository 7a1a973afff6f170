//! The shared counter of limits against real servers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use shunt_domain::ApiKeyId;
use shunt_domain::limit::{
    ClientHash, Counting, LimitAnswer, LimitKey, LimitKind, LimitSubject, Rate, gcra,
};
use shunt_domain::ports::{RateLimiter, Use};
use shunt_engine::limits::{Limits, Rates};
use shunt_redis::{Handle, RedisLimiter};

use crate::kit;

fn used(id: u64, rate: Rate, cost: u32, counting: Counting) -> Use {
    let key = LimitKey { kind: LimitKind::Create, subject: LimitSubject::Key(ApiKeyId(id)) };
    Use { key, rate, cost, counting }
}

fn rate(amount: u32, seconds: u64) -> Rate {
    Rate::new(amount, Duration::from_secs(seconds)).unwrap()
}

/// The script and the rule in Rust say the same about the same uses. The clocks differ by the round
/// trips, so the window is so long that nothing comes back meanwhile.
async fn agrees(handle: &Arc<Handle>, first: u64) {
    let limiter = RedisLimiter::new(Arc::clone(handle), "shunt");
    let rates = [rate(5, 86_400), rate(1, 86_400), rate(20, 80_000)];
    for (n, rate) in (first..).zip(rates) {
        let mut arrival = 0;
        for step in 0..60_u32 {
            let counting = if step % 5 == 4 { Counting::Tell } else { Counting::Ask };
            let used = used(n, rate, step % 4, counting);
            let answer = limiter.count(used, kit::soon()).await.unwrap();
            let same = gcra(rate, &mut arrival, 1, used.cost, counting);
            assert_eq!(
                (answer.allowed, answer.remaining),
                (same.allowed, same.remaining),
                "{step}: {answer:?} {same:?}"
            );
            for (one, other) in [(answer.reset, same.reset), (answer.retry_after, same.retry_after)]
            {
                assert!(one.abs_diff(other) < Duration::from_secs(20), "{answer:?} {same:?}");
            }
        }
    }
}

#[test]
fn the_script_is_the_rule_on_one_server() {
    let (redis, handle) = kit::redis();
    kit::runtime().block_on(agrees(&handle, 0));
    // Every key ends by itself.
    let keys = redis.ask(&["KEYS", "shunt:limit:*"]).unwrap();
    let shunt_cluster::redis::Reply::List(keys) = keys else { panic!("{keys:?}") };
    assert!(!keys.is_empty());
    for key in &keys {
        let life = redis.ask(&["PTTL", key.text().unwrap()]).unwrap().number().unwrap();
        assert!(life > 0, "{key:?} lives {life}");
    }
}

#[test]
fn the_script_is_the_rule_on_a_cluster() {
    let (_cluster, handle) = kit::cluster();
    kit::runtime().block_on(async {
        // On all masters.
        for first in [0, 100, 200, 300] {
            agrees(&handle, first).await;
        }
    });
}

/// Scripts are forgotten by a server that starts again, and garbage under a key is no allowance.
#[test]
fn the_script_is_sent_again_and_garbage_is_survived() {
    let (mut redis, handle) = kit::redis();
    let runtime = kit::runtime();
    let limiter = RedisLimiter::new(Arc::clone(&handle), "shunt");
    let ask =
        || runtime.block_on(limiter.count(used(1, rate(2, 3_600), 1, Counting::Ask), kit::soon()));
    assert!(ask().unwrap().allowed);
    redis.ask(&["SCRIPT", "FLUSH"]).unwrap();
    assert!(ask().unwrap().allowed);
    assert!(!ask().unwrap().allowed);
    redis.ask(&["SET", "shunt:limit:create:key:1", "garbage"]).unwrap();
    assert!(ask().unwrap().allowed);
    // A clock that went back by an hour: not locked out beyond the longest debt.
    redis.ask(&["SET", "shunt:limit:create:key:1", "9007199254740991"]).unwrap();
    assert!(ask().unwrap().retry_after <= Duration::from_secs(36_000));
    redis.restart().unwrap();
    let answer: LimitAnswer = shunt_cluster::until(kit::SOON, "an answer", || ask().ok()).unwrap();
    assert!(!answer.allowed, "{answer:?}");
}

/// Sixty-four tasks of four nodes at once get exactly the allowance.
#[test]
fn many_nodes_at_once_get_exactly_one_allowance() {
    let (_redis, handle) = kit::redis();
    let allowed = kit::runtime().block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        let rates = Rates { creates_per_key: Some(rate(500, 86_400)), ..Rates::default() };
        for _ in 0..4 {
            let limiter = Arc::new(RedisLimiter::new(Arc::clone(&handle), "shunt"));
            let node = Arc::new(Limits::new(rates, [1; 32]).shared(limiter, kit::SOON));
            for _ in 0..16 {
                let node = Arc::clone(&node);
                tasks.spawn(async move {
                    let subject = LimitSubject::Key(ApiKeyId(1));
                    let mut allowed = 0;
                    for _ in 0..50 {
                        let quota = node.ask(LimitKind::Create, subject, 1).await.unwrap();
                        allowed += u32::from(quota.answer.allowed);
                    }
                    assert_eq!(node.stats().alone(), 0);
                    allowed
                });
            }
        }
        tasks.join_all().await.into_iter().sum::<u32>()
    });
    assert_eq!(allowed, 500);
}

/// A Redis that hangs or is gone costs its deadline at most, and limits go on in each process.
#[test]
fn without_redis_each_process_limits_by_itself() {
    let (mut redis, handle) = kit::redis();
    let runtime = kit::runtime();
    let patience = Duration::from_millis(40);
    let rates = Rates { misses: Some(rate(1_000, 3_600)), ..Rates::default() };
    let limiter = Arc::new(RedisLimiter::new(handle, "shunt"));
    let limits = Limits::new(rates, [1; 32]).shared(limiter, patience);
    let subject = LimitSubject::Client(ClientHash([7; 16]));
    let ask = || {
        let began = Instant::now();
        let quota = runtime.block_on(limits.ask(LimitKind::RedirectMiss, subject, 1)).unwrap();
        (quota.answer.allowed, began.elapsed())
    };
    let mut allowed = 0;
    let mut slowest = Duration::ZERO;
    let mut some = |n: u32| {
        for _ in 0..n {
            let (granted, took) = ask();
            allowed += u32::from(granted);
            slowest = slowest.max(took);
        }
        allowed
    };
    assert_eq!(some(100), 100);
    assert_eq!(limits.stats().alone(), 0);
    redis.freeze().unwrap();
    assert_eq!(some(300), 400);
    let hung = limits.stats().alone();
    assert!(hung > 0, "the freeze did not bite");
    redis.thaw().unwrap();
    redis.kill();
    assert_eq!(some(300), 700);
    assert!(limits.stats().alone() > hung, "the kill did not bite");
    assert_eq!(some(1_000), 1_000);
    assert!(slowest < Duration::from_millis(500), "{slowest:?}");
}
