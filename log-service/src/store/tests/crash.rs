//! Crashes at every call: what was acknowledged survives, in order, and what recovery shows stays.

use super::*;
use crate::store::StoredVote;

/// The model: the log after each primitive step, and how many steps were acknowledged.
#[derive(Default)]
struct Model {
    /// States after each step; the first is the state at open.
    states: Vec<State>,
    acknowledged: usize,
}

#[derive(Clone, Default, Debug, PartialEq)]
struct State {
    log: Vec<(u64, u64)>,
    vote: Option<StoredVote>,
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// One life of the store: random calls until the power is cut. Returns when a call fails or `calls` are done.
fn live(store: &Store, log: &PartitionLog, model: &mut Model, random: &mut Random, term: &mut u64) {
    let acknowledged = Arc::new(AtomicU64::new(0));
    for _ in 0..40 {
        let mut state = model.states.last().unwrap().clone();
        match random.below(10) {
            0..=4 => {
                let next = state.log.last().map_or(0, |last| last.1 + 1);
                let entries: Vec<LogEntry> =
                    (0..1 + random.below(3)).map(|n| entry(*term, next + n, random.below(4) as u32)).collect();
                for entry in &entries {
                    state.log.push((entry.id.term, entry.id.index));
                    model.states.push(state.clone());
                }
                let (done, steps) = (Arc::clone(&acknowledged), model.states.len() as u64 - 1);
                let callback = Box::new(move |result: Result<(), StoreError>| {
                    if result.is_ok() {
                        done.fetch_max(steps, Ordering::Relaxed);
                    }
                });
                if log.append(entries, callback).is_err() {
                    break;
                }
            }
            5 if !state.log.is_empty() => {
                let keep = random.below(state.log.len() as u64 + 1) as usize;
                state.log.truncate(keep);
                let last = state.log.last().map(|&(term, index)| EntryId { term, index });
                *term += 1;
                model.states.push(state);
                if log.truncate_after(last).is_err() {
                    break;
                }
            }
            6 => {
                let vote = StoredVote { term: *term, node: 1 + random.below(3), committed: random.below(2) == 0 };
                state.vote = Some(vote);
                model.states.push(state);
                if block(store, log.save_vote(vote)).is_err() {
                    break;
                }
                acknowledged.fetch_max(model.states.len() as u64 - 1, Ordering::Relaxed);
            }
            7 => drop(store.step_idle()),
            _ => drop(store.step()),
        }
        assert_eq!(names(&all(log)), model.states.last().unwrap().log, "appended entries are readable at once");
        log.ends().check();
    }
    model.acknowledged = acknowledged.load(Ordering::Relaxed) as usize;
}

fn found(log: &PartitionLog) -> State {
    State { log: names(&all(log)), vote: log.state().small.vote }
}

/// Votes ride at the end of a group, so that a log may show without the vote that was saved in the same group.
fn is_a_state_since(model: &Model, found: &State) -> bool {
    let since = &model.states[model.acknowledged..];
    since.iter().any(|state| state.log == found.log) && since.iter().any(|state| state.vote == found.vote)
}

/// Goal: after any crash the log is a gapless prefix of what was called that holds all that was acknowledged, and what
/// recovery counted as durable is so.
/// Method: seeded calls against a model; the power is cut at a seeded call; the disk loses what the seed says. After
/// recovery the disk crashes once more, at once, with another seed: nothing that was shown may be gone.
#[test]
fn acknowledged_entries_survive_a_crash_at_any_call() {
    for seed in 0..2_000u64 {
        let disk = MemDisk::new();
        let mut random = Random(seed);
        let mut term = 1;
        let mut state = State::default();
        for life in 0..4 {
            let (store, log) = open(&disk).unwrap_or_else(|error| panic!("seed {seed} life {life}: {error}"));
            assert_eq!(found(&log), state, "seed {seed} life {life}");
            check_derived(&log);
            let mut model = Model { states: vec![state.clone()], acknowledged: 0 };
            disk.cut_power_after(random.below(40));
            live(&store, &log, &mut model, &mut random, &mut term);
            drop((store, log));
            disk.crash(random.below(u64::MAX >> 34));
            let (store, log) = match open(&disk) {
                Ok(opened) => opened,
                Err(error) => panic!("seed {seed} life {life}: {error}"),
            };
            let recovered = found(&log);
            assert!(
                is_a_state_since(&model, &recovered),
                "seed {seed} life {life}: {recovered:?} is no state since acknowledged step {} of {:?}",
                model.acknowledged,
                model.states
            );
            drop((store, log));
            disk.crash(random.below(u64::MAX >> 34));
            state = recovered;
            term += 1;
        }
    }
}

/// Offsets are dense, and the duplicate table is the one that the log gives.
fn check_derived(log: &PartitionLog) {
    let mut table = crate::store::dedup::DedupTable::new(64, duramen_common::ids::Offset::ZERO);
    for entry in all(log) {
        if let EntryBody::Batch(batch) = &entry.body {
            assert_eq!(batch.header().first_offset, table.end(), "offsets are dense");
            table.insert(&crate::store::dedup::BatchIds::of(batch));
        }
    }
    assert_eq!(table.end(), log.ends().append_end);
    assert_eq!(log.shared.inner.lock().dedup.contents(), table.contents(), "the table is derived from the log");
}

/// Goal: bytes that recovery found in the page cache, never synced, are not counted as durable without being synced.
/// Method: the process dies after a write whose sync never ran (the power stays on), it recovers; then the power goes.
#[test]
fn a_recovered_tail_is_rewritten_and_synced_before_it_counts() {
    let disk = MemDisk::new();
    let (store, log) = open(&disk).unwrap();
    append(&log, (0..3).map(|index| entry(1, index, 1)).collect());
    store.step();
    // The write goes through, its sync fails: what a process killed between the two leaves.
    append(&log, vec![entry(1, 3, 1)]);
    disk.fail_next_sync();
    store.step();
    let path = segments(&disk).pop().unwrap();
    let page_cache = disk.bytes(&path);
    drop((store, log));
    disk.crash(1);
    let durable = disk.bytes(&path);
    assert_eq!(durable.len(), page_cache.len());
    disk.overlay_unsynced(&path, &page_cache);
    let before = disk.calls().len();
    let (store, log) = open(&disk).unwrap();
    assert_eq!(all(&log).len(), 4, "the tail was readable, so that it is recovered");
    assert_eq!(log.ends().durable_end.get(), 4);
    let synced =
        disk.calls()[before..].iter().any(|call| matches!(call, crate::disk::DiskCall::Sync { path: p } if *p == path));
    assert!(synced);
    drop((store, log));
    for seed in 0..8 {
        disk.crash(seed);
        let (_store, log) = open(&disk).unwrap();
        assert_eq!(all(&log).len(), 4, "what was counted as durable is durable");
    }
}

/// Goal: a clean stop leaves nothing to doubt. Method: stop, lose everything that was not synced, open.
#[test]
fn a_clean_stop_keeps_everything_and_marks_it() {
    let disk = MemDisk::new();
    let (store, log) = open(&disk).unwrap();
    append(&log, (0..20).map(|index| entry(1, index, 2)).collect());
    log.advance_committed(EntryId { term: 1, index: 15 }, duramen_common::ids::Offset::new(32), None);
    store.close();
    drop((store, log));
    disk.crash(3);
    let (_store, log) = open(&disk).unwrap();
    assert_eq!(all(&log).len(), 20);
    let state = log.state();
    assert_eq!(state.small.committed, Some(EntryId { term: 1, index: 15 }));
    assert_eq!((state.ends.committed_end.get(), state.ends.append_end.get()), (32, 40));
}

/// Goal: a baseline replaces the log at once: its mark never stands before entries of the tail that it replaces.
/// Method: entries that need several segments wait with the baseline in one round; the power is cut at every call of it.
#[test]
fn a_baseline_is_all_or_nothing_with_entries_waiting_before_it() {
    let last = EntryId { term: 1, index: 2 };
    let mut installed = 0;
    for calls in 0..40 {
        let disk = MemDisk::new();
        let (store, log) = open(&disk).unwrap();
        append(&log, (0..5).map(|index| entry(1, index, 2)).collect());
        store.step();
        append(&log, (5..40).map(|index| entry(1, index, 2)).collect());
        disk.cut_power_after(calls);
        let membership = crate::store::StoredMembership { id: None, bytes: Bytes::new() };
        let went = block(&store, log.install(last, duramen_common::ids::Offset::new(6), membership));
        drop((store, log));
        disk.crash(calls);
        let (_store, log) = open(&disk).unwrap();
        let found = (log.state().small.purged, names(&all(&log)).len());
        match found.0 {
            None => assert!(went.is_err() && found.1 >= 5, "calls {calls}: {found:?}"),
            purged => assert_eq!((purged, found.1), (Some(last), 0), "calls {calls}: a tail stands behind the mark"),
        }
        installed += usize::from(went.is_ok());
    }
    assert!((1..40).contains(&installed), "{installed} of 40 went well: the others were cut");
}
