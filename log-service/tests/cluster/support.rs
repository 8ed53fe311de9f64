//! A cluster of log nodes in one process, over real TCP on loopback and real files; and a caller that finds leaders.

use bytes::Bytes;
use duramen_common::batch::{Record, RecordBatch, RecordSet, RecordSetBuilder};
use duramen_common::codec;
use duramen_common::protocol::{
    AppendAnswer, AppendRequest, AppendedRun, BatchId, ClusterInfo, ClusterRequest, FetchAnswer, FetchRequest,
    LogRefusal, RegisterRequest, ServingNodeInfo, TailAnswer, TailRequest, service,
};
use duramen_common::seams::Seams;
use duramen_common::{HistoryId, NodeId, Offset, PartitionId, RequestId};
use duramen_log_service::consensus::RaftTimings;
use duramen_log_service::disk::{Disk, RealDisk};
use duramen_log_service::node::{Listeners, LogNode, LogNodeConfig, PeerConfig, StartError};
use duramen_transport::{CallError, Hello, Peer, Role, TcpTransport, TcpTransportConfig, Transport};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep, timeout};

/// Longest that anything in these tests may take.
pub const PATIENCE: Duration = Duration::from_secs(60);
const CALL: Duration = Duration::from_secs(5);

pub struct Cluster {
    pub nodes: BTreeMap<u64, LogNode>,
    pub configs: BTreeMap<u64, LogNodeConfig>,
    pub caller: Caller,
    pub disks: BTreeMap<u64, Arc<dyn Disk>>,
    _folders: TempDir,
}

/// What differs from the usual in a test's cluster.
pub type Tune = fn(&mut LogNodeConfig);

impl Cluster {
    /// A cluster of `count` nodes that is ready.
    pub async fn ready(count: u64) -> Cluster {
        let mut cluster = Cluster::configured(count, |_| {}).await;
        for node in 1..=count {
            cluster.start(node).await.unwrap();
        }
        cluster.wait_ready().await;
        cluster
    }

    /// A cluster whose nodes are not started yet.
    pub async fn configured(count: u64, tune: Tune) -> Cluster {
        let folders = tempfile::tempdir().unwrap();
        let mut peers = Vec::new();
        let mut free = Vec::new();
        for node in 1..=count {
            // Kept bound until all are known, so that no port is given twice.
            let (rpc, http) = (free_port().await, free_port().await);
            peers.push(PeerConfig {
                node: NodeId::new(node),
                rpc_addr: rpc.local_addr().unwrap().to_string(),
                http_addr: http.local_addr().unwrap().to_string(),
            });
            free.push((rpc, http));
        }
        let config = |node: u64| {
            let own = &peers[node as usize - 1];
            let mut config = LogNodeConfig::new(
                NodeId::new(node),
                folders.path().join(format!("log-{node}")),
                own.rpc_addr.clone(),
                own.http_addr.clone(),
                peers.clone(),
            );
            config.partitions = 2;
            config.timings = RaftTimings { heartbeat_ms: 100, election_ms_min: 300, election_ms_max: 600 };
            config.store.segment_bytes = 4 * 1024 * 1024;
            config.store.reserve_bytes = 1024 * 1024;
            tune(&mut config);
            (node, config)
        };
        let configs: BTreeMap<u64, LogNodeConfig> = (1..=count).map(config).collect();
        let caller = Caller::new(&configs);
        let disks = (1..=count).map(|node| (node, Arc::new(RealDisk) as Arc<dyn Disk>)).collect();
        Cluster { nodes: BTreeMap::new(), configs, caller, disks, _folders: folders }
    }

    pub async fn start(&mut self, node: u64) -> Result<(), StartError> {
        let config = self.configs[&node].clone();
        let listeners = Listeners { rpc: bind(&config.rpc_listen).await, http: bind(&config.http_listen).await };
        let disk = Arc::clone(&self.disks[&node]);
        let started = LogNode::start_on(config, Seams::system(), disk, listeners).await?;
        self.nodes.insert(node, started);
        Ok(())
    }

    pub async fn stop(&mut self, node: u64) {
        if let Some(stopped) = self.nodes.remove(&node) {
            stopped.shutdown().await;
        }
    }

