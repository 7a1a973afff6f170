//! Who owns which part of the ring: what each shard knows of it, and what that comes to.
//!
//! Each shard holds the whole ring in pieces with the owner that it knows of and the epoch at which
//! that one became it. The highest epoch of all shards is the truth: an owner that lets an arc go
//! writes down to whom under a new epoch, and then the new one does.

use std::sync::Arc;

use shunt_domain::ring::{Place, Ring, RingNode};

/// How many buckets the ring is cut into at least: no arc lies in two, so whoever changes an arc
/// locks one bucket. The database's function `arc_check` counts them likewise.
pub(crate) const BUCKETS: u8 = 64;

/// What an arc is to the shard that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Somebody else's.
    Elsewhere,
    /// Its own.
    Here,
    /// Its own, and being copied to another shard.
    Leaving,
    /// Somebody else's, and being copied to here.
    Coming,
    /// Somebody else's, with rows left behind.
    Gone,
}

impl State {
    const ALL: [Self; 5] = [Self::Elsewhere, Self::Here, Self::Leaving, Self::Coming, Self::Gone];

    /// The state with this number in the database.
    pub(crate) fn from_number(number: i16) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }
}

/// An arc as one shard has it. It ends where the next one starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ArcRow {
    pub(crate) start: Place,
    pub(crate) owner: Box<str>,
    pub(crate) state: State,
    pub(crate) epoch: i64,
}

/// All arcs as one shard has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Arcs(Vec<ArcRow>);

impl Arcs {
    /// From rows in any order.
    pub(crate) fn new(mut rows: Vec<ArcRow>) -> Self {
        rows.sort_unstable_by_key(|row| row.start);
        Self(rows)
    }

    /// The arc that a place lies in.
    pub(crate) fn at(&self, place: Place) -> Option<&ArcRow> {
        let behind = self.0.partition_point(|row| row.start <= place);
        self.0.get(behind.checked_sub(1)?)
    }

    /// The arcs in the order of their starts.
    pub(crate) fn rows(&self) -> &[ArcRow] {
        &self.0
    }

    /// Where the arc ends that starts at `start`; `None` at the end of the ring.
    pub(crate) fn end(&self, start: Place) -> Option<Place> {
        let behind = self.0.partition_point(|row| row.start <= start);
        self.0.get(behind).map(|row| row.start)
    }

    /// The highest epoch.
    pub(crate) fn epoch(&self) -> i64 {
        self.0.iter().map(|row| row.epoch).max().unwrap_or(0)
    }
}

/// An arc that its last owner has let go and its new one has not taken yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Untaken {
    pub(crate) start: Place,
    /// The number of the new owner.
    pub(crate) to: usize,
    pub(crate) epoch: i64,
}

/// Which shard owns what, as all that could be asked know together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Map {
    /// Starts with the owner's number; `None` is a shard without a number here.
    owners: Vec<(Place, Option<usize>)>,
    pub(crate) untaken: Vec<Untaken>,
}

impl Map {
    /// Puts together what is known. `names` and `known` are of the same shards in the same order.
    pub(crate) fn merge(names: &[String], known: &[Option<Arc<Arcs>>]) -> Self {
        let mut cuts: Vec<Place> =
            known.iter().flatten().flat_map(|arcs| arcs.0.iter().map(|row| row.start)).collect();
        cuts.sort_unstable();
        cuts.dedup();
        let mut map = Self::default();
        for start in cuts {
            let told = known.iter().flatten().filter_map(|arcs| arcs.at(start));
            let Some(latest) = told.max_by_key(|row| row.epoch) else { continue };
            let owner = names.iter().position(|name| **name == *latest.owner);
            map.owners.push((start, owner));
            let Some(to) = owner else { continue };
            let at_owner = known.get(to).and_then(Option::as_ref).and_then(|arcs| arcs.at(start));
            let untaken = at_owner.is_some_and(|row| {
                row.state == State::Coming && row.start == start && row.epoch < latest.epoch
            });
            if untaken {
                map.untaken.push(Untaken { start, to, epoch: latest.epoch });
            }
        }
        map
    }

    /// The number of the shard that owns a place; `None` when nobody here knows it.
    pub(crate) fn owner(&self, place: Place) -> Option<usize> {
        let behind = self.owners.partition_point(|(start, _)| *start <= place);
        self.owners.get(behind.checked_sub(1)?)?.1
    }

