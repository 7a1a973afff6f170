//! Links of another service, read where they are: its table in one PostgreSQL (or Citus)
//! database, or in several that are chosen by a ring of their names.
//!
//! Invariants:
//! - nothing is ever written there;
//! - a row becomes a link of the default domain at version 1 that belongs to nobody
//!   ([`OwnerId::ANONYMOUS`]): the other service's users are no API keys of ours, and a number of
//!   one must not open the links of the other. Whose it was is kept as the tag `owner:…`;
//! - a target goes through the one target parser. A row whose target it refuses is gone (410) to
//!   visitors, and its code stays taken.

mod sql;

use std::sync::Arc;

use shunt_domain::ports::{BoxFuture, LinkReader};
use shunt_domain::reserved::is_reserved;
use shunt_domain::ring::{Ring, RingNode};
use shunt_domain::target::Reason;
use shunt_domain::{
    Code, Deadline, DomainId, Link, LinkKey, NewLink, OwnerId, RedirectStatus, StoreError, Stored,
    Tag, Target, Timestamp, Tombstone, Version,
};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::database::Database;
use super::error::{Failure, MIGRATE, PostgresError, chain};
use super::options::PostgresOptions;
use super::row;
use super::session::Param;

pub use sql::{LegacyKeys, LegacyNames};
use sql::{Pages, Texts};

/// Connections that redirects share on each database, and those for pages.
const READERS: usize = 2;
const SCANNERS: usize = 1;

/// The version of a row whose target is refused: that of a link deleted at once.
const GONE: Version = Version(2);

/// Says what may be a target.
pub trait LegacyTargets: Send + Sync {
    /// The target of a code, by the one parser and today's rules.
    ///
    /// # Errors
    /// Why it is none.
    fn target(&self, code: &str, text: &str) -> Result<Target, Reason>;
}

/// Where the other service's links are and what they look like.
#[derive(Clone, Debug)]
pub struct LegacyOptions {
    /// The databases. With more than one, each with the name that the ring hashes.
    pub shards: Vec<(String, PostgresOptions)>,
    /// Tables and columns.
    pub names: LegacyNames,
}

/// A row of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LegacyRow {
    /// As a link of ours.
    Link(Box<Link>),
    /// It can't be one.
    Refused {
        /// Its code, whatever it is.
        code: String,
        /// Why.
        why: String,
    },
}

/// Where the next page begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LegacyPlace {
    /// In which database.
    pub shard: usize,
    /// Behind which code; empty at the start.
    pub after: String,
}

/// The other service's links.
pub struct LegacyTable {
    shards: Vec<Database>,
    /// `None` with one database.
    ring: Option<Ring>,
    texts: Texts,
    targets: Arc<dyn LegacyTargets>,
}

impl std::fmt::Debug for LegacyTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LegacyTable").field("shards", &self.shards).finish_non_exhaustive()
    }
}

impl LegacyTable {
    /// Opens it; connections are made in the background. See [`Self::check`].
    ///
    /// # Errors
    /// [`PostgresError::Options`].
    pub fn open(
        options: LegacyOptions,
        targets: Arc<dyn LegacyTargets>,
    ) -> Result<Self, PostgresError> {
        let texts = options.names.texts().map_err(PostgresError::Options)?;
        let names = options.shards.iter().map(|(name, _)| RingNode::new(name.clone())).collect();
        let ring = match options.shards.len() {
            0 => return Err(PostgresError::Options("no legacy database is named".to_owned())),
            1 => None,
            _ => {
                let ring = Ring::new(names);
                Some(ring.map_err(|error| PostgresError::Options(error.to_string()))?)
            }
        };
        let open = |(_, options): (String, PostgresOptions)| {
            let options = PostgresOptions { readers: READERS, scanners: SCANNERS, ..options };
            Database::start(options, None)
        };
        let shards = options.shards.into_iter().map(open).collect::<Result<_, _>>()?;
        Ok(Self { shards, ring, texts, targets })
    }

    /// Whether every database answers and has the tables and columns. Blocks, for
    /// `connect_timeout` and some answers each at most. Says of each that does not what is in the
    /// way and what to do.
    pub fn check(&self) -> Vec<PostgresError> {
        self.shards.iter().filter_map(|shard| self.check_one(shard).err()).collect()
    }