    pub async fn stop_all(mut self) {
        for node in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.stop(node).await;
        }
    }

    pub async fn wait_ready(&self) {
        for node in self.nodes.values() {
            tokio::select! {
                ready = timeout(PATIENCE, node.ready()) => {
                    ready.unwrap_or_else(|_| panic!("node {} is not ready: {}", node.node(), node.stage()));
                }
                failure = node.failed() => panic!("node {} failed: {failure}", node.node()),
            }
        }
    }

    pub fn history(&self) -> HistoryId {
        self.nodes.values().find_map(LogNode::history).expect("a formed cluster")
    }

    /// The leader of a partition, once all who run agree on one that runs.
    pub async fn leader(&self, partition: u16) -> u64 {
        let give_up = Instant::now() + PATIENCE;
        loop {
            let mut leaders = Vec::new();
            for &node in self.nodes.keys() {
                if let Ok(info) = self.caller.cluster(node).await {
                    leaders.push(info.leaders[usize::from(partition)]);
                }
            }
            if let Some(Some(leader)) = leaders.first()
                && leaders.iter().all(|other| *other == Some(*leader))
                && self.nodes.contains_key(&leader.get())
            {
                return leader.get();
            }
            assert!(Instant::now() < give_up, "no leader of partition {partition}: {leaders:?}");
            sleep(Duration::from_millis(20)).await;
        }
    }
}

pub async fn free_port() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

async fn bind(addr: &str) -> TcpListener {
    let give_up = Instant::now() + PATIENCE;
    loop {
        match TcpListener::bind(addr).await {
            Ok(listener) => return listener,
            Err(error) => assert!(Instant::now() < give_up, "{addr}: {error}"),
        }
        sleep(Duration::from_millis(10)).await;
    }
}

/// Calls nodes as a client does.
#[derive(Clone)]
pub struct Caller {
    transport: Arc<TcpTransport>,
    peers: BTreeMap<u64, Peer>,
}

/// Why a call has no answer.
#[derive(Debug)]
pub enum Failure {
    Call(#[expect(dead_code, reason = "shown when a test fails")] CallError),
    Refusal(LogRefusal),
}

impl Caller {
    fn new(configs: &BTreeMap<u64, LogNodeConfig>) -> Caller {
        let hello = || Hello { role: Role::Client { name: "test".to_owned() }, history: None };
        let transport = Arc::new(TcpTransport::new(TcpTransportConfig::default(), Box::new(hello)));
        let peer = |(&node, config): (&u64, &LogNodeConfig)| {
            (node, Peer { addr: config.rpc_listen.clone(), node: Some(NodeId::new(node)) })
        };
        Caller { transport, peers: configs.iter().map(peer).collect() }
    }

    /// From now on the node is called here.
    pub fn moved(&mut self, node: u64, addr: &str) {
        self.peers.insert(node, Peer { addr: addr.to_owned(), node: Some(NodeId::new(node)) });
    }

    async fn raw(&self, node: u64, service: u8, body: Bytes, wait: Duration) -> Result<Bytes, Failure> {
        self.transport.call(&self.peers[&node], service, body, wait).await.map_err(Failure::Call)
    }

    async fn call<Q: Serialize, A: DeserializeOwned>(&self, node: u64, service: u8, request: &Q) -> Result<A, Failure> {
        let answer = self.raw(node, service, codec::encode(request), CALL).await?;
        codec::decode::<Result<A, LogRefusal>>(&answer).unwrap().map_err(Failure::Refusal)
    }

    pub async fn cluster(&self, node: u64) -> Result<ClusterInfo, Failure> {
        self.call(node, service::CLUSTER, &ClusterRequest {}).await
    }

    pub async fn tail(&self, node: u64, partition: u16) -> Result<Offset, Failure> {
        let request = TailRequest { partition: PartitionId::new(partition), timeout_ms: 2_000 };
        self.call::<_, TailAnswer>(node, service::TAIL, &request).await.map(|answer| answer.committed_end)
    }

    pub async fn register(&self, node: u64, name: &str) -> Result<(), Failure> {
        self.register_at(node, name, "127.0.0.1:1").await
    }

    /// As one process for each address.
    pub async fn register_at(&self, node: u64, name: &str, http_addr: &str) -> Result<(), Failure> {
        let incarnation = http_addr.bytes().map(u64::from).sum();
        let serving_node = ServingNodeInfo { name: name.to_owned(), http_addr: http_addr.to_owned() };
        self.call(node, service::REGISTER, &RegisterRequest { serving_node, incarnation }).await
    }

