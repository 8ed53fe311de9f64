//! Batcher: everything that waits for one partition becomes one entry; several are under way.
//!
//! * In: checked record sets from any task. Out: answers, once all is committed. One task a partition runs the
//!   decisions of [`core`] against the log's table and the group.
//! * Limits: so many appends and bytes wait, then [`LogRefusal::Overloaded`]; so many batches are under way, then what
//!   comes waits.
//! * Invariant: nothing is proposed after its caller was told that it was not.
//! * Source: DESIGN D5, D14; ARCHITECTURE "A write".

pub mod core;

use self::core::{CheckedSet, Core, CoreLimits, Ends, Outcome};
use super::config::NodeLimits;
use super::metrics::PartitionMetrics;
use crate::consensus::{Group, Leading, PeersRoom, ProposeFailure};
use crate::store::{Need, PartitionLog, Store};
use duramen_common::batch::{RecordBatch, RecordSet};
use duramen_common::limits::{APPEND_RECORDS_MAX, BATCH_BYTES_MAX};
use duramen_common::planted::{Plant, is_planted};
use duramen_common::protocol::{AppendAnswer, LogRefusal};
use duramen_common::seams::WallClock;
use duramen_common::{NodeId, Offset, PartitionId};
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// Most waiting appends that are looked at in one step.
const STEP_APPENDS_MAX: usize = 1_024;

/// How often a batcher that may propose no more looks whether a full disk is the reason.
const LOOK_FOR_ROOM: Duration = Duration::from_millis(250);

const WAITING: u8 = 0;
const TAKEN: u8 = 1;
const ABANDONED: u8 = 2;

struct Queued {
    checked: CheckedSet,
    stage: Arc<AtomicU8>,
    reply: oneshot::Sender<Outcome>,
}

/// What a batcher works with.
pub struct BatcherParts {
    /// This node.
    pub node: NodeId,
    /// Its partition.
    pub partition: PartitionId,
    /// Proposes.
    pub group: Arc<Group>,
    /// Knows ids and ends.
    pub log: PartitionLog,
    /// Knows whether there is room.
    pub store: Store,
    /// The time of day, for batches.
    pub clock: Arc<dyn WallClock>,
    /// Queues and batches.
    pub limits: NodeLimits,
    /// The cluster's duplicate window.
    pub dedup_window: u64,
    /// Told when an append is refused for want of room here.
    pub no_room: Arc<Notify>,
    /// What the other members say about their disks.
    pub peers_room: Arc<PeersRoom>,
    /// Counters.
    pub metrics: PartitionMetrics,
}

/// The batcher of one partition. Dropping it stops its task.
pub struct Batcher {
    inbox: mpsc::Sender<Queued>,
    waiting_bytes: Arc<AtomicUsize>,
    queue_bytes_max: usize,
    committed_end: watch::Receiver<Offset>,
    metrics: PartitionMetrics,
    task: JoinHandle<()>,
}

impl Batcher {
    /// Starts the batcher's task.
    pub fn start(parts: BatcherParts) -> Batcher {
        let (inbox, queue) = mpsc::channel(parts.limits.queue_appends_max);
        let waiting_bytes = Arc::new(AtomicUsize::new(0));
        let queue_bytes_max = parts.limits.queue_bytes_max.max(BATCH_BYTES_MAX);
        let committed_end = parts.log.watch_committed_end();
        let metrics = parts.metrics.clone();
        let task = tokio::spawn(Worker::new(parts, Arc::clone(&waiting_bytes)).run(queue));
        Batcher { inbox, waiting_bytes, queue_bytes_max, committed_end, metrics, task }
    }

    /// Appends a set: answers when every record is committed, or says why not.
    pub async fn append(&self, set: RecordSet, known_end: Offset, wait: Duration) -> Result<AppendAnswer, LogRefusal> {
        let result = self.try_append(set, known_end, wait).await;
        self.metrics.count_append(&result);
        result
    }

