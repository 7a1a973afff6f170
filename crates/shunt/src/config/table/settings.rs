//! The settings themselves, section by section.

use std::time::Duration;

use shunt_engine::codes::{Alphabet, AlphabetError};

use super::super::parse::{
    Raw, address, base_url, boolean, count, duration, millis, number, path, schemes, size, word,
};
use super::super::urls::postgres;
use super::super::{AllocatorKind, CacheUrl, Durability, EventsUrl, LogFormat, StoreUrl, parse};
use super::{Flag, Setting};

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;

/// All settings, section by section.
pub(in crate::config) const SETTINGS: &[Setting] = &[
    setting!(
        "listen",
        "SHUNT_LISTEN",
        Flag::Serve("listen"),
        "127.0.0.1:8080",
        "address and port",
        "Where redirects, API and pages are served. Port 0 takes a free one and prints it.",
        |config, raw| {
            let none = || "shunt needs an address to listen on".to_owned();
            config.listen = Some(address(raw)?.ok_or_else(none)?);
            Ok(())
        }
    ),
    setting!(
        "ops_listen",
        "SHUNT_OPS_LISTEN",
        Flag::Serve("ops-listen"),
        "127.0.0.1:9100",
        "address and port, or off",
        "Where /metrics, /healthz and /readyz are served. They tell much about the service: keep \
         this address away from the public.",
        to!(ops_listen, address)
    ),
    setting!(
        "data_dir",
        "SHUNT_DATA_DIR",
        Flag::Common("data-dir"),
        "",
        "path",
        "The directory that holds everything: links, click figures, spool, socket and shunt.toml. \
         Empty: $XDG_DATA_HOME/shunt, else $HOME/.local/share/shunt, else ./shunt-data. It must \
         be on a local disk.",
        |config, raw| {
            if let Some(dir) = path(raw)? {
                config.data_dir = dir;
            }
            Ok(())
        }
    ),
    setting!(
        "base_url",
        "SHUNT_BASE_URL",
        Flag::Common("base-url"),
        "",
        "URL",
        "Scheme, host and, if you like, path of short links as people see them, for example \
         https://go.example/s. Empty: http:// and the address that is listened on. Targets that \
         lead back to it are refused, so set it before you create links.",
        to!(configured_base_url, base_url)
    ),
    setting!(
        "cores",
        "SHUNT_CORES",
        Flag::Serve("cores"),
        "0",
        "number",
        "How many threads, each with its own listening socket, serve redirects; 0 means one for \
         each core there is. Too high: threads take the cores from each other. Too low: cores \
         stay idle.",
        to!(cores, |raw| count(raw, 0..=1_024))
    ),
    setting!(
        "backlog",
        "SHUNT_BACKLOG",
        Flag::Serve("backlog"),
        "4096",
        "number",
        "Connections that may wait to be accepted, per core; the kernel cuts it to \
         net.core.somaxconn. Too high: in overload clients wait long for an answer nobody wants \
         any more. Too low: connections are refused in short peaks.",
        |config, raw| {
            config.backlog = u32::try_from(number(raw, 1..=65_535)?).unwrap_or(65_535);
            Ok(())
        }
    ),
    setting!(
        secret
        "store.url",
        "SHUNT_STORE",
        Flag::Common("store"),
        "",
        "URL",
        "The links store. Empty: in the data directory. sqlite:///absolute/path/links.db: in \
         another one; the file's name is fixed, clicks.db with the roll-ups lies beside it. \
         postgres://user:password@host:5432/database: PostgreSQL, directly or through PgBouncer in \
         transaction mode; with ?sslmode=verify-full&sslrootcert=/path/ca.pem it is encrypted; \
         several hosts (host1:5432,host2:5432) are tried until one takes writes. Run `shunt \
         migrate` once before the first start.",
        to!(store.url, |raw: &Raw| StoreUrl::parse(raw.text()?))
    ),
    setting!(
        "store.durability",
        "SHUNT_STORE_DURABILITY",
        Flag::No,
        "full",
        "full or off",
        "When a write counts as done. full: when it is on the disk, so an acknowledged link \
         survives a power cut. off: when the operating system has it; for measurements only, \
         because a power cut loses or damages links.",
        to!(store.durability, |raw| word(
            raw,
            &[("full", Durability::Full), ("off", Durability::Off)]
        ))
    ),
    setting!(
        "store.mmap_bytes",
        "SHUNT_STORE_MMAP_BYTES",
        Flag::No,
        "4GiB",
        "size",
        "How much of links.db is mapped into memory, by each reader. Too high: the process looks \
         larger than it is, the pages belong to the page cache. Too low: reads of links that are \
         not in L1 cost a system call each. 0 maps nothing.",
        to!(store.mmap_bytes, |raw| size(raw, 0..=TIB))
    ),
    setting!(
        "store.readers",
        "SHUNT_STORE_READERS",
        Flag::No,
        "4",
        "number",
        "Threads that read the store, each with a connection. Too high: memory (about 1 MiB \
         each). Too low: slow searches hold up the loading of links that are not in L1. On a \
         database server: connections that redirects share, each with many questions under way; 2 \
         to 4 are enough.",
        to!(store.readers, |raw| count(raw, 1..=256))
    ),
    setting!(
        "store.writers",
        "SHUNT_STORE_WRITERS",
        Flag::No,
        "16",
        "number",
        "Connections that write to a database server, each with one transaction under way. Too \
         high: the server's processes crowd each other, and PgBouncer's pool lets them wait. Too \
         low: writes wait for each other. The embedded store has one writer whatever stands here.",
        to!(store.writers, |raw| count(raw, 1..=1_000))
    ),
    setting!(
        secret
        "store.migrate",
        "SHUNT_STORE_MIGRATE",
        Flag::No,
        "",
        "URL",
        "Where `shunt migrate` connects to: the database server's own address, past any pooler, \
         and a user who may create tables. Empty: as store.url.",
        |config, raw| {
            let text = raw.text()?;
            config.store.migrate = match postgres(text) {
                Some(options) => Some(Box::new(options?)),
                None if text.is_empty() => None,
                None => {
                    let right = "write postgres://user:password@host:5432/database";
                    return Err(format!("this is no address of PostgreSQL; {right}"));
                }
            };
            Ok(())
        }
    ),
    setting!(
        secret
        "cache.url",
        "SHUNT_CACHE",
        Flag::Serve("cache"),
        "none",
        "URL or none",
        "The cache shared by several nodes. This build has none.",
        to!(cache.url, |raw: &Raw| CacheUrl::parse(raw.text()?))
    ),
    setting!(
        "cache.l1_bytes",
        "SHUNT_CACHE_L1_BYTES",
        Flag::No,
        "128MiB",
        "size",
        "The bound of the cache in this process; a link takes about 110 bytes and its target. Too \
         high: memory. Too low: more redirects have to ask the store.",
        to!(cache.l1_bytes, |raw| size(raw, (64 * KIB)..=TIB))
    ),
    setting!(
        "cache.max_stale",
        "SHUNT_CACHE_MAX_STALE",
        Flag::No,
        "24h",
        "duration",
        "How long a cached link goes on being served while the store does not answer at all. Too \
         high: a link taken down elsewhere is served longer in an outage. Too low: an outage of \
         the store becomes one of the redirects.",
        to!(cache.max_stale, |raw| duration(raw, Duration::ZERO..=(DAY * 30)))
    ),
    setting!(
        "cache.negative_ttl",
        "SHUNT_CACHE_NEGATIVE_TTL",
        Flag::No,
        "1s",
        "duration",
        "How long \"there is no such link\" is repeated without asking the store; at most 1s. Too \
         low: scans for codes reach the store.",
        to!(cache.negative_ttl, |raw| duration(raw, Duration::ZERO..=SECOND))
    ),
    setting!(
        secret
        "events.url",
        "SHUNT_EVENTS",
        Flag::Serve("events"),
        "local",
        "URL or local",
        "Where click events go. local: into the spool on this machine's disk.",
        to!(events, |raw: &Raw| EventsUrl::parse(raw.text()?))
    ),
    setting!(
        "tls.listen",
        "SHUNT_TLS_LISTEN",
        Flag::No,
        "off",
        "address and port, or off",
        "Where the same is served by TLS with HTTP/1.1 and HTTP/2. Needs tls.cert and tls.key.",
        to!(tls.listen, address)
    ),
    setting!(
        "tls.cert",
        "SHUNT_TLS_CERT",
        Flag::No,
        "",
        "path",
        "The certificate chain, PEM. Read again when it changes; a broken file leaves the last \
         good one in use.",
        to!(tls.cert, path)
    ),
    setting!(
        "tls.key",
        "SHUNT_TLS_KEY",
        Flag::No,
        "",
        "path",
        "The private key of the certificate, PEM. Read again when it changes.",
        to!(tls.key, path)
    ),
    setting!(
        "proxies.trusted",
        "SHUNT_PROXIES_TRUSTED",
        Flag::No,
        "",
        "list of networks",
        "Proxies whose Forwarded and X-Forwarded-For headers are believed, as addresses or \
         networks such as 10.0.0.0/8. They are also exempt from the cap per address. Too wide: \
         visitors can forge their address.",
        |config, raw| {
            config.proxies.trusted =
                raw.list().into_iter().map(str::parse).collect::<Result<_, String>>()?;
            Ok(())
        }
    ),
    setting!(
        "proxy_protocol.listen",
        "SHUNT_PROXY_PROTOCOL_LISTEN",
        Flag::No,
        "false",
        "true or false",
        "Whether connections to `listen` begin with PROXY protocol v2. Then those without it, and \
         all that do not come from proxies.trusted, are refused.",
        to!(proxy_protocol.listen, boolean)
    ),
    setting!(
        "proxy_protocol.tls",
        "SHUNT_PROXY_PROTOCOL_TLS",
        Flag::No,
        "false",
        "true or false",
        "The same for `tls.listen`.",
        to!(proxy_protocol.tls, boolean)
    ),
    setting!(
        "timeouts.first_byte",
        "SHUNT_TIMEOUTS_FIRST_BYTE",
        Flag::No,
        "5s",
        "duration",
        "From the connection to its first byte. Too high: silent connections hold places. Too \
         low: clients that connect ahead of need are cut.",
        to!(timeouts.first_byte, |raw| duration(raw, (MILLI * 10)..=HOUR))
    ),
    setting!(
        "timeouts.header",
        "SHUNT_TIMEOUTS_HEADER",
        Flag::No,
        "5s",
        "duration",
        "From the first byte of a request to the end of its head. Too high: slow senders hold \
         places. Too low: phones on bad networks are cut.",
        to!(timeouts.header, |raw| duration(raw, (MILLI * 10)..=HOUR))
    ),
    setting!(
        "timeouts.idle",
        "SHUNT_TIMEOUTS_IDLE",
        Flag::No,
        "60s",
        "duration",
        "Between two requests of one connection. Too high: idle connections hold memory (about \
         10 KiB each). Too low: visitors connect anew. Behind a proxy it must be longer than the \
         proxy's own.",
        to!(timeouts.idle, |raw| duration(raw, (MILLI * 10)..=HOUR))
    ),
    setting!(
        "timeouts.write",
        "SHUNT_TIMEOUTS_WRITE",
        Flag::No,
        "10s",
        "duration",
        "For a client to take in bytes that are ready. Too high: slow readers hold memory. Too \
         low: exports over slow lines are cut.",
        to!(timeouts.write, |raw| duration(raw, (MILLI * 10)..=HOUR))
    ),
    setting!(
        "timeouts.request",
        "SHUNT_TIMEOUTS_REQUEST",
        Flag::No,
        "10s",
        "duration",
        "For a handler to answer, and for each piece of a streamed body to arrive. After it the \
         answer is 503. Too low: large batches fail on slow disks.",
        to!(timeouts.request, |raw| duration(raw, (MILLI * 10)..=HOUR))
    ),
    setting!(
        "timeouts.tls_handshake",
        "SHUNT_TIMEOUTS_TLS_HANDSHAKE",
        Flag::No,
        "5s",
        "duration",
        "For the TLS handshake. Too high: half-open handshakes hold places. Too low: far clients \
         are cut.",
        to!(timeouts.tls_handshake, |raw| duration(raw, (MILLI * 10)..=HOUR))
    ),
    setting!(
        "timeouts.load",
        "SHUNT_TIMEOUTS_LOAD",
        Flag::No,
        "2s",
        "duration",
        "For the store to answer for one link. After it a redirect that is not cached is 503. Too \
         high: visitors wait for a store that hangs. Too low: a busy disk looks like an outage.",
        to!(timeouts.load, |raw| duration(raw, (MILLI * 10)..=HOUR))
    ),
    setting!(
        "timeouts.shutdown",
        "SHUNT_TIMEOUTS_SHUTDOWN",
        Flag::No,
        "15s",
        "duration",
        "From the signal to stop until connections that are still busy are cut. Must be shorter \
         than what the service manager grants before it kills. Too low: answers under way are \
         lost.",
        to!(timeouts.shutdown, |raw| duration(raw, Duration::ZERO..=HOUR))
    ),
    setting!(
        "limits.max_connections",
        "SHUNT_LIMITS_MAX_CONNECTIONS",
        Flag::No,
        "16384",
        "number",
        "Open connections in all. Needs as many file descriptors (ulimit -n) and up to 32 KiB of \
         memory each. Too low: visitors are turned away in peaks.",
        to!(limits.max_connections, |raw| count(raw, 1..=10_000_000))
    ),
    setting!(
        "limits.max_connections_per_address",
        "SHUNT_LIMITS_MAX_CONNECTIONS_PER_ADDRESS",
        Flag::No,
        "1024",
        "number",
        "Open connections of one IPv4 address or one IPv6 /64; trusted proxies are exempt. Too \
         high: one client can take all places. Too low: offices behind one address are turned \
         away.",
        to!(limits.max_connections_per_address, |raw| count(raw, 1..=10_000_000))
    ),
    setting!(
        "limits.max_body",
        "SHUNT_LIMITS_MAX_BODY",
        Flag::No,
        "64KiB",
        "size",
        "The largest body of an ordinary request; batches and imports are streamed and have a \
         bound per row instead. Too high: memory. Too low: links with long targets are refused.",
        to!(limits.max_body, |raw| size(raw, (16 * KIB)..=(64 * MIB)).map(|n| n as usize))
    ),
    setting!(
        "limits.max_header_bytes",
        "SHUNT_LIMITS_MAX_HEADER_BYTES",
        Flag::No,
        "16KiB",
        "size",
        "The largest request head. Too high: memory per connection. Too low: visitors with large \
         cookies are refused.",
        to!(limits.max_header_bytes, |raw| size(raw, (8 * KIB)..=MIB).map(|n| n as usize))
    ),
    setting!(
        "links.immutable",
        "SHUNT_LINKS_IMMUTABLE",
        Flag::No,
        "false",
        "true or false",
        "Whether edits of links are refused with 409.",
        to!(links.immutable, boolean)
    ),
    setting!(
        "links.code_length",
        "SHUNT_LINKS_CODE_LENGTH",
        Flag::No,
        "7",
        "number",
        "Length of generated codes to begin with, 1 to 128 characters. A length reached by growth \
         stays, whatever stands here. Too high: long links. Too low: codes can be guessed.",
        to!(links.code_length, |raw| count(raw, 1..=128))
    ),
    setting!(
        "links.code_max_length",
        "SHUNT_LINKS_CODE_MAX_LENGTH",
        Flag::No,
        "16",
        "number",
        "The length up to which generated codes grow, by one whenever more than a tenth of the \
         last 256 draws were taken. At least links.code_length. Too low: creates end with 507 \
         when all codes are used up.",
        to!(links.code_max_length, |raw| count(raw, 1..=128))
    ),
    setting!(
        "links.alphabet",
        "SHUNT_LINKS_ALPHABET",
        Flag::No,
        Alphabet::BASE62,
        "characters",
        "The characters of generated codes: 2 to 64 different ones of 0-9, A-Z, a-z, _ and -. \
         Another alphabet begins anew at links.code_length. Too few: codes can be guessed.",
        to!(links.alphabet, |raw: &Raw| Alphabet::parse(raw.text()?)
            .map_err(|error: AlphabetError| error.to_string()))
    ),
    setting!(
        "links.allocator",
        "SHUNT_LINKS_ALLOCATOR",
        Flag::No,
        "random",
        "random, pool or range",
        "Where codes come from. random: drawn when needed. pool: drawn ahead, in rows of 1,000. \
         range: leased counter values, scattered by a secret permutation, which never collide.",
        to!(links.allocator, |raw| word(
            raw,
            &[
                ("random", AllocatorKind::Random),
                ("pool", AllocatorKind::Pool),
                ("range", AllocatorKind::Range),
            ]
        ))
    ),
    setting!(
        "links.pool_refill_below",
        "SHUNT_LINKS_POOL_REFILL_BELOW",
        Flag::No,
        "5000",
        "number",
        "The pool is refilled to twice this many codes when fewer are left; 0 leaves it to `shunt \
         keys fill`. Too high: disk. Too low: a burst of creates finds the pool empty (503).",
        to!(links.pool_refill_below, |raw| number(raw, 0..=1_000_000_000))
    ),
    setting!(
        "links.range_lease",
        "SHUNT_LINKS_RANGE_LEASE",
        Flag::No,
        "1000",
        "number",
        "Counter values per lease of the allocator range. Too high: a crash burns more codes. Too \
         low: creates wait for leases more often.",
        to!(links.range_lease, |raw| number(raw, 1..=1_000_000))
    ),
    setting!(
        "links.extra_schemes",
        "SHUNT_LINKS_EXTRA_SCHEMES",
        Flag::No,
        "",
        "list of schemes",
        "Target schemes accepted beside http and https, such as mailto or tel. Schemes that run \
         code, such as javascript, stay refused.",
        to!(links.extra_schemes, schemes)
    ),
    setting!(
        "auth.anonymous_create",
        "SHUNT_AUTH_ANONYMOUS_CREATE",
        Flag::No,
        "false",
        "true or false",
        "Whether callers without an API key may create links from anywhere. false: only from this \
         machine itself, not through a proxy. A public shortener without keys is found by spammers \
         within days.",
        to!(auth.anonymous_create, boolean)
    ),
    setting!(
        "clicks.ring_bytes",
        "SHUNT_CLICKS_RING_BYTES",
        Flag::No,
        "8MiB",
        "size",
        "The ring of click events of each core, in memory. Too high: memory. Too low: a disk that \
         hangs for a moment loses clicks (which is counted and reported).",
        to!(clicks.ring_bytes, |raw| size(raw, (64 * KIB)..=(1_024 * MIB)))
    ),
    setting!(
        "clicks.ring_dir",
        "SHUNT_CLICKS_RING_DIR",
        Flag::No,
        "",
        "path",
        "Where the rings are mapped from. Empty: a directory of their own under /dev/shm, else the \
         data directory. It must outlive the process: then kill -9 loses no click.",
        to!(clicks.ring_dir, path)
    ),
    setting!(
        "clicks.flush_ms",
        "SHUNT_CLICKS_FLUSH_MS",
        Flag::No,
        "40",
        "milliseconds",
        "How long an event may wait in its ring before it is written and synced to the spool. Too \
         high: a power cut loses more clicks. Too low: more syncs.",
        to!(clicks.flush, |raw| millis(raw, MILLI..=(MILLI * 50)))
    ),
    setting!(
        "clicks.spool_bytes",
        "SHUNT_CLICKS_SPOOL_BYTES",
        Flag::No,
        "1GiB",
        "size",
        "The bound of the spool on disk: about 100 bytes a click until the worker has folded it. \
         Too high: disk. Too low: clicks are lost (counted and reported) when the worker stands \
         still.",
        to!(clicks.spool_bytes, |raw| size(raw, MIB..=TIB))
    ),
    setting!(
        "clicks.worker",
        "SHUNT_CLICKS_WORKER",
        Flag::No,
        "true",
        "true or false",
        "Whether this process folds clicks into roll-ups. false: they stay in the spool.",
        to!(clicks.worker, boolean)
    ),
    setting!(
        "clicks.fold_ms",
        "SHUNT_CLICKS_FOLD_MS",
        Flag::No,
        "2000",
        "milliseconds",
        "How long the worker gathers clicks before it writes them. Too high: figures are late. Too \
         low: more writes for the same clicks.",
        to!(clicks.fold, |raw| millis(raw, (MILLI * 10)..=(SECOND * 60)))
    ),
    setting!(
        "clicks.visitor_hash",
        "SHUNT_CLICKS_VISITOR_HASH",
        Flag::No,
        "true",
        "true or false",
        "Whether events carry a keyed hash of address and browser, by which visitors of one day \
         are told apart. Its key is destroyed 48 hours after the day; addresses are never stored.",
        to!(clicks.visitor_hash, boolean)
    ),
    setting!(
        "clicks.honour_gpc",
        "SHUNT_CLICKS_HONOUR_GPC",
        Flag::No,
        "true",
        "true or false",
        "Whether that hash is left out for visitors who send Sec-GPC: 1 or DNT: 1.",
        to!(clicks.honour_gpc, boolean)
    ),
    setting!(
        "stats.timezone",
        "SHUNT_STATS_TIMEZONE",
        Flag::No,
        "UTC",
        "time zone",
        "The time zone in which days and months of figures begin, such as Europe/Berlin.",
        |config, raw| {
            let name = raw.text()?;
            config.stats.timezone = jiff::tz::TimeZone::get(name).map_err(|_| {
                format!("{name:?} is no time zone known here; write UTC or Europe/Berlin")
            })?;
            Ok(())
        }
    ),
    setting!(
        "log.level",
        "SHUNT_LOG_LEVEL",
        Flag::No,
        "info",
        "log filter",
        "What is logged to standard error: error, warn, info or debug, also per module \
         (info,shunt_http=debug). Too high: disk and speed. Too low: nobody sees why.",
        |config, raw| {
            let text = raw.text()?;
            parse::log_filter(text)?;
            text.clone_into(&mut config.log.level);
            Ok(())
        }
    ),
    setting!(
        "log.format",
        "SHUNT_LOG_FORMAT",
        Flag::No,
        "text",
        "text or json",
        "How a log line looks.",
        to!(log.format, |raw| word(raw, &[("text", LogFormat::Text), ("json", LogFormat::Json)]))
    ),
];
