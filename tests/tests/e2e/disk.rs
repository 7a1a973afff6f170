//! A disk that is full, that fails, that hangs.

use std::time::{Duration, Instant};

use serde_json::json;
use shunt_cluster::faults::{SmallDisk, Strace};
use shunt_cluster::{Request, Shunt, until};

use crate::kit::{self, SOON};

/// Full and freed again: redirects go on, creates say 507, nothing acknowledged is lost, lost
/// clicks are reported, and it heals without a restart.
#[test]
fn a_full_disk_loses_no_link_and_reports_lost_clicks() {
    let disk = SmallDisk::mount(48 * 1024).unwrap();
    let config = "[clicks]\nspool_bytes = \"4MiB\"\n";
    let mut shunt = Shunt::new().unwrap().on(disk.path().join("data")).config(config).unwrap();
    shunt.start().unwrap();
    let mut connection = shunt.connect().unwrap();
    let mut links = Vec::new();
    for i in 0..50 {
        let target = format!("https://example.com/{i}");
        links.push((kit::shorten(&mut connection, &target), target));
    }
    disk.fill().unwrap();
    let request = Request::post_json("/api/v1/links", &json!({"target": "https://example.com/x"}));
    // What was already allocated may take a few more.
    let refused = until(SOON, "507", || {
        let answer = connection.ask(&request).unwrap();
        if answer.status == 201 {
            let code = answer.json().unwrap()["code"].as_str().unwrap().to_owned();
            links.push((code, "https://example.com/x".to_owned()));
            return None;
        }
        Some(answer)
    })
    .unwrap();
    assert_eq!(refused.status, 507, "{refused:?}");
    assert!(refused.text().contains("disk"), "{refused:?}");
    for _ in 0..20 {
        for (code, target) in &links {
            let answer = connection.ask(&Request::get(format!("/{code}"))).unwrap();
            assert_eq!((answer.status, answer.location()), (302, target.as_str()));
        }
    }
    assert_eq!(connection.ask(&Request::get("/health")).unwrap().status, 200);

    disk.free().unwrap();
    let healed = until(SOON, "creates to work again", || {
        let answer = connection.ask(&request).unwrap();
        (answer.status == 201).then_some(answer)
    })
    .unwrap();
    let code = healed.json().unwrap()["code"].as_str().unwrap().to_owned();
    links.push((code, "https://example.com/x".to_owned()));
    let ledger = kit::balanced(&shunt, 1000);
    assert!(ledger.served >= 1000, "{ledger:?}");

    shunt.kill();
    shunt.start().unwrap();
    for (code, target) in &links {
        kit::leads(&shunt, code, target);
    }
    kit::figure("full disk", &format!("{} links kept, {ledger:?}", links.len()));
}

/// The n-th fsync and all after it fail: never a 201 without a good fsync, and what was
/// acknowledged is there after a restart.
#[test]
fn a_failed_fsync_is_never_acknowledged() {
    let rounds = kit::count(200);
    let (mut kept, mut injected) = (0, 0);
    for n in 1..=rounds {
        let mut shunt = Shunt::started().unwrap();
        let mut connection = shunt.connect().unwrap();
        kit::shorten(&mut connection, "https://example.com/before");
        let pid = shunt.process().unwrap().pid();
        let inject = format!("fsync,fdatasync:error=EIO:when={n}+");
        let mut strace = Strace::attach(pid, "fsync,fdatasync", Some(&inject)).unwrap();
        let mut acknowledged = Vec::new();
        let mut refused = None;
        for i in 0..n + 3 {
            let good = strace.lines().iter().filter(|line| line.ends_with("= 0")).count();
            let target = format!("https://example.com/{i}");
            let request = Request::post_json("/api/v1/links", &json!({"target": target}));
            let Ok(answer) = connection.ask(&request) else {
                break;
            };
            if answer.status == 201 {
                let lines = strace.lines();
                let now = lines
                    .iter()
                    .filter(|line| line.ends_with("= 0") && line.contains("links.db-wal"))
                    .count();
                assert!(now > acknowledged.len(), "round {n}: 201 after {good}:\n{lines:#?}");
                let code = answer.json().unwrap()["code"].as_str().unwrap().to_owned();
                acknowledged.push((code, target));
            } else {
                assert!(matches!(answer.status, 503 | 507), "round {n}: {answer:?}");
                refused = Some(answer);
            }
        }
        assert!(acknowledged.len() < n + 3, "round {n}: nothing was refused");
        if let Some(answer) = &refused {
            assert!(answer.status != 503 || answer.header("retry-after").is_some(), "{answer:?}");
        }
        injected += strace.injected();
        shunt.kill();
        let _ = strace.detach();
        shunt.start().unwrap();
        for (code, target) in &acknowledged {
            kit::leads(&shunt, code, target);
        }
        kept += acknowledged.len();
    }
    assert!(injected >= rounds, "the fault was put in {injected} times only");
    kit::figure(
        "failing fsync",
        &format!("{rounds} rounds, {injected} fsyncs failed, {kept} acknowledged links all kept"),
    );
}

