//! Rows of `links` as values of the domain, and back.

use std::num::NonZeroU64;

use shunt_domain::{
    Code, DomainId, Link, LinkKey, NewLink, OwnerId, RedirectStatus, StoreError, Stored, Tag,
    Target, Timestamp, Tombstone, Version,
};
use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

use super::error::bad_value;
use super::session::Param;
use super::types::Micros;
use crate::text::Needle;

/// Positions in the columns that every statement on `links` reads.
pub(super) mod column {
    pub(crate) const CODE: usize = 0;
    pub(crate) const DOMAIN: usize = 1;
    pub(crate) const CREATED: usize = 2;
}

/// Bits of `links.flags`: the same as in the embedded store.
mod flag {
    pub(super) const ENABLED: i16 = 1;
    pub(super) const FORWARD_QUERY: i16 = 2;
    pub(super) const MIXED_SCRIPT: i16 = 4;
}

/// A column's value.
pub(super) fn get<'a, T: FromSql<'a>>(row: &'a Row, at: usize) -> Result<T, StoreError> {
    row.try_get(at).map_err(|error| bad_value(super::error::chain(&error)))
}

/// A number that is stored as the bits of a signed one.
pub(super) fn unsigned(row: &Row, at: usize) -> Result<u64, StoreError> {
    get::<i64>(row, at).map(i64::cast_unsigned)
}

/// The place of a row in the order of creation.
pub(super) fn created(row: &Row) -> Result<Micros, StoreError> {
    get(row, column::CREATED)
}

/// The key in a row whose first two columns are its code and domain.
pub(super) fn key(row: &Row) -> Result<LinkKey, StoreError> {
    let code = Code::parse(get(row, column::CODE)?).map_err(bad_value)?;
    let domain = get::<i64>(row, column::DOMAIN)?;
    let domain = u32::try_from(domain).map_err(|_| bad_value(format_args!("domain {domain}")))?;
    Ok(LinkKey::new(DomainId(domain), code))
}

fn instant(row: &Row, at: usize) -> Result<Option<Timestamp>, StoreError> {
    Ok(get::<Option<Micros>>(row, at)?.map(Micros::timestamp))
}

/// Reads a whole row.
pub(super) fn stored(row: &Row) -> Result<Stored, StoreError> {
    let key = key(row)?;
    let created_at = created(row)?.timestamp();
    let owner = OwnerId(unsigned(row, 3)?);
    let version = Version(unsigned(row, 4)?);
    let updated_at = instant(row, 8)?.unwrap_or(created_at);
    if get::<i16>(row, 5)? != 0 {
        let deleted_at = updated_at;
        let tombstone = Tombstone { key, owner, created_at, deleted_at, version };
        return Ok(Stored::Tombstone(tombstone));
    }
    let flags: i16 = get(row, 6)?;
    let status: i16 = get(row, 7)?;
    let target: Option<&str> = get(row, 13)?;
    let tags: Option<Vec<&str>> = get(row, 15)?;
    let tag = |tag| Tag::parse(tag).ok_or_else(|| bad_value(format_args!("tag {tag:?}")));
    let data = NewLink {
        target: Target::from_stored(target.unwrap_or_default(), flags & flag::MIXED_SCRIPT != 0)
            .ok_or_else(|| bad_value(format_args!("target of {key:?}")))?,
        key,
        title: get::<Option<&str>>(row, 14)?.map(Into::into),
        tags: tags.unwrap_or_default().into_iter().map(tag).collect::<Result<_, _>>()?,
        owner,
        created_at,
        valid_from: instant(row, 9)?,
        expires_at: instant(row, 10)?,
        max_clicks: get::<Option<i64>>(row, 11)?.and_then(|n| NonZeroU64::new(n.cast_unsigned())),
        status: u16::try_from(status)
            .ok()
            .and_then(RedirectStatus::from_code)
            .ok_or_else(|| bad_value(format_args!("status {status}")))?,
        forward_query: flags & flag::FORWARD_QUERY != 0,
        enabled: flags & flag::ENABLED != 0,
    };
    let used = unsigned(row, 12)?;
    Ok(Stored::Link(Box::new(Link { data, version, updated_at, used })))
}

