//! Tail questions: how far the log is committed, confirmed by a majority after the question came.
//!
//! * All questions that wait while a round is under way share the next one; a round never answers a question that came
//!   after it began.
//! * Source: DESIGN D9.

use crate::consensus::{Group, ReadIndexFailure};
use duramen_common::Offset;
use duramen_common::planted::{Plant, is_planted};
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::sync::watch;

type Answer = Result<Offset, ReadIndexFailure>;

/// The tail questions of one partition.
pub struct TailQuestions {
    group: Arc<Group>,
    /// The round that has not begun.
    next: Mutex<Option<watch::Receiver<Option<Answer>>>>,
    /// Held by the round under way.
    turn: tokio::sync::Mutex<()>,
}

impl TailQuestions {
    /// Questions to this group.
    pub fn new(group: Arc<Group>) -> Arc<TailQuestions> {
        Arc::new(TailQuestions { group, next: Mutex::default(), turn: tokio::sync::Mutex::default() })
    }

    /// An end that covers everything acknowledged before this call. The caller bounds the wait.
    pub async fn ask(self: &Arc<Self>) -> Answer {
        let mut answer = {
            let mut next = self.next.lock();
            match &*next {
                Some(round) => round.clone(),
                None => {
                    let (out, round) = watch::channel(None);
                    *next = Some(round.clone());
                    tokio::spawn(Arc::clone(self).round(out));
                    round
                }
            }
        };
        match answer.wait_for(Option::is_some).await {
            Ok(answer) => answer.clone().unwrap_or_else(|| Err(stopped())),
            Err(_) => Err(stopped()),
        }
    }

    async fn round(self: Arc<Self>, out: watch::Sender<Option<Answer>>) {
        let _turn = self.turn.lock().await;
        // From here on, whoever comes is too late for this round.
        let is_joined_late = is_planted(Plant::TailRoundJoinedLate);
        if !is_joined_late {
            self.next.lock().take();
        }
        let answer = self.group.read_index().await;
        if is_joined_late {
            self.next.lock().take();
        }
        out.send_replace(Some(answer));
    }
}

fn stopped() -> ReadIndexFailure {
    ReadIndexFailure::Unavailable { reason: "this node is stopping".to_owned() }
}
