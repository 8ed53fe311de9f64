//! What the batcher decides, without tasks or time: which records are new, which repeat what is in the log or in
//! flight, what one batch holds, and when each caller is answered.
//!
//! * In: checked record sets with a ticket each, outcomes of proposals, the committed end. Out: batches to propose,
//!   answers by ticket.
//! * Invariants: an id that is in flight or in the log is never put into a batch again; a batch carries the term that
//!   its ids were checked in; a repeat is answered only once its offset is committed, and only if the log still names
//!   that offset for the id then; a ticket is answered exactly once.
//! * Order that callers keep: the committed end is read *before* the table of seen ids. An id found at an offset below
//!   an end that was committed earlier is the committed one; the other way round, a truncation could lie between.
//! * Deliberately absent: tasks, time, the table itself ([`SeenIds`]).
//! * Source: DESIGN D5, D14.

use crate::consensus::{Leading, ProposeFailure};
use crate::store::{IdCheck, PartitionLog};
use bytes::{Bytes, BytesMut};
use duramen_common::batch::{IdRun, RecordSet, RecordView};
use duramen_common::limits::APPEND_RECORDS_MAX;
use duramen_common::planted::{Plant, is_planted};
use duramen_common::protocol::{AppendedRun, LogRefusal};
use duramen_common::{Offset, PartitionId, RequestId};
use std::collections::{BTreeMap, HashMap};

/// The table of ids over the last window of the log's prefix on this node, durable and committed or not.
pub trait SeenIds {
    /// What it says about each record, in order.
    fn check(&self, ids: &[IdRun], fingerprints: &[u64]) -> Vec<IdCheck>;
}

impl SeenIds for PartitionLog {
    fn check(&self, ids: &[IdRun], fingerprints: &[u64]) -> Vec<IdCheck> {
        self.check_ids(ids, fingerprints)
    }
}

/// A record set that was checked whole, with what is needed to tell repeats.
#[derive(Clone, Debug)]
pub struct CheckedSet {
    /// The records.
    pub set: RecordSet,
    /// One fingerprint a record, in order.
    pub fingerprints: Vec<u64>,
    /// Committed end that the caller knew before it first sent these ids.
    pub known_end: Offset,
}

/// The log's ends when a set is offered.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// First offset not known to be committed; read before the table is asked.
    pub committed_end: Offset,
    /// First offset not appended.
    pub append_end: Offset,
}

/// A batch to propose.
#[derive(Clone, Debug)]
pub struct Sealed {
    /// Names the batch in [`Core::completed`].
    pub seq: u64,
    /// The term that its ids were checked in: it must not be appended in another.
    pub term: u64,
    /// Its records.
    pub sets: Vec<RecordSet>,
}

/// What a caller is told.
pub type Outcome = Result<Vec<AppendedRun>, LogRefusal>;

/// Limits of one batch and of the duplicate check.
#[derive(Clone, Copy, Debug)]
pub struct CoreLimits {
    /// A batch is closed at about this size; one larger set goes alone. Unit: bytes of records.
    pub batch_bytes: usize,
    /// Over how many of the last offsets ids are remembered.
    pub dedup_window: u64,
}

#[derive(Clone, Copy, Debug)]
struct FlightRun {
    count: u32,
    seq: u64,
    at: u32,
}

#[derive(Debug, Default)]
struct Flight {
    fingerprints: Vec<u64>,
    bases: Vec<u128>,
    tickets: Vec<u64>,
}

#[derive(Clone, Copy, Debug)]
enum Piece {
    Flight { seq: u64, at: u32, count: u32 },
    Repeat { id: RequestId, fingerprint: u64, offset: Offset },
    Done(AppendedRun),
}

struct Pending<T> {
    ticket: T,
    pieces: Vec<Piece>,
    open: usize,
}

/// The batcher's decisions for one partition. `T` is whatever the shell needs to answer a caller.
pub struct Core<T> {
    partition: PartitionId,
    limits: CoreLimits,
    leading: Leading,
    next_seq: u64,
    next_ticket: u64,
    open_sets: Vec<RecordSet>,
    open_count: u32,
    open_bytes: usize,
    ids: BTreeMap<u128, FlightRun>,
    flights: BTreeMap<u64, Flight>,
    pending: HashMap<u64, Pending<T>>,
    repeats: Vec<u64>,
    answers: Vec<(T, Outcome)>,
}