    async fn try_append(&self, set: RecordSet, known_end: Offset, wait: Duration) -> Result<AppendAnswer, LogRefusal> {
        check_size(&set)?;
        let fingerprints = set.check().map_err(|error| LogRefusal::Invalid { reason: error.to_string() })?;
        let bytes = set.records.len();
        if self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > self.queue_bytes_max {
            self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(LogRefusal::Overloaded);
        }
        let stage = Arc::new(AtomicU8::new(WAITING));
        let (reply, outcome) = oneshot::channel();
        let checked = CheckedSet { set, fingerprints, known_end };
        let queued = Queued { checked, stage: Arc::clone(&stage), reply };
        if let Err(error) = self.inbox.try_send(queued) {
            self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(match error {
                mpsc::error::TrySendError::Full(_) => LogRefusal::Overloaded,
                mpsc::error::TrySendError::Closed(_) => stopping(),
            });
        }
        match timeout(wait, outcome).await {
            Ok(Ok(Ok(runs))) => Ok(AppendAnswer { runs, committed_end: *self.committed_end.borrow() }),
            Ok(Ok(Err(refusal))) => Err(refusal),
            Ok(Err(_)) => Err(not_answered(&stage, "this node is stopping".to_owned())),
            Err(_) => Err(not_answered(&stage, format!("no majority confirmed it within {} ms", wait.as_millis()))),
        }
    }
}

impl Drop for Batcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn check_size(set: &RecordSet) -> Result<(), LogRefusal> {
    for (what, size, limit) in [
        ("number of records", set.count as usize, APPEND_RECORDS_MAX),
        ("append length", set.records.len(), BATCH_BYTES_MAX),
    ] {
        if size > limit {
            return Err(LogRefusal::TooLarge { what: what.to_owned(), size: size as u64, limit: limit as u64 });
        }
    }
    Ok(())
}

fn stopping() -> LogRefusal {
    LogRefusal::Unavailable { reason: "this node is stopping".to_owned() }
}

/// What is certain about an append whose answer did not come: nothing was done while it still waited, and from now on
/// the batcher will not take it.
fn not_answered(stage: &AtomicU8, reason: String) -> LogRefusal {
    match stage.compare_exchange(WAITING, ABANDONED, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => LogRefusal::Overloaded,
        Err(_) => LogRefusal::OutcomeUnknown { reason },
    }
}

type ProposalOutcome = (u64, Result<Offset, ProposeFailure>);

struct Worker {
    parts: BatcherParts,
    core: Core<oneshot::Sender<Outcome>>,
    waiting: VecDeque<Queued>,
    waiting_bytes: Arc<AtomicUsize>,
    proposals: FuturesUnordered<BoxFuture<'static, ProposalOutcome>>,
    last_time_ms: u64,
}

impl Worker {
    fn new(parts: BatcherParts, waiting_bytes: Arc<AtomicUsize>) -> Worker {
        let limits = CoreLimits { batch_bytes: parts.limits.batch_bytes, dedup_window: parts.dedup_window };
        let core = Core::new(parts.partition, limits);
        let waiting = VecDeque::new();
        Worker { parts, core, waiting, waiting_bytes, proposals: FuturesUnordered::new(), last_time_ms: 0 }
    }

