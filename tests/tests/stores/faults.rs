//! What a store does when its server hangs, goes away, comes back, or is another one.

use std::time::{Duration, Instant};

use shunt_cluster::{Postgres, Relay, until};
use shunt_domain::ports::{
    CreateOnce, CreateRefusal, IdempotencyState, IdempotencyStore, LinkQuery, LinkReader,
    LinkWriter, ListQuery, RangeLeases,
};
use shunt_domain::{Deadline, Link, Outcome, StoreError, Stored, UnknownCause, Version};
use shunt_store::conformance::check;
use shunt_store::conformance::fixtures::{
    codes, create, export_all, get, key, link, list_all, soon,
};
use shunt_store::postgres::{PostgresOptions, PostgresStore};

use crate::kit::{Servers, within};

pub const PATIENCE: Duration = Duration::from_secs(30);

/// How much later than its deadline a call may answer on a machine with other things to do.
const SLACK: Duration = Duration::from_millis(1_500);

fn start(pooled: bool) -> (Servers, PostgresStore) {
    let mut servers = Servers::start(Postgres::setup().fast(), pooled);
    let database = servers.database();
    let store = PostgresStore::open(servers.options(&database)).unwrap();
    (servers, store)
}

/// Answers what a future does, from a thread that has no runtime.
pub fn now<T>(future: impl Future<Output = T>) -> T {
    let mut answer = None;
    check(async { answer = Some(future.await) });
    answer.unwrap()
}

pub fn try_create(
    store: &PostgresStore,
    code: &str,
    deadline: Deadline,
) -> Outcome<Link, CreateRefusal> {
    now(store.create(link(code), deadline))
}

pub fn try_get(
    store: &PostgresStore,
    code: &str,
    deadline: Deadline,
) -> Result<Option<Stored>, StoreError> {
    now(store.get(&key(code), Version::default(), deadline))
}

/// Waits until the store reads and writes again.
fn wait_for_health(store: &PostgresStore, name: &str) {
    let mut attempt = 0;
    until(PATIENCE, "the store to write again", || {
        attempt += 1;
        try_create(store, &format!("{name}{attempt}"), within(2_000)).done()
    })
    .unwrap();
    until(PATIENCE, "the store to read again", || {
        try_get(store, &format!("{name}{attempt}"), within(2_000)).ok().flatten()
    })
    .unwrap();
    until(PATIENCE, "late writes to end", || (store.overdue() == 0).then_some(())).unwrap();
}

/// What was answered "done" is there, what was refused is not, the rest is either.
fn assert_truth(store: &PostgresStore, told: &[(String, Outcome<Link, CreateRefusal>)]) {
    for (code, outcome) in told {
        let found = now(get(store, &key(code)));
        match outcome {
            Outcome::Done(link) => assert_eq!(found, Some(Stored::Link(Box::new(link.clone())))),
            Outcome::Refused(_) => assert_eq!(found, None, "{code} was refused"),
            Outcome::Unknown(_) => {}
        }
    }
}

#[test]
fn a_frozen_server_costs_deadlines_and_heals() {
    for pooled in [false, true] {
        let (mut servers, store) = start(pooled);
        check(async { drop(create(&store, link("before")).await) });
        servers.postgres.freeze().unwrap();
        let mut told = Vec::new();
        for at in 0..12 {
            let begun = Instant::now();
            let read = try_get(&store, "before", within(200));
            assert!(matches!(read, Err(StoreError::Unavailable(_))), "{read:?}");
            let code = format!("frozen{at}");
            let outcome = try_create(&store, &code, within(200));
            assert!(outcome.clone().done().is_none(), "{outcome:?}");
            told.push((code, outcome));
            assert!(begun.elapsed() < Duration::from_millis(400) + SLACK);
        }
        let unknown = told.iter().filter(|(_, o)| matches!(o, Outcome::Unknown(_))).count();
        assert!(unknown >= 1, "one was under way when the server froze: {told:?}");
        // Not every connection is given to a server that does not answer.
        assert!(unknown <= PostgresOptions::default().max_overdue, "{told:?}");
        let begun = Instant::now();
        let refused = try_create(&store, "fast", within(5_000));
        assert!(matches!(refused, Outcome::Refused(CreateRefusal::Store(_))), "{refused:?}");
        assert!(begun.elapsed() < Duration::from_secs(2) + SLACK, "it failed fast");
        servers.postgres.thaw();
        wait_for_health(&store, "thawed");
        assert_truth(&store, &told);
    }
}