impl<T> Core<T> {
    /// A batcher that does not lead yet.
    pub fn new(partition: PartitionId, limits: CoreLimits) -> Core<T> {
        Core {
            partition,
            limits,
            leading: Leading::Elsewhere { leader: None },
            next_seq: 0,
            next_ticket: 0,
            open_sets: Vec::new(),
            open_count: 0,
            open_bytes: 0,
            ids: BTreeMap::new(),
            flights: BTreeMap::new(),
            pending: HashMap::new(),
            repeats: Vec::new(),
            answers: Vec::new(),
        }
    }

    /// Notes who leads. Repeats that wait for a commit are answered `OutcomeUnknown` when this node's term ends: the
    /// next leader tells better. Batches in flight are answered by their proposals.
    pub fn set_leading(&mut self, leading: Leading) {
        debug_assert!(self.open_sets.is_empty(), "a batch is sealed in the step that opened it");
        if self.leading == leading {
            return;
        }
        self.leading = leading;
        for number in std::mem::take(&mut self.repeats) {
            self.fail(number, LogRefusal::OutcomeUnknown { reason: "the leader changed".to_owned() });
        }
    }

    /// Who leads, as noted last.
    pub fn leading(&self) -> Leading {
        self.leading
    }

    /// Proposals without an outcome.
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// Whether some caller waits for the committed end to move.
    pub fn awaits_commit(&self) -> bool {
        !self.repeats.is_empty()
    }

    /// Whether the open batch takes this set too.
    pub fn fits(&self, set: &RecordSet) -> bool {
        self.open_sets.is_empty()
            || (self.open_bytes + set.records.len() <= self.limits.batch_bytes
                && (self.open_count + set.count) as usize <= APPEND_RECORDS_MAX)
    }

    /// Takes a set: its new records go into the open batch, repeats wait for their first time, and what cannot be
    /// taken is answered at once. Call [`Core::seal`] in the same step.
    pub fn offer(&mut self, offered: CheckedSet, ticket: T, ends: Ends, seen: &impl SeenIds) {
        if let Leading::Elsewhere { leader } = self.leading {
            let refusal = LogRefusal::NotLeader { partition: self.partition, leader };
            self.answers.push((ticket, Err(refusal)));
            return;
        }
        if self.is_too_late(&offered, ends) {
            self.answers.push((ticket, Err(LogRefusal::TooLate)));
            return;
        }
        let number = self.next_ticket;
        self.next_ticket += 1;
        let pieces = self.place(&offered, ends, seen, number);
        let open = pieces.iter().filter(|piece| !matches!(piece, Piece::Done(_))).count();
        if pieces.iter().any(|piece| matches!(piece, Piece::Repeat { .. })) {
            self.repeats.push(number);
        }
        if open == 0 {
            self.answers.push((ticket, Ok(runs_of(&pieces))));
        } else {
            self.pending.insert(number, Pending { ticket, pieces, open });
        }
    }

    /// A retry whose first attempt may lie before what the window still remembers. An eighth of the window is kept as
    /// margin, so that clients with an older committed end stop well before it matters.
    fn is_too_late(&self, offered: &CheckedSet, ends: Ends) -> bool {
        let reach = self.limits.dedup_window - self.limits.dedup_window / 8;
        let count = u64::from(self.open_count) + u64::from(offered.set.count);
        ends.append_end.plus(count).since(offered.known_end) > reach.max(u64::from(offered.set.count))
    }

    fn place(&mut self, offered: &CheckedSet, ends: Ends, seen: &impl SeenIds, number: u64) -> Vec<Piece> {
        let seq = self.next_seq;
        let start = self.open_count;
        let mut new_records: Vec<bool> = Vec::new();
        let mut pieces = Vec::with_capacity(1);
        let mut record = 0usize;
        let checks = seen.check(&offered.set.ids, &offered.fingerprints);
        for &run in &offered.set.ids {
            let end = record + run.count as usize;
            let unseen = checks[record..end].iter().all(|check| matches!(check, IdCheck::New));
            if unseen && !self.overlaps_flight(run) {
                if !new_records.is_empty() {
                    new_records.resize(end, true);
                }
                self.take(run, seq, &offered.fingerprints[record..end], &mut pieces);
            } else {
                new_records.resize(record, true);
                for delta in 0..run.count {
                    let id = run.base.plus(u64::from(delta));
                    let at = record + delta as usize;
                    let fingerprint = offered.fingerprints[at];
                    let known = self.find(id, fingerprint, ends, checks[at]);
                    new_records.push(known.is_none());
                    match known {
                        Some(piece) => pieces.push(piece),
                        None => self.take(IdRun { base: id, count: 1 }, seq, &[fingerprint], &mut pieces),
                    }
                }
            }
            record = end;
        }
        if self.open_count > start {
            let set = if new_records.is_empty() { offered.set.clone() } else { only(&offered.set, &new_records) };
            self.open_bytes += set.records.len();
            self.open_sets.push(set);
        }
        self.attach(&pieces, number);
        pieces
    }

