//! The batcher's decisions, without tasks: each execution that DESIGN D5 and D14 warn of.

use super::*;
use duramen_common::NodeId;
use duramen_common::batch::{Record, RecordSetBuilder};

/// A table of ids as the log's prefix would give it.
#[derive(Default)]
struct Table(HashMap<RequestId, (Offset, u64)>);

impl Table {
    fn put(&mut self, set: &CheckedSet, first_offset: u64) {
        for (number, (id, fingerprint)) in ids_of(&set.set).into_iter().zip(&set.fingerprints).enumerate() {
            self.0.insert(id, (Offset::new(first_offset + number as u64), *fingerprint));
        }
    }
}

fn ids_of(set: &RecordSet) -> Vec<RequestId> {
    set.ids.iter().flat_map(|run| (0..run.count).map(|delta| run.base.plus(u64::from(delta)))).collect()
}

impl SeenIds for Table {
    fn check(&self, ids: &[IdRun], fingerprints: &[u64]) -> Vec<IdCheck> {
        let ids = ids.iter().flat_map(|run| (0..run.count).map(|delta| run.base.plus(u64::from(delta))));
        ids.zip(fingerprints)
            .map(|(id, fingerprint)| match self.0.get(&id) {
                None => IdCheck::New,
                Some((offset, known)) if known == fingerprint => IdCheck::Repeat { offset: *offset },
                Some(_) => IdCheck::Reused,
            })
            .collect()
    }
}

/// Records with these ids; what one says depends on its id and `flavour`.
fn set(ids: &[u128], flavour: u8) -> CheckedSet {
    let mut builder = RecordSetBuilder::default();
    for id in ids {
        let payload = Bytes::from(format!("{id} {flavour}"));
        builder.push(RequestId::from_bits(*id), &Record::event(None, payload)).unwrap();
    }
    let set = builder.finish();
    let fingerprints = set.check().unwrap();
    CheckedSet { set, fingerprints, known_end: Offset::ZERO }
}

fn core() -> Core<u32> {
    let mut core = Core::new(PartitionId::new(0), CoreLimits { batch_bytes: 1024, dedup_window: 1000 });
    core.set_leading(Leading::Here { term: 7 });
    core
}

fn ends(committed_end: u64, append_end: u64) -> Ends {
    Ends { committed_end: Offset::new(committed_end), append_end: Offset::new(append_end) }
}

fn at(first_offset: u64, count: u32) -> AppendedRun {
    AppendedRun::At { first_offset: Offset::new(first_offset), count }
}

#[test]
fn what_waits_becomes_one_batch_and_each_caller_gets_its_offsets() {
    let (mut core, table) = (core(), Table::default());
    core.offer(set(&[10, 11, 12], 0), 1, ends(0, 0), &table);
    core.offer(set(&[50], 0), 2, ends(0, 0), &table);
    let sealed = core.seal().unwrap();
    assert_eq!((sealed.term, sealed.sets.iter().map(|set| set.count).sum::<u32>()), (7, 4));
    assert!(core.take_answers().is_empty());
    core.completed(sealed.seq, Ok(Offset::new(100)));
    assert_eq!(core.take_answers(), vec![(1, Ok(vec![at(100, 3)])), (2, Ok(vec![at(103, 1)]))]);
    assert_eq!(core.in_flight(), 0);
}

#[test]
fn a_repeat_of_what_is_in_flight_waits_for_it_and_is_not_proposed_again() {
    let (mut core, table) = (core(), Table::default());
    core.offer(set(&[10, 11], 0), 1, ends(0, 0), &table);
    let first = core.seal().unwrap();
    core.offer(set(&[10, 11], 0), 2, ends(0, 0), &table);
    assert!(core.seal().is_none(), "nothing is new");
    // Half of it is new: only that is proposed.
    core.offer(set(&[11, 12], 0), 3, ends(0, 0), &table);
    let second = core.seal().unwrap();
    assert_eq!(ids_of(&second.sets[0]), vec![RequestId::from_bits(12)]);
    core.completed(second.seq, Ok(Offset::new(30)));
    assert!(core.take_answers().is_empty(), "record 11 is not committed yet");
    core.completed(first.seq, Ok(Offset::new(20)));
    assert_eq!(
        core.take_answers(),
        vec![(1, Ok(vec![at(20, 2)])), (2, Ok(vec![at(20, 2)])), (3, Ok(vec![at(21, 1), at(30, 1)]))]
    );
}

