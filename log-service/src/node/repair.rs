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
use std::ops::Range;
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
    // Whole logs help while another one here is itself being repaired.
    let log = shared.started.lock().logs.get(&request.partition).cloned();
    let log = log.ok_or_else(|| format!("partition {} is not open here ({})", request.partition, shared.stage()))?;
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
    let mut fetched = Fetched::default();
    while let Some(next) = fetched.wanted(&span) {
        let (answer, entries) = fetch(shared, partition, next, peer).await?;
        fetched.add(answer.committed, entries);
    }
    let is_too_much = fetched.bytes > REPLACE_BYTES_MAX;
    let behind = || match is_too_much {
        true => format!("more than {REPLACE_BYTES_MAX} bytes would have to be replaced"),
        false => format!("it has not committed enough to replace entries {} to {}", span.start, span.end - 1),
    };
    let Fetched { entries, committed, .. } = fetched;
    let committed = committed.flatten().ok_or_else(behind)?;
    let node = shared.config.node;
    let replaced = on_thread(shared, store, move |store| store.replace(partition, &entries, committed, node)).await?;
    replaced.map_err(|error| error.to_string())?.ok_or_else(behind)
}

/// A peer's entries, answer by answer.
#[derive(Debug, Default)]
struct Fetched {
    entries: Vec<LogEntry>,
    bytes: usize,
    /// What it knew to be committed at the first answer: that is in every answer, while a later mark may be of entries that
    /// replaced some of an earlier one. `None` before an answer.
    committed: Option<Option<EntryId>>,
    is_over: bool,
}

impl Fetched {
    /// The index to ask for next; `None` when there is enough, too much, or no more.
    fn wanted(&self, span: &Range<u64>) -> Option<u64> {
        let next = self.entries.last().map_or(span.start, |last| last.id.index + 1);
        let is_useless = self.committed == Some(None);
        (!self.is_over && !is_useless && next < span.end && self.bytes <= REPLACE_BYTES_MAX).then_some(next)
    }

    /// Takes an answer. No entries: there are no more.
    fn add(&mut self, committed: Option<EntryId>, entries: Vec<LogEntry>) {
        self.committed.get_or_insert(committed);
        self.bytes += entries.iter().map(|entry| entry.body.bytes_len()).sum::<usize>();
        self.is_over = entries.is_empty();
        self.entries.extend(entries);
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::EntryBody;

    fn id(term: u64, index: u64) -> EntryId {
        EntryId { term, index }
    }

    fn entries(names: &[(u64, u64)]) -> Vec<LogEntry> {
        names.iter().map(|&(term, index)| LogEntry { id: id(term, index), body: EntryBody::Blank }).collect()
    }

    /// Goal: a mark only speaks for entries that were read after it. Method: a peer whose log is replaced between two answers: what
    /// it gave first may be gone by the time that it knows of something committed.
    #[test]
    fn the_mark_of_the_first_answer_counts() {
        let mut fetched = Fetched::default();
        fetched.add(Some(id(1, 4)), entries(&[(1, 4), (1, 5)]));
        fetched.add(Some(id(2, 7)), entries(&[(2, 6), (2, 7)]));
        assert_eq!(fetched.committed, Some(Some(id(1, 4))));
        let mut fetched = Fetched::default();
        fetched.add(None, entries(&[(1, 4)]));
        assert_eq!(fetched.wanted(&(4..8)), None, "nothing of it can be used, whatever the next answer says");
        fetched.add(Some(id(2, 7)), entries(&[(2, 5)]));
        assert_eq!(fetched.committed, Some(None));
    }

    #[test]
    fn entries_are_asked_for_until_they_reach_ours_or_there_are_no_more() {
        let mut fetched = Fetched::default();
        assert_eq!(fetched.wanted(&(4..8)), Some(4));
        fetched.add(Some(id(1, 9)), entries(&[(1, 4), (1, 5)]));
        assert_eq!(fetched.wanted(&(4..8)), Some(6));
        assert_eq!(fetched.wanted(&(4..6)), None);
        fetched.add(Some(id(1, 9)), Vec::new());
        assert_eq!(fetched.wanted(&(4..8)), None);
        let mut large = Fetched { bytes: REPLACE_BYTES_MAX, ..Fetched::default() };
        assert_eq!(large.wanted(&(4..8)), Some(4));
        large.bytes += 1;
        assert_eq!(large.wanted(&(4..8)), None);
    }
}
