//! How a cluster comes to be: what a blank node does next, and whom a node lets in. Decisions only.
//!
//! * A blank node asks all configured peers. One that belongs to a cluster which lists this very folder: adopt that. All
//!   blank and of one mind about who the nodes are: the lowest number mints. Otherwise wait.
//! * The one commit point is the minting node's own identity file; the others learn of it by asking, as often as they
//!   need, so that a crash anywhere in between changes nothing.
//! * Invariant: a node whose folder was wiped never forms or joins under its old number: its peers know another store.
//! * Deliberately absent: files, sockets, time; joining a cluster that exists.
//! * Source: DESIGN D2, D12; ARCHITECTURE "Formation".

use super::identity::{Cluster, Identity};
use duramen_common::protocol::LogNodeInfo;
use duramen_common::protocol::service::PEER_FIRST;
use duramen_common::{HistoryId, NodeId, StoreId};
use duramen_transport::{Hello, HelloRefusal, Role, Welcome};
use serde::{Deserialize, Serialize};

/// `()` → [`Description`].
pub const SERVICE_DESCRIBE: u8 = PEER_FIRST + 8;

/// What a node says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// Its number.
    pub node: NodeId,
    /// Its folder.
    pub store: StoreId,
    /// The cluster it belongs to; `None` when it is blank.
    pub cluster: Option<Cluster>,
    /// The nodes that its configuration names, ascending.
    pub configured: Vec<NodeId>,
    /// Data partitions that its configuration asks for.
    pub partitions: u16,
    /// The duplicate window that its configuration asks for.
    pub dedup_window: u64,
    /// Whether its disk takes more entries.
    pub has_room: bool,
}

/// What a blank node does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextStep {
    /// Ask again later.
    Wait {
        /// What it waits for.
        why: String,
    },
    /// Ask again, but rarely, and say loudly why: a person must act.
    Refused {
        /// Why and what to do.
        why: String,
    },
    /// Found the cluster: all are blank and this is the lowest number.
    Mint {
        /// The folders that the others have now.
        stores: Vec<(NodeId, StoreId)>,
    },
    /// Belong to this cluster.
    Adopt {
        /// It lists this folder.
        cluster: Cluster,
    },
}

/// Decides from what this node is (blank) and what its peers answered.
pub fn next_step(me: &Description, answers: &[(NodeId, Result<Description, String>)]) -> NextStep {
    let known: Vec<&Description> = answers.iter().filter_map(|(_, answer)| answer.as_ref().ok()).collect();
    let formed = || known.iter().filter_map(|peer| Some((peer.node, peer.cluster.as_ref()?)));
    if let Some((one, first)) = formed().next()
        && let Some((other, second)) = formed().find(|(_, cluster)| cluster.history != first.history)
    {
        let why = format!(
            "node {one} belongs to cluster {}, node {other} to cluster {}: this node joins neither; make `members` name the \
             nodes of one cluster",
            first.history, second.history
        );
        return NextStep::Refused { why };
    }
    if let Some(cluster) = known.iter().find_map(|peer| peer.cluster.as_ref()) {
        return match cluster.member(me.node) {
            Some(member) if member.store == me.store => NextStep::Adopt { cluster: cluster.clone() },
            Some(member) => NextStep::Refused { why: wiped(me.node, me.store, member.store, cluster.history) },
            None => NextStep::Refused {
                why: format!("cluster {} exists and does not list node {}", cluster.history, me.node),
            },
        };
    }
    let missing = answers.iter().find_map(|(node, answer)| answer.as_ref().err().map(|why| (node, why)));
    if let Some((node, why)) = missing {
        return NextStep::Wait { why: format!("node {node} does not answer ({why})") };
    }
    if let Some(other) = known.iter().find(|peer| {
        (&peer.configured, peer.partitions, peer.dedup_window) != (&me.configured, me.partitions, me.dedup_window)
    }) {
        let why = format!(
            "nodes {} and {} are configured differently: peers {} and {}, partitions {} and {}, window {} and {}",
            me.node,
            other.node,
            list(&me.configured),
            list(&other.configured),
            me.partitions,
            other.partitions,
            me.dedup_window,
            other.dedup_window
        );
        return NextStep::Refused { why };
    }
    match me.configured.first() {
        Some(&lowest) if lowest == me.node => {
            NextStep::Mint { stores: known.iter().map(|peer| (peer.node, peer.store)).collect() }
        }
        Some(lowest) => NextStep::Wait { why: format!("node {lowest} forms the cluster") },
        None => NextStep::Wait { why: "no nodes are configured".to_owned() },
    }
}

fn list(nodes: &[NodeId]) -> String {
    let numbers: Vec<String> = nodes.iter().map(ToString::to_string).collect();
    numbers.join(",")
}

fn wiped(node: NodeId, store: StoreId, known: StoreId, history: HistoryId) -> String {
    format!(
        "cluster {history} knows node {node} with folder {known}, this is folder {store}: a node that lost its folder has \
         lost what it promised to keep and must join as a new node, under a new number"
    )
}

/// The cluster that the lowest node founds. `stores` are the other nodes' folders, from [`NextStep::Mint`].
pub fn mint(
    me: &Description,
    addrs: impl Fn(NodeId) -> (String, String),
    stores: &[(NodeId, StoreId)],
    history: HistoryId,
) -> Cluster {
    let member = |(node, store): (NodeId, StoreId)| {
        let (rpc_addr, http_addr) = addrs(node);
        LogNodeInfo { node, store, rpc_addr, http_addr }
    };
    let mut members: Vec<LogNodeInfo> = stores.iter().copied().chain([(me.node, me.store)]).map(member).collect();
    members.sort_by_key(|member| member.node);
    Cluster { history, partitions: me.partitions, dedup_window: me.dedup_window, members }
}

/// Whether a caller may come in.
pub fn admit(identity: &Identity, configured: &[NodeId], hello: &Hello) -> Result<Welcome, HelloRefusal> {
    let refuse = |reason: String| Err(HelloRefusal { reason });
    if let (Some(ours), Some(theirs)) = (identity.history(), hello.history)
        && ours != theirs
    {
        return refuse(format!("this is cluster {ours}, the caller belongs to {theirs}: check the addresses"));
    }
    match (&hello.role, &identity.cluster) {
        (Role::LogNode { node, store }, Some(cluster)) => match cluster.member(*node) {
            None => return refuse(format!("node {node} is not a member of cluster {}", cluster.history)),
            Some(member) if member.store != *store => {
                return refuse(wiped(*node, *store, member.store, cluster.history));
            }
            Some(_) => {}
        },
        (Role::LogNode { node, .. }, None) if !configured.contains(node) => {
            return refuse(format!("node {node} is not one of the configured peers ({})", list(configured)));
        }
        (Role::Client { .. }, None) if hello.history.is_some() => {
            return refuse("this node does not belong to a cluster yet: try again later".to_owned());
        }
        _ => {}
    }
    Ok(Welcome { node: identity.node, store: identity.store, history: identity.history() })
}

#[cfg(test)]
#[path = "formation_tests.rs"]
mod tests;
