//! A node from its plan to its end: builds the room's configuration, starts it, watches over it, stops it.
//!
//! * Invariant: a node that cannot go on is told as one [`Failure`]; nobody goes on as if it ran.

use super::config::resolve;
use super::log_node::LogNodePlan;
use super::serving_node::{Index, ServingNodePlan};
use crate::failure::Failure;
use duramen_client::log_client::{LogClient, LogClientConfig};
use duramen_common::files::{FilesShare, TooFewFiles, Wish};
use duramen_common::log::Log;
use duramen_common::seams::Seams;
use duramen_common::{HistoryId, NodeId};
use duramen_log_service::node::{LogNode, LogNodeConfig, PeerConfig};
use duramen_log_service::store::StoreConfig;
use duramen_serving_node::partitions::PartitionsConfig;
use duramen_serving_node::{ServingNode, ServingNodeConfig};
use duramen_transport::http::HttpLimits;
use futures_util::future::{FutureExt as _, LocalBoxFuture, select_all};
use std::sync::Arc;
use std::time::Duration;

/// How long a node that runs may take to say what its cluster is.
const CLUSTER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a clean stop may take in all.
const STOP_TIME_MAX: Duration = Duration::from_secs(30);
/// Connections to one log node, while one is being opened in another's place.
const CALLS_A_LOG_NODE: u64 = 2;
/// As many log nodes may be found as a cluster usually has, however few are configured.
const LOG_NODES_USUAL: usize = 5;
/// Kept free for what comes and goes.
const FILES_SPARE: u64 = 16;
/// A port that takes fewer connections is of no use.
const CONNECTIONS_LEAST: usize = 16;

/// A log node that runs.
pub struct RunningLogNode {
    number: u64,
    node: LogNode,
}

impl RunningLogNode {
    /// Starts it. It may wait for its peers in the background.
    pub async fn start(plan: LogNodePlan, seams: Seams, files: FilesShare) -> Result<RunningLogNode, Failure> {
        let number = plan.node;
        let rpc = resolve(&plan.rpc, "rpc").await?.to_string();
        let http = resolve(&plan.http, "http").await?.to_string();
        let peer = |member: super::config::Member| PeerConfig {
            node: NodeId::new(member.node),
            rpc_addr: member.rpc_addr,
            http_addr: member.http_addr,
        };
        let peers = plan.members.into_iter().map(peer).collect();
        let store = StoreConfig { segment_bytes: plan.segment_mib * 1024 * 1024, ..StoreConfig::default() };
        let config = LogNodeConfig {
            store,
            partitions: plan.partitions,
            dedup_window: plan.dedup_window,
            value_bytes_max: plan.value_bytes_max,
            http_origins: plan.origins,
            log_lines_dropped: duramen_stdio::stderr().dropped_lines(),
            files: Some(files),
            ..LogNodeConfig::new(NodeId::new(number), plan.data_dir, rpc, http, peers)
        };
        let node = LogNode::start(config, seams)
            .await
            .map_err(|error| Failure::failed(format!("log node {number}: {error}")))?;
        Ok(RunningLogNode { number, node })
    }

    /// Resolves when it cannot go on; else never.
    pub async fn failed(&self) -> Failure {
        Failure::failed(format!("log node {} cannot go on: {}", self.number, self.node.failed().await))
    }

    /// Ends it: what was acknowledged is on disk already.
    pub async fn shutdown(self) {
        self.node.shutdown().await;
    }
}

/// A serving node that runs.
pub struct RunningServingNode {
    name: String,
    node: ServingNode,
    log: Arc<dyn Log>,
}

