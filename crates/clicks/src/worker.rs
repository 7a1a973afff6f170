//! The worker in the process: folds frames for a while, then stores rows, marks and ledger in one
//! transaction, and lets the spool delete what is stored.
//!
//! Invariants:
//! - an event is folded only if neither the store's marks nor this batch have its number;
//! - after anything but "done" the reader goes back to the last stored place and everything
//!   since is folded again, without what the store says is counted: there is one way to retry,
//!   and it is right for refused, unknown and lost outcomes alike;
//! - a gap in a lane's numbers (damaged frames, events that can't be decoded) is reported as
//!   lost by the ledger of the same transaction.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use shunt_analytics::{Folder, RangeSet};
use shunt_domain::click::codec::{ClickDecodeError, decode};
use shunt_domain::ports::{BootId, LedgerRow, NodeId, RollupRefusal, RollupStore, SeqRange};
use shunt_domain::{Deadline, Lane, Outcome, StoreError};
use tokio::runtime::Runtime;

use crate::config::PipelineConfig;
use crate::frame::{BootState, Frame, RecordBatch};
use crate::pipeline::Control;
use crate::spool::reader::{Next, Position, SpoolReader};
use crate::stats::{Meters, WorkerState, add};

/// How long to wait after a failed batch before the next try: first and most.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How long the worker looks for frames at once when nothing else is due.
const LOOK: Duration = Duration::from_secs(1);

type Lanes = Box<[RangeSet; Lane::COUNT]>;

fn no_lanes() -> Lanes {
    Box::new(std::array::from_fn(|_| RangeSet::new()))
}

pub(crate) struct Worker {
    pub(crate) config: PipelineConfig,
    pub(crate) node: NodeId,
    /// The boot of this process: its marks begin empty.
    pub(crate) boot: BootId,
    pub(crate) rollups: Arc<dyn RollupStore>,
    pub(crate) meters: Arc<Meters>,
    pub(crate) control: Arc<Control>,
    /// Ports may need a Tokio runtime with a timer; this one has no threads of its own.
    pub(crate) runtime: Runtime,
}

/// What is known between two batches.
struct Progress {
    folder: Folder,
    /// What the store has counted, of the boots whose frames were met.
    known: BTreeMap<BootId, Lanes>,
    /// The newest frame of each boot since the last batch.
    heard: BTreeMap<BootId, BootState>,
    /// Everything before is stored.
    stored: Position,
    /// When the oldest thing not stored yet was read.
    since: Option<Instant>,
    /// Where something could not be read: what comes before is stored first.
    limit: Option<Position>,
    /// How long to wait after the next failure.
    wait: Duration,
}

impl Worker {
    /// Runs until the spool ends and everything is stored, or the time is over; whether
    /// everything is stored.
    pub(crate) fn run(self, mut reader: SpoolReader) -> bool {
        let done = self.live(&mut reader);
        self.meters.worker(WorkerState::Stopped, None);
        done
    }

