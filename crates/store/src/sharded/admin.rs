//! Setting shards up, saying where arcs belong, and looking at everything.

use futures_util::future::join_all;
use shunt_domain::ring::{Place, Ring, RingNode};

use super::ShardOptions;
use super::map::{Arcs, Map, State, pieces, ring_from, ring_text};
use crate::postgres::mover::Peer;
use crate::postgres::{Migrated, PostgresError, PostgresStore, ShardRow};

/// Up to so many live links of a shard are counted for its status.
const COUNTED: i64 = 1_000_000;

/// Keys that are looked at in one go.
const KEYS: i64 = 10_000;

type Result<T> = std::result::Result<T, PostgresError>;

fn wrong<T>(what: String) -> Result<T> {
    Err(PostgresError::Options(what))
}

/// Connects to all shards.
pub(super) async fn connect(shards: &[ShardOptions]) -> Result<Vec<Peer>> {
    let mut peers = Vec::new();
    for shard in shards {
        peers.push(Peer::connect(shard).await?);
    }
    Ok(peers)
}

/// What all shards say of the ring.
pub(super) struct Told {
    /// The row of each shard.
    pub(super) rows: Vec<ShardRow>,
    /// The arcs of each.
    pub(super) arcs: Vec<std::sync::Arc<Arcs>>,
    /// What that comes to.
    pub(super) map: Map,
    /// Where arcs belong.
    pub(super) ring: Ring,
    /// The highest epoch of all.
    pub(super) epoch: i64,
}

impl Told {
    /// Asks all shards.
    pub(super) async fn ask(peers: &[Peer]) -> Result<Self> {
        let mut rows = Vec::new();
        let mut arcs = Vec::new();
        for peer in peers {
            let Some(row) = peer.shard().await? else {
                return wrong(format!(
                    "the database of shard {:?} is no shard yet; run `shunt migrate`",
                    peer.name
                ));
            };
            check_name(peer, &row)?;
            rows.push(row);
            arcs.push(std::sync::Arc::new(peer.arcs().await?));
        }
        let names: Vec<String> = peers.iter().map(|peer| peer.name.clone()).collect();
        let known: Vec<_> = arcs.iter().cloned().map(Some).collect();
        let map = Map::merge(&names, &known);
        let latest = rows.iter().max_by_key(|row| row.epoch);
        let Some(ring) = latest.and_then(|row| ring_from(&row.ring)) else {
            return wrong("the shards hold no ring that can be read".to_owned());
        };
        let arcs_epoch = arcs.iter().map(|arcs| arcs.epoch()).max().unwrap_or(0);
        let ring_epoch = latest.map_or(0, |row| row.epoch);
        if let Some((start, _)) = map.owners().iter().find(|(_, owner)| owner.is_none()) {
            return wrong(format!(
                "the arc at {start:?} belongs to a shard that is not named; name all shards"
            ));
        }
        Ok(Self { rows, arcs, map, ring, epoch: arcs_epoch.max(ring_epoch) })
    }

    /// The arcs whose owner is not the ring's: start, owner, and the ring's owner, both as numbers
    /// of shards.
    pub(super) fn moves(&self, peers: &[Peer]) -> Result<Vec<(Place, usize, usize)>> {
        let mut moves = Vec::new();
        for (start, owner) in self.map.owners() {
            let belongs = &self.ring.nodes()[self.ring.owner_of(*start)].name;
            let Some(to) = peers.iter().position(|peer| peer.name == *belongs) else {
                return wrong(format!("shard {belongs:?} is on the ring and not named; name it"));
            };
            if let Some(from) = owner
                && *from != to
            {
                moves.push((*start, *from, to));
            }
        }
        Ok(moves)
    }
}

fn check_name(peer: &Peer, row: &ShardRow) -> Result<()> {
    if row.name == peer.name {
        return Ok(());
    }
    wrong(format!(
        "the database of shard {:?} is shard {:?}; put names and addresses together as they were",
        peer.name, row.name
    ))
}

