//! Full and damaged disks, as a cluster meets them.

use crate::support::{Cluster, Failure, events, eventually, first_of};
use duramen_common::protocol::LogRefusal;
use duramen_log_service::disk::{Disk, MemDisk};
use duramen_log_service::node::StartError;
use duramen_log_service::store::StoreError;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

async fn on_memory(count: u64) -> (Cluster, BTreeMap<u64, MemDisk>) {
    let mut cluster = Cluster::configured(count, |config| {
        config.store.segment_bytes = 256 * 1024;
        config.store.reserve_bytes = 64 * 1024;
    })
    .await;
    let disks: BTreeMap<u64, MemDisk> = (1..=count).map(|node| (node, MemDisk::new())).collect();
    for (&node, disk) in &disks {
        cluster.disks.insert(node, Arc::new(disk.clone()));
        cluster.start(node).await.unwrap();
    }
    cluster.wait_ready().await;
    (cluster, disks)
}

/// Goal: a full disk is refused by name, nothing breaks, and the node lives on when space returns. Method: a quota of
/// nothing on every disk, then none.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_refused_and_appends_go_on_when_space_returns() {
    let (cluster, disks) = on_memory(3).await;
    cluster.caller.append(0, &events(0, 5)).await;
    for disk in disks.values() {
        disk.set_quota(Some(1));
    }
    let leader = cluster.leader(0).await;
    let refused = cluster.caller.append_once(leader, 0, &events(100, 1), 0, 2_000).await;
    assert!(matches!(refused, Err(Failure::Refusal(LogRefusal::LogFull { .. }))), "{refused:?}");
    assert_eq!(cluster.caller.read_all(leader, 0, 5).await.len(), 5, "reads go on");
    for disk in disks.values() {
        disk.set_quota(None);
    }
    assert_eq!(first_of(&cluster.caller.append(0, &events(100, 1)).await), 5);
    cluster.stop_all().await;
}

/// Goal: one full disk does not stop the cluster. Method: the leader's is full; it hands over to a peer with room.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_with_a_full_disk_hands_over() {
    let (cluster, disks) = on_memory(3).await;
    cluster.caller.append(0, &events(0, 5)).await;
    let leader = cluster.leader(0).await;
    disks[&leader].set_quota(Some(1));
    assert_eq!(first_of(&cluster.caller.append(0, &events(100, 1)).await), 5);
    assert_ne!(cluster.leader(0).await, leader);
    // The full follower is behind, and catches up when it has room.
    disks[&leader].set_quota(None);
    assert_eq!(cluster.caller.read_all(leader, 0, 6).await.len(), 6);
    cluster.stop_all().await;
}

/// The file of a partition that holds these bytes, and where.
fn find(disk: &MemDisk, folder: &Path, wanted: &[u8]) -> (PathBuf, u64) {
    for name in disk.list(folder).unwrap() {
        let path = folder.join(name);
        let bytes = disk.bytes(&path);
        if let Some(position) = bytes.windows(wanted.len()).position(|window| window == wanted) {
            return (path, position as u64);
        }
    }
    panic!("{} does not hold {wanted:?}", folder.display());
}

/// Goal: damage below what was durable is never served and never voted with; a peer restores it. Method: bytes of an
/// acknowledged record are changed while the node is down; it comes back with what was there.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_log_is_repaired_from_a_peer() {
    let (mut cluster, disks) = on_memory(3).await;
    for run in 0..20u128 {
        cluster.caller.append(0, &events(1_000_000 + run * 10, 10)).await;
    }
    let node = cluster.leader(0).await;
    cluster.caller.read_all(node, 0, 200).await;
    cluster.stop(node).await;
    let folder = cluster.configs[&node].data_dir.join("partitions").join("0");
    let (path, position) = find(&disks[&node], &folder, b"1000055");
    for at in 0..6 {
        disks[&node].flip(&path, position + at, 0xff);
    }
    cluster.start(node).await.unwrap();
    cluster.wait_ready().await;
    let log = cluster.caller.read_all(node, 0, 200).await;
    assert_eq!(log[55], "1000055");
    assert_eq!(find(&disks[&node], &folder, b"1000055"), (path, position));
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_log_without_peers_does_not_start() {
    let (mut cluster, disks) = on_memory(1).await;
    for run in 0..20u128 {
        cluster.caller.append(0, &events(1_000_000 + run * 10, 10)).await;
    }
    cluster.stop(1).await;
    let folder = cluster.configs[&1].data_dir.join("partitions").join("0");
    let (path, position) = find(&disks[&1], &folder, b"1000055");
    for at in 0..6 {
        disks[&1].flip(&path, position + at, 0xff);
    }
    let error = cluster.start(1).await.unwrap_err();
    assert!(matches!(&error, StartError::Store(StoreError::Corrupt { .. })), "{error}");
    assert!(error.to_string().contains(&path.display().to_string()), "{error}");
}

/// Goal: a failed sync stops acknowledgements, and a restart heals it. Method: the only node's next sync fails.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sync_stops_acknowledgements_until_a_restart() {
    let (mut cluster, disks) = on_memory(1).await;
    cluster.caller.append(0, &events(0, 1)).await;
    disks[&1].fail_next_sync();
    eventually("an append is not acknowledged", async || {
        cluster.caller.append_once(1, 0, &events(10, 1), 0, 500).await.is_err()
    })
    .await;
    let failure = cluster.nodes[&1].failed().await;
    assert!(failure.to_string().contains("partition"), "{failure}");
    assert!(cluster.caller.append_once(1, 0, &events(20, 1), 0, 500).await.is_err());
    cluster.stop(1).await;
    disks[&1].crash(7);
    cluster.start(1).await.unwrap();
    cluster.wait_ready().await;
    let end = first_of(&cluster.caller.append(0, &events(30, 1)).await) + 1;
    let log = cluster.caller.read_all(1, 0, end).await;
    assert_eq!(log[0], "0");
    assert_eq!(log.last().unwrap(), "30");
    cluster.stop_all().await;
}

/// Goal: a node that can no longer write stops leading everything, also the partitions that had nothing to write, and says
/// why; the others go on. Method: one sync of a node that leads fails; it must say so, and every partition must get a
/// leader elsewhere although nobody writes to it.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_sync_failed_leads_nothing() {
    let (cluster, disks) = on_memory(3).await;
    cluster.caller.append(0, &events(0, 1)).await;
    let node = cluster.leader(0).await;
    let others: Vec<u64> = (1..=3).filter(|&other| other != node).collect();
    disks[&node].fail_next_sync();
    cluster.caller.append(0, &events(10, 1)).await;
    let failure = cluster.nodes[&node].failed().await;
    assert!(matches!(&failure, StartError::Store(StoreError::Poisoned { .. })), "{failure}");
    for &other in &others {
        eventually("every partition is led by a node that can write", async || {
            cluster.caller.cluster(other).await.is_ok_and(|info| {
                info.leaders.iter().all(|leader| leader.is_some_and(|leader| others.contains(&leader.get())))
            })
        })
        .await;
    }
    let first = first_of(&cluster.caller.append(0, &events(20, 1)).await);
    assert_eq!(cluster.caller.read_all(node, 0, 1).await[0], "0", "reads go on");
    assert_eq!(cluster.caller.read_all(others[0], 0, first + 1).await.last().unwrap(), "20");
    cluster.stop_all().await;
}