    /// Whether nothing is known at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.owners.is_empty()
    }

    /// Starts with their owners.
    pub(crate) fn owners(&self) -> &[(Place, Option<usize>)] {
        &self.owners
    }
}

/// The bucket that a place lies in.
pub(crate) const fn bucket(place: Place) -> i32 {
    // The upper six bits of 128.
    (place.0 >> 122) as i32
}

/// Where the arcs of a ring start, with their owners' numbers: its points and the ends of buckets,
/// the first at 0.
pub(crate) fn pieces(ring: &Ring) -> Vec<(Place, usize)> {
    let buckets = (0..BUCKETS).map(|bucket| Place(u128::from(bucket) << 122));
    let mut starts: Vec<Place> = ring.arcs().map(|(arc, _)| arc.start).chain(buckets).collect();
    starts.sort_unstable();
    starts.dedup();
    starts.into_iter().map(|start| (start, ring.owner_of(start))).collect()
}

/// The names of a ring with their weights, as they are stored: `a*1,b*2`.
pub(crate) fn ring_text(nodes: &[RingNode]) -> String {
    let nodes: Vec<String> =
        nodes.iter().map(|node| format!("{}*{}", node.name, node.weight)).collect();
    nodes.join(",")
}

/// A ring from its text.
pub(crate) fn ring_from(text: &str) -> Option<Ring> {
    let node = |text: &str| {
        let (name, weight) = text.rsplit_once('*')?;
        Some(RingNode { name: name.to_owned(), weight: weight.parse().ok()? })
    };
    Ring::new(text.split(',').map(node).collect::<Option<_>>()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(start: u128, owner: &str, state: State, epoch: i64) -> ArcRow {
        ArcRow { start: Place(start), owner: owner.into(), state, epoch }
    }

    fn names() -> Vec<String> {
        vec!["a".to_owned(), "b".to_owned()]
    }

    #[test]
    fn the_highest_epoch_counts_whoever_says_it() {
        use State::{Coming, Elsewhere, Gone, Here};
        let a = Arcs::new(vec![row(0, "a", Here, 1), row(50, "b", Gone, 3), row(90, "b", Gone, 4)]);
        let b = Arcs::new(vec![
            row(0, "a", Elsewhere, 1),
            row(50, "a", Coming, 1),
            row(70, "a", Coming, 1),
            row(90, "b", Here, 4),
        ]);
        let known = [Some(Arc::new(a)), Some(Arc::new(b))];
        let map = Map::merge(&names(), &known);
        let owner = |place| map.owner(Place(place));
        assert_eq!(
            (owner(0), owner(49), owner(50), owner(95)),
            (Some(0), Some(0), Some(1), Some(1))
        );
        assert_eq!(owner(u128::MAX), Some(1));
        let untaken = |start| Untaken { start: Place(start), to: 1, epoch: 3 };
        assert_eq!(map.untaken, [untaken(50), untaken(70)]);
        // One shard alone knows enough to find the others.
        let alone = Map::merge(&names(), &[None, known[1].clone()]);
        assert_eq!(alone.owner(Place(60)), Some(0));
        assert!(Map::merge(&names(), &[None, None]).is_empty());
        assert_eq!(Map::default().owner(Place(1)), None);
    }

    #[test]
    fn an_owner_without_a_number_is_nobody() {
        let a = Arcs::new(vec![row(0, "elsewhere", State::Elsewhere, 1)]);
        assert_eq!(Map::merge(&names(), &[Some(Arc::new(a)), None]).owner(Place(7)), None);
    }

    #[test]
    fn pieces_are_the_ring_cut_at_buckets() {
        let ring = ring_from("a*1,b*2").unwrap();
        let pieces = pieces(&ring);
        assert_eq!(pieces.first().unwrap().0, Place(0));
        assert!(pieces.is_sorted_by_key(|(start, _)| *start));
        for pair in pieces.windows(2) {
            let last = Place(pair[1].0.0 - 1);
            assert_eq!(bucket(pair[0].0), bucket(last));
            assert_eq!(ring.owner_of(last), pair[0].1);
        }
        assert_eq!(bucket(Place(u128::MAX)), i32::from(BUCKETS) - 1);
        assert_eq!(ring_text(ring.nodes()), "a*1,b*2");
        assert!(ring_from("a").is_none() && ring_from("").is_none());
    }
}
