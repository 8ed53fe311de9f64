//! Cuts records into batches for `POST /v1/batch`.
//!
//! * In: records in order. Out: request bodies, each with the places it begins and ends at.
//! * Invariant: where a batch ends depends only on where it begins and on the file, so that a load that goes on at a batch's
//!   beginning cuts the same batches, under the same idempotency keys.
//! * A batch always holds at least one record.

use super::source::{FileRecord, Place, Source, SourceError};
use bytes::Bytes;
use duramen_common::Blob;
use duramen_common::limits::{BODY_BYTES_MAX, OPS_MAX};
use serde::Serialize;
use std::hash::{BuildHasher as _, RandomState};
use std::io::BufRead;

/// Records in a batch unless said otherwise: large enough for one append each partition, small enough to show progress.
pub const BATCH_RECORDS_DEFAULT: usize = 500;
/// Where a body is full: what the server takes, less the frame around the ops. Unit: bytes.
const BODY_FULL_BYTES: usize = BODY_BYTES_MAX - 64;

/// One request.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Where its first record begins.
    pub start: Place,
    /// The place after its last record.
    pub end: Place,
    /// How many records.
    pub records: u64,
    /// The request's body.
    pub body: Bytes,
    /// A hash of the body. With the load's id and the beginning it makes the idempotency key: where the file was edited,
    /// another batch is another request.
    pub content: u64,
    /// A hash of each key: batches that share one must not overtake each other.
    pub key_hashes: Vec<u64>,
}

/// Cuts a source into batches.
pub struct Batches<R> {
    source: Source<R>,
    records_max: usize,
    hasher: RandomState,
    start: Place,
    /// The record that did not fit into the batch before.
    held: Option<(FileRecord, Vec<u8>)>,
}

#[derive(Serialize)]
struct PutOp<'a> {
    put: Put<'a>,
}

#[derive(Serialize)]
struct Put<'a> {
    key: &'a Blob,
    value: &'a Blob,
}

impl<R: BufRead> Batches<R> {
    /// Batches of at most `records_max` records, from where the source stands.
    pub fn new(source: Source<R>, records_max: usize) -> Batches<R> {
        let start = source.place();
        Batches { source, records_max: records_max.clamp(1, OPS_MAX), hasher: RandomState::new(), start, held: None }
    }

    /// The next batch; `None` at the end of the file.
    pub fn next_batch(&mut self) -> Result<Option<Batch>, SourceError> {
        let mut batch = Batch {
            start: self.start,
            end: self.start,
            records: 0,
            body: Bytes::new(),
            content: 0,
            key_hashes: Vec::new(),
        };
        let mut body = Vec::with_capacity(64 * 1024);
        body.extend_from_slice(b"{\"ops\":[");
        while batch.key_hashes.len() < self.records_max {
            let Some((record, op)) = self.next_op()? else { break };
            if batch.records > 0 && body.len() + 1 + op.len() > BODY_FULL_BYTES {
                self.held = Some((record, op));
                break;
            }
            if batch.records > 0 {
                body.push(b',');
            }
            body.extend_from_slice(&op);
            batch.key_hashes.push(self.hasher.hash_one(&record.key));
            batch.records += 1;
            batch.end = record.end;
        }
        if batch.records == 0 {
            return Ok(None);
        }
        body.extend_from_slice(b"]}");
        batch.content = xxhash_rust::xxh3::xxh3_64(&body);
        batch.body = Bytes::from(body);
        self.start = batch.end;
        Ok(Some(batch))
    }

    fn next_op(&mut self) -> Result<Option<(FileRecord, Vec<u8>)>, SourceError> {
        if let Some(held) = self.held.take() {
            return Ok(Some(held));
        }
        let line = self.source.place().line + 1;
        let Some(record) = self.source.next_record()? else { return Ok(None) };
        let put = Put { key: &Blob(record.key.clone()), value: &Blob(record.value.clone()) };
        let op = serde_json::to_vec(&PutOp { put }).map_err(|error| SourceError::Malformed {
            line,
            column: 1,
            what: format!("cannot be sent as JSON: {error}"),
        })?;
        if op.len() > BODY_FULL_BYTES {
            let what = format!("a record of {} bytes as JSON; a request takes {BODY_FULL_BYTES}", op.len());
            return Err(SourceError::Malformed { line, column: 1, what });
        }
        Ok(Some((record, op)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::shape::{Format, ShapeArgs};
    use proptest::prelude::*;
    use std::io::Cursor;
    use std::path::Path;

    fn batches(text: &[u8], from: Place, records_max: usize) -> Vec<Batch> {
        let shape =
            ShapeArgs { format: Some(Format::Lines), ..ShapeArgs::default() }.resolve(Path::new("words")).unwrap();
        let mut source = Source::open(Cursor::new(text), &shape).unwrap();
        source.skip_to(from).unwrap();
        let mut cutter = Batches::new(source, records_max);
        std::iter::from_fn(|| cutter.next_batch().unwrap()).collect()
    }

    proptest! {
        /// Goal: going on at any batch's beginning cuts the very same batches. Method: cut the whole file, then again from
        /// each beginning.
        #[test]
        fn batches_are_cut_the_same_from_any_batch_on(
            lines in proptest::collection::vec("[a-c]{0,4}", 0..60),
            records_max in 1usize..7,
        ) {
            let text = lines.join("\n").into_bytes();
            let whole = batches(&text, Place::default(), records_max);
            for (number, batch) in whole.iter().enumerate() {
                let resumed = batches(&text, batch.start, records_max);
                prop_assert_eq!(resumed.len(), whole.len() - number);
                for (one, other) in resumed.iter().zip(&whole[number..]) {
                    prop_assert_eq!((one.start, one.end, &one.body), (other.start, other.end, &other.body));
                }
            }
        }
    }

    /// Goal: no body is over what a server takes, and none is empty. Method: keys whose JSON is six times their length.
    #[test]
    fn a_body_stays_within_what_a_server_takes() {
        let line = "\u{1}".repeat(1000);
        let text = [line.as_str(); 3000].join("\n").into_bytes();
        let cut = batches(&text, Place::default(), OPS_MAX);
        assert!(cut.len() > 1);
        assert!(cut.iter().all(|batch| batch.body.len() <= BODY_BYTES_MAX && batch.records > 0));
        assert_eq!(cut.iter().map(|batch| batch.records).sum::<u64>(), 3000);
    }
}
