//! Lists, searches and exports: keyset pages with a bounded amount of work each.
//!
//! A page is read from the one source (text index, tag, owner, domain, code or the table itself)
//! that promises the fewest rows; the other conditions are checked row by row. The order's key of
//! the last row looked at is the cursor, whatever the source was, so the next page may be read
//! from another one. When the budget of time is used up before the page is full, it is answered
//! short, with the cursor to go on.
//!
//! A text whose trigrams are all common but hardly ever meet makes the text index compare long
//! lists without a result to go on from. It is stopped then, and the search goes on row by row.

use std::time::{Duration, Instant};

use rusqlite::types::Value;
use rusqlite::{Connection, Row, params_from_iter};
use shunt_domain::ports::{BoxFuture, LinkQuery, ListError, ListQuery, Page, Sort};
use shunt_domain::{Deadline, DomainId, Link, StoreError, Stored};

use super::readers::{Lane, StopAt};
use super::row::{COLUMNS, column, stored, text};
use super::{SqliteStore, fts};
use crate::cursor::Shape;
use crate::text::Needle;

/// The most links in a page.
const MAX_LIMIT: u32 = 1_000;

/// Below this many rows, a source is read whole without further thought.
const FEW: i64 = 2_000;

/// Up to this many rows are sorted in memory for an order that their source does not have.
const SORTABLE: i64 = 5_000;

/// How much work one page may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListBudget {
    /// How long rows are looked at before the page is answered as far as it is.
    pub time: Duration,
    /// How many rows are looked at.
    pub rows: u64,
}

impl Default for ListBudget {
    fn default() -> Self {
        Self { time: Duration::from_millis(30), rows: u64::MAX }
    }
}

/// What is left of a page's budget. At least one row is looked at, so that pages go forward.
struct Meter {
    until: Instant,
    rows: u64,
}

impl Meter {
    fn new(budget: ListBudget, deadline: Deadline) -> Self {
        let until = Instant::now() + budget.time;
        Self { until: until.min(deadline.instant()), rows: budget.rows }
    }

    /// When a query that does not even give a row is to be stopped: half-way.
    fn half_way(&self) -> Instant {
        let now = Instant::now();
        now + self.until.saturating_duration_since(now) / 2
    }

    /// Counts one row; whether another one may be looked at.
    fn more(&mut self) -> bool {
        self.rows = self.rows.saturating_sub(1);
        self.rows > 0 && Instant::now() < self.until
    }
}

/// Where rows come from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    All,
    Owner(i64),
    Domain(u32),
    Tag(String),
    Text(String),
}

impl Source {
    /// `FROM … WHERE …`, the column with the link's id, and the value of `?1`.
    fn sql(&self) -> (&'static str, &'static str, Option<Value>) {
        match self {
            Self::All => ("links WHERE state = 0", "links.id", None),
            Self::Owner(owner) => (
                "links INDEXED BY links_owner WHERE state = 0 AND owner = ?1",
                "links.id",
                Some(Value::Integer(*owner)),
            ),
            Self::Domain(domain) => (
                "links INDEXED BY links_domain WHERE state = 0 AND domain <> 0 AND domain = ?1",
                "links.id",
                Some(Value::Integer(i64::from(*domain))),
            ),
            Self::Tag(tag) => (
                "link_tags CROSS JOIN links ON links.id = link_tags.link WHERE link_tags.tag = ?1",
                "link_tags.link",
                Some(Value::Text(tag.clone())),
            ),
            Self::Text(query) => (
                "links_fts CROSS JOIN links ON links.id = links_fts.rowid
                 WHERE links_fts MATCH ?1",
                "links_fts.rowid",
                Some(Value::Text(query.clone())),
            ),
        }
    }

    /// How many rows it has, counted no further than `limit`, without touching the rows.
    fn count(&self, db: &Connection, limit: i64) -> rusqlite::Result<i64> {
        let (from, value) = match self {
            Self::Text(query) => {
                ("links_fts WHERE links_fts MATCH ?1", Some(Value::Text(query.clone())))
            }
            Self::Tag(tag) => ("link_tags WHERE tag = ?1", Some(Value::Text(tag.clone()))),
            other => {
                let (from, _, value) = other.sql();
                (from, value)
            }
        };
        db.prepare_cached(&format!("SELECT count(*) FROM (SELECT 1 FROM {from} LIMIT {limit})"))?
            .query_row(params_from_iter(value), |row| row.get(0))
    }
}

