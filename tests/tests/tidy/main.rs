//! The tree against the rules of the house. Each rule is checked here and nowhere else; where a
//! check could pass because it looks at nothing, a planted breach shows that it would not.

#![expect(clippy::unwrap_used, reason = "every function here is a test or part of one")]

mod docs;
mod edges;
mod sources;
