//! Three groups of one partition, with network and disks in memory and time that is not waited for: what a group does when its peers
//! hold back, are full, or cannot take over.

use super::*;
use crate::consensus::network::IN_FLIGHT_FOR;
use crate::consensus::wire::{AppendAnswer, AppendMessage, AppendReply, Asked, VoteMessage, VoteReply, WireVote};
use crate::disk::MemDisk;
use crate::store::{DataFolder, EntryBody, EntryId, LogEntry, Store, StoreConfig, StoreIdentity, SyncMode};
use duramen_common::batch::{Record, RecordSet};
use duramen_common::seams::SystemEntropy;
use duramen_common::{HistoryId, RequestId, StoreId, codec};
use duramen_transport::{Hello, HelloRefusal, MemoryNetwork, Role, Service, Welcome};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use std::path::Path;
use tokio::time::{sleep, timeout};

const NODES: [u64; 3] = [1, 2, 3];
const PARTITION: PartitionId = PartitionId::new(0);
/// Longest that anything may take here, in time that passes by itself.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a node does with its peers' messages.
#[derive(Clone, Default)]
struct Manners {
    /// Callers that get no answer.
    deaf_to: Vec<u64>,
    /// Messages with entries get no answer.
    holds_entries: bool,
    /// It says that its groups do not run.
    is_away: bool,
    /// It says that its disk has no room for new records.
    is_full: bool,
    /// It also takes none of what is in flight.
    refuses_in_flight: bool,
    /// How many messages with records came, and how many heartbeats.
    came: (usize, usize),
}

/// Answers peers for one node.
struct Station(u64, Arc<Group>, Arc<Mutex<Manners>>);

impl Service for Station {
    fn greet(&self, _hello: &Hello) -> Result<Welcome, HelloRefusal> {
        let StoreIdentity { history, store } = identity(self.0);
        Ok(Welcome { node: NodeId::new(self.0), store, history: Some(history) })
    }

    fn handle(&self, caller: &Hello, service: u8, body: Bytes) -> BoxFuture<'static, Bytes> {
        let group = Arc::clone(&self.1);
        let Role::LogNode { node, .. } = caller.role else { panic!("a log node calls") };
        let message = PeerMessage::decode(service, &body).unwrap();
        if let Asked::Append(append) = &message.0 {
            let has_records = append.entries.iter().any(|entry| matches!(entry.body, EntryBody::Batch(_)));
            let came = &mut self.2.lock().came;
            *came = (came.0 + usize::from(has_records), came.1 + usize::from(append.entries.is_empty()));
        }
        let manners = self.2.lock().clone();
        let is_held =
            manners.holds_entries && matches!(&message.0, Asked::Append(append) if !append.entries.is_empty());
        Box::pin(async move {
            if is_held || manners.deaf_to.contains(&node.get()) {
                return std::future::pending().await;
            }
            if manners.is_away {
                return PeerMessage::not_here(service, "it is away".to_owned());
            }
            let lacks = |need| match need {
                Need::New => manners.is_full,
                Need::InFlight => manners.refuses_in_flight,
                Need::Admitted => false,
            };
            group.answer(message, |need| !lacks(need)).await
        })
    }
}

struct Member {
    group: Arc<Group>,
    room: Arc<PeersRoom>,
    manners: Arc<Mutex<Manners>>,
    /// Does the sync work; without it nothing becomes durable.
    driver: JoinHandle<()>,
}

fn addr(node: u64) -> String {
    format!("node-{node}")
}

fn identity(node: u64) -> StoreIdentity {
    StoreIdentity { history: HistoryId::from_bits(7), store: StoreId::from_bits(u128::from(node)) }
}

async fn start(network: &MemoryNetwork, node: u64) -> Member {
    let folder = DataFolder::lock(Arc::new(MemDisk::new()), Path::new("/data")).unwrap();
    let config = StoreConfig { segment_bytes: 16 * 1024, reserve_bytes: 0, ..StoreConfig::default() };
    let store = Store::open(folder, identity(node), config, Arc::new(SystemEntropy), SyncMode::Manual).unwrap();
    let log = store.open_partition(PARTITION).unwrap();
    let hello = move || Hello {
        role: Role::LogNode { node: NodeId::new(node), store: identity(node).store },
        history: Some(identity(node).history),
    };
    let room = Arc::new(PeersRoom::new(NODES.map(NodeId::new), NodeId::new(node)));
    let peer = |node: u64| (NodeId::new(node), Peer { addr: addr(node), node: Some(NodeId::new(node)) });
    let parts = GroupParts {
        node: NodeId::new(node),
        partition: PARTITION,
        log: log.clone(),
        state_machine: StateMachine::for_data(log).unwrap(),
        transport: Arc::new(network.transport(&addr(node), Box::new(hello))),
        peers: Arc::new(NODES.map(peer).into()),
        peers_room: Arc::clone(&room),
        timings: RaftTimings::default(),
        entropy: Arc::new(SystemEntropy),
    };
    let driver = tokio::spawn(async move {
        loop {
            if timeout(Duration::from_millis(50), store.work()).await.is_ok() {
                store.step();
            } else {
                store.step_idle();
            }
        }
    });
    let (group, manners) = (Arc::new(Group::start(parts).await.unwrap()), Arc::default());
    network.register(&addr(node), Arc::new(Station(node, Arc::clone(&group), Arc::clone(&manners))));
    Member { group, room, manners, driver }
}

