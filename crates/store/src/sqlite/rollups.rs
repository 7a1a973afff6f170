//! Roll-ups of clicks on SQLite: `clicks.db`, a file and a writer of its own, so that counting
//! never holds up a link.
//!
//! Invariants:
//! - rows, marks and ledger of a batch are one transaction, which looks at the marks first: a
//!   batch that holds anything counted before changes nothing;
//! - marks are merged runs, so there are few of them, however many batches there were;
//! - rows are written in the order of their primary keys.
//!
//! `hours` has the hour first in its key: a batch is about one hour, or two, and so touches the
//! few pages at the end of the table however long the history is. (Link first would put each row
//! beside its link's older rows: a page per row, 75,000 dirty pages for two seconds of uniform
//! traffic once there is a week of history.) `totals` beside it answers "all time" with one read.

use std::path::Path;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};
use shunt_domain::ports::{
    BootId, BoxFuture, HourRow, LedgerRow, NodeId, RollupBatch, RollupRefusal, RollupStore,
    SeqRange, Totals,
};
use shunt_domain::{Deadline, Lane, LinkKey, Outcome, StoreError, Timestamp};

use super::db::{Db, DbOptions, DbSpec};
use super::error::{OpenError, bad_value};
use super::readers::{Lane as ReadLane, Readers};
use super::stats::{ReaderStats, WriterStats};
use super::writer::Writer;

