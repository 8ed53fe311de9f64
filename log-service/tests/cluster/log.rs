//! Log nodes together: what a client sees of a replicated log, over real TCP and real files.

use crate::support::{Cluster, Failure, events, eventually, first_of};
use bytes::Bytes;
use duramen_common::batch::{Record, RecordSet};
use duramen_common::protocol::{AppendedRun, BatchId, LogRefusal};
use duramen_common::{Offset, RequestId};
use std::time::Duration;
use tokio::task::JoinSet;

fn numbers(from: u128, to: u128) -> Vec<String> {
    (from..to).map(|number| number.to_string()).collect()
}

/// Goal: the whole way once. Method: append at the leader, read back at every node, ask the leader for its end.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_appended_is_read_at_every_node() {
    let cluster = Cluster::ready(3).await;
    let leader = cluster.leader(0).await;
    let answer = cluster.caller.append_once(leader, 0, &events(100, 10), 0, 5_000).await.unwrap();
    assert_eq!(answer.runs, [AppendedRun::At { first_offset: Offset::ZERO, count: 10 }]);
    assert_eq!(cluster.caller.tail(leader, 0).await.unwrap(), Offset::new(10));
    for node in 1..=3 {
        assert_eq!(cluster.caller.read_all(node, 0, 10).await, numbers(100, 110), "node {node}");
    }
    cluster.stop_all().await;
}

/// Goal: many callers at once get dense offsets, each record once, each caller its own. Method: 100 tasks append 100
/// records each, in runs of 10; the log must hold exactly them, at the offsets that were answered.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_concurrent_records_get_dense_offsets() {
    let cluster = Cluster::ready(3).await;
    let mut tasks = JoinSet::new();
    for task in 0..100u128 {
        let caller = cluster.caller.clone();
        tasks.spawn(async move {
            let mut placed = Vec::new();
            for run in 0..10u128 {
                let base = task * 1_000 + run * 10;
                let first = first_of(&caller.append(0, &events(base, 10)).await);
                placed.push((base, first));
            }
            placed
        });
    }
    let placed: Vec<(u128, u64)> = tasks.join_all().await.into_iter().flatten().collect();
    let log = cluster.caller.read_all(2, 0, 10_000).await;
    assert_eq!(log.len(), 10_000);
    for (base, first) in placed {
        for number in 0..10 {
            assert_eq!(log[first as usize + number as usize], (base + number).to_string());
        }
    }
    cluster.stop_all().await;
}

/// Goal: what was acknowledged outlives its leader, and appends go on. Method: each leader in turn is stopped while
/// writers run; every acknowledged record must be in the log once, where it was answered.
#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_records_survive_the_loss_of_leaders() {
    let mut cluster = Cluster::ready(3).await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut writers = JoinSet::new();
    for writer in 0..4u128 {
        let (caller, stopped) = (cluster.caller.clone(), stopped.clone());
        writers.spawn(async move {
            let mut placed = Vec::new();
            while !*stopped.borrow() {
                let id = writer * 1_000_000 + placed.len() as u128;
                placed.push((id, first_of(&caller.append(0, &events(id, 1)).await)));
            }
            placed
        });
    }
    for _ in 0..3 {
        let leader = cluster.leader(0).await;
        cluster.stop(leader).await;
        let next = cluster.leader(0).await;
        assert_ne!(next, leader);
        cluster.start(leader).await.unwrap();
        eventually("the node that was stopped hears of the leader", async || {
            cluster.caller.cluster(leader).await.is_ok_and(|info| info.leaders[0].is_some())
        })
        .await;
    }
    stop.send_replace(true);
    let placed: Vec<(u128, u64)> = writers.join_all().await.into_iter().flatten().collect();
    assert!(placed.len() > 20, "only {} appends", placed.len());
    let end = cluster.caller.tail(cluster.leader(0).await, 0).await.unwrap().get();
    for node in 1..=3 {
        let log = cluster.caller.read_all(node, 0, end).await;
        for (id, offset) in &placed {
            assert_eq!(log[*offset as usize], id.to_string(), "node {node}, offset {offset}");
        }
        let mut unique = log.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), log.len(), "a record stands twice");
    }
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_all_nodes_keeps_everything() {
    let mut cluster = Cluster::ready(3).await;
    let history = cluster.history();
    let first = first_of(&cluster.caller.append(1, &events(0, 100)).await);
    cluster.caller.register(1, "serving-1").await.unwrap();
    for node in 1..=3 {
        cluster.stop(node).await;
    }
    for node in 1..=3 {
        cluster.start(node).await.unwrap();
    }
    cluster.wait_ready().await;
    assert_eq!(cluster.history(), history);
    for node in 1..=3 {
        assert_eq!(cluster.caller.read_all(node, 1, 100).await, numbers(0, 100));
        eventually("the registration is seen", async || {
            let info = cluster.caller.cluster(node).await.unwrap();
            info.serving_nodes.iter().any(|serving| serving.name == "serving-1")
        })
        .await;
    }
    // The same ids again: still the first offsets.
    assert_eq!(first_of(&cluster.caller.append(1, &events(0, 100)).await), first);
    cluster.stop_all().await;
}

