//! The feed of changes: those of all shards, each from its own position on.
//!
//! A change is noted on the shard that judged it, and its note stays there when the link moves away:
//! whoever reads all shards misses none. A shard that can't be asked keeps its position, and what
//! it notes is told when it is back; the changes of the others don't wait for it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use shunt_domain::ports::{BoxFuture, ChangeFeed, FeedPage, FeedPosition};
use shunt_domain::{Deadline, StoreError};

use super::ShardedStore;

/// Positions by shard, from `name=position,…`: neither holds either sign. An empty one is that of
/// a shard which never could be asked.
fn read(position: &FeedPosition) -> BTreeMap<&str, Option<FeedPosition>> {
    let pairs = position.0.split(',').filter_map(|pair| pair.split_once('='));
    let at = |text: &str| (!text.is_empty()).then(|| FeedPosition(text.to_owned()));
    pairs.map(|(name, text)| (name, at(text))).collect()
}

impl ChangeFeed for ShardedStore {
    fn changes<'a>(
        &'a self,
        position: Option<&'a FeedPosition>,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<FeedPage, StoreError>> {
        Box::pin(async move {
            // Half of the time for a shard that is silent: the others' changes must still be told.
            let now = Instant::now();
            let deadline = Deadline::after(now, deadline.left(now) / 2);
            let known = position.map(read).unwrap_or_default();
            let from = |name: &str| known.get(name).and_then(Option::as_ref);
            let pages = self.inner.shards.iter().map(|shard| async move {
                (shard, shard.store.changes(from(&shard.name), deadline).await)
            });
            let mut all = FeedPage {
                changes: Vec::new(),
                next: FeedPosition(String::new()),
                more: false,
                whole: true,
                lost: false,
            };
            let mut next = Vec::new();
            let (mut heard, mut error) = (false, None);
            for (shard, page) in join_all(pages).await {
                let from = from(&shard.name);
                let at = match page {
                    Ok(page) => {
                        heard = true;
                        all.changes.extend(page.changes);
                        all.more |= page.more;
                        // Without a position of this shard, everything on it may have changed.
                        all.lost |= page.lost || (position.is_some() && from.is_none());
                        page.next.0
                    }
                    Err(why) => {
                        all.whole = false;
                        error = Some(shard.named(why));
                        from.map_or_else(String::new, |from| from.0.clone())
                    }
                };
                next.push(format!("{}={at}", shard.name));
            }
            all.next = FeedPosition(next.join(","));
            match error {
                Some(error) if !heard => Err(error),
                _ => Ok(all),
            }
        })
    }

    /// On every shard that can be reached.
    fn forget_changes(
        &self,
        age: Duration,
        deadline: Deadline,
    ) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(async move {
            let forgetting = self.inner.shards.iter().map(|shard| async move {
                let gone = shard.store.forget_changes(age, deadline).await;
                gone.map_err(|error| shard.named(error))
            });
            // All of them are asked before one's error is told.
            let gone: Vec<_> = join_all(forgetting).await;
            gone.into_iter().sum()
        })
    }
}
