//! `TcpTransport`: calls over TCP. One connection a peer address, opened when first needed, opened again after it broke.
//!
//! * In: calls to any address, from any task. Out: answers, or what is certain about a request without one.
//! * A failed attempt to connect answers all who wait for it, and calls within the backoff behind it fail at once with
//!   the same reason: callers decide about retrying, and no number of them makes a storm.
//! * Invariant: at most one attempt to connect a peer is under way; it goes on when the caller that began it is gone.
//! * Deliberately absent: retries, name caching, more than one connection a peer.
//! * Source: DESIGN D10.

use crate::connection::Connection;
use crate::{CallError, Hello, Peer, Transport, Welcome, check_node};
use bytes::Bytes;
use duramen_common::limits;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

/// Limits of a [`TcpTransport`].
#[derive(Clone, Debug)]
pub struct TcpTransportConfig {
    /// How long connecting and the handshake may take together. Unit: milliseconds.
    pub connect_timeout_ms: u64,
    /// For how long after a failed attempt, or after opening a connection that broke, no new one is made. Unit:
    /// milliseconds.
    pub reconnect_backoff_ms: u64,
    /// Most requests a connection that wait to be written; beyond, a call is not sent.
    pub queue_requests_max: usize,
    /// Most bytes a connection that wait to be written; beyond, a call is not sent. Unit: bytes.
    pub queue_bytes_max: usize,
    /// Most requests a connection without an answer; beyond, a call is not sent.
    pub requests_in_flight_max: usize,
    /// Largest body of a request or an answer. Unit: bytes.
    pub frame_bytes_max: usize,
    /// Most addresses that are remembered; beyond, a call to a new one is not sent.
    pub peers_max: usize,
}

impl Default for TcpTransportConfig {
    fn default() -> TcpTransportConfig {
        TcpTransportConfig {
            connect_timeout_ms: 2_000,
            reconnect_backoff_ms: 50,
            queue_requests_max: 4_096,
            queue_bytes_max: 64 * 1024 * 1024,
            requests_in_flight_max: 65_536,
            frame_bytes_max: limits::FRAME_BYTES_MAX,
            peers_max: 1_024,
        }
    }
}

/// Calls peers over TCP.
pub struct TcpTransport {
    shared: Arc<Shared>,
    peers: Mutex<HashMap<String, Arc<Slot>>>,
}

struct Shared {
    config: TcpTransportConfig,
    hello: Box<dyn Fn() -> Hello + Send + Sync>,
}

/// What is known of one address.
struct Slot {
    addr: String,
    state: Mutex<SlotState>,
}

struct SlotState {
    link: Link,
    /// Whom the last connection reached.
    welcome: Option<Welcome>,
    /// No new attempt before this.
    retry_at: Instant,
    /// Why the last attempt failed.
    failure: Option<CallError>,
}

enum Link {
    Idle,
    Connecting(watch::Receiver<Option<Outcome>>),
    Open(Arc<Connection>),
}

type Outcome = Result<Arc<Connection>, CallError>;

impl TcpTransport {
    /// A transport without connections. `hello` is asked each time one is opened. Calls must be made within a tokio
    /// runtime.
    #[must_use]
    pub fn new(config: TcpTransportConfig, hello: Box<dyn Fn() -> Hello + Send + Sync>) -> TcpTransport {
        TcpTransport { shared: Arc::new(Shared { config, hello }), peers: Mutex::default() }
    }

    fn slot(&self, addr: &str) -> Result<Arc<Slot>, CallError> {
        let mut peers = self.peers.lock();
        if let Some(slot) = peers.get(addr) {
            return Ok(Arc::clone(slot));
        }
        if peers.len() >= self.shared.config.peers_max {
            let reason = format!("{} other addresses are in use, the limit", peers.len());
            return Err(CallError::NotSent { addr: addr.to_owned(), reason });
        }
        let slot = Arc::new(Slot::new(addr));
        peers.insert(addr.to_owned(), Arc::clone(&slot));
        Ok(slot)
    }
}

