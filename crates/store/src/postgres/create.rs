//! Creating links: one statement for those that come at the same time, COPY for large batches.
//!
//! Invariant: a row is created by an insertion that the primary key (code, domain) judges, and by
//! nothing else; who has a key that was not free is asked afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use shunt_domain::ports::CreateRefusal;
use shunt_domain::{
    Deadline, Link, LinkKey, NewLink, Outcome, StoreError, Stored, Timestamp, Version,
};
use tokio::sync::oneshot;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::PostgresStore;
use super::database::{ATTEMPTS, wait};
use super::error::{Failure, Fault, bad_value};
use super::feed;
use super::gather::Flight as Gathered;
use super::overdue::{Flight, Pilot};
use super::place::{Kind, Placed, Places};
use super::pool::{Lease, Pool};
use super::row::{self, Record};
use super::session::{Param, Session, Ticket, Warned};
use super::statements;
use super::stats::{PostgresStats, count};
use super::types::Micros;

/// Up to this many rows are one `INSERT … VALUES`; more go by COPY.
pub(super) const VALUES_ROWS: usize = 1_000;

/// A link that was just created at `place`.
fn fresh(mut data: NewLink, place: Micros) -> Link {
    data.created_at = place.timestamp();
    let updated_at = data.created_at;
    Link { data, version: Version::FIRST, updated_at, used: 0 }
}

fn record(link: &NewLink, place: Micros) -> Record<'_> {
    Record::link(link, place, Version::FIRST, None, 0)
}

