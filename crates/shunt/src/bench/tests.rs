//! Runs against a small server in the test's own process whose every answer the test decides.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use clap::Parser;

use super::plan::Plan;
use super::report::Report;
use super::{Args, duration, run};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: Args,
}

fn args(words: &str) -> Args {
    Cli::try_parse_from(std::iter::once("bench").chain(words.split_whitespace())).unwrap().args
}

/// One run with the words given as on a command line.
fn measure(words: &str) -> Report {
    let args = args(words);
    run::round(&args, &Plan::new(&args).unwrap(), false).unwrap()
}

/// What the server does with a request.
enum Answer {
    /// Sends these bytes and keeps the connection.
    Bytes(String),
    /// Sends these bytes and closes.
    Last(String),
    /// Waits, then sends these bytes.
    After(Duration, String),
    /// Never answers; the client has to leave.
    Silence,
}

struct Request {
    line: String,
    headers: Vec<String>,
    body: String,
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find_map(|header| {
            let (found, value) = header.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// Serves until the test's process ends; the number of connections is counted.
fn serve(
    answer: impl Fn(&Request, u64) -> Answer + Send + Sync + 'static,
) -> (SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicU64::new(0));
    let (count, answer) = (Arc::clone(&connections), Arc::new(answer));
    let requests = Arc::new(AtomicU64::new(0));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            count.fetch_add(1, Ordering::Relaxed);
            let (answer, requests) = (Arc::clone(&answer), Arc::clone(&requests));
            std::thread::spawn(move || connection(stream, &*answer, &requests));
        }
    });
    (address, connections)
}

fn connection(
    mut stream: TcpStream,
    answer: &dyn Fn(&Request, u64) -> Answer,
    requests: &AtomicU64,
) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    while let Some(request) = read_request(&mut reader) {
        let number = requests.fetch_add(1, Ordering::Relaxed);
        let (bytes, last) = match answer(&request, number) {
            Answer::Bytes(bytes) => (bytes, false),
            Answer::Last(bytes) => (bytes, true),
            Answer::After(wait, bytes) => {
                // The wait is the behaviour under test: nothing will ever come from here.
                let (_sender, never) = mpsc::channel::<()>();
                let _ = never.recv_timeout(wait);
                (bytes, false)
            }
            Answer::Silence => {
                let _ = reader.read(&mut [0]);
                return;
            }
        };
        if stream.write_all(bytes.as_bytes()).is_err() || last {
            return;
        }
    }
}

fn read_request(reader: &mut impl BufRead) -> Option<Request> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        lines.push(line);
    }
    let mut request = Request { line: lines.remove(0), headers: lines, body: String::new() };
    let length = request.header("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    request.body = String::from_utf8(body).unwrap();
    Some(request)
}

fn redirect(location: &str) -> String {
    format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n")
}

