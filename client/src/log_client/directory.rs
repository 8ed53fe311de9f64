//! What the client knows of the cluster: nodes, leaders, how far each log is known to reach. No I/O.
//!
//! * In: answers. Out: peers, hints.
//! * Invariant: the history is fixed once; what is learned of another history is not taken.
//! * Leaders are hints: whoever is asked says whether it leads.

use super::HistoryPin;
use duramen_common::protocol::ClusterInfo;
use duramen_common::{HistoryId, NodeId, Offset, PartitionId};
use duramen_transport::Peer;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};

/// Shared by all that a client does.
pub(super) struct Directory {
    pin: HistoryPin,
    seeds: Vec<Peer>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    nodes: Vec<Peer>,
    partitions: Option<u16>,
    leaders: HashMap<PartitionId, NodeId>,
    committed_ends: HashMap<PartitionId, Offset>,
    /// Addresses whose cluster answer was of our history.
    verified: HashSet<String>,
}

/// An answer of another cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OtherHistory {
    pub(super) ours: HistoryId,
    pub(super) theirs: HistoryId,
}

impl Directory {
    pub(super) fn new(seeds: &[String], pin: HistoryPin) -> Directory {
        let seeds = seeds.iter().map(|addr| Peer { addr: addr.clone(), node: None }).collect();
        Directory { pin, seeds, state: Mutex::default() }
    }

    pub(super) fn pin(&self) -> &HistoryPin {
        &self.pin
    }

    /// The configured nodes.
    pub(super) fn seeds(&self) -> &[Peer] {
        &self.seeds
    }

    /// The number of the node at this address, if known.
    pub(super) fn node_at(&self, addr: &str) -> Option<NodeId> {
        self.state.lock().nodes.iter().find(|peer| peer.addr == addr)?.node
    }

    /// Takes over a cluster's description, as `from` gave it. Leader hints that we have stay: they came from elections
    /// that we saw, and are dropped when they prove wrong.
    pub(super) fn adopt(&self, from: &Peer, info: &ClusterInfo) -> Result<(), OtherHistory> {
        let ours = self.pin.fix(info.history);
        if ours != info.history {
            return Err(OtherHistory { ours, theirs: info.history });
        }
        let mut state = self.state.lock();
        state.verified.insert(from.addr.clone());
        state.nodes =
            info.log_nodes.iter().map(|node| Peer { addr: node.rpc_addr.clone(), node: Some(node.node) }).collect();
        state.partitions = Some(info.partitions);
        for (number, leader) in info.leaders.iter().enumerate().take(usize::from(info.partitions)) {
            if let Some(leader) = leader {
                state.leaders.entry(PartitionId::new(number as u16)).or_insert(*leader);
            }
        }
        Ok(())
    }

    /// Whether this address has shown that it is of our history.
    pub(super) fn is_verified(&self, addr: &str) -> bool {
        self.state.lock().verified.contains(addr)
    }

    /// How many data partitions there are, once known.
    pub(super) fn partitions(&self) -> Option<u16> {
        self.state.lock().partitions
    }

    /// Everybody that can be asked: addresses to start from as they were given, nearest first, then the other known nodes.
    pub(super) fn peers(&self) -> Vec<Peer> {
        let state = self.state.lock();
        let known = |seed: &Peer| state.nodes.iter().find(|node| node.addr == seed.addr).cloned();
        let mut peers: Vec<Peer> = self.seeds.iter().map(|seed| known(seed).unwrap_or_else(|| seed.clone())).collect();
        let others = state.nodes.iter().filter(|node| self.seeds.iter().all(|seed| seed.addr != node.addr));
        peers.extend(others.cloned());
        peers
    }

    /// Whether the nodes are known, and not only where to start from.
    pub(super) fn is_known(&self) -> bool {
        self.state.lock().partitions.is_some()
    }

    /// Where the leader should be.
    pub(super) fn leader(&self, partition: PartitionId) -> Option<Peer> {
        let state = self.state.lock();
        let leader = *state.leaders.get(&partition)?;
        state.nodes.iter().find(|peer| peer.node == Some(leader)).cloned()
    }

    /// Notes who leads.
    pub(super) fn set_leader(&self, partition: PartitionId, leader: NodeId) {
        self.state.lock().leaders.insert(partition, leader);
    }

    /// Drops the hint when it names `peer`.
    pub(super) fn not_leader(&self, partition: PartitionId, peer: &Peer) {
        let mut state = self.state.lock();
        if peer.node.is_some() && state.leaders.get(&partition).copied() == peer.node {
            state.leaders.remove(&partition);
        }
    }

    /// The greatest committed end seen of a partition.
    pub(super) fn known_end(&self, partition: PartitionId) -> Option<Offset> {
        self.state.lock().committed_ends.get(&partition).copied()
    }

    /// Forgets a committed end that the log calls too old: it is asked for again before the next append.
    pub(super) fn forget_end(&self, partition: PartitionId) {
        self.state.lock().committed_ends.remove(&partition);
    }

    /// Notes a committed end.
    pub(super) fn see_end(&self, partition: PartitionId, committed_end: Offset) {
        let mut state = self.state.lock();
        let seen = state.committed_ends.entry(partition).or_insert(committed_end);
        *seen = (*seen).max(committed_end);
    }
}
