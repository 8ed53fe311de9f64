//! Pure: a batch and the versions that stand before it in, updates and outcomes out.
//!
//! * [`apply_batch`] walks a batch's records in offset order and hands each to a [`Fold`]; [`KvFold`] is the key-value one.
//! * Invariants: each record sees the effects of the earlier ones of the same batch; no clock, no randomness, no hash
//!   order; the same prefix gives the same state everywhere, also from a compacted log (settled records took effect and
//!   are not judged again).
//! * Deliberately absent: where versions are looked up, where updates go.
//! * Source: DESIGN D6, invariants 4 and 8.

use crate::view::Outcome;
use duramen_common::Offset;
use duramen_common::batch::{GuardCondition, RecordBatch, RecordView};
use duramen_common::planted::{Plant, is_planted};
use std::collections::BTreeMap;

/// What records add up to. Another reading of the same log is another implementation.
pub trait Fold<'b> {
    /// Why what stands before could not be read.
    type Error;

    /// Takes in one record; says whether it took effect.
    fn fold(&mut self, offset: Offset, record: RecordView<'b>) -> Result<Outcome, Self::Error>;
}

/// What became of a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// First offset that is not applied now.
    pub applied_end: Offset,
    /// Records taken in.
    pub records: u64,
    /// Those among them whose guards did not hold, ascending.
    pub no_effect: Vec<Offset>,
}

/// Folds the records of `batch` from `from` on; earlier ones have been applied before.
pub fn apply_batch<'b, F: Fold<'b>>(batch: &'b RecordBatch, from: Offset, fold: &mut F) -> Result<Applied, F::Error> {
    let mut applied = Applied { applied_end: from.max(batch.header().end()), ..Applied::default() };
    for (offset, record) in batch.records().filter(|&(offset, _)| offset >= from) {
        applied.records += 1;
        if fold.fold(offset, record)? == Outcome::NoEffect {
            applied.no_effect.push(offset);
        }
    }
    Ok(applied)
}

/// A key's new state: the record that wrote or removed it, and its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Staged<'b> {
    /// The record's offset.
    pub version: Offset,
    /// `None`: the key is gone, and has no version.
    pub value: Option<&'b [u8]>,
}

/// The key-value reading of a log: guards decide, the last effective write of a key stands. Events, and records of other
/// namespaces, change nothing here.
pub struct KvFold<'b, L> {
    lookup: L,
    staged: BTreeMap<&'b [u8], Staged<'b>>,
}

impl<'b, L> KvFold<'b, L> {
    /// A fold over what `lookup` says of a key: the version of its value, `None` when it has none.
    pub fn new(lookup: L) -> KvFold<'b, L> {
        KvFold { lookup, staged: BTreeMap::new() }
    }

    /// What changed, by key.
    pub fn into_updates(self) -> BTreeMap<&'b [u8], Staged<'b>> {
        self.staged
    }
}

impl<'b, L, E> KvFold<'b, L>
where
    L: FnMut(&[u8]) -> Result<Option<Offset>, E>,
{
    fn guards_hold(&mut self, record: RecordView<'b>) -> Result<bool, E> {
        for guard in record.guards() {
            let version = match self.staged.get(guard.key) {
                Some(staged) => staged.value.map(|_| staged.version),
                None => (self.lookup)(guard.key)?,
            };
            let holds = match guard.condition {
                GuardCondition::Absent => version.is_none(),
                GuardCondition::Exists => version.is_some(),
                GuardCondition::Version(wanted) => version == Some(wanted),
            };
            if !holds && !is_planted(Plant::GuardIgnored) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl<'b, L, E> Fold<'b> for KvFold<'b, L>
where
    L: FnMut(&[u8]) -> Result<Option<Offset>, E>,
{
    type Error = E;

    fn fold(&mut self, offset: Offset, record: RecordView<'b>) -> Result<Outcome, E> {
        if record.is_event() || record.namespace() != 0 {
            return Ok(Outcome::Effective);
        }
        if !record.is_settled() && !self.guards_hold(record)? {
            if is_planted(Plant::FailedGuardCounted) {
                return Ok(Outcome::Effective);
            }
            return Ok(Outcome::NoEffect);
        }
        for update in record.updates() {
            self.staged.insert(update.key, Staged { version: offset, value: update.value });
        }
        Ok(Outcome::Effective)
    }
}

/// Whether applying this batch needs to look anything up.
#[must_use]
pub fn has_guards(batch: &RecordBatch) -> bool {
    batch.records().any(|(_, record)| !record.is_settled() && record.guards().next().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, delete, guard, put, records};
    use std::convert::Infallible;

    type State = BTreeMap<Vec<u8>, (Offset, Vec<u8>)>;

    fn apply_to(state: &mut State, batch: &RecordBatch, from: u64) -> Applied {
        let mut fold = KvFold::new(|key: &[u8]| Ok::<_, Infallible>(state.get(key).map(|&(version, _)| version)));
        let applied = apply_batch(batch, Offset::new(from), &mut fold).unwrap();
        let updates: Vec<_> = fold
            .into_updates()
            .into_iter()
            .map(|(key, staged)| (key.to_vec(), staged.value.map(|value| (staged.version, value.to_vec()))))
            .collect();
        for (key, value) in updates {
            match value {
                Some(value) => state.insert(key, value),
                None => state.remove(&key),
            };
        }
        applied
    }

    /// Goal: guards are judged one record after the other, also within a batch.
    #[test]
    fn a_guard_sees_the_records_before_it_in_the_same_batch() {
        let batch = records(vec![
            put("a", "1").when(guard("a", GuardCondition::Absent)),
            put("a", "2").when(guard("a", GuardCondition::Absent)),
            put("a", "3").when(guard("a", GuardCondition::Version(Offset::new(10)))),
            delete("a"),
            put("a", "4").when(guard("a", GuardCondition::Exists)),
        ]);
        let mut state = State::new();
        let applied = apply_to(&mut state, &at(batch, 10), 10);
        assert_eq!(applied.no_effect, [Offset::new(11), Offset::new(14)]);
        assert_eq!(applied.applied_end, Offset::new(15));
        assert!(state.is_empty(), "the delete was the last that took effect");
    }

    #[test]
    fn records_before_the_position_are_not_applied_again() {
        let mut state = State::new();
        let batch = at(records(vec![put("a", "old"), put("b", "new")]), 7);
        state.insert(b"a".to_vec(), (Offset::new(7), b"kept".to_vec()));
        let applied = apply_to(&mut state, &batch, 8);
        assert_eq!(applied.records, 1);
        assert_eq!(state[&b"a"[..]].1, b"kept");
        assert_eq!(state[&b"b"[..]], (Offset::new(8), b"new".to_vec()));
    }
}
