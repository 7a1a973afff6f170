//! Links, access, clicks, figures and logs.

use shunt_engine::codes::{Alphabet, AlphabetError};

use super::super::super::parse::{Raw, boolean, count, millis, number, path, schemes, size, word};
use super::super::super::urls::postgres;
use super::super::super::{AllocatorKind, LogFormat, parse};
use super::super::{Flag, Setting};
use super::{KIB, MIB, MILLI, SECOND, TIB};

/// See the module.
pub(super) const PART: &[Setting] = &[
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
        secret
        "stats.store",
        "SHUNT_STATS_STORE",
        Flag::No,
        "",
        "URL",
        "Where the figures of clicks are kept when the links are in DynamoDB, which can't have \
         them: a postgres://user:password@host:5432/database that all nodes share, or nothing for \
         clicks.db in the data directory of each. With other stores they are beside the links.",
        |config, raw| {
            let stats = raw.text()?;
            config.store.stats = match postgres(stats) {
                _ if stats.is_empty() => None,
                Some(options) => Some(Box::new(options?)),
                None => return Err("write postgres://user:password@host:5432/database".to_owned()),
            };
            Ok(())
        }
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
