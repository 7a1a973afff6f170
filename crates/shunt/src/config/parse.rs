//! Values as written: numbers, sizes, durations, addresses. Errors say what would be right.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use shunt_domain::limit::Rate;

/// A value as it came from the file, the environment or a flag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Raw {
    /// One value as text.
    Text(String),
    /// A TOML array.
    List(Vec<String>),
}

impl Raw {
    /// The one value.
    pub(super) fn text(&self) -> Result<&str, String> {
        match self {
            Self::Text(text) => Ok(text.trim()),
            Self::List(_) => Err("one value is needed here, not a list".to_owned()),
        }
    }

    /// The values of a list; text is split at commas.
    pub(super) fn list(&self) -> Vec<&str> {
        match self {
            Self::Text(text) => {
                text.split(',').map(str::trim).filter(|item| !item.is_empty()).collect()
            }
            Self::List(items) => items.iter().map(|item| item.trim()).collect(),
        }
    }

    /// The values of a list as they are written; text is one value.
    pub(super) fn items(&self) -> Vec<&str> {
        match self {
            Self::Text(text) => vec![text.as_str()],
            Self::List(items) => items.iter().map(String::as_str).collect(),
        }
    }

    /// As shown to people.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::List(items) => items.join(","),
        }
    }
}

pub(super) fn boolean(raw: &Raw) -> Result<bool, String> {
    match raw.text()? {
        "true" => Ok(true),
        "false" => Ok(false),
        other => Err(format!("{other:?} is neither true nor false")),
    }
}

pub(super) fn number(raw: &Raw, range: RangeInclusive<u64>) -> Result<u64, String> {
    let text = raw.text()?;
    let digits = text.replace('_', "");
    let value: u64 = digits.parse().map_err(|_| format!("{text:?} is no whole number"))?;
    if range.contains(&value) {
        Ok(value)
    } else {
        Err(format!("{value} is not between {} and {}", range.start(), range.end()))
    }
}

pub(super) fn count(raw: &Raw, range: RangeInclusive<u64>) -> Result<usize, String> {
    number(raw, range).and_then(|n| usize::try_from(n).map_err(|error| error.to_string()))
}

const SIZES: [(&str, u64); 7] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("B", 1),
];

/// A size in bytes: `64MiB`, or a bare number of bytes.
pub(super) fn size(raw: &Raw, range: RangeInclusive<u64>) -> Result<u64, String> {
    let text = raw.text()?;
    let (digits, unit) = SIZES
        .iter()
        .find_map(|(unit, bytes)| text.strip_suffix(unit).map(|digits| (digits, *bytes)))
        .unwrap_or((text, 1));
    let digits = digits.trim().replace('_', "");
    let value: u64 = digits
        .parse()
        .map_err(|_| format!("{text:?} is no size; write 64MiB, 1GiB or a number of bytes"))?;
    let bytes = value.checked_mul(unit).filter(|bytes| range.contains(bytes));
    bytes.ok_or_else(|| {
        format!(
            "{text} is not between {} and {}",
            bytes_text(*range.start()),
            bytes_text(*range.end())
        )
    })
}

fn bytes_text(bytes: u64) -> String {
    SIZES
        .iter()
        .take(3)
        .rev()
        .find(|(_, unit)| bytes >= *unit && bytes.is_multiple_of(*unit))
        .map_or_else(|| format!("{bytes}B"), |(name, unit)| format!("{}{name}", bytes / unit))
}

const TIMES: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// A duration with its unit: `20ms`, `5s`, `15m`, `24h`.
pub(super) fn duration(raw: &Raw, range: RangeInclusive<Duration>) -> Result<Duration, String> {
    let text = raw.text()?;
    let unit_at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(unit_at);
    let wrong = || format!("{text:?} is no duration; write it with its unit: 20ms, 5s, 15m or 24h");
    let value: u64 = digits.trim().replace('_', "").parse().map_err(|_| wrong())?;
    let unit = TIMES.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?.1;
    in_range(value.saturating_mul(unit), text, &range)
}

/// A number of milliseconds, for keys that end in `_ms`; a unit may stand there all the same.
pub(super) fn millis(raw: &Raw, range: RangeInclusive<Duration>) -> Result<Duration, String> {
    let text = raw.text()?;
    match text.replace('_', "").parse() {
        Ok(millis) => in_range(millis, text, &range),
        Err(_) => duration(raw, range),
    }
}

