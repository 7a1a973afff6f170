//! The schema, migration by migration. Why it is so: docs/adr/ on the PostgreSQL store.
//!
//! A migration that was released is never changed: its checksum is kept in every database.

/// One step of the schema.
#[derive(Debug)]
pub(super) struct Migration {
    pub(super) version: i32,
    pub(super) name: &'static str,
    pub(super) sql: &'static str,
}

/// All steps, in order.
pub(super) static MIGRATIONS: &[Migration] = &[
    Migration { version: 1, name: "links", sql: include_str!("migrations/0001_links.sql") },
    Migration { version: 2, name: "changes", sql: include_str!("migrations/0002_changes.sql") },
    Migration { version: 3, name: "arcs", sql: include_str!("migrations/0003_arcs.sql") },
];

/// The schema that this program needs.
pub(super) fn known() -> i32 {
    MIGRATIONS.last().map_or(0, |migration| migration.version)
}

/// The tables or sequences (`TABLE`, `SEQUENCE`) that the migrations make.
pub(super) fn objects(kind: &str) -> Vec<&'static str> {
    let lines = MIGRATIONS.iter().flat_map(|migration| migration.sql.lines());
    let rest = lines.filter_map(|line| line.strip_prefix("CREATE ")?.strip_prefix(kind));
    let end = |c: char| c.is_whitespace() || c == ';' || c == '(';
    rest.filter_map(|rest| rest.trim_start().split(end).next()).collect()
}

impl Migration {
    /// A number that tells this text from any other.
    pub(super) fn checksum(&self) -> i64 {
        xxhash_rust::xxh3::xxh3_64(self.sql.as_bytes()).cast_signed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_are_numbered_from_one() {
        let numbers: Vec<i32> = MIGRATIONS.iter().map(|migration| migration.version).collect();
        assert_eq!(numbers, (1..=known()).collect::<Vec<_>>());
    }

    #[test]
    fn what_migrations_make_is_known_by_name() {
        let tables = objects("TABLE");
        assert!(tables.contains(&"links") && tables.contains(&"changes"), "{tables:?}");
        assert_eq!(objects("SEQUENCE"), ["domain_numbers", "key_numbers", "pool_numbers"]);
    }

    #[test]
    fn the_text_index_is_over_what_is_searched() {
        let list = super::super::statements::all()
            .into_iter()
            .find(|statement| statement.name == "LIST_CREATED_DESC")
            .unwrap();
        let (_, rest) = list.sql.split_once("$4 IS NULL OR ").unwrap();
        let (words, _) = rest.split_once(" LIKE $4").unwrap();
        assert!(MIGRATIONS[0].sql.contains(words), "{words}");
    }
}
