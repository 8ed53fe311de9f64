//! One record, read in place: every part borrowed from the batch's bytes.
//!
//! * In: bytes that may be hostile. Out: guards, updates, event, fingerprint; or a [`BatchError`].
//! * Invariant: nothing is allocated for what a length field claims; after `check` the iterators cannot fail.
//! * Source: docs/formats.md "Record".

use super::BatchError;
use super::layout::*;
use super::record::{Event, Guard, GuardCondition, GuardRef, Record, RecordBody, Update, UpdateRef, check_limit};
use crate::ids::Offset;
use crate::limits::KEY_BYTES_MAX;
use bytes::Bytes;

/// A record, read in place.
#[derive(Clone, Copy, Debug)]
pub struct RecordView<'a> {
    /// Everything after the length.
    bytes: &'a [u8],
    kind: u8,
    namespace: u16,
    headers: &'a [u8],
    body: &'a [u8],
}

impl<'a> RecordView<'a> {
    /// The first record of `bytes`, and what follows it.
    pub fn split_first(bytes: &'a [u8]) -> Result<(RecordView<'a>, &'a [u8]), BatchError> {
        let mut reader = Reader(bytes);
        let length = reader.u32()? as usize;
        let record = reader.take(length)?;
        Ok((RecordView::parse(record)?, reader.0))
    }

    fn parse(bytes: &'a [u8]) -> Result<RecordView<'a>, BatchError> {
        let mut reader = Reader(bytes);
        let kind = reader.u8()?;
        if !matches!(kind & KIND_MASK, KIND_UPDATES | KIND_EVENT) {
            return Err(BatchError::Malformed { what: "unknown kind of record" });
        }
        let namespace = if kind & RECORD_NAMESPACE != 0 { reader.u16()? } else { 0 };
        let headers = if kind & RECORD_HEADERS != 0 {
            let length = reader.u32()? as usize;
            reader.take(length)?
        } else {
            &[]
        };
        Ok(RecordView { bytes, kind, namespace, headers, body: reader.0 })
    }

    /// Reads every part once, so that the iterators below cannot fail afterwards.
    pub(super) fn check(&self) -> Result<(), BatchError> {
        let mut headers = Reader(self.headers);
        while !headers.0.is_empty() {
            // Name, then value.
            for _ in 0..2 {
                let length = headers.u32()? as usize;
                headers.take(length)?;
            }
        }
        if self.is_event() {
            if self.kind & RECORD_EVENT_KEY != 0 {
                Reader(self.body).key()?;
            }
            return Ok(());
        }
        let mut reader = Reader(self.body);
        let guards = reader.u16()?;
        let updates = reader.u16()?;
        for _ in 0..guards {
            reader.guard()?;
        }
        for _ in 0..updates {
            reader.update()?;
        }
        if reader.0.is_empty() { Ok(()) } else { Err(BatchError::Malformed { what: "bytes after the last update" }) }
    }

    /// 64 bits that tell this record from another under the same id.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        xxhash_rust::xxh3::xxh3_64(self.bytes)
    }

