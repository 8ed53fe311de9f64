//! Damaged and failing disks, as a cluster meets them.

use crate::full_disk::on_memory;
use crate::support::{events, eventually, first_of};
use duramen_log_service::disk::{Disk, MemDisk};
use duramen_log_service::node::StartError;
use duramen_log_service::store::StoreError;
use std::path::{Path, PathBuf};

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
