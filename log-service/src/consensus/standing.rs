//! Standing: what a group knows *now* about who leads it, and since when it has not known.
//!
//! * In: each message that a leader sent and this node accepted; at a leader, when a majority last answered. Out: a leader
//!   that was confirmed within a given time, or nobody.
//! * Openraft's own `current_leader` is a memory: it names a leader that died, and a leader without followers, for good.
//! * Deliberately absent: any effect on elections. Requests are still sent to the last known leader, which is a hint.

use duramen_common::NodeId;
use parking_lot::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// What this node knows now about who leads a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// This node leads, and a majority confirmed it within the given time.
    LeadsHere,
    /// This node leads, and no majority has confirmed it within the given time.
    WithoutMajority,
    /// This node was addressed by this leader within the given time.
    Follows {
        /// Who leads.
        leader: NodeId,
    },
    /// Nobody that was heard of within the given time.
    Unknown,
}

/// When this node last accepted a message of a leader. Shared by those who answer peers and those who ask.
#[derive(Default)]
pub(super) struct Heard(Mutex<Option<(NodeId, Instant)>>);

impl Heard {
    /// A message of `leader` was accepted just now.
    pub(super) fn note(&self, leader: NodeId) {
        *self.0.lock() = Some((leader, Instant::now()));
    }

    /// Whether `leader` was the last one heard of, and that is not longer ago than `within`.
    pub(super) fn is_of(&self, leader: NodeId, within: Duration) -> bool {
        self.0.lock().is_some_and(|(heard, at)| heard == leader && at.elapsed() <= within)
    }
}
