//! `Network`: the transport between nodes, as Maelstrom's messages.
//!
//! ```text
//! {"type":"duramen_call","msg_id":N,"service":S,"node":number or null,"hello":base64,"data":base64}
//! {"type":"duramen_answer","in_reply_to":N,"welcome":base64,"data":base64}
//! {"type":"duramen_refused","in_reply_to":N,"reason":text,"history":text or null}
//! ```
//!
//! * There are no connections: every call greets, and names whom it wants. The service judges caller and histories before
//!   it handles anything, so that a refusal is definite. A call to this node itself does not leave the process.
//! * Messages may be lost, late and out of order: a call without an answer until its deadline is `Lost`, and one that was
//!   never given to Maelstrom `NotSent`.
//! * Numbers of calls begin at random, so that an answer to an earlier life of this process is nobody's.
//! * What comes before the service is there waits for it: nodes do not hear their `init` at the same time.
//! * Limits: [`CALLS_MAX`] under way in either direction, [`HELD_MAX`] waiting for the service; beyond, calls are refused.
//! * Source: DESIGN D10, D13; docs/adr/0001-transport-room.md.

mod station;

use crate::lines::Outbox;
use crate::message::{Body, Message, answer};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use duramen_common::limits::FRAME_BYTES_MAX;
use duramen_common::seams::Entropy;
use duramen_common::{HistoryId, NodeId, codec};
use duramen_transport::{CallError, Endpoint, Hello, HelloFn, Peer, Server, Service, Transport, Welcome};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::json;
use station::Station;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

/// A request to a node's service.
pub const CALL: &str = "duramen_call";
/// Its answer.
pub const ANSWER: &str = "duramen_answer";
/// It was not handled.
pub const REFUSED: &str = "duramen_refused";

/// Most calls under way from this node, and most that it handles.
const CALLS_MAX: usize = 4096;
/// Most calls that wait for the service to be there.
const HELD_MAX: usize = 1024;
/// The first call's number is below this. JSON's readers agree on integers up to 2^53.
const NUMBERS_FROM_BELOW: u128 = 1 << 52;

/// One node's place among Maelstrom's nodes. Cloning shares it.
#[derive(Clone)]
pub struct Network {
    shared: Arc<Shared>,
}

struct Shared {
    /// Maelstrom's name of this node.
    name: String,
    out: Outbox,
    calls: Mutex<Calls>,
    station: Station,
    /// What each node said of itself last.
    welcomes: Mutex<HashMap<String, Welcome>>,
}

struct Calls {
    next: u64,
    waiting: HashMap<u64, Waiting>,
}

struct Waiting {
    from: String,
    answer: oneshot::Sender<Answered>,
}

/// How a call ended.
type Answered = Result<(Welcome, Bytes), CallError>;

#[derive(Deserialize)]
struct CallBody {
    msg_id: u64,
    service: u8,
    node: Option<u64>,
    hello: String,
    data: String,
}

/// A call that came in.
struct Call {
    from: String,
    number: u64,
    service: u8,
    /// Who must answer, when it matters.
    node: Option<NodeId>,
    hello: Hello,
    data: Bytes,
}

#[derive(Deserialize)]
struct AnswerBody {
    in_reply_to: u64,
    welcome: String,
    data: String,
}

#[derive(Deserialize)]
struct RefusedBody {
    in_reply_to: u64,
    reason: String,
    history: Option<String>,
}

impl Network {
    /// The place of the node `name`.
    #[must_use]
    pub fn new(name: &str, out: Outbox, entropy: &dyn Entropy) -> Network {
        let calls = Calls { next: (entropy.bits() % NUMBERS_FROM_BELOW) as u64, waiting: HashMap::new() };
        let shared = Shared {
            name: name.to_owned(),
            out,
            calls: Mutex::new(calls),
            station: Station::new(CALLS_MAX, HELD_MAX),
            welcomes: Mutex::default(),
        };
        Network { shared: Arc::new(shared) }
    }

