//! Times as pages write them: UTC, for people and for machines.

use shunt_domain::Timestamp;

/// `22 November 2026, 14:03 UTC`.
pub(crate) fn date(at: Timestamp) -> String {
    instant(at).strftime("%-d %B %Y, %H:%M UTC").to_string()
}

/// `2026-11-22T14:03:07.123Z`.
pub(crate) fn rfc3339(at: Timestamp) -> String {
    instant(at).to_string()
}

/// How long ago, in one or two words; a date when it is more than a month.
pub(crate) fn age(at: Timestamp, now: Timestamp) -> String {
    // A clock that went back makes no link younger than "just now".
    let seconds = (now.as_millis() - at.as_millis()).max(0) / 1000;
    match seconds {
        0..60 => "just now".to_owned(),
        60..3_600 => format!("{} min ago", seconds / 60),
        3_600..86_400 => format!("{} h ago", seconds / 3_600),
        86_400..172_800 => "yesterday".to_owned(),
        172_800..2_678_400 => format!("{} days ago", seconds / 86_400),
        _ => instant(at).strftime("%-d %b %Y").to_string(),
    }
}

/// Out of range (before the year -9999 or after 9999, which nothing stores) becomes the epoch.
fn instant(at: Timestamp) -> jiff::Timestamp {
    jiff::Timestamp::from_millisecond(at.as_millis()).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_well() {
        let at = Timestamp::from_millis(1_795_356_187_123);
        assert_eq!(date(at), "22 November 2026, 14:03 UTC");
        assert_eq!(rfc3339(at), "2026-11-22T14:03:07.123Z");
        for (later, said) in [
            (-5, "just now"),
            (59, "just now"),
            (60, "1 min ago"),
            (3_599, "59 min ago"),
            (3_600, "1 h ago"),
            (86_400, "yesterday"),
            (172_800, "2 days ago"),
            (40 * 86_400, "22 Nov 2026"),
        ] {
            let now = Timestamp::from_millis(at.as_millis() + later * 1000);
            assert_eq!(age(at, now), said, "{later} s");
        }
    }
}