#[test]
fn a_repeat_within_one_set_or_one_batch_takes_effect_once() {
    let (mut core, table) = (core(), Table::default());
    core.offer(set(&[10, 10], 0), 1, ends(0, 0), &table);
    core.offer(set(&[10], 0), 2, ends(0, 0), &table);
    let sealed = core.seal().unwrap();
    assert_eq!(sealed.sets.iter().map(|set| set.count).sum::<u32>(), 1);
    core.completed(sealed.seq, Ok(Offset::new(5)));
    assert_eq!(core.take_answers(), vec![(1, Ok(vec![at(5, 1), at(5, 1)])), (2, Ok(vec![at(5, 1)]))]);
}

#[test]
fn another_record_under_a_known_id_is_refused_by_name() {
    let (mut core, mut table) = (core(), Table::default());
    table.put(&set(&[1, 2], 0), 40);
    core.offer(set(&[1, 2, 3], 9), 1, ends(42, 42), &table);
    let sealed = core.seal().unwrap();
    core.offer(set(&[3], 0), 2, ends(42, 42), &table);
    assert_eq!(core.take_answers(), vec![(2, Ok(vec![AppendedRun::KeyReused { count: 1 }]))]);
    core.completed(sealed.seq, Ok(Offset::new(42)));
    assert_eq!(core.take_answers(), vec![(1, Ok(vec![AppendedRun::KeyReused { count: 2 }, at(42, 1)]))]);
}

/// Goal: an offset is told only once it is committed. Method: the first time is appended here, not committed; the answer
/// must wait for the committed end to pass it.
#[test]
fn a_repeat_is_answered_only_once_its_offset_is_committed() {
    let (mut core, mut table) = (core(), Table::default());
    table.put(&set(&[1, 2], 0), 40);
    core.offer(set(&[1, 2], 0), 1, ends(41, 42), &table);
    assert!(core.seal().is_none());
    assert!(core.take_answers().is_empty() && core.awaits_commit());
    core.committed(Offset::new(41), &table);
    assert!(core.take_answers().is_empty());
    core.committed(Offset::new(42), &table);
    assert_eq!(core.take_answers(), vec![(1, Ok(vec![at(40, 2)]))]);
    assert!(!core.awaits_commit());
}

/// Goal: the entry that a repeat waits for may be discarded and its offset given to another record: that offset must not
/// be told. Method: the table names another offset by the time the end has passed.
#[test]
fn a_repeat_whose_first_time_was_discarded_is_unknown() {
    let (mut core, mut table) = (core(), Table::default());
    table.put(&set(&[1], 0), 40);
    core.offer(set(&[1], 0), 1, ends(40, 41), &table);
    core.committed(Offset::new(41), &Table::default());
    assert!(matches!(core.take_answers()[..], [(1, Err(LogRefusal::OutcomeUnknown { .. }))]));
}

