//! Idempotency rows: each lives where its key's hash lies on the ring, so that a key is known
//! whatever code it made. Links lie elsewhere, so there is no `CreateOnce`: the row with the chosen
//! code goes first, then the link, then the answer.

use futures_util::future::join_all;
use shunt_domain::ports::{
    BoxFuture, IdempotencyScope, IdempotencyState, IdempotencyStore, IdempotentBegin,
};
use shunt_domain::ring::Place;
use shunt_domain::{Deadline, Outcome, StoreError, Timestamp};

use super::links::Refusals;
use super::{Proof, ShardedStore};

/// Where a key's row lives: the first half of its hash.
fn place(hash: &[u8; 32]) -> Place {
    let (half, _) = hash.as_chunks::<16>();
    Place(half.first().copied().map_or(0, u128::from_be_bytes))
}

impl IdempotencyStore for ShardedStore {
    fn begin(
        &self,
        request: IdempotentBegin,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<IdempotencyState, StoreError>> {
        Box::pin(async move {
            // It begins with an insertion.
            let guarded = |_: &Outcome<_, _>| Proof::Guarded;
            let place = place(&request.key_hash);
            self.write(place, deadline, Refusals::STORE, guarded, |shard| {
                shard.store.begin(request.clone(), deadline)
            })
            .await
        })
    }

    fn complete(
        &self,
        scope: IdempotencyScope,
        key_hash: [u8; 32],
        status: u16,
        response: Vec<u8>,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<(), StoreError>> {
        Box::pin(async move {
            // A row that is not there any more is not guarded.
            let lease = |_: &Outcome<_, _>| Proof::Lease;
            self.write(place(&key_hash), deadline, Refusals::STORE, lease, |shard| {
                shard.store.complete(scope, key_hash, status, response.clone(), deadline)
            })
            .await
        })
    }

    fn abandon(
        &self,
        scope: IdempotencyScope,
        key_hash: [u8; 32],
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<(), StoreError>> {
        Box::pin(async move {
            let lease = |_: &Outcome<_, _>| Proof::Lease;
            self.write(place(&key_hash), deadline, Refusals::STORE, lease, |shard| {
                shard.store.abandon(scope, key_hash, deadline)
            })
            .await
        })
    }

    /// On every shard that can be reached.
    fn purge(
        &self,
        before: Timestamp,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<u64, StoreError>> {
        Box::pin(async move {
            let all = self.shards().map(|(_, store)| store.purge(before, deadline));
            let (mut rows, mut failed) = (0, None);
            for outcome in join_all(all).await {
                match outcome {
                    Outcome::Done(gone) => rows += gone,
                    // It met rows that are being moved: another time.
                    Outcome::Refused(StoreError::Moved) => {}
                    other => failed = Some(other),
                }
            }
            match failed {
                Some(failed) if rows == 0 => failed,
                _ => Outcome::Done(rows),
            }
        })
    }
}
