//! The pool of pre-generated codes, and leases of counter ranges.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use shunt_domain::ports::{BoxFuture, CodePool, HighWater, Raised, Range, RangeLeases};
use shunt_domain::{Code, Deadline, Outcome, StoreError};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::PostgresStore;
use super::error::{Failure, bad_value};
use super::pool::lock;
use super::row;
use super::session::{Param, Session};
use super::statements;
use super::store::missing;
use crate::leases::let_go;

/// The most codes in one row of the pool.
const ROW_CODES: usize = 1_000;

/// How many buckets rows are spread over: so many processes can take rows without meeting.
const BUCKETS: usize = 16;

/// Up to this many rows are one `INSERT … VALUES`; more go by COPY.
const ROWS: usize = 10;

/// The bucket where the next row goes, or the next claim begins.
fn next_bucket() -> i16 {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    // Processes that start together begin at different places.
    let from = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(std::process::id() as usize);
    (from % BUCKETS) as i16
}

/// A row as it is stored.
struct PoolRow {
    bucket: i16,
    amount: i32,
    codes: String,
}

impl PoolRow {
    fn new(codes: &[Code]) -> Self {
        let texts: Vec<&str> = codes.iter().map(Code::as_str).collect();
        // At most ROW_CODES.
        Self { bucket: next_bucket(), amount: texts.len() as i32, codes: texts.join(" ") }
    }

    fn params(&self) -> [Param<'_>; 3] {
        [&self.bucket, &self.amount, &self.codes]
    }
}

async fn add(session: &Session, rows: &[PoolRow]) -> Result<(), Failure> {
    if rows.is_empty() {
        return Ok(());
    }
    session.open().await?;
    let params = rows.iter().map(PoolRow::params);
    if rows.len() > ROWS {
        let types = [Type::INT2, Type::INT4, Type::TEXT];
        session.copy(&statements::POOL_COPY, &types, params.map(Vec::from)).await?;
    } else {
        let params: Vec<Param<'_>> = params.flatten().collect();
        let sql = statements::POOL_ADD.sql(rows.len());
        session.read_made(&sql, &statements::POOL_ADD.typed(&params)).await?;
    }
    session.commit().await
}

async fn claim(session: &Session) -> Result<Option<Vec<Code>>, Failure> {
    if let Some(codes) = claim_from(session, next_bucket()).await? {
        return Ok(Some(codes));
    }
    let rows = session.read(&statements::POOL_BUCKETS, &[]).await?;
    for row in &rows {
        // A bucket whose rows are all being taken is as good as empty.
        if let Some(codes) = claim_from(session, row::get(row, 0)?).await? {
            return Ok(Some(codes));
        }
    }
    Ok(None)
}

async fn claim_from(session: &Session, bucket: i16) -> Result<Option<Vec<Code>>, Failure> {
    let rows = session.change(&statements::POOL_CLAIM, &[&bucket]).await?;
    let Some(row) = rows.first() else {
        session.nothing_happened();
        return Ok(None);
    };
    let codes = row::get::<&str>(row, 0)?.split(' ');
    let codes = codes.map(|code| Code::parse(code).map_err(bad_value));
    Ok(Some(codes.collect::<Result<_, _>>()?))
}

