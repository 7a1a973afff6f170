//! The registry against itself.

use super::super::row::RECORD_COLUMNS;
use super::*;

#[test]
fn rows_are_numbered_through() {
    assert_eq!(
        MARKS_OPEN.sql(2),
        "INSERT INTO marks (lane, node, boot) VALUES ($1, $2, $3), ($4, $5, $6) \
         ON CONFLICT (lane, node, boot) DO NOTHING"
    );
    assert_eq!(INSERT.types.len(), RECORD_COLUMNS);
    // PostgreSQL counts parameters with 16 bits.
    assert!(RECORD_COLUMNS * 1_000 < usize::from(u16::MAX));
}

#[test]
fn names_are_told_once_and_parameters_are_all_declared() {
    let all = all();
    for (at, statement) in all.iter().enumerate() {
        let twins = all.iter().filter(|other| other.sql == statement.sql).count();
        assert_eq!(twins, 1, "{} is there twice", statement.name);
        let highest = (1..=statement.types.len() + 1)
            .rev()
            .find(|n| statement.sql.contains(&format!("${n}")))
            .unwrap_or(0);
        assert!(highest <= statement.types.len(), "{at} {}", statement.name);
    }
}

/// What is sent for each redirect and each single create goes to one node of a cluster.
#[test]
fn hot_statements_are_router_statements() {
    for hot in [&GET, &HOLDER, &CLAIM, &ATTEMPT_NOTE, &ATTEMPT_COMPLETE, &POOL_CLAIM] {
        assert_eq!(hot.class, Class::Router, "{}", hot.name);
    }
    assert_eq!(INSERT.classes.0, Class::Router);
}

/// A statement that claims to need one shard says which.
#[test]
fn router_statements_filter_on_the_column_of_distribution() {
    for statement in all().iter().filter(|statement| statement.class == Class::Router) {
        let sql = &statement.sql;
        let named = ["code = $1", "key_hash = $1", "bucket = $1", "lane = $1"]
            .iter()
            .any(|filter| sql.contains(filter));
        let inserted = ["(code, domain,", "(key_hash,", "(bucket,", "(lane,", "(node,"]
            .iter()
            .any(|columns| sql.starts_with("INSERT") && sql.contains(columns));
        assert!(named || inserted, "{}: {sql}", statement.name);
    }
}
