//! A log in memory, for tests: it keeps the contract of `common::log::Log`, and can be told to misbehave.

use super::Model;
use crate::view::Outcome;
use bytes::{BufMut, Bytes, BytesMut};
use duramen_common::batch::{
    BATCH_FORMAT, BATCH_HEADER_BYTES, BATCH_MAGIC, BatchError, Record, RecordBatch, RecordBody, RecordSet,
};
use duramen_common::log::{AppendError, ClusterError, FetchError, Fetched, FetchedBatch, Log, Surveyed, TailError};
use duramen_common::protocol::{AppendedRun, BatchId, ClusterInfo, ServingNodeInfo, TailAnswer};
use duramen_common::{HistoryId, NodeId, Offset, PartitionId, RequestId};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;
use tokio::sync::watch;

/// A log in memory.
pub struct MemoryLog {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

struct State {
    history: HistoryId,
    partitions: Vec<Partition>,
    serving_nodes: Vec<ServingNodeInfo>,
    term: u64,
    stalled: bool,
    unavailable: bool,
    other_history: Option<HistoryId>,
    tails_asked: u64,
    leader: Option<NodeId>,
    name_taken: Option<String>,
    survey: Vec<Surveyed>,
}

#[derive(Default)]
struct Partition {
    batches: Vec<FetchedBatch>,
    /// As they were before compaction.
    appended: Vec<RecordBatch>,
    append_end: Offset,
    committed_end: Offset,
    hold_commits: bool,
    horizon: Offset,
    settled_end: Offset,
    next_index: u64,
    ids: HashMap<RequestId, (Offset, u64)>,
}

impl MemoryLog {
    /// An empty log of a history.
    #[must_use]
    pub fn new(history: HistoryId, partitions: u16) -> MemoryLog {
        let state = State {
            history,
            partitions: (0..partitions).map(|_| Partition::default()).collect(),
            serving_nodes: Vec::new(),
            term: 1,
            stalled: false,
            unavailable: false,
            other_history: None,
            tails_asked: 0,
            leader: None,
            name_taken: None,
            survey: Vec::new(),
        };
        MemoryLog { state: Mutex::new(state), changed: watch::Sender::new(0) }
    }

    /// What [`Log::cluster`] answers.
    #[must_use]
    pub fn cluster_info(&self) -> ClusterInfo {
        let state = self.state.lock();
        ClusterInfo {
            history: state.history,
            partitions: state.partitions.len() as u16,
            dedup_window: 1 << 18,
            log_nodes: Vec::new(),
            serving_nodes: state.serving_nodes.clone(),
            leaders: vec![state.leader; state.partitions.len()],
        }
    }

    /// Appends records as one batch, at once; returns the first offset.
    pub fn push(&self, partition: PartitionId, records: impl IntoIterator<Item = impl Into<Record>>) -> Offset {
        let first_id = {
            let state = self.state.lock();
            let log = &state.partitions[usize::from(partition.get())];
            (u128::from(partition.get()) << 64 | u128::from(log.next_index)) << 20
        };
        let set = super::record_set(first_id, records);
        let runs = self.append_now(partition, &set);
        match runs.first() {
            Some(AppendedRun::At { first_offset, .. }) => *first_offset,
            _ => unreachable!("the ids are fresh"),
        }
    }

    fn append_now(&self, partition: PartitionId, set: &RecordSet) -> Vec<AppendedRun> {
        let mut state = self.state.lock();
        let term = state.term;
        let log = &mut state.partitions[usize::from(partition.get())];
        let batch = RecordBatch::build(std::slice::from_ref(set), 0);
        let ids: Vec<RequestId> =
            set.ids.iter().flat_map(|run| (0..run.count).map(|number| run.base.plus(u64::from(number)))).collect();
        let fingerprints: Vec<u64> = batch.records().map(|(_, record)| record.fingerprint()).collect();
        let fresh: Vec<bool> = ids.iter().map(|id| !log.ids.contains_key(id)).collect();
        let mut kept = Vec::new();
        let mut runs = Vec::new();
        for (number, (_, record)) in batch.records().enumerate() {
            if fresh[number] {
                let offset = log.append_end.plus(kept.len() as u64);
                log.ids.insert(ids[number], (offset, fingerprints[number]));
                kept.push((ids[number], record.to_record()));
            }
            runs.push(match log.ids[&ids[number]] {
                (first_offset, fingerprint) if fingerprint == fingerprints[number] => {
                    AppendedRun::At { first_offset, count: 1 }
                }
                _ => AppendedRun::KeyReused { count: 1 },
            });
        }
        if !kept.is_empty() {
            let mut builder = duramen_common::batch::RecordSetBuilder::default();
            kept.iter().for_each(|(id, record)| builder.push(*id, record).expect("it was within the limits before"));
            let batch = RecordBatch::build(&[builder.finish()], 0).at(log.append_end);
            log.append_end = batch.header().end();
            let id = BatchId { term, index: log.next_index };
            log.next_index += 1;
            log.appended.push(batch.clone());
            log.batches.push(FetchedBatch { id, batch });
            if !log.hold_commits {
                log.committed_end = log.append_end;
            }
        }
        drop(state);
        self.wake();
        runs
    }

