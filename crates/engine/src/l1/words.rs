//! The memory of the cache: one mapping of zeroed words that its parts share.
//!
//! A mapping of its own and not the allocator's, for two reasons: the system gives memory only as
//! it is used, and large pages can be asked for here alone. A look-up goes to places far apart, and
//! with small pages finding their addresses costs as much as reading them; everywhere else large
//! pages would only make the process bigger.
#![allow(unsafe_code, reason = "ADR 0005")]

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use memmap2::{MmapMut, MmapRaw};

/// Bytes of a word.
const WORD: usize = size_of::<u64>();

/// A part of the cache's memory.
#[derive(Clone, Debug)]
pub(super) struct Words {
    all: Arc<Memory>,
    start: usize,
    len: usize,
}

#[derive(Debug)]
enum Memory {
    Mapped(MmapRaw),
    /// When the system refuses to map: whoever allocates then meets the same limit.
    Plain(Box<[AtomicU64]>),
}

impl Words {
    /// So many words, all zero.
    pub(super) fn zeroed(len: usize) -> Self {
        let all = match MmapMut::map_anon(len.max(1) * WORD) {
            Ok(map) => {
                // Only a wish; systems without large pages do as well.
                #[cfg(target_os = "linux")]
                let _ = map.advise(memmap2::Advice::HugePage);
                Memory::Mapped(map.into())
            }
            Err(_) => Memory::Plain((0..len).map(|_| AtomicU64::new(0)).collect()),
        };
        Self { all: Arc::new(all), start: 0, len }
    }

    /// Cuts the first `len` words off, or as many as there are.
    pub(super) fn take(&mut self, len: usize) -> Self {
        let len = len.min(self.len);
        let part = Self { all: Arc::clone(&self.all), start: self.start, len };
        self.start += len;
        self.len -= len;
        part
    }
}

impl Deref for Words {
    type Target = [AtomicU64];

    #[inline]
    fn deref(&self) -> &[AtomicU64] {
        match &*self.all {
            Memory::Mapped(map) => {
                // SAFETY:
                // - in range: `zeroed` mapped all words and `take` only ever cuts parts out of
                //   what there is, so `start + len` is at most their number;
                // - valid: the mapping is private memory with PROT_READ | PROT_WRITE and lives as
                //   long as the `Arc` that the slice borrows;
                // - aligned: mappings begin on a page, and the offset is whole words;
                // - initialised: anonymous memory is zero, and every bit pattern is an AtomicU64;
                // - aliasing: the bytes are only ever reached through `&AtomicU64`, here.
                unsafe {
                    let first = map.as_mut_ptr().cast::<AtomicU64>().add(self.start);
                    std::slice::from_raw_parts(first, self.len)
                }
            }
            Memory::Plain(words) => {
                words.get(self.start..self.start + self.len).unwrap_or_default()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;

    #[test]
    fn parts_are_zero_and_do_not_overlap() {
        let mut rest = Words::zeroed(1_000);
        let (one, two) = (rest.take(400), rest.take(500));
        assert_eq!((one.len(), two.len(), rest.len(), rest.take(200).len()), (400, 500, 100, 100));
        assert!(one.iter().chain(&*two).all(|word| word.load(Relaxed) == 0));
        one.iter().for_each(|word| word.store(1, Relaxed));
        assert!(two.iter().all(|word| word.load(Relaxed) == 0));
        drop(one);
        two[499].store(7, Relaxed);
        assert_eq!(two[499].load(Relaxed), 7);
    }

    #[test]
    fn no_words_are_fine() {
        assert!(Words::zeroed(0).is_empty());
    }
}
