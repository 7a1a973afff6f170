//! One use of a connection: statements that are harmless until they are committed, and those that
//! commit.
//!
//! Invariants:
//! - a write whose caller gave up before anything was sent that commits is never sent: the two
//!   settle by one compare-and-swap who was first ([`Ticket`]);
//! - "done" is said after the server's last word on the transaction ("ready for query"), and only
//!   if no warning came with it: a commit whose wait for a standby was cut short is reported by a
//!   warning alone;
//! - a connection is used again only when no transaction is open on it.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use shunt_domain::UnknownCause;
use tokio_postgres::Row;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::{ToSql, Type};

use super::error::{Failure, Fault};
use super::overdue::Flight;
use super::pool::Lease;
use super::statements::Statement;
use super::stats::{PostgresStats, count};

/// Opens a transaction that the server ends by itself, with its locks, when it hears nothing more of
/// us for longer than any caller waits: the connection may be gone without the server's knowledge.
const BEGIN: &str = "BEGIN; SET LOCAL idle_in_transaction_session_timeout = '10s'";

/// A parameter of a statement.
pub(super) type Param<'a> = &'a (dyn ToSql + Sync);

/// Where a write is. Its caller and whoever does it settle who was first.
#[derive(Debug, Default)]
pub(super) struct Ticket {
    state: AtomicU8,
    flight: OnceLock<Arc<Flight>>,
}

impl Ticket {
    const WAITING: u8 = 0;
    const SENT: u8 = 1;
    const GIVEN_UP: u8 = 2;

    fn settle(&self, from: u8, to: u8) -> bool {
        self.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Something that commits is about to be sent. `false`: the caller has gone, send nothing.
    pub(super) fn send(&self) -> bool {
        self.settle(Self::WAITING, Self::SENT) || self.state.load(Ordering::Acquire) == Self::SENT
    }

    /// What was sent has surely not happened.
    pub(super) fn take_back(&self) {
        self.settle(Self::SENT, Self::WAITING);
    }

    /// The caller waits no longer; whether nothing was sent, and nothing will be.
    pub(super) fn give_up(&self) -> bool {
        if let Some(flight) = self.flight.get() {
            flight.overdue();
        }
        self.settle(Self::WAITING, Self::GIVEN_UP)
    }

    /// A connection was found for it.
    pub(super) fn board(&self, flight: &Arc<Flight>) {
        // A second attempt is the same flight to its caller.
        let _ = self.flight.set(Arc::clone(flight));
    }
}

/// A connection for one transaction after the other, with the ticket of the write it is used for.
#[derive(Debug)]
pub(super) struct Session {
    lease: Lease,
    ticket: Option<Arc<Ticket>>,
    stats: Arc<PostgresStats>,
    open: AtomicBool,
    broken: AtomicBool,
}

impl Session {
    pub(super) fn new(
        lease: Lease,
        ticket: Option<Arc<Ticket>>,
        stats: Arc<PostgresStats>,
    ) -> Self {
        let (open, broken) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { lease, ticket, stats, open, broken }
    }

    fn hear<T>(&self, answer: Result<T, tokio_postgres::Error>) -> Result<T, Fault> {
        answer.map_err(|error| {
            let fault = Fault::from(error);
            if fault.drops_connection() {
                self.broken.store(true, Ordering::Relaxed);
            }
            fault
        })
    }

