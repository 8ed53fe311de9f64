//! What stands between processes and sockets: framed TCP between nodes, and the acceptance of HTTP (`http`).
//!
//! Framed transport: one long-lived connection a peer pair, many requests in flight on it, each answered by number.
//!
//! * In: a peer, a service number, a body. Out: the answer's body, or an error that says whether the request may have
//!   been handled.
//! * The seam for everything between processes of a cluster: [`Transport`] calls, [`Service`] answers. TCP stands behind
//!   it here; Maelstrom's messages and a simulated network can.
//! * Invariant: nothing is decoded before it is bounded; a peer that says the wrong thing is told why and cut off.
//! * Deliberately absent: retries, leaders, what bodies mean.
//! * Source: DESIGN D10; docs/formats.md "Frames between processes".

mod callers;
mod connection;
mod endpoint;
mod exchange;
pub mod frame;
pub mod http;
pub mod memory;
mod outgoing;
mod server;
mod sockets;
mod tcp_client;
mod times;

pub use endpoint::{Endpoint, HelloFn, MemoryEndpoint, Server, TcpEndpoint};
pub use memory::{Link, MemoryNetwork, MemoryTransport};
pub use server::{EXTRA_CALLERS_MAX, TcpServer, TcpServerConfig, TcpServerCounts, serve};
pub use tcp_client::{TcpTransport, TcpTransportConfig};

use bytes::Bytes;
use duramen_common::{HistoryId, NodeId, StoreId};
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Who opens a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Another log node, with its folder's id.
    LogNode {
        /// Its number.
        node: NodeId,
        /// Its store.
        store: StoreId,
    },
    /// A client of the log: a serving node or a program.
    Client {
        /// For logs and metrics only.
        name: String,
    },
}

/// The first message on a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Who calls.
    pub role: Role,
    /// The history that the caller belongs to; `None` when it belongs to none yet.
    pub history: Option<HistoryId>,
}

/// The answer to a hello that is accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// Who answers.
    pub node: NodeId,
    /// Its store.
    pub store: StoreId,
    /// Its history; `None` while its cluster is being formed.
    pub history: Option<HistoryId>,
}

/// Why a hello is not accepted; told to the caller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{reason}")]
pub struct HelloRefusal {
    /// One sentence: what is wrong and what to do.
    pub reason: String,
}

/// Whom to call.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Peer {
    /// `host:port`.
    pub addr: String,
    /// Who must answer there, when it matters; anybody else is refused.
    pub node: Option<NodeId>,
}

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The request was not sent: it has certainly not been handled.
    #[error("cannot reach {addr}: {reason}")]
    NotSent {
        /// Where.
        addr: String,
        /// Why.
        reason: String,
    },
    /// The peer refused the connection by name: it has certainly not been handled.
    #[error("{addr} refuses: {reason}")]
    Refused {
        /// Where.
        addr: String,
        /// Its reason.
        reason: String,
        /// The history that the peer is of, when it is another than the caller's.
        history: Option<HistoryId>,
    },
    /// The request was sent, and no answer came in time or the connection broke: it may have been handled.
    #[error("no answer from {addr}: {reason}")]
    Lost {
        /// Where.
        addr: String,
        /// Why.
        reason: String,
    },
}

impl CallError {
    /// Whether the request has certainly not been handled.
    #[must_use]
    pub const fn is_definite(&self) -> bool {
        !matches!(self, Self::Lost { .. })
    }
}

/// Calls peers. Cheap to share; connections are opened when they are first needed and again after they broke.
pub trait Transport: Send + Sync + 'static {
    /// Sends a request and waits for its answer, at most `timeout` (opening the connection included).
    fn call(&self, to: &Peer, service: u8, body: Bytes, timeout: Duration) -> BoxFuture<'_, Result<Bytes, CallError>>;

    /// Whom the connection to `to` last reached: for telling histories apart. `None` before the first welcome.
    fn welcome(&self, to: &Peer) -> Option<Welcome>;
}

/// Answers callers.
pub trait Service: Send + Sync + 'static {
    /// Decides whether a caller may come in. Must be free of effects: it may be asked more than once a caller.
    fn greet(&self, hello: &Hello) -> Result<Welcome, HelloRefusal>;

    /// Answers one request. The body's meaning, and that of the answer, is between service and caller: refusals travel
    /// inside the answer. Many are under way at once; dropping the future when the caller is gone must be harmless.
    fn handle(&self, caller: &Hello, service: u8, body: Bytes) -> BoxFuture<'static, Bytes>;
}

/// The handshake of a network without connections: asks the service about a caller, and has both sides' histories agree.
/// Nothing may be handled for a caller that is refused here, so that the refusal is definite.
pub fn introduce(service: &dyn Service, hello: &Hello, addr: &str) -> Result<Welcome, CallError> {
    let welcome = service.greet(hello).map_err(|HelloRefusal { reason }| CallError::Refused {
        addr: addr.to_owned(),
        reason,
        history: history_met(service, hello),
    })?;
    check_history(addr, hello, &welcome)?;
    Ok(welcome)
}

/// Refuses when somebody else answers than the one wanted.
pub fn check_node(addr: &str, wanted: Option<NodeId>, welcome: &Welcome) -> Result<(), CallError> {
    match wanted {
        Some(node) if node != welcome.node => {
            let reason = format!("node {} answers there, not node {node}: check the addresses", welcome.node);
            Err(CallError::Refused { addr: addr.to_owned(), reason, history: None })
        }
        _ => Ok(()),
    }
}

/// Refuses when both sides have a history and it is not the same. The server judges too; neither relies on the other.
fn check_history(addr: &str, hello: &Hello, welcome: &Welcome) -> Result<(), CallError> {
    match (hello.history, welcome.history) {
        (Some(ours), Some(theirs)) if ours != theirs => {
            let reason = format!("node {} is of history {theirs}, this process of {ours}", welcome.node);
            Err(CallError::Refused { addr: addr.to_owned(), reason, history: Some(theirs) })
        }
        _ => Ok(()),
    }
}

/// The history that a refused caller has met, when it is another than its own, so that it can tell that from other
/// reasons: what the service would say to the same caller without a history.
fn history_met(service: &dyn Service, refused: &Hello) -> Option<HistoryId> {
    let ours = refused.history?;
    let welcome = service.greet(&Hello { history: None, ..refused.clone() }).ok()?;
    welcome.history.filter(|&theirs| theirs != ours)
}
