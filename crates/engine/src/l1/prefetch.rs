//! A hint to the processor that a word will be read soon.

use std::sync::atomic::AtomicU64;

/// Has the cache line of a word fetched without waiting for it. Only a hint: does nothing where
/// there is no stable way to say it.
#[inline(always)]
#[allow(unsafe_code, reason = "ADR 0005: the intrinsic takes a raw pointer")]
pub(super) fn prefetch(word: &AtomicU64) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: prefetching reads nothing and never faults, whatever the address (Intel SDM, volume
    // 2, PREFETCHh); this one is even valid. SSE, which has the instruction, is part of x86-64.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(word).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = word;
}
