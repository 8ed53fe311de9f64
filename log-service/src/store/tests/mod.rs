//! Tests of the segment store: what they share. Every disk is in memory but where a file says otherwise; sync work is
//! stepped by hand, so that each test decides what is durable.

mod corruption;
mod crash;
mod faults;
mod fixture;
mod full_disk;
mod ids;
mod reading;
mod replace;

use super::frame::{FrameKind, SEGMENT_HEADER_BYTES, parse_head};
use super::{
    DataFolder, EntryBody, EntryId, LogEntry, Need, PartitionLog, Store, StoreConfig, StoreError, StoreIdentity,
    SyncMode,
};
use crate::disk::MemDisk;
use bytes::Bytes;
use duramen_common::batch::{Record, RecordBatch, RecordSetBuilder, Update};
use duramen_common::ids::{HistoryId, PartitionId, RequestId, StoreId};
use duramen_common::seams::Entropy;
use parking_lot::Mutex;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub(super) const PARTITION: PartitionId = PartitionId::new(0);

/// Counting bits: different each time, the same in every run.
pub(super) struct CountingEntropy(pub AtomicU64);

impl Entropy for CountingEntropy {
    fn bits(&self) -> u128 {
        u128::from(self.0.fetch_add(1, Ordering::Relaxed)).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
    }
}

pub(super) fn identity() -> StoreIdentity {
    StoreIdentity { history: HistoryId::from_bits(0x00c7_f3a1), store: StoreId::from_bits(7) }
}

pub(super) fn config() -> StoreConfig {
    StoreConfig { segment_bytes: 4096, reserve_bytes: 0, dedup_window: 64, ..StoreConfig::default() }
}

/// A store of which no partition is open yet.
pub(super) fn unopened(disk: &MemDisk) -> Result<Store, StoreError> {
    unopened_with(disk, config(), disk.call_count())
}

pub(super) fn unopened_with(disk: &MemDisk, config: StoreConfig, seed: u64) -> Result<Store, StoreError> {
    let folder = DataFolder::lock(Arc::new(disk.clone()), Path::new("/data"))?;
    let entropy = Arc::new(CountingEntropy(AtomicU64::new(1 + seed * 1_000_000)));
    Store::open(folder, identity(), config, entropy, SyncMode::Manual)
}

pub(super) fn open_with(disk: &MemDisk, config: StoreConfig, seed: u64) -> Result<(Store, PartitionLog), StoreError> {
    let store = unopened_with(disk, config, seed)?;
    let log = store.open_partition(PARTITION)?;
    Ok((store, log))
}

pub(super) fn open(disk: &MemDisk) -> Result<(Store, PartitionLog), StoreError> {
    open_with(disk, config(), disk.call_count())
}

/// A batch of `count` records whose ids start at `id`.
pub(super) fn batch(id: u128, count: u32, bytes: usize) -> RecordBatch {
    let mut builder = RecordSetBuilder::default();
    for number in 0..count {
        let id = RequestId::from_bits(id).plus(u64::from(number));
        let value = Bytes::from(vec![id.bits() as u8; bytes]);
        let key = Bytes::from(format!("key-{id}"));
        builder.push(id, &Record::updates(Vec::new(), vec![Update { key, value: Some(value) }])).unwrap();
    }
    RecordBatch::build(&[builder.finish()], 1_700_000_000_000)
}

pub(super) fn entry(term: u64, index: u64, count: u32) -> LogEntry {
    let body = if count == 0 {
        EntryBody::Blank
    } else {
        EntryBody::Batch(batch(u128::from(term) << 64 | u128::from(index) << 16, count, 24))
    };
    LogEntry { id: EntryId { term, index }, body }
}

/// Results of callbacks in the order in which they came.
#[derive(Clone, Default)]
pub(super) struct Answers(pub Arc<Mutex<Vec<(u64, bool)>>>);

impl Answers {
    pub fn callback(&self, number: u64) -> super::DoneCallback {
        let answers = self.clone();
        Box::new(move |result| answers.0.lock().push((number, result.is_ok())))
    }
}

pub(super) fn append(log: &PartitionLog, entries: Vec<LogEntry>) {
    log.append(entries, Box::new(|_| {})).unwrap();
}

pub(super) fn all(log: &PartitionLog) -> Vec<LogEntry> {
    log.read_entries(0, u64::MAX, usize::MAX).unwrap()
}

pub(super) fn names(entries: &[LogEntry]) -> Vec<(u64, u64)> {
    entries.iter().map(|entry| (entry.id.term, entry.id.index)).collect()
}

/// Segment files, in order.
pub(super) fn segments(disk: &MemDisk) -> Vec<PathBuf> {
    use crate::disk::Disk as _;
    let folder = Path::new("/data/partitions/0");
    let names = disk.list(folder).unwrap();
    names.iter().filter(|name| name.ends_with(".segment")).map(|name| folder.join(name)).collect()
}

/// Frames of a segment, by their headers: where each starts and ends, and what it holds.
pub(super) fn frames(bytes: &[u8]) -> Vec<(usize, usize, FrameKind)> {
    let mut at = SEGMENT_HEADER_BYTES;
    let mut frames = Vec::new();
    while let Some(head) = bytes.get(at..).and_then(|rest| parse_head(rest).ok()) {
        frames.push((at, at + head.frame_bytes(), head.kind));
        at += head.frame_bytes();
    }
    frames
}

/// What a closure's future gives, with the sync work stepped for it.
pub(super) fn block<T>(store: &Store, future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        tokio::pin!(future);
        loop {
            tokio::select! {
                biased;
                value = &mut future => return value,
                () = tokio::task::yield_now() => { store.step(); }
            }
        }
    })
}