    /// One attempt at one node.
    pub async fn append_once(
        &self,
        node: u64,
        partition: u16,
        set: &RecordSet,
        known_end: u64,
        timeout_ms: u64,
    ) -> Result<AppendAnswer, Failure> {
        let request = AppendRequest {
            partition: PartitionId::new(partition),
            count: set.count,
            ids: set.ids.clone(),
            known_end: Offset::new(known_end),
            timeout_ms,
        };
        let body = codec::encode_with_payload(&request, &set.records);
        let wait = Duration::from_millis(timeout_ms) + Duration::from_secs(1);
        let answer = self.raw(node, service::APPEND, body, wait).await?;
        codec::decode::<Result<AppendAnswer, LogRefusal>>(&answer).unwrap().map_err(Failure::Refusal)
    }

    /// Tries every node under the same ids until it is acknowledged.
    pub async fn append(&self, partition: u16, set: &RecordSet) -> Vec<AppendedRun> {
        let give_up = Instant::now() + PATIENCE;
        let mut last = None;
        while Instant::now() < give_up {
            for &node in self.peers.keys() {
                match self.append_once(node, partition, set, 0, 2_000).await {
                    Ok(answer) => return answer.runs,
                    Err(failure) => last = Some(failure),
                }
            }
            sleep(Duration::from_millis(20)).await;
        }
        panic!("not appended within {PATIENCE:?}: {last:?}");
    }

    pub async fn fetch(
        &self,
        node: u64,
        partition: u16,
        from: u64,
        last: Option<BatchId>,
        wait_ms: u64,
    ) -> Result<(FetchAnswer, Vec<RecordBatch>), Failure> {
        let request = FetchRequest {
            partition: PartitionId::new(partition),
            from: Offset::new(from),
            bytes_max: 1024 * 1024,
            wait_ms,
            last,
        };
        let wait = Duration::from_millis(wait_ms) + CALL;
        let answer = self.raw(node, service::FETCH, codec::encode(&request), wait).await?;
        let (answer, payload) = codec::decode_with_payload::<Result<FetchAnswer, LogRefusal>>(&answer).unwrap();
        let answer = answer.map_err(Failure::Refusal)?;
        let mut at = 0;
        let mut batches = Vec::new();
        for (_, length) in &answer.batches {
            let end = at + *length as usize;
            batches.push(RecordBatch::parse(payload.slice(at..end)).unwrap());
            at = end;
        }
        assert_eq!(at, payload.len());
        Ok((answer, batches))
    }

    /// Everything up to `end`, as payloads of events by offset; waits until the node has published that much.
    pub async fn read_all(&self, node: u64, partition: u16, end: u64) -> Vec<Bytes> {
        let give_up = Instant::now() + PATIENCE;
        let mut payloads = Vec::new();
        let mut last = None;
        while (payloads.len() as u64) < end {
            assert!(Instant::now() < give_up, "node {node} has {} of {end} records", payloads.len());
            let from = payloads.len() as u64;
            let Ok((answer, batches)) = self.fetch(node, partition, from, last, 500).await else {
                sleep(Duration::from_millis(50)).await;
                continue;
            };
            for batch in &batches {
                for (offset, record) in batch.records() {
                    if offset.get() >= from {
                        assert_eq!(offset.get(), payloads.len() as u64, "offsets are dense");
                        payloads.push(Bytes::copy_from_slice(record.event().expect("events only").1));
                    }
                }
            }
            last = answer.batches.last().map(|(id, _)| *id).or(last);
        }
        payloads
    }
}

/// Events `payload 0`, `payload 1`… under ids from `base` on.
pub fn events(base: u128, count: u32) -> RecordSet {
    let mut builder = RecordSetBuilder::default();
    for number in 0..count {
        let id = RequestId::from_bits(base + u128::from(number));
        builder.push(id, &Record::event(None, Bytes::from(format!("{}", base + u128::from(number))))).unwrap();
    }
    builder.finish()
}

pub fn first_of(runs: &[AppendedRun]) -> u64 {
    match runs.first() {
        Some(AppendedRun::At { first_offset, .. }) => first_offset.get(),
        other => panic!("not appended: {other:?}"),
    }
}

/// Waits for a condition that is asked for again and again.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let give_up = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < give_up, "not within {PATIENCE:?}: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}
