//! What all parts of a node share: who it is, how far its start has come, and its partitions once they run.
//!
//! * Invariant: partitions appear all at once, when every log is whole, and are gone for good after a stop.

use super::config::LogNodeConfig;
use super::error::StartError;
use super::formation::Description;
use super::identity::{Cluster, Identity, IdentityFile};
use super::meta::MetaView;
use super::metrics::NodeMetrics;
use super::names::Names;
use super::partition::Partition;
use super::peer_book::PeerBook;
use super::problems::TurnedAway;
use crate::consensus::{Group, PeersRoom, Standing};
use crate::store::{Need, PartitionLog, Store};
use duramen_common::protocol::{ClusterInfo, LogNodeInfo, LogRefusal};
use duramen_common::seams::Seams;
use duramen_common::{NodeId, PartitionId};
use duramen_transport::{Peer, Transport};
use parking_lot::{Mutex, RwLock};
use prometheus_client::registry::Registry;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// The running partitions of a formed node.
pub(super) struct Running {
    pub(super) cluster: Cluster,
    pub(super) store: Store,
    pub(super) meta: Partition,
    pub(super) meta_view: Arc<MetaView>,
    pub(super) partitions: Vec<Partition>,
}

impl Running {
    /// A data partition.
    pub(super) fn partition(&self, partition: PartitionId) -> Result<&Partition, LogRefusal> {
        self.partitions
            .get(usize::from(partition.get()))
            .ok_or(LogRefusal::UnknownPartition { partition, partitions: self.cluster.partitions })
    }

    /// A data partition or the meta one.
    pub(super) fn any_partition(&self, partition: PartitionId) -> Option<&Partition> {
        if partition.is_meta() { Some(&self.meta) } else { self.partition(partition).ok() }
    }

    /// All, the meta one first.
    pub(super) fn all(&self) -> impl Iterator<Item = &Partition> {
        std::iter::once(&self.meta).chain(&self.partitions)
    }

    /// Whether every partition has a leader and the cluster is created, as far as this node remembers.
    pub(super) fn is_settled(&self, me: NodeId) -> bool {
        self.meta_view.is_created() && self.all().all(|partition| partition.leader(me).is_some())
    }
}

/// What was started and must be ended.
#[derive(Default)]
pub(super) struct Started {
    pub(super) groups: Vec<Arc<Group>>,
    pub(super) store: Option<Store>,
    /// The logs that are whole, also while others are being repaired.
    pub(super) logs: BTreeMap<PartitionId, PartitionLog>,
}

/// Shared by a node's tasks.
pub(super) struct Shared {
    pub(super) config: LogNodeConfig,
    pub(super) seams: Seams,
    pub(super) peers: Arc<BTreeMap<NodeId, Peer>>,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) identity: Arc<RwLock<Identity>>,
    pub(super) identity_file: IdentityFile,
    pub(super) running: RwLock<Option<Arc<Running>>>,
    /// Every group that was started and the store, also while the others are still starting: what a stop must end.
    pub(super) started: Mutex<Started>,
    /// How far the start has come, for those who come too early.
    pub(super) stage: Mutex<String>,
    pub(super) failure: watch::Sender<Option<StartError>>,
    pub(super) ready: watch::Sender<bool>,
    pub(super) no_room: Arc<Notify>,
    pub(super) peers_room: Arc<PeersRoom>,
    /// What is known of the other log nodes.
    pub(super) book: Mutex<PeerBook>,
    /// Which serving node holds which name.
    pub(super) names: Mutex<Names>,
    /// Callers that were refused, and when that was logged.
    pub(super) turned_away: Mutex<TurnedAway>,
    pub(super) metrics: NodeMetrics,
    pub(super) registry: Mutex<Registry>,
}

impl Shared {
    pub(super) fn identity(&self) -> Identity {
        self.identity.read().clone()
    }

    /// The nodes that the configuration names, ascending.
    pub(super) fn configured(&self) -> Vec<NodeId> {
        self.peers.keys().copied().collect()
    }