/// What `clicks.db` must look like.
pub static CLICKS_DB: DbSpec = DbSpec {
    file_name: "clicks.db",
    application_id: 0x7368_6e43,
    migrations: &["
        CREATE TABLE hours (
            hour INTEGER NOT NULL,
            code TEXT NOT NULL,
            domain INTEGER NOT NULL,
            clicks INTEGER NOT NULL,
            humans INTEGER NOT NULL,
            heads INTEGER NOT NULL,
            PRIMARY KEY (hour, code, domain)
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE totals (
            code TEXT NOT NULL,
            domain INTEGER NOT NULL,
            clicks INTEGER NOT NULL,
            humans INTEGER NOT NULL,
            heads INTEGER NOT NULL,
            PRIMARY KEY (code, domain)
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE marks (
            node INTEGER NOT NULL,
            boot INTEGER NOT NULL,
            lane INTEGER NOT NULL,
            first INTEGER NOT NULL,
            last INTEGER NOT NULL,
            PRIMARY KEY (node, boot, lane, first)
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE ledger (
            node INTEGER NOT NULL,
            boot INTEGER NOT NULL,
            served INTEGER NOT NULL,
            lost INTEGER NOT NULL,
            at INTEGER NOT NULL,
            closed INTEGER NOT NULL,
            unknown INTEGER NOT NULL,
            PRIMARY KEY (node, boot)
        ) STRICT, WITHOUT ROWID;
    "],
    tables: &["hours", "totals", "marks", "ledger"],
};

/// How many threads read.
const READERS: usize = 2;

/// The roll-ups of the embedded store. Cheap to clone; the last one to go closes it.
#[derive(Clone, Debug)]
pub struct SqliteRollups {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    db: Db,
    readers: Readers,
    writer: Writer<()>,
    writer_stats: Arc<WriterStats>,
    reader_stats: Arc<ReaderStats>,
}

impl SqliteRollups {
    /// Opens `clicks.db` in `dir`, which this process has for itself (see
    /// [`super::DirLock`]), making the file when it is missing and that is allowed.
    ///
    /// # Errors
    /// [`OpenError`] says what is in the way and what to do.
    pub fn open(dir: &Path, options: DbOptions) -> Result<Self, OpenError> {
        let (db, connection) = Db::open(&CLICKS_DB, dir, options)?;
        let writer_stats = Arc::<WriterStats>::default();
        let reader_stats = Arc::<ReaderStats>::default();
        let writer = Writer::start(&db, connection, Arc::clone(&writer_stats))?;
        let readers = Readers::start(&db, READERS, Arc::clone(&reader_stats))?;
        Ok(Self { inner: Arc::new(Inner { db, readers, writer, writer_stats, reader_stats }) })
    }

    /// Takes no more work, finishes what waits and empties the log. Blocks. What is asked
    /// afterwards is refused as unavailable.
    pub fn close(&self) {
        self.inner.readers.close();
        self.inner.writer.close();
    }

    /// The file `clicks.db`.
    pub fn path(&self) -> &Path {
        self.inner.db.path()
    }

    /// Figures of the writer.
    pub fn writer_stats(&self) -> &WriterStats {
        &self.inner.writer_stats
    }

    /// Figures of the readers.
    pub fn reader_stats(&self) -> &ReaderStats {
        &self.inner.reader_stats
    }
}

impl RollupStore for SqliteRollups {
    fn apply(
        &self,
        batch: RollupBatch,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<(), RollupRefusal>> {
        Box::pin(async move {
            let write = move |tx: &mut super::writer::Tx<'_, ()>| apply(tx.connection, &batch);
            match self.inner.writer.write(deadline, write).await {
                Outcome::Done(counted) if counted.is_empty() => Outcome::Done(()),
                Outcome::Done(counted) => Outcome::Refused(RollupRefusal::Counted(counted)),
                Outcome::Refused(error) => Outcome::Refused(RollupRefusal::Store(error)),
                Outcome::Unknown(cause) => Outcome::Unknown(cause),
            }
        })
    }

    fn marks(
        &self,
        node: NodeId,
        deadline: Deadline,
    ) -> BoxFuture<'_, Result<Vec<SeqRange>, StoreError>> {
        Box::pin(self.inner.readers.run(ReadLane::Scan, deadline, move |connection| {
            let mut select = connection.prepare_cached(
                "SELECT boot, lane, first, last FROM marks WHERE node = ?1
                 ORDER BY boot, lane, first",
            )?;
            let rows = select.query_map([node.0.cast_signed()], |row| {
                let lane = row.get::<_, u8>(1)?;
                Ok(SeqRange {
                    node,
                    boot: BootId(row.get::<_, i64>(0)?.cast_unsigned()),
                    lane: Lane::new(lane)
                        .ok_or_else(|| bad_value(1, format!("{lane} is no lane")))?,
                    first: row.get::<_, i64>(2)?.cast_unsigned(),
                    last: row.get::<_, i64>(3)?.cast_unsigned(),
                })
            })?;
            rows.collect()
        }))
    }

    fn totals<'a>(
        &'a self,
        key: &'a LinkKey,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Totals, StoreError>> {
        let key = key.clone();
        Box::pin(self.inner.readers.run(ReadLane::Point, deadline, move |connection| {
            let mut select = connection.prepare_cached(
                "SELECT clicks, humans, heads FROM totals WHERE code = ?1 AND domain = ?2",
            )?;
            let found = select
                .query_row(params![key.code.as_str(), key.domain.0], |row| {
                    Ok(Totals {
                        clicks: row.get::<_, i64>(0)?.cast_unsigned(),
                        humans: row.get::<_, i64>(1)?.cast_unsigned(),
                        heads: row.get::<_, i64>(2)?.cast_unsigned(),
                    })
                })
                .optional()?;
            Ok(found.unwrap_or_default())
        }))
    }

    fn hours<'a>(
        &'a self,
        key: &'a LinkKey,
        from: i64,
        to: i64,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Vec<HourRow>, StoreError>> {
        let key = key.clone();
        // A point read for each hour that has any clicks at all: some milliseconds for 90 days.
        let lane = if to.saturating_sub(from) <= 48 { ReadLane::Point } else { ReadLane::Scan };
        Box::pin(
            self.inner
                .readers
                .run(lane, deadline, move |connection| hours(connection, &key, from, to)),
        )
    }

    fn ledger(&self, deadline: Deadline) -> BoxFuture<'_, Result<Vec<LedgerRow>, StoreError>> {
        Box::pin(self.inner.readers.run(ReadLane::Scan, deadline, |connection| {
            let mut select = connection.prepare_cached(
                "SELECT node, boot, served, lost, at, closed, unknown,
                        (SELECT coalesce(sum(last - first + 1), 0) FROM marks
                         WHERE marks.node = ledger.node AND marks.boot = ledger.boot)
                 FROM ledger",
            )?;
            let rows = select.query_map([], |row| {
                Ok(LedgerRow {
                    node: NodeId(row.get::<_, i64>(0)?.cast_unsigned()),
                    boot: BootId(row.get::<_, i64>(1)?.cast_unsigned()),
                    served: row.get::<_, i64>(2)?.cast_unsigned(),
                    lost: row.get::<_, i64>(3)?.cast_unsigned(),
                    at: Timestamp::from_millis(row.get(4)?),
                    closed: row.get(5)?,
                    unknown: row.get(6)?,
                    counted: row.get::<_, i64>(7)?.cast_unsigned(),
                })
            })?;
            let mut rows: Vec<_> = rows.collect::<rusqlite::Result<_>>()?;
            // Node numbers may be above i64::MAX, which SQLite would sort below zero.
            rows.sort_unstable_by_key(|row: &LedgerRow| (row.node, row.boot));
            Ok(rows)
        }))
    }
}

/// Applies the batch, or answers which of its runs are counted already and changes nothing.
fn apply(connection: &Connection, batch: &RollupBatch) -> rusqlite::Result<Vec<SeqRange>> {
    let counted = counted(connection, &batch.marks)?;
    if !counted.is_empty() {
        return Ok(counted);
    }
    for mark in &batch.marks {
        insert_mark(connection, mark)?;
    }
    write_hours(connection, &batch.rows)?;
    write_totals(connection, &batch.rows)?;
    let mut upsert = connection.prepare_cached(
        // What was said later wins; the last word, once said, stays.
        "INSERT INTO ledger (node, boot, served, lost, at, closed, unknown)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (node, boot) DO UPDATE SET
             served = excluded.served, lost = excluded.lost, at = excluded.at,
             closed = excluded.closed, unknown = excluded.unknown
         WHERE excluded.closed > closed
            OR excluded.closed = closed AND excluded.served >= served",
    )?;
    for row in &batch.ledger {
        upsert.execute(params![
            row.node.0.cast_signed(),
            row.boot.0.cast_signed(),
            row.served.cast_signed(),
            row.lost.cast_signed(),
            row.at.as_millis(),
            row.closed,
            row.unknown,
        ])?;
    }
    Ok(Vec::new())
}

/// The parts of `marks` that are in the table.
fn counted(connection: &Connection, marks: &[SeqRange]) -> rusqlite::Result<Vec<SeqRange>> {
    let mut select = connection.prepare_cached(
        "SELECT first, last FROM marks
         WHERE node = ?1 AND boot = ?2 AND lane = ?3 AND first <= ?5 AND last >= ?4
         ORDER BY first",
    )?;
    let mut counted = Vec::new();
    for mark in marks {
        let rows = select.query_map(
            params![
                mark.node.0.cast_signed(),
                mark.boot.0.cast_signed(),
                mark.lane.number(),
                mark.first.cast_signed(),
                mark.last.cast_signed(),
            ],
            |row| {
                Ok((row.get::<_, i64>(0)?.cast_unsigned(), row.get::<_, i64>(1)?.cast_unsigned()))
            },
        )?;
        for row in rows {
            let (first, last) = row?;
            counted.push(SeqRange {
                first: first.max(mark.first),
                last: last.min(mark.last),
                ..*mark
            });
        }
    }
    Ok(counted)
}

/// Adds a run that overlaps none, merged with the runs it touches.
fn insert_mark(connection: &Connection, mark: &SeqRange) -> rusqlite::Result<()> {
    let node = mark.node.0.cast_signed();
    let boot = mark.boot.0.cast_signed();
    let lane = mark.lane.number();
    let (mut first, mut last) = (mark.first.cast_signed(), mark.last.cast_signed());
    let before: Option<i64> = connection
        .prepare_cached(
            "SELECT first FROM marks
             WHERE node = ?1 AND boot = ?2 AND lane = ?3 AND first < ?4 AND last = ?4 - 1",
        )?
        .query_row(params![node, boot, lane, first], |row| row.get(0))
        .optional()?;
    let after: Option<i64> = connection
        .prepare_cached(
            "SELECT last FROM marks
             WHERE node = ?1 AND boot = ?2 AND lane = ?3 AND first = ?4 + 1",
        )?
        .query_row(params![node, boot, lane, last], |row| row.get(0))
        .optional()?;
    if let Some(end) = after {
        connection
            .prepare_cached(
                "DELETE FROM marks WHERE node = ?1 AND boot = ?2 AND lane = ?3 AND first = ?4 + 1",
            )?
            .execute(params![node, boot, lane, last])?;
        last = end;
    }
    first = before.unwrap_or(first);
    connection
        .prepare_cached(
            "INSERT INTO marks (node, boot, lane, first, last) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT DO UPDATE SET last = excluded.last",
        )?
        .execute(params![node, boot, lane, first, last])?;
    Ok(())
}

/// Writes the hours in the order of their primary key: the batch is sorted by link, so hour by
/// hour.
fn write_hours(connection: &Connection, rows: &[HourRow]) -> rusqlite::Result<()> {
    let mut upsert = connection.prepare_cached(
        "INSERT INTO hours (hour, code, domain, clicks, humans, heads)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT DO UPDATE SET clicks = clicks + excluded.clicks,
             humans = humans + excluded.humans, heads = heads + excluded.heads",
    )?;
    let mut order: Vec<&HourRow> = rows.iter().collect();
    // Stable, and one pass when there is one hour.
    order.sort_by_key(|row| row.hour);
    for row in order {
        upsert.execute(params![
            row.hour,
            row.key.code.as_str(),
            row.key.domain.0,
            row.clicks.cast_signed(),
            row.humans.cast_signed(),
            row.heads.cast_signed(),
        ])?;
    }
    Ok(())
}

fn write_totals(connection: &Connection, rows: &[HourRow]) -> rusqlite::Result<()> {
    let mut upsert = connection.prepare_cached(
        "INSERT INTO totals (code, domain, clicks, humans, heads) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT DO UPDATE SET clicks = clicks + excluded.clicks,
             humans = humans + excluded.humans, heads = heads + excluded.heads",
    )?;
    for link in rows.chunk_by(|a, b| a.key == b.key) {
        let Some(LinkKey { code, domain }) = link.first().map(|row| &row.key) else { continue };
        let sum = |figure: fn(&HourRow) -> u64| link.iter().map(figure).sum::<u64>().cast_signed();
        upsert.execute(params![
            code.as_str(),
            domain.0,
            sum(|row| row.clicks),
            sum(|row| row.humans),
            sum(|row| row.heads),
        ])?;
    }
    Ok(())
}

fn hours(
    connection: &Connection,
    key: &LinkKey,
    from: i64,
    to: i64,
) -> rusqlite::Result<Vec<HourRow>> {
    let mut point = connection.prepare_cached(
        "SELECT clicks, humans, heads FROM hours WHERE hour = ?1 AND code = ?2 AND domain = ?3",
    )?;
    let mut leap =
        connection.prepare_cached("SELECT min(hour) FROM hours WHERE hour >= ?1 AND hour < ?2")?;
    let mut found = Vec::new();
    let mut hour = from;
    while hour < to {
        let row = point
            .query_row(params![hour, key.code.as_str(), key.domain.0], |row| {
                Ok(HourRow {
                    key: key.clone(),
                    hour,
                    clicks: row.get::<_, i64>(0)?.cast_unsigned(),
                    humans: row.get::<_, i64>(1)?.cast_unsigned(),
                    heads: row.get::<_, i64>(2)?.cast_unsigned(),
                })
            })
            .optional()?;
        hour += 1;
        if let Some(row) = row {
            found.push(row);
        } else {
            // Over all hours in which nothing was clicked.
            let next: Option<i64> = leap.query_row(params![hour, to], |row| row.get(0))?;
            let Some(next) = next else { break };
            hour = next;
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