    fn live(&self, reader: &mut SpoolReader) -> bool {
        // Keys the folder's hash table; not a secret worth more.
        let seed = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), self.node.0);
        let mut progress = Progress {
            folder: Folder::new(seed),
            known: BTreeMap::new(),
            heard: BTreeMap::new(),
            stored: reader.position(),
            since: None,
            limit: None,
            wait: RETRY.0,
        };
        loop {
            if self.control.out_of_time() {
                return false;
            }
            if self.control.wait_while_paused(&self.meters) {
                continue;
            }
            let limited = progress.limit.is_some_and(|limit| reader.position() >= limit);
            let mut end = false;
            if !limited {
                match self.read(&mut progress, reader) {
                    Ok(ended) => end = ended,
                    Err(failed) => {
                        self.fail(failed, &mut progress);
                        continue;
                    }
                }
            }
            let due = end
                || limited
                || progress.folder.rows() >= self.config.fold_rows
                || progress.since.is_some_and(|since| since.elapsed() >= self.config.fold_interval);
            if due && progress.since.is_some() {
                if let Err(failed) = self.store(&mut progress, reader) {
                    progress.forget();
                    reader.rewind(progress.stored);
                    self.fail(failed, &mut progress);
                    continue;
                }
                progress.wait = RETRY.0;
            }
            if limited {
                progress.limit = None;
            }
            if end {
                return true;
            }
        }
    }

    /// Reads and folds the next frame, if there is one in time; whether the spool ended.
    fn read(&self, progress: &mut Progress, reader: &mut SpoolReader) -> Result<bool, Failed> {
        let due = progress.since.map(|since| since + self.config.fold_interval);
        let timeout = due.map_or(LOOK, |due| due.saturating_duration_since(Instant::now()));
        let before = reader.position();
        let read = match reader.next(timeout) {
            Ok(Next::Frame(frame)) => self.take(&frame, progress).map(|()| false),
            Ok(Next::Nothing) => Ok(false),
            Ok(Next::End) => Ok(true),
            Err(error) => Err(Failed::Read(error.to_string())),
        };
        self.meters.damaged_bytes.store(reader.damaged_bytes(), Ordering::Relaxed);
        if read.is_err() {
            // A part of the frame may be folded. Everything since the last batch is folded
            // again, up to this frame, and stored; then this frame is tried again.
            if before > progress.stored {
                progress.limit = Some(before);
            }
            progress.forget();
            reader.rewind(progress.stored);
        }
        read
    }

    fn fail(&self, failed: Failed, progress: &mut Progress) {
        let (state, text) = match failed {
            Failed::Again => return,
            Failed::Read(text) => (WorkerState::ReadError, text),
            Failed::Store(text) => (WorkerState::StoreError, text),
        };
        self.meters.worker(state, Some(text));
        self.control.wait(progress.wait);
        progress.wait = (progress.wait * 2).min(RETRY.1);
    }

    /// Folds one frame.
    fn take(&self, frame: &Frame<'_>, progress: &mut Progress) -> Result<(), Failed> {
        let boot = frame.state.boot;
        self.meet(boot, progress)?;
        progress.since.get_or_insert_with(Instant::now);
        let at = u64::try_from(frame.state.at.as_millis()).unwrap_or(0);
        // Before anything is stored, the lag counts from the oldest frame.
        let _ = self.meters.stored_at.compare_exchange(0, at, Ordering::Relaxed, Ordering::Relaxed);
        if let Some(known) = progress.known.get(&boot) {
            for record in frame.records() {
                let known = &known[usize::from(record.lane.number())];
                self.fold(&record, known, &mut progress.folder)?;
            }
        }
        progress.heard.insert(boot, frame.state.clone());
        Ok(())
    }

    /// Folds one run of events but for those counted already.
    fn fold(
        &self,
        record: &RecordBatch<'_>,
        known: &RangeSet,
        folder: &mut Folder,
    ) -> Result<(), Failed> {
        let RecordBatch { node, boot, lane, first_seq, count, .. } = *record;
        let last_seq = first_seq + u64::from(count) - 1;
        if known.contains_all(first_seq, last_seq) {
            return Ok(());
        }
        let marked = folder.marked(node, boot, lane).filter(|m| m.overlaps(first_seq, last_seq));
        let marked = marked.cloned().unwrap_or_default();
        let clean = marked.is_empty() && !known.overlaps(first_seq, last_seq);
        let mut run: Option<(u64, u64)> = None;
        let mut result = Ok(());
        for (seq, event) in (first_seq..=last_seq).zip(record.events()) {
            if !clean && (known.contains(seq) || marked.contains(seq)) {
                continue;
            }
            match decode(event) {
                Ok(click) if folder.fold(&click).is_ok() => {}
                Err(error @ ClickDecodeError::Version(_)) => {
                    result = Err(Failed::Read(error.to_string()));
                    break;
                }
                // A gap in the numbers from here on, and so a loss in the ledger.
                _ => {
                    add(&self.meters.undecodable, 1);
                    continue;
                }
            }
            run = match run {
                Some((first, last)) if last + 1 == seq => Some((first, seq)),
                other => {
                    mark(folder, record, other);
                    Some((seq, seq))
                }
            };
        }
        mark(folder, record, run);
        result
    }

    /// Makes sure that the marks of `boot` are known.
    fn meet(&self, boot: BootId, progress: &mut Progress) -> Result<(), Failed> {
        if progress.known.contains_key(&boot) {
            return Ok(());
        }
        progress.known.insert(boot, no_lanes());
        if boot == self.boot {
            return Ok(());
        }
        let marks = self.runtime.block_on(self.rollups.marks(self.node, self.deadline()));
        match marks {
            Ok(marks) => {
                for mark in marks.into_iter().filter(|mark| mark.boot == boot) {
                    progress.know(self.node, mark);
                }
                Ok(())
            }
            Err(error) => {
                progress.known.remove(&boot);
                Err(Failed::Store(store_text(&error)))
            }
        }
    }

    /// Stores what was folded.
    fn store(&self, progress: &mut Progress, reader: &mut SpoolReader) -> Result<(), Failed> {
        let heard = std::mem::take(&mut progress.heard);
        let ledger: Vec<LedgerRow> = heard
            .values()
            .map(|state| {
                let known = progress.known.get(&state.boot);
                let known: u64 = known.map_or(0, |k| k.iter().map(RangeSet::len).sum());
                let folded: u64 = progress
                    .folder
                    .all_marked()
                    .filter(|&(_, boot, ..)| boot == state.boot)
                    .map(|(_, _, _, set)| set.len())
                    .sum();
                state.ledger(known + folded)
            })
            .collect();
        let folded = progress.folder.folded();
        progress.since = None;
        let batch = progress.folder.take(ledger);
        let marks = batch.marks.clone();
        let outcome = self.runtime.block_on(self.rollups.apply(batch, self.deadline()));
        let error = match outcome {
            Outcome::Done(()) => {
                for mark in marks {
                    progress.know(self.node, mark);
                }
                progress.stored = reader.position();
                add(&self.meters.counted, folded);
                add(&self.meters.batches, 1);
                for state in heard.values() {
                    let at = u64::try_from(state.at.as_millis()).unwrap_or(0);
                    self.meters.stored_at.fetch_max(at, Ordering::Relaxed);
                    if state.closed {
                        // Nothing of it will come; should it, its marks are read again.
                        progress.known.remove(&state.boot);
                    }
                }
                self.control.stored(progress.stored);
                self.meters.worker(WorkerState::Running, None);
                // What can't be deleted now is tried again after the next batch.
                if let Err(error) = reader.release(progress.stored) {
                    let text = format!("can't delete a stored click segment: {error}");
                    self.meters.worker(WorkerState::Running, Some(text));
                }
                return Ok(());
            }
            Outcome::Refused(RollupRefusal::Counted(runs)) => {
                add(&self.meters.refolds, 1);
                let before = progress.known_events();
                for run in runs {
                    progress.know(self.node, run);
                }
                if progress.known_events() > before {
                    return Err(Failed::Again);
                }
                "the roll-up store refuses events it does not name".to_owned()
            }
            Outcome::Refused(RollupRefusal::Store(error)) => store_text(&error),
            Outcome::Unknown(cause) => format!("can't tell whether roll-ups were stored: {cause}"),
        };
        Err(Failed::Store(error))
    }

    fn deadline(&self) -> Deadline {
        let now = Instant::now();
        let own = Deadline::after(now, self.config.apply_timeout);
        // At a shutdown the caller's deadline, but never none at all.
        self.control.stop_at().map_or(own, |at| own.min(Deadline::at(at)))
    }
}

impl Progress {
    /// Drops what was folded since the last batch; the reader goes back to its beginning.
    fn forget(&mut self) {
        self.folder.clear();
        self.heard.clear();
        self.since = None;
    }

    /// Adds a run to what is known to be counted.
    fn know(&mut self, node: NodeId, run: SeqRange) {
        if run.node == node {
            let lanes = self.known.entry(run.boot).or_insert_with(no_lanes);
            lanes[usize::from(run.lane.number())].insert(run.first, run.last);
        }
    }

    fn known_events(&self) -> u64 {
        self.known.values().flat_map(|lanes| lanes.iter()).map(RangeSet::len).sum()
    }
}

/// Why a step did not work.
enum Failed {
    /// At once again, with what was learned.
    Again,
    /// Later again: the spool.
    Read(String),
    /// Later again: the store.
    Store(String),
}

fn mark(folder: &mut Folder, record: &RecordBatch<'_>, run: Option<(u64, u64)>) {
    if let Some((first, last)) = run {
        let RecordBatch { node, boot, lane, .. } = *record;
        folder.mark(SeqRange { node, boot, lane, first, last });
    }
}

fn store_text(error: &StoreError) -> String {
    format!("can't store clicks, they wait in the spool: {error}")
}
