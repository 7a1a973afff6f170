//! The addresses of store, shared cache and event stream, as far as this build can reach them.

use std::path::PathBuf;

use shunt_redis::RedisOptions;
use shunt_store::postgres::PostgresOptions;
use shunt_store::replicated::MOST_COPIES;

use super::parse::Raw;

/// Which store, and where.
#[derive(Clone, Debug, Default)]
pub enum StoreUrl {
    /// `links.db` in the data directory.
    #[default]
    DataDir,
    /// `links.db` in another directory, which is named here.
    Sqlite(PathBuf),
    /// A PostgreSQL database, directly or through a pooler.
    Postgres(Box<PostgresOptions>),
}

/// Which shared cache.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CacheUrl {
    /// No shared cache: L1 only.
    #[default]
    None,
    /// A Redis, or a Redis Cluster.
    Redis(Box<RedisOptions>),
}

/// Where click events go. This build knows its own spool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EventsUrl {
    /// The spool on this machine's disk.
    #[default]
    Local,
}

impl StoreUrl {
    /// `sqlite:///absolute/directory/links.db`, or nothing for the data directory; the file's name
    /// is fixed, because lock and roll-ups lie beside it under fixed names as well. Or
    /// `postgres://user:password@host:port/database`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self::DataDir);
        }
        if let Some(path) = text.strip_prefix("sqlite://") {
            let dir = path.strip_suffix("/links.db").filter(|dir| dir.starts_with('/'));
            let right = "the file is called links.db; write sqlite:///absolute/path/links.db";
            return dir.map(|dir| Self::Sqlite(dir.into())).ok_or_else(|| right.to_owned());
        }
        if let Some(options) = postgres(text) {
            return options.map(|options| Self::Postgres(Box::new(options)));
        }
        Err(not_here(
            text,
            &["shards+postgres", "dynamodb"],
            "sqlite:///path/links.db or postgres://user:password@host:5432/database",
        ))
    }
}

/// A PostgreSQL address; `None` when it is another kind of address.
pub(super) fn postgres(text: &str) -> Option<Result<PostgresOptions, String>> {
    ["postgres://", "postgresql://"]
        .iter()
        .any(|scheme| text.starts_with(scheme))
        .then(|| PostgresOptions::from_url(text))
}

/// Addresses of standbys, one host each: the comma between hosts is the one between addresses.
pub(super) fn replicas(raw: &Raw) -> Result<Vec<PostgresOptions>, String> {
    let list = raw.list();
    if list.len() >= MOST_COPIES {
        return Err(format!("{} are too many; {} can be used", list.len(), MOST_COPIES - 1));
    }
    let read = |(at, text): (usize, &str)| {
        let right = "write postgres://user:password@host:5432/database, with one host each";
        let options = postgres(text)
            .unwrap_or_else(|| Err(format!("this is no address of PostgreSQL; {right}")));
        match options {
            Ok(options) if options.hosts.len() == 1 => Ok(options),
            Ok(_) => Err(format!("number {} names several hosts; {right}", at + 1)),
            Err(why) => Err(format!("number {}: {why}", at + 1)),
        }
    };
    list.into_iter().enumerate().map(read).collect()
}

/// Addresses of PostgreSQL, parted by white space or as a list. A comma parts the hosts of one.
pub(super) fn postgres_list(texts: &[&str]) -> Result<Vec<PostgresOptions>, String> {
    let words = texts.iter().flat_map(|text| text.split_whitespace());
    let address = |word: &str| {
        let wrong = "this is no address of PostgreSQL; write \
                     postgres://user:password@host:5432/database, several parted by spaces";
        postgres(word).unwrap_or_else(|| Err(wrong.to_owned()))
    };
    words.map(address).collect()
}

impl CacheUrl {
    /// Nothing, `none`, or an address of Redis.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        match text {
            "" | "none" => Ok(Self::None),
            _ => RedisOptions::parse(text)
                .map(|options| Self::Redis(Box::new(options)))
                .map_err(|error| error.to_string()),
        }
    }
}

impl EventsUrl {
    /// `local`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        match text {
            "" | "local" => Ok(Self::Local),
            _ => Err(not_here(text, &["kafka"], "local")),
        }
    }
}

/// Why a URL can't be used. Repeats the scheme only: the rest may hold a password.
fn not_here(text: &str, later: &[&str], right: &str) -> String {
    match text.split_once("://") {
        Some((scheme, _)) if later.contains(&scheme) => {
            format!("{scheme}:// is not in this build; use {right}")
        }
        _ => format!("this is no address shunt knows; use {right}"),
    }
}