#[test]
fn after_the_leader_changed_waiting_repeats_are_unknown_and_new_sets_are_sent_away() {
    let (mut core, mut table) = (core(), Table::default());
    table.put(&set(&[1], 0), 40);
    core.offer(set(&[1], 0), 1, ends(40, 41), &table);
    core.offer(set(&[2], 0), 2, ends(40, 41), &table);
    let sealed = core.seal().unwrap();
    let leader = Some(NodeId::new(3));
    core.set_leading(Leading::Elsewhere { leader });
    core.offer(set(&[5], 0), 3, ends(40, 41), &table);
    assert!(core.seal().is_none());
    let answers = core.take_answers();
    assert!(matches!(answers[0], (1, Err(LogRefusal::OutcomeUnknown { .. }))));
    assert_eq!(answers[1], (3, Err(LogRefusal::NotLeader { partition: PartitionId::new(0), leader })));
    // The one in flight is told by its proposal, which may still have been committed.
    core.completed(sealed.seq, Ok(Offset::new(41)));
    assert_eq!(core.take_answers(), vec![(2, Ok(vec![at(41, 1)]))]);
}

#[test]
fn what_was_refused_before_it_was_appended_is_definite_and_all_else_is_unknown() {
    let (mut core, table) = (core(), Table::default());
    core.offer(set(&[1], 0), 1, ends(0, 0), &table);
    let first = core.seal().unwrap();
    core.offer(set(&[2], 0), 2, ends(0, 0), &table);
    let second = core.seal().unwrap();
    core.completed(first.seq, Err(ProposeFailure::NotLeader { leader: None }));
    core.completed(second.seq, Err(ProposeFailure::Unknown { reason: "discarded".to_owned() }));
    let answers = core.take_answers();
    assert!(matches!(answers[0], (1, Err(LogRefusal::NotLeader { leader: None, .. }))));
    assert!(matches!(answers[1], (2, Err(LogRefusal::OutcomeUnknown { .. }))));
    // Both ids are free again.
    core.offer(set(&[1, 2], 0), 3, ends(0, 0), &table);
    assert_eq!(core.seal().unwrap().sets[0].count, 2);
}

/// Goal: an id whose first attempt may have left the window must not be appended again. Method: the caller's known end
/// lies further back than the window reaches.
#[test]
fn a_retry_that_the_window_cannot_judge_is_too_late() {
    let (mut core, table) = (core(), Table::default());
    let old = CheckedSet { known_end: Offset::new(100), ..set(&[1], 0) };
    core.offer(old.clone(), 1, ends(970, 970), &table);
    assert!(core.seal().is_some() && core.take_answers().is_empty());
    let other = CheckedSet { known_end: Offset::new(100), ..set(&[2], 0) };
    core.offer(other, 2, ends(975, 975), &table);
    assert_eq!(core.take_answers(), vec![(2, Err(LogRefusal::TooLate))]);
    assert!(core.seal().is_none());
}

#[test]
fn a_batch_is_closed_at_its_size() {
    let (mut core, table) = (core(), Table::default());
    let large = |id: u128| {
        let set = RecordSet::of(RequestId::from_bits(id), &Record::event(None, Bytes::from(vec![b'x'; 800]))).unwrap();
        CheckedSet { fingerprints: set.check().unwrap(), set, known_end: Offset::ZERO }
    };
    assert!(core.fits(&large(1).set));
    core.offer(large(1), 1, ends(0, 0), &table);
    assert!(!core.fits(&large(2).set));
    assert_eq!(core.seal().unwrap().seq, 0);
    assert!(core.fits(&large(2).set));
}

/// Ids may wrap around; a run across the end is looked at one by one.
#[test]
fn a_run_across_the_end_of_the_id_space_is_handled() {
    let (mut core, table) = (core(), Table::default());
    let mut wrapping = set(&[u128::MAX, 0, 1], 0);
    wrapping.set.ids = vec![IdRun { base: RequestId::from_bits(u128::MAX), count: 3 }];
    core.offer(wrapping.clone(), 1, ends(0, 0), &table);
    let sealed = core.seal().unwrap();
    core.offer(wrapping, 2, ends(0, 0), &table);
    assert!(core.seal().is_none());
    core.completed(sealed.seq, Ok(Offset::new(3)));
    assert_eq!(core.take_answers(), vec![(1, Ok(vec![at(3, 3)])), (2, Ok(vec![at(3, 3)]))]);
}