impl Transport for TcpTransport {
    fn call(&self, to: &Peer, service: u8, body: Bytes, timeout: Duration) -> BoxFuture<'_, Result<Bytes, CallError>> {
        let slot = self.slot(&to.addr);
        let wanted = to.node;
        let deadline = Instant::now() + timeout;
        Box::pin(async move {
            let slot = slot?;
            let connection = slot.connection(&self.shared, deadline).await?;
            check_node(&slot.addr, wanted, connection.welcome())?;
            connection.call(service, body, deadline).await
        })
    }

    fn welcome(&self, to: &Peer) -> Option<Welcome> {
        let slot = self.peers.lock().get(&to.addr).map(Arc::clone)?;
        let state = slot.state.lock();
        state.welcome.clone()
    }
}

impl Slot {
    fn new(addr: &str) -> Slot {
        let state = SlotState { link: Link::Idle, welcome: None, retry_at: Instant::now(), failure: None };
        Slot { addr: addr.to_owned(), state: Mutex::new(state) }
    }

    /// The open connection, or the one that is being opened.
    async fn connection(self: &Arc<Slot>, shared: &Arc<Shared>, deadline: Instant) -> Outcome {
        let mut outcome = match self.open_or_connecting(shared)? {
            Link::Open(connection) => return Ok(connection),
            Link::Connecting(outcome) => outcome,
            Link::Idle => return Err(self.not_sent("not connected")),
        };
        match timeout_at(deadline, outcome.wait_for(Option::is_some)).await {
            Ok(Ok(outcome)) => outcome.clone().unwrap_or_else(|| Err(self.not_sent("not connected"))),
            Ok(Err(_)) => Err(self.not_sent("the runtime is stopping")),
            Err(_) => Err(self.not_sent("still connecting at the deadline")),
        }
    }

    /// Begins to connect unless that is done, under way, or was tried a moment ago.
    fn open_or_connecting(self: &Arc<Slot>, shared: &Arc<Shared>) -> Result<Link, CallError> {
        let mut state = self.state.lock();
        match &state.link {
            Link::Open(connection) if !connection.is_closed() => return Ok(Link::Open(Arc::clone(connection))),
            Link::Connecting(outcome) if outcome.has_changed().is_ok() => {
                return Ok(Link::Connecting(outcome.clone()));
            }
            _ => {}
        }
        if Instant::now() < state.retry_at {
            return Err(state.failure.clone().unwrap_or_else(|| self.not_sent("the connection broke a moment ago")));
        }
        let (sender, outcome) = watch::channel(None);
        state.link = Link::Connecting(outcome.clone());
        drop(state);
        let (slot, shared) = (Arc::clone(self), Arc::clone(shared));
        tokio::spawn(async move {
            let outcome = slot.connect(&shared).await;
            slot.note(&shared.config, &outcome);
            let _ = sender.send(Some(outcome));
        });
        Ok(Link::Connecting(outcome))
    }

    async fn connect(&self, shared: &Shared) -> Outcome {
        let opening = Connection::open(&self.addr, &shared.config, (shared.hello)());
        match timeout(Duration::from_millis(shared.config.connect_timeout_ms), opening).await {
            Ok(connection) => connection.map(Arc::new),
            Err(_) => Err(self.not_sent("cannot connect in time")),
        }
    }

    fn note(&self, config: &TcpTransportConfig, outcome: &Outcome) {
        let mut state = self.state.lock();
        state.retry_at = Instant::now() + Duration::from_millis(config.reconnect_backoff_ms);
        match outcome {
            Ok(connection) => {
                state.welcome = Some(connection.welcome().clone());
                state.failure = None;
                state.link = Link::Open(Arc::clone(connection));
            }
            Err(error) => {
                tracing::debug!(addr = %self.addr, %error, "cannot connect");
                state.failure = Some(error.clone());
                state.link = Link::Idle;
            }
        }
    }

    fn not_sent(&self, reason: &str) -> CallError {
        CallError::NotSent { addr: self.addr.clone(), reason: reason.to_owned() }
    }
}