    /// Whether a message is one of ours.
    #[must_use]
    pub fn is_ours(kind: &str) -> bool {
        matches!(kind, CALL | ANSWER | REFUSED)
    }

    /// Takes in a message from another node. What cannot be read is passed over, as if it were lost.
    pub fn receive(&self, message: Message) {
        let from = message.src.clone();
        let taken = match message.kind() {
            CALL => self.take_call(message),
            ANSWER => self.take_answer(message),
            _ => self.take_refusal(message),
        };
        if let Err(reason) = taken {
            tracing::warn!(%from, %reason, "a message between nodes was passed over");
        }
    }

    fn take_call(&self, message: Message) -> Result<(), String> {
        let from = message.src.clone();
        let body: CallBody = message.read().map_err(|error| error.to_string())?;
        let hello = codec::decode(&unpack(&body.hello)?).map_err(|error| error.to_string())?;
        let (number, service, node) = (body.msg_id, body.service, body.node.map(NodeId::new));
        let call = Call { from, number, service, node, hello, data: unpack(&body.data)? };
        Station::take(&self.shared, call);
        Ok(())
    }

    fn take_answer(&self, message: Message) -> Result<(), String> {
        let from = message.src.clone();
        let body: AnswerBody = message.read().map_err(|error| error.to_string())?;
        let welcome: Welcome = codec::decode(&unpack(&body.welcome)?).map_err(|error| error.to_string())?;
        let data = unpack(&body.data)?;
        self.shared.finish(&from, body.in_reply_to, Ok((welcome, data)));
        Ok(())
    }

    fn take_refusal(&self, message: Message) -> Result<(), String> {
        let addr = message.src.clone();
        let body: RefusedBody = message.read().map_err(|error| error.to_string())?;
        let history = body.history.and_then(|text| text.parse::<HistoryId>().ok());
        let refused = CallError::Refused { addr: addr.clone(), reason: body.reason, history };
        self.shared.finish(&addr, body.in_reply_to, Err(refused));
        Ok(())
    }
}

impl Shared {
    /// Gives a call its answer; too late, or nobody's, it is passed over.
    fn finish(&self, from: &str, number: u64, answered: Answered) {
        if let Ok((welcome, _)) = &answered {
            self.welcomes.lock().insert(from.to_owned(), welcome.clone());
        }
        let mut calls = self.calls.lock();
        if calls.waiting.get(&number).is_some_and(|waiting| waiting.from == from)
            && let Some(waiting) = calls.waiting.remove(&number)
        {
            let _ = waiting.answer.send(answered);
        }
    }

    /// Notes a call; `None` when too many are under way.
    fn begin(&self, to: &str) -> Option<(u64, oneshot::Receiver<Answered>)> {
        let mut calls = self.calls.lock();
        if calls.waiting.len() >= CALLS_MAX {
            return None;
        }
        let number = calls.next;
        calls.next += 1;
        let (sender, answered) = oneshot::channel();
        calls.waiting.insert(number, Waiting { from: to.to_owned(), answer: sender });
        Some((number, answered))
    }

    async fn call(&self, to: &Peer, service: u8, hello: &Hello, data: Bytes, deadline: Instant) -> Answered {
        let not_sent = |reason: String| CallError::NotSent { addr: to.addr.clone(), reason };
        let lost = |reason: &str| CallError::Lost { addr: to.addr.clone(), reason: reason.to_owned() };
        if data.len() > FRAME_BYTES_MAX {
            return Err(not_sent(format!("a request of {} bytes, the limit is {FRAME_BYTES_MAX}", data.len())));
        }
        let (number, answered) = self.begin(&to.addr).ok_or_else(|| not_sent("too many calls are under way".into()))?;
        let _forget = Forget { shared: self, number };
        let body = answer(
            CALL,
            json!({
                "msg_id": number,
                "service": service,
                "node": to.node.map(NodeId::get),
                "hello": pack(&codec::encode(hello)),
                "data": pack(&data),
            }),
        );
        let line = Message::line(&self.name, &to.addr, &body);
        self.out.try_send(line).map_err(|error| not_sent(error.to_string()))?;
        match timeout_at(deadline, answered).await {
            Ok(Ok(answered)) => answered,
            Ok(Err(_)) => Err(lost("the call was forgotten")),
            Err(_) => Err(lost("no answer until the deadline")),
        }
    }

