//! Memory at rest, memory of idle connections, time to the first redirect.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use super::{Bench, HOT_LINKS, STOP};
use crate::dataset;
use crate::http::Client;
use crate::machine::raise_descriptors;
use crate::process::pause;
use crate::results::{Outcome, amount, median};

const CLIENTS: usize = 10_000;
const MIB: f64 = 1024.0 * 1024.0;

/// Measures and judges.
///
/// # Errors
/// The server can't be started, or closes idle connections it should keep.
pub fn run(bench: &Bench) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::new(
        "idle",
        "At rest",
        &format!(
            "Resident memory after a start and one redirect; with 10,000 keep-alive connections that \
             have each made one request; time from the start of the process to the first redirect \
             at {} links (file cache warm), median of the rounds.",
            amount(bench.many as f64, "")
        ),
    );
    raise_descriptors(CLIENTS as u64 + 500)?;
    let data = bench.seeded(HOT_LINKS)?;
    let settings = [
        "limits.max_connections_per_address=20000",
        "limits.max_connections=20000",
        "timeouts.idle=10m",
    ];
    let server = bench.shunt.serve(&data, bench.pinning.server, &settings)?;
    let path = format!("/{}", dataset::code(1));
    let first = Client::connect(server.address)?.get(&path)?;
    ensure!(first.status == 302, "{path} is answered {}", first.status);
    let idle = server.process.memory()?;

    let mut clients = Vec::with_capacity(CLIENTS);
    for number in 0..CLIENTS as u64 {
        let mut client =
            Client::connect(server.address).with_context(|| format!("open connection {number}"))?;
        let answer = client.get(&format!("/{}", dataset::code(number % HOT_LINKS)))?;
        ensure!(answer.status == 302, "connection {number} is answered {}", answer.status);
        clients.push(client);
    }
    // A spool write or a timer later it must still be so.
    pause(Duration::from_secs(3));
    let open = server.metric("shunt_connections_open", "")?.unwrap_or_default();
    let loaded = server.process.memory()?;
    for client in clients.iter_mut().step_by(1_000) {
        ensure!(client.get(&path)?.status == 302, "an idle connection no longer answers");
    }
    drop(clients);
    server.process.stop(STOP)?;
    ensure!(open >= CLIENTS as f64, "{open} of {CLIENTS} connections are open");

    let data = bench.seeded(bench.many)?;
    let mut starts = Vec::new();
    // The first start may replay a log or create files; it warms the file cache as well.
    for round in 0..=bench.rounds {
        let server = bench.shunt.spawn::<&str>(&data, Some(bench.pinning.server), &[])?;
        let time = first_redirect(&server, &format!("/{}", dataset::code(bench.many / 2)))?;
        server.process.stop(STOP)?;
        eprintln!("start {round}: {:.0} ms", time.as_secs_f64() * 1e3);
        if round > 0 {
            starts.push(time.as_secs_f64() * 1e3);
        }
    }
    outcome.judge("resident memory, idle", idle.resident as f64 / MIB, 30.0, true, "MiB");
    outcome.judge(
        "resident memory, 10,000 idle connections",
        loaded.resident as f64 / MIB,
        150.0,
        true,
        "MiB",
    );
    outcome.note(
        "per idle connection",
        &amount(
            (loaded.resident - idle.resident.min(loaded.resident)) as f64 / CLIENTS as f64,
            "bytes",
        ),
    );
    outcome.judge("start to first redirect", median(&starts), 300.0, true, "ms");
    outcome.raw = serde_json::json!({
        "idle": idle.resident, "idle_anonymous": idle.anonymous,
        "connections": loaded.resident, "starts_ms": starts, "links": bench.many
    });
    Ok(outcome)
}

/// From the start of the process to a right answer; tried without a pause between attempts that
/// would be in the figure.
fn first_redirect(server: &crate::servers::Server, path: &str) -> anyhow::Result<Duration> {
    let deadline = server.process.started + Duration::from_secs(60);
    while Instant::now() < deadline {
        if TcpStream::connect(server.address).is_ok()
            && let Ok(answer) = Client::connect(server.address)?.get(path)
            && answer.status == 302
        {
            return Ok(server.process.started.elapsed());
        }
        pause(Duration::from_millis(1));
    }
    bail!("no redirect within a minute of the start")
}