    /// Whether compaction has settled it: it took effect, and its guards are gone.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.kind & RECORD_SETTLED != 0
    }

    /// Whether it is an opaque event.
    #[must_use]
    pub fn is_event(&self) -> bool {
        self.kind & KIND_MASK == KIND_EVENT
    }

    /// Its namespace.
    #[must_use]
    pub fn namespace(&self) -> u16 {
        self.namespace
    }

    /// Bytes of the record without its length field.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Never: a record has at least a kind.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Its headers, names first.
    pub fn headers(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let mut reader = Reader(self.headers);
        std::iter::from_fn(move || {
            let name_length = reader.u32().ok()? as usize;
            let name = reader.take(name_length).ok()?;
            let value_length = reader.u32().ok()? as usize;
            Some((name, reader.take(value_length).ok()?))
        })
    }

    /// Its guards; none for an event and for a settled record.
    pub fn guards(&self) -> impl Iterator<Item = GuardRef<'a>> + use<'a> {
        let mut reader = Reader(self.body);
        let count = if self.is_event() { 0 } else { reader.u16().unwrap_or(0) };
        let _update_count = reader.u16();
        (0..count).map_while(move |_| reader.guard().ok())
    }

    /// Its updates; none for an event.
    pub fn updates(&self) -> impl Iterator<Item = UpdateRef<'a>> + use<'a> {
        let mut reader = Reader(self.body);
        let (guards, updates) =
            if self.is_event() { (0, 0) } else { (reader.u16().unwrap_or(0), reader.u16().unwrap_or(0)) };
        for _ in 0..guards {
            let _ = reader.guard();
        }
        (0..updates).map_while(move |_| reader.update().ok())
    }

    /// Its key and payload, for an event.
    #[must_use]
    pub fn event(&self) -> Option<(Option<&'a [u8]>, &'a [u8])> {
        if !self.is_event() {
            return None;
        }
        let mut reader = Reader(self.body);
        let key = if self.kind & RECORD_EVENT_KEY != 0 { Some(reader.key().ok()?) } else { None };
        Some((key, reader.0))
    }

    /// The record as an owned value.
    #[must_use]
    pub fn to_record(&self) -> Record {
        let headers =
            self.headers().map(|(name, value)| (Bytes::copy_from_slice(name), Bytes::copy_from_slice(value))).collect();
        let body = match self.event() {
            Some((key, payload)) => RecordBody::Event(Event {
                key: key.map(Bytes::copy_from_slice),
                payload: Bytes::copy_from_slice(payload),
            }),
            None => RecordBody::Updates {
                guards: self
                    .guards()
                    .map(|guard| Guard { key: Bytes::copy_from_slice(guard.key), condition: guard.condition })
                    .collect(),
                updates: self
                    .updates()
                    .map(|update| Update {
                        key: Bytes::copy_from_slice(update.key),
                        value: update.value.map(Bytes::copy_from_slice),
                    })
                    .collect(),
            },
        };
        Record { namespace: self.namespace, headers, body }
    }
}

/// Takes bounded pieces off the front of a slice.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], BatchError> {
        let (piece, rest) =
            self.0.split_at_checked(length).ok_or(BatchError::Short { have: self.0.len(), need: length })?;
        self.0 = rest;
        Ok(piece)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], BatchError> {
        let (piece, rest) = self.0.split_first_chunk::<N>().ok_or(BatchError::Short { have: self.0.len(), need: N })?;
        self.0 = rest;
        Ok(*piece)
    }

    fn u8(&mut self) -> Result<u8, BatchError> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, BatchError> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, BatchError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, BatchError> {
        self.array().map(u64::from_le_bytes)
    }

    fn key(&mut self) -> Result<&'a [u8], BatchError> {
        let length = usize::from(self.u16()?);
        check_limit("key length", length, KEY_BYTES_MAX)?;
        self.take(length)
    }

    fn guard(&mut self) -> Result<GuardRef<'a>, BatchError> {
        let condition = self.u8()?;
        let key = self.key()?;
        let condition = match condition {
            GUARD_ABSENT => GuardCondition::Absent,
            GUARD_EXISTS => GuardCondition::Exists,
            GUARD_VERSION => GuardCondition::Version(Offset::new(self.u64()?)),
            _ => return Err(BatchError::Malformed { what: "unknown guard" }),
        };
        Ok(GuardRef { key, condition })
    }

    fn update(&mut self) -> Result<UpdateRef<'a>, BatchError> {
        let op = self.u8()?;
        let key = self.key()?;
        let value = match op {
            UPDATE_TOMBSTONE => None,
            UPDATE_PUT => {
                let length = self.u32()? as usize;
                Some(self.take(length)?)
            }
            _ => return Err(BatchError::Malformed { what: "unknown update" }),
        };
        Ok(UpdateRef { key, value })
    }
}
