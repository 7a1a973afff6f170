//! What is small lives on the home: domains, keys, settings, the pool of codes, ranges.

use shunt_domain::ports::{
    ApiKey, BoxFuture, CodePool, DomainStore, HighWater, KeyStore, MetaStore, NewApiKey, Raised,
    Range, RangeLeases,
};
use shunt_domain::{ApiKeyId, Code, Deadline, DomainId, Outcome, StoreError, Timestamp};

use super::ShardedStore;

/// Ports whose every call the home answers.
macro_rules! at_home {
    ($($port:ident { $(fn $call:ident($($name:ident: $type:ty),*) -> $answer:ty;)* })*) => {
        $(impl $port for ShardedStore {
            $(fn $call(&self, $($name: $type,)* deadline: Deadline) -> BoxFuture<'_, $answer> {
                match &self.shard(self.home()).copies {
                    Some(copies) => copies.$call($($name,)* deadline),
                    None => self.home_store().$call($($name,)* deadline),
                }
            })*
        })*
    };
}

at_home! {
    DomainStore {
        fn domains() -> Result<Vec<(DomainId, String)>, StoreError>;
        fn ensure_domain(host: String) -> Outcome<DomainId, StoreError>;
    }
    KeyStore {
        fn key_by_hash(hash: [u8; 32]) -> Result<Option<ApiKey>, StoreError>;
        fn keys() -> Result<Vec<ApiKey>, StoreError>;
        fn add_key(key: NewApiKey) -> Outcome<ApiKey, StoreError>;
        fn revoke_key(id: ApiKeyId, now: Timestamp) -> Outcome<bool, StoreError>;
        fn set_setup_secret(hash: Option<[u8; 32]>) -> Outcome<(), StoreError>;
        fn redeem_setup(hash: [u8; 32], key: NewApiKey) -> Outcome<Option<ApiKey>, StoreError>;
    }
    CodePool {
        fn add_codes(rows: Vec<Vec<Code>>) -> Outcome<(), StoreError>;
        fn claim_codes() -> Outcome<Option<Vec<Code>>, StoreError>;
        fn pool_size() -> Result<u64, StoreError>;
    }
    RangeLeases {
        fn lease(len: u64) -> Outcome<Range, StoreError>;
        fn give_back(rest: Range) -> Outcome<(), StoreError>;
    }
    HighWater {
        fn take_rest(len: u64) -> Outcome<Option<Range>, StoreError>;
        fn raise(proposed: Range) -> Outcome<Raised, StoreError>;
    }
    MetaStore {
        fn meta(name: &'static str) -> Result<Option<Vec<u8>>, StoreError>;
        fn meta_or_insert(name: &'static str, value: Vec<u8>) -> Outcome<Vec<u8>, StoreError>;
        fn set_meta(name: &'static str, value: Vec<u8>) -> Outcome<(), StoreError>;
        fn visitor_secret(day: i64, fresh: [u8; 32]) -> Outcome<[u8; 32], StoreError>;
    }
}
