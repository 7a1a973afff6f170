//! Lists, searches and exports: keyset pages with a bounded amount of work each.
//!
//! The server is asked for a page by the way it prefers, which it knows from its statistics: along
//! the order's index, or by way of the words, tags or owner and then sorted. When that takes longer
//! than its budget (a word that many rows have, but none of those at the head of the list), it is
//! stopped, and from there on the list is read in windows: so many rows of the order's index at a
//! time, answered short when the budget is used up. The cursor says that windows are the way.

use std::time::Instant;

use shunt_domain::ports::{BoxFuture, ExportPage, LinkQuery, ListError, ListQuery, Page, Sort};
use shunt_domain::{Code, Deadline, DomainId, Link, LinkKey, StoreError, Stored};

use super::PostgresStore;
use super::error::Failure;
use super::options::ListBudget;
use super::row;
use super::session::{Param, Session};
use super::statements::{self, Statement};
use super::types::{Micros, like};
use crate::cursor::Shape;
use crate::text::Needle;

/// The most links in a page.
const MAX_LIMIT: u32 = 1_000;

/// Up to this many live links are counted, beyond that their number is estimated.
const COUNTED: i64 = 10_000;
/// The same where there is no estimate yet.
const COUNTED_WITHOUT_STATISTICS: i64 = 1_000_000;

/// A row's place in every order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    key: LinkKey,
    place: Micros,
}

/// Where a page goes on: behind a position, in windows or not.
pub(crate) type Next = (Position, bool);

/// Rows with their positions, and where the next ones begin; `None` at the end.
#[derive(Debug)]
pub(crate) struct Placed<T> {
    pub(crate) rows: Vec<(Position, T)>,
    pub(crate) next: Option<Next>,
}

impl<T> Default for Placed<T> {
    fn default() -> Self {
        Self { rows: Vec::new(), next: None }
    }
}

impl<T> Placed<T> {
    /// The rows alone, and the cursor.
    pub(crate) fn page(self, shape: &Shape) -> (Vec<T>, Option<String>) {
        let next = self.next.map(|(position, in_windows)| position.write(shape, in_windows));
        (self.rows.into_iter().map(|(_, row)| row).collect(), next)
    }
}

impl Position {
    const LEN: usize = 1 + 8 + 4;

    fn of(row: &tokio_postgres::Row) -> Result<Self, StoreError> {
        Ok(Self { key: row::key(row)?, place: row::created(row)? })
    }

    /// The key of the row.
    pub(crate) const fn key(&self) -> &LinkKey {
        &self.key
    }

    /// Which of two rows comes first in an order.
    pub(crate) fn compare(&self, other: &Self, sort: Sort) -> std::cmp::Ordering {
        let by_creation = || (self.place, &self.key).cmp(&(other.place, &other.key));
        match sort {
            Sort::CreatedAsc => by_creation(),
            Sort::CreatedDesc => by_creation().reverse(),
            Sort::CodeAsc => self.key.cmp(&other.key),
            Sort::CodeDesc => other.key.cmp(&self.key),
        }
    }

    pub(crate) fn write(&self, shape: &Shape, in_windows: bool) -> String {
        let mut bytes = vec![u8::from(in_windows)];
        bytes.extend_from_slice(&self.place.0.to_be_bytes());
        bytes.extend_from_slice(&self.key.domain.0.to_be_bytes());
        bytes.extend_from_slice(self.key.code.as_str().as_bytes());
        shape.write(&bytes)
    }

    /// The position of a cursor, and whether windows are the way to go on.
    pub(crate) fn read(shape: &Shape, cursor: &str) -> Option<(Self, bool)> {
        let bytes = shape.read(cursor)?;
        let (head, code) = bytes.split_at_checked(Self::LEN)?;
        let (place, domain) = head.get(1..)?.split_at_checked(8)?;
        let code = Code::parse(str::from_utf8(code).ok()?).ok()?;
        let domain = DomainId(u32::from_be_bytes(domain.try_into().ok()?));
        let place = Micros(i64::from_be_bytes(place.try_into().ok()?));
        let in_windows = match head.first()? {
            0 => false,
            1 => true,
            _ => return None,
        };
        Some((Self { key: LinkKey::new(domain, code), place }, in_windows))
    }
}

