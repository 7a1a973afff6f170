//! List and search through the API.

use std::time::Instant;

use anyhow::{Context, ensure};
use serde_json::Value;

use super::{Bench, STOP};
use crate::dataset;
use crate::http::Client;
use crate::results::{Outcome, amount};

/// Requests of one kind; the hundredth slowest is p99.
const REQUESTS: usize = 200;
/// The page that must not be slower than the first.
const FAR: usize = 1_000;
/// Rows of a page.
const PAGE: usize = 20;

/// Measures and judges.
///
/// # Errors
/// The server can't be started or a search finds the wrong number of links.
pub fn run(bench: &Bench) -> anyhow::Result<Outcome> {
    let links = bench.many;
    let mut outcome = Outcome::new(
        "search",
        "List and search",
        &format!(
            "{} links, one admin key, one connection, pages of {PAGE}; {REQUESTS} requests of each \
             kind, first page and page {FAR} of those that have so many. links.db is in the page \
             cache. Terms are changed from \
             request to request so that no answer is remembered.",
            amount(links as f64, "")
        ),
    );
    let data = bench.seeded(links)?;
    super::cache_file(&data)?;
    let key = bench.shunt.api_key(&data, &[])?;
    let server = bench.shunt.serve(&data, bench.pinning.server, &[])?;
    let mut client = Client::connect(server.address)?;
    client.headers = format!("Authorization: Bearer {key}\r\n");

    let mut worst = 0.0_f64;
    let mut kinds = Vec::new();
    // (name, term of request number n, links expected at least, has a far page)
    type Term = fn(u64, u64) -> String;
    let cases: [(&str, Term, bool, bool); 5] = [
        ("list", |_, _| String::new(), true, true),
        ("rare term", |n, links| format!("/{}", links / 2 + n * 7_919 % (links / 2)), true, false),
        ("code", |n, links| dataset::code((n * 7_919) % links), true, false),
        (
            "common term",
            |n, _| {
                ["articles", "products", "science", "recipes"]
                    .get(n as usize % 4)
                    .copied()
                    .unwrap_or("articles")
                    .to_owned()
            },
            true,
            true,
        ),
        ("absent term", |n, _| format!("zzqx{n:04}"), false, false),
    ];
    for (name, term, found, far) in cases {
        for sort in ["created", "code"] {
            let mut pages = vec![("first page", times(&mut client, links, term, sort, found)?)];
            if far && links as usize >= FAR * PAGE * 20 {
                pages.push(("page 1,000", far_times(&mut client, links, term, sort)?));
            }
            for (page, mut millis) in pages {
                millis.sort_by(f64::total_cmp);
                let at = |share: f64| {
                    let index = (millis.len() as f64 * share) as usize;
                    millis
                        .get(index.min(millis.len().saturating_sub(1)))
                        .copied()
                        .unwrap_or(f64::NAN)
                };
                let (p50, p99) = (at(0.5), at(0.99));
                worst = worst.max(p99);
                eprintln!("{name}, by {sort}, {page}: p50 {p50:.2} ms, p99 {p99:.2} ms");
                outcome.rows.push(vec![
                    name.to_owned(),
                    sort.to_owned(),
                    page.to_owned(),
                    amount(p50, ""),
                    amount(p99, ""),
                ]);
                kinds.push(serde_json::json!({ "kind": name, "sort": sort, "page": page, "p50_ms": p50, "p99_ms": p99 }));
            }
        }
    }
    server.process.stop(STOP)?;
    outcome.columns = ["", "sort", "page", "p50 ms", "p99 ms"].map(str::to_owned).to_vec();
    outcome.judge("the slowest p99", worst, 100.0, true, "ms");
    outcome.raw = serde_json::json!({ "links": links, "kinds": kinds });
    Ok(outcome)
}

fn path(term: &str, sort: &str, limit: usize, cursor: Option<&str>) -> String {
    let mut path = format!("/api/v1/links?limit={limit}&sort={sort}");
    if !term.is_empty() {
        path.push_str("&q=");
        path.push_str(&term.replace('/', "%2F"));
    }
    if let Some(cursor) = cursor {
        path.push_str("&cursor=");
        path.push_str(cursor);
    }
    path
}

/// One page as a person waits for it: its time in milliseconds, how many links it holds, the
/// cursor of the next. A search may answer with fewer links than a page holds, or none, and a
/// cursor to go on with; what it takes to fill the page is one page's time.
fn page(
    client: &mut Client,
    term: &str,
    sort: &str,
    cursor: Option<&str>,
) -> anyhow::Result<(f64, usize, Option<String>)> {
    let began = Instant::now();
    let mut cursor = cursor.map(str::to_owned);
    let mut rows = 0;
    loop {
        let path = path(term, sort, PAGE - rows, cursor.as_deref());
        let answer = client.get(&path)?;
        ensure!(answer.status == 200, "{path} is answered {}", answer.status);
        let body: Value = serde_json::from_slice(&answer.body).context("read a page")?;
        let links = body.get("links").and_then(Value::as_array);
        rows += links.context("a page has \"links\"")?.len();
        cursor = body.get("next").and_then(Value::as_str).map(str::to_owned);
        if rows >= PAGE || cursor.is_none() {
            return Ok((began.elapsed().as_secs_f64() * 1e3, rows, cursor));
        }
    }
}

fn times(
    client: &mut Client,
    links: u64,
    term: fn(u64, u64) -> String,
    sort: &str,
    found: bool,
) -> anyhow::Result<Vec<f64>> {
    let mut all = Vec::with_capacity(REQUESTS);
    for number in 0..REQUESTS as u64 {
        let term = term(number, links);
        let (millis, rows, _) = page(client, &term, sort, None)?;
        ensure!((rows > 0) == found, "the term {term:?} finds {rows} links");
        all.push(millis);
    }
    Ok(all)
}

/// Walks to the far page once and asks for it again and again.
fn far_times(
    client: &mut Client,
    links: u64,
    term: fn(u64, u64) -> String,
    sort: &str,
) -> anyhow::Result<Vec<f64>> {
    let term = term(0, links);
    let mut cursor: Option<String> = None;
    for number in 1..FAR {
        let (_, _, next) = page(client, &term, sort, cursor.as_deref())?;
        cursor = Some(next.with_context(|| format!("page {number} of {term:?} is the last"))?);
    }
    let mut all = Vec::with_capacity(REQUESTS);
    for _ in 0..REQUESTS {
        let (millis, rows, _) = page(client, &term, sort, cursor.as_deref())?;
        ensure!(rows == PAGE, "page {FAR} of {term:?} has {rows} links");
        all.push(millis);
    }
    Ok(all)
}
