//! Repair: a log that is damaged below what was durable gets the identical entries back from a peer, before it may vote.
//!
//! * In: where the store found damage. Out: a whole log, or why nobody could help.
//! * Invariant: what is put back is the entry that was there (the store compares), or, where that was never committed, what the
//!   peers have committed in its place, as far as this node may have promised anything: nothing promised is lost.
//! * Source: DESIGN D2.

use super::error::StartError;
use super::shared::Shared;
use crate::consensus::wire::{decode_entries, encode_entries};
use crate::store::{Damage, EntryId, LogEntry, Repair, Store, StoreError};
use bytes::Bytes;
use duramen_common::protocol::service::PEER_FIRST;
use duramen_common::{NodeId, PartitionId, codec};
use duramen_transport::Peer;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// [`EntriesRequest`] → `Result<EntriesAnswer, String>`, the entries behind it.
pub const SERVICE_ENTRIES: u8 = PEER_FIRST + 9;

const CALL_TIMEOUT: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(500);
/// Peers may be starting, too.
const GIVE_UP_AFTER: Duration = Duration::from_secs(60);
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// Most entries that are fetched to replace ours; what was not committed when a node crashed is far less. Unit: bytes.
const REPLACE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Asks for entries from an index on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct EntriesRequest {
    partition: PartitionId,
    index: u64,
}

/// What comes before the entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct EntriesAnswer {
    /// The last entry that is known to be committed.
    committed: Option<EntryId>,
}

/// Gives a peer the entries that it lost.
pub(super) async fn answer_entries(shared: &Shared, body: &Bytes) -> Bytes {
    match read_entries(shared, body).await {
        Ok((answer, entries)) => {
            codec::encode_with_payload(&Ok::<EntriesAnswer, String>(answer), &encode_entries(&entries))
        }
        Err(reason) => codec::encode_with_payload(&Err::<EntriesAnswer, String>(reason), &[]),
    }
}

async fn read_entries(shared: &Shared, body: &Bytes) -> Result<(EntriesAnswer, Vec<LogEntry>), String> {
    let request: EntriesRequest = codec::decode(body).map_err(|error| error.to_string())?;
    let running = shared.running().ok_or_else(|| shared.stage())?;
    let here = running.any_partition(request.partition).ok_or("there is no such partition here")?;
    let log = here.log.clone();
    // Before the entries are read: one that is committed is not replaced any more.
    let answer = EntriesAnswer { committed: log.state().small.committed };
    let threads = shared.seams.threads;
    let entries = threads
        .run(move || log.read_entries(request.index, request.index.saturating_add(1_024), ANSWER_BYTES_MAX))
        .await
        .map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())?;
    Ok((answer, entries))
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
    let (_, entries) = fetch(shared, partition, damage.index, peer).await?;
    let identical = on_thread(shared, store, move |store| store.repair(partition, &entries)).await?;
    match identical {
        Err(StoreError::NotRepaired { .. }) => {}
        // It does not have that entry; what it has may say that ours was never committed.
        Ok(Repair::More(next)) if next == *damage => {}
        repaired => return repaired.map_err(|error| error.to_string()),
    }
    replace_from(shared, store, partition, peer).await
}

/// Has the peer's committed entries stand in for ours, when it has another one where ours is damaged.
async fn replace_from(shared: &Shared, store: &Store, partition: PartitionId, peer: &Peer) -> Result<Repair, String> {
    let span = on_thread(shared, store, move |store| store.replaceable(partition)).await?;
    let Some(span) = span.map_err(|error| error.to_string())? else {
        return Err("it has another entry there, or more than one entry is lost".to_owned());
    };
    let (mut entries, mut bytes, mut committed) = (Vec::new(), 0, None);
    let mut next = span.start;
    while next < span.end {
        let (answer, more) = fetch(shared, partition, next, peer).await?;
        let Some(last) = more.last() else { break };
        next = last.id.index + 1;
        bytes += more.iter().map(|entry| entry.body.bytes_len()).sum::<usize>();
        if bytes > REPLACE_BYTES_MAX {
            return Err(format!("more than {REPLACE_BYTES_MAX} bytes would have to be replaced"));
        }
        // The oldest answer counts: what was committed then is in all of them.
        committed = committed.or(answer.committed);
        entries.extend(more);
    }
    let behind = || format!("it has not committed enough to replace entries {} to {}", span.start, span.end - 1);
    let committed = committed.ok_or_else(behind)?;
    let replaced = on_thread(shared, store, move |store| store.replace(partition, &entries, committed)).await?;
    replaced.map_err(|error| error.to_string())?.ok_or_else(behind)
}

/// Entries of a peer from an index on, as many as it gives at once.
async fn fetch(
    shared: &Shared,
    partition: PartitionId,
    index: u64,
    peer: &Peer,
) -> Result<(EntriesAnswer, Vec<LogEntry>), String> {
    let body = codec::encode(&EntriesRequest { partition, index });
    let answer =
        shared.transport.call(peer, SERVICE_ENTRIES, body, CALL_TIMEOUT).await.map_err(|error| error.to_string())?;
    let (result, payload) =
        codec::decode_with_payload::<Result<EntriesAnswer, String>>(&answer).map_err(|error| error.to_string())?;
    let answer = result?;
    let entries = decode_entries(&payload).ok_or("it sent something else than entries")?;
    Ok((answer, entries))
}

async fn on_thread<T: Send + 'static>(
    shared: &Shared,
    store: &Store,
    work: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
) -> Result<Result<T, StoreError>, String> {
    let store = Store::clone(store);
    let threads = shared.seams.threads;
    threads.run(move || work(&store)).await.map_err(|error| error.to_string())
}