/// A position as three parameters: code, domain, place.
#[derive(Clone, Debug, Default)]
struct Bound<'a> {
    code: Option<&'a str>,
    domain: Option<i64>,
    place: Option<Micros>,
}

impl<'a> From<Option<&'a Position>> for Bound<'a> {
    fn from(position: Option<&'a Position>) -> Self {
        Self {
            code: position.map(|position| position.key.code.as_str()),
            domain: position.map(|position| i64::from(position.key.domain.0)),
            place: position.map(|position| position.place),
        }
    }
}

/// A query, ready to run.
struct Plan {
    query: ListQuery,
    /// The pattern of the text, if one is looked for.
    pattern: Option<String>,
    limit: usize,
    start: Option<Position>,
    in_windows: bool,
    budget: ListBudget,
    deadline: Deadline,
}

impl Plan {
    fn new(query: ListQuery, start: Option<Next>, budget: ListBudget, deadline: Deadline) -> Self {
        let needle = query.text.as_deref().map(Needle::new);
        let in_windows = start.as_ref().is_some_and(|(_, in_windows)| *in_windows);
        let start = start.map(|(position, _)| position);
        let limit = query.limit.clamp(1, MAX_LIMIT) as usize;
        let pattern = needle.map(|needle| like(needle.as_str()));
        Self { query, pattern, limit, start, in_windows, budget, deadline }
    }

    /// Whether no row can be what is looked for: words are stored line by line.
    fn finds_nothing(&self) -> bool {
        self.query.text.as_deref().is_some_and(|text| text.contains('\n'))
    }

    /// Whether an index leads along the list without rows that are not asked for.
    fn is_along_an_index(&self) -> bool {
        let ListQuery { owner, domain, tag, text, sort, .. } = &self.query;
        let by_creation = matches!(sort, Sort::CreatedDesc | Sort::CreatedAsc);
        tag.is_none()
            && text.is_none()
            && match (owner, domain) {
                (None, None) => true,
                (Some(_), None) => by_creation,
                (None, Some(domain)) => by_creation && *domain != DomainId::DEFAULT,
                (Some(_), Some(_)) => false,
            }
    }

    const fn statements(&self) -> (&'static Statement, &'static Statement) {
        match self.query.sort {
            Sort::CreatedDesc => (&statements::LIST_CREATED_DESC, &statements::WINDOW_CREATED_DESC),
            Sort::CreatedAsc => (&statements::LIST_CREATED_ASC, &statements::WINDOW_CREATED_ASC),
            Sort::CodeAsc => (&statements::LIST_CODE_ASC, &statements::WINDOW_CODE_ASC),
            Sort::CodeDesc => (&statements::LIST_CODE_DESC, &statements::WINDOW_CODE_DESC),
        }
    }

    /// The rows behind one position, up to another one.
    async fn rows(
        &self,
        session: &Session,
        behind: Option<&Position>,
        until: Option<&Position>,
        limit: usize,
    ) -> Result<Vec<tokio_postgres::Row>, super::error::Fault> {
        let owner = self.query.owner.map(|owner| owner.0.cast_signed());
        let domain = self.query.domain.map(|domain| i64::from(domain.0));
        let tag = self.query.tag.as_ref().map(|tag| tag.as_str());
        let (behind, until) = (Bound::from(behind), Bound::from(until));
        let limit = limit as i64;
        let params: [Param<'_>; 11] = [
            &owner,
            &domain,
            &tag,
            &self.pattern,
            &behind.code,
            &behind.domain,
            &behind.place,
            &until.code,
            &until.domain,
            &until.place,
            &limit,
        ];
        session.try_read(self.statements().0, &params).await
    }

    async fn page(&self, session: &Session) -> Result<Placed<Link>, Failure> {
        let left = self.deadline.left(Instant::now());
        let trying = !self.in_windows && (self.is_along_an_index() || !self.budget.time.is_zero());
        // A list along an index has the whole deadline: there is no better way.
        let first = if self.is_along_an_index() { left } else { left.min(self.budget.time) };
        if trying {
            limit_time(session, first).await?;
            let start = self.start.as_ref();
            match self.rows(session, start, None, self.limit + 1).await {
                Ok(rows) => return Ok(self.whole_page(&rows)?),
                Err(fault) if fault.is_timeout() && !self.is_along_an_index() => {
                    session.roll_back().await;
                }
                Err(fault) => return Err(Failure::harmless(&fault)),
            }
        }
        self.windows(session).await
    }

