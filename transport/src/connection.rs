//! One connection to a peer, shared by all callers: requests are numbered, queued, written many at a time; answers find
//! their callers by number.
//!
//! * In: requests from any task. Out: answers, or what is certain about a request that has none.
//! * One task reads and writes; it ends when the connection breaks or its owner drops it, and answers everybody then.
//! * Invariant: a request is marked as sent before its first byte can reach the socket, so that "not sent" is certain.
//! * Invariant: a caller that times out or is dropped leaves nothing behind.
//! * Deliberately absent: opening and reopening (`tcp_client`), retries.

use crate::frame::{self, FrameBuffer, FrameKind};
use crate::outgoing::Outgoing;
use crate::tcp_client::TcpTransportConfig;
use crate::{CallError, Hello, Welcome, check_history, sockets};
use bytes::Bytes;
use duramen_common::codec;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

/// Stop taking requests off the queue while this much waits to be written. Unit: bytes.
const OUTGOING_BYTES_MAX: usize = 1024 * 1024;
/// Most requests taken off the queue at once.
const REQUESTS_AT_ONCE: usize = 256;

/// A connection that was welcomed.
pub(crate) struct Connection {
    queue: mpsc::Sender<Queued>,
    shared: Arc<Shared>,
    welcome: Welcome,
    limits: Limits,
    task: tokio::task::AbortHandle,
}

#[derive(Clone, Copy)]
struct Limits {
    queue_bytes: usize,
    in_flight: usize,
    frame_bytes: usize,
}

struct Queued {
    request: u64,
    service: u8,
    body: Bytes,
}

struct Shared {
    addr: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    pending: HashMap<u64, Pending>,
    request_last: u64,
    queued_bytes: usize,
    /// Why the connection is over.
    closed: Option<String>,
}

struct Pending {
    sent: bool,
    answer: oneshot::Sender<Result<Bytes, CallError>>,
}

impl Connection {
    /// Opens a connection and shakes hands.
    pub(crate) async fn open(addr: &str, config: &TcpTransportConfig, hello: Hello) -> Result<Connection, CallError> {
        let not_sent = |reason: String| CallError::NotSent { addr: addr.to_owned(), reason };
        let encoded = codec::encode(&hello);
        if encoded.len() > frame::HANDSHAKE_BYTES_MAX {
            return Err(not_sent(format!("a hello of {} bytes is over the limit", encoded.len())));
        }
        let mut stream = TcpStream::connect(addr).await.map_err(|error| not_sent(error.to_string()))?;
        sockets::tune(&stream);
        let mut outgoing = Outgoing::default();
        outgoing.push_bytes(&frame::preamble());
        outgoing.push(FrameKind::Hello, 0, 0, encoded);
        while !outgoing.is_empty() {
            outgoing.write_to(&mut stream).await.map_err(|error| not_sent(format!("handshake: {error}")))?;
        }
        let mut incoming = FrameBuffer::default();
        let welcome = read_welcome(addr, &mut stream, &mut incoming).await?;
        check_history(addr, &hello, &welcome)?;
        let shared = Arc::new(Shared { addr: addr.to_owned(), state: Mutex::default() });
        let (queue, queued) = mpsc::channel(config.queue_requests_max);
        let limits = Limits {
            queue_bytes: config.queue_bytes_max,
            in_flight: config.requests_in_flight_max,
            frame_bytes: config.frame_bytes_max,
        };
        let closing = CloseOnDrop { shared: Arc::clone(&shared) };
        let task = tokio::spawn(async move {
            let reason = run(stream, incoming, queued, &closing.shared, limits.frame_bytes).await;
            closing.shared.close(&reason);
        });
        Ok(Connection { queue, shared, welcome, limits, task: task.abort_handle() })
    }

    /// Who answers on the other side.
    pub(crate) fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    /// Whether it is over.
    pub(crate) fn is_closed(&self) -> bool {
        self.shared.state.lock().closed.is_some()
    }

