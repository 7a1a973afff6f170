//! The clients: some create, some look up what was just created, some follow links that every node
//! has cached or none.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};
use shunt_cluster::wait::pause;
use shunt_cluster::{Address, Connection, Request, Response, until};
use shunt_tests::switch::{self, figure, full};

use crate::fleet::{Fleet, SOON};
use crate::history::{History, Tally, count};

/// Look-ups of links made in the last second while a fault lasts.
const LOOK_UPS: u64 = 10_000;

/// Links that are in every node's cache.
const CACHED: usize = 50;

/// Links that are looked up once, so that no node has them cached: as many as a test needs, in a
/// whole number of batches.
const REPLICATED: usize = 200_000;
const BATCH: usize = 1_000;

/// Time between two redirects of cached links by one client, and of links that are not cached.
const CACHED_PACE: Duration = Duration::from_millis(2);
const REPLICATED_PACE: Duration = Duration::from_millis(4);

/// Time before a create that was refused is sent again.
const AGAIN: Duration = Duration::from_millis(10);

/// Below this nobody says that redirects have become slower: other things run on the machine, less
/// of them in a full run.
const UNNOTICED: Duration = Duration::from_millis(500);
const UNNOTICED_FULL: Duration = Duration::from_millis(100);

/// The bound of a fault: a busy machine needs its time for so many look-ups.
const FAULT: Duration = Duration::from_secs(90);

/// One client's connection, opened when it is needed.
struct Client {
    address: Address,
    connection: Option<Connection>,
}

impl Client {
    fn new(address: &Address) -> Self {
        Self { address: address.clone(), connection: None }
    }

    fn ask(&mut self, request: &Request) -> Result<Response> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(&self.address)?,
        };
        let answer = connection.ask(request)?;
        if !answer.closes() {
            self.connection = Some(connection);
        }
        Ok(answer)
    }

    /// Follows a link; says whether it led to its target, `None` when that can't be told now.
    fn follow(&mut self, history: &History, code: &str, target: &str) -> Option<bool> {
        let begun = Instant::now();
        let answer = self.ask(&Request::get(format!("/{code}")));
        history.waited(begun.elapsed());
        match answer {
            Ok(answer) if (answer.status, answer.location()) == (302, target) => Some(true),
            Ok(answer) if answer.status == 503 => None,
            Ok(answer) => {
                history.wrong(&format!("{code} to {target}: {answer:?}"));
                Some(false)
            }
            Err(error) => {
                history.wrong(&format!("{code} to {target}: {error:#}"));
                Some(false)
            }
        }
    }
}

/// Creates one link after the other, each until it is answered; `chosen` are codes of its own.
fn create(history: &History, address: &Address, key: &str, name: &str, chosen: bool) {
    let mut client = Client::new(address);
    for number in 0.. {
        let target = format!("https://example.com/{name}/{number}?exact=%2F&x=a+b");
        let mut link = json!({ "target": target });
        if chosen {
            link["code"] = json!(format!("{name}-{number}"));
        }
        let request = Request::post_json("/api/v1/links", &link)
            .key(key)
            .header("Idempotency-Key", format!("{name}-{number:016}-of-the-faults"));
        loop {
            if history.stopped() {
                return;
            }
            match client.ask(&request) {
                Ok(answer) if answer.status == 201 => {
                    let body = answer.json().unwrap_or_default();
                    match body["code"].as_str() {
                        Some(code) if body["target"] == target.as_str() => {
                            history.acknowledge(code, &target);
                        }
                        _ => history.wrong(&format!("asked for {target}, got {body}")),
                    }
                    break;
                }
                Ok(answer) if again(history, &answer) => count(&history.counts.refused),
                Ok(answer) => return history.wrong(&format!("create {target}: {answer:?}")),
                Err(_) => count(&history.counts.cut),
            }
            pause(AGAIN);
        }
    }
}

/// Whether an answer to a create means that it can be sent again.
fn again(history: &History, answer: &Response) -> bool {
    let code = answer.json().ok().and_then(|body: Value| Some(body["code"].as_str()?.to_owned()));
    match (answer.status, code.as_deref()) {
        (503, Some("pool-empty")) => {
            count(&history.counts.pool_empty);
            answer.header("retry-after").is_some()
        }
        // Ours says when to come again, and so that a person understands it.
        (503, Some(_)) => answer.header("retry-after").is_some(),
        (409, Some("still-running")) => true,
        // The proxy's.
        (502..=504, None) => true,
        _ => false,
    }
}

