//! A Citus cluster, where there is one to be had.

use shunt_cluster::{Citus, citus};
use shunt_tests::citus::{DATABASE, own};

use crate::kit::{NOTHING, finds, migrate, node};

#[test]
fn a_citus_cluster_is_found_sound_and_every_fault_for_what_it_is() {
    let Some(mut cluster) = own(Citus::setup()) else { return };
    let config = cluster.coordinator.config().clone();
    let psql = |sql: &str| config.psql(DATABASE, sql).unwrap();
    let url = config.url(DATABASE);
    let node = node(&url, "");
    migrate(&node);
    finds(&node, &[], NOTHING);

    psql("SELECT undistribute_table('ledger')");
    finds(&node, &[], &[("citus-table", "wrong")]);
    migrate(&node);
    psql("ALTER TABLE hours DROP CONSTRAINT hours_pkey");
    finds(&node, &[], &[("citus-primary-key", "warning")]);
    psql("ALTER TABLE hours ADD PRIMARY KEY (lane, code, domain, hour)");
    psql("SELECT citus_remove_node(nodename, nodeport) FROM pg_dist_node WHERE groupid = 0");
    finds(&node, &[], &[("citus-coordinator", "warning")]);
    psql(&format!("SELECT citus_set_coordinator_host('{}', {})", config.host, config.port));

    let worker = &mut cluster.workers[1];
    worker.set("wal_level", "replica").unwrap();
    worker.restart().unwrap();
    finds(&node, &[], &[("citus-wal-level", "warning")]);
    worker.set("wal_level", "logical").unwrap();
    // The coordinator waits for it, and nobody for the coordinator.
    worker.restart().unwrap();
    worker.freeze().unwrap();
    finds(&node, &["--quick"], &[("citus-hidden", "warning")]);
    worker.thaw();
    worker.stop().unwrap();
    finds(&node, &["--quick"], &[("citus-node-unreachable", "wrong")]);
    worker.restart().unwrap();
    finds(&node, &[], NOTHING);

    // One without shards can be switched off.
    cluster.add_worker(DATABASE).unwrap();
    let added = cluster.workers[2].config();
    let place = format!("'{}', {}", added.host, added.port);
    psql(&format!("SELECT citus_disable_node({place}, synchronous := true)"));
    finds(&node, &[], &[("citus-node-inactive", "warning")]);

    // A cluster of its coordinator.
    cluster.coordinator.create_database("alone").unwrap();
    citus::join(&cluster.coordinator, &[], "alone").unwrap();
    let place = format!("'{}', {}", config.host, config.port);
    let all = format!("SELECT citus_set_node_property({place}, 'shouldhaveshards', true)");
    config.psql("alone", &all).unwrap();
    let alone = crate::kit::node(&config.url("alone"), "");
    migrate(&alone);
    finds(&alone, &[], &[("citus-workers", "warning")]);
}
