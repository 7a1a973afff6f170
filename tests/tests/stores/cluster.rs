//! A Citus cluster with a store that is emptied again and again: making one takes seconds.

use std::cell::RefCell;
use std::sync::Arc;

use shunt_cluster::postgres::Config;
use shunt_cluster::{Citus, PgBouncer};
use shunt_store::conformance::{Restart, Subject};
use shunt_store::postgres::{PostgresOptions, migrate};
use shunt_tests::citus::{DATABASE, SWITCH, own};
use shunt_tests::switch::figure;
use tokio_postgres::config::Host;

use crate::kit::{Opens, options};

/// A cluster with this program's schema, and maybe a pooler in front.
pub struct Cluster {
    config: Config,
    database: String,
    pooler: Option<PgBouncer>,
    _own: Option<Citus>,
}

impl Cluster {
    /// The cluster that the tests run on; `None`, and says so, where there is none.
    pub fn find(pooled: bool) -> Option<Self> {
        let (config, database, own) = match shunt_tests::citus::named() {
            Some(url) if url != "local" => {
                let (config, database) = named(&url);
                (config, database, None)
            }
            _ => {
                let own = own(Citus::setup().fast())?;
                (own.coordinator.config().clone(), DATABASE.to_owned(), Some(own))
            }
        };
        migrate(&options(&config, &database)).unwrap();
        let pooler =
            pooled.then(|| PgBouncer::setup().database(&database, &config).start().unwrap());
        Some(Self { config, database, pooler, _own: own })
    }

    /// Runs SQL on the coordinator.
    pub fn psql(&self, sql: &str) -> String {
        self.config.psql(&self.database, sql).unwrap()
    }

    /// The coordinator's own address.
    pub fn url(&self) -> String {
        self.config.url(&self.database)
    }

    /// The coordinator's own port.
    pub const fn port(&self) -> u16 {
        self.config.port
    }

    /// How a store reaches it: through the pooler if there is one.
    pub fn options(&self) -> PostgresOptions {
        options(self.pooler.as_ref().map_or(&self.config, PgBouncer::config), &self.database)
    }

    /// Takes everything out of the store.
    pub fn empty(&self) {
        self.psql(
            "TRUNCATE links, changes, idempotency, code_pool, marks, hours, totals, ledger, domains,
                 api_keys, meta, nodes, visitor_secrets, range_rests;
             UPDATE counters SET value = 0;
             ALTER SEQUENCE domain_numbers RESTART;
             ALTER SEQUENCE key_numbers RESTART",
        );
    }
}

/// The coordinator and the database of a URL.
fn named(url: &str) -> (Config, String) {
    let parsed: tokio_postgres::Config = url.parse().unwrap();
    let (Some(Host::Tcp(host)), Some(database)) = (parsed.get_hosts().first(), parsed.get_dbname())
    else {
        panic!("{SWITCH} names no host and database");
    };
    assert!(
        database.starts_with(DATABASE),
        "{SWITCH} names the database {database}, which tests would empty; call it {DATABASE}"
    );
    let password = parsed.get_password().unwrap_or_default();
    let config = Config {
        host: host.clone(),
        port: parsed.get_ports().first().copied().unwrap_or(5432),
        user: parsed.get_user().unwrap_or("postgres").to_owned(),
        password: String::from_utf8(password.to_vec()).unwrap(),
    };
    (config, database.to_owned())
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<Cluster>>> = const { RefCell::new(None) };
}

/// Does something with a cluster that [`subjects`] finds, if there is one.
pub fn with_cluster(pooled: bool, work: impl FnOnce()) {
    let Some(cluster) = Cluster::find(pooled) else { return };
    let said = cluster.psql("SELECT citus_version()");
    let version = said.split(" on ").next().unwrap_or(&said);
    let server = cluster.psql("SHOW server_version");
    figure("Citus", &format!("{version}, PostgreSQL {server}"));
    CURRENT.set(Some(Arc::new(cluster)));
    work();
    CURRENT.set(None);
}

/// A store on a cluster.
pub struct OnCluster<S> {
    store: S,
    options: PostgresOptions,
}

impl<S: Opens> OnCluster<S> {
    fn open(options: PostgresOptions) -> Self {
        Self { store: S::open(options.clone()), options }
    }
}

impl<S: Opens> Subject for OnCluster<S> {
    type Store = S;

    fn store(&self) -> &S {
        &self.store
    }
}

impl<S: Opens> Restart for OnCluster<S> {
    fn restart(self) -> Self {
        self.store.close();
        Self::open(self.options)
    }

    fn crash(self) -> Self {
        // Not closed: what the store had under way is cut off.
        drop(self.store);
        Self::open(self.options)
    }
}

/// What makes empty stores on the cluster of [`with_cluster`].
pub fn subjects<S: Opens>() -> impl FnMut() -> OnCluster<S> {
    let cluster = CURRENT.with_borrow(Clone::clone).expect("there is a cluster");
    move || {
        cluster.empty();
        OnCluster::open(cluster.options())
    }
}