fn created(code: &str) -> String {
    let body = format!("{{\"code\":\"{code}\",\"version\":1}}");
    format!("HTTP/1.1 201 Created\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn failures(report: &Report, name: &str) -> u64 {
    report.failures.get(name).copied().unwrap_or_default()
}

#[test]
fn an_open_loop_keeps_its_rate_and_counts_only_what_was_due_after_the_warm_up() {
    for spin in ["", "--spin"] {
        let (address, _) = serve(|_, _| Answer::Bytes(redirect("https://a.example/")));
        let report = measure(&format!(
            "http://{address} --rate 400 --connections 4 --threads 2 --warmup 250ms --duration 1s \
             {spin}"
        ));
        assert_eq!((report.good, report.failed), (400, 0), "{}", report.summary());
        assert_eq!(report.all_answered, 500);
        assert_eq!(report.statuses.get(&302), Some(&400));
        assert_eq!(report.latency.count, 400);
        let in_series: u64 = report.series.iter().map(|point| point.good).sum();
        assert_eq!(in_series, 500);
        // Watching is no work.
        assert!(report.generator_busy < 0.9, "{spin}: {}", report.generator_busy);
    }
}

#[test]
fn a_stall_is_charged_to_every_request_it_delayed() {
    // One connection, 200 requests a second, one answer that takes half a second: a generator
    // that omitted the waiting would show a single slow request.
    let (address, _) = serve(|_, number| {
        let answer = redirect("https://a.example/");
        if number == 50 {
            Answer::After(Duration::from_millis(500), answer)
        } else {
            Answer::Bytes(answer)
        }
    });
    let report =
        measure(&format!("http://{address} --rate 200 --connections 1 --warmup 0 --duration 2s"));
    assert_eq!(report.good, 400, "{}", report.summary());
    // 100 requests were due in the stall, evenly: a quarter of all waited, an eighth more than
    // half of the stall.
    assert!(report.latency.p90 > 200_000.0, "{}", report.summary());
    assert!(report.service.p99 < 100_000.0, "{}", report.summary());
}

#[test]
fn a_closed_loop_pipelines_and_asks_for_every_key_once() {
    let (address, connections) = serve(|request, _| {
        let key = request.line.split(' ').nth(1).unwrap().trim_start_matches('/').to_owned();
        Answer::Bytes(redirect(&format!("https://a.example/{key}")))
    });
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys");
    let keys: String = (0..5_000).map(|n| format!("k{n}\thttps://a.example/k{n}\n")).collect();
    std::fs::write(&path, keys).unwrap();
    let report = measure(&format!(
        "http://{address} --workers 3 --threads 2 --pipeline 4 --once --expect-location --keys {}",
        path.display()
    ));
    assert_eq!((report.good, report.failed), (5_000, 0), "{}", report.summary());
    assert_eq!(connections.load(Ordering::Relaxed), 3);
}

#[test]
fn a_wrong_redirect_is_found_and_named() {
    let (address, _) = serve(|request, _| {
        let wrong = request.line.contains("/k7 ");
        Answer::Bytes(redirect(if wrong { "https://b.example/" } else { "https://a.example/" }))
    });
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys.csv");
    let rows: String = (0..10).map(|n| format!("k{n},https://a.example/\n")).collect();
    std::fs::write(&path, format!("code,target\n{rows}")).unwrap();
    let words = format!("http://{address} --once --expect-location --keys {}", path.display());
    let report = measure(&words);
    assert_eq!((report.good, failures(&report, "wrong_location")), (9, 1), "{}", report.summary());
    assert!(report.examples[0].contains("/k7 leads to https://b.example/"), "{report:?}");
    let error = super::run(args(&format!("{words} --quiet"))).unwrap_err().to_string();
    assert_eq!(error, "1 of 10 keys failed");
}

#[test]
fn a_server_that_announces_the_end_of_a_connection_causes_no_error() {
    let (address, connections) = serve(|_, _| {
        Answer::Last("HTTP/1.1 302 Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".into())
    });
    let report = measure(&format!(
        "http://{address} --rate 100 --connections 2 --warmup 0 --duration 500ms"
    ));
    assert_eq!((report.good, report.failed), (50, 0), "{}", report.summary());
    assert!(connections.load(Ordering::Relaxed) >= 50);
    assert!(report.reconnects >= 48, "{}", report.reconnects);
}

#[test]
fn errors_are_told_apart() {
    let (address, _) = serve(|request, _| match request.line.split(' ').nth(1) {
        Some("/0") => Answer::Silence,
        Some("/1") => Answer::Last(String::new()),
        Some("/2") => Answer::Last("rubbish\r\n\r\n".into()),
        Some("/3") => Answer::Bytes("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".into()),
        Some("/4") => Answer::Last("HTTP/1.1 302 Found\r\nContent-Length: 9\r\n\r\nab".into()),
        _ => Answer::Bytes(redirect("https://a.example/")),
    });
    let report =
        measure(&format!("http://{address} --workers 1 --range 0..8 --once --timeout 200ms"));
    let expected = [("timeout", 1), ("closed", 2), ("malformed", 1), ("status", 1), ("connect", 0)];
    for (name, count) in expected {
        assert_eq!(failures(&report, name), count, "{name}: {}", report.summary());
    }
    assert_eq!((report.good, report.failed), (3, 5));
}

#[test]
fn a_server_that_is_not_there_is_a_connect_error_and_the_run_still_ends() {
    // Bound and dropped: nobody listens there now.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let words = format!(
        "http://{address} --rate 100 --connections 2 --warmup 0 --duration 300ms --timeout 100ms"
    );
    let report = measure(&words);
    assert_eq!(report.good, 0);
    assert!(failures(&report, "connect") >= 2, "{}", report.summary());
    assert_eq!(failures(&report, "unsent"), 30, "{}", report.summary());
    let error = super::run(args(&format!("{words} --quiet"))).unwrap_err().to_string();
    assert!(error.starts_with("not one good answer"), "{error}");
}

