//! What it costs a cached redirect that the node has Redis and a database behind it, and that
//! another node is being edited through.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::{Bench, CONNECTIONS, HOT_LINKS, NO_WORKER, STOP, reaches, redirects, settings};
use crate::backing::{Database, Redis};
use crate::dataset;
use crate::http::Client;
use crate::load::{Generator, Load};
use crate::process::pause;
use crate::results::{Outcome, amount, median};
use crate::servers::Server;

/// How long the servers are watched while nobody asks.
const AT_REST: Duration = Duration::from_secs(5);
/// Pause between two edits: ten a second.
const BETWEEN_EDITS: Duration = Duration::from_millis(100);

/// Measures and judges.
///
/// # Errors
/// A server can't be started or answers wrongly, or the edits don't arrive.
pub fn run(bench: &Bench) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::new(
        "connected",
        "Cached redirects of a connected node",
        "100,000 links, all in L1, keys uniform over all of them, every Location checked, 64 \
         connections, closed loop. Embedded: SQLite and nothing else. Connected: PostgreSQL through \
         PgBouncer, and a Redis Cluster of six for second tier, bus and limits; meanwhile a second \
         node over the same servers edits links of the set, ten a second, each of which the \
         measured node has to hear, forget and load again. The same binary and settings otherwise, \
         one thread for redirects, worker paused, every click on disk. Asked in turns of a quarter \
         of a round; nothing is pinned, and everything runs on the same cores all the time, so \
         that what the rest of the machine does, it does to both.",
    );
    bench.alone.set(false);
    // Nothing has a core of its own here.
    let bench =
        &Bench { generator: Generator { core: None, ..bench.generator.clone() }, ..bench.clone() };
    let keys = bench.cache.keys(HOT_LINKS)?;
    let database = Database::postgres(None)?;
    let redis = Redis::start()?;
    let (data, stored) = bench.stored(&database, &bench.cache.csv(HOT_LINKS)?, HOT_LINKS)?;
    let node = settings(&[&stored, &[redis.setting()], &NO_WORKER.map(str::to_owned)]);

    let key = bench.shunt.api_key(&data, &stored)?;
    let connected = bench.shunt.serve_on(&data, None, &node)?;
    let other = bench.shunt.serve_on(&bench.fresh("other")?, None, &node)?;
    for server in [&connected, &other] {
        reaches(server, "shunt_bus_up", 1.0)?;
        reaches(server, "shunt_l2_open", 1.0)?;
    }
    let embedded = bench.fresh("embedded")?;
    std::fs::copy(bench.seeded(HOT_LINKS)?.join("links.db"), embedded.join("links.db"))
        .context("copy the seeded links")?;
    let embedded = bench.shunt.serve_on(&embedded, None, &NO_WORKER)?;
    for server in [&embedded, &connected] {
        bench.warm(server, HOT_LINKS)?;
        server.check(HOT_LINKS)?;
    }

    let load = Load::closed(CONNECTIONS).keys(&keys);
    let contenders = [(&embedded, load.clone()), (&connected, load)];
    let (mut ratios, mut rounds) = (Vec::new(), Vec::new());
    let before = redirects(&connected)?;
    let heard_before = heard(&connected)?;
    let edits = Edits::default();
    std::thread::scope(|threads| -> anyhow::Result<()> {
        let editing = threads.spawn(|| edits.make(&other, &key));
        let measuring = (|| {
            let rest = at_rest(&embedded, &connected)?;
            outcome.note(
                "CPU while nobody asks and the edits go on, embedded and connected",
                &format!("{} and {}", amount(rest.0, "ms/s"), amount(rest.1, "ms/s")),
            );
            // A ratio near 1 wants more rounds than a rate.
            for round in 1..=2 * bench.rounds + 1 {
                let figures = bench.in_turns(&contenders, false, |_, _| Ok(()))?;
                let [alone, with] = &*figures else { anyhow::bail!("two servers, two figures") };
                ratios.push(with.cpu / alone.cpu);
                eprintln!(
                    "round {round}  embedded {:.3} µs, connected {:.3} µs: {:.4} ×  {:.0}/s and {:.0}/s",
                    alone.cpu,
                    with.cpu,
                    with.cpu / alone.cpu,
                    alone.per_second,
                    with.per_second
                );
                rounds.push(figures);
            }
            Ok(())
        })();
        edits.over.store(true, Ordering::Relaxed);
        let made = editing.join().map_err(|_| anyhow::anyhow!("the edits panicked"))??;
        measuring?;
        let heard = heard(&connected)? - heard_before;
        ensure!(
            heard >= 0.98 * made.count,
            "the measured node heard of {heard} edits of {}: does the bus carry?",
            made.count
        );
        let rate = made.count / made.time.as_secs_f64();
        ensure!(rate >= 9.0, "{rate:.1} edits a second were made, not ten: is the machine busy?");
        outcome.note("edits a second through the other node, all heard", &amount(rate, ""));
        Ok(())
    })?;
    let after = redirects(&connected)?;
    let hits = (after.0 - before.0) / (after.1 - before.1).max(1.0);
    ensure!(hits > 0.99, "L1 answered {hits:.3} of the redirects only");
    outcome.note("answered by L1, connected", &format!("{:.2} %", 100.0 * hits));

    outcome.columns = ["", "requests/s", "CPU µs per redirect", "p99 µs"].map(str::to_owned).into();
    for (at, name) in ["embedded", "connected"].into_iter().enumerate() {
        let of = |figure: fn(&super::Figures) -> f64| {
            median(&rounds.iter().filter_map(|all| all.get(at)).map(figure).collect::<Vec<_>>())
        };
        outcome.rows.push(vec![
            name.to_owned(),
            amount(of(|f| f.per_second), ""),
            format!("{:.3}", of(|f| f.cpu)),
            amount(of(|f| f.p99), ""),
        ]);
    }
    outcome.judge("CPU per redirect, of the embedded", median(&ratios), 1.03, true, "×");
    outcome.raw = serde_json::json!({ "ratios": ratios, "rounds": rounds });
    for server in [embedded, connected, other] {
        server.process.stop(STOP)?;
    }
    Ok(outcome)
}

