//! One shard: its database or its copies, and what it has said of the ring.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use shunt_domain::ports::LinkWriter;
use shunt_domain::{Deadline, StoreError};

use super::map::Arcs;
use crate::postgres::{PostgresError, PostgresOptions, PostgresStore, ShardRow, Together, lock};
use crate::replicated::{ReplicatedOptions, ReplicatedStore};

/// How long the first look at a shard may take when the store is opened.
const FIRST_LOOK: Duration = Duration::from_secs(3);

/// A shard's name, as it is hashed, and how its database is reached.
#[derive(Clone, Debug)]
pub struct ShardOptions {
    /// What is hashed: stays when the address changes.
    pub name: String,
    /// The database; with standbys, its primary at first.
    pub database: PostgresOptions,
    /// How each of its streaming standbys is reached. How it is used is said by `database`.
    pub replicas: Vec<PostgresOptions>,
    /// Standbys that are further behind serve only when nothing else answers.
    pub max_lag: Duration,
}

impl ShardOptions {
    /// A database without standbys.
    pub fn new(name: impl Into<String>, database: PostgresOptions) -> Self {
        let max_lag = ReplicatedOptions::MAX_LAG;
        Self { name: name.into(), database, replicas: Vec::new(), max_lag }
    }

    /// The database with its standbys, if it has any.
    pub(crate) fn copies(&self) -> Option<ReplicatedOptions> {
        let (primary, replicas) = (self.database.clone(), self.replicas.clone());
        let options = ReplicatedOptions { primary, replicas, max_lag: self.max_lag };
        (!self.replicas.is_empty()).then_some(options)
    }
}

/// A shard as this process uses it.
#[derive(Debug)]
pub(super) struct Shard {
    pub(super) name: String,
    /// The database, or the primary of its copies.
    pub(super) store: PostgresStore,
    /// All copies, if there are standbys.
    pub(super) copies: Option<ReplicatedStore>,
    pub(super) known: Mutex<Known>,
    /// Held by the one who asks the shard, or a standby of it, what has changed.
    pub(super) asking: tokio::sync::Mutex<()>,
    pub(super) asking_standby: tokio::sync::Mutex<()>,
}

impl Shard {
    /// Connects to nobody yet.
    pub(super) fn open(options: ShardOptions, together: &Together) -> Result<Self, PostgresError> {
        let (store, copies) = match options.copies() {
            None => (PostgresStore::start(options.database, together, None)?, None),
            Some(copies) => {
                let copies = ReplicatedStore::start(&copies, together)?;
                (copies.primary().clone(), Some(copies))
            }
        };
        Ok(Self {
            name: options.name,
            store,
            copies,
            known: Mutex::default(),
            asking: Default::default(),
            asking_standby: Default::default(),
        })
    }

    /// Where links are changed: what has standbys remembers it for later reads.
    pub(super) fn writer(&self) -> &dyn LinkWriter {
        match &self.copies {
            Some(copies) => copies,
            None => &self.store,
        }
    }

    /// Whether it can be reached, lets us in and has this program's schema. Blocks.
    pub(super) fn check(&self) -> Result<(), PostgresError> {
        match &self.copies {
            Some(copies) => copies.check(),
            None => self.store.check(),
        }
    }

    /// Closes its stores. Blocks.
    pub(super) fn close(&self) {
        match &self.copies {
            Some(copies) => copies.close(),
            None => self.store.close(),
        }
    }

    /// What its database says of the ring, if that is anything new.
    pub(super) async fn ask(&self, deadline: Deadline) -> Result<Option<Arcs>, StoreError> {
        let known = lock(&self.known).arcs.as_ref().map(|arcs| arcs.epoch());
        if let Some(known) = known
            && self.store.arcs_epoch(deadline).await? == known
        {
            return Ok(None);
        }
        self.store.arcs(deadline).await.map(Some)
    }

    /// The same from a standby. What is older than what is known is no news.
    pub(super) async fn ask_standby(
        &self,
        copies: &ReplicatedStore,
        deadline: Deadline,
    ) -> Result<Option<Arcs>, StoreError> {
        let known = lock(&self.known).arcs.as_ref().map(|arcs| arcs.epoch());
        if let Some(known) = known
            && copies.standby_epoch(deadline).await? <= known
        {
            return Ok(None);
        }
        let arcs = copies.standby_arcs(deadline).await?;
        Ok(known.is_none_or(|known| arcs.epoch() > known).then_some(arcs))
    }

    /// What a shard says when it is looked at for the first time. Blocks.
    pub(super) fn first_look(&self) -> Result<Option<ShardRow>, PostgresError> {
        self.check()?;
        let (store, copies) = (self.store.clone(), self.copies.clone());
        let looking = async move {
            let deadline = Deadline::after(Instant::now(), FIRST_LOOK);
            match copies {
                Some(copies) => copies.shard_row(deadline).await,
                None => store.shard_row(deadline).await,
            }
        };
        let row = self.store.block_on(looking).and_then(|row| row);
        row.map_err(|error| PostgresError::Options(format!("shard {}: {error}", self.name)))
    }

    /// The error with the name of the shard that it is about.
    pub(super) fn named(&self, error: StoreError) -> StoreError {
        match error {
            StoreError::Unavailable(why) => {
                StoreError::Unavailable(format!("shard {}: {why}", self.name))
            }
            other => other,
        }
    }
}

/// Who says what a shard owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// Its database, or the primary of its copies.
    Primary,
    /// That, or when it can't be asked a standby, which is as old as it is behind.
    Copy,
}

/// What a shard said of the ring.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) arcs: Option<Arc<Arcs>>,
    /// When the last question was sent that confirmed it, to the primary and to a standby.
    pub(super) confirmed: Option<Instant>,
    pub(super) confirmed_by_standby: Option<Instant>,
    /// Why the last question came to nothing.
    pub(super) error: Option<String>,
}

impl Known {
    /// When this was confirmed last.
    pub(super) fn confirmed(&self, word: Word) -> Option<Instant> {
        match word {
            Word::Primary => self.confirmed,
            Word::Copy => self.confirmed.max(self.confirmed_by_standby),
        }
    }
}
