//! Errors of the embedded store: why it did not open, and what a driver error means to a port.

use std::path::PathBuf;

use rusqlite::ErrorCode;
use shunt_domain::StoreError;

/// Why a database did not open. Each message is one line that ends with what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory or the file does not exist and was not to be made.
    #[error("there is no {what} at {}: check the path, or start `shunt serve` once to make it", path.display())]
    Missing {
        /// What was looked for.
        what: &'static str,
        /// Where.
        path: PathBuf,
    },
    /// The data directory can't be made.
    #[error("can't create the data directory {}: {source}; choose another one with --data-dir", path.display())]
    CannotCreate {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another process has the data directory open.
    #[error("the data directory {} is in use by {}; stop that process or give this one a directory of its own", path.display(), owner(*pid))]
    Locked {
        /// The directory.
        path: PathBuf,
        /// The process that holds it, if it could be read.
        pid: Option<u32>,
    },
    /// The directory or file system does not let us write.
    #[error("{} can't be written: {reason}; make it writable for this user or choose another --data-dir", path.display())]
    ReadOnly {
        /// What can't be written.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The file is something else than our database.
    #[error("{} is not a database of shunt ({reason}); move it away or choose another --data-dir", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// How one can tell.
        reason: String,
    },
    /// The file was written by a later version of this program.
    #[error("{} has schema {found}, this program knows up to {known}; start the newer program that wrote it", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// The newest schema known here.
        known: i64,
    },
    /// The file is damaged.
    #[error("{} is damaged ({reason}); keep a copy of it and restore a backup with `shunt restore`", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// No space is left.
    #[error("the disk that holds {} is full; free some space and start again", path.display())]
    DiskFull {
        /// The file.
        path: PathBuf,
    },
    /// Something that must not be there is there.
    #[error("{} exists already; name another place, or say that it may be replaced", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The SQLite that was linked has a known way to corrupt write-ahead logs.
    #[error("SQLite {found} is too old: 3.51.3 or later is needed; build with the bundled one")]
    OldLibrary {
        /// Its version.
        found: String,
    },
    /// Another error of the file system or the database engine.
    #[error("can't open {}: {reason}; check the disk and the file's owner", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
}

fn owner(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

impl OpenError {
    /// The error that a failed call of the database engine on `path` means.
    pub fn from_sqlite(path: &std::path::Path, error: &rusqlite::Error) -> Self {
        let path = path.to_owned();
        if is_full_disk(error) {
            return Self::DiskFull { path };
        }
        match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => {
                Self::Foreign { path, reason: "it is no SQLite file".to_owned() }
            }
            Some(ErrorCode::DatabaseCorrupt) => Self::Corrupt { path, reason: error.to_string() },
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
                Self::ReadOnly { path, reason: error.to_string() }
            }
            _ => Self::Io { path, reason: error.to_string() },
        }
    }

    /// The error that a failed call of the operating system on `path` means.
    pub fn from_io(path: &std::path::Path, error: &std::io::Error) -> Self {
        use std::io::ErrorKind;
        let path = path.to_owned();
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::DiskFull { path },
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                Self::ReadOnly { path, reason: error.to_string() }
            }
            _ => Self::Io { path, reason: error.to_string() },
        }
    }
}

/// What an error of the database engine means to the caller of a port.
pub fn store_error(error: &rusqlite::Error) -> StoreError {
    match error {
        // A row that our own types refuse, or that has the wrong shape: damage, not absence.
        rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::IntegralValueOutOfRange(..)
        | rusqlite::Error::InvalidColumnType(..)
        | rusqlite::Error::Utf8Error(..) => return StoreError::Corrupt(error.to_string()),
        _ => {}
    }
    if is_full_disk(error) {
        return StoreError::DiskFull;
    }
    match error.sqlite_error_code() {
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            StoreError::ReadOnly(error.to_string())
        }
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            StoreError::Corrupt(error.to_string())
        }
        _ => StoreError::Unavailable(error.to_string()),
    }
}

/// Whether an error says that no space is left: in the file or its log, or for the shared memory
/// beside them, which SQLite reports as an I/O error of its own kind.
fn is_full_disk(error: &rusqlite::Error) -> bool {
    error.sqlite_error().is_some_and(|error| {
        error.code == ErrorCode::DiskFull
            || error.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE
    })
}

/// An error for a stored value that our own types refuse.
pub fn bad_value(column: usize, what: impl Into<String>) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(
        column,
        rusqlite::types::Type::Null,
        Box::new(BadValue(what.into())),
    )
}

/// A stored value that our own types refuse.
#[derive(Debug, thiserror::Error)]
#[error("a stored value is invalid: {0}")]
struct BadValue(String);
