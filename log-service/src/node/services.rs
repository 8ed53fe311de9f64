//! What a log node answers over the framed transport: the log's protocol for everybody, consensus, formation and repair
//! for the other log nodes.
//!
//! * Invariant: the services between log nodes answer log nodes only; a request is decoded from a bounded body, and
//!   what does not decode is refused by name.
//! * Source: docs/formats.md "Log protocol", "Consensus messages".

use super::formation::{self, Description, SERVICE_DESCRIBE};
use super::peer_book::PeerReport;
use super::peers::{self, SERVICE_REPORT};
use super::repair::{SERVICE_ENTRIES, answer_entries};
use super::shared::{Running, Shared};
use super::start::LOOK_AGAIN;
use crate::consensus::PeerMessage;
use bytes::Bytes;
use duramen_common::NodeId;
use duramen_common::codec::{self, CodecError};
use duramen_common::protocol::{
    AppendRequest, ClusterInfo, ClusterRequest, FetchRequest, LogRefusal, RegisterRequest, TailRequest, service,
};
use duramen_transport::{Hello, HelloRefusal, Role, Service, Welcome};
use futures_util::future::BoxFuture;
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// How long those who ask the founder of a cluster wait for it to be founded.
const FOUNDING_WAIT: Duration = Duration::from_millis(500);

/// The services of one node.
pub(super) struct Services(pub(super) Arc<Shared>);

impl Service for Services {
    fn greet(&self, hello: &Hello) -> Result<Welcome, HelloRefusal> {
        let admitted = formation::admit(&self.0.identity(), &self.0.configured(), hello);
        if let Err(refusal) = &admitted {
            let caller = match &hello.role {
                Role::LogNode { node, store } => format!("log node {node} with folder {store}"),
                Role::Client { name } => format!("client {name}"),
            };
            if self.0.turned_away.lock().is_new(&caller, Instant::now()) {
                tracing::error!(node = %self.0.config.node, %caller, reason = %refusal, "a caller is refused");
            }
        }
        admitted
    }

    fn handle(&self, caller: &Hello, service: u8, body: Bytes) -> BoxFuture<'static, Bytes> {
        let shared = Arc::clone(&self.0);
        let log_node = match caller.role {
            Role::LogNode { node, .. } => Some(node),
            Role::Client { .. } => None,
        };
        Box::pin(async move { handle(&shared, log_node, service, body).await })
    }
}

/// `log_node` is the caller where that is a log node.
async fn handle(shared: &Arc<Shared>, log_node: Option<NodeId>, service: u8, body: Bytes) -> Bytes {
    match service {
        service::APPEND => encoded(append(shared, &body).await),
        service::FETCH => fetch(shared, &body).await,
        service::TAIL => encoded(tail(shared, &body).await),
        service::CLUSTER => encoded(cluster(shared, &body)),
        service::REGISTER => encoded(register(shared, log_node.is_some(), &body).await),
        _ => match log_node {
            Some(caller) => handle_peer(shared, caller, service, &body).await,
            None => encoded::<()>(Err(invalid("this service is for log nodes"))),
        },
    }
}

async fn handle_peer(shared: &Arc<Shared>, caller: NodeId, service: u8, body: &Bytes) -> Bytes {
    match service {
        _ if PeerMessage::is_service(service) => consensus(shared, caller, service, body).await,
        SERVICE_DESCRIBE => codec::encode(&describe(shared).await),
        SERVICE_ENTRIES => answer_entries(shared, body).await,
        SERVICE_REPORT => match codec::decode::<PeerReport>(body) {
            Ok(report) => codec::encode(&peers::exchange(shared, caller, report)),
            Err(error) => encoded::<()>(Err(undecodable(&error))),
        },
        _ => encoded::<()>(Err(invalid("there is no such service"))),
    }
}

fn encoded<T: Serialize>(answer: Result<T, LogRefusal>) -> Bytes {
    codec::encode(&answer)
}

