//! Redirects that only the database can answer, against pgbench reading the same rows.

use std::time::Duration;

use super::{
    Bench, CONNECTIONS, HOT_LINKS, NO_L1, NO_WORKER, STOP, TURN_WARMUP, redirects, settings,
};
use crate::backing::{Database, Pgbench};
use crate::dataset::FIRST_NUMBER;
use crate::load::Load;
use crate::results::{Outcome, amount, median};

/// Measures and judges.
///
/// # Errors
/// A server can't be started or answers wrongly.
pub fn run(bench: &Bench) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::new(
        "store-reads",
        "Redirects out of PostgreSQL",
        "100,000 links in PostgreSQL behind PgBouncer in transaction mode, both as they ship; no \
         Redis, L1 as small as it can be; keys uniform over all, 64 connections, closed loop. \
         shunt: each request a redirect, every Location checked, every click on disk, worker \
         paused. pgbench: each transaction one row by its key, all columns, simple protocol, \
         through the same PgBouncer. PostgreSQL, PgBouncer and shunt share one core; pgbench and \
         shunt's load have another, in turns.",
    );
    bench.alone.set(false);
    let core = bench.pinning.server;
    let keys = bench.cache.number_keys(HOT_LINKS)?;
    let database = Database::postgres(Some(core))?;
    let (data, stored) = bench.stored(&database, &bench.cache.number_csv(HOT_LINKS)?, HOT_LINKS)?;
    let own = [NO_L1.to_owned()];
    let node = settings(&[&stored, &own, &NO_WORKER.map(str::to_owned)]);
    let server = bench.shunt.serve_on(&data, Some(core), &node)?;
    bench.warm_with(&server, &keys, HOT_LINKS)?;

    let script = select(HOT_LINKS);
    let load = Load::closed(CONNECTIONS).keys(&keys).time(bench.round, TURN_WARMUP);
    let (mut ours, mut bare, mut ratios, mut per_statement) = (vec![], vec![], vec![], vec![]);
    let mut raw = Vec::new();
    let before = redirects(&server)?;
    for round in 1..=bench.rounds {
        let began = database.cpu()?;
        let rate = database.pgbench(&Pgbench {
            script: &script,
            clients: CONNECTIONS,
            time: bench.round,
            core: bench.pinning.load,
            scratch: &bench.scratch,
        })?;
        let each = |used: Duration, count: f64| used.as_secs_f64() * 1e6 / count.max(1.0);
        let used = database.cpu()?;
        let count = rate * bench.round.as_secs().max(1) as f64;
        let bare_cpu = (each(used.0 - began.0, count), each(used.1 - began.1, count));
        let statements = || -> anyhow::Result<f64> {
            Ok(server.metric("shunt_store_read_statements_total", "")?.unwrap_or(0.0))
        };
        let (began, sent) = (database.cpu()?, statements()?);
        let measured = bench.measure(&server, &load, false)?;
        let used = database.cpu()?;
        let count = measured.answered as f64;
        let ours_cpu = (each(used.0 - began.0, count), each(used.1 - began.1, count));
        per_statement.push(count / (statements()? - sent).max(1.0));
        eprintln!(
            "round {round}  pgbench {rate:.0}/s (PostgreSQL {:.1} µs, PgBouncer {:.1})  shunt {:.0}/s \
             (PostgreSQL {:.1} µs, PgBouncer {:.1}, shunt {:.1}, p99 {:.0})  {:.2} ×  load core {:.0} %",
            bare_cpu.0,
            bare_cpu.1,
            measured.per_second,
            ours_cpu.0,
            ours_cpu.1,
            measured.cpu,
            measured.p99,
            measured.per_second / rate,
            100.0 * measured.generator_busy
        );
        ratios.push(measured.per_second / rate);
        raw.push(serde_json::json!({
            "pgbench": rate, "pgbench_cpu": bare_cpu, "shunt": measured, "shunt_cpu": ours_cpu
        }));
        bare.push([rate, bare_cpu.0, bare_cpu.1, 0.0, 0.0]);
        ours.push([measured.per_second, ours_cpu.0, ours_cpu.1, measured.cpu, measured.p99]);
    }
    let after = redirects(&server)?;
    let l1 = (after.0 - before.0) / (after.1 - before.1).max(1.0);
    server.process.stop(STOP)?;
    outcome.columns = ["", "rows/s", "CPU µs in PostgreSQL", "in PgBouncer", "in shunt", "p99 µs"]
        .map(str::to_owned)
        .into();
    for (name, figures) in [("pgbench, simple", &bare), ("shunt, redirects", &ours)] {
        let of = |at: usize| {
            median(
                &figures
                    .iter()
                    .filter_map(|all: &[f64; 5]| all.get(at).copied())
                    .collect::<Vec<_>>(),
            )
        };
        let or_none = |value: f64| if value > 0.0 { amount(value, "") } else { String::new() };
        outcome.rows.push(vec![
            name.to_owned(),
            amount(of(0), ""),
            amount(of(1), ""),
            amount(of(2), ""),
            or_none(of(3)),
            or_none(of(4)),
        ]);
    }
    outcome.judge("redirects/s, of pgbench's rows/s", median(&ratios), 0.60, false, "×");
    outcome.note("answered by L1", &format!("{:.1} %", 100.0 * l1));
    outcome.note("redirects per statement", &amount(median(&per_statement), ""));
    outcome.raw =
        serde_json::json!({ "rounds": raw, "l1_share": l1, "per_statement": per_statement });
    Ok(outcome)
}

/// One row by its key, of `links` rows.
pub(super) fn select(links: u64) -> String {
    format!(
        "\\set code random({FIRST_NUMBER}, {})\n\
         SELECT * FROM links WHERE code = ':code' AND domain = 0;\n",
        FIRST_NUMBER + links - 1
    )
}