async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let waited = timeout(PATIENCE, async {
        while !is_so().await {
            sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(waited.await.is_ok(), "not within a minute: {what}");
}

/// Three members, one of which leads; and the numbers of the leader and the others.
async fn cluster() -> (BTreeMap<u64, Member>, u64, [u64; 2]) {
    let network = MemoryNetwork::new();
    let mut members = BTreeMap::new();
    for node in NODES {
        members.insert(node, start(&network, node).await);
    }
    members[&1].group.initialize(NODES.map(NodeId::new)).await.unwrap();
    let leads = |node: &u64| members[node].group.standing(Duration::from_secs(3)) == Standing::LeadsHere;
    eventually("somebody leads", async || NODES.iter().any(leads)).await;
    let leader = *NODES.iter().find(|node| leads(node)).unwrap();
    let mut others = NODES.into_iter().filter(|&node| node != leader);
    let others = [others.next().unwrap(), others.next().unwrap()];
    (members, leader, others)
}

/// Offers the leadership as soon as the heir has everything.
async fn offer(members: &BTreeMap<u64, Member>, leader: u64, heir: u64) {
    let group = &members[&leader].group;
    eventually("it is offered", async || group.transfer_leader(NodeId::new(heir)).await).await;
}

fn record(term: u64, index: u64) -> LogEntry {
    let record = Record::event(None, Bytes::from_static(b"hello"));
    let set = RecordSet::of(RequestId::from_bits(u128::from(index)), &record).unwrap();
    LogEntry { id: EntryId { term, index }, body: EntryBody::Batch(RecordBatch::build(&[set], 1)) }
}

fn append(vote: WireVote, previous: Option<EntryId>, entries: Vec<LogEntry>) -> PeerMessage {
    PeerMessage(Asked::Append(AppendMessage { partition: PARTITION, vote, previous, committed: None, entries }))
}

/// Goal: an offer that nobody can take is taken back, and somebody leads again. Method: both followers can be called and can call
/// nobody; the leader makes its offer to one of them.
#[tokio::test(start_paused = true)]
async fn an_offer_that_nobody_can_take_is_taken_back() {
    let (members, leader, others) = cluster().await;
    for node in NODES {
        members[&node].manners.lock().deaf_to = others.to_vec();
    }
    offer(&members, leader, others[0]).await;
    let group = &members[&leader].group;
    assert!(group.read_index().await.is_err(), "a leader that has made an offer answers nothing");
    eventually("reads are answered", async || {
        matches!(timeout(Duration::from_secs(1), group.read_index()).await, Ok(Ok(_)))
    })
    .await;
    assert!(!group.transfer_leader(NodeId::new(others[0])).await, "it gets no offer again so soon");
    assert!(group.read_index().await.is_ok());
}

/// Goal: an offer that is taken is not taken back. Method: the heir leads, and still does when the offer's time is over.
#[tokio::test(start_paused = true)]
async fn an_offer_that_is_taken_stays() {
    let (members, leader, others) = cluster().await;
    let heir = &members[&others[0]].group;
    offer(&members, leader, others[0]).await;
    eventually("the heir leads", async || heir.read_index().await.is_ok()).await;
    let term = *heir.leading().borrow();
    // Time that passes by itself: longer than the offer is waited for.
    sleep(Duration::from_secs(10)).await;
    assert_eq!(*heir.leading().borrow(), term);
}

/// Goal: a leader is not shown before an entry of its own term is committed, although a majority answers it. Method: the followers
/// of a new leader answer heartbeats, and hold back what has entries.
#[tokio::test(start_paused = true)]
async fn a_leader_whose_first_entry_is_not_committed_is_not_confirmed() {
    let (members, leader, others) = cluster().await;
    let silence = Duration::from_secs(3);
    let heir = &members[&others[0]].group;
    offer(&members, leader, others[0]).await;
    for node in NODES {
        members[&node].manners.lock().holds_entries = true;
    }
    eventually("a majority answers the new leader", async || {
        let acked = heir.raft.metrics().borrow_watched().last_quorum_acked;
        matches!(*heir.leading().borrow(), Leading::Here { .. }) && acked.is_some_and(|acked| acked.elapsed() < silence)
    })
    .await;
    assert_eq!(heir.standing(silence), Standing::WithoutMajority);
    for node in NODES {
        members[&node].manners.lock().holds_entries = false;
    }
    eventually("it is confirmed", async || heir.standing(silence) == Standing::LeadsHere).await;
}

/// Goal: a group that waits for its disk does not keep its peers' requests for good, and does not say that nothing was done. Method:
/// nothing is made durable at one node; it is asked for a vote, which must be durable, and for more.
#[tokio::test(start_paused = true)]
async fn a_group_that_waits_for_its_disk_answers_late() {
    let member = start(&MemoryNetwork::new(), 1).await;
    member.driver.abort();
    let vote = WireVote { term: 1, node: 2, committed: false };
    let asked = VoteMessage { partition: PARTITION, vote, last: None, leadership_transfer: false };
    let answer = async |message| timeout(PATIENCE, member.group.answer(message, |_| true)).await.expect("an answer");
    let voted = codec::decode::<VoteReply>(&answer(PeerMessage(Asked::Vote(asked))).await).unwrap();
    assert_eq!(voted, VoteReply::Late);
    let leader = WireVote { committed: true, ..vote };
    for entries in [Vec::new(), vec![record(1, 0)]] {
        let appended = codec::decode::<AppendAnswer>(&answer(append(leader, None, entries)).await).unwrap();
        assert_eq!(appended.reply, AppendReply::Late);
    }
}

/// Goal: what a leader has in flight when a follower's disk fills up is taken, what it sends long after it was told is not; a new
/// leader is told anew. Method: one follower that is full all the time; messages by hand.
#[tokio::test(start_paused = true)]
async fn a_full_follower_takes_what_is_in_flight() {
    let member = start(&MemoryNetwork::new(), 1).await;
    let send = async |vote: WireVote, previous: Option<u64>, index, needs: &[Need]| {
        let previous = previous.map(|index| EntryId { term: 1, index });
        let message = append(vote, previous, vec![record(vote.term, index)]);
        codec::decode::<AppendAnswer>(&member.group.answer(message, |need| needs.contains(&need)).await).unwrap()
    };
    let leader = WireVote { term: 1, node: 2, committed: true };
    let full = [Need::InFlight, Need::Admitted];
    let taken = AppendAnswer { reply: AppendReply::Success, has_room: false };
    let refused = AppendAnswer { reply: AppendReply::NoRoom, has_room: false };
    assert_eq!(send(leader, None, 0, &[Need::Admitted]).await, refused, "nothing is left for what is in flight");
    assert_eq!(send(leader, None, 0, &full).await, taken);
    assert_eq!(send(leader, Some(0), 1, &full).await, taken);
    sleep(IN_FLIGHT_FOR).await;
    assert_eq!(send(leader, Some(1), 2, &full).await, refused, "it has been told");
    let has_room = [Need::New, Need::InFlight, Need::Admitted];
    assert_eq!(send(leader, Some(1), 2, &has_room).await.reply, AppendReply::Success);
    assert_eq!(send(leader, Some(2), 3, &full).await, taken, "it had room meanwhile");
    sleep(IN_FLIGHT_FOR).await;
    let next = WireVote { term: 2, node: 3, committed: true };
    assert_eq!(send(next, Some(3), 4, &full).await, taken, "this leader has not been told");
}

/// Goal: a member whose groups do not run is not taken for one that has room. Method: one follower is full, the other is away.
#[tokio::test(start_paused = true)]
async fn a_member_that_is_away_has_no_room() {
    let (members, leader, others) = cluster().await;
    members[&others[0]].manners.lock().is_full = true;
    members[&others[1]].manners.lock().is_away = true;
    let room = &members[&leader].room;
    eventually("the full one is in the way", async || room.in_the_way() == Some(NodeId::new(others[0]))).await;
    members[&others[1]].manners.lock().is_away = false;
    eventually("nobody is in the way", async || room.in_the_way().is_none()).await;
}

/// Goal: a full follower is not sent again and again what it refuses, and gets it once it has room. Method: messages are counted over
/// many heartbeats.
#[tokio::test(start_paused = true)]
async fn a_full_follower_is_not_sent_the_same_records_again_and_again() {
    let (members, leader, others) = cluster().await;
    let (group, full) = (&members[&leader].group, &members[&others[0]]);
    *full.manners.lock() = Manners { is_full: true, refuses_in_flight: true, ..Manners::default() };
    let Leading::Here { term } = *group.leading().borrow() else { panic!("it leads") };
    let EntryBody::Batch(batch) = record(term, 1).body else { panic!("a batch") };
    let appended = group.propose(batch, term).await.unwrap().outcome().await.unwrap();
    eventually("many heartbeats have come", async || full.manners.lock().came.1 >= 40).await;
    let with_records = full.manners.lock().came.0;
    assert!((1..=3).contains(&with_records), "{with_records} messages with records");
    *full.manners.lock() = Manners::default();
    let end = appended.first_offset.plus(1);
    eventually("it has caught up", async || full.group.log.ends().append_end == end).await;
}
