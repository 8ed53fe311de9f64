//! Partitions: which links a nemesis cuts. Pure but for its seed.
//!
//! * Every shape leaves something cut and, but for the one-way ones, cuts both directions of a link.
//! * Source: Jepsen's nemesis, `complete-grudge`, `bridge`, `majorities-ring`.

use super::network::{Cuts, NodeIndex};
use crate::harness::rng::Rng;
use std::fmt;

/// How the nodes are divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shape {
    /// Two halves; the smaller has less than a majority.
    Halves,
    /// Each node hears a majority, and no two the same.
    MajorityRing,
    /// Two sides, and one node that both hear.
    Bridge,
    /// One node that nobody hears, and that hears nobody.
    Isolated,
    /// One node that hears, but is not heard.
    Mute,
    /// One node that is heard, but does not hear.
    Deaf,
}

impl Shape {
    /// All of them.
    pub const ALL: [Shape; 6] =
        [Shape::Halves, Shape::MajorityRing, Shape::Bridge, Shape::Isolated, Shape::Mute, Shape::Deaf];

    /// What this shape cuts among nodes in this order.
    #[must_use]
    pub fn cuts(self, order: &[NodeIndex]) -> Cuts {
        let count = order.len();
        let is_cut = |from: usize, to: usize| match self {
            Shape::Halves => (from < count / 2) != (to < count / 2),
            Shape::MajorityRing => {
                let distance = from.abs_diff(to);
                // A majority is the node itself and its neighbours on either side.
                distance.min(count - distance) > (count / 2).div_ceil(2)
            }
            Shape::Bridge => from != 0 && to != 0 && (from <= (count - 1) / 2) != (to <= (count - 1) / 2),
            Shape::Isolated => from == 0 || to == 0,
            Shape::Mute => from == 0,
            Shape::Deaf => to == 0,
        };
        let pairs = (0..count).flat_map(|from| (0..count).map(move |to| (from, to)));
        let cut = pairs.filter(|&(from, to)| from != to && is_cut(from, to));
        cut.map(|(from, to)| (order[from], order[to])).collect()
    }

    /// A random shape of so many nodes, and what it cuts; `None` where there is nothing to cut.
    pub fn random(nodes: usize, rng: &mut Rng) -> Option<(Shape, Cuts)> {
        let order = shuffled(nodes, rng);
        let fit = Shape::ALL.iter().map(|&shape| (shape, shape.cuts(&order))).filter(|(_, cuts)| !cuts.is_empty());
        let mut fit: Vec<(Shape, Cuts)> = fit.collect();
        (!fit.is_empty()).then(|| fit.swap_remove(rng.below(fit.len())))
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Shape::Halves => "halves",
            Shape::MajorityRing => "majority ring",
            Shape::Bridge => "bridge",
            Shape::Isolated => "isolated",
            Shape::Mute => "mute",
            Shape::Deaf => "deaf",
        })
    }
}

/// All nodes in a random order.
pub fn shuffled(nodes: usize, rng: &mut Rng) -> Vec<NodeIndex> {
    let mut order: Vec<NodeIndex> = (0..nodes).collect();
    for place in (1..nodes).rev() {
        order.swap(place, rng.below(place + 1));
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard_by(cuts: &Cuts, node: NodeIndex, nodes: usize) -> Vec<NodeIndex> {
        (0..nodes).filter(|&from| !cuts.contains(&(from, node))).collect()
    }

    #[test]
    fn halves_leave_a_majority_and_a_minority() {
        let cuts = Shape::Halves.cuts(&[4, 2, 0, 1, 3]);
        assert_eq!(heard_by(&cuts, 4, 5), [2, 4]);
        assert_eq!(heard_by(&cuts, 1, 5), [0, 1, 3]);
    }

    #[test]
    fn in_a_ring_each_hears_a_majority_of_its_own() {
        let cuts = Shape::MajorityRing.cuts(&[0, 1, 2, 3, 4]);
        let majorities: std::collections::BTreeSet<_> = (0..5).map(|node| heard_by(&cuts, node, 5)).collect();
        assert_eq!(majorities.len(), 5);
        assert!(majorities.iter().all(|majority| majority.len() == 3));
    }

    #[test]
    fn a_bridge_is_heard_on_both_sides_which_do_not_hear_each_other() {
        let cuts = Shape::Bridge.cuts(&[0, 1, 2, 3, 4]);
        assert_eq!(heard_by(&cuts, 0, 5), [0, 1, 2, 3, 4]);
        assert_eq!(heard_by(&cuts, 1, 5), [0, 1, 2]);
        assert_eq!(heard_by(&cuts, 4, 5), [0, 3, 4]);
    }

    #[test]
    fn one_way_cuts_are_one_way() {
        let (mute, deaf) = (Shape::Mute.cuts(&[1, 0, 2]), Shape::Deaf.cuts(&[1, 0, 2]));
        assert_eq!((heard_by(&mute, 0, 3), heard_by(&mute, 1, 3)), (vec![0, 2], vec![0, 1, 2]));
        assert_eq!((heard_by(&deaf, 0, 3), heard_by(&deaf, 1, 3)), (vec![0, 1, 2], vec![1]));
    }

    #[test]
    fn whatever_is_drawn_cuts_something_and_one_node_has_nothing_to_cut() {
        let mut rng = Rng::of_stream(7, 7);
        for nodes in 2..8 {
            for _ in 0..50 {
                assert!(Shape::random(nodes, &mut rng).is_some_and(|(_, cuts)| !cuts.is_empty()));
            }
        }
        assert_eq!(Shape::random(1, &mut rng), None);
    }
}