    fn wake(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock());
        self.wake();
    }

    /// While stalled, nothing answers: calls wait.
    pub fn stall(&self, stalled: bool) {
        self.change(|state| state.stalled = stalled);
    }

    /// While unavailable, every call fails at once, as when no log node answers.
    pub fn set_unavailable(&self, unavailable: bool) {
        self.change(|state| state.unavailable = unavailable);
    }

    /// Appends are taken, and not committed until `hold` is false again.
    pub fn hold_commits(&self, partition: PartitionId, hold: bool) {
        self.change(|state| {
            let log = &mut state.partitions[usize::from(partition.get())];
            log.hold_commits = hold;
            if !hold {
                log.committed_end = log.append_end;
            }
        });
    }

    /// From now on registrations are refused: a node at this address has the name.
    pub fn set_name_taken(&self, http_addr: Option<String>) {
        self.state.lock().name_taken = http_addr;
    }

    /// What the log's nodes say of their history; empty: the truth.
    pub fn set_survey(&self, survey: Vec<Surveyed>) {
        self.state.lock().survey = survey;
    }

    /// Who leads every partition, as far as the log says; nobody at first.
    pub fn set_leader(&self, leader: Option<NodeId>) {
        self.state.lock().leader = leader;
    }

    /// From now on fetches say that this log is of another history.
    pub fn become_other_history(&self, theirs: HistoryId) {
        self.change(|state| state.other_history = Some(theirs));
    }

    /// Forgets all and goes on under another term: another log of the same history, which only batch ids tell apart.
    pub fn replace(&self, partition: PartitionId) {
        self.change(|state| {
            state.term += 1;
            state.partitions[usize::from(partition.get())] = Partition::default();
        });
    }

    /// How many tail questions came in.
    #[must_use]
    pub fn tails_asked(&self) -> u64 {
        self.state.lock().tails_asked
    }

    /// The end of what is committed.
    #[must_use]
    pub fn committed_end(&self, partition: PartitionId) -> Offset {
        self.state.lock().partitions[usize::from(partition.get())].committed_end
    }

    /// Whether a batch of that name is in this log.
    #[must_use]
    pub fn knows(&self, partition: PartitionId, id: BatchId) -> bool {
        self.state.lock().partitions[usize::from(partition.get())].batches.iter().any(|fetched| fetched.id == id)
    }

    /// All batches, as they were appended, whatever was compacted since.
    #[must_use]
    pub fn batches(&self, partition: PartitionId) -> Vec<RecordBatch> {
        self.state.lock().partitions[usize::from(partition.get())].appended.clone()
    }

    /// Compacts: below `settled_end` only records that still matter stay, settled; below `horizon` tombstones go too.
    /// Batches are settled whole: `settled_end` is rounded down to a batch's end.
    pub fn compact(&self, partition: PartitionId, settled_end: Offset, horizon: Offset) -> Offset {
        let mut reached = Offset::ZERO;
        self.change(|state| {
            let log = &mut state.partitions[usize::from(partition.get())];
            // Never less than before: what is gone cannot be taken into account again.
            let (settled_end, horizon) = (settled_end.max(log.settled_end), horizon.max(log.horizon));
            let below = log.batches.iter().take_while(|fetched| fetched.batch.header().end() <= settled_end).count();
            let settled = log.appended[..below].to_vec();
            reached = settled.last().map_or(Offset::ZERO, |batch| batch.header().end());
            let horizon = horizon.min(reached);
            for (fetched, batch) in log.batches.iter_mut().zip(compacted(&settled, reached, horizon)) {
                fetched.batch = batch;
            }
            log.settled_end = log.settled_end.max(reached);
            log.horizon = log.horizon.max(horizon);
        });
        reached
    }

