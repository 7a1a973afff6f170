//! Things that many callers want at once, gathered into one statement without waiting for a timer:
//! what comes while all flights are under way goes out together with the next one.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use shunt_domain::StoreError;

use super::pool::lock;

/// How many jobs may wait before more are refused: a bound for memory, not for speed.
const MAX_WAITING: usize = 16_384;

/// A queue of jobs and the number of flights that take from it.
#[derive(Debug)]
pub(super) struct Gather<J> {
    queue: Mutex<Queue<J>>,
}

#[derive(Debug)]
struct Queue<J> {
    jobs: VecDeque<J>,
    flights: usize,
    max_flights: usize,
    max_jobs: usize,
}

impl<J> Gather<J> {
    /// At most `max_flights` at a time, each with at most `max_jobs`.
    pub(super) fn new(max_flights: usize, max_jobs: usize) -> Self {
        let jobs = VecDeque::new();
        let max_flights = max_flights.max(1);
        let max_jobs = max_jobs.clamp(1, 1_000);
        Self { queue: Mutex::new(Queue { jobs, flights: 0, max_flights, max_jobs }) }
    }

    /// From now on each job flies alone, in at most `max_flights` at a time.
    pub(super) fn one_by_one(&self, max_flights: usize) {
        let mut queue = lock(&self.queue);
        queue.max_flights = max_flights.max(1);
        queue.max_jobs = 1;
    }

    /// Adds a job. With `Some`, the caller starts one more flight.
    ///
    /// # Errors
    /// When too many wait already.
    pub(super) fn push(self: &Arc<Self>, job: J) -> Result<Option<Flight<J>>, StoreError> {
        let mut queue = lock(&self.queue);
        if queue.jobs.len() >= MAX_WAITING {
            return Err(StoreError::Unavailable("too many calls are waiting".to_owned()));
        }
        queue.jobs.push_back(job);
        if queue.flights >= queue.max_flights {
            return Ok(None);
        }
        queue.flights += 1;
        Ok(Some(Flight { gather: Arc::clone(self), over: false }))
    }
}

/// Whoever does jobs, until there are none.
#[derive(Debug)]
pub(super) struct Flight<J> {
    gather: Arc<Gather<J>>,
    over: bool,
}

impl<J> Flight<J> {
    /// The next jobs that somebody still waits for. `None`: there are none, and the flight is
    /// over.
    pub(super) fn take(&mut self, wanted: impl Fn(&J) -> bool) -> Option<Vec<J>> {
        let mut queue = lock(&self.gather.queue);
        let max_jobs = queue.max_jobs;
        let mut jobs = Vec::with_capacity(queue.jobs.len().min(max_jobs));
        while jobs.len() < max_jobs
            && let Some(job) = queue.jobs.pop_front()
        {
            if wanted(&job) {
                jobs.push(job);
            }
        }
        if jobs.is_empty() {
            // Under the same lock: a job that comes now starts a flight of its own.
            queue.flights -= 1;
            self.over = true;
            return None;
        }
        Some(jobs)
    }

    /// From now on each job flies alone, in no more flights than before.
    pub(super) fn one_by_one(&self) {
        let max_flights = lock(&self.gather.queue).max_flights;
        self.gather.one_by_one(max_flights);
    }

    /// Puts jobs back to the front, in their order.
    pub(super) fn put_back(&self, jobs: Vec<J>) {
        let mut queue = lock(&self.gather.queue);
        for job in jobs.into_iter().rev() {
            queue.jobs.push_front(job);
        }
    }
}

impl<J> Drop for Flight<J> {
    fn drop(&mut self) {
        if !self.over {
            lock(&self.gather.queue).flights -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_while_all_fly_goes_together() {
        let gather = Arc::new(Gather::new(2, 3));
        let mut flights: Vec<_> = (0..6).filter_map(|job| gather.push(job).unwrap()).collect();
        assert_eq!(flights.len(), 2);
        let (mut second, mut first) = (flights.pop().unwrap(), flights.pop().unwrap());
        assert_eq!(first.take(|job| *job != 1), Some(vec![0, 2, 3]));
        assert_eq!(second.take(|_| true), Some(vec![4, 5]));
        assert_eq!(first.take(|_| true), None);
        let mut third = gather.push(6).unwrap().expect("a flight is over, so one may start");
        assert!(gather.push(7).unwrap().is_none());
        assert_eq!(second.take(|_| true), Some(vec![6, 7]));
        second.put_back(vec![6, 7]);
        assert_eq!(third.take(|job| *job == 7), Some(vec![7]));
        assert_eq!(third.take(|_| true), None);
        drop(second);
        assert!(gather.push(8).unwrap().is_some(), "one that broke off is over as well");
    }

    #[test]
    fn jobs_fly_alone_where_that_is_better() {
        let gather = Arc::new(Gather::new(1, 3));
        let mut first = gather.push(0).unwrap().unwrap();
        assert!(gather.push(1).unwrap().is_none());
        gather.one_by_one(2);
        let mut second = gather.push(2).unwrap().expect("there may be more flights now");
        assert_eq!(first.take(|_| true), Some(vec![0]));
        assert_eq!(second.take(|_| true), Some(vec![1]));
        assert_eq!(first.take(|_| true), Some(vec![2]));
    }

    #[test]
    fn waiting_is_bounded() {
        let gather = Arc::new(Gather::new(1, 1));
        let _flights: Vec<_> = (0..MAX_WAITING).map(|job| gather.push(job).unwrap()).collect();
        assert!(matches!(gather.push(0), Err(StoreError::Unavailable(_))));
    }
}
