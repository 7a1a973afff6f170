//! Creates and imports on PostgreSQL, against pgbench and psql writing the same rows.

use std::time::{Duration, Instant};

use anyhow::ensure;

use super::{Bench, CONNECTIONS, NO_WORKER, STOP, TURN_WARMUP, settings};
use crate::backing::{Database, Pgbench};
use crate::load::Load;
use crate::results::{Outcome, amount, median};

/// The table that pgbench and psql write to: columns, keys and indexes of the real one.
const TWIN: &str = "CREATE TABLE twin (LIKE links INCLUDING ALL)";

/// Measures and judges.
///
/// # Errors
/// A server can't be started, refuses a row, or the tables differ.
pub fn run(bench: &Bench) -> anyhow::Result<Outcome> {
    let rows = bench.bulk;
    let mut outcome = Outcome::new(
        "pg-creates",
        "Creates on PostgreSQL",
        &format!(
            "A durable PostgreSQL (fsync, synchronous_commit) behind PgBouncer in transaction mode, as \
             it ships. Creates: 64 connections, closed loop, every 201 committed; pgbench inserts rows \
             of the same shape into a table with the same columns and indexes, one a transaction, \
             through the same PgBouncer. Bulk: `shunt links import` of {} CSV rows, the whole command, \
             against psql's \\copy of the very rows that it made into such a table, through the same \
             PgBouncer; both tables are empty before. PostgreSQL, PgBouncer and shunt share one \
             core; pgbench, psql and the load have another. A checkpoint before each measurement.",
            amount(rows as f64, "")
        ),
    );
    bench.alone.set(false);
    let core = bench.pinning.server;
    let database = Database::postgres(Some(core))?;
    let (data, stored) = (bench.fresh("node")?, database.settings());
    bench.shunt.migrate(&data, &stored)?;
    database.sql(TWIN)?;

    let (mut imports, mut copies, mut bulk) = (vec![], vec![], vec![]);
    for round in 1..=bench.rounds {
        let (ours, bare) = bulk_round(bench, &database, &stored, rows)?;
        eprintln!(
            "round {round}  import {ours:.0} rows/s, \\copy {bare:.0} rows/s: {:.2} ×",
            ours / bare
        );
        bulk.push(ours / bare);
        imports.push(ours);
        copies.push(bare);
    }

    database.sql("TRUNCATE links, twin")?;
    let node = settings(&[&stored, &NO_WORKER.map(str::to_owned)]);
    let server = bench.shunt.serve_on(&data, Some(core), &node)?;
    let load = Load::closed(CONNECTIONS).with("--creates", 1.0).time(bench.round, TURN_WARMUP);
    let kinds = [
        ("pgbench, one row a transaction", None),
        ("shunt, without Idempotency-Key", Some(load.clone().flag("--no-idempotency-key"))),
        ("shunt, each with its Idempotency-Key", Some(load)),
    ];
    let mut found = [const { Vec::new() }; 3];
    for round in 1..=bench.rounds {
        for ((name, load), found) in kinds.iter().zip(&mut found) {
            database.sql("CHECKPOINT")?;
            let before = database.cpu()?;
            let (rate, count, cpu, p99) = match load {
                None => {
                    let rate = database.pgbench(&Pgbench {
                        script: &insert("twin"),
                        clients: CONNECTIONS,
                        time: bench.round,
                        core: bench.pinning.load,
                        scratch: &bench.scratch,
                    })?;
                    (rate, rate * bench.round.as_secs().max(1) as f64, 0.0, 0.0)
                }
                Some(load) => {
                    let measured = bench.measure(&server, load, false)?;
                    (measured.per_second, measured.answered as f64, measured.cpu, measured.p99)
                }
            };
            let used = database.cpu()?;
            let each = |used: Duration| used.as_secs_f64() * 1e6 / count.max(1.0);
            let (postgres, pooler) = (each(used.0 - before.0), each(used.1 - before.1));
            eprintln!(
                "round {round}  {name:<37} {rate:>7.0}/s  PostgreSQL {postgres:.0} µs, PgBouncer \
                 {pooler:.0}, shunt {cpu:.0}  p99 {p99:.0} µs"
            );
            found.push([rate, postgres, pooler, cpu, p99]);
        }
    }
    server.process.stop(STOP)?;

    outcome.columns = ["", "rows/s", "CPU µs in PostgreSQL", "in PgBouncer", "in shunt", "p99 ms"]
        .map(str::to_owned)
        .into();
    let middle = |rounds: &[[f64; 5]], at: usize| {
        median(&rounds.iter().filter_map(|round| round.get(at).copied()).collect::<Vec<_>>())
    };
    for ((name, load), found) in kinds.iter().zip(&found) {
        let ours = |value: f64| if load.is_some() { amount(value, "") } else { String::new() };
        outcome.rows.push(vec![
            (*name).to_owned(),
            amount(middle(found, 0), ""),
            amount(middle(found, 1), ""),
            amount(middle(found, 2), ""),
            ours(middle(found, 3)),
            ours(middle(found, 4) / 1e3),
        ]);
    }
    for (name, rates) in [("shunt links import", &imports), ("psql \\copy", &copies)] {
        let mut row = vec![name.to_owned(), amount(median(rates), "")];
        row.resize(outcome.columns.len(), String::new());
        outcome.rows.push(row);
    }
    let [bare, plain, keyed] = &found;
    let ratio = |ours: &[[f64; 5]]| {
        let pairs = ours.iter().zip(bare);
        median(&pairs.map(|(ours, bare)| ours[0] / bare[0]).collect::<Vec<_>>())
    };
    outcome.judge("creates/s, of pgbench's inserts/s", ratio(plain), 0.70, false, "×");
    outcome.note(
        "the same with an Idempotency-Key each: three rows written for each create",
        &amount(ratio(keyed), "×"),
    );
    outcome.judge("imported rows/s, of \\copy's", median(&bulk), 0.50, false, "×");
    outcome.raw = serde_json::json!({
        "pgbench": bare, "plain": plain, "keyed": keyed, "imports": imports, "copies": copies
    });
    Ok(outcome)
}