/// Brings every database to this program's schema and makes it a shard. The first time all of them
/// share the ring; later ones own nothing until [`plan`] says so.
///
/// # Errors
/// [`PostgresError`] says what is in the way and what to do.
pub async fn migrate(shards: &[ShardOptions]) -> Result<Vec<(String, Migrated)>> {
    let mut done = Vec::new();
    for shard in shards {
        done.push((shard.name.clone(), PostgresStore::migrate(&shard.database)?));
    }
    let peers = connect(shards).await?;
    let mut rows = Vec::new();
    for peer in &peers {
        let row = peer.shard().await?;
        if let Some(row) = &row {
            check_name(peer, row)?;
        } else if peer.count(1).await? > 0 {
            return wrong(format!(
                "the database of shard {:?} holds links already and is no shard; begin with empty \
                 databases and import the links",
                peer.name
            ));
        }
        rows.push(row);
    }
    let known = rows.iter().flatten().max_by_key(|row| row.epoch);
    let (home, ring, epoch, pieces) = match known {
        None => {
            let names = peers.iter().map(|peer| RingNode::new(peer.name.as_str())).collect();
            let ring =
                Ring::new(names).map_err(|error| PostgresError::Options(error.to_string()))?;
            let home = peers.iter().map(|peer| peer.name.clone()).min().unwrap_or_default();
            let owner = |at: usize| ring.nodes()[at].name.clone();
            let pieces: Vec<(Place, String, i64)> =
                pieces(&ring).into_iter().map(|(start, at)| (start, owner(at), 1)).collect();
            (home, ring_text(ring.nodes()), 1, pieces)
        }
        Some(known) => {
            // As one shard knows it: whoever looks at all of them finds the truth.
            let teller = peers.iter().zip(&rows).find(|(_, row)| row.as_ref() == Some(known));
            let mut pieces = Vec::new();
            if let Some((teller, _)) = teller {
                for row in teller.arcs().await?.rows() {
                    pieces.push((row.start, row.owner.to_string(), row.epoch));
                }
            }
            (known.home.clone(), known.ring.clone(), known.epoch, pieces)
        }
    };
    for (peer, row) in peers.iter().zip(&rows) {
        if row.is_none() {
            let (home, ring) = (home.clone(), ring.clone());
            let row = ShardRow { name: peer.name.clone(), home, ring, epoch };
            peer.set_up(&row, &pieces).await?;
        }
    }
    Ok(done)
}

/// A change of the ring.
#[derive(Clone, Debug)]
pub enum Change {
    /// A shard gets its share of the links, by its weight beside the others'.
    Add {
        /// Its name.
        name: String,
        /// Its weight, 1 for the same share as the others.
        weight: u32,
    },
    /// A shard gives all its links away.
    Remove {
        /// Its name.
        name: String,
    },
}

/// What [`plan`] comes to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan {
    /// Arcs that change their owner.
    pub arcs: usize,
    /// Their part of the ring, 0 to 1.
    pub share: f64,
}

/// How long an arc is as a part of the whole ring.
fn length(start: Place, end: Option<Place>) -> f64 {
    let end = end.map_or(u128::MAX, |end| end.0);
    (end - start.0) as f64 / u128::MAX as f64
}

/// Says where arcs belong from now on; [`super::rebalance`] brings them there.
///
/// # Errors
/// When the change makes no sense, arcs are being moved, or a shard can't be reached.
pub async fn plan(shards: &[ShardOptions], change: Change) -> Result<Plan> {
    let peers = connect(shards).await?;
    let told = Told::ask(&peers).await?;
    let moving = |arcs: &std::sync::Arc<Arcs>| {
        arcs.rows().iter().any(|row| matches!(row.state, State::Leaving | State::Coming))
    };
    if told.arcs.iter().any(moving) {
        return wrong(
            "arcs are being moved; finish that first with `shunt shards rebalance`".to_owned(),
        );
    }
    let mut nodes = told.ring.nodes().to_vec();
    match change {
        Change::Add { name, weight } => {
            if !peers.iter().any(|peer| peer.name == name) {
                return wrong(format!(
                    "no shard is called {name:?}; add it to store.shards of every node first, and \
                     run `shunt migrate`"
                ));
            }
            nodes.push(RingNode { name, weight });
        }
        Change::Remove { name } => {
            if told.rows.iter().any(|row| row.home == name) {
                return wrong(format!(
                    "shard {name:?} is the home: keys, domains, settings and roll-ups live there; \
                     it can't be removed"
                ));
            }
            let before = nodes.len();
            nodes.retain(|node| node.name != name);
            if nodes.len() == before {
                return wrong(format!("shard {name:?} is not on the ring"));
            }
        }
    }
    let ring = Ring::new(nodes).map_err(|error| PostgresError::Options(error.to_string()))?;
    // All cuts, also those that were made while one of the shards was not named.
    let known = told.map.owners().iter().map(|(start, _)| *start);
    let starts: Vec<Place> =
        pieces(&ring).into_iter().map(|(start, _)| start).chain(known).collect();
    for (peer, row) in peers.iter().zip(&told.rows) {
        let ring = ring_text(ring.nodes());
        let row = ShardRow { ring, epoch: told.epoch + 1, ..row.clone() };
        peer.re_ring(&row, &starts).await?;
    }
    let told = Told::ask(&peers).await?;
    let moves = told.moves(&peers)?;
    let whole = told.arcs.first().cloned().unwrap_or_default();
    let share = moves.iter().map(|(start, ..)| length(*start, whole.end(*start))).sum();
    Ok(Plan { arcs: moves.len(), share })
}

