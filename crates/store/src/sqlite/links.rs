//! Writing links, and reading one by its key.

use rusqlite::{Connection, OptionalExtension, Statement, params};
use shunt_domain::link::LinkPatch;
use shunt_domain::ports::{
    BoxFuture, Change, ChangeRefusal, Claim, CreateRefusal, LinkMirror, LinkReader, LinkWriter,
};
use shunt_domain::{
    Deadline, Link, LinkKey, NewLink, Outcome, StoreError, Stored, Timestamp, Tombstone, Version,
};

use super::SqliteStore;
use super::readers::Lane;
use super::row::{COLUMNS, column, created_at, flags, stored, tags_text};
use super::state::LinkState;
use super::writer::{Tx, WriteOp};
use crate::rules::{flatten, in_force, may_change};

/// The SQL text of one row by its key.
fn by_key_sql() -> &'static str {
    static SQL: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| {
        format!("SELECT {COLUMNS} FROM links WHERE code = ?1 AND domain = ?2")
    });
    &SQL
}

/// The id and row of `key`.
fn find(db: &Connection, key: &LinkKey) -> rusqlite::Result<Option<(i64, Stored)>> {
    db.prepare_cached(by_key_sql())?
        .query_row(params![key.code.as_str(), key.domain.0], |row| {
            Ok((row.get(column::ID)?, stored(row)?))
        })
        .optional()
}

/// The statements of an insertion, prepared once for a whole batch.
struct Inserter<'db> {
    db: &'db Connection,
    row: rusqlite::CachedStatement<'db>,
    text: rusqlite::CachedStatement<'db>,
    tag: rusqlite::CachedStatement<'db>,
}

impl<'db> Inserter<'db> {
    fn new(db: &'db Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            db,
            row: db.prepare_cached(
                "INSERT INTO links (id, code, domain, owner, version, state, flags, status,
                     updated_at, valid_from, expires_at, max_clicks, used, target, title, tags)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)
                 ON CONFLICT (code, domain) DO NOTHING",
            )?,
            text: db.prepare_cached(INSERT_TEXT)?,
            tag: db.prepare_cached(INSERT_TAG)?,
        })
    }

    /// Inserts a link with this id, unless its key exists: then says who has it.
    fn link(
        &mut self,
        id: i64,
        link: &NewLink,
        version: Version,
        updated_at: Option<Timestamp>,
        used: u64,
    ) -> rusqlite::Result<Option<CreateRefusal>> {
        let inserted = self.row.execute(params![
            id,
            link.key.code.as_str(),
            link.key.domain.0,
            link.owner.0.cast_signed(),
            version.0.cast_signed(),
            0,
            flags(link),
            link.status.code(),
            updated_at.map(Timestamp::as_millis),
            link.valid_from.map(Timestamp::as_millis),
            link.expires_at.map(Timestamp::as_millis),
            link.max_clicks.map(|n| n.get().cast_signed()),
            used.cast_signed(),
            link.target.as_str(),
            link.title,
            tags_text(&link.tags),
        ])?;
        if inserted == 0 {
            return holder(self.db, &link.key).map(Some);
        }
        self.text.execute(params![id, link.key.code.as_str(), link.title, link.target.as_str()])?;
        insert_tags(&mut self.tag, id, link)?;
        Ok(None)
    }

    fn tombstone(
        &mut self,
        id: i64,
        tombstone: &Tombstone,
    ) -> rusqlite::Result<Option<CreateRefusal>> {
        let none = None::<i64>;
        let inserted = self.row.execute(params![
            id,
            tombstone.key.code.as_str(),
            tombstone.key.domain.0,
            tombstone.owner.0.cast_signed(),
            tombstone.version.0.cast_signed(),
            1,
            0,
            0,
            tombstone.deleted_at.as_millis(),
            none,
            none,
            none,
            0,
            none,
            none,
            none,
        ])?;
        if inserted == 0 { holder(self.db, &tombstone.key).map(Some) } else { Ok(None) }
    }
}

const INSERT_TEXT: &str =
    "INSERT INTO links_fts (rowid, code, title, target) VALUES (?1, ?2, ?3, ?4)";
const DELETE_TEXT: &str = "INSERT INTO links_fts (links_fts, rowid, code, title, target)
     VALUES ('delete', ?1, ?2, ?3, ?4)";
const INSERT_TAG: &str = "INSERT OR IGNORE INTO link_tags (tag, link) VALUES (?1, ?2)";
const DELETE_TAG: &str = "DELETE FROM link_tags WHERE tag = ?1 AND link = ?2";

