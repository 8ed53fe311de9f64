//! Wire: how what runs on a host calls and is called: the framed transport and HTTP, over the simulated network.
//!
//! * In: calls. Out: what TCP would answer in the same situation. A call whose deadline passes is lost; one that nobody
//!   took is not sent.
//! * A wire belongs to one life of a host: when that ends, nothing comes or goes any more.
//! * Source: DESIGN D10, D13; `duramen_transport::memory`.

use super::gate::Gate;
use super::network::{HostId, Network};
use super::packet::{HttpLoss, Load, Packet, Place};
use bytes::Bytes;
use duramen_common::limits::FRAME_BYTES_MAX;
use duramen_transport::{
    CallError, Endpoint, HelloFn, Peer, Server, Service, Transport, Welcome, check_node, introduce,
};
use futures_util::future::BoxFuture;
use hyper::{Request, Response};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

/// How many pieces of a stream wait for their reader.
const PIECES_MAX: usize = 1_024;

enum Pending {
    Call(oneshot::Sender<Result<(Welcome, Bytes), CallError>>),
    Http(oneshot::Sender<HttpReply>),
    Stream(mpsc::Sender<Bytes>),
}

/// An answer, and the rest of its body where that streams.
pub type HttpReply = Result<(Response<Bytes>, Option<Stream>), HttpLoss>;

struct Shared {
    network: Network,
    place: Place,
    gate: Gate,
    pending: Mutex<BTreeMap<u64, Pending>>,
    service: Mutex<Option<Arc<dyn Service>>>,
}

/// What a host in one of its lives is reached by. Cloning shares it.
#[derive(Clone)]
pub struct Wire {
    shared: Arc<Shared>,
}

impl Wire {
    /// Of a host that has begun to live.
    #[must_use]
    pub fn new(network: Network, place: Place, gate: Gate) -> Wire {
        let (pending, service) = (Mutex::default(), Mutex::default());
        Wire { shared: Arc::new(Shared { network, place, gate, pending, service }) }
    }

    /// The network.
    #[must_use]
    pub fn network(&self) -> &Network {
        &self.shared.network
    }

    /// Ends it: nobody is answered, and nobody waits any more. What it refers to refers back to it, and would stay.
    pub fn shut(&self) {
        let service = self.shared.service.lock().take();
        let pending = std::mem::take(&mut *self.shared.pending.lock());
        drop((service, pending));
    }

    /// Sends, unless the host has died.
    pub fn send(&self, to: HostId, to_life: Option<u32>, load: Load) {
        if self.shared.gate.passes() {
            self.shared.network.send(Packet { from: self.shared.place, to, to_life, load });
        }
    }

    /// A transport for what runs here.
    #[must_use]
    pub fn transport(&self, hello: HelloFn) -> Arc<dyn Transport> {
        Arc::new(SimTransport { wire: self.clone(), hello, welcomes: Mutex::default() })
    }

    /// Takes a call's answer, or a piece of one. Requests are the host's.
    pub fn take(&self, from: HostId, load: Load) {
        let call = load.call();
        let mut pending = self.shared.pending.lock();
        match (load, pending.remove(&call)) {
            (Load::Answer { outcome, .. }, Some(Pending::Call(caller))) => {
                // A caller that has gone needs no answer.
                let _ = caller.send(outcome);
            }
            (Load::HttpAnswer { answer, streams, .. }, Some(Pending::Http(caller))) => {
                let pieces = streams.then(|| {
                    let (sender, pieces) = mpsc::channel(PIECES_MAX);
                    pending.insert(call, Pending::Stream(sender));
                    pieces
                });
                drop(pending);
                let stream = pieces.map(|pieces| Stream { wire: self.clone(), to: from, call, pieces });
                let _ = caller.send(answer.map(|answer| (*answer, stream)));
            }
            // A reader that cannot keep up loses its stream.
            (Load::Piece { bytes: Some(bytes), .. }, Some(Pending::Stream(reader)))
                if reader.try_send(bytes.clone()).is_ok() =>
            {
                pending.insert(call, Pending::Stream(reader));
            }
            _ => {}
        }
    }

    /// Answers a call of the framed transport. Within the host's runtime.
    pub fn serve(&self, from: Place, load: Load) {
        let Load::Request { call, hello, peer, service, body } = load else { return };
        let wire = self.clone();
        tokio::spawn(async move {
            let station = wire.shared.service.lock().clone();
            let outcome = match station {
                None => {
                    let reason = "nobody listens there".to_owned();
                    Err(CallError::NotSent { addr: peer.addr.clone(), reason })
                }
                Some(station) => match introduce(&*station, &hello, &peer.addr)
                    .and_then(|welcome| check_node(&peer.addr, peer.node, &welcome).map(|()| welcome))
                {
                    Ok(welcome) => Ok((welcome, station.handle(&hello, service, body).await)),
                    Err(error) => Err(error),
                },
            };
            wire.send(from.host, Some(from.life), Load::Answer { call, outcome });
        });
    }

