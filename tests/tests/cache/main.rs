//! Several nodes, one store, a real Redis or a cluster of six: what one writes the others show, and
//! no redirect fails because of Redis.

#![expect(clippy::unwrap_used, reason = "every function here is a test or part of one")]

mod coherence;
mod feed;
mod kit;
mod outages;
