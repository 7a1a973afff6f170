//! The harness behind `bench/RESULTS.md`: starts real servers, pins them, loads them, judges them.
//!
//! Everything measured is a process as a user would run it; CPU is user + system time of that
//! process with all its threads and children, from `/proc`. Nothing here reaches into shunt: it
//! speaks HTTP, the command line and `/metrics`.
//!
//! In reading order: [`machine`] (cores, descriptors, what the machine is), [`process`] (a pinned
//! child and its figures), [`dataset`] (codes and targets as functions of a number), [`http`]
//! (a request at a time, for checks), [`servers`] (nginx, the floor, shunt), [`backing`] (database,
//! pooler and cache beside shunt, and pgbench), [`load`] (the generator), [`results`] (tables,
//! verdicts, files), [`scenario`] (one module per figure).

pub mod backing;
pub mod dataset;
pub mod http;
pub mod load;
pub mod machine;
pub mod process;
pub mod results;
pub mod scenario;
pub mod servers;