    /// The page that these rows make, of which there is one more than the page takes if there is
    /// a next one.
    fn whole_page(&self, rows: &[tokio_postgres::Row]) -> Result<Placed<Link>, StoreError> {
        let mut page = Placed::default();
        for row in rows.iter().take(self.limit) {
            page.rows.push((Position::of(row)?, row::link(row)?));
        }
        if let (true, Some(last)) = (rows.len() > self.limit, rows.get(self.limit - 1)) {
            page.next = Some((Position::of(last)?, false));
        }
        Ok(page)
    }

    /// Reads window by window until the page is full or the budget used up.
    async fn windows(&self, session: &Session) -> Result<Placed<Link>, Failure> {
        limit_time(session, self.deadline.left(Instant::now())).await?;
        let over = Instant::now() + self.budget.scan_time;
        let mut page = Placed::default();
        let mut behind = self.start.clone();
        loop {
            let end = self.window(session, behind.as_ref()).await?;
            let wanted = self.limit - page.rows.len();
            let rows = self.rows(session, behind.as_ref(), end.as_ref(), wanted + 1).await;
            let rows = rows.map_err(|fault| Failure::harmless(&fault))?;
            for row in rows.iter().take(wanted) {
                page.rows.push((Position::of(row)?, row::link(row)?));
            }
            if let (true, Some(last)) = (rows.len() > wanted, rows.get(wanted.wrapping_sub(1))) {
                page.next = Some((Position::of(last)?, true));
                return Ok(page);
            }
            // At the last row of the table there is no next window.
            let Some(end) = end else { return Ok(page) };
            if page.rows.len() == self.limit || Instant::now() >= over {
                page.next = Some((end, true));
                return Ok(page);
            }
            behind = Some(end);
        }
    }

    /// The last row of the window behind a row; `None` when the table ends in it.
    async fn window(
        &self,
        session: &Session,
        behind: Option<&Position>,
    ) -> Result<Option<Position>, Failure> {
        let behind = Bound::from(behind);
        let last = i64::from(self.budget.window.max(1)) - 1;
        let params: [Param<'_>; 4] = [&behind.code, &behind.domain, &behind.place, &last];
        let rows = session.read(self.statements().1, &params).await?;
        Ok(rows.first().map(Position::of).transpose()?)
    }
}

/// Opens a transaction in which no statement takes longer than `time`.
async fn limit_time(session: &Session, time: std::time::Duration) -> Result<(), Failure> {
    // 0 would be no limit at all.
    let millis = time.as_millis().clamp(1, 2_000_000_000).to_string();
    session.begin(&statements::TIME_LIMIT, &[&millis]).await.map(drop)
}

/// What an export is asked for: where to begin, how many rows, until when.
struct Export {
    start: Option<Position>,
    limit: usize,
    deadline: Deadline,
}

async fn export(session: &Session, export: &Export) -> Result<Placed<Stored>, Failure> {
    limit_time(session, export.deadline.left(Instant::now())).await?;
    let Bound { code, domain, place } = Bound::from(export.start.as_ref());
    let rows = export.limit as i64 + 1;
    let rows = session.read(&statements::EXPORT, &[&code, &domain, &place, &rows]).await?;
    let next = match rows.get(export.limit - 1) {
        Some(last) if rows.len() > export.limit => Some((Position::of(last)?, false)),
        _ => None,
    };
    let page = rows.iter().take(export.limit);
    let page = page.map(|row| Ok((Position::of(row)?, row::stored(row)?)));
    Ok(Placed { rows: page.collect::<Result<_, StoreError>>()?, next })
}

/// Where a list is asked to go on.
pub(crate) fn start(shape: &Shape, cursor: Option<&str>) -> Result<Option<Next>, ListError> {
    let read = |cursor| Position::read(shape, cursor).ok_or(ListError::BadCursor);
    cursor.map(read).transpose()
}

/// The shape of a list's cursors.
pub(crate) fn shape(query: &ListQuery) -> Shape {
    Shape::list(query, query.text.as_deref().map(Needle::new).as_ref())
}

impl PostgresStore {
    /// A page of a list with the positions of its rows; the cursor in the query is not looked at.
    pub(crate) async fn placed_list(
        &self,
        query: ListQuery,
        start: Option<Next>,
        deadline: Deadline,
    ) -> Result<Placed<Link>, StoreError> {
        let plan = Plan::new(query, start, self.database().options.list_budget, deadline);
        if plan.finds_nothing() {
            return Ok(Placed::default());
        }
        let page =
            self.database().scan(deadline, plan, |plan, session| Box::pin(plan.page(session)));
        page.await
    }

