//! `Cluster`: the nodes of a run, from their first `init` to their end.
//!
//! * A node is started, told who it is, and must answer within 10 s, as Maelstrom asks of it; so after every restart.
//! * In: kills and starts. Out: what nodes did against the protocol, or ended by themselves.

use super::network::{NodeIndex, Weather};
use super::process::NodeProcess;
use super::record::{Body, Reply};
use super::router::Router;
use super::settings::{Settings, Workload};
use crate::harness::rng::Rng;
use futures_util::future::try_join_all;
use serde_json::json;
use std::path::Path;
use std::time::Duration;
use tokio::sync::Mutex;

/// Longest time for a node to say that it is there: Maelstrom's.
const INIT_WITHIN: Duration = Duration::from_secs(10);
/// Who sends `init` and `topology`.
const STARTER: &str = "c0";
/// How much of what a node wrote on standard error is shown.
const STDERR_SHOWN: usize = 2_000;

/// Why a run cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// A process cannot be started.
    #[error("n{number} cannot be started: {reason}", number = node + 1)]
    NotStarted {
        /// Which.
        node: NodeIndex,
        /// Why.
        reason: std::io::Error,
    },
    /// A node does not take its place.
    #[error("n{number} answered {asked} with {reply:?} within {INIT_WITHIN:?}; it wrote: {wrote}", number = node + 1)]
    NotReady {
        /// Which.
        node: NodeIndex,
        /// To what.
        asked: &'static str,
        /// How.
        reply: Reply,
        /// The end of its standard error.
        wrote: String,
    },
}

/// The nodes.
pub struct Cluster {
    router: Router,
    has_topology: bool,
    nodes: Vec<Mutex<NodeProcess>>,
}

impl Cluster {
    /// Starts all nodes, and returns when each is there.
    pub async fn start(settings: &Settings, folder: &Path) -> Result<Cluster, ClusterError> {
        let router = Router::start(settings.nodes, Weather::new(settings, Rng::of_stream(settings.seed, 1)));
        let node = |node| Mutex::new(NodeProcess::new(node, settings, folder, router.clone()));
        let nodes = (0..settings.nodes).map(node).collect();
        let has_topology = settings.workload == Workload::Broadcast;
        let cluster = Cluster { router, has_topology, nodes };
        cluster.start_all().await?;
        Ok(cluster)
    }

    /// What connects them.
    #[must_use]
    pub fn router(&self) -> &Router {
        &self.router
    }

    /// SIGKILL to a node.
    pub async fn kill(&self, node: NodeIndex) {
        self.nodes[node].lock().await.kill().await;
    }

    /// Starts every node that does not run, and returns when each is there.
    pub async fn start_all(&self) -> Result<(), ClusterError> {
        try_join_all((0..self.nodes.len()).map(|node| self.start_one(node))).await?;
        Ok(())
    }

    async fn start_one(&self, node: NodeIndex) -> Result<(), ClusterError> {
        let mut process = self.nodes[node].lock().await;
        if process.is_started() {
            return Ok(());
        }
        process.start().map_err(|reason| ClusterError::NotStarted { node, reason })?;
        let names: Vec<String> = (1..=self.nodes.len()).map(|number| format!("n{number}")).collect();
        let init = json!({ "type": "init", "node_id": names[node], "node_ids": names });
        self.tell(&process, node, "init", "init_ok", init).await?;
        if self.has_topology {
            let all = |name: &String| (name.clone(), json!(names));
            let topology: Body = names.iter().map(all).collect();
            let topology = json!({ "type": "topology", "topology": topology });
            self.tell(&process, node, "topology", "topology_ok", topology).await?;
        }
        Ok(())
    }

    async fn tell(
        &self,
        process: &NodeProcess,
        node: NodeIndex,
        asked: &'static str,
        wanted: &str,
        body: serde_json::Value,
    ) -> Result<(), ClusterError> {
        let body = body.as_object().cloned().unwrap_or_default();
        let reply = self.router.ask(STARTER, node, body, INIT_WITHIN).await;
        match &reply {
            Reply::Answer(answer) if answer.get("type").is_some_and(|kind| kind == wanted) => Ok(()),
            _ => Err(ClusterError::NotReady { node, asked, reply, wrote: stderr_end(&process.stderr_path()) }),
        }
    }

    /// What nodes did that no node may do.
    pub async fn misdeeds(&self) -> Vec<String> {
        let mut misdeeds = self.router.against_protocol();
        for node in &self.nodes {
            let mut process = node.lock().await;
            if let Some(ended) = process.ended_unasked() {
                misdeeds.push(format!("{ended}; it wrote: {}", stderr_end(&process.stderr_path())));
            }
        }
        misdeeds
    }

    /// Ends all nodes.
    pub async fn stop(&self) {
        for node in &self.nodes {
            node.lock().await.kill().await;
        }
    }
}

fn stderr_end(path: &Path) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let end = text.get(text.len().saturating_sub(STDERR_SHOWN)..).unwrap_or_default();
    String::from_utf8_lossy(end).into_owned()
}
