//! Another service's links, read where they are.

use super::super::super::parse::Raw;
use super::super::super::urls::postgres_list;
use super::super::{Flag, Setting};

/// A name in the other service's database.
fn name(raw: &Raw) -> Result<String, String> {
    raw.text().map(str::to_owned)
}

/// See the module.
pub(super) const PART: &[Setting] = &[
    setting!(
        secret
        "legacy.url",
        "SHUNT_LEGACY",
        Flag::No,
        "",
        "list of URLs",
        "The PostgreSQL (or Citus) database of another shortener whose links this service goes on \
         serving: a code of the default domain that is not in the store is looked up there. \
         Several, parted by spaces (an array in the file), are the shards of a consistent-hash \
         ring; then legacy.nodes names them. Nothing is ever written there: a link that is \
         changed or deleted is first taken over into the store, and `shunt links import --legacy` \
         takes all. A user with SELECT on the tables is enough. Empty: there is no such service.",
        to!(legacy.urls, |raw: &Raw| postgres_list(&raw.items()))
    ),
    setting!(
        "legacy.nodes",
        "SHUNT_LEGACY_NODES",
        Flag::No,
        "",
        "list of names",
        "With several addresses: what the other service calls each of them on its ring, in the \
         same order, shard0,shard1,shard2 for one. The ring is the default one of Python's \
         uhashring: 160 points for each node, MD5 of NAME-0 to NAME-159. A wrong name makes codes \
         look absent that are there.",
        |config, raw| {
            config.legacy.nodes = raw.list().into_iter().map(str::to_owned).collect();
            Ok(())
        }
    ),
    setting!(
        "legacy.table",
        "SHUNT_LEGACY_TABLE",
        Flag::No,
        "urls",
        "name",
        "The table with the links, TABLE or SCHEMA.TABLE. Names are quoted: upper and lower case \
         count.",
        to!(legacy.table, name)
    ),
    setting!(
        "legacy.code",
        "SHUNT_LEGACY_CODE",
        Flag::No,
        "short_code",
        "name",
        "The column with the code, of a text type and with an index; the column of the same name \
         in legacy.keys as well.",
        to!(legacy.code, name)
    ),
    setting!(
        "legacy.target",
        "SHUNT_LEGACY_TARGET",
        Flag::No,
        "long_url",
        "name",
        "The column with the target. Targets go through shunt's own checks; a link whose target \
         is refused is answered with 410 and said in the log.",
        to!(legacy.target, name)
    ),
    setting!(
        "legacy.created",
        "SHUNT_LEGACY_CREATED",
        Flag::No,
        "created_at",
        "name, or empty",
        "The column with the time of creation: timestamptz, or timestamp or date in UTC. Empty: \
         there is none.",
        to!(legacy.created, name)
    ),
    setting!(
        "legacy.owner",
        "SHUNT_LEGACY_OWNER",
        Flag::No,
        "",
        "name, or empty",
        "The column that says whose a link is. The other service's users are no API keys of this \
         one, so its links belong to nobody and admins alone change them; the column's value \
         becomes the tag owner:VALUE. Empty: there is none.",
        to!(legacy.owner, name)
    ),
    setting!(
        "legacy.keys",
        "SHUNT_LEGACY_KEYS",
        Flag::No,
        "",
        "name, or empty",
        "The table of codes generated in advance, TABLE or SCHEMA.TABLE; `shunt links import \
         --legacy --keys` puts the unused ones into the pool. Empty: there is none.",
        to!(legacy.keys, name)
    ),
    setting!(
        "legacy.keys_used",
        "SHUNT_LEGACY_KEYS_USED",
        Flag::No,
        "used",
        "name",
        "The boolean column of legacy.keys that says whether a code is used.",
        to!(legacy.keys_used, name)
    ),
];
