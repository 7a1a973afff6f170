//! Folds clicks into rows per (link, hour), and the runs of numbers they came from into marks.
//!
//! Invariants:
//! - a number is folded once per folder: [`Folder::fold`] refuses one it has;
//! - rows come out sorted by key and hour, marks by (node, boot, lane, first);
//! - a new dimension is a new figure in `Figures` or a table beside it; the marks stay as they
//!   are.

use std::collections::BTreeMap;

use shunt_domain::bots;
use shunt_domain::click::{Click, ClickFlags, ClickKind};
use shunt_domain::ports::{BootId, HourRow, LedgerRow, NodeId, RollupBatch, SeqRange};
use shunt_domain::{Code, CodeError, DomainId, Lane, LinkKey};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::ranges::RangeSet;

/// Why an event was not folded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoldError {
    /// Its code is not a code: no redirect path numbers such an event.
    Code(CodeError),
}

/// What is counted of a link in an hour.
#[derive(Clone, Copy, Debug, Default)]
struct Figures {
    clicks: u64,
    humans: u64,
    heads: u64,
}

/// One row being folded; its code lies in the arena.
#[derive(Clone, Debug)]
struct Entry {
    hash: u64,
    /// The first eight bytes of the code as a big-endian number: sorts most pairs of codes
    /// without touching the arena.
    prefix: u64,
    hour: i64,
    domain: u32,
    code_at: u32,
    code_len: u8,
    figures: Figures,
}

/// How many user agents' verdicts are remembered; a power of two.
const AGENTS: usize = 1024;

/// Folds clicks. Costs about 100 bytes a row; the caller flushes by [`Folder::rows`].
#[derive(Debug)]
pub struct Folder {
    /// Keys the table's hash, so that nobody can choose codes that collide.
    seed: u64,
    /// Open addressing over `entries`: index + 1, 0 is free. A power of two, at most half full.
    table: Vec<u32>,
    entries: Vec<Entry>,
    codes: Vec<u8>,
    marks: BTreeMap<(NodeId, BootId, Lane), RangeSet>,
    folded: u64,
    /// Verdicts of [`bots::is_automated`] by the user agent's hash. Kept over flushes.
    agents: Box<[(u64, bool); AGENTS]>,
}

impl Folder {
    /// An empty folder. `seed` keys its hash table; any number that visitors can't guess.
    pub fn new(seed: u64) -> Self {
        let empty = xxh3_64(b"");
        let automated = bots::is_automated("");
        Self {
            seed,
            table: vec![0; 1024],
            entries: Vec::new(),
            codes: Vec::new(),
            marks: BTreeMap::new(),
            folded: 0,
            agents: Box::new([(empty, automated); AGENTS]),
        }
    }

    /// How many rows the next batch will have.
    pub fn rows(&self) -> usize {
        self.entries.len()
    }

    /// How many events are folded since the last batch.
    pub const fn folded(&self) -> u64 {
        self.folded
    }

