//! A directory for one server's files, gone with its value; and those of runs that crashed, gone
//! with the next.
//!
//! A directory holds a lock file that its value has locked. The kernel lets go of the lock when the
//! process ends, however it ends, so a directory without a holder is a dead run's.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};

/// The lock's name in the directory.
const LOCK: &str = "kit.lock";

/// A directory below the system's for temporary files.
#[derive(Debug)]
pub struct Place {
    directory: tempfile::TempDir,
    _lock: File,
}

impl Place {
    /// Makes a fresh one for a server of this name, and removes those of the same name that nobody
    /// holds any more.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn new(server: &str) -> Result<Self> {
        let prefix = format!("shunt-{server}-");
        sweep(&std::env::temp_dir(), &prefix);
        let directory = tempfile::Builder::new().prefix(&prefix).tempdir()?;
        // Named when it is locked, so that nobody finds it before.
        let early = directory.path().join("kit.lock.new");
        let lock = File::create(&early).with_context(|| format!("make {}", early.display()))?;
        flock(&lock, FlockOperation::LockExclusive)?;
        fs::rename(&early, directory.path().join(LOCK))?;
        Ok(Self { directory, _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }
}

fn sweep(root: &Path, prefix: &str) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        if !entry.file_name().to_string_lossy().starts_with(prefix) {
            continue;
        }
        // Another user's is left to that user.
        let Ok(lock) = File::open(entry.path().join(LOCK)) else { continue };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            // Another test may be sweeping too.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_kept_while_it_is_held_and_swept_when_its_holder_is_gone() {
        let held = Place::new("place-test").unwrap();
        let orphan = Place::new("place-test").unwrap();
        let left = orphan.path().to_owned();
        // What a crash does: the lock goes, the directory stays.
        let Place { directory, _lock: lock } = orphan;
        drop(lock);
        std::mem::forget(directory);
        let next = Place::new("place-test").unwrap();
        assert!(!left.exists());
        assert!(held.path().exists() && next.path().exists());
    }
}