    /// A page of an export with the positions of its rows.
    pub(crate) async fn placed_export(
        &self,
        start: Option<Next>,
        limit: u32,
        deadline: Deadline,
    ) -> Result<Placed<Stored>, StoreError> {
        let limit = limit.clamp(1, MAX_LIMIT) as usize;
        let args = Export { start: start.map(|(position, _)| position), limit, deadline };
        let page =
            self.database().scan(deadline, args, |args, session| Box::pin(export(session, args)));
        page.await
    }
}

/// Counts as long as there are few, else asks the statistics.
async fn count(session: &Session, left: std::time::Duration) -> Result<u64, Failure> {
    limit_time(session, left).await?;
    let mut most = COUNTED;
    loop {
        let rows = session.read(&statements::COUNT, &[&most]).await?;
        let row = rows.first().ok_or_else(|| super::store::missing("a count"))?;
        let count = row::get::<i64>(row, 0)?;
        if count < most || most == COUNTED_WITHOUT_STATISTICS {
            return Ok(count.unsigned_abs());
        }
        let estimate = match session.is_cluster() {
            true => &statements::ESTIMATE_SHARDS,
            false => &statements::ESTIMATE,
        };
        let rows = session.read(estimate, &[]).await?;
        let row = rows.first().ok_or_else(|| super::store::missing("statistics"))?;
        if let Some(estimate) = row::get::<Option<i64>>(row, 0)? {
            return Ok(estimate.max(count).unsigned_abs());
        }
        most = COUNTED_WITHOUT_STATISTICS;
    }
}

impl LinkQuery for PostgresStore {
    fn list(&self, query: ListQuery, deadline: Deadline) -> BoxFuture<'_, Result<Page, ListError>> {
        Box::pin(async move {
            let shape = shape(&query);
            let start = start(&shape, query.cursor.as_deref())?;
            let page = self.placed_list(query, start, deadline).await.map_err(ListError::Store)?;
            let (links, next) = page.page(&shape);
            Ok(Page { links, next })
        })
    }

    fn export(
        &self,
        cursor: Option<String>,
        limit: u32,
        deadline: Deadline,
    ) -> BoxFuture<'_, Result<ExportPage, ListError>> {
        Box::pin(async move {
            let shape = Shape::export();
            let start = start(&shape, cursor.as_deref())?;
            let page = self.placed_export(start, limit, deadline).await;
            Ok(page.map_err(ListError::Store)?.page(&shape))
        })
    }

    fn approximate_count(&self, deadline: Deadline) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(self.database().scan(deadline, deadline, |deadline, session| {
            Box::pin(count(session, deadline.left(Instant::now())))
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_comes_back_from_its_cursor() {
        let shape = Shape::list(&ListQuery::default(), None);
        let key = LinkKey::new(DomainId(7), Code::parse("a_B-9").unwrap());
        for place in [i64::MIN, -5, 0, 1_795_305_600_000_001] {
            let position = Position { key: key.clone(), place: Micros(place) };
            for in_windows in [false, true] {
                let cursor = position.write(&shape, in_windows);
                let found = Position::read(&shape, &cursor);
                assert_eq!(found, Some((position.clone(), in_windows)));
                assert_eq!(Position::read(&Shape::export(), &cursor), None);
            }
        }
        assert_eq!(Position::read(&shape, ""), None);
        assert_eq!(Position::read(&shape, &shape.write(b"short")), None);
    }
}
