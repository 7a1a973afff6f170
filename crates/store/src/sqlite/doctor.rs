//! The full check of a store, for `shunt doctor`: every page, every row, and what the tables say
//! about each other.

use rusqlite::Connection;

use super::error::OpenError;
use super::row::{COLUMNS, column, stored, text};
use super::store::SqliteStore;
use crate::text::Needle;

/// The most problems that are listed one by one.
const MAX_PROBLEMS: usize = 100;

/// Every so many rows one is looked up in the text index.
const SAMPLE: u64 = 101;

/// What a full check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnosis {
    /// What is wrong, one line each; empty when all is well. At most about a hundred.
    pub problems: Vec<String>,
    /// Rows looked at, tombstones included.
    pub rows: u64,
    /// Links among them.
    pub links: u64,
}

impl Diagnosis {
    fn add(&mut self, problem: impl Into<String>) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(problem.into());
        }
    }
}

impl SqliteStore {
    /// Checks everything. Blocks for about a minute per few million links: run it on a thread of
    /// its own. The store goes on serving; its log grows meanwhile. `progress` is told how many
    /// rows were looked at.
    ///
    /// # Errors
    /// [`OpenError`] when the check itself can't run. Damage that was found is no error.
    pub fn diagnose(&self, progress: &mut dyn FnMut(u64)) -> Result<Diagnosis, OpenError> {
        let error = |error: rusqlite::Error| OpenError::from_sqlite(self.path(), &error);
        let db = self.db().reader().map_err(error)?;
        let mut diagnosis = Diagnosis::default();
        if let Err(error) = run(&db, &mut diagnosis, progress) {
            // Damage can stop the check itself: that is a finding as well.
            diagnosis.add(format!("the check stopped: {error}"));
        }
        Ok(diagnosis)
    }
}

fn run(
    db: &Connection,
    diagnosis: &mut Diagnosis,
    progress: &mut dyn FnMut(u64),
) -> rusqlite::Result<()> {
    // One moment for all that is compared.
    db.execute_batch("BEGIN")?;
    // Pages, indexes against tables, and the structure of the text index.
    let mut check = db.prepare(&format!("PRAGMA integrity_check({MAX_PROBLEMS})"))?;
    let mut lines = check.query([])?;
    while let Some(line) = lines.next()? {
        let line: String = line.get(0)?;
        if line != "ok" {
            diagnosis.add(format!("integrity check: {line}"));
        }
    }
    drop(lines);
    rows(db, diagnosis, progress)?;
    relations(db, diagnosis)
}

/// Reads every row as the service would, and looks some up in the text index.
fn rows(
    db: &Connection,
    diagnosis: &mut Diagnosis,
    progress: &mut dyn FnMut(u64),
) -> rusqlite::Result<()> {
    let mut find = db.prepare("SELECT 1 FROM links_fts WHERE links_fts MATCH ?1 AND rowid = ?2")?;
    let mut all = db.prepare(&format!("SELECT {COLUMNS} FROM links ORDER BY id"))?;
    let mut rows = all.query([])?;
    while let Some(row) = rows.next()? {
        diagnosis.rows += 1;
        let live = row.get::<_, i64>(column::STATE)? == 0;
        diagnosis.links += u64::from(live);
        if let Err(error) = stored(row) {
            let code = text(row, column::CODE).ok().flatten().unwrap_or("?");
            diagnosis.add(format!("the row of code {code} can't be read: {error}"));
        } else if diagnosis.rows % SAMPLE == 1 {
            let id: i64 = row.get(column::ID)?;
            let words = if live { column::TARGET } else { column::CODE };
            let needle = Needle::new(text(row, words)?.unwrap_or_default());
            if let Some(query) = super::fts::query(&needle)
                && find.exists((query, id))? != live
            {
                let code = text(row, column::CODE)?.unwrap_or_default();
                let what = if live { "misses" } else { "still has" };
                diagnosis.add(format!("the text index {what} the link {code}"));
            }
        }
        if diagnosis.rows.is_multiple_of(65_536) {
            progress(diagnosis.rows);
        }
    }
    progress(diagnosis.rows);
    Ok(())
}

/// What tables say about each other.
fn relations(db: &Connection, diagnosis: &mut Diagnosis) -> rusqlite::Result<()> {
    let number = |sql: &str| db.query_row(sql, [], |row| row.get::<_, i64>(0));
    let counted = number("SELECT value FROM counters WHERE name = 'live'")?;
    if u64::try_from(counted) != Ok(diagnosis.links) {
        let links = diagnosis.links;
        diagnosis.add(format!("the counter says {counted} links, there are {links}"));
    }
    let orphans = number(
        "SELECT count(*) FROM link_tags LEFT JOIN links ON links.id = link_tags.link
         WHERE links.id IS NULL OR links.state <> 0
            OR instr(',' || links.tags || ',', ',' || link_tags.tag || ',') = 0",
    )?;
    if orphans > 0 {
        diagnosis.add(format!("{orphans} tags belong to no link that has them"));
    }
    let said = number(
        "SELECT coalesce(sum(1 + length(tags) - length(replace(tags, ',', ''))), 0)
         FROM links WHERE state = 0 AND tags IS NOT NULL",
    )?;
    let indexed = number("SELECT count(*) FROM link_tags")?;
    if said != indexed {
        diagnosis.add(format!("links have {said} tags, the tag index has {indexed}"));
    }
    let bad_rests = number(
        "SELECT count(*) FROM range_rests
         WHERE start >= stop
            OR stop > (SELECT value FROM counters WHERE name = 'range_high')
            OR EXISTS (SELECT 1 FROM range_rests AS other
                       WHERE other.start > range_rests.start AND other.start < range_rests.stop)",
    )?;
    if bad_rests > 0 {
        diagnosis.add(format!("{bad_rests} rests of code ranges overlap or were never leased"));
    }
    Ok(())
}
