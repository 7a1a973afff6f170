//! Rows of `links` as values of the domain, and back.

use std::num::NonZeroU64;

use rusqlite::Row;
use shunt_domain::{
    Code, DomainId, Link, LinkKey, NewLink, OwnerId, RedirectStatus, Stored, Tag, Target,
    Timestamp, Tombstone, Version,
};

use super::error::bad_value;
use super::schema::flag;

/// The columns that [`stored`] reads, in its order.
pub(super) const COLUMNS: &str = "links.id, links.code, links.domain, links.owner, links.version, \
     links.state, links.flags, links.status, links.updated_at, links.valid_from, \
     links.expires_at, links.max_clicks, links.used, links.target, links.title, links.tags";

/// Positions in [`COLUMNS`] that are looked at without reading the whole row.
pub(super) mod column {
    pub(crate) const ID: usize = 0;
    pub(crate) const CODE: usize = 1;
    pub(crate) const DOMAIN: usize = 2;
    pub(crate) const OWNER: usize = 3;
    pub(crate) const STATE: usize = 5;
    pub(crate) const TARGET: usize = 13;
    pub(crate) const TITLE: usize = 14;
    pub(crate) const TAGS: usize = 15;
}

/// How many bits of an id count ties within a millisecond.
pub(super) const TIE_BITS: u32 = 16;

/// The creation times that an id can hold: years before 1970 up to 6429.
const MILLIS: std::ops::RangeInclusive<i64> = -(1 << 46)..=(1 << 47) - 2;

/// The first id of links created at `at`.
pub(super) fn first_id(at: Timestamp) -> i64 {
    at.as_millis().clamp(*MILLIS.start(), *MILLIS.end()) << TIE_BITS
}

/// When the link with this id was created.
pub(super) const fn created_at(id: i64) -> Timestamp {
    Timestamp::from_millis(id >> TIE_BITS)
}

/// Reads a whole row of [`COLUMNS`].
pub(super) fn stored(row: &Row<'_>) -> rusqlite::Result<Stored> {
    let id: i64 = row.get(column::ID)?;
    let code = text(row, column::CODE)?.unwrap_or_default();
    let code = Code::parse(code).map_err(|e| bad_value(column::CODE, format!("code: {e}")))?;
    let key = LinkKey::new(DomainId(row.get(column::DOMAIN)?), code);
    let owner = OwnerId(row.get::<_, i64>(column::OWNER)?.cast_unsigned());
    let version = Version(row.get::<_, i64>(4)?.cast_unsigned());
    let created_at = created_at(id);
    let updated_at = row.get::<_, Option<i64>>(8)?.map_or(created_at, Timestamp::from_millis);
    if row.get::<_, i64>(column::STATE)? != 0 {
        return Ok(Stored::Tombstone(Tombstone {
            key,
            owner,
            created_at,
            deleted_at: updated_at,
            version,
        }));
    }
    let flags: i64 = row.get(6)?;
    let status = row.get::<_, u16>(7)?;
    let target = text(row, column::TARGET)?.unwrap_or_default();
    let data = NewLink {
        target: Target::from_stored(target, flags & flag::MIXED_SCRIPT != 0)
            .ok_or_else(|| bad_value(column::TARGET, format!("target of {key:?}")))?,
        key,
        title: text(row, column::TITLE)?.map(Into::into),
        tags: tags(text(row, column::TAGS)?)?,
        owner,
        created_at,
        valid_from: row.get::<_, Option<i64>>(9)?.map(Timestamp::from_millis),
        expires_at: row.get::<_, Option<i64>>(10)?.map(Timestamp::from_millis),
        max_clicks: row.get::<_, Option<i64>>(11)?.and_then(|n| NonZeroU64::new(n.cast_unsigned())),
        status: RedirectStatus::from_code(status)
            .ok_or_else(|| bad_value(7, format!("status {status}")))?,
        forward_query: flags & flag::FORWARD_QUERY != 0,
        enabled: flags & flag::ENABLED != 0,
    };
    let used = row.get::<_, i64>(12)?.cast_unsigned();
    Ok(Stored::Link(Box::new(Link { data, version, updated_at, used })))
}

/// A column's text without copying it.
pub(super) fn text<'row>(row: &'row Row<'_>, at: usize) -> rusqlite::Result<Option<&'row str>> {
    row.get_ref(at)?.as_str_or_null().map_err(|error| bad_value(at, error.to_string()))
}

fn tags(text: Option<&str>) -> rusqlite::Result<Vec<Tag>> {
    let Some(text) = text else { return Ok(Vec::new()) };
    text.split(',')
        .map(|tag| Tag::parse(tag).ok_or_else(|| bad_value(column::TAGS, format!("tag {tag:?}"))))
        .collect()
}

/// The tags as stored; `None` when there are none.
pub(super) fn tags_text(tags: &[Tag]) -> Option<String> {
    let mut tags = tags.iter();
    let mut text = tags.next()?.as_str().to_owned();
    for tag in tags {
        text.push(',');
        text.push_str(tag.as_str());
    }
    Some(text)
}

/// The link's one-bit facts as stored.
pub(super) fn flags(link: &NewLink) -> i64 {
    let bit = |on: bool, flag: i64| if on { flag } else { 0 };
    bit(link.enabled, flag::ENABLED)
        | bit(link.forward_query, flag::FORWARD_QUERY)
        | bit(link.target.mixed_script(), flag::MIXED_SCRIPT)
}
