//! Where the service is and what it is called: addresses, directory, cores.

use super::super::super::parse::{address, base_url, count, number, path};
use super::super::{Flag, Setting};

/// See the module.
pub(super) const PART: &[Setting] = &[
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
];