#[test]
fn terminated_backends_cost_an_error_at_most() {
    for pooled in [false, true] {
        let (servers, store) = start(pooled);
        let mut told = Vec::new();
        for round in 0..10 {
            let mut errors = 0;
            for at in 0..4 {
                let code = format!("round{round}-{at}");
                let outcome = try_create(&store, &code, soon());
                errors += usize::from(!matches!(outcome, Outcome::Done(_)));
                told.push((code, outcome));
                let read = try_get(&store, "round0-0", soon());
                assert!(matches!(read, Ok(Some(_))), "{read:?}");
            }
            assert!(errors <= 1, "{errors} errors in round {round}: {told:?}");
            let killed = servers
                .postgres
                .psql(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                     WHERE application_name = 'shunt'",
                )
                .unwrap();
            assert_ne!(killed, "0", "nobody was there to be terminated");
        }
        wait_for_health(&store, "after");
        assert_truth(&store, &told);
    }
}

#[test]
fn a_pooler_that_restarts_costs_slow_calls_and_hardly_an_error() {
    let (mut servers, store) = start(true);
    let mut told = Vec::new();
    let mut failed = 0;
    for round in 0..20 {
        if round % 5 == 2 {
            servers.pooler.as_mut().unwrap().restart().unwrap();
        }
        for at in 0..5 {
            let code = format!("c{round}-{at}");
            let outcome = try_create(&store, &code, within(5_000));
            failed += usize::from(!matches!(outcome, Outcome::Done(_)));
            told.push((code, outcome));
            let read = try_get(&store, "c0-0", within(5_000));
            assert!(matches!(read, Ok(Some(_))), "{read:?}");
        }
    }
    assert!(failed <= 4, "{failed} of {} failed: one restart costs one write", told.len());
    wait_for_health(&store, "after");
    assert_truth(&store, &told);
}

#[test]
fn a_store_whose_server_is_away_says_unavailable_and_finds_it_when_it_comes() {
    let mut servers = Servers::start(Postgres::setup().fast(), false);
    let database = servers.database();
    let options = servers.options(&database);
    servers.postgres.stop().unwrap();
    let store = PostgresStore::open(options).unwrap();
    for at in 0..4 {
        let read = try_get(&store, "abc", within(400));
        assert!(matches!(read, Err(StoreError::Unavailable(_))), "never absent: {read:?}");
        let outcome = try_create(&store, &format!("c{at}"), within(400));
        assert!(matches!(outcome, Outcome::Refused(CreateRefusal::Store(_))), "{outcome:?}");
    }
    let begun = Instant::now();
    assert!(try_get(&store, "abc", within(20_000)).is_err());
    assert!(try_create(&store, "late", within(20_000)).done().is_none());
    assert!(begun.elapsed() < Duration::from_secs(10), "it fails fast after a while");
    servers.postgres.restart().unwrap();
    wait_for_health(&store, "back");
    assert_eq!(try_get(&store, "abc", soon()), Ok(None));
}

/// Commits that wait for a standby which is not there.
fn hold_commits(servers: &Servers) {
    servers.postgres.set("synchronous_standby_names", "nobody").unwrap();
}

fn release_commits(servers: &Servers) {
    servers.postgres.set("synchronous_standby_names", "").unwrap();
}

/// The processes whose commits wait for a standby.
fn waiting(servers: &Servers) -> Vec<String> {
    let sql = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    servers.postgres.psql(sql).unwrap().lines().map(ToOwned::to_owned).collect()
}

