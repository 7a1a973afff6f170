//! What the tidy tests are made of: the rules of the house as functions, so that a planted breach
//! can be shown to be found.

pub mod edges;
pub mod markdown;
pub mod switch;
pub mod tree;
