//! Reading one link, and the writes of links: each goes to the shard that owns its code.

use futures_util::future::join_all;
use shunt_domain::ports::{
    BoxFuture, Change, ChangeRefusal, Claim, CreateRefusal, LinkMirror, LinkReader, LinkWriter,
};
use shunt_domain::ring::Place;
use shunt_domain::{
    Deadline, Link, LinkKey, LinkPatch, NewLink, Outcome, StoreError, Stored, Timestamp,
    UnknownCause, Version,
};

use super::shard::Shard;
use super::{Proof, ShardedStore};
use crate::postgres::arcs::{Given, Part};
use crate::postgres::{Kind, PostgresStore};

/// Where a link lives.
fn place(key: &LinkKey) -> Place {
    Place::of(key.code.as_str())
}

/// How a port's refusals hold the store's own.
pub(super) struct Refusals<R> {
    /// A refusal by the store.
    pub(super) wrap: fn(StoreError) -> R,
    /// Whether the wrong shard was asked.
    pub(super) moved: fn(&R) -> bool,
}

impl Refusals<StoreError> {
    pub(super) const STORE: Self =
        Self { wrap: |error| error, moved: |error| *error == StoreError::Moved };
}

impl Refusals<CreateRefusal> {
    const CREATE: Self = Self {
        wrap: CreateRefusal::Store,
        moved: |refusal| *refusal == CreateRefusal::Store(StoreError::Moved),
    };
}

impl Refusals<ChangeRefusal> {
    const CHANGE: Self = Self {
        wrap: ChangeRefusal::Store,
        moved: |refusal| *refusal == ChangeRefusal::Store(StoreError::Moved),
    };
}

/// What was said about a change after no more than a look at the row.
fn by_reading<T>(outcome: &Outcome<T, ChangeRefusal>) -> Proof {
    match outcome {
        Outcome::Refused(ChangeRefusal::NotFound | ChangeRefusal::Stale(_)) => Proof::After,
        _ => Proof::Guarded,
    }
}

fn version(row: &Stored) -> Version {
    match row {
        Stored::Link(link) => link.version,
        Stored::Tombstone(tombstone) => tombstone.version,
    }
}

impl ShardedStore {
    /// Does a write where its place is, wherever it is moved meanwhile.
    pub(super) async fn write<'a, T, R>(
        &'a self,
        place: Place,
        deadline: Deadline,
        refusals: Refusals<R>,
        proof: fn(&Outcome<T, R>) -> Proof,
        attempt: impl Fn(&'a Shard) -> BoxFuture<'a, Outcome<T, R>>,
    ) -> Outcome<T, R> {
        let refuse = |error| Outcome::Refused((refusals.wrap)(error));
        loop {
            let at = match self.owner(place, deadline).await {
                Ok(at) => at,
                Err(error) => return refuse(error),
            };
            let outcome = attempt(self.shard(at)).await;
            if let Outcome::Refused(refusal) = &outcome
                && (refusals.moved)(refusal)
            {
                match self.look_again(at, place, deadline).await {
                    Ok(()) => continue,
                    Err(error) => return refuse(error),
                }
            }
            match self.proven(proof(&outcome), at, place, deadline).await {
                Ok(true) => return outcome,
                Ok(false) => {}
                Err(error) => return refuse(error),
            }
        }
    }

    /// Asks every shard for its newest link before the first one is made here, so that links of one
    /// millisecond keep their order whatever shard they are on.
    async fn know_newest(&self) {
        let asking = || async {
            drop(join_all(self.inner.shards.iter().map(|s| s.store.learn_newest())).await);
        };
        self.inner.placed.get_or_init(asking).await;
    }

