//! `Process`: reads messages, hands them to whom they are for, sends answers.
//!
//! * Before `init` a process is nobody: messages wait. `init` makes it a node, which starts behind it.
//! * Invariant: nothing here waits for a request: each has a task of its own, of which there are at most
//!   [`REQUESTS_MAX`]; beyond, requests are refused.
//! * A line that is no message is logged and passed over.
//! * Clients go when they have waited for 5 s. What would be answered later is not; nor are requests that came while this
//!   process stood still for long (SIGSTOP), since nobody knows when they came.

use crate::failure::{Code, Failure};
use crate::lines::Outbox;
use crate::message::{self, Body, Message, answer};
use crate::network::Network;
use crate::node::{Node, Place};
use crate::settings::{ANSWER_WITHIN, CATCHES_BREATH, INIT_WITHIN, REQUESTS_MAX, SILENT_AFTER, STOOD_STILL};
use crate::workloads;
use duramen_common::seams::Seams;
use serde::Deserialize;
use serde_json::{Value, json};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

/// Most messages that wait for `init`.
const HELD_MAX: usize = 1024;

/// How often a process feels its pulse.
const BEAT: Duration = Duration::from_millis(500);

/// What stands between the lines and the node.
pub struct Process {
    out: Outbox,
    seams: Seams,
    data_dir: Option<PathBuf>,
    stage: Stage,
    requests: JoinSet<()>,
    pulse: Pulse,
}

/// Notices that this process stood still.
struct Pulse {
    last_beat: Instant,
    catching_breath_until: Instant,
}

impl Pulse {
    fn new(now: Instant) -> Pulse {
        Pulse { last_beat: now, catching_breath_until: now }
    }

    /// Comes several times a second, and before anything that came in is looked at.
    fn beat(&mut self, now: Instant) {
        if now.duration_since(self.last_beat) >= STOOD_STILL {
            self.catching_breath_until = now + CATCHES_BREATH;
        }
        self.last_beat = now;
    }

    /// Whether what comes in now may have come long ago.
    fn may_be_old(&self) -> bool {
        self.last_beat < self.catching_breath_until
    }
}

enum Stage {
    Nobody { held: Vec<Message> },
    Node { node: Arc<Node>, network: Network, init: Init },
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Init {
    node_id: String,
    node_ids: Vec<String>,
}

impl Process {
    /// A process that is nobody yet. `data_dir` is where its log is kept; a temporary folder, if nowhere.
    #[must_use]
    pub fn new(out: Outbox, seams: Seams, data_dir: Option<PathBuf>) -> Process {
        Process {
            out,
            seams,
            data_dir,
            stage: Stage::Nobody { held: Vec::new() },
            requests: JoinSet::new(),
            pulse: Pulse::new(Instant::now()),
        }
    }

