//! The settings of the section `limits`.

use super::super::super::parse::{boolean, count, duration, rate, size};
use super::super::{Flag, Setting};
use super::{KIB, MIB, MILLI, SECOND};

/// The settings of this section.
pub(super) const PART: &[Setting] = &[
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
        "limits.misses",
        "SHUNT_LIMITS_MISSES",
        Flag::No,
        "60/1m",
        "rate",
        "Look-ups of links that do not exist, from one IPv4 address or IPv6 /64; after that it gets \
         429 for all that is not cached. A link that exists costs nothing. 60/1m is sixty at once \
         and one more every second; 0 is no limit. Too high: codes can be guessed. Too low: \
         offices behind one address are turned away.",
        to!(limits.misses, rate)
    ),
    setting!(
        "limits.creates_per_address",
        "SHUNT_LIMITS_CREATES_PER_ADDRESS",
        Flag::No,
        "20/1m",
        "rate",
        "Links made without an API key from one IPv4 address or IPv6 /64, where \
         auth.anonymous_create allows it; 0 is no limit. Too high: spammers. Too low: offices \
         behind one address are turned away.",
        to!(limits.creates_per_address, rate)
    ),
    setting!(
        "limits.creates_per_key",
        "SHUNT_LIMITS_CREATES_PER_KEY",
        Flag::No,
        "0",
        "rate",
        "Links made with one API key, rows of batches included; 0 is no limit. Admin keys are not \
         limited. Too high: one leaked key fills the store. Too low: batches are cut short.",
        to!(limits.creates_per_key, rate)
    ),
    setting!(
        "limits.logins",
        "SHUNT_LIMITS_LOGINS",
        Flag::No,
        "10/15m",
        "rate",
        "API keys and setup links that are not good, from one IPv4 address or IPv6 /64; after that \
         the answer to them is 429. Good ones always work. 0 is no limit. Too high: guessing \
         reaches the store. Too low: people who mistype wait.",
        to!(limits.logins, rate)
    ),
    setting!(
        "limits.loopback",
        "SHUNT_LIMITS_LOOPBACK",
        Flag::No,
        "false",
        "true or false",
        "Whether callers on this machine itself (by a loopback address and name, nothing forwarded) \
         are limited too.",
        to!(limits.loopback, boolean)
    ),
    setting!(
        "limits.deadline",
        "SHUNT_LIMITS_DEADLINE",
        Flag::No,
        "40ms",
        "duration",
        "How long the shared cache may take to count for all nodes together; after that a node \
         counts for itself. Too high: a hung cache slows creates and 404s. Too low: each node \
         counts for itself.",
        to!(limits.deadline, |raw| duration(raw, MILLI..=SECOND))
    ),
];
