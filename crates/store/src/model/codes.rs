//! The reference model's code pool, leases and small settings.

use shunt_domain::ports::{CodePool, HighWater, MetaStore, Raised, RangeLeases};

use super::*;

impl CodePool for ModelStore {
    fn add_codes(
        &self,
        rows: Vec<Vec<Code>>,
        _: Deadline,
    ) -> BoxFuture<'_, Outcome<(), StoreError>> {
        self.data().pool.extend(rows.into_iter().filter(|row| !row.is_empty()));
        done(())
    }

    fn claim_codes(&self, _: Deadline) -> BoxFuture<'_, Outcome<Option<Vec<Code>>, StoreError>> {
        let mut data = self.data();
        done((!data.pool.is_empty()).then(|| data.pool.remove(0)))
    }

    fn pool_size(&self, _: Deadline) -> BoxFuture<'_, Result<u64, StoreError>> {
        now(Ok(self.data().pool.iter().map(Vec::len).sum::<usize>() as u64))
    }
}

impl RangeLeases for ModelStore {
    fn lease(&self, len: u64, _: Deadline) -> BoxFuture<'_, Outcome<Range, StoreError>> {
        done(self.data().lease(len))
    }

    fn give_back(&self, rest: Range, _: Deadline) -> BoxFuture<'_, Outcome<(), StoreError>> {
        self.data().give_back(rest);
        done(())
    }
}

impl HighWater for ModelStore {
    fn take_rest(
        &self,
        len: u64,
        _: Deadline,
    ) -> BoxFuture<'_, Outcome<Option<Range>, StoreError>> {
        let mut data = self.data();
        done((!data.rests.is_empty()).then(|| data.lease(len)))
    }

    fn raise(&self, proposed: Range, _: Deadline) -> BoxFuture<'_, Outcome<Raised, StoreError>> {
        let mut data = self.data();
        let counts = proposed.start < proposed.end && i64::try_from(proposed.end).is_ok();
        if data.high > proposed.start || !counts {
            return done(Raised::Beyond(data.high));
        }
        data.high = proposed.end;
        data.leased.push(proposed);
        done(Raised::Yes)
    }
}

impl MetaStore for ModelStore {
    fn meta(
        &self,
        name: &'static str,
        _: Deadline,
    ) -> BoxFuture<'_, Result<Option<Vec<u8>>, StoreError>> {
        now(Ok(self.data().meta.get(name).cloned()))
    }

    fn meta_or_insert(
        &self,
        name: &'static str,
        value: Vec<u8>,
        _: Deadline,
    ) -> BoxFuture<'_, Outcome<Vec<u8>, StoreError>> {
        done(self.data().meta.entry(name).or_insert(value).clone())
    }

    fn set_meta(
        &self,
        name: &'static str,
        value: Vec<u8>,
        _: Deadline,
    ) -> BoxFuture<'_, Outcome<(), StoreError>> {
        self.data().meta.insert(name, value);
        done(())
    }

    fn visitor_secret(
        &self,
        day: i64,
        fresh: [u8; 32],
        _: Deadline,
    ) -> BoxFuture<'_, Outcome<[u8; 32], StoreError>> {
        let mut data = self.data();
        data.secrets.retain(|known, _| *known >= day - 2);
        done(*data.secrets.entry(day).or_insert(fresh))
    }
}
