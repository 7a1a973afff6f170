//! Redirects that L1 mostly can't answer.

use anyhow::bail;

use super::{Bench, CONNECTIONS, STOP, WARMUP, hot};
use crate::dataset;
use crate::load::Load;
use crate::results::{Outcome, amount, median};
use crate::servers;

/// Bytes of an entry of L1 beside key and target, as the L1 scenario measures them; only to size
/// L1 to one in a hundred.
const ENTRY: u64 = 100;

/// Measures and judges.
///
/// # Errors
/// A server can't be started or answers wrongly.
pub fn run(bench: &Bench) -> anyhow::Result<Outcome> {
    let links = bench.many;
    let mut outcome = Outcome::new(
        "cold",
        "Cold redirects",
        &format!(
            "{} links, L1 sized to 1 % of them, keys uniform over all, every Location checked, 64 \
             connections; links.db in the page cache; every click on disk, worker paused. Peak \
             rate and CPU in a closed loop, p99 in an open loop at half of that rate, in turns with a \
             bare loop that answers everybody the same.",
            amount(links as f64, "")
        ),
    );
    let nginx = hot::nginx_hot(bench)?;
    let data = bench.seeded(links)?;
    let keys = bench.cache.keys(links)?;
    let sample = 10_000.min(links);
    let payload: u64 = (0..sample)
        .map(|index| (dataset::code(index).len() + dataset::target(index).len()) as u64)
        .sum::<u64>()
        / sample;
    let l1 = format!("cache.l1_bytes={}", (links / 100 * (payload + ENTRY)).max(65_536));
    let settings = [&*l1, "clicks.worker=false", "clicks.spool_bytes=16GiB"];
    // What is cold is L1. The file is in the page cache, as nginx's map is in memory.
    super::cache_file(&data)?;
    let (mut cpu, mut peak, mut p99, mut hits) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut floor = Vec::new();
    for round in 1..=bench.rounds {
        let server = bench.shunt.serve(&data, bench.pinning.server, &settings)?;
        let answer = server.check(links)?;
        let closed = Load::closed(CONNECTIONS).keys(&keys).time(bench.round, WARMUP);
        let measured = bench.measure(&server, &closed, false)?;
        // What this machine and the generator add by themselves: a loop that looks nothing up.
        let dir = bench.scratch.join("floor");
        let bare = servers::floor(&bench.floor, &dir, bench.pinning.server, &answer)?;
        let open = Load::open(measured.per_second / 2.0, CONNECTIONS);
        let unchecked = open.clone().with("--keys", keys.display().to_string());
        let contenders = [(&server, open.keys(&keys)), (&bare, unchecked)];
        let paced = bench.in_turns(&contenders, true, |_, _| Ok(()))?;
        let [paced, bare_paced] = &*paced else { bail!("two servers, two figures") };
        let hit = server.metric("shunt_links_answered_total", "answer=\"redirect_l1\"")?;
        let all = server.metric("shunt_links_answered_total", "answer=\"redirect")?;
        hits.push(hit.unwrap_or_default() / all.unwrap_or(1.0).max(1.0));
        eprintln!(
            "round {round}  {:.0}/s  {:.2} µs CPU  p99 at half {:.0} µs, bare loop {:.0} µs  L1 {:.2} %",
            measured.per_second,
            measured.cpu,
            paced.p99,
            bare_paced.p99,
            100.0 * hits.last().copied().unwrap_or(0.0)
        );
        cpu.push(measured.cpu);
        peak.push(measured.per_second);
        p99.push(paced.p99);
        floor.push(bare_paced.p99);
        server.process.stop(STOP)?;
    }
    outcome.columns = ["", "requests/s", "CPU µs per redirect", "p99 µs at half", "answered by L1"]
        .map(str::to_owned)
        .to_vec();
    outcome.rows.push(vec![
        "shunt, cold".to_owned(),
        amount(median(&peak), ""),
        amount(median(&cpu), ""),
        amount(median(&p99), ""),
        format!("{:.1} %", 100.0 * median(&hits)),
    ]);
    outcome.rows.push(vec![
        "nginx, hot".to_owned(),
        String::new(),
        amount(nginx, ""),
        String::new(),
        String::new(),
    ]);
    outcome.judge("CPU per cold redirect, of nginx's hot", median(&cpu) / nginx, 3.0, true, "×");
    outcome.judge("answered by L1", 100.0 * median(&hits), 1.5, true, "%");
    // Where the machine stalls by itself, even the loop that looks nothing up is late: then the
    // bound is on what shunt adds to it.
    let (found, bare) = (median(&p99) / 1e3, median(&floor) / 1e3);
    outcome.require(
        "p99 at half of the peak rate ≤ 2.00 ms, or ≤ 2.00 ms above a bare loop's in the same turns",
        &format!("{}, bare loop {}", amount(found, "ms"), amount(bare, "ms")),
        found <= 2.0 || found <= bare + 2.0,
    );
    outcome.raw = serde_json::json!({
        "links": links, "cpu": cpu, "peak": peak, "p99": p99, "floor_p99": floor, "l1_share": hits, "nginx_cpu": nginx
    });
    Ok(outcome)
}
