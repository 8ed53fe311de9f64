//! One record, built into bytes once, by the client; `record_view` reads them.
//!
//! * `RecordSet` is records on their way to the log: encoded, concatenated, with their ids beside them. The leader
//!   copies these bytes behind a header and never looks inside but for the fingerprints.
//! * Invariant: a record's bytes do not depend on its id, offset or neighbours.
//! * Source: docs/formats.md "Record".

use super::layout::*;
use super::{BatchError, IdRun, RecordView};
use crate::ids::{Offset, RequestId};
use crate::limits::{APPEND_RECORDS_MAX, BATCH_BYTES_MAX, KEY_BYTES_MAX, OPS_MAX, RECORD_BYTES_MAX};
use bytes::{BufMut, Bytes, BytesMut};

/// A record to be appended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Namespace; 0 is the default one, and the only one in use.
    pub namespace: u16,
    /// Pairs for those who process the log; the key-value layer ignores them.
    pub headers: Headers,
    /// What it does.
    pub body: RecordBody,
}

/// Name and value pairs of a record.
pub type Headers = Vec<(Bytes, Bytes)>;

/// What a record does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordBody {
    /// An atomic set of updates behind guards; either may be empty.
    Updates {
        /// All must hold, or nothing is updated.
        guards: Vec<Guard>,
        /// Applied together.
        updates: Vec<Update>,
    },
    /// Opaque to the key-value layer.
    Event(Event),
}

impl Default for RecordBody {
    fn default() -> RecordBody {
        RecordBody::Updates { guards: Vec::new(), updates: Vec::new() }
    }
}

/// An opaque event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// For compaction and placement; may be missing.
    pub key: Option<Bytes>,
    /// Anything.
    pub payload: Bytes,
}

/// A condition on one key's version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    /// The key.
    pub key: Bytes,
    /// What must hold.
    pub condition: GuardCondition,
}

/// What a guard asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuardCondition {
    /// The key has no value.
    Absent,
    /// The key has a value.
    Exists,
    /// The key's last effective write is the record at this offset of the same partition.
    Version(Offset),
}

/// A key's new value, or its removal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// The key.
    pub key: Bytes,
    /// `None` removes it (a tombstone).
    pub value: Option<Bytes>,
}

/// A guard, read in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuardRef<'a> {
    /// The key.
    pub key: &'a [u8],
    /// What must hold.
    pub condition: GuardCondition,
}

/// An update, read in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpdateRef<'a> {
    /// The key.
    pub key: &'a [u8],
    /// `None` removes it.
    pub value: Option<&'a [u8]>,
}

impl Record {
    /// A record of guarded updates.
    #[must_use]
    pub fn updates(guards: Vec<Guard>, updates: Vec<Update>) -> Record {
        Record { body: RecordBody::Updates { guards, updates }, ..Record::default() }
    }

    /// A record of one opaque event.
    #[must_use]
    pub fn event(key: Option<Bytes>, payload: Bytes) -> Record {
        Record { body: RecordBody::Event(Event { key, payload }), ..Record::default() }
    }

    /// Appends the record's bytes, its length first.
    fn encode_into(&self, out: &mut BytesMut) {
        let start = out.len();
        out.put_u32_le(0);
        let mut kind = match &self.body {
            RecordBody::Updates { .. } => KIND_UPDATES,
            RecordBody::Event(event) => KIND_EVENT | if event.key.is_some() { RECORD_EVENT_KEY } else { 0 },
        };
        if self.namespace != 0 {
            kind |= RECORD_NAMESPACE;
        }
        if !self.headers.is_empty() {
            kind |= RECORD_HEADERS;
        }
        out.put_u8(kind);
        if self.namespace != 0 {
            out.put_u16_le(self.namespace);
        }
        if !self.headers.is_empty() {
            let length: usize = self.headers.iter().map(|(name, value)| 8 + name.len() + value.len()).sum();
            out.put_u32_le(length as u32);
            for part in self.headers.iter().flat_map(|(name, value)| [name, value]) {
                out.put_u32_le(part.len() as u32);
                out.put_slice(part);
            }
        }
        match &self.body {
            RecordBody::Updates { guards, updates } => encode_updates(guards, updates, out),
            RecordBody::Event(event) => {
                if let Some(key) = &event.key {
                    put_key(key, out);
                }
                out.put_slice(&event.payload);
            }
        }
        let length = (out.len() - start - 4) as u32;
        if let Some(place) = out.get_mut(start..start + 4) {
            place.copy_from_slice(&length.to_le_bytes());
        }
    }

    /// Refuses what the format cannot carry.
    fn check(&self) -> Result<(), BatchError> {
        let size = match &self.body {
            RecordBody::Updates { guards, updates } => {
                check_limit("number of guards", guards.len(), OPS_MAX)?;
                check_limit("number of updates", updates.len(), OPS_MAX)?;
                let mut size = 0;
                for key in guards.iter().map(|guard| &guard.key).chain(updates.iter().map(|update| &update.key)) {
                    check_limit("key length", key.len(), KEY_BYTES_MAX)?;
                    size += key.len() + 12;
                }
                size + updates.iter().map(|update| update.value.as_ref().map_or(0, Bytes::len)).sum::<usize>()
            }
            RecordBody::Event(event) => {
                let key = event.key.as_ref().map_or(0, Bytes::len);
                check_limit("key length", key, KEY_BYTES_MAX)?;
                key + event.payload.len()
            }
        };
        let headers: usize = self.headers.iter().map(|(name, value)| 8 + name.len() + value.len()).sum();
        check_limit("record length", size.saturating_add(headers), RECORD_BYTES_MAX)
    }
}

