//! The kit's data servers and what stands before them, for real: each starts from the files that
//! ship, is used, survives what the kit can do to it, and goes.

#![expect(clippy::unwrap_used, reason = "every function here is a test or part of one")]

mod haproxy;
mod pgbouncer;
mod postgres;
mod redis;