    fn check_one(&self, shard: &Database) -> Result<(), PostgresError> {
        let connector = Arc::clone(&shard.connector);
        let patience = shard.options.connect_timeout * 2;
        let mut texts = vec![(self.texts.get.clone(), true)];
        texts.push((self.texts.pages.first.clone(), false));
        texts.extend(self.texts.keys.iter().map(|keys| (keys.first.clone(), false)));
        let checking = async move {
            let connected = connector.connect().await;
            let (connected, _) = connected.map_err(|fault| connector.explain(&fault))?;
            for (text, by_code) in texts {
                let (code, none) = ("", 0_i64);
                let param: (Param<'_>, Type) =
                    if by_code { (&code, Type::TEXT) } else { (&none, Type::INT8) };
                let asked = connected.client.query_typed(&text, &[param]).await;
                asked.map_err(|error| refused(connector.address(), &error))?;
            }
            Ok(())
        };
        let address = shard.connector.address().to_owned();
        let late = PostgresError::Unreachable { address, reason: "no answer".to_owned() };
        let checked = shard.block_on(async move {
            tokio::time::timeout(patience, checking).await.unwrap_or(Err(late))
        });
        checked.unwrap_or_else(|error| Err(PostgresError::Options(error.to_string())))
    }

    /// The addresses, for people.
    pub fn address(&self) -> String {
        let all: Vec<&str> = self.shards.iter().map(|shard| shard.connector.address()).collect();
        all.join(", ")
    }

    /// Ends all connections. Blocks.
    pub fn close(&self) {
        self.shards.iter().for_each(Database::close);
    }

    fn shard_of(&self, code: &str) -> Result<&Database, StoreError> {
        let number = self.ring.as_ref().map_or(0, |ring| ring.owner(code));
        let missing = || StoreError::Corrupt("the ring names a database that is none".to_owned());
        self.shards.get(number).ok_or_else(missing)
    }

    /// A page of at most `limit` rows in the order of their codes, database by database, from
    /// `place` on; with the place of the next page, `None` at the end.
    ///
    /// # Errors
    /// When the database can't be asked.
    pub async fn page(
        &self,
        place: &LegacyPlace,
        limit: u32,
        deadline: Deadline,
    ) -> Result<(Vec<LegacyRow>, Option<LegacyPlace>), StoreError> {
        let (rows, next) = self.rows(&self.texts.pages, place, limit, deadline).await?;
        let judged = rows.iter().map(|row| self.judge(row, place.shard));
        Ok((judged.collect::<Result<_, _>>()?, next))
    }

    /// A page of keys that are not used, in the same way. Keys that can be no codes are left out.
    /// No keys at all where no table of keys is named.
    ///
    /// # Errors
    /// When the database can't be asked.
    pub async fn unused_keys(
        &self,
        place: &LegacyPlace,
        limit: u32,
        deadline: Deadline,
    ) -> Result<(Vec<Code>, Option<LegacyPlace>), StoreError> {
        let Some(pages) = &self.texts.keys else { return Ok((Vec::new(), None)) };
        let (rows, next) = self.rows(pages, place, limit, deadline).await?;
        let mut codes = Vec::with_capacity(rows.len());
        for row in &rows {
            let text: &str = row::get(row, 0)?;
            if !is_reserved(text) {
                codes.extend(Code::parse(text).ok());
            }
        }
        Ok((codes, next))
    }

    /// How many rows there are; a scan of the whole table.
    ///
    /// # Errors
    /// When a database can't be asked, or not in time.
    pub async fn count(&self, deadline: Deadline) -> Result<u64, StoreError> {
        let mut sum = 0;
        for shard in &self.shards {
            let rows = self.scan(shard, self.texts.count.clone(), None, None, deadline).await?;
            if let Some(row) = rows.first() {
                sum += row::unsigned(row, 0)?;
            }
        }
        Ok(sum)
    }

    async fn rows(
        &self,
        pages: &Pages,
        place: &LegacyPlace,
        limit: u32,
        deadline: Deadline,
    ) -> Result<(Vec<Row>, Option<LegacyPlace>), StoreError> {
        let Some(shard) = self.shards.get(place.shard) else { return Ok((Vec::new(), None)) };
        let after = Some(place.after.clone()).filter(|after| !after.is_empty());
        let sql = if after.is_some() { &pages.next } else { &pages.first };
        let rows = self.scan(shard, sql.clone(), after, Some(i64::from(limit)), deadline).await?;
        let next = match rows.last() {
            Some(last) if rows.len() >= limit as usize => {
                Some(LegacyPlace { shard: place.shard, after: row::get(last, 0)? })
            }
            _ if place.shard + 1 < self.shards.len() => {
                Some(LegacyPlace { shard: place.shard + 1, after: String::new() })
            }
            _ => None,
        };
        Ok((rows, next))
    }

    async fn scan(
        &self,
        shard: &Database,
        sql: String,
        after: Option<String>,
        limit: Option<i64>,
        deadline: Deadline,
    ) -> Result<Vec<Row>, StoreError> {
        let rows = shard.scan(deadline, (sql, after, limit), |(sql, after, limit), session| {
            Box::pin(async move {
                let mut params: Vec<(Param<'_>, Type)> = Vec::with_capacity(2);
                if let Some(after) = after {
                    params.push((after, Type::TEXT));
                }
                if let Some(limit) = limit {
                    params.push((limit, Type::INT8));
                }
                let rows: Result<Vec<Row>, Failure> = session.read_made(sql, &params).await;
                rows
            })
        });
        rows.await.map_err(|error| at(shard, error))
    }

    /// A row as a link of ours, on the database where it was found.
    fn judge(&self, row: &Row, shard: usize) -> Result<LegacyRow, StoreError> {
        let text: String = row::get(row, 0)?;
        let refused = |why: String| Ok(LegacyRow::Refused { code: text.clone(), why });
        let code = match Code::parse(&text) {
            Ok(code) => code,
            Err(error) => return refused(format!("{error} (bad-code)")),
        };
        if is_reserved(&text) {
            return refused("this word belongs to the service itself (reserved)".to_owned());
        }
        if self.ring.as_ref().is_some_and(|ring| ring.owner(&text) != shard) {
            let why = "it is not on the database that the ring names, so nobody found it there \
                       (wrong-shard)";
            return refused(why.to_owned());
        }
        Ok(match self.link(row, code)? {
            Ok(link) => LegacyRow::Link(Box::new(link)),
            Err(why) => LegacyRow::Refused { code: text, why },
        })
    }

    /// The link that a row stands for, or why it stands for none.
    fn link(&self, row: &Row, code: Code) -> Result<Result<Link, String>, StoreError> {
        let target: Option<&str> = row::get(row, 1)?;
        let created_at = created(row)?;
        let target = match target.map(|text| self.targets.target(code.as_str(), text)) {
            Some(Ok(target)) => target,
            Some(Err(reason)) => {
                return Ok(Err(format!("target: {} ({})", reason.detail(), reason.code())));
            }
            None => return Ok(Err("target: it is missing (missing)".to_owned())),
        };
        let owner: Option<&str> = row::get(row, 3)?;
        let tags = owner.and_then(|owner| Tag::parse(&format!("owner:{owner}")));
        let data = NewLink {
            key: LinkKey::new(DomainId::DEFAULT, code),
            target,
            title: None,
            tags: tags.into_iter().collect(),
            owner: OwnerId::ANONYMOUS,
            created_at,
            valid_from: None,
            expires_at: None,
            max_clicks: None,
            status: RedirectStatus::default(),
            forward_query: false,
            enabled: true,
        };
        Ok(Ok(Link { data, version: Version::FIRST, updated_at: created_at, used: 0 }))
    }

    async fn find(&self, key: &LinkKey, deadline: Deadline) -> Result<Option<Stored>, StoreError> {
        if key.domain != DomainId::DEFAULT {
            return Ok(None);
        }
        let code = key.code.as_str();
        let shard = self.shard_of(code)?;
        let params: [(Param<'_>, Type); 1] = [(&code, Type::TEXT)];
        let rows = shard.readers.query_made(&self.texts.get, &params, deadline).await;
        let rows = rows.map_err(|error| at(shard, error))?;
        let Some(row) = rows.first() else { return Ok(None) };
        Ok(Some(match self.link(row, key.code.clone())? {
            Ok(link) => Stored::Link(Box::new(link)),
            Err(_) => {
                let at = created(row)?;
                Stored::Tombstone(Tombstone {
                    key: key.clone(),
                    owner: OwnerId::ANONYMOUS,
                    created_at: at,
                    deleted_at: at,
                    version: GONE,
                })
            }
        }))
    }
}

impl LinkReader for LegacyTable {
    fn get<'a>(
        &'a self,
        key: &'a LinkKey,
        _min_version: Version,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Option<Stored>, StoreError>> {
        Box::pin(self.find(key, deadline))
    }
}

/// When a row was made; unknown times are the beginning of ours.
fn created(row: &Row) -> Result<Timestamp, StoreError> {
    let millis: Option<i64> = row::get(row, 2)?;
    let millis = millis.unwrap_or_default().clamp(0, Timestamp::MAX.as_millis());
    Ok(Timestamp::from_millis(millis))
}

/// An error with the words whose database it was.
fn at(shard: &Database, error: StoreError) -> StoreError {
    match error {
        StoreError::Unavailable(text) => {
            let text = text.trim_end_matches(MIGRATE);
            let address = shard.connector.address();
            StoreError::Unavailable(format!("the legacy database at {address}: {text}"))
        }
        other => other,
    }
}

/// Why a statement can't be asked there.
fn refused(address: &str, error: &tokio_postgres::Error) -> PostgresError {
    let reason = error.as_db_error().map_or_else(|| chain(error), |db| db.message().to_owned());
    PostgresError::Options(format!(
        "the legacy database at {address} refuses to be read: {reason}; compare the names in \
         [legacy] with its tables, and grant SELECT to its user"
    ))
}
