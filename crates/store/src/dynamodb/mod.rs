//! The DynamoDB store: one table that any number of processes share. Feature `dynamodb`.
//!
//! Reading order: [`options`](DynamoOptions) for how the table is reached, `table` for what is in
//! it, `client` for how it is asked, then one module per port. It has no `LinkQuery` and no
//! `CreateOnce`: a list would be a scan of the table, and nothing here is a transaction of several
//! items. Why it is so: docs/adr/ on the DynamoDB store.

mod client;
mod codes;
mod domains;
mod error;
mod idempotency;
mod item;
mod keys;
mod links;
mod meta;
mod options;
mod recent;
mod store;
mod table;

pub use error::DynamoError;
pub use options::{AccessKey, DynamoOptions, OptionsError};
pub use store::{DynamoStats, DynamoStore};
pub use table::Created;
