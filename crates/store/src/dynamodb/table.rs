//! What is in the table, and making it.
//!
//! One table, a key of two strings: `pk` chooses the partition, `sk` the item in it.
//!
//! | pk | sk | what |
//! |---|---|---|
//! | `link/DOMAIN/CODE` | `-` | a link or a tombstone |
//! | `attempt/SCOPE/HASH` | `-` | an idempotency key |
//! | `api-key/HASH` | `-` | an API key |
//! | `pool-row/ID` | `-` | pre-generated codes |
//! | `meta/NAME` | `-` | a setting |
//! | `boot/NODE` | `-` | the latest life of a node |
//! | `domains` | host | a domain's number |
//! | `api-keys` | number | which hash has the number |
//! | `pool/BUCKET` | id | how many codes a row of the pool has |
//! | `range-rests` | start | a rest of a range that was given back |
//! | `visitor-secrets` | day | a secret |
//! | `attempt-hours` | hour | hours in which attempts began |
//! | `counter` | name | the latest number, or the high-water mark of ranges |
//!
//! What redirects and creates touch has a partition of its own each; what shares a partition is
//! small and rarely asked for. The index `attempts_by_hour` holds attempts alone, by the hour in
//! which they began and one of [`SHARDS`] parts of it, so that purging reads nothing else.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, GlobalSecondaryIndex, IndexStatus,
    KeySchemaElement, KeyType, Projection, ProjectionType, ScalarAttributeType, TableDescription,
    TableStatus,
};
use shunt_domain::{DomainId, LinkKey, StoreError};

use super::client::{Condition, Effect, Session, keyed};
use super::error::{DynamoError, Failure, bad_value};
use super::item::{n, number, s};

/// The partition key.
pub(super) const PK: &str = "pk";
/// The sort key.
pub(super) const SK: &str = "sk";
/// The sort key of an item that is alone in its partition.
const ALONE: &str = "-";

/// The index of attempts by the hour in which they began.
pub(super) const ATTEMPTS_INDEX: &str = "attempts_by_hour";
/// Its partition key: the hour and a part of it.
pub(super) const HOUR_SHARD: &str = "hour_shard";
/// Its sort key.
pub(super) const BEGAN_AT: &str = "began_at";
/// Parts of an hour: DynamoDB writes about a thousand items a second into one partition.
pub(super) const SHARDS: u32 = 16;

/// What is in the table is of this format.
const FORMAT: u64 = 1;

/// How long a new table may take.
const CREATION: Duration = Duration::from_secs(120);
/// How long [`migrate`] may take in all.
pub(super) const MIGRATION: Duration = CREATION.saturating_add(Duration::from_secs(30));
/// How long [`check`] may take.
pub(super) const CHECK: Duration = Duration::from_secs(10);
/// How often is looked whether it is there.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// An item's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) pk: String,
    pub(super) sk: String,
}

impl Key {
    pub(super) fn new(pk: impl Into<String>, sk: impl Into<String>) -> Self {
        Self { pk: pk.into(), sk: sk.into() }
    }

    /// The key of an item that is alone in its partition.
    pub(super) fn alone(pk: impl Into<String>) -> Self {
        Self::new(pk, ALONE)
    }

    pub(super) fn link(key: &LinkKey) -> Self {
        let DomainId(domain) = key.domain;
        Self::alone(format!("link/{domain}/{}", key.code))
    }

    pub(super) fn attributes(&self) -> HashMap<String, AttributeValue> {
        keyed(self)
    }
}

/// What making the table came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// It is there now.
    Made,
    /// It was there already.
    Found,
}

fn store(table: &str) -> impl Fn(Failure) -> DynamoError {
    let table = table.to_owned();
    move |failure| {
        let error = match failure {
            Failure::Refused(error) => error,
            Failure::Unknown(cause) => StoreError::Unavailable(cause.to_string()),
        };
        DynamoError::Store { table: table.clone(), error }
    }
}

/// The table's description; `None` when there is none.
async fn describe(session: &Session) -> Result<Option<TableDescription>, Failure> {
    let request = session.sdk.describe_table().table_name(&*session.table);
    let answer = session
        .send(Effect::Harmless, || {
            let asked = request.clone().send();
            async move {
                match asked.await {
                    Ok(answer) => Ok(answer.table),
                    Err(error)
                        if error
                            .as_service_error()
                            .is_some_and(|error| error.is_resource_not_found_exception()) =>
                    {
                        Ok(None)
                    }
                    Err(error) => Err(error),
                }
            }
        })
        .await?;
    Ok(answer.flatten())
}

fn schema(hash: &str, range: &str) -> Result<Vec<KeySchemaElement>, Failure> {
    [(hash, KeyType::Hash), (range, KeyType::Range)]
        .into_iter()
        .map(|(name, kind)| {
            KeySchemaElement::builder()
                .attribute_name(name)
                .key_type(kind)
                .build()
                .map_err(|error| Failure::Refused(bad_value(error)))
        })
        .collect()
}