fn insert_tags(statement: &mut Statement<'_>, id: i64, link: &NewLink) -> rusqlite::Result<()> {
    for tag in &link.tags {
        statement.execute(params![tag.as_str(), id])?;
    }
    Ok(())
}

fn delete_tags(db: &Connection, id: i64, link: &NewLink) -> rusqlite::Result<()> {
    let mut statement = db.prepare_cached(DELETE_TAG)?;
    for tag in &link.tags {
        statement.execute(params![tag.as_str(), id])?;
    }
    Ok(())
}

/// Takes a link out of the text index, or puts it in: the texts must be exactly the indexed ones.
fn index_text(db: &Connection, sql: &str, id: i64, link: &NewLink) -> rusqlite::Result<()> {
    db.prepare_cached(sql)?
        .execute(params![id, link.key.code.as_str(), link.title, link.target.as_str()])
        .map(drop)
}

/// Who has a key that exists.
fn holder(db: &Connection, key: &LinkKey) -> rusqlite::Result<CreateRefusal> {
    let state: i64 = db
        .prepare_cached("SELECT state FROM links WHERE code = ?1 AND domain = ?2")?
        .query_row(params![key.code.as_str(), key.domain.0], |row| row.get(0))?;
    Ok(if state == 0 { CreateRefusal::Taken } else { CreateRefusal::Retired })
}

/// Creates one link with the statements of `inserter`; the link as it is now, or who has its key.
fn create_with(
    inserter: &mut Inserter<'_>,
    state: &mut LinkState,
    link: &NewLink,
) -> rusqlite::Result<Result<i64, CreateRefusal>> {
    let id = state.new_id(inserter.db, link.created_at)?;
    if let Some(refusal) = inserter.link(id, link, Version::FIRST, None, 0)? {
        return Ok(Err(refusal));
    }
    state.used_id(id);
    state.count_live(1);
    Ok(Ok(id))
}

/// A link that was just created under `id`.
fn fresh(mut data: NewLink, id: i64) -> Link {
    data.created_at = created_at(id);
    let updated_at = data.created_at;
    Link { data, version: Version::FIRST, updated_at, used: 0 }
}

/// Creates one link as a part of a larger operation.
pub(super) fn create_one(
    tx: &mut Tx<'_, LinkState>,
    link: &NewLink,
) -> rusqlite::Result<Result<Link, CreateRefusal>> {
    let mut inserter = Inserter::new(tx.connection)?;
    let made = create_with(&mut inserter, tx.state, link)?;
    Ok(made.map(|id| fresh(link.clone(), id)))
}

/// Creates links.
struct Create {
    links: Vec<NewLink>,
    verdicts: Vec<Result<i64, CreateRefusal>>,
}

impl WriteOp<LinkState> for Create {
    type Output = Vec<Result<Link, CreateRefusal>>;

    fn run(&mut self, tx: &mut Tx<'_, LinkState>) -> rusqlite::Result<()> {
        let mut inserter = Inserter::new(tx.connection)?;
        self.verdicts.clear();
        for link in &self.links {
            self.verdicts.push(create_with(&mut inserter, tx.state, link)?);
        }
        Ok(())
    }

    fn output(self) -> Self::Output {
        let rows = self.links.into_iter().zip(self.verdicts);
        rows.map(|(data, verdict)| verdict.map(|id| fresh(data, id))).collect()
    }
}

/// Puts rows of an export back.
struct Restore {
    rows: Vec<Stored>,
    verdicts: Vec<Result<(), CreateRefusal>>,
}

impl WriteOp<LinkState> for Restore {
    type Output = Vec<Result<(), CreateRefusal>>;

    fn run(&mut self, tx: &mut Tx<'_, LinkState>) -> rusqlite::Result<()> {
        let mut inserter = Inserter::new(tx.connection)?;
        self.verdicts.clear();
        for row in &self.rows {
            let (id, refusal) = match row {
                Stored::Link(link) => {
                    let id = tx.state.restored_id(tx.connection, link.data.created_at)?;
                    let updated = Some(link.updated_at).filter(|at| *at != created_at(id));
                    (id, inserter.link(id, &link.data, link.version, updated, link.used)?)
                }
                Stored::Tombstone(tombstone) => {
                    let id = tx.state.restored_id(tx.connection, tombstone.created_at)?;
                    (id, inserter.tombstone(id, tombstone)?)
                }
            };
            if refusal.is_none() {
                tx.state.used_id(id);
                tx.state.count_live(i64::from(matches!(row, Stored::Link(_))));
            }
            self.verdicts.push(refusal.map_or(Ok(()), Err));
        }
        Ok(())
    }

