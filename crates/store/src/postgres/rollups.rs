//! Roll-ups of clicks on PostgreSQL.
//!
//! Invariants:
//! - rows, marks and ledger of a batch are one transaction, which locks the marks of its streams
//!   and looks at them first: a batch that holds anything counted before changes nothing;
//! - marks are merged runs, one row for each stream of events;
//! - rows are written in the order of their primary keys, so that batches wait for each other and
//!   never in a circle.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::join_all;
use shunt_domain::ports::{
    BootId, BoxFuture, HourRow, LedgerRow, NodeId, RollupBatch, RollupRefusal, RollupStore,
    SeqRange, Totals,
};
use shunt_domain::{Deadline, Lane, LinkKey, Outcome, StoreError};
use tokio_postgres::Row;

use super::connect::Guide;
use super::create::VALUES_ROWS;
use super::database::Database;
use super::error::{Failure, PostgresError, bad_value};
use super::options::PostgresOptions;
use super::row;
use super::session::{Param, Session};
use super::statements::{self, Rows};
use super::stats::PostgresStats;
use super::types::Micros;

/// Roll-ups in a PostgreSQL database, with connections of their own, so that counting never takes
/// one from a link. Cheap to clone; the last one to go ends its connections.
#[derive(Clone, Debug)]
pub struct PostgresRollups {
    database: Arc<Database>,
}

impl PostgresRollups {
    /// Opens the roll-ups of a database that [`super::migrate`] has prepared. The server need not
    /// be there yet.
    ///
    /// # Errors
    /// [`PostgresError::Options`].
    pub fn open(options: PostgresOptions) -> Result<Self, PostgresError> {
        Ok(Self { database: Arc::new(Database::start(options, None)?) })
    }

    /// The same on a database whose primary moves: every connection leads where the guide says.
    ///
    /// # Errors
    /// [`PostgresError::Options`].
    pub(crate) fn guided(
        options: PostgresOptions,
        guide: Arc<dyn Guide>,
    ) -> Result<Self, PostgresError> {
        Ok(Self { database: Arc::new(Database::start(options, Some(guide))?) })
    }

    /// Takes no more work, lets batches that are under way come to their end (five seconds at
    /// most), and ends all connections. Blocks.
    pub fn close(&self) {
        self.database.close();
    }

    /// Figures.
    pub fn stats(&self) -> &PostgresStats {
        &self.database.stats
    }
}

/// A stream of events in the order of the table's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Stream {
    lane: i16,
    node: i64,
    boot: i64,
}

impl Stream {
    fn of(range: &SeqRange) -> Self {
        Self {
            lane: i16::from(range.lane.number()),
            node: range.node.0.cast_signed(),
            boot: range.boot.0.cast_signed(),
        }
    }

    fn read(row: &Row) -> Result<Self, StoreError> {
        Ok(Self { lane: row::get(row, 0)?, node: row::get(row, 1)?, boot: row::get(row, 2)? })
    }

    fn lane(self) -> Result<Lane, StoreError> {
        let number = u8::try_from(self.lane).ok();
        number.and_then(Lane::new).ok_or_else(|| bad_value(format_args!("lane {}", self.lane)))
    }
}

/// Merged, sorted runs of numbers: first to last, both inclusive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Runs(BTreeMap<u64, u64>);

impl Runs {
    fn read(row: &Row, at: usize) -> Result<Self, StoreError> {
        let numbers: Vec<i64> = row::get(row, at)?;
        let (pairs, rest) = numbers.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(bad_value("a run has no end"));
        }
        Ok(Self(pairs.iter().map(|[a, b]| (a.cast_unsigned(), b.cast_unsigned())).collect()))
    }

    fn write(&self) -> Vec<i64> {
        self.0.iter().flat_map(|(a, b)| [a.cast_signed(), b.cast_signed()]).collect()
    }

    /// The parts of `first..=last` that are in here.
    fn overlaps(&self, first: u64, last: u64) -> impl Iterator<Item = (u64, u64)> {
        let from = self.0.range(..=first).next_back().map_or(first, |(start, _)| *start);
        let near = self.0.range(from..).take_while(move |(start, _)| **start <= last);
        near.filter(move |(_, end)| **end >= first)
            .map(move |(start, end)| ((*start).max(first), (*end).min(last)))
    }

    /// Adds a run that overlaps none, merged with those that it touches.
    fn add(&mut self, mut first: u64, mut last: u64) {
        let before = self.0.range(..first).next_back().map(|(start, end)| (*start, *end));
        if let Some((start, end)) = before
            && end.checked_add(1) == Some(first)
        {
            first = start;
        }
        if let Some(after) = last.checked_add(1)
            && let Some(end) = self.0.remove(&after)
        {
            last = end;
        }
        self.0.insert(first, last);
    }

    fn count(&self) -> i64 {
        let sum: u64 = self.0.iter().map(|(first, last)| last - first + 1).sum();
        sum.cast_signed()
    }
}

