//! The command line: one file per command.
//!
//! Invariants:
//! - a command that touches links goes through [`crate::client::ApiClient`], never around the API;
//! - results go to standard output, everything else to standard error;
//! - an error is one line: what failed, why, what to do; exit codes are decided in [`exit`].

mod apikeys;
mod backup;
mod completions;
mod config;
mod copy;
mod dev;
mod doctor;
mod domains;
pub(crate) mod exit;
mod keys;
mod links;
mod local;
mod migrate;
mod openapi;
mod output;
mod restore;
mod rows;
mod seed;
mod serve;
mod shards;
mod warm;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser, Subcommand};

use crate::client::{ApiClient, Need};
use crate::config::{CommonFlags, Config, Environment, Loaded};
use exit::{Code, code_of, one_line};

/// A URL shortener: one binary, one data directory.
#[derive(Debug, Parser)]
#[command(
    name = "shunt",
    version,
    propagate_version = true,
    after_help = "Commands find a running server through the socket in its data directory and work \
                  through it; without one they open the store themselves."
)]
struct Cli {
    #[command(flatten)]
    flags: CommonFlags,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve redirects, API and pages
    Serve(serve::Args),
    /// Create, list, change, import and export links
    #[command(subcommand)]
    Links(links::Command),
    /// Make, list and revoke API keys
    #[command(subcommand)]
    Apikeys(apikeys::Command),
    /// List and register short-link domains
    #[command(subcommand)]
    Domains(domains::Command),
    /// Pre-generate codes for the allocator `pool`
    #[command(subcommand)]
    Keys(keys::Command),
    /// Create made-up links to try things out
    Seed(seed::Args),
    /// Load links into the running server's cache
    Warm(warm::Args),
    /// Check the store, the click ledger and the machine
    Doctor(doctor::Args),
    /// Write a backup of the links while the server runs
    Backup(backup::Args),
    /// Put a backup into the data directory
    Restore(restore::Args),
    /// Copy a store into another one while it lives, and compare them
    Copy(copy::Args),
    /// Bring the store to this version's schema
    Migrate(migrate::Args),
    /// Show, add, remove and rebalance the shards of a store of several databases
    #[command(subcommand)]
    Shards(shards::Command),
    /// Print, check and explain settings
    #[command(subcommand)]
    Config(config::Command),
    Bench(Box<crate::bench::Args>),
    /// Run the reference architecture on this machine: databases, caches, nodes, HAProxy
    Dev(dev::Args),
    /// Print completions for a shell
    Completions(completions::Args),
    /// Print the OpenAPI document
    #[command(hide = true)]
    Openapi,
}

/// Runs the program.
pub(crate) fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Clap itself would exit with 2; help and version are no errors.
            let _nobody_reads = error.print();
            return if error.use_stderr() { exit_code(Code::Usage) } else { ExitCode::SUCCESS };
        }
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("shunt: {}", one_line(&error));
            exit_code(code_of(&error))
        }
    }
}

fn exit_code(code: Code) -> ExitCode {
    ExitCode::from(code as u8)
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let flags = cli.flags;
    let need = cli.command.need();
    match cli.command {
        Command::Serve(args) => serve::run(args, flags),
        Command::Links(command) => with_client(&flags, need, async |client, config| {
            links::run(command, client, config).await
        }),
        Command::Apikeys(command) => {
            with_client(&flags, need, async |client, _| apikeys::run(command, client).await)
        }
        Command::Domains(command) => {
            with_client(&flags, need, async |client, _| domains::run(command, client).await)
        }
        Command::Keys(command) => {
            with_client(&flags, need, async |client, _| keys::run(command, client).await)
        }
        Command::Seed(args) => {
            with_client(&flags, need, async |client, _| seed::run(args, client).await)
        }
        Command::Warm(args) => warm::run(args, &load(&flags)?),
        Command::Doctor(args) => doctor::run(&args, &flags),
        Command::Backup(args) => {
            with_client(&flags, need, async |client, _| backup::run(args, client).await)
        }
        Command::Restore(args) => restore::run(&args, &load(&flags)?),
        Command::Copy(args) => copy::run(&args, &load(&flags)?),
        Command::Migrate(args) => migrate::run(&args, &load(&flags)?),
        Command::Shards(command) => shards::run(command, &load(&flags)?),
        Command::Config(command) => config::run(&command, &flags),
        Command::Bench(args) => crate::bench::run(*args),
        Command::Dev(args) => dev::run(args, flags.given("store.url")),
        Command::Completions(args) => completions::run(&args, &mut Cli::command()),
        Command::Openapi => openapi::run(),
    }
}

impl Command {
    /// Commands that make something may begin a new store; the others would only hide a mistyped
    /// directory by making an empty one.
    const fn need(&self) -> Need {
        match self {
            Self::Links(links::Command::Add(_) | links::Command::Import(_))
            | Self::Apikeys(apikeys::Command::Add { .. })
            | Self::Domains(domains::Command::Add { .. })
            | Self::Keys(_)
            | Self::Seed(_) => Need::Create,
            _ => Need::Existing,
        }
    }
}

/// The settings, with what looks mistyped said on standard error.
fn load(flags: &CommonFlags) -> anyhow::Result<Config> {
    let loaded = Loaded::load(flags, &Environment::of_process())?;
    for warning in &loaded.warnings {
        eprintln!("warning: {warning}");
    }
    Ok(loaded.config)
}

/// Runs a future on an event loop of this thread.
fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the event loop")?
        .block_on(future)
}

/// Runs a command over the API, wherever that is, and closes what it opened, also on failure.
fn with_client(
    flags: &CommonFlags,
    need: Need,
    command: impl AsyncFnOnce(&ApiClient, &Config) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let config = load(flags)?;
    block_on(async {
        let client = ApiClient::open(&config, need).await?;
        let done = command(&client, &config).await;
        client.close().await;
        done
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn common_flags_stand_before_and_after_the_command() {
        for arguments in [
            ["shunt", "--data-dir", "/x", "links", "list"],
            ["shunt", "links", "--data-dir", "/x", "list"],
            ["shunt", "links", "list", "--data-dir", "/x"],
        ] {
            let cli = Cli::try_parse_from(arguments).unwrap();
            let loaded = Loaded::load(&cli.flags, &Environment::default()).unwrap();
            assert_eq!(loaded.config.data_dir.to_str(), Some("/x"), "{arguments:?}");
        }
        assert!(Cli::try_parse_from(["shunt", "links", "list", "--listen", "x"]).is_err());
        assert!(Cli::try_parse_from(["shunt", "serve", "--listen", "x"]).is_ok());
    }
}
