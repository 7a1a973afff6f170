//! Items as values of the domain, and back.

use std::num::NonZeroU64;
use std::str::FromStr;

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use shunt_domain::{
    Link, LinkKey, NewLink, OwnerId, RedirectStatus, StoreError, Stored, Tag, Target, Timestamp,
    Tombstone, Version,
};

use super::client::{Item, keyed};
use super::error::bad_value;
use super::table::Key;

/// A string.
pub(super) fn s(text: impl Into<String>) -> AttributeValue {
    AttributeValue::S(text.into())
}

/// A number.
pub(super) fn n(number: impl Copy + ToString) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

/// A time, in milliseconds since the Unix epoch.
pub(super) fn time(at: Timestamp) -> AttributeValue {
    n(at.as_millis())
}

/// Bytes.
pub(super) fn bytes(bytes: impl Into<Vec<u8>>) -> AttributeValue {
    AttributeValue::B(Blob::new(bytes))
}

/// Bytes as text, for keys and for people: lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing into a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn missing(name: &str) -> StoreError {
    bad_value(format_args!("no {name}"))
}

/// A number that may be missing.
pub(super) fn maybe_number<T: FromStr>(item: &Item, name: &str) -> Result<Option<T>, StoreError> {
    match item.get(name) {
        None => Ok(None),
        Some(AttributeValue::N(text)) => {
            text.parse().map(Some).map_err(|_| bad_value(format_args!("{name} {text}")))
        }
        Some(_) => Err(bad_value(format_args!("{name} is no number"))),
    }
}

/// A number.
pub(super) fn number<T: FromStr>(item: &Item, name: &str) -> Result<T, StoreError> {
    maybe_number(item, name)?.ok_or_else(|| missing(name))
}

/// A time that may be missing.
pub(super) fn maybe_instant(item: &Item, name: &str) -> Result<Option<Timestamp>, StoreError> {
    Ok(maybe_number(item, name)?.map(Timestamp::from_millis))
}

/// A time.
pub(super) fn instant(item: &Item, name: &str) -> Result<Timestamp, StoreError> {
    maybe_instant(item, name)?.ok_or_else(|| missing(name))
}

/// A string.
pub(super) fn text<'a>(item: &'a Item, name: &str) -> Result<&'a str, StoreError> {
    match item.get(name) {
        Some(AttributeValue::S(text)) => Ok(text),
        Some(_) => Err(bad_value(format_args!("{name} is no text"))),
        None => Err(missing(name)),
    }
}

/// Bytes.
pub(super) fn blob<'a>(item: &'a Item, name: &str) -> Result<&'a [u8], StoreError> {
    match item.get(name) {
        Some(AttributeValue::B(bytes)) => Ok(bytes.as_ref()),
        Some(_) => Err(bad_value(format_args!("{name} is no bytes"))),
        None => Err(missing(name)),
    }
}

/// A hash.
pub(super) fn hash(item: &Item, name: &str) -> Result<[u8; 32], StoreError> {
    blob(item, name)?.try_into().map_err(|_| bad_value(format_args!("{name} has another length")))
}

fn flag(item: &Item, name: &str) -> Result<bool, StoreError> {
    match item.get(name) {
        Some(AttributeValue::Bool(on)) => Ok(*on),
        // What is off is not stored.
        None => Ok(false),
        Some(_) => Err(bad_value(format_args!("{name} is neither on nor off"))),
    }
}

fn tags(item: &Item) -> Result<Vec<Tag>, StoreError> {
    let tag = |value: &AttributeValue| {
        let tag = value.as_s().ok().and_then(|text| Tag::parse(text));
        tag.ok_or_else(|| bad_value("a tag"))
    };
    match item.get("tags") {
        None => Ok(Vec::new()),
        Some(AttributeValue::L(values)) => values.iter().map(tag).collect(),
        Some(_) => Err(bad_value("tags are no list")),
    }
}

/// Attributes of a link that a change may take away; the others always have a value.
pub(super) const OPTIONAL: [&str; 8] = [
    "title",
    "tags",
    "valid_from",
    "expires_at",
    "max_clicks",
    "forward_query",
    "enabled",
    "mixed_script",
];

