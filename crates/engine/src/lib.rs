//! Use cases of shunt over the ports of `shunt-domain`: resolve a code, allocate one, create and
//! change links, authenticate callers, limit them. Names no driver and no HTTP.

pub mod auth;
pub mod clock;
pub mod codes;
pub mod domains;
pub mod idempotency;
pub mod l1;
pub mod limits;
pub mod links;
pub mod resolve;

#[cfg(test)]
mod testing;
