//! Whether a node is worth asking: a circuit breaker.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// So many calls in a row that failed open it.
const FAILURES: u32 = 8;

/// Opens when the node shows no sign of life or many calls in a row fail; closes when a probe, of
/// which there is one at a time, succeeds. Born open: nothing is connected yet.
#[derive(Debug)]
pub(super) struct Breaker {
    open: AtomicBool,
    failures: AtomicU32,
}

impl Breaker {
    pub(super) const fn new() -> Self {
        Self { open: AtomicBool::new(true), failures: AtomicU32::new(0) }
    }

    /// Whether calls are kept away.
    pub(super) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// A call went well. It closes nothing: that is the probe's business.
    pub(super) fn good(&self) {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    /// A call failed or took too long. Answers whether that opened it.
    pub(super) fn bad(&self) -> bool {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        failures >= FAILURES && self.open()
    }

    /// Keeps calls away. Answers whether they were let through until now.
    pub(super) fn open(&self) -> bool {
        !self.open.swap(true, Ordering::AcqRel)
    }

    /// Lets calls through: a probe went well.
    pub(super) fn close(&self) {
        self.failures.store(0, Ordering::Relaxed);
        self.open.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_failures_in_a_row_open_it_and_only_a_probe_closes_it() {
        let breaker = Breaker::new();
        assert!(breaker.is_open());
        breaker.close();
        for _ in 0..3 * FAILURES {
            assert!(!breaker.bad());
            breaker.good();
        }
        assert!((1..FAILURES).all(|_| !breaker.bad()) && !breaker.is_open());
        assert!(breaker.bad() && breaker.is_open());
        assert!(!breaker.bad(), "it opens once");
        breaker.good();
        assert!(breaker.is_open());
        breaker.close();
        assert!(!breaker.is_open() && breaker.open() && !breaker.open());
    }
}