    /// Puts a run of new records into the open batch.
    fn take(&mut self, run: IdRun, seq: u64, fingerprints: &[u64], pieces: &mut Vec<Piece>) {
        let at = self.open_count;
        self.open_count += run.count;
        let flight = self.flights.entry(seq).or_default();
        flight.fingerprints.extend_from_slice(fingerprints);
        flight.bases.push(run.base.bits());
        self.ids.insert(run.base.bits(), FlightRun { count: run.count, seq, at });
        match pieces.last_mut() {
            Some(Piece::Flight { seq: last_seq, at: last_at, count })
                if *last_seq == seq && *last_at + *count == at =>
            {
                *count += run.count;
            }
            _ => pieces.push(Piece::Flight { seq, at, count: run.count }),
        }
    }

    /// Where one id is already, in flight or in the log.
    fn find(&self, id: RequestId, fingerprint: u64, ends: Ends, check: IdCheck) -> Option<Piece> {
        if let Some((run, at)) = self.in_flight_at(id) {
            let first = self.flights.get(&run.seq).and_then(|flight| flight.fingerprints.get(at as usize));
            return Some(if first == Some(&fingerprint) {
                Piece::Flight { seq: run.seq, at, count: 1 }
            } else {
                Piece::Done(AppendedRun::KeyReused { count: 1 })
            });
        }
        match check {
            IdCheck::New => None,
            IdCheck::Reused => Some(Piece::Done(AppendedRun::KeyReused { count: 1 })),
            IdCheck::Repeat { offset } if offset < ends.committed_end || is_planted(Plant::RepeatAnsweredEarly) => {
                Some(Piece::Done(AppendedRun::At { first_offset: offset, count: 1 }))
            }
            IdCheck::Repeat { offset } => Some(Piece::Repeat { id, fingerprint, offset }),
        }
    }

    fn in_flight_at(&self, id: RequestId) -> Option<(FlightRun, u32)> {
        let (&base, &run) = self.ids.range(..=id.bits()).next_back()?;
        let delta = u32::try_from(id.bits() - base).ok().filter(|&delta| delta < run.count)?;
        Some((run, run.at + delta))
    }

    /// Whether any id of the run may be in flight. Runs that wrap around the id space are looked at one by one.
    fn overlaps_flight(&self, run: IdRun) -> bool {
        let Some(end) = run.base.bits().checked_add(u128::from(run.count)) else { return true };
        match self.ids.range(..end).next_back() {
            Some((&base, flight)) => base.saturating_add(u128::from(flight.count)) > run.base.bits(),
            None => false,
        }
    }

    fn attach(&mut self, pieces: &[Piece], number: u64) {
        for piece in pieces {
            if let Piece::Flight { seq, .. } = piece
                && let Some(flight) = self.flights.get_mut(seq)
                && flight.tickets.last() != Some(&number)
            {
                flight.tickets.push(number);
            }
        }
    }

    /// Closes the open batch; `None` when it is empty.
    pub fn seal(&mut self) -> Option<Sealed> {
        let Leading::Here { term } = self.leading else { return None };
        if self.open_sets.is_empty() {
            return None;
        }
        let seq = self.next_seq;
        self.next_seq += 1;
        self.open_count = 0;
        self.open_bytes = 0;
        Some(Sealed { seq, term, sets: std::mem::take(&mut self.open_sets) })
    }

