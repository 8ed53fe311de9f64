//! The judge: what clients were told, against the plain fold of the log.

use bytes::Bytes;
use duramen_common::{Offset, PartitionId, RequestId};
use duramen_serving_node::Outcome;
use duramen_serving_node::testing::{MemoryLog, Model};
use std::collections::BTreeMap;

/// A key's version and value.
pub(super) type Item = (Offset, Bytes);
/// One update of one record: where it stands, its key, its value; none where it is removed.
pub(super) type Change = (Offset, Bytes, Option<Bytes>);

/// What a writer was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// It took effect there.
    Effective(PartitionId, Offset),
    /// Its guard failed.
    NoEffect,
    /// Nothing was appended.
    Refused(String),
    /// It may or may not have happened.
    Unknown,
}

/// What was seen, to be judged when the log is known.
#[derive(Clone, Debug)]
pub(super) enum Seen {
    /// The answer to a write.
    Write { id: RequestId, told: Told },
    /// A key, read at an end that must be at least the other.
    Read { partition: PartitionId, key: String, item: Option<Item>, end: Offset, at_least: Offset, how: &'static str },
    /// All keys, read at these ends.
    Page { items: BTreeMap<Bytes, Item>, ends: Vec<Offset>, at_least: Vec<Offset> },
    /// Everything that a feed gave so far, over all its connections, in the order of each partition.
    Feed { changes: Vec<Vec<Change>> },
}

/// One partition's log, folded.
struct Folded {
    /// What records did, by id.
    outcomes: BTreeMap<RequestId, (Offset, Outcome)>,
    /// What changed, in order.
    changes: Vec<Change>,
}

impl Folded {
    fn of(log: &MemoryLog, partition: PartitionId) -> Folded {
        let mut model = Model::default();
        let mut folded = Folded { outcomes: BTreeMap::new(), changes: Vec::new() };
        for batch in log.batches(partition) {
            let ids =
                batch.id_runs().flat_map(|run| (0..u64::from(run.count)).map(move |number| run.base.plus(number)));
            for ((offset, record), id) in batch.records().zip(ids) {
                model.fold(offset, &record.to_record(), record.is_settled());
                let outcome = model.outcomes[&offset];
                folded.outcomes.insert(id, (offset, outcome));
                if outcome == Outcome::Effective {
                    let change = |update: duramen_common::batch::UpdateRef<'_>| {
                        let value = update.value.map(Bytes::copy_from_slice);
                        (offset, Bytes::copy_from_slice(update.key), value)
                    };
                    folded.changes.extend(record.updates().map(change));
                }
            }
        }
        folded
    }

    /// Live keys at an end.
    fn at(&self, end: Offset) -> BTreeMap<Bytes, Item> {
        let mut live = BTreeMap::new();
        for (offset, key, value) in self.changes.iter().take_while(|(offset, ..)| *offset < end) {
            match value {
                Some(value) => live.insert(key.clone(), (*offset, value.clone())),
                None => live.remove(key),
            };
        }
        live
    }
}

/// Holds everything that was seen against the log.
pub(super) fn judge(log: &MemoryLog, partitions: u16, seen: &[Seen]) -> Result<(), String> {
    let folded: Vec<Folded> = (0..partitions).map(|number| Folded::of(log, PartitionId::new(number))).collect();
    seen.iter().try_for_each(|seen| match seen {
        Seen::Write { id, told } => judge_write(&folded, *id, told),
        Seen::Read { partition, key, item, end, at_least, how } => {
            if end < at_least {
                return Err(format!("{how} of {key} at {partition}:{end} is older than {at_least}"));
            }
            let live = folded[usize::from(partition.get())].at(*end);
            let wanted = live.get(key.as_bytes());
            if wanted == item.as_ref() {
                return Ok(());
            }
            Err(format!("{how} of {key} at {partition}:{end} showed {item:?}, the log has {wanted:?}"))
        }
        Seen::Page { items, ends, at_least } => {
            if ends.iter().zip(at_least).any(|(end, at_least)| end < at_least) {
                return Err(format!("a page at {ends:?} is older than {at_least:?}"));
            }
            let wanted: BTreeMap<Bytes, Item> = folded.iter().zip(ends).flat_map(|(log, end)| log.at(*end)).collect();
            if wanted == *items {
                return Ok(());
            }
            let wrong = wanted.iter().find(|(key, item)| items.get(*key) != Some(item));
            Err(format!("a page at {ends:?} is not the log there: of {} keys, {wrong:?}", items.len()))
        }
        Seen::Feed { changes } => judge_feed(&folded, changes),
    })
}

fn judge_write(folded: &[Folded], id: RequestId, told: &Told) -> Result<(), String> {
    let mut places = (0..).zip(folded).filter_map(|(number, log)| {
        let (offset, outcome) = log.outcomes.get(&id)?;
        Some((PartitionId::new(number), *offset, *outcome))
    });
    let place = places.next();
    let is_true = match (told, place) {
        (Told::Effective(partition, offset), Some(place)) => place == (*partition, *offset, Outcome::Effective),
        (Told::NoEffect, Some((_, _, outcome))) => outcome == Outcome::NoEffect,
        (Told::Effective(..), None) | (Told::Refused(_), Some(_)) => false,
        (Told::NoEffect | Told::Refused(_), None) | (Told::Unknown, _) => true,
    };
    if is_true { Ok(()) } else { Err(format!("a write was answered {told:?}, the log has {place:?}")) }
}

fn judge_feed(folded: &[Folded], changes: &[Vec<Change>]) -> Result<(), String> {
    for (number, (log, given)) in folded.iter().zip(changes).enumerate() {
        let wrong = given.iter().enumerate().find(|(at, change)| log.changes.get(*at) != Some(change));
        if let Some((at, change)) = wrong {
            let wanted = log.changes.get(at).map(|(offset, key, _)| (offset, key));
            let (offset, key, _) = change;
            return Err(format!(
                "a feed gave {:?} as change {at} of partition {number}, the log has {wanted:?}",
                (offset, key)
            ));
        }
    }
    Ok(())
}
