//! Fetch, tail, cluster, register.

use super::fake::{Cluster, addr};
use super::*;
use crate::log_client::HistoryPin;
use duramen_common::HistoryId;
use duramen_common::batch::RecordBatch;
use duramen_common::log::{ClusterError, FetchError, TailError};
use duramen_common::protocol::{BatchId, FetchAnswer, LogRefusal, ServingNodeInfo};
use tokio::time::Instant;

const WAIT: Duration = Duration::from_millis(100);

/// A cluster with five records in its log, in three batches.
async fn filled(nodes: u64) -> (Cluster, LogClient) {
    let cluster = Cluster::start(nodes, Some(1));
    let client = client(&cluster);
    for (number, count) in [(0, 1), (1, 3), (2, 1)] {
        client.append(P0, set_of(number, count), LONG).await.unwrap();
    }
    (cluster, client)
}

#[tokio::test(start_paused = true)]
async fn a_fetch_gives_what_was_appended_from_anywhere() {
    let (_cluster, client) = filled(3).await;
    for from in 0..5u64 {
        let fetched = client.fetch(P0, Offset::new(from), None, 1 << 20, WAIT).await.unwrap();
        assert!(fetched.batches[0].batch.header().first_offset <= Offset::new(from));
        let records: Vec<u64> =
            fetched.batches.iter().flat_map(|batch| batch.batch.records().map(|(at, _)| at.get())).collect();
        assert_eq!(records.last(), Some(&4));
        assert!(records.contains(&from));
        assert_eq!((fetched.next_offset, fetched.committed_end), (Offset::new(5), Offset::new(5)));
    }
    let at_end = client.fetch(P0, Offset::new(5), None, 1 << 20, WAIT).await.unwrap();
    assert!(at_end.batches.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_fetch_asks_the_leader_first_and_any_node_without_it() {
    let (cluster, client) = filled(3).await;
    client.fetch(P0, Offset::ZERO, None, 1 << 20, WAIT).await.unwrap();
    assert_eq!(cluster.log.lock().fetches, [1]);
    cluster.network.crash(&addr(1));
    client.fetch(P0, Offset::ZERO, None, 1 << 20, WAIT).await.unwrap();
    assert_ne!(cluster.log.lock().fetches[1], 1);
    for node in 1..=3 {
        cluster.network.crash(&addr(node));
    }
    let error = client.fetch(P0, Offset::ZERO, None, 1 << 20, WAIT).await.unwrap_err();
    assert!(matches!(error, FetchError::Unavailable { .. }), "{error:?}");
}

/// Goal: a batch with a gap before it, a lie about its length, or a next offset elsewhere is never handed out.
#[tokio::test(start_paused = true)]
async fn what_does_not_follow_is_not_handed_out() {
    let (cluster, client) = filled(2).await;
    let id = BatchId { term: 1, index: 1 };
    let lengths: Vec<u32> = cluster.log.lock().batches.iter().map(|batch| batch.header().length).collect();
    let honest = FetchAnswer {
        batches: lengths.iter().map(|&length| (id, length)).collect(),
        next_offset: Offset::new(5),
        committed_end: Offset::new(5),
        first_offset: Offset::ZERO,
        horizon: Offset::ZERO,
        settled_end: Offset::ZERO,
    };
    let mut long = honest.clone();
    long.batches[2].1 += 1;
    let lies = [
        long,
        FetchAnswer { batches: honest.batches[..2].to_vec(), ..honest.clone() },
        FetchAnswer { next_offset: Offset::new(4), ..honest.clone() },
        FetchAnswer { next_offset: Offset::new(6), committed_end: Offset::new(9), ..honest.clone() },
        FetchAnswer { committed_end: Offset::new(4), ..honest.clone() },
        FetchAnswer { batches: Vec::new(), ..honest.clone() },
        FetchAnswer { batches: Vec::new(), next_offset: Offset::new(1), ..honest.clone() },
    ];
    for lie in lies {
        // One node lies: the other is asked.
        cluster.log.lock().fetch_script.push_back(Ok(lie.clone()));
        client.fetch(P0, Offset::ZERO, None, 1 << 20, WAIT).await.unwrap();
        // Both lie.
        cluster.log.lock().fetch_script.extend([Ok(lie.clone()), Ok(lie.clone())]);
        let error = client.fetch(P0, Offset::ZERO, None, 1 << 20, WAIT).await.unwrap_err();
        assert!(matches!(error, FetchError::Damaged { .. }), "{lie:?}: {error:?}");
    }
    // The middle batch is gone: fine only where compaction has been.
    let gap: Vec<RecordBatch> = {
        let mut log = cluster.log.lock();
        log.batches.remove(1);
        log.batches.clone()
    };
    let with_gap = |settled_end| FetchAnswer {
        batches: gap.iter().map(|batch| (id, batch.header().length)).collect(),
        settled_end: Offset::new(settled_end),
        ..honest.clone()
    };
    cluster.log.lock().fetch_script.extend([Ok(with_gap(3)), Ok(with_gap(3))]);
    assert!(client.fetch(P0, Offset::ZERO, None, 1 << 20, WAIT).await.is_err());
    cluster.log.lock().fetch_script.push_back(Ok(with_gap(4)));
    assert_eq!(client.fetch(P0, Offset::ZERO, None, 1 << 20, WAIT).await.unwrap().batches.len(), 2);
}

/// Goal: a reader is not told to throw its state away because one node lags behind it.
#[tokio::test(start_paused = true)]
async fn a_lagging_node_does_not_make_a_reader_start_over() {
    let (cluster, client) = filled(2).await;
    let other_log = |end| Err(LogRefusal::OtherLog { from: Offset::new(5), committed_end: Offset::new(end) });
    cluster.log.lock().fetch_script.push_back(other_log(3));
    client.fetch(P0, Offset::new(5), None, 1 << 20, WAIT).await.unwrap();
    // It may also say that it has nothing yet, and where it ends.
    let lagging = FetchAnswer {
        batches: Vec::new(),
        next_offset: Offset::new(5),
        committed_end: Offset::new(3),
        first_offset: Offset::ZERO,
        horizon: Offset::ZERO,
        settled_end: Offset::ZERO,
    };
    cluster.log.lock().fetch_script.push_back(Ok(lagging));
    let fetched = client.fetch(P0, Offset::new(5), None, 1 << 20, WAIT).await.unwrap();
    assert_eq!((fetched.batches.len(), fetched.next_offset), (0, Offset::new(5)));
    // It holds the position, and the batch before it is another one.
    cluster.log.lock().fetch_script.push_back(other_log(5));
    let error = client.fetch(P0, Offset::new(5), None, 1 << 20, WAIT).await.unwrap_err();
    assert_eq!(error, FetchError::OtherLog { partition: P0, from: Offset::new(5) });
    // The leader's log really ends before it.
    cluster
        .log
        .lock()
        .fetch_script
        .push_back(Err(LogRefusal::OtherLog { from: Offset::new(9), committed_end: Offset::new(5) }));
    let error = client.fetch(P0, Offset::new(9), None, 1 << 20, WAIT).await.unwrap_err();
    assert_eq!(error, FetchError::OtherLog { partition: P0, from: Offset::new(9) });
    cluster.log.lock().fetch_script.push_back(Err(LogRefusal::Compacted { horizon: Offset::new(3) }));
    let error = client.fetch(P0, Offset::new(1), None, 1 << 20, WAIT).await.unwrap_err();
    assert_eq!(error, FetchError::Compacted { partition: P0, horizon: Offset::new(3) });
}

#[tokio::test(start_paused = true)]
async fn a_tail_comes_from_the_leader_or_not_at_all() {
    let (cluster, client) = filled(3).await;
    assert_eq!(client.tail(P0, LONG).await.unwrap().committed_end, Offset::new(5));
    cluster.set_leader(Some(3));
    assert_eq!(client.tail(P0, LONG).await.unwrap().committed_end, Offset::new(5));
    cluster.set_leader(None);
    let started = Instant::now();
    let error = client.tail(P0, Duration::from_secs(2)).await.unwrap_err();
    assert!(matches!(error, TailError::Unavailable { .. }), "{error:?}");
    assert!(started.elapsed() < Duration::from_millis(2_300), "{:?}", started.elapsed());
    // A leader that nobody reaches does not hold the question longer than its deadline.
    cluster.set_leader(Some(3));
    cluster.network.cut(&addr(3), "client");
    let started = Instant::now();
    assert!(client.tail(P0, Duration::from_millis(700)).await.is_err());
    assert!(started.elapsed() < Duration::from_millis(800), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn the_cluster_is_learned_from_any_node_and_a_serving_node_registers() {
    let cluster = Cluster::start(3, Some(1));
    cluster.network.crash(&addr(1));
    let client = client_with(&cluster, |config| config.nodes.truncate(2));
    assert_eq!(client.history(), None);
    let info = client.cluster(LONG).await.unwrap();
    assert_eq!((info.log_nodes.len(), client.history()), (3, Some(cluster.history)));
    let serving_node = ServingNodeInfo { name: "one".to_owned(), http_addr: "127.0.0.1:7001".to_owned() };
    client.register(serving_node, LONG).await.unwrap();
    assert_eq!(cluster.log.lock().registered, ["one"]);
    (1..=3).for_each(|node| cluster.network.crash(&addr(node)));
    let started = Instant::now();
    let error = client.cluster(Duration::from_secs(2)).await.unwrap_err();
    assert!(matches!(error, ClusterError::Unavailable { .. }), "{error:?}");
    assert!(started.elapsed() <= Duration::from_millis(2_100));
}

/// Goal: the history is that of the first contact, for good.
#[tokio::test(start_paused = true)]
async fn another_history_is_said_and_never_taken() {
    let (cluster, client) = filled(1).await;
    let ours = cluster.history;
    let theirs = HistoryId::from_bits(9);
    let usurper = Cluster { history: theirs, ..cluster.clone() };
    usurper.restart(1);
    assert_eq!(client.cluster(LONG).await, Err(ClusterError::OtherHistory { ours, theirs }));
    let error = client.fetch(P0, Offset::ZERO, None, 1 << 20, WAIT).await.unwrap_err();
    assert_eq!(error, FetchError::OtherHistory { ours, theirs });
    assert_eq!(client.history(), Some(ours));
    cluster.restart(1);
    client.fetch(P0, Offset::ZERO, None, 1 << 20, WAIT).await.unwrap();

    let client = client_with(&cluster, |config| config.history = HistoryPin::fixed(theirs));
    assert_eq!(client.cluster(LONG).await, Err(ClusterError::OtherHistory { ours: theirs, theirs: ours }));
}

/// Goal: a serving node does not give up its data because of one wrong address while the log is away.
#[tokio::test(start_paused = true)]
async fn one_foreign_node_proves_nothing_while_others_are_away() {
    let (cluster, client) = filled(3).await;
    Cluster { history: HistoryId::from_bits(9), ..cluster.clone() }.restart(1);
    cluster.network.crash(&addr(2));
    cluster.network.crash(&addr(3));
    let error = client.cluster(Duration::from_secs(1)).await.unwrap_err();
    assert!(matches!(&error, ClusterError::Unavailable { reason, .. } if reason.contains("000009")), "{error:?}");
    let error = client.fetch(P0, Offset::ZERO, None, 1 << 20, WAIT).await.unwrap_err();
    assert!(matches!(error, FetchError::Unavailable { .. }), "{error:?}");
    cluster.restart(2);
    client.fetch(P0, Offset::ZERO, None, 1 << 20, WAIT).await.unwrap();
}
