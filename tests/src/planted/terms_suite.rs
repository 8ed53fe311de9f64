//! Terms suite: one group on three nodes whose lead is handed around, and callers at each that append what they checked a
//! while ago.
//!
//! * Between the batcher's check of ids and openraft's append nothing is awaited, but its thread may be held up there
//!   (preempted, paged out) while others go on, through changes of leaders. In one thread that cannot happen; so the suite
//!   plays the batcher's part, and is held up itself.
//! * A seed is some changes of leaders, with small records under ids over which all callers fight. At the end no id may stand
//!   twice (invariant 7), and all logs must be the same (2).
//! * Source: DESIGN D5. Deliberately absent: crashes, cuts, the duplicate window, which the simulator has.

use super::chance::Chance;
use bytes::Bytes;
use duramen_common::batch::{Record, RecordBatch, RecordSet};
use duramen_common::{HistoryId, NodeId, Offset, PartitionId, RequestId, StoreId};
use duramen_log_service::consensus::state_machine::StateMachine;
use duramen_log_service::consensus::{Group, GroupParts, Leading, PeerMessage, PeersRoom, RaftTimings};
use duramen_log_service::disk::MemDisk;
use duramen_log_service::store::{DataFolder, IdCheck, PartitionLog, Store, StoreConfig, StoreIdentity, SyncMode};
use duramen_transport::{Hello, HelloRefusal, MemoryNetwork, Peer, Role, Service, Welcome};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::RngSeed;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

const NODES: [u64; 3] = [1, 2, 3];
const PARTITION: PartitionId = PartitionId::new(0);
const HISTORY: HistoryId = HistoryId::from_bits(7);
/// How often the lead is handed on.
const HANDOVERS: usize = 20;
/// Longest time between two handovers, and longest time that a caller is held up. Unit: milliseconds of virtual time.
const HANDOVER_MS: usize = 600;
const HELD_UP_MS: usize = 2_500;
const CALLERS: usize = 2;
/// Among so many ids a caller chooses.
const IDS_AT_ONCE: usize = 2;
/// How long a majority may take. Unit: virtual time.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs a seed; says what is broken.
pub fn run_seed(seed: u64) -> Result<(), String> {
    let order = RngSeed::from_bytes(&seed.to_le_bytes());
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).rng_seed(order).build();
    runtime.map_err(|error| error.to_string())?.block_on(live(Chance::new(seed, 0)))
}

async fn live(chance: Chance) -> Result<(), String> {
    let network = MemoryNetwork::new();
    let mut members = Vec::new();
    for node in NODES {
        members.push(Arc::new(Member::start(node, &network, &chance).await?));
    }
    for member in &members {
        member.group.initialize(NODES.map(NodeId::new)).await.map_err(|error| error.to_string())?;
    }
    let (stop, stopped) = watch::channel(false);
    let ids = Arc::new(Mutex::new(Ids { first: 1 }));
    let mut callers = JoinSet::new();
    for member in members.iter().flat_map(|member| std::iter::repeat_n(member, CALLERS)) {
        let caller = Caller {
            member: Arc::clone(member),
            ids: Arc::clone(&ids),
            chance: chance.clone(),
            stopped: stopped.clone(),
        };
        callers.spawn(caller.work());
    }
    for _ in 0..HANDOVERS {
        sleep(chance.ms(HANDOVER_MS)).await;
        if let Some(leader) = members.iter().position(|member| member.term().is_some()) {
            let next = (leader + 1 + chance.below(NODES.len() - 1)) % NODES.len();
            members[leader].group.transfer_leader(NodeId::new(NODES[next])).await;
        }
    }
    stop.send_replace(true);
    while let Some(caller) = callers.join_next().await {
        caller.map_err(|error| error.to_string())?;
    }
    let end = timeout(PATIENCE, settle(&members)).await.map_err(|_| "nothing is committed any more".to_owned())?;
    judge(&members, end)
}

/// Appends a last record and waits until everybody has it.
async fn settle(members: &[Arc<Member>]) -> Offset {
    let last = record(u128::MAX);
    let end = 'appended: loop {
        for member in members {
            let Some(term) = member.term() else { continue };
            if let Ok(offset) = member.propose(&last, term).await {
                break 'appended offset.next();
            }
        }
        sleep(Duration::from_millis(50)).await;
    };
    for member in members {
        let mut committed = member.log.watch_committed_end();
        // An error is the end of its log, which the judge will find too short.
        let _ = committed.wait_for(|&committed| committed >= end).await;
    }
    end
}

/// Holds the logs to one another and each id to one place.
fn judge(members: &[Arc<Member>], end: Offset) -> Result<(), String> {
    let logs: Result<Vec<_>, _> =
        members.iter().map(|member| member.log.read_from(Offset::ZERO, end, usize::MAX)).collect();
    let logs = logs.map_err(|error| error.to_string())?;
    if logs.iter().any(|log| *log != logs[0]) {
        return Err(format!("invariant 2: the logs differ below {end}"));
    }
    let mut places: BTreeMap<RequestId, Offset> = BTreeMap::new();
    for (_, bytes) in &logs[0] {
        let batch = RecordBatch::parse(bytes.clone()).map_err(|error| error.to_string())?;
        let ids = batch.id_runs().map(|run| run.base);
        for (id, (offset, _)) in ids.zip(batch.records()) {
            // The last record may be tried twice.
            if let Some(first) = places.insert(id, offset).filter(|_| id != RequestId::from_bits(u128::MAX)) {
                return Err(format!("invariant 7: id {id} stands at {first} and again at {offset}"));
            }
        }
    }
    Ok(())
}

