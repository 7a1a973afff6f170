//! Shared memory as words: with the `unsafe` that this needs (ADR 0003).
//!
//! Invariants:
//! - every word of a mapping is only ever reached as an [`AtomicU64`], by any thread and through
//!   any mapping of the file, so there are no data races whatever the callers do;
//! - the file behind a mapping was filled by writing, not by `ftruncate`: its blocks exist, so a
//!   full file system is an error when the ring is made and never a `SIGBUS` when it is used.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::AtomicU64;

use memmap2::{MmapMut, MmapOptions, MmapRaw};

/// Bytes of a word.
pub(crate) const WORD: usize = size_of::<u64>();

/// A readable and writable run of words, in a file or in plain memory, zeros at first.
#[derive(Debug)]
pub(crate) struct Mapping {
    map: MmapRaw,
    words: usize,
}

impl Mapping {
    /// Makes the file at `path`, which must not exist, with `words` zero words, and maps it.
    ///
    /// # Errors
    /// The operating system's; the file is removed again then.
    pub(crate) fn create(path: &Path, words: usize) -> io::Result<Self> {
        let file =
            OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        let made = fill(&file, words).and_then(|()| Self::map(&file, words));
        if made.is_err() {
            // Best effort: the error that matters is the first one.
            let _ = std::fs::remove_file(path);
        }
        made
    }

    /// Maps the file at `path` as it is; a rest that is no whole word is left out.
    ///
    /// # Errors
    /// The operating system's; `InvalidData` when there is no whole word.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let bytes = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        if bytes < WORD {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the ring file is empty"));
        }
        Self::map(&file, bytes / WORD)
    }

    /// Zero words in plain memory, which ends with the process.
    ///
    /// # Errors
    /// The operating system's.
    pub(crate) fn in_memory(words: usize) -> io::Result<Self> {
        Ok(Self { map: MmapRaw::from(MmapMut::map_anon(words * WORD)?), words })
    }

    fn map(file: &File, words: usize) -> io::Result<Self> {
        Ok(Self { map: MmapOptions::new().len(words * WORD).map_raw(file)?, words })
    }

    /// All words.
    pub(crate) fn words(&self) -> &[AtomicU64] {
        let first = self.map.as_mut_ptr().cast::<AtomicU64>();
        // SAFETY:
        // - valid and readable/writable: `map` owns a shared mapping of at least `words * WORD`
        //   bytes with PROT_READ | PROT_WRITE, and outlives the slice, which borrows `self`;
        // - aligned: mmap answers page-aligned addresses and no offset is used;
        // - initialised: every bit pattern is a u64, and AtomicU64 has its size and layout;
        // - aliasing: the bytes are only ever reached through `&AtomicU64` (this method is the
        //   only access, `map` is private and never dereferenced elsewhere), which allows
        //   writers on other threads and in other mappings of the file;
        // - no SIGBUS: the file is as long as the mapping (`create` wrote it, `open` measured
        //   it) and nothing in this program shortens it. Another program of the same user that
        //   truncates the file can crash us, as it could with a signal.
        unsafe { std::slice::from_raw_parts(first, self.words) }
    }
}

fn fill(mut file: &File, words: usize) -> io::Result<()> {
    let zeros = [0_u8; 64 << 10];
    let mut left = words * WORD;
    while left > 0 {
        let part = left.min(zeros.len());
        file.write_all(&zeros[..part])?;
        left -= part;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;

    #[test]
    fn two_mappings_of_a_file_are_the_same_words() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("words");
        let one = Mapping::create(&path, 1000).expect("a mapping");
        let two = Mapping::open(&path).expect("the same");
        assert_eq!((one.words().len(), two.words().len()), (1000, 1000));
        assert!(one.words().iter().all(|word| word.load(Relaxed) == 0));
        one.words()[999].store(7, Relaxed);
        assert_eq!(two.words()[999].load(Relaxed), 7);
        drop(one);
        assert_eq!(two.words()[999].load(Relaxed), 7);
        let again = Mapping::create(&path, 10).expect_err("the file is there");
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn an_empty_file_is_an_error_and_plain_memory_works() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("empty");
        File::create(&path).expect("a file");
        assert_eq!(Mapping::open(&path).expect_err("empty").kind(), io::ErrorKind::InvalidData);
        let memory = Mapping::in_memory(512).expect("memory");
        memory.words()[511].store(1, Relaxed);
        assert_eq!(memory.words()[511].load(Relaxed), 1);
    }
}
