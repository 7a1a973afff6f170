//! How the outcome of a chunk is kept for its idempotency key: one line a row.
//!
//! The rows themselves are not kept (they may be 8 MiB); what the edge needs to answer again is:
//! the key of what was made, or the rule that was broken. Version 1, pinned by a test: rows
//! outlive the process by a day.

use std::borrow::Cow;

use shunt_domain::{Code, DomainId, LinkKey, Version};

use super::bulk::RowOutcome;
use super::error::{FieldError, LinkError};

const VERSION: &str = "shunt-chunk-1";

/// The outcomes as text; `None` when one of them is not final, so that nothing must be kept.
pub(super) fn encode(rows: &[RowOutcome]) -> Option<Vec<u8>> {
    let mut out = String::with_capacity(24 * rows.len());
    out.push_str(VERSION);
    for row in rows {
        out.push('\n');
        let (tag, key, version) = match row {
            RowOutcome::Created { key, version } => ("created", key, *version),
            RowOutcome::Restored { key } => ("restored", key, Version::default()),
            RowOutcome::Exists { key } => ("exists", key, Version::default()),
            RowOutcome::Refused(LinkError::Taken) => {
                out.push_str("taken");
                continue;
            }
            RowOutcome::Refused(LinkError::Retired) => {
                out.push_str("retired");
                continue;
            }
            RowOutcome::Refused(LinkError::Invalid(error)) => {
                let detail = error.detail.replace(char::is_control, " ");
                let field = error.field.replace(char::is_control, " ");
                out.push_str(&format!("invalid\t{field}\t{}\t{detail}", error.code));
                continue;
            }
            RowOutcome::Refused(_) => return None,
        };
        out.push_str(&format!("{tag}\t{}\t{}\t{}", key.domain.0, key.code, version.0));
    }
    Some(out.into_bytes())
}

/// The inverse of [`encode`]; `None` for what it did not write.
pub(super) fn decode(bytes: &[u8]) -> Option<Vec<RowOutcome>> {
    let mut lines = std::str::from_utf8(bytes).ok()?.split('\n');
    if lines.next() != Some(VERSION) {
        return None;
    }
    lines.map(decode_row).collect()
}

fn decode_row(line: &str) -> Option<RowOutcome> {
    let mut parts = line.splitn(4, '\t');
    let tag = parts.next()?;
    match tag {
        "taken" => return Some(RowOutcome::Refused(LinkError::Taken)),
        "retired" => return Some(RowOutcome::Refused(LinkError::Retired)),
        "invalid" => {
            let field = parts.next()?.to_owned();
            let code = Cow::Owned(parts.next()?.to_owned());
            let detail = parts.next()?.to_owned();
            let error = FieldError { field, code, detail };
            return Some(RowOutcome::Refused(LinkError::Invalid(error)));
        }
        _ => {}
    }
    let domain = DomainId(parts.next()?.parse().ok()?);
    let key = LinkKey::new(domain, Code::parse(parts.next()?).ok()?);
    let version = Version(parts.next()?.parse().ok()?);
    match tag {
        "created" => Some(RowOutcome::Created { key, version }),
        "restored" => Some(RowOutcome::Restored { key }),
        "exists" => Some(RowOutcome::Exists { key }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn final_outcomes_round_trip_in_the_pinned_form() {
        let key = LinkKey::new(DomainId(3), Code::parse("abc").unwrap());
        let rows = vec![
            RowOutcome::Created { key: key.clone(), version: Version(1) },
            RowOutcome::Restored { key: key.clone() },
            RowOutcome::Exists { key },
            RowOutcome::Refused(LinkError::Taken),
            RowOutcome::Refused(LinkError::Retired),
            RowOutcome::Refused(FieldError::new("tags[1]", "bad-tag", "a\tb").into()),
        ];
        let bytes = encode(&rows).unwrap();
        let text = "shunt-chunk-1\ncreated\t3\tabc\t1\nrestored\t3\tabc\t0\nexists\t3\tabc\t0\n\
            taken\nretired\ninvalid\ttags[1]\tbad-tag\ta b";
        assert_eq!(String::from_utf8(bytes.clone()).unwrap(), text);
        let back = decode(&bytes).unwrap();
        assert_eq!(back.get(..5), rows.get(..5));
        assert_eq!(encode(&back), Some(bytes));
        assert_eq!(decode(b"shunt-chunk-1"), Some(vec![]));
    }

    #[test]
    fn what_is_not_final_is_not_kept() {
        assert_eq!(encode(&[RowOutcome::Refused(LinkError::CodesExhausted)]), None);
        for bad in ["", "shunt-chunk-2\ntaken", "shunt-chunk-1\nwhat", "shunt-chunk-1\ncreated\t1"]
        {
            assert_eq!(decode(bad.as_bytes()), None, "{bad:?}");
        }
    }
}
