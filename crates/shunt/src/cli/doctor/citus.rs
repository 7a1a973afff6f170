//! The nodes and tables of a Citus cluster, where the database is one.

use std::time::Duration;

use shunt_store::postgres::PostgresOptions;
use shunt_store::postgres::citus::ClusterFinding;
use shunt_store::postgres::doctor::cluster;

use super::findings::Findings;
use super::problems;

/// Looks the cluster over, for at most `patience`; answers whether the service can use it.
pub(super) async fn check(
    options: &PostgresOptions,
    patience: Duration,
    findings: &mut Findings,
) -> bool {
    match cluster(options, patience).await {
        Ok(found) => {
            found.iter().for_each(|finding| judge(finding, findings));
            !found.iter().any(|finding| matches!(finding, ClusterFinding::NotDistributed(_)))
        }
        Err(refused) => {
            findings.warn(&problems::CITUS_HIDDEN, refused.to_string());
            true
        }
    }
}

fn judge(finding: &ClusterFinding, findings: &mut Findings) {
    match finding {
        ClusterFinding::NotDistributed(table) => {
            findings.wrong(&problems::CITUS_TABLE, format!("the table {table} is not distributed"));
        }
        ClusterFinding::NoPrimaryKey(table) => {
            let text = format!("the distributed table {table} has no primary key");
            findings.warn(&problems::CITUS_PRIMARY_KEY, text);
        }
        ClusterFinding::WalLevel { node, level } => {
            findings.warn(&problems::CITUS_WAL_LEVEL, format!("{node} has wal_level = {level}"));
        }
        ClusterFinding::Inactive(node) => {
            findings.warn(&problems::CITUS_INACTIVE, format!("the node {node} is switched off"));
        }
        ClusterFinding::Unreachable(node) => {
            let text = format!("the coordinator can't reach the node {node}");
            findings.wrong(&problems::CITUS_UNREACHABLE, text);
        }
        ClusterFinding::NoWorkers => {
            findings.warn(&problems::CITUS_WORKERS, "the cluster has no workers");
        }
        ClusterFinding::NoCoordinator => {
            let text = "the coordinator does not know its own address";
            findings.warn(&problems::CITUS_COORDINATOR, text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finding_has_its_problem() {
        let name = || "x".to_owned();
        for (finding, id) in [
            (ClusterFinding::NotDistributed(name()), "citus-table"),
            (ClusterFinding::NoPrimaryKey(name()), "citus-primary-key"),
            (ClusterFinding::WalLevel { node: name(), level: name() }, "citus-wal-level"),
            (ClusterFinding::Inactive(name()), "citus-node-inactive"),
            (ClusterFinding::Unreachable(name()), "citus-node-unreachable"),
            (ClusterFinding::NoWorkers, "citus-workers"),
            (ClusterFinding::NoCoordinator, "citus-coordinator"),
        ] {
            let mut findings = Findings::default();
            judge(&finding, &mut findings);
            let ids: Vec<&str> = findings.bad().into_iter().map(|(id, _)| id).collect();
            assert_eq!(ids, [id], "{finding:?}");
        }
    }
}
