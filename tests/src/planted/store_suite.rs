//! Store suite: one partition's log on a disk that forgets, held against a model of what was called and acknowledged.
//!
//! * A seed is some lives of the store: calls by chance until the power is cut, the process is killed or a sync fails. What is
//!   found then must be a state of the model that is not before the last acknowledged one, entry for entry.
//! * What was found is durable: the disk crashes once more, at once, and the same must be there.
//! * A bit that flips below an acknowledged end is reported as damage, and is never cut off.
//! * Source: DESIGN D2, invariants 1 and 3. Deliberately absent: openraft, more than one replica.

use super::chance::Chance;
use crate::harness::Rng;
use bytes::Bytes;
use duramen_common::batch::{Record, RecordBatch, RecordSetBuilder};
use duramen_common::{HistoryId, Offset, PartitionId, RequestId, StoreId};
use duramen_log_service::disk::{Disk as _, MemDisk};
use duramen_log_service::store::frame::FRAME_HEADER_BYTES;
use duramen_log_service::store::recover::{Successors, scan};
use duramen_log_service::store::{
    DataFolder, EntryBody, EntryId, LogEntry, PartitionLog, Store, StoreConfig, StoreError, StoreIdentity,
    StoredMembership, StoredVote, SyncMode,
};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

const PARTITION: PartitionId = PartitionId::new(0);
/// Lives of the store in one seed.
const LIVES: usize = 6;
/// Calls in one life, at most.
const CALLS_MAX: usize = 50;
/// Calls of the disk after which the power is cut, at most.
const POWER_CALLS_MAX: usize = 60;

/// Runs a seed; says what is broken.
pub fn run_seed(seed: u64) -> Result<(), String> {
    let mut rng = Rng::of_stream(seed, 0);
    let mut world = World { disk: MemDisk::new(), chance: Chance::new(seed, 1), term: 1 };
    let mut state = State::default();
    for life in 0..LIVES {
        state = world.live(state, &mut rng).map_err(|broken| format!("life {life}: {broken}"))?;
    }
    Ok(())
}

/// What the log is after a call.
#[derive(Clone, Debug, Default, PartialEq)]
struct State {
    /// Index before the first entry, and its offset end, where a baseline was installed.
    base: Option<(EntryId, Offset)>,
    entries: Vec<LogEntry>,
    vote: Option<StoredVote>,
}

impl State {
    fn next_index(&self) -> u64 {
        self.last().map_or(0, |last| last.index + 1)
    }

    fn last(&self) -> Option<EntryId> {
        self.entries.last().map(|entry| entry.id).or(self.base.map(|(id, _)| id))
    }

    fn end(&self) -> Offset {
        let start = self.base.map_or(Offset::ZERO, |(_, end)| end);
        start.plus(self.entries.iter().map(|entry| entry.body.offset_count()).sum())
    }

    fn of(log: &PartitionLog) -> Result<State, String> {
        let entries = log.read_entries(0, u64::MAX, usize::MAX).map_err(|error| format!("cannot be read: {error}"))?;
        let state = log.state();
        let base = state.small.purged.map(|purged| (purged, state.ends.first_offset));
        Ok(State { base, entries, vote: state.small.vote })
    }

    fn told(&self) -> String {
        let last = self.last().map_or("nothing".to_owned(), |last| format!("{}.{}", last.term, last.index));
        format!("{} entries up to {last}", self.entries.len())
    }

    /// Whether the log is the same, the vote left aside: it is written at the end of a group.
    fn is_same_log(&self, other: &State) -> bool {
        self.entries == other.entries && self.base.map(|(id, _)| id) == other.base.map(|(id, _)| id)
    }
}

/// The states that the calls of one life lead through.
struct Model {
    states: Vec<State>,
    /// The last state that was acknowledged.
    acknowledged: Arc<AtomicUsize>,
}

impl Model {
    fn now(&self) -> &State {
        self.states.last().expect("there is the state at the start")
    }

    /// What acknowledges the present state.
    fn done(&self) -> Box<dyn FnOnce(Result<(), StoreError>) + Send> {
        let (acknowledged, number) = (Arc::clone(&self.acknowledged), self.states.len() - 1);
        Box::new(move |result| {
            if result.is_ok() {
                acknowledged.fetch_max(number, Ordering::Relaxed);
            }
        })
    }

