//! One SQLite file: what it must look like, how it is opened, checked and migrated.
//!
//! Invariants: a file that is not ours, is newer than this program or is damaged is never written
//! to; every connection to one file has the same settings; a schema change and its number commit
//! together.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::error::OpenError;

/// The oldest SQLite without the write-ahead log reset bug
/// (<https://sqlite.org/wal.html#walresetbug>).
const OLDEST_SQLITE: i32 = 3_051_003;

/// How long a connection waits for a lock that only a checkpoint or another tool can hold.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// When a commit counts as done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// When the device says that it is written (`synchronous=FULL`): survives power loss.
    #[default]
    Full,
    /// When the operating system has it (`synchronous=OFF`). Only for measurements: acknowledged
    /// writes can be lost, and the file damaged, by a power loss.
    Off,
}

/// What a database file of ours is.
#[derive(Debug)]
pub struct DbSpec {
    /// Its name in the data directory.
    pub file_name: &'static str,
    /// The number in its header that says that it is ours.
    pub application_id: i32,
    /// The SQL that leads from schema `n` to schema `n + 1`, the first from an empty file. Only
    /// ever appended to.
    pub migrations: &'static [&'static str],
    /// Tables that must be there, touched at each start.
    pub tables: &'static [&'static str],
}

/// How a database file is opened.
#[derive(Clone, Debug)]
pub struct DbOptions {
    /// When a commit counts as done.
    pub durability: Durability,
    /// How much of the file is mapped into memory, in bytes, by each connection together (they
    /// share the pages). Reads through the map take no lock of the page cache. SQLite's own limit
    /// is just under 2 GiB.
    pub mmap_bytes: i64,
    /// The writer's page cache in KiB; used only while there is something to write.
    pub writer_cache_kib: i64,
    /// Each reader's page cache in KiB.
    pub reader_cache_kib: i64,
    /// Whether a missing file is made.
    pub create: bool,
    /// Only for tests of a full disk: the file never grows beyond so many pages.
    pub max_pages: Option<u32>,
}

impl Default for DbOptions {
    fn default() -> Self {
        Self {
            durability: Durability::Full,
            mmap_bytes: 256 << 20,
            writer_cache_kib: 16 << 10,
            reader_cache_kib: 1 << 10,
            create: true,
            max_pages: None,
        }
    }
}

/// A checked and migrated database file, from which connections are opened. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Db {
    spec: &'static DbSpec,
    path: PathBuf,
    options: DbOptions,
}

impl Db {
    /// Checks the file `spec` in `dir`, makes it when it is missing and that is allowed, and
    /// brings its schema up to date. Blocks; cheap at any size: nothing is scanned.
    ///
    /// # Errors
    /// [`OpenError`]; the file is unchanged then, but for migrations that were complete.
    pub fn open(
        spec: &'static DbSpec,
        dir: &Path,
        options: DbOptions,
    ) -> Result<(Self, Connection), OpenError> {
        if rusqlite::version_number() < OLDEST_SQLITE {
            return Err(OpenError::OldLibrary { found: rusqlite::version().to_owned() });
        }
        let db = Self { spec, path: dir.join(spec.file_name), options };
        let fresh = db.check_header()?;
        let mut connection = db.writer().map_err(|error| db.open_error(&error))?;
        db.migrate(&mut connection)?;
        if fresh {
            // The file's name must be as durable as what is about to be promised about it.
            File::open(dir)
                .and_then(|dir| dir.sync_all())
                .map_err(|error| OpenError::from_io(dir, &error))?;
        }
        db.touch(&connection)?;
        Ok((db, connection))
    }

    /// Checks the file `spec` in `dir`, which must have this program's schema, for reading alone:
    /// beside the process that has it, if there is one. Blocks for some milliseconds.
    ///
    /// # Errors
    /// [`OpenError`].
    pub(super) fn reading(
        spec: &'static DbSpec,
        dir: &Path,
        mut options: DbOptions,
    ) -> Result<Self, OpenError> {
        options.create = false;
        let db = Self { spec, path: dir.join(spec.file_name), options };
        db.check_header()?;
        let connection = db.reader().map_err(|error| db.open_error(&error))?;
        let found: i64 = connection
            .query_row("PRAGMA user_version", [], |row| row.get(0))
            .map_err(|error| db.open_error(&error))?;
        let known = i64::try_from(spec.migrations.len()).unwrap_or(i64::MAX);
        if found > known {
            return Err(OpenError::Newer { path: db.path, found, known });
        }
        if found < known {
            let reason = "it has the schema of an older version; run `shunt migrate` on it first";
            return Err(OpenError::Foreign { path: db.path, reason: reason.to_owned() });
        }
        db.touch(&connection)?;
        Ok(db)
    }

    /// A file that is about to be copied or made, not checked.
    pub(super) fn at(spec: &'static DbSpec, path: PathBuf, options: DbOptions) -> Self {
        Self { spec, path, options }
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The write-ahead log's path.
    pub fn wal_path(&self) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push("-wal");
        name.into()
    }

    /// The options it was opened with.
    pub fn options(&self) -> &DbOptions {
        &self.options
    }

    fn open_error(&self, error: &rusqlite::Error) -> OpenError {
        OpenError::from_sqlite(&self.path, error)
    }

    fn corrupt(&self, reason: impl Into<String>) -> OpenError {
        OpenError::Corrupt { path: self.path.clone(), reason: reason.into() }
    }