impl RunningServingNode {
    /// Starts it. It waits for the log in the background.
    pub async fn start(plan: ServingNodePlan, seams: Seams, files: FilesShare) -> Result<RunningServingNode, Failure> {
        let http_addr = resolve(&plan.http, "http").await?;
        let name = plan.name;
        let http = http_limits(plan.index, plan.log_nodes.len(), files)
            .map_err(|error| Failure::failed(format!("serving node {name}: {error}")))?;
        let log: Arc<dyn Log> =
            Arc::new(LogClient::over_tcp(LogClientConfig::new(plan.log_nodes), &name, seams.clone()));
        let config = ServingNodeConfig {
            name: name.clone(),
            http_addr,
            http,
            advertised_addr: Some(plan.advertise_http),
            partitions: PartitionsConfig {
                data_dir: plan.data_dir,
                index: plan.index.into(),
                cache_bytes: plan.cache_bytes,
                lag: Duration::from_millis(plan.lag_ms),
                scrub_period: Duration::from_secs(plan.index_scrub_hours * 3600),
                ..PartitionsConfig::default()
            },
            value_bytes_max: plan.value_bytes_max,
            allowed_origins: plan.origins,
            log_lines_dropped: duramen_stdio::stderr().dropped_lines(),
            ..ServingNodeConfig::default()
        };
        let node = ServingNode::start(config, Arc::clone(&log), seams)
            .await
            .map_err(|error| Failure::failed(format!("serving node {name}: {error}")))?;
        Ok(RunningServingNode { name, node, log })
    }

    /// Waits until it has caught up with the log once.
    pub async fn ready(&self) {
        self.node.ready().await;
    }

    /// Its cluster's history and number of partitions.
    pub async fn cluster(&self) -> Result<(HistoryId, u16), Failure> {
        let cluster = self.log.cluster(CLUSTER_TIMEOUT).await.map_err(|error| Failure::failed(error.to_string()))?;
        Ok((cluster.history, cluster.partitions))
    }

    /// Resolves when it cannot go on; else never.
    pub async fn failed(&self) -> Failure {
        Failure::failed(format!("serving node {} cannot go on: {}", self.name, self.node.failed().await))
    }

    /// Ends it: requests under way, then the index.
    pub async fn shutdown(self) {
        self.node.shutdown().await;
    }
}

const FEW_FILES: &str = "few files may be open: HTTP takes fewer connections (raise ulimit -Hn, LimitNOFILE=)";

/// What the port of a serving node may take: what the index and the calls to log nodes need is set aside first.
fn http_limits(index: Index, log_nodes: usize, files: FilesShare) -> Result<HttpLimits, TooFewFiles> {
    let limits = HttpLimits::default();
    let need = index.files_max() + CALLS_A_LOG_NODE * log_nodes.max(LOG_NODES_USUAL) as u64 + FILES_SPARE;
    let wish = Wish { most: limits.connections_max, least: CONNECTIONS_LEAST };
    let given = files.divide(need, &[wish])?;
    let connections_max = given.first().copied().unwrap_or(CONNECTIONS_LEAST);
    let (files, usual) = (files.limit, limits.connections_max);
    if connections_max < usual / 4 {
        tracing::warn!(files, set_aside = need, connections_max, usual, "{FEW_FILES}");
    } else if connections_max < usual {
        tracing::info!(files, set_aside = need, connections_max, usual, "{FEW_FILES}");
    }
    Ok(HttpLimits { connections_max, ..limits })
}

/// Ends nodes, within a time: a stop that hangs must not outlast the patience of whoever asked for it.
pub async fn ending(nodes: impl Future<Output = ()>) {
    if tokio::time::timeout(STOP_TIME_MAX, nodes).await.is_err() {
        tracing::error!(seconds = STOP_TIME_MAX.as_secs(), "the stop takes too long: this process ends as it is");
        std::process::exit(1);
    }
}

/// Resolves when any of these nodes cannot go on; else never.
pub async fn first_failure(log_nodes: &[RunningLogNode], serving_nodes: &[RunningServingNode]) -> Failure {
    let mut failures: Vec<LocalBoxFuture<'_, Failure>> = Vec::new();
    failures.extend(log_nodes.iter().map(|node| node.failed().boxed_local()));
    failures.extend(serving_nodes.iter().map(|node| node.failed().boxed_local()));
    if failures.is_empty() {
        return std::future::pending().await;
    }
    select_all(failures).await.0
}
