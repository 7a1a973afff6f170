//! `shunt dev`: the reference architecture on this machine, under one directory.
//!
//! `up` starts the servers and stays with them, in the foreground or as a supervisor of its own;
//! the other commands ask it through a socket in the directory.

mod client;
mod report;
mod supervisor;

use std::path::PathBuf;

use clap::ValueHint;
use shunt_cluster::local::{Part, Store};

use client::Request;

use super::exit::{Code, Failure};

/// The supervisor's socket in the directory, for its owner alone.
const SOCKET: &str = "control.sock";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The directory of the local cluster
    #[arg(long, global = true, value_name = "DIR", default_value = "shunt-dev",
          value_hint = ValueHint::DirPath)]
    dir: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Start all servers, on the data of the last time, and stay until Ctrl-C; with `--store
    /// shards` at the first time the nodes keep their links on the three shards, else on the primary
    Up(Up),
    /// Ask every server how it is; exit code 69 unless all are up
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Kill a server (SIGKILL)
    Kill {
        /// Its name, as `status` prints it
        node: String,
        /// Stop it in its tracks instead (SIGSTOP): connections stay open and nobody answers
        #[arg(long)]
        freeze: bool,
    },
    /// Bring back what is dead or frozen, each in the role that is left for it
    Heal {
        /// This server alone
        node: Option<String>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Stop all servers in order; their data stay for the next `up`
    Down {
        /// Remove the directory with all data
        #[arg(long)]
        purge: bool,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Up {
    /// Leave the servers to a supervisor in the background and return
    #[arg(long)]
    detach: bool,
    /// Leave out: shards, pgbouncer, redis, kafka, haproxy
    #[arg(long, value_name = "PART", value_delimiter = ',', value_parser = part)]
    without: Vec<Part>,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// This process is the supervisor that `--detach` leaves behind
    #[arg(long, hide = true)]
    supervisor: bool,
}

fn part(text: &str) -> Result<Part, String> {
    let found = Part::ALL.into_iter().find(|part| part.name() == text);
    found.ok_or_else(|| format!("write one of {}", Part::ALL.map(Part::name).join(", ")))
}

/// What `--store` means here: the nodes' store is one of the cluster's own.
fn store(text: &str) -> anyhow::Result<Store> {
    let found = Store::ALL.into_iter().find(|store| store.name() == text);
    found.ok_or_else(|| {
        let all = Store::ALL.map(Store::name).join(" or ");
        let text = format!("--store: the nodes of a local cluster are on {all}; write one of them");
        Failure::error(Code::Usage, text)
    })
}

pub(super) fn run(args: Args, asked: Option<&str>) -> anyhow::Result<()> {
    let Args { dir, command } = args;
    match command {
        Command::Up(up) => supervisor::up(&dir, &up, asked.map(store).transpose()?),
        Command::Status { json } => {
            report::status(&client::ask(&dir, &Request::Status, &mut |_| {})?, json)
        }
        Command::Kill { node, freeze } => {
            client::ask(&dir, &Request::Kill { node, freeze }, &mut |_| {}).map(|_| ())
        }
        Command::Heal { node, json } => {
            let mut steps = report::Steps::new("healing");
            let healed = client::ask(&dir, &Request::Heal { node }, &mut |what| steps.at(what))?;
            steps.finish();
            report::healed(&healed, json)
        }
        Command::Down { purge } => client::down(&dir, purge),
    }
}
