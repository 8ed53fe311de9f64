//! The Rust client against real serving nodes over HTTP, on a log in memory: both sides of the contract of DESIGN §4 at
//! once. What the log itself does under faults is tested with processes.

use bytes::Bytes;
use duramen_client::kv::{
    Client, ClientConfig, Condition, Error, Guard, Op, ReadOptions, ScanQuery, Session, Swap, WatchOptions,
    WriteOptions,
};
use duramen_common::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use duramen_common::seams::Seams;
use duramen_common::{HistoryId, PartitionId, ProblemKind};
use duramen_serving_node::testing::MemoryLog;
use duramen_serving_node::{IndexKind, PartitionsConfig, ServingNode, ServingNodeConfig};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

const PARTITIONS: u16 = 3;

struct Cluster {
    log: Arc<MemoryLog>,
    nodes: Vec<ServingNode>,
}

impl Cluster {
    /// Two serving nodes; the second applies `lag` late.
    async fn start(lag: Duration) -> Cluster {
        let log = Arc::new(MemoryLog::new(HistoryId::from_bits(0x00c7_f3a1), PARTITIONS));
        let mut nodes = Vec::new();
        for (number, lag) in [Duration::ZERO, lag].into_iter().enumerate() {
            let config = ServingNodeConfig {
                name: format!("s{number}"),
                http_addr: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
                partitions: PartitionsConfig { index: IndexKind::Memory, lag, ..PartitionsConfig::default() },
                ..ServingNodeConfig::default()
            };
            let node = ServingNode::start(config, log.clone(), Seams::system()).await.expect("port 0 can be bound");
            node.ready().await;
            nodes.push(node);
        }
        Cluster { log, nodes }
    }

    fn client(&self) -> Client {
        let urls = self.nodes.iter().map(|node| format!("http://{}", node.http_addr()));
        let mut config = ClientConfig::new(urls);
        config.feed_silence_max = Duration::from_secs(3);
        Client::new(config).expect("the configuration is valid")
    }

    async fn stop(self) {
        for node in self.nodes {
            node.shutdown().await;
        }
    }
}

/// Goal: any key and value that the contract allows comes back as it went, from the other node, by get, scan and feed.
#[tokio::test]
async fn keys_and_values_of_any_bytes_come_back() {
    let cluster = Cluster::start(Duration::ZERO).await;
    let client = cluster.client();
    let session = Session::new(client.clone());
    let mut watch = client.watch(WatchOptions::default()).await.unwrap();
    let long = vec![b'k'; KEY_BYTES_MAX];
    let keys: Vec<Bytes> =
        [b"a/b".as_slice(), b"%2F", b"..", b"a b?c#d&e=f+g", "ключ".as_bytes(), b"\0\xff\r\n", &long]
            .map(Bytes::copy_from_slice)
            .to_vec();
    let values = [Bytes::new(), Bytes::from(vec![0xfe; VALUE_BYTES_MAX]), Bytes::from_static(b"\0\r\n\"")];
    let mut written = Vec::new();
    for (number, key) in keys.iter().enumerate() {
        let value = values[number % values.len()].clone();
        let version = session.put(key, value.clone()).await.unwrap().version;
        written.push((key.clone(), value, version));
    }
    let other = session.over(client.starting_at(1));
    for (key, value, version) in &written {
        let entry = other.get(key).await.unwrap().entry.unwrap();
        assert_eq!((&entry.value, &entry.version), (value, version), "{key:?}");
        let change = watch.next().await.unwrap();
        let given = written.iter().find(|(key, ..)| *key == change.key).unwrap();
        assert_eq!((change.value.as_ref(), change.version), (Some(&given.1), given.2));
    }
    let mut pager = client.scan(ScanQuery { limit: Some(2), ..ScanQuery::default() });
    let mut scanned = Vec::new();
    while let Some(item) = pager.next().await.unwrap() {
        scanned.push((item.key, item.value, item.version));
    }
    written.sort_by(|(one, ..), (other, ..)| one.cmp(other));
    assert_eq!(scanned, written);
    cluster.stop().await;
}

/// Goal: a session at a node that lags waits for its own writes; a stale read does not.
#[tokio::test]
async fn a_session_waits_at_a_node_that_lags() {
    let lag = Duration::from_millis(400);
    let cluster = Cluster::start(lag).await;
    let client = cluster.client();
    let session = Session::new(client.clone());
    session.put("k", "old").await.unwrap();
    let lagging = session.over(client.starting_at(1));
    assert_eq!(lagging.get("k").await.unwrap().value().unwrap(), "old");
    let begun = Instant::now();
    session.put("k", "new").await.unwrap();
    let stale = client.starting_at(1).get_with("k", &ReadOptions::stale()).await.unwrap();
    assert!(stale.value().unwrap() == "old" || begun.elapsed() >= lag, "a stale read waited");
    assert_eq!(lagging.get("k").await.unwrap().value().unwrap(), "new");
    assert!(begun.elapsed() >= lag / 2, "a session read did not wait");
    let carried = Session::import(client.starting_at(1), &session.export()).unwrap();
    assert_eq!(carried.get("absent").await.unwrap().entry, None);
    cluster.stop().await;
}

