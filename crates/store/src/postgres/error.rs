//! What an error of the server or the driver means: the one place that looks at SQLSTATEs.
//!
//! Three questions are answered of each: what the caller of a port is told, whether the connection
//! may be used again, and, if the statement would have committed, whether it surely did not. Where
//! the last can't be known the answer is "unknown", never "refused".

use shunt_domain::{StoreError, UnknownCause};
use tokio_postgres::error::{DbError, Severity};

/// What helps when tables of ours are missing.
pub(super) const MIGRATE: &str = "; run `shunt migrate`";

/// What is told to the caller of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Unavailable,
    DiskFull,
    Corrupt,
    Moved,
}

/// The SQLSTATE of a write that came to the wrong shard. The server's own classes begin with 0 to 4
/// and A to H.
const MOVED: &str = "SH001";

/// What an SQLSTATE means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Meaning {
    told: Told,
    /// The connection is of no more use: it leads to a server that leaves or only reads, or its
    /// two ends disagree.
    drop: bool,
    /// A statement that commits by itself, or a `COMMIT`, may have happened all the same.
    maybe_done: bool,
    /// It did not happen and is worth being repeated at once.
    again: bool,
}

const KEEP: Meaning =
    Meaning { told: Told::Unavailable, drop: false, maybe_done: false, again: false };
const DROP: Meaning = Meaning { drop: true, ..KEEP };
const LOST: Meaning = Meaning { maybe_done: true, ..DROP };

/// The table. A code that is not in it counts as an ordinary error of one statement.
fn meaning(code: &str, severity: Option<Severity>) -> Meaning {
    // The server ends the connection, maybe while it waited for a standby after its own commit.
    if matches!(severity, Some(Severity::Fatal | Severity::Panic)) {
        return LOST;
    }
    match code {
        // A standby, or a primary that became one: a new connection may lead to the right one.
        "25006" => Meaning { again: true, ..DROP },
        // The server is stopped, crashed, starts up; the database was dropped; an idle session.
        "57P01" | "57P02" | "57P03" | "57P04" | "57P05" => LOST,
        // The server itself can't say how a transaction ended.
        "40003" | "08007" => LOST,
        // The two ends of the connection don't understand each other.
        "08P01" => LOST,
        // Cut short by statement_timeout or by hand, before the commit.
        "57014" => KEEP,
        // Rolled back in favour of somebody else.
        "40001" | "40P01" => Meaning { again: true, ..KEEP },
        // Raised by the guard of migration 3: another shard owns this part of the ring.
        MOVED => Meaning { told: Told::Moved, ..KEEP },
        "53100" => Meaning { told: Told::DiskFull, ..KEEP },
        "XX001" | "XX002" => Meaning { told: Told::Corrupt, ..KEEP },
        // Prepared statements, portals and transactions are not where we left them.
        "26000" | "34000" | "42P05" => DROP,
        _ if code.starts_with("25") || code.starts_with("28") || code.starts_with("3D") => DROP,
        // A node behind this server can't be reached: this connection is as good as before, but
        // what was under way there may have happened.
        _ if code.starts_with("08") => Meaning { maybe_done: true, ..KEEP },
        _ => KEEP,
    }
}

/// An error with its meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    meaning: Meaning,
    code: Option<String>,
    text: String,
}

impl Fault {
    /// No connection, or it broke: whatever was under way may have happened.
    pub(crate) fn lost(text: impl Into<String>) -> Self {
        Self { meaning: LOST, code: None, text: text.into() }
    }

    /// What the caller of a port is told.
    pub(crate) fn store_error(&self) -> StoreError {
        match self.meaning.told {
            Told::Unavailable => StoreError::Unavailable(self.text.clone()),
            Told::DiskFull => StoreError::DiskFull,
            Told::Corrupt => StoreError::Corrupt(self.text.clone()),
            Told::Moved => StoreError::Moved,
        }
    }

    /// Whether the connection must not be used again.
    pub(super) const fn drops_connection(&self) -> bool {
        self.meaning.drop
    }

    /// Why nobody knows whether a statement that commits has happened; `None` when it has not.
    pub(super) fn unknown(&self) -> Option<UnknownCause> {
        self.meaning.maybe_done.then_some(UnknownCause::Lost)
    }

    /// Whether it is worth repeating at once: a deadlock, a serialization failure, a connection
    /// that was gone before anything could have been committed.
    pub(super) const fn again(&self) -> bool {
        self.meaning.again
    }

    /// The SQLSTATE, if the server said one.
    pub(super) fn code(&self) -> Option<&str> {
        self.code.as_deref()
    }