    /// Sends an HTTP request and waits for its answer, at most so long.
    pub async fn http(&self, to: HostId, request: Request<Bytes>, timeout: Duration) -> HttpReply {
        let call = self.shared.network.next_call();
        let (sender, answer) = oneshot::channel();
        self.shared.pending.lock().insert(call, Pending::Http(sender));
        let mut ticket = Ticket { wire: self, call, told: Some(to) };
        self.send(to, None, Load::Http { call, request: Box::new(request) });
        match tokio::time::timeout(timeout, answer).await {
            Ok(Ok(reply)) => {
                ticket.told = None;
                reply
            }
            Ok(Err(_)) | Err(_) => Err(HttpLoss::Broken),
        }
    }
}

/// Forgets a call whose caller goes without an answer.
struct Ticket<'a> {
    wire: &'a Wire,
    call: u64,
    /// Which server is told, as it is when a connection closes.
    told: Option<HostId>,
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut pending = self.wire.shared.pending.lock();
        if !matches!(pending.get(&self.call), Some(Pending::Stream(_))) {
            pending.remove(&self.call);
        }
        drop(pending);
        if let Some(server) = self.told {
            self.wire.send(server, None, Load::Gone { call: self.call });
        }
    }
}

/// The rest of an answer, as it comes.
pub struct Stream {
    wire: Wire,
    to: HostId,
    call: u64,
    pieces: mpsc::Receiver<Bytes>,
}

impl Stream {
    /// The next piece; none at its end, also when it broke.
    pub async fn next(&mut self) -> Option<Bytes> {
        self.pieces.recv().await
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.wire.shared.pending.lock().remove(&self.call);
        self.wire.send(self.to, None, Load::Gone { call: self.call });
    }
}

/// Calls peers over the simulated network.
struct SimTransport {
    wire: Wire,
    hello: HelloFn,
    welcomes: Mutex<BTreeMap<String, Welcome>>,
}

impl Transport for SimTransport {
    fn call(&self, to: &Peer, service: u8, body: Bytes, timeout: Duration) -> BoxFuture<'_, Result<Bytes, CallError>> {
        let deadline = Instant::now() + timeout;
        let to = to.clone();
        Box::pin(async move { self.call_until(to, service, body, deadline).await })
    }

    fn welcome(&self, to: &Peer) -> Option<Welcome> {
        self.welcomes.lock().get(&to.addr).cloned()
    }
}

impl SimTransport {
    async fn call_until(&self, peer: Peer, service: u8, body: Bytes, deadline: Instant) -> Result<Bytes, CallError> {
        let addr = peer.addr.clone();
        let not_sent = |reason: &str| CallError::NotSent { addr: addr.clone(), reason: reason.to_owned() };
        if body.len() > FRAME_BYTES_MAX {
            return Err(not_sent("the request is over the limit"));
        }
        let shared = &self.wire.shared;
        let to = shared.network.host(&addr).ok_or_else(|| not_sent("there is no such host"))?;
        let call = shared.network.next_call();
        let (sender, answer) = oneshot::channel();
        shared.pending.lock().insert(call, Pending::Call(sender));
        let _ticket = Ticket { wire: &self.wire, call, told: None };
        self.wire.send(to, None, Load::Request { call, hello: (self.hello)(), peer, service, body });
        match timeout_at(deadline, answer).await {
            Ok(Ok(outcome)) => {
                let (welcome, body) = outcome?;
                self.welcomes.lock().insert(addr, welcome);
                Ok(body)
            }
            Ok(Err(_)) => Err(CallError::Lost { addr, reason: "the connection broke".to_owned() }),
            Err(_) => Err(CallError::Lost { addr, reason: "no answer until the deadline".to_owned() }),
        }
    }
}

/// A host's place in the network, for a log node.
pub struct SimEndpoint {
    /// The host's wire.
    pub wire: Wire,
    /// Its name.
    pub name: String,
}

impl Endpoint for SimEndpoint {
    fn transport(&self, hello: HelloFn) -> Arc<dyn Transport> {
        self.wire.transport(hello)
    }

    fn serve(self: Box<Self>, service: Arc<dyn Service>) -> Box<dyn Server> {
        *self.wire.shared.service.lock() = Some(service);
        self
    }
}

impl Server for SimEndpoint {
    fn addr(&self) -> String {
        self.name.clone()
    }

    fn shutdown(self: Box<Self>) -> BoxFuture<'static, ()> {
        *self.wire.shared.service.lock() = None;
        Box::pin(async {})
    }
}
