//! One actor a partition: what waits becomes one append request; a few are under way; each caller gets its own runs.
//!
//! ```text
//! append() ─→ inbox ─→ waiting ─(coalesce)─→ flights ─→ answered
//!                        ↑                      │
//!                        └── did not help: the next node, after a pause when all were asked
//! ```
//!
//! * Invariant: a set that any attempt may have appended is never reported as a failure: it is acknowledged, or unknown.
//! * Invariant: a set keeps its ids, and the committed end that was known when it was first sent.
//! * Invariant: every set is answered at its deadline at the latest, and none is sent behind it.
//! * Deliberately absent: order between sets of different calls after a retry.
//! * Source: DESIGN D5, D14.

use super::ask::{AskError, Shared};
use super::coalesce::{Coalescer, RunSplitter};
use super::read::{leader_named, millis};
use super::route::Route;
use super::waiting::{Answer, Budget, Waiting, check};
use bytes::Bytes;
use duramen_common::batch::{IdRun, RecordSet};
use duramen_common::log::AppendError;
use duramen_common::protocol::{AppendAnswer, AppendRequest, LogRefusal, service};
use duramen_common::{Offset, PartitionId, codec};
use duramen_transport::Peer;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

/// Most sets taken from the inbox at once.
const SETS_AT_ONCE: usize = 1024;
/// How far off the alarm is when nobody waits.
const IDLE: Duration = Duration::from_secs(3600);

/// The handle of one partition's actor, which ends when this is dropped.
pub(super) struct Appender {
    partition: PartitionId,
    inbox: mpsc::Sender<Waiting>,
    budget: Arc<Budget>,
}

impl Appender {
    pub(super) fn start(shared: Arc<Shared>, partition: PartitionId) -> Appender {
        let budget = Arc::new(Budget::new(shared.config.inbox_sets_max, shared.config.inbox_bytes_max));
        let (inbox, arrivals) = mpsc::channel(shared.config.inbox_sets_max.max(1));
        tokio::spawn(Actor::new(shared, partition).run(arrivals));
        Appender { partition, inbox, budget }
    }

    pub(super) async fn append(&self, set: RecordSet, timeout: Duration) -> Answer {
        check(&set)?;
        let charge = Budget::charge(&self.budget, set.records.len()).ok_or(AppendError::Overloaded)?;
        let (sender, answer) = oneshot::channel();
        let started = Instant::now();
        let waiting = Waiting::new(set, started + timeout, sender, charge);
        match self.inbox.try_send(waiting) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => return Err(AppendError::Overloaded),
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(AppendError::Stopped),
        }
        answer.await.unwrap_or_else(|_| {
            let (partition, waited_ms) = (self.partition, millis(started.elapsed()));
            Err(AppendError::Unacknowledged { partition, waited_ms, reason: "the log client was stopped".to_owned() })
        })
    }
}

/// A request under way.
struct Flight {
    number: u64,
    peer: Peer,
    sets: Vec<Waiting>,
}

enum Event {
    /// A request under way has come to its end.
    Answered { number: u64, result: Result<AppendAnswer, AskError> },
    /// What had to be found out first is found out, or its pause is over.
    Resumed,
}

struct Actor {
    shared: Arc<Shared>,
    partition: PartitionId,
    waiting: VecDeque<Waiting>,
    flights: Vec<Flight>,
    flight_last: u64,
    events: FuturesUnordered<BoxFuture<'static, Event>>,
    route: Route,
    /// Nothing is sent until `Event::Resumed`.
    paused: bool,
    /// At or before the earliest deadline of all sets.
    alarm: Option<Instant>,
    /// Why the last attempt did not help.
    reason: String,
}

impl Actor {
    fn new(shared: Arc<Shared>, partition: PartitionId) -> Actor {
        Actor {
            shared,
            partition,
            waiting: VecDeque::new(),
            flights: Vec::new(),
            flight_last: 0,
            events: FuturesUnordered::new(),
            route: Route::new(partition),
            paused: false,
            alarm: None,
            reason: "no node was asked in time".to_owned(),
        }
    }

