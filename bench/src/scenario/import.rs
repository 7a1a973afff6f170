//! Bulk import against a bare loop that writes the same rows.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, ensure};
use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, params_from_iter};

use super::{Bench, count_links};
use crate::results::{Outcome, amount, median};

/// Measures and judges.
///
/// # Errors
/// The import fails or the two databases differ.
pub fn run(bench: &Bench) -> anyhow::Result<Outcome> {
    let rows = bench.million;
    let mut outcome = Outcome::new(
        "import",
        "Bulk import",
        &format!(
            "`shunt links import` of {} CSV rows into an empty directory, the whole command. The bare \
             loop takes the finished rows from memory and inserts them with one prepared statement \
             in one transaction (WAL, synchronous=FULL) into a table of the same schema with the \
             same indexes; with and without the full-text index that search needs.",
            amount(rows as f64, "")
        ),
    );
    let csv = bench.cache.csv(rows)?;
    let (mut ours, mut bare, mut bare_text) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=bench.rounds {
        let data = bench.fresh("import")?;
        let began = Instant::now();
        bench.shunt.import(&data, &csv)?;
        ours.push(rows as f64 / began.elapsed().as_secs_f64());
        let found = count_links(&data)?;
        ensure!(found == rows, "the import left {found} links of {rows}");
        let source = data.join("links.db");
        for (text, rates) in [(false, &mut bare), (true, &mut bare_text)] {
            let dir = bench.fresh("bare")?;
            rates.push(copy(&source, &dir.join("bare.db"), text, rows)?);
        }
        let last = |rates: &[f64]| rates.last().copied().unwrap_or(0.0);
        eprintln!(
            "round {round}  import {:.0}/s, bare {:.0}/s, bare with text index {:.0}/s",
            last(&ours),
            last(&bare),
            last(&bare_text)
        );
    }
    outcome.columns = ["", "rows/s"].map(str::to_owned).to_vec();
    for (name, rates) in [
        ("shunt links import", &ours),
        ("bare loop, all indexes", &bare_text),
        ("bare loop, no text index", &bare),
    ] {
        outcome.rows.push(vec![name.to_owned(), amount(median(rates), "")]);
    }
    outcome.judge(
        "rows/s, of the bare loop with all indexes",
        median(&ours) / median(&bare_text),
        0.60,
        false,
        "×",
    );
    outcome.note(
        "rows/s, of the bare loop without the text index",
        &amount(median(&ours) / median(&bare), "×"),
    );
    outcome.raw = serde_json::json!({ "import": ours, "bare": bare, "bare_text": bare_text });
    Ok(outcome)
}

/// Inserts the rows of one database into another of the same schema; rows a second. The schema is
/// read from the source, so that it can't drift from what shunt creates.
fn copy(source: &Path, path: &Path, text: bool, expected: u64) -> anyhow::Result<f64> {
    let from = Connection::open_with_flags(source, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .context("open the imported database")?;
    let page_size: i64 = from.pragma_query_value(None, "page_size", |row| row.get(0))?;
    let statements: Vec<String> = from
        .prepare(
            "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND tbl_name = 'links' \
             ORDER BY type = 'index'",
        )?
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    let text_statements: Vec<String> = from
        .prepare("SELECT sql FROM sqlite_master WHERE name IN ('link_texts', 'links_fts') ORDER BY type = 'table'")?
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    let mut select = from.prepare("SELECT * FROM links ORDER BY id")?;
    let columns = select.column_count();
    let names: Vec<String> = select.column_names().map(str::to_owned).collect();
    let at = |name: &str| names.iter().position(|column| column == name);
    let indexed: Vec<usize> =
        ["id", "code", "title", "target"].into_iter().filter_map(at).collect();
    let all: Vec<Vec<Value>> = select
        .query_map([], |row| (0..columns).map(|column| row.get(column)).collect())?
        .collect::<Result<_, _>>()?;
    ensure!(all.len() as u64 == expected, "{} rows were read of {expected}", all.len());

    let to = Connection::open(path).context("open the bare database")?;
    to.pragma_update(None, "page_size", page_size)?;
    to.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;")?;
    for statement in &statements {
        to.execute_batch(statement)?;
    }
    if text {
        ensure!(
            indexed.len() == 4,
            "the text index has other columns than id, code, title, target"
        );
        for statement in &text_statements {
            to.execute_batch(statement)?;
        }
    }
    let places = vec!["?"; columns].join(",");
    let began = Instant::now();
    to.execute_batch("BEGIN")?;
    {
        let mut insert = to.prepare(&format!("INSERT INTO links VALUES ({places})"))?;
        let mut insert_text = if text {
            Some(to.prepare("INSERT INTO links_fts (rowid, code, title, target) VALUES (?,?,?,?)")?)
        } else {
            None
        };
        for row in &all {
            insert.execute(params_from_iter(row))?;
            if let Some(insert) = &mut insert_text {
                insert.execute(params_from_iter(indexed.iter().filter_map(|at| row.get(*at))))?;
            }
        }
    }
    to.execute_batch("COMMIT")?;
    let rate = expected as f64 / began.elapsed().as_secs_f64();
    let found: i64 = to.query_row("SELECT count(*) FROM links", [], |row| row.get(0))?;
    ensure!(found.unsigned_abs() == expected, "the bare loop left {found} rows");
    Ok(rate)
}
