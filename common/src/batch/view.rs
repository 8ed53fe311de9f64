//! A whole batch: made by the leader from a record set, read everywhere by borrowing.
//!
//! * `RecordBatch` owns (shares) the bytes and has been checked once: CRC, counts, every record. Its iterators cannot
//!   fail afterwards.
//! * Invariant: dense unless flagged compacted; then each record has its own delta and `end` may be past the last.
//! * Source: docs/formats.md "Record batch".

use super::layout::*;
use super::{BatchError, RecordSet, RecordView};
use crate::ids::{Offset, RequestId};
use crate::limits::BATCH_BYTES_MAX;
use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

/// Consecutive request ids of consecutive records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRun {
    /// Id of the run's first record; the next has the next number.
    pub base: RequestId,
    /// Records in the run, at least 1.
    pub count: u32,
}

impl IdRun {
    /// Adds a run behind others, joined to the last where it continues it.
    pub fn push(runs: &mut Vec<IdRun>, run: IdRun) {
        match runs.last_mut() {
            Some(last) if last.base.plus(u64::from(last.count)) == run.base && last.count <= u32::MAX - run.count => {
                last.count += run.count;
            }
            _ => runs.push(run),
        }
    }
}

/// The fixed part of a batch, and what follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of its first record (set at append).
    pub first_offset: Offset,
    /// Bytes of the whole batch.
    pub length: u32,
    /// Records present.
    pub record_count: u32,
    /// `first_offset + end_delta` is the batch's end.
    pub end_delta: u32,
    /// The leader's time of day at append. Unit: milliseconds since 1970 UTC.
    pub append_time_ms: u64,
    /// Whether records may be missing.
    pub compacted: bool,
    run_count: u32,
    crc: u32,
}

impl BatchHeader {
    /// Reads the header alone; checks magic, format and that lengths are plausible, not the CRC.
    pub fn parse(bytes: &[u8]) -> Result<BatchHeader, BatchError> {
        let Some(head) = bytes.first_chunk::<BATCH_HEADER_BYTES>() else {
            return Err(BatchError::Short { have: bytes.len(), need: BATCH_HEADER_BYTES });
        };
        let magic = u32_at(head, 0);
        if magic != BATCH_MAGIC {
            return Err(BatchError::Magic { found: magic });
        }
        if head[AT_FORMAT] != BATCH_FORMAT {
            return Err(BatchError::Format { found: head[AT_FORMAT] });
        }
        let flags = head[AT_FLAGS];
        let header = BatchHeader {
            first_offset: Offset::new(u64_at(head, AT_FIRST_OFFSET)),
            length: u32_at(head, AT_LENGTH),
            record_count: u32_at(head, AT_RECORD_COUNT),
            end_delta: u32_at(head, AT_END_DELTA),
            append_time_ms: u64_at(head, AT_TIME),
            compacted: flags & BATCH_COMPACTED != 0,
            run_count: u32_at(head, AT_RUN_COUNT),
            crc: u32_at(head, AT_CRC),
        };
        if flags & !BATCH_COMPACTED != 0 || head[6] != 0 || head[7] != 0 || u32_at(head, AT_RESERVED) != 0 {
            return Err(BatchError::Malformed { what: "unknown flags: written by a newer version" });
        }
        if header.length as usize > BATCH_BYTES_MAX * 2 {
            return Err(BatchError::TooLarge {
                what: "batch length",
                size: u64::from(header.length),
                limit: BATCH_BYTES_MAX as u64 * 2,
            });
        }
        if (header.length as usize) < header.records_at() {
            return Err(BatchError::Malformed { what: "length below header and runs" });
        }
        if header.end_delta < header.record_count || (!header.compacted && header.end_delta != header.record_count) {
            return Err(BatchError::Malformed { what: "end and record count contradict" });
        }
        if header.first_offset.get().checked_add(u64::from(header.end_delta)).is_none() {
            return Err(BatchError::Malformed { what: "offsets overflow" });
        }
        Ok(header)
    }

