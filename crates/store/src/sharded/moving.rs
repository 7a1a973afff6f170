//! Bringing arcs to the shards that they belong to, while everything goes on.
//!
//! One arc after the other: its changes are noted from a moment on, its rows are copied and compared
//! one by one, what changed is copied again, and then, with the writes of its bucket waiting, the
//! rest of the changes, the last owner's word that it is the new one's, and the new one's that it
//! has it. A rebalancer that is killed leaves an arc before or behind that word: it is copied anew,
//! or taken by whoever finds it let go. Rows of the last owner stay until no node can have a map
//! older than the word, and are deleted then.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use shunt_domain::ring::Place;
use tokio::time::sleep_until;

use super::LEASE;
use super::ShardOptions;
use super::admin::{Told, connect};
use super::map::State;
use crate::postgres::PostgresError;
use crate::postgres::mover::{Behind, Change, Peer, RowKey, RowText, Span, Table};

/// How long rows stay where they were moved away from: several times as long as a map counts.
const KEPT: Duration = LEASE.saturating_mul(5);

/// Rows in one step.
const BATCH: i64 = 500;

/// With so few changes left an arc changes its owner.
const FEW: usize = 100;

type Result<T> = std::result::Result<T, PostgresError>;

/// How to move.
#[derive(Clone, Copy, Debug, Default)]
pub struct MoveOptions {
    /// Rows a second at most; `None` as fast as it goes.
    pub rate: Option<u64>,
}

/// What was moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Arcs that changed their owner.
    pub arcs: u64,
    /// Rows copied, tombstones included.
    pub links: u64,
    /// Idempotency rows copied.
    pub keys: u64,
    /// Rows copied again because they changed meanwhile.
    pub again: u64,
}

/// How far [`rebalance`] is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Links copied so far.
    pub links: u64,
    /// Links to copy in all.
    pub of: u64,
    /// Arcs moved so far.
    pub arcs: u64,
}

fn broken<T>(what: String) -> Result<T> {
    Err(PostgresError::Options(what))
}

/// Moves every arc to the shard that it belongs to by the ring. Going on after it was broken off is
/// doing it again.
///
/// # Errors
/// [`PostgresError`] says what is in the way; what was moved is moved, and everything is served.
pub async fn rebalance(
    shards: &[ShardOptions],
    options: MoveOptions,
    tell: &mut dyn FnMut(Progress),
) -> Result<Moved> {
    let peers = connect(shards).await?;
    let told = Told::ask(&peers).await?;
    let home = told.rows.first().map(|row| row.home.clone()).unwrap_or_default();
    let Some(at_home) = shards.iter().find(|shard| shard.name == home) else {
        return broken(format!("the home, shard {home:?}, is not named; name it"));
    };
    // Its own connection, whose transaction holds the lock until it or this process ends.
    let alone = Peer::connect(at_home).await?;
    if !alone.alone().await? {
        return broken("another `shunt shards rebalance` runs; wait for its end".to_owned());
    }
    for arc in &told.map.untaken {
        peers[arc.to].take(arc.start, arc.epoch).await?;
    }
    let mut mover = Mover {
        peers: &peers,
        alone: &alone,
        pace: Pace { rate: options.rate, begun: Instant::now(), rows: 0 },
        epoch: told.epoch,
        moved: Moved::default(),
        progress: Progress::default(),
        tell,
    };
    // What an earlier run left behind may lie where rows have to come to.
    mover.clear(Instant::now()).await?;
    let told = Told::ask(&peers).await?;
    let moves = told.moves(&peers)?;
    let whole = told.arcs.first().cloned().unwrap_or_default();
    let span = |start| Span { start, end: whole.end(start) };
    for (start, from, _) in &moves {
        mover.progress.of += peers[*from].arc_rows(span(*start)).await?;
    }
    for (start, from, to) in moves {
        mover.arc(span(start), from, to).await?;
    }
    mover.clear(Instant::now()).await?;
    Ok(mover.moved)
}

/// Keeps to a rate.
struct Pace {
    rate: Option<u64>,
    begun: Instant,
    rows: u64,
}

impl Pace {
    async fn keep(&mut self, rows: u64) {
        self.rows += rows;
        if let Some(rate) = self.rate {
            let due = Duration::from_secs_f64(self.rows as f64 / rate.max(1) as f64);
            sleep_until((self.begun + due).into()).await;
        }
    }
}

struct Mover<'a> {
    peers: &'a [Peer],
    alone: &'a Peer,
    pace: Pace,
    epoch: i64,
    moved: Moved,
    progress: Progress,
    tell: &'a mut dyn FnMut(Progress),
}

