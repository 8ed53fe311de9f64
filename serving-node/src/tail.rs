//! The shared question: where does the log end? One question to the leader at a time, answered to all who asked before it
//! was sent.
//!
//! ```text
//! ask   ask        ask                 ask
//!  └──┬──┘          └────────┬──────────┘
//!   sent ─────────── answer  sent ─────────── answer
//! ```
//!
//! * Invariant: nobody gets the answer to a question that was sent before they asked: an older end may miss a write that was
//!   acknowledged in between (DESIGN invariant 6).
//! * A question has its own timeout, so that a dead leader does not hold those who come later; each reader has a deadline
//!   besides.
//! * Source: DESIGN D9.

use duramen_common::log::{Log, TailError};
use duramen_common::planted::{Plant, is_planted};
use duramen_common::{Offset, PartitionId};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Before a question that failed is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(50);

type Answer = Option<Result<Offset, TailError>>;

/// Who waits for the next question, and whether one is on its way.
#[derive(Default)]
struct Rounds {
    next: Option<watch::Sender<Answer>>,
    asking: bool,
}

/// Asks for one partition's end on behalf of many.
pub(crate) struct TailQuestion {
    log: Arc<dyn Log>,
    partition: PartitionId,
    timeout: Duration,
    rounds: Mutex<Rounds>,
    is_ended: watch::Sender<bool>,
}

/// What is said to who asks while the node stops.
const STOPPING: &str = "this node is stopping";

impl TailQuestion {
    pub(crate) fn new(log: Arc<dyn Log>, partition: PartitionId, timeout: Duration) -> Arc<TailQuestion> {
        Arc::new(TailQuestion {
            log,
            partition,
            timeout,
            rounds: Mutex::new(Rounds::default()),
            is_ended: watch::Sender::new(false),
        })
    }

    /// An end that covers everything acknowledged before this call. A question that fails is asked again until the deadline:
    /// while the log elects a leader, its readers wait.
    pub(crate) async fn ask(self: &Arc<TailQuestion>, deadline: Instant) -> Result<Offset, TailError> {
        let asked_at = Instant::now();
        loop {
            let error = match self.ask_once(deadline).await {
                Ok(end) => return Ok(end),
                Err(reason) => TailError::Unavailable {
                    partition: self.partition,
                    waited_ms: asked_at.elapsed().as_millis() as u64,
                    reason,
                },
            };
            if Instant::now() + ASK_AGAIN >= deadline || *self.is_ended.borrow() {
                return Err(error);
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// Answers everybody who asks, now and from now on, that the node stops.
    pub(crate) fn end(&self) {
        self.is_ended.send_replace(true);
    }

    /// The answer to the next question that is sent, or why there is none.
    async fn ask_once(self: &Arc<TailQuestion>, deadline: Instant) -> Result<Offset, String> {
        let (mut answer, start) = {
            let mut rounds = self.rounds.lock();
            let round = rounds.next.get_or_insert_with(|| watch::Sender::new(None));
            (round.subscribe(), !std::mem::replace(&mut rounds.asking, true))
        };
        if start {
            tokio::spawn(Arc::clone(self).ask_all());
        }
        match tokio::time::timeout_at(deadline, answer.wait_for(Option::is_some)).await {
            Ok(Ok(answer)) => match &*answer {
                Some(Ok(end)) => Ok(*end),
                Some(Err(TailError::Unavailable { reason, .. })) => Err(reason.clone()),
                None => Err("no answer".to_owned()),
            },
            Ok(Err(_)) => Err(STOPPING.to_owned()),
            Err(_) => Err("the deadline passed".to_owned()),
        }
    }

    /// Sends questions for as long as somebody waits for one.
    async fn ask_all(self: Arc<TailQuestion>) {
        loop {
            // From here on newcomers join the next round.
            let round = {
                let mut rounds = self.rounds.lock();
                match rounds.next.take() {
                    Some(round) => round,
                    None => {
                        rounds.asking = false;
                        return;
                    }
                }
            };
            if round.receiver_count() == 0 {
                continue;
            }
            let is_joined_late = is_planted(Plant::TailQuestionJoinedLate);
            if is_joined_late {
                self.rounds.lock().next = Some(round.clone());
            }
            let unavailable = |reason: &str| TailError::Unavailable {
                partition: self.partition,
                waited_ms: self.timeout.as_millis() as u64,
                reason: reason.to_owned(),
            };
            let mut ended = self.is_ended.subscribe();
            let answer = tokio::select! {
                biased;
                _ = ended.wait_for(|&ended| ended) => Err(unavailable(STOPPING)),
                answer = tokio::time::timeout(self.timeout, self.log.tail(self.partition, self.timeout)) => {
                    answer.unwrap_or_else(|_| Err(unavailable("no leader answered")))
                }
            };
            if is_joined_late {
                self.rounds.lock().next = None;
            }
            round.send_replace(Some(answer.map(|tail| tail.committed_end)));
        }
    }
}

#[cfg(test)]
mod tests;
