//! A log node: formation, partitions, services, from one configuration.
//!
//! * In: [`LogNodeConfig`], seams. Out: a node that answers framed TCP and HTTP, says when it is ready, and why it cannot
//!   go on when it cannot.
//! * `start` answers what can be told at once (port taken, folder in use, damaged identity); formation, elections and
//!   repair go on behind it.
//! * Invariant: everything a node starts ends with it: [`LogNode::shutdown`] leaves no task, port or lock behind.
//! * Source: ARCHITECTURE "The log node".

mod batcher;
#[cfg(test)]
mod cluster_tests;
mod config;
mod error;
mod files;
mod formation;
mod http;
mod identity;
mod meta;
mod metered_disk;
mod metrics;
mod names;
mod partition;
mod peer_book;
mod peers;
mod problems;
mod registration;
mod repair;
mod room;
mod services;
mod shared;
mod start;
mod tail;

pub use config::{LogNodeConfig, NodeLimits, PeerConfig};
pub use error::StartError;

use self::identity::IdentityFile;
use self::metered_disk::MeteredDisk;
use self::metrics::NodeMetrics;
use self::peer_book::PeerBook;
use self::services::Services;
use self::shared::{Running, Shared};
use self::start::Opened;
use crate::consensus::PeersRoom;
use crate::disk::{Disk, PatientDisk, RealDisk, SHORTAGE_WAIT_MAX};
use crate::store::{DataFolder, PartitionLog, StoreError};
use duramen_common::seams::Seams;
use duramen_common::{HistoryId, NodeId, PartitionId};
use duramen_transport::{Endpoint, Hello, Role, Server, TcpEndpoint};
use parking_lot::{Mutex, RwLock};
use prometheus_client::registry::Registry;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinHandle};

/// Sockets that are already listening, where the caller wants to choose them itself.
pub struct Listeners {
    /// Framed TCP.
    pub rpc: TcpListener,
    /// HTTP.
    pub http: TcpListener,
}

/// A running log node.
pub struct LogNode {
    shared: Arc<Shared>,
    rpc_addr: String,
    rpc_server: Box<dyn Server>,
    http: Option<http::HttpServer>,
    main: JoinHandle<()>,
    ender: Ender,
}

impl LogNode {
    /// Starts a node on the operating system's disk and network.
    pub async fn start(config: LogNodeConfig, seams: Seams) -> Result<LogNode, StartError> {
        let ground =
            Ground::take(config, seams, Arc::new(PatientDisk::new(Arc::new(RealDisk), SHORTAGE_WAIT_MAX))).await?;
        let rpc = listen(&ground.config.rpc_listen, "framed TCP").await?;
        let http = listen(&ground.config.http_listen, "HTTP").await?;
        Self::start_in(ground, Box::new(endpoint(rpc)?), Some(http)).await
    }

    /// As [`LogNode::start`], with a disk and sockets of the caller's choice.
    pub async fn start_on(
        config: LogNodeConfig,
        seams: Seams,
        disk: Arc<dyn Disk>,
        listeners: Listeners,
    ) -> Result<LogNode, StartError> {
        let rpc = endpoint(listeners.rpc)?;
        Self::start_in(Ground::take(config, seams, disk).await?, Box::new(rpc), Some(listeners.http)).await
    }

    /// As [`LogNode::start_on`], anywhere that peers and clients can reach it, without sockets and without HTTP.
    pub async fn start_at(
        config: LogNodeConfig,
        seams: Seams,
        disk: Arc<dyn Disk>,
        endpoint: Box<dyn Endpoint>,
    ) -> Result<LogNode, StartError> {
        Self::start_in(Ground::take(config, seams, disk).await?, endpoint, None).await
    }

