//! How a DynamoDB table is reached.

use std::fmt;
use std::time::Duration;

/// An access key of one's own instead of the environment's: for servers that are not AWS.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessKey {
    /// Its number, no secret.
    pub id: String,
    /// The secret, never shown.
    pub secret: String,
}

impl fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Which table, where, and how much at once.
///
/// Region, endpoint and credentials come from the usual AWS environment (variables, profile, web
/// identity, container, instance) unless they are given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DynamoOptions {
    /// The table's name: 3 to 255 characters of `a-z A-Z 0-9 _ . -`.
    pub table: String,
    /// The region; `None`: the environment's.
    pub region: Option<String>,
    /// The server's address; `None`: the environment's, which is AWS's unless it says otherwise.
    pub endpoint: Option<String>,
    /// Credentials; `None`: the environment's.
    pub access_key: Option<AccessKey>,
    /// This node's number, from its data directory. A lease of an idempotency key counts as long
    /// as the process that took it is the latest one with its node's number, so two processes at
    /// a time must not share one.
    pub node: u64,
    /// Requests under way at the same time; more wait for their turn, at most until their
    /// deadline. Each has a connection.
    pub max_in_flight: usize,
    /// Requests under way for one batch of links. Less than `max_in_flight`, so that a batch
    /// leaves room for redirects.
    pub batch_in_flight: usize,
    /// How long making a connection may take: name, socket and TLS.
    pub connect_timeout: Duration,
    /// Threads that talk to the server.
    pub io_threads: usize,
}

impl Default for DynamoOptions {
    fn default() -> Self {
        Self {
            table: "shunt".to_owned(),
            region: None,
            endpoint: None,
            access_key: None,
            node: 0,
            max_in_flight: 256,
            batch_in_flight: 64,
            connect_timeout: Duration::from_secs(1),
            io_threads: 1,
        }
    }
}

/// Why an address is no DynamoDB table's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// It begins with something else.
    #[error("a DynamoDB store is named `dynamodb://TABLE`, optionally with `?region=…&endpoint=…`")]
    Form,
    /// The table's name breaks AWS's rule.
    #[error(
        "{0:?} is no name of a DynamoDB table: 3 to 255 characters of a-z, A-Z, 0-9, `_`, `.` and `-`"
    )]
    Table(String),
    /// Something else than a region and an endpoint.
    #[error("{0:?} is not known in a DynamoDB address; there are `region` and `endpoint`")]
    Parameter(String),
    /// An endpoint that is no address.
    #[error("the endpoint {0:?} is no `http://` or `https://` address")]
    Endpoint(String),
}

impl DynamoOptions {
    /// The scheme of such addresses.
    pub const SCHEME: &str = "dynamodb://";

    /// Reads `dynamodb://TABLE[?region=…&endpoint=…]`; everything else is as by default.
    ///
    /// # Errors
    /// [`OptionsError`] says what is wrong with it.
    pub fn parse(address: &str) -> Result<Self, OptionsError> {
        let rest = address.strip_prefix(Self::SCHEME).ok_or(OptionsError::Form)?;
        let (table, parameters) = rest.split_once('?').unwrap_or((rest, ""));
        let named = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        if !(3..=255).contains(&table.len()) || !table.bytes().all(named) {
            return Err(OptionsError::Table(table.to_owned()));
        }
        let mut options = Self { table: table.to_owned(), ..Self::default() };
        for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
            match parameter.split_once('=') {
                Some(("region", region)) if !region.is_empty() => {
                    options.region = Some(region.to_owned());
                }
                Some(("endpoint", endpoint)) => {
                    let http = endpoint.starts_with("http://") || endpoint.starts_with("https://");
                    if !http {
                        return Err(OptionsError::Endpoint(endpoint.to_owned()));
                    }
                    options.endpoint = Some(endpoint.to_owned());
                }
                _ => return Err(OptionsError::Parameter(parameter.to_owned())),
            }
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        let plain = DynamoOptions::parse("dynamodb://links.prod-1").unwrap();
        assert_eq!(plain, DynamoOptions { table: "links.prod-1".into(), ..Default::default() });
        let full = "dynamodb://links?endpoint=http://127.0.0.1:4567&region=eu-west-1";
        let full = DynamoOptions::parse(full).unwrap();
        assert_eq!(full.endpoint.as_deref(), Some("http://127.0.0.1:4567"));
        assert_eq!(full.region.as_deref(), Some("eu-west-1"));
    }

    #[test]
    fn what_is_no_address_says_why() {
        let cases = [
            ("dynamo://links", OptionsError::Form),
            ("dynamodb://ab", OptionsError::Table("ab".into())),
            ("dynamodb://a/b/c", OptionsError::Table("a/b/c".into())),
            ("dynamodb://links?zone=a", OptionsError::Parameter("zone=a".into())),
            ("dynamodb://links?region=", OptionsError::Parameter("region=".into())),
            ("dynamodb://links?endpoint=here", OptionsError::Endpoint("here".into())),
        ];
        for (address, error) in cases {
            assert_eq!(DynamoOptions::parse(address), Err(error), "{address}");
        }
    }

    #[test]
    fn a_secret_is_never_shown() {
        let access_key = Some(AccessKey { id: "id".into(), secret: "canary".into() });
        let options = DynamoOptions { access_key, ..DynamoOptions::default() };
        assert!(!format!("{options:?}").contains("canary"));
    }
}
