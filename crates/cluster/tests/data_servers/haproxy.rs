//! HAProxy in front of nodes that fail.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use shunt_cluster::{Address, Haproxy, Nginx, Request, Spec, http, until, wait};

/// A node that answers everything with its name.
fn node(name: &str) -> (Nginx, SocketAddr) {
    let nginx = Nginx::start(&format!(
        "server {{ listen 127.0.0.1:{{port}}; location / {{ return 200 {name}; }} }}"
    ))
    .unwrap();
    let Address::Tcp(address) = nginx.address() else { panic!("not TCP") };
    (nginx, address)
}

/// A node that is healthy and drops every other request without an answer.
struct Dropper {
    address: SocketAddr,
    gets: Arc<AtomicUsize>,
    posts: Arc<AtomicUsize>,
    end: Arc<AtomicBool>,
}

impl Dropper {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let dropper = Self {
            address: listener.local_addr().unwrap(),
            gets: Arc::default(),
            posts: Arc::default(),
            end: Arc::default(),
        };
        let (gets, posts, end) = (dropper.gets.clone(), dropper.posts.clone(), dropper.end.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if end.load(Ordering::Relaxed) {
                    return;
                }
                match first_line(&stream.unwrap()).split(' ').next() {
                    Some("GET" | "HEAD") => gets.fetch_add(1, Ordering::Relaxed),
                    Some("POST") => posts.fetch_add(1, Ordering::Relaxed),
                    _ => 0,
                };
            }
        });
        dropper
    }
}

impl Drop for Dropper {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        // Or it would wait for a connection for ever.
        let _ = TcpStream::connect(self.address);
    }
}

/// Reads a request's head; answers the health check's, and nothing for another.
fn first_line(mut stream: &TcpStream) -> String {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let first = lines.next().unwrap_or_default();
    lines.take_while(|line| !line.is_empty()).for_each(drop);
    if first.starts_with("GET /health ") {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        return String::new();
    }
    first
}

fn ask(proxy: &Haproxy, request: &Request) -> (u16, String) {
    let answer = http::ask(&proxy.address(), request).unwrap();
    (answer.status, answer.text())
}

#[test]
fn a_killed_nodes_readers_are_served_by_the_others_and_it_is_used_again_when_it_is_back() {
    let (a, a_address) = node("a");
    let (mut b, b_address) = node("b");
    let (c, c_address) = node("c");
    let mut proxy = Haproxy::start(&[a_address, b_address, c_address]).unwrap();
    let get = Request::get("/x");
    let mut names: Vec<String> = (0..3).map(|_| ask(&proxy, &get).1).collect();
    names.sort();
    assert_eq!(names, ["a", "b", "c"]);

    b.process().kill();
    // From the first moment, long before a check.
    for _ in 0..30 {
        let (status, name) = ask(&proxy, &get);
        assert!(status == 200 && name != "b", "{status} {name}");
        assert_eq!(ask(&proxy, &Request::new("HEAD", "/x")), (200, String::new()));
    }
    let retried: u32 = proxy.stat("read", 1, "wredis").unwrap().parse().unwrap();
    assert!(retried > 0, "no request met the dead node");
    proxy.wait_up(1, false).unwrap();
    assert_eq!(proxy.stat("write", 1, "status").unwrap(), "DOWN");
    for _ in 0..6 {
        assert_eq!(ask(&proxy, &Request::new("POST", "/x")).0, 200);
    }
    proxy.restart().unwrap();
    proxy.wait_up(1, false).unwrap();
    assert_eq!(ask(&proxy, &get).0, 200);
    proxy.kill();
    assert!(http::ask(&proxy.address(), &get).is_err());
    proxy.restart().unwrap();
    assert_eq!(ask(&proxy, &get).0, 200);
    a.stop().unwrap();
    c.stop().unwrap();
    proxy.wait_up(0, false).unwrap();
    proxy.wait_up(2, false).unwrap();
    assert_eq!(ask(&proxy, &get).0, 503);
    proxy.stop().unwrap();
}

#[test]
fn a_request_without_an_answer_is_sent_again_if_it_is_a_get_and_never_if_it_is_a_post() {
    let dropper = Dropper::start();
    let (_good, good) = node("good");
    let proxy = Haproxy::start(&[dropper.address, good]).unwrap();
    for _ in 0..10 {
        assert_eq!(ask(&proxy, &Request::get("/x")), (200, "good".to_owned()));
    }
    let dropped = dropper.gets.load(Ordering::Relaxed);
    assert!(dropped >= 4, "{dropped} requests met the bad node");

    let (mut lost, mut served) = (0, 0);
    for _ in 0..10 {
        match ask(&proxy, &Request::new("POST", "/x").body("x")) {
            (502, _) => lost += 1,
            (200, name) if name == "good" => served += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((lost, served), (5, 5));
    assert_eq!(dropper.posts.load(Ordering::Relaxed), 5);
}

#[test]
fn a_post_is_not_taken_to_another_node_even_when_the_first_refuses_the_connection() {
    let (mut bad, bad_address) = node("bad");
    let (_good, good) = node("good");
    let proxy = Haproxy::start(&[bad_address, good]).unwrap();
    bad.process().kill();
    let answers: Vec<u16> = (0..4).map(|_| ask(&proxy, &Request::new("POST", "/x")).0).collect();
    let refused = answers.iter().filter(|status| **status == 503).count();
    assert!(refused > 0, "no request met the dead node: {answers:?}");
    assert_eq!(proxy.stat("write", 0, "econ").unwrap(), refused.to_string());
    for node in 0..2 {
        for again in ["wretr", "wredis"] {
            assert_eq!(proxy.stat("write", node, again).unwrap(), "0", "{again} of {node}");
        }
    }
}

#[test]
fn the_file_that_ships_is_good_as_it_is() {
    let logs = tempfile::tempdir().unwrap();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/haproxy/haproxy.cfg");
    let spec = Spec::new("haproxy", "haproxy").args(["-c", "-f"]).arg(file);
    let spec = spec.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    spec.run(logs.path(), wait::PATIENCE).unwrap().ok().unwrap();
}

#[test]
fn a_frozen_node_is_given_up_for_another_and_comes_back() {
    let (mut frozen, address) = node("frozen");
    let (_good, good) = node("good");
    let proxy = Haproxy::start(&[address, good]).unwrap();
    frozen.process().freeze().unwrap();
    std::thread::scope(|scope| {
        // Hangs in the frozen node until that is known to be down, and is not sent to the other.
        let post = scope.spawn(|| ask(&proxy, &Request::new("POST", "/x")).0);
        for _ in 0..2 {
            assert_eq!(ask(&proxy, &Request::get("/x")), (200, "good".to_owned()));
        }
        assert_eq!(post.join().unwrap(), 502);
    });
    proxy.wait_up(0, false).unwrap();
    frozen.process().heal().unwrap();
    proxy.wait_up(0, true).unwrap();
    until(wait::PATIENCE, "it to serve again", || {
        (ask(&proxy, &Request::get("/x")).1 == "frozen").then_some(())
    })
    .unwrap();
}
