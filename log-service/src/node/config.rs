//! What a log node is told at its start: a plain struct, checked once, passed down.
//!
//! * Configuration says who and where; what the cluster *is* (history, partitions, window) is decided once, at
//!   formation, and stands in the identity file from then on.
//! * Source: DESIGN D12.

use crate::consensus::RaftTimings;
use crate::store::StoreConfig;
use duramen_common::files::FilesShare;
use duramen_common::limits::{BODY_BYTES_MAX, DEDUP_WINDOW_DEFAULT, PARTITIONS_MAX, VALUE_BYTES_MAX};
use duramen_common::{NodeId, PartitionId};
use duramen_transport::Peer;
use duramen_transport::http::HttpLimits;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// A log node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// Its number.
    pub node: NodeId,
    /// Framed TCP as others reach it, `host:port`.
    pub rpc_addr: String,
    /// HTTP as others reach it, `host:port`.
    pub http_addr: String,
}

/// Limits of a log node.
#[derive(Clone, Debug)]
pub struct NodeLimits {
    /// Appends waiting for one partition's batcher; beyond, they are refused.
    pub queue_appends_max: usize,
    /// The same in bytes of records. Unit: bytes.
    pub queue_bytes_max: usize,
    /// One batch is closed at about this size. Unit: bytes of records.
    pub batch_bytes: usize,
    /// Batches of one partition under way at once.
    pub batches_in_flight_max: usize,
    /// Longest wait that an append or a tail question may ask for. Unit: milliseconds.
    pub timeout_ms_max: u64,
    /// What answers of the HTTP port may hold, over all connections, until their callers have taken them. Unit: bytes.
    pub answer_bytes_max: usize,
    /// A leader that was not confirmed for this long is shown as unknown. Unit: milliseconds.
    pub leader_silence_ms_max: u64,
    /// A log node that could not be called for this long is named, and does not lead where the others can do without it.
    /// Unit: milliseconds.
    pub unreachable_ms_max: u64,
    /// For this long after a serving node last registered, nobody else gets its name. Unit: milliseconds.
    pub serving_name_ms: u64,
}

impl Default for NodeLimits {
    fn default() -> NodeLimits {
        NodeLimits {
            queue_appends_max: 4_096,
            queue_bytes_max: 32 * 1024 * 1024,
            batch_bytes: 1024 * 1024,
            batches_in_flight_max: 4,
            timeout_ms_max: 30_000,
            answer_bytes_max: 64 * 1024 * 1024,
            leader_silence_ms_max: 3_000,
            unreachable_ms_max: 5_000,
            serving_name_ms: 6_000,
        }
    }
}

/// Everything a log node is told.
#[derive(Clone, Debug)]
pub struct LogNodeConfig {
    /// This node's number.
    pub node: NodeId,
    /// Where its data is.
    pub data_dir: PathBuf,
    /// Where it listens for framed TCP, `host:port`; port 0 for any.
    pub rpc_listen: String,
    /// Where it listens for HTTP, `host:port`; port 0 for any.
    pub http_listen: String,
    /// Every log node of the cluster, this one included.
    pub peers: Vec<PeerConfig>,
    /// Data partitions, for a cluster that is being formed.
    pub partitions: u16,
    /// Over how many offsets request ids are remembered, for a cluster that is being formed.
    pub dedup_window: u64,
    /// When leaders are missed.
    pub timings: RaftTimings,
    /// Segments and caches.
    pub store: StoreConfig,
    /// Queues and batches.
    pub limits: NodeLimits,
    /// Connections of the HTTP port: how many, how long, how much.
    pub http: HttpLimits,
    /// Longest value, and longest event, that the HTTP port takes. Unit: bytes.
    pub value_bytes_max: usize,
    /// What the process may open; ports take fewer connections where that is little. `None`: nobody counts.
    pub files: Option<FilesShare>,
    /// Origins of web pages that may talk to the HTTP port.
    pub http_origins: Vec<String>,
    /// How many log lines the process has dropped. The process counts, the node publishes it.
    pub log_lines_dropped: Arc<AtomicU64>,
}

impl LogNodeConfig {
    /// A configuration with the usual values.
    #[must_use]
    pub fn new(
        node: NodeId,
        data_dir: PathBuf,
        rpc_listen: String,
        http_listen: String,
        peers: Vec<PeerConfig>,
    ) -> Self {
        LogNodeConfig {
            node,
            data_dir,
            rpc_listen,
            http_listen,
            peers,
            partitions: 4,
            dedup_window: DEDUP_WINDOW_DEFAULT,
            timings: RaftTimings::default(),
            store: StoreConfig::default(),
            limits: NodeLimits::default(),
            http: HttpLimits::default(),
            value_bytes_max: VALUE_BYTES_MAX,
            files: None,
            http_origins: Vec::new(),
            log_lines_dropped: Arc::default(),
        }
    }

