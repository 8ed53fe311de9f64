//! Whom to ask next. Pure: in go outcomes, out come peers.
//!
//! * The leader as hinted, then everybody else once; then the round is over, and the caller pauses before the next.
//! * Invariant: a round asks nobody twice, so that two nodes which name each other do not make a loop.

use super::directory::Directory;
use duramen_common::{NodeId, PartitionId};
use duramen_transport::Peer;

/// One search for a node that helps.
#[derive(Debug)]
pub(super) struct Route {
    partition: PartitionId,
    target: Option<Peer>,
    tried: Vec<String>,
    rounds: u32,
}

impl Route {
    pub(super) fn new(partition: PartitionId) -> Route {
        Route { partition, target: None, tried: Vec::new(), rounds: 0 }
    }

    /// The peer to ask: the same one until it fails. `None` when this round has asked everybody.
    pub(super) fn target(&mut self, directory: &Directory) -> Option<Peer> {
        if self.target.is_none() {
            let untried = |peer: &Peer| !self.tried.contains(&peer.addr);
            let leader = directory.leader(self.partition).filter(untried);
            self.target = leader.or_else(|| directory.peers().into_iter().find(untried));
        }
        self.target.clone()
    }

    /// The peer did not help; perhaps it said who leads.
    pub(super) fn failed(&mut self, directory: &Directory, peer: &Peer, leader: Option<NodeId>) {
        match leader {
            Some(leader) if Some(leader) != peer.node => directory.set_leader(self.partition, leader),
            _ => directory.not_leader(self.partition, peer),
        }
        if self.target.as_ref().is_some_and(|target| target.addr == peer.addr) {
            self.target = None;
        }
        if !self.tried.contains(&peer.addr) {
            self.tried.push(peer.addr.clone());
        }
    }

    /// The peer helped.
    pub(super) fn succeeded(&mut self, directory: &Directory, peer: &Peer) {
        if let Some(node) = peer.node {
            directory.set_leader(self.partition, node);
        }
        self.tried.clear();
        self.rounds = 0;
    }

    /// Begins the next round; answers how many have failed so far.
    pub(super) fn next_round(&mut self) -> u32 {
        self.target = None;
        self.tried.clear();
        self.rounds = self.rounds.saturating_add(1);
        self.rounds
    }
}
