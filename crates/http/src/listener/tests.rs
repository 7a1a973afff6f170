//! The fast loop and hyper side by side, over stores in memory and streams in memory.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use shunt_domain::click::{Click, ClickKind};
use shunt_domain::ports::{ClickRecorder, LinkWriter};
use shunt_domain::{
    NewLink, Outcome, OwnerId, RedirectStatus, Target, TargetRules, Timestamp, Version,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::LocalSet;

use super::core::{Core, ListenerOptions, Shared};
use super::guard::Deadlines;
use super::limits::ConnectionLimits;
use super::proxies::TrustedProxies;
use super::server::serve_stream;
use crate::metrics::Metrics;
use crate::web::tests::world::{self, Memory};

/// Clicks as (code, kind, network), in order.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<(String, ClickKind, String)>>>);

impl ClickRecorder for Seen {
    fn record(&mut self, click: &Click<'_>) {
        let network = format!("{:?}", click.network);
        self.0.lock().unwrap().push((click.code.to_owned(), click.kind, network));
    }
}

struct World {
    core: Rc<Core>,
    memory: Arc<Memory>,
    seen: Seen,
}

const PEER: &str = "192.0.2.7";

async fn world() -> World {
    let (app, memory) = world::service("http://127.0.0.1:8080").await;
    let seen = Seen::default();
    let shared = Shared {
        domains: Arc::default(),
        options: ListenerOptions {
            deadlines: Deadlines { first_byte: 50, head: 50, idle: 600, write: 100 },
            max_head: 8 * 1024,
            proxies: TrustedProxies(vec!["192.0.2.0/24".parse().unwrap()]),
            hash_visitors: true,
            honour_gpc: true,
            request_timeout: Duration::from_secs(5),
            body_window: Duration::from_secs(5),
        },
        limits: ConnectionLimits::new(100, 100),
        metrics: Arc::new(Metrics::new("0", "test")),
        router: crate::router(app.clone()),
        app,
        api: tokio::runtime::Handle::current(),
        visitor_secret: ArcSwapOption::empty(),
        draining: AtomicBool::new(false),
        passing: Default::default(),
    };
    let core = Core::new(Arc::new(shared), Box::new(seen.clone()));
    World { core, memory, seen }
}

impl World {
    async fn link(&self, code: &str, target: &str, change: impl FnOnce(&mut NewLink)) {
        let mut link = NewLink {
            key: world::key(code),
            target: Target::parse(target, &TargetRules::default()).unwrap(),
            title: None,
            tags: Vec::new(),
            owner: OwnerId::ANONYMOUS,
            created_at: Timestamp::from_millis(1),
            valid_from: None,
            expires_at: None,
            max_clicks: None,
            status: RedirectStatus::Found,
            forward_query: false,
            enabled: true,
        };
        change(&mut link);
        let made = self.memory.create(link, world::soon()).await;
        assert!(matches!(made, Outcome::Done(_)), "{made:?}");
        self.core.shared.app.resolver.link_changed(&world::key(code), Version::FIRST);
    }

    /// Begins a connection and answers its far end.
    fn connect(&self, room: usize) -> DuplexStream {
        let (near, far) = tokio::io::duplex(room);
        let peer: IpAddr = PEER.parse().unwrap();
        tokio::task::spawn_local(serve_stream(Rc::clone(&self.core), near, peer));
        far
    }

    /// Sends `bytes` in pieces of `piece` and reads until the other side has answered and is quiet.
    async fn talk(&self, bytes: &[u8], piece: usize) -> String {
        let mut far = self.connect(64 * 1024);
        for part in bytes.chunks(piece) {
            far.write_all(part).await.unwrap();
            tokio::task::yield_now().await;
        }
        let mut answer = Vec::new();
        loop {
            let mut buffer = [0; 4096];
            match tokio::time::timeout(Duration::from_millis(200), far.read(&mut buffer)).await {
                Ok(Ok(n)) if n > 0 => answer.extend_from_slice(&buffer[..n]),
                _ => return String::from_utf8(answer).unwrap(),
            }
        }
    }

    fn clicks(&self) -> Vec<(String, ClickKind, String)> {
        std::mem::take(&mut *self.seen.0.lock().unwrap())
    }

    fn metric(&self, line: &str) -> bool {
        self.core.shared.metrics.render().lines().any(|l| l == line)
    }
}

async fn local<F: Future>(work: F) -> F::Output {
    LocalSet::new().run_until(work).await
}

fn get(path: &str, more: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: go.example\r\n{more}\r\n").into_bytes()
}

/// Status line and headers, lower-cased and sorted, without the date and what is hyper's own.
fn essence(answer: &str) -> Vec<String> {
    let head = answer.split("\r\n\r\n").next().unwrap();
    let mut lines: Vec<String> = head
        .lines()
        .map(str::to_lowercase)
        .filter(|line| !line.starts_with("date:") && !line.starts_with("connection:"))
        .collect();
    lines.sort();
    lines
}

fn statuses(answers: &str) -> Vec<&str> {
    answers.match_indices("HTTP/1.1 ").filter_map(|(at, _)| answers.get(at + 9..at + 12)).collect()
}

#[tokio::test]
async fn both_loops_answer_a_redirect_alike() {
    local(async {
        let world = world().await;
        for (code, status) in [
            ("found", RedirectStatus::Found),
            ("moved", RedirectStatus::MovedPermanently),
            ("temp", RedirectStatus::Temporary),
            ("perm", RedirectStatus::Permanent),
        ] {
            world.link(code, "https://example.com/a?b=c#d", |l| l.status = status).await;
            let path = format!("/{code}");
            let miss = world.talk(&get(&path, ""), 4096).await;
            let hit = world.talk(&get(&path, ""), 4096).await;
            // `Connection: close` makes it hyper's.
            let hyper = world.talk(&get(&path, "Connection: close\r\n"), 4096).await;
            assert_eq!(essence(&hit), essence(&hyper), "{code}");
            assert_eq!(essence(&hit), essence(&miss), "{code}");
            assert!(hit.contains("location: https://example.com/a?b=c#d\r\n"), "{hit}");
        }
        assert_eq!(world.clicks().len(), 12);
        assert!(world.metric("shunt_links_answered_total{answer=\"redirect_l1\"} 4"));
        assert!(world.metric("shunt_connections_handed_over_total 4"));
    })
    .await;
}

#[tokio::test]
async fn a_request_cut_anywhere_is_answered_the_same() {
    local(async {
        let world = world().await;
        world.link("cut", "https://example.com/", |_| ()).await;
        let request = get("/cut?x=1", "User-Agent: test\r\nAccept-Language: de\r\n");
        let whole = essence(&world.talk(&request, 4096).await);
        for piece in 1..request.len() {
            assert_eq!(essence(&world.talk(&request, piece).await), whole, "pieces of {piece}");
        }
    })
    .await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order_whoever_answers() {
    local(async {
        let world = world().await;
        world.link("one", "https://example.com/1", |_| ()).await;
        world.link("two", "https://example.com/2", |_| ()).await;
        world.talk(&get("/one", ""), 4096).await;
        // Hit, miss, unknown, hit, then the API (which makes it hyper's), then a hit.
        let requests: Vec<u8> = ["/one", "/two", "/none", "/one", "/health", "/two"]
            .into_iter()
            .flat_map(|path| get(path, ""))
            .collect();
        for piece in [4096, 17, 1] {
            let answers = world.talk(&requests, piece).await;
            assert_eq!(
                statuses(&answers),
                ["302", "302", "404", "302", "200", "302"],
                "pieces of {piece}: {answers}"
            );
            let at = |needle: &str| answers.find(needle).unwrap();
            assert!(at("example.com/1") < at("example.com/2"));
        }
    })
    .await;
}

#[tokio::test]
async fn clicks_are_what_was_served_and_nothing_else() {
    local(async {
        let world = world().await;
        world.link("real", "https://example.com/", |_| ()).await;
        world.link("off", "https://example.com/", |l| l.enabled = false).await;
        world.link("few", "https://example.com/", |l| l.max_clicks = 1.try_into().ok()).await;
        world.talk(&get("/real", "X-Forwarded-For: 203.0.113.9\r\n"), 4096).await;
        world.talk(b"HEAD /real HTTP/1.1\r\nHost: x\r\n\r\n", 4096).await;
        for path in ["/off", "/none", "/real+", "/health", "/"] {
            world.talk(&get(path, ""), 4096).await;
        }
        let clicks = world.clicks();
        assert_eq!(
            clicks,
            [
                ("real".into(), ClickKind::Served, "V4([203, 0, 113])".into()),
                ("real".into(), ClickKind::Head, "V4([192, 0, 2])".into()),
            ]
        );
        // Robots, prefetches and HEAD use nothing up and see no target.
        for (method, more) in [
            ("GET", "User-Agent: Googlebot/2.1\r\n"),
            ("GET", "Sec-Purpose: prefetch\r\n"),
            ("HEAD", ""),
        ] {
            let request = format!("{method} /few HTTP/1.1\r\nHost: x\r\n{more}\r\n");
            let answer = world.talk(request.as_bytes(), 4096).await;
            assert_eq!(statuses(&answer), ["200"], "{answer}");
            assert!(!answer.contains("location:") && !answer.contains("https://example.com"));
        }
        assert!(world.clicks().is_empty());
        assert_eq!(statuses(&world.talk(&get("/few", ""), 4096).await), ["302"]);
        assert_eq!(statuses(&world.talk(&get("/few", ""), 4096).await), ["410"]);
        assert_eq!(world.clicks().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn an_unreachable_store_is_503_and_cached_links_go_on() {
    local(async {
        let world = world().await;
        world.link("known", "https://example.com/", |_| ()).await;
        world.talk(&get("/known", ""), 4096).await;
        world.memory.cut.store(true, Ordering::Relaxed);
        assert_eq!(statuses(&world.talk(&get("/known", ""), 4096).await), ["302"]);
        for more in ["", "Connection: close\r\n"] {
            let answer = world.talk(&get("/unknown", more), 4096).await;
            assert_eq!(statuses(&answer), ["503"], "{answer}");
            assert!(answer.contains("retry-after:"), "{answer}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_slow_reader_gets_every_byte() {
    local(async {
        let world = world().await;
        world.link("slow", "https://example.com/slow", |_| ()).await;
        world.talk(&get("/slow", ""), 4096).await;
        let mut far = world.connect(64);
        let writer = get("/slow", "").repeat(20);
        let (mut read, mut write) = tokio::io::split(&mut far);
        let sending = async {
            write.write_all(&writer).await.unwrap();
        };
        let reading = async {
            let mut answers = String::new();
            while statuses(&answers).len() < 20 || !answers.ends_with("\r\n\r\n") {
                let mut buffer = [0; 7];
                let n = read.read(&mut buffer).await.unwrap();
                assert!(n > 0, "closed after {answers}");
                answers.push_str(std::str::from_utf8(&buffer[..n]).unwrap());
            }
            answers
        };
        let ((), answers) = tokio::join!(sending, reading);
        assert_eq!(statuses(&answers), ["302"; 20]);
    })
    .await;
}

#[tokio::test]
async fn a_draining_server_answers_and_closes() {
    local(async {
        let world = world().await;
        world.link("last", "https://example.com/", |_| ()).await;
        world.talk(&get("/last", ""), 4096).await;
        world.core.shared.draining.store(true, Ordering::Relaxed);
        for path in ["/last", "/none", "/api/v1/links"] {
            let mut far = world.connect(64 * 1024);
            far.write_all(&get(path, "")).await.unwrap();
            let mut answer = String::new();
            far.read_to_string(&mut answer).await.unwrap();
            assert!(answer.contains("connection: close\r\n"), "{path}: {answer}");
        }
        let health = world.talk(&get("/health", ""), 4096).await;
        assert_eq!(statuses(&health), ["503"]);
    })
    .await;
}

#[tokio::test]
async fn the_visitors_query_is_appended_only_where_the_link_says_so() {
    local(async {
        let world = world().await;
        world.link("with", "https://example.com/p?a=1#f", |l| l.forward_query = true).await;
        world.link("without", "https://example.com/p?a=1#f", |_| ()).await;
        for more in ["", "", "Connection: close\r\n"] {
            let with = world.talk(&get("/with?b=2", more), 4096).await;
            assert!(with.contains("location: https://example.com/p?a=1&b=2#f\r\n"), "{with}");
            let without = world.talk(&get("/without?b=2", more), 4096).await;
            assert!(without.contains("location: https://example.com/p?a=1#f\r\n"), "{without}");
        }
    })
    .await;
}
