//! Citus against plain PostgreSQL, each through a PgBouncer of its own.

use anyhow::{Context, ensure};

use super::{Bench, CONNECTIONS, HOT_LINKS, pg_creates::insert, store_reads::select};
use crate::backing::{Database, Pgbench};
use crate::results::{Outcome, amount, median};

/// Whether it is to be measured, by what the switch of the tests of the store says.
///
/// # Errors
/// It is asked for and is not installed, or is somewhere else: nodes on other cores than the plain
/// server's can't be compared with it.
pub fn wanted(switch: Option<&str>) -> anyhow::Result<bool> {
    match switch {
        None | Some("") => Ok(false),
        Some("local") => {
            ensure!(
                Database::citus_is_installed()?,
                "Citus is asked for, but PostgreSQL has no such extension here"
            );
            Ok(true)
        }
        Some(_) => anyhow::bail!(
            "only a Citus that is `local`, with all nodes on this machine, can be compared"
        ),
    }
}

/// Measures and judges.
///
/// # Errors
/// A server can't be started or refuses a statement.
pub fn run(bench: &Bench) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::new(
        "citus",
        "Citus",
        "100,000 links imported by shunt into a Citus of one coordinator and two workers, as `shunt \
         migrate` lays it out, and into one plain PostgreSQL, each behind a PgBouncer; all database \
         servers and poolers on one core. pgbench, 64 connections, simple protocol, on another core: \
         one row by its key, all columns; one insert a transaction. In turns.",
    );
    bench.alone.set(false);
    let core = bench.pinning.server;
    let csv = bench.cache.number_csv(HOT_LINKS)?;
    let mut databases = Vec::new();
    for (name, database) in
        [("PostgreSQL", Database::postgres(Some(core))?), ("Citus", Database::citus(Some(core))?)]
    {
        bench.stored(&database, &csv, HOT_LINKS).with_context(|| format!("fill {name}"))?;
        databases.push((name, database));
    }
    let version = databases.last().map(|(_, citus)| citus.sql("SELECT citus_version()"));
    let version = version.transpose()?.unwrap_or_default();
    outcome.note("version", version.split(" on ").next().unwrap_or_default());

    let (select, insert) = (select(HOT_LINKS), insert("links"));
    outcome.columns = ["", "PostgreSQL /s", "Citus /s"].map(str::to_owned).into();
    let mut raw = serde_json::Map::new();
    for (name, script, bar) in [("selects", &*select, 0.20), ("inserts", &*insert, 0.25)] {
        let mut rates = [vec![], vec![]];
        for round in 1..=bench.rounds {
            for ((server, database), rates) in databases.iter().zip(&mut rates) {
                database.sql("CHECKPOINT")?;
                let rate = database.pgbench(&Pgbench {
                    script,
                    clients: CONNECTIONS,
                    time: bench.round,
                    core: bench.pinning.load,
                    scratch: &bench.scratch,
                })?;
                eprintln!("round {round}  {name} {server:<10} {rate:>8.0}/s");
                rates.push(rate);
            }
        }
        let [plain, citus] = &rates;
        let ratios: Vec<f64> =
            citus.iter().zip(plain).map(|(citus, plain)| citus / plain).collect();
        outcome.rows.push(vec![
            name.to_owned(),
            amount(median(plain), ""),
            amount(median(citus), ""),
        ]);
        let what = format!("{name}/s of Citus, of plain PostgreSQL's");
        outcome.judge(&what, median(&ratios), bar, false, "×");
        raw.insert(name.to_owned(), serde_json::json!({ "postgres": plain, "citus": citus }));
    }
    outcome.raw = raw.into();
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_elsewhere_is_an_error_and_none_is_not() {
        assert!(!wanted(None).unwrap() && !wanted(Some("")).unwrap());
        assert!(wanted(Some("postgres://elsewhere/x")).is_err());
    }
}
