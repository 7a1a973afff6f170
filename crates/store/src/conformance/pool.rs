//! Facts about the pool of pre-generated codes.

use shunt_domain::ports::CodePool;
use shunt_domain::{Code, Outcome};

use super::Subject;
use super::fixtures::{key, soon};
use super::links::join_all;

/// Rows of codes: `rows` of `len` each, all different.
pub(super) fn rows(rows: usize, len: usize) -> Vec<Vec<Code>> {
    let code = |row, at| key(&format!("p{row}-{at}")).code;
    (0..rows).map(|row| (0..len).map(|at| code(row, at)).collect()).collect()
}

/// Nothing is in it, and nothing comes of nothing.
pub async fn an_empty_pool_gives_nothing<S: Subject>(subject: S)
where
    S::Store: CodePool,
{
    let store = subject.store();
    assert_eq!(store.claim_codes(soon()).await, Outcome::Done(None));
    store.add_codes(vec![Vec::new()], soon()).await.done().unwrap();
    assert_eq!(store.pool_size(soon()).await, Ok(0));
    assert_eq!(store.claim_codes(soon()).await, Outcome::Done(None));
}

/// Every code once, and the size goes down with them.
pub async fn rows_come_out_once<S: Subject>(subject: S)
where
    S::Store: CodePool,
{
    let store = subject.store();
    store.add_codes(rows(3, 1_000), soon()).await.done().unwrap();
    assert_eq!(store.pool_size(soon()).await, Ok(3_000));
    let mut seen = Vec::new();
    while let Some(row) = store.claim_codes(soon()).await.done().unwrap() {
        assert!(!row.is_empty() && row.len() <= 1_000);
        seen.extend(row);
        assert_eq!(store.pool_size(soon()).await, Ok(3_000 - seen.len() as u64));
    }
    seen.sort();
    let mut expected: Vec<Code> = rows(3, 1_000).into_iter().flatten().collect();
    expected.sort();
    assert_eq!(seen, expected);
}

/// Callers at once get different rows.
pub async fn concurrent_claims_share_nothing<S: Subject>(subject: S)
where
    S::Store: CodePool,
{
    let store = subject.store();
    store.add_codes(rows(10, 5), soon()).await.done().unwrap();
    let claims = join_all((0..16).map(|_| store.claim_codes(soon()))).await;
    let mut seen: Vec<Code> =
        claims.into_iter().filter_map(|claim| claim.done().unwrap()).flatten().collect();
    let all = seen.len();
    seen.sort();
    seen.dedup();
    assert_eq!((seen.len(), all), (50, 50));
}