    /// Whether the server refused the values of one row, so that the other rows of a statement may
    /// do without it: data exceptions, constraints, limits of size, a key of another shard.
    pub(super) fn is_about_values(&self) -> bool {
        self.code().is_some_and(|code| {
            code == MOVED || ["22", "23", "54"].iter().any(|class| code.starts_with(class))
        })
    }

    /// Whether the time that the server was given for a statement is over.
    pub(super) fn is_timeout(&self) -> bool {
        self.code() == Some("57014")
    }

    /// Whether the server knows us and won't have us, so that trying again makes no difference.
    pub(super) fn is_refusal(&self) -> bool {
        self.code().is_some_and(|code| code.starts_with("28") || code.starts_with("3D"))
    }

    /// The error in words.
    pub(super) fn text(&self) -> &str {
        &self.text
    }
}

impl From<&DbError> for Fault {
    fn from(error: &DbError) -> Self {
        let code = error.code().code();
        let hint = match code {
            "42P01" | "42703" | "42883" => MIGRATE,
            "42501" => "; grant it to the user that shunt logs in as",
            _ => "",
        };
        Self {
            meaning: meaning(code, error.parsed_severity()),
            code: Some(code.to_owned()),
            // The message alone: details may hold rows.
            text: format!("{} ({code}){hint}", error.message()),
        }
    }
}

impl From<&tokio_postgres::Error> for Fault {
    fn from(error: &tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(error) => error.into(),
            // The driver's own: closed, reset, a message that it does not understand.
            None => Self::lost(chain(error)),
        }
    }
}

impl From<tokio_postgres::Error> for Fault {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::from(&error)
    }
}

/// An error and what caused it, in one line; each part once.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        source = inner.source();
    }
    text
}

/// How one attempt at a write ended short of success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The caller gave up before anything was sent that could have been committed.
    GivenUp,
    /// It did not happen and will not.
    Refused(StoreError),
    /// It did not happen, and may when it is repeated.
    Again(StoreError),
    /// It may have happened.
    Unknown(UnknownCause),
}

impl Failure {
    /// What a fault means where nothing was sent that could have been committed.
    pub(super) fn harmless(fault: &Fault) -> Self {
        let error = fault.store_error();
        if fault.again() || fault.unknown().is_some() {
            Self::Again(error)
        } else {
            Self::Refused(error)
        }
    }