#[tokio::test]
async fn conditions_decide_and_a_repeat_gets_the_first_answer() {
    let cluster = Cluster::start(Duration::ZERO).await;
    let client = cluster.client();
    let create = WriteOptions { idempotency_key: Some("create-1".into()), ..WriteOptions::when(Condition::Absent) };
    let first = client.put_with("k", "1", &create).await.unwrap();
    let again = client.starting_at(1).put_with("k", "1", &create).await.unwrap();
    assert_eq!(first, again, "the same key at the other node");
    let error = client.compare_and_set("k", None, "2").await.unwrap_err();
    assert!(
        matches!(error, Error::VersionMismatch { current: Some(version), .. } if version == first.version),
        "{error}"
    );
    let error = client.put_with("k", "other", &create).await.unwrap_err();
    assert!(error.is_problem(ProblemKind::KeyReused), "{error}");
    let second = client.compare_and_set("k", Some(first.version), "2").await.unwrap();
    let swap = client.compare_and_set_value("k", Some(b"2"), "3", &ReadOptions::default()).await.unwrap();
    assert!(matches!(swap, Swap::Swapped(_)));
    let swap = client.compare_and_set_value("k", Some(b"2"), "4", &ReadOptions::default()).await.unwrap();
    assert!(matches!(swap, Swap::Differs(got) if got.value().unwrap() == "3"));
    let guarded = WriteOptions::when(Condition::Version(second.version));
    assert!(matches!(client.delete_with("k", &guarded).await, Err(Error::VersionMismatch { .. })));
    client.delete("k").await.unwrap();
    assert_eq!(client.get("k").await.unwrap().entry, None);
    cluster.stop().await;
}

#[tokio::test]
async fn batches_and_transactions_write_what_they_say() {
    let cluster = Cluster::start(Duration::ZERO).await;
    let client = cluster.client();
    let ops: Vec<Op> = (0..1000).map(|number| Op::put(format!("b{number:04}"), format!("{number}"))).collect();
    let results = client.batch(&ops).await.unwrap();
    let token = results.token().unwrap();
    assert_eq!(token.timestamps().count(), usize::from(PARTITIONS));
    assert_eq!(results.all().unwrap().len(), 1000);
    let got = client.starting_at(1).get_with("b0999", &ReadOptions::after(token)).await.unwrap();
    assert_eq!(got.value().unwrap(), "999");

    let guards = [Guard::new("{t}a", None)];
    let ops = [Op::put("{t}a", "1"), Op::put("{t}b", &[0xff_u8][..])];
    let outcome = client.txn(&guards, &ops).await.unwrap();
    assert!(outcome.committed);
    assert_eq!(client.get("{t}b").await.unwrap().version(), Some(outcome.version));
    assert!(!client.txn(&guards, &ops).await.unwrap().committed);
    assert!(client.txn(&[Guard::new("{t}a", Some(outcome.version))], &[]).await.unwrap().committed);
    let apart: Vec<Op> = (0..20).map(|number| Op::put(format!("x{number}"), "")).collect();
    assert!(client.txn(&[], &apart).await.unwrap_err().is_problem(ProblemKind::ManyPartitions));
    cluster.stop().await;
}

/// Goal: a watch goes on at the other node when its own stops, each change once, with deletes and a filter.
#[tokio::test]
async fn a_watch_outlives_its_node() {
    let mut cluster = Cluster::start(Duration::ZERO).await;
    let client = cluster.client();
    let mut watch = client.watch(WatchOptions::prefix("w/")).await.unwrap();
    let writer = client.starting_at(1);
    for number in 0..20 {
        if number == 10 {
            cluster.nodes.remove(0).shutdown().await;
        }
        let key = format!("w/{number}");
        writer.put("other", "not watched").await.unwrap();
        let written = writer.put(&key, "v").await.unwrap();
        let change = watch.next().await.unwrap();
        assert_eq!((&change.key[..], change.version), (key.as_bytes(), written.version));
        let deleted = writer.delete(&key).await.unwrap();
        let change = watch.next().await.unwrap();
        assert_eq!((&change.key[..], change.value, change.version), (key.as_bytes(), None, deleted.version));
    }
    assert_eq!(client.get("other").await.unwrap().value().unwrap(), "not watched", "a call fails over too");
    cluster.stop().await;
}

#[tokio::test]
async fn what_a_node_says_of_itself_is_understood() {
    let cluster = Cluster::start(Duration::ZERO).await;
    let client = cluster.client();
    let written = client.put("k", "v").await.unwrap();
    client.starting_at(1).get("k").await.unwrap();
    let status = client.status().await.unwrap();
    assert_eq!((status.node.as_str(), status.history), ("s0", written.version.history));
    assert_eq!(status.partitions.len(), usize::from(PARTITIONS));
    let partition: PartitionId = written.version.timestamp.partition;
    let one = client.digest(partition).await.unwrap();
    let other = client.starting_at(1).digest(partition).await.unwrap();
    assert_eq!(one, other);
    assert_eq!(one.applied_end, written.version.timestamp.offset.next().get());
    cluster.stop().await;
}

/// Goal: a log that cannot be reached is no answer to a linearizable read and no success of a write; a stale read goes on.
#[tokio::test]
async fn without_the_log_only_stale_reads_answer() {
    let cluster = Cluster::start(Duration::ZERO).await;
    let client = cluster.client();
    client.put("k", "v").await.unwrap();
    cluster.log.set_unavailable(true);
    let read = ReadOptions::linearizable().within(Duration::from_millis(1500));
    let error = client.get_with("k", &read).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    let write = WriteOptions::default().within(Duration::from_millis(1500));
    let error = client.put_with("k", "w", &write).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. } | Error::OutcomeUnknown(_)), "{error:?}");
    assert_eq!(client.get_with("k", &ReadOptions::stale()).await.unwrap().value().unwrap(), "v");
    cluster.log.set_unavailable(false);
    client.put("k", "x").await.unwrap();
    assert_eq!(client.starting_at(1).get("k").await.unwrap().value().unwrap(), "x");
    cluster.stop().await;
}
