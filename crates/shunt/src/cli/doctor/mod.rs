//! `shunt doctor`: looks at everything that can be wrong with a deployment and its machine.
//!
//! Invariants:
//! - each check is independent: one that fails hides none of the others;
//! - nothing is changed, and nothing is waited for without a deadline of our own;
//! - a check gathers facts with plain functions of the crate that knows how, and a pure function
//!   here judges them; every problem is one of [`problems`], in one line.

mod citus;
mod copies;
mod findings;
mod machine;
mod pooler;
mod postgres;
mod problems;
mod redis;
mod service;

use serde_json::{Value, json};

use crate::config::{AllocatorKind, CacheUrl, CommonFlags, Config, Environment, Loaded, StoreUrl};

use super::exit::{Code, Failure, one_line};
use super::output;
use findings::{Finding, Findings, Verdict};
use service::Depth;

#[derive(Debug, clap::Args)]
#[command(
    long_about = "Check the store, the servers it is on, the click ledger and the machine.\n\n\
    Works through the running server or, without one, on the store itself. Takes about a minute \
    per few million links of the embedded store, seconds otherwise. Exits with 0 when nothing is \
    wrong (there may be warnings), with 1 when something is."
)]
pub(super) struct Args {
    /// Leave out the full check of the store
    #[arg(long)]
    quick: bool,
    /// As JSON
    #[arg(long, conflicts_with = "explain")]
    json: bool,
    /// Explain every problem this command knows, as the page docs/troubleshooting.md
    #[arg(long)]
    explain: bool,
}

pub(super) fn run(args: &Args, flags: &CommonFlags) -> anyhow::Result<()> {
    if args.explain {
        return output::text_out(&problems::page());
    }
    let loaded = Loaded::load(flags, &Environment::of_process())?;
    let config = &loaded.config;
    let mut findings = Findings::default();
    for warning in &loaded.warnings {
        findings.warn(&problems::SETTINGS_UNKNOWN, warning.as_str());
    }
    findings.fine("settings", "they can be read");
    machine::directory(config, &mut findings);
    machine::space(config.store_dir(), &mut findings);
    machine::clock(config, &mut findings);
    let checked = super::block_on(async {
        let usable = match &config.store.url {
            StoreUrl::DataDir | StoreUrl::Sqlite(_) => true,
            StoreUrl::Postgres(options) => postgres::check(config, options, &mut findings).await,
            StoreUrl::Shards(_) => shards(config, &mut findings).await,
            // The service's own look at the table says what is in the way.
            #[cfg(feature = "dynamodb")]
            StoreUrl::Dynamo(_) => true,
        };
        match &config.cache.url {
            CacheUrl::None => {}
            CacheUrl::Redis(options) => redis::check(options, &mut findings).await,
        }
        let depth = match (usable, args.quick) {
            // What the service would say of the store is said.
            (false, _) => Depth::Running,
            (true, true) => Depth::Quick,
            (true, false) => Depth::Full,
        };
        service::check(depth, config, &mut findings).await
    });
    if let Err(error) = checked {
        findings.wrong(&problems::STORE_CLOSED, one_line(&error));
    }
    report(args, &findings)
}

/// Looks at each shard as at a database of its own, with its standbys; answers whether the service
/// can use all of them.
async fn shards(config: &Config, findings: &mut Findings) -> bool {
    let mut usable = true;
    for shard in config.store.shards() {
        let mut one = config.clone();
        one.store.url = StoreUrl::Postgres(Box::new(shard.database.clone()));
        one.store.replicas.retain(|replica| replica.shard.as_ref() == Some(&shard.name));
        one.store.migrate = None;
        // The pool of codes is the home's alone, and the service tells of it.
        one.links.allocator = AllocatorKind::Random;
        usable &= postgres::check(&one, &shard.database, findings).await;
    }
    usable
}

fn report(args: &Args, findings: &Findings) -> anyhow::Result<()> {
    let wrong = findings.count(Verdict::Wrong);
    if args.json {
        let checks: Vec<Value> = findings.0.iter().map(Finding::json).collect();
        output::json(&json!({ "ok": wrong == 0, "checks": checks }))?;
    } else {
        for finding in &findings.0 {
            output::line(&output::printable(&finding.line()))?;
        }
    }
    if wrong == 0 {
        return Ok(());
    }
    Err(Failure::error(Code::Failure, format!("{wrong} checks found something wrong; see above")))
}
