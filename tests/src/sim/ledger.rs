//! Ledger: the committed log as the replicas have shown it so far, and what it folds to at every position.
//!
//! * In: what each log replica publishes as committed. Out: the record at an offset, the fold at a position, what an id did.
//! * The first replica that publishes an offset says what stands there; every other must have the same bytes.
//! * Deliberately absent: what clients were told (`invariants`).
//! * Source: DESIGN §6; the fold is `duramen_serving_node::testing::Model`.

use super::violation::Broken;
use bytes::Bytes;
use duramen_common::batch::RecordBatch;
use duramen_common::protocol::BatchId;
use duramen_common::{Offset, PartitionId, RequestId};
use duramen_serving_node::Outcome;
use duramen_serving_node::testing::Model;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A committed record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Its id.
    pub id: RequestId,
    /// Its content in one number.
    pub fingerprint: u64,
    /// What it did.
    pub outcome: Outcome,
}

/// A key's value after a record: the version, and the value where it lives.
pub type KeyState = (Offset, Option<Bytes>);

/// One partition's committed log.
#[derive(Default)]
pub struct Ledger {
    batches: BTreeMap<Offset, (BatchId, Bytes)>,
    records: Vec<Committed>,
    places: HashMap<RequestId, Vec<Offset>>,
    model: Model,
    keys: BTreeMap<Bytes, Vec<KeyState>>,
}

impl Ledger {
    /// First offset that nobody has published.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.model.end
    }

    /// The record at an offset, once it is committed.
    #[must_use]
    pub fn record(&self, offset: Offset) -> Option<&Committed> {
        self.records.get(usize::try_from(offset.get()).ok()?)
    }

    /// Where an id stands, in order.
    #[must_use]
    pub fn places(&self, id: RequestId) -> &[Offset] {
        self.places.get(&id).map_or(&[], Vec::as_slice)
    }

    /// How many records stand behind an earlier one of the same id.
    #[must_use]
    pub fn again(&self) -> u64 {
        (self.records.len() - self.places.len()) as u64
    }

    /// The keys of records that stand more than once: sent again after their ids had left the window.
    #[must_use]
    pub fn keys_written_again(&self) -> BTreeSet<&Bytes> {
        let again = self.places.values().filter(|places| places.len() > 1).flatten();
        let again: BTreeSet<Offset> = again.copied().collect();
        let is_again = |states: &[KeyState]| states.iter().any(|(offset, _)| again.contains(offset));
        self.keys.iter().filter(|(_, states)| is_again(states)).map(|(key, _)| key).collect()
    }

    /// The committed batches, in order.
    pub fn batches(&self) -> impl Iterator<Item = &Bytes> {
        self.batches.values().map(|(_, bytes)| bytes)
    }

    /// The batch that begins at an offset, with its name.
    #[must_use]
    pub fn batch(&self, first: Offset) -> Option<&(BatchId, Bytes)> {
        self.batches.get(&first)
    }

    /// A key's version after every record below `end`: none when it does not live then.
    #[must_use]
    pub fn version_at(&self, key: &[u8], end: Offset) -> Option<Offset> {
        self.key_at(key, end).and_then(|(version, value)| value.as_ref().map(|_| *version))
    }

    /// A key after every record below `end`: none when it never lived.
    #[must_use]
    pub fn key_at(&self, key: &[u8], end: Offset) -> Option<&KeyState> {
        let states = self.keys.get(key)?;
        let after = states.partition_point(|(offset, _)| *offset < end);
        states.get(after.checked_sub(1)?)
    }

    /// Every key that lives after every record below `end`: version and value.
    pub fn live_at(&self, end: Offset) -> impl Iterator<Item = (&Bytes, Offset, &Bytes)> {
        self.keys.keys().filter_map(move |key| match self.key_at(key, end) {
            Some((version, Some(value))) => Some((key, *version, value)),
            _ => None,
        })
    }

    /// Takes a batch that a replica publishes as committed: the next one, or one that is known.
    pub fn take(&mut self, id: BatchId, bytes: &Bytes) -> Result<(), Broken> {
        let batch = RecordBatch::parse(bytes.clone())
            .map_err(|error| Broken::new(2, format!("a committed batch does not parse: {error}")))?;
        let first = batch.header().first_offset;
        if first < self.end() {
            return match self.batches.get(&first) {
                Some((known, content)) if *known == id && content == bytes => Ok(()),
                Some((known, _)) => Err(Broken::new(
                    2,
                    format!("at offset {first} there is another batch: {known:?} elsewhere, {id:?} here"),
                )),
                None => Err(Broken::new(2, format!("a batch begins at offset {first} here, and inside one elsewhere"))),
            };
        }
        if first > self.end() {
            return Err(Broken::new(2, format!("offsets {} to {first} are missing", self.end())));
        }
        self.extend(&batch);
        self.batches.insert(first, (id, bytes.clone()));
        Ok(())
    }

    fn extend(&mut self, batch: &RecordBatch) {
        let ids = batch.id_runs().flat_map(|run| (0..u64::from(run.count)).map(move |number| run.base.plus(number)));
        for (id, (offset, record)) in ids.zip(batch.records()) {
            self.model.fold(offset, &record.to_record(), record.is_settled());
            let outcome = self.model.outcomes.get(&offset).copied().unwrap_or(Outcome::Effective);
            self.records.push(Committed { id, fingerprint: record.fingerprint(), outcome });
            self.places.entry(id).or_default().push(offset);
            if outcome == Outcome::NoEffect {
                continue;
            }
            for update in record.updates() {
                let value = update.value.map(|value| batch.share(value));
                let states = self.keys.entry(batch.share(update.key)).or_default();
                // A record's last update of a key counts.
                if states.last().is_some_and(|(last, _)| *last == offset) {
                    states.pop();
                }
                states.push((offset, value));
            }
        }
    }
}

/// All partitions' ledgers, the meta one among them.
#[derive(Default)]
pub struct Ledgers {
    partitions: BTreeMap<PartitionId, Ledger>,
}

impl Ledgers {
    /// One partition's.
    pub fn of(&mut self, partition: PartitionId) -> &mut Ledger {
        self.partitions.entry(partition).or_default()
    }

    /// One partition's, if anything of it was seen.
    #[must_use]
    pub fn get(&self, partition: PartitionId) -> Option<&Ledger> {
        self.partitions.get(&partition)
    }

    /// All.
    pub fn iter(&self) -> impl Iterator<Item = (PartitionId, &Ledger)> {
        self.partitions.iter().map(|(partition, ledger)| (*partition, ledger))
    }
}
