//! What the clients know, and nobody else: which links were acknowledged, when, and what was wrong.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use shunt_cluster::{Address, Connection, Request};

use crate::fleet::Fleet;

/// What counts as made just now.
const JUST: Duration = Duration::from_secs(1);

/// Requests that are sent ahead when all links are asked for at the end.
const AHEAD: usize = 100;

/// Of what is wrong so much is kept: the rest is more of the same.
const MOST_WRONG: usize = 20;

/// An acknowledged link.
pub(crate) struct Link {
    pub(crate) code: String,
    pub(crate) target: String,
    at: Instant,
    /// What was going on.
    step: String,
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, target, step, at } = self;
        write!(f, "{code} to {target}, made {:.1?} ago ({step})", at.elapsed())
    }
}

/// A link to look up.
pub(crate) struct Pick {
    pub(crate) link: Arc<Link>,
    /// Made within the last second; else none was, and it is of the last second in which some were.
    pub(crate) fresh: bool,
    /// Nobody has looked it up before.
    pub(crate) first: bool,
}

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters of all clients.
        #[derive(Debug, Default)]
        pub(crate) struct Counts { $($(#[$doc])* pub(crate) $name: AtomicU64,)* }

        /// The same at one moment, or between two.
        #[derive(Clone, Copy, Debug, Default)]
        pub(crate) struct Tally { $(pub(crate) $name: u64,)* }

        impl Counts {
            pub(crate) fn now(&self) -> Tally {
                Tally { $($name: self.$name.load(Ordering::Acquire),)* }
            }
        }

        impl Tally {
            pub(crate) fn since(self, before: Self) -> Self {
                Self { $($name: self.$name - before.$name,)* }
            }
        }
    };
}

counts! {
    /// Links acknowledged.
    made,
    /// Look-ups of links made in the last second that led to their target.
    fresh,
    /// Those of them that were the first of their link.
    first,
    /// Look-ups of links made in the last second that were answered 503.
    unavailable,
    /// Look-ups of the newest links, in a time in which none was made.
    newest,
    /// Those that were answered 503.
    newest_unavailable,
    /// Redirects of cached links.
    cached,
    /// Redirects of links that no node had cached.
    replicated,
    /// Attempts to create that were refused, or whose outcome is not known: repeated.
    refused,
    /// Those that were refused because the pool is empty.
    pool_empty,
    /// Attempts to create whose answer never came: repeated.
    cut,
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::AcqRel);
}

#[derive(Default)]
struct Made {
    codes: HashMap<String, usize>,
    links: Vec<Arc<Link>>,
    /// All before it were looked up.
    looked_up: usize,
}

/// See the module.
#[derive(Default)]
pub(crate) struct History {
    made: RwLock<Made>,
    pub(crate) counts: Counts,
    /// How long redirects of cached links took since somebody last asked.
    times: Mutex<Vec<Duration>>,
    /// The longest time that any redirect took since somebody last asked.
    slowest: Mutex<Duration>,
    step: Mutex<String>,
    wrong: Mutex<Vec<String>>,
    stop: AtomicBool,
}

impl History {
    pub(crate) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    /// Says what is going on now.
    pub(crate) fn begin(&self, step: &str) {
        step.clone_into(&mut self.step.lock().unwrap());
        self.times.lock().unwrap().clear();
        *self.slowest.lock().unwrap() = Duration::ZERO;
    }

    pub(crate) fn wrong(&self, what: &str) {
        let step = self.step.lock().unwrap().clone();
        let mut wrong = self.wrong.lock().unwrap();
        if wrong.len() < MOST_WRONG {
            wrong.push(format!("{step}: {what}"));
        }
    }

    /// Fails if anything was wrong.
    pub(crate) fn check(&self) {
        let wrong = self.wrong.lock().unwrap();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    pub(crate) fn acknowledge(&self, code: &str, target: &str) {
        let step = self.step.lock().unwrap().clone();
        let twice = {
            let mut made = self.made.write().unwrap();
            let Made { codes, links, .. } = &mut *made;
            match codes.entry(code.to_owned()) {
                Entry::Occupied(other) => Some(Arc::clone(&links[*other.get()])),
                Entry::Vacant(place) => {
                    place.insert(links.len());
                    let (code, target) = (code.to_owned(), target.to_owned());
                    links.push(Arc::new(Link { code, target, at: Instant::now(), step }));
                    None
                }
            }
        };
        if let Some(other) = twice {
            self.wrong(&format!("{code} was given out twice: for {target} and before: {other}"));
        }
        count(&self.counts.made);
    }

    /// A link made in the last second: one that nobody has looked up yet if there is one, else
    /// `any` chooses below a number. When none was made, one of the last second in which some were.
    pub(crate) fn pick(&self, any: impl FnOnce(usize) -> usize) -> Option<Pick> {
        let mut made = self.made.write().unwrap();
        let newest = made.links.last()?.at;
        let fresh = newest.elapsed() < JUST;
        let until = if fresh { Instant::now() } else { newest };
        let from = made.links.partition_point(|link| until.duration_since(link.at) >= JUST);
        let next = made.looked_up.max(from);
        let first = next < made.links.len();
        let at = if first { next } else { from + any(made.links.len() - from) };
        made.looked_up = if first { next + 1 } else { next };
        made.links.get(at).map(|link| Pick { link: Arc::clone(link), fresh, first })
    }

    /// Notes how long a redirect of a cached link took.
    pub(crate) fn took(&self, time: Duration) {
        self.times.lock().unwrap().push(time);
    }

    /// Notes how long any redirect took.
    pub(crate) fn waited(&self, time: Duration) {
        let mut slowest = self.slowest.lock().unwrap();
        *slowest = time.max(*slowest);
    }

    /// The longest of them since the last [`Self::begin`].
    pub(crate) fn slowest(&self) -> Duration {
        *self.slowest.lock().unwrap()
    }

    /// The 99th of a hundred redirects of cached links since the last [`Self::begin`].
    pub(crate) fn p99(&self) -> Duration {
        let mut times = std::mem::take(&mut *self.times.lock().unwrap());
        assert!(times.len() >= 100, "{} cached redirects are too few", times.len());
        times.sort_unstable();
        times[times.len() * 99 / 100]
    }

    /// Every acknowledged link is in the database and is answered by each of these, to the letter.
    pub(crate) fn judge(&self, fleet: &Fleet, entrances: &[Address]) -> usize {
        let made = self.made.read().unwrap();
        let rows = fleet.rows();
        for link in &made.links {
            if rows.get(&link.code) != Some(&link.target) {
                self.wrong(&format!("lost: the database has {:?} of {link}", rows.get(&link.code)));
            }
        }
        self.check();
        for entrance in entrances {
            let mut connection = Connection::open(entrance).unwrap();
            for links in made.links.chunks(AHEAD) {
                let asked = links
                    .iter()
                    .flat_map(|link| Request::get(format!("/{}", link.code)).to_bytes("shunt"));
                connection.send_raw(&asked.collect::<Vec<u8>>()).unwrap();
                for link in links {
                    let answer = connection.read(false).unwrap();
                    if (answer.status, answer.location()) != (302, link.target.as_str()) {
                        self.wrong(&format!("lost at {entrance:?}: {link} answers {answer:?}"));
                    }
                }
            }
            self.check();
        }
        made.links.len()
    }
}
