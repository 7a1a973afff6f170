//! What a shard knows of the ring, and batches of which it gets a part.

use std::time::Duration;

use shunt_domain::ports::CreateRefusal;
use shunt_domain::ring::Place;
use shunt_domain::{Deadline, Link, NewLink, Outcome, StoreError, Stored, Timestamp};
use tokio_postgres::Row;

use super::PostgresStore;
use super::create::Batch;
use super::error::bad_value;
use super::place::Kind;
use super::readers::Readers;
use super::row;
use super::statements::{self, arcs};
use super::store::missing;
use super::types::{Micros, PlaceBits};
use crate::sharded::map::{ArcRow, Arcs, State};

/// How long the question for the newest link may take. Without an answer links made in the same
/// millisecond by an earlier process may stand in another order.
const NEWEST_PATIENCE: Duration = Duration::from_secs(1);

/// Which shard a database is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ShardRow {
    /// Its name, as it is hashed.
    pub(crate) name: String,
    /// The shard with the small tables.
    pub(crate) home: String,
    /// Where arcs belong.
    pub(crate) ring: String,
    /// The ring's epoch.
    pub(crate) epoch: i64,
}

/// An arc as a shard has it.
pub(super) fn arc(row: &Row) -> Result<ArcRow, StoreError> {
    let state: i16 = row::get(row, 2)?;
    Ok(ArcRow {
        start: row::get::<PlaceBits>(row, 0)?.0,
        owner: row::get::<&str>(row, 1)?.into(),
        state: State::from_number(state).ok_or_else(|| bad_value(format_args!("state {state}")))?,
        epoch: row::get(row, 3)?,
    })
}

/// The row of `shard`.
pub(super) fn shard(row: &Row) -> Result<ShardRow, StoreError> {
    Ok(ShardRow {
        name: row::get(row, 0)?,
        home: row::get(row, 1)?,
        ring: row::get(row, 2)?,
        epoch: row::get(row, 3)?,
    })
}

/// Which shard a database is, as asked over these connections; `None` when it is none.
///
/// # Errors
/// When it can't be asked or the deadline passes.
pub(super) async fn identity(
    readers: &Readers,
    deadline: Deadline,
) -> Result<Option<ShardRow>, StoreError> {
    let rows = readers.query(&arcs::SHARD, &[], deadline).await?;
    rows.first().map(shard).transpose()
}

/// A number that rises whenever an arc comes or goes.
///
/// # Errors
/// When it can't be asked or the deadline passes.
pub(super) async fn epoch(readers: &Readers, deadline: Deadline) -> Result<i64, StoreError> {
    let rows = readers.query(&arcs::ARCS_EPOCH, &[], deadline).await?;
    row::get(rows.first().ok_or_else(|| missing("an epoch"))?, 0)
}

/// All arcs as a shard knows them.
///
/// # Errors
/// When it can't be asked or the deadline passes.
pub(super) async fn all(readers: &Readers, deadline: Deadline) -> Result<Arcs, StoreError> {
    let rows = readers.query(&arcs::ARCS, &[], deadline).await?;
    Ok(Arcs::new(rows.iter().map(arc).collect::<Result<_, _>>()?))
}

/// A part of a batch whose rows were placed together.
#[derive(Clone, Debug)]
pub(crate) struct Part<T> {
    pub(crate) rows: Vec<T>,
    given: Vec<Option<Micros>>,
}

impl<T> Default for Part<T> {
    fn default() -> Self {
        Self { rows: Vec::new(), given: Vec::new() }
    }
}

/// Places for a batch of which several shards get parts.
#[derive(Clone, Debug)]
pub(crate) struct Given(Vec<Option<Micros>>);

impl<T> Part<T> {
    /// Adds the row that stood at `at` in the whole batch.
    pub(crate) fn add(&mut self, row: T, at: usize, given: &Given) {
        self.rows.push(row);
        self.given.push(given.0.get(at).copied().flatten());
    }
}

impl PostgresStore {
    /// Which shard this database is; `None` when it is none.
    pub(crate) async fn shard_row(
        &self,
        deadline: Deadline,
    ) -> Result<Option<ShardRow>, StoreError> {
        identity(&self.database().readers, deadline).await
    }

    /// See [`epoch`].
    pub(crate) async fn arcs_epoch(&self, deadline: Deadline) -> Result<i64, StoreError> {
        epoch(&self.database().readers, deadline).await
    }

    /// See [`all`].
    pub(crate) async fn arcs(&self, deadline: Deadline) -> Result<Arcs, StoreError> {
        all(&self.database().readers, deadline).await
    }

    /// Takes an arc that its last owner has let go for good at `epoch`: whoever moved it broke off
    /// between the two.
    pub(crate) async fn take_arc(
        &self,
        start: Place,
        name: &str,
        epoch: i64,
        deadline: Deadline,
    ) -> Outcome<(), StoreError> {
        let args = (PlaceBits(start), name.to_owned(), epoch);
        let taken = self.database().write(deadline, args, |(start, name, epoch), session| {
            Box::pin(async move {
                session.change(&arcs::ARC_TAKE, &[start, name, epoch]).await.map(drop)
            })
        });
        taken.await
    }

    /// Learns the newest link's place, unless it is known.
    pub(crate) async fn learn_newest(&self) {
        let places = &self.inner.places;
        if places.is_asked() {
            return;
        }
        let deadline = Deadline::after(std::time::Instant::now(), NEWEST_PATIENCE);
        if let Ok(rows) = self.database().readers.query(&statements::NEWEST, &[], deadline).await {
            // A value that can't be read is met again by whoever creates first.
            let _ = places.hear(&rows);
        }
    }

    /// Places the rows of a batch, those aside that claim to be of the past.
    pub(crate) fn place_batch(&self, kind: Kind, times: &[Timestamp]) -> Given {
        Given(self.inner.places.ahead(kind, times))
    }

    /// Creates the links of a part.
    pub(crate) async fn create_part(
        &self,
        part: Part<NewLink>,
        deadline: Deadline,
    ) -> Outcome<Vec<Result<Link, CreateRefusal>>, StoreError> {
        let batch = Batch::new_links(part.rows, &self.inner.places);
        self.create_batch(Batch { given: Some(part.given), ..batch }, deadline).await
    }

    fn old_rows(&self, part: Part<Stored>) -> Batch {
        let places = self.inner.places.clone();
        let (rows, given) = (part.rows, Some(part.given));
        Batch { rows, kind: Kind::Restored, places, given }
    }

    /// Puts the rows of a part back.
    pub(crate) async fn restore_part(
        &self,
        part: Part<Stored>,
        deadline: Deadline,
    ) -> Outcome<Vec<Result<(), CreateRefusal>>, StoreError> {
        self.restore_batch(self.old_rows(part), deadline).await
    }

    /// Writes the rows of a part over older ones; answers as many times that it did.
    pub(crate) async fn replace_part(
        &self,
        part: Part<Stored>,
        deadline: Deadline,
    ) -> Outcome<Vec<Result<(), CreateRefusal>>, StoreError> {
        let count = part.rows.len();
        match self.replace_batch(self.old_rows(part), deadline).await {
            Outcome::Done(()) => Outcome::Done(vec![Ok(()); count]),
            Outcome::Refused(error) => Outcome::Refused(error),
            Outcome::Unknown(cause) => Outcome::Unknown(cause),
        }
    }
}
