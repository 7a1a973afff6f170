//! All stores of shunt: the embedded SQLite store, the PostgreSQL store (feature `postgres`), the
//! DynamoDB store (feature `dynamodb`), what they do with links that were elsewhere before, and the
//! conformance suite.
//!
//! Invariants: a store's primary key is the only judge of a code; "done" means durable; no call
//! blocks an event loop.

mod cursor;
#[cfg(feature = "dynamodb")]
pub mod dynamodb;
pub mod earlier;
pub mod histogram;
#[cfg(any(feature = "dynamodb", feature = "postgres"))]
mod leases;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "postgres")]
pub mod replicated;
mod rules;
#[cfg(feature = "postgres")]
pub mod sharded;
pub mod sqlite;
mod text;

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
#[cfg(any(test, feature = "conformance"))]
pub mod model;
