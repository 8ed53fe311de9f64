//! A record set on its way to the log, and its share of what may wait.
//!
//! * Invariant: the share is given back when the set is dropped, however it ends.
//! * Invariant: a set is answered once.

use super::coalesce::Candidate;
use super::read::millis;
use duramen_common::batch::RecordSet;
use duramen_common::limits::{APPEND_RECORDS_MAX, BATCH_BYTES_MAX};
use duramen_common::log::AppendError;
use duramen_common::protocol::AppendedRun;
use duramen_common::{Offset, PartitionId};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::oneshot;
use tokio::time::Instant;

/// What a caller gets.
pub(super) type Answer = Result<Vec<AppendedRun>, AppendError>;

/// How much waits or is under way.
pub(super) struct Budget {
    sets_max: usize,
    bytes_max: usize,
    sets: AtomicUsize,
    bytes: AtomicUsize,
}

/// A set's share of the budget, given back when it is dropped.
pub(super) struct Charge {
    budget: Arc<Budget>,
    bytes: usize,
}

/// A set on its way.
pub(super) struct Waiting {
    pub(super) set: RecordSet,
    pub(super) started: Instant,
    pub(super) deadline: Instant,
    /// `None` once the caller has its answer.
    pub(super) answer: Option<oneshot::Sender<Answer>>,
    /// Committed end known when it was first sent; `None` before.
    pub(super) known_end: Option<Offset>,
    /// An attempt may have appended it.
    pub(super) unknown: bool,
    /// The log refused it in company.
    pub(super) alone: bool,
    _charge: Charge,
}

/// Refuses what no log takes, before it gets company.
pub(super) fn check(set: &RecordSet) -> Result<(), AppendError> {
    let too_large = |what: &str, size: usize, limit: usize| {
        Err(AppendError::TooLarge { what: what.to_owned(), size: size as u64, limit: limit as u64 })
    };
    if set.records.len() > BATCH_BYTES_MAX {
        return too_large("append length", set.records.len(), BATCH_BYTES_MAX);
    }
    if set.count as usize > APPEND_RECORDS_MAX {
        return too_large("number of records", set.count as usize, APPEND_RECORDS_MAX);
    }
    let ids: u64 = set.ids.iter().map(|run| u64::from(run.count)).sum();
    if set.count == 0 || ids != u64::from(set.count) {
        return Err(AppendError::Invalid { reason: "ids and records differ in number, or there are none".to_owned() });
    }
    Ok(())
}

impl Budget {
    pub(super) fn new(sets_max: usize, bytes_max: usize) -> Budget {
        Budget { sets_max, bytes_max, sets: AtomicUsize::new(0), bytes: AtomicUsize::new(0) }
    }

    pub(super) fn charge(budget: &Arc<Budget>, bytes: usize) -> Option<Charge> {
        let sets = budget.sets.fetch_add(1, Ordering::Relaxed);
        let before = budget.bytes.fetch_add(bytes, Ordering::Relaxed);
        let charge = Charge { budget: Arc::clone(budget), bytes };
        let fits = sets < budget.sets_max && (before == 0 || before + bytes <= budget.bytes_max);
        fits.then_some(charge)
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.sets.fetch_sub(1, Ordering::Relaxed);
        self.budget.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Waiting {
    pub(super) fn new(set: RecordSet, deadline: Instant, answer: oneshot::Sender<Answer>, charge: Charge) -> Waiting {
        let started = Instant::now();
        let answer = Some(answer);
        Waiting { set, started, deadline, answer, known_end: None, unknown: false, alone: false, _charge: charge }
    }

    pub(super) fn finish(&mut self, answer: Answer) {
        if let Some(sender) = self.answer.take() {
            let _ = sender.send(answer);
        }
    }

    /// Ends it without an acknowledgement: as unknown where any attempt was, as `definite` otherwise.
    pub(super) fn give_up(&mut self, partition: PartitionId, reason: &str, definite: AppendError) {
        let answer = if self.unknown {
            let waited_ms = millis(self.started.elapsed());
            AppendError::Unacknowledged { partition, waited_ms, reason: reason.to_owned() }
        } else {
            definite
        };
        self.finish(Err(answer));
    }

    /// The deadline passed while it waited to be sent.
    pub(super) fn give_up_in_time(&mut self, partition: PartitionId, reason: &str) {
        let waited_ms = millis(self.started.elapsed());
        self.give_up(partition, reason, AppendError::NoLeader { partition, waited_ms });
    }

    /// Whether anybody still wants to know.
    pub(super) fn is_wanted(&self) -> bool {
        self.answer.as_ref().is_some_and(|answer| !answer.is_closed())
    }

    pub(super) fn candidate(&self) -> Candidate {
        Candidate {
            records: self.set.count,
            bytes: self.set.records.len(),
            known_end: self.known_end,
            alone: self.alone,
        }
    }
}