/// Rows a second of an import, and of psql's copy of the rows that it made.
fn bulk_round(
    bench: &Bench,
    database: &Database,
    stored: &[String],
    rows: u64,
) -> anyhow::Result<(f64, f64)> {
    let csv = bench.cache.csv(rows)?;
    database.sql("TRUNCATE links, twin")?;
    database.sql("CHECKPOINT")?;
    let data = bench.fresh("import")?;
    let began = Instant::now();
    bench.shunt.import_on(bench.pinning.server, &data, stored, &csv)?;
    let ours = rows as f64 / began.elapsed().as_secs_f64();

    let count = |table: &str| database.sql(&format!("SELECT count(*) FROM {table}"));
    ensure!(count("links")? == rows.to_string(), "the import left {} of {rows}", count("links")?);
    let file = bench.scratch.join("rows.copy");
    let file = file.display();
    database.sql_pooled(bench.pinning.load, &format!("\\copy links TO '{file}'"))?;
    database.sql("CHECKPOINT")?;
    let began = Instant::now();
    database.sql_pooled(bench.pinning.load, &format!("\\copy twin FROM '{file}'"))?;
    let bare = rows as f64 / began.elapsed().as_secs_f64();
    ensure!(count("twin")? == rows.to_string(), "\\copy left {} of {rows}", count("twin")?);
    Ok((ours, bare))
}

/// One row as shunt writes it, into a table of this name. A code that is taken, one in a thousand
/// at most, is let alone.
pub(super) fn insert(table: &str) -> String {
    format!(
        "\\set code random(10000000, 99999999)\n\
         \\set target random(1, 100000)\n\
         INSERT INTO {table} (code, domain, created_at, owner, version, state, flags, status, \
         updated_at, valid_from, expires_at, max_clicks, used, target, title, tags, folded) \
         VALUES (':code', 0, now(), 0, 1, 0, 1, 302, NULL, NULL, NULL, NULL, 0, \
         'https://www.example.com/bench/643f3b8d35f1e-1b2c3/:target', NULL, NULL, NULL) \
         ON CONFLICT (code, domain) DO NOTHING RETURNING code, domain;\n"
    )
}