fn invalid(reason: &str) -> LogRefusal {
    LogRefusal::Invalid { reason: reason.to_owned() }
}

fn undecodable(error: &CodecError) -> LogRefusal {
    LogRefusal::Invalid { reason: error.to_string() }
}

fn running(shared: &Shared) -> Result<Arc<Running>, LogRefusal> {
    shared.running().ok_or_else(|| LogRefusal::Unavailable { reason: shared.stage() })
}

async fn append(shared: &Shared, body: &Bytes) -> Result<duramen_common::protocol::AppendAnswer, LogRefusal> {
    let (request, records) = codec::decode_with_payload::<AppendRequest>(body).map_err(|error| undecodable(&error))?;
    running(shared)?.partition(request.partition)?.append(request, records).await
}

async fn fetch(shared: &Shared, body: &Bytes) -> Bytes {
    let fetched = async {
        let request: FetchRequest = codec::decode(body).map_err(|error| undecodable(&error))?;
        running(shared)?.partition(request.partition)?.fetch(&request).await
    };
    match fetched.await {
        Ok((answer, batches)) => codec::encode_with_payloads(&Ok::<_, LogRefusal>(answer), &batches),
        Err(refusal) => codec::encode_with_payload(&Err::<duramen_common::protocol::FetchAnswer, _>(refusal), &[]),
    }
}

async fn tail(shared: &Shared, body: &Bytes) -> Result<duramen_common::protocol::TailAnswer, LogRefusal> {
    let request: TailRequest = codec::decode(body).map_err(|error| undecodable(&error))?;
    running(shared)?.partition(request.partition)?.tail(request.timeout_ms).await
}

fn cluster(shared: &Shared, body: &Bytes) -> Result<ClusterInfo, LogRefusal> {
    let ClusterRequest {} = codec::decode(body).map_err(|error| undecodable(&error))?;
    shared.cluster_info()
}

async fn register(shared: &Arc<Shared>, from_log_node: bool, body: &Bytes) -> Result<(), LogRefusal> {
    let request: RegisterRequest = codec::decode(body).map_err(|error| undecodable(&error))?;
    super::registration::register(shared, request, from_log_node).await
}

/// What this node says about itself. The one that founds the cluster has those who ask wait for it, for a while: they
/// would only ask again.
async fn describe(shared: &Shared) -> Description {
    let is_founder = shared.configured().first() == Some(&shared.config.node);
    let founding = async {
        while is_founder && shared.identity().cluster.is_none() {
            sleep(LOOK_AGAIN).await;
        }
    };
    let _ = timeout(FOUNDING_WAIT, founding).await;
    shared.description()
}

/// Answers a message of consensus. A question for a vote waits for groups that are about to start, for as long as the
/// candidate waits: nodes that form a cluster or start together need no second election.
async fn consensus(shared: &Shared, caller: NodeId, service: u8, body: &Bytes) -> Bytes {
    if PeerMessage::asks_for_vote(service) {
        if shared.book.lock().refuses_vote(shared.config.node, caller, Instant::now()) {
            let reason = format!("node {caller} cannot be called from node {}, and must not lead", shared.config.node);
            return PeerMessage::not_here(service, reason);
        }
        let starting = async {
            while shared.running().is_none() {
                sleep(LOOK_AGAIN).await;
            }
        };
        let _ = timeout(Duration::from_millis(shared.config.timings.election_ms_min), starting).await;
    }
    let Some(running) = shared.running() else { return PeerMessage::not_here(service, shared.stage()) };
    let message = match PeerMessage::decode(service, body) {
        Ok(message) => message,
        Err(reason) => return PeerMessage::not_here(service, reason),
    };
    let partition = message.partition();
    match running.any_partition(partition) {
        Some(here) => here.group.answer(message, |need| running.store.has_room(need)).await,
        None => PeerMessage::not_here(service, format!("there is no partition {partition} here")),
    }
}
