use std::sync::Mutex;

use shunt_domain::StoreError;
use shunt_domain::limit::gcra;
use shunt_domain::ports::BoxFuture;

use super::*;

const PATIENCE: Duration = Duration::from_millis(40);

fn rate(amount: u32) -> Option<Rate> {
    Rate::new(amount, Duration::from_secs(60))
}

fn rates() -> Rates {
    Rates {
        creates_per_key: None,
        creates_per_address: rate(10),
        misses: rate(60),
        logins: rate(3),
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// What the shared counter does next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mood {
    Works,
    Fails,
    Hangs,
}

/// A counter that several `Limits` share, with moods.
struct Counter {
    arrivals: Mutex<std::collections::HashMap<LimitKey, u64>>,
    mood: Mutex<Mood>,
    born: Instant,
}

impl Counter {
    fn new() -> Arc<Self> {
        let mood = Mutex::new(Mood::Works);
        Arc::new(Self { arrivals: Mutex::default(), mood, born: Instant::now() })
    }
}

impl RateLimiter for Counter {
    fn count(
        &self,
        used: Use,
        _deadline: Deadline,
    ) -> BoxFuture<'_, Result<LimitAnswer, StoreError>> {
        Box::pin(async move {
            let mood = *self.mood.lock().unwrap();
            match mood {
                Mood::Works => {}
                Mood::Fails => return Err(StoreError::Unavailable("down".into())),
                Mood::Hangs => std::future::pending().await,
            }
            let now = self.born.elapsed().as_micros() as u64;
            let mut arrivals = self.arrivals.lock().unwrap();
            let arrival = arrivals.entry(used.key).or_default();
            Ok(gcra(used.rate, arrival, now, used.cost, used.counting))
        })
    }
}

/// Asks until it is refused, at most `most` times; answers how often it was allowed.
async fn drain(limits: &Limits, subject: LimitSubject, most: u32) -> u32 {
    for n in 0..most {
        let quota = limits.ask(LimitKind::Create, subject, 1).await.unwrap();
        if !quota.answer.allowed {
            return n;
        }
    }
    most
}

#[tokio::test]
async fn each_address_has_its_own_and_a_64_is_one() {
    let limits = Limits::new(rates(), [1; 32]);
    assert_eq!(drain(&limits, limits.client(ip("192.0.2.1")), 100).await, 10);
    assert_eq!(drain(&limits, limits.client(ip("::ffff:192.0.2.1")), 100).await, 0);
    assert_eq!(drain(&limits, limits.client(ip("192.0.2.2")), 100).await, 10);
    assert_eq!(drain(&limits, limits.client(ip("2001:db8::1")), 100).await, 10);
    for n in 0..10_000_u128 {
        let v6 = std::net::Ipv6Addr::from_bits(ip_bits("2001:db8::") + (n << 40));
        assert_eq!(drain(&limits, limits.client(v6.into()), 1).await, 0, "{v6}");
    }
    assert_eq!(drain(&limits, limits.client(ip("2001:db8:0:1::1")), 100).await, 10);
    assert_eq!(limits.stats().limited(LimitKind::Create, Decided::Local), 5 + 10_000);
}

fn ip_bits(text: &str) -> u128 {
    text.parse::<std::net::Ipv6Addr>().unwrap().to_bits()
}

#[tokio::test]
async fn what_is_not_limited_is_not_counted() {
    let limits = Limits::new(rates(), [1; 32]);
    let key = LimitSubject::Key(shunt_domain::ApiKeyId(1));
    for _ in 0..100 {
        assert_eq!(limits.ask(LimitKind::Create, key, 1_000).await, None);
    }
    assert_eq!(limits.spent(LimitKind::Create, key), None);
    assert_eq!(limits.remembered().0, 0);
}

