//! A directory for one server's files: a passing one, gone with its value (and those of runs that
//! crashed, gone with the next), or one that is kept and taken up again.
//!
//! A directory holds a lock file that its value has locked. The kernel lets go of the lock when the
//! process ends, however it ends, so a directory without a holder is a dead run's.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};

use crate::ports::Port;

/// The lock's name in the directory.
pub(crate) const LOCK: &str = "kit.lock";

/// Begun and not ended: what is in a kept directory with this file is half made.
const HALF_MADE: &str = "half-made";

#[derive(Debug)]
enum Directory {
    Passing(tempfile::TempDir),
    Kept(PathBuf),
}

/// A directory that this value alone uses.
#[derive(Debug)]
pub struct Place {
    directory: Directory,
    _lock: File,
}

impl Place {
    /// The one at `kept` if a path is given, else a passing one for a server of this name.
    ///
    /// # Errors
    /// As [`Self::keep`] and [`Self::new`].
    pub fn of(kept: Option<&Path>, server: &str) -> Result<Self> {
        kept.map_or_else(|| Self::new(server), Self::keep)
    }

    /// Makes a fresh, passing one for a server of this name below the system's directory for
    /// temporary files, and removes those of the same name that nobody holds any more.
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
        Ok(Self { directory: Directory::Passing(directory), _lock: lock })
    }

    /// Takes this directory, which is made if it is not there and stays when the value goes.
    ///
    /// # Errors
    /// When it can't be made, or another value has it, of another process for one.
    pub fn keep(path: &Path) -> Result<Self> {
        fs::create_dir_all(path).with_context(|| format!("make {}", path.display()))?;
        let file = path.join(LOCK);
        let lock = File::options().create(true).append(true).open(&file);
        let lock = lock.with_context(|| format!("open {}", file.display()))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            bail!("{} is in use", path.display());
        }
        Ok(Self { directory: Directory::Kept(path.to_owned()), _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        match &self.directory {
            Directory::Passing(directory) => directory.path(),
            Directory::Kept(path) => path,
        }
    }

    /// The port of this name. A kept place has the same one for ever, because its servers' files
    /// and those of their peers know it.
    ///
    /// # Errors
    /// As [`Port::lease`], or when another program has taken a kept place's port meanwhile.
    pub fn port(&self, name: &str) -> Result<Port> {
        let Directory::Kept(path) = &self.directory else { return Port::lease() };
        let file = path.join(format!("{name}.port"));
        if let Ok(text) = fs::read_to_string(&file) {
            let number = text.trim().parse();
            let number = number.with_context(|| format!("read a port from {}", file.display()))?;
            return Port::take(number);
        }
        let port = Port::lease()?;
        fs::write(&file, format!("{}\n", port.number()))
            .with_context(|| format!("write {}", file.display()))?;
        Ok(port)
    }

    /// Has `make` make the directory `name` here, unless it is there and whole: one that a crash
    /// left half made is thrown away first.
    ///
    /// # Errors
    /// Whatever `make` fails with, and when files can't be written or removed.
    pub fn make_once(&self, name: &str, make: impl FnOnce() -> Result<()>) -> Result<()> {
        let whole = self.path().join(name);
        let mark = self.path().join(HALF_MADE);
        if whole.exists() && !mark.exists() {
            return Ok(());
        }
        File::create(&mark).with_context(|| format!("make {}", mark.display()))?;
        remove(&whole)?;
        make()?;
        fs::remove_file(&mark).with_context(|| format!("remove {}", mark.display()))
    }
}

/// Removes a directory, if it is there.
pub(crate) fn remove(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", directory.display()))
        }
        _ => Ok(()),
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
        let Place { directory: Directory::Passing(directory), _lock: lock } = orphan else {
            panic!("it was to pass");
        };
        drop(lock);
        std::mem::forget(directory);
        let next = Place::new("place-test").unwrap();
        assert!(!left.exists());
        assert!(held.path().exists() && next.path().exists());
    }

    #[test]
    fn a_kept_place_has_one_holder_and_keeps_its_ports_and_what_is_whole() {
        let root = Place::new("place-test").unwrap();
        let path = root.path().join("kept");
        let place = Place::keep(&path).unwrap();
        assert!(Place::keep(&path).unwrap_err().to_string().contains("in use"));
        let port = place.port("a").unwrap().number();
        assert_ne!(place.port("b").unwrap().number(), port);
        let data = path.join("data");
        let fails = place.make_once("data", || {
            fs::create_dir(&data)?;
            bail!("halfway")
        });
        assert!(fails.is_err() && data.exists());
        drop(place);

        let place = Place::keep(&path).unwrap();
        let taken = place.port("a").unwrap();
        assert_eq!(taken.number(), port);
        assert!(place.port("a").unwrap_err().to_string().contains(&port.to_string()));
        place.make_once("data", || Ok(fs::create_dir(&data)?)).unwrap();
        place.make_once("data", || bail!("made twice")).unwrap();
    }
}
