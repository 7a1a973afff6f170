//! Rows of links in files: CSV and NDJSON, both ways.

pub(super) mod columns;
pub(super) mod guard;
pub(super) mod judge;
pub(super) mod reader;
pub(super) mod state;
