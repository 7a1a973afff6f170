//! Addresses of PostgreSQL as people write them: libpq's connection URIs, as far as they fit.
//!
//! <https://www.postgresql.org/docs/15/libpq-connect.html#LIBPQ-CONNSTRING>

use std::path::PathBuf;
use std::str::FromStr as _;

use tokio_postgres::Config;
use tokio_postgres::config::Host;

use super::options::{PostgresOptions, Secret, TlsMode};

/// What the rest of the address may say.
const PARAMETERS: &str = "sslmode, sslrootcert, application_name, connect_timeout";

impl PostgresOptions {
    /// Reads `postgres://user:password@host1:port1,host2:port2/database?sslmode=verify-full&…`.
    ///
    /// Parameters: `sslmode` (`disable`, or `verify-full` with `sslrootcert=/path/to/ca.pem`),
    /// `application_name`, `connect_timeout` in seconds. Reserved characters in user and password
    /// are percent-encoded. All else keeps its default.
    ///
    /// # Errors
    /// What is wrong with it, never repeating any of it: it may hold a password.
    pub fn from_url(text: &str) -> Result<Self, String> {
        let (address, query) = text.split_once('?').unwrap_or((text, ""));
        let (mut mode, mut authorities, mut rest) = (None, None, Vec::new());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("sslmode", value)) => mode = Some(value),
                Some(("sslrootcert", value)) => authorities = Some(decoded(value)?),
                Some(("application_name" | "connect_timeout", _)) => rest.push(pair),
                _ => return Err(format!("a parameter is none of {PARAMETERS}")),
            }
        }
        let tls = match (mode, authorities) {
            (None | Some("disable"), None) => TlsMode::Off,
            (None | Some("verify-full"), Some(path)) => {
                TlsMode::Verified { authorities: PathBuf::from(path) }
            }
            (Some("verify-full"), None) => {
                return Err("sslmode=verify-full needs sslrootcert=/path/to/ca.pem".to_owned());
            }
            _ => {
                return Err("sslmode is `disable`, or `verify-full` with sslrootcert; anything \
                            between encrypts without knowing to whom"
                    .to_owned());
            }
        };
        let address = match rest.as_slice() {
            [] => address.to_owned(),
            rest => format!("{address}?{}", rest.join("&")),
        };
        // The driver's errors name the option, never its value.
        let config = Config::from_str(&address).map_err(|_| {
            "this is no address of PostgreSQL; write postgres://user:password@host:5432/database \
             and percent-encode reserved characters in user and password"
                .to_owned()
        })?;
        from_config(&config, tls)
    }
}

fn from_config(config: &Config, tls: TlsMode) -> Result<PostgresOptions, String> {
    let defaults = PostgresOptions::default();
    let hosts: Vec<String> = config.get_hosts().iter().map(host).collect();
    if hosts.is_empty() {
        return Err("no host is named".to_owned());
    }
    let port = |at: usize| match config.get_ports() {
        [] => 5432,
        // libpq: one port counts for all hosts.
        [one] => *one,
        many => many.get(at).copied().unwrap_or(5432),
    };
    let hosts = hosts.into_iter().enumerate().map(|(at, host)| (host, port(at))).collect();
    let password = match config.get_password().map(str::from_utf8) {
        None => None,
        Some(Ok(password)) => Some(Secret::new(password)),
        Some(Err(_)) => return Err("the password is no UTF-8".to_owned()),
    };
    let user = config.get_user().filter(|user| !user.is_empty());
    let user = user.ok_or("no user is named")?.to_owned();
    Ok(PostgresOptions {
        hosts,
        password,
        database: config.get_dbname().unwrap_or(&user).to_owned(),
        user,
        tls,
        application_name: config
            .get_application_name()
            .map_or(defaults.application_name.clone(), str::to_owned),
        connect_timeout: config
            .get_connect_timeout()
            .copied()
            .filter(|timeout| !timeout.is_zero())
            .unwrap_or(defaults.connect_timeout),
        ..defaults
    })
}

fn host(host: &Host) -> String {
    match host {
        Host::Tcp(name) => name.clone(),
        Host::Unix(path) => path.display().to_string(),
    }
}

/// Undoes percent-encoding (RFC 3986 section 2.1).
fn decoded(text: &str) -> Result<String, String> {
    let wrong = || "sslrootcert is not percent-encoded as it should be".to_owned();
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, tail @ ..] = rest {
        rest = tail;
        if *byte != b'%' {
            bytes.push(*byte);
            continue;
        }
        let [high, low, tail @ ..] = rest else { return Err(wrong()) };
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let (Some(high), Some(low)) = (digit(*high), digit(*low)) else { return Err(wrong()) };
        bytes.push(u8::try_from(high * 16 + low).map_err(|_| wrong())?);
        rest = tail;
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_says_where_who_and_how() {
        let options = PostgresOptions::from_url(
            "postgres://ada:p%40ss@db1:5433,db2/links?sslmode=verify-full&sslrootcert=/etc/ca%20s.pem&connect_timeout=3",
        )
        .unwrap();
        assert_eq!(options.hosts, [("db1".to_owned(), 5433), ("db2".to_owned(), 5432)]);
        assert_eq!(options.user, "ada");
        assert_eq!(options.password, Some(Secret::new("p@ss")));
        assert_eq!(options.database, "links");
        assert_eq!(options.connect_timeout.as_secs(), 3);
        assert_eq!(options.tls, TlsMode::Verified { authorities: "/etc/ca s.pem".into() });

        let short = PostgresOptions::from_url("postgresql://ada@127.0.0.1").unwrap();
        assert_eq!(short.hosts, [("127.0.0.1".to_owned(), 5432)]);
        assert_eq!((short.database.as_str(), short.password), ("ada", None));
        assert_eq!(short.tls, TlsMode::Off);

        let socket = PostgresOptions::from_url("postgres://ada@%2Frun%2Fpostgresql:5499/x");
        assert_eq!(socket.unwrap().hosts, [("/run/postgresql".to_owned(), 5499)]);
    }

    #[test]
    fn what_is_wrong_is_said_without_the_secret() {
        for (text, said) in [
            ("postgres://ada:geheim@h/x?sslmode=require", "sslmode"),
            ("postgres://ada:geheim@h/x?sslmode=verify-full", "sslrootcert"),
            ("postgres://ada:geheim@h/x?geheim=1", "parameter"),
            ("postgres://ada:geheim@h:port/x", "postgres://user"),
            ("postgres://:geheim@h/x", "user"),
            ("postgres://ada:geheim@/x", "host"),
            ("postgres://ada:geheim@h/x?sslrootcert=%zz", "percent"),
        ] {
            let error = PostgresOptions::from_url(text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
            assert!(!error.contains("geheim"), "{error}");
        }
    }
}