fn look_up(history: &History, address: &Address) {
    let (mut client, mut dice) = (Client::new(address), 1_usize);
    let counts = &history.counts;
    while !history.stopped() {
        let any = |below: usize| {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
            (dice >> 33) % below
        };
        let Some(pick) = history.pick(any) else {
            pause(CACHED_PACE);
            continue;
        };
        let (found, unavailable) = if pick.fresh {
            (&counts.fresh, &counts.unavailable)
        } else {
            (&counts.newest, &counts.newest_unavailable)
        };
        match client.follow(history, &pick.link.code, &pick.link.target) {
            Some(true) => {
                count(found);
                if pick.fresh && pick.first {
                    count(&counts.first);
                }
            }
            Some(false) => {}
            None => count(unavailable),
        }
    }
}

type Known = Arc<Vec<(String, String)>>;

fn follow_cached(history: &History, address: &Address, known: &Known) {
    let mut client = Client::new(address);
    for (code, target) in known.iter().cycle() {
        if history.stopped() {
            return;
        }
        let begun = Instant::now();
        match client.follow(history, code, target) {
            Some(true) => {
                history.took(begun.elapsed());
                count(&history.counts.cached);
            }
            Some(false) => {}
            None => history.wrong(&format!("the cached link {code} is answered 503")),
        }
        pause(CACHED_PACE);
    }
}

fn follow_replicated(history: &History, address: &Address, known: &Known) {
    let mut client = Client::new(address);
    for (code, target) in known.iter().cycle() {
        if history.stopped() {
            return;
        }
        match client.follow(history, code, target) {
            Some(true) => count(&history.counts.replicated),
            Some(false) => {}
            None => history.wrong(&format!("the replicated link {code} is answered 503")),
        }
        pause(REPLICATED_PACE);
    }
}

/// Makes links in batches, and answers their codes and targets.
fn batches(fleet: &Fleet, count: usize, name: &str) -> Vec<(String, String)> {
    let mut known = Vec::with_capacity(count);
    for batch in 0..count.div_ceil(BATCH) {
        let targets: Vec<String> = (0..BATCH.min(count))
            .map(|row| format!("https://example.com/{name}/{batch}/{row}"))
            .collect();
        let rows = targets.iter().map(|target| format!("{}\n", json!({ "target": target })));
        let request = Request::new("POST", "/api/v1/links:batch")
            .key(&fleet.key)
            .header("Content-Type", "application/x-ndjson")
            .body(rows.collect::<String>());
        let answer = fleet.nodes[0].ask(&request).unwrap();
        let text = answer.text();
        let codes = text.lines().filter_map(|line| {
            let row: Value = serde_json::from_str(line).unwrap();
            Some(row["code"].as_str()?.to_owned())
        });
        known.extend(codes.zip(targets));
    }
    assert_eq!(known.len(), count, "not every row of a batch was made");
    known
}

/// All clients, at work until this is dropped.
pub(crate) struct Traffic {
    history: Arc<History>,
    threads: Vec<JoinHandle<()>>,
    calm: Duration,
    /// What redirects of cached links may take without being called slow.
    pub(crate) unnoticed: Duration,
}

impl Traffic {
    /// Makes the links that are cached and replicated, and lets clients loose: they write at `one`,
    /// and read at `other` what was written there.
    pub(crate) fn start(fleet: &Fleet, one: &Address, other: &Address) -> Self {
        let replicated: Known = Arc::new(batches(fleet, switch::count(REPLICATED), "replicated"));
        let cached: Known = Arc::new(batches(fleet, CACHED, "cached"));
        fleet.wait_replicated();
        let history = Arc::new(History::default());
        for node in fleet.addresses() {
            let mut client = Client::new(&node);
            for (code, target) in cached.iter().chain(cached.iter()) {
                assert_eq!(client.follow(&history, code, target), Some(true));
            }
        }
        history.check();
        let unnoticed = if full() { UNNOTICED_FULL } else { UNNOTICED };
        let (threads, calm) = (Vec::new(), Duration::ZERO);
        let mut traffic = Self { history, threads, calm, unnoticed };
        let writers = [(one, "a", false), (one, "b", false), (other, "c", false), (one, "d", true)];
        for (address, name, chosen) in writers {
            let key = fleet.key.clone();
            traffic.client(address, move |history, address| {
                create(history, address, &key, name, chosen);
            });
        }
        for _ in 0..2 {
            traffic.client(other, look_up);
        }
        for address in [one, other] {
            let cached = Arc::clone(&cached);
            traffic.client(address, move |history, address| {
                follow_cached(history, address, &cached);
            });
        }
        traffic.client(other, move |history, address| {
            follow_replicated(history, address, &replicated);
        });
        traffic.calm();
        traffic
    }

