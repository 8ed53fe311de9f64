//! `Router`: every line between nodes and clients goes through it, as through Maelstrom.
//!
//! * In: lines that nodes write, requests of clients. Out: lines for nodes, answers for clients.
//! * Between nodes, a line waits as long as `network` says, and arrives where no link is cut by then and a process is
//!   there to hear it. Between a client and a node it is handed on at once.
//! * What is against the protocol is noted: it is a violation of its own.
//! * Limits: [`WIRE_MAX`] lines under way; a node that does not read loses what is over [`INBOX_MAX`].

use super::network::{Cuts, NodeIndex, Weather};
use super::record::{Body, Reply};
use serde::Deserialize;
use serde_json::{Value, json};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};

/// Most lines that wait to be taken onto the wire.
const WIRE_MAX: usize = 64 * 1024;
/// Most lines that wait for a node to read them.
pub const INBOX_MAX: usize = 16 * 1024;
/// Most notes of what was against the protocol.
const NOTES_MAX: usize = 100;

/// What went between nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Lines that nodes sent to nodes.
    pub sent: u64,
    /// Of those: lost by chance.
    pub lost: u64,
    /// Of those: stopped at a cut link.
    pub cut: u64,
    /// Of those: arrived where no process heard them.
    pub unheard: u64,
}

/// The router. Cloning shares it.
#[derive(Clone)]
pub struct Router {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    wire: mpsc::Sender<OnWire>,
}

struct State {
    inboxes: Vec<Option<mpsc::Sender<Vec<u8>>>>,
    cuts: Cuts,
    weather: Weather,
    waiting: BTreeMap<(String, i64), oneshot::Sender<Body>>,
    next_msg_id: i64,
    traffic: Traffic,
    against_protocol: Vec<String>,
}

/// A line under way. Ordered by its arrival, the earliest greatest.
struct OnWire {
    arrives: Reverse<(Instant, u64)>,
    from: NodeIndex,
    to: NodeIndex,
    line: Vec<u8>,
}

#[derive(Deserialize)]
struct Envelope<'l> {
    #[serde(borrow)]
    src: std::borrow::Cow<'l, str>,
    #[serde(borrow)]
    dest: std::borrow::Cow<'l, str>,
}

#[derive(Deserialize)]
struct Whole {
    body: Body,
}

impl Router {
    /// A router of so many nodes, none of which hears yet.
    #[must_use]
    pub fn start(nodes: usize, weather: Weather) -> Router {
        let (wire, on_wire) = mpsc::channel(WIRE_MAX);
        let state = State {
            inboxes: vec![None; nodes],
            cuts: Cuts::new(),
            weather,
            waiting: BTreeMap::new(),
            next_msg_id: 1,
            traffic: Traffic::default(),
            against_protocol: Vec::new(),
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), wire });
        tokio::spawn(carry(Arc::downgrade(&shared), on_wire));
        Router { shared }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on this node hears here, or nowhere.
    pub fn set_inbox(&self, node: NodeIndex, inbox: Option<mpsc::Sender<Vec<u8>>>) {
        self.state().inboxes[node] = inbox;
    }

    /// From now on these links are cut, and no others.
    pub fn set_cuts(&self, cuts: Cuts) {
        self.state().cuts = cuts;
    }

    /// What went between nodes so far.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.state().traffic
    }

    /// What was against the protocol so far.
    #[must_use]
    pub fn against_protocol(&self) -> Vec<String> {
        self.state().against_protocol.clone()
    }

    /// Takes a line that a node wrote.
    pub async fn take(&self, from: NodeIndex, line: Vec<u8>) {
        let on_wire = self.state().sort_out(from, line);
        if let Some(on_wire) = on_wire {
            // Fails only when the run is over.
            let _ = self.shared.wire.send(on_wire).await;
        }
    }

    /// Asks a node, and waits so long for its answer.
    pub async fn ask(&self, client: &str, node: NodeIndex, mut body: Body, wait: Duration) -> Reply {
        let (sender, answer) = oneshot::channel();
        let msg_id = {
            let mut state = self.state();
            let msg_id = state.next_msg_id;
            state.next_msg_id += 1;
            state.waiting.insert((client.to_owned(), msg_id), sender);
            body.insert("msg_id".to_owned(), json!(msg_id));
            let dest = format!("n{}", node + 1);
            let mut line = json!({ "id": msg_id, "src": client, "dest": dest, "body": body }).to_string().into_bytes();
            line.push(b'\n');
            // A node that is down hears nothing: the answer does not come.
            if let Some(inbox) = &state.inboxes[node] {
                let _ = inbox.try_send(line);
            }
            msg_id
        };
        let answered = timeout(wait, answer).await;
        self.state().waiting.remove(&(client.to_owned(), msg_id));
        match answered {
            Ok(Ok(body)) if body.get("type").and_then(Value::as_str) == Some("error") => Reply::Error {
                code: body.get("code").and_then(Value::as_i64).unwrap_or(-1),
                text: body.get("text").and_then(Value::as_str).unwrap_or_default().to_owned(),
            },
            Ok(Ok(body)) => Reply::Answer(body),
            Ok(Err(_)) | Err(_) => Reply::Nothing,
        }
    }
}