    /// What is wrong with it, as one clause.
    pub fn check(&self) -> Result<(), String> {
        let nodes: BTreeSet<NodeId> = self.peers.iter().map(|peer| peer.node).collect();
        if !nodes.contains(&self.node) {
            return Err(format!("the peers do not name node {} itself", self.node));
        }
        if nodes.len() != self.peers.len() {
            return Err("two peers have the same number".to_owned());
        }
        for peer in &self.peers {
            let addrs = [&peer.rpc_addr, &peer.http_addr];
            let shares = |other: &&PeerConfig| {
                other.node != peer.node && (addrs.contains(&&other.rpc_addr) || addrs.contains(&&other.http_addr))
            };
            if let Some(other) = self.peers.iter().find(shares) {
                let (node, addr) = (peer.node, &peer.rpc_addr);
                return Err(format!(
                    "nodes {node} and {} have the same address: look at that of node {node}, {addr}",
                    other.node
                ));
            }
        }
        if self.partitions == 0 || self.partitions > PARTITIONS_MAX {
            return Err(format!("{} partitions: 1 to {PARTITIONS_MAX} are possible", self.partitions));
        }
        if self.dedup_window < 1_024 {
            return Err(format!("a duplicate window of {}: at least 1024 records", self.dedup_window));
        }
        let limits = &self.limits;
        if [limits.queue_appends_max, limits.queue_bytes_max, limits.batch_bytes, limits.batches_in_flight_max]
            .contains(&0)
        {
            return Err("a limit of 0".to_owned());
        }
        if self.value_bytes_max > BODY_BYTES_MAX {
            return Err(format!("value_bytes_max of {}: at most {BODY_BYTES_MAX}", self.value_bytes_max));
        }
        self.http.check().map_err(|(setting, clause)| format!("{setting} {clause}"))?;
        if limits.leader_silence_ms_max.min(limits.unreachable_ms_max) < self.timings.election_ms_max {
            return Err("a leader is given less time to be heard of than an election takes".to_owned());
        }
        self.timings.check()
    }

    /// How long a leader may be silent until it is shown as unknown.
    pub(super) fn leader_silence(&self) -> Duration {
        Duration::from_millis(self.limits.leader_silence_ms_max)
    }

    /// Where every node is, this one included.
    pub(super) fn peer_table(&self) -> Arc<BTreeMap<NodeId, Peer>> {
        let peer = |peer: &PeerConfig| (peer.node, Peer { addr: peer.rpc_addr.clone(), node: Some(peer.node) });
        Arc::new(self.peers.iter().map(peer).collect())
    }

    /// Who begins the elections of a partition that is being made, so that leaders are spread.
    pub(super) fn first_leader(&self, partition: PartitionId) -> NodeId {
        let nodes: BTreeSet<NodeId> = self.peers.iter().map(|peer| peer.node).collect();
        let turn = usize::from(partition.get()) % nodes.len().max(1);
        nodes.into_iter().nth(turn).unwrap_or(self.node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        let peer = |node: u64| PeerConfig {
            node: NodeId::new(node),
            rpc_addr: format!("127.0.0.1:{node}"),
            http_addr: format!("127.0.0.1:1{node}"),
        };
        let good = LogNodeConfig::new(
            NodeId::new(1),
            PathBuf::from("data"),
            "127.0.0.1:0".to_owned(),
            "127.0.0.1:0".to_owned(),
            vec![peer(1), peer(2), peer(3)],
        );
        assert_eq!(good.check(), Ok(()));
        for (bad, wanted) in [
            (LogNodeConfig { node: NodeId::new(9), ..good.clone() }, "itself"),
            (LogNodeConfig { peers: vec![peer(1), peer(1)], ..good.clone() }, "same number"),
            (
                LogNodeConfig {
                    peers: vec![peer(1), PeerConfig { http_addr: "127.0.0.1:1".to_owned(), ..peer(2) }],
                    ..good.clone()
                },
                "nodes 1 and 2 have the same address",
            ),
            (
                LogNodeConfig {
                    limits: NodeLimits { leader_silence_ms_max: 100, ..NodeLimits::default() },
                    ..good.clone()
                },
                "than an election takes",
            ),
            (LogNodeConfig { partitions: 0, ..good.clone() }, "partitions"),
            (LogNodeConfig { partitions: PARTITIONS_MAX + 1, ..good.clone() }, "partitions"),
            (LogNodeConfig { dedup_window: 0, ..good.clone() }, "window"),
        ] {
            let clause = bad.check().unwrap_err();
            assert!(clause.contains(wanted), "{clause}");
        }
    }
}
