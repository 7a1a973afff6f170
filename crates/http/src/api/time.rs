//! Instants on the wire: RFC 3339 in UTC, milliseconds only where there are any.

use serde::{Serialize, Serializer};
use shunt_domain::Timestamp;

/// Reads an RFC 3339 date and time. Finer than a millisecond is cut off.
///
/// The shape is checked here because the parser behind accepts more (other separators, no
/// seconds, a zone in brackets); the calendar and the offset are the parser's.
pub(crate) fn parse(text: &str) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    let (date_time, rest) = bytes.split_at_checked(19)?;
    let shape_fits =
        date_time.iter().zip(b"dddd-dd-ddTdd:dd:dd").all(|(byte, shape)| match shape {
            b'd' => byte.is_ascii_digit(),
            other => byte == other,
        });
    let rest = match rest {
        [b'.', after @ ..] => {
            let digits = after.iter().take_while(|byte| byte.is_ascii_digit()).count();
            if !(1..=9).contains(&digits) {
                return None;
            }
            after.get(digits..)?
        }
        other => other,
    };
    let offset_fits = match rest {
        [b'Z'] => true,
        [b'+' | b'-', a, b, b':', c, d] => [a, b, c, d].iter().all(|byte| byte.is_ascii_digit()),
        _ => false,
    };
    if !shape_fits || !offset_fits {
        return None;
    }
    let instant: jiff::Timestamp = text.parse().ok()?;
    let millis = Timestamp::from_millis(instant.as_millisecond());
    (Timestamp::from_millis(0)..=Timestamp::MAX).contains(&millis).then_some(millis)
}

/// An instant as it goes over the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instant(pub(crate) Timestamp);

impl std::fmt::Display for Instant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Whatever a store holds beyond year 9999 or before -9999 is shown as the epoch.
        let instant = jiff::Timestamp::from_millisecond(self.0.as_millis()).unwrap_or_default();
        instant.fmt(f)
    }
}

impl Serialize for Instant {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_rfc_3339_and_nothing_else() {
        for (text, millis) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2026-11-22T06:00:00.123Z", 1_795_327_200_123),
            ("2026-11-22T06:00:00.123999999Z", 1_795_327_200_123),
            ("2026-11-22T08:00:00+02:00", 1_795_327_200_000),
            ("9999-12-30T21:59:59.999Z", 253_402_207_199_999),
        ] {
            assert_eq!(parse(text), Some(Timestamp::from_millis(millis)), "{text}");
        }
        for bad in [
            "",
            "2026-11-22",
            "2026-11-22T06:00Z",
            "2026-11-22 06:00:00Z",
            "2026-11-22T06:00:00",
            "2026-11-22T06:00:00.Z",
            "2026-11-22T06:00:00.1234567890Z",
            "2026-13-01T00:00:00Z",
            "2026-02-30T00:00:00Z",
            "2026-11-22T24:00:00Z",
            "2026-11-22T06:00:00+0200",
            "2026-11-22T06:00:00Z[UTC]",
            "1969-12-31T23:59:59Z",
            "20261122T060000Z",
            "１",
            "-02026-11-22T06:00:00Z",
            "2026-11-22T06:00:00z ",
            "now",
        ] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        for millis in [0, 1, 999, 1_795_327_200_000, 253_402_207_199_999] {
            let instant = Timestamp::from_millis(millis);
            assert_eq!(parse(&Instant(instant).to_string()), Some(instant));
        }
    }
}
