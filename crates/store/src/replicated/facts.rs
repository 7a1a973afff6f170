//! How the copies are doing, for `/metrics`, `/readyz` and the doctor.

use std::fmt;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::lag::Lag;
use super::lookout::View;
use super::store::ReplicatedStore;

/// One copy, now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyState {
    /// Where it is.
    pub address: String,
    /// It answers.
    pub up: bool,
    /// It is the one that is written to.
    pub primary: bool,
    /// How far it is behind; for standbys that answer.
    pub lag: Option<Lag>,
    /// The smoothed time of a round trip.
    pub latency: Option<Duration>,
    /// Reads of links that it answered as a standby and that counted.
    pub reads: u64,
    /// Reads that it did not answer.
    pub failures: u64,
}

/// Something that is not as it should be. Each is one line that ends with what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// No copy takes writes.
    NoPrimary,
    /// Several copies take writes; one of them is used.
    Rivals {
        /// The one that is used, if any.
        primary: Option<String>,
        /// The others.
        others: Vec<String>,
    },
    /// A copy does not answer.
    Unreachable {
        /// Where it is.
        address: String,
        /// What the last look said.
        reason: String,
    },
    /// A copy of another cluster.
    Foreign {
        /// Where it is.
        address: String,
    },
    /// A standby receives nothing.
    NotStreaming {
        /// Where it is.
        address: String,
    },
    /// A standby is further behind than allowed.
    Lagging {
        /// Where it is.
        address: String,
        /// How far.
        lag: Lag,
    },
}

/// Bytes as people read them.
fn bytes(bytes: u64) -> String {
    match bytes {
        0..0x10_0000 => format!("{} KiB", bytes.div_ceil(1 << 10)),
        0x10_0000..0x4000_0000 => format!("{} MiB", bytes >> 20),
        _ => format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)),
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPrimary => f.write_str(
                "no copy of the database takes writes: creates are 503 and redirects go on; start \
                 the primary or promote a standby (pg_ctl promote)",
            ),
            Self::Rivals { primary, others } => {
                let others = others.join(", ");
                match primary {
                    Some(primary) => {
                        write!(f, "{others} takes writes beside the primary {primary}")?
                    }
                    None => write!(f, "{others} takes writes and was replaced as primary")?,
                }
                f.write_str(
                    "; shunt does not write there; stop it and make it a standby (pg_rewind or \
                     pg_basebackup)",
                )
            }
            Self::Unreachable { address, reason } => {
                write!(f, "the copy at {address} does not answer: {reason}; look whether it runs")
            }
            Self::Foreign { address } => write!(
                f,
                "the server at {address} is no copy of this database (another system identifier); \
                 make it with pg_basebackup or take it out of store.replicas"
            ),
            Self::NotStreaming { address } => write!(
                f,
                "the standby at {address} receives nothing from its primary; look into its log, \
                 and at primary_conninfo and primary_slot_name"
            ),
            Self::Lagging { address, lag } => {
                write!(f, "the standby at {address} is {} behind", bytes(lag.bytes))?;
                if let Some(time) = lag.time {
                    write!(f, ", {} s", time.as_secs())?;
                }
                f.write_str(" and serves only when nothing else answers; look at its disk and load")
            }
        }
    }
}

impl ReplicatedStore {
    /// All copies as they are now, in the order they are named in: those of the primary's address
    /// first. Blocks nobody.
    pub fn copies(&self) -> Vec<CopyState> {
        let (views, elected) = self.lookout().views();
        let copies = self.lookout().copies().iter().zip(views).enumerate();
        let state = |(at, (watched, view)): (usize, (&super::lookout::Watched, View))| CopyState {
            address: watched.copy.address().to_owned(),
            up: view.report.is_some() && !view.foreign,
            primary: elected.primary == Some(at),
            lag: view.lag,
            latency: view.latency,
            reads: watched.counts.reads.load(Ordering::Relaxed),
            failures: watched.counts.failures.load(Ordering::Relaxed),
        };
        copies.map(state).collect()
    }

    /// How often another copy became the primary, or the primary ceased to be one.
    pub fn primary_moves(&self) -> u64 {
        self.lookout().moves.load(Ordering::Relaxed)
    }

    /// What is wrong with the copies, as far as it is known without asking. Blocks nobody.
    pub fn problems(&self) -> Vec<Problem> {
        let (views, elected) = self.lookout().views();
        let copies = self.lookout().copies();
        let address = |at: usize| copies.get(at).map(|watched| watched.copy.address().to_owned());
        let mut problems = Vec::new();
        if elected.primary.is_none() {
            problems.push(Problem::NoPrimary);
        }
        if elected.rivals {
            let writable = views.iter().enumerate().filter(|(at, view)| {
                let report = view.report.filter(|report| !report.in_recovery && !view.foreign);
                report.is_some() && elected.primary != Some(*at)
            });
            let others = writable.filter_map(|(at, _)| address(at)).collect();
            problems.push(Problem::Rivals { primary: elected.primary.and_then(address), others });
        }
        for (at, view) in views.into_iter().enumerate() {
            let Some(address) = address(at) else { continue };
            problems.extend(self.problem_of(address, view));
        }
        problems
    }

    fn problem_of(&self, address: String, view: View) -> Option<Problem> {
        if let Some(reason) = view.error {
            return Some(Problem::Unreachable { address, reason });
        }
        if view.foreign {
            return Some(Problem::Foreign { address });
        }
        let report = view.report.filter(|report| report.in_recovery)?;
        if !report.streaming {
            return Some(Problem::NotStreaming { address });
        }
        let lag = view.lag.filter(|lag| lag.is_more_than(self.lookout().max_lag()))?;
        Some(Problem::Lagging { address, lag })
    }

    /// What is wrong with the copies, after a look at all of them: for the doctor. Takes about two
    /// seconds at most.
    pub async fn diagnose(&self) -> Vec<Problem> {
        self.lookout().first_look().await;
        // How far a standby is behind shows against where the primary was before.
        self.lookout().look_again().await;
        let mut problems = self.problems();
        for CopyState { address, up, .. } in self.copies() {
            let is_named = problems.iter().any(|problem| match problem {
                Problem::Unreachable { address: named, .. }
                | Problem::Foreign { address: named } => *named == address,
                _ => false,
            });
            if !up && !is_named {
                let reason = "it is silent".to_owned();
                problems.push(Problem::Unreachable { address, reason });
            }
        }
        problems
    }
}
