//! What the writer of `links.db` keeps in memory: the last id, the count of live links, leases.
//!
//! Invariant: the count in the table `counters` is exact, because it is written in the transaction
//! that changes it.

use std::collections::BTreeMap;

use rusqlite::Connection;
use shunt_domain::Timestamp;

use super::row::{TIE_BITS, first_id};
use super::writer::GroupState;

/// A new link that claims to be at most this much older than the newest one (clocks of cores
/// differ a little) is counted as just created, so that the order of lists is the order of
/// commits.
const SLACK_MS: i64 = 100;

/// See the module.
#[derive(Debug)]
pub struct LinkState {
    /// Which life of the store this is.
    pub(super) boot: i64,
    /// Ranges leased in this life and not given back: start and end.
    leases: BTreeMap<u64, u64>,
    /// What `leases` was before this group, if the group changed it.
    leases_before: Option<BTreeMap<u64, u64>>,
    /// The highest id, `None` when it must be read again.
    last_id: Option<i64>,
    /// Live links more than the table `counters` says.
    live_delta: i64,
}

impl GroupState for LinkState {
    fn load(connection: &Connection) -> rusqlite::Result<Self> {
        let boot =
            connection.query_row("SELECT value FROM counters WHERE name = 'boot'", [], |row| {
                row.get(0)
            })?;
        Ok(Self {
            boot,
            leases: BTreeMap::new(),
            leases_before: None,
            last_id: None,
            live_delta: 0,
        })
    }

    fn before_commit(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        if self.live_delta != 0 {
            connection
                .prepare_cached("UPDATE counters SET value = value + ?1 WHERE name = 'live'")?
                .execute([self.live_delta])?;
        }
        Ok(())
    }

    fn committed(&mut self) {
        self.live_delta = 0;
        self.leases_before = None;
    }

    fn rolled_back(&mut self) {
        self.live_delta = 0;
        self.last_id = None;
        if let Some(before) = self.leases_before.take() {
            self.leases = before;
        }
    }
}

impl LinkState {
    /// Counts links that came (or went, if negative).
    pub(super) fn count_live(&mut self, delta: i64) {
        self.live_delta += delta;
    }

    /// Ranges leased in this life and not given back.
    pub(super) fn leases(&self) -> &BTreeMap<u64, u64> {
        &self.leases
    }

    /// The same, to change; a rollback undoes it.
    pub(super) fn leases_mut(&mut self) -> &mut BTreeMap<u64, u64> {
        if self.leases_before.is_none() {
            self.leases_before = Some(self.leases.clone());
        }
        &mut self.leases
    }

    /// An id for a new link. It is free until [`used_id`](Self::used_id) says otherwise.
    pub(super) fn new_id(&mut self, db: &Connection, at: Timestamp) -> rusqlite::Result<i64> {
        let first = first_id(at);
        let last = self.last_id(db)?;
        if first > last {
            Ok(first)
        } else if (last >> TIE_BITS) - (first >> TIE_BITS) <= SLACK_MS {
            Ok(last + 1)
        } else {
            self.past_id(db, first)
        }
    }

    /// An id for a row that was created earlier, as near as possible to its own time.
    pub(super) fn restored_id(&mut self, db: &Connection, at: Timestamp) -> rusqlite::Result<i64> {
        let first = first_id(at);
        if first > self.last_id(db)? { Ok(first) } else { self.past_id(db, first) }
    }

    /// Notes that a row got this id.
    pub(super) fn used_id(&mut self, id: i64) {
        self.last_id = self.last_id.max(Some(id));
    }

    fn last_id(&mut self, db: &Connection) -> rusqlite::Result<i64> {
        if let Some(last) = self.last_id {
            return Ok(last);
        }
        let last: Option<i64> =
            db.prepare_cached("SELECT max(id) FROM links")?.query_row([], |row| row.get(0))?;
        let last = last.unwrap_or(i64::MIN >> 1);
        self.last_id = Some(last);
        Ok(last)
    }

    /// The first free id from `first` on that has a free tie-break behind all others of its
    /// millisecond.
    fn past_id(&self, db: &Connection, mut first: i64) -> rusqlite::Result<i64> {
        let mut newest = db.prepare_cached(
            "SELECT id FROM links WHERE id BETWEEN ?1 AND ?2 ORDER BY id DESC LIMIT 1",
        )?;
        loop {
            let end = first | ((1 << TIE_BITS) - 1);
            let taken = newest.query([first, end])?.next()?.map(|row| row.get::<_, i64>(0));
            match taken.transpose()? {
                None => return Ok(first),
                Some(id) if id < end => return Ok(id + 1),
                Some(_) => first = end + 1,
            }
        }
    }
}
