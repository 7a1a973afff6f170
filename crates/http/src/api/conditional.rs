//! Strong entity tags: a link's `ETag` is its version.

use axum::response::Response;
use http::header::{CACHE_CONTROL, ETAG, IF_MATCH, IF_NONE_MATCH};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use shunt_domain::Version;

use crate::problem::Problem;

/// The `ETag` of a version.
pub(crate) fn etag(version: Version) -> HeaderValue {
    // Digits and quotes are always a header value.
    HeaderValue::from_str(&format!("\"{}\"", version.0))
        .unwrap_or_else(|_| HeaderValue::from_static("\"0\""))
}

/// The tags of a header: `None` without it, `Some(None)` for `*`. Weak tags are marked.
type Tags = Option<Option<Vec<(bool, String)>>>;

fn tags(headers: &HeaderMap, name: &HeaderName) -> Result<Tags, Problem> {
    let mut values = headers.get_all(name).iter().peekable();
    if values.peek().is_none() {
        return Ok(None);
    }
    let bad = || {
        let detail = "this must be * or a list of entity tags: \"3\"";
        let field = if *name == IF_MATCH { "If-Match" } else { "If-None-Match" };
        Problem::bad_field(field, "bad-entity-tag", detail)
    };
    let mut found = Vec::new();
    let mut any = false;
    for value in values {
        let mut rest = value.to_str().map_err(|_| bad())?.trim();
        if rest == "*" {
            any = true;
            continue;
        }
        loop {
            let (weak, tag) = match rest.strip_prefix("W/") {
                Some(tag) => (true, tag),
                None => (false, rest),
            };
            let (tag, after) =
                tag.strip_prefix('"').and_then(|tag| tag.split_once('"')).ok_or_else(bad)?;
            if !tag.bytes().all(|byte| matches!(byte, b'!' | b'#'..=b'~')) {
                return Err(bad());
            }
            found.push((weak, tag.to_owned()));
            let after = after.trim_start();
            if after.is_empty() {
                break;
            }
            rest = after.strip_prefix(',').ok_or_else(bad)?.trim_start();
        }
    }
    match (any, found.is_empty()) {
        (true, true) => Ok(Some(None)),
        (false, false) => Ok(Some(Some(found))),
        _ => Err(bad()),
    }
}

/// The versions that `If-Match` accepts; `None`: any. A weak tag never matches (RFC 9110,
/// section 13.1.1).
///
/// # Errors
/// 400 for what is no list of tags.
pub(crate) fn if_match(headers: &HeaderMap) -> Result<Option<Vec<Version>>, Problem> {
    let Some(Some(tags)) = tags(headers, &IF_MATCH)? else { return Ok(None) };
    let strong = tags.into_iter().filter(|(weak, _)| !weak);
    Ok(Some(strong.filter_map(|(_, tag)| version(&tag)).collect()))
}

/// The version whose tag this is: the digits as we write them, no others.
fn version(tag: &str) -> Option<Version> {
    tag.parse().ok().map(Version).filter(|version| version.0.to_string() == tag)
}

/// 304, if `If-None-Match` names this version, weakly or not (RFC 9110, section 13.1.2).
///
/// # Errors
/// 400 for what is no list of tags.
pub(crate) fn not_modified(
    headers: &HeaderMap,
    current: Version,
) -> Result<Option<Response>, Problem> {
    let matches = match tags(headers, &IF_NONE_MATCH)? {
        None => false,
        Some(None) => true,
        Some(Some(tags)) => tags.iter().any(|(_, tag)| version(tag) == Some(current)),
    };
    if !matches {
        return Ok(None);
    }
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    response.headers_mut().insert(ETAG, etag(current));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    Ok(Some(response))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &HeaderName, values: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn if_match_compares_strongly() {
        let read = |values: &[&'static str]| if_match(&headers(&IF_MATCH, values));
        assert_eq!(read(&[]).unwrap(), None);
        assert_eq!(read(&["*"]).unwrap(), None);
        assert_eq!(read(&["\"3\""]).unwrap(), Some(vec![Version(3)]));
        assert_eq!(read(&["\"1\" , \"2\"", "\"3\""]).unwrap().unwrap().len(), 3);
        for never in ["W/\"3\"", "\"03\"", "\"+3\"", "\"x\"", "\"\"", "\"99999999999999999999\""] {
            assert_eq!(read(&[never]).unwrap(), Some(vec![]), "{never}");
        }
        for bad in ["", "3", "\"3", "\"3\",", "\"3\" \"4\"", "*, \"3\"", "w/\"3\"", "\"a b\""] {
            assert!(read(&[bad]).is_err(), "{bad:?}");
        }
        assert!(read(&["*", "\"3\""]).is_err());
    }

    #[test]
    fn if_none_match_compares_weakly() {
        let hit = |values: &[&'static str]| {
            not_modified(&headers(&IF_NONE_MATCH, values), Version(3)).unwrap().is_some()
        };
        assert!(hit(&["*"]) && hit(&["\"3\""]) && hit(&["W/\"3\""]) && hit(&["\"1\", \"3\""]));
        assert!(!hit(&[]) && !hit(&["\"4\""]) && !hit(&["\"03\""]));
    }
}
