//! A serving node: its HTTP port, its partitions, their start and their end.
//!
//! * The port is bound at once and answers `/healthz`; everything else is 503 until the log has said what the cluster is.
//! * Invariant: after `shutdown` nothing of it runs any more.
//! * Deliberately absent: how the log is reached (it is handed in), configuration files.

use crate::history::{Choice, choose};
use crate::http::{self, Api, ResponseBody};
use crate::index::{IndexHealth, known_history};
use crate::partitions::{Partitions, PartitionsConfig, StartError};
use crate::registration::stay_registered;
use bytes::Bytes;
use duramen_common::HistoryId;
use duramen_common::limits::VALUE_BYTES_MAX;
use duramen_common::log::{ClusterError, Log};
use duramen_common::protocol::{ClusterInfo, ServingNodeInfo};
use duramen_common::seams::Seams;
use duramen_transport::http::{HttpLimits, Stopper};
use hyper::{Request, Response};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How long one question about the cluster may take.
const CLUSTER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long to wait before the log is asked again.
const RETRY_AFTER: Duration = Duration::from_millis(200);
/// How often readiness is looked at while it is waited for.
const READY_INTERVAL: Duration = Duration::from_millis(20);

/// How a serving node is run.
#[derive(Clone, Debug)]
pub struct ServingNodeConfig {
    /// Its name, as it registers and shows itself.
    pub name: String,
    /// Where HTTP listens; port 0 takes a free one.
    pub http_addr: SocketAddr,
    /// What others reach it by, `host:port`; the address that is bound unless given.
    pub advertised_addr: Option<String>,
    /// Index, limits and demonstration lag.
    pub partitions: PartitionsConfig,
    /// Longest value. Unit: bytes.
    pub value_bytes_max: usize,
    /// Origins whose web pages may call this node, for instance `https://app.example`; `*` is any.
    pub allowed_origins: Vec<String>,
    /// How long a request waits unless it says so itself.
    pub wait_default: Duration,
    /// How long a request may ask to wait.
    pub wait_max: Duration,
    /// Most open feeds.
    pub feeds_max: usize,
    /// What answers may hold, over all connections, until their callers have taken them. Small ones are not counted, nor
    /// are feeds. Unit: bytes.
    pub answer_bytes_max: usize,
    /// The same for events of feeds. Unit: bytes.
    pub feed_bytes_max: usize,
    /// Connections: how many, how long, how much.
    pub http: HttpLimits,
    /// This node stays ready for this long while a partition has no known leader.
    pub ready_without_leader: Duration,
    /// How many log lines the process has dropped. The process counts, the node publishes it.
    pub log_lines_dropped: Arc<AtomicU64>,
}

impl Default for ServingNodeConfig {
    fn default() -> ServingNodeConfig {
        ServingNodeConfig {
            name: "serving-node".to_owned(),
            http_addr: SocketAddr::from((Ipv4Addr::LOCALHOST, 7001)),
            advertised_addr: None,
            partitions: PartitionsConfig::default(),
            value_bytes_max: VALUE_BYTES_MAX,
            allowed_origins: Vec::new(),
            wait_default: Duration::from_secs(5),
            wait_max: Duration::from_secs(30),
            feeds_max: 256,
            answer_bytes_max: 128 * 1024 * 1024,
            feed_bytes_max: 64 * 1024 * 1024,
            http: HttpLimits::default(),
            ready_without_leader: Duration::from_secs(10),
            log_lines_dropped: Arc::default(),
        }
    }
}

/// Why a serving node does not run.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The port cannot be had.
    #[error("cannot listen on {addr}: {source}: choose another address, or stop what listens there")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A setting is out of range.
    #[error("{setting}: {reason}")]
    Config {
        /// Which.
        setting: &'static str,
        /// What would be right.
        reason: String,
    },
}

/// How far the start has come.
#[derive(Clone, Debug, PartialEq)]
enum Phase {
    Starting,
    Serving,
    Failed(String),
}

/// A running serving node.
pub struct ServingNode {
    http_addr: SocketAddr,
    api: Arc<Api>,
    stopper: Stopper,
    phase: watch::Receiver<Phase>,
    accepting: Option<JoinHandle<()>>,
    starting: JoinHandle<()>,
}

impl ServingNode {
    /// Binds the port and begins to start: asks the log about the cluster until it answers, registers, opens the
    /// partitions. What fails after the port is bound is told by [`ServingNode::failed`].
    pub async fn start(config: ServingNodeConfig, log: Arc<dyn Log>, seams: Seams) -> Result<ServingNode, NodeError> {
        check(&config)?;
        let addr = config.http_addr;
        let listen = |source| NodeError::Listen { addr, source };
        let listener = TcpListener::bind(addr).await.map_err(listen)?;
        let http_addr = listener.local_addr().map_err(listen)?;
        let mut node = Self::begin(config, http_addr, log, seams);
        node.accepting = Some(tokio::spawn(http::run(node.api.clone(), listener)));
        Ok(node)
    }

    /// As [`ServingNode::start`], without a port: requests come through [`ServingNode::answer`].
    pub async fn start_without_port(
        config: ServingNodeConfig,
        log: Arc<dyn Log>,
        seams: Seams,
    ) -> Result<ServingNode, NodeError> {
        check(&config)?;
        let addr = config.http_addr;
        Ok(Self::begin(config, addr, log, seams))
    }

