//! PgBouncer between shunt and its database.

use shunt_store::postgres::doctor::{Facts, Pool, Pooler};

use super::findings::Findings;
use super::postgres::{Needs, room};
use super::problems;

/// Judges what is in front of the server; answers whether anything can get through it.
pub(super) fn judge(pooler: &Pooler, needs: &Needs, findings: &mut Findings) -> bool {
    match pooler {
        Pooler::None => true,
        Pooler::Open(pool) => open(pool, needs, findings),
        Pooler::Closed(lends) => {
            match lends {
                Some(false) => findings.warn(
                    &problems::POOLER_SESSION,
                    "PgBouncer does not tell us its settings, and lent no session twice",
                ),
                Some(true) => findings.fine("pooler", "PgBouncer lends sessions by transaction"),
                None => findings.fine("pooler", "PgBouncer does not tell us its settings"),
            }
            true
        }
    }
}

fn open(pool: &Pool, needs: &Needs, findings: &mut Findings) -> bool {
    if pool.paused {
        let text = "PgBouncer has paused or disabled the database of store.url";
        findings.wrong(&problems::POOLER_PAUSED, text);
        return false;
    }
    let before = findings.0.len();
    let Needs { connections, writers, .. } = *needs;
    let size = pool.size;
    let mut passes = true;
    match pool.mode.as_str() {
        "transaction" if size < writers => {
            let text = format!("the pool has {size} connections, store.writers is {writers}");
            findings.warn(&problems::POOLER_SIZE, text);
        }
        "transaction" => {}
        "session" if size < connections => {
            let text = format!("pool_mode is session, the pool has {size} connections");
            let text = format!("{text}, and this node alone makes {connections}");
            findings.wrong(&problems::POOLER_SESSION, text);
            passes = false;
        }
        "session" => findings.warn(&problems::POOLER_SESSION, "pool_mode is session"),
        other => {
            findings.wrong(&problems::POOLER_STATEMENT, format!("pool_mode is {other}"));
            passes = false;
        }
    }
    let number = |name: &str| {
        pool.settings.get(name).and_then(|value| value.parse::<f64>().ok()).unwrap_or_default()
    };
    let clients = number("max_client_conn");
    if clients < connections as f64 {
        let text = format!("max_client_conn is {clients}, this node alone makes {connections}");
        findings.wrong(&problems::POOLER_CLIENTS, text);
    }
    if number("query_wait_timeout") == 0.0 {
        findings.warn(&problems::POOLER_WAITS, "query_wait_timeout is 0");
    }
    let timeout = number("query_timeout");
    if timeout > 0.0 && timeout < needs.request.as_secs_f64() {
        let text = format!("query_timeout is {timeout} s, timeouts.request is {:?}", needs.request);
        findings.warn(&problems::POOLER_TIMEOUT, text);
    }
    if findings.0.len() == before {
        findings.fine("pooler", format!("PgBouncer, {} connections, by transaction", pool.size));
    }
    passes
}

/// Judges the pool against the server behind it.
pub(super) fn against(pool: &Pool, facts: &Facts, findings: &mut Findings) {
    let room = room(facts);
    if pool.size > room {
        let text =
            format!("the pool may have {} connections, users of the server {room}", pool.size);
        findings.warn(&problems::POOLER_OVERSIZED, text);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::super::findings::Verdict::{self, Warning, Wrong};
    use super::*;

    fn needs() -> Needs {
        Needs {
            connections: 16,
            writers: 8,
            request: Duration::from_secs(30),
            max_lag: Duration::from_secs(10),
            pool_refill_below: None,
        }
    }

    fn pool() -> Pool {
        let settings =
            [("max_client_conn", "1000"), ("query_wait_timeout", "5"), ("query_timeout", "0")];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Pool {
            mode: "transaction".to_owned(),
            size: 20,
            paused: false,
            settings: BTreeMap::from(settings),
        }
    }

    fn found(pool: Pool) -> (Vec<(&'static str, Verdict)>, bool) {
        let mut findings = Findings::default();
        let passes = judge(&Pooler::Open(pool), &needs(), &mut findings);
        (findings.bad(), passes)
    }

    #[test]
    fn a_pool_is_judged_by_what_this_node_needs() {
        assert_eq!(found(pool()), (vec![], true));
        let with = |change: &dyn Fn(&mut Pool)| {
            let mut pool = pool();
            change(&mut pool);
            found(pool)
        };
        let set = |name: &'static str, value: &'static str| {
            with(&|pool| {
                pool.settings.insert(name.to_owned(), value.to_owned());
            })
        };
        assert_eq!(with(&|pool| pool.size = 7), (vec![("pooler-size", Warning)], true));
        assert_eq!(with(&|pool| pool.size = 8), (vec![], true));
        let session = |size: u64| {
            with(&move |pool| {
                pool.mode = "session".to_owned();
                pool.size = size;
            })
        };
        assert_eq!(session(15), (vec![("pooler-session-mode", Wrong)], false));
        assert_eq!(session(16), (vec![("pooler-session-mode", Warning)], true));
        let statement = with(&|pool| pool.mode = "statement".to_owned());
        assert_eq!(statement, (vec![("pooler-statement-mode", Wrong)], false));
        assert_eq!(with(&|pool| pool.paused = true), (vec![("pooler-paused", Wrong)], false));
        assert_eq!(set("max_client_conn", "15").0, [("pooler-clients", Wrong)]);
        assert_eq!(set("query_wait_timeout", "0").0, [("pooler-waits-forever", Warning)]);
        assert_eq!(set("query_timeout", "29.5").0, [("pooler-query-timeout", Warning)]);
        assert_eq!(set("query_timeout", "30").0, []);
    }

    #[test]
    fn a_pooler_that_says_nothing_is_judged_by_what_it_does() {
        for (lends, bad) in [(Some(true), 0), (None, 0), (Some(false), 1)] {
            let mut findings = Findings::default();
            assert!(judge(&Pooler::Closed(lends), &needs(), &mut findings));
            assert_eq!(findings.bad().len(), bad, "{lends:?}");
        }
    }
}
