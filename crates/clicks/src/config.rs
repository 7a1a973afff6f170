//! What the pipeline can be told: sizes, intervals, places.

use std::path::PathBuf;
use std::time::Duration;

/// The pipeline's settings. [`PipelineConfig::new`] gives the defaults named at the fields.
#[derive(Clone, Debug)]
pub struct PipelineConfig {
    /// The server's data directory. The spool is its subdirectory `spool`; rings that find no
    /// place in RAM go to `ring`.
    pub data_dir: PathBuf,
    /// Where the ring files lie. Default `None`: a directory of its own in `/dev/shm`, else
    /// `<data-dir>/ring`, else plain memory (then a killed process loses what is on its rings,
    /// and says since when).
    pub ring_dir: Option<PathBuf>,
    /// How many rings: one per core that serves redirects. Default 1.
    pub cores: usize,
    /// Size of one ring, in bytes, rounded up to a power of two, from 64 KiB to 1 GiB. Default 8 MiB:
    /// about 0.4 s at 100,000 clicks/s. Too low: a slow fsync loses clicks (reported); too high:
    /// memory.
    pub ring_bytes: usize,
    /// How often the rings are drained. Default 20 ms, so that an event is on disk within 50 ms.
    pub flush_interval: Duration,
    /// Size at which a segment is full and the next one begins, in bytes. Default 64 MiB; at
    /// most a quarter of `spool_bytes` is used.
    pub segment_bytes: u64,
    /// Most bytes the spool may take on disk. Default 1 GiB. When it is full, clicks wait on the
    /// rings and are lost, and counted as lost, when these are full too.
    pub spool_bytes: u64,
    /// How long the worker folds before it stores. Default 2 s. Too low: more transactions;
    /// too high: figures lag.
    pub fold_interval: Duration,
    /// The worker stores earlier when it has so many rows. Default 200,000 (about 20 MiB).
    pub fold_rows: usize,
    /// How often a frame is written though nothing happened, so that the ledger says the node
    /// lives. Default 60 s.
    pub heartbeat: Duration,
    /// How long one transaction of roll-ups may take. Default 30 s.
    pub apply_timeout: Duration,
}

impl PipelineConfig {
    /// The defaults, for a data directory and a number of cores.
    pub fn new(data_dir: impl Into<PathBuf>, cores: usize) -> Self {
        Self {
            data_dir: data_dir.into(),
            ring_dir: None,
            cores: cores.max(1),
            ring_bytes: 8 << 20,
            flush_interval: Duration::from_millis(20),
            segment_bytes: 64 << 20,
            spool_bytes: 1 << 30,
            fold_interval: Duration::from_secs(2),
            fold_rows: 200_000,
            heartbeat: Duration::from_secs(60),
            apply_timeout: Duration::from_secs(30),
        }
    }
}
