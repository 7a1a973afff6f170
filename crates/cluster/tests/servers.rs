//! The servers and faults of the kit, for real: each starts, does its work, and goes.

use std::time::Duration;

use shunt_cluster::faults::{SmallDisk, Strace};
use shunt_cluster::{Chromedriver, Nginx, Request, Spec, http, until};

const BOUND: Duration = Duration::from_secs(20);

#[test]
fn nginx_serves_and_a_browser_shows_it() {
    let page = "<title>t</title><p id=x>hello</p><script>console.error('planted')</script>";
    let nginx = Nginx::start(&format!(
        "server {{ listen 127.0.0.1:{{port}}; location = /favicon.ico {{ return 204; }}\n\
         location / {{ default_type text/html; return 200 \"{page}\"; }} }}"
    ))
    .unwrap();
    let answer = http::ask(&nginx.address(), &Request::get("/")).unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, page));

    let browser = Chromedriver::start(400, 300, &[]).unwrap();
    let http::Address::Tcp(address) = nginx.address() else { panic!("not TCP") };
    browser.open(&format!("http://{address}/")).unwrap();
    assert_eq!(browser.text("#x").unwrap(), "hello");
    assert!(browser.console().unwrap().iter().any(|message| message.contains("planted")));
    let picture = browser.directory().join("x.png");
    browser.screenshot(&picture).unwrap();
    assert!(std::fs::read(picture).unwrap().starts_with(b"\x89PNG"));
    drop(browser);
    nginx.stop().unwrap();
}

#[test]
fn a_proxy_passes_on_and_says_what_it_refuses() {
    let behind =
        Nginx::start("server { listen 127.0.0.1:{port}; location / { return 302 http://x$uri; } }")
            .unwrap();
    let http::Address::Tcp(address) = behind.address() else { panic!("not TCP") };
    let mut proxy = Nginx::proxy(address).unwrap();
    let answer = http::ask(&proxy.address(), &Request::get("/a")).unwrap();
    assert_eq!((answer.status, answer.location()), (302, "http://x/a"));
    drop(behind);
    let answer = http::ask(&proxy.address(), &Request::get("/a")).unwrap();
    assert_eq!(answer.status, 502);
    until(BOUND, "the log", || proxy.log().contains("refused").then_some(())).unwrap();
    assert!(proxy.process().running());
}

/// Syncs a file for ever and notes the errors. It starts no other process, because strace can wait
/// for ever when it detaches from one that does: `vfork` keeps the parent from stopping, and the
/// child is stopped already.
const SYNCER: &str = "
import os
file = os.open('file', os.O_WRONLY | os.O_CREAT)
errors = open('errors', 'w', buffering=1)
while True:
    try:
        os.fsync(file)
    except OSError as error:
        print(error.strerror, file=errors)
";

#[test]
fn calls_are_counted_and_made_to_fail_from_attach_to_detach() {
    let files = tempfile::tempdir().unwrap();
    let spec = Spec::new("python3", "python3").args(["-c", SYNCER]);
    let process = spec.spawn(files.path()).unwrap();
    let errors = || {
        let text = std::fs::read_to_string(files.path().join("errors")).unwrap_or_default();
        text.matches("Input/output error").count()
    };
    let counted = Strace::attach(process.pid(), "fsync", None).unwrap();
    until(BOUND, "ten fsyncs", || (counted.count("file") >= 10).then_some(())).unwrap();
    assert_eq!((counted.injected(), errors()), (0, 0));
    drop(counted);

    let mut failing = Strace::attach(process.pid(), "fsync", Some("fsync:error=EIO")).unwrap();
    until(BOUND, "failures", || (errors() >= 3).then_some(())).unwrap();
    assert!(failing.injected() >= 3);
    failing.detach().unwrap();
}

#[test]
fn a_small_disk_fills_up_and_is_freed() {
    let disk = SmallDisk::mount(256).unwrap();
    disk.fill().unwrap();
    let full = std::fs::write(disk.path().join("more"), [0; 8192]).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    disk.free().unwrap();
    std::fs::write(disk.path().join("more"), [0; 8192]).unwrap();
    let path = disk.path().to_owned();
    drop(disk);
    assert!(!path.join("more").exists());
}
