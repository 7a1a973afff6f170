//! The programs that the local cluster is made of, and what to install when one is missing.

use std::path::PathBuf;

use anyhow::{Result, bail};

use super::Part;
use crate::postgres;

/// Program, Debian package, what it is for, and the part that can be left out instead.
const TOOLS: &[(&str, &str, &str, Option<Part>)] = &[
    ("setpriv", "util-linux", "no server to outlive the cluster", None),
    ("prlimit", "util-linux", "PgBouncer's file descriptors", Some(Part::PgBouncer)),
    ("pgbouncer", "pgbouncer", "pooled connections", Some(Part::PgBouncer)),
    ("redis-server", "redis-server", "the Redis Cluster", Some(Part::Redis)),
    ("redis-cli", "redis-tools", "joining the Redis Cluster", Some(Part::Redis)),
    ("haproxy", "haproxy", "one address in front of the nodes", Some(Part::Haproxy)),
];

/// Where servers are besides `PATH`.
const SYSTEM: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// Finds a program where the kit's processes would.
pub(super) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(SYSTEM.iter().map(PathBuf::from));
    directories.map(|directory| directory.join(program)).find(|file| file.is_file())
}

/// Checks that all programs are there.
///
/// # Errors
/// When one is not; all that are missing on one line, each with its package.
pub(super) fn check(without: &[Part]) -> Result<()> {
    let missing = missing(without, postgres::programs().is_ok(), |tool| find(tool).is_some());
    if missing.is_empty() {
        return Ok(());
    }
    bail!("missing: {}", missing.join("; "))
}

fn missing(without: &[Part], postgres: bool, has: impl Fn(&str) -> bool) -> Vec<String> {
    let mut missing = Vec::new();
    if !postgres {
        missing.push("PostgreSQL (Debian package postgresql), needed for the store".to_owned());
    }
    for (program, package, purpose, part) in TOOLS {
        if part.is_some_and(|part| without.contains(&part)) || has(program) {
            continue;
        }
        let way_out =
            part.map_or_else(String::new, |part| format!(" or --without {}", part.name()));
        missing
            .push(format!("{program} (Debian package {package}{way_out}), needed for {purpose}"));
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_its_package_and_what_is_left_out_is_not_missed() {
        let all = missing(&[], false, |_| false).join("; ");
        for package in ["postgresql", "util-linux", "pgbouncer", "redis-server", "haproxy"] {
            assert!(all.contains(&format!("Debian package {package}")), "{all}");
        }
        let without = [Part::Redis, Part::PgBouncer];
        let rest = missing(&without, true, |tool| tool == "setpriv");
        assert_eq!(rest.len(), 1, "{rest:?}");
        let expected = "haproxy (Debian package haproxy or --without haproxy), needed for";
        assert!(rest[0].starts_with(expected), "{rest:?}");
        assert!(missing(&[], true, |_| true).is_empty());
    }
}
