//! `shunt shards`: which shard holds what, and moving links from one to another.

use serde_json::json;
use shunt_store::sharded::{self, Change, MoveOptions, ShardOptions};

use super::exit::{Code, Failure};
use super::output::{self, Progress};
use crate::config::Config;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Show every shard, its part of the links and what is under way
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Give a shard its part of the ring; `rebalance` moves the links
    Add {
        /// Its name in `store.shards`
        name: String,
        /// Its part beside the others', which have 1
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
        weight: u32,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Take a shard off the ring; `rebalance` moves its links away
    Remove {
        /// Its name in `store.shards`
        name: String,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Move links to where the ring wants them, while everything goes on
    Rebalance {
        /// Rows a second at most
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
        rate: Option<u64>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Compare the place of every link with the ring
    Verify {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(command: Command, config: &Config) -> anyhow::Result<()> {
    let shards = &config.store.shards()[..];
    if shards.is_empty() {
        let text = "the store is not sharded; name its databases in store.shards";
        return Err(Failure::error(Code::Usage, text));
    }
    super::block_on(async {
        match command {
            Command::Status { json } => status(shards, json).await,
            Command::Add { name, weight, json } => {
                plan(shards, Change::Add { name, weight }, json).await
            }
            Command::Remove { name, json } => plan(shards, Change::Remove { name }, json).await,
            Command::Rebalance { rate, json } => rebalance(shards, rate, json).await,
            Command::Verify { json } => verify(shards, json).await,
        }
    })
}

async fn status(shards: &[ShardOptions], as_json: bool) -> anyhow::Result<()> {
    let status = sharded::status(shards).await;
    if as_json {
        let shards: Vec<_> = status
            .shards
            .iter()
            .map(|shard| {
                json!({
                    "name": shard.name, "error": shard.error, "home": shard.home,
                    "weight": shard.weight, "links": shard.links, "arcs": shard.arcs,
                    "share": shard.share, "leaving": shard.leaving, "coming": shard.coming,
                    "left_behind": shard.left_behind, "to_go": shard.to_go,
                })
            })
            .collect();
        return output::json(&json!({ "shards": shards }));
    }
    for shard in status.shards {
        let home = if shard.home { ", home" } else { "" };
        let share = shard.share * 100.0;
        let mut line = format!(
            "{}: weight {}{home}, {} arcs, {share:.1} % of the ring",
            shard.name, shard.weight, shard.arcs
        );
        match shard.error {
            Some(error) => line += &format!("; {error}"),
            None => line += &format!(", {} links", shard.links),
        }
        for (count, what) in [
            (shard.to_go, "to be moved away"),
            (shard.leaving, "being copied away"),
            (shard.coming, "being copied to here"),
            (shard.left_behind, "moved away, rows to be deleted"),
        ] {
            if count > 0 {
                line += &format!("; {count} arcs {what}");
            }
        }
        output::line(&line)?;
    }
    Ok(())
}

async fn plan(shards: &[ShardOptions], change: Change, as_json: bool) -> anyhow::Result<()> {
    let plan = sharded::plan(shards, change).await?;
    if as_json {
        return output::json(&json!({ "arcs": plan.arcs, "share": plan.share }));
    }
    output::line(&format!(
        "{} arcs, {:.1} % of the ring, are to be moved; `shunt shards rebalance` moves them",
        plan.arcs,
        plan.share * 100.0
    ))
}

async fn rebalance(
    shards: &[ShardOptions],
    rate: Option<u64>,
    as_json: bool,
) -> anyhow::Result<()> {
    let mut progress = Progress::new("links", None);
    let mut tell = |at: sharded::Progress| progress.at(at.links, Some(at.of));
    let moved = sharded::rebalance(shards, MoveOptions { rate }, &mut tell).await?;
    drop(progress);
    if as_json {
        return output::json(&json!({
            "arcs": moved.arcs, "links": moved.links, "keys": moved.keys, "again": moved.again,
        }));
    }
    output::line(&format!(
        "{} arcs moved with {} links and {} idempotency keys; {} rows changed meanwhile and were \
         copied again",
        moved.arcs, moved.links, moved.keys, moved.again
    ))
}

async fn verify(shards: &[ShardOptions], as_json: bool) -> anyhow::Result<()> {
    let mut progress = Progress::new("links", None);
    let found = sharded::verify(shards, &mut |rows| progress.at(rows, None)).await?;
    drop(progress);
    if as_json {
        output::json(&json!({
            "rows": found.rows, "right": found.right, "to_move": found.to_move,
            "copies": found.copies, "misplaced": found.misplaced_rows,
        }))?;
    } else {
        output::line(&format!(
            "{} rows: {} where they belong, {} to be moved, {} copies of moved ones, {} misplaced",
            found.rows, found.right, found.to_move, found.copies, found.misplaced_rows
        ))?;
    }
    if found.misplaced_rows > 0 {
        let text = format!(
            "{} rows are on shards that don't own them, where nobody finds them ({}); look how they \
             came there",
            found.misplaced_rows,
            found.misplaced.join(", ")
        );
        return Err(Failure::error(Code::Data, text));
    }
    Ok(())
}
