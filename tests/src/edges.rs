//! The house's edges: which package may depend on which, read from the table in ARCHITECTURE.md
//! and held against what cargo says. Dev, build and optional dependencies count like any other.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use cargo_metadata::Metadata;

/// Crates that reach outside the process, speak HTTP, or hold SQL. Only a package whose row names
/// one may depend on it. A heavy dependency that is not here yet belongs here.
pub const DRIVERS: &[&str] = &[
    "aws-config",
    "aws-sdk-dynamodb",
    "aws-smithy-http-client",
    "axum",
    "h2",
    "http",
    "http-body",
    "http-body-util",
    "httparse",
    "hyper",
    "hyper-util",
    "listenfd",
    "memmap2",
    "rcgen",
    "rdkafka",
    "redis",
    "reqwest",
    "rusqlite",
    "rustix",
    "rustls",
    "socket2",
    "sqlx",
    "tokio-postgres",
    "tokio-postgres-rustls",
    "tokio-rustls",
    "tokio-util",
    "tower",
    "tower-http",
];

/// What one package may depend on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// Packages of this workspace.
    pub ours: BTreeSet<String>,
    /// Of [`DRIVERS`].
    pub drivers: BTreeSet<String>,
}

/// Reads the table below the heading `## Allowed edges`: package, our packages, drivers.
///
/// # Errors
/// When there is no such table or a row is malformed.
pub fn table(architecture: &str) -> Result<BTreeMap<String, Allowed>> {
    let section = architecture
        .split_once("\n## Allowed edges\n")
        .context("ARCHITECTURE.md has no section `## Allowed edges`")?
        .1;
    let mut table = BTreeMap::new();
    let rows = section.lines().skip_while(|line| !line.starts_with('|')).skip(2);
    for row in rows.take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [package, ours, drivers] = cells.as_slice() else {
            bail!("a row of the edge table has not three cells: {row}");
        };
        let names = |cell: &str| -> BTreeSet<String> {
            let words = cell.split(',').map(|word| word.trim().trim_matches('`'));
            words.filter(|word| !matches!(*word, "" | "–")).map(ToOwned::to_owned).collect()
        };
        let allowed = Allowed { ours: names(ours), drivers: names(drivers) };
        table.insert(package.trim_matches('`').to_owned(), allowed);
    }
    if table.is_empty() {
        bail!("the edge table is empty");
    }
    Ok(table)
}

/// Every breach of the table, one line each; empty when the house stands as drawn.
pub fn check(metadata: &Metadata, table: &BTreeMap<String, Allowed>) -> Vec<String> {
    let members: BTreeSet<&str> =
        metadata.workspace_packages().iter().map(|package| package.name.as_str()).collect();
    let mut breaches = Vec::new();
    for name in table.keys().filter(|name| !members.contains(name.as_str())) {
        breaches.push(format!("the table has {name}, the workspace has not"));
    }
    for package in metadata.workspace_packages() {
        let Some(allowed) = table.get(package.name.as_str()) else {
            breaches.push(format!("{} is not in the table", package.name));
            continue;
        };
        for dependency in &package.dependencies {
            // `name` is the package's own name even where it is renamed.
            let name = dependency.name.as_str();
            let ours = members.contains(name) && name != package.name.as_str();
            let forbidden = (ours && !allowed.ours.contains(name))
                || (DRIVERS.contains(&name) && !allowed.drivers.contains(name));
            if forbidden {
                let kind = dependency.kind;
                breaches.push(format!("{} → {name} ({kind} dependency)", package.name));
            }
        }
        // A feature of ours may switch on a feature of another package (`name/feature`).
        for switched in package.features.values().flatten() {
            let Some((name, _)) = switched.split_once('/') else {
                continue;
            };
            let name = name.trim_end_matches('?');
            if DRIVERS.contains(&name) && !allowed.drivers.contains(name) {
                breaches.push(format!("{} → {name} (feature {switched})", package.name));
            }
        }
    }
    breaches
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "x\n## Allowed edges\ntext\n\n| p | ours | drivers |\n|---|---|---|\n\
        | `a` | – | – |\n| `b` | `a` | `http`, `rusqlite` |\n\nafter\n| `c` | – | – |\n";

    #[test]
    fn the_table_is_read_from_the_document() {
        let table = table(TABLE).unwrap();
        assert_eq!(table.keys().collect::<Vec<_>>(), ["a", "b"]);
        assert!(table["a"].ours.is_empty());
        assert!(table["b"].ours.contains("a"));
        assert_eq!(table["b"].drivers.len(), 2);
        assert!(super::table("nothing").is_err());
    }
}