/// What a change of a link writes: everything that may be different afterwards. What is empty or
/// off is not among it.
pub(super) fn changing(data: &NewLink, version: Version, updated_at: Timestamp) -> Item {
    let on = AttributeValue::Bool(true);
    let values = [
        ("target", Some(s(data.target.as_str()))),
        ("owner_id", Some(n(data.owner.0))),
        ("redirect", Some(n(data.status.code()))),
        ("version", Some(n(version.0))),
        ("updated_at", Some(time(updated_at))),
        ("title", data.title.as_deref().map(s)),
        (
            "tags",
            (!data.tags.is_empty())
                .then(|| AttributeValue::L(data.tags.iter().map(|tag| s(tag.as_str())).collect())),
        ),
        ("valid_from", data.valid_from.map(time)),
        ("expires_at", data.expires_at.map(time)),
        ("max_clicks", data.max_clicks.map(n)),
        ("forward_query", data.forward_query.then(|| on.clone())),
        ("enabled", data.enabled.then(|| on.clone())),
        ("mixed_script", data.target.mixed_script().then_some(on)),
    ];
    let present = values.into_iter();
    present.filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

/// The item of a link or a tombstone.
pub(super) fn of(row: &Stored) -> Item {
    let mut item = keyed(&Key::link(row.key()));
    match row {
        Stored::Link(link) => {
            item.extend(changing(&link.data, link.version, link.updated_at));
            item.insert("created_at".to_owned(), time(link.data.created_at));
            // Always there, because a claim compares it.
            item.insert("used".to_owned(), n(link.used));
        }
        Stored::Tombstone(tombstone) => {
            item.insert("owner_id".to_owned(), n(tombstone.owner.0));
            item.insert("version".to_owned(), n(tombstone.version.0));
            item.insert("created_at".to_owned(), time(tombstone.created_at));
            item.insert("deleted_at".to_owned(), time(tombstone.deleted_at));
        }
    }
    item
}

/// Reads the item of `key`.
pub(super) fn stored(key: &LinkKey, item: &Item) -> Result<Stored, StoreError> {
    let key = key.clone();
    let owner = OwnerId(number(item, "owner_id")?);
    let version = Version(number(item, "version")?);
    let created_at = instant(item, "created_at")?;
    if let Some(deleted_at) = maybe_instant(item, "deleted_at")? {
        let tombstone = Tombstone { key, owner, created_at, deleted_at, version };
        return Ok(Stored::Tombstone(tombstone));
    }
    let status: u16 = number(item, "redirect")?;
    let data = NewLink {
        target: Target::from_stored(text(item, "target")?, flag(item, "mixed_script")?)
            .ok_or_else(|| bad_value(format_args!("the target of {key:?}")))?,
        key,
        title: item.contains_key("title").then(|| text(item, "title")).transpose()?.map(Into::into),
        tags: tags(item)?,
        owner,
        created_at,
        valid_from: maybe_instant(item, "valid_from")?,
        expires_at: maybe_instant(item, "expires_at")?,
        max_clicks: maybe_number::<NonZeroU64>(item, "max_clicks")?,
        status: RedirectStatus::from_code(status)
            .ok_or_else(|| bad_value(format_args!("status {status}")))?,
        forward_query: flag(item, "forward_query")?,
        enabled: flag(item, "enabled")?,
    };
    let updated_at = instant(item, "updated_at")?;
    let used = number(item, "used")?;
    Ok(Stored::Link(Box::new(Link { data, version, updated_at, used })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_items_are_errors_and_never_absent() {
        let item = Item::from([("version".to_owned(), s("one")), ("owner_id".to_owned(), n(1))]);
        let key = LinkKey::new(
            shunt_domain::DomainId::DEFAULT,
            shunt_domain::Code::parse("abc").unwrap(),
        );
        assert!(matches!(stored(&key, &item), Err(StoreError::Corrupt(_))));
        assert!(matches!(number::<u64>(&item, "nothing"), Err(StoreError::Corrupt(_))));
        assert!(matches!(text(&item, "owner_id"), Err(StoreError::Corrupt(_))));
        assert!(matches!(maybe_number::<u64>(&item, "nothing"), Ok(None)));
    }

    #[test]
    fn bytes_are_hexadecimal_digits() {
        assert_eq!(hex(&[0, 0x7f, 0xff]), "007fff");
    }
}