    /// Writes a batch: each shard gets its part as one transaction. What is refused as a part is
    /// told row by row, unless it is everything.
    async fn in_parts<'a, T: Clone, V>(
        &'a self,
        rows: Vec<T>,
        given: Given,
        deadline: Deadline,
        place: fn(&T) -> Place,
        attempt: impl Fn(
            &'a PostgresStore,
            Part<T>,
        ) -> BoxFuture<'a, Outcome<Vec<Result<V, CreateRefusal>>, StoreError>>,
    ) -> Outcome<Vec<Result<V, CreateRefusal>>, StoreError> {
        let mut told: Vec<Option<Result<V, CreateRefusal>>> = rows.iter().map(|_| None).collect();
        let mut unknown: Option<UnknownCause> = None;
        let mut refused: Option<StoreError> = None;
        let mut left: Vec<usize> = (0..rows.len()).collect();
        while !left.is_empty() {
            // Each round sorts what is left by the owners of the moment.
            let mut parts: Vec<(Part<T>, Vec<usize>)> =
                self.inner.shards.iter().map(|_| <(Part<T>, Vec<usize>)>::default()).collect();
            for at in std::mem::take(&mut left) {
                let Some(row) = rows.get(at) else { continue };
                match self.owner(place(row), deadline).await {
                    Ok(owner) => {
                        let (part, positions) = &mut parts[owner];
                        part.add(row.clone(), at, &given);
                        positions.push(at);
                    }
                    Err(error) => {
                        told[at] = Some(Err(CreateRefusal::Store(error.clone())));
                        refused = Some(error);
                    }
                }
            }
            let parts = self.inner.shards.iter().zip(parts).enumerate();
            let parts = parts.filter(|(_, (_, (_, positions)))| !positions.is_empty());
            let attempts = parts.map(|(owner, (shard, (part, positions)))| {
                let attempt = attempt(&shard.store, part);
                async move { (owner, positions, attempt.await) }
            });
            let mut moved = None;
            for (owner, positions, outcome) in join_all(attempts).await {
                match outcome {
                    Outcome::Done(results) => {
                        for (at, result) in positions.into_iter().zip(results) {
                            told[at] = Some(result);
                        }
                    }
                    Outcome::Refused(StoreError::Moved) => {
                        moved = positions.first().map(|at| (owner, *at)).or(moved);
                        left.extend(positions);
                    }
                    Outcome::Refused(error) => {
                        let error = self.shard(owner).named(error);
                        for at in positions {
                            told[at] = Some(Err(CreateRefusal::Store(error.clone())));
                        }
                        refused = Some(error);
                    }
                    Outcome::Unknown(cause) => unknown = Some(cause),
                }
            }
            left.sort_unstable();
            if let Some((owner, at)) = moved
                && let Some(row) = rows.get(at)
                && let Err(error) = self.look_again(owner, place(row), deadline).await
            {
                for at in std::mem::take(&mut left) {
                    told[at] = Some(Err(CreateRefusal::Store(error.clone())));
                }
                refused = Some(error);
            }
        }
        let of_the_store = |told: &Option<Result<V, CreateRefusal>>| {
            matches!(told, Some(Err(CreateRefusal::Store(_))))
        };
        match (unknown, refused) {
            (Some(cause), _) => Outcome::Unknown(cause),
            (None, Some(error)) if told.iter().all(of_the_store) => Outcome::Refused(error),
            // Every row was told something, or the outcome is unknown.
            _ => Outcome::Done(told.into_iter().flatten().collect()),
        }
    }
}

impl ShardedStore {
    /// Places for rows that go back to their own time.
    async fn old_places(&self, rows: &[Stored]) -> Given {
        self.know_newest().await;
        let time = |row: &Stored| match row {
            Stored::Link(link) => link.data.created_at,
            Stored::Tombstone(tombstone) => tombstone.created_at,
        };
        let times: Vec<Timestamp> = rows.iter().map(time).collect();
        self.home_store().place_batch(Kind::Restored, &times)
    }

    /// Reads one link from its shard's nearest copy, or from its primary.
    async fn read(
        &self,
        key: &LinkKey,
        min_version: Version,
        deadline: Deadline,
        nearest: bool,
    ) -> Result<Option<Stored>, StoreError> {
        let place = place(key);
        loop {
            let at = self.owner(place, deadline).await?;
            let shard = self.shard(at);
            let copies = shard.copies.as_ref().filter(|_| nearest);
            let row = match copies {
                Some(copies) => copies.get(key, min_version, deadline).await,
                None => shard.store.get(key, min_version, deadline).await,
            };
            let row = row.map_err(|error| shard.named(error))?;
            let proof = match &row {
                // An older version than somebody has seen: moved, and changed at its new place.
                Some(row) if version(row) < min_version => Proof::After,
                Some(_) if copies.is_some() => Proof::Copy,
                // That there is none only a primary says.
                Some(_) | None => Proof::Lease,
            };
            if self.proven(proof, at, place, deadline).await? {
                return Ok(row);
            }
        }
    }
}

impl LinkReader for ShardedStore {
    /// From the nearest copy of its shard; see [`ReplicatedStore`].
    ///
    /// [`ReplicatedStore`]: crate::replicated::ReplicatedStore
    fn get<'a>(
        &'a self,
        key: &'a LinkKey,
        min_version: Version,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Option<Stored>, StoreError>> {
        Box::pin(self.read(key, min_version, deadline, true))
    }
}