    fn output(self) -> Self::Output {
        self.verdicts
    }
}

/// Writes rows as another store has them, also where older ones are.
fn replace(tx: &mut Tx<'_, LinkState>, rows: &[Stored]) -> rusqlite::Result<()> {
    let db = tx.connection;
    let mut inserter = Inserter::new(db)?;
    for row in rows {
        let born = match row {
            Stored::Link(link) => link.data.created_at,
            Stored::Tombstone(tombstone) => tombstone.created_at,
        };
        let mut place = None;
        if let Some((id, old)) = find(db, row.key())? {
            if (old.version(), old.used()) >= (row.version(), row.used()) {
                continue;
            }
            if let Stored::Link(old) = old {
                index_text(db, DELETE_TEXT, id, &old.data)?;
                delete_tags(db, id, &old.data)?;
                tx.state.count_live(-1);
            }
            db.prepare_cached("DELETE FROM links WHERE id = ?1")?.execute([id])?;
            // Its place in the order of creation stays, if it is the same link.
            place = Some(id).filter(|id| created_at(*id) == born);
        }
        let id = match place {
            Some(id) => id,
            None => tx.state.restored_id(db, born)?,
        };
        match row {
            Stored::Link(link) => {
                let updated = Some(link.updated_at).filter(|at| *at != created_at(id));
                inserter.link(id, &link.data, link.version, updated, link.used)?;
                tx.state.count_live(1);
            }
            Stored::Tombstone(tombstone) => {
                inserter.tombstone(id, tombstone)?;
            }
        }
        tx.state.used_id(id);
    }
    Ok(())
}