#[test]
fn an_overloaded_server_gets_no_more_than_it_answers_and_the_rest_is_charged() {
    let (address, _) =
        serve(|_, _| Answer::After(Duration::from_millis(50), redirect("https://a.example/")));
    let report = measure(&format!(
        "http://{address} --rate 200 --connections 2 --warmup 0 --duration 1s --timeout 300ms"
    ));
    // Two connections, 50 ms each: 40 a second of the 200 due, for a second and one timeout.
    assert!((20..=60).contains(&report.good), "{}", report.summary());
    assert!(failures(&report, "unsent") > 100, "{}", report.summary());
    assert_eq!(report.good + report.failed, 200, "{}", report.summary());
}

#[test]
fn creates_are_unique_authorised_and_recorded() {
    let (address, _) = serve(|request, number| {
        assert_eq!(request.line, "POST /p/api/v1/links HTTP/1.1");
        assert_eq!(request.header("authorization"), Some("Bearer secret-key"));
        assert!(request.header("idempotency-key").unwrap().len() >= 22);
        if number.is_multiple_of(5) {
            return Answer::Bytes("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n".into());
        }
        let target: serde_json::Value = serde_json::from_str(&request.body).unwrap();
        let target = target["target"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
        Answer::Bytes(created(&format!("c{target}")))
    });
    let dir = tempfile::tempdir().unwrap();
    let acks = dir.path().join("acks");
    let report = measure(&format!(
        "http://{address}/p/ --rate 200 --creates 1 --api-key secret-key --connections 3 \
         --threads 3 --warmup 0 --duration 500ms --record-acks {}",
        acks.display()
    ));
    assert_eq!((report.good_creates, failures(&report, "status")), (80, 20));
    let text = std::fs::read_to_string(&acks).unwrap();
    let mut targets: Vec<String> = Vec::new();
    for line in text.lines() {
        let ack: serde_json::Value = serde_json::from_str(line).unwrap();
        let target = ack["target"].as_str().unwrap();
        assert!(ack["code"].as_str().unwrap().ends_with(target.rsplit('/').next().unwrap()));
        assert!(target.starts_with("https://www.example.com/bench/"));
        targets.push(target.to_owned());
    }
    targets.sort();
    targets.dedup();
    assert_eq!(targets.len(), 80);
}

#[test]
fn reads_and_creates_mix_in_the_share_asked_for() {
    let (address, _) = serve(|request, number| {
        Answer::Bytes(if request.line.starts_with("POST") {
            created(&format!("c{number}"))
        } else {
            redirect("https://a.example/")
        })
    });
    let report = measure(&format!(
        "http://{address} --rate 2000 --creates 0.25 --connections 8 --warmup 0 --duration 1s"
    ));
    assert_eq!(report.good, 2_000, "{}", report.summary());
    assert!((420..580).contains(&report.good_creates), "{}", report.good_creates);
    assert_eq!(report.create_latency.count, report.good_creates);
}

#[test]
fn head_and_own_headers_are_sent() {
    let (address, _) = serve(|request, _| {
        assert_eq!(request.line.split(' ').next(), Some("HEAD"));
        assert_eq!(request.header("host"), Some("go.example"));
        assert_eq!(request.header("user-agent"), Some("x"));
        Answer::Bytes("HTTP/1.1 302 Found\r\nContent-Length: 50\r\n\r\n".into())
    });
    let mut args = args(&format!("http://{address} --head --range 0..5 --once --workers 1"));
    args.header = vec!["Host: go.example".to_owned(), "User-Agent: x".to_owned()];
    let report = run::round(&args, &Plan::new(&args).unwrap(), false).unwrap();
    assert_eq!((report.good, report.failed), (5, 0), "{}", report.summary());
}

#[test]
fn a_search_finds_what_a_slow_server_can_do() {
    // One connection at 5 ms an answer: 200 a second at the very most.
    let (address, _) =
        serve(|_, _| Answer::After(Duration::from_millis(5), redirect("https://a.example/")));
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("report.json");
    super::run(args(&format!(
        "http://{address} --find-rate --p99 100ms --min-rate 25 --max-rate 3200 --connections 1 \
         --round 600ms --warmup 0 --precision 0.3 --quiet --json {}",
        json.display()
    )))
    .unwrap();
    let found: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&json).unwrap()).unwrap();
    let rate = found["rate"].as_f64().unwrap();
    assert!((25.0..=260.0).contains(&rate), "{rate}");
    assert!(found["rounds"].as_array().unwrap().len() >= 3);
}

