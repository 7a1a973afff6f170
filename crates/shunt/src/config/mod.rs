//! The configuration: one table of settings, layered file < environment < flags.
//!
//! Invariants:
//! - [`table::SETTINGS`] is the only list of settings: parsing, flags, `config default`,
//!   `config check`, `config show` and `docs/config.md` are all made from it;
//! - this module alone reads the environment;
//! - every problem is found in one go, with the key, the line or variable it came from, and what
//!   would be right; nothing half-read is ever used;
//! - a secret can be read from a file (`*_FILE`, `*_file`) and is never printed.

mod flags;
mod load;
mod parse;
mod report;
mod source;
mod suggest;
mod table;
#[cfg(test)]
mod tests;
mod urls;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use shunt_domain::limit::Rate;
use shunt_engine::codes::{Alphabet, CodeSettings, SourceKind};
use shunt_http::listener::proxies::Cidr;
use shunt_store::postgres::PostgresOptions;
use shunt_store::postgres::legacy::{LegacyKeys, LegacyNames, LegacyOptions};
use shunt_store::sharded::ShardOptions;

pub use flags::{CommonFlags, ServeFlags};
#[cfg(test)]
pub use load::Origin;
pub use load::{Loaded, Problems};
pub use report::{default_toml, reference, show_json, show_text};
pub use source::Environment;
pub use urls::{CacheUrl, EventsUrl, StoreUrl};

/// All settings, typed and checked. The doc of each setting is in [`table::SETTINGS`] and so in
/// `docs/config.md`; here stand the units.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Where redirects, API and pages are served.
    pub listen: Option<SocketAddr>,
    /// Where metrics and probes are served; `None` for nowhere.
    pub ops_listen: Option<SocketAddr>,
    /// The directory that holds everything.
    pub data_dir: PathBuf,
    /// Scheme, host and path of short links without a trailing slash; `None` derives it from the
    /// address that was bound ([`Config::base_url`]).
    pub configured_base_url: Option<String>,
    /// How many cores (threads with a listener each) serve redirects; 0 for all there are.
    pub cores: usize,
    /// The length of each listener's accept queue.
    pub backlog: u32,
    /// The links store.
    pub store: StoreConfig,
    /// Another service's links, read where they are.
    pub legacy: LegacyConfig,
    /// The caches.
    pub cache: CacheConfig,
    /// Where click events go.
    pub events: EventsUrl,
    /// TLS.
    pub tls: TlsConfig,
    /// Proxies in front of us.
    pub proxies: ProxiesConfig,
    /// PROXY protocol, per listener.
    pub proxy_protocol: ProxyProtocolConfig,
    /// Deadlines.
    pub timeouts: TimeoutsConfig,
    /// Bounds on what others may take.
    pub limits: LimitsConfig,
    /// Codes and targets.
    pub links: LinksConfig,
    /// Who may do what.
    pub auth: AuthConfig,
    /// The click pipeline.
    pub clicks: ClicksConfig,
    /// Figures.
    pub stats: StatsConfig,
    /// Logs.
    pub log: LogConfig,
}

/// The links store.
#[derive(Clone, Debug, Default)]
pub struct StoreConfig {
    /// Which store, and where.
    pub url: StoreUrl,
    /// When a commit counts as done.
    pub durability: Durability,
    /// Bytes of the database file that are mapped into memory.
    pub mmap_bytes: u64,
    /// Connections that read.
    pub readers: usize,
    /// Connections that write to a database on a server, each with one transaction under way.
    pub writers: usize,
    /// Where `migrate` connects to; `None` for where everything else does.
    pub migrate: Option<Box<PostgresOptions>>,
    /// Standbys that redirects read from, of the database or of its shards.
    pub replicas: Vec<Replica>,
    /// Standbys that are further behind serve only when nothing else answers.
    pub max_lag: Duration,
    /// Where roll-ups of clicks are, for links in a store that can't have them; nothing for
    /// `clicks.db` in the data directory.
    pub stats: Option<Box<PostgresOptions>>,
    /// The store that this one follows, asked about what is not here.
    pub previous: Option<StoreUrl>,
}

/// Another service's links, read where they are.
#[derive(Clone, Debug, Default)]
pub struct LegacyConfig {
    /// Its databases; none: there is no such service.
    pub urls: Vec<PostgresOptions>,
    /// What the ring hashes for each of several.
    pub nodes: Vec<String>,
    /// Tables and columns; a name that is empty is not there.
    pub table: String,
    /// See there.
    pub code: String,
    /// See there.
    pub target: String,
    /// See there.
    pub created: String,
    /// See there.
    pub owner: String,
    /// See there.
    pub keys: String,
    /// See there.
    pub keys_used: String,
}

