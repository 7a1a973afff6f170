//! The ports of clicks: recording them, and storing what they fold into.

use super::BoxFuture;
use crate::click::Click;
use crate::code::LinkKey;
use crate::lane::Lane;
use crate::outcome::{Outcome, StoreError};
use crate::time::{Deadline, Timestamp};

/// One core's end of the click pipeline. Not shared: each core has its own.
pub trait ClickRecorder: Send {
    /// Numbers the click and puts it on this core's ring; never waits. A full ring counts it as
    /// lost. Called before the answer's bytes are written.
    fn record(&mut self, click: &Click<'_>);
}

/// A node's number: random, made once per data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

/// One start of a node: later starts have higher numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootId(pub u64);

/// A run of event numbers of one (node, boot, lane): `first` to `last`, both inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeqRange {
    /// Which node numbered them.
    pub node: NodeId,
    /// In which of its lives.
    pub boot: BootId,
    /// In which lane.
    pub lane: Lane,
    /// First number.
    pub first: u64,
    /// Last number.
    pub last: u64,
}

/// Clicks of one link in one hour, folded.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HourRow {
    /// The link.
    pub key: LinkKey,
    /// Hours since the Unix epoch.
    pub hour: i64,
    /// All served clicks.
    pub clicks: u64,
    /// Served clicks that are no bot's, prefetch or preview.
    pub humans: u64,
    /// `HEAD` requests.
    pub heads: u64,
}

/// What one boot of one node says about its own clicks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LedgerRow {
    /// The node.
    pub node: NodeId,
    /// Its life.
    pub boot: BootId,
    /// Events numbered by the redirect path so far (served and `HEAD`).
    pub served: u64,
    /// Events reported lost (ring full, spool full, damaged).
    pub lost: u64,
    /// Events in the roll-ups. Filled in by the store from its marks.
    pub counted: u64,
    /// When this was last heard.
    pub at: Timestamp,
    /// Whether the boot is over and these are its last figures.
    pub closed: bool,
    /// The boot ended and its rings were gone (the machine restarted): what was numbered after
    /// `at` is not known. Shown as "unknown since `at`, last mark `counted`".
    pub unknown: bool,
}

/// A transaction's worth of folded clicks with the marks that make it count once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RollupBatch {
    /// The runs of events folded into `rows`: sorted, not overlapping.
    pub marks: Vec<SeqRange>,
    /// Sorted by key and hour.
    pub rows: Vec<HourRow>,
    /// What the nodes say of themselves.
    pub ledger: Vec<LedgerRow>,
}

/// Why a batch was not applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RollupRefusal {
    /// Some of its events are counted already: fold again without these runs.
    Counted(Vec<SeqRange>),
    /// The store refused.
    Store(StoreError),
}

/// Totals of one link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// All served clicks.
    pub clicks: u64,
    /// Those of people.
    pub humans: u64,
    /// `HEAD` requests.
    pub heads: u64,
}

/// Stores roll-ups; marks and rows in one transaction.
pub trait RollupStore: Send + Sync {
    /// Applies a batch whole, or not at all.
    fn apply(
        &self,
        batch: RollupBatch,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<(), RollupRefusal>>;

    /// All runs counted so far of one node's boots (merged, sorted).
    ///
    /// # Errors
    /// [`StoreError`].
    fn marks(
        &self,
        node: NodeId,
        deadline: Deadline,
    ) -> BoxFuture<'_, Result<Vec<SeqRange>, StoreError>>;

    /// Totals of one link over all time.
    ///
    /// # Errors
    /// [`StoreError`].
    fn totals<'a>(
        &'a self,
        key: &'a LinkKey,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Totals, StoreError>>;

    /// The hours of one link from `from` (inclusive) to `to` (exclusive), in hours since the Unix
    /// epoch, sorted, only those with clicks.
    ///
    /// # Errors
    /// [`StoreError`].
    fn hours<'a>(
        &'a self,
        key: &'a LinkKey,
        from: i64,
        to: i64,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Vec<HourRow>, StoreError>>;

    /// The ledger of every node and boot, `counted` filled in.
    ///
    /// # Errors
    /// [`StoreError`].
    fn ledger(&self, deadline: Deadline) -> BoxFuture<'_, Result<Vec<LedgerRow>, StoreError>>;
}