#[test]
fn only_loopback_is_loaded_unless_the_target_is_ours() {
    for url in ["http://192.0.2.1:80", "http://[2001:db8::1]", "https://127.0.0.1", "ftp://x", "/"]
    {
        let error = Plan::new(&args(url)).unwrap_err().to_string();
        assert!(!error.is_empty() && !error.contains('\n'), "{url}: {error}");
    }
    assert!(Plan::new(&args("http://192.0.2.1 --i-own-this-target")).is_ok());
    assert!(Plan::new(&args("http://127.9.9.9:1")).is_ok());
    assert!(Plan::new(&args("http://[::1]:1/prefix/")).is_ok());
}

#[test]
fn bad_arguments_are_refused_in_one_line() {
    for words in [
        "--rate 0",
        "--rate nan",
        "--workers 0",
        "--threads 0",
        "--pipeline 0",
        "--duration 0",
        "--timeout 0",
        "--creates 1.5",
        "--zipf -1",
        "--range 5..5",
        "--keys /nonexistent/keys",
        "--target-prefix http://\"x",
        "--header x",
        "--api-key-file /nonexistent/key",
        "--record-acks /nonexistent/acks",
    ] {
        let words = words.replace("--zipf -1", "--zipf=-1");
        let error = format!("{:#}", Plan::new(&args(&words)).unwrap_err());
        assert!(error.contains("--") && !error.contains('\n'), "{words}: {error}");
    }
    assert!(Cli::try_parse_from(["bench", "--rate", "1", "--workers", "1"]).is_err());
    assert!(Cli::try_parse_from(["bench", "--expect-location"]).is_err());
}

#[test]
fn times_are_read_with_their_unit() {
    for (text, expected) in [
        ("250us", Duration::from_micros(250)),
        ("5ms", Duration::from_millis(5)),
        ("10s", Duration::from_secs(10)),
        ("3", Duration::from_secs(3)),
        ("1.5m", Duration::from_secs(90)),
        ("24h", Duration::from_secs(86_400)),
    ] {
        assert_eq!(duration(text).unwrap(), expected, "{text}");
    }
    for text in ["", "s", "5 parsecs", "-1s", "25h", "nan"] {
        assert!(duration(text).is_err(), "{text}");
    }
}
