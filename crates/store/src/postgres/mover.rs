//! One connection to a shard for whoever arranges shards: sets them up, moves rows, looks at
//! everything.

use std::sync::Arc;

use shunt_domain::ring::Place;
use tokio::runtime::Handle;
use tokio_postgres::Row;

use super::arcs::{ShardRow, arc, shard};
use super::connect::{Connected, Connector};
use super::error::{Fault, PostgresError};
use super::row;
use super::session::Param;
use super::statements::{self, Statement, arcs};
use super::types::PlaceBits;
use crate::replicated::Watch;
use crate::sharded::ShardOptions;
use crate::sharded::map::{Arcs, bucket};

/// Makes a database a shard.
const SHARD: &str = include_str!("migrations/shard.sql");

/// Rows that one statement deletes.
const PURGE_ROWS: i64 = 5_000;

type Result<T> = std::result::Result<T, PostgresError>;

/// See the module.
pub(crate) struct Peer {
    pub(crate) name: String,
    connector: Connector,
    connected: Connected,
    /// Ends the connection when another copy becomes the primary.
    _watch: Option<Watch>,
}

/// An arc's bounds: it begins at its start and ends before its end, or with the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: Place,
    pub(crate) end: Option<Place>,
}

/// Which of the tables that lie on the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Table {
    Links,
    Keys,
}

/// The key of a row: code and domain, or hash and scope, the first as bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RowKey(Vec<u8>, i64);

/// A row as the server writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RowText {
    pub(crate) key: RowKey,
    pub(crate) text: String,
}

/// Where a page of an arc's rows begins.
#[derive(Clone, Debug)]
pub(crate) struct Behind {
    place: PlaceBits,
    key: RowKey,
}

impl Behind {
    /// In front of everything from `start` on.
    pub(crate) fn start(start: Place) -> Self {
        // No key is empty.
        Self { place: PlaceBits(start), key: RowKey(Vec::new(), i64::MIN) }
    }
}

/// A change that was noted while an arc was copied.
pub(crate) struct Change {
    pub(crate) id: i64,
    pub(crate) table: Table,
    pub(crate) key: RowKey,
}

impl RowKey {
    fn read(
        row: &Row,
        table: Table,
        at: usize,
    ) -> std::result::Result<Self, shunt_domain::StoreError> {
        let first = match table {
            Table::Links => row::get::<&str>(row, at)?.as_bytes().to_vec(),
            Table::Keys => row::get::<&[u8]>(row, at)?.to_vec(),
        };
        Ok(Self(first, row::get(row, at + 1)?))
    }
}

/// Keys as two arrays.
struct KeyArrays {
    codes: Vec<String>,
    hashes: Vec<Vec<u8>>,
    second: Vec<i64>,
}

impl KeyArrays {
    fn new(table: Table, keys: &[RowKey]) -> Self {
        let second = keys.iter().map(|key| key.1).collect();
        let (mut codes, mut hashes) = (Vec::new(), Vec::new());
        for key in keys {
            match table {
                // Codes are ASCII.
                Table::Links => codes.push(String::from_utf8_lossy(&key.0).into_owned()),
                Table::Keys => hashes.push(key.0.clone()),
            }
        }
        Self { codes, hashes, second }
    }

    fn params(&self, table: Table) -> [Param<'_>; 2] {
        match table {
            Table::Links => [&self.codes, &self.second],
            Table::Keys => [&self.hashes, &self.second],
        }
    }
}

impl Peer {
    /// Connects to a shard, wherever its primary is.
    ///
    /// # Errors
    /// [`PostgresError`] says what is in the way.
    pub(crate) async fn connect(shard: &ShardOptions) -> Result<Self> {
        let watch = match shard.copies() {
            Some(copies) => Some(Watch::start(&copies, &Handle::current())?),
            None => None,
        };
        let guide = watch.as_ref().map(Watch::guide);
        let connector = Connector::new(&shard.database, guide, Arc::default())?;
        let connected = connector.connect().await;
        let (connected, _) = connected.map_err(|fault| connector.explain(&fault))?;
        Ok(Self { name: shard.name.clone(), connector, connected, _watch: watch })
    }

    /// Whether the connection still stands.
    pub(crate) fn is_alive(&self) -> bool {
        !self.connected.client.is_closed()
    }

