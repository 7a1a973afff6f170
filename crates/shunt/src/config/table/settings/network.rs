//! Where events go, TLS, proxies and deadlines.

use std::time::Duration;

use super::super::super::EventsUrl;
use super::super::super::parse::{Raw, address, boolean, duration, path};
use super::super::{Flag, Setting};
use super::{HOUR, MILLI};

/// See the module.
pub(super) const PART: &[Setting] = &[
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
];
