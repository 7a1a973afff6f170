//! `kill -9` under load, again and again: no acknowledged link is lost, no code comes twice, and
//! the click ledger balances.
//!
//! What was acknowledged is recorded by the clients, outside the server. System calls are counted
//! by strace in the same run, so that "durable" is shown by an fsync and not only by a page cache
//! that outlives the process.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use shunt_cluster::{Address, Connection, Request, Shunt, until};

use crate::kit::{self, Dice, SOON};

/// What the clients know.
#[derive(Default)]
struct History {
    /// Acknowledged links: code → target, in the order of acknowledgement too.
    links: Mutex<(HashMap<String, String>, Vec<String>)>,
    /// Redirects to a target that a client received whole.
    received: AtomicU64,
    /// Redirect requests that were sent and not answered: each may have been served or not.
    cut: AtomicU64,
    /// Creates whose answer never came and that were repeated with the same key.
    repeated: AtomicU64,
    /// Anything that must not be.
    wrong: Mutex<Vec<String>>,
    stop: AtomicBool,
}

impl History {
    fn wrong(&self, what: String) {
        self.wrong.lock().unwrap().push(what);
    }

    fn acknowledge(&self, code: &str, target: &str) {
        let mut links = self.links.lock().unwrap();
        if let Some(other) = links.0.insert(code.to_owned(), target.to_owned()) {
            self.wrong(format!("{code} was given out twice: for {other} and {target}"));
        }
        links.1.push(code.to_owned());
    }

    fn acknowledged(&self) -> usize {
        self.links.lock().unwrap().1.len()
    }

    /// A link that was acknowledged, any one.
    fn any(&self, dice: &mut Dice) -> Option<(String, String)> {
        let links = self.links.lock().unwrap();
        let code = links.1.get(dice.below(links.1.len()))?;
        Some((code.clone(), links.0.get(code)?.clone()))
    }
}

/// A connection to a server that may be down for a moment.
fn reconnect(address: &Address, history: &History) -> Option<Connection> {
    until(SOON, "the server to be back", || {
        if history.stop.load(Ordering::Acquire) {
            return Some(None);
        }
        Connection::open(address).ok().map(Some)
    })
    .unwrap()
}

fn creator(address: &Address, history: &History, number: u64) {
    let Some(mut connection) = reconnect(address, history) else {
        return;
    };
    for count in 0_u64.. {
        let target = format!("https://example.com/{number}/{count}?exact=%2F&x=a+b");
        let request = Request::post_json("/api/v1/links", &json!({"target": target}))
            .header("Idempotency-Key", format!("creator-{number:04}-link-{count:012}"));
        // Until it is answered: a repeat may not make a second link.
        loop {
            if history.stop.load(Ordering::Acquire) {
                return;
            }
            match connection.ask(&request) {
                Ok(answer) if answer.status == 201 => {
                    let body = answer.json().unwrap();
                    let code = body["code"].as_str().unwrap().to_owned();
                    if body["target"] != target.as_str() {
                        history.wrong(format!("{code}: asked for {target}, got {body}"));
                    }
                    history.acknowledge(&code, &target);
                    break;
                }
                // Unknown, or an attempt of the dead process that still counts as running.
                Ok(answer) if matches!(answer.status, 503 | 409) => {
                    shunt_cluster::wait::pause(Duration::from_millis(20));
                }
                Ok(answer) => {
                    history.wrong(format!("create: {answer:?}"));
                    return;
                }
                Err(_) => {
                    history.repeated.fetch_add(1, Ordering::AcqRel);
                    let Some(fresh) = reconnect(address, history) else {
                        return;
                    };
                    connection = fresh;
                }
            }
        }
    }
}

fn visitor(address: &Address, history: &History, seed: u64) {
    let mut dice = Dice(seed);
    let Some(mut connection) = reconnect(address, history) else {
        return;
    };
    while !history.stop.load(Ordering::Acquire) {
        let Some((code, target)) = history.any(&mut dice) else {
            shunt_cluster::wait::pause(Duration::from_millis(1));
            continue;
        };
        match connection.ask(&Request::get(format!("/{code}"))) {
            Ok(answer) if answer.status == 302 && answer.location() == target => {
                history.received.fetch_add(1, Ordering::AcqRel);
            }
            Ok(answer) if answer.status == 503 => {}
            Ok(answer) => history.wrong(format!("{code} → {target}: {answer:?}")),
            Err(_) => {
                history.cut.fetch_add(1, Ordering::AcqRel);
                let Some(fresh) = reconnect(address, history) else {
                    return;
                };
                connection = fresh;
            }
        }
    }
}

/// How many links are asked for after each kill: more than can be on their way at once.
const LATEST: usize = 200;