/// Does a write while its commit waits, and then something to the process that waits.
fn while_it_waits<T: Send>(
    servers: &Servers,
    function: &str,
    write: impl FnOnce() -> T + Send,
) -> T {
    std::thread::scope(|scope| {
        let write = scope.spawn(write);
        let pid = until(PATIENCE, "a commit that waits", || waiting(servers).pop()).unwrap();
        servers.postgres.psql(&format!("SELECT {function}({pid})")).unwrap();
        write.join().unwrap()
    })
}

/// A cancelled wait is reported as success with a warning; a terminated one as an error although
/// the row is there. Neither is "done".
#[test]
fn a_commit_whose_standby_is_not_waited_for_is_never_acknowledged() {
    for pooled in [false, true] {
        let (servers, store) = start(pooled);
        check(async { drop(create(&store, link("before")).await) });
        let request = |key: u8| shunt_domain::ports::IdempotentBegin {
            scope: shunt_domain::ports::IdempotencyScope::Anonymous,
            key_hash: [key; 32],
            request_hash: [2; 32],
            choice: "two".to_owned(),
            now: shunt_store::conformance::fixtures::BIRTH,
            lease_until: shunt_store::conformance::fixtures::BIRTH,
        };
        // The first key of a process notes its life, a commit of its own that is not meant here.
        assert_eq!(now(store.begin(request(7), soon())), Outcome::Done(IdempotencyState::Fresh));
        hold_commits(&servers);
        let one = || try_create(&store, "one", soon());
        let outcome = while_it_waits(&servers, "pg_cancel_backend", one);
        assert_eq!(outcome, Outcome::Unknown(UnknownCause::CommitFailed));
        assert_eq!(store.stats().warned.load(std::sync::atomic::Ordering::Relaxed), 1);
        // The same for a transaction of several statements.
        let request = request(1);
        let render: shunt_domain::ports::RenderCreated =
            std::sync::Arc::new(|_: &Link| (201, Vec::new()));
        let once = || now(store.create_once(link("two"), request.clone(), render.clone(), soon()));
        let outcome = while_it_waits(&servers, "pg_cancel_backend", once);
        assert_eq!(outcome, Outcome::Unknown(UnknownCause::CommitFailed));
        let three = || try_create(&store, "three", soon());
        let outcome = while_it_waits(&servers, "pg_terminate_backend", three);
        assert_eq!(outcome, Outcome::Unknown(UnknownCause::Lost));
        release_commits(&servers);
        wait_for_health(&store, "after");
        // They did happen here: the retry with the same key finds its answer.
        let again = now(store.begin(request, soon()));
        let done = IdempotencyState::Done { status: 201, response: Vec::new() };
        assert_eq!(again, Outcome::Done(done));
    }
}

#[test]
fn commits_that_hang_are_unknown_and_few_and_come_to_their_end() {
    let (servers, store) = start(true);
    check(async { drop(create(&store, link("before")).await) });
    hold_commits(&servers);
    let mut told = Vec::new();
    for at in 0..12 {
        let code = format!("hung{at}");
        let begun = Instant::now();
        let outcome = try_create(&store, &code, within(300));
        assert!(begun.elapsed() < Duration::from_millis(300) + SLACK);
        told.push((code, outcome));
    }
    let most = PostgresOptions::default().max_overdue;
    for (at, (_, outcome)) in told.iter().enumerate() {
        let expected_unknown = at < most;
        assert_eq!(matches!(outcome, Outcome::Unknown(_)), expected_unknown, "{at}: {outcome:?}");
    }
    assert_eq!((store.overdue(), waiting(&servers).len()), (most as u64, most));
    // Reads go on.
    assert!(matches!(try_get(&store, "before", soon()), Ok(Some(_))));
    release_commits(&servers);
    wait_for_health(&store, "after");
    assert_truth(&store, &told);
}

