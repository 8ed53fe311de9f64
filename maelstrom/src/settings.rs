//! Settings under Maelstrom: sizes for many nodes on one machine, times for its clients and latencies.
//!
//! * Every time here is stated in maelstrom/README.md, with its reason.
//! * Source: DESIGN D1 (what the times are otherwise).

use duramen_client::log_client::{HistoryPin, LogClientConfig};
use duramen_common::NodeId;
use duramen_log_service::consensus::RaftTimings;
use duramen_log_service::node::{LogNodeConfig, PeerConfig};
use duramen_log_service::store::StoreConfig;
use duramen_serving_node::{IndexKind, PartitionsConfig, ServingNodeConfig};
use std::path::PathBuf;
use std::time::Duration;

/// Longest time in which a request is answered, one way or the other: below Maelstrom's clients' 5 s.
pub const ANSWER_WITHIN: Duration = Duration::from_millis(4_500);
/// After this long nothing is answered any more, not even that it is late: who asked may have gone, and Maelstrom fails over
/// a message to nobody.
pub const SILENT_AFTER: Duration = Duration::from_millis(4_900);
/// A process that stood still for this long does not know how old the requests are that it finds afterwards.
pub const STOOD_STILL: Duration = Duration::from_secs(4);
/// What has come in by so long after it went on came while it stood still.
pub const CATCHES_BREATH: Duration = Duration::from_millis(200);
/// `init` is answered when this node is ready, or after this long: Maelstrom waits 10 s.
pub const INIT_WITHIN: Duration = Duration::from_secs(3);
/// Most requests of clients under way; beyond, they are refused.
pub const REQUESTS_MAX: usize = 1024;

/// Partitions of the cluster: every transaction's keys share one.
const PARTITIONS: u16 = 1;
/// Segments are reserved ahead, for each of many nodes on one disk. Unit: bytes.
const SEGMENT_BYTES: u64 = 1024 * 1024;
const META_SEGMENT_BYTES: u64 = 256 * 1024;

/// The log replica of node number `number`; peers by number and name.
pub fn log_node(number: u64, peers: &[(u64, String)], data_dir: PathBuf) -> LogNodeConfig {
    let peers = peers
        .iter()
        .map(|(number, name)| PeerConfig {
            node: NodeId::new(*number),
            rpc_addr: name.clone(),
            http_addr: name.clone(),
        })
        .collect();
    LogNodeConfig {
        partitions: PARTITIONS,
        timings: RaftTimings { heartbeat_ms: 280, election_ms_min: 320, election_ms_max: 620 },
        store: StoreConfig {
            segment_bytes: SEGMENT_BYTES,
            meta_segment_bytes: META_SEGMENT_BYTES,
            reserve_bytes: 16 * 1024 * 1024,
            ..StoreConfig::default()
        },
        ..LogNodeConfig::new(NodeId::new(number), data_dir, String::new(), String::new(), peers)
    }
}

/// The log's client of the node named `name`: it asks its own node first.
pub fn log_client(name: &str, history: HistoryPin) -> LogClientConfig {
    LogClientConfig {
        history,
        attempt_timeout_ms: 1_200,
        fetch_grace_ms: 400,
        backoff_ms_max: 50,
        ..LogClientConfig::new(vec![name.to_owned()])
    }
}

/// The serving replica of the node named `name`.
pub fn serving_node(name: &str) -> ServingNodeConfig {
    ServingNodeConfig {
        name: name.to_owned(),
        advertised_addr: Some(name.to_owned()),
        partitions: PartitionsConfig {
            index: IndexKind::Memory,
            tail_timeout_ms: 1_000,
            fetch_wait_ms: 400,
            ..PartitionsConfig::default()
        },
        ..ServingNodeConfig::default()
    }
}