impl LinkMirror for SqliteStore {
    fn replace_many(
        &self,
        rows: Vec<Stored>,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<(), StoreError>> {
        Box::pin(self.writer().write(deadline, move |tx| replace(tx, &rows)))
    }
}

/// The link that a change is allowed to change, with its id.
fn changeable(
    db: &Connection,
    change: &Change,
) -> rusqlite::Result<Result<(i64, Link), ChangeRefusal>> {
    let Some((id, Stored::Link(link))) = find(db, &change.key)? else {
        return Ok(Err(ChangeRefusal::NotFound));
    };
    Ok(may_change(&link, change).map(|()| (id, *link)))
}

fn patch(
    tx: &mut Tx<'_, LinkState>,
    change: &Change,
    patch: &LinkPatch,
    now: Timestamp,
) -> rusqlite::Result<Result<Link, ChangeRefusal>> {
    let db = tx.connection;
    let (id, old) = match changeable(db, change)? {
        Ok(found) => found,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let new = patch.clone().apply(&old, now);
    let data = &new.data;
    db.prepare_cached(
        "UPDATE links SET owner = ?2, version = ?3, flags = ?4, status = ?5, updated_at = ?6,
             valid_from = ?7, expires_at = ?8, max_clicks = ?9, target = ?10, title = ?11,
             tags = ?12
         WHERE id = ?1",
    )?
    .execute(params![
        id,
        data.owner.0.cast_signed(),
        new.version.0.cast_signed(),
        flags(data),
        data.status.code(),
        now.as_millis(),
        data.valid_from.map(Timestamp::as_millis),
        data.expires_at.map(Timestamp::as_millis),
        data.max_clicks.map(|n| n.get().cast_signed()),
        data.target.as_str(),
        data.title,
        tags_text(&data.tags),
    ])?;
    if old.data.target.as_str() != data.target.as_str() || old.data.title != data.title {
        index_text(db, DELETE_TEXT, id, &old.data)?;
        index_text(db, INSERT_TEXT, id, data)?;
    }
    if old.data.tags != data.tags {
        delete_tags(db, id, &old.data)?;
        insert_tags(&mut *db.prepare_cached(INSERT_TAG)?, id, data)?;
    }
    Ok(Ok(new))
}

fn delete(
    tx: &mut Tx<'_, LinkState>,
    change: &Change,
    now: Timestamp,
) -> rusqlite::Result<Result<Version, ChangeRefusal>> {
    let db = tx.connection;
    let (id, old) = match changeable(db, change)? {
        Ok(found) => found,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let version = old.version.next();
    db.prepare_cached(
        "UPDATE links SET state = 1, version = ?2, updated_at = ?3, flags = 0, status = 0,
             valid_from = NULL, expires_at = NULL, max_clicks = NULL, used = 0, target = NULL,
             title = NULL, tags = NULL
         WHERE id = ?1",
    )?
    .execute(params![id, version.0.cast_signed(), now.as_millis()])?;
    index_text(db, DELETE_TEXT, id, &old.data)?;
    delete_tags(db, id, &old.data)?;
    tx.state.count_live(-1);
    Ok(Ok(version))
}

fn claim(tx: &Tx<'_, LinkState>, key: &LinkKey, now: Timestamp) -> rusqlite::Result<Claim> {
    static SQL: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| {
        // A limit with its top bit set is larger than any count can become.
        format!(
            "UPDATE links SET used = used + 1
             WHERE code = ?1 AND domain = ?2 AND state = 0 AND flags & 1
               AND (valid_from IS NULL OR valid_from <= ?3)
               AND (expires_at IS NULL OR expires_at > ?3)
               AND (max_clicks < 0 OR used < max_clicks)
             RETURNING {COLUMNS}"
        )
    });
    let db = tx.connection;
    let granted = db
        .prepare_cached(&SQL)?
        .query_row(params![key.code.as_str(), key.domain.0, now.as_millis()], stored)
        .optional()?;
    if let Some(Stored::Link(link)) = granted {
        return Ok(Claim::Granted(link));
    }
    Ok(match find(db, key)? {
        None => Claim::Absent,
        // The limit was lifted after the caller looked: there is nothing to count.
        Some((_, Stored::Link(link)))
            if link.data.max_clicks.is_none() && in_force(&link.data, now) =>
        {
            Claim::Granted(link)
        }
        Some((_, row)) => Claim::Denied(Box::new(row)),
    })
}

/// An operation was committed that never ran: can't be.
pub(super) fn without_result() -> StoreError {
    StoreError::Unavailable("the write ran without a result".to_owned())
}

impl LinkReader for SqliteStore {
    /// `min_version` is always met: this is the only copy.
    fn get<'a>(
        &'a self,
        key: &'a LinkKey,
        _min_version: Version,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Option<Stored>, StoreError>> {
        let key = key.clone();
        Box::pin(self.readers().run(Lane::Point, deadline, move |db| {
            db.prepare_cached(by_key_sql())?
                .query_row(params![key.code.as_str(), key.domain.0], stored)
                .optional()
        }))
    }
}

impl LinkWriter for SqliteStore {
    fn create(
        &self,
        link: NewLink,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Link, CreateRefusal>> {
        Box::pin(async move {
            let op = Create { links: vec![link], verdicts: Vec::with_capacity(1) };
            let outcome = self.writer().submit(op, 1, deadline).await;
            let one = outcome.map(|mut rows| {
                rows.pop().unwrap_or_else(|| Err(CreateRefusal::Store(without_result())))
            });
            flatten(one, CreateRefusal::Store)
        })
    }

    fn create_many(
        &self,
        links: Vec<NewLink>,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Vec<Result<Link, CreateRefusal>>, StoreError>> {
        let rows = links.len();
        let op = Create { links, verdicts: Vec::with_capacity(rows) };
        Box::pin(self.writer().submit(op, rows, deadline))
    }

    fn restore_many(
        &self,
        rows: Vec<Stored>,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Vec<Result<(), CreateRefusal>>, StoreError>> {
        let len = rows.len();
        let op = Restore { rows, verdicts: Vec::with_capacity(len) };
        Box::pin(self.writer().submit(op, len, deadline))
    }

    fn patch(
        &self,
        change: Change,
        link_patch: LinkPatch,
        now: Timestamp,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Link, ChangeRefusal>> {
        Box::pin(async move {
            let op = move |tx: &mut Tx<'_, LinkState>| patch(tx, &change, &link_patch, now);
            flatten(self.writer().write(deadline, op).await, ChangeRefusal::Store)
        })
    }

    fn delete(
        &self,
        change: Change,
        now: Timestamp,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Version, ChangeRefusal>> {
        Box::pin(async move {
            let op = move |tx: &mut Tx<'_, LinkState>| delete(tx, &change, now);
            flatten(self.writer().write(deadline, op).await, ChangeRefusal::Store)
        })
    }

    fn claim_click(
        &self,
        key: LinkKey,
        now: Timestamp,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Claim, StoreError>> {
        let op = move |tx: &mut Tx<'_, LinkState>| claim(tx, &key, now);
        Box::pin(self.writer().write(deadline, op))
    }
}