/// A query, ready to run.
struct Plan {
    query: ListQuery,
    needle: Option<Needle>,
    shape: Shape,
    limit: usize,
}

impl Plan {
    fn new(query: ListQuery) -> Self {
        let needle = query.text.as_deref().map(Needle::new);
        let shape = Shape::list(&query, needle.as_ref());
        let limit = query.limit.clamp(1, MAX_LIMIT) as usize;
        Self { query, needle, shape, limit }
    }

    /// Whether a row is a live link that the query asks for.
    fn takes(&self, row: &Row<'_>) -> rusqlite::Result<bool> {
        if let Some(domain) = self.query.domain
            && row.get::<_, u32>(column::DOMAIN)? != domain.0
        {
            return Ok(false);
        }
        if row.get::<_, i64>(column::STATE)? != 0 {
            return Ok(false);
        }
        if let Some(owner) = self.query.owner
            && row.get::<_, i64>(column::OWNER)? != owner.0.cast_signed()
        {
            return Ok(false);
        }
        if let Some(tag) = &self.query.tag
            && !text(row, column::TAGS)?.unwrap_or_default().split(',').any(|t| t == tag.as_str())
        {
            return Ok(false);
        }
        let Some(needle) = &self.needle else { return Ok(true) };
        for at in [column::TARGET, column::CODE, column::TITLE] {
            if text(row, at)?.is_some_and(|hay| needle.is_in(hay)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The sources that hold every row the query asks for, the likely smallest first.
    fn sources(&self) -> Vec<Source> {
        let mut sources = Vec::new();
        if let Some(query) = self.needle.as_ref().and_then(fts::query) {
            sources.push(Source::Text(query));
        }
        if let Some(tag) = &self.query.tag {
            sources.push(Source::Tag(tag.as_str().to_owned()));
        }
        if let Some(domain) = self.query.domain.filter(|domain| *domain != DomainId::DEFAULT) {
            sources.push(Source::Domain(domain.0));
        }
        if let Some(owner) = self.query.owner {
            sources.push(Source::Owner(owner.0.cast_signed()));
        }
        sources
    }

    /// The source to read, and whether it is known to have at most `small` rows. What can't be
    /// counted until `until` is not small.
    fn source(
        &self,
        db: &Connection,
        small: i64,
        until: Instant,
    ) -> rusqlite::Result<(Source, bool)> {
        let sources = self.sources();
        for source in &sources {
            let _stop = StopAt::new(until);
            match source.count(db, small + 1) {
                Ok(rows) if rows <= small => return Ok((source.clone(), true)),
                Ok(_) => {}
                Err(error) if is_stopped(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok((sources.into_iter().next().unwrap_or(Source::All), false))
    }

    /// A page ordered by creation.
    fn by_creation(&self, db: &Connection, mut meter: Meter) -> rusqlite::Result<Result<Page, ()>> {
        let (start, scanning) = match &self.query.cursor {
            None if self.query.sort == Sort::CreatedAsc => (i64::MIN, false),
            None => (i64::MAX, false),
            Some(cursor) => match self.shape.id(cursor) {
                Some(position) => position,
                None => return Ok(Err(())),
            },
        };
        let mut sources = self.sources();
        if scanning {
            sources.retain(|source| !matches!(source, Source::Text(_)));
        }
        let source = if sources.len() > 1 && !scanning {
            self.source(db, FEW, meter.half_way())?.0
        } else {
            sources.into_iter().next().unwrap_or(Source::All)
        };
        let mut walk = Walk { page: Page::default(), last: start, scanning };
        let walked = {
            let text = matches!(source, Source::Text(_));
            let _stop = text.then(|| StopAt::new(meter.half_way()));
            self.walk(db, &source, &mut walk, &mut meter)
        };
        match walked {
            Ok(()) => {}
            Err(error) if is_stopped(&error) && walk.last != start => {
                walk.page.next = Some(self.shape.behind_id(walk.last));
            }
            Err(error) if is_stopped(&error) && matches!(source, Source::Text(_)) => {
                walk.scanning = true;
                let other = self.sources().into_iter().find(|other| *other != source);
                self.walk(db, &other.unwrap_or(Source::All), &mut walk, &mut meter)?;
            }
            Err(error) => return Err(error),
        }
        Ok(Ok(walk.page))
    }

    /// Goes through a source in order of creation until the page is full or the budget used up.
    fn walk(
        &self,
        db: &Connection,
        source: &Source,
        walk: &mut Walk,
        meter: &mut Meter,
    ) -> rusqlite::Result<()> {
        let (from, id, value) = source.sql();
        let (compare, order) =
            if self.query.sort == Sort::CreatedAsc { (">", "ASC") } else { ("<", "DESC") };
        let sql =
            format!("SELECT {COLUMNS} FROM {from} AND {id} {compare} ?2 ORDER BY {id} {order}");
        let mut statement = db.prepare_cached(&sql)?;
        if let Some(value) = value {
            statement.raw_bind_parameter(1, value)?;
        }
        statement.raw_bind_parameter(2, walk.last)?;
        let mut rows = statement.raw_query();
        while let Some(row) = rows.next()? {
            if self.takes(row)? {
                if walk.page.links.len() == self.limit {
                    walk.page.next = Some(walk.cursor(&self.shape));
                    break;
                }
                walk.page.links.push(link(row)?);
            }
            walk.last = row.get(column::ID)?;
            if !meter.more() {
                walk.page.next = Some(walk.cursor(&self.shape));
                break;
            }
        }
        Ok(())
    }

    /// A page ordered by code.
    fn by_code(&self, db: &Connection, mut meter: Meter) -> rusqlite::Result<Result<Page, ()>> {
        let start = match &self.query.cursor {
            None => None,
            Some(cursor) => match self.shape.key(cursor) {
                Some(key) => Some(key),
                None => return Ok(Err(())),
            },
        };
        let (source, small) = self.source(db, SORTABLE, meter.half_way())?;
        if small {
            return self.sorted(db, &source, start.as_ref()).map(Ok);
        }
        let ascending = self.query.sort == Sort::CodeAsc;
        let (compare, order) = if ascending { (">", "ASC") } else { ("<", "DESC") };
        let sql = format!(
            "SELECT {COLUMNS} FROM links INDEXED BY links_code
             WHERE (links.code, links.domain) {compare} (?1, ?2)
             ORDER BY links.code {order}, links.domain {order}"
        );
        let mut statement = db.prepare_cached(&sql)?;
        // Every code lies between these two: '~' is behind all characters a code can have.
        let edge = || (if ascending { "" } else { "~" }.to_owned(), 0);
        let (mut code, mut domain) = start.unwrap_or_else(edge);
        let mut rows = statement.query((&code, domain))?;
        let mut page = Page::default();
        while let Some(row) = rows.next()? {
            if self.takes(row)? {
                if page.links.len() == self.limit {
                    page.next = Some(self.shape.behind_key(&code, DomainId(domain)));
                    break;
                }
                page.links.push(link(row)?);
            }
            code.clear();
            code.push_str(text(row, column::CODE)?.unwrap_or_default());
            domain = row.get(column::DOMAIN)?;
            if !meter.more() {
                page.next = Some(self.shape.behind_key(&code, DomainId(domain)));
                break;
            }
        }
        Ok(Ok(page))
    }

    /// A page ordered by code of a small source: all of it is read and sorted.
    fn sorted(
        &self,
        db: &Connection,
        source: &Source,
        start: Option<&(String, u32)>,
    ) -> rusqlite::Result<Page> {
        let (from, _, value) = source.sql();
        let mut statement = db.prepare_cached(&format!("SELECT {COLUMNS} FROM {from}"))?;
        let mut rows = statement.query(params_from_iter(value))?;
        let ascending = self.query.sort == Sort::CodeAsc;
        // Only keys are sorted: a page is small beside its source.
        let mut found: Vec<(String, u32, i64)> = Vec::new();
        while let Some(row) = rows.next()? {
            let code = text(row, column::CODE)?.unwrap_or_default();
            let domain: u32 = row.get(column::DOMAIN)?;
            let behind = start.is_none_or(|(start_code, start_domain)| {
                let order = (code, domain).cmp(&(start_code.as_str(), *start_domain));
                if ascending { order.is_gt() } else { order.is_lt() }
            });
            if behind && self.takes(row)? {
                found.push((code.to_owned(), domain, row.get(column::ID)?));
            }
        }
        found.sort_unstable();
        if !ascending {
            found.reverse();
        }
        let mut page = Page::default();
        let mut by_id = db.prepare_cached(&format!("SELECT {COLUMNS} FROM links WHERE id = ?1"))?;
        for (_, _, id) in found.iter().take(self.limit) {
            page.links.push(by_id.query_row([id], link)?);
        }
        if found.len() > self.limit
            && let Some(last) = page.links.last()
        {
            page.next = Some(self.shape.behind_key(last.code().as_str(), last.domain()));
        }
        Ok(page)
    }
}

/// A page in order of creation that is being filled.
struct Walk {
    page: Page,
    /// The last row that was looked at.
    last: i64,
    /// Whether the text index is left aside.
    scanning: bool,
}

impl Walk {
    fn cursor(&self, shape: &Shape) -> String {
        if self.scanning { shape.behind_id_scanning(self.last) } else { shape.behind_id(self.last) }
    }
}

/// Whether a query was stopped because its time was over.
fn is_stopped(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::OperationInterrupted)
}

/// The live link in a row.
fn link(row: &Row<'_>) -> rusqlite::Result<Link> {
    stored(row)?
        .into_link()
        .ok_or_else(|| super::bad_value(column::STATE, "a tombstone where a link was expected"))
}

/// Rows of an export, and where the next ones begin.
type ExportPage = (Vec<Stored>, Option<String>);

/// One page of an export.
fn export(
    db: &Connection,
    cursor: Option<&str>,
    limit: usize,
) -> rusqlite::Result<Result<ExportPage, ()>> {
    let shape = Shape::export();
    let start = match cursor.map(|cursor| shape.id(cursor)) {
        None => i64::MIN,
        Some(Some((id, _))) => id,
        Some(None) => return Ok(Err(())),
    };
    let sql = format!("SELECT {COLUMNS} FROM links WHERE id > ?1 ORDER BY id LIMIT ?2");
    let mut statement = db.prepare_cached(&sql)?;
    let mut rows = statement.query([start, limit as i64 + 1])?;
    let mut page = Vec::new();
    let mut last = start;
    while let Some(row) = rows.next()? {
        if page.len() == limit {
            return Ok(Ok((page, Some(shape.behind_id(last)))));
        }
        last = row.get(column::ID)?;
        page.push(stored(row)?);
    }
    Ok(Ok((page, None)))
}

fn flatten<T>(result: Result<Result<T, ()>, StoreError>) -> Result<T, ListError> {
    match result {
        Ok(Ok(page)) => Ok(page),
        Ok(Err(())) => Err(ListError::BadCursor),
        Err(error) => Err(ListError::Store(error)),
    }
}

impl LinkQuery for SqliteStore {
    fn list(&self, query: ListQuery, deadline: Deadline) -> BoxFuture<'_, Result<Page, ListError>> {
        let budget = self.list_budget();
        Box::pin(async move {
            let page = self.readers().run(Lane::Scan, deadline, move |db| {
                let plan = Plan::new(query);
                let meter = Meter::new(budget, deadline);
                match plan.query.sort {
                    Sort::CreatedDesc | Sort::CreatedAsc => plan.by_creation(db, meter),
                    Sort::CodeAsc | Sort::CodeDesc => plan.by_code(db, meter),
                }
            });
            flatten(page.await)
        })
    }

    fn export(
        &self,
        cursor: Option<String>,
        limit: u32,
        deadline: Deadline,
    ) -> BoxFuture<'_, Result<ExportPage, ListError>> {
        let limit = limit.clamp(1, MAX_LIMIT) as usize;
        Box::pin(async move {
            let read = move |db: &Connection| export(db, cursor.as_deref(), limit);
            flatten(self.readers().run(Lane::Scan, deadline, read).await)
        })
    }

    fn approximate_count(&self, deadline: Deadline) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(self.readers().run(Lane::Point, deadline, |db| {
            db.prepare_cached("SELECT value FROM counters WHERE name = 'live'")?
                .query_row([], |row| row.get::<_, i64>(0).map(|n| u64::try_from(n).unwrap_or(0)))
        }))
    }
}
