//! Full disks, as a cluster meets them: what needs no room goes on.

use crate::support::{Caller, Cluster, Failure, Tune, events, eventually, first_of};
use duramen_common::protocol::LogRefusal;
use duramen_log_service::disk::MemDisk;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What the nodes of these tests keep free. Unit: bytes.
const RESERVE: u64 = 512 * 1024;

pub async fn on_memory(count: u64) -> (Cluster, BTreeMap<u64, MemDisk>) {
    on_memory_with(count, |_| {}).await
}

async fn on_memory_with(count: u64, tune: Tune) -> (Cluster, BTreeMap<u64, MemDisk>) {
    let mut cluster = Cluster::configured(count, tune).await;
    for config in cluster.configs.values_mut() {
        config.store.segment_bytes = 256 * 1024;
        config.store.reserve_bytes = RESERVE;
    }
    let disks: BTreeMap<u64, MemDisk> = (1..=count).map(|node| (node, MemDisk::new())).collect();
    for (&node, disk) in &disks {
        cluster.disks.insert(node, Arc::new(disk.clone()));
        cluster.start(node).await.unwrap();
    }
    cluster.wait_ready().await;
    (cluster, disks)
}

/// Nothing is left on a disk: others took everything that the node does not hold.
fn fill(disk: &MemDisk) {
    disk.set_quota(Some(disk.used_bytes()));
}

async fn is_refused(caller: &Caller, node: u64, id: u128) -> bool {
    let refused = caller.append_once(node, 0, &events(id, 1), 0, 2_000).await;
    matches!(refused, Err(Failure::Refusal(LogRefusal::LogFull { .. })))
}

/// Linearizable reads are answered: somebody leads, and a majority confirms it.
async fn reads_go_on(cluster: &Cluster, end: u64) {
    eventually("a linearizable read is answered", async || {
        let leader = cluster.leader(0).await;
        cluster.caller.tail(leader, 0).await.is_ok_and(|tail| tail.get() == end)
    })
    .await;
    for &node in cluster.nodes.keys() {
        assert_eq!(cluster.caller.read_all(node, 0, end).await.len() as u64, end, "node {node}");
    }
}

/// Goal: a full disk is refused by name, nothing breaks, and the node lives on when space returns. Method: a quota of
/// nothing on every disk, then none.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_refused_and_appends_go_on_when_space_returns() {
    let (cluster, disks) = on_memory(3).await;
    cluster.caller.append(0, &events(0, 5)).await;
    disks.values().for_each(fill);
    let leader = cluster.leader(0).await;
    let refused = cluster.caller.append_once(leader, 0, &events(100, 1), 0, 2_000).await;
    assert!(matches!(refused, Err(Failure::Refusal(LogRefusal::LogFull { .. }))), "{refused:?}");
    assert_eq!(cluster.caller.read_all(leader, 0, 5).await.len(), 5, "reads go on");
    disks.values().for_each(|disk| disk.set_quota(None));
    assert_eq!(first_of(&cluster.caller.append(0, &events(100, 1)).await), 5);
    cluster.stop_all().await;
}

/// Goal: one full disk does not stop the cluster. Method: the leader's is full; it hands over to a peer with room.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_with_a_full_disk_hands_over() {
    let (cluster, disks) = on_memory(3).await;
    cluster.caller.append(0, &events(0, 5)).await;
    let leader = cluster.leader(0).await;
    fill(&disks[&leader]);
    assert_eq!(first_of(&cluster.caller.append(0, &events(100, 1)).await), 5);
    assert_ne!(cluster.leader(0).await, leader);
    // The full follower is behind, and catches up when it has room.
    disks[&leader].set_quota(None);
    assert_eq!(cluster.caller.read_all(leader, 0, 6).await.len(), 6);
    cluster.stop_all().await;
}