/// How a shard is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ShardStatus {
    /// Its name.
    pub name: String,
    /// Why it can't be asked.
    pub error: Option<String>,
    /// Whether it is the home.
    pub home: bool,
    /// Its weight on the ring; 0 when it is not on it.
    pub weight: u32,
    /// Live links, counted up to a million.
    pub links: u64,
    /// Arcs it owns.
    pub arcs: usize,
    /// Their part of the ring, 0 to 1.
    pub share: f64,
    /// Arcs being copied away.
    pub leaving: usize,
    /// Arcs being copied to it.
    pub coming: usize,
    /// Arcs that it owned, with rows to be deleted.
    pub left_behind: usize,
    /// Arcs of it that belong elsewhere by the ring.
    pub to_go: usize,
}

/// How all shards are, as far as they can be asked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    /// In the order of the settings.
    pub shards: Vec<ShardStatus>,
}

/// Looks at every shard; one that can't be reached is told as such.
pub async fn status(shards: &[ShardOptions]) -> Status {
    let looks = shards.iter().map(async |shard| {
        let peer = Peer::connect(shard).await?;
        let row = peer.shard().await?;
        Ok::<_, PostgresError>((row, peer.arcs().await?, peer.count(COUNTED).await?))
    });
    let looks = join_all(looks).await;
    let known = |look: &Result<(Option<ShardRow>, Arcs, u64)>| {
        look.as_ref().ok().map(|(_, arcs, _)| std::sync::Arc::new(arcs.clone()))
    };
    let names: Vec<String> = shards.iter().map(|shard| shard.name.clone()).collect();
    let map = Map::merge(&names, &looks.iter().map(known).collect::<Vec<_>>());
    let rows = looks.iter().filter_map(|look| look.as_ref().ok()?.0.as_ref());
    let latest = rows.max_by_key(|row| row.epoch);
    let ring = latest.and_then(|row| ring_from(&row.ring));
    let mut all = Vec::new();
    for (at, (name, look)) in names.iter().zip(&looks).enumerate() {
        let mut status = ShardStatus {
            name: name.clone(),
            home: latest.is_some_and(|row| row.home == *name),
            ..ShardStatus::default()
        };
        if let Some(ring) = &ring {
            let node = ring.nodes().iter().find(|node| node.name == *name);
            status.weight = node.map_or(0, |node| node.weight);
            for (number, (start, owner)) in map.owners().iter().enumerate() {
                if *owner == Some(at) {
                    let end = map.owners().get(number + 1).map(|(end, _)| *end);
                    status.arcs += 1;
                    status.share += length(*start, end);
                    let belongs = &ring.nodes()[ring.owner_of(*start)].name;
                    status.to_go += usize::from(belongs != name);
                }
            }
        }
        match look {
            Ok((_, arcs, links)) => {
                let count = |state| arcs.rows().iter().filter(|row| row.state == state).count();
                status.links = *links;
                status.leaving = count(State::Leaving);
                status.coming = count(State::Coming);
                status.left_behind = count(State::Gone);
            }
            Err(error) => status.error = Some(error.to_string()),
        }
        all.push(status);
    }
    Status { shards: all }
}

/// What [`verify`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Rows that were looked at, tombstones included.
    pub rows: u64,
    /// Rows on the shard that owns them, where the ring wants them.
    pub right: u64,
    /// Rows on the shard that owns them, which the ring wants elsewhere: `rebalance` moves them.
    pub to_move: u64,
    /// Copies on their way to a shard, or left behind by it.
    pub copies: u64,
    /// Rows on a shard that never owned them: nobody finds them there. A few of their codes.
    pub misplaced: Vec<String>,
    /// How many of those there are.
    pub misplaced_rows: u64,
}

/// The most misplaced codes that are named.
const NAMED: usize = 10;

/// Compares the place of every row with the owners of arcs and with the ring. `tell` hears how many
/// rows were looked at.
///
/// # Errors
/// When a shard can't be asked.
pub async fn verify(shards: &[ShardOptions], tell: &mut dyn FnMut(u64)) -> Result<Verified> {
    let peers = connect(shards).await?;
    let told = Told::ask(&peers).await?;
    let mut found = Verified::default();
    for (at, (peer, arcs)) in peers.iter().zip(&told.arcs).enumerate() {
        let mut behind = (String::new(), i64::MIN);
        loop {
            let keys = peer.link_keys(&behind, KEYS).await?;
            let Some(last) = keys.last().cloned() else { break };
            for (code, _) in keys {
                let place = Place::of(&code);
                found.rows += 1;
                let belongs = &told.ring.nodes()[told.ring.owner_of(place)].name;
                let state = arcs.at(place).map(|arc| arc.state);
                if told.map.owner(place) == Some(at) {
                    let right = *belongs == peer.name;
                    *(if right { &mut found.right } else { &mut found.to_move }) += 1;
                } else if matches!(state, Some(State::Coming | State::Gone)) {
                    found.copies += 1;
                } else {
                    found.misplaced_rows += 1;
                    if found.misplaced.len() < NAMED {
                        found.misplaced.push(format!("{code} on {}", peer.name));
                    }
                }
            }
            tell(found.rows);
            behind = last;
        }
    }
    Ok(found)
}