    async fn start_in(
        ground: Ground,
        mut endpoint: Box<dyn Endpoint>,
        http: Option<TcpListener>,
    ) -> Result<LogNode, StartError> {
        let Ground { mut config, seams, disk, folder, registry, metrics } = ground;
        let identity_file = IdentityFile::new(disk, &config.data_dir);
        let identity = identity_file.load_or_mint(config.node, &*seams.entropy)?;
        let partitions = identity.cluster.as_ref().map_or(config.partitions, |cluster| cluster.partitions);
        let connections = files::divide(&config, partitions)?;
        endpoint.limit_connections(connections.rpc);
        config.http.connections_max = connections.http;
        let identity = Arc::new(RwLock::new(identity));
        let hello = {
            let identity = Arc::clone(&identity);
            move || {
                let identity = identity.read();
                let role = Role::LogNode { node: identity.node, store: identity.store };
                Hello { role, history: identity.history() }
            }
        };
        let transport = endpoint.transport(Box::new(hello));
        let peers_room = Arc::new(PeersRoom::new(config.peers.iter().map(|peer| peer.node), config.node));
        let shared = Arc::new(Shared {
            peers: config.peer_table(),
            metrics,
            registry: Mutex::new(registry),
            config,
            seams,
            transport,
            identity,
            identity_file,
            running: RwLock::new(None),
            started: Mutex::default(),
            stage: Mutex::new("this node is starting".to_owned()),
            failure: watch::Sender::new(None),
            ready: watch::Sender::new(false),
            no_room: Arc::new(Notify::new()),
            peers_room,
            book: Mutex::new(PeerBook::new([], Duration::ZERO)),
            names: Mutex::default(),
            turned_away: Mutex::default(),
        });
        // What a formed node finds in its folder is told at once; a damaged log may still be repaired by its peers.
        let cluster = shared.identity().cluster;
        let begin = match cluster {
            None => Begin::Form(folder),
            Some(cluster) => {
                let opened = start::open(&shared, folder, &cluster).await?;
                if let ([(_, damage), ..], true) = (&opened.damaged[..], shared.peers.len() == 1) {
                    let (file, position, what, index) =
                        (damage.file.clone(), damage.position, damage.what.clone(), damage.index);
                    return Err(StoreError::Corrupt { file, position, what, index }.into());
                }
                Begin::Run(cluster, opened)
            }
        };
        let rpc_server = endpoint.serve(Arc::new(Services(Arc::clone(&shared))));
        let http = http.map(|listener| http::HttpServer::start(listener, Arc::clone(&shared)));
        let main = tokio::spawn(main(Arc::clone(&shared), begin));
        let ender = Ender { shared: Arc::clone(&shared), main: main.abort_handle() };
        Ok(LogNode { rpc_addr: rpc_server.addr(), shared, rpc_server, http, main, ender })
    }

    /// This node's number.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.shared.config.node
    }

    /// What peers and clients call it by; `host:port` over framed TCP.
    #[must_use]
    pub fn rpc_addr(&self) -> &str {
        &self.rpc_addr
    }

    /// Where it listens for HTTP; `None` without.
    #[must_use]
    pub fn http_addr(&self) -> Option<SocketAddr> {
        self.http.as_ref().map(http::HttpServer::local_addr)
    }

    /// The cluster it belongs to, once that is formed.
    #[must_use]
    pub fn history(&self) -> Option<HistoryId> {
        self.shared.identity().history()
    }

    /// A partition's log as it stands here, the meta one included; `None` while the partitions do not run. For those who
    /// check what a node has, beside its protocol.
    #[must_use]
    pub fn log(&self, partition: PartitionId) -> Option<PartitionLog> {
        self.shared.running()?.any_partition(partition).map(|partition| partition.log.clone())
    }

    /// What it is waiting for while it is not ready: one clause.
    #[must_use]
    pub fn stage(&self) -> String {
        self.shared.stage()
    }

    /// Returns when the cluster is formed and every partition has had a leader; never, if this node fails before.
    pub async fn ready(&self) {
        if self.shared.ready.subscribe().wait_for(|&ready| ready).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Returns when this node cannot go on, with the reason. What is on its disk can still be fetched.
    pub async fn failed(&self) -> StartError {
        let mut failure = self.shared.failure.subscribe();
        // The guard is gone before anything is waited for, so that the future may move between threads.
        match failure.wait_for(Option::is_some).await.ok().and_then(|failure| failure.clone()) {
            Some(error) => error,
            None => std::future::pending().await,
        }
    }

    /// Stops cleanly: answers no more, leaves the groups, writes and marks what is appended, releases folder and ports.
    pub async fn shutdown(self) {
        let LogNode { shared, rpc_server, http, main, ender, .. } = self;
        main.abort();
        // It owns nothing that must be waited for, but may still be on its way to starting the groups.
        let _ = main.await;
        shared.stop_waiting();
        if let Some(http) = http {
            http.shutdown().await;
        }
        rpc_server.shutdown().await;
        shared.end().await;
        drop(ender);
    }
}