impl LegacyConfig {
    /// As the store wants it; `None` when there is no such service.
    pub fn options(&self) -> Option<LegacyOptions> {
        let some = |name: &String| Some(name.clone()).filter(|name| !name.is_empty());
        let names = self.nodes.iter().cloned().chain(std::iter::repeat(String::new()));
        (!self.urls.is_empty()).then(|| LegacyOptions {
            shards: names.zip(self.urls.iter().cloned()).collect(),
            names: LegacyNames {
                table: self.table.clone(),
                code: self.code.clone(),
                target: self.target.clone(),
                created: some(&self.created),
                owner: some(&self.owner),
                keys: some(&self.keys)
                    .map(|table| LegacyKeys { table, used: self.keys_used.clone() }),
            },
        })
    }
}

/// A streaming standby.
#[derive(Clone, Debug)]
pub struct Replica {
    /// Of which shard; `None` where the store is one database.
    pub shard: Option<String>,
    /// How it is reached.
    pub database: PostgresOptions,
}

impl StoreConfig {
    /// The standbys of the one database that the store is.
    pub fn standbys(&self) -> Vec<PostgresOptions> {
        self.replicas.iter().map(|replica| replica.database.clone()).collect()
    }

    /// The shards with their standbys; none when the store is not sharded.
    pub fn shards(&self) -> Vec<ShardOptions> {
        let StoreUrl::Shards(shards) = &self.url else { return Vec::new() };
        let with_standbys = |shard: &ShardOptions| {
            let own = |replica: &&Replica| replica.shard.as_deref() == Some(shard.name.as_str());
            let replicas = self.replicas.iter().filter(own);
            ShardOptions {
                replicas: replicas.map(|replica| replica.database.clone()).collect(),
                max_lag: self.max_lag,
                ..shard.clone()
            }
        };
        shards.iter().map(with_standbys).collect()
    }
}

/// When a commit counts as done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// When it is on the disk: survives a power cut.
    #[default]
    Full,
    /// When the operating system has it: survives a crash of the process only. For measurements.
    Off,
}

/// The caches.
#[derive(Clone, Debug, Default)]
pub struct CacheConfig {
    /// The shared cache (L2), if any.
    pub url: CacheUrl,
    /// Certificate authorities to trust when Redis is spoken to over TLS, PEM.
    pub ca: Option<PathBuf>,
    /// What every key and channel in Redis begins with.
    pub prefix: String,
    /// Whether links are cached in Redis.
    pub l2: bool,
    /// How long a link stays there.
    pub l2_ttl: Duration,
    /// How long a look into it may take.
    pub l2_deadline: Duration,
    /// The bound of L1, in bytes.
    pub l1_bytes: u64,
    /// How long L1 may serve its last value while no copy of the store answers.
    pub max_stale: Duration,
    /// How long "there is no such link" is repeated without asking; at most a second.
    pub negative_ttl: Duration,
}

/// TLS.
#[derive(Clone, Debug, Default)]
pub struct TlsConfig {
    /// Where TLS is served; `None` for nowhere.
    pub listen: Option<SocketAddr>,
    /// The certificate chain, PEM.
    pub cert: Option<PathBuf>,
    /// The private key, PEM.
    pub key: Option<PathBuf>,
}

/// Proxies in front of us.
#[derive(Clone, Debug, Default)]
pub struct ProxiesConfig {
    /// Networks whose word about the visitor's address is believed.
    pub trusted: Vec<Cidr>,
}

/// PROXY protocol v2, per listener: where it is on, connections without it are refused.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProxyProtocolConfig {
    /// On `listen`.
    pub listen: bool,
    /// On `tls.listen`.
    pub tls: bool,
}

/// Deadlines.
#[derive(Clone, Copy, Debug, Default)]
pub struct TimeoutsConfig {
    /// From the connection to its first byte.
    pub first_byte: Duration,
    /// From the first byte of a request to the end of its head.
    pub header: Duration,
    /// Between two requests of a connection.
    pub idle: Duration,
    /// For a client to take in bytes that are ready.
    pub write: Duration,
    /// For a handler to answer.
    pub request: Duration,
    /// For the TLS handshake.
    pub tls_handshake: Duration,
    /// For one load of a link from the store.
    pub load: Duration,
    /// From the signal to stop until what is still open is cut.
    pub shutdown: Duration,
}

/// Bounds on what others may take.
#[derive(Clone, Copy, Debug, Default)]
pub struct LimitsConfig {
    /// Open connections in all.
    pub max_connections: usize,
    /// Open connections of one address (IPv6: one /64).
    pub max_connections_per_address: usize,
    /// Bytes of an ordinary request body.
    pub max_body: usize,
    /// Bytes of a request head.
    pub max_header_bytes: usize,
    /// Look-ups of links that do not exist, per address.
    pub misses: Option<Rate>,
    /// Links made without an API key, per address.
    pub creates_per_address: Option<Rate>,
    /// Links made with an API key.
    pub creates_per_key: Option<Rate>,
    /// Bad credentials, per address.
    pub logins: Option<Rate>,
    /// Whether callers on this machine are limited too.
    pub loopback: bool,
    /// How long the shared counter may take.
    pub deadline: Duration,
}