fn in_range(millis: u64, text: &str, range: &RangeInclusive<Duration>) -> Result<Duration, String> {
    let value = Duration::from_millis(millis);
    if range.contains(&value) {
        Ok(value)
    } else {
        let (low, high) = (time_text(*range.start()), time_text(*range.end()));
        Err(format!("{text} is not between {low} and {high}"))
    }
}

fn time_text(time: Duration) -> String {
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 {
        return "0s".to_owned();
    }
    TIMES
        .iter()
        .rev()
        .find(|(_, unit)| millis >= *unit && millis.is_multiple_of(*unit))
        .map_or_else(|| format!("{millis}ms"), |(name, unit)| format!("{}{name}", millis / unit))
}

/// A rate: `60/1m`; 0 gives `None`.
pub(super) fn rate(raw: &Raw) -> Result<Option<Rate>, String> {
    let text = raw.text()?;
    if text == "0" {
        return Ok(None);
    }
    let wrong = || format!("{text:?} is no rate; write 60/1m for 60 a minute, or 0 for no limit");
    let (amount, window) = text.split_once('/').ok_or_else(wrong)?;
    let part = |text: &str| Raw::Text(text.to_owned());
    let amount = number(&part(amount), 1..=u64::from(Rate::MAX_AMOUNT))?;
    let window = duration(&part(window), Rate::MIN_WINDOW..=Rate::MAX_WINDOW)?;
    let amount = u32::try_from(amount).map_err(|_| wrong())?;
    Rate::new(amount, window).map(Some).ok_or_else(wrong)
}

/// An address with its port; `off` and nothing give `None`.
pub(super) fn address(raw: &Raw) -> Result<Option<SocketAddr>, String> {
    let text = raw.text()?;
    if text.is_empty() || text == "off" {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        format!("{text:?} is no address with a port; write 127.0.0.1:8080 or [::1]:8080")
    })
}

/// A path; nothing gives `None`.
pub(super) fn path(raw: &Raw) -> Result<Option<PathBuf>, String> {
    let text = raw.text()?;
    Ok((!text.is_empty()).then(|| text.into()))
}

/// One of some words.
pub(super) fn word<T: Copy>(raw: &Raw, words: &[(&str, T)]) -> Result<T, String> {
    let text = raw.text()?;
    words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| {
        let all: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        format!("{text:?} is none of {}", all.join(", "))
    })
}

/// The base URL without its trailing slash; nothing gives `None`.
pub(super) fn base_url(raw: &Raw) -> Result<Option<String>, String> {
    let text = raw.text()?.trim_end_matches('/');
    if text.is_empty() {
        return Ok(None);
    }
    let right = "write https://host, https://host:8443 or https://host/path";
    let wrong = |why: &str| format!("{text:?} {why}; {right}");
    let uri: http::Uri = text.parse().map_err(|_| wrong("is no URL"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(wrong("does not begin with http:// or https://"));
    }
    let Some(authority) = uri.authority() else {
        return Err(wrong("names no host"));
    };
    if authority.as_str().contains('@') {
        return Err(wrong("holds credentials"));
    }
    if authority.host().is_empty() {
        return Err(wrong("names no host"));
    }
    if uri.query().is_some() || text.contains('#') {
        return Err(wrong("holds a query or fragment"));
    }
    Ok(Some(text.to_owned()))
}

/// Target schemes, lower-case (RFC 3986 section 3.1). That none of them can run code is the target
/// parser's business, which refuses those whatever is listed here.
pub(super) fn schemes(raw: &Raw) -> Result<Vec<String>, String> {
    raw.list()
        .into_iter()
        .map(|scheme| {
            let fits = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
            if fits {
                Ok(scheme.to_ascii_lowercase())
            } else {
                Err(format!("{scheme:?} is no scheme; write mailto or tel, without the colon"))
            }
        })
        .collect()
}

/// Whether a text is a log filter. Levels are checked here, because the filter's own parser takes
/// a mistyped level for the name of a module.
pub(super) fn log_filter(text: &str) -> Result<(), String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    for directive in text.split(',') {
        let level = directive.rsplit_once('=').map_or(directive, |(_, level)| level).trim();
        if !LEVELS.contains(&level.to_ascii_lowercase().as_str()) {
            return Err(format!("{level:?} is no level; use one of {}", LEVELS.join(", ")));
        }
    }
    tracing_subscriber::EnvFilter::try_new(text).map(drop).map_err(|error| {
        format!("{text:?} is no log filter ({error}); write info or info,shunt_http=debug")
    })
}