    async fn ask(&self, sql: &str, params: &[(Param<'_>, Type)]) -> Result<Vec<Row>, Fault> {
        let answer = self.lease.connected.client.query_typed(sql, params).await;
        self.hear(answer)
    }

    /// Whether the server is the coordinator of a Citus cluster.
    pub(super) fn is_cluster(&self) -> bool {
        self.lease.connected.is_cluster
    }

    /// Runs a statement that changes nothing, or is part of an open transaction.
    pub(super) async fn read(
        &self,
        statement: &Statement,
        params: &[Param<'_>],
    ) -> Result<Vec<Row>, Failure> {
        self.try_read(statement, params).await.map_err(|fault| Failure::harmless(&fault))
    }

    /// The same, with the fault itself.
    pub(super) async fn try_read(
        &self,
        statement: &Statement,
        params: &[Param<'_>],
    ) -> Result<Vec<Row>, Fault> {
        self.ask(statement.sql, &statement.typed(params)).await
    }

    /// The same for a statement whose text is not in the registry as it stands, but made by it.
    pub(super) async fn read_made(
        &self,
        sql: &str,
        params: &[(Param<'_>, Type)],
    ) -> Result<Vec<Row>, Failure> {
        self.ask(sql, params).await.map_err(|fault| Failure::harmless(&fault))
    }

    /// Runs a statement that is a transaction of its own and changes something.
    pub(super) async fn change(
        &self,
        statement: &Statement,
        params: &[Param<'_>],
    ) -> Result<Vec<Row>, Failure> {
        self.send()?;
        let answer = self.try_change(statement.sql, &statement.typed(params)).await;
        self.settled(answer)
    }

    /// The same without looking at the ticket, for a statement that serves many callers; a warning
    /// is an error of its own.
    pub(super) async fn try_change(
        &self,
        sql: &str,
        params: &[(Param<'_>, Type)],
    ) -> Result<Result<Vec<Row>, Warned>, Fault> {
        let before = self.lease.connected.warnings.count();
        let rows = self.ask(sql, params).await?;
        Ok(if self.warned(before) { Err(Warned) } else { Ok(rows) })
    }

    fn warned(&self, before: u64) -> bool {
        let warned = self.lease.connected.warnings.count() != before;
        if warned {
            count(&self.stats.warned);
        }
        warned
    }

    /// Something that commits is about to be sent.
    ///
    /// # Errors
    /// [`Failure::GivenUp`] when the caller has gone.
    pub(super) fn send(&self) -> Result<(), Failure> {
        match &self.ticket {
            Some(ticket) if !ticket.send() => Err(Failure::GivenUp),
            _ => Ok(()),
        }
    }

    /// Nothing that was sent has changed anything.
    pub(super) fn nothing_happened(&self) {
        if let Some(ticket) = &self.ticket {
            ticket.take_back();
        }
    }

    /// What the answer to something that commits means.
    pub(super) fn settled<T>(
        &self,
        answer: Result<Result<T, Warned>, Fault>,
    ) -> Result<T, Failure> {
        match answer {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(Warned)) => Err(Failure::Unknown(UnknownCause::CommitFailed)),
            Err(fault) => Err(Failure::committing(&fault)),
        }
    }

    /// Opens a transaction and runs its first statement, in one round trip.
    pub(super) async fn begin(
        &self,
        statement: &Statement,
        params: &[Param<'_>],
    ) -> Result<Vec<Row>, Failure> {
        self.open.store(true, Ordering::Relaxed);
        let client = &self.lease.connected.client;
        // Both are sent before an answer is waited for, in this order.
        let (begun, first) =
            tokio::join!(client.batch_execute(BEGIN), self.try_read(statement, params));
        self.hear(begun).map_err(|fault| Failure::harmless(&fault))?;
        first.map_err(|fault| Failure::harmless(&fault))
    }

    /// Opens a transaction whose first statement is not ready yet.
    pub(super) async fn open(&self) -> Result<(), Failure> {
        self.open.store(true, Ordering::Relaxed);
        let begun = self.lease.connected.client.batch_execute(BEGIN).await;
        self.hear(begun).map_err(|fault| Failure::harmless(&fault))
    }

    /// Commits the open transaction.
    pub(super) async fn commit(&self) -> Result<(), Failure> {
        self.send()?;
        let before = self.lease.connected.warnings.count();
        let answer = self.lease.connected.client.batch_execute("COMMIT").await;
        let answer = self.hear(answer);
        if answer.is_ok() {
            self.open.store(false, Ordering::Relaxed);
        }
        self.settled(answer.map(|()| if self.warned(before) { Err(Warned) } else { Ok(()) }))
    }

    /// Rolls the open transaction back, if there is one. A failure costs the connection.
    pub(super) async fn roll_back(&self) {
        if !self.open.swap(false, Ordering::Relaxed) || self.broken.load(Ordering::Relaxed) {
            return;
        }
        if self.lease.connected.client.batch_execute("ROLLBACK").await.is_err() {
            self.broken.store(true, Ordering::Relaxed);
        }
    }

    /// Sends rows by `COPY … FROM STDIN (FORMAT binary)` in the open transaction.
    ///
    /// The driver prepares this one statement under a name. That is right through a pooler too: it
    /// is closed before the transaction ends, hence on the server that knows it.
    pub(super) async fn copy<'a>(
        &self,
        statement: &Statement,
        types: &[Type],
        rows: impl Iterator<Item = Vec<Param<'a>>>,
    ) -> Result<(), Failure> {
        let copying = async {
            let sink = self.lease.connected.client.copy_in::<_, Bytes>(statement.sql).await?;
            let writer = BinaryCopyInWriter::new(sink, types);
            tokio::pin!(writer);
            for row in rows {
                writer.as_mut().write(&row).await?;
            }
            writer.finish().await
        };
        let answer = copying.await;
        self.hear(answer).map(drop).map_err(|fault| Failure::harmless(&fault))
    }

    /// Ends the use: puts the connection back if it is as it was found.
    pub(super) async fn end(self) {
        self.roll_back().await;
        if self.broken.load(Ordering::Relaxed) {
            self.lease.cut();
        } else {
            self.lease.give_back();
        }
    }
}

/// The server committed, and warned: whether the commit is everywhere it must be is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Warned;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_the_two_is_first() {
        let ticket = Ticket::default();
        assert!(ticket.send());
        assert!(ticket.send(), "a second statement of the same write");
        assert!(!ticket.give_up());
        ticket.take_back();
        assert!(ticket.give_up());
        assert!(!ticket.send());
        ticket.take_back();
        assert!(!ticket.send());
    }
}
