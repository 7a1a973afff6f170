//! The addresses of store, shared cache and event stream, as far as this build can reach them.

use std::path::PathBuf;

use shunt_redis::RedisOptions;
#[cfg(feature = "dynamodb")]
use shunt_store::dynamodb::DynamoOptions;
use shunt_store::postgres::PostgresOptions;
use shunt_store::replicated::MOST_COPIES;
use shunt_store::sharded::ShardOptions;

use super::Replica;
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
    /// Several PostgreSQL databases on a ring.
    Shards(Vec<ShardOptions>),
    /// A DynamoDB table.
    #[cfg(feature = "dynamodb")]
    Dynamo(Box<DynamoOptions>),
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
    /// `postgres://user:password@host:port/database`, or `shards+postgres://` and several of the
    /// rest, joined by commas, each with its name and `=` in front or called `shard0`, `shard1`, ….
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
        if let Some(list) = text.strip_prefix("shards+postgres://") {
            return shards(list.split(',').enumerate().map(|(at, item)| {
                // An `=` in front of everything else ends a name.
                let (name, address) = match item.split_once('=') {
                    Some((name, address)) if !name.contains(['@', ':', '/', '?']) => {
                        (name.to_owned(), address)
                    }
                    _ => (format!("shard{at}"), item),
                };
                (name, format!("postgres://{address}"))
            }));
        }
        if text.starts_with("dynamodb://") {
            return Self::dynamo(text);
        }
        Err(not_here(
            text,
            &[],
            "sqlite:///path/links.db or postgres://user:password@host:5432/database",
        ))
    }
}

impl StoreUrl {
    #[cfg(feature = "dynamodb")]
    fn dynamo(text: &str) -> Result<Self, String> {
        let options = DynamoOptions::parse(text).map_err(|error| error.to_string())?;
        Ok(Self::Dynamo(Box::new(options)))
    }

    #[cfg(not(feature = "dynamodb"))]
    fn dynamo(_: &str) -> Result<Self, String> {
        let why = "this build has no DynamoDB; build shunt with `--features dynamodb`";
        Err(why.to_owned())
    }

    /// Whether the figures of clicks are beside the links.
    pub(crate) const fn has_stats(&self) -> bool {
        match self {
            Self::DataDir | Self::Sqlite(_) | Self::Postgres(_) | Self::Shards(_) => true,
            #[cfg(feature = "dynamodb")]
            Self::Dynamo(_) => false,
        }
    }

    /// Whether the links are in a file of this machine.
    pub(crate) const fn is_embedded(&self) -> bool {
        matches!(self, Self::DataDir | Self::Sqlite(_))
    }
}

/// The longest name of a shard.
const MAX_NAME: usize = 64;

/// Shards from their names and addresses.
fn shards(list: impl Iterator<Item = (String, String)>) -> Result<StoreUrl, String> {
    let mut shards: Vec<ShardOptions> = Vec::new();
    for (name, address) in list {
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
        if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(fits) {
            return Err(format!(
                "a shard is called by 1 to {MAX_NAME} letters, digits, -, _, . and :; write \
                 name=postgres://user:password@host:5432/database"
            ));
        }
        if shards.iter().any(|shard| shard.name == name) {
            return Err(format!("two shards are called {name:?}; each needs a name of its own"));
        }
        let database = match postgres(&address) {
            Some(database) => database.map_err(|why| format!("shard {name}: {why}"))?,
            None => {
                let right = "write name=postgres://user:password@host:5432/database";
                return Err(format!("shard {name} has no address of PostgreSQL; {right}"));
            }
        };
        shards.push(ShardOptions::new(name, database));
    }
    if shards.is_empty() {
        Err("no shard is named".to_owned())
    } else {
        Ok(StoreUrl::Shards(shards))
    }
}

/// The setting `store.shards`: `name=postgres://…`, one for each shard; `None` when there are none.
pub(super) fn named_shards(list: &[&str]) -> Result<Option<StoreUrl>, String> {
    if list.is_empty() {
        return Ok(None);
    }
    let named = list.iter().map(|item| {
        let (name, address) = item.split_once('=').unwrap_or(("", item));
        (name.trim().to_owned(), address.trim().to_owned())
    });
    shards(named).map(Some)
}

/// A PostgreSQL address; `None` when it is another kind of address.
pub(super) fn postgres(text: &str) -> Option<Result<PostgresOptions, String>> {
    ["postgres://", "postgresql://"]
        .iter()
        .any(|scheme| text.starts_with(scheme))
        .then(|| PostgresOptions::from_url(text))
}