/// CPU that two servers use in a second while nobody asks them, in milliseconds.
fn at_rest(one: &Server, other: &Server) -> anyhow::Result<(f64, f64)> {
    let began = (Instant::now(), one.process.cpu()?, other.process.cpu()?);
    pause(AT_REST);
    let seconds = began.0.elapsed().as_secs_f64();
    let used = |server: &Server, before: Duration| {
        let used = server.process.cpu()?.saturating_sub(before);
        anyhow::Ok(used.as_secs_f64() * 1e3 / seconds)
    };
    Ok((used(one, began.1)?, used(other, began.2)?))
}

/// Invalidations this node has heard.
fn heard(server: &Server) -> anyhow::Result<f64> {
    let heard = server.metric("shunt_bus_invalidations_total", "what=\"heard\"")?;
    heard.context("/metrics shows no bus")
}

/// Edits through one node until they are over.
#[derive(Debug, Default)]
struct Edits {
    over: AtomicBool,
}

struct Made {
    count: f64,
    time: Duration,
}

impl Edits {
    /// Changes the title of one link after the other, spread over the set: its target stays, so
    /// that every answer can go on being checked.
    fn make(&self, server: &Server, key: &str) -> anyhow::Result<Made> {
        let mut client = Client::connect(server.address)?;
        client.headers = format!("Authorization: Bearer {key}\r\n");
        let began = Instant::now();
        let mut count = 0_u32;
        while !self.over.load(Ordering::Relaxed) {
            let index = u64::from(count).wrapping_mul(7_919) % HOT_LINKS;
            let path = format!("/api/v1/links/{}", dataset::code(index));
            let answer = client.patch(&path, &format!("{{\"title\":\"edit {count}\"}}"))?;
            ensure!(answer.status == 200, "an edit is answered {}", answer.head.trim());
            count += 1;
            pause((began + BETWEEN_EDITS * count).saturating_duration_since(Instant::now()));
        }
        Ok(Made { count: f64::from(count), time: began.elapsed() })
    }
}
