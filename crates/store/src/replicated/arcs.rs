//! What the copies of a database that is a shard say of the ring.

use shunt_domain::{Deadline, StoreError};

use super::store::ReplicatedStore;
use crate::postgres::ShardRow;
use crate::sharded::map::Arcs;

impl ReplicatedStore {
    /// Which shard it is; `None` when it is none. Whichever copy can be asked says so.
    pub(crate) async fn shard_row(
        &self,
        deadline: Deadline,
    ) -> Result<Option<ShardRow>, StoreError> {
        let primary = Box::pin(self.primary().shard_row(deadline));
        self.on_any(primary, move |copy| Box::pin(copy.shard_row(deadline))).await
    }

    /// The highest epoch of the arcs as a standby has them.
    pub(crate) async fn standby_epoch(&self, deadline: Deadline) -> Result<i64, StoreError> {
        self.on_standby(move |copy| Box::pin(copy.arcs_epoch(deadline))).await
    }

    /// All arcs as a standby has them.
    pub(crate) async fn standby_arcs(&self, deadline: Deadline) -> Result<Arcs, StoreError> {
        self.on_standby(move |copy| Box::pin(copy.arcs(deadline))).await
    }
}
