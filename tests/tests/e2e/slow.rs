//! Slow and half requests: each deadline really fires, and nobody else notices.

use std::time::{Duration, Instant};

use serde_json::json;
use shunt_cluster::wait::pause;
use shunt_cluster::{Connection, Request, Shunt};

use crate::kit;

/// Deadlines short enough to watch, far enough apart to tell which one fired.
const CONFIG: &str = "[timeouts]\nfirst_byte = \"600ms\"\nheader = \"1200ms\"\n\
                      idle = \"2400ms\"\nrequest = \"1800ms\"\nwrite = \"2s\"\n";

fn server() -> Shunt {
    let mut shunt = Shunt::new().unwrap().config(CONFIG).unwrap();
    shunt.start().unwrap();
    kit::link(&shunt, "good", "https://example.com/good");
    kit::leads(&shunt, "good", "https://example.com/good");
    shunt
}

/// How long until the server closes, and what it said before.
fn until_closed(connection: &mut Connection) -> (Duration, String) {
    let began = Instant::now();
    connection.read_timeout(Duration::from_secs(15)).unwrap();
    let (said, closed) = connection.drain(1 << 16);
    assert!(closed, "it was still open after 15 s");
    (began.elapsed(), String::from_utf8_lossy(&said).into_owned())
}

#[track_caller]
fn about(took: Duration, millis: u64) {
    // The cores may be busy: late is forgiven, early is not.
    let (from, to) = (Duration::from_millis(millis * 8 / 10), Duration::from_millis(millis + 1500));
    assert!((from..to).contains(&took), "after {took:?} instead of {millis} ms");
}

#[test]
fn a_connection_that_says_nothing_is_closed_at_the_first_byte_deadline() {
    let shunt = server();
    let mut connection = shunt.connect().unwrap();
    let (took, said) = until_closed(&mut connection);
    about(took, 600);
    assert_eq!(said, "", "nothing was asked, so nothing is answered");
}

#[test]
fn half_a_head_is_closed_at_the_header_deadline_however_steadily_it_drips() {
    let shunt = server();
    for path in ["/good", "/api/v1/links"] {
        let mut half = shunt.connect().unwrap();
        half.send_raw(format!("GET {path} HTTP/1.1\r\nHost: x\r\n").as_bytes()).unwrap();
        let (took, _) = until_closed(&mut half);
        about(took, 1200);

        let mut drip = shunt.connect().unwrap();
        let began = Instant::now();
        drip.send_raw(format!("GET {path} HTTP/1.1\r\n").as_bytes()).unwrap();
        while began.elapsed() < Duration::from_secs(10) {
            if drip.send_raw(b"X: y\r\n").is_err() {
                break;
            }
            pause(Duration::from_millis(100));
        }
        about(began.elapsed(), 1200);
    }
}

/// The header deadline holds for the second request of a connection too.
#[test]
fn a_kept_connection_is_closed_at_the_idle_deadline_and_its_next_head_has_its_own() {
    let shunt = server();
    for path in ["/good", "/health"] {
        let mut idle = shunt.connect().unwrap();
        idle.ask(&Request::get(path)).unwrap();
        let (took, said) = until_closed(&mut idle);
        about(took, 2400);
        assert_eq!(said, "");

        let mut second = shunt.connect().unwrap();
        second.ask(&Request::get(path)).unwrap();
        second.send_raw(b"GET /go").unwrap();
        let (took, _) = until_closed(&mut second);
        about(took, 1200);
    }
}

#[test]
fn a_body_that_does_not_come_is_not_waited_for() {
    let shunt = server();
    let mut connection = shunt.connect().unwrap();
    let head = "POST /api/v1/links HTTP/1.1\r\nHost: 127.0.0.1\r\n\
                Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"target\"";
    connection.send_raw(head.as_bytes()).unwrap();
    let (took, said) = until_closed(&mut connection);
    assert!(took < Duration::from_secs(8), "{took:?}");
    assert!(said.is_empty() || said.starts_with("HTTP/1.1 4"), "{said}");
}

/// Hundreds of slow ones of every kind at once; a good client does not notice.
#[test]
fn good_clients_do_not_notice_hundreds_of_slow_ones() {
    let shunt = server();
    let starts = [
        "",
        "G",
        "GET /good HTTP/1.1\r\nHost: x\r\nX: ",
        "POST /api/v1/links HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{",
        "POST /api/v1/links HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1",
    ];
    let began = Instant::now();
    let mut asked = 0_usize;
    let mut worst = Duration::ZERO;
    let mut good = shunt.connect().unwrap();
    while began.elapsed() < Duration::from_secs(if kit::full() { 60 } else { 6 }) {
        let slow: Vec<Connection> = (0..200)
            .filter_map(|i| {
                let mut connection = shunt.connect().ok()?;
                connection.send_raw(starts[i % starts.len()].as_bytes()).ok()?;
                Some(connection)
            })
            .collect();
        for _ in 0..50 {
            let asked_at = Instant::now();
            let answer = good.ask(&Request::get("/good")).unwrap();
            assert_eq!(answer.status, 302);
            worst = worst.max(asked_at.elapsed());
            asked += 1;
        }
        let created = good
            .ask(&Request::post_json("/api/v1/links", &json!({"target": "https://example.com/"})));
        assert_eq!(created.unwrap().status, 201);
        drop(slow);
    }
    assert!(asked > 100);
    kit::figure(
        "slow clients",
        &format!("{asked} good requests among 200 slow connections at a time, slowest {worst:?}"),
    );
    assert!(worst < Duration::from_secs(1), "a good client waited {worst:?}");
}

/// A reader who never reads keeps nobody else from being answered, and is cut off.
#[test]
fn a_client_that_does_not_read_is_cut_off() {
    let shunt = server();
    let mut deaf = shunt.connect().unwrap();
    let request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".repeat(64);
    let began = Instant::now();
    // Until our own buffers are full too: the write times out or the server has closed.
    while began.elapsed() < Duration::from_secs(15) && deaf.send_raw(&request).is_ok() {
        let answer = kit::get(&shunt, "/good");
        assert_eq!(answer.status, 302);
    }
    kit::leads(&shunt, "good", "https://example.com/good");
}
