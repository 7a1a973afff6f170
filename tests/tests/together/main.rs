//! What nodes keep together through Redis, on real servers: limits and ranges of codes.

#![expect(clippy::unwrap_used, reason = "every function here is a test or part of one")]

mod kit;
mod limits;
mod nodes;
mod ranges;
