//! Problems: what is wrong between this node and its peers, in words, for logs, `/v1/cluster`, `/readyz` and metrics.
//!
//! * In: the peer book, the configuration, what the groups know now. Out: sentences, each with its kind.
//! * Each problem is logged when it appears, again each minute while it lasts, and once when it is over.
//! * Deliberately absent: what is done about them.

use super::config::PeerConfig;
use super::identity::Cluster;
use super::peer_book::PeerReport;
use super::shared::{Running, Shared};
use crate::consensus::Standing;
use duramen_common::{NodeId, PartitionId};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// How often a problem that lasts is logged again.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// What kind of problem; a label of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ProblemSort {
    /// A partition is led from here, and no majority answers.
    NoMajority,
    /// A member cannot be called.
    Unreachable,
    /// A member refuses this node, or somebody else is in its place.
    Refused,
    /// Two nodes are configured with different addresses for one member.
    Addresses,
    /// The configuration names other members than the cluster has.
    Members,
}

impl ProblemSort {
    pub(super) const ALL: [ProblemSort; 5] =
        [Self::NoMajority, Self::Unreachable, Self::Refused, Self::Addresses, Self::Members];

    /// Its name in metrics.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::NoMajority => "no-majority",
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
            Self::Addresses => "addresses",
            Self::Members => "members",
        }
    }
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) sort: ProblemSort,
    /// Whom it is about.
    pub(super) node: NodeId,
    /// What is wrong and what to do.
    pub(super) text: String,
}

/// Everything that is wrong now.
pub(super) fn problems(shared: &Shared, running: &Running) -> Vec<Trouble> {
    let (now, silence) = (Instant::now(), shared.config.leader_silence());
    let me = shared.config.node;
    let mut found = Vec::new();
    let alone: Vec<PartitionId> = led_without_majority(shared, running);
    if !alone.is_empty() {
        let text = format!(
            "this node leads {} and no majority of the log nodes answers it or takes its entries: writes and linearizable \
             reads fail until more log nodes run, are reached and have space",
            partitions_named(&alone)
        );
        found.push(Trouble { sort: ProblemSort::NoMajority, node: me, text });
    }
    found.extend(differences(&running.cluster, &shared.config.peers).into_iter().filter(|trouble| {
        // Addresses may change; which nodes there are may not.
        trouble.sort == ProblemSort::Members
    }));
    let book = shared.book.lock();
    for (node, entry) in book.peers() {
        if let Some(failing) = &entry.failing
            && (failing.is_refusal || book.is_unreachable(node, now))
        {
            let follows = Standing::Follows { leader: node };
            let led = running.all().filter(|partition| partition.group.standing(silence) == follows);
            let led: Vec<PartitionId> = led.map(|partition| partition.id).collect();
            let leads =
                if led.is_empty() { String::new() } else { format!(", although it leads {}", partitions_named(&led)) };
            let sort = if failing.is_refusal { ProblemSort::Refused } else { ProblemSort::Unreachable };
            let text = format!("node {node} cannot be called{leads}: {}", failing.reason);
            found.push(Trouble { sort, node, text });
        }
        if let Some(report) = book.report(node, now) {
            found.extend(disagreements(me, &shared.config.peers, node, report));
        }
    }
    found
}

/// Partitions that this node leads without a majority.
pub(super) fn led_without_majority(shared: &Shared, running: &Running) -> Vec<PartitionId> {
    let silence = shared.config.leader_silence();
    let alone = running.all().filter(|partition| partition.group.standing(silence) == Standing::WithoutMajority);
    alone.map(|partition| partition.id).collect()
}

/// "partitions meta, 0, 3".
pub(super) fn partitions_named(partitions: &[PartitionId]) -> String {
    let name = |partition: &PartitionId| match partition.is_meta() {
        true => "meta".to_owned(),
        false => partition.to_string(),
    };
    let names: Vec<String> = partitions.iter().map(name).collect();
    let word = if names.len() == 1 { "partition" } else { "partitions" };
    format!("{word} {}", names.join(", "))
}

