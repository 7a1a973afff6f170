//! The embedded store: one SQLite file, one writer thread with group commit, a few reader threads.
//!
//! Reading order: [`db`] for what a file must look like, [`writer`] and [`readers`] for how it is
//! used (both serve any of our database files), then `schema`, `store` and one module per port.

mod backup;
mod checkpoint;
mod codes;
pub mod db;
mod doctor;
mod domains;
mod error;
mod fts;
mod idempotency;
mod keys;
mod links;
mod list;
mod lock;
mod meta;
pub mod readers;
mod rollups;
mod row;
mod schema;
mod state;
pub mod stats;
mod store;
#[cfg(test)]
mod tests;
pub mod writer;

pub use backup::{BackupReport, META_EPOCH, Progress, RestoreReport};
pub use db::{Db, DbOptions, DbSpec, Durability};
pub use doctor::Diagnosis;
pub use error::{OpenError, bad_value, store_error};
pub use list::ListBudget;
pub use lock::{DirLock, LOCK_FILE};
pub use readers::{Lane, Readers};
pub use rollups::{CLICKS_DB, SqliteRollups};
pub use schema::LINKS_DB;
pub use state::LinkState;
pub use store::{FileSizes, SqliteOptions, SqliteStore};
pub use writer::{GroupState, Tx, Writer};