/// Locks the marks of these streams, which are sorted, and reads them.
async fn lock_marks(
    session: &Session,
    streams: &[Stream],
) -> Result<BTreeMap<Stream, Runs>, Failure> {
    let of_one_lane = async |streams: &[Stream]| {
        let lane = streams.first().map(|stream| stream.lane);
        let nodes: Vec<i64> = streams.iter().map(|stream| stream.node).collect();
        let boots: Vec<i64> = streams.iter().map(|stream| stream.boot).collect();
        session.read(&statements::MARKS_LOCK, &[&lane, &nodes, &boots]).await
    };
    // All are sent before an answer is waited for, in the order of lanes.
    let lanes = streams.chunk_by(|a, b| a.lane == b.lane).map(of_one_lane);
    let mut marks = BTreeMap::new();
    for row in join_all(lanes).await.into_iter().collect::<Result<Vec<_>, _>>()?.iter().flatten() {
        marks.insert(Stream::read(row)?, Runs::read(row, 3)?);
    }
    Ok(marks)
}

/// Writes rows by statements of at most [`VALUES_ROWS`].
async fn write_rows(
    session: &Session,
    statement: &Rows,
    rows: &[Vec<Param<'_>>],
) -> Result<(), Failure> {
    for chunk in rows.chunks(VALUES_ROWS) {
        let params: Vec<Param<'_>> = chunk.iter().flatten().copied().collect();
        session.read_made(&statement.sql(chunk.len()), &statement.typed(&params)).await?;
    }
    Ok(())
}

/// A row of `hours`, or of `totals` without its hour.
struct Sum<'a> {
    lane: i16,
    code: &'a str,
    domain: i64,
    hour: i64,
    figures: [i64; 3],
}

impl<'a> Sum<'a> {
    /// The rows of a batch in the order of the table's key, each key once. `hour` says which of
    /// them are one row.
    fn all(rows: &'a [HourRow], hour: impl Fn(&HourRow) -> i64) -> Vec<Self> {
        let mut sums: Vec<Self> = rows
            .iter()
            .map(|row| Self {
                lane: i16::from(
                    Lane::of(row.key.domain, row.key.code.as_str().as_bytes()).number(),
                ),
                code: row.key.code.as_str(),
                domain: i64::from(row.key.domain.0),
                hour: hour(row),
                figures: [row.clicks, row.humans, row.heads].map(u64::cast_signed),
            })
            .collect();
        sums.sort_unstable_by(|a, b| a.key().cmp(&b.key()));
        sums.dedup_by(|next, sum| {
            let same = next.key() == sum.key();
            if same {
                for (figure, more) in sum.figures.iter_mut().zip(next.figures) {
                    *figure += more;
                }
            }
            same
        });
        sums
    }

    fn key(&self) -> (i16, &str, i64, i64) {
        (self.lane, self.code, self.domain, self.hour)
    }

    fn params(&self, with_hour: bool) -> Vec<Param<'_>> {
        let mut params: Vec<Param<'_>> = vec![&self.lane, &self.code, &self.domain];
        if with_hour {
            params.push(&self.hour);
        }
        params.extend(self.figures.iter().map(|figure| figure as Param<'_>));
        params
    }
}

/// A row of `ledger`.
struct Word {
    node: i64,
    boot: i64,
    served: i64,
    lost: i64,
    at: Micros,
    closed: bool,
    unknown: bool,
}

impl Word {
    /// What a batch says in the end of each boot, in the order of the table's key.
    fn all(ledger: &[LedgerRow]) -> Vec<Self> {
        let mut last: BTreeMap<(i64, i64), &LedgerRow> = BTreeMap::new();
        for row in ledger {
            let key = (row.node.0.cast_signed(), row.boot.0.cast_signed());
            let known = last.entry(key).or_insert(row);
            if (row.closed, row.served) >= (known.closed, known.served) {
                *known = row;
            }
        }
        let word = |((node, boot), row): ((i64, i64), &LedgerRow)| Self {
            node,
            boot,
            served: row.served.cast_signed(),
            lost: row.lost.cast_signed(),
            at: Micros::first_of(row.at),
            closed: row.closed,
            unknown: row.unknown,
        };
        last.into_iter().map(word).collect()
    }

