//! Peers: every log node calls every other once a second, and they tell each other what they know.
//!
//! * In: a running node. Out: the peer book kept up to date; problems logged and counted; leadership handed over by a leader
//!   that a majority of the other nodes cannot call.
//! * A node that cannot be called, and that the others can do without, gets no vote: [`PeerBook::refuses_vote`].
//! * Source: DESIGN D12; docs/adr/0018-identity-and-addresses.md.

use super::peer_book::{PeerBook, PeerReport, ReportedMember};
use super::problems::{Said, differences, led_without_majority, problems};
use super::shared::{Running, Shared};
use crate::consensus::Leading;
use duramen_common::protocol::service::PEER_FIRST;
use duramen_common::{NodeId, codec};
use duramen_transport::{CallError, Peer};
use futures_util::future::{join, join_all};
use std::convert::Infallible;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// [`PeerReport`] → [`PeerReport`].
pub(super) const SERVICE_REPORT: u8 = PEER_FIRST + 10;

/// Between two calls to one peer, and between two looks at what is known.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// How long one call may take.
const REPORT_TIMEOUT: Duration = Duration::from_secs(1);

/// What this node tells its peers.
pub(super) fn own_report(shared: &Shared) -> PeerReport {
    let member = |peer: &super::config::PeerConfig| ReportedMember {
        node: peer.node,
        rpc_addr: peer.rpc_addr.clone(),
        http_addr: peer.http_addr.clone(),
    };
    let running = shared.running();
    PeerReport {
        members: shared.config.peers.iter().map(member).collect(),
        cannot_call: shared.book.lock().cannot_call(Instant::now()),
        votes: running.is_some() && shared.failure.borrow().is_none(),
        without_majority: running.map(|running| led_without_majority(shared, &running)).unwrap_or_default(),
    }
}

/// Answers a peer's report with this node's own.
pub(super) fn exchange(shared: &Shared, from: NodeId, report: PeerReport) -> PeerReport {
    shared.book.lock().told(from, report, Instant::now());
    own_report(shared)
}

/// Runs until the node stops.
pub(super) async fn watch(shared: &Shared, running: &Running) -> Infallible {
    for difference in differences(&running.cluster, &shared.config.peers) {
        tracing::warn!(node = %shared.config.node, "{}", difference.text);
    }
    let others = running.cluster.members.iter().map(|member| member.node).filter(|&node| node != shared.config.node);
    let unreachable_after = Duration::from_millis(shared.config.limits.unreachable_ms_max);
    *shared.book.lock() = PeerBook::new(others.clone(), unreachable_after);
    let calling = join_all(others.map(|node| call_again_and_again(shared, node)));
    join(calling, look_again_and_again(shared, running)).await.1
}

async fn call_again_and_again(shared: &Shared, node: NodeId) -> Infallible {
    loop {
        let called = match shared.peers.get(&node) {
            Some(peer) => call(shared, peer).await,
            None => {
                Err(CallError::NotSent { addr: format!("node {node}"), reason: "`members` do not name it".to_owned() })
            }
        };
        let now = Instant::now();
        match called {
            Ok(report) => shared.book.lock().answered(node, report, now),
            Err(error) => {
                let is_refusal = matches!(error, CallError::Refused { .. });
                shared.book.lock().failed(node, error.to_string(), is_refusal, now);
            }
        }
        sleep(REPORT_EVERY).await;
    }
}

async fn call(shared: &Shared, peer: &Peer) -> Result<PeerReport, CallError> {
    let body = codec::encode(&own_report(shared));
    let answer = shared.transport.call(peer, SERVICE_REPORT, body, REPORT_TIMEOUT).await?;
    codec::decode(&answer).map_err(|error| CallError::Lost { addr: peer.addr.clone(), reason: error.to_string() })
}

async fn look_again_and_again(shared: &Shared, running: &Running) -> Infallible {
    let mut said = Said::default();
    loop {
        sleep(REPORT_EVERY).await;
        let found = problems(shared, running);
        said.log(shared.config.node, &found, Instant::now());
        shared.metrics.count_problems(&found);
        hand_over(shared, running).await;
    }
}

/// Hands over what is led here to those who cannot call this node, where they are a majority: whoever asks them for the
/// leader is sent to an address that nobody answers.
async fn hand_over(shared: &Shared, running: &Running) {
    let me = shared.config.node;
    let heirs = shared.book.lock().heirs(me, Instant::now());
    if heirs.is_empty() {
        return;
    }
    let led = running.all().filter(|partition| matches!(*partition.group.leading().borrow(), Leading::Here { .. }));
    for (number, partition) in led.enumerate() {
        for to in in_turn(&heirs, number) {
            if partition.group.transfer_leader(to).await {
                let addr = shared.peers.get(&me).map_or("?", |peer| peer.addr.as_str());
                tracing::warn!(
                    node = %me, partition = %partition.id, %to,
                    "a majority of the log nodes cannot call this node, which has the address {addr} in its own `members`: \
                     handing over"
                );
                break;
            }
        }
    }
}

/// All heirs, beginning with another one for each partition, so that leaders are spread. One that is behind is passed over.
fn in_turn(heirs: &[NodeId], number: usize) -> impl Iterator<Item = NodeId> {
    let first = number.checked_rem(heirs.len()).unwrap_or_default();
    heirs.iter().copied().cycle().skip(first).take(heirs.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_partition_tries_every_heir_and_each_begins_with_another() {
        let heirs = [2, 3, 5].map(NodeId::new);
        let order = |number| in_turn(&heirs, number).map(NodeId::get).collect::<Vec<_>>();
        assert_eq!([order(0), order(1), order(2), order(3)], [[2, 3, 5], [3, 5, 2], [5, 2, 3], [2, 3, 5]]);
        assert_eq!(in_turn(&[], 3).count(), 0);
    }
}