    /// Sends a request and waits for its answer.
    pub(crate) async fn call(&self, service: u8, body: Bytes, deadline: Instant) -> Result<Bytes, CallError> {
        let (in_flight, mut answer) = self.enqueue(service, body)?;
        match timeout_at(deadline, &mut answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(self.shared.lost("the connection's task ended")),
            Err(_) => match in_flight.withdraw() {
                Some(false) => Err(self.shared.not_sent("the connection was busy until the deadline")),
                Some(true) => Err(self.shared.lost("no answer until the deadline")),
                // The answer came at the same moment.
                None => answer.try_recv().unwrap_or_else(|_| Err(self.shared.lost("no answer until the deadline"))),
            },
        }
    }

    fn enqueue(&self, service: u8, body: Bytes) -> Result<(InFlight<'_>, AnswerReceiver), CallError> {
        if body.len() > self.limits.frame_bytes {
            let limit = self.limits.frame_bytes;
            return Err(self.shared.not_sent(&format!("a request of {} bytes, the limit is {limit}", body.len())));
        }
        let (sender, answer) = oneshot::channel();
        let length = body.len();
        let mut state = self.shared.state.lock();
        if let Some(reason) = &state.closed {
            return Err(self.shared.not_sent(reason));
        }
        if state.pending.len() >= self.limits.in_flight || state.queued_bytes + length > self.limits.queue_bytes {
            return Err(self.shared.not_sent("too many requests are waiting on this connection"));
        }
        state.request_last += 1;
        let request = state.request_last;
        if self.queue.try_send(Queued { request, service, body }).is_err() {
            return Err(self.shared.not_sent("the connection's queue is full"));
        }
        state.queued_bytes += length;
        state.pending.insert(request, Pending { sent: false, answer: sender });
        drop(state);
        Ok((InFlight { shared: &self.shared, request }, answer))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type AnswerReceiver = oneshot::Receiver<Result<Bytes, CallError>>;

/// A request that waits for its answer; dropping it forgets the request.
struct InFlight<'a> {
    shared: &'a Shared,
    request: u64,
}

impl InFlight<'_> {
    /// Gives up; says whether the request was sent, or `None` when its answer is there.
    fn withdraw(&self) -> Option<bool> {
        self.shared.state.lock().pending.remove(&self.request).map(|pending| pending.sent)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.withdraw();
    }
}

struct CloseOnDrop {
    shared: Arc<Shared>,
}

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.shared.close("the transport was stopped");
    }
}

impl Shared {
    fn not_sent(&self, reason: &str) -> CallError {
        CallError::NotSent { addr: self.addr.clone(), reason: reason.to_owned() }
    }

    fn lost(&self, reason: &str) -> CallError {
        CallError::Lost { addr: self.addr.clone(), reason: reason.to_owned() }
    }

    /// Answers everybody who waits; later requests are refused. The first reason stays.
    fn close(&self, reason: &str) {
        let mut state = self.state.lock();
        if state.closed.is_some() {
            return;
        }
        state.closed = Some(reason.to_owned());
        let pending = std::mem::take(&mut state.pending);
        drop(state);
        for Pending { sent, answer } in pending.into_values() {
            let _ = answer.send(Err(if sent { self.lost(reason) } else { self.not_sent(reason) }));
        }
    }

    /// Moves requests to the socket's buffer while that has room, but for those that were withdrawn.
    fn hand_over(&self, queued: &mut VecDeque<Queued>, outgoing: &mut Outgoing) {
        let mut state = self.state.lock();
        while outgoing.len() < OUTGOING_BYTES_MAX
            && let Some(Queued { request, service, body }) = queued.pop_front()
        {
            state.queued_bytes -= body.len();
            if let Some(pending) = state.pending.get_mut(&request) {
                pending.sent = true;
                outgoing.push(FrameKind::Request, service, request, body);
            }
        }
    }

