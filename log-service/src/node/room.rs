//! What a running node sees to in the background: handing leadership over while its disk is full, its gauges, and that its
//! folder and identity file are still the ones that it took (a stat of each per second).
//!
//! * A leader whose disk is full refuses appends; a peer that has room can take them. It is asked at most once a second,
//!   and handing over is an attempt, not a promise.
//! * Source: DESIGN D2, "Space is reserved ahead".

use super::error::StartError;
use super::formation::{Description, SERVICE_DESCRIBE};
use super::shared::{Running, Shared};
use crate::consensus::Leading;
use duramen_common::{NodeId, codec};
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval, sleep};

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
            }
            () = shared.no_room.notified() => {
                hand_over(shared, running).await;
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
}

/// Offers every partition led here to a peer with room.
async fn hand_over(shared: &Shared, running: &Running) {
    let Some(to) = peer_with_room(shared).await else {
        tracing::warn!(node = %shared.config.node, "the disk is full, here and on every peer that answers");
        return;
    };
    for partition in running.all() {
        if matches!(*partition.group.leading().borrow(), Leading::Here { .. }) {
            tracing::warn!(node = %shared.config.node, partition = %partition.id, %to, "the disk is full: handing over");
            partition.group.transfer_leader(to).await;
        }
    }
}

async fn peer_with_room(shared: &Shared) -> Option<NodeId> {
    for (&node, peer) in shared.peers.iter().filter(|&(&node, _)| node != shared.config.node) {
        let answer = shared.transport.call(peer, SERVICE_DESCRIBE, codec::encode(&()), ASK_TIMEOUT).await;
        let description = answer.ok().and_then(|bytes| codec::decode::<Description>(&bytes).ok());
        if description.is_some_and(|description| description.has_room) {
            return Some(node);
        }
    }
    None
}
