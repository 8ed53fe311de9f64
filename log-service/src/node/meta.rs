//! The meta group's state: the cluster as its own log tells it.
//!
//! * In: committed batches of the meta partition, in order, from the first. Out: whether the cluster is created, the
//!   serving nodes that registered.
//! * Commands are opaque events in ordinary record batches: they need no format or replication of their own.
//! * Invariant: the same log gives the same state on every node; the first `CreateCluster` counts.
//! * Source: DESIGN D12; docs/formats.md "Meta commands".

use crate::consensus::CommittedObserver;
use crate::store::EntryId;
use duramen_common::batch::{BatchError, Record, RecordBatch, RecordSet};
use duramen_common::protocol::{LogNodeInfo, ServingNodeInfo};
use duramen_common::{HistoryId, Offset, RequestId, codec};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Most serving nodes that can be registered.
const SERVING_NODES_MAX: usize = 1_024;

/// What the meta log says happened. The order of the variants is format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MetaCommand {
    /// The cluster exists, like this.
    CreateCluster {
        /// Which one.
        history: HistoryId,
        /// Data partitions.
        partitions: u16,
        /// Over how many offsets request ids are remembered.
        dedup_window: u64,
        /// Its log nodes.
        log_nodes: Vec<LogNodeInfo>,
    },
    /// A serving node is there, or has a new address.
    RegisterServingNode {
        /// Who.
        serving_node: ServingNodeInfo,
    },
}

impl MetaCommand {
    /// The command as a record set for the meta partition.
    pub fn to_set(&self, id: RequestId) -> Result<RecordSet, BatchError> {
        RecordSet::of(id, &Record::event(None, codec::encode(self)))
    }
}

/// What the meta log adds up to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetaState {
    /// The history that the first `CreateCluster` names.
    pub created: Option<HistoryId>,
    /// Serving nodes by name.
    pub serving_nodes: BTreeMap<String, ServingNodeInfo>,
    /// First offset that is not in here.
    pub applied_end: Offset,
}

impl MetaState {
    /// Takes a committed batch. Records that are no commands of this version change nothing, on any node of it.
    pub fn apply(&mut self, batch: &RecordBatch) {
        for (offset, record) in batch.records() {
            let command = record.event().map(|(_, payload)| codec::decode::<MetaCommand>(payload));
            match command {
                Some(Ok(MetaCommand::CreateCluster { history, .. })) => {
                    self.created.get_or_insert(history);
                }
                Some(Ok(MetaCommand::RegisterServingNode { serving_node })) => {
                    let known = self.serving_nodes.contains_key(&serving_node.name);
                    if known || self.serving_nodes.len() < SERVING_NODES_MAX {
                        self.serving_nodes.insert(serving_node.name.clone(), serving_node);
                    }
                }
                Some(Err(error)) => tracing::error!(%offset, %error, "a meta record is not a command"),
                None => tracing::error!(%offset, "a meta record is not an event"),
            }
        }
        self.applied_end = batch.header().end();
    }
}

/// The state, fed by the group, read by the node.
#[derive(Default)]
pub struct MetaView {
    state: Mutex<MetaState>,
}

impl MetaView {
    /// The state now.
    pub fn state(&self) -> MetaState {
        self.state.lock().clone()
    }

    /// Whether this serving node stands there like this.
    pub fn is_registered(&self, serving_node: &ServingNodeInfo) -> bool {
        self.state.lock().serving_nodes.get(&serving_node.name) == Some(serving_node)
    }

    /// Whether the cluster's first command is in.
    pub fn is_created(&self) -> bool {
        self.state.lock().created.is_some()
    }
}

impl CommittedObserver for MetaView {
    fn committed(&self, _id: EntryId, batch: &RecordBatch) {
        self.state.lock().apply(batch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(commands: &[MetaCommand], first_offset: u64) -> RecordBatch {
        let sets: Vec<RecordSet> = commands
            .iter()
            .enumerate()
            .map(|(number, command)| command.to_set(RequestId::from_bits(number as u128 * 2)).unwrap())
            .collect();
        RecordBatch::build(&sets, 0).at(Offset::new(first_offset))
    }

    fn create(history: u32) -> MetaCommand {
        MetaCommand::CreateCluster {
            history: HistoryId::from_bits(history),
            partitions: 4,
            dedup_window: 4096,
            log_nodes: Vec::new(),
        }
    }

    fn register(name: &str, http_addr: &str) -> MetaCommand {
        let serving_node = ServingNodeInfo { name: name.to_owned(), http_addr: http_addr.to_owned() };
        MetaCommand::RegisterServingNode { serving_node }
    }

    #[test]
    fn the_first_creation_counts_and_the_last_registration_of_a_name() {
        let view = MetaView::default();
        let id = EntryId { term: 1, index: 1 };
        view.committed(id, &batch(&[create(1), create(2)], 0));
        view.committed(id, &batch(&[register("a", "x:1"), register("b", "x:2"), register("a", "x:3")], 2));
        let state = view.state();
        assert_eq!(state.created, Some(HistoryId::from_bits(1)));
        let addrs: Vec<&str> = state.serving_nodes.values().map(|node| node.http_addr.as_str()).collect();
        assert_eq!(addrs, ["x:3", "x:2"]);
        assert_eq!(state.applied_end, Offset::new(5));
    }

    /// Pinned: these bytes stand in logs.
    #[test]
    fn commands_never_change_their_bytes() {
        assert_eq!(hex(&codec::encode(&create(0x00c7_f3a1))), GOLDEN_CREATE);
        assert_eq!(hex(&codec::encode(&register("a", "x:1"))), "01010161".to_owned() + "03783a31");
    }

    const GOLDEN_CREATE: &str = "0100fca1f3c70004fb001000";

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