/// Goal: an id takes effect once, whoever leads. Method: the same set before and after the leader is lost, and while it
/// is, many times at once.
#[tokio::test(flavor = "multi_thread")]
async fn repeats_across_a_leader_change_take_effect_once_and_get_the_first_offset() {
    let mut cluster = Cluster::ready(3).await;
    cluster.caller.append(0, &events(0, 5)).await;
    let first = cluster.caller.append(0, &events(1_000, 3)).await;
    let leader = cluster.leader(0).await;
    cluster.stop(leader).await;
    assert_eq!(cluster.caller.append(0, &events(1_000, 3)).await, first);
    let mut repeats = JoinSet::new();
    for _ in 0..20 {
        let caller = cluster.caller.clone();
        repeats.spawn(async move { caller.append(0, &events(2_000, 4)).await });
    }
    let answers = repeats.join_all().await;
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    // The same id for another record is refused by name.
    let other = RecordSet::of(RequestId::from_bits(1_001), &Record::event(None, Bytes::from_static(b"other"))).unwrap();
    assert_eq!(cluster.caller.append(0, &other).await, [AppendedRun::KeyReused { count: 1 }]);
    let now = cluster.leader(0).await;
    assert_eq!(cluster.caller.tail(now, 0).await.unwrap(), Offset::new(12));
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_does_not_lead_says_who_does() {
    let cluster = Cluster::ready(3).await;
    let leader = cluster.leader(0).await;
    let other = (1..=3).find(|&node| node != leader).unwrap();
    let refused = cluster.caller.append_once(other, 0, &events(0, 1), 0, 2_000).await;
    let Err(Failure::Refusal(LogRefusal::NotLeader { leader: Some(told), .. })) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(told.get(), leader);
    assert!(matches!(
        cluster.caller.tail(other, 0).await,
        Err(Failure::Refusal(LogRefusal::NotLeader { leader: Some(told), .. })) if told.get() == leader
    ));
    assert!(matches!(
        cluster.caller.tail(leader, 9).await,
        Err(Failure::Refusal(LogRefusal::UnknownPartition { partitions: 2, .. }))
    ));
    cluster.stop_all().await;
}

/// Goal: without a majority nothing is promised and nothing is denied. Method: two of three stop; an append that the
/// last one takes is unknown (or refused before it was taken), a tail question has no answer; with them back, it goes on.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_nothing_is_acknowledged_or_confirmed() {
    let mut cluster = Cluster::ready(3).await;
    cluster.caller.append(0, &events(0, 1)).await;
    let leader = cluster.leader(0).await;
    let others: Vec<u64> = (1..=3).filter(|&node| node != leader).collect();
    for &node in &others {
        cluster.stop(node).await;
    }
    let appended = cluster.caller.append_once(leader, 0, &events(10, 1), 0, 700).await;
    assert!(
        matches!(appended, Err(Failure::Refusal(LogRefusal::OutcomeUnknown { .. } | LogRefusal::NotLeader { .. }))),
        "{appended:?}"
    );
    assert!(cluster.caller.tail(leader, 0).await.is_err());
    for &node in &others {
        cluster.start(node).await.unwrap();
    }
    let first = first_of(&cluster.caller.append(0, &events(10, 1)).await);
    assert_eq!(first_of(&cluster.caller.append(0, &events(10, 1)).await), first);
    cluster.stop_all().await;
}