    fn params(&self) -> Vec<Param<'_>> {
        vec![
            &self.node,
            &self.boot,
            &self.served,
            &self.lost,
            &self.at,
            &self.closed,
            &self.unknown,
        ]
    }
}

/// Applies a batch, or answers which of its runs are counted already and changes nothing.
async fn apply(
    session: &Session,
    batch: &RollupBatch,
) -> Result<Result<(), Vec<SeqRange>>, Failure> {
    if batch.marks.is_empty() && batch.rows.is_empty() && batch.ledger.is_empty() {
        return Ok(Ok(()));
    }
    session.open().await?;
    let mut streams: Vec<Stream> = batch.marks.iter().map(Stream::of).collect();
    streams.sort_unstable();
    streams.dedup();
    if !streams.is_empty() {
        let mut marks = lock_marks(session, &streams).await?;
        if marks.len() < streams.len() {
            let new: Vec<Vec<Param<'_>>> = streams
                .iter()
                .filter(|stream| !marks.contains_key(stream))
                .map(|stream| -> Vec<Param<'_>> { vec![&stream.lane, &stream.node, &stream.boot] })
                .collect();
            write_rows(session, &statements::MARKS_OPEN, &new).await?;
            // Somebody else may have opened one and counted on it meanwhile.
            marks = lock_marks(session, &streams).await?;
        }
        let counted = add_marks(&mut marks, &batch.marks);
        if !counted.is_empty() {
            session.roll_back().await;
            return Ok(Err(counted));
        }
        let written: Vec<(Stream, Vec<i64>, i64)> =
            marks.into_iter().map(|(stream, runs)| (stream, runs.write(), runs.count())).collect();
        let rows: Vec<Vec<Param<'_>>> = written
            .iter()
            .map(|(stream, runs, counted)| -> Vec<Param<'_>> {
                vec![&stream.lane, &stream.node, &stream.boot, runs, counted]
            })
            .collect();
        write_rows(session, &statements::MARKS_SET, &rows).await?;
    }
    let hours = Sum::all(&batch.rows, |row| row.hour);
    let rows: Vec<Vec<Param<'_>>> = hours.iter().map(|sum| sum.params(true)).collect();
    write_rows(session, &statements::HOURS_ADD, &rows).await?;
    let totals = Sum::all(&batch.rows, |_| 0);
    let rows: Vec<Vec<Param<'_>>> = totals.iter().map(|sum| sum.params(false)).collect();
    write_rows(session, &statements::TOTALS_ADD, &rows).await?;
    let words = Word::all(&batch.ledger);
    let rows: Vec<Vec<Param<'_>>> = words.iter().map(Word::params).collect();
    write_rows(session, &statements::LEDGER_SAY, &rows).await?;
    session.commit().await?;
    Ok(Ok(()))
}

/// Adds a batch's runs to the marks; answers those parts that were there before.
fn add_marks(marks: &mut BTreeMap<Stream, Runs>, batch: &[SeqRange]) -> Vec<SeqRange> {
    let mut counted = Vec::new();
    for mark in batch {
        if let Some(runs) = marks.get(&Stream::of(mark)) {
            let overlaps = runs.overlaps(mark.first, mark.last);
            counted.extend(overlaps.map(|(first, last)| SeqRange { first, last, ..*mark }));
        }
    }
    if counted.is_empty() {
        for mark in batch {
            marks.entry(Stream::of(mark)).or_default().add(mark.first, mark.last);
        }
    }
    counted
}

fn totals(row: &Row, from: usize) -> Result<Totals, StoreError> {
    Ok(Totals {
        clicks: row::unsigned(row, from)?,
        humans: row::unsigned(row, from + 1)?,
        heads: row::unsigned(row, from + 2)?,
    })
}

/// Lane and link as parameters.
fn lane_of(key: &LinkKey) -> (i16, &str, i64) {
    let code = key.code.as_str();
    let lane = Lane::of(key.domain, code.as_bytes()).number();
    (i16::from(lane), code, i64::from(key.domain.0))
}

