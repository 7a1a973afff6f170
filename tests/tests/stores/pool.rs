//! The pool of codes on real servers, through a real pooler: filled by the hundred thousand, and
//! claimed by many at once. Judged by what the claimers got.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use shunt_cluster::Postgres;
use shunt_domain::ports::CodePool;
use shunt_engine::codes::{Allocator, CodePorts, CodeSettings, SourceKind};
use shunt_store::postgres::{PostgresOptions, PostgresStore};
use shunt_tests::switch::figure;

use crate::cluster::Cluster;
use crate::kit::{Servers, within};

fn codes() -> u64 {
    if shunt_tests::switch::full() { 1_000_000 } else { 100_000 }
}

async fn allocator(store: &Arc<PostgresStore>) -> Allocator {
    let ports = CodePorts { meta: store.clone(), pool: store.clone(), leases: store.clone() };
    let source = SourceKind::Pool { refill_below: 0 };
    let settings = CodeSettings { source, ..CodeSettings::default() };
    Allocator::open(settings, ports, within(10_000)).await.unwrap()
}

#[test]
fn a_million_codes_are_filled_in_seconds_and_claimed_by_64_at_once_each_row_once() {
    let mut servers = Servers::start(Postgres::setup(), true);
    let database = servers.database();
    filled_and_claimed("PostgreSQL", || servers.options(&database));
}

/// The same on the reference layout: a coordinator, two workers, a pooler in front.
#[test]
fn a_million_codes_are_filled_on_citus_too() {
    let Some(cluster) = Cluster::find(true) else { return };
    cluster.empty();
    filled_and_claimed("Citus", || cluster.options());
    cluster.empty();
}

fn filled_and_claimed(on: &str, options: impl Fn() -> PostgresOptions) {
    let open = || Arc::new(PostgresStore::open(options()).unwrap());
    let nodes: Vec<Arc<PostgresStore>> = (0..4).map(|_| open()).collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let codes = codes();
    let (filled, claimed, rows) = runtime.block_on(async {
        let began = Instant::now();
        let filler = allocator(&nodes[0]).await;
        let mut steps = 0;
        let added = filler.fill_pool(codes, Duration::from_secs(30), |_| steps += 1).await;
        let filled = began.elapsed();
        assert_eq!(added, Ok(codes));
        assert!(steps > 1, "no progress was told");
        assert_eq!(nodes[1].pool_size(within(10_000)).await, Ok(codes));
        let began = Instant::now();
        let mut claimers = tokio::task::JoinSet::new();
        for claimer in 0..64 {
            let store = Arc::clone(&nodes[claimer % nodes.len()]);
            claimers.spawn(async move {
                let mut rows = Vec::new();
                while let Some(row) = store.claim_codes(within(60_000)).await.done().unwrap() {
                    rows.push(row);
                }
                rows
            });
        }
        let rows: Vec<Vec<_>> = claimers.join_all().await.into_iter().flatten().collect();
        assert_eq!(nodes[2].pool_size(within(10_000)).await, Ok(0));
        (filled, began.elapsed(), rows)
    });
    assert_eq!(rows.len() as u64, codes / 1_000, "a row came twice or was lost");
    // Codes are drawn at random; two of a million may be the same, but no row is.
    let firsts: HashSet<_> = rows.iter().map(|row| (&row[0], &row[1])).collect();
    assert_eq!(firsts.len(), rows.len(), "a row came twice");
    assert_eq!(rows.iter().map(Vec::len).sum::<usize>() as u64, codes, "codes were lost");
    let text = format!("{codes} codes filled in {filled:?}, claimed by 64 in {claimed:?}");
    figure(&format!("pool of codes on {on}"), &text);
    let most = Duration::from_secs(60);
    assert!(filled < most && claimed < most, "{filled:?}, {claimed:?}");
    for node in nodes {
        node.close();
    }
}