/// Codes and targets.
#[derive(Clone, Debug, Default)]
pub struct LinksConfig {
    /// Whether edits are refused.
    pub immutable: bool,
    /// Length of generated codes to begin with.
    pub code_length: usize,
    /// Length up to which they may grow.
    pub code_max_length: usize,
    /// Characters of generated codes.
    pub alphabet: Alphabet,
    /// Where codes come from.
    pub allocator: AllocatorKind,
    /// Codes in the pool below which it is refilled; 0 never refills.
    pub pool_refill_below: u64,
    /// Counter values per lease.
    pub range_lease: u64,
    /// Target schemes beside http and https, lower-case.
    pub extra_schemes: Vec<String>,
}

/// Where codes come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AllocatorKind {
    /// Random codes.
    #[default]
    Random,
    /// Pre-generated rows of random codes.
    Pool,
    /// Leased counter values, permuted.
    Range,
}

/// Who may do what.
#[derive(Clone, Copy, Debug, Default)]
pub struct AuthConfig {
    /// Whether callers without an API key may create links from anywhere.
    pub anonymous_create: bool,
}

/// The click pipeline.
#[derive(Clone, Debug, Default)]
pub struct ClicksConfig {
    /// Bytes of each core's ring.
    pub ring_bytes: u64,
    /// Where the rings live; `None` chooses a memory file system.
    pub ring_dir: Option<PathBuf>,
    /// How long an event may wait in its ring.
    pub flush: Duration,
    /// Bytes of the spool on disk.
    pub spool_bytes: u64,
    /// Whether this process folds the spool into roll-ups.
    pub worker: bool,
    /// How long the worker gathers before it writes.
    pub fold: Duration,
    /// Whether events carry a keyed hash of the visitor.
    pub visitor_hash: bool,
    /// Whether Global Privacy Control and Do Not Track leave that hash out.
    pub honour_gpc: bool,
}

/// Figures.
#[derive(Clone, Debug)]
pub struct StatsConfig {
    /// The time zone in which days and months begin.
    pub timezone: jiff::tz::TimeZone,
}

impl Default for StatsConfig {
    fn default() -> Self {
        Self { timezone: jiff::tz::TimeZone::UTC }
    }
}

/// Logs.
#[derive(Clone, Debug, Default)]
pub struct LogConfig {
    /// Filter directives: a level, or `level,module=level`.
    pub level: String,
    /// How a line looks.
    pub format: LogFormat,
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl Config {
    /// The directory of `links.db` and `clicks.db`: two files, so that roll-ups never hold up a
    /// link commit.
    pub fn store_dir(&self) -> &Path {
        match &self.store.url {
            StoreUrl::Sqlite(dir) => dir,
            _ => &self.data_dir,
        }
    }

    /// The file with the links.
    pub fn links_db(&self) -> PathBuf {
        self.store_dir().join("links.db")
    }

    /// The socket through which commands find the running server.
    pub fn socket(&self) -> PathBuf {
        self.data_dir.join("shunt.sock")
    }

    /// Scheme, host and path of short links without a trailing slash: as configured, or the
    /// address that was bound (a wildcard address becomes the loopback one).
    pub fn base_url(&self, bound: SocketAddr) -> String {
        self.configured_base_url.clone().unwrap_or_else(|| {
            let mut address = bound;
            if address.ip().is_unspecified() {
                address.set_ip(if address.is_ipv4() {
                    std::net::Ipv4Addr::LOCALHOST.into()
                } else {
                    std::net::Ipv6Addr::LOCALHOST.into()
                });
            }
            match address.port() {
                80 => format!("http://{}", host_of(address)),
                _ => format!("http://{address}"),
            }
        })
    }

    /// How many cores serve redirects.
    pub fn core_count(&self) -> usize {
        match self.cores {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            cores => cores,
        }
    }

    /// The allocator's part.
    pub fn code_settings(&self) -> CodeSettings {
        CodeSettings {
            alphabet: self.links.alphabet.clone(),
            length: self.links.code_length,
            max_length: self.links.code_max_length,
            source: match self.links.allocator {
                AllocatorKind::Random => SourceKind::Random,
                AllocatorKind::Pool => {
                    SourceKind::Pool { refill_below: self.links.pool_refill_below }
                }
                AllocatorKind::Range => SourceKind::Range { lease: self.links.range_lease },
            },
        }
    }
}

fn host_of(address: SocketAddr) -> String {
    match address {
        SocketAddr::V4(v4) => v4.ip().to_string(),
        SocketAddr::V6(v6) => format!("[{}]", v6.ip()),
    }
}