    fn answer(&self, request: u64, result: Result<Bytes, CallError>) {
        let pending = self.state.lock().pending.remove(&request);
        if let Some(pending) = pending {
            let _ = pending.answer.send(result);
        }
    }
}

/// Reads and writes until something breaks; says what.
async fn run(
    mut stream: TcpStream,
    mut incoming: FrameBuffer,
    mut queue: mpsc::Receiver<Queued>,
    shared: &Shared,
    frame_bytes_max: usize,
) -> String {
    let (mut reader, mut writer) = stream.split();
    let mut outgoing = Outgoing::default();
    let mut arrived = Vec::with_capacity(REQUESTS_AT_ONCE);
    let mut queued = VecDeque::with_capacity(REQUESTS_AT_ONCE);
    loop {
        if !queued.is_empty() && outgoing.len() < OUTGOING_BYTES_MAX {
            shared.hand_over(&mut queued, &mut outgoing);
        }
        match dispatch(&mut incoming, shared, frame_bytes_max) {
            Ok(()) => {}
            Err(reason) => return reason,
        }
        tokio::select! {
            count = queue.recv_many(&mut arrived, REQUESTS_AT_ONCE), if queued.is_empty() => {
                if count == 0 {
                    return "the transport was stopped".to_owned();
                }
                queued.extend(arrived.drain(..));
            }
            written = outgoing.write_to(&mut writer), if !outgoing.is_empty() => {
                if let Err(error) = written {
                    return format!("the connection broke: {error}");
                }
            }
            read = reader.read_buf(incoming.room()) => match read {
                Ok(0) => return "the peer closed the connection".to_owned(),
                Ok(_) => {}
                Err(error) => return format!("the connection broke: {error}"),
            },
        }
    }
}

/// Hands whole answers to their callers.
fn dispatch(incoming: &mut FrameBuffer, shared: &Shared, frame_bytes_max: usize) -> Result<(), String> {
    while let Some(frame) = incoming.take_frame(frame_bytes_max).map_err(|error| error.to_string())? {
        match frame.kind {
            FrameKind::Answer => shared.answer(frame.request, Ok(frame.body)),
            FrameKind::Failed => shared.answer(frame.request, Err(shared.lost(&text(&frame.body)))),
            FrameKind::Refused => return Err(text(&frame.body)),
            kind => return Err(format!("the peer sent a frame out of order ({kind:?})")),
        }
    }
    Ok(())
}

async fn read_welcome(addr: &str, stream: &mut TcpStream, incoming: &mut FrameBuffer) -> Result<Welcome, CallError> {
    let not_sent = |reason: String| CallError::NotSent { addr: addr.to_owned(), reason };
    let mut greeted = false;
    loop {
        if !greeted && let Some(preamble) = incoming.take_preamble() {
            frame::check_preamble(preamble)
                .map_err(|error| not_sent(format!("what answers is no log node: {error}")))?;
            greeted = true;
        }
        if greeted
            && let Some(frame) = incoming.take_frame(frame::HANDSHAKE_BYTES_MAX).map_err(|e| not_sent(e.to_string()))?
        {
            return match frame.kind {
                FrameKind::Welcome => codec::decode(&frame.body).map_err(|error| not_sent(error.to_string())),
                FrameKind::Refused => Err(CallError::Refused {
                    addr: addr.to_owned(),
                    reason: text(&frame.body),
                    history: frame::history_in_refusal(frame.request),
                }),
                kind => Err(not_sent(format!("the peer sent a frame out of order ({kind:?})"))),
            };
        }
        match stream.read_buf(incoming.room()).await {
            Ok(0) => return Err(not_sent("the peer closed the connection during the handshake".to_owned())),
            Ok(_) => {}
            Err(error) => return Err(not_sent(format!("handshake: {error}"))),
        }
    }
}

fn text(body: &Bytes) -> String {
    String::from_utf8_lossy(body).into_owned()
}