    fn begin(config: ServingNodeConfig, http_addr: SocketAddr, log: Arc<dyn Log>, seams: Seams) -> ServingNode {
        let stopper = Stopper::default();
        let (phase_sender, phase) = watch::channel(Phase::Starting);
        let info = ServingNodeInfo {
            name: config.name.clone(),
            http_addr: config.advertised_addr.clone().unwrap_or_else(|| http_addr.to_string()),
        };
        let partitions_config = config.partitions.clone();
        let health = Arc::new(IndexHealth::default());
        let api = Arc::new(Api::new(config, http_addr, log.clone(), seams.clone(), stopper.stop(), health.clone()));
        let starting = bring_up(api.clone(), partitions_config, info, log, seams, health, phase_sender);
        let starting = tokio::spawn(starting);
        ServingNode { http_addr, api, stopper, phase, accepting: None, starting }
    }

    /// Answers one request, as a connection would bring it: with a `Host` header, and a body that is there.
    pub async fn answer(&self, request: Request<Bytes>) -> Response<ResponseBody> {
        self.api.answer(request).await
    }

    /// The partitions, once the log has said what the cluster is. For those who check what a node has, beside its API.
    #[must_use]
    pub fn partitions(&self) -> Option<&Partitions> {
        self.api.served()
    }

    /// Where HTTP listens; without a port, where it is configured to.
    #[must_use]
    pub fn http_addr(&self) -> SocketAddr {
        self.http_addr
    }

    /// Whether it serves and has caught up with the log once: `/readyz`.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.api.served().is_some_and(Partitions::is_ready)
    }

    /// Waits until it is ready. Never returns when it fails before: wait for [`ServingNode::failed`] as well.
    pub async fn ready(&self) {
        while !self.is_ready() {
            tokio::time::sleep(READY_INTERVAL).await;
        }
    }

    /// Resolves when this node cannot go on, with a sentence that says why and what to do; else never.
    pub async fn failed(&self) -> String {
        let mut phase = self.phase.clone();
        loop {
            if let Phase::Failed(reason) = &*phase.borrow_and_update() {
                return reason.clone();
            }
            if phase.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Closes the port, lets requests under way end or answers them that the node stops, closes the index.
    pub async fn shutdown(self) {
        self.stopper.ask();
        self.starting.abort();
        let _ = self.starting.await;
        if let Some(mut accepting) = self.accepting {
            let grace = self.api.http_limits().stop_grace;
            if tokio::time::timeout(grace, &mut accepting).await.is_err() {
                self.stopper.end_grace();
                if let Some(partitions) = self.api.served() {
                    partitions.end_waits();
                }
                let _ = accepting.await;
            }
        }
        if let Some(partitions) = self.api.served() {
            partitions.shutdown().await;
        }
    }
}

fn check(config: &ServingNodeConfig) -> Result<(), NodeError> {
    let refuse = |setting, reason: &str| Err(NodeError::Config { setting, reason: reason.to_owned() });
    if config.name.is_empty() {
        return refuse("name", "must not be empty");
    }
    if config.value_bytes_max > duramen_common::limits::BODY_BYTES_MAX {
        return refuse("value_bytes_max", "must not be over 4 MiB, the most that a record takes");
    }
    if let Err((setting, reason)) = config.http.check() {
        return refuse(setting, reason);
    }
    if config.wait_default > config.wait_max {
        return refuse("wait_default", "must not be over wait_max");
    }
    Ok(())
}

/// From a bound port to serving partitions; then watches over them.
async fn bring_up(
    api: Arc<Api>,
    config: PartitionsConfig,
    info: ServingNodeInfo,
    log: Arc<dyn Log>,
    seams: Seams,
    health: Arc<IndexHealth>,
    phase: watch::Sender<Phase>,
) {
    let known = config.data_dir.as_deref().and_then(known_history);
    let cluster = match find_cluster(&*log, known).await {
        Ok(cluster) => cluster,
        Err(why) => {
            phase.send_replace(Phase::Failed(why));
            return;
        }
    };
    let started: Result<Partitions, StartError> =
        Partitions::start_watched(config, &cluster, log.clone(), seams, health).await;
    let partitions = match started {
        Ok(partitions) => partitions,
        Err(error) => {
            phase.send_replace(Phase::Failed(error.to_string()));
            return;
        }
    };
    api.open(partitions.clone());
    phase.send_replace(Phase::Serving);
    tokio::select! {
        reason = partitions.failed() => { phase.send_replace(Phase::Failed(reason)); }
        reason = stay_registered(&*log, &info, &api.name_problem) => { phase.send_replace(Phase::Failed(reason)); }
        never = http::watch_leaders(&api) => match never {},
    }
}

/// Asks all log nodes of which history they are, until one answers; then what the cluster is. The sentence on refusal says
/// what to do.
async fn find_cluster(log: &dyn Log, known: Option<HistoryId>) -> Result<ClusterInfo, String> {
    let mut is_told = false;
    loop {
        let why = match choose(known, &log.survey(CLUSTER_TIMEOUT).await) {
            Choice::Refuse(why) => return Err(why),
            Choice::Wait(why) => why,
            Choice::Join(history) => match log.cluster(CLUSTER_TIMEOUT).await {
                Ok(cluster) if cluster.history == history => return Ok(cluster),
                Ok(cluster) => {
                    let theirs = cluster.history;
                    return Err(format!(
                        "--log-nodes names log nodes of different clusters: some are of history {history}, one of {theirs}; \
                         name those of one cluster only"
                    ));
                }
                Err(error @ ClusterError::OtherHistory { .. }) => return Err(error.to_string()),
                Err(error) => error.to_string(),
            },
        };
        if !is_told {
            tracing::info!(reason = why, "waiting for the log");
            is_told = true;
        }
        tokio::time::sleep(RETRY_AFTER).await;
    }
}
