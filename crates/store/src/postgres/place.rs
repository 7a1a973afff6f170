//! Where new links stand in the order of creation.
//!
//! A place is the creation time in microseconds: its millisecond is what the caller said, its
//! microseconds count links of one millisecond. A new link that claims to be up to 100 ms older
//! than the newest one this process made counts as just created, because the clocks of cores
//! differ; so links appear in front of a list. Anything older stands behind all others of its own
//! millisecond, for which the table is asked.
//!
//! Several processes number for themselves: two links that get one place are told apart by code
//! and domain, which are the rest of the order. Nothing but the order of lists depends on places.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use shunt_domain::{StoreError, Timestamp};
use tokio_postgres::Row;

use super::error::Failure;
use super::pool::lock;
use super::row;
use super::session::{Param, Session};
use super::statements;
use super::types::{Micros, PER_MILLI};

/// A new link that claims to be at most this much older than the newest one counts as just
/// created.
const SLACK_MS: i64 = 100;

/// Up to this many rows between the oldest and the newest of a batch are looked at together;
/// beyond, the table is asked for each millisecond of the batch.
const FEW: i64 = 2_000;

/// The last place that this process has given, or found in a table. Databases that are one store
/// share one.
#[derive(Debug)]
pub(crate) struct Counter {
    last: Mutex<i64>,
}

impl Default for Counter {
    fn default() -> Self {
        Self { last: Mutex::new(i64::MIN) }
    }
}

/// The places that this process gives to links of one table.
#[derive(Debug, Default)]
pub(super) struct Places {
    counter: Arc<Counter>,
    /// Whether the table was asked for its newest link.
    asked: AtomicBool,
}

/// What is to be placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// New links.
    New,
    /// Rows of an export, which go back to their own time.
    Restored,
}

/// Places for a batch, and what to do with them when it is known which rows there were.
#[derive(Debug)]
pub(super) struct Placed {
    /// One for each row, in order.
    pub(super) places: Vec<Micros>,
    before: i64,
    after: i64,
}

impl Places {
    /// Places from a counter that other tables may share.
    pub(super) fn new(counter: Arc<Counter>) -> Self {
        Self { counter, asked: AtomicBool::new(false) }
    }

    /// Whether the newest link of the table is known.
    pub(super) fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Acquire)
    }

    /// What the table answered to [`statements::NEWEST`].
    pub(super) fn hear(&self, rows: &[Row]) -> Result<(), StoreError> {
        let newest = match rows.first() {
            Some(row) => row::get::<Option<Micros>>(row, 0)?,
            None => None,
        };
        let mut last = lock(&self.counter.last);
        *last = newest.map_or(*last, |newest| newest.0.max(*last));
        drop(last);
        self.asked.store(true, Ordering::Release);
        Ok(())
    }

    /// Finds places for rows that claim these times.
    ///
    /// # Errors
    /// When the table has to be asked and can't be.
    pub(super) async fn place(
        &self,
        session: &Session,
        kind: Kind,
        times: &[Timestamp],
    ) -> Result<Placed, Failure> {
        if !self.is_asked() {
            match session.try_read(&statements::NEWEST, &[]).await {
                Ok(rows) => self.hear(&rows)?,
                // A node of a cluster is away: its links may be newer, but that is no reason to
                // create none on the others.
                Err(fault) if session.is_cluster() && !fault.drops_connection() => self.hear(&[])?,
                Err(fault) => return Err(Failure::harmless(&fault)),
            }
        }
        let (mut placed, past) = self.in_front(kind, times);
        if !past.is_empty() {
            behind(session, &mut placed.places, &past).await?;
        }
        Ok(placed)
    }

    /// Places those rows that come in front; the others get the first place of their millisecond,
    /// and their positions are given.
    fn in_front(&self, kind: Kind, times: &[Timestamp]) -> (Placed, Vec<usize>) {
        let mut guard = lock(&self.counter.last);
        let before = *guard;
        let mut last = before;
        let mut past = Vec::new();
        let mut places = Vec::with_capacity(times.len());
        for (at, time) in times.iter().enumerate() {
            let first = Micros::first_of(*time);
            let place = if first.0 > last {
                first.0
            } else if kind == Kind::New && Micros(last).millis() - first.millis() <= SLACK_MS {
                last + 1
            } else {
                past.push(at);
                places.push(first);
                continue;
            };
            last = place;
            places.push(Micros(place));
        }
        *guard = last;
        (Placed { places, before, after: last }, past)
    }

    /// Says which of the rows are in the table now. Places of the others are free again, as long
    /// as nobody was placed behind them.
    pub(super) fn settle(&self, placed: &Placed, inserted: impl Fn(usize) -> bool) {
        let mut last = lock(&self.counter.last);
        if *last == placed.after {
            let places = placed.places.iter().enumerate();
            let taken = places.filter(|(at, _)| inserted(*at)).map(|(_, place)| place.0).max();
            *last = taken.map_or(placed.before, |taken| taken.max(placed.before));
        }
    }

    /// Places for a batch whose rows go to several tables: those in front. The others (`None`) are
    /// placed by their own tables.
    pub(super) fn ahead(&self, kind: Kind, times: &[Timestamp]) -> Vec<Option<Micros>> {
        let (placed, past) = self.in_front(kind, times);
        let place = |(at, place)| past.binary_search(&at).is_err().then_some(place);
        placed.places.into_iter().enumerate().map(place).collect()
    }

    /// Finds places for those rows that have none yet, behind everything of their milliseconds.
    ///
    /// # Errors
    /// When the table has to be asked and can't be.
    pub(super) async fn complete(
        &self,
        session: &Session,
        given: &[Option<Micros>],
        times: &[Timestamp],
    ) -> Result<Placed, Failure> {
        let mut past = Vec::new();
        let mut places = Vec::with_capacity(given.len());
        for (at, (place, time)) in given.iter().zip(times).enumerate() {
            if place.is_none() {
                past.push(at);
            }
            places.push(place.unwrap_or_else(|| Micros::first_of(*time)));
        }
        if !past.is_empty() {
            behind(session, &mut places, &past).await?;
        }
        // Places of a batch that was split are not given back.
        Ok(Placed { places, before: i64::MAX, after: i64::MAX })
    }
}

