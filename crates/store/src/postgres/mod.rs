//! The PostgreSQL store: one database that any number of processes share, directly or through
//! PgBouncer in transaction mode.
//!
//! Reading order: `options` and `connect` for how it is reached, `readers`, `pool` and `session`
//! for how connections are used, `database` for what the ports see of them, then [`statements`],
//! `schema` and one module per port. Why it is so: docs/adr/ on the PostgreSQL store.

pub(crate) mod arcs;
pub mod citus;
mod codes;
mod connect;
mod copy;
mod create;
mod database;
pub mod doctor;
mod domains;
mod error;
mod feed;
mod gather;
mod idempotency;
mod keys;
pub mod legacy;
mod links;
mod list;
mod meta;
mod migrate;
pub(crate) mod mover;
mod options;
mod overdue;
mod place;
mod pool;
mod readers;
mod rollups;
mod row;
mod schema;
mod session;
pub mod statements;
mod stats;
mod store;
mod types;
mod url;

pub(crate) use arcs::ShardRow;
pub(crate) use connect::{Guide, Route};
pub(crate) use copy::{Copy, Report};
pub(crate) use error::Fault;
pub use error::PostgresError;
pub(crate) use list::{Next, Placed, Position, shape, start};
pub use migrate::{Migrated, migrate};
pub use options::{ListBudget, PostgresOptions, Secret, TlsMode};
pub(crate) use place::Kind;
pub(crate) use pool::lock;
pub use rollups::PostgresRollups;
pub use stats::PostgresStats;
pub use store::PostgresStore;
pub(crate) use store::Together;
