//! Several PostgreSQL databases as one store: links lie on a consistent-hash ring.
//!
//! A link's place on the ring is the MD5 of its code, as `uhashring` hashes keys; an idempotency
//! key's is the first half of its hash. What is small lives on one shard, the home, and so do
//! roll-ups, whose lanes must be whole in one database. Why it is so: docs/adr/ on shards.
//!
//! Invariants:
//! - one shard judges a key at any moment: a write that comes to another one is refused by that
//!   database itself, and goes to the right one after a look at the map;
//! - an answer that was read counts only if the map was confirmed less than `LEASE` ago, and
//!   rows that were moved away stay for longer than that. A row (not its absence) of a shard with
//!   standbys may be as old as they are behind, and so may be what they say of the map;
//! - a shard that can't be reached is unavailable for its own keys only.
//!
//! Reading order: `map`, `shard`, this file, `links`, `query`, then `moving` for how arcs change owners.

mod admin;
mod feed;
mod home;
mod idempotency;
mod links;
pub(crate) mod map;
mod moving;
mod query;
mod shard;

use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use shunt_domain::ring::Place;
use shunt_domain::{Deadline, Outcome, StoreError};
use tokio::sync::OnceCell;
use tokio::time::timeout_at;

use crate::postgres::{
    PostgresError, PostgresOptions, PostgresRollups, PostgresStore, Together, lock,
};
use crate::replicated::ReplicatedStore;
use map::{Arcs, Map};
use shard::{Shard, Word};

pub use admin::{Change, Plan, ShardStatus, Status, Verified, migrate, plan, status, verify};
pub use links::Primaries;
pub use moving::{MoveOptions, Moved, Progress, rebalance};
pub use shard::ShardOptions;

/// How long a node may go by what it knows of the ring before it asks again whether that is still
/// so. Rows that were moved away are deleted a good while later.
pub(crate) const LEASE: Duration = Duration::from_secs(1);

/// A pause before a key is tried again that nobody owns at the moment.
const PAUSE: Duration = Duration::from_millis(10);

/// How long a primary may take to confirm the map before a standby is asked instead.
const PATIENCE: Duration = Duration::from_millis(100);

/// The store. Cheap to clone; [`ShardedStore::close`] it as the store of one database.
#[derive(Clone, Debug)]
pub struct ShardedStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shards: Vec<Shard>,
    names: Vec<String>,
    map: Mutex<Arc<Map>>,
    home: OnceLock<usize>,
    /// Set when every shard was asked for its newest link.
    placed: OnceCell<()>,
}

/// How sure it must be that the shard which answered is still the owner.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Proof {
    /// The database itself has checked.
    Guarded,
    /// The map was confirmed lately: what was read may be as old as that.
    Lease,
    /// The same, by a standby if the primary can't be asked: what was read may be as old as the
    /// standbys anyway.
    Copy,
    /// The map must be confirmed after the answer.
    After,
}

impl ShardedStore {
    /// Opens the store and looks at every shard; one that can't be reached is no error as long as
    /// another one and the home can. Blocks.
    ///
    /// # Errors
    /// [`PostgresError`] says what is in the way and what to do.
    pub fn open(shards: Vec<ShardOptions>) -> Result<Self, PostgresError> {
        let together = Together::default();
        let names: Vec<String> = shards.iter().map(|shard| shard.name.clone()).collect();
        let shards: Result<Vec<Shard>, PostgresError> =
            shards.into_iter().map(|options| Shard::open(options, &together)).collect();
        let store = Self {
            inner: Arc::new(Inner {
                shards: shards?,
                names,
                map: Mutex::default(),
                home: OnceLock::new(),
                placed: OnceCell::new(),
            }),
        };
        let looked = store.look();
        if looked.is_err() {
            store.close();
        }
        looked.map(|()| store)
    }