/// Goal: a leader change in the middle of a full disk stops no read, on one, two and three full nodes; writes are refused by name
/// where no majority has room, and go on by themselves. Method: the leader dies while the disks are full, so that both others are
/// needed for whatever the next one does; a full follower must take its blank entry.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_change_in_the_middle_of_full_disks_stops_no_read() {
    for full in 1..=3 {
        let (mut cluster, disks) = on_memory(3).await;
        cluster.caller.append(0, &events(0, 5)).await;
        let dies = cluster.leader(0).await;
        let others: Vec<u64> = (1..=3).filter(|&node| node != dies).collect();
        // One: a follower. Two: both followers. Three: the leader too.
        [others[0], others[1], dies].iter().take(full).for_each(|node| fill(&disks[node]));
        for &node in cluster.nodes.keys() {
            cluster.caller.read_all(node, 0, 5).await;
        }
        cluster.stop(dies).await;
        reads_go_on(&cluster, 5).await;
        eventually("writes are refused by name", async || {
            is_refused(&cluster.caller, cluster.leader(0).await, 100).await
        })
        .await;
        reads_go_on(&cluster, 5).await;
        // It comes back, and may lead, also where its own disk is full. Others take what it frees.
        cluster.start(dies).await.unwrap();
        if full == 3 {
            fill(&disks[&dies]);
        }
        cluster.wait_ready().await;
        reads_go_on(&cluster, 5).await;
        assert!(full < 3 || is_refused(&cluster.caller, cluster.leader(0).await, 101).await);
        disks.values().for_each(|disk| disk.set_quota(None));
        assert_eq!(first_of(&cluster.caller.append(0, &events(200, 1)).await), 5, "{full} full disks");
        reads_go_on(&cluster, 6).await;
        cluster.stop_all().await;
    }
}

/// Goal: a single node on a full disk that is restarted, which is an election, answers reads. Method: again and again, as a
/// supervisor does it.
#[tokio::test(flavor = "multi_thread")]
async fn a_single_node_on_a_full_disk_is_restarted_again_and_again() {
    let (mut cluster, disks) = on_memory(1).await;
    cluster.caller.append(0, &events(0, 5)).await;
    fill(&disks[&1]);
    assert!(is_refused(&cluster.caller, 1, 100).await);
    for _ in 0..5 {
        cluster.stop(1).await;
        cluster.start(1).await.unwrap();
        fill(&disks[&1]);
        cluster.wait_ready().await;
        reads_go_on(&cluster, 5).await;
        assert!(is_refused(&cluster.caller, 1, 100).await);
    }
    disks[&1].set_quota(None);
    assert_eq!(first_of(&cluster.caller.append(0, &events(200, 1)).await), 5);
    cluster.stop_all().await;
}

/// Goal: records that a leader proposed just before it learned that its follower is full do not stop the next leader, however full the
/// follower becomes later: its blank entry comes after them. Method: two of three nodes run; the follower's disk becomes full, and at
/// the same moment the leader is asked to append, until it has proposed; then the follower's disk is filled completely and the leader
/// is restarted. Only it can be elected.
#[tokio::test(flavor = "multi_thread")]
async fn records_in_flight_when_the_disk_fills_do_not_stop_the_next_leader() {
    let (mut cluster, disks) = on_memory(3).await;
    cluster.caller.append(0, &events(0, 5)).await;
    let leader = cluster.leader(0).await;
    let others: Vec<u64> = (1..=3).filter(|&node| node != leader).collect();
    for &node in cluster.nodes.keys() {
        cluster.caller.read_all(node, 0, 5).await;
    }
    cluster.stop(others[0]).await;
    let follower = others[1];
    let (mut end, mut id) = (5, 1_000);
    loop {
        assert!(id < 2_000, "no entry was ever in flight");
        // Less than its reserve, but more than what is never given to records.
        let disk = &disks[&follower];
        disk.set_quota(Some(disk.used_bytes() + RESERVE / 3));
        match cluster.caller.append_once(leader, 0, &events(id, 1), 0, 300).await {
            Ok(_) | Err(Failure::Refusal(LogRefusal::OutcomeUnknown { .. })) => break,
            Err(Failure::Refusal(LogRefusal::LogFull { .. })) => {}
            other => panic!("{other:?}"),
        }
        disk.set_quota(None);
        first_of(&cluster.caller.append(0, &events(id + 1, 1)).await);
        (end, id) = (end + 1, id + 2);
    }
    fill(&disks[&follower]);
    cluster.stop(leader).await;
    cluster.start(leader).await.unwrap();
    cluster.wait_ready().await;
    // The record is committed, at the latest with the blank entry after it.
    reads_go_on(&cluster, end + 1).await;
    assert!(is_refused(&cluster.caller, cluster.leader(0).await, 3_000).await);
    cluster.stop_all().await;
}

