//! Facts about domains.

use shunt_domain::ports::DomainStore;
use shunt_domain::{DomainId, Outcome};

use super::Subject;
use super::fixtures::soon;
use super::links::join_all;

/// A host keeps its number; another host gets another one; 0 is nobody's.
pub async fn hosts_get_numbers_once<S: Subject>(subject: S)
where
    S::Store: DomainStore,
{
    let store = subject.store();
    assert_eq!(store.domains(soon()).await, Ok(Vec::new()));
    let first = store.ensure_domain("a.example".to_owned(), soon()).await.done().unwrap();
    let second = store.ensure_domain("b.example".to_owned(), soon()).await.done().unwrap();
    assert_ne!(first, second);
    assert!(first != DomainId::DEFAULT && second != DomainId::DEFAULT);
    let again = store.ensure_domain("a.example".to_owned(), soon()).await;
    assert_eq!(again, Outcome::Done(first));
    let mut known = store.domains(soon()).await.unwrap();
    known.sort();
    let mut expected = vec![(first, "a.example".to_owned()), (second, "b.example".to_owned())];
    expected.sort();
    assert_eq!(known, expected);
}

/// Two callers who register one host at once get one number.
pub async fn concurrent_registrations_agree<S: Subject>(subject: S)
where
    S::Store: DomainStore,
{
    let store = subject.store();
    let tries = (0..16).map(|_| store.ensure_domain("a.example".to_owned(), soon()));
    let mut numbers: Vec<DomainId> =
        join_all(tries).await.into_iter().map(|outcome| outcome.done().unwrap()).collect();
    numbers.dedup();
    assert_eq!(numbers.len(), 1);
    assert_eq!(store.domains(soon()).await.unwrap().len(), 1);
}
