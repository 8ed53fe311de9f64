//! What a running node sees to in the background: handing leadership over while its disk is full, its gauges, and that its
//! folder and identity file are still the ones that it took (a stat of each per second).
//!
//! * A leader whose disk is full refuses appends; a peer that has room can take them. It is asked at most once a second,
//!   and handing over is an attempt, not a promise.
//! * Source: DESIGN D2, "Space is reserved ahead"; docs/adr/0019-a-full-disk.md.

use super::error::StartError;
use super::formation::{Description, SERVICE_DESCRIBE};
use super::partition::Partition;
use super::shared::{Running, Shared};
use crate::consensus::Leading;
use crate::store::Need;
use duramen_common::{NodeId, codec};
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

const LOOK_EVERY: Duration = Duration::from_secs(1);
const ASK_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs until the node stops.
pub(super) async fn watch(shared: &Shared, running: &Running) -> Result<(), StartError> {
    let mut tick = interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut leaders: Vec<Option<NodeId>> = vec![None; running.partitions.len() + 1];
    loop {
        tokio::select! {
            _ = tick.tick() => {
                note_gauges(shared, running, &mut leaders);
                running.store.check_folder()?;
                shared.identity_file.check(&shared.identity())?;
                if running.store.is_short() {
                    hand_over(shared, running, "the system is short of files or memory").await;
                }
            }
            () = shared.no_room.notified() => {
                // Otherwise the disks of others are full, and no leader would do better.
                if !running.store.has_room(Need::New) {
                    hand_over(shared, running, "the disk is full").await;
                }
                sleep(LOOK_EVERY).await;
            }
        }
    }
}

fn note_gauges(shared: &Shared, running: &Running, leaders: &mut [Option<NodeId>]) {
    for (partition, before) in running.all().zip(leaders) {
        let metrics = shared.metrics.partition(partition.id);
        metrics.set_committed_end(partition.log.ends().committed_end.get());
        let now = partition.leader(shared.config.node);
        if now != *before {
            metrics.count_leader_change();
            *before = now;
        }
    }
    shared.metrics.set_waiting_for_space(running.store.waiting_for_space());
    if !running.all().any(leads_here) {
        shared.peers_room.forget();
    }
}

fn leads_here(partition: &Partition) -> bool {
    matches!(*partition.group.leading().borrow(), Leading::Here { .. })
}

/// Offers every partition led here to the first peer with room that has all of it.
async fn hand_over(shared: &Shared, running: &Running, why: &str) {
    let peers = peers_with_room(shared).await;
    if peers.is_empty() {
        tracing::warn!(node = %shared.config.node, "{why}, here and on every peer that answers");
    }
    for partition in running.all().filter(|partition| leads_here(partition)) {
        for &to in &peers {
            if partition.group.transfer_leader(to).await {
                let node = shared.config.node;
                tracing::warn!(%node, partition = %partition.id, %to, "{why}: handing over");
                break;
            }
        }
    }
}

/// The peers that have room and could win an election. One that cannot call enough of the others would never lead.
async fn peers_with_room(shared: &Shared) -> Vec<NodeId> {
    let mut with_room = Vec::new();
    for (&node, peer) in shared.peers.iter().filter(|&(&node, _)| node != shared.config.node) {
        let answer = shared.transport.call(peer, SERVICE_DESCRIBE, codec::encode(&()), ASK_TIMEOUT).await;
        let description = answer.ok().and_then(|bytes| codec::decode::<Description>(&bytes).ok());
        let can_win = shared.book.lock().can_win(node, Instant::now());
        if can_win && description.is_some_and(|description| description.has_room) {
            with_room.push(node);
        }
    }
    with_room
}
