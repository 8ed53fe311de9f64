//! `MemoryNetwork`: the transport without sockets, for tests and simulation. Services stand under addresses; each
//! direction between two addresses can be cut.
//!
//! * In: calls. Out: what TCP would answer in the same situation, at once or at the call's deadline.
//! * A request, once it reached its service, runs to its end although its caller has given up, as on a real network;
//!   only taking the service away (`crash`) ends it.
//! * Invariant: time is tokio's, there is no randomness: a paused clock makes runs repeatable.
//! * Deliberately absent: delays and loss by chance, which a simulator adds by steering links.

use crate::{CallError, Hello, Peer, Service, Transport, Welcome, check_node, introduce};
use bytes::Bytes;
use duramen_common::limits::FRAME_BYTES_MAX;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout_at};

/// What happens to messages in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// They arrive.
    Open,
    /// They vanish: a call is lost at its deadline, whichever of its two directions is cut.
    Cut,
    /// Requests are turned away at once (a call is not sent); answers vanish.
    Refused,
}

/// Services by address, and the links between addresses. Cloning shares the network.
#[derive(Clone, Default)]
pub struct MemoryNetwork {
    shared: Arc<Mutex<Network>>,
}

#[derive(Default)]
struct Network {
    services: HashMap<String, Arc<Station>>,
    links: HashMap<(String, String), Link>,
}

struct Station {
    service: Arc<dyn Service>,
    /// Becomes true when the service is taken away.
    crashed: watch::Sender<bool>,
}

impl MemoryNetwork {
    /// An empty network.
    #[must_use]
    pub fn new() -> MemoryNetwork {
        MemoryNetwork::default()
    }

    /// Puts a service under an address; one that stood there crashes.
    pub fn register(&self, addr: &str, service: Arc<dyn Service>) {
        self.crash(addr);
        let station = Arc::new(Station { service, crashed: watch::Sender::new(false) });
        self.shared.lock().services.insert(addr.to_owned(), station);
    }

    /// Takes the service away: what it had under way ends, and the callers' requests are lost.
    pub fn crash(&self, addr: &str) {
        if let Some(station) = self.shared.lock().services.remove(addr) {
            station.crashed.send_replace(true);
        }
    }

    /// Decides what happens to messages in one direction from now on, those under way included.
    pub fn set_link(&self, from: &str, to: &str, link: Link) {
        self.shared.lock().links.insert((from.to_owned(), to.to_owned()), link);
    }

    /// Lets messages in one direction vanish.
    pub fn cut(&self, from: &str, to: &str) {
        self.set_link(from, to, Link::Cut);
    }

    /// Opens every link.
    pub fn heal(&self) {
        self.shared.lock().links.clear();
    }

    /// A transport whose calls come from `addr`. `hello` is asked at each call.
    #[must_use]
    pub fn transport(&self, addr: &str, hello: Box<dyn Fn() -> Hello + Send + Sync>) -> MemoryTransport {
        MemoryTransport { network: self.clone(), addr: addr.to_owned(), hello, welcomes: Mutex::default() }
    }

    fn link(&self, from: &str, to: &str) -> Link {
        let network = self.shared.lock();
        // The pair must be owned to be looked up; this is for tests.
        network.links.get(&(from.to_owned(), to.to_owned())).copied().unwrap_or(Link::Open)
    }

    fn station(&self, addr: &str) -> Option<Arc<Station>> {
        self.shared.lock().services.get(addr).map(Arc::clone)
    }
}

/// Calls services of a [`MemoryNetwork`].
pub struct MemoryTransport {
    network: MemoryNetwork,
    addr: String,
    hello: Box<dyn Fn() -> Hello + Send + Sync>,
    welcomes: Mutex<HashMap<String, Welcome>>,
}

impl Transport for MemoryTransport {
    fn call(&self, to: &Peer, service: u8, body: Bytes, timeout: Duration) -> BoxFuture<'_, Result<Bytes, CallError>> {
        let deadline = Instant::now() + timeout;
        let to = to.clone();
        Box::pin(async move { self.call_until(&to, service, body, deadline).await })
    }

    fn welcome(&self, to: &Peer) -> Option<Welcome> {
        self.welcomes.lock().get(&to.addr).cloned()
    }
}

impl MemoryTransport {
    async fn call_until(&self, to: &Peer, service: u8, body: Bytes, deadline: Instant) -> Result<Bytes, CallError> {
        let not_sent = |reason: String| CallError::NotSent { addr: to.addr.clone(), reason };
        let lost = |reason: &str| CallError::Lost { addr: to.addr.clone(), reason: reason.to_owned() };
        if body.len() > FRAME_BYTES_MAX {
            return Err(not_sent(format!("a request of {} bytes, the limit is {FRAME_BYTES_MAX}", body.len())));
        }
        match self.network.link(&self.addr, &to.addr) {
            Link::Open => {}
            Link::Refused => return Err(not_sent("connection refused".to_owned())),
            Link::Cut => {
                sleep_until(deadline).await;
                return Err(lost("no answer until the deadline"));
            }
        }
        let station = self.network.station(&to.addr).ok_or_else(|| not_sent("nobody listens there".to_owned()))?;
        let hello = self.greet(to, station.service.as_ref())?;
        let (sender, answer) = oneshot::channel();
        tokio::spawn(async move {
            let mut crashed = station.crashed.subscribe();
            tokio::select! {
                body = station.service.handle(&hello, service, body) => { let _ = sender.send(body); }
                _ = crashed.wait_for(|&crashed| crashed) => {}
            }
        });
        let body = match timeout_at(deadline, answer).await {
            Ok(Ok(body)) => body,
            Ok(Err(_)) => return Err(lost("the peer closed the connection")),
            Err(_) => return Err(lost("no answer until the deadline")),
        };
        if self.network.link(&to.addr, &self.addr) != Link::Open {
            sleep_until(deadline).await;
            return Err(lost("no answer until the deadline"));
        }
        if body.len() > FRAME_BYTES_MAX {
            return Err(lost("the answer is over the limit"));
        }
        Ok(body)
    }

    /// The handshake, as a connection would begin with it.
    fn greet(&self, to: &Peer, service: &dyn Service) -> Result<Hello, CallError> {
        let hello = (self.hello)();
        let welcome = introduce(service, &hello, &to.addr)?;
        self.welcomes.lock().insert(to.addr.clone(), welcome.clone());
        check_node(&to.addr, to.node, &welcome)?;
        Ok(hello)
    }
}
