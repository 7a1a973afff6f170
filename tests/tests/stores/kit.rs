//! PostgreSQL with an empty store, again and again.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use shunt_cluster::{PgBouncer, Postgres, postgres};
use shunt_domain::Deadline;
use shunt_store::conformance::{Restart, Subject};
use shunt_store::postgres::{PostgresOptions, PostgresRollups, PostgresStore, Secret, migrate};
use tokio_postgres::{Client, NoTls};

/// The database that others are copies of.
const TEMPLATE: &str = "template_shunt";

/// How many databases PgBouncer knows.
const DATABASES: usize = 64;

/// A deadline in so many milliseconds.
pub fn within(millis: u64) -> Deadline {
    Deadline::after(Instant::now(), Duration::from_millis(millis))
}

/// How a store reaches `database`.
pub fn options(config: &postgres::Config, database: &str) -> PostgresOptions {
    PostgresOptions {
        hosts: vec![(config.host.clone(), config.port)],
        user: config.user.clone(),
        password: Some(Secret::new(&config.password)),
        database: database.to_owned(),
        node: 7,
        ..PostgresOptions::default()
    }
}

/// Runs something with a connection of the driver's own.
pub fn with_client<T>(url: &str, work: impl AsyncFnOnce(&Client) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
        let connection = tokio::spawn(connection);
        let answer = work(&client).await;
        drop(client);
        connection.await.unwrap().unwrap();
        answer
    })
}

/// A server, with a pooler in front of it if that is wanted.
pub struct Servers {
    pub postgres: Postgres,
    pub pooler: Option<PgBouncer>,
    made: usize,
}

impl Servers {
    /// Starts them, with an empty store as a template.
    pub fn start(setup: postgres::Setup, pooled: bool) -> Self {
        let postgres = setup.start().unwrap();
        postgres.create_database(TEMPLATE).unwrap();
        migrate(&options(postgres.config(), TEMPLATE)).unwrap();
        let pooler = pooled.then(|| {
            let names = (0..DATABASES).map(|number| format!("store{number}"));
            let setup = names
                .fold(PgBouncer::setup(), |setup, name| setup.database(&name, postgres.config()));
            setup.start().unwrap()
        });
        Self { postgres, pooler, made: 0 }
    }

    /// Makes an empty store's database; answers its name.
    pub fn database(&mut self) -> String {
        let name = format!("store{}", self.made);
        self.made += 1;
        self.postgres.psql(&format!("CREATE DATABASE {name} TEMPLATE {TEMPLATE}")).unwrap();
        name
    }

    /// How a store reaches `database`: through the pooler if there is one.
    pub fn options(&self, database: &str) -> PostgresOptions {
        let config = self.pooler.as_ref().map_or(self.postgres.config(), PgBouncer::config);
        options(config, database)
    }
}

/// What a crash does to the server.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// Nothing: only the store's process is gone.
    Spares,
    /// It is killed as well, and comes back by itself.
    Kills,
}

/// A store that can be opened: the links', or the roll-ups'.
pub trait Opens: Send + Sync + Sized {
    fn open(options: PostgresOptions) -> Self;
    fn close(&self);
}

impl Opens for PostgresStore {
    fn open(options: PostgresOptions) -> Self {
        Self::open(options).unwrap()
    }

    fn close(&self) {
        self.close();
    }
}

impl Opens for PostgresRollups {
    fn open(options: PostgresOptions) -> Self {
        Self::open(options).unwrap()
    }

    fn close(&self) {
        self.close();
    }
}

/// A store under test.
pub struct Subjected<S> {
    store: S,
    options: PostgresOptions,
    servers: Arc<Mutex<Servers>>,
    crash: Crash,
}

impl<S: Opens> Subject for Subjected<S> {
    type Store = S;

    fn store(&self) -> &S {
        &self.store
    }
}

impl<S: Opens> Subjected<S> {
    fn open(options: PostgresOptions, servers: Arc<Mutex<Servers>>, crash: Crash) -> Self {
        Self { store: S::open(options.clone()), options, servers, crash }
    }

    fn servers(&self) -> MutexGuard<'_, Servers> {
        self.servers.lock().unwrap()
    }
}

impl<S: Opens> Restart for Subjected<S> {
    fn restart(self) -> Self {
        self.store.close();
        Self::open(self.options, self.servers, self.crash)
    }

    fn crash(self) -> Self {
        if self.crash == Crash::Kills {
            let mut servers = self.servers();
            servers.postgres.kill().unwrap();
            servers.postgres.restart().unwrap();
        }
        // Not closed: what the store had under way is cut off.
        drop(self.store);
        Self::open(self.options, self.servers, self.crash)
    }
}

/// Starts servers and answers what makes empty stores on them.
pub fn subjects<S: Opens>(
    setup: postgres::Setup,
    pooled: bool,
    crash: Crash,
    adjust: fn(PostgresOptions) -> PostgresOptions,
) -> impl FnMut() -> Subjected<S> {
    let servers = Arc::new(Mutex::new(Servers::start(setup, pooled)));
    move || {
        let options = {
            let mut servers = servers.lock().unwrap();
            let database = servers.database();
            adjust(servers.options(&database))
        };
        Subjected::open(options, Arc::clone(&servers), crash)
    }
}
