//! The API as its clients see it: the router with the real engine over the real embedded store,
//! without a listener in front.
//!
//! Faults are put between the engine and the store ([`kit::Faults`]): an acknowledgement that is
//! lost, a write that never arrives, a store that refuses.

#![expect(clippy::unwrap_used, reason = "every function here is a test or part of one")]

mod access;
mod admin;
mod bad_input;
mod bulk;
mod figures;
mod idempotency;
mod kit;
mod links;
mod openapi;