impl CodePool for PostgresStore {
    fn add_codes(
        &self,
        rows: Vec<Vec<Code>>,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<(), StoreError>> {
        let rows: Vec<PoolRow> =
            rows.iter().flat_map(|row| row.chunks(ROW_CODES)).map(PoolRow::new).collect();
        Box::pin(
            self.database().write(deadline, rows, |rows, session| Box::pin(add(session, rows))),
        )
    }

    fn claim_codes(
        &self,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Option<Vec<Code>>, StoreError>> {
        Box::pin(self.database().write(deadline, (), |(), session| Box::pin(claim(session))))
    }

    fn pool_size(&self, deadline: Deadline) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(async move {
            let rows = self.database().readers.query(&statements::POOL_SIZE, &[], deadline).await?;
            row::unsigned(rows.first().ok_or_else(|| missing("a sum"))?, 0)
        })
    }
}

/// Ranges that this process holds: start and end.
type Leases = Arc<Mutex<BTreeMap<u64, u64>>>;

/// Nobody can use more than there is; at least one value makes progress.
fn length(len: u64) -> i64 {
    i64::try_from(len).unwrap_or(i64::MAX).max(1)
}

/// Notes the range in a row as held by this process.
fn leased(leases: &Leases, row: &Row) -> Result<Range, Failure> {
    let range = Range { start: row::unsigned(row, 0)?, end: row::unsigned(row, 1)? };
    lock(leases).insert(range.start, range.end);
    Ok(range)
}

/// Takes from the rests first, else raises the high-water mark. `None`: the counter is used up.
async fn lease(session: &Session, args: &(Leases, u64)) -> Result<Option<Range>, Failure> {
    if let Some(rest) = rest(session, args).await? {
        return Ok(Some(rest));
    }
    let (leases, len) = args;
    let rows = session.change(&statements::RANGE_RAISE, &[&length(*len)]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    leased(leases, row).map(Some)
}

impl RangeLeases for PostgresStore {
    fn lease(&self, len: u64, deadline: Deadline) -> BoxFuture<'_, Outcome<Range, StoreError>> {
        let args = (Arc::clone(&self.inner.leases), len);
        Box::pin(async move {
            let leased = self
                .database()
                .write(deadline, args, |args, session| Box::pin(lease(session, args)));
            match leased.await {
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
        Box::pin(async move {
            // First out of memory, so that two who give the same back do it once.
            if !let_go(&mut lock(&self.inner.leases), rest) {
                return Outcome::Done(());
            }
            let given = self.database().write(deadline, rest, |rest, session| {
                Box::pin(async move {
                    let (start, end) = (rest.start.cast_signed(), rest.end.cast_signed());
                    session.change(&statements::RANGE_GIVE_BACK, &[&start, &end]).await.map(drop)
                })
            });
            let given = given.await;
            if matches!(given, Outcome::Refused(_)) {
                lock(&self.inner.leases).insert(rest.start, rest.end);
            }
            given
        })
    }
}

/// Takes from the lowest rest, if there is one.
async fn rest(session: &Session, (leases, len): &(Leases, u64)) -> Result<Option<Range>, Failure> {
    let rows = session.change(&statements::RANGE_REST, &[&length(*len)]).await?;
    let Some(row) = rows.first() else {
        session.nothing_happened();
        return Ok(None);
    };
    leased(leases, row).map(Some)
}

async fn raise(session: &Session, (leases, proposed): &(Leases, Range)) -> Result<Raised, Failure> {
    let bounds = (i64::try_from(proposed.start), i64::try_from(proposed.end));
    if let (Ok(start), Ok(end)) = bounds
        && start < end
    {
        let raised = session.change(&statements::RANGE_CONFIRM, &[&start, &end]).await?;
        if !raised.is_empty() {
            lock(leases).insert(proposed.start, proposed.end);
            return Ok(Raised::Yes);
        }
        session.nothing_happened();
    }
    let rows = session.read(&statements::RANGE_HIGH, &[]).await?;
    let row = rows.first().ok_or_else(|| bad_value("the counter of ranges is gone"))?;
    Ok(Raised::Beyond(row::unsigned(row, 0)?))
}

impl HighWater for PostgresStore {
    fn take_rest(
        &self,
        len: u64,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Option<Range>, StoreError>> {
        let args = (Arc::clone(&self.inner.leases), len);
        Box::pin(
            self.database().write(deadline, args, |args, session| Box::pin(rest(session, args))),
        )
    }

    fn raise(
        &self,
        proposed: Range,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Raised, StoreError>> {
        let args = (Arc::clone(&self.inner.leases), proposed);
        Box::pin(
            self.database().write(deadline, args, |args, session| Box::pin(raise(session, args))),
        )
    }
}
