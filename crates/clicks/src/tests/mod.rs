//! Tests of the pipeline as a whole: exactness through crashes, full disks and damaged files.

mod disk;
mod exact;
mod kill;
mod recovery;
pub(crate) mod support;
