//! What AWS and the way there say, in one place.

use std::error::Error;
use std::io::ErrorKind;

use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use shunt_domain::{StoreError, UnknownCause};

/// Why a table can't be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DynamoError {
    /// No threads, or options that can't be.
    #[error("can't use DynamoDB: {0}")]
    Options(String),
    /// Nobody said which region.
    #[error(
        "no AWS region is set: name it in the address (`dynamodb://TABLE?region=eu-west-1`) or in AWS_REGION"
    )]
    NoRegion,
    /// The table is not there.
    #[error("there is no table {table:?}; make it with `shunt migrate`")]
    NoTable {
        /// Its name.
        table: String,
    },
    /// A table of that name is there and is not shunt's.
    #[error(
        "the table {table:?} is not as shunt makes it: {reason}; use another name, or delete it"
    )]
    Foreign {
        /// Its name.
        table: String,
        /// What is different.
        reason: String,
    },
    /// A newer shunt made it.
    #[error(
        "the table {table:?} has format {found}, made by a newer shunt; this one knows format {known}"
    )]
    Newer {
        /// Its name.
        table: String,
        /// What is there.
        found: u64,
        /// What this program knows.
        known: u64,
    },
    /// It could not be asked.
    #[error("the table {table:?} can't be asked: {error}")]
    Store {
        /// Its name.
        table: String,
        /// Why.
        error: StoreError,
    },
}

/// Why an operation did not come to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// It did not happen.
    Refused(StoreError),
    /// It may have happened.
    Unknown(UnknownCause),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Refused(error)
    }
}

/// What is stored is not what shunt stores.
pub(super) fn bad_value(what: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt(format!("a value in the table is damaged: {what}"))
}

pub(super) fn late() -> StoreError {
    StoreError::Unavailable("the deadline passed before anything was sent".to_owned())
}

pub(super) fn shutting_down() -> StoreError {
    StoreError::Unavailable("the store is shutting down".to_owned())
}

/// What became of one request that was not answered as asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Its condition does not hold.
    Condition,
    /// It was not done; the same request may be done in a moment.
    Again(StoreError),
    /// It was not done, and asking again does not help.
    Refused(StoreError),
    /// It may have been done.
    Lost(String),
}

/// The texts of an error and of those it was caused by.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        // Many repeat what they were caused by.
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

/// Whether no connection came about, so that nothing was sent.
fn was_not_sent(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            let kind = error.kind();
            return matches!(
                kind,
                ErrorKind::ConnectionRefused
                    | ErrorKind::HostUnreachable
                    | ErrorKind::NetworkUnreachable
                    | ErrorKind::AddrNotAvailable
            );
        }
        cause = error.source();
    }
    false
}

/// What the code of a service's answer means. `None` for one that says nothing about it.
fn by_code(code: &str, message: &str) -> Option<Verdict> {
    let text = || format!("{code}: {message}");
    Some(match code {
        "ConditionalCheckFailedException" => Verdict::Condition,
        "ProvisionedThroughputExceededException"
        | "ThrottlingException"
        | "RequestLimitExceeded"
        | "LimitExceededException"
        | "TransactionConflictException"
        | "ReplicatedWriteConflictException" => Verdict::Again(StoreError::Unavailable(text())),
        "ResourceNotFoundException" => Verdict::Refused(StoreError::Unavailable(format!(
            "there is no such table, or it is not ready yet; `shunt migrate` makes it ({message})"
        ))),
        "AccessDeniedException" => Verdict::Refused(StoreError::Unavailable(format!(
            "these AWS credentials may not do this ({message}); look at the role's policy"
        ))),
        "UnrecognizedClientException"
        | "InvalidSignatureException"
        | "IncompleteSignatureException"
        | "MissingAuthenticationTokenException"
        | "MissingAuthenticationToken"
        | "ExpiredTokenException"
        | "ExpiredToken" => Verdict::Refused(StoreError::Unavailable(format!(
            "AWS refuses the credentials ({code}: {message}); look at them and at the clock"
        ))),
        // A request that we should not have made.
        "ValidationException" | "SerializationException" | "UnknownOperationException" => {
            Verdict::Refused(StoreError::Unavailable(text()))
        }
        _ => return None,
    })
}

/// What became of a request.
pub(super) fn verdict<E>(error: &SdkError<E, HttpResponse>) -> Verdict
where
    E: ProvideErrorMetadata + Error + 'static,
{
    match error {
        SdkError::ConstructionFailure(_) => Verdict::Refused(StoreError::Unavailable(chain(error))),
        SdkError::DispatchFailure(failure) => {
            let text = chain(error);
            match failure.as_connector_error() {
                Some(error) if was_not_sent(error) => Verdict::Again(StoreError::Unavailable(text)),
                // What is no matter of connections comes before them: credentials, signing.
                Some(error) if !(error.is_io() || error.is_timeout()) => {
                    Verdict::Refused(StoreError::Unavailable(text))
                }
                _ => Verdict::Lost(text),
            }
        }
        SdkError::ServiceError(answer) => {
            let message = error.message().unwrap_or_default();
            let known = error.code().and_then(|code| by_code(code, message));
            let status = answer.raw().status().as_u16();
            known.unwrap_or_else(|| {
                let text =
                    format!("{status} {}: {message}", error.code().unwrap_or("without code"));
                if status >= 500 {
                    Verdict::Lost(text)
                } else {
                    Verdict::Refused(StoreError::Unavailable(text))
                }
            })
        }
        _ => Verdict::Lost(chain(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_say_what_became_of_a_request() {
        let kind = |code: &str| match by_code(code, "why") {
            None => "nothing",
            Some(Verdict::Condition) => "condition",
            Some(Verdict::Again(_)) => "again",
            Some(Verdict::Refused(_)) => "refused",
            Some(Verdict::Lost(_)) => "lost",
        };
        for (code, expected) in [
            ("ConditionalCheckFailedException", "condition"),
            ("ProvisionedThroughputExceededException", "again"),
            ("ThrottlingException", "again"),
            ("ResourceNotFoundException", "refused"),
            ("AccessDeniedException", "refused"),
            ("ExpiredTokenException", "refused"),
            ("ValidationException", "refused"),
            ("InternalServerError", "nothing"),
            ("SomethingNew", "nothing"),
        ] {
            assert_eq!(kind(code), expected, "{code}");
        }
    }

    #[test]
    fn only_a_connection_that_never_was_is_known_not_to_have_sent() {
        let of = |kind| was_not_sent(&std::io::Error::from(kind));
        assert!(of(ErrorKind::ConnectionRefused) && of(ErrorKind::HostUnreachable));
        assert!(!of(ErrorKind::ConnectionReset) && !of(ErrorKind::BrokenPipe));
        assert!(!of(ErrorKind::TimedOut) && !of(ErrorKind::UnexpectedEof));
    }
}