    async fn run(mut self, mut queue: mpsc::Receiver<Queued>) {
        let mut leading = self.parts.group.leading();
        let mut committed_end = self.parts.log.watch_committed_end();
        let mut taken = Vec::new();
        self.core.set_leading(*leading.borrow_and_update());
        loop {
            tokio::select! {
                biased;
                changed = leading.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.core.set_leading(*leading.borrow_and_update());
                    if is_planted(Plant::IdsForgotten) {
                        self.parts.log.forget_ids();
                    }
                }
                Some((seq, result)) = self.proposals.next(), if !self.proposals.is_empty() => {
                    self.core.completed(seq, result);
                }
                changed = committed_end.changed(), if self.core.awaits_commit() => {
                    if changed.is_err() {
                        return;
                    }
                    let end = *committed_end.borrow_and_update();
                    self.core.committed(end, &self.parts.log);
                }
                count = queue.recv_many(&mut taken, STEP_APPENDS_MAX), if self.takes_more() => {
                    if count == 0 {
                        return;
                    }
                    self.waiting.extend(taken.drain(..));
                }
                // What followers say about their disks wakes nobody.
                () = sleep(LOOK_FOR_ROOM), if !self.may_propose() => {}
            }
            while self.may_propose() && self.step().await {}
            self.refuse_if_full();
            self.answer();
        }
    }

    fn leads(&self) -> bool {
        matches!(self.core.leading(), Leading::Here { .. })
    }

    /// A node that does not lead never lets callers wait: it sends them away.
    fn may_propose(&self) -> bool {
        !self.leads() || self.core.in_flight() < self.parts.limits.batches_in_flight_max
    }

    /// At the limit of what may be in flight, more is only taken to be refused.
    fn takes_more(&self) -> bool {
        self.waiting.is_empty() && (self.may_propose() || self.full_node().is_some())
    }

    /// What is in flight may be stuck at a full disk for long; who waits behind it is told so.
    fn refuse_if_full(&mut self) {
        if !self.may_propose()
            && !self.waiting.is_empty()
            && let Some(full) = self.full_node()
        {
            self.refuse_for_room(full);
        }
    }

    /// Makes one batch of what waits and proposes it; says whether there is more to do at once.
    async fn step(&mut self) -> bool {
        if self.waiting.is_empty() {
            return false;
        }
        if self.leads()
            && let Some(full) = self.full_node()
        {
            self.refuse_for_room(full);
            return false;
        }
        // The committed end first, the table of ids second: see `core`.
        let ends = self.parts.log.ends();
        let ends = Ends { committed_end: ends.committed_end, append_end: ends.append_end };
        while let Some(next) = self.waiting.front() {
            if !self.core.fits(&next.checked.set) {
                break;
            }
            let Some(next) = self.waiting.pop_front() else { break };
            self.waiting_bytes.fetch_sub(next.checked.set.records.len(), Ordering::Relaxed);
            if next.stage.compare_exchange(WAITING, TAKEN, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                self.core.offer(next.checked, next.reply, ends, &self.parts.log);
            }
        }
        if let Some(sealed) = self.core.seal() {
            self.propose(sealed).await;
        }
        self.answer();
        !self.waiting.is_empty()
    }

    async fn propose(&mut self, sealed: core::Sealed) {
        self.last_time_ms = self.parts.clock.now_ms().max(self.last_time_ms);
        let batch = RecordBatch::build(&sealed.sets, self.last_time_ms);
        let header = batch.header();
        self.parts.metrics.count_batch(header.record_count, header.length);
        let seq = sealed.seq;
        match self.parts.group.propose(batch, sealed.term).await {
            Ok(proposal) => self
                .proposals
                .push(Box::pin(async move { (seq, proposal.outcome().await.map(|appended| appended.first_offset)) })),
            Err(failure) => self.core.completed(seq, Err(failure)),
        }
    }

    /// The node whose full disk is in the way of new records: this one, or one without which there is no majority. The cluster's own
    /// log is small, and may use the reserve.
    fn full_node(&self) -> Option<NodeId> {
        let is_meta = self.parts.partition.is_meta();
        let need = if is_meta { Need::InFlight } else { Need::New };
        if !self.parts.store.has_room(need) {
            return Some(self.parts.node);
        }
        if is_meta { None } else { self.parts.peers_room.in_the_way() }
    }

    fn refuse_for_room(&mut self, full: NodeId) {
        for refused in self.waiting.drain(..) {
            self.waiting_bytes.fetch_sub(refused.checked.set.records.len(), Ordering::Relaxed);
            // A caller that has gone needs no answer.
            let _ = refused.reply.send(Err(LogRefusal::LogFull { node: full }));
        }
        self.parts.no_room.notify_one();
    }

    fn answer(&mut self) {
        for (reply, outcome) in self.core.take_answers() {
            // A caller that has gone needs no answer.
            let _ = reply.send(outcome);
        }
    }
}