async fn create(session: &Session) -> Result<(), Failure> {
    let bad = |error| Failure::Refused(bad_value(error));
    let attribute = |name: &str, kind| {
        AttributeDefinition::builder()
            .attribute_name(name)
            .attribute_type(kind)
            .build()
            .map_err(bad)
    };
    let index = GlobalSecondaryIndex::builder()
        .index_name(ATTEMPTS_INDEX)
        .set_key_schema(Some(schema(HOUR_SHARD, BEGAN_AT)?))
        .projection(Projection::builder().projection_type(ProjectionType::KeysOnly).build())
        .build()
        .map_err(bad)?;
    let request = session
        .sdk
        .create_table()
        .table_name(&*session.table)
        .set_key_schema(Some(schema(PK, SK)?))
        .attribute_definitions(attribute(PK, ScalarAttributeType::S)?)
        .attribute_definitions(attribute(SK, ScalarAttributeType::S)?)
        .attribute_definitions(attribute(HOUR_SHARD, ScalarAttributeType::S)?)
        .attribute_definitions(attribute(BEGAN_AT, ScalarAttributeType::N)?)
        .global_secondary_indexes(index)
        .billing_mode(BillingMode::PayPerRequest);
    session
        .send(Effect::Harmless, || {
            let asked = request.clone().send();
            async move {
                match asked.await {
                    Ok(_) => Ok(()),
                    // Somebody else makes it, or an answer of ours was lost.
                    Err(error)
                        if error
                            .as_service_error()
                            .is_some_and(|error| error.is_resource_in_use_exception()) =>
                    {
                        Ok(())
                    }
                    Err(error) => Err(error),
                }
            }
        })
        .await?;
    Ok(())
}

/// Whether a table is as [`create`] makes it; else what is different.
fn difference(table: &TableDescription) -> Option<String> {
    let is = |elements: &[KeySchemaElement], hash: &str, range: &str| {
        matches!(elements, [first, second]
            if first.attribute_name() == hash && second.attribute_name() == range)
    };
    if !is(table.key_schema(), PK, SK) {
        return Some(format!("its key is not `{PK}`, `{SK}`"));
    }
    let index = table
        .global_secondary_indexes()
        .iter()
        .find(|index| index.index_name() == Some(ATTEMPTS_INDEX));
    match index {
        None => Some(format!("it has no index `{ATTEMPTS_INDEX}`")),
        Some(index) if !is(index.key_schema(), HOUR_SHARD, BEGAN_AT) => Some(format!(
            "the key of its index `{ATTEMPTS_INDEX}` is not `{HOUR_SHARD}`, `{BEGAN_AT}`"
        )),
        Some(_) => None,
    }
}

/// Whether a table takes requests, its index included.
fn is_ready(table: &TableDescription) -> bool {
    let active = |status: Option<&TableStatus>| {
        matches!(status, Some(TableStatus::Active | TableStatus::Updating))
    };
    let indexed = table
        .global_secondary_indexes()
        .iter()
        .all(|index| matches!(index.index_status(), None | Some(IndexStatus::Active)));
    active(table.table_status()) && indexed
}

/// The item with the format of what is in the table.
fn format_key() -> Key {
    Key::alone("format")
}

/// The table as it is: there, ours, and of a format that this program knows.
pub(super) async fn check(session: &Session) -> Result<(), DynamoError> {
    let table = session.table.to_string();
    let described = describe(session).await.map_err(store(&table))?;
    let Some(described) = described else { return Err(DynamoError::NoTable { table }) };
    if let Some(reason) = difference(&described) {
        return Err(DynamoError::Foreign { table, reason });
    }
    let format = session.get(&format_key(), true).await.map_err(store(&table))?;
    let Some(format) = format else { return Err(DynamoError::NoTable { table }) };
    let found = number(&format, "latest").map_err(|error| store(&table)(error.into()))?;
    if found > FORMAT {
        return Err(DynamoError::Newer { table, found, known: FORMAT });
    }
    Ok(())
}

/// Makes the table unless it is there, and waits until it takes requests.
pub(super) async fn migrate(session: &Session) -> Result<Created, DynamoError> {
    let table = session.table.to_string();
    let existed = describe(session).await.map_err(store(&table))?.is_some();
    if !existed {
        create(session).await.map_err(store(&table))?;
    }
    let began = Instant::now();
    loop {
        match describe(session).await.map_err(store(&table))? {
            Some(described) => {
                if let Some(reason) = difference(&described) {
                    return Err(DynamoError::Foreign { table, reason });
                }
                if is_ready(&described) {
                    break;
                }
            }
            // A description is eventually consistent.
            None if began.elapsed() < CREATION => {}
            None => return Err(DynamoError::NoTable { table }),
        }
        if began.elapsed() > CREATION {
            let error = StoreError::Unavailable("it is still being made; try again".to_owned());
            return Err(DynamoError::Store { table, error });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let mut item = keyed(&format_key());
    item.insert("latest".to_owned(), n(FORMAT));
    item.insert("made_by".to_owned(), s("shunt"));
    session.put(Effect::Harmless, item, Some(Condition::absent())).await.map_err(store(&table))?;
    check(session).await?;
    Ok(if existed { Created::Found } else { Created::Made })
}
