//! The embedded store as a whole: opening, closing, and what the ports share.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::db::{Db, DbOptions};
use super::error::OpenError;
use super::list::ListBudget;
use super::lock::DirLock;
use super::readers::Readers;
use super::schema::LINKS_DB;
use super::state::LinkState;
use super::stats::{ReaderStats, WriterStats};
use super::writer::Writer;

/// How the embedded store is opened.
#[derive(Clone, Debug)]
pub struct SqliteOptions {
    /// Settings of the file's connections. `create: false` refuses a directory without a store.
    pub db: DbOptions,
    /// How many threads read. At least two; more than cores help little.
    pub readers: usize,
    /// How long to wait for a process that is about to leave the data directory.
    pub lock_wait: Duration,
    /// How much work one page of a list may be.
    pub list_budget: ListBudget,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self {
            db: DbOptions::default(),
            readers: 3,
            lock_wait: Duration::ZERO,
            list_budget: ListBudget::default(),
        }
    }
}

/// The embedded store: `links.db` in a data directory that this process has for itself.
///
/// Cheap to clone. The last clone to go closes the store and blocks while it does; call
/// [`SqliteStore::close`] before, off the event loop.
#[derive(Clone, Debug)]
pub struct SqliteStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    db: Db,
    writer: Writer<LinkState>,
    readers: Readers,
    writer_stats: Arc<WriterStats>,
    reader_stats: Arc<ReaderStats>,
    list_budget: ListBudget,
    closed: AtomicBool,
    // Declared last: the directory is free only when nothing uses it any more.
    lock: std::sync::Mutex<Option<DirLock>>,
}

/// The size of the store's files, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileSizes {
    /// The database file.
    pub database: u64,
    /// The write-ahead log.
    pub log: u64,
}

impl SqliteStore {
    /// Opens the store in `dir`, making both when they are missing and that is allowed. Blocks for
    /// some milliseconds, whatever the size.
    ///
    /// # Errors
    /// [`OpenError`] says what is in the way and what to do.
    pub fn open(dir: &Path, options: SqliteOptions) -> Result<Self, OpenError> {
        if options.db.create {
            make_dir(dir)?;
        } else if !dir.is_dir() {
            return Err(OpenError::Missing { what: "data directory", path: dir.to_owned() });
        } else if !dir.join(LINKS_DB.file_name).exists() {
            let path = dir.join(LINKS_DB.file_name);
            return Err(OpenError::Missing { what: "database", path });
        }
        let lock = DirLock::acquire(dir, options.lock_wait)?;
        let SqliteOptions { db, readers, list_budget, .. } = options;
        let (db, connection) = Db::open(&LINKS_DB, dir, db)?;
        connection
            .execute("UPDATE counters SET value = value + 1 WHERE name = 'boot'", [])
            .map_err(|error| OpenError::from_sqlite(db.path(), &error))?;
        let writer_stats = Arc::<WriterStats>::default();
        let reader_stats = Arc::<ReaderStats>::default();
        let writer = Writer::start(&db, connection, Arc::clone(&writer_stats))?;
        let readers = Readers::start(&db, readers, Arc::clone(&reader_stats))?;
        Ok(Self {
            inner: Arc::new(Inner {
                dir: dir.to_owned(),
                db,
                writer,
                readers,
                writer_stats,
                reader_stats,
                list_budget,
                closed: AtomicBool::new(false),
                lock: std::sync::Mutex::new(Some(lock)),
            }),
        })
    }

    /// Opens the store in `dir` for reading alone, beside the process that has it, if there is one.
    /// Whatever writes is refused as unavailable. Blocks for some milliseconds.
    ///
    /// # Errors
    /// [`OpenError`]; a store of another version's schema is one.
    pub fn open_reading(dir: &Path, options: SqliteOptions) -> Result<Self, OpenError> {
        let db = Db::reading(&LINKS_DB, dir, options.db)?;
        let writer_stats = Arc::<WriterStats>::default();
        let reader_stats = Arc::<ReaderStats>::default();
        let readers = Readers::start(&db, options.readers, Arc::clone(&reader_stats))?;
        Ok(Self {
            inner: Arc::new(Inner {
                dir: dir.to_owned(),
                db,
                writer: Writer::none(Arc::clone(&writer_stats)),
                readers,
                writer_stats,
                reader_stats,
                list_budget: options.list_budget,
                closed: AtomicBool::new(false),
                lock: std::sync::Mutex::default(),
            }),
        })
    }

    /// Takes no more work, finishes what waits, empties the log and frees the data directory.
    /// Blocks. What is asked of the store afterwards is refused as unavailable.
    pub fn close(&self) {
        self.inner.close();
    }

    /// The data directory.
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// The file `links.db`.
    pub fn path(&self) -> &Path {
        self.inner.db.path()
    }

    /// Figures of the writer.
    pub fn writer_stats(&self) -> &WriterStats {
        &self.inner.writer_stats
    }

    /// Figures of the readers.
    pub fn reader_stats(&self) -> &ReaderStats {
        &self.inner.reader_stats
    }

    /// The size of the files; a file that can't be looked at counts as 0. One system call each.
    pub fn file_sizes(&self) -> FileSizes {
        let size = |path: &Path| std::fs::metadata(path).map_or(0, |found| found.len());
        FileSizes { database: size(self.inner.db.path()), log: size(&self.inner.db.wal_path()) }
    }

    pub(super) fn db(&self) -> &Db {
        &self.inner.db
    }

    pub(super) fn writer(&self) -> &Writer<LinkState> {
        &self.inner.writer
    }

    pub(super) fn readers(&self) -> &Readers {
        &self.inner.readers
    }

    pub(super) fn list_budget(&self) -> ListBudget {
        self.inner.list_budget
    }
}

impl Inner {
    fn close(&self) {
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        // Readers first: the log can only be emptied when nobody reads from it.
        self.readers.close();
        self.writer.close();
        let lock = self.lock.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        drop(lock);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

/// Makes the data directory, for this user only, if it is missing.
pub(super) fn make_dir(dir: &Path) -> Result<(), OpenError> {
    use std::os::unix::fs::DirBuilderExt;
    if dir.is_dir() {
        return Ok(());
    }
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| OpenError::CannotCreate { path: dir.to_owned(), source })
}