/// Places rows of the past, each behind everything of its millisecond.
async fn behind(session: &Session, places: &mut [Micros], past: &[usize]) -> Result<(), Failure> {
    let firsts = || past.iter().filter_map(|at| places.get(*at)).copied();
    let (Some(oldest), Some(newest)) = (firsts().min(), firsts().max()) else { return Ok(()) };
    // One millisecond more, in case that the last one is full.
    let end = Micros(newest.0 + 2 * PER_MILLI);
    let params: [Param<'_>; 3] = [&oldest, &end, &FEW];
    let rows = session.read(&statements::PLACES, &params).await?;
    let whole = (rows.len() as i64) < FEW;
    let mut taken: BTreeMap<i64, i64> = BTreeMap::new();
    let mut take = |place: Micros| {
        let latest = taken.entry(place.millis()).or_insert(place.0);
        *latest = place.0.max(*latest);
    };
    for row in &rows {
        take(row::get(row, 0)?);
    }
    // Rows of this batch that were placed in front are not in the table yet.
    let others = places.iter().enumerate().filter(|(at, _)| past.binary_search(at).is_err());
    others.for_each(|(_, place)| take(*place));
    for at in past {
        let Some(place) = places.get_mut(*at) else { continue };
        let mut millis = place.millis();
        *place = loop {
            let latest = match taken.get(&millis) {
                Some(latest) => Some(*latest),
                None if whole && millis * PER_MILLI < end.0 => None,
                None => {
                    let (from, to) = (Micros(millis * PER_MILLI), Micros((millis + 1) * PER_MILLI));
                    let rows = session.read(&statements::LAST_PLACE, &[&from, &to]).await?;
                    match rows.first() {
                        Some(row) => row::get::<Option<Micros>>(row, 0)?.map(|place| place.0),
                        None => None,
                    }
                }
            };
            let next = latest.map_or(millis * PER_MILLI, |latest| latest + 1);
            if Micros(next).millis() == millis {
                taken.insert(millis, next);
                break Micros(next);
            }
            // All of its places are taken: the next millisecond.
            millis += 1;
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn places(last: i64) -> Places {
        let counter = Arc::new(Counter { last: Mutex::new(last) });
        Places { counter, asked: AtomicBool::new(true) }
    }

    fn front(places: &Places, kind: Kind, times: &[i64]) -> (Vec<i64>, Vec<usize>) {
        let times: Vec<Timestamp> = times.iter().map(|millis| at(*millis)).collect();
        let (placed, past) = places.in_front(kind, &times);
        (placed.places.iter().map(|place| place.0).collect(), past)
    }

    #[test]
    fn new_links_come_in_front_unless_they_are_much_older() {
        let all = places(i64::MIN);
        let found = front(&all, Kind::New, &[1_000, 1_000, 1_001, 901, 900]);
        assert_eq!(found, (vec![1_000_000, 1_000_001, 1_001_000, 1_001_001, 900_000], vec![4]));
        assert_eq!(front(&all, Kind::New, &[1_001]), (vec![1_001_002], vec![]));
        assert_eq!(front(&all, Kind::Restored, &[1_001]), (vec![1_001_000], vec![0]));
        assert_eq!(front(&all, Kind::Restored, &[1_002]), (vec![1_002_000], vec![]));
    }

    #[test]
    fn a_full_millisecond_runs_over_into_the_next() {
        let all = places(1_000_998);
        let found = front(&all, Kind::New, &[1_000, 1_000, 1_001, 1_002]);
        assert_eq!(found.0, [1_000_999, 1_001_000, 1_001_001, 1_002_000]);
    }

    #[test]
    fn places_of_refused_rows_are_free_again() {
        let all = places(5_000_000);
        let (placed, _) = all.in_front(Kind::New, &[at(6_000), at(6_001), at(7_000)]);
        all.settle(&placed, |at| at == 0);
        let last = || *lock(&all.counter.last);
        assert_eq!(last(), 6_000_000);
        let (placed, _) = all.in_front(Kind::New, &[at(8_000)]);
        let (later, _) = all.in_front(Kind::New, &[at(9_000)]);
        all.settle(&placed, |_| false);
        assert_eq!(last(), 9_000_000, "somebody stands behind it");
        all.settle(&later, |_| true);
        assert_eq!(last(), 9_000_000);
    }
}