/// Reads links from the primaries alone, with every write that was answered before.
#[derive(Clone, Debug)]
pub struct Primaries(ShardedStore);

impl ShardedStore {
    /// The reader for the API.
    pub fn primaries(&self) -> Primaries {
        Primaries(self.clone())
    }
}

impl LinkReader for Primaries {
    fn get<'a>(
        &'a self,
        key: &'a LinkKey,
        min_version: Version,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Option<Stored>, StoreError>> {
        Box::pin(self.0.read(key, min_version, deadline, false))
    }
}

impl LinkMirror for ShardedStore {
    /// One transaction on each shard; what some of them have done is done when another one refuses.
    fn replace_many(
        &self,
        rows: Vec<Stored>,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<(), StoreError>> {
        Box::pin(async move {
            let given = self.old_places(&rows).await;
            let replaced = self.in_parts(
                rows,
                given,
                deadline,
                |row| place(row.key()),
                |store, part| Box::pin(store.replace_part(part, deadline)),
            );
            let rows = match replaced.await {
                Outcome::Done(rows) => rows,
                Outcome::Refused(error) => return Outcome::Refused(error),
                Outcome::Unknown(cause) => return Outcome::Unknown(cause),
            };
            let refused = rows.into_iter().find_map(|row| match row {
                Err(CreateRefusal::Store(error)) => Some(error),
                // A row that is as new stays, which is no refusal.
                Ok(()) | Err(CreateRefusal::Taken | CreateRefusal::Retired) => None,
            });
            refused.map_or(Outcome::Done(()), Outcome::Refused)
        })
    }
}

impl LinkWriter for ShardedStore {
    fn create(
        &self,
        link: NewLink,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Link, CreateRefusal>> {
        Box::pin(async move {
            self.know_newest().await;
            let place = place(&link.key);
            let guarded = |_: &Outcome<_, _>| Proof::Guarded;
            self.write(place, deadline, Refusals::CREATE, guarded, |shard| {
                shard.store.create(link.clone(), deadline)
            })
            .await
        })
    }

    /// One transaction on each shard.
    fn create_many(
        &self,
        links: Vec<NewLink>,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Vec<Result<Link, CreateRefusal>>, StoreError>> {
        Box::pin(async move {
            self.know_newest().await;
            let times: Vec<Timestamp> = links.iter().map(|link| link.created_at).collect();
            let given = self.home_store().place_batch(Kind::New, &times);
            self.in_parts(
                links,
                given,
                deadline,
                |link| place(&link.key),
                |store, part| Box::pin(store.create_part(part, deadline)),
            )
            .await
        })
    }

    fn restore_many(
        &self,
        rows: Vec<Stored>,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Vec<Result<(), CreateRefusal>>, StoreError>> {
        Box::pin(async move {
            let given = self.old_places(&rows).await;
            self.in_parts(
                rows,
                given,
                deadline,
                |row| place(row.key()),
                |store, part| Box::pin(store.restore_part(part, deadline)),
            )
            .await
        })
    }

    fn patch(
        &self,
        change: Change,
        patch: LinkPatch,
        now: Timestamp,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Link, ChangeRefusal>> {
        Box::pin(async move {
            let place = place(&change.key);
            self.write(place, deadline, Refusals::CHANGE, by_reading, |shard| {
                shard.writer().patch(change.clone(), patch.clone(), now, deadline)
            })
            .await
        })
    }

    fn delete(
        &self,
        change: Change,
        now: Timestamp,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Version, ChangeRefusal>> {
        Box::pin(async move {
            let place = place(&change.key);
            self.write(place, deadline, Refusals::CHANGE, by_reading, |shard| {
                shard.writer().delete(change.clone(), now, deadline)
            })
            .await
        })
    }

    fn claim_click(
        &self,
        key: LinkKey,
        now: Timestamp,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<Claim, StoreError>> {
        Box::pin(async move {
            // A link whose limit was lifted is granted without a write.
            let proof = |outcome: &Outcome<Claim, StoreError>| match outcome {
                Outcome::Done(Claim::Granted(link)) if link.data.max_clicks.is_some() => {
                    Proof::Guarded
                }
                Outcome::Done(_) => Proof::After,
                _ => Proof::Guarded,
            };
            self.write(place(&key), deadline, Refusals::STORE, proof, |shard| {
                shard.writer().claim_click(key.clone(), now, deadline)
            })
            .await
        })
    }
}