impl State {
    /// Answers a client at once; gives what goes to a node its time of arrival.
    fn sort_out(&mut self, from: NodeIndex, line: Vec<u8>) -> Option<OnWire> {
        let name = format!("n{}", from + 1);
        let envelope = match serde_json::from_slice::<Envelope<'_>>(&line) {
            Ok(envelope) if envelope.src == name => envelope,
            Ok(envelope) => {
                let src = envelope.src.into_owned();
                self.note(format!("{name} wrote a message as if from {src:?}"));
                return None;
            }
            Err(error) => {
                let shown: String = String::from_utf8_lossy(&line).chars().take(200).collect();
                self.note(format!("{name} wrote what is no message ({error}): {shown}"));
                return None;
            }
        };
        let dest = envelope.dest.into_owned();
        let to = dest.strip_prefix('n').and_then(|number| number.parse::<usize>().ok());
        match to.and_then(|number| number.checked_sub(1)).filter(|&to| to < self.inboxes.len()) {
            Some(to) => self.send_off(from, to, line),
            None if dest.starts_with('c') => {
                self.answer(&name, dest, &line);
                None
            }
            None => {
                self.note(format!("{name} wrote to {dest:?}, which there is not"));
                None
            }
        }
    }

    fn send_off(&mut self, from: NodeIndex, to: NodeIndex, line: Vec<u8>) -> Option<OnWire> {
        self.traffic.sent += 1;
        let number = self.traffic.sent;
        let Some(delay) = self.weather.delay() else {
            self.traffic.lost += 1;
            return None;
        };
        Some(OnWire { arrives: Reverse((Instant::now() + delay, number)), from, to, line })
    }

    fn answer(&mut self, from: &str, client: String, line: &[u8]) {
        let body = match serde_json::from_slice::<Whole>(line) {
            Ok(whole) => whole.body,
            Err(error) => return self.note(format!("{from} wrote what is no message: {error}")),
        };
        if !body.get("type").is_some_and(Value::is_string) {
            return self.note(format!("{from} answered {client} without a type"));
        }
        let Some(in_reply_to) = body.get("in_reply_to").and_then(Value::as_i64) else {
            return self.note(format!("{from} answered {client} without in_reply_to"));
        };
        // Nobody waits any more for an answer that comes late.
        if let Some(waiting) = self.waiting.remove(&(client, in_reply_to)) {
            let _ = waiting.send(body);
        }
    }

    fn arrive(&mut self, on_wire: OnWire) {
        if self.cuts.contains(&(on_wire.from, on_wire.to)) {
            self.traffic.cut += 1;
            return;
        }
        let heard = match &self.inboxes[on_wire.to] {
            Some(inbox) => inbox.try_send(on_wire.line).is_ok(),
            None => false,
        };
        if !heard {
            self.traffic.unheard += 1;
        }
    }

    fn note(&mut self, what: String) {
        if self.against_protocol.len() < NOTES_MAX {
            self.against_protocol.push(what);
        }
    }
}

/// Lets lines arrive when it is time, as long as there is a router.
async fn carry(shared: std::sync::Weak<Shared>, mut taken: mpsc::Receiver<OnWire>) {
    let mut under_way: BinaryHeap<OnWire> = BinaryHeap::new();
    loop {
        let next = under_way.peek().map(|on_wire| on_wire.arrives.0.0);
        let arrival = async {
            match next {
                Some(arrives) => sleep_until(arrives).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            on_wire = taken.recv() => match on_wire {
                Some(on_wire) => under_way.push(on_wire),
                None => return,
            },
            () = arrival => {
                let Some(shared) = shared.upgrade() else { return };
                let mut state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
                let now = Instant::now();
                while under_way.peek().is_some_and(|on_wire| on_wire.arrives.0.0 <= now)
                    && let Some(on_wire) = under_way.pop()
                {
                    state.arrive(on_wire);
                }
            }
        }
    }
}

impl PartialEq for OnWire {
    fn eq(&self, other: &OnWire) -> bool {
        self.arrives == other.arrives
    }
}

impl Eq for OnWire {}

impl PartialOrd for OnWire {
    fn partial_cmp(&self, other: &OnWire) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for OnWire {
    fn cmp(&self, other: &OnWire) -> std::cmp::Ordering {
        self.arrives.cmp(&other.arrives)
    }
}
