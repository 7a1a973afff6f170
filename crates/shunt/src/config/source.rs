//! The two outer layers as key-value lists: the file (with line numbers) and the environment.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::load::{Origin, Problem};
use super::parse::Raw;
use super::suggest::nearest;
use super::table::{SETTINGS, by_key, in_section, section_of, sections};

/// The environment as read once. The only place of the program that reads it.
#[derive(Clone, Debug, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// The environment of this process. Variables that are no UTF-8 are left out: none of ours is.
    pub fn of_process() -> Self {
        Self(
            std::env::vars_os()
                .filter_map(|(name, value)| {
                    Some((name.into_string().ok()?, value.into_string().ok()?))
                })
                .collect(),
        )
    }

    /// An environment with these variables.
    #[cfg(test)]
    pub fn of<N: Into<String>, V: Into<String>>(
        variables: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        Self(variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }

    /// The value of a variable; an empty one counts as not set, which is how shells and container
    /// files leave things out.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Variables that begin like ours and are none: probably mistyped.
    pub(super) fn unknown(&self) -> Vec<String> {
        let known = |name: &str| {
            // `./test` has switches of its own, which reach the servers it starts.
            name == "SHUNT_CONFIG"
                || name.starts_with("SHUNT_TEST_")
                || SETTINGS.iter().any(|setting| {
                    setting.env == name
                        || (setting.secret && name.strip_suffix("_FILE") == Some(setting.env))
                })
        };
        self.0
            .keys()
            .filter(|name| name.starts_with("SHUNT_") && !known(name))
            .map(|name| {
                let meant = nearest(name, SETTINGS.iter().map(|setting| setting.env));
                match meant {
                    Some(meant) => format!("{name} is no variable of shunt; did you mean {meant}?"),
                    None => format!("{name} is no variable of shunt; it has no effect"),
                }
            })
            .collect()
    }
}

/// A value as found: key, value, where.
pub(super) type Found = (String, Raw, Origin);

/// All values of a TOML text. Everything wrong with it is added to `problems`.
pub(super) fn from_toml(
    text: &str,
    file: &std::path::Path,
    problems: &mut Vec<Problem>,
) -> Vec<Found> {
    let (table, errors) = DeTable::parse_recoverable(text);
    let line_of = |span: Range<usize>| {
        1 + text.as_bytes().iter().take(span.start).filter(|byte| **byte == b'\n').count()
    };
    let at = |span: Range<usize>| Origin::File { path: file.to_owned(), line: line_of(span) };
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        problems.push(Problem::new(None, Some(at(span)), error.message().to_owned()));
    }
    let mut found = Vec::new();
    for (name, value) in table.get_ref() {
        let name_span = name.span();
        let key = name.get_ref().as_ref();
        match value.get_ref() {
            DeValue::Table(section) if sections().contains(&key) && !key.is_empty() => {
                for (name, value) in section {
                    let span = name.span();
                    let key = format!("{key}.{}", name.get_ref());
                    take(key, value.get_ref(), at(span), &mut found, problems);
                }
            }
            DeValue::Table(_) => {
                let meant = nearest(key, sections());
                let why = match meant {
                    Some(meant) => format!("there is no section [{key}]; did you mean [{meant}]?"),
                    None => format!("there is no section [{key}]"),
                };
                problems.push(Problem::new(None, Some(at(name_span)), why));
            }
            _ => take(key.to_owned(), value.get_ref(), at(name_span), &mut found, problems),
        }
    }
    found
}

fn take(
    key: String,
    value: &DeValue<'_>,
    origin: Origin,
    found: &mut Vec<Found>,
    problems: &mut Vec<Problem>,
) {
    if !is_key(&key) {
        problems.push(unknown_key(&key, Some(origin)));
        return;
    }
    match raw(value) {
        Some(raw) => found.push((key, raw, origin)),
        None => {
            let why = "this is no value for a setting; write text, a number, true or false, or a \
                       list of texts";
            problems.push(Problem::new(Some(&key), Some(origin), why.to_owned()));
        }
    }
}

/// Whether a key is one of ours, or the `_file` twin of a secret one.
pub(super) fn is_key(key: &str) -> bool {
    by_key(key).is_some() || secret_twin(key).is_some()
}

/// The secret setting whose `_file` twin this key is.
pub(super) fn secret_twin(key: &str) -> Option<&'static super::table::Setting> {
    key.strip_suffix("_file").and_then(by_key).filter(|setting| setting.secret)
}

/// The problem of a key that is none of ours.
pub(super) fn unknown_key(key: &str, origin: Option<Origin>) -> Problem {
    // A name of the same section is meant more often than a similar one elsewhere.
    let (section, name) = (section_of(key), key.rsplit('.').next().unwrap_or(key));
    let here = nearest(key, in_section(section).map(|setting| setting.key));
    let anywhere = here.or_else(|| nearest(key, SETTINGS.iter().map(|setting| setting.key)));
    let meant = anywhere.or_else(|| {
        SETTINGS
            .iter()
            .map(|setting| setting.key)
            .find(|key| key.rsplit('.').next().is_some_and(|last| last == name))
    });
    let why = match meant {
        Some(meant) => format!("there is no such setting; did you mean {meant}?"),
        None => "there is no such setting; `shunt config default` lists all".to_owned(),
    };
    Problem::new(Some(key), origin, why)
}

fn raw(value: &DeValue<'_>) -> Option<Raw> {
    match value {
        DeValue::Array(items) => items
            .iter()
            .map(|item| match raw(item.get_ref()) {
                Some(Raw::Text(text)) => Some(text),
                Some(Raw::List(_)) | None => None,
            })
            .collect::<Option<_>>()
            .map(Raw::List),
        DeValue::String(text) => Some(Raw::Text(text.as_ref().to_owned())),
        DeValue::Integer(number) => Some(Raw::Text(number.to_string())),
        DeValue::Float(number) => Some(Raw::Text(number.to_string())),
        DeValue::Boolean(value) => Some(Raw::Text(value.to_string())),
        DeValue::Datetime(_) | DeValue::Table(_) => None,
    }
}