pub(super) fn check_limit(what: &'static str, size: usize, limit: usize) -> Result<(), BatchError> {
    if size > limit {
        return Err(BatchError::TooLarge { what, size: size as u64, limit: limit as u64 });
    }
    Ok(())
}

fn put_key(key: &[u8], out: &mut BytesMut) {
    out.put_u16_le(key.len() as u16);
    out.put_slice(key);
}

fn encode_updates(guards: &[Guard], updates: &[Update], out: &mut BytesMut) {
    out.put_u16_le(guards.len() as u16);
    out.put_u16_le(updates.len() as u16);
    for guard in guards {
        out.put_u8(match guard.condition {
            GuardCondition::Absent => GUARD_ABSENT,
            GuardCondition::Exists => GUARD_EXISTS,
            GuardCondition::Version(_) => GUARD_VERSION,
        });
        put_key(&guard.key, out);
        if let GuardCondition::Version(offset) = guard.condition {
            out.put_u64_le(offset.get());
        }
    }
    for update in updates {
        out.put_u8(if update.value.is_some() { UPDATE_PUT } else { UPDATE_TOMBSTONE });
        put_key(&update.key, out);
        if let Some(value) = &update.value {
            out.put_u32_le(value.len() as u32);
            out.put_slice(value);
        }
    }
}

/// Records on their way to the log: encoded, with their ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordSet {
    /// Encoded records, concatenated.
    pub records: Bytes,
    /// How many.
    pub count: u32,
    /// Their ids in order; the counts add up to `count`.
    pub ids: Vec<IdRun>,
}

impl RecordSet {
    /// A set of one record.
    pub fn of(id: RequestId, record: &Record) -> Result<RecordSet, BatchError> {
        let mut builder = RecordSetBuilder::default();
        builder.push(id, record)?;
        Ok(builder.finish())
    }

    /// Checks that records and ids are whole and within the limits; for bytes that came from elsewhere. Returns the
    /// fingerprint of each record, in order.
    pub fn check(&self) -> Result<Vec<u64>, BatchError> {
        check_limit("number of records", self.count as usize, APPEND_RECORDS_MAX)?;
        check_limit("append length", self.records.len(), BATCH_BYTES_MAX)?;
        let ids = self.ids.iter().try_fold(0u64, |sum, run| (run.count > 0).then(|| sum + u64::from(run.count)));
        if self.count == 0 || ids != Some(u64::from(self.count)) {
            return Err(BatchError::Malformed { what: "ids and records differ in number" });
        }
        let mut fingerprints = Vec::with_capacity(self.count as usize);
        let mut rest = &self.records[..];
        for _ in 0..self.count {
            let (record, tail) = RecordView::split_first(rest)?;
            if record.is_settled() {
                return Err(BatchError::Malformed { what: "an append must not carry settled records" });
            }
            record.check()?;
            fingerprints.push(record.fingerprint());
            rest = tail;
        }
        if rest.is_empty() {
            Ok(fingerprints)
        } else {
            Err(BatchError::Malformed { what: "bytes after the last record" })
        }
    }
}

/// Collects records for one append. Ids that follow one another become one run.
#[derive(Debug, Default)]
pub struct RecordSetBuilder {
    records: BytesMut,
    count: u32,
    ids: Vec<IdRun>,
}

impl RecordSetBuilder {
    /// Adds a record; refuses what is over a limit, and stays as it was then.
    pub fn push(&mut self, id: RequestId, record: &Record) -> Result<(), BatchError> {
        record.check()?;
        check_limit("number of records", self.count as usize + 1, APPEND_RECORDS_MAX)?;
        let start = self.records.len();
        record.encode_into(&mut self.records);
        if self.records.len() > BATCH_BYTES_MAX {
            let size = self.records.len();
            self.records.truncate(start);
            check_limit("append length", size, BATCH_BYTES_MAX)?;
        }
        self.count += 1;
        IdRun::push(&mut self.ids, IdRun { base: id, count: 1 });
        Ok(())
    }

    /// Adds a whole set behind what is there. The caller keeps the sum within the limits.
    pub fn push_set(&mut self, set: &RecordSet) {
        self.records.extend_from_slice(&set.records);
        self.count += set.count;
        set.ids.iter().for_each(|&run| IdRun::push(&mut self.ids, run));
    }

    /// Records so far.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Bytes of encoded records so far.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.records.len()
    }

    /// The set.
    #[must_use]
    pub fn finish(self) -> RecordSet {
        RecordSet { records: self.records.freeze(), count: self.count, ids: self.ids }
    }
}