    fn fetch_now(
        &self,
        partition: PartitionId,
        from: Offset,
        last: Option<BatchId>,
        bytes_max: u32,
    ) -> Option<Result<Fetched, FetchError>> {
        let state = self.state.lock();
        if state.stalled {
            return None;
        }
        if let Some(theirs) = state.other_history {
            return Some(Err(FetchError::OtherHistory { ours: state.history, theirs }));
        }
        if state.unavailable {
            return Some(Err(FetchError::Unavailable { partition, reason: "told to be".to_owned() }));
        }
        let log = &state.partitions[usize::from(partition.get())];
        if from > log.committed_end {
            return Some(Err(FetchError::OtherLog { partition, from }));
        }
        if from > Offset::ZERO && from < log.horizon {
            return Some(Err(FetchError::Compacted { partition, horizon: log.horizon }));
        }
        let before = log.batches.iter().find(|fetched| fetched.batch.header().end() == from);
        if let (Some(last), Some(before)) = (last, before)
            && last != before.id
        {
            return Some(Err(FetchError::OtherLog { partition, from }));
        }
        let mut batches = Vec::new();
        let mut bytes = 0;
        let committed = |fetched: &&FetchedBatch| fetched.batch.header().end() <= log.committed_end;
        for fetched in log.batches.iter().filter(|fetched| fetched.batch.header().end() > from).take_while(committed) {
            bytes += fetched.batch.bytes().len();
            if !batches.is_empty() && bytes > bytes_max as usize {
                break;
            }
            batches.push(fetched.clone());
        }
        let next_offset = batches.last().map_or(from, |fetched| fetched.batch.header().end());
        Some(Ok(Fetched {
            batches,
            next_offset,
            committed_end: log.committed_end,
            first_offset: Offset::ZERO,
            horizon: log.horizon,
            settled_end: log.settled_end,
        }))
    }
}

impl Log for MemoryLog {
    fn append(
        &self,
        partition: PartitionId,
        records: RecordSet,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<Vec<AppendedRun>, AppendError>> {
        async move {
            let waited_ms = timeout.as_millis() as u64;
            if self.state.lock().unavailable {
                return Err(AppendError::NoLeader { partition, waited_ms });
            }
            let mut changed = self.changed.subscribe();
            let runs = self.append_now(partition, &records);
            let end = runs
                .iter()
                .filter_map(|run| match run {
                    AppendedRun::At { first_offset, count } => Some(first_offset.plus(u64::from(*count))),
                    AppendedRun::KeyReused { .. } => None,
                })
                .max()
                .unwrap_or_default();
            let committed = async {
                while self.state.lock().stalled || self.committed_end(partition) < end {
                    if changed.changed().await.is_err() {
                        break;
                    }
                }
            };
            let lost = || AppendError::Unacknowledged { partition, waited_ms, reason: "not committed".to_owned() };
            tokio::time::timeout(timeout, committed).await.map_err(|_| lost())?;
            Ok(runs)
        }
        .boxed()
    }

    fn fetch(
        &self,
        partition: PartitionId,
        from: Offset,
        last: Option<BatchId>,
        bytes_max: u32,
        wait: Duration,
    ) -> BoxFuture<'_, Result<Fetched, FetchError>> {
        async move {
            let mut changed = self.changed.subscribe();
            let deadline = tokio::time::Instant::now() + wait;
            loop {
                let waited = tokio::time::Instant::now() >= deadline;
                match self.fetch_now(partition, from, last, bytes_max) {
                    Some(Ok(fetched)) if fetched.batches.is_empty() && !waited => {}
                    Some(answer) => return answer,
                    None if waited => {
                        return Err(FetchError::Unavailable { partition, reason: "stalled".to_owned() });
                    }
                    None => {}
                }
                let _ = tokio::time::timeout_at(deadline, changed.changed()).await;
            }
        }
        .boxed()
    }

    fn tail(&self, partition: PartitionId, timeout: Duration) -> BoxFuture<'_, Result<TailAnswer, TailError>> {
        async move {
            self.state.lock().tails_asked += 1;
            let mut changed = self.changed.subscribe();
            let waited_ms = timeout.as_millis() as u64;
            let unavailable = |reason: &str| TailError::Unavailable { partition, waited_ms, reason: reason.to_owned() };
            if self.state.lock().unavailable {
                return Err(unavailable("told to be"));
            }
            let freed = async {
                while self.state.lock().stalled {
                    if changed.changed().await.is_err() {
                        break;
                    }
                }
            };
            tokio::time::timeout(timeout, freed).await.map_err(|_| unavailable("stalled"))?;
            Ok(TailAnswer { committed_end: self.committed_end(partition) })
        }
        .boxed()
    }

    fn cluster(&self, timeout: Duration) -> BoxFuture<'_, Result<ClusterInfo, ClusterError>> {
        async move {
            if self.state.lock().unavailable {
                let waited_ms = timeout.as_millis() as u64;
                return Err(ClusterError::Unavailable { waited_ms, reason: "told to be".to_owned() });
            }
            Ok(self.cluster_info())
        }
        .boxed()
    }

    fn register(&self, serving_node: ServingNodeInfo, _timeout: Duration) -> BoxFuture<'_, Result<(), ClusterError>> {
        let taken = self.state.lock().name_taken.clone();
        if let Some(http_addr) = taken {
            let name = serving_node.name;
            return async { Err(ClusterError::NameTaken { name, http_addr }) }.boxed();
        }
        self.change(|state| {
            state.serving_nodes.retain(|other| *other != serving_node);
            state.serving_nodes.push(serving_node);
        });
        async { Ok(()) }.boxed()
    }

    fn survey(&self, timeout: Duration) -> BoxFuture<'_, Vec<Surveyed>> {
        async move {
            let survey = self.state.lock().survey.clone();
            if !survey.is_empty() {
                return survey;
            }
            let history = self.cluster(timeout).await.map(|cluster| cluster.history).map_err(|error| error.to_string());
            vec![Surveyed { addr: "memory".to_owned(), history }]
        }
        .boxed()
    }
}

