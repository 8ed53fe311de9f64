//! `Node`: a log replica, a serving replica, and a client of the log, started together over Maelstrom's network.
//!
//! * In: `init`. Out: the parts, when they are there; readiness; why it cannot go on.
//! * Nodes have numbers by the order of their names, so that a restarted node has its old one.
//! * Invariant: what fails ends the process: a node that promises less than the product would is no test of it.

use crate::events::Event;
use crate::failure::Failure;
use crate::fold::{Kind, SharedFold};
use crate::folding_log::FoldingLog;
use crate::id_blocks::IdBlocks;
use crate::kv::Kv;
use crate::network::Network;
use crate::settings;
use crate::temporary::TemporaryFolder;
use duramen_client::log_client::{HistoryPin, LogClient};
use duramen_common::Offset;
use duramen_common::log::Log;
use duramen_common::seams::Seams;
use duramen_log_service::disk::RealDisk;
use duramen_log_service::node::LogNode;
use duramen_serving_node::ServingNode;
use duramen_transport::Endpoint as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

/// Longest name of a node, which is also a folder's.
const NAME_BYTES_MAX: usize = 64;
/// Most nodes.
const NODES_MAX: usize = 64;
/// How long a read waits for what was acknowledged through its node.
const SEE_OWN_WITHIN: Duration = Duration::from_millis(500);
/// How long a clean stop may take.
const STOP_WITHIN: Duration = Duration::from_secs(2);

/// Who a node is, and where its log is kept.
pub struct Place {
    name: String,
    number: u64,
    /// All nodes.
    peers: Vec<(u64, String)>,
    data_dir: Option<PathBuf>,
}

impl Place {
    /// Checks what `init` says. Names are names of folders as well.
    pub fn new(name: &str, names: &[String], data_dir: Option<&Path>) -> Result<Place, Failure> {
        let is_fit = |name: &String| {
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
            (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_plain)
        };
        if names.len() > NODES_MAX || !names.iter().all(is_fit) {
            return Err(Failure::malformed("a cluster has at most 64 nodes, with names of letters, digits, - and _"));
        }
        let mut sorted = names.to_vec();
        sorted.sort();
        let peers: Vec<(u64, String)> = (1..).zip(sorted.iter().cloned()).collect();
        sorted.dedup();
        let number = peers.iter().find(|(_, peer)| peer == name).map(|(number, _)| *number);
        match number {
            Some(number) if sorted.len() == peers.len() => {
                Ok(Place { name: name.to_owned(), number, peers, data_dir: data_dir.map(Path::to_owned) })
            }
            _ => Err(Failure::malformed("node_ids must name every node once, this one too")),
        }
    }
}

/// What a node is made of.
pub struct Parts {
    log_node: LogNode,
    /// The key-value layer.
    pub kv: Arc<Kv>,
    /// The log.
    pub log: Arc<FoldingLog>,
    /// Ids for `unique-ids`.
    pub ids: IdBlocks,
    seams: Seams,
    /// Removed when it is dropped.
    _folder: Option<TemporaryFolder>,
}

impl Parts {
    /// What the log folds to.
    pub fn fold(&self) -> &SharedFold {
        self.log.fold()
    }

    /// Appends an event; answers its offset.
    pub async fn append(&self, event: &Event, deadline: Instant) -> Result<Offset, Failure> {
        self.log.append_event(event, &*self.seams.entropy, deadline).await
    }

    /// Waits for the fold to have what was acknowledged through this node, for a moment: a node that is cut off from the log
    /// shows what it has.
    pub async fn see_own(&self, deadline: Instant) {
        let deadline = deadline.min(Instant::now() + SEE_OWN_WITHIN);
        self.fold().reach(self.log.acknowledged_end(), deadline).await;
    }

    /// Waits until this node has caught up with the log once. Before, its fold is of the beginning, and what is asked of the
    /// log is asked of a cluster that is being formed.
    pub async fn begun(&self, deadline: Instant) -> Result<(), Failure> {
        let ready = timeout_at(deadline, self.kv.ready()).await;
        ready.map_err(|_| Failure::unavailable("this node has not caught up with the log yet"))
    }

    async fn ready(&self) {
        self.kv.ready().await;
        self.ids.ready().await;
    }
}

/// How far the start has come.
#[derive(Clone)]
enum Phase {
    Starting,
    Started(Arc<Parts>),
    Failed(String),
}

/// A node that starts, runs, or cannot.
pub struct Node {
    phase: watch::Receiver<Phase>,
    starting: JoinHandle<()>,
    /// Whose requests came last, of the workloads that read without a key.
    asked_for: watch::Sender<Option<Kind>>,
}

impl Node {
    /// Begins to start.
    #[must_use]
    pub fn start(place: Place, network: Network, seams: Seams) -> Node {
        let (out, phase) = watch::channel(Phase::Starting);
        let starting = tokio::spawn(async move {
            let parts = match start(place, network, seams).await {
                Ok(parts) => Arc::new(parts),
                Err(reason) => {
                    out.send_replace(Phase::Failed(reason));
                    return;
                }
            };
            out.send_replace(Phase::Started(Arc::clone(&parts)));
            let reason = tokio::select! {
                error = parts.log_node.failed() => error.to_string(),
                reason = parts.kv.failed() => reason,
            };
            out.send_replace(Phase::Failed(reason));
        });
        Node { phase, starting, asked_for: watch::Sender::new(None) }
    }

    /// Notes whose request came.
    pub fn asked_for(&self, kind: Kind) {
        self.asked_for.send_replace(Some(kind));
    }

