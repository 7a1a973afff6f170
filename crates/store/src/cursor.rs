//! Cursors: where the next page of a list begins, as an opaque text.
//!
//! A cursor carries a hash over the query's shape and its own position, so that one of another
//! query, or a mistyped one, is refused instead of giving a page of something else. It is no
//! secret: a forged one only names another place in what its caller may see anyway.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use shunt_domain::ports::ListQuery;
use shunt_domain::{Code, DomainId};
use xxhash_rust::xxh3::Xxh3;

use crate::text::Needle;

/// The first byte of every cursor: the format's number.
const FORMAT: u8 = 1;

/// Stands behind an id when the text index is of no use for the search.
const SCANNING: u8 = b's';

/// Everything about a query that its pages must have in common.
#[derive(Clone, Debug)]
pub(crate) struct Shape(Vec<u8>);

impl Shape {
    /// The shape of an export.
    pub(crate) fn export() -> Self {
        Self(vec![b'x'])
    }

    /// The shape of a list.
    pub(crate) fn list(query: &ListQuery, needle: Option<&Needle>) -> Self {
        let mut bytes = vec![b'l', query.sort as u8];
        let mut part = |part: Option<&[u8]>| {
            bytes.push(u8::from(part.is_some()));
            let part = part.unwrap_or_default();
            bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
            bytes.extend_from_slice(part);
        };
        part(query.owner.map(|owner| owner.0.to_le_bytes()).as_ref().map(<[u8; 8]>::as_slice));
        part(query.domain.map(|domain| domain.0.to_le_bytes()).as_ref().map(<[u8; 4]>::as_slice));
        part(query.tag.as_ref().map(|tag| tag.as_str().as_bytes()));
        part(needle.map(|needle| needle.as_str().as_bytes()));
        Self(bytes)
    }

    fn seal(&self, position: &[u8]) -> [u8; 8] {
        let mut hash = Xxh3::new();
        hash.update(&self.0);
        hash.update(position);
        hash.digest().to_le_bytes()
    }

    /// A cursor that stands at `position`.
    pub(crate) fn write(&self, position: &[u8]) -> String {
        let mut bytes = vec![FORMAT];
        bytes.extend_from_slice(&self.seal(position));
        bytes.extend_from_slice(position);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The position of a cursor that fits this query.
    pub(crate) fn read(&self, cursor: &str) -> Option<Vec<u8>> {
        let bytes = URL_SAFE_NO_PAD.decode(cursor).ok()?;
        let rest = bytes.strip_prefix(&[FORMAT])?;
        let (seal, position) = rest.split_at_checked(8)?;
        (seal == self.seal(position)).then(|| position.to_vec())
    }

    /// A cursor behind the row with this id.
    pub(crate) fn behind_id(&self, id: i64) -> String {
        self.write(&id.to_be_bytes())
    }

    /// The same for a search that goes on without the text index.
    pub(crate) fn behind_id_scanning(&self, id: i64) -> String {
        let mut position = id.to_be_bytes().to_vec();
        position.push(SCANNING);
        self.write(&position)
    }

    /// The id that a cursor is behind of, and whether to go on without the text index.
    pub(crate) fn id(&self, cursor: &str) -> Option<(i64, bool)> {
        let position = self.read(cursor)?;
        let (id, mode) = position.split_at_checked(8)?;
        let scanning = match mode {
            [] => false,
            [SCANNING] => true,
            _ => return None,
        };
        Some((i64::from_be_bytes(id.try_into().ok()?), scanning))
    }

    /// A cursor behind this key.
    pub(crate) fn behind_key(&self, code: &str, domain: DomainId) -> String {
        let mut position = domain.0.to_be_bytes().to_vec();
        position.extend_from_slice(code.as_bytes());
        self.write(&position)
    }

    /// The key that a cursor is behind of.
    pub(crate) fn key(&self, cursor: &str) -> Option<(String, u32)> {
        let position = self.read(cursor)?;
        let (domain, code) = position.split_at_checked(4)?;
        Code::check(code).ok()?;
        let code = String::from_utf8(code.to_vec()).ok()?;
        Some((code, u32::from_be_bytes(domain.try_into().ok()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_only_fits_its_own_query() {
        let query = ListQuery::default();
        let shape = Shape::list(&query, None);
        let cursor = shape.behind_id(77);
        assert_eq!(shape.id(&cursor), Some((77, false)));
        assert_eq!(shape.id(&shape.behind_id_scanning(-5)), Some((-5, true)));
        assert_eq!(Shape::list(&query, Some(&Needle::new("abc"))).id(&cursor), None);
        assert_eq!(Shape::export().id(&cursor), None);
        let other = ListQuery { domain: Some(DomainId(1)), ..ListQuery::default() };
        assert_eq!(Shape::list(&other, None).id(&cursor), None);
        assert_eq!(shape.id(""), None);
        assert_eq!(shape.id("!!"), None);
        let cursor = shape.behind_key("abc", DomainId(3));
        assert_eq!(shape.key(&cursor), Some(("abc".to_owned(), 3)));
        assert_eq!(shape.id(&cursor), None);
    }
}
