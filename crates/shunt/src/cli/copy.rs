//! `shunt copy`: copies a store into another one, and compares them.

use anyhow::Context as _;
use serde_json::json;

use super::exit::{Code, Failure};
use super::output::{self, Progress};
use crate::config::{Config, StoreUrl};
use crate::stores::copy::{Compared, Copier, State};
use crate::stores::plain::Plain;

#[derive(Debug, clap::Args)]
#[command(
    long_about = "Copy a store into another one: domains, API keys (their hashes), links with \
    their versions and used-up clicks, tombstones, the length that codes have reached. Clicks and \
    figures, idempotency keys, the pool of codes and the setup link are not copied.\n\n\
    The server on the source may run. All rows are gone through again until a pass finds nothing \
    new; a copy that was stopped goes on when it is started again. At the end, or alone with \
    --verify, every row is compared both ways. An embedded target must not be in use.\n\n\
    An address on the command line can be seen by other users of this machine: leave it out and \
    set store.url and store.previous (or their _file twins) where it holds a password."
)]
pub(super) struct Args {
    /// The store to copy from; left out, store.previous
    #[arg(long, value_name = "URL")]
    from: Option<String>,
    /// The store to copy to; left out, store.url
    #[arg(long, value_name = "URL")]
    to: Option<String>,
    /// Only compare, row by row, both ways
    #[arg(long)]
    verify: bool,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

fn parsed(flag: &str, text: &str) -> anyhow::Result<StoreUrl> {
    StoreUrl::parse(text).map_err(|why| Failure::error(Code::Usage, format!("{flag}: {why}")))
}

pub(super) fn run(args: &Args, config: &Config) -> anyhow::Result<()> {
    let from = match (&args.from, &config.store.previous) {
        (Some(text), _) => parsed("--from", text)?,
        (None, Some(previous)) => previous.clone(),
        (None, None) => {
            let text = "copy from where? name it with --from, or set store.previous";
            return Err(Failure::error(Code::Usage, text));
        }
    };
    let to = match &args.to {
        Some(text) => parsed("--to", text)?,
        None => config.store.url.clone(),
    };
    super::block_on(async {
        let from = Plain::read(&from, config).await.context("open the source")?;
        let to = match args.verify {
            true => Plain::read(&to, config).await,
            false => Plain::write(&to, config).await,
        };
        let to = to.context("open the target")?;
        if from.place == to.place {
            return Err(Failure::error(Code::Usage, "source and target are the same store"));
        }
        let mut copier = Copier::new(from, to);
        let done = work(args, &mut copier).await;
        // Blocks while the last commits are finished.
        tokio::task::spawn_blocking(move || copier.close()).await.context("close the stores")?;
        let (state, compared) = done?;
        report(args, state.as_ref(), &compared)
    })
}

async fn work(args: &Args, copier: &mut Copier) -> anyhow::Result<(Option<State>, Compared)> {
    let failed = |why: String| Failure::error(Code::Unavailable, why);
    let mut progress = Progress::new("rows", None);
    let mut tell = |done, total| progress.at(done, total);
    let state = match args.verify {
        true => None,
        false => Some(copier.copy(&mut tell).await.map_err(failed)?),
    };
    let compared = copier.compare(&mut tell).await.map_err(failed)?;
    Ok((state, compared))
}

fn report(args: &Args, state: Option<&State>, compared: &Compared) -> anyhow::Result<()> {
    for difference in &compared.first {
        eprintln!("{}", output::printable(difference));
    }
    let (passes, copied, changed) =
        state.map_or((0, 0, 0), |state| (state.passes, state.copied, state.changed));
    let differences = compared.differences;
    if args.json {
        output::json(&json!({
            "passes": passes, "copied": copied, "changed": changed, "rows": compared.rows,
            "target_rows": compared.target_rows, "differences": differences, "ahead": compared.ahead,
        }))?;
    } else {
        if state.is_some() {
            output::line(&format!(
                "{copied} rows copied, {changed} brought up to date, in {passes} passes"
            ))?;
        }
        output::line(&format!(
            "{} rows compared with {}: {differences} are missing or older in the target, {} are \
             newer or only there",
            compared.rows, compared.target_rows, compared.ahead
        ))?;
    }
    if differences > 0 {
        let text = "the target lacks something; what changes meanwhile is copied by the next run, so \
                    stop the changes on the old one before the last";
        return Err(Failure::error(Code::Temporary, text));
    }
    if state.is_some() && !args.json {
        output::line(
            "to switch over: set store.url to the new store and store.previous to the old one, \
             restart, and when all nodes have: run `shunt copy --verify` and take store.previous \
             out",
        )?;
    }
    Ok(())
}
