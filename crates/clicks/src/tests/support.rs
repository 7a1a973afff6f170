//! What the tests share: clicks, a model of a roll-up store, waiting for conditions.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use shunt_analytics::RangeSet;
use shunt_domain::click::{Click, ClickFlags, ClickKind, Network};
use shunt_domain::ports::{
    BootId, BoxFuture, HourRow, LedgerRow, NodeId, RollupBatch, RollupRefusal, RollupStore,
    SeqRange, Totals,
};
use shunt_domain::{
    Code, Deadline, DomainId, Lane, LinkKey, Outcome, StoreError, Timestamp, UnknownCause,
};

use crate::PipelineConfig;

/// A served click.
pub(crate) fn click<'a>(code: &'a str, at: i64, user_agent: &'a str) -> Click<'a> {
    Click {
        domain: DomainId(0),
        code,
        at: Timestamp::from_millis(at),
        kind: ClickKind::Served,
        flags: ClickFlags::default(),
        visitor: 0,
        network: Network::Unknown,
        referrer: "",
        user_agent,
        language: "",
        utm: "",
        rule: 0,
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Small and quick settings in a directory.
pub(crate) fn config(dir: &Path, cores: usize) -> PipelineConfig {
    let mut config = PipelineConfig::new(dir, cores);
    config.ring_dir = Some(dir.join("ring"));
    config.ring_bytes = 1 << 20;
    config.flush_interval = Duration::from_millis(2);
    config.fold_interval = Duration::from_millis(10);
    config
}

pub(crate) const NODE: NodeId = NodeId(0xfeed_face_cafe_beef);

/// Waits until `condition` holds; fails the test after a long time.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < until, "never happened: {what}");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

pub(crate) fn soon() -> Deadline {
    Deadline::after(Instant::now(), Duration::from_secs(60))
}

/// What a roll-up store must do, in its simplest form.
#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) marks: BTreeMap<(NodeId, BootId, Lane), RangeSet>,
    pub(crate) hours: BTreeMap<(LinkKey, i64), (u64, u64, u64)>,
    pub(crate) ledger: BTreeMap<(NodeId, BootId), LedgerRow>,
}

impl Model {
    fn apply(&mut self, batch: &RollupBatch) -> Vec<SeqRange> {
        let mut counted = Vec::new();
        for mark in &batch.marks {
            if let Some(set) = self.marks.get(&(mark.node, mark.boot, mark.lane)) {
                let overlap = set.overlap(mark.first, mark.last);
                counted.extend(overlap.map(|(first, last)| SeqRange { first, last, ..*mark }));
            }
        }
        if !counted.is_empty() {
            return counted;
        }
        for mark in &batch.marks {
            let set = self.marks.entry((mark.node, mark.boot, mark.lane)).or_default();
            set.insert(mark.first, mark.last);
        }
        for row in &batch.rows {
            let sums = self.hours.entry((row.key.clone(), row.hour)).or_default();
            sums.0 += row.clicks;
            sums.1 += row.humans;
            sums.2 += row.heads;
        }
        for row in &batch.ledger {
            // As a store does, `counted` is only ever taken from the marks.
            let row = LedgerRow { counted: 0, ..*row };
            let known = self.ledger.entry((row.node, row.boot)).or_insert(row);
            assert!(!known.closed || *known == row, "a closed boot said more: {known:?}, {row:?}");
            *known = row;
        }
        Vec::new()
    }

    /// The ledger with `counted` from the marks.
    pub(crate) fn ledger(&self) -> Vec<LedgerRow> {
        self.ledger
            .values()
            .map(|row| {
                let of_boot = |key: &(NodeId, BootId, Lane)| (key.0, key.1) == (row.node, row.boot);
                let sets = self.marks.iter().filter(|(key, _)| of_boot(key));
                LedgerRow { counted: sets.map(|(_, set)| set.len()).sum(), ..*row }
            })
            .collect()
    }

    /// All served clicks and heads in rows.
    pub(crate) fn events(&self) -> u64 {
        self.hours.values().map(|row| row.0 + row.2).sum()
    }

    pub(crate) fn clicks_of(&self, code: &str) -> u64 {
        let of_code = self.hours.iter().filter(|((key, _), _)| key.code.as_str() == code);
        of_code.map(|(_, row)| row.0).sum()
    }
}

/// The model as a store, with faults, and with a journal when it shall outlive a process.
#[derive(Debug, Default)]
pub(crate) struct ModelStore {
    pub(crate) model: Mutex<Model>,
    journal: Option<Mutex<File>>,
    /// So many of the next batches are refused as unavailable.
    pub(crate) unavailable: AtomicU32,
    /// So many of the next batches are applied and answered "unknown".
    pub(crate) unknown_done: AtomicU32,
    /// So many of the next batches are not applied and answered "unknown".
    pub(crate) unknown_not_done: AtomicU32,
    /// Nothing works while set.
    pub(crate) down: AtomicBool,
    pub(crate) refused: AtomicU64,
}

impl ModelStore {
    /// A store whose batches are kept in a file: each one a line, which a killed process either
    /// wrote or did not (a single small append).
    pub(crate) fn with_journal(path: &Path) -> Self {
        let text = std::fs::read(path).unwrap_or_default();
        // A line that was cut by the kill never was a commit.
        let whole = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        let mut model = Model::default();
        for line in String::from_utf8_lossy(&text[..whole]).lines() {
            assert!(model.apply(&parse(line)).is_empty(), "a batch was stored twice: {line}");
        }
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .expect("a journal");
        file.set_len(whole as u64).expect("cut");
        std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0)).expect("the end");
        Self { model: Mutex::new(model), journal: Some(Mutex::new(file)), ..Self::default() }
    }
}

