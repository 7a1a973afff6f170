//! Exit codes (sysexits.h where one fits) and the errors that carry them.

use std::fmt;
use std::io;

use shunt_store::postgres::PostgresError;
use shunt_store::sqlite::OpenError;

use crate::config::Problems;

/// Why the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Code {
    /// It failed in a way that has no code of its own.
    Failure = 1,
    /// Wrong arguments or settings.
    Usage = 64,
    /// The input is wrong.
    Data = 65,
    /// The input is not there.
    NoInput = 66,
    /// The service or the store can't be reached or is damaged.
    Unavailable = 69,
    /// A file or directory can't be made.
    CantCreate = 73,
    /// Reading or writing failed; the disk is full.
    Io = 74,
    /// Something else has it now: try again.
    Temporary = 75,
}

/// An error with its exit code: one line that says what failed, why, and what to do.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: Code,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn error(code: Code, message: impl Into<String>) -> anyhow::Error {
        anyhow::Error::new(Self { code, message: message.into() })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// The exit code of an error: of the first cause that has one.
pub(crate) fn code_of(error: &anyhow::Error) -> Code {
    error.chain().find_map(code_of_cause).unwrap_or(Code::Failure)
}

fn code_of_cause(cause: &(dyn std::error::Error + 'static)) -> Option<Code> {
    if let Some(failure) = cause.downcast_ref::<Failure>() {
        return Some(failure.code);
    }
    if cause.is::<Problems>() {
        return Some(Code::Usage);
    }
    if let Some(error) = cause.downcast_ref::<OpenError>() {
        return Some(match error {
            OpenError::Missing { .. } => Code::NoInput,
            OpenError::CannotCreate { .. } | OpenError::Exists { .. } => Code::CantCreate,
            OpenError::Locked { .. } => Code::Temporary,
            OpenError::Foreign { .. } => Code::Data,
            OpenError::Newer { .. } | OpenError::Corrupt { .. } | OpenError::OldLibrary { .. } => {
                Code::Unavailable
            }
            OpenError::ReadOnly { .. } | OpenError::DiskFull { .. } | OpenError::Io { .. } => {
                Code::Io
            }
        });
    }
    if let Some(error) = cause.downcast_ref::<PostgresError>() {
        return Some(match error {
            PostgresError::Options(_) => Code::Usage,
            _ => Code::Unavailable,
        });
    }
    cause.downcast_ref::<io::Error>().map(|error| match error.kind() {
        io::ErrorKind::NotFound => Code::NoInput,
        io::ErrorKind::AlreadyExists => Code::CantCreate,
        io::ErrorKind::AddrInUse => Code::Temporary,
        _ => Code::Io,
    })
}

/// The whole chain of an error on one line.
pub(crate) fn one_line(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn codes_survive_context() {
        let failure = Failure::error(Code::Data, "row 3 is bad");
        let wrapped = Err::<(), _>(failure).context("import x.csv").unwrap_err();
        assert_eq!(code_of(&wrapped), Code::Data);
        assert_eq!(one_line(&wrapped), "import x.csv: row 3 is bad");
        let io = io::Error::from(io::ErrorKind::NotFound);
        let wrapped = Err::<(), _>(io).context("read\nx.csv").unwrap_err();
        assert_eq!(code_of(&wrapped), Code::NoInput);
        assert_eq!(one_line(&wrapped), "read x.csv: entity not found");
        assert_eq!(code_of(&anyhow::anyhow!("x")), Code::Failure);
        let locked = OpenError::Locked { path: "/x".into(), pid: Some(7) };
        assert_eq!(code_of(&locked.into()), Code::Temporary);
    }
}
