//! Where Redis is and how patient we are with it.

use std::fmt;
use std::time::Duration;

/// The port of an address that names none.
const DEFAULT_PORT: u16 = 6379;

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// A name or an IP address, IPv6 without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl Address {
    /// `HOST`, `HOST:PORT` or `[IPV6]:PORT`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']')?;
                (host, port.strip_prefix(':'))
            }
            None => match text.rsplit_once(':') {
                // As Redis itself writes IPv6: without brackets, the port behind the last colon.
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let port = port.map_or(Some(DEFAULT_PORT), |port| port.parse().ok())?;
        (!host.is_empty() && port != 0).then(|| Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Settings of a [`crate::Handle`].
#[derive(Clone, PartialEq, Eq)]
pub struct RedisOptions {
    /// One server, or some nodes of a cluster (the others are found through them).
    pub seeds: Vec<Address>,
    /// Whether the seeds are nodes of a Redis Cluster.
    pub cluster: bool,
    /// Whether connections are encrypted; certificates are checked against the system's roots, or
    /// [`Self::ca`].
    pub tls: bool,
    /// Certificate authorities in PEM to trust instead of the system's.
    pub ca: Option<Vec<u8>>,
    /// The user of an access list; `None` is Redis' user `default`.
    pub user: Option<String>,
    /// The password.
    pub password: Option<String>,
    /// The number of the database; a cluster has only 0.
    pub database: i64,
    /// How long making a connection may take, logging in included. Default 1 s.
    pub connect_timeout: Duration,
    /// How often each node is asked for a sign of life, and how long that may take. A node that
    /// hangs is known as such after twice this. Default 200 ms.
    pub heartbeat: Duration,
    /// How many calls may be under way at each node; more are refused at once. Default 1,024.
    pub concurrency: usize,
    /// Threads for the driver. Default 1.
    pub io_threads: usize,
}

impl fmt::Debug for RedisOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisOptions")
            .field("seeds", &self.seeds)
            .field("cluster", &self.cluster)
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

/// What is wrong with the address of Redis. Never repeats it: it may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// Not one of the known schemes.
    #[error(
        "an address of Redis begins with redis://, rediss://, redis-cluster:// or rediss-cluster://"
    )]
    Scheme,
    /// No host, a bad port, or several hosts where one is meant.
    #[error(
        "an address of Redis is redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE], of a cluster redis-cluster://[[USER]:PASSWORD@]HOST[:PORT],HOST[:PORT],…"
    )]
    Shape,
    /// User or password hold `%` that is no escape, or what it stands for is no text.
    #[error(
        "write %, @, :, / and # in the user or password of Redis as %25, %40, %3A, %2F and %23"
    )]
    Escape,
    /// A database number where there is only one.
    #[error("a Redis Cluster has no numbered databases; leave out what follows the hosts")]
    Database,
    /// The file of certificate authorities holds none that can be read.
    #[error("the certificate authorities for Redis can't be read; the file must be PEM")]
    Ca,
    /// The system gave no threads.
    #[error("no thread could be started for Redis; look at the limits of processes and memory")]
    Threads,
}

impl RedisOptions {
    /// From `redis://[[user]:password@]host[:port][/database]`, `rediss://…` (TLS), or
    /// `redis-cluster://[[user]:password@]host[:port],host[:port],…` (`rediss-cluster://`).
    ///
    /// # Errors
    /// [`OptionsError`].
    pub fn parse(address: &str) -> Result<Self, OptionsError> {
        let (scheme, rest) = address.split_once("://").ok_or(OptionsError::Scheme)?;
        let (cluster, tls) = match scheme {
            "redis" => (false, false),
            "rediss" => (false, true),
            "redis-cluster" => (true, false),
            "rediss-cluster" => (true, true),
            _ => return Err(OptionsError::Scheme),
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, hosts) = match authority.rsplit_once('@') {
            Some((login, hosts)) => (Some(login), hosts),
            None => (None, authority),
        };
        let (user, password) = login.map(Self::login).transpose()?.unwrap_or_default();
        let seeds: Option<Vec<_>> = hosts.split(',').map(Address::parse).collect();
        let seeds = seeds.ok_or(OptionsError::Shape)?;
        let database = match path {
            "" => 0,
            _ if cluster => return Err(OptionsError::Database),
            _ => path.parse().ok().filter(|number| *number >= 0).ok_or(OptionsError::Shape)?,
        };
        if !cluster && seeds.len() != 1 {
            return Err(OptionsError::Shape);
        }
        Ok(Self {
            seeds,
            cluster,
            tls,
            ca: None,
            user,
            password,
            database,
            connect_timeout: Duration::from_secs(1),
            heartbeat: Duration::from_millis(200),
            concurrency: 1_024,
            io_threads: 1,
        })
    }

    fn login(login: &str) -> Result<(Option<String>, Option<String>), OptionsError> {
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        let text = |part: &str| -> Result<Option<String>, OptionsError> {
            let text = unescape(part).ok_or(OptionsError::Escape)?;
            Ok(Some(text).filter(|text| !text.is_empty()))
        };
        Ok((text(user)?, text(password)?))
    }
}

/// Undoes percent-escapes.
fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let high = char::from(rest.next()?).to_digit(16)?;
        let low = char::from(rest.next()?).to_digit(16)?;
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(options: &RedisOptions) -> Vec<String> {
        options.seeds.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn addresses_are_read_in_all_their_forms() {
        let one = RedisOptions::parse("redis://:p%40ss@127.0.0.1:7000/3").unwrap();
        assert_eq!(addresses(&one), ["127.0.0.1:7000"]);
        assert_eq!((one.cluster, one.tls, one.database), (false, false, 3));
        assert_eq!((one.user, one.password.as_deref()), (None, Some("p@ss")));

        let tls = RedisOptions::parse("rediss://user:secret@[::1]").unwrap();
        assert_eq!(addresses(&tls), ["[::1]:6379"]);
        assert!(tls.tls && tls.user.as_deref() == Some("user"));

        let cluster = RedisOptions::parse("redis-cluster://:x@a:1,b,c:3").unwrap();
        assert_eq!(addresses(&cluster), ["a:1", "b:6379", "c:3"]);
        assert!(cluster.cluster);
        assert!(!format!("{cluster:?}").contains("\"x\""));
    }

    #[test]
    fn what_is_no_address_is_refused_for_its_reason() {
        for (address, error) in [
            ("localhost:6379", OptionsError::Scheme),
            ("http://localhost", OptionsError::Scheme),
            ("redis://", OptionsError::Shape),
            ("redis://a,b", OptionsError::Shape),
            ("redis://a:0", OptionsError::Shape),
            ("redis://a:99999", OptionsError::Shape),
            ("redis://a/x", OptionsError::Shape),
            ("redis://a/-1", OptionsError::Shape),
            ("redis-cluster://a,,b", OptionsError::Shape),
            ("redis-cluster://a/1", OptionsError::Database),
            ("redis://:50%@a", OptionsError::Escape),
            ("redis://:%zz@a", OptionsError::Escape),
        ] {
            assert_eq!(RedisOptions::parse(address).unwrap_err(), error, "{address}");
        }
    }
}