    /// What this node says about itself to its peers.
    pub(super) fn description(&self) -> Description {
        let identity = self.identity();
        Description {
            node: identity.node,
            store: identity.store,
            cluster: identity.cluster,
            configured: self.configured(),
            partitions: self.config.partitions,
            dedup_window: self.config.dedup_window,
            has_room: self
                .running()
                .is_some_and(|running| running.store.has_room(Need::New) && !running.store.is_short()),
        }
    }

    pub(super) fn running(&self) -> Option<Arc<Running>> {
        self.running.read().clone()
    }

    pub(super) fn stage(&self) -> String {
        self.stage.lock().clone()
    }

    pub(super) fn set_stage(&self, stage: impl Into<String>) {
        *self.stage.lock() = stage.into();
    }

    /// Notes why this node cannot go on; the first reason stays.
    pub(super) fn fail(&self, error: StartError) {
        tracing::error!(node = %self.config.node, %error, "this node cannot go on");
        self.set_stage(format!("this node stopped: {error}"));
        self.failure.send_if_modified(|failure| {
            let first = failure.is_none();
            failure.get_or_insert(error);
            first
        });
    }

    /// Leaves every group, so that others take over what this node leads and can no longer write. Reads go on.
    pub(super) async fn leave_groups(&self) {
        self.stop_waiting();
        let groups = self.started.lock().groups.clone();
        for group in groups {
            group.shutdown().await;
        }
    }

    /// What waits for space on the disk fails from now on: groups that wait for it could not be left.
    pub(super) fn stop_waiting(&self) {
        if let Some(store) = &self.started.lock().store {
            store.stop_waiting();
        }
    }

    /// Leaves the groups, writes and marks what is appended, releases the folder. Harmless when done twice. Nothing may
    /// be starting any more.
    pub(super) async fn end(&self) {
        drop(self.running.write().take());
        self.stop_waiting();
        let Started { groups, store, .. } = std::mem::take(&mut *self.started.lock());
        for group in groups {
            group.shutdown().await;
        }
        let Some(store) = store else { return };
        if let Err(error) = self.seams.threads.run(move || store.close()).await {
            tracing::warn!(%error, "the store did not close cleanly");
        }
    }

    /// Who leads a partition, if that is known now: confirmed not longer ago than `leader_silence_ms_max`, callable from
    /// here, and not without a majority by its own account.
    pub(super) fn leader_now(&self, partition: &Partition) -> Option<NodeId> {
        match partition.group.standing(self.config.leader_silence()) {
            Standing::LeadsHere => Some(self.config.node),
            Standing::Follows { leader } => {
                let (book, now) = (self.book.lock(), Instant::now());
                let has_majority =
                    book.report(leader, now).is_none_or(|report| !report.without_majority.contains(&partition.id));
                (has_majority && !book.is_unreachable(leader, now)).then_some(leader)
            }
            Standing::WithoutMajority | Standing::Unknown => None,
        }
    }

    /// The partitions whose leader is not known now, the meta one included.
    pub(super) fn leaderless(&self, running: &Running) -> Vec<PartitionId> {
        running.all().filter(|partition| self.leader_now(partition).is_none()).map(|partition| partition.id).collect()
    }

    /// The cluster as this node knows it; addresses are the configured ones where they are known.
    pub(super) fn cluster_info(&self) -> Result<ClusterInfo, LogRefusal> {
        let running = self.running().ok_or_else(|| LogRefusal::Unavailable { reason: self.stage() })?;
        let configured = |member: &LogNodeInfo| match self.config.peers.iter().find(|peer| peer.node == member.node) {
            Some(peer) => {
                LogNodeInfo { rpc_addr: peer.rpc_addr.clone(), http_addr: peer.http_addr.clone(), ..member.clone() }
            }
            None => member.clone(),
        };
        Ok(ClusterInfo {
            history: running.cluster.history,
            partitions: running.cluster.partitions,
            dedup_window: running.cluster.dedup_window,
            log_nodes: running.cluster.members.iter().map(configured).collect(),
            serving_nodes: running.meta_view.state().serving_nodes.into_values().collect(),
            leaders: running.partitions.iter().map(|partition| self.leader_now(partition)).collect(),
        })
    }
}