    /// First offset after the batch.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.first_offset.plus(u64::from(self.end_delta))
    }

    fn records_at(&self) -> usize {
        let deltas = if self.compacted { self.record_count as usize * DELTA_BYTES } else { 0 };
        BATCH_HEADER_BYTES + (self.run_count as usize).saturating_mul(RUN_BYTES).saturating_add(deltas)
    }
}

fn u32_at(head: &[u8; BATCH_HEADER_BYTES], at: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&head[at..at + 4]);
    u32::from_le_bytes(bytes)
}

fn u64_at(head: &[u8; BATCH_HEADER_BYTES], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&head[at..at + 8]);
    u64::from_le_bytes(bytes)
}

/// A checked batch. Cloning shares the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordBatch {
    bytes: Bytes,
    header: BatchHeader,
}

impl RecordBatch {
    /// Builds a batch from record sets, in order, as the leader does. The first offset is 0 until
    /// [`RecordBatch::set_first_offset`]. The caller has checked the sets and keeps their sum within the limits.
    #[must_use]
    pub fn build(sets: &[RecordSet], append_time_ms: u64) -> RecordBatch {
        let mut runs: Vec<IdRun> = Vec::new();
        sets.iter().flat_map(|set| &set.ids).for_each(|&run| IdRun::push(&mut runs, run));
        let count: u32 = sets.iter().map(|set| set.count).sum();
        let records: usize = sets.iter().map(|set| set.records.len()).sum();
        let length = BATCH_HEADER_BYTES + runs.len() * RUN_BYTES + records;
        let mut bytes = BytesMut::with_capacity(length);
        bytes.put_u32_le(BATCH_MAGIC);
        bytes.put_u8(BATCH_FORMAT);
        bytes.put_u8(0);
        bytes.put_u16_le(0);
        bytes.put_u64_le(0);
        bytes.put_u32_le(0);
        bytes.put_u32_le(u32::try_from(length).expect("a batch is bounded by BATCH_BYTES_MAX"));
        bytes.put_u32_le(count);
        bytes.put_u32_le(count);
        bytes.put_u64_le(append_time_ms);
        bytes.put_u32_le(runs.len() as u32);
        bytes.put_u32_le(0);
        for run in &runs {
            bytes.put_u128_le(run.base.bits());
            bytes.put_u32_le(run.count);
        }
        sets.iter().for_each(|set| bytes.put_slice(&set.records));
        let crc = checksum(&bytes);
        bytes[AT_CRC..AT_CRC + 4].copy_from_slice(&crc.to_le_bytes());
        let header = BatchHeader {
            first_offset: Offset::ZERO,
            length: length as u32,
            record_count: count,
            end_delta: count,
            append_time_ms,
            compacted: false,
            run_count: runs.len() as u32,
            crc,
        };
        RecordBatch { bytes: bytes.freeze(), header }
    }

    /// Reads a batch that fills `bytes` exactly; checks everything, so that reading it cannot fail.
    pub fn parse(bytes: Bytes) -> Result<RecordBatch, BatchError> {
        let header = BatchHeader::parse(&bytes)?;
        if bytes.len() != header.length as usize {
            return Err(BatchError::Short { have: bytes.len(), need: header.length as usize });
        }
        let computed = checksum(&bytes);
        if computed != header.crc {
            return Err(BatchError::Checksum { stored: header.crc, computed });
        }
        let batch = RecordBatch { bytes, header };
        batch.check_inside()?;
        Ok(batch)
    }

    fn check_inside(&self) -> Result<(), BatchError> {
        let ids = self.id_runs().try_fold(0u64, |sum, run| (run.count > 0).then(|| sum + u64::from(run.count)));
        if ids != Some(u64::from(self.header.record_count)) {
            return Err(BatchError::Malformed { what: "ids and records differ in number" });
        }
        let mut last: Option<u32> = None;
        for delta in self.deltas() {
            if last.is_some_and(|last| delta <= last) || delta >= self.header.end_delta {
                return Err(BatchError::Malformed { what: "offset deltas do not ascend to the end" });
            }
            last = Some(delta);
        }
        let mut rest = self.record_bytes();
        for _ in 0..self.header.record_count {
            let (record, tail) = RecordView::split_first(rest)?;
            record.check()?;
            rest = tail;
        }
        if rest.is_empty() { Ok(()) } else { Err(BatchError::Malformed { what: "bytes after the last record" }) }
    }

