//! A store of roll-ups that holds what a test puts in.

use std::sync::Mutex;

use shunt_domain::ports::{
    BoxFuture, HourRow, LedgerRow, NodeId, RollupBatch, RollupRefusal, RollupStore, SeqRange,
    Totals,
};
use shunt_domain::{Deadline, LinkKey, Outcome, StoreError};

/// Click figures as a test sets them.
#[derive(Default)]
pub(crate) struct Figures(pub(crate) Mutex<Vec<HourRow>>);

fn now<T: Send + 'static>(value: T) -> BoxFuture<'static, T> {
    Box::pin(std::future::ready(value))
}

impl RollupStore for Figures {
    fn apply(&self, _: RollupBatch, _: Deadline) -> BoxFuture<'_, Outcome<(), RollupRefusal>> {
        now(Outcome::Refused(RollupRefusal::Store(StoreError::Unsupported("roll-ups"))))
    }

    fn marks(&self, _: NodeId, _: Deadline) -> BoxFuture<'_, Result<Vec<SeqRange>, StoreError>> {
        now(Ok(Vec::new()))
    }

    fn totals<'a>(
        &'a self,
        key: &'a LinkKey,
        _: Deadline,
    ) -> BoxFuture<'a, Result<Totals, StoreError>> {
        let mut totals = Totals::default();
        for row in self.0.lock().unwrap().iter().filter(|row| row.key == *key) {
            totals.clicks += row.clicks;
            totals.humans += row.humans;
            totals.heads += row.heads;
        }
        now(Ok(totals))
    }

    fn hours<'a>(
        &'a self,
        key: &'a LinkKey,
        from: i64,
        to: i64,
        _: Deadline,
    ) -> BoxFuture<'a, Result<Vec<HourRow>, StoreError>> {
        let rows = self.0.lock().unwrap();
        let rows = rows.iter().filter(|row| row.key == *key && (from..to).contains(&row.hour));
        now(Ok(rows.cloned().collect()))
    }

    fn ledger(&self, _: Deadline) -> BoxFuture<'_, Result<Vec<LedgerRow>, StoreError>> {
        now(Ok(Vec::new()))
    }
}
