//! From a folder to running partitions: formation, opening, repair, groups.
//!
//! * Each step leaves the folder in a state from which the next start goes on.
//! * Invariant: a node takes part in no election before all its logs are whole; a group is given its first membership
//!   only while this node has never had all its groups made.
//! * Source: DESIGN D2, D12; ARCHITECTURE "The log node".

use super::batcher::{Batcher, BatcherParts};
use super::error::StartError;
use super::formation::{self, Description, NextStep, SERVICE_DESCRIBE};
use super::identity::{Cluster, Identity};
use super::meta::MetaView;
use super::partition::Partition;
use super::registration::create_cluster;
use super::repair::repair;
use super::shared::{Running, Shared};
use super::tail::TailQuestions;
use crate::consensus::state_machine::StateMachine;
use crate::consensus::{Group, GroupFailure, GroupParts};
use crate::store::{Damage, DataFolder, PartitionLog, Repair, Store, StoreConfig, StoreError, StoreIdentity, SyncMode};
use duramen_common::seams::Threads;
use duramen_common::{HistoryId, NodeId, PartitionId, codec};
use futures_util::future::join_all;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};

const ASK_TIMEOUT: Duration = Duration::from_secs(2);
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// How often a file that found no space is written again.
const SAVE_AGAIN: Duration = Duration::from_secs(1);
const ASK_AGAIN_WHEN_REFUSED: Duration = Duration::from_secs(5);
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A store with its logs; those that are damaged are missing.
pub(super) struct Opened {
    pub(super) store: Store,
    pub(super) logs: Vec<PartitionLog>,
    pub(super) damaged: Vec<(PartitionId, Damage)>,
}

/// All partitions of a cluster, the meta one first.
fn partitions_of(cluster: &Cluster) -> impl Iterator<Item = PartitionId> + use<> {
    std::iter::once(PartitionId::META).chain((0..cluster.partitions).map(PartitionId::new))
}

/// Asks the peers until this node belongs to a cluster.
pub(super) async fn form(shared: &Shared) -> Result<Cluster, StartError> {
    let mut said = String::new();
    loop {
        let me = shared.description();
        if let Some(cluster) = me.cluster {
            return Ok(cluster);
        }
        let cluster = match formation::next_step(&me, &ask_peers(shared).await) {
            NextStep::Wait { why } => {
                say_once(shared, &mut said, &why, false);
                sleep(ASK_AGAIN).await;
                continue;
            }
            NextStep::Refused { why } => {
                say_once(shared, &mut said, &why, true);
                sleep(ASK_AGAIN_WHEN_REFUSED).await;
                continue;
            }
            NextStep::Adopt { cluster } => cluster,
            NextStep::Mint { stores } => mint(shared, &me, &stores),
        };
        note(shared, Identity { cluster: Some(cluster.clone()), ..shared.identity() }).await?;
        tracing::info!(node = %me.node, history = %cluster.history, "this node belongs to the cluster");
        return Ok(cluster);
    }
}

/// Writes what this node is from now on. On a full disk it waits for space.
async fn note(shared: &Shared, identity: Identity) -> Result<(), StartError> {
    loop {
        match shared.identity_file.save(&identity) {
            Err(error @ StartError::NoSpace { .. }) => {
                shared.set_stage(error.to_string());
                tracing::warn!(node = %shared.config.node, %error, "trying again");
                sleep(SAVE_AGAIN).await;
            }
            Err(error) => return Err(error),
            Ok(()) => break,
        }
    }
    *shared.identity.write() = identity;
    Ok(())
}

fn mint(shared: &Shared, me: &Description, stores: &[(NodeId, duramen_common::StoreId)]) -> Cluster {
    let addrs = |node: NodeId| {
        let peer = shared.config.peers.iter().find(|peer| peer.node == node);
        peer.map(|peer| (peer.rpc_addr.clone(), peer.http_addr.clone())).unwrap_or_default()
    };
    let history = HistoryId::from_bits(shared.seams.entropy.bits() as u32);
    formation::mint(me, addrs, stores, history)
}