/// The server is there, but the connections go nowhere and nobody says so: writes on them are never
/// answered, and keep nobody else from writing.
#[test]
fn writes_on_half_open_connections_are_let_go() {
    let mut servers = Servers::start(Postgres::setup().fast(), false);
    let database = servers.database();
    let relay = Relay::start(servers.postgres.socket()).unwrap();
    let hosts = vec![(relay.socket().ip().to_string(), relay.socket().port())];
    let options = PostgresOptions { hosts, ..servers.options(&database) };
    let most = options.max_overdue;
    let store = PostgresStore::open(options).unwrap();
    let mut told = Vec::new();
    for at in 0..most {
        let code = format!("before{at}");
        told.push((code.clone(), try_create(&store, &code, soon())));
        assert!(relay.strand(|_| true) > 0);
        let code = format!("silent{at}");
        told.push((code.clone(), try_create(&store, &code, within(300))));
    }
    let unknown = told.iter().filter(|(_, o)| matches!(o, Outcome::Unknown(_))).count();
    assert_eq!((unknown, store.overdue()), (most, most as u64), "{told:?}");
    assert!(relay.swallowed() > 0);
    let refused = try_create(&store, "fast", soon());
    assert!(matches!(refused, Outcome::Refused(CreateRefusal::Store(_))), "{refused:?}");
    wait_for_health(&store, "after");
    assert_truth(&store, &told);
}

#[test]
fn a_promoted_standby_is_found_without_restart() {
    let mut servers = Servers::start(Postgres::setup().fast(), false);
    let database = servers.database();
    let mut standby = servers.postgres.standby().unwrap();
    let mut options = servers.options(&database);
    options.hosts.push((standby.config().host.clone(), standby.config().port));
    let store = PostgresStore::open(options).unwrap();
    check(async { drop(create(&store, link("before")).await) });
    servers.postgres.wait_for(&standby).unwrap();
    servers.postgres.kill().unwrap();
    assert!(try_create(&store, "between", within(300)).done().is_none());
    standby.promote().unwrap();
    let begun = Instant::now();
    wait_for_health(&store, "after");
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert!(matches!(try_get(&store, "before", soon()), Ok(Some(_))));
}

/// More creates at a time than connections: they go out together, and each has its own answer.
#[test]
fn creates_that_come_at_once_share_statements() {
    for pooled in [false, true] {
        let (_servers, store) = start(pooled);
        let made: Vec<Link> = now(async {
            let creates: Vec<_> = (0..2_000)
                .map(|at| {
                    let store = store.clone();
                    async move { store.create(link(&format!("c{at}")), soon()).await }
                })
                .collect();
            let outcomes = futures_util::future::join_all(creates).await;
            outcomes.into_iter().map(|outcome| outcome.done().unwrap()).collect()
        });
        let statements = store.stats().creates_per_statement.count();
        assert!(statements < 500, "{statements} statements for 2,000 creates");
        for made in made.iter().step_by(37) {
            let found = now(get(&store, made.key()));
            assert_eq!(found, Some(Stored::Link(Box::new(made.clone()))));
        }
        let reads: Vec<Option<Stored>> = now(async {
            let reads = (0..2_000).map(|at| {
                let store = store.clone();
                async move { get(&store, &key(&format!("c{at}"))).await }
            });
            futures_util::future::join_all(reads).await
        });
        assert!(reads.iter().all(Option::is_some));
        let statements = store.stats().reads_per_statement.count();
        assert!(statements < 1_000, "{statements} statements for 2,000 reads");
    }
}

