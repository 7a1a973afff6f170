use proptest::prelude::*;

use super::*;

fn ring(names: &[&str]) -> Ring {
    Ring::new(names.iter().map(|name| RingNode::new(*name)).collect()).unwrap()
}

/// Made with uhashring 2.5: `HashRing(nodes).get_node(key)`; the weights as a dictionary.
/// Lines: nodes as `name*weight`, joined by commas; key; node.
const GOLDEN: &str = include_str!("golden.tsv");

#[test]
fn keys_lie_where_uhashring_puts_them() {
    let mut lines = 0;
    for line in GOLDEN.lines() {
        let [nodes, key, owner] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("{line}");
        };
        let nodes = nodes.split(',').map(|node| {
            let (name, weight) = node.rsplit_once('*').unwrap();
            RingNode { name: name.to_owned(), weight: weight.parse().unwrap() }
        });
        let ring = Ring::new(nodes.collect()).unwrap();
        assert_eq!(ring.nodes()[ring.owner(key)].name, owner, "{line}");
        lines += 1;
    }
    assert!(lines >= 1_000, "{lines}");
}

#[test]
fn nodes_that_make_no_ring_are_refused() {
    assert_eq!(Ring::new(vec![]), Err(RingError::Empty));
    let twice = vec![RingNode::new("a"), RingNode::new("b"), RingNode::new("a")];
    assert_eq!(Ring::new(twice), Err(RingError::Twice("a".to_owned())));
    for weight in [0, MAX_WEIGHT + 1] {
        let node = RingNode { name: "a".to_owned(), weight };
        assert!(matches!(Ring::new(vec![node]), Err(RingError::Weight { .. })));
    }
}

#[test]
fn a_point_itself_belongs_to_the_next_node() {
    let ring = ring(&["a", "b", "c"]);
    let (arcs, last) = (ring.arcs().collect::<Vec<_>>(), ring.points.len() - 1);
    assert_eq!(arcs.len(), ring.points.len());
    // The first arc runs over the end of the ring.
    assert!(arcs[0].0.start >= arcs[0].0.end);
    assert_eq!(arcs[0].0.start, ring.points[last].0);
    for (arc, owner) in arcs {
        assert_eq!(ring.owner_of(arc.start), owner);
        assert_eq!(ring.owner_of(Place(arc.end.0.wrapping_sub(1))), owner);
        assert!(arc.holds(arc.start) && !arc.holds(arc.end));
    }
}

#[test]
fn the_share_of_a_node_follows_its_weight() {
    let nodes = vec![RingNode::new("a"), RingNode { name: "b".to_owned(), weight: 3 }];
    let ring = Ring::new(nodes).unwrap();
    let of_b = (0..20_000).filter(|n| ring.owner(&format!("code{n}")) == 1).count();
    assert!((13_500..16_500).contains(&of_b), "{of_b} of 20,000");
}

proptest! {
    /// Exactly the keys in the moves change their node, and each knows from whom to whom.
    #[test]
    fn moves_are_what_changes(
        old in prop::collection::hash_set("[a-e]{1,2}", 1..6),
        new in prop::collection::hash_set("[a-e]{1,2}", 1..6),
        keys in prop::collection::vec("[0-9A-Za-z]{1,9}", 200),
    ) {
        let make = |names: std::collections::HashSet<String>| {
            Ring::new(names.into_iter().map(RingNode::new).collect()).unwrap()
        };
        let (old, new) = (make(old), make(new));
        let moves = old.moves(&new);
        for key in keys {
            let place = Place::of(&key);
            let before = &old.nodes()[old.owner(&key)].name;
            let after = &new.nodes()[new.owner(&key)].name;
            let told: Vec<_> = moves.iter().filter(|moved| moved.arc.holds(place)).collect();
            if before == after {
                prop_assert!(told.is_empty());
            } else {
                prop_assert_eq!(told.len(), 1);
                prop_assert_eq!(&old.nodes()[told[0].from].name, before);
                prop_assert_eq!(&new.nodes()[told[0].to].name, after);
            }
        }
    }
}