fn print(batch: &RollupBatch) -> String {
    let marks = batch
        .marks
        .iter()
        .map(|m| format!("m {} {} {} {} {}", m.node.0, m.boot.0, m.lane.number(), m.first, m.last));
    let rows = batch.rows.iter().map(|r| {
        let LinkKey { code, domain } = &r.key;
        format!("r {code} {} {} {} {} {}", domain.0, r.hour, r.clicks, r.humans, r.heads)
    });
    let ledger = batch.ledger.iter().map(|l| {
        let flags = (u8::from(l.closed), u8::from(l.unknown));
        let at = l.at.as_millis();
        let (node, boot) = (l.node.0, l.boot.0);
        format!("l {node} {boot} {} {} {at} {} {}", l.served, l.lost, flags.0, flags.1)
    });
    marks.chain(rows).chain(ledger).collect::<Vec<_>>().join(";") + "\n"
}

fn parse(line: &str) -> RollupBatch {
    let mut batch = RollupBatch::default();
    for item in line.split(';').filter(|item| !item.is_empty()) {
        let fields: Vec<&str> = item.split(' ').collect();
        let number = |at: usize| fields[at].parse::<u64>().expect("a number");
        match fields[0] {
            "m" => batch.marks.push(SeqRange {
                node: NodeId(number(1)),
                boot: BootId(number(2)),
                lane: Lane::new(number(3) as u8).expect("a lane"),
                first: number(4),
                last: number(5),
            }),
            "r" => batch.rows.push(HourRow {
                key: LinkKey::new(
                    DomainId(number(2) as u32),
                    Code::parse(fields[1]).expect("a code"),
                ),
                hour: number(3) as i64,
                clicks: number(4),
                humans: number(5),
                heads: number(6),
            }),
            _ => batch.ledger.push(LedgerRow {
                node: NodeId(number(1)),
                boot: BootId(number(2)),
                served: number(3),
                lost: number(4),
                counted: 0,
                at: Timestamp::from_millis(number(5) as i64),
                closed: number(6) == 1,
                unknown: number(7) == 1,
            }),
        }
    }
    batch
}

fn take_one(counter: &AtomicU32) -> bool {
    counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
}

impl RollupStore for ModelStore {
    fn apply(
        &self,
        batch: RollupBatch,
        _deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<(), RollupRefusal>> {
        Box::pin(async move {
            if self.down.load(Ordering::Relaxed) || take_one(&self.unavailable) {
                self.refused.fetch_add(1, Ordering::Relaxed);
                let error = StoreError::Unavailable("the test says so".to_owned());
                return Outcome::Refused(RollupRefusal::Store(error));
            }
            if take_one(&self.unknown_not_done) {
                return Outcome::Unknown(UnknownCause::Deadline);
            }
            let counted = self.model.lock().expect("no panic").apply(&batch);
            if !counted.is_empty() {
                return Outcome::Refused(RollupRefusal::Counted(counted));
            }
            if let Some(journal) = &self.journal {
                let line = print(&batch);
                journal.lock().expect("no panic").write_all(line.as_bytes()).expect("written");
            }
            if take_one(&self.unknown_done) {
                return Outcome::Unknown(UnknownCause::Lost);
            }
            Outcome::Done(())
        })
    }

    fn marks(
        &self,
        node: NodeId,
        _deadline: Deadline,
    ) -> BoxFuture<'_, Result<Vec<SeqRange>, StoreError>> {
        Box::pin(async move {
            if self.down.load(Ordering::Relaxed) {
                return Err(StoreError::Unavailable("the test says so".to_owned()));
            }
            let model = self.model.lock().expect("no panic");
            let of_node = model.marks.iter().filter(|(key, _)| key.0 == node);
            Ok(of_node
                .flat_map(|(&(node, boot, lane), set)| {
                    set.runs().map(move |(first, last)| SeqRange { node, boot, lane, first, last })
                })
                .collect())
        })
    }

    fn totals<'a>(
        &'a self,
        key: &'a LinkKey,
        _deadline: Deadline,
    ) -> BoxFuture<'a, Result<Totals, StoreError>> {
        Box::pin(async move {
            let model = self.model.lock().expect("no panic");
            let rows = model.hours.iter().filter(|((of, _), _)| of == key);
            Ok(rows.fold(Totals::default(), |sum, (_, row)| Totals {
                clicks: sum.clicks + row.0,
                humans: sum.humans + row.1,
                heads: sum.heads + row.2,
            }))
        })
    }

    fn hours<'a>(
        &'a self,
        key: &'a LinkKey,
        from: i64,
        to: i64,
        _deadline: Deadline,
    ) -> BoxFuture<'a, Result<Vec<HourRow>, StoreError>> {
        Box::pin(async move {
            let model = self.model.lock().expect("no panic");
            let rows = model.hours.range((key.clone(), from)..(key.clone(), to));
            let row = |((key, hour), &(clicks, humans, heads)): (&(LinkKey, i64), &_)| HourRow {
                key: key.clone(),
                hour: *hour,
                clicks,
                humans,
                heads,
            };
            Ok(rows.map(row).collect())
        })
    }

    fn ledger(&self, _deadline: Deadline) -> BoxFuture<'_, Result<Vec<LedgerRow>, StoreError>> {
        Box::pin(async move { Ok(self.model.lock().expect("no panic").ledger()) })
    }
}