#[tokio::test]
async fn what_was_told_is_spent() {
    let limits = Limits::new(rates(), [1; 32]);
    let client = limits.client(ip("192.0.2.1"));
    for n in 0..100 {
        let quota = limits.tell(LimitKind::RedirectMiss, client, 1).await.unwrap();
        assert_eq!(quota.answer.allowed, n < 60);
        assert_eq!(limits.spent(LimitKind::RedirectMiss, client).is_some(), n >= 59, "{n}");
    }
    let spent = limits.spent(LimitKind::RedirectMiss, client).unwrap();
    assert!(spent.answer.retry_after > Duration::from_secs(39), "{spent:?}");
    // Other kinds are others.
    assert_eq!(limits.spent(LimitKind::Login, client), None);
}

#[tokio::test]
async fn nodes_share_one_allowance_and_remember_that_it_is_spent() {
    let counter = Counter::new();
    let node = || Limits::new(rates(), [1; 32]).shared(counter.clone(), PATIENCE);
    let (a, b) = (node(), node());
    let client = a.client(ip("192.0.2.1"));
    assert_eq!(client, b.client(ip("192.0.2.1")));
    assert_eq!(drain(&a, client, 7).await, 7);
    assert_eq!(drain(&b, client, 100).await, 3);
    assert_eq!(b.stats().limited(LimitKind::Create, Decided::Shared), 0, "known beforehand");
    assert_eq!(drain(&a, client, 100).await, 0);
    assert_eq!(a.stats().limited(LimitKind::Create, Decided::Shared), 1);
    // From now on without asking.
    assert!(a.spent(LimitKind::Create, client).is_some());
    *counter.mood.lock().unwrap() = Mood::Hangs;
    let began = Instant::now();
    assert_eq!(drain(&a, client, 100).await, 0);
    assert!(began.elapsed() < PATIENCE);
}

#[tokio::test(start_paused = true)]
async fn a_counter_that_is_down_or_hangs_limits_all_the_same() {
    for mood in [Mood::Fails, Mood::Hangs] {
        let counter = Counter::new();
        let limits = Limits::new(rates(), [1; 32]).shared(counter.clone(), PATIENCE);
        let client = limits.client(ip("192.0.2.1"));
        assert_eq!(drain(&limits, client, 4).await, 4);
        *counter.mood.lock().unwrap() = mood;
        // What was used before counts on.
        assert_eq!(drain(&limits, client, 100).await, 6);
        assert_eq!(limits.stats().alone(), 6);
        *counter.mood.lock().unwrap() = Mood::Works;
        assert_eq!(drain(&limits, client, 100).await, 0);
        // A counter that forgot everything gives nothing back either.
        counter.arrivals.lock().unwrap().clear();
        assert_eq!(drain(&limits, client, 100).await, 0);
    }
}

#[tokio::test]
async fn memory_is_bounded_and_hot_ones_are_kept() {
    let limits = Limits::new(rates(), [1; 32]);
    let hot = limits.client(ip("192.0.2.1"));
    for _ in 0..100 {
        limits.tell(LimitKind::RedirectMiss, hot, 1).await;
    }
    for n in 0..4 * local::CAPACITY as u128 {
        let v6 = std::net::Ipv6Addr::from_bits(n << 64);
        limits.tell(LimitKind::RedirectMiss, limits.client(v6.into()), 1).await;
        assert!(limits.spent(LimitKind::RedirectMiss, hot).is_some(), "forgotten after {n}");
    }
    let (len, capacity) = limits.remembered();
    assert!(len <= capacity, "{len} of {capacity}");
}

#[test]
fn an_address_is_not_in_its_hash() {
    let a = Limits::new(rates(), [1; 32]);
    let b = Limits::new(rates(), [2; 32]);
    assert_ne!(a.client(ip("192.0.2.1")), b.client(ip("192.0.2.1")));
    let text = format!("{:?}", a.client(ip("192.0.2.1")));
    assert_eq!(text, "Client(ClientHash(…))");
    b.share_secret([1; 32]);
    assert_eq!(a.client(ip("192.0.2.1")), b.client(ip("192.0.2.1")));
}