/// Goal: the same for records that a full follower has refused, because it was full for long. Method: the leader and a third node go
/// on without the full follower; the third one is stopped while records are on their way, until one has no outcome; then the leader
/// is restarted.
#[tokio::test(flavor = "multi_thread")]
async fn records_that_a_full_follower_has_refused_do_not_stop_the_next_leader() {
    let (mut cluster, disks) = on_memory(3).await;
    cluster.caller.append(0, &events(0, 5)).await;
    let leader = cluster.leader(0).await;
    let others: Vec<u64> = (1..=3).filter(|&node| node != leader).collect();
    for &node in cluster.nodes.keys() {
        cluster.caller.read_all(node, 0, 5).await;
    }
    let (third, follower) = (others[0], others[1]);
    disks[&follower].set_quota(Some(disks[&follower].used_bytes() + RESERVE / 3));
    let (mut end, mut id) = (5, 1_000);
    loop {
        let caller = cluster.caller.clone();
        let going_on = async {
            loop {
                id += 1;
                match caller.append_once(leader, 0, &events(id, 1), 0, 300).await {
                    Ok(_) => end += 1,
                    Err(failure) => return failure,
                }
            }
        };
        let (failure, ()) = tokio::join!(going_on, cluster.stop(third));
        match failure {
            Failure::Refusal(LogRefusal::OutcomeUnknown { .. }) => break,
            Failure::Refusal(LogRefusal::LogFull { .. }) => {}
            other => panic!("{other:?}"),
        }
        cluster.start(third).await.unwrap();
        cluster.wait_ready().await;
        eventually("appends go on", async || !is_refused(&cluster.caller, leader, 1 << 20).await).await;
        end = cluster.caller.tail(leader, 0).await.unwrap().get();
        assert!(id < 100_000, "no entry was ever in flight");
    }
    cluster.stop(leader).await;
    cluster.start(leader).await.unwrap();
    cluster.wait_ready().await;
    reads_go_on(&cluster, end + 1).await;
    cluster.stop_all().await;
}

/// Goal: who waits behind records that a full disk holds up is refused by name, and does not wait out its time. Method: one batch may
/// be in flight; two of three nodes run, and the follower's disk is full when a record is on its way.
#[tokio::test(flavor = "multi_thread")]
async fn an_append_behind_one_that_a_full_disk_holds_up_is_refused() {
    let (mut cluster, disks) = on_memory_with(3, |config| config.limits.batches_in_flight_max = 1).await;
    cluster.caller.append(0, &events(0, 5)).await;
    let leader = cluster.leader(0).await;
    let others: Vec<u64> = (1..=3).filter(|&node| node != leader).collect();
    cluster.stop(others[0]).await;
    let disk = &disks[&others[1]];
    let mut id = 1_000;
    loop {
        assert!(id < 2_000, "no entry was ever in flight");
        fill(disk);
        match cluster.caller.append_once(leader, 0, &events(id, 1), 0, 300).await {
            Err(Failure::Refusal(LogRefusal::OutcomeUnknown { .. })) => break,
            Err(Failure::Refusal(LogRefusal::LogFull { .. })) => {}
            other => panic!("{other:?}"),
        }
        disk.set_quota(None);
        first_of(&cluster.caller.append(0, &events(id + 1, 1)).await);
        id += 2;
    }
    assert!(is_refused(&cluster.caller, leader, 3_000).await);
    assert!(is_refused(&cluster.caller, leader, 3_001).await);
    disk.set_quota(None);
    first_of(&cluster.caller.append(0, &events(4_000, 1)).await);
    cluster.stop_all().await;
}

/// Goal: a leader with room does not propose what no majority can take: such records would be without a certain outcome, and in the
/// way of the next leader. Method: both followers are full.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_with_room_refuses_what_no_majority_can_take() {
    let (cluster, disks) = on_memory(3).await;
    cluster.caller.append(0, &events(0, 5)).await;
    let leader = cluster.leader(0).await;
    let mut followers = (1..=3).filter(|&node| node != leader);
    let (first, second) = (followers.next().unwrap(), followers.next().unwrap());
    fill(&disks[&first]);
    assert_eq!(first_of(&cluster.caller.append(0, &events(50, 1)).await), 5, "two of three have room");
    fill(&disks[&second]);
    eventually("the leader knows", async || is_refused(&cluster.caller, cluster.leader(0).await, 100).await).await;
    disks[&second].set_quota(None);
    assert!(first_of(&cluster.caller.append(0, &events(200, 1)).await) >= 6);
    cluster.stop_all().await;
}

/// Goal: a serving node that starts while disks are full can register: its reads need no room. Method: a name that the cluster does
/// not know yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_serving_node_registers_on_full_disks() {
    let (cluster, disks) = on_memory(3).await;
    cluster.caller.append(0, &events(0, 5)).await;
    for disk in disks.values() {
        disk.set_quota(Some(disk.used_bytes() + RESERVE / 3));
    }
    eventually("it is registered", async || cluster.caller.register(1, "serving-9").await.is_ok()).await;
    cluster.stop_all().await;
}
