//! The stores.

use super::super::super::parse::{Raw, count, duration, size, word};
use super::super::super::urls::{named_shards, postgres, replicas};
use super::super::super::{Durability, StoreUrl};
use super::super::{Flag, Setting};
use super::{HOUR, SECOND, TIB};

/// See the module.
pub(super) const PART: &[Setting] = &[
    setting!(
        secret
        "store.url",
        "SHUNT_STORE",
        Flag::Common("store"),
        "",
        "URL",
        "The links store. Empty: in the data directory. sqlite:///absolute/path/links.db: in \
         another one; the file's name is fixed, clicks.db with the roll-ups lies beside it. \
         postgres://user:password@host:5432/database: PostgreSQL, directly or through PgBouncer in \
         transaction mode; with ?sslmode=verify-full&sslrootcert=/path/ca.pem it is encrypted; \
         several hosts (host1:5432,host2:5432) are tried until one takes writes. \
         shards+postgres://a=user:password@host1/database,b=…: several databases as one store, see \
         store.shards. Run `shunt migrate` once before the first start.",
        to!(store.url, |raw: &Raw| StoreUrl::parse(raw.text()?))
    ),
    setting!(
        secret
        "store.shards",
        "SHUNT_STORE_SHARDS",
        Flag::No,
        "",
        "list of name=URL",
        "Several PostgreSQL databases as one store, instead of store.url: each with the name that \
         is hashed, for example a=postgres://user:password@host:5432/database. Links are spread \
         over them by a consistent-hash ring. The order has no meaning, a name must never change, \
         an address may. All nodes name the same shards; a new one is named here first and gets \
         its part with `shunt shards add`.",
        |config, raw| {
            if let Some(shards) = named_shards(&raw.list())? {
                if !matches!(config.store.url, StoreUrl::DataDir) {
                    return Err("store.url is given as well; give one of the two".to_owned());
                }
                config.store.url = shards;
            }
            Ok(())
        }
    ),
    setting!(
        "store.durability",
        "SHUNT_STORE_DURABILITY",
        Flag::No,
        "full",
        "full or off",
        "When a write counts as done. full: when it is on the disk, so an acknowledged link \
         survives a power cut. off: when the operating system has it; for measurements only, \
         because a power cut loses or damages links.",
        to!(store.durability, |raw| word(
            raw,
            &[("full", Durability::Full), ("off", Durability::Off)]
        ))
    ),
    setting!(
        "store.mmap_bytes",
        "SHUNT_STORE_MMAP_BYTES",
        Flag::No,
        "4GiB",
        "size",
        "How much of links.db is mapped into memory, by each reader. Too high: the process looks \
         larger than it is, the pages belong to the page cache. Too low: reads of links that are \
         not in L1 cost a system call each. 0 maps nothing.",
        to!(store.mmap_bytes, |raw| size(raw, 0..=TIB))
    ),
    setting!(
        "store.readers",
        "SHUNT_STORE_READERS",
        Flag::No,
        "4",
        "number",
        "Threads that read the store, each with a connection. Too high: memory (about 1 MiB \
         each). Too low: slow searches hold up the loading of links that are not in L1. On a \
         database server: connections that redirects share, each with many questions under way; 2 \
         to 4 are enough.",
        to!(store.readers, |raw| count(raw, 1..=256))
    ),
    setting!(
        "store.writers",
        "SHUNT_STORE_WRITERS",
        Flag::No,
        "16",
        "number",
        "Connections that write to a database server, each with one transaction under way. Too \
         high: the server's processes crowd each other, and PgBouncer's pool lets them wait. Too \
         low: writes wait for each other. The embedded store has one writer whatever stands here.",
        to!(store.writers, |raw| count(raw, 1..=1_000))
    ),
    setting!(
        secret
        "store.migrate",
        "SHUNT_STORE_MIGRATE",
        Flag::No,
        "",
        "URL",
        "Where `shunt migrate` connects to: the database server's own address, past any pooler, \
         and a user who may create tables. Empty: as store.url.",
        |config, raw| {
            let text = raw.text()?;
            config.store.migrate = match postgres(text) {
                Some(options) => Some(Box::new(options?)),
                None if text.is_empty() => None,
                None => {
                    let right = "write postgres://user:password@host:5432/database";
                    return Err(format!("this is no address of PostgreSQL; {right}"));
                }
            };
            Ok(())
        }
    ),
    setting!(
        secret
        "store.replicas",
        "SHUNT_STORE_REPLICAS",
        Flag::No,
        "",
        "list of URLs",
        "Streaming standbys of the PostgreSQL database: redirects read from the nearest copy, and \
         one of them that is promoted is written to without a restart. Each a \
         postgres://user:password@host:5432/database as in store.url, one host each; name the \
         database itself, or a pooler that leads to this one server. A shard's standby has the \
         shard's name in front, as in store.shards: a=postgres://…. In the environment and in a \
         secret's file they are parted by commas.",
        to!(store.replicas, replicas)
    ),
    setting!(
        "store.max_lag",
        "SHUNT_STORE_MAX_LAG",
        Flag::No,
        "10s",
        "duration",
        "Standbys that are further behind serve only when nothing else answers. Too high: \
         redirects follow edits made by other nodes late. Too low: a burst of writes takes the \
         standbys out, and the primary has all reads.",
        to!(store.max_lag, |raw| duration(raw, SECOND..=HOUR))
    ),
    setting!(
        secret
        "store.previous",
        "SHUNT_STORE_PREVIOUS",
        Flag::No,
        "",
        "URL",
        "The store that store.url follows, for as long as links may still be only there: what \
         store.url does not know is asked of it, a link is taken over when it changes, and a code \
         that it has is given to nobody else. It is never written to. Take it out when `shunt copy \
         --verify` finds no difference.",
        |config, raw| {
            let text = raw.text()?;
            config.store.previous =
                if text.is_empty() { None } else { Some(StoreUrl::parse(text)?) };
            Ok(())
        }
    ),
];
