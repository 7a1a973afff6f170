//! A store beside the configured one: its ports, without a node, without clicks.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use shunt_domain::ports::{
    DomainStore, KeyStore, LinkMirror, LinkQuery, LinkReader, LinkWriter, MetaStore,
};
use shunt_store::postgres::PostgresStore;
use shunt_store::sharded::ShardedStore;
use shunt_store::sqlite::{DbOptions, SqliteOptions, SqliteStore};

use crate::config::{Config, StoreUrl};

/// The ports that a copy and a look into an earlier store need.
pub(crate) struct Plain {
    pub(crate) reader: Arc<dyn LinkReader>,
    pub(crate) writer: Arc<dyn LinkWriter>,
    pub(crate) mirror: Arc<dyn LinkMirror>,
    pub(crate) query: Arc<dyn LinkQuery>,
    pub(crate) domains: Arc<dyn DomainStore>,
    pub(crate) keys: Arc<dyn KeyStore>,
    pub(crate) meta: Arc<dyn MetaStore>,
    /// Where it is, without secrets.
    pub(crate) place: String,
    store: Kind,
}

enum Kind {
    Sqlite(SqliteStore),
    Postgres(PostgresStore),
    Shards(ShardedStore),
}

impl Plain {
    /// Opens the store at `url`, which must be there and have this version's schema, to read from
    /// it: an embedded one beside the server that has it, if there is one. Blocks.
    ///
    /// # Errors
    /// What is in the way, with what to do.
    pub(crate) async fn read(url: &StoreUrl, config: &Config) -> anyhow::Result<Self> {
        Self::open(url, config, |dir| Ok(SqliteStore::open_reading(dir, SqliteOptions::default())?))
            .await
    }

    /// Opens the store at `url` to write to it. An embedded one is made if it is not there, and is
    /// this process's alone. Blocks.
    ///
    /// # Errors
    /// What is in the way, with what to do.
    pub(crate) async fn write(url: &StoreUrl, config: &Config) -> anyhow::Result<Self> {
        Self::open(url, config, |dir| {
            let db = DbOptions { create: true, ..DbOptions::default() };
            Ok(SqliteStore::open(dir, SqliteOptions { db, ..SqliteOptions::default() })?)
        })
        .await
    }

    async fn open(
        url: &StoreUrl,
        config: &Config,
        sqlite: impl FnOnce(&Path) -> anyhow::Result<SqliteStore>,
    ) -> anyhow::Result<Self> {
        let dir = match url {
            StoreUrl::DataDir => &config.data_dir,
            StoreUrl::Sqlite(dir) => dir,
            #[cfg(feature = "dynamodb")]
            StoreUrl::Dynamo(_) => anyhow::bail!(
                "a DynamoDB table is neither copied nor read as an earlier store; links come into \
                 it with `shunt links import`"
            ),
            StoreUrl::Postgres(options) => {
                let place = format!("postgres at {}/{}", options.address(), options.database);
                let store = PostgresStore::open((**options).clone())?;
                let checking = store.clone();
                let checked = tokio::task::spawn_blocking(move || checking.check());
                checked.await.context("look at the database")??;
                return Ok(Self::of(Arc::new(store.clone()), Kind::Postgres(store), place));
            }
            StoreUrl::Shards(shards) => {
                let at = shards.iter().map(|shard| {
                    format!(
                        "{}={}/{}",
                        shard.name,
                        shard.database.address(),
                        shard.database.database
                    )
                });
                let place = format!("postgres shards {}", at.collect::<Vec<_>>().join(", "));
                let shards = shards.clone();
                let store = tokio::task::spawn_blocking(move || ShardedStore::open(shards))
                    .await
                    .context("look at the databases")??;
                return Ok(Self::of(Arc::new(store.clone()), Kind::Shards(store), place));
            }
        };
        let store = sqlite(dir)?;
        // One place has one name, however it was written.
        let dir = dir.canonicalize().with_context(|| format!("find {}", dir.display()))?;
        let place = format!("sqlite://{}/links.db", dir.display());
        Ok(Self::of(Arc::new(store.clone()), Kind::Sqlite(store), place))
    }

    fn of<S>(port: Arc<S>, store: Kind, place: String) -> Self
    where
        S: LinkReader + LinkWriter + LinkMirror + LinkQuery + DomainStore + KeyStore + MetaStore,
        S: 'static,
    {
        Self {
            reader: port.clone(),
            writer: port.clone(),
            mirror: port.clone(),
            query: port.clone(),
            domains: port.clone(),
            keys: port.clone(),
            meta: port,
            place,
            store,
        }
    }

    /// Finishes what is under way and lets go of everything. Blocks.
    pub(crate) fn close(&self) {
        match &self.store {
            Kind::Sqlite(store) => store.close(),
            Kind::Postgres(store) => store.close(),
            Kind::Shards(store) => store.close(),
        }
    }
}
