//! Messages between processes of a cluster: any bytes are refused, or are a message that is written again.
//!
//! * Input: a byte that says which kind of message, then its bytes. What was written from what was read is the same when it is read and
//!   written once more, and is no longer than what came; cut off anywhere, it is refused.
//! * Deliberately absent: what a group does with a message.
//! * Source: docs/formats.md "Control messages", "Log protocol", "Consensus messages".

use super::{Target, cuts};
use bytes::Bytes;
use duramen_common::batch::IdRun;
use duramen_common::codec;
use duramen_common::protocol::{
    AppendAnswer, AppendRequest, AppendedRun, BatchId, ClusterInfo, FetchAnswer, FetchRequest, LogNodeInfo, LogRefusal,
    RegisterRequest, ServingNodeInfo, TailAnswer, TailRequest,
};
use duramen_common::{HistoryId, NodeId, Offset, PartitionId, RequestId, StoreId};
use duramen_log_service::consensus::testing::Message;
use duramen_transport::{Hello, Role, Welcome};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The target.
pub const TARGET: Target = Target {
    name: "consensus_messages",
    run,
    seeds,
    nasty,
    words: &["DRB1"],
    inputs: 50_000,
    // What a list takes at first, whatever length it claims: 1 MiB, and here two at once.
    heap_bytes_max: 3 * 1024 * 1024,
};

/// Reads and writes bytes of one kind of message.
type Again = fn(&Bytes) -> Option<Bytes>;

/// The messages that are not of consensus.
const OTHERS: [Again; 11] = [
    again::<Hello>,
    again::<Welcome>,
    again_with_payload::<AppendRequest>,
    again::<Result<AppendAnswer, LogRefusal>>,
    again::<FetchRequest>,
    again_with_payload::<Result<FetchAnswer, LogRefusal>>,
    again::<TailRequest>,
    again::<Result<TailAnswer, LogRefusal>>,
    again::<RegisterRequest>,
    again::<Result<ClusterInfo, LogRefusal>>,
    again::<Result<(), LogRefusal>>,
];
/// Those of them that carry raw bytes, of any length.
const WITH_PAYLOAD: [usize; 2] = [2, 5];

fn again<T: Serialize + DeserializeOwned>(bytes: &Bytes) -> Option<Bytes> {
    codec::decode::<T>(bytes).ok().map(|message| codec::encode(&message))
}

fn again_with_payload<T: Serialize + DeserializeOwned>(bytes: &Bytes) -> Option<Bytes> {
    let (message, payload) = codec::decode_with_payload::<T>(bytes).ok()?;
    Some(codec::encode_with_payload(&message, &payload))
}

fn run(data: &[u8]) {
    let Some((&kind, bytes)) = data.split_first() else { return };
    let kind = usize::from(kind) % (Message::ALL.len() + OTHERS.len());
    let read = |bytes: &Bytes| match Message::ALL.get(kind) {
        Some(message) => message.again(bytes),
        None => OTHERS[kind - Message::ALL.len()](bytes),
    };
    let Some(first) = read(&Bytes::copy_from_slice(bytes)) else { return };
    assert_eq!(read(&first).as_ref(), Some(&first), "what was written is not what is read");
    assert!(first.len() <= bytes.len(), "{} bytes became {}", bytes.len(), first.len());
    let is_of_any_length = kind.checked_sub(Message::ALL.len()).is_some_and(|other| WITH_PAYLOAD.contains(&other));
    if !is_of_any_length {
        for cut in cuts(first.len(), []) {
            assert_eq!(read(&first.slice(..cut)), None, "cut at {cut} of {}", first.len());
        }
    }
}