impl Mover<'_> {
    /// Deletes rows that were left behind, when no node can ask for them any more: `since` the last
    /// arc went, or this run began.
    async fn clear(&self, since: Instant) -> Result<()> {
        let mut waited = false;
        for peer in self.peers {
            let arcs = peer.arcs().await?;
            for row in arcs.rows().iter().filter(|row| row.state == State::Gone) {
                if !waited {
                    sleep_until((since + KEPT).into()).await;
                    waited = true;
                }
                peer.begin().await?;
                peer.purge(Span { start: row.start, end: arcs.end(row.start) }).await?;
                peer.cleared(row.start).await?;
                peer.commit().await?;
            }
        }
        Ok(())
    }

    /// Moves one arc.
    async fn arc(&mut self, span: Span, from: usize, to: usize) -> Result<()> {
        let (source, target) = (&self.peers[from], &self.peers[to]);
        let start = span.start;
        target.begin().await?;
        if !target.coming(start).await? {
            return broken(format!("shard {} does not take the arc at {start:?}", target.name));
        }
        target.purge(span).await?;
        target.hear_nodes(source).await?;
        target.commit().await?;

        source.begin().await?;
        source.gate(start).await?;
        if !source.leaving(start).await? {
            return broken(format!("shard {} does not own the arc at {start:?}", source.name));
        }
        source.commit().await?;

        self.moved.links += self.copy(Table::Links, source, target, span).await?;
        self.moved.keys += self.copy(Table::Keys, source, target, span).await?;
        let mut changed = BTreeSet::new();
        for table in [Table::Links, Table::Keys] {
            let found = compare(table, source, target, span).await?;
            changed.extend(found.into_iter().map(|key| (table == Table::Keys, key)));
        }
        source.begin().await?;
        self.moved.again += copy_again(source, target, changed).await?;
        source.commit().await?;
        loop {
            source.begin().await?;
            let changes = source.changes(start, BATCH).await?;
            self.moved.again += catch_up(source, target, &changes).await?;
            source.commit().await?;
            if changes.len() < FEW {
                break;
            }
        }
        self.hand_over(start, from, to).await
    }

    /// Copies the rows of an arc; answers how many.
    async fn copy(
        &mut self,
        table: Table,
        source: &Peer,
        target: &Peer,
        span: Span,
    ) -> Result<u64> {
        let mut behind = Some(Behind::start(span.start));
        let mut copied = 0;
        while let Some(from) = behind {
            source.begin().await?;
            let (rows, next) = source.page(table, span, &from, BATCH).await?;
            source.commit().await?;
            target.begin().await?;
            target.put(table, &rows).await?;
            target.commit().await?;
            let count = rows.len() as u64;
            copied += count;
            if table == Table::Links {
                self.progress.links += count;
            }
            (self.tell)(self.progress);
            self.pace.keep(count).await;
            behind = next;
        }
        Ok(copied)
    }

    /// The word itself. The source's transaction is open from the last changes to the word, and its
    /// bucket's writes wait; if this process dies in between, nothing has happened.
    async fn hand_over(&mut self, start: Place, from: usize, to: usize) -> Result<()> {
        let (source, target) = (&self.peers[from], &self.peers[to]);
        if !self.alone.is_alive() {
            return broken(
                "the connection that kept others from moving broke; begin again".to_owned(),
            );
        }
        let epoch = self.epoch + 1;
        source.begin().await?;
        source.gate(start).await?;
        loop {
            let changes = source.changes(start, BATCH).await?;
            if changes.is_empty() {
                break;
            }
            self.moved.again += catch_up(source, target, &changes).await?;
        }
        if !source.gone(start, &target.name, epoch).await? {
            return broken(format!("shard {} no longer owns the arc at {start:?}", source.name));
        }
        source.commit().await?;
        // From here on whoever asks finds it let go, and may take it for the target as well.
        target.take(start, epoch).await?;
        self.epoch = epoch;
        self.moved.arcs += 1;
        self.progress.arcs += 1;
        (self.tell)(self.progress);
        for (at, peer) in self.peers.iter().enumerate() {
            if at != from && at != to {
                // So that each shard knows the whole ring; it finds the rest out by itself.
                peer.told(start, &target.name, epoch).await?;
            }
        }
        Ok(())
    }
}

/// Copies what changed; answers how many rows.
async fn catch_up(source: &Peer, target: &Peer, changes: &[Change]) -> Result<u64> {
    if changes.is_empty() {
        return Ok(0);
    }
    let keys = changes.iter().map(|change| (change.table == Table::Keys, change.key.clone()));
    let rows = copy_again(source, target, keys.collect()).await?;
    // What was noted later than it was read here has a number of its own.
    source.changes_done(changes).await?;
    Ok(rows)
}

/// Puts the source's rows of these keys in the place of the target's, and reads them again.
async fn copy_again(source: &Peer, target: &Peer, keys: BTreeSet<(bool, RowKey)>) -> Result<u64> {
    for table in [Table::Links, Table::Keys] {
        let keys: Vec<RowKey> = keys
            .iter()
            .filter(|(is_key, _)| *is_key == (table == Table::Keys))
            .map(|(_, key)| key.clone())
            .collect();
        if keys.is_empty() {
            continue;
        }
        let rows = source.texts(table, &keys).await?;
        target.begin().await?;
        target.remove(table, &keys).await?;
        target.put(table, &rows).await?;
        let written = target.texts(table, &keys).await?;
        target.commit().await?;
        if written != rows {
            return broken(format!(
                "shard {} holds other rows than were copied from shard {}; look at both",
                target.name, source.name
            ));
        }
    }
    Ok(keys.len() as u64)
}

/// Compares an arc's rows one by one; answers the keys that differ, because they changed since they
/// were copied.
async fn compare(table: Table, source: &Peer, target: &Peer, span: Span) -> Result<Vec<RowKey>> {
    let mut behind = Some(Behind::start(span.start));
    let mut differ = Vec::new();
    while let Some(from) = behind {
        source.begin().await?;
        let (rows, next) = source.page(table, span, &from, BATCH).await?;
        source.commit().await?;
        let keys: Vec<RowKey> = rows.iter().map(|row| row.key.clone()).collect();
        target.begin().await?;
        let there = target.texts(table, &keys).await?;
        target.commit().await?;
        let there: BTreeMap<RowKey, String> =
            there.into_iter().map(|RowText { key, text }| (key, text)).collect();
        let other = |row: &RowText| there.get(&row.key) != Some(&row.text);
        differ.extend(rows.iter().filter(|row| other(row)).map(|row| row.key.clone()));
        behind = next;
    }
    Ok(differ)
}