    /// Whose request came last.
    pub fn last_asked_for(&self) -> Option<Kind> {
        *self.asked_for.borrow()
    }

    /// Waits for the first such request.
    pub async fn first_asked_for(&self) -> Kind {
        let mut asked_for = self.asked_for.subscribe();
        let first = asked_for.wait_for(Option::is_some).await.ok().and_then(|kind| *kind);
        match first {
            Some(kind) => kind,
            // The sender is this node's: it is there.
            None => std::future::pending().await,
        }
    }

    /// The parts, once they are there.
    pub async fn parts(&self, deadline: Instant) -> Result<Arc<Parts>, Failure> {
        match timeout_at(deadline, self.started()).await {
            Ok(Ok(parts)) => Ok(parts),
            Ok(Err(reason)) => Err(Failure::unavailable(reason)),
            Err(_) => Err(Failure::unavailable("this node is starting")),
        }
    }

    /// Returns when requests are answered without waiting for the start, or with the reason why they never are.
    pub async fn ready(&self) -> Result<(), String> {
        let parts = self.started().await?;
        parts.ready().await;
        Ok(())
    }

    /// Returns when this node cannot go on, with the reason.
    pub async fn failed(&self) -> String {
        let mut phase = self.phase.clone();
        let failed = phase.wait_for(|phase| matches!(phase, Phase::Failed(_))).await.ok().map(|phase| phase.clone());
        match failed {
            Some(Phase::Failed(reason)) => reason,
            _ => std::future::pending().await,
        }
    }

    async fn started(&self) -> Result<Arc<Parts>, String> {
        let mut phase = self.phase.clone();
        match phase.wait_for(|phase| !matches!(phase, Phase::Starting)).await.as_deref() {
            Ok(Phase::Started(parts)) => Ok(Arc::clone(parts)),
            Ok(Phase::Failed(reason)) => Err(reason.clone()),
            Ok(Phase::Starting) | Err(_) => Err("this node is stopping".to_owned()),
        }
    }

    /// Stops cleanly, as far as nobody uses the parts any more, and removes a temporary folder.
    pub async fn shutdown(self: Arc<Node>) {
        let Some(Node { phase, starting, .. }) = Arc::into_inner(self) else { return };
        starting.abort();
        let _ = starting.await;
        let started = match &*phase.borrow() {
            Phase::Started(parts) => Some(Arc::clone(parts)),
            Phase::Starting | Phase::Failed(_) => None,
        };
        drop(phase);
        let Some(Parts { log_node, kv, log, ids, _folder, .. }) = started.and_then(Arc::into_inner) else { return };
        let stopping = async {
            ids.stop().await;
            if let Some(kv) = Arc::into_inner(kv) {
                kv.shutdown().await;
            }
            drop(log);
            log_node.shutdown().await;
        };
        if timeout(STOP_WITHIN, stopping).await.is_err() {
            tracing::warn!("this node did not stop in time");
        }
    }
}

async fn start(place: Place, network: Network, seams: Seams) -> Result<Parts, String> {
    let Place { name, number, peers, data_dir } = place;
    let (folder, temporary) = match data_dir {
        Some(data_dir) => (data_dir.join(&name), None),
        None => {
            let made = TemporaryFolder::make(&std::env::temp_dir());
            let temporary = made.map_err(|error| format!("no temporary folder: {error}"))?;
            (temporary.path().join("log"), Some(temporary))
        }
    };
    let pin = HistoryPin::default();
    let transport = network.transport(pin.hello(&name));
    let config = settings::log_node(number, &peers, folder);
    let log_node = LogNode::start_at(config, seams.clone(), Arc::new(RealDisk), Box::new(network));
    let log_node = log_node.await.map_err(|error| error.to_string())?;
    let client = LogClient::new(settings::log_client(&name, pin), transport, seams.clone());
    let log = Arc::new(FoldingLog::new(client));
    let serving =
        ServingNode::start_without_port(settings::serving_node(&name), Arc::clone(&log) as Arc<dyn Log>, seams.clone());
    let serving = serving.await.map_err(|error| error.to_string())?;
    let kv = Arc::new(Kv::new(serving, seams.clone()));
    let ids = IdBlocks::start(Arc::clone(&kv), Arc::clone(&log), seams.clone());
    Ok(Parts { log_node, kv, log, ids, seams, _folder: temporary })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(name: &str, names: &[&str]) -> Result<Place, Failure> {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        Place::new(name, &names, None)
    }

    #[test]
    fn a_node_has_the_same_number_in_whatever_order_nodes_are_named() {
        let number = |names: &[&str]| place("n2", names).map(|place| place.number).unwrap();
        assert_eq!(number(&["n1", "n2", "n3"]), 2);
        assert_eq!(number(&["n3", "n2", "n1"]), 2);
        assert_eq!(number(&["n2"]), 1);
    }

    #[test]
    fn names_that_lead_elsewhere_or_stand_twice_are_refused() {
        for (name, names) in [
            ("../n1", &["../n1"][..]),
            ("n/1", &["n/1"]),
            ("..", &[".."]),
            ("", &[""]),
            ("n1", &["n1", "n1"]),
            ("n4", &["n1", "n2"]),
            ("n1", &[]),
            ("n1", &["n1", "n\u{e9}"]),
        ] {
            assert!(place(name, names).is_err(), "{name:?} of {names:?}");
        }
        let long = "n".repeat(NAME_BYTES_MAX + 1);
        assert!(place(&long, &[&long]).is_err());
    }
}
