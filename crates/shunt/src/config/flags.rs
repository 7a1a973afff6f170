//! The command line's side of the table: flags are made from [`SETTINGS`], not declared again.

use std::path::PathBuf;

use clap::builder::ValueHint;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use super::table::{Flag, SETTINGS, Setting};

/// Flags of every command: where the data and the file are, and `--set`.
#[derive(Clone, Debug, Default)]
pub struct CommonFlags {
    /// `--config`.
    pub config: Option<PathBuf>,
    /// Keys and values given by flags of their own.
    pub(super) values: Vec<(&'static str, String)>,
    /// `--set KEY=VALUE`, as typed.
    pub(super) sets: Vec<String>,
}

/// Flags of `serve` alone.
#[derive(Clone, Debug, Default)]
pub struct ServeFlags {
    pub(super) values: Vec<(&'static str, String)>,
}

impl CommonFlags {
    /// What a flag of its own gave for a setting.
    pub fn given(&self, key: &str) -> Option<&str> {
        let found = self.values.iter().find(|(known, _)| *known == key);
        found.map(|(_, value)| value.as_str())
    }

    /// With the flags of `serve` added.
    #[must_use]
    pub fn with(mut self, serve: ServeFlags) -> Self {
        self.values.extend(serve.values);
        self
    }
}

/// The first sentence of a doc: enough for `--help`.
fn short(doc: &str) -> &str {
    doc.split_once(". ").map_or(doc, |(first, _)| first).trim_end_matches('.')
}

fn argument(setting: &'static Setting, flag: &'static str, global: bool) -> Arg {
    let default = if setting.default.is_empty() {
        String::new()
    } else {
        format!(" [default: {}]", setting.default)
    };
    let hint = if setting.unit == "path" { ValueHint::DirPath } else { ValueHint::Unknown };
    Arg::new(setting.key)
        .long(flag)
        .global(global)
        .value_name(if setting.unit == "path" { "DIR" } else { "VALUE" })
        .value_hint(hint)
        .help_heading("Settings")
        .help(format!("{}{default} [env: {}]", short(setting.doc), setting.env))
}

fn values(matches: &ArgMatches, pick: impl Fn(Flag) -> bool) -> Vec<(&'static str, String)> {
    SETTINGS
        .iter()
        .filter(|setting| pick(setting.flag))
        .filter_map(|setting| {
            let value = matches.try_get_one::<String>(setting.key).ok().flatten()?;
            Some((setting.key, value.clone()))
        })
        .collect()
}

impl Args for CommonFlags {
    fn augment_args(command: Command) -> Command {
        let command = command
            .arg(
                Arg::new("config")
                    .long("config")
                    .global(true)
                    .value_name("FILE")
                    .value_hint(ValueHint::FilePath)
                    .value_parser(clap::value_parser!(PathBuf))
                    .help_heading("Settings")
                    .help("Settings file [default: shunt.toml in the data directory] [env: SHUNT_CONFIG]"),
            )
            .arg(
                Arg::new("set")
                    .long("set")
                    .global(true)
                    .value_name("KEY=VALUE")
                    .action(ArgAction::Append)
                    .help_heading("Settings")
                    .help("Any setting by its key; may be repeated (`shunt config default` lists them)"),
            );
        SETTINGS.iter().fold(command, |command, setting| match setting.flag {
            Flag::Common(flag) => command.arg(argument(setting, flag, true)),
            Flag::Serve(_) | Flag::No => command,
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for CommonFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self {
            config: matches.get_one::<PathBuf>("config").cloned(),
            values: values(matches, |flag| matches!(flag, Flag::Common(_))),
            sets: matches.get_many::<String>("set").unwrap_or_default().cloned().collect(),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for ServeFlags {
    fn augment_args(command: Command) -> Command {
        SETTINGS.iter().fold(command, |command, setting| match setting.flag {
            Flag::Serve(flag) => command.arg(argument(setting, flag, false)),
            Flag::Common(_) | Flag::No => command,
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for ServeFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self { values: values(matches, |flag| matches!(flag, Flag::Serve(_))) })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