/// Where a peer's configuration and ours have another address for a member.
fn disagreements(me: NodeId, ours: &[PeerConfig], node: NodeId, report: &PeerReport) -> Vec<Trouble> {
    let differs = |ours: &&PeerConfig| {
        let theirs = report.member(ours.node);
        theirs.is_none_or(|theirs| (&theirs.rpc_addr, &theirs.http_addr) != (&ours.rpc_addr, &ours.http_addr))
    };
    let differing: Vec<String> = ours
        .iter()
        .filter(differs)
        .map(|ours| {
            let theirs = match report.member(ours.node) {
                Some(theirs) => format!("{} (HTTP {})", theirs.rpc_addr, theirs.http_addr),
                None => "nowhere".to_owned(),
            };
            let whose = if ours.node == node { "itself".to_owned() } else { format!("node {}", ours.node) };
            format!("node {node} has {whose} at {theirs}, node {me} at {} (HTTP {})", ours.rpc_addr, ours.http_addr)
        })
        .collect();
    if differing.is_empty() {
        return Vec::new();
    }
    let text =
        format!("{}: make `members` the same on all log nodes and restart those that are wrong", differing.join("; "));
    vec![Trouble { sort: ProblemSort::Addresses, node, text }]
}

/// Where the configured members are not those that the cluster was formed with.
pub(super) fn differences(cluster: &Cluster, configured: &[PeerConfig]) -> Vec<Trouble> {
    let find = |node: NodeId| configured.iter().find(|peer| peer.node == node);
    let mut found = Vec::new();
    for member in &cluster.members {
        let node = member.node;
        match find(node) {
            None => found.push(Trouble {
                sort: ProblemSort::Members,
                node,
                text: format!(
                    "node {node} ({}) is a member of cluster {}, and this node's `members` do not name it: it cannot be \
                     called from here; add it",
                    member.rpc_addr, cluster.history
                ),
            }),
            Some(peer) if (&peer.rpc_addr, &peer.http_addr) != (&member.rpc_addr, &member.http_addr) => {
                found.push(Trouble {
                    sort: ProblemSort::Addresses,
                    node,
                    text: format!(
                        "node {node} had the address {} (HTTP {}) when cluster {} was formed, this node's `members` have \
                         {} (HTTP {}): make sure that all log nodes have the new one",
                        member.rpc_addr, member.http_addr, cluster.history, peer.rpc_addr, peer.http_addr
                    ),
                });
            }
            Some(_) => {}
        }
    }
    for peer in configured.iter().filter(|peer| cluster.member(peer.node).is_none()) {
        let node = peer.node;
        let text = format!(
            "this node's `members` name node {node} ({}), which is not a member of cluster {}: it takes no part; remove it",
            peer.rpc_addr, cluster.history
        );
        found.push(Trouble { sort: ProblemSort::Members, node, text });
    }
    found
}

/// What was said, and when.
#[derive(Default)]
pub(super) struct Said(BTreeMap<(ProblemSort, NodeId), Instant>);

impl Said {
    /// Logs what is new, what has lasted for another minute, and what is over.
    pub(super) fn log(&mut self, me: NodeId, problems: &[Trouble], now: Instant) {
        let is_there = |key: &(ProblemSort, NodeId)| problems.iter().any(|found| (found.sort, found.node) == *key);
        self.0.retain(|key, _| {
            let stays = is_there(key);
            if !stays {
                tracing::info!(node = %me, about = %key.1, problem = key.0.name(), "this problem is over");
            }
            stays
        });
        for Trouble { sort, node, text } in problems {
            let said = self.0.get(&(*sort, *node));
            if said.is_none_or(|&at| now.duration_since(at) >= SAY_AGAIN) {
                self.0.insert((*sort, *node), now);
                match sort {
                    ProblemSort::Addresses | ProblemSort::Members => {
                        tracing::warn!(node = %me, problem = sort.name(), "{text}");
                    }
                    _ => tracing::error!(node = %me, problem = sort.name(), "{text}"),
                }
            }
        }
    }
}