    /// What a fault means for a statement that commits.
    pub(super) fn committing(fault: &Fault) -> Self {
        match fault.unknown() {
            Some(cause) => Self::Unknown(cause),
            None if fault.again() => Self::Again(fault.store_error()),
            None => Self::Refused(fault.store_error()),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Refused(error)
    }
}

/// A stored value that our own types refuse.
pub(super) fn bad_value(what: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt(format!("a stored value is invalid: {what}"))
}

/// Why a server can't be used as a store. Each message is one line that ends with what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PostgresError {
    /// An option is wrong, or a file that it names.
    #[error("{0}")]
    Options(String),
    /// Nobody answers, or in time.
    #[error(
        "can't reach PostgreSQL at {address}: {reason}; check the address, and that the server runs"
    )]
    Unreachable {
        /// The addresses that were tried.
        address: String,
        /// What the last attempt said.
        reason: String,
    },
    /// User or password are wrong, or the server does not let this machine in.
    #[error(
        "PostgreSQL at {address} does not let us in: {reason}; check user, password and pg_hba.conf"
    )]
    Denied {
        /// The addresses that were tried.
        address: String,
        /// What the server said.
        reason: String,
    },
    /// There is no such database.
    #[error("PostgreSQL at {address} has no such database: {reason}; make it with `createdb`")]
    NoDatabase {
        /// The addresses that were tried.
        address: String,
        /// What the server said.
        reason: String,
    },
    /// The tables are not there, or older than this program.
    #[error("the database has schema {found}, this program needs {known}; run `shunt migrate`")]
    Outdated {
        /// Its schema, 0 when there is none.
        found: i32,
        /// The schema needed here.
        known: i32,
    },
    /// The database is a Citus cluster and its tables are on the coordinator.
    #[error(
        "the database is a Citus cluster, but {tables} is not distributed; run `shunt migrate`"
    )]
    NotDistributed {
        /// Their names.
        tables: String,
    },
    /// The tables were made by a later version of this program.
    #[error(
        "the database has schema {found}, this program knows up to {known}; start the newer program that migrated it"
    )]
    Newer {
        /// Its schema.
        found: i32,
        /// The newest schema known here.
        known: i32,
    },
    /// A migration that was applied is not the one that this program has under its number.
    #[error(
        "migration {version} of the database is another one than this program's; it was applied by a different build of shunt: start that one"
    )]
    Foreign {
        /// The migration's number.
        version: i32,
    },
    /// Another program migrates and does not come to an end.
    #[error(
        "another program has been migrating this database for {0:?}; look for it in pg_stat_activity"
    )]
    Busy(std::time::Duration),
    /// The server refused a statement of a migration.
    #[error("the server refused {what}: {reason}; {advice}")]
    Refused {
        /// What was tried.
        what: String,
        /// What it said.
        reason: String,
        /// What to do.
        advice: &'static str,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    const ERROR: Option<Severity> = Some(Severity::Error);

    /// Every class and code of PostgreSQL 15 that a store's statements can meet.
    #[test]
    fn sqlstates_mean_what_the_table_says() {
        // code, told, dropped, maybe done, again
        let unavailable = Told::Unavailable;
        let table = [
            ("08000", unavailable, false, true, false),
            ("08003", unavailable, false, true, false),
            ("08006", unavailable, false, true, false),
            ("08001", unavailable, false, true, false),
            ("08004", unavailable, false, true, false),
            ("08007", unavailable, true, true, false),
            ("08P01", unavailable, true, true, false),
            ("22021", unavailable, false, false, false),
            ("22P05", unavailable, false, false, false),
            ("23505", unavailable, false, false, false),
            ("25006", unavailable, true, false, true),
            ("25P01", unavailable, true, false, false),
            ("25P02", unavailable, true, false, false),
            ("25P03", unavailable, true, false, false),
            ("26000", unavailable, true, false, false),
            ("28P01", unavailable, true, false, false),
            ("3D000", unavailable, true, false, false),
            ("40001", unavailable, false, false, true),
            ("40003", unavailable, true, true, false),
            ("40P01", unavailable, false, false, true),
            ("42501", unavailable, false, false, false),
            ("42P01", unavailable, false, false, false),
            ("42P05", unavailable, true, false, false),
            ("53100", Told::DiskFull, false, false, false),
            ("53200", unavailable, false, false, false),
            ("54000", unavailable, false, false, false),
            ("55P03", unavailable, false, false, false),
            ("57014", unavailable, false, false, false),
            ("57P01", unavailable, true, true, false),
            ("57P02", unavailable, true, true, false),
            ("57P03", unavailable, true, true, false),
            ("57P04", unavailable, true, true, false),
            ("57P05", unavailable, true, true, false),
            ("58030", unavailable, false, false, false),
            ("XX000", unavailable, false, false, false),
            ("SH001", Told::Moved, false, false, false),
            ("XX001", Told::Corrupt, false, false, false),
            ("XX002", Told::Corrupt, false, false, false),
            ("01000", unavailable, false, false, false),
        ];
        for (code, told, drop, maybe_done, again) in table {
            assert_eq!(meaning(code, ERROR), Meaning { told, drop, maybe_done, again }, "{code}");
            // An end of the connection is an end of the connection whatever the code is.
            for severity in [Severity::Fatal, Severity::Panic] {
                let fatal = meaning(code, Some(severity));
                assert!(fatal.drop && fatal.maybe_done && !fatal.again, "{code}");
            }
        }
    }

    #[test]
    fn a_fault_is_unknown_only_where_something_was_sent() {
        let lost = Fault::lost("closed");
        assert_eq!(Failure::committing(&lost), Failure::Unknown(UnknownCause::Lost));
        let closed = StoreError::Unavailable("closed".to_owned());
        assert_eq!(Failure::harmless(&lost), Failure::Again(closed));
        let fault = |code: &str| Fault {
            meaning: meaning(code, ERROR),
            code: Some(code.to_owned()),
            text: "x".to_owned(),
        };
        let refused = Failure::Refused(StoreError::Unavailable("x".to_owned()));
        for code in ["57014", "23505"] {
            assert_eq!(Failure::committing(&fault(code)), refused, "{code}");
            assert_eq!(Failure::harmless(&fault(code)), refused, "{code}");
        }
        for code in ["08006", "57P01"] {
            assert_eq!(Failure::committing(&fault(code)), Failure::Unknown(UnknownCause::Lost));
        }
        let again = Failure::Again(StoreError::Unavailable("x".to_owned()));
        for code in ["40P01", "40001", "25006"] {
            assert_eq!(Failure::committing(&fault(code)), again, "{code}");
        }
        let full = Failure::Refused(StoreError::DiskFull);
        assert_eq!(Failure::committing(&fault("53100")), full);
        assert!(fault("22021").is_about_values() && !fault("40001").is_about_values());
    }
}
