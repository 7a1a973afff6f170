//! The table of settings: the single source of keys, variables, flags, defaults, docs and parsers.

use super::Config;
use super::parse::Raw;

/// Writes one setting; a leading `secret` marks it as one.
macro_rules! setting {
    ($key:literal, $env:literal, $flag:expr, $default:expr, $unit:literal, $doc:literal, $set:expr) => {
        Setting {
            key: $key,
            env: $env,
            flag: $flag,
            default: $default,
            unit: $unit,
            secret: false,
            doc: $doc,
            set: $set,
        }
    };
    (secret $($setting:tt)*) => {
        Setting { secret: true, ..setting!($($setting)*) }
    };
}

/// Assigns the parsed value to one field.
macro_rules! to {
    ($($field:ident).+, $parser:expr) => {
        |config, raw| {
            config.$($field).+ = $parser(raw)?;
            Ok(())
        }
    };
}

// After the macros, which it uses.
mod settings;

pub(super) use settings::SETTINGS;

/// Which commands take a setting as a flag of its own. All take `--set KEY=VALUE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flag {
    /// None.
    No,
    /// Every command.
    Common(&'static str),
    /// `serve`.
    Serve(&'static str),
}

/// One setting.
#[derive(Clone, Copy)]
pub(super) struct Setting {
    /// Its key in the file: `name` or `section.name`.
    pub(super) key: &'static str,
    /// Its environment variable.
    pub(super) env: &'static str,
    /// Its flag.
    pub(super) flag: Flag,
    /// Its default, as it would be written in a variable.
    pub(super) default: &'static str,
    /// What kind of value it takes, and in which unit.
    pub(super) unit: &'static str,
    /// Whether it may hold a secret: then it can be read from a file and is never printed whole.
    pub(super) secret: bool,
    /// What it is, and what too high and too low do.
    pub(super) doc: &'static str,
    /// Reads a value into the configuration.
    pub(super) set: fn(&mut Config, &Raw) -> Result<(), String>,
}

impl Setting {
    /// Whether the file shows its value in quotes.
    pub(super) fn quoted(&self) -> bool {
        !matches!(self.unit, "true or false" | "number" | "milliseconds")
    }

    /// Whether the file shows its value as an array.
    pub(super) fn is_list(&self) -> bool {
        self.unit.starts_with("list of ")
    }
}

/// The settings of one section of the file; the empty name is the top.
pub(super) fn in_section(section: &str) -> impl Iterator<Item = &'static Setting> {
    SETTINGS.iter().filter(move |setting| section_of(setting.key) == section)
}

/// The section a key belongs to.
pub(super) fn section_of(key: &str) -> &str {
    key.split_once('.').map_or("", |(section, _)| section)
}

/// Sections in the order of the table, the top first.
pub(super) fn sections() -> Vec<&'static str> {
    let mut sections = vec![];
    for setting in SETTINGS {
        let section = section_of(setting.key);
        if sections.last() != Some(&section) {
            sections.push(section);
        }
    }
    sections
}

/// The setting with this key.
pub(super) fn by_key(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key)
}
