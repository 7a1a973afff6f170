//! The ring that says which shard a code lives on.
//!
//! Compatible with the default ring of Python's `uhashring` (2.5, `MetaRing`), so that shards which
//! another service filled can be read in place: a node has 160 points for each unit of weight, the
//! point number `w` of a node is the MD5 of `{node}-{w}`, and a key belongs to the node of the
//! first point behind its own MD5, both read as 128-bit big-endian numbers; behind the last point
//! the ring begins anew. MD5 stands for nothing but an even spread here.

use std::fmt;

use md5::{Digest, Md5};

/// Points of a node of weight 1.
pub const POINTS: u32 = 160;
/// The largest weight of a node.
pub const MAX_WEIGHT: u32 = 1_000;

/// A node of the ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingNode {
    /// Its name: what is hashed, so it stays when its address changes.
    pub name: String,
    /// Its share of the keys beside the other nodes', 1 to [`MAX_WEIGHT`].
    pub weight: u32,
}

impl RingNode {
    /// A node of weight 1.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), weight: 1 }
    }
}

/// Why nodes make no ring.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// There are none.
    #[error("a ring needs a node")]
    Empty,
    /// Two have one name.
    #[error("two nodes of the ring are called {0:?}; each needs a name of its own")]
    Twice(String),
    /// A weight is out of bounds.
    #[error("the weight of {name:?} is {weight}; it is 1 to {MAX_WEIGHT}")]
    Weight {
        /// Whose it is.
        name: String,
        /// What it is.
        weight: u32,
    },
}

/// A place on the ring.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place(pub u128);

impl Place {
    /// Where a key lies.
    pub fn of(key: &str) -> Self {
        Self(u128::from_be_bytes(Md5::digest(key.as_bytes()).into()))
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A part of the ring with one owner: from `start` to before `end`. The one arc that runs over the
/// end of the ring has `start >= end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arc {
    /// Its first place.
    pub start: Place,
    /// The first place behind it.
    pub end: Place,
}

impl Arc {
    /// Whether a place lies in it.
    pub const fn holds(&self, place: Place) -> bool {
        if self.start.0 < self.end.0 {
            self.start.0 <= place.0 && place.0 < self.end.0
        } else {
            self.start.0 <= place.0 || place.0 < self.end.0
        }
    }
}

/// An arc that changes its owner; both are numbers of nodes, each in its own ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// What moves.
    pub arc: Arc,
    /// Who has it in the old ring.
    pub from: usize,
    /// Who has it in the new one.
    pub to: usize,
}

/// A ring. Looking a key up costs one MD5 and a binary search: about 0.2 µs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ring {
    nodes: Vec<RingNode>,
    /// Ascending; the number is the node's.
    points: Vec<(Place, usize)>,
}

impl Ring {
    /// A ring of these nodes. Their order has no meaning but for the numbers of [`Ring::owner`].
    ///
    /// # Errors
    /// [`RingError`].
    pub fn new(nodes: Vec<RingNode>) -> Result<Self, RingError> {
        if nodes.is_empty() {
            return Err(RingError::Empty);
        }
        let mut points = Vec::new();
        for (number, node) in nodes.iter().enumerate() {
            if nodes.iter().take(number).any(|other| other.name == node.name) {
                return Err(RingError::Twice(node.name.clone()));
            }
            if !(1..=MAX_WEIGHT).contains(&node.weight) {
                return Err(RingError::Weight { name: node.name.clone(), weight: node.weight });
            }
            let of_node = (0..POINTS * node.weight)
                .map(|point| (Place::of(&format!("{}-{point}", node.name)), number));
            points.extend(of_node);
        }
        points.sort_unstable();
        Ok(Self { nodes, points })
    }

    /// The nodes, by their numbers.
    pub fn nodes(&self) -> &[RingNode] {
        &self.nodes
    }

    /// The number of the node that a key belongs to.
    pub fn owner(&self, key: &str) -> usize {
        self.owner_of(Place::of(key))
    }

    /// The number of the node that has a place.
    pub fn owner_of(&self, place: Place) -> usize {
        let behind = self.points.partition_point(|(point, _)| *point <= place);
        // Behind the last point the ring begins anew; there is always a first one.
        self.points.get(behind).or(self.points.first()).map_or(0, |(_, node)| *node)
    }

    /// All arcs with their owners, once around from the first point. Neighbours of one owner are
    /// not joined.
    pub fn arcs(&self) -> impl Iterator<Item = (Arc, usize)> + '_ {
        let starts = self.points.iter().cycle().skip(self.points.len() - 1);
        starts
            .zip(&self.points)
            .map(|((start, _), (end, owner))| (Arc { start: *start, end: *end }, *owner))
    }

    /// What must move to get from this ring to `new`: the arcs whose owner has another name there.
    pub fn moves(&self, new: &Self) -> Vec<Move> {
        let mut cuts: Vec<Place> =
            self.points.iter().chain(&new.points).map(|(place, _)| *place).collect();
        cuts.sort_unstable();
        cuts.dedup();
        let starts = cuts.iter().cycle().skip(cuts.len() - 1);
        let name = |ring: &Self, node: usize| ring.nodes.get(node).map(|node| node.name.clone());
        starts
            .zip(&cuts)
            .filter_map(|(start, end)| {
                let (from, to) = (self.owner_of(*start), new.owner_of(*start));
                let stays = name(self, from) == name(new, to);
                (!stays).then_some(Move { arc: Arc { start: *start, end: *end }, from, to })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests;