/// Above a thousand rows a batch goes by COPY, with the same answers.
#[test]
fn large_batches_judge_row_by_row() {
    for pooled in [false, true] {
        let (_servers, store) = start(pooled);
        check(async {
            create(&store, link("c7")).await;
            create(&store, link("c8")).await;
            let gone = shunt_store::conformance::fixtures::change("c8");
            store.delete(gone, shunt_store::conformance::fixtures::BIRTH, soon()).await;
            let mut rows: Vec<_> = (0..2_500).map(|at| link(&format!("c{at}"))).collect();
            rows.push(link("c9"));
            let made = store.create_many(rows, soon()).await.done().unwrap();
            assert_eq!(made.len(), 2_501);
            for (at, verdict) in made.iter().enumerate() {
                match at {
                    7 | 2_500 => assert_eq!(*verdict, Err(CreateRefusal::Taken)),
                    8 => assert_eq!(*verdict, Err(CreateRefusal::Retired)),
                    _ => assert_eq!(verdict.as_ref().unwrap().code().as_str(), format!("c{at}")),
                }
            }
            // In the order in which they were given.
            let listed =
                list_all(&store, &ListQuery { limit: 1_000, ..ListQuery::default() }).await;
            let expected: Vec<String> = (0..2_500)
                .rev()
                .filter(|at| !matches!(at, 7 | 8))
                .map(|at| format!("c{at}"))
                .chain(["c7".to_owned()])
                .collect();
            assert_eq!(codes(&listed), expected);
            let exported = export_all(&store, 1_000).await;
            let restored = store.restore_many(exported.clone(), soon()).await.done().unwrap();
            assert!(restored.iter().all(Result::is_err));
        });
        // And into an empty one.
        let (_servers, other) = start(pooled);
        check(async {
            let exported = export_all(&store, 1_000).await;
            let restored = other.restore_many(exported.clone(), soon()).await.done().unwrap();
            assert!(restored.iter().all(Result::is_ok));
            assert_eq!(export_all(&other, 1_000).await, exported);
            assert_eq!(other.approximate_count(soon()).await, Ok(2_499));
        });
    }
}

/// Processes of several nodes on one database.
#[test]
fn nodes_share_a_database() {
    let (mut servers, _) = start(true);
    let database = servers.database();
    let node = |node| {
        let options = PostgresOptions { node, ..servers.options(&database) };
        PostgresStore::open(options).unwrap()
    };
    let (one, two) = (node(1), node(2));
    let begin = |store: &PostgresStore, choice: &str, at: i64| {
        let now_is = shunt_domain::Timestamp::from_millis(1_000_000 + at);
        let request = shunt_domain::ports::IdempotentBegin {
            scope: shunt_domain::ports::IdempotencyScope::Anonymous,
            key_hash: [1; 32],
            request_hash: [2; 32],
            choice: choice.to_owned(),
            now: now_is,
            lease_until: shunt_domain::Timestamp::from_millis(1_010_000 + at),
        };
        now(store.begin(request, soon())).done().unwrap()
    };
    assert_eq!(begin(&one, "one", 0), IdempotencyState::Fresh);
    assert_eq!(begin(&two, "two", 1), IdempotencyState::Running, "another node's lease counts");
    // The node that has it comes back: its lease is void for everybody.
    drop(one);
    let one = node(1);
    let ranges: Vec<_> = (0..20)
        .map(|at| {
            let store = if at % 2 == 0 { &one } else { &two };
            now(store.lease(10, soon())).done().unwrap()
        })
        .collect();
    let mut values: Vec<u64> = ranges.iter().flat_map(|range| range.start..range.end).collect();
    values.sort_unstable();
    values.dedup();
    assert_eq!(values.len(), 200);
    let began_at = shunt_domain::Timestamp::from_millis(1_000_000);
    let resumed = IdempotencyState::Resume { choice: "one".to_owned(), began_at };
    let other = shunt_domain::ports::IdempotencyScope::Anonymous;
    // A life begins with the first lease that it takes.
    let request = shunt_domain::ports::IdempotentBegin {
        scope: other,
        key_hash: [9; 32],
        request_hash: [9; 32],
        choice: String::new(),
        now: began_at,
        lease_until: began_at,
    };
    now(one.begin(request, soon())).done().unwrap();
    assert_eq!(begin(&two, "two", 2), resumed);
    for round in 0..50 {
        let code = format!("race{round}");
        let (a, b) = now(async {
            tokio::join!(one.create(link(&code), soon()), two.create(link(&code), soon()))
        });
        let taken = Outcome::Refused(CreateRefusal::Taken);
        assert!((a == taken) != (b == taken), "{a:?} {b:?}");
    }
}