    /// Whether there is nothing to store.
    pub fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }

    /// Adds a click to its row. Its number is added by [`Folder::mark`], by the run.
    ///
    /// # Errors
    /// [`FoldError`]; nothing is changed then.
    pub fn fold(&mut self, click: &Click<'_>) -> Result<(), FoldError> {
        Code::check(click.code.as_bytes()).map_err(FoldError::Code)?;
        let human = click.kind == ClickKind::Served
            && click.flags.0 & (ClickFlags::PREFETCH.0 | ClickFlags::PREVIEW.0) == 0
            && !self.is_automated(click.user_agent);
        let row = self.row(click.domain, click.code.as_bytes(), click.at.hour());
        let figures = &mut self.entries[row].figures;
        match click.kind {
            ClickKind::Served => {
                figures.clicks += 1;
                figures.humans += u64::from(human);
            }
            ClickKind::Head => figures.heads += 1,
        }
        self.folded += 1;
        Ok(())
    }

    /// Notes that the events of `run` are part of the next batch.
    pub fn mark(&mut self, run: SeqRange) {
        self.marks.entry((run.node, run.boot, run.lane)).or_default().insert(run.first, run.last);
    }

    /// The numbers of a lane that the next batch holds, if any.
    pub fn marked(&self, node: NodeId, boot: BootId, lane: Lane) -> Option<&RangeSet> {
        self.marks.get(&(node, boot, lane))
    }

    /// All numbers that the next batch holds, by lane.
    pub fn all_marked(&self) -> impl Iterator<Item = (NodeId, BootId, Lane, &RangeSet)> {
        self.marks.iter().map(|(&(node, boot, lane), set)| (node, boot, lane, set))
    }

    /// Takes everything folded so far as a batch, with `ledger`, and begins anew.
    pub fn take(&mut self, ledger: Vec<LedgerRow>) -> RollupBatch {
        let codes = &self.codes;
        let code = |entry: &Entry| {
            let at = entry.code_at as usize;
            &codes[at..at + usize::from(entry.code_len)]
        };
        self.entries.sort_unstable_by(|a, b| {
            a.prefix
                .cmp(&b.prefix)
                .then_with(|| code(a).cmp(code(b)))
                .then(a.domain.cmp(&b.domain))
                .then(a.hour.cmp(&b.hour))
        });
        let rows = self
            .entries
            .iter()
            .filter_map(|entry| {
                // Checked when it was folded.
                let code = std::str::from_utf8(code(entry)).ok()?;
                Some(HourRow {
                    key: LinkKey::new(DomainId(entry.domain), Code::parse(code).ok()?),
                    hour: entry.hour,
                    clicks: entry.figures.clicks,
                    humans: entry.figures.humans,
                    heads: entry.figures.heads,
                })
            })
            .collect();
        let marks = self
            .marks
            .iter()
            .flat_map(|(&(node, boot, lane), set)| {
                set.runs().map(move |(first, last)| SeqRange { node, boot, lane, first, last })
            })
            .collect();
        self.clear();
        RollupBatch { marks, rows, ledger }
    }

    /// Forgets everything folded since the last batch.
    pub fn clear(&mut self) {
        self.table.fill(0);
        self.entries.clear();
        self.codes.clear();
        self.marks.clear();
        self.folded = 0;
    }

    /// Whether the user agent is no person's, remembered by its hash: the same few hundred make
    /// up most of the traffic. A collision (1 in 2^64) would at worst miscount people.
    fn is_automated(&mut self, user_agent: &str) -> bool {
        let hash = xxh3_64(user_agent.as_bytes());
        let slot = &mut self.agents[hash as usize % AGENTS];
        if slot.0 != hash {
            *slot = (hash, bots::is_automated(user_agent));
        }
        slot.1
    }

    /// The index of the row, made if it is new.
    fn row(&mut self, domain: DomainId, code: &[u8], hour: i64) -> usize {
        let salt = (u64::from(domain.0) << 32) ^ hour.cast_unsigned();
        let hash = xxh3_64_with_seed(code, self.seed ^ salt.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mask = self.table.len() - 1;
        let mut slot = hash as usize & mask;
        while let Some(index) = (self.table[slot] as usize).checked_sub(1) {
            let entry = &self.entries[index];
            let at = entry.code_at as usize;
            if entry.hash == hash
                && entry.hour == hour
                && entry.domain == domain.0
                && &self.codes[at..at + usize::from(entry.code_len)] == code
            {
                return index;
            }
            slot = (slot + 1) & mask;
        }
        let index = self.entries.len();
        let mut prefix = [0_u8; 8];
        let len = code.len().min(8);
        prefix[..len].copy_from_slice(&code[..len]);
        // The casts are exact while a folder holds fewer than 2^32 / 128 rows: the caller
        // flushes far earlier. A code is at most 128 bytes long (checked in `fold`).
        self.entries.push(Entry {
            hash,
            prefix: u64::from_be_bytes(prefix),
            hour,
            domain: domain.0,
            code_at: self.codes.len() as u32,
            code_len: code.len() as u8,
            figures: Figures::default(),
        });
        self.codes.extend_from_slice(code);
        self.table[slot] = index as u32 + 1;
        if self.entries.len() * 2 > self.table.len() {
            self.grow();
        }
        index
    }

    fn grow(&mut self) {
        let mask = self.table.len() * 2 - 1;
        let mut table = vec![0_u32; mask + 1];
        for (index, entry) in self.entries.iter().enumerate() {
            let mut slot = entry.hash as usize & mask;
            while table[slot] != 0 {
                slot = (slot + 1) & mask;
            }
            table[slot] = index as u32 + 1;
        }
        self.table = table;
    }
}

#[cfg(test)]
mod tests;
