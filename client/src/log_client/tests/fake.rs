//! A cluster of log nodes that share one log a partition in memory, and do at each append what the test says.

use bytes::Bytes;
use duramen_common::batch::{IdRun, RecordBatch, RecordSet};
use duramen_common::codec;
use duramen_common::protocol::*;
use duramen_common::{HistoryId, NodeId, Offset, PartitionId, RequestId, StoreId};
use duramen_transport::{Hello, HelloRefusal, MemoryNetwork, Service, Welcome};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use tokio::sync::Semaphore;

/// What a node does with one append that reaches it.
#[derive(Clone, Debug)]
pub enum Do {
    /// What a node should.
    Right,
    /// Appends, and never answers.
    AppendAndHang,
    /// Never answers, and does not append.
    Hang,
    /// Refuses.
    Refuse(LogRefusal),
    /// Appends, and refuses.
    AppendAndRefuse(LogRefusal),
    /// Appends, and answers bytes that do not decode.
    AppendAndGarble,
    /// Appends when the test adds a permit to `gate`.
    AtGate,
}

#[derive(Default)]
pub struct Log {
    pub leader: Option<u64>,
    /// Ids in the order of their offsets.
    pub ids: Vec<RequestId>,
    pub batches: Vec<RecordBatch>,
    offsets: HashMap<RequestId, u64>,
    pub script: VecDeque<Do>,
    /// Every append request that reached a node, with that node.
    pub appends: Vec<(u64, AppendRequest)>,
    pub tails: usize,
    pub fetches: Vec<u64>,
    pub registered: Vec<String>,
    /// What a node answers to a fetch instead of the truth.
    pub fetch_script: VecDeque<Result<FetchAnswer, LogRefusal>>,
    /// Records with these bytes are refused as invalid, whatever else comes with them.
    pub poison: Option<Bytes>,
}

impl Log {
    pub fn append(&mut self, request: &AppendRequest, records: Bytes) -> AppendAnswer {
        let set = RecordSet { records, count: request.count, ids: request.ids.clone() };
        assert_eq!(set.check().unwrap().len(), request.count as usize);
        let mut runs = Vec::new();
        let mut fresh: Vec<IdRun> = Vec::new();
        for run in &request.ids {
            for number in 0..u64::from(run.count) {
                let id = run.base.plus(number);
                let next = self.ids.len() as u64;
                let offset = *self.offsets.entry(id).or_insert(next);
                if offset == next {
                    self.ids.push(id);
                    IdRun::push(&mut fresh, IdRun { base: id, count: 1 });
                }
                push_run(&mut runs, offset);
            }
        }
        let fresh_count: u32 = fresh.iter().map(|run| run.count).sum();
        if fresh_count == request.count {
            let first = Offset::new(self.ids.len() as u64 - u64::from(fresh_count));
            self.batches.push(RecordBatch::build(&[set], 0).at(first));
        }
        AppendAnswer { runs, committed_end: Offset::new(self.ids.len() as u64) }
    }

    pub fn end(&self) -> Offset {
        Offset::new(self.ids.len() as u64)
    }
}

fn push_run(runs: &mut Vec<AppendedRun>, offset: u64) {
    if let Some(AppendedRun::At { first_offset, count }) = runs.last_mut()
        && first_offset.get() + u64::from(*count) == offset
    {
        *count += 1;
        return;
    }
    runs.push(AppendedRun::At { first_offset: Offset::new(offset), count: 1 });
}

#[derive(Clone)]
pub struct Cluster {
    pub network: MemoryNetwork,
    pub log: Arc<Mutex<Log>>,
    pub gate: Arc<Semaphore>,
    pub history: HistoryId,
    pub nodes: u64,
}

pub fn addr(node: u64) -> String {
    format!("log-{node}:7200")
}

impl Cluster {
    pub fn start(nodes: u64, leader: Option<u64>) -> Cluster {
        let cluster = Cluster {
            network: MemoryNetwork::new(),
            log: Arc::new(Mutex::new(Log { leader, ..Log::default() })),
            gate: Arc::new(Semaphore::new(0)),
            history: HistoryId::from_bits(7),
            nodes,
        };
        (1..=nodes).for_each(|node| cluster.restart(node));
        cluster
    }

    pub fn restart(&self, node: u64) {
        self.network.register(&addr(node), Arc::new(Node { number: node, cluster: self.clone() }));
    }

    pub fn script(&self, script: impl IntoIterator<Item = Do>) {
        self.log.lock().script.extend(script);
    }

    pub fn set_leader(&self, leader: Option<u64>) {
        self.log.lock().leader = leader;
    }

