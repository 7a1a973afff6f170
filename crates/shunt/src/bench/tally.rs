//! What a thread counts, and what all threads publish while they run.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use hdrhistogram::Histogram;

/// Why a request is not good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// The connection could not be made; one per attempt.
    Connect,
    /// The connection broke under a request.
    Reset,
    /// The server closed the connection before the whole answer was there.
    Closed,
    /// No answer in time.
    Timeout,
    /// Due, but no connection was free in time (open loop) or when the run ended.
    Unsent,
    /// The answer is no HTTP response, or too large.
    Malformed,
    /// A status other than a redirect's (reads) or 201 (creates).
    Status,
    /// The redirect leads elsewhere than the keys file says.
    WrongLocation,
}

impl Failure {
    pub(super) const ALL: [Self; 8] = [
        Self::Connect,
        Self::Reset,
        Self::Closed,
        Self::Timeout,
        Self::Unsent,
        Self::Malformed,
        Self::Status,
        Self::WrongLocation,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Reset => "reset",
            Self::Closed => "closed",
            Self::Timeout => "timeout",
            Self::Unsent => "unsent",
            Self::Malformed => "malformed",
            Self::Status => "status",
            Self::WrongLocation => "wrong_location",
        }
    }
}

/// A histogram of nanoseconds, 1 µs to 10 min, three significant digits.
pub(super) fn histogram() -> Histogram<u64> {
    bounded(3)
}

fn bounded(digits: u8) -> Histogram<u64> {
    // The bounds are constants inside what the crate allows; its only errors are about them.
    Histogram::new_with_bounds(1_000, 600_000_000_000, digits)
        .unwrap_or_else(|_| unreachable!("constant histogram bounds"))
}

/// Counts of one thread, or of all of them added up. Only requests due after the warm-up count,
/// but for the `all_` figures.
#[derive(Debug)]
pub(super) struct Tally {
    /// From the moment a request was due to its whole answer; failures that are a wait
    /// (timeout, unsent) are in it with the time waited.
    pub(super) latency: Histogram<u64>,
    /// From sending to the whole answer.
    pub(super) service: Histogram<u64>,
    /// Latency of creates alone.
    pub(super) create_latency: Histogram<u64>,
    /// How late a request was sent although a connection was free: the generator's own fault.
    pub(super) slip: Histogram<u64>,
    pub(super) answered: u64,
    pub(super) good: u64,
    pub(super) good_creates: u64,
    pub(super) failures: [u64; Failure::ALL.len()],
    pub(super) statuses: BTreeMap<u16, u64>,
    /// Answers of the whole run, warm-up included; what a server's own counters show.
    pub(super) all_answered: u64,
    /// Connections opened again because the server closed them between requests.
    pub(super) reconnects: u64,
    pub(super) bytes_read: u64,
    /// CPU time of the thread inside the measured window, in nanoseconds.
    pub(super) cpu_ns: u64,
    /// The part of `cpu_ns` in which nothing was found to do.
    pub(super) idle_ns: u64,
    /// The time `cpu_ns` was used in; added up over threads as that is.
    pub(super) wall_ns: u64,
    /// Length of the measured window up to the last answer in it, in nanoseconds.
    pub(super) window_ns: u64,
    /// The first few requests that were wrong, in words.
    pub(super) examples: Vec<String>,
}

impl Tally {
    pub(super) fn new() -> Self {
        Self {
            latency: histogram(),
            service: histogram(),
            create_latency: histogram(),
            slip: histogram(),
            answered: 0,
            good: 0,
            good_creates: 0,
            failures: [0; Failure::ALL.len()],
            statuses: BTreeMap::new(),
            all_answered: 0,
            reconnects: 0,
            bytes_read: 0,
            cpu_ns: 0,
            idle_ns: 0,
            wall_ns: 0,
            window_ns: 0,
            examples: Vec::new(),
        }
    }

    pub(super) fn fail(&mut self, failure: Failure) {
        if let Some(slot) = self.failures.get_mut(failure as usize) {
            *slot += 1;
        }
    }

    pub(super) fn failed(&self) -> u64 {
        self.failures.iter().sum()
    }

    pub(super) fn failures_of(&self, failure: Failure) -> u64 {
        self.failures.get(failure as usize).copied().unwrap_or_default()
    }

    /// Keeps a few examples of wrong answers; a page of them helps nobody.
    pub(super) fn example(&mut self, words: impl FnOnce() -> String) {
        if self.examples.len() < 5 {
            self.examples.push(words());
        }
    }

    /// Adds the counts of another thread.
    pub(super) fn add(&mut self, other: Self) {
        let pairs = [
            (&mut self.latency, &other.latency),
            (&mut self.service, &other.service),
            (&mut self.create_latency, &other.create_latency),
            (&mut self.slip, &other.slip),
        ];
        for (sum, part) in pairs {
            // Same bounds on both sides, so the addition can't fail.
            let added = sum.add(part);
            debug_assert!(added.is_ok());
        }
        for (sum, part) in self.failures.iter_mut().zip(other.failures) {
            *sum += part;
        }
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
        self.answered += other.answered;
        self.good += other.good;
        self.good_creates += other.good_creates;
        self.all_answered += other.all_answered;
        self.reconnects += other.reconnects;
        self.bytes_read += other.bytes_read;
        self.cpu_ns += other.cpu_ns;
        self.idle_ns += other.idle_ns;
        self.wall_ns += other.wall_ns;
        self.window_ns = self.window_ns.max(other.window_ns);
        for example in other.examples {
            self.example(|| example);
        }
    }
}

/// What happened in one second of the run, warm-up included.
#[derive(Debug)]
pub(super) struct Second {
    pub(super) answered: u64,
    pub(super) good: u64,
    pub(super) failed: u64,
    /// Latency from the intended time, two significant digits.
    pub(super) latency: Histogram<u64>,
}

impl Second {
    pub(super) fn new() -> Self {
        Self { answered: 0, good: 0, failed: 0, latency: bounded(2) }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.answered + self.failed == 0
    }

    fn add(&mut self, other: &Self) {
        self.answered += other.answered;
        self.good += other.good;
        self.failed += other.failed;
        let added = self.latency.add(&other.latency);
        debug_assert!(added.is_ok());
    }

    pub(super) fn clear(&mut self) {
        self.answered = 0;
        self.good = 0;
        self.failed = 0;
        self.latency.reset();
    }
}

/// What the threads of a run share with the one that shows progress.
#[derive(Debug, Default)]
pub(super) struct Live {
    /// Set once: send nothing more, finish what is in flight.
    pub(super) stop: AtomicBool,
    seconds: Mutex<BTreeMap<u64, Second>>,
}

impl Live {
    /// Adds a thread's share of the second number `second`.
    pub(super) fn publish(&self, second: u64, share: &Second) {
        // A poisoned lock only means that a thread panicked, which its join reports.
        if let Ok(mut seconds) = self.seconds.lock() {
            seconds.entry(second).or_insert_with(Second::new).add(share);
        }
    }

    /// Takes the seconds before `before`, oldest first; all threads have published them.
    pub(super) fn take(&self, before: u64) -> BTreeMap<u64, Second> {
        match self.seconds.lock() {
            Ok(mut seconds) => {
                let later = seconds.split_off(&before);
                std::mem::replace(&mut *seconds, later)
            }
            Err(_) => BTreeMap::new(),
        }
    }
}
