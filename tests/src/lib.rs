//! What several binaries of tests share: the rules of the house as functions, so that a planted
//! breach can be shown to be found; the switches; where Citus is.

pub mod citus;
pub mod edges;
pub mod markdown;
pub mod switch;
pub mod tree;
