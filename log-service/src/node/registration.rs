//! Serving nodes register in the meta log; the cluster is created there, too.
//!
//! * A name is one process's as long as that process repeats its registration: the leader of the meta group remembers who
//!   did, and refuses another one under the same name. See [`Names`].
//! * A node that does not lead the meta group passes a registration on, once: what came from a log node is not passed on
//!   again, so that two nodes of different minds do not play ball.
//! * Source: DESIGN D12.

use super::meta::MetaCommand;
use super::shared::{Running, Shared};
use crate::consensus::Leading;
use duramen_common::protocol::{LogRefusal, RegisterRequest, service};
use duramen_common::{NodeId, Offset, PartitionId, RequestId, codec};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

const TIMEOUT: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(200);
const NAME_BYTES_MAX: usize = 256;

/// Registers a serving node; answers when it stands in this node's meta state.
pub(super) async fn register(
    shared: &Arc<Shared>,
    request: RegisterRequest,
    passed_on: bool,
) -> Result<(), LogRefusal> {
    let serving_node = &request.serving_node;
    let size = serving_node.name.len().max(serving_node.http_addr.len());
    if size > NAME_BYTES_MAX {
        let (size, limit) = (size as u64, NAME_BYTES_MAX as u64);
        return Err(LogRefusal::TooLarge { what: "name or address of a serving node".to_owned(), size, limit });
    }
    let running = shared.running().ok_or_else(|| LogRefusal::Unavailable { reason: shared.stage() })?;
    let leading = *running.meta.group.leading().borrow();
    match leading {
        Leading::Here { .. } => {
            let lease = Duration::from_millis(shared.config.limits.serving_name_ms);
            shared.names.lock().take(&request, lease, Instant::now())?;
            if running.meta_view.is_registered(serving_node) {
                return Ok(());
            }
            append(shared, &running, request).await
        }
        Leading::Elsewhere { leader: Some(leader) } if !passed_on => pass_on(shared, leader, request).await,
        Leading::Elsewhere { leader } => Err(LogRefusal::NotLeader { partition: PartitionId::META, leader }),
    }
}

async fn append(shared: &Shared, running: &Running, request: RegisterRequest) -> Result<(), LogRefusal> {
    let command = MetaCommand::RegisterServingNode { serving_node: request.serving_node };
    let id = RequestId::from_bits(shared.seams.entropy.bits());
    let set = command.to_set(id).map_err(|error| LogRefusal::Invalid { reason: error.to_string() })?;
    let known_end = running.meta.log.ends().committed_end;
    running.meta.batcher.append(set, known_end, TIMEOUT).await.map(|_| ())
}

async fn pass_on(shared: &Shared, leader: NodeId, request: RegisterRequest) -> Result<(), LogRefusal> {
    let unknown = LogRefusal::NotLeader { partition: PartitionId::META, leader: Some(leader) };
    let Some(peer) = shared.peers.get(&leader) else { return Err(unknown) };
    let body = codec::encode(&request);
    let answer = match shared.transport.call(peer, service::REGISTER, body, TIMEOUT).await {
        Ok(answer) => answer,
        Err(error) if error.is_definite() => return Err(unknown),
        Err(error) => return Err(LogRefusal::OutcomeUnknown { reason: error.to_string() }),
    };
    codec::decode::<Result<(), LogRefusal>>(&answer)
        .map_err(|error| LogRefusal::OutcomeUnknown { reason: error.to_string() })?
}

/// Sees to it that the meta log begins with the cluster's creation: whoever leads it writes that, under one id, so that
/// it stands there once.
pub(super) async fn create_cluster(shared: &Arc<Shared>, running: &Running) {
    let command = MetaCommand::CreateCluster {
        history: running.cluster.history,
        partitions: running.cluster.partitions,
        dedup_window: running.cluster.dedup_window,
        log_nodes: running.cluster.members.clone(),
    };
    let set = command
        .to_set(RequestId::of_idempotency_key(b"create cluster", 0))
        .expect("a cluster's description is within the limits of a record");
    while !running.meta_view.is_created() {
        let mut leading = running.meta.group.leading();
        let here = leading.wait_for(|leading| matches!(leading, Leading::Here { .. }));
        let leads = matches!(timeout(RETRY, here).await, Ok(Ok(_)));
        if leads && running.meta.tail.ask().await.is_ok() && !running.meta_view.is_created() {
            let appended = running.meta.batcher.append(set.clone(), Offset::ZERO, TIMEOUT).await;
            if let Err(refusal) = appended {
                tracing::debug!(node = %shared.config.node, %refusal, "the cluster is not created yet");
                sleep(RETRY).await;
            }
        }
    }
}
