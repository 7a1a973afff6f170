//! Citus: where each table lives, and what may be wrong with a cluster.
//!
//! Links are spread by code, so that a redirect and a single create are one statement for one node.
//! What a batch of clicks writes together is spread by lane, each lane whole on one node. Whatever
//! is spread has a primary key that begins with its column: without one a shard can't move while it
//! is written to. Tables that are read everywhere and hardly ever written have a copy on each node.
//!
//! The rest stays with the coordinator: what must be written while a worker is away (a copy on each
//! node could not be), and what is judged by one row.

use std::collections::BTreeMap;

use tokio_postgres::types::FromSql;

use super::connect::Connected;
use super::error::Fault;
use super::migrate::ask;
use super::statements;

/// Tables that are spread: by which column, and beside which other one.
pub(super) const SPREAD: &[(&str, &str, &str)] = &[
    ("links", "code", "none"),
    ("changes", "code", "links"),
    ("idempotency", "key_hash", "none"),
    ("code_pool", "bucket", "none"),
    ("marks", "lane", "none"),
    ("hours", "lane", "marks"),
    ("totals", "lane", "marks"),
    ("ledger", "node", "none"),
];

/// Tables of which every node has a copy.
pub(super) const COPIED: &[&str] = &["domains", "api_keys", "meta"];

/// How the tables are spread now: for each the column, or nothing for a copy on every node.
async fn spread(connected: &Connected) -> Result<BTreeMap<String, Option<String>>, Fault> {
    let rows = ask(connected, &statements::SPREAD, &[]).await?;
    let mut spread = BTreeMap::new();
    for row in &rows {
        let method: &str = row.try_get(1)?;
        let column: Option<String> = row.try_get(2)?;
        spread.insert(row.try_get(0)?, column.filter(|_| method == "h"));
    }
    Ok(spread)
}

/// The tables that are not where they belong.
fn misplaced(spread: &BTreeMap<String, Option<String>>) -> Vec<String> {
    let apart = SPREAD
        .iter()
        .filter(|(table, column, _)| spread.get(*table) != Some(&Some((*column).to_owned())))
        .map(|(table, _, _)| *table);
    let copied = COPIED.iter().filter(|table| spread.get(**table) != Some(&None)).copied();
    apart.chain(copied).map(ToOwned::to_owned).collect()
}

/// The tables of a cluster that are not where they belong; none where there is no cluster.
pub(super) async fn not_laid_out(connected: &Connected) -> Result<Vec<String>, Fault> {
    if !connected.is_cluster {
        return Ok(Vec::new());
    }
    Ok(misplaced(&spread(connected).await?))
}

/// Puts every table where it belongs, with what is in it, in the open transaction. Does nothing to
/// tables that are there, and nothing at all where there is no cluster.
///
/// # Errors
/// The table that the server refused to move, and why.
pub(super) async fn lay_out(connected: &Connected) -> Result<(), (String, Fault)> {
    let all = |fault| ("the list of distributed tables".to_owned(), fault);
    let misplaced = not_laid_out(connected).await.map_err(all)?;
    for table in misplaced {
        let moving = async {
            match SPREAD.iter().find(|(name, _, _)| *name == table) {
                Some((_, column, beside)) => {
                    ask(connected, &statements::DISTRIBUTE, &[&table, column, beside]).await?;
                }
                None => {
                    ask(connected, &statements::REPLICATE, &[&table]).await?;
                }
            }
            ask(connected, &statements::FORGET_LOCAL, &[&table]).await
        };
        moving.await.map_err(|fault| (format!("to distribute the table {table}"), fault))?;
    }
    Ok(())
}

/// Something that is wrong with a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterFinding {
    /// A table is not where it belongs.
    NotDistributed(String),
    /// A distributed table has no primary key.
    NoPrimaryKey(String),
    /// A node that is not prepared for shards to be moved online.
    WalLevel {
        /// Host and port.
        node: String,
        /// What it has instead of `logical`.
        level: String,
    },
    /// A node that was switched off.
    Inactive(String),
    /// A node that the coordinator can't reach.
    Unreachable(String),
    /// Nowhere to put shards but the coordinator.
    NoWorkers,
    /// The coordinator does not know its own address.
    NoCoordinator,
}

/// Looks a cluster over; for the doctor.
pub(super) async fn findings(connected: &Connected) -> Result<Vec<ClusterFinding>, Fault> {
    if !connected.is_cluster {
        return Ok(Vec::new());
    }
    let misplaced = not_laid_out(connected).await?;
    let mut all: Vec<_> = misplaced.into_iter().map(ClusterFinding::NotDistributed).collect();
    for row in ask(connected, &statements::WITHOUT_KEY, &[]).await? {
        all.push(ClusterFinding::NoPrimaryKey(get(&row, 0)?));
    }
    let (mut workers, mut coordinator) = (false, false);
    for row in ask(connected, &statements::NODES, &[]).await? {
        let (active, shards, first): (bool, bool, bool) =
            (get(&row, 1)?, get(&row, 2)?, get(&row, 3)?);
        workers |= shards && !first;
        coordinator |= first;
        if !active {
            all.push(ClusterFinding::Inactive(get(&row, 0)?));
        }
    }
    if !workers {
        all.push(ClusterFinding::NoWorkers);
    }
    if !coordinator {
        all.push(ClusterFinding::NoCoordinator);
    }
    for row in ask(connected, &statements::WAL_LEVELS, &[]).await? {
        let (node, level): (String, Option<String>) = (get(&row, 0)?, get(&row, 2)?);
        match (get(&row, 1)?, level) {
            (true, Some(level)) if level != "logical" => {
                all.push(ClusterFinding::WalLevel { node, level });
            }
            (true, _) => {}
            (false, _) => all.push(ClusterFinding::Unreachable(node)),
        }
    }
    Ok(all)
}

fn get<'a, T: FromSql<'a>>(row: &'a tokio_postgres::Row, at: usize) -> Result<T, Fault> {
    Ok(row.try_get(at)?)
}

#[cfg(test)]
mod tests {
    use super::super::schema::MIGRATIONS;
    use super::*;

    fn right() -> BTreeMap<String, Option<String>> {
        let apart = SPREAD.iter().map(|(table, column, _)| (*table, Some((*column).to_owned())));
        let all = apart.chain(COPIED.iter().map(|table| (*table, None)));
        all.map(|(table, column)| (table.to_owned(), column)).collect()
    }

    #[test]
    fn tables_that_are_elsewhere_are_found() {
        assert_eq!(misplaced(&BTreeMap::new()).len(), SPREAD.len() + COPIED.len());
        let mut spread = right();
        assert_eq!(misplaced(&spread), Vec::<String>::new());
        spread.insert("links".to_owned(), Some("domain".to_owned()));
        spread.insert("hours".to_owned(), None);
        spread.insert("meta".to_owned(), Some("name".to_owned()));
        spread.remove("domains");
        assert_eq!(misplaced(&spread), ["links", "hours", "domains", "meta"]);
    }

    /// A shard without a primary key can't move online; a key without the column is no key.
    #[test]
    fn the_key_of_a_table_that_is_spread_begins_with_its_column() {
        let schema: String = MIGRATIONS.iter().map(|migration| migration.sql).collect();
        for (table, column, _) in SPREAD {
            let (_, rest) = schema.split_once(&format!("CREATE TABLE {table} (")).unwrap();
            let (table_sql, _) = rest.split_once(");").unwrap();
            let (_, key) = table_sql.split_once("PRIMARY KEY (").unwrap();
            assert!(key.starts_with(column), "{table}: {key}");
        }
    }
}