/// Asks for acknowledged links and says which are not there.
fn check(shunt: &Shunt, history: &History, codes: &[String]) {
    let mut connection = shunt.connect().unwrap();
    for code in codes {
        let target = history.links.lock().unwrap().0[code].clone();
        let answer = connection.ask(&Request::get(format!("/{code}"))).unwrap();
        if (answer.status, answer.location()) != (302, target.as_str()) {
            history.wrong(format!("after a restart {code} → {target}: {answer:?}"));
        } else {
            history.received.fetch_add(1, Ordering::AcqRel);
        }
    }
}

#[test]
fn kill_9_loses_nothing_and_hands_out_no_code_twice() {
    let kills = kit::count(200);
    let trace = tempfile::NamedTempFile::new().unwrap();
    // -DD: strace stands beside the server, which keeps its number and its parent.
    let mut shunt = Shunt::new().unwrap().wrap([
        "strace",
        "-DD",
        "-f",
        "-q",
        "-y",
        "--seccomp-bpf",
        "-A",
        "-e",
        "trace=fsync,fdatasync",
        "-e",
        "signal=none",
        "-o",
        trace.path().to_str().unwrap(),
    ]);
    shunt.start().unwrap();
    let history = History::default();
    let address = shunt.address();
    let mut slowest = Duration::ZERO;
    std::thread::scope(|scope| {
        for number in 0..4 {
            let (address, history) = (&address, &history);
            scope.spawn(move || creator(address, history, number));
        }
        for seed in 1..=3 {
            let (address, history) = (&address, &history);
            scope.spawn(move || visitor(address, history, seed));
        }
        // A failure in here must let the clients go, or the scope never ends.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut dice = Dice(42);
            for kill in 0..kills {
                let (made, seen) =
                    (history.acknowledged(), history.received.load(Ordering::Acquire));
                // A different moment each time: somewhere after some work was done.
                let more = 30 + dice.below(60);
                until(SOON, "work between two kills", || {
                    let created = history.acknowledged() >= made + more;
                    let visited = history.received.load(Ordering::Acquire) >= seen + 50;
                    (created && visited).then_some(())
                })
                .unwrap();
                shunt.kill();
                // Those of the last moment are the ones in danger; all of them follow at the end.
                let codes = history.links.lock().unwrap().1.clone();
                let latest = codes.len().saturating_sub(LATEST);
                let began = Instant::now();
                shunt.start().unwrap();
                slowest = slowest.max(began.elapsed());
                check(&shunt, &history, &codes[latest..]);
                let wrong = history.wrong.lock().unwrap();
                assert!(wrong.is_empty(), "after kill {}:\n{}", kill + 1, wrong.join("\n"));
            }
        }));
        history.stop.store(true, Ordering::Release);
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
    // Every one of them, at the end.
    let codes = history.links.lock().unwrap().1.clone();
    check(&shunt, &history, &codes);
    let wrong = history.wrong.lock().unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    let (received, cut) =
        (history.received.load(Ordering::Acquire), history.cut.load(Ordering::Acquire));
    assert!(cut > 0, "no kill ever cut a request off");
    // The worker is behind by its fold time; then the books must balance and stay so.
    let ledger = kit::balanced(&shunt, received);
    assert_eq!(ledger.unknown, 0, "{ledger:?}: no boot's rings were lost with the process");
    assert!(
        (received..=received + cut).contains(&ledger.served),
        "{ledger:?}: clients received {received} and were cut off {cut} times"
    );

    let traced = std::fs::read_to_string(trace.path()).unwrap();
    let links_syncs = traced.lines().filter(|line| line.contains("links.db-wal")).count();
    let made = codes.len();
    // Four creators: at most four acknowledgements can share a commit.
    assert!(links_syncs * 4 >= made, "{links_syncs} fsyncs of the links' log for {made} creates");
    kit::figure(
        "kill -9",
        &format!(
            "{kills} kills; {made} links acknowledged ({} repeated with their key), 0 lost, 0 codes \
             twice, {links_syncs} fsyncs of their log; {received} redirects received, {cut} cut \
             off: served {}, counted {}, lost {}; slowest restart {slowest:?}",
            history.repeated.load(Ordering::Acquire),
            ledger.served,
            ledger.counted,
            ledger.lost,
        ),
    );
}

/// One create after the other: between each request and its 201 there is an fsync of the log.
#[test]
fn every_201_has_its_own_fsync() {
    let mut shunt = Shunt::started().unwrap();
    let mut connection = shunt.connect().unwrap();
    kit::shorten(&mut connection, "https://example.com/first");
    let pid = shunt.process().unwrap().pid();
    let strace = shunt_cluster::faults::Strace::attach(pid, "fsync,fdatasync", None).unwrap();
    for count in 1..=50 {
        kit::shorten(&mut connection, &format!("https://example.com/{count}"));
        let syncs = strace.count("links.db-wal");
        assert!(syncs >= count, "{syncs} fsyncs of the log after {count} creates");
    }
}