    /// The first look at all shards.
    fn look(&self) -> Result<(), PostgresError> {
        let mut home: Option<(String, String)> = None;
        let mut away = None;
        for shard in &self.inner.shards {
            let row = match shard.first_look() {
                Ok(row) => row,
                Err(error @ PostgresError::Unreachable { .. }) => {
                    lock(&shard.known).error = Some(error.to_string());
                    away = Some(error);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let wrong = |what: String| Err(PostgresError::Options(what));
            let Some(row) = row else { continue };
            if row.name != shard.name {
                return wrong(format!(
                    "the database of shard {:?} is shard {:?}; put names and addresses together as \
                     they were",
                    shard.name, row.name
                ));
            }
            match &home {
                Some((known, teller)) if *known != row.home => {
                    return wrong(format!(
                        "shards {teller:?} and {:?} belong to two stores; name the shards of one",
                        shard.name
                    ));
                }
                _ => home = Some((row.home, shard.name.clone())),
            }
        }
        let Some((home, _)) = home else {
            return Err(away.unwrap_or_else(|| {
                PostgresError::Options("no database is a shard yet; run `shunt migrate`".to_owned())
            }));
        };
        match self.inner.names.iter().position(|name| *name == home) {
            Some(at) => {
                if let (Some(error), Some(shard)) = (away, self.inner.shards.get(at))
                    && lock(&shard.known).error.is_some()
                {
                    return Err(error);
                }
                let _ = self.inner.home.set(at);
                Ok(())
            }
            None => Err(PostgresError::Options(format!(
                "the home of this store is shard {home:?}, which is not among those that are named"
            ))),
        }
    }

    /// The number of the shard with the small tables and the roll-ups.
    pub fn home(&self) -> usize {
        self.inner.home.get().copied().unwrap_or(0)
    }

    /// The store of the home.
    pub fn home_store(&self) -> &PostgresStore {
        // A store has its home since it was opened.
        &self.shard(self.home()).store
    }

    /// The shards: names and stores.
    pub fn shards(&self) -> impl Iterator<Item = (&str, &PostgresStore)> {
        self.inner.shards.iter().map(|shard| (shard.name.as_str(), &shard.store))
    }

    /// Shards that did not answer when they were last asked about the ring, and what was in the
    /// way.
    pub fn unreachable(&self) -> Vec<(String, String)> {
        let error = |shard: &Shard| {
            lock(&shard.known).error.clone().map(|error| (shard.name.clone(), error))
        };
        self.inner.shards.iter().filter_map(error).collect()
    }

    /// The shards that have standbys: numbers, names and copies.
    pub fn copies(&self) -> impl Iterator<Item = (usize, &str, &ReplicatedStore)> {
        let shards = self.inner.shards.iter().enumerate();
        shards.filter_map(|(at, shard)| Some((at, shard.name.as_str(), shard.copies.as_ref()?)))
    }

    /// The roll-ups, which live on the home.
    ///
    /// # Errors
    /// [`PostgresError::Options`].
    pub fn rollups(&self, options: PostgresOptions) -> Result<PostgresRollups, PostgresError> {
        match &self.shard(self.home()).copies {
            Some(copies) => copies.rollups(options),
            None => PostgresRollups::open(options),
        }
    }

    /// Whether every shard can be reached, lets us in and has this program's schema: what is wrong
    /// with which. Blocks.
    pub fn check(&self) -> Vec<(String, PostgresError)> {
        let error = |shard: &Shard| Some((shard.name.clone(), shard.check().err()?));
        self.inner.shards.iter().filter_map(error).collect()
    }

    /// Closes the stores of all shards. Blocks.
    pub fn close(&self) {
        for shard in &self.inner.shards {
            shard.close();
        }
    }

    fn shard(&self, at: usize) -> &Shard {
        &self.inner.shards[at]
    }

    /// The map, asked for first if nothing is known.
    async fn map(&self, deadline: Deadline) -> Arc<Map> {
        let map = Arc::clone(&lock(&self.inner.map));
        if !map.is_empty() {
            return map;
        }
        self.confirm_all(Instant::now(), Word::Copy, deadline).await;
        Arc::clone(&lock(&self.inner.map))
    }

    /// The shard that owns a place.
    async fn owner(&self, place: Place, deadline: Deadline) -> Result<usize, StoreError> {
        let map = self.map(deadline).await;
        map.owner(place).ok_or_else(|| {
            let why = if map.is_empty() {
                "no shard says who owns what".to_owned()
            } else {
                "the shard that owns the key is not named in this node's settings".to_owned()
            };
            StoreError::Unavailable(why)
        })
    }

    /// Whether the map still says so.
    fn still_owns(&self, at: usize, place: Place) -> bool {
        lock(&self.inner.map).owner(place) == Some(at)
    }

    /// Makes sure that what is known of a shard's arcs was so at `since` or later.
    async fn confirm(
        &self,
        at: usize,
        since: Instant,
        word: Word,
        deadline: Deadline,
    ) -> Result<(), StoreError> {
        let shard = self.shard(at);
        if word == Word::Copy
            && let Some(copies) = &shard.copies
        {
            if copies.has_primary() {
                let now = Instant::now();
                let soon = Deadline::after(now, deadline.left(now).min(PATIENCE));
                if self.confirm_by(shard, since, Word::Primary, soon).await.is_ok() {
                    return Ok(());
                }
            }
            return self.confirm_by(shard, since, Word::Copy, deadline).await;
        }
        self.confirm_by(shard, since, Word::Primary, deadline).await
    }

    async fn confirm_by(
        &self,
        shard: &Shard,
        since: Instant,
        word: Word,
        deadline: Deadline,
    ) -> Result<(), StoreError> {
        let standbys = shard.copies.as_ref().filter(|_| word == Word::Copy);
        let asking = if standbys.is_some() { &shard.asking_standby } else { &shard.asking };
        let asking = timeout_at(deadline.instant().into(), asking.lock()).await;
        let late = || StoreError::Unavailable("no answer within the deadline".to_owned());
        let _asking = asking.map_err(|_| late())?;
        if lock(&shard.known).confirmed(word).is_some_and(|then| then >= since) {
            return Ok(());
        }
        let sent = Instant::now();
        let heard = match standbys {
            Some(copies) => shard.ask_standby(copies, deadline).await,
            None => shard.ask(deadline).await,
        };
        let mut known = lock(&shard.known);
        match heard {
            Ok(arcs) => {
                match standbys {
                    Some(_) => known.confirmed_by_standby = Some(sent),
                    None => known.confirmed = Some(sent),
                }
                known.error = None;
                let news = arcs.is_some();
                if let Some(arcs) = arcs {
                    known.arcs = Some(Arc::new(arcs));
                }
                drop(known);
                if news {
                    self.remap();
                }
                Ok(())
            }
            Err(error) => {
                known.error = Some(error.to_string());
                Err(shard.named(error))
            }
        }
    }

    fn remap(&self) {
        // Under the map's own lock, so that a later one is not overwritten by an earlier one.
        let mut map = lock(&self.inner.map);
        let known: Vec<Option<Arc<Arcs>>> =
            self.inner.shards.iter().map(|shard| lock(&shard.known).arcs.clone()).collect();
        *map = Arc::new(Map::merge(&self.inner.names, &known));
    }

    /// Asks all shards at once; those that do not answer say nothing.
    async fn confirm_all(&self, since: Instant, word: Word, deadline: Deadline) {
        let deadline = Deadline::after(Instant::now(), deadline.left(Instant::now()).min(LEASE));
        let all = (0..self.inner.shards.len()).map(|at| self.confirm(at, since, word, deadline));
        drop(join_all(all).await);
    }

    /// Whether an answer that shard `at` gave just now about `place` is its to give.
    ///
    /// # Errors
    /// When that can't be found out.
    async fn proven(
        &self,
        proof: Proof,
        at: usize,
        place: Place,
        deadline: Deadline,
    ) -> Result<bool, StoreError> {
        let now = Instant::now();
        let lease = now.checked_sub(LEASE).unwrap_or(now);
        let (since, word) = match proof {
            Proof::Guarded => return Ok(true),
            Proof::Lease => (lease, Word::Primary),
            Proof::Copy => (lease, Word::Copy),
            Proof::After => (now, Word::Primary),
        };
        let confirmed = lock(&self.shard(at).known).confirmed(word);
        if confirmed.is_none_or(|then| then < since) {
            self.confirm(at, since, word, deadline).await?;
        } else if proof != Proof::After
            && confirmed.is_some_and(|then| now.duration_since(then) > LEASE / 2)
        {
            self.confirm_ahead(at, word);
        }
        Ok(self.still_owns(at, place))
    }

    /// Confirms the map before anybody has to wait for it.
    fn confirm_ahead(&self, at: usize, word: Word) {
        let store = self.clone();
        self.shard(at).store.spawn(async move {
            let shard = store.shard(at);
            if shard.asking.try_lock().is_err() || shard.asking_standby.try_lock().is_err() {
                return;
            }
            let now = Instant::now();
            let since = now.checked_sub(LEASE / 2).unwrap_or(now);
            // Whoever needs it asks again.
            let _ = store.confirm(at, since, word, Deadline::after(now, LEASE)).await;
        });
    }

    /// After a write came to the wrong shard: looks where its key is now.
    ///
    /// # Errors
    /// When the deadline passes first.
    async fn look_again(
        &self,
        at: usize,
        place: Place,
        deadline: Deadline,
    ) -> Result<(), StoreError> {
        self.confirm_all(Instant::now(), Word::Primary, deadline).await;
        if !self.still_owns(at, place) {
            return Ok(());
        }
        // Let go by the last owner and not yet taken: whoever moves it does that within a moment,
        // or was stopped in between.
        let untaken = lock(&self.inner.map).untaken.clone();
        for arc in untaken {
            let shard = self.shard(arc.to);
            let taken = shard.store.take_arc(arc.start, &shard.name, arc.epoch, deadline).await;
            if !matches!(taken, Outcome::Done(())) {
                break;
            }
        }
        if deadline.passed(Instant::now() + PAUSE) {
            return Err(StoreError::Unavailable(
                "the key is being moved to another shard".to_owned(),
            ));
        }
        tokio::time::sleep(PAUSE).await;
        Ok(())
    }
}