/// Callers that were refused by name, and when that was logged: they come again twenty times a second.
#[derive(Default)]
pub(super) struct TurnedAway(BTreeMap<String, Instant>);

impl TurnedAway {
    /// Most callers that are remembered; while there are more, further ones are not logged.
    const CALLERS_MAX: usize = 64;

    /// Whether this refusal is to be logged now.
    pub(super) fn is_new(&mut self, caller: &str, now: Instant) -> bool {
        self.0.retain(|_, at| now.duration_since(*at) < SAY_AGAIN);
        let is_new = self.0.len() < Self::CALLERS_MAX && !self.0.contains_key(caller);
        if is_new {
            self.0.insert(caller.to_owned(), now);
        }
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::peer_book::ReportedMember;
    use duramen_common::protocol::LogNodeInfo;
    use duramen_common::{HistoryId, StoreId};

    fn peer(node: u64, port: u16) -> PeerConfig {
        let (rpc_addr, http_addr) = (format!("a:{port}"), format!("a:1{port}"));
        PeerConfig { node: NodeId::new(node), rpc_addr, http_addr }
    }

    fn cluster(members: &[PeerConfig]) -> Cluster {
        let member = |peer: &PeerConfig| LogNodeInfo {
            node: peer.node,
            store: StoreId::from_bits(1),
            rpc_addr: peer.rpc_addr.clone(),
            http_addr: peer.http_addr.clone(),
        };
        let members = members.iter().map(member).collect();
        Cluster { history: HistoryId::from_bits(0x00c7_f3a1), partitions: 1, dedup_window: 4096, members }
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_is_refused_is_logged_once_a_minute() {
        let (mut turned_away, now) = (TurnedAway::default(), Instant::now());
        assert!(turned_away.is_new("node 3", now));
        assert!(!turned_away.is_new("node 3", now + SAY_AGAIN / 2));
        assert!(turned_away.is_new("node 3", now + SAY_AGAIN));
        for number in 0..TurnedAway::CALLERS_MAX * 2 {
            turned_away.is_new(&format!("caller {number}"), now + SAY_AGAIN);
        }
        assert_eq!(turned_away.0.len(), TurnedAway::CALLERS_MAX);
    }

    #[test]
    fn configured_members_that_differ_from_the_clusters_are_named() {
        let formed = cluster(&[peer(1, 10), peer(2, 20), peer(3, 30)]);
        assert_eq!(differences(&formed, &[peer(1, 10), peer(2, 20), peer(3, 30)]), []);
        let found = differences(&formed, &[peer(1, 10), peer(3, 31), peer(4, 40)]);
        let sorts: Vec<_> = found.iter().map(|found| (found.sort, found.node.get())).collect();
        assert_eq!(sorts, [(ProblemSort::Members, 2), (ProblemSort::Addresses, 3), (ProblemSort::Members, 4)]);
        assert!(found[1].text.contains("a:30") && found[1].text.contains("a:31"), "{}", found[1].text);
    }

    #[test]
    fn a_peer_that_has_another_address_for_a_member_is_named_with_both() {
        let ours = [peer(1, 10), peer(3, 30)];
        let told = |peers: &[PeerConfig]| {
            let member = |peer: &PeerConfig| ReportedMember {
                node: peer.node,
                rpc_addr: peer.rpc_addr.clone(),
                http_addr: peer.http_addr.clone(),
            };
            PeerReport { members: peers.iter().map(member).collect(), ..PeerReport::default() }
        };
        let me = NodeId::new(1);
        assert_eq!(disagreements(me, &ours, NodeId::new(3), &told(&ours)), []);
        let found = disagreements(me, &ours, NodeId::new(3), &told(&[peer(1, 10), peer(3, 31)]));
        assert_eq!(found.len(), 1);
        assert!(found[0].text.contains("itself at a:31") && found[0].text.contains("a:30"), "{}", found[0].text);
    }
}