    fn info(&self) -> ClusterInfo {
        let log_nodes = (1..=self.nodes)
            .map(|node| LogNodeInfo {
                node: NodeId::new(node),
                store: StoreId::from_bits(u128::from(node)),
                rpc_addr: addr(node),
                http_addr: String::new(),
            })
            .collect();
        ClusterInfo {
            history: self.history,
            partitions: 1,
            dedup_window: 1000,
            log_nodes,
            serving_nodes: Vec::new(),
            leaders: vec![None],
        }
    }
}

struct Node {
    number: u64,
    cluster: Cluster,
}

impl Service for Node {
    fn greet(&self, hello: &Hello) -> Result<Welcome, HelloRefusal> {
        if hello.history.is_some_and(|theirs| theirs != self.cluster.history) {
            return Err(HelloRefusal { reason: "another history".to_owned() });
        }
        Ok(Welcome {
            node: NodeId::new(self.number),
            store: StoreId::from_bits(u128::from(self.number)),
            history: Some(self.cluster.history),
        })
    }

    fn handle(&self, _caller: &Hello, service: u8, body: Bytes) -> BoxFuture<'static, Bytes> {
        let (number, cluster) = (self.number, self.cluster.clone());
        Box::pin(async move {
            match service {
                service::CLUSTER => codec::encode(&Ok::<_, LogRefusal>(cluster.info())),
                service::APPEND => append(number, &cluster, &body).await,
                service::TAIL => {
                    let mut log = cluster.log.lock();
                    log.tails += 1;
                    codec::encode(&leads(number, &log).map(|()| TailAnswer { committed_end: log.end() }))
                }
                service::FETCH => fetch(number, &cluster, &body),
                _ => {
                    let request: RegisterRequest = codec::decode(&body).unwrap();
                    let mut log = cluster.log.lock();
                    log.registered.push(request.serving_node.name);
                    codec::encode(&Ok::<(), LogRefusal>(()))
                }
            }
        })
    }
}

fn leads(number: u64, log: &Log) -> Result<(), LogRefusal> {
    if log.leader == Some(number) {
        return Ok(());
    }
    Err(LogRefusal::NotLeader { partition: PartitionId::new(0), leader: log.leader.map(NodeId::new) })
}

async fn append(number: u64, cluster: &Cluster, body: &Bytes) -> Bytes {
    let (request, records) = codec::decode_with_payload::<AppendRequest>(body).unwrap();
    let todo = {
        let mut log = cluster.log.lock();
        log.appends.push((number, request.clone()));
        if let Err(refusal) = leads(number, &log) {
            return codec::encode(&Err::<AppendAnswer, _>(refusal));
        }
        if log.poison.as_ref().is_some_and(|poison| records.windows(poison.len()).any(|bytes| bytes == poison)) {
            let refusal = LogRefusal::Invalid { reason: "poison".to_owned() };
            return codec::encode(&Err::<AppendAnswer, _>(refusal));
        }
        log.script.pop_front().unwrap_or(Do::Right)
    };
    let append = |records| cluster.log.lock().append(&request, records);
    let answer: Result<AppendAnswer, LogRefusal> = match todo {
        Do::Right => Ok(append(records)),
        Do::AppendAndHang => {
            append(records);
            std::future::pending().await
        }
        Do::Hang => std::future::pending().await,
        Do::Refuse(refusal) => Err(refusal),
        Do::AppendAndRefuse(refusal) => {
            append(records);
            Err(refusal)
        }
        Do::AppendAndGarble => {
            append(records);
            return Bytes::from_static(b"\x07nonsense");
        }
        Do::AtGate => {
            cluster.gate.acquire().await.unwrap().forget();
            Ok(append(records))
        }
    };
    codec::encode(&answer)
}

fn fetch(number: u64, cluster: &Cluster, body: &Bytes) -> Bytes {
    let request: FetchRequest = codec::decode(body).unwrap();
    let mut log = cluster.log.lock();
    log.fetches.push(number);
    let batches: Vec<RecordBatch> =
        log.batches.iter().filter(|batch| batch.header().end() > request.from).cloned().collect();
    let id = BatchId { term: 1, index: 1 };
    let honest = FetchAnswer {
        batches: batches.iter().map(|batch| (id, batch.header().length)).collect(),
        next_offset: log.end().max(request.from),
        committed_end: log.end(),
        first_offset: Offset::ZERO,
        horizon: Offset::ZERO,
        settled_end: Offset::ZERO,
    };
    let answer = log.fetch_script.pop_front().unwrap_or(Ok(honest));
    let payloads: Vec<Bytes> = if answer.as_ref().is_ok_and(|answer| !answer.batches.is_empty()) {
        batches.iter().map(|batch| batch.bytes().clone()).collect()
    } else {
        Vec::new()
    };
    codec::encode_with_payloads(&answer, &payloads)
}