fn record(id: u128) -> RecordSet {
    let record = Record::event(None, Bytes::from(id.to_string()));
    RecordSet::of(RequestId::from_bits(id), &record).expect("it is within the limits")
}

/// Ids to fight over; they move on as they are used.
struct Ids {
    first: u128,
}

/// One node's part of the group.
struct Member {
    group: Arc<Group>,
    log: PartitionLog,
    /// Ids that were checked here and have no outcome yet.
    in_flight: Mutex<BTreeSet<u128>>,
    _store: Store,
}

impl Member {
    async fn start(node: u64, network: &MemoryNetwork, chance: &Chance) -> Result<Member, String> {
        let seams = chance.seams();
        let folder =
            DataFolder::lock(Arc::new(MemDisk::new()), Path::new("/data")).map_err(|error| error.to_string())?;
        let config = StoreConfig { segment_bytes: 64 * 1024, reserve_bytes: 0, ..StoreConfig::default() };
        let store = Store::open(folder, identity(node), config, Arc::clone(&seams.entropy), SyncMode::Task)
            .map_err(|error| error.to_string())?;
        let log = store.open_partition(PARTITION).map_err(|error| error.to_string())?;
        let peer = |node: u64| (NodeId::new(node), Peer { addr: addr(node), node: Some(NodeId::new(node)) });
        let group = Group::start(GroupParts {
            node: NodeId::new(node),
            partition: PARTITION,
            log: log.clone(),
            state_machine: StateMachine::for_data(log.clone()).map_err(|error| error.to_string())?,
            transport: Arc::new(network.transport(&addr(node), Box::new(move || hello(node)))),
            peers: Arc::new(NODES.map(peer).into()),
            peers_room: Arc::new(PeersRoom::new(NODES.map(NodeId::new), NodeId::new(node))),
            timings: RaftTimings::default(),
            entropy: seams.entropy,
        });
        let group = Arc::new(group.await.map_err(|error| error.to_string())?);
        network.register(&addr(node), Arc::new(Station { node, group: Arc::clone(&group) }));
        Ok(Member { group, log, in_flight: Mutex::default(), _store: store })
    }

    /// The term in which it leads.
    fn term(&self) -> Option<u64> {
        match *self.group.leading().borrow() {
            Leading::Here { term } => Some(term),
            Leading::Elsewhere { .. } => None,
        }
    }

    /// Where a record stands, once it is committed.
    async fn propose(&self, set: &RecordSet, term: u64) -> Result<Offset, String> {
        let batch = RecordBatch::build(std::slice::from_ref(set), 0);
        let proposal = self.group.propose(batch, term).await.map_err(|error| error.to_string())?;
        let outcome = timeout(Duration::from_secs(2), proposal.outcome()).await.map_err(|error| error.to_string())?;
        outcome.map(|appended| appended.first_offset).map_err(|error| error.to_string())
    }
}

/// What a batcher does with one record at a time.
struct Caller {
    member: Arc<Member>,
    ids: Arc<Mutex<Ids>>,
    chance: Chance,
    stopped: watch::Receiver<bool>,
}

impl Caller {
    async fn work(self) {
        while !*self.stopped.borrow() {
            sleep(self.chance.ms(30)).await;
            if let Some(term) = self.member.term() {
                self.append(term).await;
            }
        }
    }

    /// Checks an id in a term and appends it in no other.
    async fn append(&self, term: u64) {
        let id = self.ids.lock().first + self.chance.below(IDS_AT_ONCE) as u128;
        let set = record(id);
        let fingerprints = set.check().expect("it is whole");
        if self.member.log.check_ids(&set.ids, &fingerprints) != [IdCheck::New] {
            self.ids.lock().first += 1;
            return;
        }
        if !self.member.in_flight.lock().insert(id) {
            return;
        }
        if self.chance.below(3) == 0 {
            sleep(self.chance.ms(HELD_UP_MS)).await;
        }
        // Whether it went well is seen in the log.
        let _ = self.member.propose(&set, term).await;
        self.member.in_flight.lock().remove(&id);
    }
}

/// Answers peers for one node.
struct Station {
    node: u64,
    group: Arc<Group>,
}

impl Service for Station {
    fn greet(&self, _hello: &Hello) -> Result<Welcome, HelloRefusal> {
        let StoreIdentity { history, store } = identity(self.node);
        Ok(Welcome { node: NodeId::new(self.node), store, history: Some(history) })
    }

    fn handle(&self, _caller: &Hello, service: u8, body: Bytes) -> BoxFuture<'static, Bytes> {
        let group = Arc::clone(&self.group);
        Box::pin(async move {
            match PeerMessage::decode(service, &body) {
                Ok(message) => group.answer(message, |_| true).await,
                Err(reason) => PeerMessage::not_here(service, reason),
            }
        })
    }
}

fn addr(node: u64) -> String {
    format!("node-{node}")
}

fn identity(node: u64) -> StoreIdentity {
    StoreIdentity { history: HISTORY, store: StoreId::from_bits(u128::from(node)) }
}

fn hello(node: u64) -> Hello {
    Hello { role: Role::LogNode { node: NodeId::new(node), store: identity(node).store }, history: Some(HISTORY) }
}
