//! The pool of pre-generated codes, and leases of counter ranges.

use rusqlite::{OptionalExtension, params};
use shunt_domain::ports::{BoxFuture, CodePool, HighWater, Raised, Range, RangeLeases};
use shunt_domain::{Code, Deadline, Outcome, StoreError};

use super::SqliteStore;
use super::error::bad_value;
use super::readers::Lane;
use super::state::LinkState;
use super::writer::Tx;

/// The most codes in one row of the pool.
const ROW_CODES: usize = 1_000;

impl CodePool for SqliteStore {
    fn add_codes(
        &self,
        rows: Vec<Vec<Code>>,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<(), StoreError>> {
        Box::pin(self.writer().write(deadline, move |tx| {
            let mut insert = tx
                .connection
                .prepare_cached("INSERT INTO code_pool (amount, codes) VALUES (?1, ?2)")?;
            for chunk in rows.iter().flat_map(|row| row.chunks(ROW_CODES)) {
                let codes: Vec<&str> = chunk.iter().map(Code::as_str).collect();
                insert.execute(params![codes.len() as i64, codes.join(" ")])?;
            }
            Ok(())
        }))
    }

    fn claim_codes(
        &self,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Option<Vec<Code>>, StoreError>> {
        Box::pin(self.writer().write(deadline, |tx| {
            let codes: Option<String> = tx
                .connection
                .prepare_cached(
                    "DELETE FROM code_pool WHERE id = (SELECT min(id) FROM code_pool)
                     RETURNING codes",
                )?
                .query_row([], |row| row.get(0))
                .optional()?;
            let Some(codes) = codes else { return Ok(None) };
            codes
                .split(' ')
                .map(|code| Code::parse(code).map_err(|error| bad_value(0, error.to_string())))
                .collect::<Result<Vec<_>, _>>()
                .map(Some)
        }))
    }

    fn pool_size(&self, deadline: Deadline) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(self.readers().run(Lane::Scan, deadline, |db| {
            db.prepare_cached("SELECT coalesce(sum(amount), 0) FROM code_pool")?
                .query_row([], |row| row.get::<_, i64>(0).map(i64::cast_unsigned))
        }))
    }
}

/// Nobody can use more than there is; at least one value makes progress.
fn length(len: u64) -> i64 {
    i64::try_from(len).unwrap_or(i64::MAX).max(1)
}

fn leased(tx: &mut Tx<'_, LinkState>, start: i64, end: i64) -> Range {
    let range = Range { start: start.cast_unsigned(), end: end.cast_unsigned() };
    tx.state.leases_mut().insert(range.start, range.end);
    range
}

/// Takes from the lowest rest, if there is one.
fn rest(tx: &mut Tx<'_, LinkState>, len: u64) -> rusqlite::Result<Option<Range>> {
    let db = tx.connection;
    let rest: Option<(i64, i64)> = db
        .prepare_cached("SELECT start, stop FROM range_rests ORDER BY start LIMIT 1")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((start, stop)) = rest else { return Ok(None) };
    db.prepare_cached("DELETE FROM range_rests WHERE start = ?1")?.execute([start])?;
    let end = stop.min(start.saturating_add(length(len)));
    if end < stop {
        db.prepare_cached("INSERT INTO range_rests (start, stop) VALUES (?1, ?2)")?
            .execute([end, stop])?;
    }
    Ok(Some(leased(tx, start, end)))
}

fn high(tx: &Tx<'_, LinkState>) -> rusqlite::Result<i64> {
    tx.connection
        .prepare_cached("SELECT value FROM counters WHERE name = 'range_high'")?
        .query_row([], |row| row.get(0))
}

/// Takes from the rests first, else raises the high-water mark. `None`: the counter is used up.
fn lease(tx: &mut Tx<'_, LinkState>, len: u64) -> rusqlite::Result<Option<Range>> {
    if let Some(rest) = rest(tx, len)? {
        return Ok(Some(rest));
    }
    let high = high(tx)?;
    let end = high.saturating_add(length(len));
    if end == high {
        return Ok(None);
    }
    tx.connection
        .prepare_cached("UPDATE counters SET value = ?1 WHERE name = 'range_high'")?
        .execute([end])?;
    Ok(Some(leased(tx, high, end)))
}

/// Leases what another counter proposes, if the mark is not beyond its start.
fn raise(tx: &mut Tx<'_, LinkState>, proposed: Range) -> rusqlite::Result<Raised> {
    let bounds = (i64::try_from(proposed.start), i64::try_from(proposed.end));
    if let (Ok(start), Ok(end)) = bounds
        && start < end
    {
        let raised = tx
            .connection
            .prepare_cached(
                "UPDATE counters SET value = ?1 WHERE name = 'range_high' AND value <= ?2",
            )?
            .execute([end, start])?;
        if raised == 1 {
            leased(tx, start, end);
            return Ok(Raised::Yes);
        }
    }
    Ok(Raised::Beyond(high(tx)?.cast_unsigned()))
}

/// Notes a rest, if it is part of a lease that this process holds. Anything else was given back
/// already, or belongs to a life that is over: handing it out again could repeat a code.
fn give_back(tx: &mut Tx<'_, LinkState>, rest: Range) -> rusqlite::Result<()> {
    let held = tx.state.leases().range(..=rest.start).next_back();
    let Some((&start, &end)) = held.filter(|(_, end)| rest.end <= **end) else { return Ok(()) };
    if rest.start >= rest.end {
        return Ok(());
    }
    tx.connection
        .prepare_cached("INSERT INTO range_rests (start, stop) VALUES (?1, ?2)")?
        .execute([rest.start.cast_signed(), rest.end.cast_signed()])?;
    // What lies before and behind the rest stays leased.
    let leases = tx.state.leases_mut();
    leases.remove(&start);
    if start < rest.start {
        leases.insert(start, rest.start);
    }
    if rest.end < end {
        leases.insert(rest.end, end);
    }
    Ok(())
}

impl RangeLeases for SqliteStore {
    fn lease(&self, len: u64, deadline: Deadline) -> BoxFuture<'_, Outcome<Range, StoreError>> {
        Box::pin(async move {
            match self.writer().write(deadline, move |tx| lease(tx, len)).await {
                Outcome::Done(Some(range)) => Outcome::Done(range),
                Outcome::Done(None) => Outcome::Refused(StoreError::Unavailable(
                    "the counter of the range allocator is used up".to_owned(),
                )),
                Outcome::Refused(error) => Outcome::Refused(error),
                Outcome::Unknown(cause) => Outcome::Unknown(cause),
            }
        })
    }

    fn give_back(&self, rest: Range, deadline: Deadline) -> BoxFuture<'_, Outcome<(), StoreError>> {
        Box::pin(self.writer().write(deadline, move |tx| give_back(tx, rest)))
    }
}

impl HighWater for SqliteStore {
    fn take_rest(
        &self,
        len: u64,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Option<Range>, StoreError>> {
        Box::pin(self.writer().write(deadline, move |tx| rest(tx, len)))
    }

    fn raise(
        &self,
        proposed: Range,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Raised, StoreError>> {
        Box::pin(self.writer().write(deadline, move |tx| raise(tx, proposed)))
    }
}