/// Goal: a reader of another log is told so, one that is early waits. Method: wrong and right names of the batch before,
/// positions at and past the end.
#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_knows_its_own_log() {
    let cluster = Cluster::ready(1).await;
    cluster.caller.append(0, &events(0, 10)).await;
    let (answer, _) = cluster.caller.fetch(1, 0, 0, None, 0).await.unwrap();
    let (last, _) = *answer.batches.last().unwrap();
    assert_eq!(answer.next_offset, Offset::new(10));
    let (nothing, batches) = cluster.caller.fetch(1, 0, 10, Some(last), 0).await.unwrap();
    assert!(batches.is_empty() && nothing.next_offset == Offset::new(10));
    let other = BatchId { term: last.term + 1, index: last.index };
    for (from, last) in [(10, Some(other)), (5, Some(last)), (11, None)] {
        let refused = cluster.caller.fetch(1, 0, from, last, 0).await;
        assert!(matches!(refused, Err(Failure::Refusal(LogRefusal::OtherLog { .. }))), "{from}: {refused:?}");
    }
    let caller = cluster.caller.clone();
    let parked = tokio::spawn(async move { caller.fetch(1, 0, 10, Some(last), 20_000).await.unwrap() });
    cluster.caller.append(0, &events(50, 1)).await;
    let (answer, batches) = parked.await.unwrap();
    assert_eq!((answer.next_offset, batches.len()), (Offset::new(11), 1));
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_is_known_everywhere_whoever_is_told() {
    let cluster = Cluster::ready(3).await;
    for node in 1..=3 {
        eventually("the registration is taken", async || {
            cluster.caller.register(node, &format!("serving-{node}")).await.is_ok()
        })
        .await;
    }
    for node in 1..=3 {
        eventually("all three are known", async || {
            cluster.caller.cluster(node).await.is_ok_and(|info| info.serving_nodes.len() == 3)
        })
        .await;
    }
    cluster.stop_all().await;
}

/// Goal: what is not a set of records is refused whole. Method: wrong counts, cut bytes.
#[tokio::test(flavor = "multi_thread")]
async fn an_append_that_is_no_record_set_is_refused_by_name() {
    let cluster = Cluster::ready(1).await;
    let good = events(0, 3);
    let cut = RecordSet { records: good.records.slice(..good.records.len() - 1), ..good.clone() };
    let miscounted = RecordSet { count: 2, ..good.clone() };
    for bad in [cut, miscounted] {
        let refused = cluster.caller.append_once(1, 0, &bad, 0, 1_000).await;
        assert!(matches!(refused, Err(Failure::Refusal(LogRefusal::Invalid { .. }))), "{refused:?}");
    }
    assert_eq!(cluster.caller.tail(1, 0).await.unwrap(), Offset::ZERO);
    cluster.stop_all().await;
}

/// Goal: a tail answer covers every append acknowledged before the question, at once. Method: ask after each of many
/// appends, from several tasks.
#[tokio::test(flavor = "multi_thread")]
async fn a_tail_answer_covers_what_was_acknowledged_before() {
    let cluster = Cluster::ready(3).await;
    let leader = cluster.leader(0).await;
    let mut tasks = JoinSet::new();
    for task in 0..8u128 {
        let caller = cluster.caller.clone();
        tasks.spawn(async move {
            for number in 0..50u128 {
                let first = first_of(&caller.append(0, &events(task * 1_000 + number, 1)).await);
                let tail = tokio::time::timeout(Duration::from_secs(5), caller.tail(leader, 0)).await.unwrap();
                assert!(tail.unwrap().get() > first);
            }
        });
    }
    tasks.join_all().await;
    cluster.stop_all().await;
}