/// Ends a node that is dropped without [`LogNode::shutdown`], so that it does not go on voting unseen.
struct Ender {
    shared: Arc<Shared>,
    main: AbortHandle,
}

impl Drop for Ender {
    fn drop(&mut self) {
        self.main.abort();
        if let Ok(runtime) = Handle::try_current() {
            let shared = Arc::clone(&self.shared);
            runtime.spawn(async move { shared.end().await });
        }
    }
}

enum Begin {
    Form(DataFolder),
    Run(identity::Cluster, Opened),
}

async fn main(shared: Arc<Shared>, begin: Begin) {
    if let Err(error) = run(&shared, begin).await {
        shared.fail(error);
        shared.leave_groups().await;
    }
}

async fn run(shared: &Arc<Shared>, begin: Begin) -> Result<(), StartError> {
    let (cluster, opened) = match begin {
        Begin::Run(cluster, opened) => (cluster, opened),
        Begin::Form(folder) => {
            let cluster = start::form(shared).await?;
            let opened = start::open(shared, folder, &cluster).await?;
            (cluster, opened)
        }
    };
    let running = start::run(shared, cluster, opened).await?;
    tokio::select! {
        biased;
        // Before the groups', which only say that the store failed, and only those that were writing.
        cause = running.store.failed() => Err(StoreError::Poisoned { cause }.into()),
        failure = first_failure(&running) => Err(failure),
        never = peers::watch(shared, &running) => match never {},
        result = async {
            start::settle(shared, &running).await?;
            shared.set_stage("this node is running");
            shared.ready.send_replace(true);
            room::watch(shared, &running).await
        } => result,
    }
}

/// The first group that stops by itself stops the node: it would promise for others what it cannot keep.
async fn first_failure(running: &Running) -> StartError {
    let failures = running.all().map(|partition| {
        let mut failure = partition.group.failure();
        Box::pin(async move {
            match failure.wait_for(Option::is_some).await.ok().and_then(|failure| failure.clone()) {
                Some(failure) => failure,
                None => std::future::pending().await,
            }
        })
    });
    let (failure, _, _) = futures_util::future::select_all(failures).await;
    failure.into()
}

/// What a node stands on before it knows who it is: a checked configuration, a locked folder, counters.
struct Ground {
    config: LogNodeConfig,
    seams: Seams,
    disk: Arc<dyn Disk>,
    folder: DataFolder,
    registry: Registry,
    metrics: NodeMetrics,
}

impl Ground {
    async fn take(config: LogNodeConfig, seams: Seams, disk: Arc<dyn Disk>) -> Result<Ground, StartError> {
        config.check().map_err(|clause| StartError::Config { clause })?;
        let mut registry = Registry::default();
        let metrics = NodeMetrics::new(&mut registry, &config.log_lines_dropped);
        let disk: Arc<dyn Disk> = Arc::new(MeteredDisk::new(disk, &mut registry));
        let (path, on) = (config.data_dir.clone(), Arc::clone(&disk));
        let folder = match seams.threads.run(move || DataFolder::lock(on, &path)).await {
            Ok(locked) => locked?,
            Err(error) => return Err(StartError::Config { clause: format!("the start was interrupted: {error}") }),
        };
        Ok(Ground { config, seams, disk, folder, registry, metrics })
    }
}

fn endpoint(listener: TcpListener) -> Result<TcpEndpoint, StartError> {
    TcpEndpoint::new(listener).map_err(|error| StartError::Listen {
        addr: "a socket that was handed in".to_owned(),
        purpose: "framed TCP",
        reason: error.to_string(),
    })
}

async fn listen(addr: &str, purpose: &'static str) -> Result<TcpListener, StartError> {
    TcpListener::bind(addr).await.map_err(|error| StartError::Listen {
        addr: addr.to_owned(),
        purpose,
        reason: error.to_string(),
    })
}