    async fn run(mut self, mut arrivals: mpsc::Receiver<Waiting>) {
        let mut arrived = Vec::with_capacity(64);
        loop {
            self.send_what_waits();
            let alarm = self.alarm.unwrap_or_else(|| Instant::now() + IDLE);
            tokio::select! {
                count = arrivals.recv_many(&mut arrived, SETS_AT_ONCE) => {
                    if count == 0 {
                        return;
                    }
                    for set in arrived.drain(..) {
                        self.alarm = Some(self.alarm.map_or(set.deadline, |alarm| alarm.min(set.deadline)));
                        self.waiting.push_back(set);
                    }
                }
                Some(event) = self.events.next(), if !self.events.is_empty() => self.on_event(event),
                () = sleep_until(alarm) => self.expire(),
            }
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Resumed => self.paused = false,
            Event::Answered { number, result } => {
                let Some(at) = self.flights.iter().position(|flight| flight.number == number) else { return };
                let flight = self.flights.swap_remove(at);
                match result {
                    Ok(answer) => self.on_answer(flight, &answer),
                    Err(error) => self.on_failure(flight, &error),
                }
            }
        }
    }

    fn on_answer(&mut self, mut flight: Flight, answer: &AppendAnswer) {
        let records = flight.sets.iter().map(|set| set.set.count).sum();
        let Some(mut runs) = RunSplitter::new(&answer.runs, records) else {
            let reason = "the runs do not add up to the records".to_owned();
            let addr = flight.peer.addr.clone();
            self.on_failure(flight, &AskError::Garbled { addr, reason });
            return;
        };
        self.shared.directory.see_end(self.partition, answer.committed_end);
        self.route.succeeded(&self.shared.directory, &flight.peer);
        for set in &mut flight.sets {
            let runs = runs.next_set(set.set.count);
            set.finish(Ok(runs));
        }
    }

    /// An attempt did not acknowledge: its sets end here, or wait for the next attempt.
    fn on_failure(&mut self, flight: Flight, error: &AskError) {
        self.reason = error.to_string();
        tracing::debug!(partition = %self.partition, %error, sets = flight.sets.len(), "an append was not acknowledged");
        let in_company = flight.sets.len() > 1;
        let is_too_late = matches!(error, AskError::Refusal(LogRefusal::TooLate));
        let definite = definite_refusal(error);
        let overload = matches!(error, AskError::Refusal(LogRefusal::Overloaded | LogRefusal::LogFull { .. }));
        if definite.is_none() || overload {
            self.route.failed(&self.shared.directory, &flight.peer, leader_named(error));
        }
        // To the front again, in their order.
        for mut set in flight.sets.into_iter().rev() {
            if is_too_late && !set.unknown {
                // Never in doubt, so never appended: only the end that it carried had grown old while nobody asked.
                self.shared.directory.forget_end(self.partition);
                set.known_end = None;
                if set.is_wanted() {
                    self.waiting.push_front(set);
                }
                continue;
            }
            set.unknown |= !error.is_definite();
            match &definite {
                _ if !set.is_wanted() => continue,
                _ if is_too_late => {
                    let partition = self.partition;
                    set.give_up(partition, &self.reason, AppendError::NoLeader { partition, waited_ms: 0 });
                    continue;
                }
                // A bad set makes the log refuse its company too: each gets its own judgement.
                Some(_) if in_company && !overload => set.alone = true,
                // A later attempt may still find out what an earlier one did.
                Some(_) if overload && set.unknown => {}
                Some(refusal) => {
                    set.give_up(self.partition, &self.reason, refusal.clone());
                    continue;
                }
                None => {}
            }
            self.waiting.push_front(set);
        }
    }

    /// Answers the sets whose time is over.
    fn expire(&mut self) {
        let now = Instant::now();
        let mut alarm: Option<Instant> = None;
        let mut note = |deadline: Instant| alarm = Some(alarm.map_or(deadline, |alarm| alarm.min(deadline)));
        for set in self.flights.iter_mut().flat_map(|flight| &mut flight.sets).filter(|set| set.answer.is_some()) {
            if set.deadline <= now {
                let (partition, waited_ms) = (self.partition, millis(set.started.elapsed()));
                let reason = "no answer until the deadline".to_owned();
                set.finish(Err(AppendError::Unacknowledged { partition, waited_ms, reason }));
            } else {
                note(set.deadline);
            }
        }
        let (partition, reason) = (self.partition, &self.reason);
        self.waiting.retain_mut(|set| {
            if set.deadline > now {
                note(set.deadline);
                return true;
            }
            set.give_up_in_time(partition, reason);
            false
        });
        self.alarm = alarm;
    }

    fn send_what_waits(&mut self) {
        let flights_max = self.shared.config.appends_in_flight_max.max(1);
        while !self.paused && self.flights.len() < flights_max && !self.waiting.is_empty() {
            if self.is_no_partition() {
                return;
            }
            let Some(known_end) = self.shared.directory.known_end(self.partition) else {
                self.find_out();
                return;
            };
            let Some(peer) = self.route.target(&self.shared.directory) else {
                self.regroup();
                return;
            };
            self.send(peer, known_end);
        }
    }