    fn client(
        &mut self,
        address: &Address,
        work: impl FnOnce(&History, &Address) + Send + 'static,
    ) {
        let (history, address) = (Arc::clone(&self.history), address.clone());
        self.threads.push(std::thread::spawn(move || work(&history, &address)));
    }

    /// The time before any fault: what the others are compared with.
    fn calm(&mut self) {
        let calm = self.fault("no fault");
        calm.outlast();
        let tally = calm.tally();
        assert_eq!((tally.refused, tally.cut), (0, 0), "{tally:?}");
        calm.ends(0);
        self.calm = self.history.p99();
    }

    /// A fault of this name begins.
    pub(crate) fn fault(&self, name: &str) -> Fault<'_> {
        self.history.begin(name);
        let now = self.history.counts.now();
        Fault { traffic: self, name: name.to_owned(), begun: now, bit: now, at: Instant::now() }
    }

    /// Waits for a condition, and fails at once when something is wrong.
    pub(crate) fn wait(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let waited = until(FAULT, what, || {
            self.history.check();
            condition().then_some(())
        });
        waited.unwrap_or_else(|error| panic!("{error}: {:?}", self.history.counts.now()));
    }

    /// Waits until so many more links were made.
    pub(crate) fn more(&self, links: u64) {
        let goal = self.history.counts.now().made + links;
        self.wait("more links", || self.history.counts.now().made >= goal);
    }

    /// Stops the clients, and asks for every link that was ever acknowledged.
    pub(crate) fn judge(mut self, fleet: &Fleet, entrances: &[Address]) -> usize {
        self.end();
        self.history.begin("at the end");
        self.history.judge(fleet, entrances)
    }

    fn end(&mut self) {
        self.history.stop();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                self.history.wrong("a client panicked");
            }
        }
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.end();
    }
}

/// A fault that lasts.
pub(crate) struct Fault<'a> {
    traffic: &'a Traffic,
    name: String,
    begun: Tally,
    bit: Tally,
    at: Instant,
}

impl Fault<'_> {
    /// It is in force: look-ups count from here on.
    pub(crate) fn bites(&mut self) {
        self.bit = self.traffic.history.counts.now();
    }

    /// What happened since it is in force.
    pub(crate) fn tally(&self) -> Tally {
        self.traffic.history.counts.now().since(self.bit)
    }

    /// Whether links of the last second were looked up often enough.
    pub(crate) fn lasted(&self) -> bool {
        self.traffic.history.check();
        assert!(self.at.elapsed() < FAULT, "{}: {:?}", self.name, self.tally());
        self.tally().fresh >= LOOK_UPS
    }

    /// Waits until it was looked up often enough what was made in the last second.
    pub(crate) fn outlast(&self) {
        self.traffic.wait(&format!("{}: look-ups of new links", self.name), || self.lasted());
    }

    /// The longest time that a redirect took.
    pub(crate) fn slowest(&self) -> Duration {
        self.traffic.history.slowest()
    }

    /// It is over, or will be in a moment: nothing was wrong, at most so many look-ups of new links
    /// were answered 503, and cached redirects were not slow.
    pub(crate) fn ends(self, unavailable: u64) {
        let history = &self.traffic.history;
        let all = history.counts.now().since(self.begun);
        history.check();
        let turned_away = all.unavailable + all.newest_unavailable;
        assert!(turned_away <= unavailable, "{}: {all:?}", self.name);
        assert!(all.cached > 100 && all.replicated > 50, "{}: {all:?}", self.name);
        if self.traffic.calm.is_zero() {
            return;
        }
        let (p99, calm) = (history.p99(), self.traffic.calm);
        let text = format!(
            "{:.1?}; {} look-ups of {} links of the last second, {turned_away} answered 503; {} \
             creates, {} attempts refused, {} cut off; {} cached and {} replicated redirects, 0 \
             failed; p99 of cached ones {p99:.1?}, before {calm:.1?}",
            self.at.elapsed(),
            all.fresh,
            all.first,
            all.made,
            all.refused,
            all.cut,
            all.cached,
            all.replicated,
        );
        figure(&format!("fault: {}", self.name), &text);
        let bound = (calm * 2).max(self.traffic.unnoticed);
        assert!(p99 <= bound, "{}: cached redirects became slow: {text}", self.name);
    }
}

/// Waits until all is well again: creates go on at both nodes, and nobody names a fault.
pub(crate) fn healed(fleet: &Fleet, traffic: &Traffic) {
    until(SOON, "both nodes to be well", || {
        traffic.history.check();
        fleet
            .nodes
            .iter()
            .all(|node| node.ask_ops("/readyz").unwrap().text().contains("\"ready\""))
            .then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}: {}", fleet.ready()));
    traffic.more(50);
}
