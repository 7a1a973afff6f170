//! Domains: host names and their numbers.

use shunt_domain::ports::{BoxFuture, DomainStore};
use shunt_domain::{Deadline, DomainId, Outcome, StoreError};

use super::DynamoStore;
use super::client::{Condition, Effect, Item, Session, keyed};
use super::error::{Failure, bad_value};
use super::item::{n, number, text};
use super::table::{Key, SK};

/// The partition of all domains, by host.
const DOMAINS: &str = "domains";

fn id(item: &Item) -> Result<DomainId, StoreError> {
    number(item, "domain_id").map(DomainId)
}

async fn ensure(session: &Session, host: &str) -> Result<DomainId, Failure> {
    let key = Key::new(DOMAINS, host);
    // Looked for first: a number that is drawn and not used is lost.
    if let Some(known) = session.get(&key, true).await? {
        return Ok(id(&known)?);
    }
    let drawn = session.number("domain").await?;
    let drawn = u32::try_from(drawn).map_err(|_| bad_value(format_args!("domain {drawn}")))?;
    let mut item = keyed(&key);
    item.insert("domain_id".to_owned(), n(drawn));
    if session.put(Effect::Change, item, Some(Condition::absent())).await? {
        return Ok(DomainId(drawn));
    }
    // Somebody else registered it meanwhile.
    let known = session.get(&key, true).await?;
    Ok(id(&known.ok_or_else(|| bad_value("a host that is taken and has no number"))?)?)
}

impl DomainStore for DynamoStore {
    fn domains(
        &self,
        deadline: Deadline,
    ) -> BoxFuture<'_, Result<Vec<(DomainId, String)>, StoreError>> {
        self.client().read(deadline, |session| async move {
            let items = session.partition(DOMAINS, usize::MAX).await?;
            let domain = |item: &Item| Ok((id(item)?, text(item, SK)?.to_owned()));
            items.iter().map(domain).collect()
        })
    }

    fn ensure_domain(
        &self,
        host: String,
        deadline: Deadline,
    ) -> BoxFuture<'_, Outcome<DomainId, StoreError>> {
        self.client().write(deadline, move |session| async move { ensure(&session, &host).await })
    }
}
