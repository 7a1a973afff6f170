//! Which sockets this process serves on: passed on by the server before, inherited from systemd
//! (`LISTEN_FDS`), or bound here.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::Path;

use anyhow::Context;
use listenfd::ListenFd;
use shunt_http::listener::sockets::{Arrives, Listening, bind};

use super::handover::Predecessor;
use crate::config::Config;

/// All listening sockets of the process.
pub(super) struct Sockets {
    /// Redirects, API and pages.
    pub(super) serving: Vec<Listening>,
    /// Metrics and probes.
    pub(super) ops: Option<TcpListener>,
}

/// What the sockets are bound to.
pub(super) struct Addresses {
    pub(super) tls: Option<SocketAddr>,
    pub(super) ops: Option<SocketAddr>,
}

/// Takes the predecessor's sockets and lets it drain, or inherits, or binds.
pub(super) fn collect(
    config: &Config,
    predecessor: Option<Predecessor>,
) -> anyhow::Result<(Sockets, Option<Predecessor>)> {
    if let Some(mut predecessor) = predecessor {
        let sockets = predecessor.take_sockets();
        predecessor.let_go()?;
        return Ok((sockets, Some(predecessor)));
    }
    if let Some(sockets) = inherited(config)? {
        return Ok((sockets, None));
    }
    let cores = config.core_count();
    let backlog = i32::try_from(config.backlog).unwrap_or(i32::MAX);
    let mut serving = Vec::new();
    for (address, arrives) in wanted(config) {
        let sockets = bind(address, cores, backlog).with_context(|| taken(address))?;
        serving.extend(sockets.into_iter().map(|socket| Listening { socket, arrives }));
    }
    let ops = match config.ops_listen {
        Some(address) => bind(address, 1, 128).with_context(|| taken(address))?.pop(),
        None => None,
    };
    Ok((Sockets { serving, ops }, None))
}

fn taken(address: SocketAddr) -> String {
    format!(
        "can't listen on {address}; is another server running there? \
         (choose other addresses with --listen and --ops-listen)"
    )
}

/// The addresses of the configuration and what arrives there.
fn wanted(config: &Config) -> Vec<(SocketAddr, Arrives)> {
    let kind = |proxied, plain, with_proxy| if proxied { with_proxy } else { plain };
    let proxied = config.proxy_protocol;
    let plain = kind(proxied.listen, Arrives::Plain, Arrives::ProxiedPlain);
    let tls = kind(proxied.tls, Arrives::Tls, Arrives::ProxiedTls);
    let listen = config.listen.map(|address| (address, plain));
    listen.into_iter().chain(config.tls.listen.map(|address| (address, tls))).collect()
}

/// Sockets that systemd (or anything that speaks `sd_listen_fds(3)`) holds for us. Which is which
/// is told by the port.
fn inherited(config: &Config) -> anyhow::Result<Option<Sockets>> {
    let mut fds = ListenFd::from_env();
    if fds.len() == 0 {
        return Ok(None);
    }
    let mut sockets = Sockets { serving: Vec::new(), ops: None };
    for index in 0..fds.len() {
        let Some(socket) = fds.take_tcp_listener(index).context("use an inherited socket")? else {
            continue;
        };
        socket.set_nonblocking(true)?;
        let port = socket.local_addr()?.port();
        if config.ops_listen.is_some_and(|ops| ops.port() == port) {
            sockets.ops = Some(socket);
            continue;
        }
        let known = wanted(config).into_iter().find(|(address, _)| address.port() == port);
        let arrives = known.map_or(Arrives::Plain, |(_, arrives)| arrives);
        sockets.serving.push(Listening { socket, arrives });
    }
    anyhow::ensure!(
        !sockets.serving.is_empty(),
        "none of the inherited sockets is for redirects; give the socket unit the port of `listen`"
    );
    Ok(Some(sockets))
}

impl Sockets {
    /// The address of the main listener, as bound.
    pub(super) fn main_address(&self) -> anyhow::Result<SocketAddr> {
        let main = self
            .serving
            .iter()
            .find(|listening| !listening.arrives.tls())
            .or_else(|| self.serving.first())
            .context("nothing to listen on; set `listen`")?;
        Ok(main.socket.local_addr()?)
    }

    /// What the sockets are bound to.
    pub(super) fn addresses(&self) -> io::Result<Addresses> {
        let tls = self.serving.iter().find(|listening| listening.arrives.tls());
        Ok(Addresses {
            tls: tls.map(|listening| listening.socket.local_addr()).transpose()?,
            ops: self.ops.as_ref().map(TcpListener::local_addr).transpose()?,
        })
    }

    /// One list of sockets per core. Every socket is served by some core, and every core serves at
    /// least one socket of each kind: where there are fewer sockets than cores they are shared.
    pub(super) fn spread(
        self,
        cores: usize,
    ) -> io::Result<(Vec<Vec<Listening>>, Option<TcpListener>)> {
        let mut per_core: Vec<Vec<Listening>> = (0..cores).map(|_| Vec::new()).collect();
        for arrives in Arrives::ALL {
            let of_kind: Vec<&Listening> =
                self.serving.iter().filter(|listening| listening.arrives == arrives).collect();
            let Some(most) = of_kind.len().checked_sub(1).map(|_| of_kind.len().max(cores)) else {
                continue;
            };
            for index in 0..most {
                let socket = of_kind[index % of_kind.len()].socket.try_clone()?;
                per_core[index % cores].push(Listening { socket, arrives });
            }
        }
        Ok((per_core, self.ops))
    }
}

/// The control socket, for this user only. A leftover of a killed process is replaced: the data
/// directory is locked by now, so nobody is behind it.
pub(super) fn bind_local(path: &Path) -> anyhow::Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt;
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error)
                .with_context(|| format!("replace the old socket {}", path.display()));
        }
        _ => {}
    }
    // The data directory is 0700 where we made it; the mode of the socket itself counts elsewhere.
    let listener = UnixListener::bind(path)
        .with_context(|| format!("make the control socket {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .with_context(|| format!("close the control socket {} to others", path.display()))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sockets(plain: usize, tls: usize) -> Sockets {
        let of = |n, arrives| {
            (0..n).map(move |_| Listening {
                socket: TcpListener::bind("127.0.0.1:0").unwrap(),
                arrives,
            })
        };
        let serving = of(plain, Arrives::Plain).chain(of(tls, Arrives::Tls)).collect();
        Sockets { serving, ops: None }
    }

    #[test]
    fn every_socket_is_served_and_every_core_serves() {
        for (plain, tls, cores) in [(1, 0, 4), (4, 4, 4), (4, 2, 2), (3, 1, 2), (8, 0, 1)] {
            let sockets = sockets(plain, tls);
            let ports = |list: &[Listening]| -> std::collections::BTreeSet<u16> {
                list.iter().map(|l| l.socket.local_addr().unwrap().port()).collect()
            };
            let all = ports(&sockets.serving);
            let (per_core, _) = sockets.spread(cores).unwrap();
            let served: std::collections::BTreeSet<u16> =
                per_core.iter().flat_map(|list| ports(list)).collect();
            assert_eq!(served, all);
            for list in &per_core {
                assert!(list.iter().any(|l| l.arrives == Arrives::Plain));
                assert_eq!(list.iter().any(|l| l.arrives == Arrives::Tls), tls > 0);
            }
        }
    }
}