/// Inserts rows by one statement unless their keys exist; says of each whether it was inserted.
async fn insert(
    session: &Session,
    records: &[Record<'_>],
) -> Result<Result<Vec<bool>, Warned>, Fault> {
    // In the order of keys, so that no two statements wait for each other; of equal keys the first
    // comes first.
    let mut order: Vec<&Record<'_>> = records.iter().collect();
    order.sort_by_key(|record| (record.code, record.domain));
    let params: Vec<Param<'_>> = order.iter().flat_map(|record| record.params()).collect();
    let sql = statements::INSERT.sql(records.len());
    let rows = session.try_change(&sql, &statements::INSERT.typed(&params)).await?;
    Ok(rows.map(|rows| inserted(records, &rows)))
}

/// Which of the records the answered keys belong to: of equal keys the first.
fn inserted(records: &[Record<'_>], rows: &[Row]) -> Vec<bool> {
    let mut keys: BTreeSet<(&str, i64)> = BTreeSet::new();
    for row in rows {
        // The server answers with what it was given.
        if let (Ok(code), Ok(domain)) = (row.try_get(0), row.try_get(1)) {
            keys.insert((code, domain));
        }
    }
    records.iter().map(|record| keys.remove(&(record.code, record.domain))).collect()
}

/// Who has these keys: `Taken` by a link or `Retired` by a tombstone.
async fn holders(
    session: &Session,
    keys: &[&LinkKey],
) -> Result<BTreeMap<LinkKey, CreateRefusal>, Failure> {
    let rows = match keys {
        [] => Vec::new(),
        [key] => {
            let domain = i64::from(key.domain.0);
            session.read(&statements::HOLDER, &[&key.code.as_str(), &domain]).await?
        }
        keys => {
            let codes: Vec<&str> = keys.iter().map(|key| key.code.as_str()).collect();
            session.read(&statements::HOLDERS, &[&codes]).await?
        }
    };
    let holder = |row: &Row| {
        let dead = row::get::<i16>(row, 2)? != 0;
        let refusal = if dead { CreateRefusal::Retired } else { CreateRefusal::Taken };
        Ok((row::key(row)?, refusal))
    };
    rows.iter().map(holder).collect()
}

/// Whose fault it is that these rows are not there. What can't be found out is told as such: the
/// others of the batch are there whatever becomes of this question.
async fn refusals<'a>(
    session: &Session,
    keys: impl Iterator<Item = (&'a LinkKey, bool)>,
) -> Vec<Option<CreateRefusal>> {
    let keys: Vec<(&LinkKey, bool)> = keys.collect();
    let refused: Vec<&LinkKey> =
        keys.iter().filter(|(_, inserted)| !inserted).map(|(key, _)| *key).collect();
    let known = holders(session, &refused).await;
    let verdict = |(key, inserted): (&LinkKey, bool)| {
        let unknown = |error| Some(CreateRefusal::Store(error));
        match &known {
            _ if inserted => None,
            Ok(known) => match known.get(key) {
                Some(refusal) => Some(refusal.clone()),
                None => unknown(bad_value("a key that is taken and has no row")),
            },
            Err(Failure::Refused(error) | Failure::Again(error)) => unknown(error.clone()),
            Err(_) => unknown(StoreError::Unavailable("it is not known who has the code".into())),
        }
    };
    keys.into_iter().map(verdict).collect()
}

/// A batch that is one transaction: of new links, or of rows of an export.
pub(super) struct Batch {
    pub(super) rows: Vec<Stored>,
    pub(super) kind: Kind,
    pub(super) places: Arc<Places>,
    /// Places that were found for the rows of a larger batch, of which this is a part.
    pub(super) given: Option<Vec<Option<Micros>>>,
}

impl Batch {
    /// A batch of new links, as the rows that they become but for their times.
    pub(super) fn new_links(links: Vec<NewLink>, places: &Arc<Places>) -> Self {
        let row = |data: NewLink| {
            let updated_at = data.created_at;
            Stored::Link(Box::new(Link { data, version: Version::FIRST, updated_at, used: 0 }))
        };
        let rows = links.into_iter().map(row).collect();
        Self { rows, kind: Kind::New, places: Arc::clone(places), given: None }
    }

    fn times(&self) -> Vec<Timestamp> {
        let time = |row: &Stored| match row {
            Stored::Link(link) => link.data.created_at,
            Stored::Tombstone(tombstone) => tombstone.created_at,
        };
        self.rows.iter().map(time).collect()
    }

    fn records<'a>(&'a self, places: &[Micros]) -> Vec<Record<'a>> {
        let record = |(row, place): (&'a Stored, &Micros)| match row {
            Stored::Link(link) if self.kind == Kind::New => record(&link.data, *place),
            Stored::Link(link) => {
                let updated = Some(link.updated_at).filter(|at| *at != place.timestamp());
                Record::link(&link.data, *place, link.version, updated, link.used)
            }
            Stored::Tombstone(tombstone) => Record::tombstone(tombstone, *place),
        };
        self.rows.iter().zip(places).map(record).collect()
    }

    /// Writes the batch; the place of each row, or why it is not there.
    pub(super) async fn write(
        &self,
        session: &Session,
    ) -> Result<Vec<Result<Micros, CreateRefusal>>, Failure> {
        if self.rows.is_empty() {
            return Ok(Vec::new());
        }
        let placed = self.placed(session).await?;
        let records = self.records(&placed.places);
        let written = if records.len() > VALUES_ROWS {
            copy(session, &records).await
        } else {
            match session.send() {
                Ok(()) => session.settled(insert(session, &records).await),
                Err(failure) => Err(failure),
            }
        };
        let inserted = written.inspect_err(|_| self.places.settle(&placed, |_| false))?;
        self.places.settle(&placed, |at| inserted.get(at).is_some_and(|inserted| *inserted));
        let keys = self.rows.iter().map(Stored::key).zip(inserted);
        let refusals = refusals(session, keys).await;
        let verdicts = refusals.into_iter().zip(placed.places);
        Ok(verdicts.map(|(refusal, place)| refusal.map_or(Ok(place), Err)).collect())
    }

    /// Places for all rows.
    async fn placed(&self, session: &Session) -> Result<Placed, Failure> {
        match &self.given {
            None => self.places.place(session, self.kind, &self.times()).await,
            Some(given) => self.places.complete(session, given, &self.times()).await,
        }
    }

    /// Writes the batch in one transaction, also where older rows are.
    pub(super) async fn replace(&self, session: &Session) -> Result<(), Failure> {
        session.open().await?;
        for row in &self.rows {
            let domain = i64::from(row.key().domain.0);
            let (version, used) = (row.version().0.cast_signed(), row.used().cast_signed());
            let params: [Param<'_>; 4] = [&row.key().code.as_str(), &domain, &version, &used];
            let removed = session.read(&statements::REMOVE, &params).await?;
            if !removed.is_empty() {
                feed::note(session, row.key(), row.version()).await?;
            }
        }
        let placed = self.placed(session).await?;
        let records = self.records(&placed.places);
        let params: Vec<Param<'_>> = records.iter().flat_map(Record::params).collect();
        let sql = statements::INSERT.sql(records.len());
        let written = session.read_made(&sql, &statements::INSERT.typed(&params)).await;
        let committed = match written {
            Ok(_) => session.commit().await,
            Err(failure) => Err(failure),
        };
        let there = committed.is_ok();
        self.places.settle(&placed, |_| there);
        committed
    }

    /// The links as they were created, from what [`write`](Self::write) answered.
    pub(super) fn created(
        &self,
        verdicts: Vec<Result<Micros, CreateRefusal>>,
    ) -> Vec<Result<Link, CreateRefusal>> {
        let links = self.rows.iter().filter_map(|row| match row {
            Stored::Link(link) => Some(&link.data),
            Stored::Tombstone(_) => None,
        });
        let verdicts = links.zip(verdicts);
        verdicts.map(|(data, verdict)| verdict.map(|place| fresh(data.clone(), place))).collect()
    }
}

/// Writes rows by COPY: into a table of the transaction's own, and from there those whose keys are
/// free. Says of each whether it was inserted.
async fn copy(session: &Session, records: &[Record<'_>]) -> Result<Vec<bool>, Failure> {
    session.begin(&statements::ONE_CONNECTION_A_NODE, &[]).await?;
    session.read(&statements::STAGE, &[]).await?;
    let types: Vec<Type> = statements::staged_types();
    let positions: Vec<i64> = (0..).take(records.len()).collect();
    let rows = records.iter().zip(&positions).map(|(record, at)| {
        let mut params = record.params().to_vec();
        params.push(at);
        params
    });
    session.copy(&statements::STAGE_COPY, &types, rows).await?;
    let rows = session.read(&statements::STAGE_MERGE, &[]).await?;
    let inserted = inserted(records, &rows);
    session.commit().await?;
    Ok(inserted)
}

/// A link that is created as a part of a larger transaction.
pub(super) mod once {
    use super::*;

    /// A link with its place, before it is written.
    pub(crate) struct Prepared {
        placed: Placed,
    }

    impl Prepared {
        /// Finds the place of a batch of one new link.
        pub(crate) async fn new(session: &Session, batch: &Batch) -> Result<Self, Failure> {
            let placed = batch.places.place(session, batch.kind, &batch.times()).await?;
            Ok(Self { placed })
        }

        /// The link as it will be.
        pub(crate) fn link(&self, batch: &Batch) -> Result<Link, StoreError> {
            let verdicts = self.placed.places.iter().map(|place| Ok(*place)).collect();
            let mut links = batch.created(verdicts);
            let link = links.pop().and_then(Result::ok);
            link.ok_or_else(|| bad_value("a batch of one link has none"))
        }

        /// The link is not written: its place is free.
        pub(crate) fn forget(&self, batch: &Batch) {
            batch.places.settle(&self.placed, |_| false);
        }

        /// Writes the link in the open transaction, or says who has its key.
        pub(crate) async fn insert(
            &self,
            session: &Session,
            batch: &Batch,
        ) -> Result<Result<(), CreateRefusal>, Failure> {
            let records = batch.records(&self.placed.places);
            let params: Vec<Param<'_>> = records.iter().flat_map(Record::params).collect();
            let sql = statements::INSERT.sql(records.len());
            let typed = statements::INSERT.typed(&params);
            let rows = session.read_made(&sql, &typed).await;
            let rows = rows.inspect_err(|_| self.forget(batch))?;
            let inserted = inserted(&records, &rows);
            batch.places.settle(&self.placed, |at| inserted.get(at).is_some_and(|done| *done));
            let keys = batch.rows.iter().map(Stored::key).zip(inserted);
            let refusal = refusals(session, keys).await.into_iter().flatten().next();
            Ok(refusal.map_or(Ok(()), Err))
        }
    }
}

/// A single create that waits.
#[derive(Debug)]
pub(super) struct PendingCreate {
    link: NewLink,
    ticket: Arc<Ticket>,
    attempts: u32,
    reply: oneshot::Sender<Outcome<Result<Link, CreateRefusal>, StoreError>>,
}

impl PendingCreate {
    fn tell(self, outcome: Outcome<Result<Link, CreateRefusal>, StoreError>) {
        // The caller may have gone.
        let _ = self.reply.send(outcome);
    }
}

impl PostgresStore {
    /// Creates one link, with whatever others come at the same time.
    pub(super) async fn create_gathered(
        &self,
        link: NewLink,
        deadline: Deadline,
    ) -> Outcome<Result<Link, CreateRefusal>, StoreError> {
        let inner = &self.inner;
        if let Some(error) = inner.database.refusal(deadline) {
            return Outcome::Refused(error);
        }
        let (reply, answer) = oneshot::channel();
        let ticket = Arc::<Ticket>::default();
        let create = PendingCreate { link, ticket: Arc::clone(&ticket), attempts: 0, reply };
        match inner.creates.push(create) {
            Ok(None) => {}
            Ok(Some(flight)) => {
                let creator = Creator {
                    pool: Arc::clone(&inner.database.writers),
                    places: Arc::clone(&inner.places),
                    stats: Arc::clone(&inner.database.stats),
                };
                inner.database.spawn(creator.fly(flight));
            }
            Err(error) => return Outcome::Refused(error),
        }
        wait(ticket, deadline, answer).await
    }
}

/// Whoever takes waiting creates to the server.
struct Creator {
    pool: Arc<Pool>,
    places: Arc<Places>,
    stats: Arc<PostgresStats>,
}

impl Creator {
    async fn fly(self, mut flight: Gathered<PendingCreate>) {
        loop {
            // First the connection, then the creates: more of them may come meanwhile.
            let lease = self.pool.lease().await;
            if lease.as_ref().is_ok_and(|lease| lease.connected.is_cluster) {
                // One row is one statement for one node; two are a transaction of two nodes.
                flight.one_by_one();
            }
            let Some(creates) = flight.take(|create| !create.reply.is_closed()) else {
                if let Ok(lease) = lease {
                    lease.give_back();
                }
                return;
            };
            match lease {
                Ok(lease) => self.create(lease, creates, &flight).await,
                Err(error) => {
                    creates.into_iter().for_each(|c| c.tell(Outcome::Refused(error.clone())));
                }
            }
        }
    }

    async fn create(
        &self,
        lease: Lease,
        creates: Vec<PendingCreate>,
        flight: &Gathered<PendingCreate>,
    ) {
        let begun = Instant::now();
        let pilot = Pilot(Flight::new(self.pool.overdue()));
        pilot.0.takes(&lease.connected);
        for create in &creates {
            create.ticket.board(&pilot.0);
        }
        let session = Session::new(lease, None, Arc::clone(&self.stats));
        self.together(&session, creates, flight).await;
        session.end().await;
        self.stats.write_micros.record_micros(begun.elapsed());
    }

    /// Creates links by one statement. If the server refuses one of them for what it is, each is
    /// tried alone.
    async fn together(
        &self,
        session: &Session,
        creates: Vec<PendingCreate>,
        flight: &Gathered<PendingCreate>,
    ) {
        let times: Vec<Timestamp> = creates.iter().map(|c| c.link.created_at).collect();
        let placed = match self.places.place(session, Kind::New, &times).await {
            Ok(placed) => placed,
            Err(failure) => return self.failed(creates, &failure, flight),
        };
        // From here on those whose callers are gone are left out; their places stay empty.
        let ready = creates.into_iter().zip(&placed.places);
        let (creates, places): (Vec<_>, Vec<Micros>) =
            ready.filter(|(create, _)| create.ticket.send()).unzip();
        if creates.is_empty() {
            return self.places.settle(&placed, |_| false);
        }
        self.stats.creates_per_statement.record(creates.len() as u64);
        let links = creates.iter().zip(&places);
        let records: Vec<Record<'_>> = links.map(|(c, place)| record(&c.link, *place)).collect();
        let answer = insert(session, &records).await;
        drop(records);
        match answer {
            Err(fault) if fault.is_about_values() && creates.len() > 1 => {
                self.places.settle(&placed, |_| false);
                for create in creates {
                    create.ticket.take_back();
                    Box::pin(self.together(session, vec![create], flight)).await;
                }
            }
            answer => match session.settled(answer) {
                Ok(inserted) => self.made(session, &placed, creates, places, inserted).await,
                Err(failure) => {
                    self.places.settle(&placed, |_| false);
                    self.failed(creates, &failure, flight);
                }
            },
        }
    }

    async fn made(
        &self,
        session: &Session,
        placed: &Placed,
        creates: Vec<PendingCreate>,
        places: Vec<Micros>,
        inserted: Vec<bool>,
    ) {
        let taken = places.iter().zip(&inserted).filter(|(_, inserted)| **inserted);
        let taken: BTreeSet<i64> = taken.map(|(place, _)| place.0).collect();
        let is_taken = |place: &Micros| taken.contains(&place.0);
        self.places.settle(placed, |at| placed.places.get(at).is_some_and(is_taken));
        let keys = creates.iter().map(|create| &create.link.key).zip(inserted);
        let refusals = refusals(session, keys).await;
        for ((create, place), refusal) in creates.into_iter().zip(places).zip(refusals) {
            let PendingCreate { link, reply, .. } = create;
            // The caller may have gone.
            let _ = reply.send(Outcome::Done(match refusal {
                None => Ok(fresh(link, place)),
                Some(refusal) => Err(refusal),
            }));
        }
    }

    /// Tells all that they failed, or puts them back in front where that may help.
    fn failed(
        &self,
        mut creates: Vec<PendingCreate>,
        failure: &Failure,
        flight: &Gathered<PendingCreate>,
    ) {
        let outcome = match failure {
            Failure::Unknown(cause) => Outcome::Unknown(*cause),
            Failure::Refused(error) => Outcome::Refused(error.clone()),
            Failure::GivenUp => Outcome::Refused(super::database::late()),
            Failure::Again(error) => {
                count(&self.stats.repeated);
                for create in &mut creates {
                    create.ticket.take_back();
                    create.attempts += 1;
                }
                let (again, enough): (Vec<_>, Vec<_>) =
                    creates.into_iter().partition(|create| create.attempts < ATTEMPTS);
                flight.put_back(again);
                creates = enough;
                Outcome::Refused(error.clone())
            }
        };
        creates.into_iter().for_each(|create| create.tell(outcome.clone()));
    }
}