    fn check(&self, found: &State) -> Result<(), String> {
        let since = &self.states[self.acknowledged.load(Ordering::Relaxed)..];
        if !since.iter().any(|state| state.is_same_log(found)) {
            let wanted = since.first().map(State::told).unwrap_or_default();
            return Err(format!("the log is not what was acknowledged: {wanted} or later, there is {}", found.told()));
        }
        if !since.iter().any(|state| state.vote == found.vote) {
            let told = |vote: Option<StoredVote>| vote.map(|vote| (vote.term, vote.node, vote.committed));
            let (wanted, found) = (told(since.first().and_then(|state| state.vote)), told(found.vote));
            return Err(format!("an acknowledged vote is gone: it was {wanted:?} or later, there is {found:?}"));
        }
        Ok(())
    }
}

struct World {
    disk: MemDisk,
    chance: Chance,
    term: u64,
}

impl World {
    fn open(&self) -> Result<(Store, PartitionLog), StoreError> {
        let folder = DataFolder::lock(Arc::new(self.disk.clone()), Path::new("/data"))?;
        let identity = StoreIdentity { history: HistoryId::from_bits(7), store: StoreId::from_bits(7) };
        let config =
            StoreConfig { segment_bytes: 4096, reserve_bytes: 0, cache_bytes_max: 2048, ..StoreConfig::default() };
        let store = Store::open(folder, identity, config, Arc::new(self.chance.clone()), SyncMode::Manual)?;
        let log = store.open_partition(PARTITION)?;
        Ok((store, log))
    }

    /// Opens what a crash left, which was never damaged.
    fn reopen(&self) -> Result<State, String> {
        let (store, log) = self.open().map_err(|error| format!("does not open after a crash: {error}"))?;
        let found = State::of(&log)?;
        log.ends().check();
        drop((store, log));
        Ok(found)
    }

    /// One life that begins in this state; the state in which the next begins.
    fn live(&mut self, state: State, rng: &mut Rng) -> Result<State, String> {
        let (store, log) = self.open().map_err(|error| format!("does not open: {error}"))?;
        let mut model = Model { states: vec![state], acknowledged: Arc::default() };
        model.check(&State::of(&log)?)?;
        let end = rng.below(6);
        if end < 3 {
            self.disk.cut_power_after(rng.below(POWER_CALLS_MAX) as u64);
        }
        self.call_by_chance(&store, &log, &mut model, end, rng)?;
        let rests = end == 5 && finish(&store, &model);
        drop((store, log));
        if rests {
            self.damage(&model, rng)?;
        }
        if end < 4 {
            self.disk.crash(rng.bits());
        }
        let found = self.reopen()?;
        model.check(&found)?;
        self.disk.crash(rng.bits());
        let again = self.reopen()?;
        if again != found {
            return Err("what was found after a crash is not there after the next one".to_owned());
        }
        self.term += 1;
        Ok(found)
    }

    fn call_by_chance(
        &mut self,
        store: &Store,
        log: &PartitionLog,
        model: &mut Model,
        end: usize,
        rng: &mut Rng,
    ) -> Result<(), String> {
        let calls = 1 + rng.below(CALLS_MAX);
        for _ in 0..calls {
            let went = match rng.below(60) {
                0..=29 => append(log, model, self.term, rng),
                30..=34 => {
                    self.term += 1;
                    truncate(log, model, rng)
                }
                35..=39 => vote(store, log, model, self.term, rng),
                40 => install(store, log, model, rng),
                41 if end < 4 => {
                    self.disk.fail_next_sync();
                    Ok(())
                }
                42..=47 => {
                    store.step_idle();
                    Ok(())
                }
                _ => {
                    store.step();
                    Ok(())
                }
            };
            if went.is_err() {
                break;
            }
            log.ends().check();
            if store.poisoned().is_none() && !State::of(log)?.is_same_log(model.now()) {
                return Err("what was appended is not what is read".to_owned());
            }
        }
        Ok(())
    }