    /// Answers without leaving the process.
    async fn call_here(&self, to: &Peer, service: u8, hello: Hello, data: Bytes, deadline: Instant) -> Answered {
        let lost = |reason: &str| CallError::Lost { addr: to.addr.clone(), reason: reason.to_owned() };
        let (welcome, answered) = self.station.handle_here(to, service, hello, data)?;
        self.welcomes.lock().insert(to.addr.clone(), welcome.clone());
        match timeout_at(deadline, answered).await {
            Ok(Ok(data)) => Ok((welcome, data)),
            Ok(Err(_)) => Err(lost("this node is stopping")),
            Err(_) => Err(lost("no answer until the deadline")),
        }
    }

    fn send_answer(&self, to: &str, number: u64, welcome: &Welcome, data: &[u8]) {
        if data.len() > FRAME_BYTES_MAX {
            tracing::error!(%to, bytes = data.len(), "an answer over the limit was not sent");
            return;
        }
        let (welcome, data) = (pack(&codec::encode(welcome)), pack(data));
        self.reply(to, &answer(ANSWER, json!({ "in_reply_to": number, "welcome": welcome, "data": data })));
    }

    fn send_refusal(&self, to: &str, number: u64, reason: &str, history: Option<HistoryId>) {
        let history = history.map(|history| history.to_string());
        self.reply(to, &answer(REFUSED, json!({ "in_reply_to": number, "reason": reason, "history": history })));
    }

    /// An answer for which there is no room is lost, as on any network.
    fn reply(&self, to: &str, body: &Body) {
        if let Err(error) = self.out.try_send(Message::line(&self.name, to, body)) {
            tracing::warn!(%to, %error, "an answer was lost");
        }
    }
}

/// Forgets a call when nobody waits for it any more.
struct Forget<'a> {
    shared: &'a Shared,
    number: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.shared.calls.lock().waiting.remove(&self.number);
    }
}

fn pack(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

fn unpack(text: &str) -> Result<Bytes, String> {
    BASE64.decode(text).map(Bytes::from).map_err(|error| error.to_string())
}

/// Calls out of this network.
struct Caller {
    shared: Arc<Shared>,
    hello: HelloFn,
}

impl Transport for Caller {
    fn call(&self, to: &Peer, service: u8, body: Bytes, timeout: Duration) -> BoxFuture<'_, Result<Bytes, CallError>> {
        let (to, deadline) = (to.clone(), Instant::now() + timeout);
        Box::pin(async move {
            let (hello, began) = ((self.hello)(), Instant::now());
            let answered = if to.addr == self.shared.name {
                self.shared.call_here(&to, service, hello, body, deadline).await
            } else {
                self.shared.call(&to, service, &hello, body, deadline).await
            };
            let (ms, outcome) = (began.elapsed().as_millis() as u64, answered.as_ref().map(|(_, data)| data.len()));
            tracing::trace!(to = to.addr, service, ms, ?outcome, "called");
            answered.map(|(_, data)| data)
        })
    }

    fn welcome(&self, to: &Peer) -> Option<Welcome> {
        self.shared.welcomes.lock().get(&to.addr).cloned()
    }
}

impl Endpoint for Network {
    fn transport(&self, hello: HelloFn) -> Arc<dyn Transport> {
        Arc::new(Caller { shared: Arc::clone(&self.shared), hello })
    }

    fn serve(self: Box<Self>, service: Arc<dyn Service>) -> Box<dyn Server> {
        Station::open(&self.shared, service);
        self
    }
}

impl Server for Network {
    fn addr(&self) -> String {
        self.shared.name.clone()
    }

    fn shutdown(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move { self.shared.station.close() })
    }
}

#[cfg(test)]
mod tests;