/// Writes that find no space, in the middle of a commit.
#[test]
fn a_failed_write_is_never_acknowledged() {
    let rounds = kit::count(100);
    let mut injected = 0;
    for n in 1..=rounds {
        let mut shunt = Shunt::started().unwrap();
        let mut connection = shunt.connect().unwrap();
        kit::shorten(&mut connection, "https://example.com/before");
        let pid = shunt.process().unwrap().pid();
        let inject = format!("pwrite64:error=ENOSPC:when={n}..{}", n + 2);
        let mut strace = Strace::attach(pid, "pwrite64", Some(&inject)).unwrap();
        let mut acknowledged = Vec::new();
        for i in 0..n + 6 {
            let target = format!("https://example.com/{i}");
            let request = Request::post_json("/api/v1/links", &json!({"target": target}));
            let answer = connection.ask(&request).unwrap();
            match answer.status {
                201 => {
                    let code = answer.json().unwrap()["code"].as_str().unwrap().to_owned();
                    acknowledged.push((code, target));
                }
                503 | 507 => {}
                _ => panic!("round {n}: {answer:?}"),
            }
        }
        injected += strace.injected();
        let _ = strace.detach();
        // Healed without a restart, and all there after one.
        until(SOON, "creates to work again", || {
            let wish = json!({"target": "https://example.com/healed"});
            let request = Request::post_json("/api/v1/links", &wish);
            connection.ask(&request).ok().filter(|answer| answer.status == 201)
        })
        .unwrap();
        shunt.kill();
        shunt.start().unwrap();
        for (code, target) in &acknowledged {
            kit::leads(&shunt, code, target);
        }
    }
    assert!(injected >= rounds, "the fault was put in {injected} times only");
}

/// Every fsync and every write takes a second: who asks for a cached link doesn't notice.
#[test]
fn cached_links_redirect_while_the_disk_hangs() {
    let mut shunt = Shunt::started().unwrap();
    kit::link(&shunt, "hot", "https://example.com/hot");
    kit::leads(&shunt, "hot", "https://example.com/hot");
    let pid = shunt.process().unwrap().pid();
    let calls = "fsync,fdatasync,pwrite64,pread64";
    let inject = format!("{calls}:delay_enter=1000000");
    let mut strace = Strace::attach(pid, calls, Some(&inject)).unwrap();
    let address = shunt.address();
    let stuck = std::thread::spawn(move || {
        let began = Instant::now();
        let wish = json!({"target": "https://example.com/slow"});
        let answer =
            shunt_cluster::http::ask(&address, &Request::post_json("/api/v1/links", &wish));
        (answer.map(|answer| answer.status), began.elapsed())
    });
    let mut connection = shunt.connect().unwrap();
    let mut times = Vec::new();
    while !stuck.is_finished() {
        let began = Instant::now();
        let answer = connection.ask(&Request::get("/hot")).unwrap();
        assert_eq!(answer.status, 302, "{answer:?}");
        times.push(began.elapsed());
    }
    let (status, took) = stuck.join().unwrap();
    assert!(took > Duration::from_millis(900), "the disk did not hang: {took:?}");
    assert!(matches!(status, Ok(201 | 503)), "{status:?}");
    times.sort();
    let p99 = times[times.len() * 99 / 100];
    kit::figure(
        "hanging disk",
        &format!("{} cached redirects beside a create of {took:?}, p99 {p99:?}", times.len()),
    );
    // strace itself stops every thread at every call, and both cores may be busy.
    assert!(times.len() > 100 && p99 < Duration::from_millis(100), "{} p99 {p99:?}", times.len());
    let _ = strace.detach();
}

/// Reads that fail are 503 with `Retry-After`, for links that exist and for those that don't, and
/// nothing is remembered of them.
#[test]
fn a_broken_store_is_never_a_404() {
    let config = "[store]\nmmap_bytes = \"0\"\n[cache]\nl1_bytes = \"1MiB\"\n";
    let mut shunt = Shunt::new().unwrap().config(config).unwrap();
    shunt.start().unwrap();
    // More than a reader's page cache holds, so that reads reach the disk.
    let mut connection = shunt.connect().unwrap();
    let filler = "f".repeat(7000);
    for i in 0..2000 {
        let wish =
            json!({"code": format!("c{i}"), "target": format!("https://example.com/{i}/{filler}")});
        let answer = connection.ask(&Request::post_json("/api/v1/links", &wish)).unwrap();
        assert_eq!(answer.status, 201, "{answer:?}");
    }
    shunt.stop().unwrap();
    shunt.start().unwrap();
    let pid = shunt.process().unwrap().pid();
    let mut strace = Strace::attach(pid, "pread64", Some("pread64:error=EIO")).unwrap();
    let mut connection = shunt.connect().unwrap();
    for i in 0..200 {
        for path in [format!("/c{}", i * 9), format!("/absent{i}")] {
            let answer = connection.ask(&Request::get(&path)).unwrap();
            assert_ne!(answer.status, 404, "{path}: {answer:?}");
            if answer.status == 503 {
                assert!(answer.header("retry-after").is_some(), "{answer:?}");
            }
        }
    }
    assert!(strace.injected() > 0, "no read was made to fail");
    strace.detach().unwrap();
    for i in 0..200 {
        let i = i * 9;
        let path = format!("/c{i}");
        let answer = until(SOON, "the store to answer again", || {
            connection.ask(&Request::get(&path)).ok().filter(|answer| answer.status != 503)
        })
        .unwrap();
        assert_eq!(answer.location(), format!("https://example.com/{i}/{filler}"));
    }
    assert_eq!(kit::get(&shunt, "/absent1").status, 404, "now it can be said");
}