    /// Ends what waits for a partition that does not exist.
    fn is_no_partition(&mut self) -> bool {
        let partitions = self.shared.directory.partitions();
        if partitions.is_none_or(|partitions| self.partition.get() < partitions) {
            return false;
        }
        let (partition, reason) = (self.partition, format!("there is no partition {}", self.partition));
        for mut set in self.waiting.drain(..) {
            set.give_up(partition, &reason, AppendError::Invalid { reason: reason.clone() });
        }
        true
    }

    /// Learns how far the log reaches: no id is sent before that is known.
    fn find_out(&mut self) {
        self.paused = true;
        let (shared, partition) = (Arc::clone(&self.shared), self.partition);
        let round = self.route.next_round();
        self.events.push(Box::pin(async move {
            let timeout = Duration::from_millis(shared.config.attempt_timeout_ms);
            if let Err(error) = shared.tail(partition, timeout).await {
                tracing::debug!(%error, "nothing can be appended yet");
                tokio::time::sleep(shared.backoff(round)).await;
            }
            Event::Resumed
        }));
    }

    /// Everybody was asked: pauses, and looks at the cluster again.
    fn regroup(&mut self) {
        self.paused = true;
        let (shared, round) = (Arc::clone(&self.shared), self.route.next_round());
        self.events.push(Box::pin(async move {
            let deadline = Instant::now() + Duration::from_millis(shared.config.attempt_timeout_ms);
            shared.regroup(round, deadline).await;
            Event::Resumed
        }));
    }

    /// Sends what fits into one request.
    fn send(&mut self, peer: Peer, known_end_now: Offset) {
        let now = Instant::now();
        let mut coalescer = Coalescer::new(self.shared.config.append_bytes_max, known_end_now);
        let mut sets: Vec<Waiting> = Vec::with_capacity(self.waiting.len());
        let mut deadline = now;
        while let Some(mut set) = self.waiting.pop_front() {
            if set.deadline <= now {
                set.give_up_in_time(self.partition, &self.reason);
            } else if set.is_wanted() {
                if !coalescer.take(set.candidate()) {
                    self.waiting.push_front(set);
                    break;
                }
                deadline = deadline.max(set.deadline);
                set.known_end = Some(coalescer.known_end());
                sets.push(set);
            }
        }
        if sets.is_empty() {
            return;
        }
        self.flight_last += 1;
        let number = self.flight_last;
        let timeout = self.shared.attempt_timeout(deadline);
        let body = encode(self.partition, &sets, &coalescer, timeout);
        self.flights.push(Flight { number, peer: peer.clone(), sets });
        let shared = Arc::clone(&self.shared);
        self.events.push(Box::pin(async move {
            let result = shared.ask(&peer, service::APPEND, body, timeout).await;
            Event::Answered { number, result }
        }));
    }
}

/// One request of many sets: their bytes are copied once, into the frame's body.
fn encode(partition: PartitionId, sets: &[Waiting], coalescer: &Coalescer, timeout: Duration) -> Bytes {
    let mut ids = Vec::with_capacity(sets.len());
    sets.iter().flat_map(|set| &set.set.ids).for_each(|&run| IdRun::push(&mut ids, run));
    let request = AppendRequest {
        partition,
        count: coalescer.records(),
        ids,
        known_end: coalescer.known_end(),
        timeout_ms: millis(timeout),
    };
    let payloads: Vec<&[u8]> = sets.iter().map(|set| &set.set.records[..]).collect();
    codec::encode_with_payloads(&request, &payloads)
}

/// What a caller is told when the log refuses for a reason that another node does not change; `None` when the next
/// attempt may fare better.
fn definite_refusal(error: &AskError) -> Option<AppendError> {
    let AskError::Refusal(refusal) = error else { return None };
    match refusal {
        LogRefusal::LogFull { node } => Some(AppendError::LogFull { node: *node }),
        LogRefusal::Overloaded => Some(AppendError::Overloaded),
        LogRefusal::TooLarge { what, size, limit } => {
            Some(AppendError::TooLarge { what: what.clone(), size: *size, limit: *limit })
        }
        LogRefusal::Invalid { .. }
        | LogRefusal::NameTaken { .. }
        | LogRefusal::UnknownPartition { .. }
        | LogRefusal::Compacted { .. }
        | LogRefusal::OtherLog { .. } => Some(AppendError::Invalid { reason: refusal.to_string() }),
        LogRefusal::NotLeader { .. }
        | LogRefusal::Unavailable { .. }
        | LogRefusal::TooLate
        | LogRefusal::OutcomeUnknown { .. } => None,
    }
}