impl RollupStore for PostgresRollups {
    fn apply(
        &self,
        batch: RollupBatch,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<(), RollupRefusal>> {
        Box::pin(async move {
            let applied = self
                .database
                .write(deadline, batch, |batch, session| Box::pin(apply(session, batch)));
            match applied.await {
                Outcome::Done(Ok(())) => Outcome::Done(()),
                Outcome::Done(Err(counted)) => Outcome::Refused(RollupRefusal::Counted(counted)),
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
        Box::pin(async move {
            let params: [Param<'_>; 1] = [&node.0.cast_signed()];
            let rows = self.database.readers.query(&statements::MARKS, &params, deadline).await?;
            let mut marks = Vec::new();
            for row in &rows {
                let stream = Stream::read(row)?;
                let (boot, lane) = (BootId(stream.boot.cast_unsigned()), stream.lane()?);
                let runs = Runs::read(row, 3)?;
                let range = |(first, last)| SeqRange { node, boot, lane, first, last };
                marks.extend(runs.0.into_iter().map(range));
            }
            marks.sort_unstable();
            Ok(marks)
        })
    }

    fn totals<'a>(
        &'a self,
        key: &'a LinkKey,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Totals, StoreError>> {
        Box::pin(async move {
            let (lane, code, domain) = lane_of(key);
            let params: [Param<'_>; 3] = [&lane, &code, &domain];
            let readers = &self.database.readers;
            let rows = readers.query(&statements::CLICK_TOTALS, &params, deadline).await?;
            rows.first().map_or(Ok(Totals::default()), |row| totals(row, 0))
        })
    }

    fn hours<'a>(
        &'a self,
        key: &'a LinkKey,
        from: i64,
        to: i64,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Vec<HourRow>, StoreError>> {
        Box::pin(async move {
            let (lane, code, domain) = lane_of(key);
            let params: [Param<'_>; 5] = [&lane, &code, &domain, &from, &to];
            let readers = &self.database.readers;
            let rows = readers.query(&statements::CLICK_HOURS, &params, deadline).await?;
            let hour = |row: &Row| {
                let Totals { clicks, humans, heads } = totals(row, 1)?;
                let hour = row::get(row, 0)?;
                Ok(HourRow { key: key.clone(), hour, clicks, humans, heads })
            };
            rows.iter().map(hour).collect()
        })
    }

    fn ledger(&self, deadline: Deadline) -> BoxFuture<'_, Result<Vec<LedgerRow>, StoreError>> {
        Box::pin(async move {
            let readers = &self.database.readers;
            let (counted, said) = tokio::join!(
                readers.query(&statements::COUNTED, &[], deadline),
                readers.query(&statements::LEDGER, &[], deadline)
            );
            let mut sums: BTreeMap<(u64, u64), u64> = BTreeMap::new();
            for row in &counted? {
                let boot = (row::unsigned(row, 0)?, row::unsigned(row, 1)?);
                sums.insert(boot, row::unsigned(row, 2)?);
            }
            let mut ledger = Vec::new();
            for row in &said? {
                let (node, boot) = (row::unsigned(row, 0)?, row::unsigned(row, 1)?);
                ledger.push(LedgerRow {
                    node: NodeId(node),
                    boot: BootId(boot),
                    served: row::unsigned(row, 2)?,
                    lost: row::unsigned(row, 3)?,
                    counted: sums.get(&(node, boot)).copied().unwrap_or(0),
                    at: row::get::<Micros>(row, 4)?.timestamp(),
                    closed: row::get(row, 5)?,
                    unknown: row::get(row, 6)?,
                });
            }
            ledger.sort_unstable_by_key(|row: &LedgerRow| (row.node, row.boot));
            Ok(ledger)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(pairs: &[(u64, u64)]) -> Runs {
        Runs(pairs.iter().copied().collect())
    }

    #[test]
    fn runs_that_touch_become_one() {
        let mut all = Runs::default();
        for (first, last) in [(0, 4), (10, 14), (15, 15), (9, 9), (6, 7), (5, 5)] {
            all.add(first, last);
        }
        assert_eq!(all, runs(&[(0, 7), (9, 15)]));
        all.add(8, 8);
        assert_eq!((all.count(), all), (16, runs(&[(0, 15)])));
        let mut end = runs(&[(u64::MAX - 1, u64::MAX)]);
        end.add(u64::MAX - 2, u64::MAX - 2);
        assert_eq!(end, runs(&[(u64::MAX - 2, u64::MAX)]));
    }

    #[test]
    fn overlaps_are_what_is_in_both() {
        let all = runs(&[(10, 19), (30, 39)]);
        let overlaps = |first, last| all.overlaps(first, last).collect::<Vec<_>>();
        assert_eq!(overlaps(0, 10), [(10, 10)]);
        assert_eq!(overlaps(19, 25), [(19, 19)]);
        assert_eq!(overlaps(12, 13), [(12, 13)]);
        assert_eq!(overlaps(15, 35), [(15, 19), (30, 35)]);
        assert_eq!(overlaps(0, 100), [(10, 19), (30, 39)]);
        assert_eq!(overlaps(20, 29), []);
        assert_eq!(overlaps(40, 99), []);
        assert_eq!(overlaps(0, 9), []);
    }
}