/// Reads a row that must be a live link.
pub(super) fn link(row: &Row) -> Result<Link, StoreError> {
    stored(row)?.into_link().ok_or_else(|| bad_value("a tombstone where a link was expected"))
}

/// A row of `links` as it is written, column by column.
#[derive(Debug)]
pub(super) struct Record<'a> {
    pub(super) code: &'a str,
    pub(super) domain: i64,
    pub(super) created: Micros,
    pub(super) owner: i64,
    pub(super) version: i64,
    pub(super) state: i16,
    pub(super) flags: i16,
    pub(super) status: i16,
    pub(super) updated: Option<Micros>,
    pub(super) valid_from: Option<Micros>,
    pub(super) expires_at: Option<Micros>,
    pub(super) max_clicks: Option<i64>,
    pub(super) used: i64,
    pub(super) target: Option<&'a str>,
    pub(super) title: Option<&'a str>,
    pub(super) tags: Option<Vec<&'a str>>,
    pub(super) folded: Option<String>,
}

/// How many columns a [`Record`] has.
pub(super) const RECORD_COLUMNS: usize = 17;

impl<'a> Record<'a> {
    /// A link that is new, or as it was when it was exported.
    pub(super) fn link(
        data: &'a NewLink,
        created: Micros,
        version: Version,
        updated: Option<Timestamp>,
        used: u64,
    ) -> Self {
        let bit = |on: bool, flag: i16| if on { flag } else { 0 };
        Self {
            code: data.key.code.as_str(),
            domain: i64::from(data.key.domain.0),
            created,
            owner: data.owner.0.cast_signed(),
            version: version.0.cast_signed(),
            state: 0,
            flags: bit(data.enabled, flag::ENABLED)
                | bit(data.forward_query, flag::FORWARD_QUERY)
                | bit(data.target.mixed_script(), flag::MIXED_SCRIPT),
            status: data.status.code().cast_signed(),
            updated: updated.map(Micros::first_of),
            valid_from: data.valid_from.map(Micros::first_of),
            expires_at: data.expires_at.map(Micros::first_of),
            max_clicks: data.max_clicks.map(|n| n.get().cast_signed()),
            used: used.cast_signed(),
            target: Some(data.target.as_str()),
            title: data.title.as_deref(),
            tags: tags(&data.tags),
            folded: folded(data),
        }
    }

    /// What is left of a deleted link.
    pub(super) fn tombstone(tombstone: &'a Tombstone, created: Micros) -> Self {
        Self {
            code: tombstone.key.code.as_str(),
            domain: i64::from(tombstone.key.domain.0),
            created,
            owner: tombstone.owner.0.cast_signed(),
            version: tombstone.version.0.cast_signed(),
            state: 1,
            flags: 0,
            status: 0,
            updated: Some(Micros::first_of(tombstone.deleted_at)),
            valid_from: None,
            expires_at: None,
            max_clicks: None,
            used: 0,
            target: None,
            title: None,
            tags: None,
            folded: None,
        }
    }

    /// The columns in the order of the table.
    pub(super) fn params(&self) -> [Param<'_>; RECORD_COLUMNS] {
        [
            &self.code,
            &self.domain,
            &self.created,
            &self.owner,
            &self.version,
            &self.state,
            &self.flags,
            &self.status,
            &self.updated,
            &self.valid_from,
            &self.expires_at,
            &self.max_clicks,
            &self.used,
            &self.target,
            &self.title,
            &self.tags,
            &self.folded,
        ]
    }
}

fn tags(tags: &[Tag]) -> Option<Vec<&str>> {
    // NULL keeps links without tags out of the index of tags.
    (!tags.is_empty()).then(|| tags.iter().map(Tag::as_str).collect())
}

/// What the text index has of a link that the server can't fold by itself: it folds ASCII in every
/// locale alike, so a link of ASCII alone needs no second copy of its words.
fn folded(data: &NewLink) -> Option<String> {
    let title = data.title.as_deref().unwrap_or_default();
    let target = data.target.as_str();
    if title.is_ascii() && target.is_ascii() {
        return None;
    }
    let words = format!("{}\n{title}\n{target}", data.key.code);
    Some(Needle::new(&words).as_str().to_owned())
}