/// Tells people what it waits for, when that changes.
fn say_once(shared: &Shared, said: &mut String, why: &str, loudly: bool) {
    shared.set_stage(format!("the cluster is being formed: {why}"));
    if said != why {
        why.clone_into(said);
        if loudly {
            tracing::error!(node = %shared.config.node, "{why}");
        } else {
            tracing::info!(node = %shared.config.node, "forming the cluster: {why}");
        }
    }
}

async fn ask_peers(shared: &Shared) -> Vec<(NodeId, Result<Description, String>)> {
    let others = shared.peers.iter().filter(|&(&node, _)| node != shared.config.node);
    join_all(others.map(|(&node, peer)| async move {
        let answer = shared.transport.call(peer, SERVICE_DESCRIBE, codec::encode(&()), ASK_TIMEOUT).await;
        let description = match answer {
            Ok(bytes) => codec::decode::<Description>(&bytes).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        (node, description)
    }))
    .await
}

/// Opens the store and every log in it; on a thread that may block.
pub(super) async fn open(shared: &Shared, folder: DataFolder, cluster: &Cluster) -> Result<Opened, StartError> {
    let identity = shared.identity();
    let config = StoreConfig { dedup_window: cluster.dedup_window, ..shared.config.store.clone() };
    let names = StoreIdentity { history: cluster.history, store: identity.store };
    let entropy = Arc::clone(&shared.seams.entropy);
    let data_dir = shared.config.data_dir.clone();
    let partitions: Vec<PartitionId> = partitions_of(cluster).collect();
    let groups_made = identity.groups_made;
    let mode = match shared.seams.threads {
        Threads::System => SyncMode::Thread,
        Threads::None => SyncMode::Task,
    };
    let opening = move || {
        let store = Store::open(folder, names, config, entropy, mode)?;
        let mut opened = Opened { store, logs: Vec::new(), damaged: Vec::new() };
        for partition in partitions {
            match open_log(&opened.store, partition) {
                Ok(log) => {
                    let state = log.state();
                    if groups_made && state.last.is_none() && state.small.vote.is_none() {
                        return Err(StartError::LogGone { folder: data_dir, partition: partition.to_string() });
                    }
                    opened.logs.push(log);
                }
                Err(StoreError::Corrupt { file, position, what, index }) => {
                    opened.damaged.push((partition, Damage { file, position, what, index }));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(opened)
    };
    let opened = on_thread(shared, opening).await?;
    let logs = opened.logs.iter().map(|log| (log.partition(), log.clone())).collect();
    let mut started = shared.started.lock();
    started.store = Some(opened.store.clone());
    started.logs = logs;
    drop(started);
    Ok(opened)
}

/// Opens a log; one whose damage proves by itself what stood there (a single flipped bit) is restored on the way.
fn open_log(store: &Store, partition: PartitionId) -> Result<PartitionLog, StoreError> {
    let error = match store.open_partition(partition) {
        Err(error @ StoreError::Corrupt { .. }) => error,
        settled => return settled,
    };
    match store.repair(partition, &[]) {
        Ok(Repair::Whole) => {
            tracing::warn!(%partition, %error, "restored: the bit that had flipped is known by its checksums");
            store.open_partition(partition)
        }
        Ok(Repair::More(Damage { file, position, what, index })) => {
            Err(StoreError::Corrupt { file, position, what, index })
        }
        Err(_) => Err(error),
    }
}

async fn on_thread<T: Send + 'static>(
    shared: &Shared,
    work: impl FnOnce() -> Result<T, StartError> + Send + 'static,
) -> Result<T, StartError> {
    shared
        .seams
        .threads
        .run(work)
        .await
        .unwrap_or_else(|error| Err(StartError::Config { clause: format!("the start was interrupted: {error}") }))
}

/// Makes damaged logs whole and starts every group; the partitions run from then on.
pub(super) async fn run(shared: &Arc<Shared>, cluster: Cluster, opened: Opened) -> Result<Arc<Running>, StartError> {
    let Opened { store, mut logs, damaged } = opened;
    for (partition, damage) in damaged {
        shared.set_stage(format!("the log of partition {partition} is being repaired"));
        repair(shared, &store, partition, damage).await?;
        let store = store.clone();
        let log = on_thread(shared, move || Ok(store.open_partition(partition)?)).await?;
        shared.started.lock().logs.insert(partition, log.clone());
        logs.push(log);
    }
    shared.set_stage("the groups are starting");
    let meta_view = Arc::new(MetaView::default());
    let mut meta = None;
    let mut partitions = Vec::with_capacity(logs.len());
    for log in logs {
        let partition = start_partition(shared, &cluster, &store, log, &meta_view).await?;
        if partition.id.is_meta() {
            meta = Some(partition);
        } else {
            partitions.push(partition);
        }
    }
    partitions.sort_by_key(|partition| partition.id);
    let meta = meta.expect("every cluster has a meta partition, opened with the others");
    let running = Arc::new(Running { cluster, store, meta, meta_view, partitions });
    *shared.running.write() = Some(Arc::clone(&running));
    Ok(running)
}

async fn start_partition(
    shared: &Arc<Shared>,
    cluster: &Cluster,
    store: &Store,
    log: PartitionLog,
    meta_view: &Arc<MetaView>,
) -> Result<Partition, StartError> {
    let id = log.partition();
    let state_machine = if id.is_meta() {
        StateMachine::for_meta(log.clone(), Arc::clone(meta_view) as Arc<_>)
    } else {
        StateMachine::for_data(log.clone())
            .map_err(|error| GroupFailure { partition: id, reason: error.to_string() })?
    };
    let parts = GroupParts {
        node: shared.config.node,
        partition: id,
        log: log.clone(),
        state_machine,
        transport: Arc::clone(&shared.transport),
        peers: Arc::clone(&shared.peers),
        peers_room: Arc::clone(&shared.peers_room),
        timings: shared.config.timings,
        entropy: Arc::clone(&shared.seams.entropy),
    };
    let group = Arc::new(Group::start(parts).await?);
    shared.started.lock().groups.push(Arc::clone(&group));
    let batcher = Batcher::start(BatcherParts {
        node: shared.config.node,
        partition: id,
        group: Arc::clone(&group),
        log: log.clone(),
        store: store.clone(),
        clock: Arc::clone(&shared.seams.clock),
        limits: shared.config.limits.clone(),
        dedup_window: cluster.dedup_window,
        no_room: Arc::clone(&shared.no_room),
        peers_room: Arc::clone(&shared.peers_room),
        metrics: shared.metrics.partition(id),
    });
    let tail = TailQuestions::new(Arc::clone(&group));
    let timeout_max = Duration::from_millis(shared.config.limits.timeout_ms_max);
    let election_max = Duration::from_millis(shared.config.timings.election_ms_max);
    Ok(Partition { id, group, log, batcher, tail, timeout_max, election_max })
}

/// Gives new groups their first membership, sees the cluster created, and notes that all groups are made.
pub(super) async fn settle(shared: &Arc<Shared>, running: &Arc<Running>) -> Result<(), StartError> {
    if !shared.identity().groups_made {
        join_all(running.all().map(|partition| initialize(shared, running, partition)))
            .await
            .into_iter()
            .collect::<Result<Vec<()>, GroupFailure>>()?;
    }
    shared.set_stage("the groups are electing leaders");
    create_cluster(shared, running).await;
    while !running.is_settled(shared.config.node) {
        sleep(LOOK_AGAIN).await;
    }
    if !shared.identity().groups_made {
        // The note says that an empty log is one that was lost: it must not come before the logs do.
        while !running.all().all(|partition| partition.log.has_durable_entry()) {
            sleep(LOOK_AGAIN).await;
        }
        note(shared, Identity { groups_made: true, ..shared.identity() }).await?;
    }
    Ok(())
}

/// One node begins each group, so that leaders are spread; the others do so only if it does not.
async fn initialize(shared: &Shared, running: &Running, partition: &Partition) -> Result<(), GroupFailure> {
    let is_new = || partition.log.state().last.is_none();
    if shared.config.first_leader(partition.id) != shared.config.node {
        let begun = async {
            while is_new() {
                sleep(LOOK_AGAIN).await;
            }
        };
        let patience = Duration::from_millis(shared.config.timings.election_ms_max * 4);
        if timeout(patience, begun).await.is_ok() {
            return Ok(());
        }
    }
    if is_new() {
        partition.group.initialize(running.cluster.members.iter().map(|member| member.node)).await?;
    }
    Ok(())
}
