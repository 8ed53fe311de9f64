//! Which members of the cluster have room for records, as they said last: so that a leader admits none that no majority can take.
//!
//! * In: what each answer to an append message says. Out: whether new records may be proposed, and whose disk is in the way.
//! * Each leader leaves at most what it has in flight in its log when followers fill up; those entries must be taken by full
//!   followers later, because a next leader's blank entry comes after them. This keeps them few.
//! * Deliberately absent: promises. A follower decides for itself (`network`).
//! * Source: docs/adr/0019-a-full-disk.md.

use duramen_common::NodeId;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, Ordering};

/// Not asked yet: taken for one that has room.
const UNKNOWN: u8 = 0;
const ROOM: u8 = 1;
const FULL: u8 = 2;
/// The last question was not answered.
const SILENT: u8 = 3;

/// What the other members said. Shared by all groups of a node.
#[derive(Debug)]
pub struct PeersRoom {
    peers: BTreeMap<NodeId, AtomicU8>,
}

impl PeersRoom {
    /// For a cluster of these members, of which `own` is this node.
    #[must_use]
    pub fn new(members: impl IntoIterator<Item = NodeId>, own: NodeId) -> PeersRoom {
        let peers = members.into_iter().filter(|&node| node != own).map(|node| (node, AtomicU8::new(UNKNOWN)));
        PeersRoom { peers: peers.collect() }
    }

    /// A member answered an append message.
    pub(super) fn answered(&self, node: NodeId, has_room: bool) {
        self.set(node, if has_room { ROOM } else { FULL });
    }

    /// A member did not answer.
    pub(super) fn is_silent(&self, node: NodeId) {
        self.set(node, SILENT);
    }

    /// Whether a member said last that its disk is full.
    pub(super) fn is_full(&self, node: NodeId) -> bool {
        self.peers.get(&node).is_some_and(|state| state.load(Ordering::Relaxed) == FULL)
    }

    /// Forgets everything: this node leads nothing now, so that nobody answers it.
    pub fn forget(&self) {
        self.peers.values().for_each(|state| state.store(UNKNOWN, Ordering::Relaxed));
    }

    /// A member whose full disk keeps records of this node, which has room, from a majority. Members that are silent are counted as
    /// without room, but only where another one is known to be full: a lost majority is not a full disk.
    #[must_use]
    pub fn in_the_way(&self) -> Option<NodeId> {
        let states = || self.peers.iter().map(|(&node, state)| (node, state.load(Ordering::Relaxed)));
        let (full, _) = states().find(|&(_, state)| state == FULL)?;
        let with_room = 1 + states().filter(|&(_, state)| state == ROOM || state == UNKNOWN).count();
        let members = self.peers.len() + 1;
        let majority = members / 2 + 1;
        (with_room < majority).then_some(full)
    }

    fn set(&self, node: NodeId, now: u8) {
        if let Some(state) = self.peers.get(&node)
            && state.load(Ordering::Relaxed) != now
        {
            state.store(now, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(states: &[u8]) -> Option<u64> {
        let room = PeersRoom::new((1..=states.len() as u64 + 1).map(NodeId::new), NodeId::new(1));
        for (&state, node) in states.iter().zip(2..) {
            match state {
                ROOM => room.answered(NodeId::new(node), true),
                FULL => room.answered(NodeId::new(node), false),
                SILENT => room.is_silent(NodeId::new(node)),
                _ => {}
            }
        }
        room.in_the_way().map(NodeId::get)
    }

    /// Goal: records are refused exactly when a full disk keeps them from a majority. Method: clusters of one, two, three and five.
    #[test]
    fn a_full_member_is_in_the_way_when_a_majority_needs_it() {
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[FULL]), Some(2));
        assert_eq!(of(&[ROOM, FULL]), None);
        assert_eq!(of(&[UNKNOWN, FULL]), None, "a member that was not asked yet may have room");
        assert_eq!(of(&[FULL, FULL]), Some(2));
        assert_eq!(of(&[SILENT, FULL]), Some(3));
        assert_eq!(of(&[SILENT, SILENT]), None, "a lost majority is not a full disk");
        assert_eq!(of(&[FULL, FULL, ROOM, ROOM]), None);
        assert_eq!(of(&[FULL, SILENT, ROOM, FULL]), Some(2));
    }

    #[test]
    fn what_was_said_is_forgotten_by_a_node_that_leads_nothing() {
        let room = PeersRoom::new([1, 2].map(NodeId::new), NodeId::new(1));
        room.answered(NodeId::new(2), false);
        room.forget();
        assert_eq!(room.in_the_way(), None);
    }
}
