//! Restarts that nobody notices.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;
use shunt_cluster::{Connection, Request, Shunt, until};

use crate::kit::{self, SOON};

/// Clients with kept connections and clients with a new one for each request, creating and
/// following links; the process is replaced again and again; every single request is answered.
#[test]
fn a_rolling_restart_fails_no_request() {
    let mut shunt = Shunt::started().unwrap();
    kit::link(&shunt, "stay", "https://example.com/stay");
    let restarts = kit::count(100);
    let (done, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    let failures = std::sync::Mutex::new(Vec::new());
    let address = shunt.address();
    std::thread::scope(|scope| {
        for client in 0..8 {
            let (address, done, asked, failures) = (&address, &done, &asked, &failures);
            scope.spawn(move || {
                let mut kept: Option<Connection> = None;
                for n in 0_u64.. {
                    if done.load(Ordering::Acquire) {
                        return;
                    }
                    let request = if client % 4 == 0 {
                        let wish = json!({"target": format!("https://example.com/{client}/{n}")});
                        Request::post_json("/api/v1/links", &wish)
                    } else {
                        Request::get("/stay")
                    };
                    // A server that is about to go says so with `Connection: close`; a client that
                    // then opens a new connection never meets a closed one.
                    let reused = kept.is_some();
                    let answer = match kept.take() {
                        Some(connection) => Ok(connection),
                        None => Connection::open(address),
                    }
                    .and_then(|mut connection| {
                        let answer = connection.ask(&request)?;
                        if client % 2 == 0 && !answer.closes() {
                            kept = Some(connection);
                        }
                        Ok(answer)
                    });
                    asked.fetch_add(1, Ordering::AcqRel);
                    match answer {
                        Ok(answer) if matches!(answer.status, 201 | 302) => {}
                        Ok(answer) => {
                            failures.lock().unwrap().push(format!("reused {reused}: {answer:?}"))
                        }
                        Err(error) => {
                            failures.lock().unwrap().push(format!("reused {reused}: {error:#}"))
                        }
                    }
                }
            });
        }
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for restart in 0..restarts {
                let before = asked.load(Ordering::Acquire);
                until(SOON, "requests between two restarts", || {
                    (asked.load(Ordering::Acquire) >= before + 300).then_some(())
                })
                .unwrap();
                let status = shunt.hand_over(&["--takeover"], Duration::from_secs(30)).unwrap();
                assert_eq!(status.code(), Some(0), "restart {restart}");
            }
            let before = asked.load(Ordering::Acquire);
            until(SOON, "requests after the last restart", || {
                (asked.load(Ordering::Acquire) >= before + 300).then_some(())
            })
            .unwrap();
        }));
        done.store(true, Ordering::Release);
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
    let failures = failures.into_inner().unwrap();
    let asked = asked.into_inner();
    assert!(
        failures.is_empty(),
        "{} of {asked} failed: {:#?}",
        failures.len(),
        &failures[..failures.len().min(10)]
    );
    // The clicks of all the processes add up.
    kit::balanced(&shunt, 100);
    kit::figure("rolling restart", &format!("{restarts} restarts, {asked} requests, 0 failed"));
}

/// Connections that nobody uses at the moment survive a restart, those behind a balancer with
/// their visitor's address: the client never learns that there was one.
#[test]
fn quiet_connections_are_passed_on() {
    let mut shunt = Shunt::started().unwrap();
    kit::link(&shunt, "stay", "https://example.com/stay");
    let mut quiet: Vec<Connection> = (0..300).map(|_| shunt.connect().unwrap()).collect();
    for (n, connection) in quiet.iter_mut().enumerate() {
        // Some have never said anything.
        if n % 3 > 0 {
            assert_eq!(connection.ask(&Request::get("/stay")).unwrap().status, 302);
        }
    }
    for restart in 0..3 {
        let status = shunt.hand_over(&["--takeover"], Duration::from_secs(30)).unwrap();
        assert_eq!(status.code(), Some(0), "restart {restart}");
        for (n, connection) in quiet.iter_mut().enumerate() {
            let answer = connection.ask(&Request::get("/stay")).unwrap();
            assert_eq!((answer.status, answer.closes()), (302, false), "{n}: {answer:?}");
        }
    }
    // Nobody follows this time.
    shunt.process().unwrap().signal(shunt_cluster::process::Signal::TERM).unwrap();
    let status = shunt.process().unwrap().wait(SOON).unwrap();
    assert_eq!(status.code(), Some(0), "{}", shunt.said());
}

/// SIGTERM: what was begun is answered, the health check says "draining", and the exit is clean.
#[test]
fn a_stop_answers_what_was_begun() {
    let mut shunt = Shunt::started().unwrap();
    kit::link(&shunt, "stay", "https://example.com/stay");
    let mut kept = shunt.connect().unwrap();
    kept.ask(&Request::get("/stay")).unwrap();
    let mut half = shunt.connect().unwrap();
    let body = json!({"target": "https://example.com/half"}).to_string();
    let head = format!(
        "POST /api/v1/links HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    half.send_raw(head.as_bytes()).unwrap();
    shunt.process().unwrap().signal(shunt_cluster::process::Signal::TERM).unwrap();
    half.send_raw(body.as_bytes()).unwrap();
    let answer = half.read(false).unwrap();
    assert_eq!(answer.status, 201, "{answer:?}");
    assert!(answer.closes(), "{answer:?}");
    let status = shunt.process().unwrap().wait(SOON).unwrap();
    assert_eq!(status.code(), Some(0), "{}", shunt.said());
}