    /// The same batch at its place in the log. Copies the bytes unless they are not shared.
    #[must_use]
    pub fn at(self, first_offset: Offset) -> RecordBatch {
        if self.header.first_offset == first_offset {
            return self;
        }
        let mut bytes = self.bytes.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        RecordBatch::set_first_offset(&mut bytes, first_offset);
        RecordBatch { bytes: bytes.freeze(), header: BatchHeader { first_offset, ..self.header } }
    }

    /// Writes the first offset into a batch's bytes; the CRC does not cover it. Panics on fewer bytes than a header.
    pub fn set_first_offset(bytes: &mut [u8], first_offset: Offset) {
        bytes[AT_FIRST_OFFSET..AT_FIRST_OFFSET + 8].copy_from_slice(&first_offset.get().to_le_bytes());
    }

    /// The bytes, as they stand in files and frames.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The fixed part.
    #[must_use]
    pub fn header(&self) -> BatchHeader {
        self.header
    }

    /// Request ids of the records, in order.
    pub fn id_runs(&self) -> impl Iterator<Item = IdRun> + '_ {
        let end = BATCH_HEADER_BYTES + self.header.run_count as usize * RUN_BYTES;
        let runs = self.bytes.get(BATCH_HEADER_BYTES..end).unwrap_or_default();
        runs.chunks_exact(RUN_BYTES).map(|run| {
            let (base, count) = run.split_at(16);
            let mut base_bytes = [0; 16];
            base_bytes.copy_from_slice(base);
            let mut count_bytes = [0; 4];
            count_bytes.copy_from_slice(count);
            IdRun {
                base: RequestId::from_bits(u128::from_le_bytes(base_bytes)),
                count: u32::from_le_bytes(count_bytes),
            }
        })
    }

    fn deltas(&self) -> impl Iterator<Item = u32> + '_ {
        let start = BATCH_HEADER_BYTES + self.header.run_count as usize * RUN_BYTES;
        let deltas = self.bytes.get(start..self.header.records_at()).unwrap_or_default();
        deltas.chunks_exact(DELTA_BYTES).map(|delta| {
            let mut bytes = [0; 4];
            bytes.copy_from_slice(delta);
            u32::from_le_bytes(bytes)
        })
    }

    fn record_bytes(&self) -> &[u8] {
        self.bytes.get(self.header.records_at()..).unwrap_or_default()
    }

    /// Records with their offsets, in order.
    pub fn records(&self) -> impl Iterator<Item = (Offset, RecordView<'_>)> + '_ {
        let mut rest = self.record_bytes();
        let mut deltas = self.deltas();
        let compacted = self.header.compacted;
        (0..self.header.record_count).map_while(move |number| {
            let (record, tail) = RecordView::split_first(rest).ok()?;
            rest = tail;
            let delta = if compacted { deltas.next()? } else { number };
            Some((self.header.first_offset.plus(u64::from(delta)), record))
        })
    }

    /// A slice that lies in this batch, as shared bytes: no copy. Panics when it does not lie in it.
    #[must_use]
    pub fn share(&self, slice: &[u8]) -> Bytes {
        self.bytes.slice_ref(slice)
    }
}

/// CRC32C over format, flags and reserved bytes, then everything from the length on: all but magic, first offset and
/// the CRC itself.
fn checksum(bytes: &[u8]) -> u32 {
    let head = crc32c::crc32c(bytes.get(AT_FORMAT..AT_FIRST_OFFSET).unwrap_or_default());
    crc32c::crc32c_append(head, bytes.get(AT_LENGTH..).unwrap_or_default())
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