    /// Looks at the first 100 bytes (<https://sqlite.org/fileformat.html#the_database_header>)
    /// before SQLite may touch the file; whether it is missing or empty.
    pub(super) fn check_header(&self) -> Result<bool, OpenError> {
        let io = |error: &std::io::Error| OpenError::from_io(&self.path, error);
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return if self.options.create {
                    Ok(true)
                } else {
                    Err(OpenError::Missing { what: "database", path: self.path.clone() })
                };
            }
            Err(error) => return Err(io(&error)),
        };
        let size = file.metadata().map_err(|error| io(&error))?.len();
        if size == 0 {
            return Ok(true);
        }
        let foreign = |reason: &str| OpenError::Foreign {
            path: self.path.clone(),
            reason: reason.to_owned(),
        };
        let mut header = [0_u8; 100];
        file.read_exact(&mut header).map_err(|_| foreign("it is no SQLite file"))?;
        if !header.starts_with(b"SQLite format 3\0") {
            return Err(foreign("it is no SQLite file"));
        }
        let u32_at = |at: usize| {
            header
                .get(at..at + 4)
                .and_then(|bytes| bytes.try_into().ok())
                .map_or(0, u32::from_be_bytes)
        };
        let page_size = match u64::from(u32_at(16) >> 16) {
            1 => 65_536,
            size => size,
        };
        let pages = u64::from(u32_at(28));
        // A first start that was killed before its migration committed leaves a header of a
        // write-ahead logged file with neither schema nor application id: that is ours to finish.
        let unborn = pages <= 1 && u32_at(60) == 0 && u32_at(68) == 0;
        if !unborn && u32_at(68).cast_signed() != self.spec.application_id {
            return Err(foreign("another program's application id"));
        }
        // The log may hold pages that the file does not have yet, never the other way round.
        if size < pages * page_size {
            return Err(self.corrupt(format!(
                "it is {size} bytes long and should have {pages} pages of {page_size} bytes"
            )));
        }
        Ok(unborn)
    }

    /// A connection that may write: there must be one at a time.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn writer(&self) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        self.settle(&connection, self.options.writer_cache_kib)?;
        let mode: String = connection.query_row("PRAGMA journal_mode=WAL", [], |row| row.get(0))?;
        if mode != "wal" {
            return Err(rusqlite::Error::SqliteFailure(
                rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CANTOPEN),
                Some(format!("the file system does not allow a write-ahead log (got {mode})")),
            ));
        }
        connection.pragma_update(
            None,
            "synchronous",
            match self.options.durability {
                Durability::Full => "FULL",
                Durability::Off => "OFF",
            },
        )?;
        // The writer's thread decides when to checkpoint; a log that grew is cut to this.
        connection.pragma_update(None, "wal_autocheckpoint", 0)?;
        connection.query_row("PRAGMA journal_size_limit=67108864", [], |_| Ok(()))?;
        if let Some(pages) = self.options.max_pages {
            connection.query_row(&format!("PRAGMA max_page_count={pages}"), [], |_| Ok(()))?;
        }
        Ok(connection)
    }

    /// A connection that only reads.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn reader(&self) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        self.settle(&connection, self.options.reader_cache_kib)?;
        Ok(connection)
    }

    fn settle(&self, connection: &Connection, cache_kib: i64) -> rusqlite::Result<()> {
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.set_prepared_statement_cache_capacity(64);
        connection
            .query_row(&format!("PRAGMA mmap_size={}", self.options.mmap_bytes), [], |_| Ok(()))
            .or_else(|error| match error {
                // No row comes back where memory maps are compiled out.
                rusqlite::Error::QueryReturnedNoRows => Ok(()),
                other => Err(other),
            })?;
        connection.pragma_update(None, "cache_size", -cache_kib)?;
        connection.pragma_update(None, "temp_store", "MEMORY")?;
        // A file that somebody prepared must not run functions through its schema.
        connection.pragma_update(None, "trusted_schema", "OFF")
    }

    /// Brings the schema up to date.
    pub(super) fn migrate(&self, connection: &mut Connection) -> Result<(), OpenError> {
        let error = |error: rusqlite::Error| self.open_error(&error);
        let found: i64 =
            connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(error)?;
        let known = i64::try_from(self.spec.migrations.len()).unwrap_or(i64::MAX);
        if found > known {
            return Err(OpenError::Newer { path: self.path.clone(), found, known });
        }
        let Ok(done) = usize::try_from(found) else {
            return Err(self.corrupt(format!("its schema number is {found}")));
        };
        if done == 0 {
            let things: i64 = connection
                .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
                .map_err(error)?;
            if things > 0 {
                return Err(OpenError::Foreign {
                    path: self.path.clone(),
                    reason: "it has tables of another program".to_owned(),
                });
            }
        }
        for (at, sql) in self.spec.migrations.iter().enumerate().skip(done) {
            let transaction = connection
                .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
                .map_err(error)?;
            transaction.execute_batch(sql).map_err(error)?;
            transaction
                .pragma_update(None, "application_id", self.spec.application_id)
                .and_then(|()| transaction.pragma_update(None, "user_version", at as i64 + 1))
                .and_then(|()| transaction.commit())
                .map_err(error)?;
        }
        Ok(())
    }

    /// The check of each start: the schema parses, every table is there and the ends of its tree
    /// can be read. A few dozen page reads, whatever the size.
    fn touch(&self, connection: &Connection) -> Result<(), OpenError> {
        for table in self.spec.tables {
            let known = connection
                .query_row(
                    "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = ?1",
                    [table],
                    |row| row.get::<_, i64>(0),
                )
                .map_err(|error| self.open_error(&error))?;
            if known == 0 {
                return Err(self.corrupt(format!("the table {table} is missing")));
            }
            connection
                .query_row(
                    &format!("SELECT count(*) FROM (SELECT 1 FROM {table} LIMIT 1)"),
                    [],
                    |_| Ok(()),
                )
                .map_err(|error| self.open_error(&error))?;
        }
        Ok(())
    }
}
