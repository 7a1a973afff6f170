//! The lock file that gives one process the data directory for itself.
//!
//! The lock is the kernel's (`flock`): it ends with the process, however that ends. The file's
//! text is only for people: the number of the process that has it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use super::error::OpenError;

/// The name of the lock file in the data directory.
pub const LOCK_FILE: &str = "lock";

/// Holds the data directory until it is dropped.
#[derive(Debug)]
pub struct DirLock {
    _file: File,
}

impl DirLock {
    /// Takes the directory, waiting up to `wait` for a process that is about to leave it. Blocks.
    ///
    /// # Errors
    /// [`OpenError::Locked`] with the other process's number; [`OpenError`] if the lock file can't
    /// be written.
    pub fn acquire(dir: &Path, wait: Duration) -> Result<Self, OpenError> {
        let path = dir.join(LOCK_FILE);
        let io = |error: std::io::Error| OpenError::from_io(&path, &error);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(io)?;
        let until = Instant::now() + wait;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::Error(error)) => return Err(io(error)),
                Err(TryLockError::WouldBlock) if Instant::now() < until => {
                    // Nobody unparks this thread: it is a bounded wait between two tries.
                    std::thread::park_timeout(Duration::from_millis(2));
                }
                Err(TryLockError::WouldBlock) => {
                    let mut text = String::new();
                    // A holder that is just starting has not written its number yet: no number.
                    let pid = file.read_to_string(&mut text).ok().and(text.trim().parse().ok());
                    return Err(OpenError::Locked { path: dir.to_owned(), pid });
                }
            }
        }
        file.set_len(0).map_err(io)?;
        file.rewind().map_err(io)?;
        writeln!(file, "{}", std::process::id()).map_err(io)?;
        Ok(Self { _file: file })
    }
}