/// What compaction leaves of these batches: records without effect go, superseded ones too; the others lose their guards.
fn compacted(batches: &[RecordBatch], settled_end: Offset, horizon: Offset) -> Vec<RecordBatch> {
    let model = Model::of(batches, settled_end);
    let mut latest: BTreeMap<Bytes, Offset> = BTreeMap::new();
    for (offset, record) in batches.iter().flat_map(RecordBatch::records) {
        if model.outcomes.get(&offset) == Some(&Outcome::Effective) {
            for update in record.updates() {
                latest.insert(Bytes::copy_from_slice(update.key), offset);
            }
        }
    }
    // A record that stays must lose its superseded updates: where the tombstone that superseded one is gone, it would come
    // back to life.
    let settle = |offset: Offset, mut record: Record| {
        if let RecordBody::Updates { updates, .. } = &mut record.body {
            // Of a key that it has twice, the last counts: without its tombstone the value before it would come back.
            let last: BTreeMap<Bytes, usize> =
                (0..).zip(&*updates).map(|(at, update)| (update.key.clone(), at)).collect();
            let mut at = 0..;
            updates.retain(|update| {
                let superseded =
                    at.next() != last.get(&update.key).copied() || latest.get(&update.key) != Some(&offset);
                !superseded && (update.value.is_some() || offset >= horizon)
            });
            return (!updates.is_empty()).then_some(record);
        }
        Some(record)
    };
    batches
        .iter()
        .map(|batch| {
            let first = batch.header().first_offset;
            let kept: Vec<(u32, Record)> = batch
                .records()
                .filter(|(offset, _)| model.outcomes.get(offset) == Some(&Outcome::Effective))
                .filter_map(|(offset, record)| Some((offset.since(first) as u32, settle(offset, record.to_record())?)))
                .collect();
            settled_batch(first, batch.header().end_delta, &kept)
        })
        .collect()
}

/// A compacted batch of settled records, written byte by byte (docs/formats.md "Record batch").
fn settled_batch(first_offset: Offset, end_delta: u32, records: &[(u32, Record)]) -> RecordBatch {
    const COMPACTED: u8 = 1;
    const SETTLED: u8 = 1 << 4;
    const AT_CRC: usize = 16;
    let mut tail = BytesMut::new();
    for number in 0..records.len() {
        tail.put_u128_le((number as u128) * 2);
        tail.put_u32_le(1);
    }
    records.iter().for_each(|&(delta, _)| tail.put_u32_le(delta));
    for (_, record) in records {
        let mut settled = record.clone();
        if let RecordBody::Updates { guards, .. } = &mut settled.body {
            guards.clear();
        }
        let mut bytes = BytesMut::from(&super::record_set(1, [settled]).records[..]);
        bytes[4] |= SETTLED;
        tail.put_slice(&bytes);
    }
    let mut bytes = BytesMut::new();
    bytes.put_u32_le(BATCH_MAGIC);
    bytes.put_u8(BATCH_FORMAT);
    bytes.put_u8(COMPACTED);
    bytes.put_u16_le(0);
    bytes.put_u64_le(first_offset.get());
    bytes.put_u32_le(0);
    bytes.put_u32_le((BATCH_HEADER_BYTES + tail.len()) as u32);
    bytes.put_u32_le(records.len() as u32);
    bytes.put_u32_le(end_delta);
    bytes.put_u64_le(0);
    bytes.put_u32_le(records.len() as u32);
    bytes.put_u32_le(0);
    bytes.put_slice(&tail);
    match RecordBatch::parse(Bytes::copy_from_slice(&bytes)) {
        Ok(batch) => batch,
        Err(BatchError::Checksum { computed, .. }) => {
            bytes[AT_CRC..AT_CRC + 4].copy_from_slice(&computed.to_le_bytes());
            RecordBatch::parse(bytes.freeze()).expect("the checksum was all that was missing")
        }
        Err(error) => unreachable!("a compacted batch that does not parse: {error}"),
    }
}