    /// Notes what became of a proposal: the offset of its first record, once that is committed.
    pub fn completed(&mut self, seq: u64, result: Result<Offset, ProposeFailure>) {
        let Some(flight) = self.flights.remove(&seq) else { return };
        for base in &flight.bases {
            self.ids.remove(base);
        }
        for number in flight.tickets {
            match &result {
                Ok(first_offset) => self.resolve(number, seq, *first_offset),
                Err(ProposeFailure::NotLeader { leader }) => {
                    self.fail(number, LogRefusal::NotLeader { partition: self.partition, leader: *leader });
                }
                Err(ProposeFailure::Unknown { reason }) => {
                    self.fail(number, LogRefusal::OutcomeUnknown { reason: reason.clone() });
                }
            }
        }
    }

    fn resolve(&mut self, number: u64, done: u64, first_offset: Offset) {
        let Some(pending) = self.pending.get_mut(&number) else { return };
        for piece in &mut pending.pieces {
            if let Piece::Flight { seq, at, count } = *piece
                && seq == done
            {
                *piece = Piece::Done(AppendedRun::At { first_offset: first_offset.plus(u64::from(at)), count });
                pending.open -= 1;
            }
        }
        self.answer_when_whole(number);
    }

    /// Answers repeats whose first time is committed by now. `committed_end` was read before this call.
    pub fn committed(&mut self, committed_end: Offset, seen: &impl SeenIds) {
        for number in std::mem::take(&mut self.repeats) {
            let Some(pending) = self.pending.get_mut(&number) else { continue };
            let mut lost = false;
            let mut waits = false;
            for piece in &mut pending.pieces {
                let Piece::Repeat { id, fingerprint, offset } = *piece else { continue };
                if offset >= committed_end {
                    waits = true;
                } else if seen.check(&[IdRun { base: id, count: 1 }], &[fingerprint]) == [IdCheck::Repeat { offset }] {
                    *piece = Piece::Done(AppendedRun::At { first_offset: offset, count: 1 });
                    pending.open -= 1;
                } else {
                    lost = true;
                }
            }
            if lost {
                self.fail(number, LogRefusal::OutcomeUnknown { reason: "the first attempt was discarded".to_owned() });
            } else {
                if waits {
                    self.repeats.push(number);
                }
                self.answer_when_whole(number);
            }
        }
    }

    fn answer_when_whole(&mut self, number: u64) {
        if self.pending.get(&number).is_some_and(|pending| pending.open == 0)
            && let Some(pending) = self.pending.remove(&number)
        {
            self.answers.push((pending.ticket, Ok(runs_of(&pending.pieces))));
        }
    }

    fn fail(&mut self, number: u64, refusal: LogRefusal) {
        if let Some(pending) = self.pending.remove(&number) {
            self.answers.push((pending.ticket, Err(refusal)));
        }
    }

    /// Answers that are due.
    pub fn take_answers(&mut self) -> Vec<(T, Outcome)> {
        std::mem::take(&mut self.answers)
    }
}

/// The pieces as runs, joined where one continues the other.
fn runs_of(pieces: &[Piece]) -> Vec<AppendedRun> {
    let mut runs: Vec<AppendedRun> = Vec::with_capacity(1);
    for piece in pieces {
        let Piece::Done(run) = *piece else { continue };
        match (runs.last_mut(), run) {
            (
                Some(AppendedRun::At { first_offset, count }),
                AppendedRun::At { first_offset: next_offset, count: next_count },
            ) if first_offset.plus(u64::from(*count)) == next_offset => *count += next_count,
            (Some(AppendedRun::KeyReused { count }), AppendedRun::KeyReused { count: next_count }) => {
                *count += next_count;
            }
            _ => runs.push(run),
        }
    }
    runs
}

/// The records whose place in `keep` is true, with their ids.
fn only(set: &RecordSet, keep: &[bool]) -> RecordSet {
    let mut records = BytesMut::new();
    let mut ids = Vec::new();
    let mut count = 0;
    let mut rest: &[u8] = &set.records;
    let all_ids = set.ids.iter().flat_map(|run| (0..run.count).map(move |delta| run.base.plus(u64::from(delta))));
    for (id, &keep) in all_ids.zip(keep) {
        let (_, tail) = RecordView::split_first(rest).expect("the set was checked whole");
        if keep {
            records.extend_from_slice(&rest[..rest.len() - tail.len()]);
            IdRun::push(&mut ids, IdRun { base: id, count: 1 });
            count += 1;
        }
        rest = tail;
    }
    RecordSet { records: Bytes::from(records), count, ids }
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
