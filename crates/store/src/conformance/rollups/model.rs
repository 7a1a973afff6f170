//! The reference model of roll-ups: plain maps and one set member per event.

use std::collections::{BTreeMap, BTreeSet};
use std::future::ready;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use shunt_domain::ports::{
    BootId, BoxFuture, HourRow, LedgerRow, NodeId, RollupBatch, RollupRefusal, RollupStore,
    SeqRange, Totals,
};
use shunt_domain::{Deadline, Lane, LinkKey, Outcome, StoreError};

/// Roll-ups in memory.
#[derive(Debug, Default)]
pub struct RollupModel {
    data: Mutex<Data>,
}

type Stream = (NodeId, BootId, Lane);

#[derive(Debug, Default)]
struct Data {
    counted: BTreeMap<Stream, BTreeSet<u64>>,
    hours: BTreeMap<(LinkKey, i64), Totals>,
    ledger: BTreeMap<(NodeId, BootId), LedgerRow>,
}

/// Runs of neighbouring numbers.
fn runs((node, boot, lane): Stream, numbers: impl Iterator<Item = u64>) -> Vec<SeqRange> {
    let mut runs: Vec<SeqRange> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some(run) if run.last + 1 == number => run.last = number,
            _ => runs.push(SeqRange { node, boot, lane, first: number, last: number }),
        }
    }
    runs
}

impl Data {
    fn apply(&mut self, batch: RollupBatch) -> Outcome<(), RollupRefusal> {
        let mut again = Vec::new();
        for mark in &batch.marks {
            let stream = (mark.node, mark.boot, mark.lane);
            let counted = self.counted.entry(stream).or_default();
            again.extend(runs(stream, counted.range(mark.first..=mark.last).copied()));
        }
        if !again.is_empty() {
            return Outcome::Refused(RollupRefusal::Counted(again));
        }
        for mark in batch.marks {
            let counted = self.counted.entry((mark.node, mark.boot, mark.lane)).or_default();
            counted.extend(mark.first..=mark.last);
        }
        for row in batch.rows {
            let sum = self.hours.entry((row.key, row.hour)).or_default();
            sum.clicks += row.clicks;
            sum.humans += row.humans;
            sum.heads += row.heads;
        }
        for row in batch.ledger {
            let known = self.ledger.entry((row.node, row.boot)).or_insert(row);
            if (row.closed, row.served) >= (known.closed, known.served)
                && row.closed >= known.closed
            {
                *known = row;
            }
        }
        Outcome::Done(())
    }
}

impl RollupModel {
    fn data(&self) -> MutexGuard<'_, Data> {
        self.data.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RollupStore for RollupModel {
    fn apply(
        &self,
        batch: RollupBatch,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<(), RollupRefusal>> {
        if deadline.passed(Instant::now()) {
            let late = StoreError::Unavailable("the deadline has passed".to_owned());
            return Box::pin(ready(Outcome::Refused(RollupRefusal::Store(late))));
        }
        Box::pin(ready(self.data().apply(batch)))
    }

    fn marks(
        &self,
        node: NodeId,
        _deadline: Deadline,
    ) -> BoxFuture<'_, Result<Vec<SeqRange>, StoreError>> {
        let data = self.data();
        let of_node = data.counted.iter().filter(|(stream, _)| stream.0 == node);
        let all = of_node.flat_map(|(&stream, set)| runs(stream, set.iter().copied())).collect();
        Box::pin(ready(Ok(all)))
    }

    fn totals<'a>(
        &'a self,
        key: &'a LinkKey,
        _deadline: Deadline,
    ) -> BoxFuture<'a, Result<Totals, StoreError>> {
        let mut sum = Totals::default();
        for ((_, _), row) in self.data().hours.iter().filter(|((of, _), _)| of == key) {
            sum.clicks += row.clicks;
            sum.humans += row.humans;
            sum.heads += row.heads;
        }
        Box::pin(ready(Ok(sum)))
    }

    fn hours<'a>(
        &'a self,
        key: &'a LinkKey,
        from: i64,
        to: i64,
        _deadline: Deadline,
    ) -> BoxFuture<'a, Result<Vec<HourRow>, StoreError>> {
        let data = self.data();
        let rows = data
            .hours
            .iter()
            .filter(|((of, hour), _)| of == key && (from..to).contains(hour))
            .map(|((key, hour), row)| HourRow {
                key: key.clone(),
                hour: *hour,
                clicks: row.clicks,
                humans: row.humans,
                heads: row.heads,
            })
            .collect();
        Box::pin(ready(Ok(rows)))
    }

    fn ledger(&self, _deadline: Deadline) -> BoxFuture<'_, Result<Vec<LedgerRow>, StoreError>> {
        let data = self.data();
        let rows = data
            .ledger
            .values()
            .map(|row| {
                let of_boot = data
                    .counted
                    .iter()
                    .filter(|(stream, _)| (stream.0, stream.1) == (row.node, row.boot));
                let counted = of_boot.map(|(_, set)| set.len() as u64).sum();
                LedgerRow { counted, ..*row }
            })
            .collect();
        Box::pin(ready(Ok(rows)))
    }
}
