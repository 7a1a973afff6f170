//! Moves the write-ahead log into the database file without holding up commits.
//!
//! A log is only reused once all of it is in the database file. A helper thread copies most of it
//! beside the running writer; then the writer's own thread copies the little that was added
//! meanwhile, so that the next commit starts the log anew. Safe from SQLite 3.51.3 on, which the
//! opening checks.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::db::{BUSY_TIMEOUT, Db};
use super::error::OpenError;
use super::stats::{WriterStats, count};

/// From this many pages (16 MiB) on the helper starts to copy.
const START_PAGES: u64 = 4_096;

/// From this many pages (256 MiB) on the writer waits until all is copied.
const MAX_PAGES: u64 = 65_536;

/// How often cutting the log is tried while a reader is in the way.
const TRUNCATE_EVERY: Duration = Duration::from_secs(1);

const RESTING: u8 = 0;
const ASKED: u8 = 1;
const COPIED: u8 = 2;
const STOPPED: u8 = 3;

#[derive(Default)]
struct Shared {
    state: AtomicU8,
    lock: Mutex<()>,
    wake: Condvar,
}

impl Shared {
    fn set(&self, state: u8) {
        let guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if self.state.load(Ordering::Acquire) != STOPPED {
            self.state.store(state, Ordering::Release);
        }
        drop(guard);
        self.wake.notify_all();
    }

    /// Waits while the state is `state`; the state it became.
    fn wait_while(&self, state: u8) -> u8 {
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let now = self.state.load(Ordering::Acquire);
            if now != state {
                return now;
            }
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// The helper thread, as the writer's thread has it.
pub(super) struct Checkpointer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// Whether something was committed since the log was last found copied.
    dirty: bool,
    /// When cutting the log was last tried in vain.
    truncate_tried: Option<Instant>,
}

impl Checkpointer {
    pub(super) fn start(db: &Db) -> Result<Self, OpenError> {
        let shared = Arc::new(Shared::default());
        let thread_shared = Arc::clone(&shared);
        let db = db.clone();
        let path = db.path().to_owned();
        let thread = std::thread::Builder::new()
            .name("sqlite-checkpoint".to_owned())
            .spawn(move || {
                let mut connection = None;
                loop {
                    match thread_shared.wait_while(RESTING) {
                        STOPPED => break,
                        ASKED => {}
                        _ => {
                            if thread_shared.wait_while(COPIED) == STOPPED {
                                break;
                            }
                            continue;
                        }
                    }
                    if connection.is_none() {
                        connection = db.writer().ok();
                    }
                    if connection.as_ref().is_none_or(|open| passive(open).is_err()) {
                        // The writer tries again when the log has grown further.
                        connection = None;
                    }
                    thread_shared.set(COPIED);
                }
            })
            .map_err(|error| OpenError::from_io(&path, &error))?;
        Ok(Self { shared, thread: Some(thread), dirty: true, truncate_tried: None })
    }

    /// Whether there is something to do once the writer is idle.
    pub(super) fn is_restless(&self) -> bool {
        self.dirty
    }

    /// Tries to copy everything and to cut the log to nothing; whether it is done. Does not wait
    /// for readers, and tries at most once a second.
    pub(super) fn truncate(&mut self, connection: &Connection) -> bool {
        let recently = |at: Instant| at.elapsed() < TRUNCATE_EVERY;
        if self.truncate_tried.is_some_and(recently) {
            return false;
        }
        let done = connection
            .busy_timeout(Duration::ZERO)
            .and_then(|()| {
                let sql = "PRAGMA wal_checkpoint(TRUNCATE)";
                connection.query_row(sql, [], |row| row.get::<_, i64>(0))
            })
            .is_ok_and(|busy| busy == 0);
        self.truncate_tried = (!done).then(Instant::now);
        // It was valid when the connection was opened with it.
        let _ = connection.busy_timeout(BUSY_TIMEOUT);
        done
    }

    /// Called by the writer's thread between two groups, and once when it has become idle.
    pub(super) fn look(&mut self, connection: &Connection, stats: &WriterStats, idle: bool) {
        if idle && !self.dirty {
            return;
        }
        self.dirty = true;
        let Ok((log, done)) = pages(connection, "PRAGMA wal_checkpoint(NOOP)") else { return };
        stats.wal_pages.store(log, Ordering::Relaxed);
        let left = log.saturating_sub(done);
        let state = self.shared.state.load(Ordering::Acquire);
        let finish = match state {
            COPIED => true,
            ASKED if log >= MAX_PAGES => {
                self.shared.wait_while(ASKED);
                true
            }
            ASKED => false,
            _ if left >= START_PAGES => {
                self.shared.set(ASKED);
                false
            }
            _ => idle,
        };
        if finish {
            let finished = passive(connection);
            if state != RESTING {
                self.shared.set(RESTING);
            }
            if let Ok((log, done)) = finished {
                count(&stats.checkpoints);
                self.dirty = log != done;
            }
        }
    }

    pub(super) fn stop(&mut self) {
        self.shared.set(STOPPED);
        if let Some(thread) = self.thread.take() {
            // It only ever copies; there is nothing to learn from its end.
            let _ = thread.join();
        }
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.stop();
    }
}

fn passive(connection: &Connection) -> rusqlite::Result<(u64, u64)> {
    pages(connection, "PRAGMA wal_checkpoint(PASSIVE)")
}

/// Pages in the log, and how many of them are in the database file.
fn pages(connection: &Connection, pragma: &str) -> rusqlite::Result<(u64, u64)> {
    connection.prepare_cached(pragma)?.query_row([], |row| {
        let pages = |at| row.get::<_, i64>(at).map(|n| u64::try_from(n).unwrap_or(0));
        Ok((pages(1)?, pages(2)?))
    })
}
