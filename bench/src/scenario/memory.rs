//! What an entry of L1 costs beyond its key and target.

use anyhow::ensure;

use super::{Bench, STOP};
use crate::dataset;
use crate::results::{Outcome, amount};

/// Measures and judges.
///
/// # Errors
/// The server can't be started or doesn't hold all links in L1.
pub fn run(bench: &Bench) -> anyhow::Result<Outcome> {
    let links = bench.million;
    let mut outcome = Outcome::new(
        "l1-memory",
        "Memory of L1",
        "The same server twice, with room for all links in L1 and with room for none; each is asked \
         for every link once over 64 connections. The difference of resident memory, less the \
         bytes of codes and targets, divided by the entries. SQLite's file is not mapped in either.",
    );
    let data = bench.seeded(links)?;
    let payload: u64 = (0..links)
        .map(|index| (dataset::code(index).len() + dataset::target(index).len()) as u64)
        .sum();
    let mut resident = Vec::new();
    let mut entries = Vec::new();
    for size in ["cache.l1_bytes=256MiB", "cache.l1_bytes=64KiB"] {
        let settings =
            [size, "store.mmap_bytes=0", "clicks.worker=false", "clicks.spool_bytes=4GiB"];
        let server = bench.shunt.serve(&data, bench.pinning.server, &settings)?;
        bench.warm(&server, links)?;
        entries.push(server.metric("shunt_cache_entries", "")?.unwrap_or_default());
        resident.push(server.process.memory()?.resident as f64);
        server.process.stop(STOP)?;
    }
    let (&[full, empty], &[held, left]) = (resident.as_slice(), entries.as_slice()) else {
        anyhow::bail!("two servers were measured");
    };
    // A few sets of the index may be full before the memory is.
    ensure!(held >= 0.999 * links as f64, "L1 held {held} of {links} links");
    // The small L1 holds a few entries as well.
    let share = payload as f64 * (held - left) / links as f64;
    let overhead = (full - empty - share) / (held - left);
    outcome.columns = ["", "resident MiB", "entries"].map(str::to_owned).to_vec();
    for (name, at, count) in [("L1 full", full, held), ("L1 empty", empty, left)] {
        outcome.rows.push(vec![name.to_owned(), amount(at / 1048576.0, ""), amount(count, "")]);
    }
    outcome.judge("overhead per entry beyond code and target", overhead, 110.0, true, "bytes");
    outcome.note("codes and targets", &amount(payload as f64 / links as f64, "bytes per link"));
    outcome.raw =
        serde_json::json!({ "resident": resident, "entries": entries, "payload": payload });
    Ok(outcome)
}