/// Addresses of standbys, one host each: the comma between hosts is the one between addresses. Those
/// of shards have the shard's name and `=` in front.
pub(super) fn replicas(raw: &Raw) -> Result<Vec<Replica>, String> {
    let list = raw.list();
    let read = |(at, text): (usize, &str)| {
        let right = "write postgres://user:password@host:5432/database, with one host each";
        // An `=` behind the scheme is the address's own.
        let (shard, address) = match text.split_once('=') {
            Some((name, address)) if !name.contains("//") => (Some(name.trim()), address.trim()),
            _ => (None, text),
        };
        let options = postgres(address)
            .unwrap_or_else(|| Err(format!("this is no address of PostgreSQL; {right}")));
        match options {
            Ok(database) if database.hosts.len() == 1 => {
                Ok(Replica { shard: shard.map(str::to_owned), database })
            }
            Ok(_) => Err(format!("number {} names several hosts; {right}", at + 1)),
            Err(why) => Err(format!("number {}: {why}", at + 1)),
        }
    };
    let replicas: Vec<Replica> =
        list.into_iter().enumerate().map(read).collect::<Result<_, _>>()?;
    for one in &replicas {
        let count = replicas.iter().filter(|other| other.shard == one.shard).count();
        if count >= MOST_COPIES {
            return Err(format!("{count} are too many; {} can be used", MOST_COPIES - 1));
        }
    }
    Ok(replicas)
}

/// What is wrong with the standbys of this store.
pub(super) fn misplaced(url: &StoreUrl, replicas: &[Replica]) -> Option<String> {
    let named = replicas.iter().find_map(|replica| replica.shard.as_deref());
    match url {
        _ if replicas.is_empty() => None,
        StoreUrl::Postgres(_) => named.map(|name| {
            format!("{name:?} would be a shard, and store.url is one database; write no name")
        }),
        StoreUrl::Shards(shards) => {
            let is_known = |name: &str| shards.iter().any(|shard| shard.name == name);
            let stray = replicas.iter().find(|one| !one.shard.as_deref().is_some_and(is_known))?;
            Some(match &stray.shard {
                Some(name) => format!("no shard is called {name:?}; name one of store.shards"),
                None => "whose standby is it? Write name=postgres://… with the name of a shard"
                    .to_owned(),
            })
        }
        _ => Some(
            "standbys belong to a database; store.url must be postgres://…, or store.shards given"
                .to_owned(),
        ),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn names(url: &StoreUrl) -> Vec<(&str, &str)> {
        let StoreUrl::Shards(shards) = url else { panic!("{url:?}") };
        shards.iter().map(|shard| (shard.name.as_str(), shard.database.user.as_str())).collect()
    }

    #[test]
    fn shards_have_names_and_addresses() {
        let url = StoreUrl::parse("shards+postgres://x=ada@h1:1/db,bob:p%3D@h2/db?sslmode=disable");
        assert_eq!(names(&url.unwrap()), [("x", "ada"), ("shard1", "bob")]);
        let list = ["b=postgres://ada:geheim@h/b", " a = postgres://bob:geheim@h/a"];
        assert_eq!(names(&named_shards(&list).unwrap().unwrap()), [("b", "ada"), ("a", "bob")]);
        assert!(matches!(named_shards(&[]), Ok(None)));
        let raw = Raw::List(vec![
            "postgres://ada:p%3D@h1/db?sslmode=disable".to_owned(),
            "b = postgres://ada@h2/db".to_owned(),
        ]);
        let replicas = replicas(&raw).unwrap();
        let of: Vec<_> = replicas.iter().map(|replica| replica.shard.as_deref()).collect();
        assert_eq!(of, [None, Some("b")]);
        let url = named_shards(&list).unwrap().unwrap();
        let wrong = |some: &[Replica]| misplaced(&url, some).unwrap_or_default();
        assert_eq!(wrong(&replicas[1..]), "");
        assert!(wrong(&replicas).contains("whose standby"));
        let stray = Replica { shard: Some("x".to_owned()), ..replicas[0].clone() };
        assert!(wrong(&[stray]).contains("no shard is called \"x\""));
        for (wrong, said) in [
            (vec!["postgres://ada:geheim@h/b"], "name=postgres://"),
            (vec!["a=postgres://x@h/b", "a=postgres://geheim@h/c"], "two shards"),
            (vec!["a=mysql://geheim@h/b"], "shard a has no address"),
            (vec!["a=postgres://x:geheim@h:port/b"], "shard a: "),
            (vec!["a*2=postgres://x:geheim@h/b"], "letters"),
        ] {
            let error = named_shards(&wrong).unwrap_err();
            assert!(error.contains(said) && !error.contains("geheim"), "{error}");
        }
    }
}