    /// Runs until there is no more input, `end` comes, or the node cannot go on.
    pub async fn run(mut self, mut lines: mpsc::Receiver<Vec<u8>>, end: impl Future<Output = ()>) -> io::Result<()> {
        let mut end = std::pin::pin!(end);
        let mut beats = interval(BEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let ended = loop {
            let node = match &self.stage {
                Stage::Node { node, .. } => Some(Arc::clone(node)),
                Stage::Nobody { .. } => None,
            };
            let failed = async move {
                match node {
                    Some(node) => node.failed().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                line = lines.recv() => {
                    self.pulse.beat(Instant::now());
                    match line {
                        Some(line) => self.take_line(&line),
                        None => break Ok(()),
                    }
                }
                _ = beats.tick() => self.pulse.beat(Instant::now()),
                Some(_) = self.requests.join_next(), if !self.requests.is_empty() => {}
                reason = failed => break Err(io::Error::other(reason)),
                () = &mut end => break Ok(()),
            }
        };
        self.requests.shutdown().await;
        if let Stage::Node { node, .. } = self.stage {
            node.shutdown().await;
        }
        ended
    }

    fn take_line(&mut self, line: &[u8]) {
        match Message::parse(line) {
            Ok(message) => self.take(message),
            Err(error) => {
                let shown: String = String::from_utf8_lossy(line).chars().take(200).collect();
                tracing::warn!(%error, line = shown, "passed over");
            }
        }
    }

    fn take(&mut self, message: Message) {
        if message.kind() == "init" {
            return self.init(message);
        }
        match &mut self.stage {
            Stage::Nobody { held } if held.len() < HELD_MAX => held.push(message),
            Stage::Nobody { .. } => tracing::warn!("too many messages before init: one was passed over"),
            Stage::Node { network, init, .. } if Network::is_ours(message.kind()) => {
                if init.node_ids.contains(&message.src) && message.dest == init.node_id {
                    network.receive(message);
                } else {
                    tracing::warn!(src = message.src, dest = message.dest, "no message between nodes: passed over");
                }
            }
            Stage::Node { .. } if self.pulse.may_be_old() => {
                tracing::warn!(src = message.src, kind = message.kind(), "perhaps long ago: passed over");
            }
            Stage::Node { init, .. } if message.dest != init.node_id => {
                let text = format!("this is node {}", init.node_id);
                self.refuse(&message, Failure::new(Code::NodeNotFound, text));
            }
            Stage::Node { node, .. } => {
                let (node, deadline) = (Arc::clone(node), Instant::now() + ANSWER_WITHIN);
                self.answer(&message.clone(), async move { workloads::serve(&node, message, deadline).await });
            }
        }
    }

    /// Makes this process a node; or says again that it is.
    fn init(&mut self, message: Message) {
        let asked = match message.clone().read::<Init>() {
            Ok(asked) => asked,
            Err(failure) => return self.refuse(&message, failure),
        };
        let (node, held) = match &mut self.stage {
            Stage::Node { node, init, .. } if *init == asked => (Arc::clone(node), Vec::new()),
            Stage::Node { init, .. } => {
                let text = format!("this is node {} already", init.node_id);
                return self.refuse(&message, Failure::malformed(text));
            }
            Stage::Nobody { held } => {
                let place = match Place::new(&asked.node_id, &asked.node_ids, self.data_dir.as_deref()) {
                    Ok(place) => place,
                    Err(failure) => return self.refuse(&message, failure),
                };
                let held = std::mem::take(held);
                let network = Network::new(&asked.node_id, self.out.clone(), &*self.seams.entropy);
                let node = Arc::new(Node::start(place, network.clone(), self.seams.clone()));
                self.stage = Stage::Node { node: Arc::clone(&node), network, init: asked };
                (node, held)
            }
        };
        self.answer(&message, async move {
            match timeout(INIT_WITHIN, node.ready()).await {
                Ok(Err(reason)) => Err(Failure::new(Code::Crash, reason)),
                // What comes before this node is ready waits.
                Ok(Ok(())) | Err(_) => Ok(answer("init_ok", Value::Null)),
            }
        });
        for message in held {
            self.take(message);
        }
    }

    /// Works on a request, and answers it.
    fn answer(&mut self, message: &Message, work: impl Future<Output = Result<Body, Failure>> + Send + 'static) {
        if self.requests.len() >= REQUESTS_MAX {
            return self.refuse(message, Failure::unavailable("too many requests are under way"));
        }
        let (out, from, to) = (self.out.clone(), message.dest.clone(), message.src.clone());
        let msg_id = message.msg_id();
        let came_at = Instant::now();
        self.requests.spawn(async move {
            let (in_reply_to, result) = match msg_id {
                Ok(msg_id) => (msg_id, work.await),
                Err(failure) => (None, Err(failure)),
            };
            if came_at.elapsed() >= SILENT_AFTER {
                tracing::warn!(to, "too late to be answered");
                return;
            }
            out.send(reply(&from, &to, in_reply_to, result)).await;
        });
    }

    /// Refuses a request at once, without keeping anything for it: where nobody reads answers, this one is lost.
    fn refuse(&self, message: &Message, failure: Failure) {
        let line = reply(&message.dest, &message.src, message.msg_id().ok().flatten(), Err(failure));
        if self.out.try_send(line).is_err() {
            tracing::warn!(to = message.src, "an answer was lost: nobody reads");
        }
    }
}

fn reply(from: &str, to: &str, in_reply_to: Option<i64>, result: Result<Body, Failure>) -> Vec<u8> {
    let mut body = result.unwrap_or_else(|failure| message::error(&failure));
    if let Some(in_reply_to) = in_reply_to {
        body.insert("in_reply_to".to_owned(), json!(in_reply_to));
    }
    Message::line(from, to, &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_stand_still_is_noticed_and_a_short_one_is_none() {
        let start = Instant::now();
        let mut pulse = Pulse::new(start);
        let mut beat = |after_ms: u64| {
            pulse.beat(start + Duration::from_millis(after_ms));
            pulse.may_be_old()
        };
        assert!(!beat(500));
        assert!(!beat(500 + 3_900), "who asked before is there still");
        assert!(beat(4_400 + 4_000));
        assert!(beat(8_400 + 199), "what came meanwhile is read one after the other");
        assert!(!beat(8_400 + 200));
        assert!(!beat(8_400 + 700));
    }
}