    fn error(&self, what: &str, fault: &Fault) -> PostgresError {
        if fault.code().is_none() {
            return self.connector.explain(fault);
        }
        PostgresError::Refused {
            what: format!("{what} on shard {}", self.name),
            reason: fault.text().to_owned(),
            advice: "look into the server's log; what was begun goes on with `shunt shards \
                     rebalance`",
        }
    }

    /// A value that can't be read, or an answer that is missing.
    fn odd(&self, what: impl std::fmt::Display) -> PostgresError {
        PostgresError::Refused {
            what: format!("what was asked of shard {}", self.name),
            reason: what.to_string(),
            advice: "run `shunt shards verify`",
        }
    }

    async fn ask(&self, statement: &Statement, params: &[Param<'_>]) -> Result<Vec<Row>> {
        let typed = statement.typed(params);
        let rows = self.connected.client.query_typed(statement.sql, &typed).await;
        rows.map_err(|error| self.error(statement.name, &Fault::from(error)))
    }

    async fn run(&self, sql: &str) -> Result<()> {
        let done = self.connected.client.batch_execute(sql).await;
        done.map_err(|error| self.error(sql.lines().next().unwrap_or(sql), &Fault::from(error)))
    }

    /// Opens a transaction that writes whatever arc it likes.
    pub(crate) async fn begin(&self) -> Result<()> {
        self.run("BEGIN").await?;
        self.ask(&arcs::MOVER, &[]).await.map(drop)
    }

    /// Commits it.
    pub(crate) async fn commit(&self) -> Result<()> {
        self.run("COMMIT").await
    }

    /// Whether this is the only one that arranges the shards of this home; holds for as long as the
    /// connection.
    pub(crate) async fn alone(&self) -> Result<bool> {
        self.run("BEGIN").await?;
        let rows = self.ask(&arcs::MOVER_ALONE, &[]).await?;
        let row = rows.first().ok_or_else(|| self.odd("no answer"))?;
        row::get(row, 0).map_err(|error| self.odd(error))
    }

    /// Which shard this is; `None` when it is none.
    pub(crate) async fn shard(&self) -> Result<Option<ShardRow>> {
        let rows = self.ask(&arcs::SHARD, &[]).await?;
        rows.first().map(shard).transpose().map_err(|error| self.odd(error))
    }

    /// Its arcs.
    pub(crate) async fn arcs(&self) -> Result<Arcs> {
        let rows = self.ask(&arcs::ARCS, &[]).await?;
        let rows = rows.iter().map(arc).collect::<std::result::Result<_, _>>();
        Ok(Arcs::new(rows.map_err(|error| self.odd(error))?))
    }

    /// How many live links it holds, up to `most`.
    pub(crate) async fn count(&self, most: i64) -> Result<u64> {
        self.number(&statements::COUNT, &[&most]).await
    }

    async fn number(&self, statement: &Statement, params: &[Param<'_>]) -> Result<u64> {
        let rows = self.ask(statement, params).await?;
        let row = rows.first().ok_or_else(|| self.odd("no number"))?;
        row::unsigned(row, 0).map_err(|error| self.odd(error))
    }

    /// Makes the database a shard, with the arcs of a ring or of a map.
    pub(crate) async fn set_up(
        &self,
        row: &ShardRow,
        pieces: &[(Place, String, i64)],
    ) -> Result<()> {
        self.begin().await?;
        self.run(SHARD).await?;
        self.set_ring(row).await?;
        let starts: Vec<PlaceBits> = pieces.iter().map(|piece| PlaceBits(piece.0)).collect();
        let owners: Vec<&str> = pieces.iter().map(|piece| piece.1.as_str()).collect();
        let epochs: Vec<i64> = pieces.iter().map(|piece| piece.2).collect();
        let params: [Param<'_>; 4] = [&starts, &owners, &row.name, &epochs];
        self.ask(&arcs::ARCS_FILL, &params).await?;
        self.commit().await
    }

    async fn set_ring(&self, row: &ShardRow) -> Result<()> {
        let params: [Param<'_>; 4] = [&row.name, &row.home, &row.ring, &row.epoch];
        self.ask(&arcs::SHARD_SET, &params).await.map(drop)
    }

    /// Says where arcs belong from now on, and cuts them accordingly.
    pub(crate) async fn re_ring(&self, row: &ShardRow, starts: &[Place]) -> Result<()> {
        let starts: Vec<PlaceBits> = starts.iter().copied().map(PlaceBits).collect();
        self.begin().await?;
        self.ask(&arcs::ARCS_CUT, &[&starts]).await?;
        self.set_ring(row).await?;
        self.commit().await
    }

    /// Waits for the writes under way around an arc and lets no other begin until the end of the
    /// transaction.
    pub(crate) async fn gate(&self, start: Place) -> Result<()> {
        self.ask(&arcs::ARC_GATE, &[&bucket(start)]).await.map(drop)
    }

    async fn flip(&self, statement: &Statement, params: &[Param<'_>]) -> Result<bool> {
        Ok(!self.ask(statement, params).await?.is_empty())
    }

    /// The arc's rows will come here.
    pub(crate) async fn coming(&self, start: Place) -> Result<bool> {
        self.flip(&arcs::ARC_COMING, &[&PlaceBits(start)]).await
    }

    /// The arc's changes are noted from now on, and none of earlier times.
    pub(crate) async fn leaving(&self, start: Place) -> Result<bool> {
        let start = PlaceBits(start);
        self.ask(&arcs::ARC_CHANGES_CLEAR, &[&start]).await?;
        self.flip(&arcs::ARC_LEAVING, &[&start]).await
    }

    /// The arc is `to`'s from now on.
    pub(crate) async fn gone(&self, start: Place, to: &str, epoch: i64) -> Result<bool> {
        self.flip(&arcs::ARC_GONE, &[&PlaceBits(start), &to, &epoch]).await
    }

    /// The arc is this shard's from now on.
    pub(crate) async fn take(&self, start: Place, epoch: i64) -> Result<bool> {
        self.flip(&arcs::ARC_TAKE, &[&PlaceBits(start), &self.name, &epoch]).await
    }

    /// Somebody else's arc is `to`'s now.
    pub(crate) async fn told(&self, start: Place, to: &str, epoch: i64) -> Result<bool> {
        self.flip(&arcs::ARC_TOLD, &[&PlaceBits(start), &to, &epoch]).await
    }

    /// Nothing is left here of an arc.
    pub(crate) async fn cleared(&self, start: Place) -> Result<bool> {
        self.flip(&arcs::ARC_CLEARED, &[&PlaceBits(start)]).await
    }

    /// How many rows of links an arc has.
    pub(crate) async fn arc_rows(&self, span: Span) -> Result<u64> {
        let (start, end) = (PlaceBits(span.start), span.end.map(PlaceBits));
        self.number(&arcs::ARC_COUNT, &[&start, &end]).await
    }

    /// Deletes all rows of an arc, in the open transaction.
    pub(crate) async fn purge(&self, span: Span) -> Result<()> {
        let (start, end) = (PlaceBits(span.start), span.end.map(PlaceBits));
        for statement in [&arcs::ARC_LINKS_PURGE, &arcs::ARC_KEYS_PURGE] {
            while self.number(statement, &[&start, &end, &PURGE_ROWS]).await? > 0 {}
        }
        Ok(())
    }

    /// Up to `limit` rows of an arc behind a place, and where the next ones begin.
    pub(crate) async fn page(
        &self,
        table: Table,
        span: Span,
        behind: &Behind,
        limit: i64,
    ) -> Result<(Vec<RowText>, Option<Behind>)> {
        let (start, end) = (PlaceBits(span.start), span.end.map(PlaceBits));
        let code = String::from_utf8_lossy(&behind.key.0).into_owned();
        let rows = match table {
            Table::Links => {
                let params: [Param<'_>; 6] =
                    [&start, &end, &behind.place, &code, &behind.key.1, &limit];
                self.ask(&arcs::ARC_LINKS, &params).await?
            }
            Table::Keys => {
                let params: [Param<'_>; 6] =
                    [&start, &end, &behind.place, &behind.key.0, &behind.key.1, &limit];
                self.ask(&arcs::ARC_KEYS, &params).await?
            }
        };
        let mut texts = Vec::with_capacity(rows.len());
        let mut last = None;
        for row in &rows {
            let read = || Ok((RowKey::read(row, table, 2)?, row::get(row, 0)?, row::get(row, 1)?));
            let read: std::result::Result<(RowKey, String, PlaceBits), shunt_domain::StoreError> =
                read();
            let (key, text, place) = read.map_err(|error| self.odd(error))?;
            last = Some(Behind { place, key: key.clone() });
            texts.push(RowText { key, text });
        }
        let full = i64::try_from(texts.len()).is_ok_and(|rows| rows >= limit);
        Ok((texts, last.filter(|_| full)))
    }

    /// The rows of these keys, in the order of keys.
    pub(crate) async fn texts(&self, table: Table, keys: &[RowKey]) -> Result<Vec<RowText>> {
        let statement = match table {
            Table::Links => &arcs::LINK_TEXTS,
            Table::Keys => &arcs::KEY_TEXTS,
        };
        let arrays = KeyArrays::new(table, keys);
        let rows = self.ask(statement, &arrays.params(table)).await?;
        let read =
            |row: &Row| Ok(RowText { text: row::get(row, 0)?, key: RowKey::read(row, table, 1)? });
        let texts: std::result::Result<Vec<RowText>, shunt_domain::StoreError> =
            rows.iter().map(read).collect();
        let mut texts = texts.map_err(|error| self.odd(error))?;
        texts.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(texts)
    }

    /// Puts rows, in the open transaction.
    pub(crate) async fn put(&self, table: Table, rows: &[RowText]) -> Result<()> {
        let statement = match table {
            Table::Links => &arcs::LINKS_PUT,
            Table::Keys => &arcs::KEYS_PUT,
        };
        let texts: Vec<&str> = rows.iter().map(|row| row.text.as_str()).collect();
        self.ask(statement, &[&texts]).await.map(drop)
    }

    /// Removes rows, in the open transaction.
    pub(crate) async fn remove(&self, table: Table, keys: &[RowKey]) -> Result<()> {
        let statement = match table {
            Table::Links => &arcs::LINKS_REMOVE,
            Table::Keys => &arcs::KEYS_REMOVE,
        };
        let arrays = KeyArrays::new(table, keys);
        self.ask(statement, &arrays.params(table)).await.map(drop)
    }

    /// What was noted of an arc, the earliest first.
    pub(crate) async fn changes(&self, start: Place, limit: i64) -> Result<Vec<Change>> {
        let rows = self.ask(&arcs::ARC_CHANGES, &[&PlaceBits(start), &limit]).await?;
        let change = |row: &Row| {
            let link: Option<&str> = row::get(row, 1)?;
            let table = if link.is_some() { Table::Links } else { Table::Keys };
            let at = if link.is_some() { 1 } else { 3 };
            Ok(Change { id: row::get(row, 0)?, table, key: RowKey::read(row, table, at)? })
        };
        let changes: std::result::Result<_, shunt_domain::StoreError> =
            rows.iter().map(change).collect();
        changes.map_err(|error| self.odd(error))
    }

    /// These changes have been copied.
    pub(crate) async fn changes_done(&self, changes: &[Change]) -> Result<()> {
        let ids: Vec<i64> = changes.iter().map(|change| change.id).collect();
        self.ask(&arcs::ARC_CHANGES_DONE, &[&ids]).await.map(drop)
    }

    /// Learns which lives of nodes are the latest from another shard.
    pub(crate) async fn hear_nodes(&self, other: &Self) -> Result<()> {
        let (mut nodes, mut boots) = (Vec::<i64>::new(), Vec::<i64>::new());
        for row in other.ask(&arcs::LIVES, &[]).await? {
            nodes.push(row::get(&row, 0).map_err(|error| other.odd(error))?);
            boots.push(row::get(&row, 1).map_err(|error| other.odd(error))?);
        }
        self.ask(&arcs::LIVES_HEAR, &[&nodes, &boots]).await.map(drop)
    }

    /// Up to `limit` codes and domains of links behind a key.
    pub(crate) async fn link_keys(
        &self,
        behind: &(String, i64),
        limit: i64,
    ) -> Result<Vec<(String, i64)>> {
        let rows = self.ask(&arcs::LINK_KEYS, &[&behind.0, &behind.1, &limit]).await?;
        let key = |row: &Row| Ok((row::get(row, 0)?, row::get(row, 1)?));
        let keys: std::result::Result<_, shunt_domain::StoreError> = rows.iter().map(key).collect();
        keys.map_err(|error| self.odd(error))
    }
}
