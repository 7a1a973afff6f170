//! `shunt serve`.

use crate::config::{CommonFlags, ServeFlags};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    settings: ServeFlags,
    /// Take the listening sockets over from the server that runs on this data directory: it ends,
    /// and no connection is refused meanwhile
    #[arg(long)]
    takeover: bool,
}

pub(super) fn run(args: Args, flags: CommonFlags) -> anyhow::Result<()> {
    let config = super::load(&flags.with(args.settings))?;
    crate::serve::run(&config, args.takeover)
}