/// Examples of the messages of [`OTHERS`], in their order.
fn other_examples() -> [Vec<Bytes>; OTHERS.len()] {
    let (node, store) = (NodeId::new(1), StoreId::from_bits(7));
    let history = HistoryId::from_bits(0x00c7_f3a1);
    let partition = PartitionId::new(2);
    let role = Role::LogNode { node, store };
    let serving_node = ServingNodeInfo { name: "a".to_owned(), http_addr: "localhost:7001".to_owned() };
    let log_node =
        LogNodeInfo { node, store, rpc_addr: "localhost:7201".to_owned(), http_addr: "localhost:7101".to_owned() };
    let append = AppendRequest {
        partition,
        count: 2,
        ids: vec![IdRun { base: RequestId::from_bits(9), count: 2 }],
        known_end: Offset::new(41),
        timeout_ms: 1_000,
    };
    let last = Some(BatchId { term: 3, index: 9 });
    let fetch = FetchRequest { partition, from: Offset::new(42), bytes_max: 4_096, wait_ms: 500, last };
    let fetched = FetchAnswer {
        batches: vec![(BatchId { term: 3, index: 9 }, 7)],
        next_offset: Offset::new(43),
        committed_end: Offset::new(43),
        first_offset: Offset::ZERO,
        horizon: Offset::ZERO,
        settled_end: Offset::ZERO,
    };
    let runs = vec![AppendedRun::At { first_offset: Offset::new(42), count: 1 }, AppendedRun::KeyReused { count: 1 }];
    let cluster = ClusterInfo {
        history,
        partitions: 2,
        dedup_window: 1 << 18,
        log_nodes: vec![log_node],
        serving_nodes: vec![serving_node.clone()],
        leaders: vec![Some(node), None],
    };
    let committed_end = Offset::new(42);
    [
        vec![
            codec::encode(&Hello { role, history: Some(history) }),
            codec::encode(&Hello { role: Role::Client { name: "cli".to_owned() }, history: None }),
        ],
        vec![codec::encode(&Welcome { node, store, history: Some(history) })],
        vec![codec::encode_with_payload(&append, b"records")],
        vec![codec::encode(&Ok::<_, LogRefusal>(AppendAnswer { runs, committed_end }))],
        vec![codec::encode(&fetch)],
        vec![codec::encode_with_payload(&Ok::<_, LogRefusal>(fetched), b"a batch")],
        vec![codec::encode(&TailRequest { partition, timeout_ms: 1_000 })],
        vec![codec::encode(&Ok::<_, LogRefusal>(TailAnswer { committed_end }))],
        vec![codec::encode(&RegisterRequest { serving_node, incarnation: 7 })],
        vec![codec::encode(&Ok::<_, LogRefusal>(cluster))],
        refusals().iter().map(|refusal| codec::encode(&Err::<(), _>(refusal))).collect(),
    ]
}

fn refusals() -> [LogRefusal; 5] {
    let partition = PartitionId::new(2);
    [
        LogRefusal::NotLeader { partition, leader: Some(NodeId::new(3)) },
        LogRefusal::TooLarge { what: "append length".to_owned(), size: 9, limit: 8 },
        LogRefusal::OutcomeUnknown { reason: "it is stopping".to_owned() },
        LogRefusal::OtherLog { from: Offset::new(7), committed_end: Offset::new(5) },
        LogRefusal::TooLate,
    ]
}

fn of_kind(kind: usize, bytes: &[u8]) -> Vec<u8> {
    let kind = u8::try_from(kind).expect("there are few kinds");
    [&[kind], bytes].concat()
}

fn seeds() -> Vec<Vec<u8>> {
    let examples = Message::ALL.iter().map(|message| message.examples()).chain(other_examples());
    let inputs = examples
        .enumerate()
        .flat_map(|(kind, examples)| examples.into_iter().map(move |bytes| of_kind(kind, &bytes)).collect::<Vec<_>>());
    inputs.collect()
}

fn nasty() -> Vec<(&'static str, Vec<u8>)> {
    // Version, then a length of eight bytes that claims as much as there is no memory for.
    let claim = |before: &[u8]| [before, &[253], &(1u64 << 60).to_le_bytes()[..]].concat();
    let behind = |control: &[u8]| {
        let length = u32::try_from(control.len()).expect("short");
        [&length.to_le_bytes()[..], control].concat()
    };
    // As many groups of voters as there are bytes; each takes more memory than it takes bytes.
    let groups = [&[1, 252][..], &60_000u32.to_le_bytes(), &vec![0; 60_000]].concat();
    // Partition, vote (term, node, committed), no entry before, nothing committed, and so many entries.
    let entries = [1, 2, 3, 1, 1, 0, 0];
    vec![
        ("nothing behind the kind", vec![0]),
        ("a message of another version", of_kind(1, &[2, 2, 3, 1, 1, 0, 0])),
        ("as many groups of voters as there are bytes", of_kind(8, &groups)),
        ("more groups of voters than there is memory for", of_kind(8, &claim(&[1]))),
        ("more entries than there is memory for", of_kind(0, &behind(&claim(&entries)))),
        ("more entries for a repair than there is memory for", of_kind(7, &behind(&claim(&[1])))),
        ("the message ends beyond the bytes", of_kind(0, &u32::MAX.to_le_bytes())),
        ("a reason longer than there is memory for", of_kind(4, &claim(&[1, 5]))),
        ("a name longer than there is memory for", of_kind(9, &claim(&[1, 1]))),
        ("more ids than there is memory for", of_kind(11, &behind(&claim(&[1, 2, 2])))),
        ("more batches than there is memory for", of_kind(14, &behind(&claim(&[1, 0])))),
    ]
}
