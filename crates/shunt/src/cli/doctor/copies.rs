//! The copies of the database, where `store.replicas` names standbys.

use shunt_store::postgres::{PostgresError, PostgresOptions};
use shunt_store::replicated::{Problem, ReplicatedOptions, ReplicatedStore};

use crate::config::Config;

use super::findings::Findings;
use super::problems;

/// What the copies are to each other.
#[derive(Debug)]
pub(super) struct Copies {
    /// How the one is reached that takes writes.
    pub(super) primary: Option<PostgresOptions>,
    problems: Vec<Problem>,
}

/// Looks at all copies as a node does, for a few seconds at most; `None` where no standby is named.
///
/// # Errors
/// When one of the addresses can't be used.
pub(super) async fn look(
    config: &Config,
    options: &PostgresOptions,
) -> Result<Option<Copies>, PostgresError> {
    if config.store.replicas.is_empty() {
        return Ok(None);
    }
    let options = ReplicatedOptions {
        // Nothing is written here.
        primary: PostgresOptions { writers: 1, max_overdue: 1, ..options.clone() },
        replicas: config.store.standbys(),
        max_lag: config.store.max_lag,
    };
    let runtime = tokio::runtime::Handle::current();
    // The store has threads of its own, which are not waited for on an event loop.
    let looking = tokio::task::spawn_blocking(move || {
        let store = ReplicatedStore::open(&options)?;
        let problems = runtime.block_on(store.diagnose());
        let at = store.copies().iter().position(|copy| copy.primary);
        let primary = at.and_then(|at| options.copies().into_iter().nth(at));
        store.close();
        Ok(Copies { primary, problems })
    });
    let looked = looking.await;
    looked.unwrap_or_else(|error| Err(PostgresError::Options(error.to_string()))).map(Some)
}

impl Copies {
    /// Judges them. With no primary, what is the matter with the servers of `named` (store.url) is
    /// told by whoever asks them.
    pub(super) fn judge(&self, named: &PostgresOptions, findings: &mut Findings) {
        for problem in &self.problems {
            judge(problem, self.primary.is_none(), named, findings);
        }
    }
}

fn judge(problem: &Problem, orphaned: bool, named: &PostgresOptions, findings: &mut Findings) {
    match problem {
        Problem::NoPrimary => {
            findings.wrong(&problems::POSTGRES_NO_PRIMARY, "no copy of the database takes writes");
        }
        Problem::Rivals { others, .. } => {
            let text = format!("{} takes writes as well", others.join(", "));
            findings.wrong(&problems::STANDBY_RIVAL, text);
        }
        Problem::Unreachable { address, .. } if orphaned && is_of(address, named) => {}
        // There is nobody whom it could follow.
        Problem::NotStreaming { .. } if orphaned => {}
        Problem::Unreachable { address, reason } => {
            let text = format!("the copy at {address} does not answer ({reason})");
            findings.warn(&problems::STANDBY_UNREACHABLE, text);
        }
        Problem::Foreign { address } => {
            let text = format!("the server at {address} is another database's");
            findings.wrong(&problems::STANDBY_FOREIGN, text);
        }
        Problem::NotStreaming { address } => {
            let text = format!("the standby at {address} receives nothing");
            findings.warn(&problems::STANDBY_NOT_STREAMING, text);
        }
        Problem::Lagging { address, lag } => {
            let mib = lag.bytes >> 20;
            let time =
                lag.time.map_or_else(String::new, |time| format!("{} s and ", time.as_secs()));
            let text = format!("the standby at {address} is {time}{mib} MiB behind");
            findings.warn(&problems::STANDBY_LAG, text);
        }
    }
}

/// Whether an address is one of those that these options name.
fn is_of(address: &str, options: &PostgresOptions) -> bool {
    let one = |host: &(String, u16)| {
        let hosts = vec![host.clone()];
        PostgresOptions { hosts, ..options.clone() }.address() == address
    };
    options.hosts.iter().any(one)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use shunt_store::replicated::Lag;

    use super::super::findings::Verdict::{self, Warning, Wrong};
    use super::*;

    fn found(problem: Problem, primary: bool) -> Vec<(&'static str, Verdict)> {
        let options = PostgresOptions::from_url("postgres://u:p@h1:1,h2:2/db").unwrap();
        let copies = Copies { primary: primary.then(|| options.clone()), problems: vec![problem] };
        let mut findings = Findings::default();
        copies.judge(&options, &mut findings);
        findings.bad()
    }

    #[test]
    fn every_problem_of_copies_has_its_id() {
        let address = || "h3:3".to_owned();
        let lag = Lag { bytes: 5, time: Some(Duration::from_secs(11)) };
        let unreachable = |address: &str| Problem::Unreachable {
            address: address.to_owned(),
            reason: address.to_owned(),
        };
        for (problem, id, verdict) in [
            (Problem::NoPrimary, "postgres-no-primary", Wrong),
            (Problem::Rivals { primary: None, others: vec![address()] }, "standby-rival", Wrong),
            (unreachable("h3:3"), "standby-unreachable", Warning),
            (Problem::Foreign { address: address() }, "standby-foreign", Wrong),
            (Problem::NotStreaming { address: address() }, "standby-not-streaming", Warning),
            (Problem::Lagging { address: address(), lag }, "standby-lag", Warning),
        ] {
            assert_eq!(found(problem, true), [(id, verdict)]);
        }
        // After a takeover the old primary is a copy like the others.
        assert_eq!(found(unreachable("h2:2"), true), [("standby-unreachable", Warning)]);
        assert_eq!(found(unreachable("h2:2"), false), []);
        assert_eq!(found(Problem::NotStreaming { address: address() }, false), []);
    }
}