    /// Flips a bit below the end that was acknowledged and marked: it must be reported. Then flips it back.
    fn damage(&self, model: &Model, rng: &mut Rng) -> Result<(), String> {
        let Some(path) = self.last_segment() else { return Ok(()) };
        let bytes = self.disk.bytes(&path);
        let Ok(found) = scan(&bytes, Successors::None) else { return Err("a log that rests is damaged".to_owned()) };
        let Some(last) = found.frames.iter().rfind(|frame| frame.head.kind.is_entry()) else { return Ok(()) };
        // Half of them in the last entry.
        let span = (FRAME_HEADER_BYTES + last.head.length) as u64;
        let low = if rng.below(2) == 0 { last.position } else { 0 };
        let position = low + rng.bits() % (last.position + span - low);
        let mask = 1 << rng.below(8);
        self.disk.flip(&path, position, mask);
        match self.open() {
            Err(StoreError::Corrupt { .. } | StoreError::Format { .. }) => {}
            Err(error) => return Err(format!("damage is told as something else: {error}")),
            Ok((store, log)) => {
                let (there, was) = (State::of(&log)?.entries.len(), model.now().entries.len());
                drop((store, log));
                return Err(format!("damage of acknowledged bytes was not seen: {there} entries are left of {was}"));
            }
        }
        self.disk.flip(&path, position, mask);
        Ok(())
    }

    fn last_segment(&self) -> Option<PathBuf> {
        let folder = Path::new("/data/partitions/0");
        let names = self.disk.list(folder).ok()?;
        names.iter().rfind(|name| name.ends_with(".segment")).map(|name| folder.join(name))
    }
}

/// Brings everything onto the disk and marks it; whether that went well.
fn finish(store: &Store, model: &Model) -> bool {
    while store.step() {}
    store.step_idle();
    store.poisoned().is_none() && model.acknowledged.load(Ordering::Relaxed) + 1 == model.states.len()
}

type Went = Result<(), StoreError>;

fn append(log: &PartitionLog, model: &mut Model, term: u64, rng: &mut Rng) -> Went {
    let mut entries = Vec::new();
    for _ in 0..1 + rng.below(3) {
        let mut state = model.now().clone();
        let id = EntryId { term, index: state.next_index() };
        let body = match rng.below(4) {
            0 => EntryBody::Blank,
            count => EntryBody::Batch(batch(id, count as u32)),
        };
        entries.push(LogEntry { id, body: body.clone() });
        let body = match body {
            EntryBody::Batch(batch) => EntryBody::Batch(batch.at(state.end())),
            other => other,
        };
        state.entries.push(LogEntry { id, body });
        model.states.push(state);
    }
    log.append(entries, model.done())
}

/// Records that nobody else writes, always of the same length.
fn batch(id: EntryId, count: u32) -> RecordBatch {
    let mut builder = RecordSetBuilder::default();
    for number in 0..count {
        let request = RequestId::from_bits(u128::from(id.term) << 64 | u128::from(id.index) << 8).plus(number.into());
        let payload = Bytes::from(format!("{:08}/{:08}/{number}", id.term, id.index));
        builder.push(request, &Record::event(None, payload)).expect("a short event is within the limits");
    }
    RecordBatch::build(&[builder.finish()], 1_700_000_000_000)
}

fn truncate(log: &PartitionLog, model: &mut Model, rng: &mut Rng) -> Went {
    let mut state = model.now().clone();
    state.entries.truncate(rng.below(state.entries.len() + 1));
    let last = state.last();
    model.states.push(state);
    log.truncate_after(last)
}

fn vote(store: &Store, log: &PartitionLog, model: &mut Model, term: u64, rng: &mut Rng) -> Went {
    let vote = StoredVote { term, node: 1 + rng.below(3) as u64, committed: rng.below(2) == 0 };
    let state = State { vote: Some(vote), ..model.now().clone() };
    model.states.push(state);
    stepping(store, log.save_vote(vote)).map(|()| model.done()(Ok(())))
}

/// A baseline somewhere within the log: what comes after it here was another leader's.
fn install(store: &Store, log: &PartitionLog, model: &mut Model, rng: &mut Rng) -> Went {
    let mut state = model.now().clone();
    let Some(last) = state.entries.get(rng.below(state.entries.len())).map(|entry| entry.id) else { return Ok(()) };
    state.entries.retain(|entry| entry.id.index <= last.index);
    let end = state.end();
    let state = State { base: Some((last, end)), entries: Vec::new(), vote: state.vote };
    model.states.push(state);
    let membership = StoredMembership { id: None, bytes: Bytes::new() };
    stepping(store, log.install(last, end, membership)).map(|()| model.done()(Ok(())))
}

/// A future's value, with the sync work done for it.
fn stepping<T>(store: &Store, future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
        store.step();
    }
}
