//! Repair: a log that is damaged below what was durable gets the identical entries back from a peer, before it may vote.
//!
//! * In: where the store found damage. Out: a whole log, or why nobody could help.
//! * Invariant: what is put back is the entry that was there (the store compares), so that nothing promised is lost.
//! * Source: DESIGN D2.

use super::error::StartError;
use super::shared::Shared;
use crate::consensus::wire::{decode_entries, encode_entries};
use crate::store::{Damage, LogEntry, Repair, Store};
use bytes::Bytes;
use duramen_common::protocol::service::PEER_FIRST;
use duramen_common::{NodeId, PartitionId, codec};
use duramen_transport::Peer;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// [`EntriesRequest`] → `Result<(), String>`, the entries behind it.
pub const SERVICE_ENTRIES: u8 = PEER_FIRST + 9;

const CALL_TIMEOUT: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(500);
/// Peers may be starting, too.
const GIVE_UP_AFTER: Duration = Duration::from_secs(60);
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// Asks for entries from an index on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct EntriesRequest {
    partition: PartitionId,
    index: u64,
}

/// Gives a peer the entries that it lost.
pub(super) async fn answer_entries(shared: &Shared, body: &Bytes) -> Bytes {
    match read_entries(shared, body).await {
        Ok(entries) => codec::encode_with_payload(&Ok::<(), String>(()), &encode_entries(&entries)),
        Err(reason) => codec::encode_with_payload(&Err::<(), String>(reason), &[]),
    }
}

async fn read_entries(shared: &Shared, body: &Bytes) -> Result<Vec<LogEntry>, String> {
    let request: EntriesRequest = codec::decode(body).map_err(|error| error.to_string())?;
    let running = shared.running().ok_or_else(|| shared.stage())?;
    let here = running.any_partition(request.partition).ok_or("there is no such partition here")?;
    let log = here.log.clone();
    let threads = shared.seams.threads;
    threads
        .run(move || log.read_entries(request.index, request.index.saturating_add(1_024), ANSWER_BYTES_MAX))
        .await
        .map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())
}

/// Repairs one partition's log; says what it did.
pub(super) async fn repair(
    shared: &Shared,
    store: &Store,
    partition: PartitionId,
    damage: Damage,
) -> Result<(), StartError> {
    let give_up = Instant::now() + GIVE_UP_AFTER;
    let mut damage = damage;
    loop {
        tracing::warn!(
            %partition, file = %damage.file.display(), position = damage.position, what = %damage.what,
            index = damage.index, "the log is damaged: asking the peers for what was there; this node does not vote"
        );
        match repair_once(shared, store, partition, &damage).await {
            Ok(Repair::Whole) => {
                tracing::warn!(%partition, file = %damage.file.display(), "the log is whole again");
                return Ok(());
            }
            Ok(Repair::More(next)) => damage = next,
            Err(reason) if Instant::now() >= give_up => {
                let Damage { file, position, what, index } = damage;
                return Err(StartError::NotRepaired { file, position, what, index, reason });
            }
            Err(reason) => {
                tracing::warn!(%partition, %reason, "no peer could help yet");
                sleep(RETRY).await;
            }
        }
    }
}

/// Tries every peer once.
async fn repair_once(
    shared: &Shared,
    store: &Store,
    partition: PartitionId,
    damage: &Damage,
) -> Result<Repair, String> {
    let mut reasons = Vec::new();
    for (&node, peer) in shared.peers.iter().filter(|&(&node, _)| node != shared.config.node) {
        match repair_from(shared, store, partition, damage, peer).await {
            Ok(Repair::More(next)) if next == *damage => {
                reasons.push(reason_of(node, &format!("it does not have entry {}", damage.index)));
            }
            Ok(repair) => {
                tracing::warn!(%partition, index = damage.index, from = %node, "restored from a peer's entries");
                return Ok(repair);
            }
            Err(reason) => reasons.push(reason_of(node, &reason)),
        }
    }
    Err(if reasons.is_empty() { "there are no peers".to_owned() } else { reasons.join("; ") })
}

fn reason_of(node: NodeId, reason: &str) -> String {
    format!("node {node}: {reason}")
}

async fn repair_from(
    shared: &Shared,
    store: &Store,
    partition: PartitionId,
    damage: &Damage,
    peer: &Peer,
) -> Result<Repair, String> {
    let body = codec::encode(&EntriesRequest { partition, index: damage.index });
    let answer =
        shared.transport.call(peer, SERVICE_ENTRIES, body, CALL_TIMEOUT).await.map_err(|error| error.to_string())?;
    let (result, payload) =
        codec::decode_with_payload::<Result<(), String>>(&answer).map_err(|error| error.to_string())?;
    result?;
    let entries = decode_entries(&payload).ok_or("it sent something else than entries")?;
    let store = Store::clone(store);
    let threads = shared.seams.threads;
    threads
        .run(move || store.repair(partition, &entries))
        .await
        .map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())
}
